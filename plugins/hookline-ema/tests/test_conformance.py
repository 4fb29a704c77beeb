"""What hookline asks of every hook."""

import pytest

from hookline.testing import assert_plugin_conforms
from hookline_ema import EMA


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_it_conforms(buffers):
    assert_plugin_conforms(EMA, {"decay": 0.9, "buffers": buffers})
