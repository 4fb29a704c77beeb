"""Who is measured; each module trains a `Task` with one library, as its documentation says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CONTENDERS", "FEW", "REFERENCE", "Contender"]


@dataclass(frozen=True)
class Contender:
    """One way to train.

    Args:
        module: In this package; its ``run(task, **options)`` trains.
        kind: ``bare``, ``hookline`` or ``peer``.
        distribution: Whose version is reported, besides torch's.
    """

    name: str
    title: str
    module: str
    kind: str
    distribution: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def _bare(name: str, title: str, **options: Any) -> Contender:
    return Contender(name, title, "bare", "bare", options=options)


def _hookline(name: str, title: str, **options: Any) -> Contender:
    return Contender(name, title, "framework", "hookline", "hookline", options)


def _peer(name: str, title: str, distribution: str) -> list[Contender]:
    return [
        Contender(name, title, name, "peer", distribution, {"fused": False}),
        Contender(f"{name}-fused", f"{title}, fused AdamW", name, "peer", distribution, {"fused": True}),
    ]


CONTENDERS = {
    contender.name: contender
    for contender in [
        _bare("bare", "bare loop", fused=False),
        _bare("bare-fused", "bare loop, fused AdamW", fused=True),
        _bare("bare-compiled", "bare loop, fused AdamW, compiled", fused=True, compile=True),
        _hookline("hookline-0", "hookline, schedule only", num_plugins=0),
        _hookline("hookline-5", "hookline, 5 empty plugins", num_plugins=5),
        _hookline("hookline-20", "hookline, 20 empty plugins", num_plugins=20),
        _hookline("hookline-50", "hookline, 50 empty plugins", num_plugins=50),
        _hookline("hookline-usual", "hookline, usual set", usual=True),
        _hookline("hookline-usual-20", "hookline, usual set and 20 empty", usual=True, num_plugins=20),
        _hookline("hookline-usual-compiled", "hookline, usual set, compiled", usual=True, compile=True),
        *_peer("lightning", "Lightning", "lightning"),
        *_peer("fabric", "Lightning Fabric", "lightning"),
        *_peer("ignite", "Ignite", "pytorch-ignite"),
        *_peer("mmengine", "MMEngine", "mmengine"),
        *_peer("accelerate", "Accelerate", "accelerate"),
        *_peer("hf_trainer", "HF Trainer", "transformers"),
        *_peer("torchtnt", "torchtnt", "torchtnt"),
    ]
}

REFERENCE = "bare-fused"
"""The best a hand writes: everybody's time is divided by its."""

FEW = ("bare", "bare-fused", "hookline-20", "hookline-usual", "fabric-fused", "ignite-fused")
"""Who runs a variation of a case; of the peers those that come nearest."""
