"""Going on after a crash: nothing is lost and nothing doubled, whenever it comes."""

import errno
import json
import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from hookline import Delivery, EventStorage, Run, RunError
from hookline_json import JSONWriter, files

NAMES = ("metrics", "timings")


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def orphans(folder, name="metrics"):
    """Lines of every file of lines that were put aside, by its name."""
    return {path.name: lines(path) for path in sorted(folder.glob(f"{name}.orphaned-*"))}


def test_what_follows_the_position_is_moved_to_the_file_of_its_generation(tmp_path, training, tell):
    events = training()
    position = tell(tmp_path, events[:10], generation=1)
    tell(tmp_path, events[10:25], position, generation=2)
    before = {name: lines(tmp_path / f"{name}.jsonl") for name in NAMES}
    tell(tmp_path, events[10:], position, generation=4)
    tell(tmp_path / "whole", events)
    for name in NAMES:
        num_bytes = position[name]["size_bytes"]
        moved = orphans(tmp_path, name)
        assert [*moved] == [f"{name}.orphaned-4.jsonl"]
        assert b"".join(moved[f"{name}.orphaned-4.jsonl"]) == b"".join(before[name])[num_bytes:]
        assert lines(tmp_path / f"{name}.jsonl") == lines(tmp_path / "whole" / f"{name}.jsonl")


def test_a_run_that_starts_over_without_a_checkpoint_puts_all_aside(tmp_path, training, tell):
    events = training()
    for generation, num in ((1, 7), (2, 9), (3, 5)):
        tell(tmp_path, events[:num], generation=generation)
    found = {name: len(content) for name, content in orphans(tmp_path).items()}
    tell(tmp_path / "a", events[:7])
    tell(tmp_path / "b", events[:9])
    assert found == {
        "metrics.orphaned-2.jsonl": len(lines(tmp_path / "a/metrics.jsonl")),
        "metrics.orphaned-3.jsonl": len(lines(tmp_path / "b/metrics.jsonl")),
    }
    assert [*orphans(tmp_path, "timings")] == ["timings.orphaned-2.jsonl", "timings.orphaned-3.jsonl"]


def test_what_was_put_aside_earlier_is_never_overwritten(tmp_path, training, tell):
    events = training()
    position = tell(tmp_path, events[:5])
    for first in (6, 7, 8):
        tell(tmp_path, events[first : first + 1], position)
    assert [*orphans(tmp_path)] == ["metrics.orphaned-0-2.jsonl", "metrics.orphaned-0.jsonl"]
    tell(tmp_path, [], generation=0)
    names = {path.name for path in tmp_path.glob("metrics.orphaned-*")}
    assert names == {f"metrics.orphaned-0{end}.jsonl" for end in ("", "-2", "-3")}
    kept = Counter(line for content in orphans(tmp_path).values() for line in content)
    assert sorted(kept.values()) == [1] * len(kept)


def test_a_position_at_the_end_puts_nothing_aside(tmp_path, training, tell):
    events = training()
    position = tell(tmp_path, events[:20], generation=1)
    tell(tmp_path, events[20:], position, generation=2)
    assert orphans(tmp_path) == {}


def test_a_call_that_failed_is_told_again_and_leaves_nothing_aside(tmp_path, training, monkeypatch):
    writer = JSONWriter()
    run = Run(tmp_path, "test", "1", generation=3)
    events = training()
    writer.open(run)
    writer.write(events[:10])
    position = writer.state_dict()
    real, left = os.write, [1]

    def torn(descriptor, data):
        if not left.pop():
            raise OSError(errno.ENOSPC, "No space left on device")
        left.append(0)
        return real(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", torn)
        with pytest.raises(OSError, match="No space"):
            writer.write(events[10:])
    writer.load_state_dict(position)
    writer.open(run)
    writer.write(events[10:])
    writer.close("finished")
    assert orphans(tmp_path) == {}
    assert len(lines(tmp_path / "timings.jsonl")) == sum("time" in event.scalars for event in events)


def test_a_writer_that_was_closed_puts_aside_again(tmp_path, training):
    writer = JSONWriter()
    events = training()
    for generation, stop in ((1, 10), (2, 20)):
        writer.open(Run(tmp_path, "test", "1", generation=generation))
        writer.write(events[:stop])
        writer.close("failed")
    assert [*orphans(tmp_path)] == ["metrics.orphaned-2.jsonl"]


def test_a_tail_that_cannot_be_kept_is_not_cut(tmp_path, training, tell, monkeypatch):
    events = training()
    position = tell(tmp_path, events[:10])
    tell(tmp_path, events[10:], position)
    before = lines(tmp_path / "metrics.jsonl")

    def full(source, target):
        target.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space"):
        tell(tmp_path, [], position)
    assert lines(tmp_path / "metrics.jsonl") == before
    assert not list(tmp_path.glob(".tmp-*"))


# Without torch in it a process forks in a millisecond.
KILLS = """
import os, sys
from pathlib import Path
from hookline import Events, Run, Scalar
from hookline_json import JSONWriter

os.fsync = lambda number: None  # what is killed leaves behind all that it has written
folder, is_saved = Path(sys.argv[1]), sys.argv[2] == "True"
events = [
    Events(i, 0.5, {"a": Scalar(i / 7), "t": Scalar(i / 3, volatile=True)}) for i in range(12)
]

def tell(run_dir, events, position, generation):
    writer = JSONWriter()
    if position is not None:
        writer.load_state_dict(position)
    writer.open(Run(run_dir, "test", "1", generation=generation))
    if events:
        writer.write(events)
    return writer.state_dict()

def is_killed(line, *work):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = [line]

    def trace(frame, event, argument):
        if "hookline_json" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
        return trace

    sys.settrace(trace)
    tell(*work)
    os._exit(0)

def text(path):
    return path.read_bytes() if path.exists() else b""

tell(folder / "whole", events, None, 1)
start = 4 if is_saved else 0
first, again = int(is_saved), 3
while True:
    run_dir = folder / str(first)
    position = tell(run_dir, events[:start], None, 1) if is_saved else None
    tell(run_dir, events[start:8], position, 2)
    tails = {}
    for name in ("metrics", "timings"):
        size = position[name]["size_bytes"] if position else 0
        tails[name] = text(run_dir / f"{name}.jsonl")[size:]
    both = is_killed(first, run_dir, [], position, 3)
    is_killed(again, run_dir, [], position, 4)
    tell(run_dir, events[start:], position, 5)
    for name, tail in tails.items():
        assert text(run_dir / f"{name}.jsonl") == text(folder / "whole" / f"{name}.jsonl"), first
        kept = [text(path) for path in sorted(run_dir.glob(f"{name}.orphaned-*"))]
        assert b"".join(kept) == tail, (first, again, kept)
    assert not list(run_dir.glob(".tmp-*")), first
    if not both:
        break
    # Each second line: the other way to begin takes much the same ones.
    first, again = first + 2, (first * 7 + 3) % 120
print(first)
"""


@pytest.mark.parametrize("is_saved", [True, False])
def test_a_kill_at_any_line_of_a_resume_and_of_the_next_loses_and_doubles_nothing(tmp_path, is_saved):
    command = [sys.executable, "-c", KILLS, str(tmp_path), str(is_saved)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert int(done.stdout) > (120 if is_saved else 80)


def start_lines(position, name, written):
    """Return how many of the lines were there at the position."""
    if position is None:
        return 0
    size, num = position[name]["size_bytes"], 0
    while size:
        size -= len(written[name][num])
        num += 1
    return num


def test_a_copy_whose_file_was_cut_by_hand_is_kept(tmp_path, training, tell):
    events = training()
    position = tell(tmp_path, events[:10])
    (tmp_path / ".tmp-metrics.orphaned-2.jsonl.999999").write_bytes(b"{}\n")
    tell(tmp_path, [], position, generation=3)
    assert orphans(tmp_path) == {"metrics.orphaned-2.jsonl": [b"{}\n"]}


def test_a_copy_of_what_was_not_cut_off_is_of_no_use(tmp_path, training, tell):
    events = training()
    position = tell(tmp_path, events[:10], generation=1)
    num_kept = len(lines(tmp_path / "metrics.jsonl"))
    tell(tmp_path, events[10:], position, generation=2)
    end = lines(tmp_path / "metrics.jsonl")[num_kept:]
    # Killed while it was copied.
    copy = tmp_path / f".tmp-metrics.orphaned-3.jsonl.{position['metrics']['size_bytes']}"
    copy.write_bytes(b"".join(end)[:20])
    tell(tmp_path, [], position, generation=4)
    assert orphans(tmp_path) == {"metrics.orphaned-4.jsonl": end}
    assert not copy.exists()


def test_an_earlier_checkpoint_than_that_of_an_unfinished_move_keeps_both_ends(tmp_path, training, tell):
    events = training()
    first = tell(tmp_path, events[:6], generation=1)
    second = tell(tmp_path, events[6:12], first, generation=1)
    middle = lines(tmp_path / "metrics.jsonl")
    # Killed when the end was cut off, and before its copy had its name.
    (tmp_path / f".tmp-metrics.orphaned-2.jsonl.{second['metrics']['size_bytes']}").write_bytes(b"{}\n")
    tell(tmp_path, [], first, generation=3)
    kept = orphans(tmp_path)
    assert kept["metrics.orphaned-2.jsonl"] == [b"{}\n"]
    assert kept["metrics.orphaned-3.jsonl"] == middle[start_lines(first, "metrics", {"metrics": middle}) :]


@pytest.mark.parametrize("seed", range(10))
def test_every_line_is_written_once_wherever_the_run_is_cut_and_killed(
    tmp_path, training, tell, portions, seed, monkeypatch
):
    monkeypatch.setattr(os, "fsync", lambda number: None)
    chance = random.Random(seed)
    events = training(60)
    tell(tmp_path / "whole", events)
    folder, told = tmp_path / "run", Counter()
    saved = [(0, None)]
    for generation in range(1, 8):
        done, position = chance.choice(saved)
        saved = [each for each in saved if each[0] <= done]
        parts = portions(events[done:], chance)
        stop = len(parts) if generation == 7 else chance.randrange(len(parts) + 1)
        writer = JSONWriter()
        if position is not None:
            writer.load_state_dict(json.loads(json.dumps(position)))
        writer.open(Run(folder, "test", "1", generation=generation))
        for part in parts[:stop]:
            before = lines(folder / "metrics.jsonl")
            writer.write(part)
            told.update(lines(folder / "metrics.jsonl")[len(before) :])
            done += len(part)
            if chance.random() < 0.4:  # else it is killed before a checkpoint has its position
                saved.append((done, writer.state_dict()))
        if generation == 7 or chance.random() < 0.5:
            writer.close("failed")
        elif chance.random() < 0.5:
            with (folder / "metrics.jsonl").open("ab") as file:
                file.write(b'{"iterat')  # and in the middle of a line
                told.update([b'{"iterat'])
    for name in (*(f"{name}.jsonl" for name in NAMES), "metrics.hints.json"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    kept = Counter(line for content in orphans(folder).values() for line in content)
    assert kept + Counter(lines(folder / "metrics.jsonl")) == told


def test_a_folder_that_is_missing_is_made_durably(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: (synced.append(os.readlink(f"/proc/self/fd/{number}")), real(number))
    )
    writer = JSONWriter(file="a/b/metrics.jsonl")
    writer.open(Run(tmp_path / "run", "test", "1"))
    writer.close("finished")
    for folder in (tmp_path, tmp_path / "run", tmp_path / "run/a", tmp_path / "run/a/b"):
        assert str(folder) in synced


def test_a_file_that_shrinks_while_it_is_checked_is_refused(tmp_path, training, tell, monkeypatch):
    position = tell(tmp_path, training())
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: b"")
    with pytest.raises(RunError, match="that the checkpoint knows of, got 'other ones'"):
        tell(tmp_path, [], position)


def test_a_journal_of_a_delivery_is_named_by_the_generation_of_its_run(tmp_path):
    storage = EventStorage()
    run = Run(tmp_path, "a", "1", generation=7)
    for _ in range(2):
        with Delivery(storage, {"json": JSONWriter()}, run):
            storage.put_scalar("a", storage.iter)
            storage.step()
    assert [*orphans(tmp_path)] == ["metrics.orphaned-7.jsonl"]
