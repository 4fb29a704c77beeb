"""Results as Markdown, made to be included in a page."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.cases import CASES
from benchmarks.contenders import CONTENDERS, REFERENCE
from benchmarks.session import PartRecord
from benchmarks.summary import Row

__all__ = ["markdown"]


def markdown(
    facts: dict[str, Any], rows: Sequence[Row], parts: Sequence[PartRecord], imports: dict[str, float]
) -> str:
    """Return a table of the ratios of all cases, then one for each case, with what they were made by."""
    cases = list(dict.fromkeys(row.case for row in rows))
    sections = [_facts(facts), _overview(rows)]
    for case in cases:
        sections += [f"### {CASES[case].title}\n", _table([row for row in rows if row.case == case], case)]
    if cases:
        title = f"### Start, end and memory: {CASES[cases[0]].title}\n"
        sections += [title, _costs([row for row in rows if row.case == cases[0]], imports)]
    if parts:
        sections += ["### Parts of an iteration alone\n", _parts(parts)]
    return "\n".join(section for section in sections if section)


def _facts(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"Measured on {facts['date']} with `{facts['command']}`.\n\n"
        f"- Machine: {facts['machine']}\n- Versions: {versions}\n"
    )


def _overview(rows: Sequence[Row]) -> str:
    """Return, for each case, hookline over the bare loop and the best peer over hookline."""
    heads = "case", "hookline, usual set ÷ bare loop, fused", "each compiled where faster"
    lines = [_head(*heads, "best peer ÷ hookline, usual set", "which")]
    for case in dict.fromkeys(row.case for row in rows):
        fair = {row.contender: row for row in rows if row.case == case and not row.differs and row.rounds}
        usual = fair.get("hookline-usual")
        if usual is None:
            continue
        peers = [row for name, row in fair.items() if CONTENDERS[name].kind == "peer"]
        best = min(peers, key=lambda row: row.ratio, default=None)
        other = [f"{best.ratio / usual.ratio:.2f}", _title(best)] if best else ["", ""]
        lines.append(_cells(CASES[case].title, _ratio(usual), _compiled(fair), *other))
    return "\n".join(lines) + "\n" if len(lines) > 1 else ""


def _compiled(fair: dict[str, Row]) -> str:
    """Return the faster of hookline as it is and compiled over the faster of the bare loop so."""
    pairs = [("hookline-usual", "hookline-usual-compiled"), (REFERENCE, "bare-compiled")]
    if not all(name in fair for names in pairs for name in names):
        return ""
    mine, bare = (min(fair[name].ratio for name in names) for names in pairs)
    return f"{mine / bare:.2f}"


def _table(rows: Sequence[Row], case: str) -> str:
    lines = [
        _head(
            "contender", "median, µs", "p10, µs", "÷ bare loop, fused", "CPU time ÷", "overhead, µs", "loss"
        )
    ]
    for row in rows:
        if not row.rounds:
            lines.append(_cells(_title(row), "", "", "", "", "", f"failed: {_short(row.error)}"))
            continue
        loss = f"**does not count**: {row.differs}" if row.differs else f"{row.final_loss:.4g}"
        if row.error:
            loss += f"; failed in some rounds: {_short(row.error)}"
        times = f"{row.median_us:.0f}", f"{row.p10_us:.0f}"
        others = f"{row.cpu_ratio:.2f}", f"{row.overhead_us:+.0f}"
        lines.append(_cells(_title(row), *times, _ratio(row), *others, loss))
    spec = CASES[case]
    settings = (
        f"Batch {spec.batch_size}, {spec.accumulate} a step, "
        f"{f'clipped to {spec.clip_norm:g}' if spec.clip_norm else 'not clipped'}, "
        f"logged every {spec.log_period}; {rows[0].rounds} rounds.\n"
    )
    return "\n".join([settings, *lines]) + "\n"


def _costs(rows: Sequence[Row], imports: dict[str, float]) -> str:
    head = _head(
        "contender", "import, s", "start to first iteration, s", "end, s", "grown, MiB", "peak ÷ bare loop"
    )
    lines = [head]
    for row in rows:
        if row.rounds:
            imported = imports.get(f"contenders.{CONTENDERS[row.contender].module}", 0.0)
            times = f"{imported:.1f}", f"{row.start_s:.3f}", f"{row.end_s:.3f}"
            lines.append(_cells(_title(row), *times, f"{row.grown_mb:.0f}", f"{row.rss_ratio:.2f}"))
    return "\n".join(lines) + "\n"


def _parts(records: Sequence[PartRecord]) -> str:
    lines = [_head("part", "median", "least to greatest")]
    found: dict[str, list[float]] = {}
    for record in records:
        for what, value in record.numbers.items():
            found.setdefault(f"{record.part}: {what}", []).append(value)
    for what, values in found.items():
        spread = f"{_number(min(values))} to {_number(max(values))}" if len(values) > 1 else ""
        lines.append(_cells(what, _number(median(values)), spread))
    lines += [
        _cells(record.part, f"failed: {_short(record.error)}", "") for record in records if record.error
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"


def _ratio(row: Row) -> str:
    return f"{row.ratio:.2f} ({row.ratios[0]:.2f} to {row.ratios[1]:.2f})"


def _title(row: Row) -> str:
    title = CONTENDERS[row.contender].title
    kind = CONTENDERS[row.contender].kind
    return f"**{title}**" if kind == "hookline" or row.contender == REFERENCE else title


def _short(error: str) -> str:
    return error.replace("|", "/").replace("\n", " ")[:160]


def _head(*cells: str) -> str:
    return _cells(*cells) + "\n" + "|---|" + "---:|" * (len(cells) - 1)


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
