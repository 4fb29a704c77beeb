"""The ratios as a picture: a panel for each case, a point and its spread for each contender."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from benchmarks.cases import CASES
from benchmarks.contenders import CONTENDERS, REFERENCE
from benchmarks.summary import Row

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

__all__ = ["draw"]

_COLORS = {"bare": "#555555", "hookline": "#d2452d", "peer": "#4878a8"}
_COLUMNS = 2


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the picture of all rows that count to ``path``."""
    panels = {}
    for case in dict.fromkeys(row.case for row in rows):
        shown = [row for row in rows if row.case == case and row.rounds and not row.differs]
        if len(shown) > 1:
            panels[case] = sorted(shown, key=lambda row: -row.ratio)
    if not panels:
        return
    columns = min(_COLUMNS, len(panels))
    lines = [list(panels)[at : at + columns] for at in range(0, len(panels), columns)]
    heights = [max(len(panels[case]) for case in line) + 4 for line in lines]
    figure, grid = pyplot.subplots(
        len(lines),
        columns,
        squeeze=False,
        figsize=(7 * columns, 0.24 * sum(heights) + 0.5),
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
    )
    for line, row_of_axes in zip(lines, grid, strict=True):
        for axes in row_of_axes[len(line) :]:
            axes.axis("off")
        for case, axes in zip(line, row_of_axes, strict=False):
            _panel(axes, case, panels[case])
    figure.suptitle("Time of an iteration ÷ best bare loop (fused AdamW), median and range of rounds")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(axes: Axes, case: str, rows: Sequence[Row]) -> None:
    axes.axvline(1, color="#999999", linewidth=1, zorder=0)
    for at, row in enumerate(rows):
        contender = CONTENDERS[row.contender]
        color = _COLORS[contender.kind]
        axes.plot(row.ratios, (at, at), color=color, linewidth=2, alpha=0.45, solid_capstyle="round")
        axes.plot(row.ratio, at, "o", color=color, markersize=5)
        axes.annotate(
            f"{row.ratio:.2f}",
            (row.ratios[1], at),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axes.set_yticks(range(len(rows)), [CONTENDERS[row.contender].title for row in rows], fontsize=8)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        if CONTENDERS[row.contender].kind == "hookline" or row.contender == REFERENCE:
            label.set_fontweight("bold")
    axes.set_xscale("log", base=2)
    low, high = min(row.ratios[0] for row in rows), max(row.ratios[1] for row in rows)
    ticks = [0.5, 0.7, 1, 1.4, 2, 3, 4, 6, 8]
    axes.set_xticks([tick for tick in ticks if low / 1.2 <= tick <= high * 1.2])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(low / 1.1, high * 1.35)
    axes.set_title(CASES[case].title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
