"""Two processes on one machine: one run, one voice, one end."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hookline import ConfigError, load_config, load_model
from hookline.environment import set_up
from hookline.rundir import RunDir

TWO_RANKS = Path(__file__).parent / "two_ranks"
TIMEOUT_S = 100
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::FutureWarning"}
HOOKLINE = [sys.executable, "-m", "hookline"]
NOHUP = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "hookline"]


@pytest.fixture
def ranks(monkeypatch):
    monkeypatch.syspath_prepend(TWO_RANKS)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import ranks

    return ranks


@pytest.fixture
def train(tmp_path):
    """Return a function that gives the arguments that train into a folder of the test's own."""

    def arguments(folder, *more):
        return ["train", str(TWO_RANKS / "run.yaml"), f"run.dir={tmp_path / folder}", *more]

    return arguments


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a launcher; what is left of it at the end of the test is ended."""
    started = []

    def launch(command):
        # Files: a pipe that nobody reads stops who writes to it.
        stdout, stderr = tmp_path / "stdout", tmp_path / "stderr"
        with open(stdout, "w") as out, open(stderr, "w") as err:
            # A temporary folder of its own: torchrun leaves files in it.
            env = {**QUIET, "TMPDIR": str(tmp_path)}
            process = subprocess.Popen(command, stdout=out, stderr=err, cwd=tmp_path, env=env)
        started.append(process)
        return process, stdout, stderr

    yield launch
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def run_in(folder: Path) -> Path:
    (found,) = [path for path in folder.glob("line/*") if path.is_dir() and not path.is_symlink()]
    return found


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def status(run: Path) -> dict:
    return json.loads((run / "status.json").read_text())


def wait_for(text: str, path: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline, path.exists() and path.read_text()
        time.sleep(0.05)


def saved(run: Path, iteration: int) -> dict[str, bytes]:
    folder = run / f"checkpoints/iter_{iteration:07d}"
    names = ["model.safetensors", "optimizer.safetensors", "rng.json", "rng.safetensors", "data.json"]
    return {name: (folder / name).read_bytes() for name in names}


def test_a_run_whose_rank_was_killed_is_started_anew_by_torchrun_and_ends_to_the_byte(
    tmp_path, ranks, train, start
):
    codes, told = ranks.run_ranks(train("whole"), tmp_path)
    assert codes == [0, 0], told
    elastic = [*TORCHRUN[:5], "--max-restarts", "1", *TORCHRUN[5:]]
    options = ["hooks.checkpoint.period=2", "hooks+={./parts.py:Trouble: {kind: SIGKILL}}"]
    process, stdout, stderr = start([*elastic, *train("killed", *options, "--resume", "auto")])
    assert process.wait(TIMEOUT_S) == 0, stderr.read_text()
    assert stdout.read_text().count("No run of 'line' to resume") == 1
    assert stdout.read_text().count("resumed   from iter_0000001\n") == 1
    whole, killed = (run_in(tmp_path / name) for name in ("whole", "killed"))
    assert status(killed)["state"] == "finished"
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert saved(killed, 19) == saved(whole, 19)
    pids = (killed / "pids").read_text().split()
    assert len(pids) == 4
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_a_run_that_ctrl_c_paused_ends_to_the_byte_like_one_that_ran_whole(tmp_path, ranks, train, start):
    codes, told = ranks.run_ranks(train("whole"), tmp_path)
    assert codes == [0, 0], told
    whole = run_in(tmp_path / "whole")
    assert told[0].count("status") == told[0].count("2 processes") == 1
    assert [line["iteration"] for line in lines(whole / "metrics.jsonl")] == list(range(20))

    options = ["data.train.slow_s=0.1", "train.max_iter=20", "hooks.checkpoint.period=0"]
    process, stdout, stderr = start([*NOHUP, *HOOKLINE, *train("parts", "--nproc", "2", *options)])
    wait_for("iter 5/20", stdout)
    process.send_signal(signal.SIGHUP)  # ignored
    process.send_signal(signal.SIGUSR1)  # the launcher hands it on
    parts = run_in(tmp_path / "parts")
    wait_for("", parts / "checkpoints/latest")
    assert status(parts)["state"] == "running"
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_S) == 130, stderr.read_text()
    assert stderr.read_text() == ""
    assert stdout.read_text().count("[rank 0] warning: SIGUSR1: saving") == 1
    assert stdout.read_text().count("[rank 0] warning: SIGINT: pausing") == 1
    assert stdout.read_text().count("SIGINT: pausing") == 1
    found = status(parts)
    assert (found["state"], found["reason"]) == ("paused", "SIGINT")
    assert len(list((parts / "checkpoints").glob("iter_*"))) == 2
    log = (parts / "log.txt").read_text()
    for said in ("SIGINT: pausing", "SIGUSR1: saving"):
        assert all(f"rank{rank} hookline.trainer.interrupts: {said}" in log for rank in range(2))
    shutil.copytree(tmp_path / "parts", tmp_path / "alone", symlinks=True)

    (resume,) = [line for line in stdout.read_text().splitlines() if line.startswith("resume")]
    words = shlex.split(resume)[1:]
    assert words[:4] == ["hookline", "train", "--nproc", "2"]
    assert tmp_path / words[-1] == parts  # from the folder that the launcher was started in
    codes, printed = ranks.run_ranks(["train", *words[4:-1], str(parts)], tmp_path / "parts")
    assert codes == [0, 0], printed
    assert printed[1] == ""
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert saved(parts, 19) == saved(whole, 19)

    # Batch norm has seen other batches on rank 1: what was measured is the model that was saved all the same.
    codes, printed = ranks.run_ranks(["evaluate", str(whole)], tmp_path / "whole")
    assert codes == [0, 0], printed
    measured = json.loads(printed[0])["eval/total_loss"]
    assert measured == pytest.approx(lines(whole / "metrics.jsonl")[-1]["eval/total_loss"], rel=1e-12)

    alone = run_in(tmp_path / "alone")
    codes, printed = ranks.run_ranks(train("alone", "--resume", str(alone)), tmp_path / "alone", 1)
    assert codes == [0], printed
    assert "warning: The checkpoint was saved by 2 processes, now there are 1" in printed[0]
    assert status(alone)["state"] == "finished"


def test_two_ranks_learn_what_one_process_learns_from_batches_of_both(tmp_path, ranks, train):
    options = ["model.plain=true", "data.train.slow_s=0.01", "hooks.evaluate.period=5"]
    assert ranks.run_ranks(train("two", *options), tmp_path)[0] == [0, 0]
    doubled = ["data.train.loader.batch_size=8", "data.eval.loader.batch_size=8"]
    assert ranks.run_ranks(train("one", *options, *doubled), tmp_path, 1)[0] == [0]
    two, one = (run_in(tmp_path / name) for name in ("two", "one"))
    metrics = zip(lines(two / "metrics.jsonl"), lines(one / "metrics.jsonl"), strict=True)
    for of_two, of_one in metrics:
        assert of_two == pytest.approx(of_one, rel=1e-5)
    # Rank 1 waits twice as long for its data, and that is what the iteration waits for.
    assert all(line["data_time"] > 0.02 for line in lines(two / "timings.jsonl"))
    assert [path.name for path in two.glob("**/*") if path.name.startswith("rank")] == []


def test_three_ranks_resume_to_the_byte_though_sums_of_three_depend_on_their_order(tmp_path, ranks, train):
    for folder, *more in [("whole",), ("parts", "train.stop_at=7")]:
        codes, printed = ranks.run_ranks(train(folder, *more), tmp_path, 3)
        assert codes == [0, 0, 0], printed
    whole, parts = (run_in(tmp_path / name) for name in ("whole", "parts"))
    codes, printed = ranks.run_ranks(train("parts", "--resume", str(parts)), tmp_path, 3)
    assert codes == [0, 0, 0], printed
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert saved(parts, 19) == saved(whole, 19)


def test_an_error_on_one_rank_ends_both_and_is_told_once(tmp_path, train, start):
    process, _, stderr = start(
        [*HOOKLINE, *train("runs", "--nproc=2", "hooks+={./parts.py:Trouble: {kind: error}}")]
    )
    assert process.wait(TIMEOUT_S) == 1
    told = stderr.read_text()
    assert told.count("Traceback") == told.count("KeyError: 'no such sample'") == 1
    assert all(line.startswith("[rank1]: ") for line in told.splitlines())
    assert "Raised by plugin 'Trouble' (./parts.py), hook before_step, iteration 3" in told
    run = run_in(tmp_path / "runs")
    found = status(run)
    assert found["state"] == "failed"
    assert "rank 1 failed" in found["reason"]
    assert "KeyError: 'no such sample'" in found["reason"]
    assert [line["iteration"] for line in lines(run / "metrics.jsonl")] == [0, 1, 2]
    assert torch.load(run / "rank0.pt")["error"] == "RankError"


def test_what_is_wrong_with_a_config_is_told_once(train, start):
    process, stdout, stderr = start([*HOOKLINE, *train("runs", "--nproc", "2", "train.max_itr=4")])
    assert process.wait(TIMEOUT_S) == 2
    assert stdout.read_text() == ""
    assert stderr.read_text().startswith("hookline: train.max_itr (override 'train.max_itr=4'): expected")
    assert stderr.read_text().count("max_itr=4") == len(stderr.read_text().splitlines()) == 1


def test_a_nan_on_one_rank_ends_both_with_clean_weights(tmp_path, ranks, train):
    options = ["hooks.checkpoint.period=3", "hooks+={./parts.py:Trouble: {kind: nan}}"]
    codes, printed = ranks.run_ranks(train("runs", *options), tmp_path)
    assert codes == [1, 1], printed
    assert printed[1] == ""
    assert printed[0].count("iteration 3: expected finite losses and gradients, got") == 1
    run = run_in(tmp_path / "runs")
    assert status(run)["reason"].startswith("NonFiniteError: iteration 3")
    before = load_model(run).state_dict()
    for rank in range(2):
        found = torch.load(run / f"rank{rank}.pt")
        assert (found["error"], found["generation"]) == ("NonFiniteError", 1)
        assert found["weights"].keys() == before.keys()
        for name in ("linear.weight", "linear.bias"):
            assert torch.equal(found["weights"][name], before[name])
        assert all(value.isfinite().all() for value in found["weights"].values())


def test_a_wish_to_stop_on_one_rank_ends_both_at_the_end_of_the_period(tmp_path, ranks, train):
    codes, printed = ranks.run_ranks(train("runs", "hooks+={./parts.py:Trouble: {kind: stop}}"), tmp_path)
    assert codes == [0, 0], printed
    run = run_in(tmp_path / "runs")
    found = status(run)
    assert (found["state"], found["iteration"]) == ("stopped", 5)
    assert found["reason"] == "rank 1 has had enough"
    assert "eval/total_loss" in lines(run / "metrics.jsonl")[-1]
    assert saved(run, 4)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_to_one_rank_and_its_workers_pauses_both_with_the_same_iteration(
    tmp_path, ranks, train, name, code
):
    hooks = f"hooks+={{./parts.py:Trouble: {{kind: {name}}}}}"
    codes, printed = ranks.run_ranks(train("runs", hooks, "data.train.loader.num_workers=1"), tmp_path)
    assert codes == [code, code], printed
    run = run_in(tmp_path / "runs")
    found = status(run)
    assert (found["state"], found["reason"]) == ("paused", name)
    # The next period ends after 5; ranks ask each other before that where an iteration took long.
    assert found["iteration"] in (4, 5)
    assert [line["iteration"] for line in lines(run / "metrics.jsonl")] == list(range(found["iteration"]))
    assert saved(run, found["iteration"] - 1)


def test_sigusr1_to_one_rank_and_its_workers_saves_on_all_and_the_run_goes_on(tmp_path, ranks, train):
    options = ["hooks+={./parts.py:Trouble: {kind: SIGUSR1}}", "data.train.loader.num_workers=1"]
    codes, printed = ranks.run_ranks(train("runs", *options), tmp_path)
    assert codes == [0, 0], printed
    run = run_in(tmp_path / "runs")
    assert [line["iteration"] for line in lines(run / "metrics.jsonl")] == list(range(20))
    asked, *others = sorted(path.name for path in (run / "checkpoints").glob("iter_*"))
    assert asked in ("iter_0000003", "iter_0000004")
    assert others == ["iter_0000009", "iter_0000019"]
    assert saved(run, int(asked[-1]))


def test_all_ranks_are_told_of_what_only_one_finds_out(tmp_path, ranks, train):
    assert ranks.run_ranks(train("runs", "train.stop_at=5"), tmp_path)[0] == [0, 0]
    run = run_in(tmp_path / "runs")
    # Outside: to close the lock's file, read or not, would free it.
    before = {
        path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "generation"
    }
    with RunDir.open(run).held():
        codes, printed = ranks.run_ranks(train("runs", "--resume", "auto"), tmp_path / "runs")
    assert {path: path.read_bytes() for path in before} == before
    assert codes == [2, 2], printed
    assert printed[0].count("expected one that nobody trains in") == len(printed[0].splitlines()) == 1
    assert printed[1] == ""


def test_a_time_limit_ends_all_ranks_with_the_same_iteration(tmp_path, ranks, train):
    options = ["data.train.slow_s=0.1", "train.max_iter=500", "--time-limit", "5s"]
    codes, printed = ranks.run_ranks(train("runs", *options), tmp_path)
    assert codes == [75, 75], printed
    run = run_in(tmp_path / "runs")
    found = status(run)
    assert (found["state"], found["reason"]) == ("paused", "time limit of 5s")
    if found["iteration"]:
        assert saved(run, found["iteration"] - 1)


def test_ranks_whose_launcher_was_killed_save_and_end(tmp_path, ranks, train):
    output = tmp_path / "out"
    launcher, alive = ranks.start_launcher(train("runs", "data.train.slow_s=0.05"), output)
    wait_for("iter 5/20", output)
    os.kill(launcher.pid, signal.SIGKILL)
    assert alive.poll(TIMEOUT_S)  # the end of the last rank closes it
    with pytest.raises(EOFError):
        alive.recv()
    found = status(run_in(tmp_path / "runs"))
    assert (found["state"], found["reason"]) == ("paused", "SIGTERM")


def test_a_signal_while_the_summary_is_written_does_not_cut_it_short(tmp_path, ranks, train):
    codes, printed = ranks.run_ranks(train("runs", "writers+=./parts.py:LateSignal"), tmp_path, 1)
    assert codes == [0], printed
    run = run_in(tmp_path / "runs")
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    assert "cat summary.json" in printed[0]


def test_more_processes_than_gpus_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    config = load_config(TWO_RANKS / "run.yaml", ["train.device=cuda"])
    with pytest.raises(ConfigError, match="a GPU for each process of this machine.*GPUs: 1"):
        set_up(config)
