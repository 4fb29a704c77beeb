"""Whatever happens to a file of a checkpoint is found, said and passed over; also to a journal."""

from __future__ import annotations

import random

import job
import pytest
from corruption import Run, accidents, flipped, flips, truncations
from whole_run import TrainedRun, resumed, trainer_in

from hookline import EventStorage, RunError, checkpoint
from hookline import Run as WriterRun
from hookline_json import JSONWriter


@pytest.fixture(scope="module")
def run():
    """Return a run with four checkpoints that have everything in them."""
    with job.place() as folder:
        yield Run.trained(folder / "run")


@pytest.fixture
def happens(run, record):
    """Return a function that has each accident happen, and checks that it is found, said and passed over."""

    def check(fault, happening):
        failures, num_trials = [], 0
        for name, do in happening:
            with run.damaged():
                if do():
                    num_trials += 1
                    if wrong := run.wrong():
                        failures.append(f"{name}: {wrong}")
        record(
            f"corruption: {fault}",
            trials=num_trials,
            passed=num_trials - len(failures),
            outcome="found, named, and the newest valid checkpoint before it used",
        )
        assert failures == []
        return num_trials

    return check


def test_every_flipped_bit_is_found(run, happens, size):
    assert happens("flipped bits", flips(run, size(150, 1000))) == size(150, 1000)


def test_every_truncation_is_found(run, happens, size):
    assert happens("truncations", truncations(run, size(100, 1000))) == size(100, 1000)


def test_missing_swapped_and_additional_files_are_found(run, happens):
    assert happens("missing, swapped and additional files", accidents(run)) > 100


def test_without_an_accident_nothing_is_found(run):
    assert run.wrong() == "load took it"
    assert checkpoint.newest_valid(run.newest.parent) == (run.newest, [])


def test_a_run_goes_on_from_the_one_before_to_the_same_end(tmp_path):
    trained = TrainedRun(tmp_path / "run")
    *_, newest = sorted((tmp_path / "run" / "checkpoints").glob("iter_*"))
    file = newest / "model.safetensors"
    file.write_bytes(flipped(file.read_bytes(), random.Random(0)))
    trainer = resumed(tmp_path / "run")
    assert 0 < trainer.start_iter <= int(newest.name.removeprefix("iter_"))
    assert trained.difference(trainer) == ""


class TestJournal:
    """What the checkpoint knows of a journal is as it was, or the run does not begin."""

    @pytest.fixture
    def journal(self, tmp_path):
        """Return a function that opens the journal where a checkpoint knows it to be, and its files."""
        writer, storage = JSONWriter(), EventStorage()
        writer.open(WriterRun(tmp_path, "run", "id"))
        for iteration in range(40):
            storage.put_scalar("total_loss", 1 / (1 + iteration))
            storage.put_scalar("time", iteration / 7, volatile=True)
            writer.write(storage.step())
            if iteration == 29:
                position = writer.state_dict()
        writer.close("failed")
        contents = {name: (tmp_path / name).read_bytes() for name in ("metrics.jsonl", "timings.jsonl")}
        sizes = {f"{name}.jsonl": part["size_bytes"] for name, part in position.items()}

        def reopen():
            again = JSONWriter()
            again.load_state_dict(position)
            again.open(WriterRun(tmp_path, "run", "id"))
            again.close("failed")

        return reopen, tmp_path, contents, sizes

    def test_every_change_of_what_the_checkpoint_knows_is_refused_by_name(self, journal, size, record):
        reopen, folder, contents, sizes = journal
        generator, failures = random.Random(2), []
        num_trials = size(150, 1000)
        for number in range(num_trials):
            name = ("metrics.jsonl", "timings.jsonl")[number % 2]
            whole, known = contents[name], sizes[name]
            if number % 4 < 2:
                changed = flipped(whole[:known], generator) + whole[known:]
            else:
                changed = whole[: generator.randrange(known)]
            (folder / name).write_bytes(changed)
            try:
                reopen()
            except RunError as error:
                if name not in str(error) or (folder / name).read_bytes() != changed:
                    failures.append(f"{error}")
            else:
                failures.append(f"{name} of {len(changed)} bytes was taken")
            for each, content in contents.items():
                (folder / each).write_bytes(content)
        record(
            "corruption: the journal",
            trials=num_trials,
            passed=num_trials - len(failures),
            outcome="refused before the first iteration, with the file's name; the file is left as it is",
        )
        assert failures == []

    def test_what_follows_is_cut_off_whatever_it_is(self, journal):
        reopen, folder, contents, sizes = journal
        for tail in (b"", b'{"torn', b"\0" * 5000, b"\xff\xfe", contents["metrics.jsonl"]):
            for name, known in sizes.items():
                (folder / name).write_bytes(contents[name][:known] + tail)
            reopen()
            for name, known in sizes.items():
                assert (folder / name).read_bytes() == contents[name][:known]


POINTERS = ("latest", "best")


@pytest.mark.parametrize("name", POINTERS)
def test_a_damaged_pointer_leads_to_a_whole_checkpoint_or_nowhere(name, tmp_path, size):
    trainer_in(tmp_path, keep=4).train()
    root, generator = tmp_path / "checkpoints", random.Random(3)
    (newest, _), wanted = checkpoint.newest_valid(root), sorted(root.glob("iter_*"))
    checkpoint.write_pointer(root, name, newest)
    content = (root / name).read_bytes()
    for trial in range(size(60, 500)):
        cut = content[: generator.randrange(len(content))]
        (root / name).write_bytes(flipped(content, generator) if trial % 3 else cut)
        target = checkpoint.read_pointer(root, name)
        assert target is None or target in wanted
        assert checkpoint.resolve(tmp_path) == newest
