"""What pluggy would ignore in silence is refused at registration, each with its own message."""

from __future__ import annotations

import dataclasses
import enum
import functools
import pathlib
import types
from typing import Annotated

import pytest
from annotated_types import Ge

from hookline import EventWriter, HookBase, Period, PluginError, hookimpl, hooks
from hookline.plugins import HookManager, lint, lint_writer
from hookline.plugins.lint import HOOK_NAMES, faults, implemented, option_faults
from hookline.plugins.lint.elsewhere import COUNTERPARTS, FRAMEWORKS, counterpart
from hookline.plugins.lint.meant import meant


class AlmostAHook(HookBase):
    def after_setp(self):
        """Misspelt."""


class FromAnotherFramework(HookBase):
    def on_train_batch_end(self, trainer, pl_module, outputs):
        """What Lightning and Keras call it."""


class NamedLikeAHook(HookBase):
    def on_something(self):
        """No hook of hookline, nor of others."""


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


class Empty(HookBase):
    def helper(self):
        """Implements no hook."""


class UserHook(Empty):
    """Implements none, either."""


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
        (FromAnotherFramework(), ["p.on_train_batch_end", "never be called. That is after_step here. If"]),
        (NamedLikeAHook(), ["p.on_something", "would never be called", "after_evaluate"]),
        (UnknownArgument(), ["'trainr'", "Did you mean 'trainer'?"]),
        (UnknownArgumentWithDefault(), ["'trainr'", "Did you mean 'trainer'?"]),
        (KeywordOnly(), ["keyword-only argument 'trainer'", "Remove the '*'"]),
        (Catchall(), ["arguments out of trainer, got **kwargs. Name the arguments"]),
        (Asynchronous(), ["async function", "never run"]),
        (Generator(), ["generator function", "wrapper=True"]),
        (Cached(), ["_lru_cache_wrapper", "Define it with def"]),
        (Partial(), ["partial", "Define it with def"]),
        (Shadowed(), ["p.on_error", "got a str"]),
        (Unmarked(), ["unmarked function", "Add @hookimpl"]),
        (MarkedUnknown(), ["'after_stepp'", "Did you mean 'after_step'?"]),
        (Empty(), ["got an Empty that implements none", "after_step"]),
        (UserHook(), ["got a UserHook that"]),
        (Fine, ["p: expected a plugin instance, got the class Fine. Register Fine(…)."]),
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

        def _after_step(self):
            """Private, too, however near it is."""

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
        (Empty, "implements none"),
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

    def load_state_dict(self, state):
        """Takes it."""


def test_a_writer_that_is_right_has_no_faults():
    assert faults(Writer, kind="writer") == faults(Writer(), kind="writer") == []


@pytest.mark.parametrize("make", [lambda: WrongWriter, WrongWriter], ids=["class", "instance"])
def test_the_faults_of_a_writer_are_found(make):
    found = {fault.where: str(fault) for fault in faults(make(), "w", kind="writer")}
    assert found.keys() == {"w.open", "w.close", "w.write"}
    assert "takes 1 argument beside self" in found["w.open"]
    assert "never run" in found["w.close"]
    assert "never run" in found["w.write"]


class Journal(Writer):
    journal = True

    def read(self, run_dir):
        yield from run_dir.iterdir()


class WrongJournal(Writer):
    journal = True

    async def read(self, run_dir):
        yield run_dir


def test_a_journal_may_be_read_by_a_generator_that_runs_and_need_not_be_readable():
    assert faults(Journal, kind="writer") == []
    assert faults(type("Closed", (Writer,), {"journal": True}), kind="writer") == []
    (fault,) = faults(WrongJournal, "w", kind="writer")
    assert (fault.where, "never run" in str(fault)) == ("w.read", True)
    (fault,) = faults(writer_with("read", lambda self: None), "w", kind="writer")
    assert "takes 1 argument beside self" in str(fault)


@pytest.mark.parametrize(
    ("plugin", "word"), [(Abstract, "one without write"), (Fine, "the class Fine"), (object(), "an object")]
)
def test_what_is_no_writer_is_told(plugin, word):
    (fault,) = faults(plugin, "w", kind="writer")
    assert word in str(fault)


def test_a_class_instead_of_an_instance_is_called_by_its_own_name():
    with pytest.raises(PluginError, match=r"^Fine: expected a plugin instance, got the class Fine"):
        HookManager().add(Fine)
    with pytest.raises(PluginError, match=r"^writers.w: expected an EventWriter, got the class Writer"):
        lint_writer(Writer, "w", "mine")
    assert list(hooks.PeriodicWriter([Writer]).writers) == ["Writer"]


# ---- names and traits that nothing would look at


def writer_with(name, value=lambda self: None):
    return type("Some", (Writer,), {name: value})


def hook_with(name, value):
    return type("Some", (Fine,), {name: value})


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("opne", "Did you mean 'open'?"),
        ("clsoe", "Did you mean 'close'?"),
        ("wrte", "Did you mean 'write'?"),
        ("Close", "Did you mean 'close'?"),
        ("load_state_dcit", "Did you mean 'load_state_dict'?"),
        ("statedict", "Did you mean 'state_dict'?"),
        ("view_comand", "Did you mean 'view_command'?"),
        ("raed", "Did you mean 'read'?"),
        ("after_step", "Writers have no hooks"),
        ("after_setp", "Did you mean 'after_step'?"),
    ],
)
@pytest.mark.parametrize("make", [lambda cls: cls, lambda cls: cls()], ids=["class", "instance"])
def test_a_method_of_a_writer_that_nothing_would_call_is_refused(make, name, word):
    (fault,) = faults(make(writer_with(name)), "w", kind="writer")
    assert fault.where == f"w.{name}"
    assert word in str(fault)
    assert (fault.file, fault.line > 0) == (__file__, True)


def test_a_hook_that_is_marked_in_a_writer_is_refused():
    (fault,) = faults(writer_with("seen", hookimpl(specname="after_step")(lambda self: None)), kind="writer")
    assert "Writers have no hooks" in str(fault)


@pytest.mark.parametrize(
    "name",
    [
        "reopen",
        "rewrite",
        "writer",
        "closed",
        "clone",
        "white",
        "opened",
        "write_row",
        "flush",
        "states",
        "reader",
        "reads",
        "read_rows",
        "load",
        "to_state_dict",
        "save_state_dict",
        "load_state",
        "on_disk",
        "setup",
        "_opne",
        "_after_step",
    ],
)
def test_helper_methods_of_a_writer_pass(name):
    assert faults(writer_with(name), kind="writer") == []


@pytest.mark.parametrize("method", ["state_dict", "load_state_dict"])
@pytest.mark.parametrize(("base", "kind"), [(Writer, "writer"), (Fine, "hook")])
def test_one_of_the_two_methods_for_state_is_refused(base, kind, method):
    arguments = {"state_dict": lambda self: {}, "load_state_dict": lambda self, state: None}
    cls = type("Half", (base,), {method: arguments[method]})
    for plugin in (cls, cls()):
        (fault,) = faults(plugin, "p", kind=kind)
        assert str(fault) == (
            f"p: expected state_dict and load_state_dict, got {method} alone. Define both, or neither."
        )
    assert faults(type("Whole", (base,), arguments), kind=kind) == []


def test_a_misspelt_method_for_state_is_refused_in_a_hook():
    (fault,) = faults(hook_with("state_dcit", lambda self: {}))
    assert "Did you mean 'state_dict'?" in str(fault)
    assert faults(hook_with("to_state_dict", lambda self: {})) == []


@pytest.mark.parametrize(
    ("name", "value", "trait"),
    [
        ("obsrver", True, "observer"),
        ("befor", ("timer",), "before"),
        ("atfer", "timer", "after"),
        ("collektive", True, "collective"),
        ("graphsafe", True, "graph_safe"),
        ("state_verison", 2, "state_version"),
        ("Observer", True, "observer"),
    ],
)
def test_what_is_nearly_a_trait_is_refused(name, value, trait):
    cls = hook_with(name, value)
    for plugin in (cls, cls(), type("Derived", (cls,), {})):
        (fault,) = faults(plugin, "p")
        assert f"p.{name}: expected the name of a trait" in str(fault)
        assert f"Did you mean {trait!r}?" in str(fault)
    with pytest.raises(PluginError, match=trait):
        lint(cls(), "p")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("observe", ("loss",)),
        ("observed", False),
        ("collectives", ("all_reduce",)),
        ("state_versions", 3),
        ("_observr", True),
        ("version", 2),
        ("names", ("a",)),
        ("obsrver", lambda self: True),
        ("journl", True),
    ],
)
def test_other_attributes_pass(name, value):
    assert faults(hook_with(name, value)) == []


def test_a_trait_of_a_writer_is_looked_at_as_that_of_a_hook():
    for name, value in {"jornal": True, "journal": 1, "state_version": "2"}.items():
        (fault,) = faults(writer_with(name, value), "w", kind="writer")
        assert fault.where == f"w.{name}"
    assert faults(writer_with("obsrver", True), kind="writer") == []


@pytest.mark.parametrize(
    ("trait", "value", "rule"),
    [
        ("observer", "no", "True or False, got 'no'"),
        ("collective", 1, "True or False"),
        ("graph_safe", None, "True or False"),
        ("state_version", "2", "a whole number >= 1"),
        ("state_version", 0, "a whole number >= 1"),
        ("state_version", True, "a whole number >= 1"),
        ("before", 3, "a tuple of names"),
        ("after", ("timer", 3), "a tuple of names"),
        ("before", lambda self: (), "a tuple of names"),
    ],
)
def test_a_trait_of_a_wrong_type_is_refused_on_class_and_instance(trait, value, rule):
    made = Fine()
    setattr(made, trait, value)
    for plugin in (hook_with(trait, value), hook_with(trait, value)(), made):
        (fault,) = faults(plugin, "p")
        assert fault.where == f"p.{trait}"
        assert rule in str(fault)


def test_right_traits_and_computed_ones_pass():
    class Right(Fine):
        observer = graph_safe = True
        state_version = 2
        before, after = "timer", ["schedule"]

        @property
        def collective(self):
            raise AssertionError("was run")

    assert faults(Right) == faults(Right()) == []


def test_a_slip_is_near_and_another_word_is_not():
    assert meant("opne", ["open"]) == meant("opn", ["open"]) == meant("oppen", ["open"]) == "open"
    assert meant("open", ["open"]) == meant("reopen", ["open"]) == meant("pen", ["open"]) == ""


# ---- options


class Speed(enum.Enum):
    FAST = "fast"


def takes(
    first: int,
    use: str = "x",
    period: Period = "1 epoch",
    size: int = "ten",
    least: Annotated[int, Ge(1)] = 0,
    none: int = None,  # noqa: RUF013
    speed: Speed = Speed.FAST,
    needed: int = ...,
    lost: Nowhere = 3,  # noqa: F821
    lost_too=(),
    anything=3,
):
    """A factory of plugins."""


takes.__annotations__["lost_too"] = list["Nowhere"]  # noqa: F821  (as without `from __future__`)


def test_options_that_a_config_could_not_set_or_write_are_found():
    found = {fault.where.removeprefix("p."): str(fault) for fault in option_faults(takes, "p", "hook")}
    assert found.keys() == {"use", "size", "least", "needed", "lost", "lost_too"}
    assert "expected a name that a config leaves to hooks" in found["use"]
    assert "a default that its annotation allows (a whole number), got 'ten'" in found["size"]
    assert "(a whole number >= 1), got 0" in found["least"]
    assert "got Nowhere, which names what there is not" in found["lost"]
    writer = [fault.where for fault in option_faults(takes, "p", "writer")]
    assert writer[:2] == ["p.use", "p.period"]


def test_options_are_looked_at_on_a_class_and_not_on_what_is_built_already():
    class Optioned(Fine):
        def __init__(self, on_error: str = "raise"):
            self.kept = on_error

    (fault,) = faults(Optioned, "p")
    assert (fault.where, fault.file) == ("p.on_error", __file__)
    assert faults(Optioned()) == []
    lint(Optioned(), "p")


# ---- those who come from elsewhere


@pytest.mark.parametrize(
    ("method", "here"),
    [
        ("on_train_batch_end", "after_step"),
        ("on_train_start", "before_train"),
        ("on_fit_start", "before_train"),
        ("on_before_optimizer_step", "after_backward"),
        ("on_validation_epoch_end", "after_evaluate"),
        ("on_save_checkpoint", "state_dict"),
        ("on_step_end", "after_step"),
        ("on_log", "write of an EventWriter"),
        ("on_evaluate", "after_evaluate"),
        ("on_epoch_end", "after_step with a period of '1 epoch'"),
        ("after_train_iter", "after_step"),
        ("iteration_completed", "after_step"),
        ("on_exception_raised", "on_error"),
    ],
)
def test_a_callback_of_another_framework_is_told_its_name_here(method, here):
    (fault,) = faults(hook_with(method, lambda self, *args: None))
    assert f"That is {here} here." in str(fault)


def test_setup_and_teardown_are_callbacks_when_they_ask_for_a_trainer():
    def setup(self, trainer, pl_module, stage):
        """Of Lightning."""

    (fault,) = faults(hook_with("setup", setup))
    assert "That is before_train here" in str(fault)
    assert faults(hook_with("teardown", lambda self: None)) == []


def test_no_hook_of_ours_is_called_otherwise_here():
    assert not any(counterpart(name, None) for name in HOOK_NAMES)
    ours = {
        *HOOK_NAMES,
        *(name for name in vars(HookBase)),
        *vars(EventWriter),
        "state_dict",
        "load_state_dict",
    }
    assert {each.here for each in COUNTERPARTS} <= ours
    assert {name for each in COUNTERPARTS for name in each.names} == set(FRAMEWORKS)


def test_the_table_for_those_who_come_from_elsewhere_is_that_of_the_code():
    def cell(names, prefix):
        return ", ".join(f"`{prefix}{name}`" for name in names.split())

    rows = [
        f"| {' | '.join([f'`{each.here}` {each.note}'.strip(), *_cells(each, cell)])} |"
        for each in COUNTERPARTS
    ]
    page = (pathlib.Path(__file__).parents[2] / "docs" / "reference" / "hooks.md").read_text()
    assert (
        "\n".join([f"| here | {' | '.join(FRAMEWORKS)} |", f"|{'---|' * (len(FRAMEWORKS) + 1)}", *rows])
        in page
    )


def _cells(each, cell):
    return [cell(each.names.get(name, ""), "Events." * (name == "Ignite")) for name in FRAMEWORKS]
