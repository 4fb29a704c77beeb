"""What the records of a session say: medians, ratios to the best bare loop, and whose losses agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from benchmarks.contenders import REFERENCE
from benchmarks.session import Record

__all__ = ["Row", "summarize"]

CHECK_TOLERANCE = 1e-5
"""Largest relative difference of the loss after a short run: rounding is far below, a mistake far above."""
FINAL_TOLERANCE = 0.05
"""The same after the long run, over which rounding has grown; what does not learn is far above."""


@dataclass(frozen=True)
class Row:
    """One contender in one case.

    Attributes:
        median_us: Median over rounds of the mean time of an iteration.
        p10_us: The 10th percentile over the twentieths of all rounds.
        ratio: Median over rounds of its time over that of the reference runs around it.
        ratios: The same, least and greatest.
        cpu_ratio: The same as ``ratio`` of the CPU time of all threads.
        overhead_us: Median over rounds of the difference to those.
        differs: How its loss differs from the reference's; empty if it does not, and only then it counts.
    """

    case: str
    contender: str
    rounds: int
    median_us: float = 0.0
    p10_us: float = 0.0
    ratio: float = 0.0
    ratios: tuple[float, float] = (0.0, 0.0)
    cpu_ratio: float = 0.0
    overhead_us: float = 0.0
    start_s: float = 0.0
    end_s: float = 0.0
    rss_ratio: float = 0.0
    grown_mb: float = 0.0
    check_loss: float = 0.0
    final_loss: float = 0.0
    differs: str = ""
    error: str = ""


def summarize(records: Sequence[Record]) -> list[Row]:
    """Return a row for each contender of each case, in the order of the cases, the fastest first."""
    rows = []
    for case in dict.fromkeys(record.case for record in records):
        of_case = [record for record in records if record.case == case]
        reference = [record for record in of_case if record.contender == REFERENCE]
        found = [
            _row([record for record in of_case if record.contender == name], reference)
            for name in dict.fromkeys(record.contender for record in of_case)
        ]
        rows += sorted(found, key=lambda row: (bool(row.error), bool(row.differs), row.ratio))
    return rows


def _row(records: list[Record], reference: list[Record]) -> Row:
    case, name = records[0].case, records[0].contender
    good = [record.measured for record in records if record.measured]
    if not good:
        return Row(case, name, 0, error=records[-1].error)
    bares = [record.measured for record in reference if record.measured]
    if not bares:
        return Row(case, name, 0, error=f"{REFERENCE} did not run, with which it is compared")
    middle, bare = _medians(good), _medians(bares)
    ratios = _ratios(records, "mean_us") or _ratios_of_reference(reference)
    overheads = [_overhead(record) for record in records if record.measured and record.around]
    blocks = sorted(block for measured in good for block in measured["blocks_us"])
    return Row(
        case,
        name,
        rounds=len({record.round for record in records if record.measured}),
        median_us=middle["mean_us"],
        p10_us=blocks[len(blocks) // 10],
        ratio=1.0 if name == REFERENCE else median(ratios),
        ratios=(min(ratios), max(ratios)),
        cpu_ratio=median(_ratios(records, "cpu_us") or [1.0]),
        overhead_us=median(overheads or [0.0]),
        start_s=middle["start_s"],
        end_s=middle["end_s"],
        rss_ratio=middle["rss_bytes"] / bare["rss_bytes"],
        grown_mb=middle["grown_bytes"] / 2**20,
        check_loss=middle["check_loss"],
        final_loss=middle["final_loss"],
        differs=_difference(good, bare),
        error=next((record.error for record in records if record.error), ""),
    )


def _medians(good: list[dict[str, Any]]) -> dict[str, float]:
    return {key: median(one[key] for one in good) for key in good[0] if key != "blocks_us"}


def _ratios(records: list[Record], key: str) -> list[float]:
    return [
        record.measured[key] / record.bare(key) for record in records if record.measured and record.around
    ]


def _ratios_of_reference(reference: list[Record]) -> list[float]:
    """Return each reference run over the one before it in its round: what the machine itself moves by."""
    times = [(record.round, record.measured["mean_us"]) for record in reference]
    pairs = pairwise(times)
    return [1.0, *(after / before for (one, before), (other, after) in pairs if one == other)]


def _overhead(record: Record) -> float:
    return record.measured["mean_us"] - record.bare("mean_us")


def _difference(good: list[dict[str, Any]], bare: dict[str, float]) -> str:
    """Return how far the losses are from the reference's, or nothing where they agree."""
    for key, tolerance, when in (
        ("check_loss", CHECK_TOLERANCE, "after a short run"),
        ("final_loss", FINAL_TOLERANCE, "at the end"),
    ):
        for measured in good:
            if not abs(measured[key] - bare[key]) <= tolerance * abs(bare[key]):
                return f"loss {measured[key]:.5g} {when}, not {bare[key]:.5g}"
    return ""
