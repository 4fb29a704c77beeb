"""Hookspecs change over time, and plugins written for yesterday's go on working: what docs/authors/evolution.md says."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from hookline import HookBase, PluginError, SimpleTrainer, hookimpl
from hookline.errors import notes
from hookline.hookspecs import HookSpecs, hookspec
from hookline.plugins import HookManager
from hookline.plugins.lint import hook_arguments

TRAINER = SimpleNamespace(iter=7)


class Later:
    """Some specs of a later version."""

    @hookspec
    def after_step(self, trainer, seconds=0.5):
        """It has an argument that it did not have before."""

    @hookspec(warn_on_impl=DeprecationWarning("after_save goes away in 0.3: implement after_commit"))
    def after_save(self, trainer, path):
        """It goes away."""

    @hookspec(warn_on_impl_args={"name": DeprecationWarning("name goes away in 0.3: take evaluation")})
    def before_evaluate(self, trainer, name, evaluation=None):
        """An argument goes away, and another one takes its place."""


@pytest.fixture
def evolve(monkeypatch):
    """Return a function that gives a hook the spec that it has in ``Later``."""

    def give(hook):
        monkeypatch.setattr(HookSpecs, hook, vars(Later)[hook])
        hook_arguments.cache_clear()

    yield give
    hook_arguments.cache_clear()


@pytest.fixture
def seconds_added(evolve):
    evolve("after_step")


def plugin_with(after_step, **attributes):
    return type("Plugin", (HookBase,), {"after_step": after_step, **attributes})()


@pytest.mark.usefixtures("seconds_added")
@pytest.mark.parametrize("call", ["call", "pluggy"])
def test_an_implementation_without_the_new_argument_is_called_as_before(call):
    seen, manager = [], HookManager()
    manager.add(plugin_with(lambda self: seen.append("none")), "none")
    manager.add(plugin_with(lambda self, trainer: seen.append(trainer)), "trainer")
    if call == "call":
        manager.call("after_step", trainer=TRAINER, seconds=2.0)
    else:
        manager.hook.after_step(trainer=TRAINER, seconds=2.0)
    assert seen == ["none", TRAINER]


@pytest.mark.usefixtures("seconds_added")
def test_a_module_marked_with_hookimpl_is_called_as_before():
    seen, manager = [], HookManager()

    class Marked:
        @hookimpl
        def after_step(self, trainer):
            seen.append(trainer)

    manager.add(Marked(), "marked")
    manager.call("after_step", trainer=TRAINER, seconds=2.0)
    assert seen == [TRAINER]


@pytest.mark.usefixtures("seconds_added")
def test_a_wrapper_without_the_new_argument_is_called_as_before():
    seen, manager = [], HookManager()

    class Wrapper(HookBase):
        @hookimpl(wrapper=True)
        def after_step(self, trainer):
            seen.append("in")
            yield
            seen.append("out")

    manager.add(Wrapper(), "wrapper")
    manager.add(plugin_with(lambda self: seen.append("plugin")), "plugin")
    manager.call("after_step", trainer=TRAINER, seconds=2.0)
    assert seen == ["in", "plugin", "out"]


@pytest.mark.usefixtures("seconds_added")
@pytest.mark.parametrize("how", ["call", "call_each", "pluggy"])
def test_a_caller_that_does_not_know_the_new_argument_passes_its_default(how):
    seen, manager = [], HookManager()
    manager.add(plugin_with(lambda self, seconds: seen.append(seconds)), "plugin")
    if how == "pluggy":
        manager.hook.after_step(trainer=TRAINER)
    else:
        assert not getattr(manager, how)("after_step", trainer=TRAINER)
    assert seen == [0.5]


@pytest.mark.usefixtures("seconds_added")
@pytest.mark.parametrize("default", [False, True])
def test_a_new_implementation_is_given_what_the_caller_passes(default):
    seen, manager = [], HookManager()
    if default:
        manager.add(plugin_with(lambda self, seconds=9.0: seen.append(seconds)), "plugin")
    else:
        manager.add(plugin_with(lambda self, seconds: seen.append(seconds)), "plugin")
    manager.call("after_step", trainer=TRAINER, seconds=2.0)
    assert seen == [2.0]


@pytest.mark.usefixtures("seconds_added")
def test_a_default_is_passed_after_a_plugin_that_was_switched_off_too():
    seen, manager = [], HookManager()
    manager.add(plugin_with(lambda self: 1 / 0), "off", on_error="disable")
    manager.add(plugin_with(lambda self, seconds: seen.append(seconds)), "plugin")
    manager.call("after_step", trainer=TRAINER)
    assert seen == [0.5]


@pytest.mark.usefixtures("seconds_added")
def test_who_raised_is_named_where_a_default_was_passed():
    manager = HookManager()
    manager.add(plugin_with(lambda self, seconds: 1 / (seconds - 0.5)), "plugin")
    with pytest.raises(ZeroDivisionError) as raised:
        manager.call("after_step", trainer=TRAINER)
    assert "Raised by plugin 'plugin'" in notes(raised.value)[0]


def test_a_plugin_for_a_later_version_is_refused_with_the_argument_that_is_missing():
    manager = HookManager()
    with pytest.raises(PluginError, match=r"plugin\.after_step: expected .*'seconds', which no call passes"):
        manager.add(plugin_with(lambda self, trainer, seconds=0.0: None), "plugin")


def test_a_hook_that_did_not_exist_when_a_plugin_was_written_is_not_called_by_accident():
    """A method that begins like a hook is refused today, so tomorrow's hook cannot meet one."""
    plugin = plugin_with(lambda self: None, after_lunch=lambda self: None)
    with pytest.raises(PluginError, match="start its name with an underscore"):
        HookManager().add(plugin, "plugin")


# ---- deprecation


@pytest.fixture
def after_save_deprecated(evolve):
    evolve("after_save")


@pytest.fixture
def name_deprecated(evolve):
    evolve("before_evaluate")


@pytest.mark.usefixtures("after_save_deprecated")
def test_who_implements_a_deprecated_hook_is_warned_at_their_own_line():
    class Author(HookBase):
        def after_save(self, path):
            self.path = path

    with pytest.warns(DeprecationWarning, match="implement after_commit") as caught:
        HookManager().add(Author(), "author")
    (warning,) = caught
    assert Path(warning.filename) == Path(__file__)
    assert warning.lineno == Author.after_save.__code__.co_firstlineno


@pytest.mark.usefixtures("after_save_deprecated")
def test_a_deprecated_hook_is_still_called():
    seen, manager = [], HookManager()

    class Author(HookBase):
        def after_save(self, path):
            seen.append(path)

    with pytest.warns(DeprecationWarning, match="after_save goes away"):
        manager.add(Author(), "author")
    manager.call("after_save", trainer=TRAINER, path=Path("here"))
    assert seen == [Path("here")]


@pytest.mark.usefixtures("after_save_deprecated")
def test_who_marks_a_deprecated_hook_is_warned_too():
    class Author:
        @hookimpl
        def after_save(self, path):
            self.path = path

    with pytest.warns(DeprecationWarning, match="implement after_commit"):
        HookManager().add(Author(), "author")


@pytest.mark.usefixtures("after_save_deprecated", "name_deprecated")
def test_who_does_not_implement_what_is_deprecated_is_not_warned():
    class Neighbour(HookBase):
        def after_step(self):
            pass

        def before_evaluate(self, evaluation):
            pass

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HookManager().add(Neighbour(), "neighbour")


@pytest.mark.usefixtures("name_deprecated")
def test_who_takes_a_deprecated_argument_is_warned_at_their_own_line_and_still_given_it():
    seen, manager = [], HookManager()

    class Author(HookBase):
        def before_evaluate(self, name):
            seen.append(name)

    with pytest.warns(DeprecationWarning, match="take evaluation") as caught:
        manager.add(Author(), "author")
    assert caught[0].filename == __file__
    manager.call("before_evaluate", trainer=TRAINER, name="eval")
    assert seen == ["eval"]


@pytest.mark.usefixtures("after_save_deprecated")
def test_a_deprecation_that_is_an_error_in_the_authors_tests_names_hook_and_line():
    """``-W error`` turns the warning into what stops the test; it says what to do."""

    class Author(HookBase):
        def after_save(self, path):
            pass

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DeprecationWarning, match="implement after_commit"):
            HookManager().add(Author(), "author")


@pytest.mark.usefixtures("seconds_added")
def test_a_trainer_that_calls_the_hooks_of_before_trains_plugins_of_today():
    """Every call of the trainer itself is one that does not pass what was added."""
    import torch

    model = torch.nn.Linear(1, 1)
    model.forward = lambda batch: (model.weight * batch).sum()
    seen = []
    trainer = SimpleTrainer(model, [torch.ones(1)], torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks(
        [
            plugin_with(lambda self: seen.append("old")),
            plugin_with(lambda self, seconds: seen.append(seconds)),
        ]
    )
    trainer.train(0, 2)
    assert seen == ["old", 0.5] * 2
