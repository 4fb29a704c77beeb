"""The page that says how reliable a run is shows what was measured, and nothing else."""

from __future__ import annotations

import results


def test_the_page_shows_the_table_that_was_measured():
    assert results.PAGE.read_text(encoding="utf-8") == results.page()


def test_a_row_is_of_a_test_that_is_there():
    for row in results.rows():
        file, *_, name = row.test.partition("[")[0].split("::")
        text = (results.ROOT / file).read_text(encoding="utf-8")
        assert f"def {name}(" in text, row.test
