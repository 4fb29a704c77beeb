"""What hookline asks of every hook."""

from hookline.testing import assert_plugin_conforms
from hookline_ema import EMA


def test_it_conforms():
    assert_plugin_conforms(EMA, {"decay": 0.9})
