"""What a person sees while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from hookline import distributed
from hookline.config import Period, is_due
from hookline.console import console, print_line
from hookline.hookspecs import HookBase

__all__ = ["Progress"]

# Nobody reads faster, and each time the bar is drawn costs a millisecond, each line 50 µs.
BAR_INTERVAL_S = 0.5
LINE_INTERVAL_S = 0.1


class Progress(HookBase):
    """Shows loss, learning rate, speed, remaining time and the last evaluation.

    On a terminal it is one live bar; elsewhere a plain line per period, but at most ten a second.

    Args:
        period: Refresh the numbers, or print a line, every so many iterations; by default the config's
            ``train.log_period``.
    """

    observer = True
    graph_safe = True

    def __init__(self, period: Period | None = None) -> None:
        self.period = period
        self._bar: Bar | None = None
        self._prints = False
        self._evaluated = ""
        self._start = 0.0
        self._next_s = 0.0
        self._is_text_due = False

    def before_train(self) -> None:
        """Begin the bar, on a terminal."""
        self._start = self._next_s = perf_counter()
        self._evaluated = ""
        self._prints = distributed.is_main()
        if self._prints and console().is_terminal:
            whole = Column(no_wrap=True)  # on a narrow terminal it is the bar that shrinks
            self._bar = Bar(
                TextColumn("iter {task.completed:.0f}/{task.total:.0f}", table_column=whole),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}", table_column=whole),
                console=console(),
                refresh_per_second=1 / BAR_INTERVAL_S,
            )
            self._task = self._bar.add_task(
                "train", total=self.trainer.max_iter, completed=self.trainer.start_iter, text=""
            )
            self._bar.start()

    def after_step(self) -> None:
        """Move the bar on; when the period ends, refresh its numbers or print a line."""
        trainer = self.trainer
        due = is_due(trainer.iter, trainer.log_period if self.period is None else self.period)
        if self._bar is not None:
            self._is_text_due |= due
            if (now := perf_counter()) >= self._next_s:
                self._next_s = now + BAR_INTERVAL_S
                self._show(trainer.iter + 1)
        elif due and self._prints:
            num_done, now = trainer.iter + 1, perf_counter()
            if now >= self._next_s or num_done == trainer.max_iter:
                self._next_s = now + LINE_INTERVAL_S
                print_line(f"iter {num_done}/{trainer.max_iter}  {self._numbers(num_done)}")

    def after_evaluate(self, name: str, metrics: Mapping[str, float]) -> None:
        """Print the metrics, and keep the first of them beside the loss."""
        text = "  ".join(f"{key} {value:.4g}" for key, value in metrics.items())
        self._evaluated = "  ".join(text.split("  ")[:1])
        if self._prints:
            console().print(f"iter {self.trainer.iter + 1}  {name}: {text}", markup=False)

    def after_train(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._show(self.trainer.iter)
            self._bar.stop()
            self._bar = None

    def _show(self, num_done: int) -> None:
        """Move the bar to ``num_done`` iterations, and refresh its numbers if a period ended meanwhile."""
        assert self._bar is not None
        self._bar.update(self._task, completed=num_done)
        if self._is_text_due:
            self._is_text_due = False
            self._bar.update(self._task, text=self._numbers(num_done))

    def _numbers(self, num_done: int) -> str:
        trainer = self.trainer
        speed = max(num_done - trainer.start_iter, 1) / max(perf_counter() - self._start, 1e-9)
        seconds = round((trainer.max_iter - num_done) / speed)
        histories = trainer.storage.histories()
        parts = []
        if "total_loss" in histories:
            parts.append(f"loss {histories['total_loss'].median(20):.4g}")
        if "lr" in histories:
            parts.append(f"lr {histories['lr'].latest():.3g}")
        parts.append(f"{speed:.4g} it/s")
        parts.append(f"ETA {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}")
        return "  ".join([*parts, self._evaluated]).rstrip()
