"""What training depends on, to the bit, and which plugin's call changed any of it."""

from hookline.purity.digests import digests
from hookline.purity.fingerprint import RANDOM, described, differences, fingerprint, settings
from hookline.purity.records import Records, records_of
from hookline.purity.watch import CallWatch, Change, observe, observers

__all__ = [
    "RANDOM",
    "CallWatch",
    "Change",
    "Records",
    "described",
    "differences",
    "digests",
    "fingerprint",
    "observe",
    "observers",
    "records_of",
    "settings",
]
