"""The kit on a real device: a hook that makes the host wait for it is found."""

from __future__ import annotations

import pytest
import torch

from hookline import HookBase
from hookline.hooks import Memory, Timer
from hookline.testing import assert_plugin_conforms

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Reading(HookBase):
    """Reads a value of the device in every iteration."""

    observer = True

    def after_step(self):
        self.norm = self.trainer.model.layers[0].weight.norm().item()


class Putting(HookBase):
    """Puts the value as it is."""

    observer = True

    def after_step(self):
        self.trainer.storage.put_scalar("norm", self.trainer.model.layers[0].weight.norm())


def test_a_hook_that_waits_for_the_device_is_found():
    with pytest.raises(
        AssertionError, match="device: Reading: expected a hook of an iteration never to wait"
    ):
        assert_plugin_conforms(Reading, ranks=False)


@pytest.mark.parametrize(("plugin", "options"), [(Putting, {}), (Timer, {}), (Memory, {"period": 2})])
def test_a_hook_that_leaves_values_on_the_device_conforms(plugin, options):
    assert_plugin_conforms(plugin, options, ranks=False)
