"""Claims of a config that training puts to the proof: its observers change nothing, a resume is exact."""

from hookline.verification.report import Finding, PluginReport, Verification
from hookline.verification.resume import verify_resume
from hookline.verification.resume_report import Difference, MetricDifference, ResumeVerification
from hookline.verification.verifier import verify

__all__ = [
    "Difference",
    "Finding",
    "MetricDifference",
    "PluginReport",
    "ResumeVerification",
    "Verification",
    "verify",
    "verify_resume",
]
