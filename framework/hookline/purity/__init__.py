"""What training depends on, to the bit, and which plugin's call changed any of it."""

from hookline.purity.fingerprint import RANDOM, described, differences, fingerprint
from hookline.purity.watch import CallWatch, Change, observe, observers

__all__ = [
    "RANDOM",
    "CallWatch",
    "Change",
    "described",
    "differences",
    "fingerprint",
    "observe",
    "observers",
]
