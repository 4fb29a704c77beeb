"""The benchmarks compare like with like, say what did not count, and refuse what they do not know.

No time is judged here, and none of the other trainers needs to be installed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks import cli, parts
    from benchmarks.cases import CASES
    from benchmarks.contenders import CONTENDERS, FEW, REFERENCE
    from benchmarks.session import PARTS, PartRecord, Record, Settings, cast
    from benchmarks.summary import summarize
    from benchmarks.table import markdown

FACTS = {"date": "2026-01-01", "command": "python -m benchmarks", "machine": "a machine", "versions": {}}


def measured(mean_us: float, check_loss: float = 2.0, final_loss: float = 1.0) -> dict[str, object]:
    numbers = {"cpu_us": mean_us, "start_s": 0.1, "end_s": 0.0, "rss_bytes": 100, "grown_bytes": 10}
    losses = {"check_loss": check_loss, "final_loss": final_loss}
    return {"mean_us": mean_us, "blocks_us": [mean_us] * 20, **numbers, **losses}


def session(**contenders: list[dict[str, object]]) -> list[Record]:
    """Return records of rounds in which the machine is twice as slow each time."""
    records = []
    for number in range(3):
        before, after = measured(100 * 2**number), measured(120 * 2**number)
        records.append(Record("mlp-small", REFERENCE, number, before))
        for name, runs in contenders.items():
            run = runs[number]
            records.append(Record("mlp-small", name.replace("_", "-"), number, run, around=[before, after]))
        records.append(Record("mlp-small", REFERENCE, number, after))
    return records


def test_a_ratio_is_of_runs_side_by_side_so_a_slower_machine_does_not_move_it():
    rows = summarize(session(hookline_usual=[measured(99 * 2**number) for number in range(3)]))
    assert [row.contender for row in rows] == ["hookline-usual", REFERENCE]
    assert rows[0].ratio == pytest.approx(0.9)
    assert rows[0].ratios == pytest.approx((0.9, 0.9))
    assert rows[0].median_us == 198
    assert rows[0].overhead_us == pytest.approx(-22)


@pytest.mark.parametrize(
    "odd", [{"check_loss": 2.0001}, {"final_loss": 1.06}, {"final_loss": float("nan")}], ids=str
)
def test_a_contender_that_computes_something_else_does_not_count(odd):
    runs = [measured(1.0), measured(1.0, **odd), measured(1.0)]
    usual = [measured(200 * 2**number) for number in range(3)]
    rows = summarize(session(lightning=runs, hookline_usual=usual))
    by_name = {row.contender: row for row in rows}
    assert by_name["lightning"].differs
    assert not by_name["hookline-usual"].differs
    assert rows[-1].contender == "lightning"
    text = markdown(FACTS, rows, [], {})
    assert f"**does not count**: {by_name['lightning'].differs}" in text
    assert "| MLP 32-64-64-10 | 1.82 (1.82 to 1.82) |  |  |  |" in text  # no peer that counts


def test_a_contender_that_fails_is_shown_with_its_error():
    records = session()
    records += [Record("mlp-small", "ignite", number, error="no | module") for number in range(3)]
    assert "| Ignite |  |  |  |  |  | failed: no / module |" in markdown(FACTS, summarize(records), [], {})


def test_without_the_reference_nothing_is_compared():
    records = [
        Record("mlp-small", REFERENCE, 0, error="killed"),
        Record("mlp-small", "ignite", 0, measured(1.0)),
    ]
    errors = {row.contender: row.error for row in summarize(records)}
    assert errors == {REFERENCE: "killed", "ignite": "bare-fused did not run, with which it is compared"}


def test_a_part_is_shown_by_its_median_and_range():
    records = [PartRecord("dispatch", {"20 empty plugins": value}) for value in (3.0, 1.0, 2.0)]
    text = markdown(FACTS, [], [*records, PartRecord("memory", error="killed")], {})
    assert "| dispatch: 20 empty plugins | 2.00 | 1.00 to 3.00 |" in text
    assert "| memory | failed: killed |" in text


def test_a_variation_is_run_by_a_few_and_everybody_else_by_all():
    assert cast("mlp-small", Settings(["mlp-small"])) == [
        REFERENCE,
        *(name for name in CONTENDERS if name != REFERENCE),
    ]
    assert set(cast("mlp-small-clip", Settings(["mlp-small-clip"]))) == set(FEW)
    assert cast("mlp-small", Settings(["mlp-small"], ["ignite"])) == [REFERENCE, "ignite"]


def test_the_list_names_every_case_and_contender(capsys):
    assert cli.main(["--list"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert listed >= CASES.keys() | CONTENDERS.keys()


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_measured_alone(part, monkeypatch):
    monkeypatch.setattr(parts, "_REPEATS", 1)
    numbers = parts.FUNCTIONS[part](40)
    assert numbers
    assert all(isinstance(value, (int, float)) for value in numbers.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cases", "mlp-smal"], "--cases: expected one of mlp-small, "),
        (["--contenders", "hooklin-usual"], "got 'hooklin-usual'. Did you mean hookline-usual? See --list."),
        (["--rounds", "0"], "--rounds: expected a whole number >= 1, got 0."),
        (["--iterations", "abc"], "--iterations: expected a whole number >= 1, got abc."),
        (["--minutes", "0"], "--minutes: expected a number > 0, got 0.0."),
        (["--minutes", "-3"], "--minutes: expected a number > 0, got -3.0."),
        (["--minutes", "nan"], "--minutes: expected a number > 0, got nan."),
        (["--minutes", "soon"], "--minutes: expected a number > 0, got soon."),
        (
            ["--results", f"{__file__}/x"],
            f"--results: expected a folder that can be made, got '{__file__}/x': ",
        ),
    ],
)
def test_what_it_does_not_know_is_refused_before_anything_runs(arguments, said, capsys, monkeypatch):
    monkeypatch.setattr(cli, "run_session", None)
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_part_is_run_and_written_beside_the_whole(tmp_path, capsys):
    """A real session, the smallest: both train the same model on the same data to the same loss."""
    arguments = (
        "--cases mlp-small --contenders hookline-usual --rounds 2 --iterations 20 --warmup 3 --minutes 0.001"
    )
    assert cli.main([*arguments.split(), "--results", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "partial.json").read_text())
    rows = {row["contender"]: row for row in result["rows"]}
    assert rows.keys() == {REFERENCE, "hookline-usual"}
    assert not rows["hookline-usual"]["differs"]
    assert rows["hookline-usual"]["rounds"] == 1  # no time for another
    assert rows["hookline-usual"]["check_loss"] == pytest.approx(rows[REFERENCE]["check_loss"], rel=1e-5)
    assert rows["hookline-usual"]["median_us"] > 0
    assert result["command"] == f"python -m benchmarks {arguments}"  # not where it was written
    assert result["versions"].keys() == {"python", "torch", "hookline"}
    assert (tmp_path / "partial.md").read_text() in capsys.readouterr().out
    assert not (tmp_path / "cpu.json").exists()
