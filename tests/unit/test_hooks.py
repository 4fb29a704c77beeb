"""The built-in hooks, each through a real run."""

from __future__ import annotations

import io
import itertools
import json
import math
import shutil

import pytest
import torch
from rich.console import Console
from tests.conftest import Line, points

from hookline import EventWriter, HookBase, PluginError, Run, RunError, checkpoint, hooks, schedules
from hookline.plugins import lint


class Measure(HookBase):
    """Evaluates to the values given, one an evaluation."""

    def __init__(self, *values, name="eval/score"):
        self.values, self.metric = list(values), name

    def before_train(self):
        self.trainer.evaluations["measure"] = lambda: {self.metric: self.values[self.trainer.iter]}

    def after_step(self):
        self.trainer.request_evaluation("measure")


class Keep(EventWriter):
    """Keeps every event in memory."""

    def __init__(self):
        self.events, self.status = [], None

    def write(self, events):
        self.events += events

    def close(self, status):
        self.status = status


def lrs(make_trainer, schedule, num_iters=4, **options):
    seen = []
    trainer = make_trainer(hooks.Schedule(schedule), lr=1.0, **options)
    trainer.register_hooks([hooks.Callback(after_step=lambda t: seen.append(t.storage.latest()["lr"][0]))])
    trainer.train(0, num_iters)
    return seen


@pytest.mark.parametrize("name", hooks.__all__)
def test_every_built_in_hook_passes_the_lint_and_describes_its_options(name):
    from hookline.config import describe_options

    cls = getattr(hooks, name)
    lint(cls(), name)
    assert all(option.description for option in describe_options(cls)), name


def test_the_timer_puts_volatile_times_after_its_warm_up(make_trainer):
    keep = Keep()
    trainer = make_trainer(hooks.Timer(warmup_iters=2))
    trainer.storage.attach(lambda events: keep.write(events))
    trainer.train(0, 4)
    assert ["time" in event.scalars for event in keep.events] == [False, False, True, True]
    assert keep.events[-1].scalars["time"].volatile


def test_without_a_schedule_the_rate_stays_and_is_shown(make_trainer):
    assert lrs(make_trainer, None) == [1.0] * 4


def test_a_schedule_on_progress_sets_the_rate_that_is_shown(make_trainer):
    assert lrs(make_trainer, schedules.Linear()) == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_a_torch_scheduler_is_stepped_once_an_iteration(make_trainer):
    seen = []
    trainer = make_trainer(lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, step_size=2, gamma=0.1)
    trainer.register_hooks(
        [
            hooks.Schedule(scheduler),
            hooks.Callback(after_step=lambda t: seen.append(t.storage.latest()["lr"][0])),
        ]
    )
    trainer.train(0, 4)
    assert seen == pytest.approx([1.0, 1.0, 0.1, 0.1])


def test_constant_lr_of_torch_is_not_taken_for_a_schedule_on_progress(make_trainer):
    trainer = make_trainer(lr=1.0)
    scheduler = torch.optim.lr_scheduler.ConstantLR(trainer.optimizer, factor=0.5, total_iters=2)
    trainer.register_hooks([hooks.Schedule(scheduler)])
    trainer.train(0, 3)
    assert [lr for lr, _ in trainer.storage.history("lr").values()] == pytest.approx([0.5, 0.5, 1.0])


@pytest.mark.parametrize("schedule", ["cosine", "ReduceLROnPlateau"])
def test_what_is_no_schedule_is_refused_by_name(make_trainer, schedule):
    trainer = make_trainer()
    if schedule == "ReduceLROnPlateau":
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(trainer.optimizer)
    trainer.register_hooks([hooks.Schedule(schedule)])
    with pytest.raises(PluginError, match=f"got a {type(schedule).__name__}"):
        trainer.train(0, 1)


def test_the_rate_shown_is_that_of_the_largest_group(make_trainer):
    trainer = make_trainer()
    trainer.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(100))], "lr": 0.7})
    trainer.register_hooks([hooks.Schedule()])
    trainer.train(0, 1)
    assert trainer.storage.latest()["lr"][0] == 0.7


def test_checkpoints_follow_the_period_and_the_end_and_keep_counts_the_newest(make_trainer, tmp_path):
    make_trainer(hooks.Checkpoint(period=2, keep=2), run_dir=tmp_path).train(0, 9)
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("iter_*"))
    assert names == ["iter_0000007", "iter_0000008"]


def test_keep_is_honoured_across_restarts(make_trainer, tmp_path):
    make_trainer(hooks.Checkpoint(period=1, keep=3), run_dir=tmp_path).train(0, 3)
    make_trainer(hooks.Checkpoint(period=1, keep=3), run_dir=tmp_path).train(3, 5)
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("iter_*"))
    assert names == ["iter_0000002", "iter_0000003", "iter_0000004"]


def test_a_checkpoint_hook_without_a_folder_says_what_to_do(make_trainer):
    with pytest.raises(RunError, match="Set the option 'dir', or trainer.run_dir"):
        make_trainer(hooks.Checkpoint()).train(0, 1)


@pytest.mark.parametrize(("mode", "best"), [("min", 3), ("max", 1)])
def test_the_best_checkpoint_is_kept_and_nan_is_never_best(make_trainer, tmp_path, mode, best):
    values = [5.0, 9.0, math.nan, 1.0, 1.0, 7.0]
    trainer = make_trainer(
        hooks.Checkpoint(keep=2), hooks.BestCheckpoint("eval/score", mode), Measure(*values), run_dir=tmp_path
    )
    trainer.train(0, len(values))
    assert (tmp_path / "checkpoints" / "best").read_text().strip() == f"iter_{best:07d}"
    assert (tmp_path / "checkpoints" / f"iter_{best:07d}" / "manifest.json").exists()


@pytest.mark.parametrize("best_is_there", [True, False])
def test_a_run_that_goes_back_points_again_to_the_best_of_then(make_trainer, tmp_path, best_is_there, caplog):
    root = tmp_path / "checkpoints"

    def trainer(keep, *values):
        parts = [hooks.BestCheckpoint("eval/score"), hooks.Checkpoint(period=1, keep=keep)]
        return make_trainer(*parts, Measure(*values), run_dir=tmp_path)

    trainer(0, 3.0, 1.0, 2.0, 0.5, 2.0).train(0, 5)
    saved = checkpoint.load(root / "iter_0000002")
    checkpoint.discard_newer(root, 2)
    assert not (root / "best").exists()
    if not best_is_there:
        shutil.rmtree(root / "iter_0000001")
    again = trainer(2, *[2.0] * 7)
    again.load_state_dict(saved)
    again.train(3, 7)
    kept = sorted(path.name[-1] for path in root.glob("iter_*"))
    if best_is_there:
        assert (root / "best").read_text() == "iter_0000001\n"
        assert kept == ["1", "5", "6"]
    else:
        assert not (root / "best").exists()
        assert "iteration 1, the best so far, is not there" in caplog.text


def test_the_best_value_is_remembered_by_state():
    one = hooks.BestCheckpoint("m", "max")
    assert one.watch.improved({"m": 3.0}, 7)
    two = hooks.BestCheckpoint("m", "max")
    two.load_state_dict(one.state_dict())
    assert not two.watch.improved({"m": 3.0}, 8)
    assert two.watch.improved({"m": 3.5}, 9)


def test_best_checkpoint_alone_asks_for_the_checkpoint_hook(make_trainer):
    with pytest.raises(PluginError, match="Add 'checkpoint' to hooks"):
        make_trainer(hooks.BestCheckpoint()).train(0, 1)


def test_a_metric_that_the_evaluation_does_not_measure_is_named(make_trainer):
    trainer = make_trainer(hooks.EarlyStopping("eval/scor"), Measure(1.0))
    with pytest.raises(
        PluginError, match=r"got 'eval/scor'. Measured: eval/score. Did you mean 'eval/score'\?"
    ):
        trainer.train(0, 1)


@pytest.mark.parametrize("hook", [hooks.EarlyStopping, hooks.BestCheckpoint])
def test_a_metric_that_no_evaluation_measures_is_named_when_the_last_of_them_has_run(
    make_trainer, tmp_path, hook
):
    other = Measure(1.0, 1.0, name="test/score")
    other.before_train = lambda: other.trainer.evaluations.update(other=lambda: {"test/score": 1.0})
    other.after_step = lambda: other.trainer.iter == 1 and other.trainer.request_evaluation("other")
    parts = [hooks.Checkpoint(), hook("score"), Measure(1.0, 1.0, 1.0), other]
    trainer = make_trainer(*parts, run_dir=tmp_path)
    with pytest.raises(PluginError, match=r"got 'score'. Measured: eval/score, test/score. Did you mean"):
        trainer.train(0, 3)
    assert trainer.iter == 1
    trainer = make_trainer(*parts[:1], hook("eval/score"), Measure(1.0, 1.0, 1.0), run_dir=tmp_path)
    trainer.evaluations["other"] = dict
    trainer.train(0, 3)


@pytest.mark.parametrize("hook", [hooks.EarlyStopping, hooks.BestCheckpoint])
def test_a_run_without_evaluations_is_refused_to_what_waits_for_a_metric(make_trainer, tmp_path, hook):
    with pytest.raises(
        PluginError, match=r"measures 'eval/total_loss', got a run without any. Add 'evaluate'"
    ):
        make_trainer(hook(), hooks.Checkpoint(), run_dir=tmp_path).train(0, 1)


def test_early_stopping_waits_for_its_patience(make_trainer):
    values = [5.0, 4.0, 4.5, 4.1, 3.0, 3.2, 3.1, math.nan, 0.0]
    trainer = make_trainer(hooks.EarlyStopping("eval/score", patience=3), Measure(*values))
    trainer.train(0, len(values))
    assert (trainer.status, trainer.iter) == ("stopped", 8)
    assert "eval/score has not improved in 3 evaluations; best 3.0 at iteration 4" in trainer.reason


def test_early_stopping_counts_on_after_a_resume():
    one = hooks.EarlyStopping("m", patience=2)
    one.watch.best, one.num_bad = 1.0, 1
    two = hooks.EarlyStopping("m", patience=2)
    two.load_state_dict(one.state_dict())
    assert (two.watch.best, two.num_bad) == (1.0, 1)


def test_evaluate_runs_every_period_and_at_the_end(make_trainer):
    data = [next(iter(torch.utils.data.DataLoader(points(), batch_size=64)))]
    trainer = make_trainer(hooks.Evaluate(period=2, data=data))
    trainer.train(0, 5)
    assert [at for _, at in trainer.storage.history("eval/total_loss").values()] == [1, 3, 4]


def test_writers_get_every_event_once_and_are_closed_with_the_status(make_trainer, tmp_path):
    one, two = Keep(), Keep()
    writer = hooks.PeriodicWriter({"one": one, "two": two}, run=Run(tmp_path, "r", "r"))
    trainer = make_trainer(writer)
    trainer.train(0, 7)
    assert [event.iteration for event in one.events] == list(range(7))
    assert one.events == two.events
    assert one.status == "finished"


def test_writers_are_closed_when_training_fails(make_trainer, tmp_path):
    keep = Keep()

    class Failing(HookBase):
        def after_step(self):
            self.trainer.storage.put_scalar("last", 1.0)
            if self.trainer.iter == 2:
                raise ValueError

    trainer = make_trainer(hooks.PeriodicWriter({"keep": keep}, run=Run(tmp_path, "r", "r")), Failing())
    with pytest.raises(ValueError):
        trainer.train(0, 9)
    assert keep.status == "failed"
    assert [event.iteration for event in keep.events] == [0, 1, 2]


def test_a_second_train_goes_on_writing(make_trainer, tmp_path):
    keep = Keep()
    trainer = make_trainer(hooks.PeriodicWriter({"keep": keep}, run=Run(tmp_path, "r", "r")))
    trainer.train(0, 2)
    trainer.train(2, 4)
    assert [event.iteration for event in keep.events] == [0, 1, 2, 3]


def test_writers_of_one_class_in_a_list_are_numbered(make_trainer, tmp_path):
    first, second = Keep(), Keep()
    writer = hooks.PeriodicWriter([first, second], run=Run(tmp_path, "r", "r"))
    make_trainer(writer).train(0, 2)
    assert list(writer.writers) == ["Keep", "Keep-2"]
    assert len(first.events) == len(second.events) == 2


@pytest.mark.parametrize(
    ("writers", "words"),
    [
        (Keep(), r"got a Keep. Put it in \[\]"),
        ([Keep], "expected a writer, got the class of one. Give Keep"),
        ({"x": hooks.Timer()}, "writers.x: expected an EventWriter, got a Timer"),
    ],
)
def test_what_is_no_writer_is_refused(writers, words, make_trainer, tmp_path):
    with pytest.raises(PluginError, match=words):
        make_trainer(hooks.PeriodicWriter(writers, run=Run(tmp_path, "r", "r"))).train(0, 1)


def test_a_writer_is_told_by_one_hook_alone(make_trainer, tmp_path):
    keep, run = Keep(), Run(tmp_path, "r", "r")
    twice = hooks.PeriodicWriter([keep], run=run), hooks.PeriodicWriter({"again": keep}, run=run)
    with pytest.raises(PluginError, match="got 'Keep', which 'PeriodicWriter-2' has, too"):
        make_trainer(*twice).train(0, 1)
    make_trainer(hooks.PeriodicWriter([Keep()], run=run), hooks.PeriodicWriter([Keep()], run=run)).train(0, 1)


class Journal(Keep):
    journal = True


def test_a_second_journal_is_refused_also_among_the_writers_of_another_hook(make_trainer, tmp_path):
    run = Run(tmp_path, "r", "r")
    with pytest.raises(PluginError, match="writers.Journal-2: expected one journal in a run"):
        make_trainer(hooks.PeriodicWriter([Journal(), Journal()], run=run)).train(0, 1)
    trainer = make_trainer(hooks.PeriodicWriter(run=run))
    trainer.writers = {"json": Journal()}
    trainer.register_hook(hooks.PeriodicWriter({"mine": Journal()}, run=run))
    with pytest.raises(PluginError, match="writers.mine: .* a second one beside 'json'"):
        trainer.train(0, 1)
    late = make_trainer(hooks.PeriodicWriter(run=run))
    late.writers = {"json": Journal(), "again": Journal()}
    with pytest.raises(PluginError, match=r"writers.again: .* a second one beside 'json'"):
        late.train(0, 1)


def test_a_schedule_is_stepped_by_one_hook_alone(make_trainer):
    trainer = make_trainer(hooks.Schedule(), hooks.Schedule())
    trainer.schedule = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 1)
    with pytest.raises(PluginError, match="Schedule-2: expected a schedule of its own.*stepped twice"):
        trainer.train(0, 1)
    make_trainer(hooks.Schedule(), hooks.Schedule()).train(0, 1)


def test_memory_is_put_every_period(make_trainer):
    trainer = make_trainer(hooks.Memory(period=2))
    trainer.train(0, 4)
    values = trainer.storage.history("memory/host_bytes").values()
    assert [at for _, at in values] == [1, 3]
    assert 2**20 < values[0][0] < 2**40


def test_the_profiler_writes_a_trace_of_the_iterations_asked_for(make_trainer, tmp_path):
    make_trainer(hooks.Profiler(start=1, num_iters=2), run_dir=tmp_path).train(0, 6)
    (trace,) = (tmp_path / "profile").glob("*.json")
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"ProfilerStep#2", "ProfilerStep#3"} <= names
    assert "ProfilerStep#4" not in names


def test_a_second_profiler_is_refused_before_it_ends_the_process(make_trainer, tmp_path):
    trainer = make_trainer(hooks.Profiler(), hooks.Profiler(start=20), run_dir=tmp_path)
    with pytest.raises(PluginError, match="expected one profiler in a run, got Profiler, Profiler-2"):
        trainer.train(0, 1)


def test_callbacks_are_called_with_the_trainer(make_trainer):
    calls = []
    callback = hooks.Callback(
        before_train=lambda t: calls.append("before_train"),
        before_step=lambda t: calls.append("before_step"),
        after_step=lambda t: calls.append("after_step"),
        after_train=lambda t: calls.append(t.status),
    )
    make_trainer(callback).train(0, 1)
    assert calls == ["before_train", "before_step", "after_step", "finished"]


def test_progress_prints_a_line_a_period_where_there_is_no_terminal(make_trainer, capsys):
    trainer = make_trainer(hooks.Schedule(), hooks.Progress(period=2), Measure(*[0.5] * 4))
    trainer.train(0, 4)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if "loss" in line] == ["iter 2/4", "iter 4/4"]
    (last,) = [line for line in lines if line.startswith("iter 4/4")]
    assert "lr 0.1" in last
    assert "eval/score 0.5" in last


def test_progress_prints_at_most_ten_lines_a_second_and_the_last(make_trainer, capsys, monkeypatch):
    clock = itertools.count(step=0.001)  # an iteration takes a millisecond
    monkeypatch.setattr("hookline.hooks.progress.perf_counter", lambda: next(clock))
    make_trainer(hooks.Progress(period=5)).train(0, 1000)
    lines = [line for line in capsys.readouterr().out.splitlines() if "it/s" in line]
    assert 2 < len(lines) < 10
    assert lines[0].startswith("iter 5/1000")
    assert lines[-1].startswith("iter 1000/1000")


def on_a_terminal(monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr("hookline.hooks.progress.console", lambda: terminal)
    return terminal


def test_progress_is_one_bar_on_a_terminal(make_trainer, monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    make_trainer(hooks.Schedule(), hooks.Progress(period=2)).train(0, 5)
    last = terminal.file.getvalue().splitlines()[-2]
    assert "iter 5/5" in last
    assert "lr 0.1" in last
    assert last.rstrip().endswith("ETA 0:00:00")


def test_the_bar_stands_where_a_run_failed(make_trainer, monkeypatch):
    terminal = on_a_terminal(monkeypatch)

    def fail(trainer):
        if trainer.iter == 3:
            raise ValueError

    with pytest.raises(ValueError):
        make_trainer(hooks.Progress(), hooks.Callback(before_step=fail)).train(0, 5)
    assert "iter 3/5" in terminal.file.getvalue().splitlines()[-2]


def test_the_bar_is_not_drawn_in_every_iteration(make_trainer, monkeypatch):
    on_a_terminal(monkeypatch)
    shown = []
    monkeypatch.setattr(hooks.Progress, "_show", lambda self, num_done: shown.append(num_done))
    make_trainer(hooks.Progress(period=1)).train(0, 50)
    assert len(shown) < 40


def test_a_rate_that_is_a_tensor_follows_the_schedule(make_trainer):
    trainer = make_trainer(hooks.Schedule(schedules.Linear()), lr=1.0)
    lr = trainer.optimizer.param_groups[0]["lr"] = torch.tensor(1.0)
    trainer.train(0, 4)
    assert [rate for rate, _ in trainer.storage.history("lr").values()] == [1.0, 0.75, 0.5, 0.25]
    assert trainer.optimizer.param_groups[0]["lr"] is lr


def test_a_parameter_group_that_comes_late_follows_the_schedule(make_trainer):
    trainer = make_trainer(hooks.Schedule(schedules.Linear()), lr=1.0)
    late = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.4}
    add = hooks.Callback(before_step=lambda t: t.iter == 1 and t.optimizer.add_param_group(late))
    trainer.register_hooks([add])
    trainer.train(0, 4)
    assert trainer.optimizer.param_groups[1]["lr"] == pytest.approx(0.4 * 0.25)


def test_hooks_work_with_any_model(make_trainer):
    model = Line()
    make_trainer(hooks.Timer(), model=model).train(0, 1)
    assert model.training


def test_nan_is_not_best_even_when_it_comes_first():
    best = hooks.BestCheckpoint("m", "min")
    assert not best.watch.improved({"m": math.nan}, 0)
    assert best.watch.improved({"m": 3.0}, 1)
