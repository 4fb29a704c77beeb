"""Stories of writing, told before a `Recorder`, and what must be found after a loss of power in any of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from disk_model import Crash, Mark, Recorder, Stage, crashes

from hookline import Run, checkpoint
from hookline.durable import replace_file
from hookline.errors import CheckpointError
from hookline.events import EventStorage
from hookline.rundir import RunDir
from hookline_json import JSONWriter

__all__ = ["STORIES", "Story", "Survey", "recorded", "survey", "survey_again"]

Tell = Callable[..., None]
NOTHING = -1


@dataclass
class Survey:
    """How many different trees were looked at, and what was wrong in those where something was."""

    num_states: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Story:
    """Something that writes, and what to make of a tree: the number found in it, `NOTHING`, or an error."""

    tell: Callable[[Path, Tell], None]
    read: Callable[[Path, Sequence[Mark]], int]
    reads_only: bool = True


# ---- checkpoints: the number found is that in the checkpoint that loads


def state_of(number: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(number)
    weights = {name: torch.randn(24, generator=generator) for name in ("weight", "bias")}
    return {"model": weights, "hooks": {"evaluate": {"best": (number, 0.5)}}, "trainer": {"number": number}}


def _save(root: Path, iteration: int, number: int, tell: Tell, keep: int = 2, tag: str = "") -> None:
    tell("begun", number)
    path = checkpoint.save(root, iteration, state_of(number))
    tell("reported", number)
    if tag:
        checkpoint.write_pointer(root, tag, path)
    checkpoint.retain(root, keep)


def _in_a_row(run: Path, tell: Tell) -> None:
    """Five saves, of which two are kept, besides the best one, which is not the newest."""
    for number in range(5):
        _save(run / "checkpoints", 10 * number, number, tell, tag="best" if number in (1, 3) else "")


def _replaced(run: Path, tell: Tell) -> None:
    """The same iteration again and again, as by a run that is paused where it has just saved."""
    for number, iteration in enumerate((3, 3, 7, 7, 7)):
        _save(run / "checkpoints", iteration, number, tell)


def _gone_back(run: Path, tell: Tell) -> None:
    """A run that goes on from an older checkpoint than its newest, and saves what it saved before."""
    root = run / "checkpoints"
    for number, iteration in enumerate((0, 5, 10)):
        _save(root, iteration, number, tell, keep=0)
    for number in (0, 1):
        tell("begun", number)  # until the newer ones are gone for good, the newest of them is found
    checkpoint.discard_newer(root, 0)
    tell("reported", 0)
    for number, iteration in ((3, 5), (4, 10)):
        _save(root, iteration, number, tell, keep=2)


def _newest(run: Path, marks: Sequence[Mark]) -> int:
    try:
        path, _ = checkpoint.newest_valid(run / "checkpoints")
        loaded = checkpoint.load(path)
    except CheckpointError:
        return NOTHING
    number = loaded["trainer"]["number"]
    expected = state_of(number)
    assert loaded["hooks"] == expected["hooks"]
    for name, weights in expected["model"].items():
        assert torch.equal(loaded["model"][name], weights), name
    for name in ("latest", "best"):  # Whatever a pointer says, what it leads to is whole.
        if (target := checkpoint.read_pointer(run / "checkpoints", name)) is not None:
            checkpoint.verify(target)
    return int(number)


def _pointed_at(run: Path, tell: Tell) -> None:
    """Saves in a row: from the first on, ``latest`` leads to one of them, whichever."""
    for number in range(4):
        tell("begun", number)
        checkpoint.save(run / "checkpoints", number, state_of(number))
        if number == 0:
            tell("reported", number)
        checkpoint.retain(run / "checkpoints", 2)


def _latest(run: Path, marks: Sequence[Mark]) -> int:
    try:
        path = checkpoint.resolve(run / "checkpoints" / "latest")
    except CheckpointError:
        return NOTHING
    return int(checkpoint.load(path)["trainer"]["number"])


# ---- a small file: the number found is what it holds


def _small_file(run: Path, tell: Tell) -> None:
    """A status that is replaced."""
    for number in range(4):
        tell("begun", number)
        replace_file(run / "status.json", str(number).encode() * 40)
        tell("reported", number)


def _status(run: Path, marks: Sequence[Mark]) -> int:
    file = run / "status.json"
    if not file.exists():
        return NOTHING
    text = file.read_text()
    assert len(text) == 40, f"{len(text)} bytes"
    assert len(set(text)) == 1, text
    return int(text[0])


def _generations(run: Path, tell: Tell) -> None:
    """A run directory that is held again and again."""
    for number in range(1, 4):
        tell("begun", number)
        with RunDir(run).held() as generation:
            assert generation == number
            tell("reported", number)


def _generation(run: Path, marks: Sequence[Mark]) -> int:
    return RunDir(run).generation or NOTHING


# ---- the journal: the number found is that of the newest position; all that a checkpoint may know must do


def _journal(run: Path, tell: Tell) -> None:
    """Four writes, and a process that goes on after the second of them and writes three."""
    positions = _written(Run(run, "story", "id"), tell, range(4))
    tell("back", 1)
    _written(Run(run, "story", "id", start_iter=2), tell, range(4, 7), positions[1])


def _written(
    run: Run, tell: Tell, numbers: range, position: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    writer, storage, positions = JSONWriter(), EventStorage(run.start_iter), []
    if position is not None:
        writer.load_state_dict(position)
    writer.open(run)
    for number in numbers:
        storage.put_scalar("total_loss", 1 / (1 + number))
        storage.put_scalar("time", number * 0.125, volatile=True)
        writer.write(storage.step())
        positions.append(writer.state_dict())
        tell("reported", (number, positions[-1]))
    writer.close("finished")
    return positions


def _rewound(run: Path, marks: Sequence[Mark]) -> int:
    positions = _positions(marks)
    for position in reversed(positions.values()):  # The newest first: what follows a position is cut off.
        writer = JSONWriter()
        writer.load_state_dict(position)
        writer.open(Run(run, "story", "id"))
        writer.close("failed")
        assert (run / "metrics.jsonl").stat().st_size == position["metrics"]["size_bytes"]
        assert (run / "timings.jsonl").stat().st_size == position["timings"]["size_bytes"]
    return max(positions, default=NOTHING)


def _positions(marks: Sequence[Mark]) -> dict[int, dict[str, Any]]:
    """Return the positions that a checkpoint may know, oldest first: not those that were gone back over."""
    positions: dict[int, dict[str, Any]] = {}
    for mark in marks:
        if mark.label == "reported":
            positions[mark.value[0]] = mark.value[1]
        elif mark.label == "back":
            positions = {number: at for number, at in positions.items() if number <= mark.value}
    return positions


STORIES = {
    "saves in a row": Story(_in_a_row, _newest),
    "an iteration again": Story(_replaced, _newest),
    "a run gone back": Story(_gone_back, _newest),
    "the pointer latest": Story(_pointed_at, _latest),
    "a file replaced": Story(_small_file, _status),
    "a directory held": Story(_generations, _generation),
    "the journal": Story(_journal, _rewound, reads_only=False),
}


# ---- going through them


def recorded(story: Story, run: Path, broken: Callable[[], Any] = nullcontext) -> Recorder:
    """Return the recording of ``story``, told in the directory ``run`` with hookline ``broken``, or as it is."""
    run.mkdir()
    with Recorder(run) as recorder, broken():
        story.tell(run, recorder.mark)
    return recorder


def survey(
    story: Story, recorder: Recorder, stage: Stage, limit: int, max_failures: float = math.inf
) -> Survey:
    """Return what is found in every different tree that ``recorder`` allows, or until so many failures."""
    return _survey(story, _crashes(recorder, limit, seed=0), stage, max_failures)


def survey_again(
    story: Story, recorder: Recorder, stage: Stage, limit: int, every: int, path: Path
) -> Survey:
    """Return what is found when the power is lost a second time, while the next process saves.

    Each ``every``-th different tree after the first loss is where the second process begins.
    """
    found = Survey()
    for crash in list(_different(_crashes(recorder, limit, seed=0)))[::every]:
        run = path / str(found.num_states)
        with Stage(run).showing(crash.tree):
            before = story.read(run, crash.marks)
        with Recorder(run) as second:
            second.mark("reported", before)
            _save(run / "checkpoints", 1000, 77, second.mark)
        states = _crashes(second, limit, seed=found.num_states)
        again = _survey(story, (crash for crash in states if len(crash.marks) > 1), stage)
        found.num_states += again.num_states
        found.failures += again.failures
    return found


def _crashes(recorder: Recorder, limit: int, seed: int) -> Iterator[Crash]:
    return crashes(recorder.operations, limit, seed, recorder.num_given)


def _survey(story: Story, states: Iterator[Crash], stage: Stage, max_failures: float = math.inf) -> Survey:
    found = Survey()
    numbers: dict[Any, int | str] = {}
    seen = set()
    for crash in states:
        allowed = _allowed(crash.marks)
        key = _key(crash), 0 if story.reads_only else len(crash.marks)
        if (key, allowed) in seen:
            continue
        seen.add((key, allowed))
        if key not in numbers:
            numbers[key] = _number(story, crash, stage)
        if numbers[key] not in allowed:
            found.failures.append(f"found {numbers[key]}, expected one of {sorted(allowed)}")
            if len(found.failures) >= max_failures:
                break
    found.num_states = len({tree for tree, _ in numbers})
    return found


def _number(story: Story, crash: Crash, stage: Stage) -> int | str:
    with stage.showing(crash.tree) as run:
        try:
            return story.read(run, crash.marks)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            if not story.reads_only:
                stage.clear()


def _allowed(marks: Sequence[Mark]) -> frozenset[int]:
    """Return the numbers that may be found: the last one reported, or one begun since."""
    allowed = {NOTHING}
    for mark in marks:
        if mark.label in ("reported", "back"):
            allowed = {mark.value[0] if isinstance(mark.value, tuple) else mark.value}
        elif mark.label == "begun":
            allowed.add(mark.value)
    return frozenset(allowed)


def _key(crash: Crash) -> int:
    return hash(tuple(sorted(crash.tree.items())))


def _different(states: Iterator[Crash]) -> Iterator[Crash]:
    seen = set()
    for crash in states:
        if (key := _key(crash)) not in seen:
            seen.add(key)
            yield crash
