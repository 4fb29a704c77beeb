"""The options of targets, imported in another process: torch's, hookline's, and those that a config names."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from hookline.config.sections import Offer
from hookline.errors import HooklineError
from hookline.inspection.wording import one_line, text_of
from hookline.inspection.worker import die_with_parent

__all__ = ["TargetProbe", "Wanted", "serve"]

Wanted: TypeAlias = tuple[str, str]
"""A section, such as ``model`` or ``data``, and a target that a config names there."""

_TIMEOUT_S = 60.0
# The first the schedule hook refuses; the others are built of schedulers, which no config can name.
_NO_SCHEDULES = ("ReduceLROnPlateau", "ChainedScheduler", "SequentialLR")
_WORKER = """
import json, sys
given = json.load(sys.stdin)
sys.path[:] = given["path"]
from hookline.inspection.targets import serve
serve(given["wanted"], given["base"], given["folder"])
"""


class TargetProbe:
    """A process that imports targets and describes their options; it works from entering on.

    Args:
        wanted: The targets of a config, imported besides those that torch and hookline bring.
        base: The folder that relative files are looked up in.
    """

    def __init__(self, wanted: Sequence[Wanted], base: Path) -> None:
        self.wanted, self.base = list(dict.fromkeys(wanted)), base

    def __enter__(self) -> TargetProbe:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._log = Path(self._folder.name, "worker.log")
        with self._log.open("wb") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-c", _WORKER],
                env={**os.environ, **_remedy()},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
            )
        about = {"wanted": self.wanted, "base": str(self.base), "folder": self._folder.name}
        request = {"path": sys.path, **about}
        assert self._worker.stdin is not None
        with suppress(BrokenPipeError), self._worker.stdin:
            self._worker.stdin.write(json.dumps(request))
        return self

    def __exit__(self, *_error: object) -> None:
        self._worker.kill()
        self._worker.wait()
        self._folder.cleanup()

    def offers(self) -> tuple[dict[str, list[Offer]], list[str]]:
        """Return what is known of targets by section, and what could not be imported, one line each."""
        with suppress(subprocess.TimeoutExpired):
            self._worker.wait(_TIMEOUT_S)
        found: dict[str, list[Offer]] = {}
        missing, failed = dict.fromkeys(self.wanted), []
        for file in sorted(Path(self._folder.name).glob("*.json")):
            shown = json.loads(file.read_text("utf-8"))
            section, target, error = shown.pop("section"), shown["name"], shown.pop("error", "")
            missing.pop((section, target), None)
            if error:
                failed.append(f"{section} target {target}: {error}")
            elif all(offer.name != target for offer in found.setdefault(section, [])):
                found[section].append(Offer(**shown))
        code = self._worker.returncode
        ended = f"the process that imported it ended with {code}"
        ended = f"its import did not end within {_TIMEOUT_S:g} s" if code is None else ended
        if not found or (code and not missing):
            text = self._log.read_text("utf-8", errors="replace").strip()
            said = text.splitlines()[-1] if text else "nothing"
            failed.append(f"targets of torch and hookline: {ended}; it said {said}")
        return found, [*failed, *(f"{section} target {target}: {ended}" for section, target in missing)]


def _remedy() -> dict[str, str]:
    """Return what keeps torch importable where it cannot read the metadata of all that is installed."""
    try:
        importlib.metadata.entry_points(group="torch.backends")
    except Exception:  # whatever the metadata of a stranger leads to
        return {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    return {}


def serve(wanted: Sequence[Wanted], base: str, folder: str) -> None:
    """Write what is asked for into ``folder``, one file each; runs in the process of a `TargetProbe`."""
    die_with_parent()
    for i, shown in enumerate(_described(wanted, Path(base))):
        part = Path(folder, f"{i:04}.part")
        part.write_text(json.dumps(shown), "utf-8")
        part.rename(part.with_suffix(".json"))


def _described(wanted: Sequence[Wanted], base: Path) -> Iterator[dict[str, Any]]:
    from hookline.config import resolve_target

    for section, name, factory in _known():
        module, attribute = re.split(r"[.:](?=\w+$)", name)
        escaped = module.replace(".", r"\.")
        yield {**_offer(section, name, factory), "pattern": f"{escaped}[.:]{attribute}"}
    for section, target in wanted:
        try:
            shown = _offer(section, target, resolve_target(target, base, section))
        except BaseException as error:  # a stranger's code and annotations
            said = text_of(error) if isinstance(error, HooklineError) else one_line(error)
            shown = {"section": section, "name": target, "error": " ".join(said.split())}
        yield shown


def _known() -> Iterator[tuple[str, str, Any]]:
    """Yield the targets that need no mention in a config to be known: section, name and class."""
    from torch import optim

    from hookline import schedules

    for name, cls in vars(optim).items():
        # LBFGS calls the model itself, and the kernel refuses it.
        if _is_kind(cls, optim.Optimizer) and cls is not optim.LBFGS:
            yield "optimizer", f"torch.optim.{name}", cls
    for name in schedules.__all__:
        if name != schedules.Schedule.__name__:
            yield "schedule", f"hookline.schedules:{name}", getattr(schedules, name)
    for name, cls in vars(optim.lr_scheduler).items():
        if _is_kind(cls, optim.lr_scheduler.LRScheduler) and name[0] != "_" and name not in _NO_SCHEDULES:
            yield "schedule", f"torch.optim.lr_scheduler.{name}", cls


def _is_kind(value: Any, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base) and value is not base


def _offer(section: str, name: str, factory: Any) -> dict[str, Any]:
    from hookline.config.json_schema import options_schema
    from hookline.plan import given_to

    doc = (getattr(factory, "__doc__", None) or "").strip().partition("\n\n")[0]
    options = options_schema(factory, given_to(section, factory))
    return {"section": section, "name": name, "options": options, "description": " ".join(doc.split())}
