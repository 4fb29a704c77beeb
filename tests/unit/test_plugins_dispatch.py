"""``manager.call(hook, …)`` and pluggy's own ``manager.hook.<hook>(…)``: one meaning, whatever the plugins are."""

from __future__ import annotations

import gc
import random
import weakref
from contextlib import contextmanager, nullcontext, suppress
from types import ModuleType, SimpleNamespace

import pytest

from hookline import HookBase, PluginError, hookimpl
from hookline.errors import notes
from hookline.plugins import HookManager
from hookline.plugins.lint import HOOK_NAMES, hook_arguments

TRAINER = SimpleNamespace(iter=7)


class Stop(BaseException):
    """What is no Exception, as a KeyboardInterrupt is not."""


# ---- plugins drawn at random, as text, so that two managers can have the same ones

_ACTS = {
    "log": "pass",
    "answer": "return LABEL",
    "raise": "raise ValueError(LABEL)",
    "stop": "raise Stop(LABEL)",
    "end": "raise StopIteration(LABEL)",
    "unregister": "leave('p2')",
    "register": "join()",
}
_WRAPPER_ACTS = {
    "pass": "return (yield)",
    "see": "LOG.append((LABEL, 'got', (yield)))",
    "answer": "yield; return [LABEL]",
    "raise before": "raise ValueError(LABEL); yield",
    "raise after": "yield; raise ValueError(LABEL)",
    "swallow": "try:\n        yield\n    except BaseException as e: LOG.append((LABEL, 'swallowed', type(e)))",
    "replace": "try:\n        yield\n    except BaseException as e: raise LookupError(LABEL) from e",
    "finally": "try:\n        return (yield)\n    finally: LOG.append((LABEL, 'finally'))",
    "unregister": "leave('p1'); return (yield)",
    "no yield": "return\n    yield",
}
_MARKS = [{}, {}, {}, {"tryfirst": True}, {"trylast": True}]
_STYLES = ["hookbase", "object", "static", "class", "module"]
SEEDS = range(150)  # As many as bring each kind below together with most others.


def drawn(seed):
    """Return the hook, and for each of some plugins its style, marks, arguments, act and declared order."""
    draw = random.Random(seed)
    hook = draw.choice(HOOK_NAMES)
    plugins = []
    for number in range(draw.randrange(7)):
        wrapper = draw.random() < 0.25
        marks = {**draw.choice(_MARKS), **({"wrapper": True} if wrapper else {})}
        offered = list(hook_arguments(hook))
        arguments = draw.sample(offered, draw.randint(0, len(offered)))
        num_defaults = draw.randint(0, len(arguments)) if draw.random() < 0.3 else 0
        acts = _WRAPPER_ACTS if wrapper else _ACTS
        act = draw.choice(list(acts)) if wrapper or draw.random() < 0.4 else "log"
        before = tuple(f"p{other}" for other in range(number) if draw.random() < 0.1)
        plugins.append(
            (f"p{number}", draw.choice(_STYLES), marks, arguments, num_defaults, acts[act], before)
        )
    return hook, plugins


def build(hook, drawn_plugins):
    """Return a manager with the plugins, and the list that their calls are logged in."""
    log, manager = [], HookManager()

    def join():
        if not manager.has_plugin("late"):
            manager.add(make("late", "object", {}, [], 0, "pass", ()), "late")

    def leave(name):
        if manager.has_plugin(name):
            manager.unregister(name=name)

    def make(label, style, marks, arguments, num_defaults, act, before):
        defaults = ["=None" if len(arguments) - i <= num_defaults else "" for i in range(len(arguments))]
        first = {"static": [], "module": [], "class": ["cls"]}.get(style, ["self"])
        parameters = [*first, *(name + default for name, default in zip(arguments, defaults, strict=True))]
        text = f"def {hook}({', '.join(parameters)}):\n"
        text += f"    LOG.append((LABEL, {', '.join(arguments)}))\n    {act}\n"
        scope = {"LOG": log, "LABEL": label, "Stop": Stop, "join": join, "leave": leave, "__name__": label}
        exec(text, scope)
        function = hookimpl(**marks)(scope[hook])
        if style == "module":
            module = ModuleType(label)
            function.__module__ = label
            vars(module).update({hook: function, "before": before})
            return module
        held = {"static": staticmethod, "class": classmethod}.get(style, lambda same: same)(function)
        return type(label, (HookBase,) if style == "hookbase" else (), {hook: held, "before": before})()

    for label, *plugin in drawn_plugins:
        manager.add(make(label, *plugin), label)
    return manager, log


def monitored(manager, log, number):
    """Log what pluggy's own monitoring tells of a call, as that of monitor ``number``."""

    def before(hook, impls, arguments):
        log.append((number, "before", hook, [impl.plugin_name for impl in impls], dict(arguments)))

    def after(outcome, hook, impls, arguments):
        found = told(outcome.exception) if outcome.exception else outcome.get_result()
        log.append((number, "after", hook, [impl.plugin_name for impl in impls], dict(arguments), found))

    manager.add_hookcall_monitoring(before, after)


def told(error):
    """Return what ``error`` says; not of a wrapper without a yield, which pluggy says in its own words."""
    return type(error), "" if isinstance(error, RuntimeError) else str(error)


def outcome(call, log, arguments):
    """Return what two calls logged and raised; the second shows what the first one left behind."""
    raised = []
    for _ in range(2):
        try:
            call(**arguments)
        except BaseException as error:
            raised.append(error)
    return log, raised


@pytest.mark.parametrize("seed", SEEDS)
def test_call_equals_pluggys_own_call_of_any_plugins(seed):
    hook, plugins = drawn(seed)
    (ours, log), (theirs, expected) = build(hook, plugins), build(hook, plugins)
    draw = random.Random(seed)
    weight = draw.choice([0, 0, 16])
    if draw.random() < 0.3:
        ours.watch(lambda call: nullcontext())
    for number in range(draw.choice([0, 0, 1, 2])):
        monitored(ours, log, number)
        monitored(theirs, expected, number)
    arguments = {name: object() for name in hook_arguments(hook)}
    arguments["trainer"] = TRAINER

    def call(**offered):
        ours.call(hook, weight=weight, **offered)

    log, raised = outcome(call, log, arguments)
    expected, raised_by_pluggy = outcome(getattr(theirs.hook, hook), expected, arguments)
    assert log == expected
    assert [told(error) for error in raised] == [told(error) for error in raised_by_pluggy]
    assert ours.names() == theirs.names()


@pytest.mark.parametrize("seed", SEEDS)
def test_who_raised_is_named_whatever_the_plugins_are(seed):
    hook, plugins = drawn(seed)
    manager, log = build(hook, plugins)
    arguments = {name: object() for name in hook_arguments(hook)}
    raised = outcome(lambda **offered: manager.call(hook, **offered), log, arguments)[1]
    for error in raised:
        if not isinstance(error, RuntimeError):  # Python's and pluggy's own have no label
            assert f"Raised by plugin '{error.args[0]}'" in notes(error)[0]
        assert len(notes(error)) == 1


def test_the_random_plugins_are_of_every_kind():
    kinds = set()
    for seed in SEEDS:
        for _, style, marks, arguments, num_defaults, act, before in drawn(seed)[1]:
            kinds |= {style, act, *marks, f"{min(len(arguments), 2)} arguments"}
            kinds |= {name for name, is_so in {"default": num_defaults, "before": before}.items() if is_so}
    acts = {*_ACTS.values(), *_WRAPPER_ACTS.values()}
    assert kinds >= {*acts, *_STYLES, "tryfirst", "trylast", "wrapper", "default", "before", "2 arguments"}


# ---- what a reader wants to see by itself


def recorder(name, log, **marks):
    class Recorder(HookBase):
        @hookimpl(**marks)
        def after_step(self):
            log.append(name)

    return Recorder()


def failing(error=ValueError):
    class Failing(HookBase):
        def after_step(self):
            raise error

    return Failing()


@pytest.mark.parametrize("weight", [0, 1])
@pytest.mark.parametrize("is_watched", [False, True])
def test_after_a_plugin_that_is_switched_off_exactly_the_rest_is_called(weight, is_watched):
    log, manager = [], HookManager()
    if is_watched:
        manager.watch(lambda call: nullcontext())
    for name in "ab":
        manager.add(recorder(name, log), name)
    manager.add(failing(), "off", on_error="disable")
    manager.add(recorder("c", log), "c")
    manager.add(failing(), "again", on_error="retry")
    manager.add(recorder("d", log), "d")
    for _ in range(2):
        manager.call("after_step", weight=weight, trainer=TRAINER)
    assert log == [*"abcd"] * 2
    assert list(manager.switched_off) == ["off"]


def test_a_run_within_a_hook_fails_as_that_hook():
    log, inner, outer = [], HookManager(), HookManager()

    class Nested(HookBase):
        def after_step(self):
            inner.call("after_step", trainer=TRAINER)

    for name in "abc":
        inner.add(recorder(name, log), name)
    inner.add(failing(), "inner")
    outer.add(Nested(), "nested", on_error="disable")
    outer.add(recorder("last", log), "last")
    outer.call("after_step", trainer=TRAINER)
    assert log == [*"abc", "last"]
    assert "Raised by plugin 'inner'" in outer.switched_off["nested"]


def test_an_exception_that_is_kept_and_raised_again_is_of_who_raises_it():
    kept, manager = ValueError(), HookManager()
    manager.add(recorder("a", []), "a")
    manager.add(failing(kept), "off", on_error="retry")
    manager.add(recorder("b", []), "b")
    for _ in range(3):
        manager.call("after_step", trainer=TRAINER)
    assert list(manager.switched_off) == ["off"]


@pytest.mark.parametrize("weight", [0, 1])
def test_an_argument_that_the_caller_forgets_is_no_plugins_fault(weight):
    log, manager = [], HookManager()
    manager.add(recorder("a", log), "a", on_error="disable")
    with pytest.raises(TypeError, match="trainer") as raised:
        manager.call("after_step", weight=weight)
    assert not notes(raised.value)
    assert not manager.switched_off


def test_what_is_no_exception_is_not_forgiven():
    manager = HookManager()
    manager.add(failing(KeyboardInterrupt), "key", on_error="disable")
    with pytest.raises(KeyboardInterrupt) as raised:
        manager.call("after_step", trainer=TRAINER)
    assert "'key'" in notes(raised.value)[0]
    assert not manager.switched_off


def test_each_plugin_is_measured_by_itself_also_one_that_is_forgiven(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("hookline.plugins.dispatch.perf_counter", lambda: now[0])

    class SlowToFail(HookBase):
        def after_step(self):
            now[0] += 3.0
            raise TimeoutError

    class Slow(HookBase):
        def after_step(self):
            now[0] += 1.0

    manager = HookManager()
    manager.add(Slow(), "before")
    manager.add(SlowToFail(), "failing", on_error="retry")
    manager.add(Slow(), "after")
    manager.call("after_step", weight=16, trainer=TRAINER)
    assert {name: acts["after_step"] for name, acts in manager.seconds.items()} == {
        "before": 16.0,
        "failing": 48.0,
        "after": 16.0,
    }
    assert manager.sample["failing", "after_step"] == 3.0


def test_a_plugin_registered_or_unregistered_by_pluggys_words_is_called_accordingly():
    log, manager = [], HookManager()
    plugin = recorder("a", log)
    assert manager.register(plugin, "a") == "a"
    manager.call("after_step", trainer=TRAINER)
    assert manager.unregister(plugin) is plugin
    manager.call("after_step", trainer=TRAINER)
    assert log == ["a"]
    assert manager.implements("after_step") == []


def test_register_refuses_what_add_does():
    class Misspelt(HookBase):
        def after_stp(self):
            """Refused."""

    with pytest.raises(PluginError, match="after_stp"):
        HookManager().register(Misspelt())


def test_a_plugin_whose_place_is_contradictory_leaves_no_trace():
    log, manager = [], HookManager()
    first, second = recorder("a", log), recorder("b", log)
    first.before, second.before = ("b",), ("a",)
    manager.add(first, "a")
    with pytest.raises(PluginError, match="cycle"):
        manager.add(second, "b")
    manager.call("after_step", trainer=TRAINER)
    assert (log, manager.names()) == (["a"], ["a"])


def test_monitoring_ends_where_it_is_undone():
    log, manager = [], HookManager()
    manager.add(recorder("a", []), "a")
    undo = manager.add_hookcall_monitoring(lambda *told: log.append("before"), lambda *told: None)
    manager.call("after_step", trainer=TRAINER)
    manager.call("before_step", trainer=TRAINER)  # nobody implements it; pluggy tells of it all the same
    undo()
    manager.call("after_step", trainer=TRAINER)
    assert log == ["before", "before"]


@pytest.mark.parametrize("way", ["call", "call_each", "pluggy"])
def test_pluggys_tracing_tells_of_every_call(way):
    told, manager = [], HookManager()
    manager.add(recorder("a", []), "a")
    manager.trace.root.setwriter(told.append)
    undo = manager.enable_tracing()
    if way == "pluggy":
        manager.hook.after_step(trainer=TRAINER)
    else:
        getattr(manager, way)("after_step", trainer=TRAINER)
    undo()
    manager.call("after_step", trainer=TRAINER)
    assert told == [
        f"  after_step [hook]\n      trainer: {TRAINER}\n",
        "  finish after_step --> [] [hook]\n",
    ]


def test_who_watches_sees_every_call_until_it_stops():
    log, manager = [], HookManager()

    @contextmanager
    def around(call):
        log.append(("in", call.plugin, dict(call.arguments)))
        yield
        log.append(("out", call.plugin))

    manager.add(recorder("a", log), "a")
    manager.watch(around)
    manager.call("after_step", trainer=TRAINER)
    manager.unwatch(around)
    manager.call("after_step", trainer=TRAINER)
    assert log == [("in", "a", {}), "a", ("out", "a"), "a"]


@pytest.mark.parametrize("yields", [0, 2])
def test_a_wrapper_that_does_not_yield_once_is_refused_at_its_call(yields):
    class Wrapper(HookBase):
        @hookimpl(wrapper=True)
        def after_step(self):
            for _ in range(yields):
                yield

    manager = HookManager()
    manager.add(Wrapper(), "wrapper")
    with pytest.raises(RuntimeError, match=f"expected one yield, got {'a second one' if yields else 'none'}"):
        manager.call("after_step", trainer=TRAINER)


def test_a_wrapper_is_finished_after_one_inside_it_that_yields_twice():
    """Pluggy itself leaves the outer ones hanging at their yield."""
    log, manager = [], HookManager()

    class Outer(HookBase):
        @hookimpl(wrapper=True)
        def after_step(self):
            try:
                yield
            finally:
                log.append("finished")

    class Twice(HookBase):
        @hookimpl(wrapper=True)
        def after_step(self):
            yield
            yield

    manager.add(Outer(), "outer")
    manager.add(Twice(), "twice")
    with pytest.raises(RuntimeError, match="second one") as raised:
        manager.call("after_step", trainer=TRAINER)
    assert log == ["finished"]
    assert "'twice'" in notes(raised.value)[0]


@pytest.mark.parametrize("is_watched", [False, True])
def test_an_exception_keeps_nothing_of_the_call_alive(is_watched):
    class Held:
        iter = 0

    manager, held = HookManager(), Held()
    manager.add(failing(), "failing")
    if is_watched:
        manager.watch(lambda call: nullcontext())
    reference = weakref.ref(held)
    gc.disable()
    try:
        with suppress(ValueError):
            manager.call("after_step", trainer=held)
        del held
        assert reference() is None
    finally:
        gc.enable()
