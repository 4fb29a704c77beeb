"""Registration, order, calls, attribution and timing of plugins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hookline import HookBase, PluginError, hookimpl
from hookline.errors import notes
from hookline.hookspecs import HookSpecs
from hookline.plugins import HookManager, call_order
from hookline.plugins.lint import HOOK_NAMES, hook_arguments

TRAINER = SimpleNamespace(iter=7)


def recorder(name, log, **marks):
    class Recorder(HookBase):
        @hookimpl(**marks)
        def after_step(self):
            log.append(name)

    return Recorder()


def test_hooks_run_in_the_order_given():
    log, manager = [], HookManager()
    for name in "abc":
        manager.add(recorder(name, log), name)
    manager.call("after_step", trainer=TRAINER)
    assert log == ["a", "b", "c"]


def test_tryfirst_and_trylast_keep_the_given_order_among_themselves():
    log, manager = [], HookManager()
    for name, marks in {
        "last1": {"trylast": True},
        "a": {},
        "first1": {"tryfirst": True},
        "last2": {"trylast": True},
        "b": {},
        "first2": {"tryfirst": True},
    }.items():
        manager.add(recorder(name, log, **marks), name)
    manager.call("after_step", trainer=TRAINER)
    assert log == ["first1", "first2", "a", "b", "last1", "last2"]


def test_declared_before_and_after_refine_the_order():
    log, manager = [], HookManager()
    early = recorder("early", log)
    early.before = ("a",)
    late = recorder("late", log)
    late.after = ("b",)
    manager.add(late, "late")
    manager.add(recorder("a", log), "a")
    manager.add(recorder("b", log), "b")
    manager.add(early, "early")
    manager.call("after_step", trainer=TRAINER)
    assert log.index("early") < log.index("a")
    assert log.index("b") < log.index("late")


def test_names_that_are_absent_do_not_bind():
    assert call_order(["a", "b"], before={}, after={"a": ("missing",)}) == ["a", "b"]


def test_a_contradiction_names_the_cycle():
    with pytest.raises(
        PluginError, match="a must come before b must come before a|b must come before a must"
    ):
        call_order(["a", "b"], before={"a": ("b",), "b": ("a",)}, after={})


def test_wrappers_enclose_all_others_and_may_swallow():
    log, manager = [], HookManager()

    class Wrapper(HookBase):
        @hookimpl(wrapper=True)
        def after_step(self):
            log.append("in")
            try:
                yield
            except ZeroDivisionError:
                log.append("caught")

    class Failing(HookBase):
        def after_step(self):
            raise ZeroDivisionError

    manager.add(Failing(), "failing")
    manager.add(Wrapper(), "wrapper")
    manager.call("after_step", trainer=TRAINER)
    assert log == ["in", "caught"]


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_call_equals_pluggys_own_call_for_every_hook(hook):
    log, manager = [], HookManager()
    arguments = {name: object() for name in hook_arguments(hook)}

    def make(name, **marks):
        text = f"def {hook}(self, {', '.join(arguments)}): log.append((label, {', '.join(arguments)}))"
        scope = {"log": log, "label": name}
        exec(text, scope)
        return type(name, (HookBase,), {hook: hookimpl(**marks)(scope[hook])})()

    def wrapper():
        text = f"def {hook}(self):\n    log.append('in')\n    yield\n    log.append('out')"
        scope = {"log": log}
        exec(text, scope)
        return type("Wrapper", (HookBase,), {hook: hookimpl(wrapper=True)(scope[hook])})()

    for name, marks in {
        "l": {"trylast": True},
        "a": {},
        "f": {"tryfirst": True},
        "m": {"trylast": True},
    }.items():
        manager.add(make(name, **marks), name)
    manager.add(wrapper(), "w1")
    manager.add(wrapper(), "w2")
    manager.call(hook, **arguments)
    ours = log.copy()
    log.clear()
    getattr(manager.hook, hook)(**arguments)
    assert log == ours
    assert [entry[0] for entry in ours if isinstance(entry, tuple)] == ["f", "a", "l", "m"]


def test_every_spec_has_a_docstring_and_takes_the_trainer_first():
    for hook in HOOK_NAMES:
        assert getattr(HookSpecs, hook).__doc__
        assert hook_arguments(hook)[0] == "trainer"


def test_an_exception_keeps_its_type_and_names_plugin_source_hook_and_iteration():
    class Failing(HookBase):
        def after_step(self):
            raise KeyError("gone")

    manager = HookManager()
    manager.add(Failing(), "failing", source="hookline-failing 1.2")
    with pytest.raises(KeyError) as caught:
        manager.call("after_step", trainer=TRAINER)
    assert notes(caught.value) == [
        "Raised by plugin 'failing' (hookline-failing 1.2), hook after_step, iteration 7"
    ]


def test_a_wrapper_that_fails_is_the_one_named():
    class Wrapper(HookBase):
        @hookimpl(wrapper=True)
        def after_step(self):
            yield
            raise RuntimeError("mine")

    manager = HookManager()
    manager.add(recorder("innocent", []), "innocent")
    manager.add(Wrapper(), "guilty")
    with pytest.raises(RuntimeError) as caught:
        manager.call("after_step", trainer=TRAINER)
    assert "'guilty'" in notes(caught.value)[0]


def test_call_each_runs_all_and_returns_every_error():
    log, manager = [], HookManager()

    class Failing(HookBase):
        def after_step(self):
            raise ValueError

    manager.add(Failing(), "one")
    manager.add(recorder("between", log), "between")
    manager.add(Failing(), "two")
    errors = manager.call_each("after_step", trainer=TRAINER)
    assert log == ["between"]
    assert ["'one'" in notes(errors[0])[0], "'two'" in notes(errors[1])[0]] == [True, True]


def test_a_second_plugin_of_one_name_is_refused():
    manager = HookManager()
    manager.add(recorder("a", []), "same")
    with pytest.raises(PluginError, match="'same' a second time"):
        manager.add(recorder("b", []), "same")


def test_one_object_cannot_be_registered_twice():
    manager, plugin = HookManager(), recorder("a", [])
    manager.add(plugin, "one")
    with pytest.raises(PluginError, match="same one again as 'two'"):
        manager.add(plugin, "two")


def test_a_refused_plugin_leaves_no_trace():
    class Bad(HookBase):
        def after_step(self, wrong):
            """Refused."""

    manager = HookManager()
    with pytest.raises(PluginError):
        manager.add(Bad(), "bad")
    assert manager.names() == []
    assert manager.implements("after_step") == []


def test_time_is_measured_only_when_asked_and_weighted():
    manager = HookManager()
    manager.add(recorder("a", []), "a")
    manager.call("after_step", trainer=TRAINER)
    assert not manager.seconds
    manager.call("after_step", weight=1, trainer=TRAINER)
    once = manager.seconds["a"]["after_step"]
    assert once > 0
    manager.call("after_step", weight=10**6, trainer=TRAINER)
    assert manager.seconds["a"]["after_step"] > 1000 * once


def test_two_managers_share_nothing():
    one, two = HookManager(), HookManager()
    one.add(recorder("a", []), "a")
    assert two.names() == []
    assert two.implements("after_step") == []


def test_plugins_of_one_class_are_numbered_where_nobody_names_them():
    manager = HookManager()
    for _ in range(3):
        manager.add(recorder("a", []))
    assert manager.names() == ["Recorder", "Recorder-2", "Recorder-3"]


class Flaky(HookBase):
    def __init__(self, *bad):
        self.bad, self.num_calls = bad, 0

    def after_step(self):
        self.num_calls += 1
        if self.num_calls in self.bad:
            raise ValueError("flaky")


def test_a_plugin_that_may_be_switched_off_is_and_the_others_go_on(caplog):
    log, manager, flaky = [], HookManager(), Flaky(2)
    manager.add(flaky, "flaky", on_error="disable")
    manager.add(recorder("a", log), "a")
    for _ in range(4):
        manager.call("after_step", trainer=TRAINER)
    assert (flaky.num_calls, len(log)) == (2, 4)
    assert manager.names() == ["a"]
    assert "ValueError: flaky (Raised by plugin 'flaky'" in manager.switched_off["flaky"]
    assert caplog.text.count("switched off") == 1


class Lost(HookBase):
    def after_step(self):
        raise KeyError("no such key")


class FlakyWrapper(HookBase):
    def __init__(self, half):
        self.half, self.log = half, []

    @hookimpl(wrapper=True)
    def after_step(self):
        if self.half == "before":
            raise ValueError("flaky")
        try:
            yield
        except KeyError:
            if self.half == "after an error":
                raise ValueError("flaky") from None
            raise
        if self.half == "after":
            raise ValueError("flaky")


@pytest.mark.parametrize("half", ["before", "after"])
@pytest.mark.parametrize("way", ["call", "call_each"])
def test_a_wrapper_may_be_switched_off_too(half, way):
    log, manager = [], HookManager()
    manager.add(FlakyWrapper(half), "flaky", on_error="disable")
    manager.add(recorder("a", log), "a")
    for _ in range(2):
        assert not getattr(manager, way)("after_step", trainer=TRAINER)
    assert len(log) == 2
    assert manager.names() == ["a"]


def test_an_error_inside_a_wrapper_that_is_switched_off_goes_on():
    manager = HookManager()
    manager.add(FlakyWrapper("after an error"), "flaky", on_error="disable")
    manager.add(Lost(), "inner")
    with pytest.raises(KeyError, match="no such key"):
        manager.call("after_step", trainer=TRAINER)
    assert list(manager.switched_off) == ["flaky"]


def test_an_error_inside_a_wrapper_is_not_the_wrappers():
    manager = HookManager()
    manager.add(FlakyWrapper("neither"), "wrapper", on_error="disable")
    manager.add(Lost(), "inner")
    with pytest.raises(KeyError, match="no such key"):
        manager.call("after_step", trainer=TRAINER)
    assert not manager.switched_off


def test_a_plugin_that_is_retried_is_switched_off_at_its_third_failure():
    manager, flaky = HookManager(), Flaky(1, 3, 4)
    manager.add(flaky, "flaky", on_error="retry")
    for _ in range(6):
        manager.call("after_step", trainer=TRAINER)
    assert flaky.num_calls == 4
    assert "flaky" in manager.switched_off


def test_a_plugin_that_communicates_always_raises():
    flaky = Flaky(1)
    flaky.collective = True
    with pytest.raises(PluginError, match="flaky.on_error: expected 'raise', got 'disable'"):
        HookManager().add(flaky, "flaky", on_error="disable")


def reasons(manager, hook="after_step"):
    return {place.plugin: place.reason for place in manager.explain(hook)}


def test_every_place_is_explained_in_call_order():
    manager = HookManager()
    manager.add(recorder("last", [], trylast=True), "last", source="late-package 1.0")
    manager.add(recorder("a", []), "a")
    manager.add(recorder("b", []), "b")
    manager.add(recorder("first", [], tryfirst=True), "first")
    around = type("Around", (HookBase,), {"after_step": hookimpl(wrapper=True)(lambda self: (yield))})
    manager.add(around(), "around")
    manager.add(type("Other", (HookBase,), {"before_train": lambda self: None})(), "elsewhere")
    assert reasons(manager) == {
        "around": "wrapper: around all others; place 5 in the list",
        "first": "tryfirst; place 4 in the list",
        "a": "place 2 in the list",
        "b": "place 3 in the list",
        "last": "trylast; place 1 in the list",
    }
    assert [place.plugin for place in manager.explain("after_step")] == manager.implements("after_step")
    assert manager.explain("after_step")[-1].source == "late-package 1.0"
    assert manager.explain("before_step") == []


def test_a_place_by_declaration_names_who_declared_it():
    manager = HookManager()
    for name, traits in {
        "late": {"after": ("b",)},
        "a": {},
        "b": {"after": ("a", "absent")},
        "early": {"before": ("a", "late")},
    }.items():
        plugin = recorder(name, [])
        vars(plugin).update(traits)
        manager.add(plugin, name)
    assert list(reasons(manager).items()) == [
        ("early", "declares before=('late', 'a'); place 4 in the list"),
        ("a", "after 'early', which declares before=('a',); place 2 in the list"),
        ("b", "declares after=('a',); place 3 in the list"),
        (
            "late",
            "declares after=('b',); after 'early', which declares before=('late',); place 1 in the list",
        ),
    ]


def test_a_declaration_that_agrees_with_the_list_is_no_reason():
    manager = HookManager()
    manager.add(recorder("a", []), "a")
    second = recorder("b", [])
    second.after = ("a",)
    manager.add(second, "b")
    assert reasons(manager) == {"a": "place 1 in the list", "b": "place 2 in the list"}


def test_a_declaration_that_a_mark_outweighs_is_told():
    manager = HookManager()
    first = recorder("first", [], tryfirst=True)
    first.after = ("a",)
    manager.add(first, "first")
    manager.add(recorder("a", []), "a")
    assert reasons(manager)["first"].startswith("tryfirst; a mark outweighs its after=('a',); ")


def test_explain_knows_the_hooks():
    with pytest.raises(PluginError, match=r"got 'after_stepp'.*mean 'after_step'"):
        HookManager().explain("after_stepp")
