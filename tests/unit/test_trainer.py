"""The loop: who is called when, how a run ends, and what never happens."""

from __future__ import annotations

import copy
import gc
import os
import signal
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from hookline import (
    CheckpointError,
    HookBase,
    NonFiniteError,
    PluginError,
    RunError,
    SimpleTrainer,
    TrainerBase,
    get_event_storage,
    hookimpl,
)
from hookline.errors import notes
from hookline.hooks import Callback, Checkpoint, Evaluate


class Recorder(HookBase):
    """Writes down each call with the trainer's iteration."""

    def __init__(self):
        self.calls = []

    def before_train(self):
        self.calls.append(("before_train", self.trainer.iter))

    def before_step(self):
        self.calls.append(("before_step", self.trainer.iter))

    def after_backward(self):
        self.calls.append(("after_backward", self.trainer.iter))

    def after_step(self):
        self.calls.append(("after_step", self.trainer.iter))

    def on_error(self, error):
        self.calls.append(("on_error", type(error).__name__))

    def after_train(self):
        self.calls.append(("after_train", self.trainer.iter))


def at(iteration, do):
    """Return a hook that does something in ``after_step`` of one iteration."""

    class At(HookBase):
        def after_step(self):
            if self.trainer.iter == iteration:
                do(self.trainer)

    return At()


def fail(trainer):
    raise ValueError("on purpose")


class Poisoned(nn.Module):
    """A model whose loss is NaN in the calls given."""

    def __init__(self, *bad):
        super().__init__()
        self.linear, self.bad, self.num_calls = nn.Linear(1, 1), bad, 0

    def forward(self, batch):
        x, y = batch
        self.num_calls += 1
        loss = (self.linear(x) - y).square().mean()
        return loss * float("nan") if self.num_calls - 1 in self.bad else loss


def test_hooks_are_called_in_the_documented_order(make_trainer):
    recorder = Recorder()
    make_trainer(recorder).train(0, 2)
    assert recorder.calls == [
        ("before_train", 0),
        ("before_step", 0),
        ("after_backward", 0),
        ("after_step", 0),
        ("before_step", 1),
        ("after_backward", 1),
        ("after_step", 1),
        ("after_train", 2),
    ]


def test_a_finished_run_has_reached_max_iter(make_trainer):
    trainer = make_trainer()
    trainer.train(3, 5)
    assert (trainer.status, trainer.start_iter, trainer.iter, trainer.max_iter) == ("finished", 3, 5, 5)


def test_the_hello_hook_of_the_tutorial_works(make_trainer, capsys):
    class HelloHook(HookBase):
        def after_step(self):
            if self.trainer.iter % 100 == 0:
                print(f"Hello at iteration {self.trainer.iter}!")

    make_trainer(HelloHook()).train(0, 101)
    assert capsys.readouterr().out == "Hello at iteration 0!\nHello at iteration 100!\n"


def test_a_model_can_put_scalars_while_training(make_trainer):
    class Accurate(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 1)

        def forward(self, batch):
            if self.training:
                value = 0.75
                get_event_storage().put_scalar("some_accuracy", value)
            return self.linear(batch[0]).mean()

    trainer = make_trainer(model=Accurate())
    trainer.train(0, 1)
    assert trainer.storage.history("some_accuracy").latest() == 0.75


def test_gradients_are_in_place_in_after_backward(make_trainer):
    norms = []

    class Reader(HookBase):
        def after_backward(self, trainer):
            norms.append(trainer.model.linear.weight.grad.norm().item())

    trainer = make_trainer(Reader())
    trainer.train(0, 3)
    assert len(norms) == 3
    assert min(norms) > 0


def test_a_custom_run_step_that_forgets_after_backward_is_told():
    class Forgetful(TrainerBase):
        def run_step(self):
            """No gradients at all."""

    trainer = Forgetful()
    trainer.register_hooks([Recorder()])
    with pytest.raises(PluginError, match=r"expected a call of self.after_backward\(\).*Recorder"):
        trainer.train(0, 1)


def test_train_may_be_called_again(make_trainer):
    recorder = Recorder()
    trainer = make_trainer(recorder)
    trainer.train(0, 2)
    trainer.train(2, 3)
    assert [call for call in recorder.calls if call[0] == "before_step"] == [
        ("before_step", 0),
        ("before_step", 1),
        ("before_step", 2),
    ]
    trainer.train(0, 1)
    assert trainer.storage.iter == 1  # a fresh storage


def test_training_backwards_is_refused(make_trainer):
    with pytest.raises(RunError, match="expected 0 <= start_iter <= max_iter, got 5 and 3"):
        make_trainer().train(5, 3)


def test_request_stop_ends_after_this_iteration_and_the_first_reason_wins(make_trainer):
    recorder = Recorder()
    trainer = make_trainer(
        at(1, lambda t: t.request_stop("first")), at(1, lambda t: t.request_stop("second")), recorder
    )
    trainer.train(0, 10)
    assert (trainer.status, trainer.reason, trainer.iter) == ("stopped", "first", 2)
    assert ("after_step", 1) in recorder.calls


def test_stop_at_pauses(make_trainer):
    trainer = make_trainer()
    trainer.stop_at = 4
    trainer.train(0, 10)
    assert (trainer.status, trainer.iter, trainer.max_iter) == ("paused", 4, 10)


@pytest.mark.parametrize(
    ("status", "prepare", "evaluates"),
    [
        ("finished", lambda t: None, True),
        ("stopped", lambda t: t.register_hooks([at(2, lambda u: u.request_stop("enough"))]), True),
        ("paused", lambda t: setattr(t, "stop_at", 3), False),
        ("failed", lambda t: t.register_hooks([at(2, fail)]), False),
    ],
)
def test_each_end_evaluates_and_saves_as_documented(make_trainer, tmp_path, status, prepare, evaluates):
    evaluation = Evaluate(data=[(torch.zeros(2, 1), torch.zeros(2, 1))])
    trainer = make_trainer(Checkpoint(), evaluation, run_dir=tmp_path)
    prepare(trainer)
    try:
        trainer.train(0, 6)
    except ValueError:
        assert status == "failed"
    assert trainer.status == status
    assert ("eval/total_loss" in trainer.storage.histories()) == evaluates
    saved = [path.name for path in (tmp_path / "checkpoints").glob("iter_*")]
    assert saved == ([] if status == "failed" else [f"iter_{trainer.iter - 1:07d}"])


def test_a_stop_requested_after_the_evaluate_hook_still_evaluates_once(make_trainer):
    calls = []

    class Counted(HookBase):
        def before_train(self):
            self.trainer.evaluations["counted"] = lambda: calls.append(self.trainer.iter) or {"eval/x": 1.0}

        def after_step(self):
            self.trainer.request_evaluation("counted")

    make_trainer(Counted(), at(1, lambda t: t.request_stop("late"))).train(0, 9)
    assert calls == [0, 1]


def test_a_stop_requested_by_after_evaluate_runs_the_other_evaluations(make_trainer):
    class Stopper(HookBase):
        def before_train(self):
            self.trainer.evaluations["first"] = lambda: {"first/x": 1.0}
            self.trainer.evaluations["second"] = lambda: {"second/x": 2.0}

        def after_step(self):
            self.trainer.request_evaluation("first")

        def after_evaluate(self, name):
            self.trainer.request_stop(name)

    trainer = make_trainer(Stopper())
    trainer.train(0, 9)
    assert (trainer.iter, trainer.reason) == (1, "first")
    assert trainer.storage.latest()["second/x"] == (2.0, 0)


def test_an_unknown_evaluation_is_refused(make_trainer):
    trainer = make_trainer(at(0, lambda t: t.request_evaluation("evl")))
    with pytest.raises(PluginError, match="expected one of none, got 'evl'"):
        trainer.train(0, 1)


def test_a_checkpoint_without_a_checkpointer_is_refused(make_trainer):
    trainer = make_trainer(at(0, lambda t: t.request_checkpoint()))
    with pytest.raises(RunError, match="Enable the 'checkpoint' hook"):
        trainer.train(0, 1)


def test_evaluation_does_not_disturb_the_random_numbers_of_training(make_trainer):
    def draws(evaluate):
        seen = []

        class Noisy(HookBase):
            def before_train(self):
                self.trainer.evaluations["noise"] = lambda: {"eval/x": torch.rand(()).item()}

            def after_step(self):
                seen.append(torch.rand(()).item())
                if evaluate:
                    self.trainer.request_evaluation("noise")

        trainer = make_trainer(Noisy())
        torch.manual_seed(1)
        trainer.train(0, 4)
        return seen

    assert draws(evaluate=True) == draws(evaluate=False)


def test_after_train_of_every_plugin_runs_and_the_first_error_wins(make_trainer):
    class Bad(HookBase):
        def after_train(self):
            raise KeyError("second")

    recorder = Recorder()
    trainer = make_trainer(at(0, fail), Bad(), recorder)
    with pytest.raises(ValueError, match="on purpose") as caught:
        trainer.train(0, 3)
    assert "At" in notes(caught.value)[0]
    assert "iteration 0" in notes(caught.value)[0]
    assert recorder.calls[-2:] == [("on_error", "ValueError"), ("after_train", 0)]
    assert trainer.status == "failed"


def test_a_failing_after_train_alone_is_raised(make_trainer):
    class Bad(HookBase):
        def after_train(self):
            raise KeyError("only")

    trainer = make_trainer(Bad())
    with pytest.raises(KeyError):
        trainer.train(0, 1)
    assert trainer.status == "failed"


def test_on_error_cannot_swallow_or_hide_the_error(make_trainer):
    class Worse(HookBase):
        def on_error(self, error):
            raise RuntimeError("in on_error")

    with pytest.raises(ValueError, match="on purpose"):
        make_trainer(at(0, fail), Worse()).train(0, 1)


def test_what_after_train_puts_is_sealed_last(make_trainer):
    seen = []

    class Final(HookBase):
        def after_train(self):
            self.trainer.storage.put_scalar("final", 1.0)

    trainer = make_trainer(Final())
    trainer.storage.attach(seen.extend)
    trainer.train(0, 2)
    assert [(event.iteration, "final" in event.scalars) for event in seen] == [
        (0, False),
        (1, False),
        (2, True),
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_iteration_saves_and_ends_the_program(make_trainer, tmp_path, number, code):
    trainer = make_trainer(Checkpoint(), at(2, lambda t: os.kill(os.getpid(), number)), run_dir=tmp_path)
    before = signal.getsignal(number)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
        trainer.train(0, 100)
    assert (trainer.status, trainer.iter, trainer.reason) == ("paused", 3, number.name)
    assert [path.name for path in (tmp_path / "checkpoints").glob("iter_*")] == ["iter_0000002"]
    assert isinstance(caught.value, KeyboardInterrupt) or caught.value.code == code
    assert signal.getsignal(number) is before


def test_training_works_in_a_thread(make_trainer):
    trainer = make_trainer()
    thread = threading.Thread(target=trainer.train, args=(0, 2))
    thread.start()
    thread.join()
    assert trainer.status == "finished"


def test_a_nonfinite_loss_ends_the_run_with_clean_weights(make_trainer):
    trainer = make_trainer(model=Poisoned(2))
    weights = []
    trainer.register_hooks([at(1, lambda t: weights.append(t.model.linear.weight.detach().clone()))])
    with pytest.raises(NonFiniteError, match="iteration 2: .*total_loss=nan") as caught:
        trainer.train(0, 5)
    assert caught.value.iteration == 2
    assert torch.equal(trainer.model.linear.weight, weights[0])
    assert isinstance(caught.value, FloatingPointError)


def test_as_many_skips_in_a_row_as_the_user_allows_are_survived(make_trainer):
    make_trainer(model=Poisoned(1, 2, 4), max_skips=2).train(0, 6)
    with pytest.raises(NonFiniteError) as caught:
        make_trainer(model=Poisoned(1, 2, 3), max_skips=2).train(0, 6)
    assert (caught.value.iteration, caught.value.num_skipped) == (3, 3)


def test_an_empty_loader_is_named(make_trainer):
    trainer = make_trainer()
    trainer.reset_data_loader(list)
    with pytest.raises(RunError, match="expected at least one batch, got none from list"):
        trainer.train(0, 1)


def test_reset_data_loader_takes_effect_at_the_next_iteration(make_trainer):
    seen = []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, batch):
            seen.append(batch)
            return self.weight * 1.0

    trainer = make_trainer(model=Model())
    trainer.reset_data_loader(lambda: ["a", "b"])
    trainer.train(0, 3)
    trainer.reset_data_loader(lambda: ["c"])
    trainer.train(3, 4)
    assert seen == ["a", "b", "a", "c"]


def test_two_trainers_share_nothing(make_trainer):
    one, two = make_trainer(Recorder()), make_trainer()
    one.train(0, 2)
    two.train(0, 1)
    assert two.hooks.names() == []
    assert (one.storage.iter, two.storage.iter) == (2, 1)


def test_the_model_is_freed_with_its_trainer_and_hooks(make_trainer):
    recorder = Recorder()
    trainer = make_trainer(recorder)
    trainer.train(0, 1)
    model = weakref.ref(trainer.model)
    gc.disable()
    try:
        del trainer
        gc.collect(0)
    finally:
        gc.enable()
    gc.collect()
    assert model() is None
    with pytest.raises(AttributeError, match="expected a registered plugin"):
        _ = recorder.trainer


def test_wrappers_and_marked_objects_work_in_a_run(make_trainer):
    log = []

    class Plain:
        @hookimpl(wrapper=True)
        def after_step(self, trainer):
            log.append("in")
            yield
            log.append("out")

    trainer = make_trainer(Callback(after_step=lambda t: log.append(t.iter)))
    trainer.register_hook(Plain(), "plain")
    trainer.train(0, 1)
    assert log == ["in", 0, "out"]


def test_time_of_every_plugin_is_estimated(make_trainer):
    trainer = make_trainer(Recorder())
    trainer.train(0, 40)
    assert trainer.hooks.seconds["Recorder"]["after_step"] > 0


def test_a_gradient_that_is_not_finite_is_what_the_error_names(make_trainer):
    class Poison(HookBase):
        def after_backward(self):
            if self.trainer.iter == 1:
                self.trainer.model.linear.weight.grad.fill_(float("nan"))

    with pytest.raises(NonFiniteError, match=r"iteration 1: .*grad_norm=nan"):
        make_trainer(Poison()).train(0, 3)


def test_the_state_between_two_trains_is_that_of_the_next_iteration(make_trainer):
    one, two = make_trainer(), make_trainer()
    one.train(0, 4)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert two.iter == 4
    one.train(4, 8)
    two.train(4, 8)
    assert torch.equal(one.model.linear.weight, two.model.linear.weight)


def test_a_second_train_keeps_the_storage_and_its_histories(make_trainer):
    trainer = make_trainer()
    storage = trainer.storage
    trainer.train(0, 4)
    trainer.train(4, 6)
    assert trainer.storage is storage
    assert [at for _, at in storage.history("total_loss").values()] == list(range(6))


@pytest.mark.parametrize("request_", [lambda t: t.request_stop("x"), lambda t: t.request_checkpoint()])
def test_requests_that_nobody_would_carry_out_are_refused(make_trainer, request_):
    trainer = make_trainer()
    with pytest.raises(RunError, match="expected a run with an iteration to come, got one that is created"):
        request_(trainer)

    class Late(HookBase):
        def after_train(self):
            request_(self.trainer)

    with pytest.raises(RunError, match="got one that is finished"):
        make_trainer(Late()).train(0, 1)


def test_a_stop_requested_in_before_train_ends_after_the_first_iteration(make_trainer):
    trainer = make_trainer(Callback(before_train=lambda t: t.request_stop("early")))
    trainer.train(0, 5)
    assert (trainer.status, trainer.iter) == ("stopped", 1)


def test_an_optimizer_of_another_model_is_refused():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters())
    with pytest.raises(RunError, match="one for parameters of Linear, got one for others"):
        SimpleTrainer(nn.Linear(1, 1), [], optimizer)


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: Subset(data, [0, 1])])
def test_a_dataset_in_place_of_batches_is_refused(wrap, make_trainer):
    model = nn.Linear(1, 1)
    dataset = wrap(TensorDataset(torch.zeros(4, 1)))
    said = (
        r"data_loader: expected batches, got the dataset .*\. Use hookline\.Loader\(dataset, batch_size=…\)"
    )
    with pytest.raises(RunError, match=said):
        SimpleTrainer(model, dataset, torch.optim.SGD(model.parameters()))
    trainer = make_trainer()
    loader = trainer.data_loader
    with pytest.raises(RunError, match=said):
        trainer.reset_data_loader(lambda: dataset)
    assert trainer.data_loader is loader


class Stream(IterableDataset):
    """Yields batches."""

    def __iter__(self):
        yield torch.zeros(4, 1), torch.zeros(4, 1)


class Batched(Dataset):
    """Is a map dataset, and yields batches too."""

    def __iter__(self):
        yield torch.zeros(4, 1), torch.zeros(4, 1)


@pytest.mark.parametrize(
    "batches",
    [
        [(torch.zeros(4, 1), torch.zeros(4, 1))],
        Stream(),
        Batched(),
        DataLoader(TensorDataset(torch.zeros(4, 1), torch.zeros(4, 1)), batch_size=2),
    ],
    ids=lambda batches: type(batches).__name__,
)
def test_whatever_yields_batches_is_trained_on(make_trainer, batches):
    trainer = make_trainer()
    trainer.reset_data_loader(lambda: batches)
    trainer.train(0, 2)
    assert trainer.iter == 2


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"max_skips": -1}, "max_skips: expected a whole number >= 0, got -1."),
        ({"max_skips": "1"}, "max_skips: expected a whole number >= 0, got '1'."),
        ({"max_skips": 1.0}, "max_skips: expected a whole number >= 0, got 1.0."),
        ({"max_skips": True}, "max_skips: expected a whole number >= 0, got True."),
        ({"clip_norm": None}, "clip_norm: expected a number >= 0, where 0 never clips, got None."),
        ({"clip_norm": "1"}, "clip_norm: expected a number >= 0, where 0 never clips, got '1'."),
        ({"clip_norm": True}, "clip_norm: expected a number >= 0, where 0 never clips, got True."),
        ({"clip_norm": -1}, "clip_norm: expected a number >= 0, where 0 never clips, got -1."),
        ({"prefetch": "no"}, "prefetch: expected True or False, got 'no'."),
    ],
    ids=str,
)
def test_an_argument_of_a_wrong_type_is_refused(make_trainer, option, said):
    with pytest.raises(RunError) as caught:
        make_trainer(**option)
    assert str(caught.value) == said


def test_train_from_within_a_run_is_refused(make_trainer):
    with pytest.raises(RunError, match="a call from its own run"):
        make_trainer(at(0, lambda t: t.train(0, 1))).train(0, 2)


def test_a_run_directory_may_be_given_as_text(make_trainer, tmp_path):
    trainer = make_trainer(Checkpoint(), run_dir=str(tmp_path))
    trainer.train(0, 1)
    assert (tmp_path / "checkpoints" / "iter_0000000").is_dir()


class Named(HookBase):
    def __init__(self, name="mine", trainer=None):
        if trainer is not None:
            self.trainer = trainer
        self.name = name

    def after_step(self):
        pass


def test_a_plugin_that_names_itself_is_refused(make_trainer):
    with pytest.raises(PluginError, match="Named.name: expected it to be left alone, got 'mine'"):
        make_trainer(Named())


def test_a_plugin_may_be_registered_again_under_another_name(make_trainer):
    hook = Named(name="")
    make_trainer(hook)
    make_trainer().register_hook(hook, "other")
    assert hook.name == "other"


def test_a_plugin_that_sets_its_trainer_is_told_to_leave_it_alone():
    with pytest.raises(AttributeError, match="Named.trainer: expected it to be left alone, got 'mine'"):
        Named(trainer="mine")


class Unsavable(HookBase):
    """Has a state that no checkpoint holds, and draws when asked for it."""

    def __init__(self, what=object):
        self.what, self.num_asked = what, 0

    def after_step(self):
        pass

    def state_dict(self):
        self.num_asked += 1
        torch.rand(())
        return {"what": self.what}

    def load_state_dict(self, state):
        pass


def test_a_state_that_no_checkpoint_holds_is_an_error_after_the_first_iteration(make_trainer, tmp_path):
    trainer = make_trainer(Checkpoint(), Unsavable(), run_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"checkpoint: hooks\.Unsavable\.state\.what: expected None"):
        trainer.train(0, 5)
    assert trainer.iter == 0
    make_trainer(Unsavable()).train(0, 2)  # where nothing saves, nothing need be held
    trainer = make_trainer(Unsavable())
    trainer.checkpointer = Saver()
    trainer.train(0, 2)
    assert Saver.num_saved == 1


class Saver:
    """Holds anything."""

    num_saved = 0

    def save(self, iteration, state, tags):
        Saver.num_saved += 1


@pytest.mark.parametrize(("start_iter", "num_asked"), [(0, 2), (1, 1)])
def test_looking_for_it_changes_nothing_and_a_run_that_goes_on_does_not(
    make_trainer, tmp_path, start_iter, num_asked
):
    plain, looking = make_trainer(), make_trainer(Checkpoint(), asked := Unsavable(1), run_dir=tmp_path)
    for trainer in (plain, looking):
        torch.manual_seed(3)
        trainer.train(start_iter, start_iter + 3)
    after = torch.rand(())
    torch.manual_seed(3)
    assert after == torch.rand(())
    assert asked.num_asked == num_asked
