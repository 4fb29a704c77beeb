"""No file of a checkpoint and no config runs code, crashes or exhausts the process: it is one error."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import forging
import job
import pytest

NEWEST = "iter_0000003"
TRAIN = ("train.max_iter=5", "hooks.checkpoint.period=1", "hooks.checkpoint.keep=4", "writers=[json]")


@pytest.fixture(scope="module")
def base(server, tmp_path_factory):
    """Return the run directory of a run with four checkpoints."""
    return Path(server.call("sandbox:base_run", str(tmp_path_factory.mktemp("base"))))


@pytest.fixture
def attack(server, base):
    """Return a function that makes a fresh copy of the run, has it changed, and runs a command on it."""
    with job.place() as root:

        def run(do, *arguments, **limits):
            folder = root / "folder"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(base.parent.parent, folder, symlinks=True)
            run_dir = folder / "job" / base.name
            do(run_dir)
            words = [
                str(word).format(run=run_dir, newest=run_dir / "checkpoints" / NEWEST) for word in arguments
            ]
            verdict = server.call("sandbox:run_command", words, str(folder), **limits)
            return verdict, _harm(folder, verdict)

        yield run


def _harm(folder, verdict):
    """Return what must not be, whatever the command said."""
    if any(folder.rglob(forging.CANARY)):
        return "code was run"
    if verdict.code < 0:
        return f"ended by signal {-verdict.code} after {verdict.seconds:.1f} s"
    return "hung" if "hung for" in verdict.output else ""


def _resume(spec):
    return "train", str(job.CONFIG), "run.dir=.", *TRAIN, "--resume", spec


def _told(name, verdict, harm):
    """Return what is wrong with the end of a command that had to refuse, or nothing."""
    if harm:
        return f"{name}: {harm}"
    if not verdict.is_one_error:
        return f"{name}: exit code {verdict.code}: {verdict.output[-600:]}"
    return ""


def _each(attack, base, make, names):
    """Return the failures of resuming explicitly from the newest checkpoint, each time with one thing wrong."""
    failures = []
    for name in names:

        def do(run, name=name):
            checkpoint = run / "checkpoints" / NEWEST
            dict(make(checkpoint, run / forging.CANARY))[name]()

        failures.append(_told(name, *attack(do, *_resume("{newest}"))))
    return [failure for failure in failures if failure]


def _names(base, make, tmp_path):
    return [name for name, _ in make(base / "checkpoints" / NEWEST, tmp_path / forging.CANARY)]


def test_a_forged_file_that_the_manifest_vouches_for_is_one_error(attack, base, tmp_path, size, record):
    names = _names(base, forging.forgeries, tmp_path)[:: size(23, 1)]
    failures = _each(attack, base, forging.forgeries, names)
    record(
        "malice: a forged file of a checkpoint",
        trials=len(names),
        passed=len(names) - len(failures),
        outcome="no code run, no crash, one error, exit code 2",
    )
    assert failures == []


def test_a_checkpoint_with_links_pipes_and_strange_names_is_one_error(attack, base, tmp_path, size, record):
    names = _names(base, forging.damages, tmp_path)[:: size(5, 1)]
    failures = _each(attack, base, forging.damages, names)
    record(
        "malice: links, pipes, names elsewhere, huge manifests",
        trials=len(names),
        passed=len(names) - len(failures),
        outcome="no code run, no crash, one error, exit code 2",
    )
    assert failures == []


@pytest.mark.parametrize("name", ["a link to /dev/zero", "a manifest that is a pipe"])
def test_a_run_passes_such_a_checkpoint_over(attack, name):
    def do(run):
        dict(forging.damages(run / "checkpoints" / NEWEST, run / forging.CANARY))[name]()

    verdict, harm = attack(do, *_resume("{run}"))
    assert (verdict.code, harm) == (0, ""), verdict.output
    assert "passed over a damaged checkpoint" in verdict.output


POINTERS = {
    "a path upwards": lambda path: path.write_text("../../../elsewhere/iter_0000003\n"),
    "an absolute path": lambda path: path.write_text("/etc\n"),
    "a path in itself": lambda path: path.write_text("latest"),
    "a pickle": lambda path: path.write_bytes(forging.payload(path.parent / forging.CANARY)),
    "100 GB": lambda path: os.truncate(path, 100 * 2**30),
    "zeros": lambda path: path.write_bytes(bytes(50)),
    "nothing": lambda path: path.write_bytes(b""),
    "a link elsewhere": lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
    "a link to /dev/zero": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


def test_a_pointer_leads_to_a_checkpoint_beside_it_or_nowhere(attack, size, record):
    names, failures = list(POINTERS)[:: size(4, 1)], []
    for name in names:

        def do(run, name=name):
            POINTERS[name](run / "checkpoints" / "latest")

        failures.append(_told(name, *attack(do, *_resume("{run}/checkpoints/latest"))))
        # The run itself goes on, saves, and deletes old checkpoints, which looks at every pointer.
        verdict, harm = attack(do, *_resume("{run}"))
        if harm or verdict.code:
            failures.append(f"{name}: {harm} exit code {verdict.code}: {verdict.output[-600:]}")
    failures = [failure for failure in failures if failure]
    record(
        "malice: pointers",
        trials=2 * len(names),
        passed=2 * len(names) - len(failures),
        outcome="named as a checkpoint: one error, exit code 2; beside the checkpoints: the run goes on",
    )
    assert failures == []


def test_a_run_goes_on_when_a_folder_is_where_a_pointer_belongs_and_says_so_at_the_save(attack):
    def do(run):
        (run / "checkpoints" / "latest").unlink()
        (run / "checkpoints" / "latest").mkdir()

    assert _told("a folder", *attack(do, *_resume("{run}"))) == ""


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("status.json", b"[" * 100_000),
        ("generation", b"9" * 10_000 + b"\xff"),
    ],
)
def test_a_run_goes_on_whatever_its_small_files_hold(attack, file, content):
    verdict, harm = attack(lambda run: (run / file).write_bytes(content), *_resume("{run}"))
    assert (verdict.code, harm) == (0, ""), verdict.output


def test_a_file_of_weights_that_is_none_is_one_error(attack, tmp_path, size, record):
    contents = list(forging.tensor_files(tmp_path / forging.CANARY).items())[:: size(4, 1)]
    failures = []
    for name, content in contents:

        def do(run, content=content):
            (run / "evil.safetensors").write_bytes(content)

        command = "train", str(job.CONFIG), "run.dir=.", "--weights", "{run}/evil.safetensors"
        failures.append(_told(name, *attack(do, *command)))
    failures = [failure for failure in failures if failure]
    assert not (tmp_path / forging.CANARY).exists()
    record(
        "malice: a file for --weights",
        trials=len(contents),
        passed=len(contents) - len(failures),
        outcome="no code run, no crash, one error, exit code 2",
    )
    assert failures == []


def test_a_config_that_is_none_is_one_error(attack, size, record):
    contents = list(forging.CONFIGS.items())[:: size(3, 1)]
    failures = []
    for name, content in contents:

        def do(run, content=content):
            raw = content if isinstance(content, bytes) else content.encode()
            (run.parent.parent / "evil.yaml").write_bytes(raw)

        verdict, harm = attack(do, "train", "evil.yaml")
        failures.append(_told(name, verdict, harm or ("slow" if verdict.seconds > 15 else "")))
    failures = [failure for failure in failures if failure]
    record(
        "malice: configs",
        trials=len(contents),
        passed=len(contents) - len(failures),
        outcome="no code run, no crash, one error, exit code 2",
    )
    assert failures == []


def test_the_forger_is_taken_seriously(attack, base, tmp_path):
    """A manifest that was made anew for files that are as they were is believed, and a pickle would run."""
    verdict, harm = attack(lambda run: forging.reseal(run / "checkpoints" / NEWEST), *_resume("{newest}"))
    assert (verdict.code, harm) == (0, ""), verdict.output
    import pickle

    pickle.loads(forging.payload(tmp_path / forging.CANARY))
    assert (tmp_path / forging.CANARY).exists()
