"""What hookline asks of every writer."""

import pytest

from hookline.testing import assert_plugin_conforms
from hookline_csv import CSVWriter


def test_it_conforms():
    assert_plugin_conforms(CSVWriter)


def test_a_file_that_two_instances_share_is_told():
    with pytest.raises(AssertionError, match="two instances under two names .* got 'all.csv' of both"):
        assert_plugin_conforms(CSVWriter, {"file": "all.csv"})
