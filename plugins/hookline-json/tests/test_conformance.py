"""What hookline asks of every writer."""

import pytest

from hookline.testing import assert_plugin_conforms
from hookline_json import JSONWriter


def read(run_dir):
    """Return every file but those of lines that a resume put aside."""
    files = [path for path in sorted(run_dir.rglob("*")) if path.is_file() and "orphaned" not in path.name]
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in files}


@pytest.mark.parametrize("options", [{}, {"file": "logs/metrics.jsonl", "timings": "times.jsonl"}])
def test_it_conforms(options):
    assert_plugin_conforms(JSONWriter, options, read=read)
