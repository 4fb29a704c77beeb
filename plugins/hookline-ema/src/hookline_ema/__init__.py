"""Evaluates and keeps an exponential moving average of a hookline model's weights."""

from __future__ import annotations

from hookline_ema.hook import EMA

__all__ = ["EMA"]
