"""What pluggy would ignore in silence is refused at registration, each with its own message."""

from __future__ import annotations

import dataclasses
import functools
import types

import pytest

from hookline import HookBase, PluginError, hookimpl
from hookline.plugins import lint


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
