"""What makes the host wait is found, by a fake of CUDA's debug mode: who, which hook, which line."""

from __future__ import annotations

import inspect
import re
import sysconfig
import threading
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import hookline
from hookline import ConfigError, HookBase, RunError, TrainerBase, hookimpl, load_config
from hookline.errors import notes
from hookline.hooks import Callback
from hookline.kernel import StepKernel

HERE = Path(__file__)
TORCHS_OWN = """
import warnings

def item(machine):
    if machine.mode == 2:
        raise RuntimeError("called a synchronizing CUDA operation")
    if machine.mode == 1:
        text = "called a synchronizing CUDA operation (Triggered internally at CUDAFunctions.cpp:150.)"
        warnings.warn(text, UserWarning)
    machine.num_waits += 1
"""


class Machine:
    """What torch says and does on a machine with CUDA, as far as it concerns its debug mode."""

    def __init__(self, mode=0):
        self.mode, self.num_waits, self.was_set = mode, 0, False
        scope = {}
        exec(compile(TORCHS_OWN, str(Path(torch.__file__).with_name("of_torch.py")), "exec"), scope)
        self._item = scope["item"]

    def set(self, mode):
        if not self.was_set:
            text = "Synchronization debug mode is a prototype feature and does not yet detect all operations"
            warnings.warn(text, UserWarning, stacklevel=2)
        self.was_set = True
        self.mode = {"default": 0, "warn": 1, "error": 2}.get(mode, mode)

    def item(self):
        """Wait for the device, as ``tensor.item()`` does."""
        return self._item(self)


Machine.item.__code__ = Machine.item.__code__.replace(
    co_filename=str(Path(torch.__file__).with_name("of_torch.py"))
)


@pytest.fixture
def machine(monkeypatch):
    found = Machine()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: found.mode)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", found.set)
    return found


class OnCuda(TrainerBase):
    """A trainer whose device is said to be a GPU; its step does what it is told."""

    device = torch.device("cuda")

    def __init__(self, *hooks, sync_check="error", step=lambda: None):
        super().__init__()
        self.sync_check, self.step = sync_check, step
        self.register_hooks(hooks)

    def run_step(self):
        self.after_backward()
        self.step()


def line_of(function, text="machine.item()"):
    """Return file and line where ``function`` has ``text``, as a message has them."""
    lines, first = inspect.getsourcelines(function)
    (offset,) = [i for i, line in enumerate(lines) if text in line]
    return f"{HERE}:{first + offset}, in "


def waits_in(hook, machine):
    """Return a plugin whose ``hook`` waits, and where."""

    def wait(self):
        machine.item()

    wait.__name__ = hook
    return type("Waiting", (HookBase,), {hook: wait})(), line_of(wait)


@pytest.mark.parametrize("hook", ["before_step", "after_backward", "after_step"])
def test_error_names_plugin_source_hook_iteration_and_line(machine, hook):
    plugin, place = waits_in(hook, machine)
    trainer = OnCuda()
    trainer.register_hook(plugin, "mine", source="waiting-package 1.0")
    with pytest.raises(RunError) as raised:
        trainer.train(3, 9)
    said = str(raised.value)
    assert (
        f"got a wait in {hook} of plugin 'mine' (waiting-package 1.0), iteration 4. It is at {place}" in said
    )
    assert said.count(": machine.item()") == 1
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert notes(raised.value)[0].startswith("Raised by plugin 'mine'")
    assert (trainer.status, trainer.iter) == ("failed", 4)


@pytest.mark.parametrize("half", ["before", "after"])
def test_both_halves_of_a_wrapper_are_checked(machine, half):
    class Wrapper(HookBase):
        @hookimpl(wrapper=True)
        def after_step(self):
            if half == "before":
                machine.item()
            yield
            machine.item()

    with pytest.raises(RunError, match="after_step of plugin 'Wrapper'"):
        OnCuda(Wrapper()).train(0, 3)
    assert machine.num_waits == (2 if half == "before" else 1)  # those of the first iteration


def test_the_line_is_that_of_the_users_function_not_of_the_hook_that_calls_it(machine):
    def mine(trainer):
        machine.item()

    with pytest.raises(RunError) as raised:
        OnCuda(Callback(after_step=mine)).train(0, 3)
    assert line_of(mine) + "mine: machine.item()" in str(raised.value)


class Waiting(nn.Module):
    def __init__(self, machine):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.machine = machine

    def forward(self, batch):
        self.machine.item()
        return self.layer(batch).mean()


def stepping(model):
    """Return a step of the kernel with ``model``."""
    kernel = StepKernel(model, torch.optim.SGD(model.parameters(), lr=0.1))
    return partial(kernel.step, [torch.ones(1, 1)])


def test_in_the_step_the_line_is_the_models_own(machine):
    with pytest.raises(RunError) as raised:
        OnCuda(step=stepping(Waiting(machine))).train(0, 3)
    place = line_of(Waiting.forward, "machine.item()")
    assert f"got a wait in run_step, iteration 1. It is at {place}forward: self.machine.item()" in str(
        raised.value
    )


NESTED = """
def outer(self):
    inner(self.machine)

def inner(machine):
    machine.item()
"""


def nested(machine, file):
    """Return a plugin that waits in a function that its hook calls, both in ``file``."""
    scope = {}
    exec(compile(NESTED, str(file), "exec"), scope)
    scope["outer"].__name__ = "after_step"
    return type("Nested", (HookBase,), {"after_step": scope["outer"], "machine": machine})()


INSTALLED = Path(sysconfig.get_path("stdlib"))
OWN = Path(hookline.__path__[0])


@pytest.mark.parametrize(
    "file", [OWN / "hooks" / "own.py", INSTALLED / "site-packages" / "theirs" / "hook.py", "<string>"]
)
def test_the_innermost_line_of_a_plugin_is_told_be_it_hooklines_own_or_installed(machine, file, caplog):
    with pytest.raises(RunError, match=f"{re.escape(str(file))}:6, in inner"):
        OnCuda(nested(machine, file)).train(0, 3)
    caplog.clear()
    OnCuda(nested(machine, file), sync_check="warn").train(0, 3)
    (record,) = caplog.records
    assert f"{file}:6, in inner" in record.message


def test_warn_tells_of_each_place_once_and_goes_on(machine, caplog):
    class Two(HookBase):
        def before_step(self):
            machine.item()

        def after_step(self):
            machine.item()

    model = Waiting(machine)
    trainer = OnCuda(Two(), sync_check="warn", step=stepping(model))
    trainer.train(0, 6)
    assert trainer.status == "finished"
    assert machine.num_waits == 18
    told = [record.message for record in caplog.records if "train.sync_check" in record.message]
    assert [line_of(Two.before_step) in told[0], line_of(Two.after_step) in told[2]] == [True, True]
    assert line_of(Waiting.forward) + "forward: self.machine.item()" in told[1]
    assert len(told) == 3


def test_a_hook_within_the_step_is_told_from_the_step(machine, caplog):
    plugin, place = waits_in("after_backward", machine)
    OnCuda(plugin, sync_check="warn", step=lambda: machine.item()).train(0, 3)
    hook, step = [record.message for record in caplog.records]
    assert "after_backward of plugin" in hook
    assert place in hook
    assert "got a wait in run_step, iteration 1." in step


def test_off_touches_nothing(monkeypatch, machine):
    def refuse(*mode):
        raise AssertionError

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", refuse)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", refuse)
    trainer = OnCuda(waits_in("after_step", machine)[0], sync_check="off")
    shown = warnings.showwarning
    trainer.step = lambda: shown is warnings.showwarning or refuse()
    trainer.train(0, 3)
    assert machine.num_waits == 3


@pytest.mark.parametrize("mode", ["warn", "error"])
@pytest.mark.parametrize("former", [0, 1, 2])
@pytest.mark.parametrize("error", [None, ValueError, RuntimeError, KeyboardInterrupt])
def test_the_former_mode_is_back_after_every_call(machine, mode, former, error):
    modes = []

    class Noting(HookBase):
        def before_step(self):
            modes.append(machine.mode)

        def after_train(self):
            modes.append(machine.mode)

    def fail():
        if error is not None and len(modes) > 1:
            raise error("on purpose")

    machine.was_set, machine.mode = True, former
    shown = warnings.showwarning
    trainer = OnCuda(Noting(), sync_check=mode, step=fail)
    if error is None:
        trainer.train(0, 2)
    else:
        with pytest.raises(error, match="on purpose"):
            trainer.train(0, 2)
    assert modes == [former, {"warn": 1, "error": 2}[mode], former]
    assert machine.mode == former
    assert warnings.showwarning is shown


def test_what_is_not_in_an_iteration_may_wait(machine, caplog):
    class Elsewhere(HookBase):
        def before_train(self):
            machine.item()

        def after_evaluate(self):
            machine.item()

        def after_train(self):
            machine.item()

    trainer = OnCuda(Elsewhere(), sync_check="error")
    trainer.evaluations["e"] = lambda: machine.item() or {}
    trainer.train(0, 3)
    assert machine.num_waits == 4


def test_the_first_iteration_may_wait_for_what_is_done_once(machine):
    trainer = OnCuda()
    trainer.step = lambda: machine.item() if trainer.iter == trainer.start_iter else None
    trainer.train(0, 3)
    assert machine.num_waits == 1


def test_a_plugin_that_may_be_switched_off_is(machine):
    plugin, _ = waits_in("after_step", machine)
    trainer = OnCuda()
    trainer.register_hook(plugin, "mine", on_error="disable")
    trainer.train(0, 4)
    assert trainer.status == "finished"
    assert "got a wait in after_step" in trainer.hooks.switched_off["mine"]


def test_other_warnings_go_where_they_went_before_and_as_often(machine):
    class Warning_(HookBase):
        def after_step(self):
            warnings.warn("mine", UserWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        OnCuda(Warning_(), sync_check="warn").train(0, 5)
    assert [str(warning.message) for warning in caught] == ["mine"]


def test_who_asked_for_warnings_themselves_gets_them_as_before(machine):
    machine.was_set, machine.mode = True, 1
    trainer = OnCuda(sync_check="warn")
    trainer.step = lambda: machine.item() if trainer.iter == trainer.start_iter else None
    with pytest.warns(UserWarning, match="called a synchronizing CUDA operation"):
        trainer.train(0, 3)


def test_a_wait_on_another_thread_is_the_threads(machine, caplog):
    def wait():
        machine.item()

    def work():
        thread = threading.Thread(target=wait, name="helper")
        thread.start()
        thread.join()

    OnCuda(sync_check="warn", step=work).train(0, 3)
    (record,) = caplog.records
    assert "got a wait in thread 'helper', iteration 1. It is at " + line_of(wait) in record.message


def test_without_cuda_one_line_says_that_there_is_nothing_to_check(make_trainer, caplog):
    plugin = Callback(after_step=lambda trainer: trainer.optimizer.param_groups[0]["lr"])
    trainer = make_trainer(plugin, sync_check="error")
    trainer.train(0, 3)
    (record,) = caplog.records
    assert record.message == "train.sync_check: there is nothing to check, since no CUDA device is used."


def test_a_trainer_without_a_device_is_checked_where_there_is_cuda(machine, monkeypatch, caplog):
    monkeypatch.delattr(OnCuda, "device")
    plugin, _ = waits_in("after_step", machine)
    with pytest.raises(RunError, match="got a wait in after_step"):
        OnCuda(plugin).train(0, 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    OnCuda(waits_in("after_step", machine)[0]).train(0, 3)
    assert "nothing to check" in caplog.text


def test_a_second_run_is_told_anew(machine, caplog):
    plugin, _ = waits_in("after_step", machine)
    trainer = OnCuda(plugin, sync_check="warn")
    trainer.train(0, 3)
    trainer.train(3, 6)
    assert len(caplog.records) == 2
    trainer.sync_check = "off"
    trainer.train(6, 9)
    assert len(caplog.records) == 2


def test_a_mode_that_there_is_not_is_refused():
    with pytest.raises(RunError, match="sync_check: expected one of off, warn, error, got 'eror'"):
        OnCuda(sync_check="eror").train(0, 1)


# ---- the config


def config(**train):
    return {
        "run": {"name": "line"},
        "model": {"target": "torch.nn:Linear", "in_features": 1, "out_features": 1},
        "data": {"train": {"target": "builtins:list"}},
        "optimizer": {"target": "torch.optim.SGD"},
        "train": {"max_iter": 1, **train},
    }


@pytest.mark.parametrize(
    ("override", "mode"),
    [("off", "off"), ("false", "off"), ("'off'", "off"), ("warn", "warn"), ("error", "error")],
)
def test_a_config_says_it_also_with_a_bare_off(override, mode):
    assert load_config(config(), [f"train.sync_check={override}"]).train.sync_check == mode


@pytest.mark.parametrize("value", ["on", "1", "eror", "null", "[off]"])
def test_another_value_in_a_config_is_refused(value):
    with pytest.raises(ConfigError, match=r"train\.sync_check.*: expected one of off, warn, error, got"):
        load_config(config(), [f"train.sync_check={value}"])
