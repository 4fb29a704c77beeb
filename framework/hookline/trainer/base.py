"""The loop: what happens in an iteration and at its end, and how a run begins and ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hookline import distributed
from hookline.checkpoint import rng
from hookline.errors import PluginError, RunError
from hookline.events import Events, EventStorage
from hookline.hookspecs import HookBase
from hookline.plugins import HookManager, load_states, states
from hookline.trainer.closing import close, tell_of
from hookline.trainer.cost import Cost
from hookline.trainer.ending import Ending, Status
from hookline.trainer.saving import Saving
from hookline.trainer.sync_check import SyncCheck, SyncCheckMode, checking

if TYPE_CHECKING:
    from hookline.delivery import Delivery, Gap

__all__ = ["Checkpointer", "Evaluation", "Status", "TrainerBase"]

Evaluation = Callable[[], Mapping[str, float]]

_log = logging.getLogger(__name__)


class Checkpointer(Protocol):
    """What carries out a requested checkpoint; the ``checkpoint`` hook is one."""

    def save(self, iteration: int, state: Mapping[str, Any], tags: Sequence[str]) -> Path | Future[Path]:
        """Write ``state`` durably, and return where; or, once ``state`` may change, a future of that."""


class TrainerBase:
    """A loop that calls hooks; a subclass says in ``run_step`` what an iteration does.

    The life of a run, as ``train`` lives it::

        before_train
        while iter < max_iter:
            before_step; run_step; after_step
            evaluate, if a hook asked for it or the run ends here
            seal the iteration; save, if a hook asked for it or the run ends here
            iter += 1
        after_train

    Attributes:
        iter: The 0-based iteration that runs now; ``iter == max_iter`` after a finished run.
        start_iter: The iteration that this call of ``train`` began with.
        max_iter: The iteration that will not run any more.
        storage: Where metrics are put.
        hooks: The plugin manager of this trainer.
        status: ``created``, ``running``, then how the run ended.
        reason: Why it was stopped, paused or failed.
        generation: How often training was started in the run directory, this time included; 0 without one.
        log_period: Writers, and ranks among themselves, are told every so many iterations.
        stop_at: Pause when so many iterations are done; None never does.
        time_limit_s: Pause in time to have saved and ended so many seconds after ``train`` was called; None
            never does.
        time_spent_s: How much of that was over before ``train`` was called, seconds.
        sync_check: What happens when the host waits for a CUDA device within an iteration: ``off`` is
            nothing, at no cost; ``warn`` logs each plugin, hook and line that waits, once; ``error`` ends
            the run at the first. The first iteration is not checked.
    """

    def __init__(self) -> None:
        self.iter = self.start_iter = self.max_iter = 0
        self.storage = EventStorage()
        self.hooks = HookManager()
        self.status: Status = "created"
        self.reason = ""
        self._run_dir: Path | None = None
        self.generation = 0
        self.log_period = 20
        self.stop_at: int | None = None
        self.time_limit_s: float | None = None
        self.time_spent_s = 0.0
        self.sync_check: SyncCheckMode = "off"
        self.evaluations: dict[str, Evaluation] = {}
        """What runs at the end of training, and when requested, by name; hooks add to it."""
        self.checkpointer: Checkpointer | None = None
        """What saves; without one nothing is saved."""
        self.deliveries: list[Delivery] = []
        """What brings events to writers; closed last of all."""
        self.gaps: list[Gap] = []
        """What writers did not take."""
        self.writer_seconds: dict[str, float] = {}
        """Time spent in each writer, on its own thread, seconds."""
        self._ending = Ending()
        self._interrupts = self._ending.interrupts
        self._cost = Cost()
        self._evaluations_due: set[str] = set()
        self._saving = Saving()
        self._stop_due = False
        self._saved_stop: str | None = None
        self._stopped_for: str | None = None
        self._saved_open: Mapping[str, Any] | None = None
        self._saved_rng: list[Any] | None = None
        self._fired_after_backward = False
        self._num_ranks = 1
        self._check: SyncCheck | None = None

    @property
    def run_dir(self) -> Path | None:
        """The directory of the run's files, if it has one."""
        return self._run_dir

    @run_dir.setter
    def run_dir(self, path: str | Path | None) -> None:
        self._run_dir = None if path is None else Path(path)

    @property
    def is_out_of_time(self) -> bool:
        """Whether the time limit paused the run."""
        return self._ending.is_out_of_time

    # ---- what a user calls

    def register_hooks(self, hooks: Iterable[Any]) -> None:
        """Register plugins, called in the order given: `HookBase` instances, or objects with ``@hookimpl``.

        Raises:
            PluginError: If one of them would be ignored in part or whole.
        """
        if not isinstance(hooks, Iterable):
            raise PluginError(
                f"register_hooks: expected a list of hooks, got {type(hooks).__name__}. Put it in []."
            )
        for hook in hooks:
            self.register_hook(hook)

    def register_hook(
        self, hook: Any, name: str | None = None, source: str | None = None, on_error: str | None = None
    ) -> str:
        """Register one plugin; see `HookManager.add` for the arguments. Return its instance name."""
        if isinstance(hook, HookBase) and hook.name and hook._trainer is None:
            raise PluginError(
                f"{type(hook).__name__}.name: expected it to be left alone, got {hook.name!r}. It becomes "
                "the name in the config when the plugin is registered. Give yours another word."
            )
        name = self.hooks.add(hook, name, source, on_error)
        if isinstance(hook, HookBase):
            hook.name, hook.trainer = name, self
        return name

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations from ``start_iter`` up to, not including, ``max_iter``.

        ``after_train`` runs for every plugin whatever failed, what it puts is sealed, and writers are
        closed; only then the first error is raised again. May be called again.

        Raises:
            KeyboardInterrupt: After Ctrl-C paused the run and everything was saved.
            SystemExit: With code 143, after SIGTERM did.
        """
        self._begin(start_iter, max_iter)
        error: BaseException | None = None
        with self._interrupts, self.storage:
            try:
                self._call("before_train")
                self._undo_before_train()
                with checking(self) as self._check:
                    if self._stopped_for is not None:
                        self.status, self.reason = "stopped", self._stopped_for
                    else:
                        self.status = self._ending.before_first(self) or self.status
                    while self.status == "running" and self.iter < self.max_iter:
                        self._run_iteration()
                if self.status == "running":
                    self.status = "finished"
                self._interrupts.ending = True
            except BaseException as raised:
                self._interrupts.ending = True
                error = distributed.first_failure(raised)
                tell_of(error, self)
            error = close(self, error)
        if error is not None:
            raise error
        self._interrupts.raise_again()

    def run_step(self) -> None:
        """Do one iteration: data, forward, backward, update. Must be overridden.

        Call ``self.after_backward()`` when gradients are in place, and put what was measured into
        ``self.storage``.
        """
        raise NotImplementedError(f"{type(self).__name__}.run_step: override it, or use SimpleTrainer")

    def after_backward(self) -> None:
        """Tell the plugins that every gradient is in place."""
        self._fired_after_backward = True
        self.hooks.call("after_backward", weight=self._cost.weight, trainer=self)

    # ---- what a hook calls

    def request_stop(self, reason: str) -> None:
        """End the run after this iteration as if it were its last: evaluate, save, ``stopped``."""
        self._check_running("request_stop")
        if not self._stop_due:
            self._stop_due, self.reason = True, reason

    def request_evaluation(self, name: str) -> None:
        """Run the evaluation ``name`` when every ``after_step`` of this iteration has returned."""
        self._check_running("request_evaluation")
        if name not in self.evaluations:
            raise PluginError(
                f"request_evaluation: expected one of {', '.join(self.evaluations) or 'none'}, got {name!r}. "
                "Add it to trainer.evaluations in before_train."
            )
        self._evaluations_due.add(name)

    def request_checkpoint(self, tag: str | None = None) -> None:
        """Save when this iteration is complete, and point ``tag`` (such as ``best``) to what was saved."""
        self._check_running("request_checkpoint")
        if self.checkpointer is None:
            raise RunError(
                "request_checkpoint: expected a trainer that saves, got one without. "
                "Enable the 'checkpoint' hook."
            )
        self._saving.request(tag)

    # ---- what a checkpoint holds

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last complete iteration, plugins' included; every rank must call it."""
        return {
            # First: whoever is asked for its state below may draw.
            "rng": {"ranks": distributed.gather(rng.capture())},
            # Within an iteration that is sealed, the storage is at the next one already.
            "trainer": {"next_iter": self.storage.iter, "max_iter": self.max_iter},
            "storage": self.storage.state_dict(),
            "hooks": states(self.hooks),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, at the next ``train``, after the iteration that ``state`` was taken at."""
        self.iter = self.start_iter = state["trainer"]["next_iter"]
        self._saved_open = state["storage"]["open"]
        self._saved_stop = state["trainer"].get("stopped")
        self.storage.load_state_dict(state["storage"])
        load_states(self.hooks, state["hooks"])
        ranks = state["rng"]["ranks"]
        self._saved_rng = ranks if len(ranks) == distributed.world_size() else None
        if self._saved_rng is None:
            _log.warning(
                "The checkpoint was saved by %d processes, now there are %d: random numbers will differ.",
                len(ranks),
                distributed.world_size(),
            )

    def accept(self, events: Sequence[Events]) -> None:
        """Look at events whose values have arrived; raise to end the run. `SimpleTrainer` finds NaN here."""

    # ---- how it works

    def _check_running(self, method: str) -> None:
        if self.status != "running":
            raise RunError(
                f"{method}: expected a run with an iteration to come, got one that is {self.status}. "
                "Call it from a hook, after_train excepted."
            )

    def _begin(self, start_iter: int, max_iter: int) -> None:
        if self.status == "running":
            raise RunError("train: expected a trainer that is not running, got a call from its own run.")
        if start_iter < 0 or max_iter < start_iter:
            raise RunError(
                f"train: expected 0 <= start_iter <= max_iter, got {start_iter} and {max_iter}. "
                "A run that goes on needs a higher max_iter."
            )
        if start_iter != self.storage.iter:
            self.storage, self._saved_open = EventStorage(start_iter, period=self.log_period), None
        self.iter, self.start_iter, self.max_iter = start_iter, start_iter, max_iter
        self.status, self.reason = "running", ""
        self._stop_due = False
        self._saving.reset()
        self._evaluations_due.clear()
        self.gaps, self.writer_seconds = [], {}
        self._num_ranks = distributed.world_size()
        self._cost.reset(self.hooks)
        self._ending.begin(self)

    def _undo_before_train(self) -> None:
        """Forget, in a run that goes on, what plugins drew, put and requested: they did when it began."""
        if self._saved_rng is not None:
            rng.restore(self._saved_rng[distributed.rank()])
            self._saved_rng = None
        if self._saved_open is not None:
            self.storage.reopen(self._saved_open)
            self._saved_open = None
            self._evaluations_due.clear()

    def _run_iteration(self) -> None:
        hooks, is_first = self.hooks, self.iter == self.start_iter
        weight = self._cost.begin(self.iter, is_first, hooks)
        hooks.call("before_step", weight=weight, trainer=self)
        if self._check is None:
            self.run_step()
        else:
            with self._check.run_step():
                self.run_step()
        if is_first:
            self._check_after_backward()
        hooks.call("after_step", weight=weight, trainer=self)
        ending = self._ending.after_iteration(self)
        if ending is not None or self._evaluations_due:
            ending = self._evaluate_what_is_due(ending)
        if weight:
            self._cost.put(self.storage, hooks, self.deliveries)
        self.accept(self.storage.step())
        saving = self._saving
        if saving.under_way is not None:
            saving.finish(self, wait=False)
        if saving.is_due or ending is not None:
            self._ending.save_begins()
            saving.save(self, ending)
        elif is_first and self.checkpointer is not None:
            self._before_first_save()
        if self._ending.is_saving and saving.under_way is None:
            self._ending.save_ended()
        self.iter += 1
        if ending is not None:
            self.status = ending

    def _evaluate_what_is_due(self, ending: Status | None) -> Status | None:
        """Run requested evaluations, and at an end all others; return how the run ends here, if it does.

        What an evaluation's hooks request (a stop, say) counts at once.
        """
        done: set[str] = set()
        while True:
            if ending in ("finished", "stopped"):
                self._evaluations_due.update(self.evaluations)
            due = [name for name in self.evaluations if name in self._evaluations_due - done]
            if not due:
                self._evaluations_due.clear()
                return ending
            for name in due:
                self._evaluate(name)
                done.add(name)
            ending = self._ending.after_iteration(self)

    def _evaluate(self, name: str) -> None:
        with rng.forked_rng():
            self._call("before_evaluate", name=name)
            with self.hooks.timed(name, "evaluate"):
                metrics = self.evaluations[name]()
            for key, value in metrics.items():
                self.storage.put_scalar(key, value, smoothing_hint=False)
            self._call("after_evaluate", name=name, metrics=metrics)

    def _before_first_save(self) -> None:
        self._saving.check(self)

    def _call(self, hook: str, **offered: Any) -> None:
        self.hooks.call(hook, weight=1, trainer=self, **offered)

    def _check_after_backward(self) -> None:
        plugins = self.hooks.implements("after_backward")
        if plugins and not self._fired_after_backward:
            raise PluginError(
                f"{type(self).__name__}.run_step: expected a call of self.after_backward(), got none. "
                f"Plugins that wait for it: {', '.join(plugins)}. Call it when gradients are in place."
            )
