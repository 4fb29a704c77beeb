"""What pluggy would ignore in silence is refused at registration, each with its own message."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import types

import pytest

from hookline import EventWriter, HookBase, PluginError, hookimpl
from hookline.plugins import lint
from hookline.plugins.lint import faults, implemented


class AlmostAHook(HookBase):
    def after_setp(self):
        """Misspelt."""


class FromAnotherFramework(HookBase):
    def on_epoch_end(self):
        """No hook of hookline."""


class UnknownArgument(HookBase):
    def after_step(self, trainr):
        """Misspelt argument."""


class UnknownArgumentWithDefault(HookBase):
    def after_step(self, trainr=None):
        """Misspelt argument that pluggy would leave at its default."""


class KeywordOnly(HookBase):
    def after_step(self, *, trainer):
        """An argument that pluggy cannot pass."""


class Catchall(HookBase):
    def after_step(self, **kwargs):
        """Asks for nothing by name."""


class Asynchronous(HookBase):
    async def after_step(self):
        """Would never run."""


class Generator(HookBase):
    def after_step(self):
        yield


class Cached(HookBase):
    @functools.lru_cache  # noqa: B019
    def after_step(self):
        """Pluggy ignores it."""


class Partial(HookBase):
    after_step = functools.partial(print)


class Shadowed(HookBase):
    def __init__(self):
        self.on_error = "raise"

    def after_step(self):
        """A hook, beside an attribute that hides another."""


class Unmarked:
    def after_step(self):
        """Looks like a hook, is none."""


class MarkedUnknown:
    @hookimpl
    def after_stepp(self):
        """No such hook."""


class Nothing(HookBase):
    def helper(self):
        """Implements no hook."""


class Fine(HookBase):
    def after_step(self):
        """One hook."""


@dataclasses.dataclass
class Unhashable(HookBase):
    period: int = 1

    def after_step(self):
        """Two of these with equal options are equal."""


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (AlmostAHook(), ["p.after_setp", "Did you mean 'after_step'?"]),
        (FromAnotherFramework(), ["p.on_epoch_end", "would never be called", "after_evaluate"]),
        (UnknownArgument(), ["'trainr'", "Did you mean 'trainer'?"]),
        (UnknownArgumentWithDefault(), ["'trainr'", "Did you mean 'trainer'?"]),
        (KeywordOnly(), ["keyword-only argument 'trainer'", "Remove the '*'"]),
        (Catchall(), ["**kwargs", "Name the arguments"]),
        (Asynchronous(), ["async function", "never run"]),
        (Generator(), ["generator function", "wrapper=True"]),
        (Cached(), ["_lru_cache_wrapper", "Define it with def"]),
        (Partial(), ["partial", "Define it with def"]),
        (Shadowed(), ["p.on_error", "got a str"]),
        (Unmarked(), ["unmarked function", "Add @hookimpl"]),
        (MarkedUnknown(), ["'after_stepp'", "Did you mean 'after_step'?"]),
        (Nothing(), ["implements none", "after_step"]),
        (Fine, ["the class Fine", "Register Fine(…)"]),
        (Unhashable(), ["__eq__ without __hash__", "eq=False"]),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__) if not isinstance(value, list) else "",
)
def test_a_plugin_that_would_be_ignored_is_refused_with_its_mend(plugin, words):
    with pytest.raises(PluginError) as caught:
        lint(plugin, "p")
    for word in words:
        assert word in str(caught.value)


def test_private_helpers_and_own_methods_are_left_alone():
    class WithHelpers(HookBase):
        def after_step(self):
            """A hook."""

        def _after_something(self):
            """Private."""

        def evaluate(self):
            """Resembles before_evaluate, and is a word of its own."""

    lint(WithHelpers(), "p")


def test_marked_functions_of_an_object_and_of_a_module_are_accepted():
    class Plain:
        @hookimpl
        def after_step(self, trainer):
            """A hook."""

    module = types.ModuleType("my_hooks")
    exec("from hookline import hookimpl\n@hookimpl\ndef after_step(trainer): ...", module.__dict__)
    lint(Plain(), "p")
    lint(module, "p")


def test_a_property_is_not_run_by_looking_at_it():
    class Property(HookBase):
        @property
        def loss(self):
            raise AssertionError("was run")

        def after_step(self):
            """A hook."""

    lint(Property(), "p")


def test_self_may_have_any_name_and_static_methods_have_none():
    class Odd(HookBase):
        def after_step(this, trainer):
            """A hook."""

        @staticmethod
        def before_step(trainer):
            """A hook."""

        @classmethod
        def after_train(cls):
            """A hook."""

    lint(Odd(), "p")


class Several(HookBase):
    def after_setp(self):
        """Misspelt."""

    @staticmethod
    def before_train(trainr):
        """Misspelt argument."""

    def before_step():
        """Forgot self."""

    @classmethod
    def after_train(cls, trainer):
        """Fine."""


def line_of(text):
    """Return the number of the one line of this file that holds ``text``."""
    lines = pathlib.Path(__file__).read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if line.strip() == text]
    return number


@pytest.mark.parametrize("make", [lambda: Several, Several], ids=["class", "instance"])
def test_all_faults_are_found_on_a_class_as_on_an_instance_each_with_its_line(make):
    found = {fault.where: fault for fault in faults(make())}
    assert found.keys() == {"Several.after_setp", "Several.before_train", "Several.before_step"}
    assert {fault.file for fault in found.values()} == {__file__}
    assert found["Several.before_step"].line == line_of("def before_step():")
    assert "takes self" in str(found["Several.before_step"])


@pytest.mark.parametrize(
    ("plugin", "word"),
    [
        (Cached, "_lru_cache_wrapper"),
        (Partial, "partial"),
        (Nothing, "implements none"),
        (Unhashable, "__eq__"),
    ],
)
def test_a_fault_without_a_function_is_placed_at_the_class_or_what_it_wraps(plugin, word):
    (fault,) = faults(plugin, "p")
    assert word in str(fault)
    first = line_of(f"class {plugin.__name__}(HookBase):")
    assert (fault.file, fault.where.partition(".")[0]) == (__file__, "p")
    assert first - 1 <= fault.line <= first + 1


def test_a_class_without_faults_has_none_and_is_not_built():
    class Fine(HookBase):
        def __init__(self):
            raise AssertionError("was built")

        def after_step(self, trainer):
            """A hook."""

    assert faults(Fine) == []
    assert implemented(Fine) == ["after_step"]


def test_what_is_implemented_is_told_in_the_order_of_the_contract():
    class Plain:
        @hookimpl
        def after_train(self):
            """A hook."""

        @hookimpl(specname="before_train")
        def begin(self):
            """A hook."""

        def after_step(self):
            """Not marked."""

    assert implemented(Plain()) == implemented(Plain) == ["before_train", "after_train"]


def test_a_writer_among_the_hooks_is_told_where_it_belongs():
    (fault,) = faults(Writer)
    assert "'hookline.writers'" in fault.mend
    with pytest.raises(PluginError, match="a hook plugin, got a Writer"):
        lint(Writer(), "p")


class Writer(EventWriter):
    def write(self, events):
        """Takes them."""


class Abstract(EventWriter):
    pass


class WrongWriter(Writer):
    def open(self):
        """Takes no run."""

    async def close(self, status):
        """Would never run."""

    def write(self, events):
        yield events

    def state_dict(self, extra=None):
        """Can be called without."""


def test_a_writer_that_is_right_has_no_faults():
    assert faults(Writer, kind="writer") == faults(Writer(), kind="writer") == []


@pytest.mark.parametrize("make", [lambda: WrongWriter, WrongWriter], ids=["class", "instance"])
def test_the_faults_of_a_writer_are_found(make):
    found = {fault.where: str(fault) for fault in faults(make(), "w", kind="writer")}
    assert found.keys() == {"w.open", "w.close", "w.write"}
    assert "takes 1 argument beside self" in found["w.open"]
    assert "never run" in found["w.close"]
    assert "never run" in found["w.write"]


@pytest.mark.parametrize(
    ("plugin", "word"), [(Abstract, "one without write"), (Fine, "the class Fine"), (object(), "an object")]
)
def test_what_is_no_writer_is_told(plugin, word):
    (fault,) = faults(plugin, "w", kind="writer")
    assert word in str(fault)
