"""A run with checkpoints, and what may happen to a file of the newest of them."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from whole_run import trainer_in

from hookline import checkpoint
from hookline.errors import CheckpointError

__all__ = ["Accident", "Run", "accidents", "flipped", "flips", "truncations"]

Accident = tuple[str, Callable[[], bool]]
"""What happens, and what does it; False where it would change nothing."""


@dataclass(frozen=True)
class Run:
    """A run's checkpoints: the newest, which is damaged again and again, and those before it."""

    path: Path
    newest: Path
    others: tuple[Path, ...]
    content: dict[str, bytes]

    @classmethod
    def trained(cls, path: Path) -> Run:
        """Train in ``path``."""
        path.mkdir()
        trainer_in(path, keep=4).train()
        *others, newest = sorted(path.glob("checkpoints/iter_*"))
        return cls(path, newest, tuple(others), {file.name: file.read_bytes() for file in newest.iterdir()})

    @contextmanager
    def damaged(self) -> Iterator[None]:
        """Put the newest checkpoint back as it was, whatever is done to it inside."""
        yield
        shutil.rmtree(self.newest)
        self.newest.mkdir()
        for name, content in self.content.items():
            (self.newest / name).write_bytes(content)

    def wrong(self) -> str:
        """Return in which way the damaged checkpoint was not found, said or passed over, or nothing."""
        for read in (checkpoint.load, checkpoint.resolve):
            try:
                read(self.newest)
            except CheckpointError as error:
                if self.newest.name not in str(error):
                    return f"{read.__name__} said {error}"
            else:
                return f"{read.__name__} took it"
        found, messages = checkpoint.newest_valid(self.newest.parent)
        if found != self.others[-1]:
            return f"{found.name} was taken"
        if len(messages) != 1 or self.newest.name not in messages[0]:
            return f"said {messages}"
        return ""


def flipped(content: bytes, generator: random.Random) -> bytes:
    """Return ``content`` with one bit the other way."""
    position = generator.randrange(len(content))
    return b"".join(
        [
            content[:position],
            bytes([content[position] ^ 1 << generator.randrange(8)]),
            content[position + 1 :],
        ]
    )


def flips(run: Run, num_trials: int) -> Iterator[Accident]:
    """Yield a flipped bit somewhere in some file, so many times."""
    generator = random.Random(0)
    for number in range(num_trials):
        name = sorted(run.content)[number % len(run.content)]
        yield f"a bit of {name}", _writing(run, name, flipped(run.content[name], generator))


def truncations(run: Run, num_trials: int) -> Iterator[Accident]:
    """Yield a cut somewhere in some file, so many times."""
    generator = random.Random(1)
    for number in range(num_trials):
        name = sorted(run.content)[number % len(run.content)]
        size = generator.randrange(len(run.content[name]))
        yield f"{name} cut to {size}", _writing(run, name, run.content[name][:size])


def accidents(run: Run) -> Iterator[Accident]:
    """Yield all else: files missing, swapped, too many, of another checkpoint, in zeros."""
    names, newest = sorted(run.content), run.newest
    for name in names:
        yield f"no {name}", _doing((newest / name).unlink)
        yield f"{name} renamed", _doing(lambda name=name: (newest / name).rename(newest / f"x{name}"))
        yield f"{name} in zeros", _writing(run, name, bytes(len(run.content[name])))
        yield f"{name} longer", _writing(run, name, run.content[name] + b"\0")
        for other in run.others:
            yield f"{name} of {other.name}", _writing(run, name, (other / name).read_bytes())
    for one, two in itertools.combinations(names, 2):
        yield f"{one} for {two}", _writing(run, one, run.content[two], two, run.content[one])
    for name in ("x.json", "x.pkl", ".hidden", "model.safetensors.tmp", "manifest.json.old"):
        yield f"{name} as well", _doing(lambda name=name: (newest / name).write_bytes(b"{}"))
    yield "a folder as well", _doing(lambda: (newest / "x").mkdir())
    for other in run.others:
        yield f"all of {other.name}", _doing(lambda other=other: _become(newest, other))


def _become(newest: Path, other: Path) -> None:
    shutil.rmtree(newest)
    shutil.copytree(other, newest)


def _writing(run: Run, *names_and_contents: str | bytes) -> Callable[[], bool]:
    pairs = list(zip(names_and_contents[::2], names_and_contents[1::2], strict=True))

    def write() -> bool:
        for name, content in pairs:
            (run.newest / name).write_bytes(content)
        return any(run.content[name] != content for name, content in pairs)

    return write


def _doing(act: Callable[[], object]) -> Callable[[], bool]:
    def do() -> bool:
        act()
        return True

    return do
