"""Train with and without each observer, and compare to the bit what came of it."""

from hookline.verification.report import Finding, PluginReport, Verification
from hookline.verification.verifier import verify

__all__ = ["Finding", "PluginReport", "Verification", "verify"]
