"""What tests on a device share."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch


@pytest.fixture
def waiting_is_an_error():
    """Return a function that returns a context in which it is an error to make the host wait for the device."""

    @contextmanager
    def context():
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return context
