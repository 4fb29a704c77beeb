"""A hook for each kind of fault: the one call finds it, and says how to mend it."""

import random
import sys
import time
import types
from functools import partial
from typing import Annotated, Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pydantic import Field
from torch import nn
from torch.distributed import all_reduce

from hookline import HookBase, Loader, Period, PluginError, SimpleTrainer, hookimpl
from hookline.config import is_due
from hookline.purity import fingerprint
from hookline.testing import MemoryWriter, assert_plugin_conforms, tiny_data, tiny_trainer
from hookline.testing.conformance.bench import Bench
from hookline.testing.conformance.hooks import never_waits
from hookline.testing.conformance.settings import kept_settings
from hookline.testing.conformance.subject import Subject

alone = partial(assert_plugin_conforms, ranks=False, max_iter=8)


def complaint(plugin, options=None, **arguments):
    """Return what is said of a plugin that does not conform."""
    with pytest.raises(AssertionError, match="does not conform") as raised:
        assert_plugin_conforms(plugin, options, **{"ranks": False, "max_iter": 8, **arguments})
    return str(raised.value)


# -- what conforms ----------------------------------------------------------------------------------


class Counting(HookBase):
    """Counts iterations and steps of evaluation, takes part in a reduction, and warms the rate up.

    Args:
        period: Put the count every so many iterations.
        factor: Of the rate.
        act: Called with the trainer.
    """

    collective = True

    def __init__(
        self, period: Period = 2, factor: Annotated[float, Field(gt=0)] = 1.0, act: Any = None
    ) -> None:
        self.period, self.factor, self.act = period, factor, act
        self.num_iters = self.num_evaluations = 0

    def before_train(self, trainer):
        if trainer.start_iter == 0:
            trainer.optimizer.param_groups[0]["lr"] = 0.01 * self.factor

    def after_step(self):
        self.num_iters += 1
        total = torch.tensor(float(self.num_iters))
        if dist.is_initialized():
            dist.all_reduce(total)
        self.trainer.optimizer.param_groups[0]["lr"] = min(0.05, 0.01 * total.item()) * self.factor
        if is_due(self.trainer.iter, self.period):
            self.trainer.storage.put_scalar(f"{self.name}/count", self.num_iters)

    def after_evaluate(self, name, metrics):
        self.num_evaluations += 1

    def on_error(self, error):
        self.num_iters = 0

    def after_load(self, path):
        assert path.exists()

    def state_dict(self):
        return {"num_iters": self.num_iters, "num_evaluations": self.num_evaluations}

    def load_state_dict(self, state):
        self.num_iters, self.num_evaluations = state["num_iters"], state["num_evaluations"]


class Marked:
    """No `HookBase`: an object with marked functions, one of them around the others."""

    @hookimpl(wrapper=True)
    def after_step(self, trainer):
        trainer.storage.put_scalar("before", 1)
        yield
        trainer.storage.put_scalar("after", 2)


def make_marked(scale: float = 1.0):
    """Make one.

    Args:
        scale: Of nothing.
    """
    return Marked()


@hookimpl
def after_step(trainer):
    trainer.storage.put_scalar("module", 1)


MODULE = types.ModuleType("marked_module")
MODULE.after_step = after_step


def test_a_hook_with_state_that_communicates_conforms():
    assert_plugin_conforms(Counting, {"period": "1 epoch", "factor": 2})


@pytest.mark.parametrize("plugin", [Marked, make_marked, MODULE, Marked()])
def test_a_class_a_function_a_module_and_an_object_conform(plugin):
    alone(plugin)


def test_a_plugin_that_refuses_to_be_enabled_twice_conforms():
    class Only(HookBase):
        def before_train(self):
            others = [plugin for plugin in self.trainer.hooks.get_plugins() if isinstance(plugin, Only)]
            if len(others) > 1:
                raise PluginError("there can be only one")

    alone(Only)


def test_a_run_that_the_plugin_ends_early_conforms():
    class Stopping(HookBase):
        observer = True

        def after_step(self):
            if self.trainer.iter == 4:
                self.trainer.request_stop("enough")

    alone(Stopping)


# -- code and options -------------------------------------------------------------------------------


class Misspelt(HookBase):
    def after_stp(self):
        pass

    def after_step(self, trianer):
        pass


def test_every_fault_of_the_code_is_told_with_its_place():
    said = complaint(Misspelt)
    assert "Did you mean 'after_step'" in said
    assert "'trianer', which no call passes. Did you mean 'trainer'" in said
    assert said.count(f"{__file__}:") == 2


def test_a_plugin_without_hooks_is_refused():
    assert "a plugin that implements at least one hook" in complaint(HookBase)


@pytest.mark.parametrize("plugin", ["timer", None])
def test_a_name_is_no_plugin(plugin):
    with pytest.raises(
        TypeError, match="expected a class, a function, a module or an object, got ('timer'|None)"
    ):
        assert_plugin_conforms(plugin)


def test_a_function_that_makes_no_plugin_is_told_so():
    assert "lint: lambda: expected a plugin that implements at least one hook" in complaint(lambda: None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"perod": 3}, "Did you mean 'period'"),
        ({"period": -1}, "Counting.period: expected a whole number >= 0"),
        ({"factor": 0}, "Counting.factor: expected a number > 0, got 0"),
        (
            {"act": torch.ones(1)},
            "expected plain data (a number, string, boolean, None, list or mapping), got tensor([1.])",
        ),
        ({"act": (1, 2)}, "Counting.act: expected (1, 2) also from a config file, got [1, 2]"),
    ],
)
def test_options_that_a_config_could_not_give_are_refused(options, words):
    assert words in complaint(Counting, options)


def test_a_period_that_would_never_end_is_refused():
    said = complaint(Counting, {"period": 100})
    assert "Counting.period: expected a period within the 8 iterations of a run, got 100" in said


@pytest.mark.parametrize("arguments", [{"read": len}, {"plugin": MemoryWriter, "trainer": Counting}])
def test_what_does_not_go_with_the_plugin_is_refused(arguments):
    with pytest.raises(TypeError, match="only. Leave it out"):
        assert_plugin_conforms(**{"plugin": Counting, **arguments})


def test_an_object_takes_no_options():
    assert "It takes no options" in complaint(Marked(), {"scale": 2})


def test_a_required_option_is_asked_for():
    class Needy(HookBase):
        def __init__(self, amount: int) -> None:
            pass

        def after_step(self):
            pass

    assert "Needy.amount: expected a whole number, got nothing" in complaint(Needy)
    alone(Needy, {"amount": 3})


def test_a_default_that_its_own_annotation_forbids_is_refused():
    class Odd(HookBase):
        def __init__(self, period: Annotated[int, Field(ge=1)] = 0) -> None:
            pass

        def after_step(self):
            pass

    assert (
        "Odd.period: expected a default that its annotation allows (a whole number >= 1), got 0"
        in complaint(Odd)
    )


def test_an_option_that_no_config_can_set_is_refused():
    class Reserved(HookBase):
        def __init__(self, on_error: str = "") -> None:
            pass

        def after_step(self):
            pass

    assert "Reserved.on_error: expected a name that a config leaves to hooks" in complaint(Reserved)


def test_a_plugin_that_cannot_be_built_is_refused():
    class Broken(HookBase):
        def __init__(self, x: int = 1) -> None:
            self.y = 1 / (x - 1)

    said = complaint(Broken)
    assert "Broken: expected a plugin that can be built with its options, got ZeroDivisionError" in said


# -- runs -------------------------------------------------------------------------------------------


def test_a_run_that_fails_is_told_with_hook_and_iteration():
    class Raising(HookBase):
        def after_step(self):
            if self.trainer.iter == 3:
                raise KeyError("no such thing")

    said = complaint(Raising)
    assert "run: Raising: expected a run of 8 iterations to end well, got KeyError: 'no such thing'" in said
    assert "hook after_step, iteration 3" in said


def test_random_numbers_without_a_seed_are_found():
    class Unseeded(HookBase):
        def after_step(self):
            self.trainer.model.layers[0].bias.data += random.SystemRandom().random() * 1e-3

    assert (
        "repeat: Unseeded: expected two equal runs to end with the same state, got other weights"
        in complaint(Unseeded)
    )


def test_a_time_that_is_not_volatile_is_found():
    class Clock(HookBase):
        def __init__(self, volatile: bool = False) -> None:
            self.volatile = volatile

        def after_step(self):
            self.trainer.storage.put_scalar("seconds", time.perf_counter(), volatile=self.volatile)

    assert "Put what differs from run to run with volatile=True" in complaint(Clock)
    alone(Clock, {"volatile": True})


class Putting(HookBase):
    """Puts an image, a histogram and a text; one of them not as the other two."""

    observer = True
    calls: list[int] = []

    def __init__(self, odd: str = "") -> None:
        self.odd, self.num_iters = odd, 0

    def after_step(self):
        self.num_iters += 1
        self.calls.append(1)
        numbers = {
            "": self.trainer.iter,
            "random": random.SystemRandom().getrandbits(31),
            "lost": self.num_iters,
            "class": len(self.calls),
        }
        values = {
            kind: numbers[self.odd.removeprefix(f"{kind} ") if self.odd.startswith(kind) else ""]
            for kind in ("image", "histogram", "text")
        }
        generator = np.random.default_rng(values["image"])
        storage = self.trainer.storage
        storage.put_image(f"{self.name}/image", generator.integers(0, 255, (3, 4, 4), np.uint8))
        storage.put_histogram(f"{self.name}/histogram", np.arange(values["histogram"] % 999 + 1.0))
        storage.put_text(f"{self.name}/text", str(values["text"]))


def test_images_histograms_and_texts_that_are_the_same_conform():
    alone(Putting)


@pytest.mark.parametrize("kind", ["image", "histogram", "text"])
@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ("random", "repeat: Putting: expected two equal runs to put the same"),
        ("class", "repeat: Putting: expected two equal runs to put the same"),
        (
            "lost",
            "state: Putting: expected a run that is resumed at iteration 4 to put what an uninterrupted",
        ),
    ],
)
def test_images_histograms_and_texts_are_compared(kind, odd, words):
    said = complaint(Putting, {"odd": f"{kind} {odd}"})
    assert words in said
    assert f"got another {kind} 'Putting/{kind}' of iteration {4 if odd == 'lost' else 0}" in said


def test_a_text_that_only_one_of_two_runs_puts_is_found():
    class Once(HookBase):
        def after_step(self):
            if self.trainer.iter == self.trainer.start_iter:
                self.trainer.storage.put_text("start", "hello")

    assert "got an additional text 'start' of iteration 4" in complaint(Once)


# -- state ------------------------------------------------------------------------------------------


class Forgetful(Counting):
    """Counts like its base, and keeps none of it."""

    collective = False
    state_dict = property()
    load_state_dict = property()


def test_a_count_without_state_is_found():
    said = complaint(Forgetful)
    assert (
        "state: Forgetful: expected a run that is resumed at iteration 4 to put what an uninterrupted one does"
        in said
    )
    assert "got 2.0 as 'Forgetful/count' of iteration 5 instead of 6.0" in said
    assert "Give it state_dict and load_state_dict" in said


def test_state_that_is_not_restored_is_found():
    class Half(Counting):
        def load_state_dict(self, state):
            self.num_iters = state["num_iters"]

    assert "got another 'num_evaluations' in its state_dict()" in complaint(Half)


def test_weights_that_depend_on_what_is_not_saved_are_found():
    class Silent(HookBase):
        num_iters = 0

        def after_step(self):
            self.num_iters += 1

        def after_train(self):
            self.trainer.model.layers[4].bias.data += self.num_iters

    said = complaint(Silent)
    assert "to end as an uninterrupted one does, got other weights" in said


def test_one_method_of_two_is_found():
    class Saving(HookBase):
        def after_step(self):
            pass

        def state_dict(self):
            return {}

    assert "expected state_dict and load_state_dict, got state_dict alone" in complaint(Saving)


def test_state_that_a_checkpoint_cannot_hold_is_found():
    class Opaque(Counting):
        def state_dict(self):
            return {"lock": object()}

    said = complaint(Opaque)
    assert "run: Opaque: expected a run of 8 iterations to end well, got CheckpointError" in said


# -- observers --------------------------------------------------------------------------------------


class Observer(HookBase):
    observer = True

    def __init__(self, kind: str = "") -> None:
        self.kind = kind
        self.average = None

    def before_train(self):
        others = [plugin for plugin in self.trainer.hooks.get_plugins() if isinstance(plugin, Observer)]
        if self.kind == "swap" and len(others) > 1:
            raise PluginError("the second would put back what the first had swapped in")
        if self.kind == "registers":
            self.trainer.model.layers[0].register_forward_hook(lambda module, args, out: out * 1.5)

    def after_step(self):
        if self.trainer.iter != 2:
            return
        if self.kind == "torch":
            torch.rand(1)
        elif self.kind == "python":
            random.random()
        elif self.kind == "weights":
            with torch.no_grad():
                self.trainer.model.layers[0].bias.add_(1)
        elif self.kind == "mode":
            self.trainer.model.layers[3].eval()
        elif self.kind == "scalar":
            self.trainer.storage.put_scalar("total_loss", 0.0)

    def before_evaluate(self):
        if self.kind in ("swap", "keep"):
            self.average = self.trainer.model.layers[0].bias.detach().clone()
            self.trainer.model.layers[0].bias.data.zero_()

    def after_evaluate(self):
        if self.kind == "swap":
            self.trainer.model.layers[0].bias.data.copy_(self.average)


@pytest.mark.parametrize("kind", ["", "swap"])
def test_an_observer_that_leaves_all_as_it_was_conforms(kind):
    alone(Observer, {"kind": kind})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "torch",
            "Observer.after_step at iteration 2: expected an observer to change nothing, got a change of random",
        ),
        ("python", "Draw from a torch.Generator or a random.Random of its own; else it is no observer"),
        ("weights", "got a change of weights (layers.0.bias)"),
        ("mode", "got a change of training mode (layers.3)"),
        ("keep", "Observer.before_evaluate at iteration 3: expected an observer to change nothing"),
        ("registers", "observer: Observer.before_train"),
        ("scalar", "Put scalars under names of the plugin's own"),
    ],
)
def test_an_observer_that_changes_something_is_named_with_its_hook(kind, words):
    if kind == "registers":
        words = "observer to leave a run as it is without it"
    said = complaint(Observer, {"kind": kind})
    assert f"observer: {words}" in said or words in said
    assert "observer: " in said


CHANGES = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "gradients on": lambda: torch._C._set_grad_enabled(False),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "matmul precision": lambda: torch.set_float32_matmul_precision("high"),
    "flushing of denormals": lambda: torch.set_flush_denormal(True),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "cuda matmul": lambda: setattr(
        torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False
    ),
    "attention": lambda: torch.backends.cuda.enable_flash_sdp(False),
}


def settings():
    """Return digests of the settings of torch, by name."""
    parts = fingerprint(tiny_trainer()).items()
    return {name: digest for part, digest in parts if (name := part.removeprefix("torch settings/")) != part}


def test_every_setting_of_torch_that_a_fingerprint_knows_is_set_back():
    trainer = tiny_trainer()
    before = fingerprint(trainer)
    assert set(CHANGES) == set(settings()) - {"inference mode"}  # left by leaving its block alone
    for name, change in CHANGES.items():
        with kept_settings():
            change()
            changed = {part for part, digest in fingerprint(trainer).items() if digest != before[part]}
            assert f"torch settings/{name}" in changed
        assert fingerprint(trainer) == before


class Speedup(HookBase):
    """Changes settings of torch, for good, where it is told to."""

    def __init__(self, where: str = "before_train") -> None:
        self.where = where
        self._act("__init__")

    def before_train(self):
        self._act("before_train")

    def _act(self, where):
        if where == self.where:
            torch.set_float32_matmul_precision("high")
            torch.use_deterministic_algorithms(True)


class QuietSpeedup(Speedup):
    observer = True


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("before_train", "QuietSpeedup.before_train at iteration 0: expected an observer to change nothing"),
        ("__init__", "observer: QuietSpeedup: expected an observer to leave a run as it is without it"),
    ],
)
def test_an_observer_that_changes_settings_of_torch_is_found_and_they_are_set_back(where, words):
    before = settings()
    said = complaint(QuietSpeedup, {"where": where})
    assert words in said
    assert "torch settings (deterministic algorithms" in said
    assert settings() == before


@pytest.mark.parametrize("where", ["before_train", "__init__"])
def test_a_plugin_that_may_change_settings_of_torch_leaves_the_process_as_it_was(where):
    before = settings()
    alone(Speedup, {"where": where})
    assert settings() == before


# -- twice ------------------------------------------------------------------------------------------


class Shared(HookBase):
    """Keeps in its class what belongs to an instance."""

    seen: list[int] = []

    observer = True

    def before_train(self):
        if self.trainer.start_iter == 0 and self.name == "Shared":
            self.seen.clear()

    def after_step(self):
        self.seen.append(self.trainer.iter)

    def state_dict(self):
        return {"seen": list(self.seen)}

    def load_state_dict(self, state):
        self.seen[:] = state["seen"]


def test_state_that_instances_share_is_found():
    said = complaint(Shared)
    assert "twice: Shared: expected two instances under two names to work side by side" in said
    assert "in the state of 'Shared'" in said


class Counted(HookBase):
    """Counts in its class the calls of an iteration; a run alone, or two of them, do not show it."""

    seen: list[int] = []

    def before_train(self):
        self.seen.clear()

    def after_step(self):
        self.seen.append(self.trainer.iter)
        self.trainer.storage.put_scalar(f"{self.name}/calls", self.seen.count(self.trainer.iter))


class Fixed(HookBase):
    """Puts its scalars under the name that only its first instance has."""

    def after_step(self):
        self.trainer.storage.put_scalar("Fixed/x", self.trainer.iter)


@pytest.mark.parametrize("observer", [True, False])
@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (Counted, "got 2.0 as 'Counted/calls' of iteration 0 instead of 1.0"),
        (Fixed, "got nothing as 'Fixed/x' of iteration 0 instead of 0.0"),
    ],
)
def test_scalars_that_are_others_beside_a_second_instance_are_found(plugin, words, observer, monkeypatch):
    monkeypatch.setattr(plugin, "observer", observer)
    said = complaint(plugin)
    name = plugin.__name__
    assert f"side by side, '{name}-2' as if it were alone, {words}" in said
    assert "put what is its own under self.name" in said


def test_scalars_of_the_first_instance_are_those_of_one_alone():
    class Latest(HookBase):
        count = 0

        def before_train(self):
            Latest.count = len(
                [each for each in self.trainer.hooks.get_plugins() if isinstance(each, Latest)]
            )

        def after_step(self):
            self.trainer.storage.put_scalar(f"{self.name}/x", Latest.count)

    said = complaint(Latest)
    assert "'Latest' as if it were alone, got 2.0 as 'Latest/x' of iteration 0 instead of 1.0" in said


def test_a_file_that_instances_share_is_found():
    class OneFile(HookBase):
        def before_train(self):
            with open(self.trainer.run_dir / f"lines-{self.trainer.start_iter}.txt", "x"):
                pass

    said = complaint(OneFile)
    assert "twice: OneFile" in said
    assert "FileExistsError" in said
    assert "'OneFile-2'" in said


# -- errors -----------------------------------------------------------------------------------------


class Swallowing(HookBase):
    def after_step(self):
        try:
            if self.trainer.iter % 5 == 4:
                len(self.trainer.hooks.names())
        except Exception:
            pass


def test_a_hook_that_swallows_everything_is_found_with_its_line():
    said = complaint(Swallowing)
    line = Swallowing.after_step.__code__.co_firstlineno + 2
    assert f"errors: Swallowing.after_step ({__file__}:{line}): expected an error to reach the user" in said
    assert "Catch the exceptions that it can mend, by name" in said


@pytest.mark.parametrize("hook", ["before_train", "on_error", "after_train", "after_load", "after_save"])
def test_every_hook_is_looked_at(hook):
    def swallow(self):
        try:
            self.trainer.hooks.names()
        except Exception:
            self.name = self.name

    said = complaint(type("Quiet", (HookBase,), {hook: swallow}))
    assert f"errors: Quiet.{hook}" in said


def test_an_exception_that_answers_another_reaches_the_user():
    class Translating(HookBase):
        def after_step(self):
            try:
                len(self.trainer.hooks.names())
            except Exception as error:
                raise PluginError("cannot count") from error

    alone(Translating)


def test_a_hook_of_the_end_that_fails_after_an_error_is_found():
    class Opening(HookBase):
        def before_train(self):
            self.lines = []

        def after_train(self):
            self.lines.clear()

    said = complaint(Opening)
    assert "expected an error there to be the only one, got AttributeError" in said
    assert "set in __init__ what they use" in said


def test_several_faults_are_told_at_once():
    class Bad(Swallowing):
        observer = True

        def before_step(self):
            torch.rand(1)

    said = complaint(Bad)
    assert "observer: Bad.before_step" in said
    assert "errors: Bad.after_step" in said


def test_a_debugger_or_a_measurement_of_coverage_is_left_in_place():
    calls = []

    def trace(frame, event, argument):
        calls.append(event)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        alone(Observer)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
    assert calls


# -- a trainer of one's own -------------------------------------------------------------------------


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 1)

    def forward(self, batch):
        return (self.head(batch[0]).squeeze(1) - batch[1]).square().mean()


def with_head(**options):
    return tiny_trainer(model=Named, **options)


class NeedsHead(HookBase):
    def after_step(self):
        self.trainer.storage.put_scalar("head", self.trainer.model.head.bias.mean())


def by_hand(run_dir, max_iter):
    """A trainer that seeds nothing, and has no evaluation data of a name."""
    model = Named()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = SimpleTrainer(model, Loader(tiny_data(), batch_size=8), optimizer)
    trainer.run_dir = run_dir
    return trainer


def test_a_trainer_that_knows_nothing_of_the_kit_will_do():
    alone(NeedsHead, trainer=by_hand)


def test_a_trainer_that_the_plugin_needs_can_be_given():
    assert "got AttributeError" in complaint(NeedsHead)
    alone(NeedsHead, trainer=with_head)


# -- two ranks --------------------------------------------------------------------------------------


class Ranked(HookBase):
    """On two ranks: communicates on one alone, without saying so, or changes weights on one alone."""

    def __init__(self, kind: str = "") -> None:
        self.kind = kind

    def after_step(self):
        if not dist.is_initialized() or self.trainer.iter != 3:
            return
        if self.kind == "unsaid" or (self.kind == "one" and dist.get_rank() == 0):
            dist.all_reduce(torch.ones(1))
        elif self.kind == "by name":
            all_reduce(torch.ones(1))
        elif self.kind == "weights":
            self.trainer.model.layers[4].bias.data += dist.get_rank()
        elif self.kind == "error" and dist.get_rank() == 1:
            raise KeyError("rank 1")
        elif self.kind == "hang" and dist.get_rank() == 1:
            time.sleep(60)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "one",
            "to call the same collectives, got rank 0: all_reduce in after_step at iteration 3; rank 1: none",
        ),
        (
            "unsaid",
            "expected a plugin that communicates to say so, got all_reduce in after_step at iteration 3",
        ),
        (
            "by name",
            "expected a plugin that communicates to say so, got all_reduce in after_step at iteration 3",
        ),
        ("weights", "expected the same weights on both ranks, got other weights (layers.4.bias"),
        ("error", "KeyError: 'rank 1'"),
        ("hang", "in after_step"),
    ],
)
def test_a_plugin_that_fails_on_two_ranks_is_found(kind, words):
    said = complaint(Ranked, {"kind": kind}, ranks=True, timeout_s=20 if kind != "hang" else 6)
    assert "ranks: Ranked: expected" in said
    assert words in said
    assert "ranks" in said.partition("does not conform.")[2].split(":")[0]


def test_a_plugin_that_is_the_same_on_two_ranks_conforms():
    assert_plugin_conforms(Ranked)


def test_a_plugin_that_another_process_could_not_find_is_told_so():
    class Local(HookBase):
        def after_step(self):
            pass

    said = complaint(Local, ranks=True)
    assert "Move functions and classes to the top of their module" in said


# -- waits for the device, of which a real one is in tests/gpu --------------------------------------


class Waiting(HookBase):
    """Raises in ``hook`` what torch does where the host would wait, in the mode in which it raises."""

    def __init__(self, hook: str = "after_step") -> None:
        def wait(trainer):
            if torch.cuda.get_sync_debug_mode() == 2:
                raise RuntimeError("called a synchronizing CUDA operation")

        setattr(self, hook, wait)


@pytest.fixture
def cuda(monkeypatch):
    """Pretend that there is a CUDA device."""
    modes = [0]
    numbers = {"error": 2, 0: 0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: modes.append(numbers[mode]))
    return modes


def on_cpu(device="cpu", **options):
    assert device == "cuda"
    return tiny_trainer(**options)


@pytest.mark.parametrize("hook", ["before_step", "after_backward", "after_step"])
def test_a_wait_for_the_device_in_an_iteration_is_found(hook, cuda, tmp_path):
    with pytest.raises(AssertionError, match="never to wait for the device, got a wait") as raised:
        never_waits(Bench(Subject.of(Waiting, {"hook": hook}), on_cpu, 4, tmp_path))
    assert f"hook {hook}, iteration 0" in str(raised.value)
    assert cuda[-1] == 0


@pytest.mark.parametrize("hook", ["before_train", "after_evaluate", "after_save", "after_train"])
def test_other_hooks_may_wait_for_the_device(hook, cuda, tmp_path):
    never_waits(Bench(Subject.of(Waiting, {"hook": hook}), on_cpu, 4, tmp_path))
    assert cuda == [0]


def test_without_cuda_nothing_is_run(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    never_waits(Bench(Subject.of(Waiting, {}), on_cpu, 4, tmp_path))
    assert list(tmp_path.iterdir()) == []
