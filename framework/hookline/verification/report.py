"""What a verification found, as data and as sentences."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from hookline.purity import described

__all__ = ["Finding", "PluginReport", "Verdict", "Verification"]

Verdict = Literal["pure", "impure", "not called", "unknown", "not checked"]


@dataclass(frozen=True)
class Finding:
    """What one hook of an observer changed, or what differed where no call did.

    Args:
        hook: The hook; ``__init__`` for what was so before training began; empty if no call changed anything.
        iteration: The first one that was changed, or that began differently; -1 before all.
        parts: What was changed, as named by `hookline.purity.fingerprint`.
        num_changes: How many calls changed something.
    """

    hook: str
    iteration: int
    parts: tuple[str, ...]
    num_changes: int = 0

    def sentence(self, num_calls: int = 1) -> str:
        """Return the finding in words, of a hook that was called ``num_calls`` times."""
        what = described(self.parts)
        if self.hook == "__init__":
            return f"its import or __init__ changes {what}"
        if not self.hook:
            return (
                f"{what} differ from iteration {self.iteration} on, though no call of it changed them: "
                "look for a thread, a hook on the model or a function that it replaces"
            )
        often = f", in {self.num_changes} of {num_calls} calls" if num_calls > 1 else ""
        return f"{self.hook} changes {what}, first at iteration {self.iteration}{often}"


@dataclass
class PluginReport:
    """What is known of one hook plugin.

    Attributes:
        name: Its instance name.
        source: Its distribution and version, or its file.
        observer: Whether it calls itself one.
        verdict: ``pure``: with it and without it every bit is the same. ``not called``: it is, but no hook of
            it ran. ``unknown``: it could not be tried. ``not checked``: no observer, or not the config's.
        calls: How often each hook was called.
        never_called: The hooks that it implements and that were not called.
        findings: What it changed.
        period: Its period in the config and the shorter one that it was checked with.
        notes: What else to know.
    """

    name: str
    source: str
    observer: bool = True
    verdict: Verdict = "not checked"
    calls: dict[str, int] = field(default_factory=dict)
    never_called: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    period: tuple[str, int] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Verification:
    """What a verification found.

    Attributes:
        num_iters: How long each run was.
        plugins: Every hook plugin of the config, in call order.
        unrepeatable: The first difference between two equal runs without observers, if there is one.
        together: The first difference of the run with all observers at once, where each alone is pure.
    """

    num_iters: int
    plugins: list[PluginReport]
    unrepeatable: Finding | None = None
    together: Finding | None = None

    @property
    def verdict(self) -> Literal["pure", "impure", "unknown"]:
        """``impure`` if an observer changes training; ``unknown`` if none does but not all could be tried."""
        verdicts = {plugin.verdict for plugin in self.plugins}
        if "impure" in verdicts or self.together is not None:
            return "impure"
        return "unknown" if "unknown" in verdicts or self.unrepeatable is not None else "pure"

    @property
    def exit_code(self) -> int:
        """0 pure, 1 impure, 2 unknown."""
        return {"pure": 0, "impure": 1, "unknown": 2}[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {"verdict": self.verdict, **asdict(self)}
