"""What hookline asks of every hook."""

from hookline.testing import assert_plugin_conforms
from hookline_throughput import Throughput


def test_it_conforms():
    assert_plugin_conforms(Throughput, {"period": 4, "tokens": [0]})
