"""Measures samples, tokens and model FLOPs per second of a hookline run."""

from __future__ import annotations

from hookline_throughput.hook import Throughput

__all__ = ["Throughput"]
