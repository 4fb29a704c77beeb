"""What hookline asks of every writer."""

import pytest

from hookline.testing import assert_plugin_conforms
from hookline_json import JSONWriter


@pytest.mark.parametrize("options", [{}, {"file": "logs/metrics.jsonl", "timings": "times.jsonl"}])
def test_it_conforms(options):
    assert_plugin_conforms(JSONWriter, options)
