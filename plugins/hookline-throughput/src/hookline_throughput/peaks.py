"""What well-known GPUs can do at most."""

from __future__ import annotations

import re

import torch
from torch import nn

__all__ = ["known_peak"]

# Words of the device's name, then FLOP/s: float16 and bfloat16, TF32, float32; 0 where it has none. Dense,
# not sparse; of one die where a module has two that torch shows as two. The first row that fits counts.
# Source: data sheets of NVIDIA and AMD; for RTX the white papers of GA102 and AD102, accumulating in float32.
# The first column is that of torchtitan's get_peak_flops for the GPUs that both know.
_PEAKS: list[tuple[set[str], tuple[float, float, float]]] = [
    ({"B200"}, (2250e12, 1125e12, 75e12)),
    ({"H200", "NVL"}, (835e12, 417e12, 60e12)),
    ({"H200"}, (989e12, 494e12, 67e12)),
    ({"GH200"}, (989e12, 494e12, 67e12)),
    ({"H100", "NVL"}, (835e12, 417e12, 60e12)),
    ({"H100", "PCIe"}, (756e12, 378e12, 51e12)),
    ({"H100"}, (989e12, 494e12, 67e12)),
    ({"A100"}, (312e12, 156e12, 19.5e12)),
    ({"A10"}, (125e12, 62.5e12, 31.2e12)),
    ({"L40S"}, (362e12, 183e12, 91.6e12)),
    ({"L4"}, (121e12, 60e12, 30.3e12)),
    ({"V100", "PCIE"}, (112e12, 0, 14e12)),
    ({"V100"}, (125e12, 0, 15.7e12)),
    ({"T4"}, (65e12, 0, 8.1e12)),
    ({"RTX", "4090"}, (165e12, 82.6e12, 82.6e12)),
    ({"RTX", "3090"}, (71e12, 35.6e12, 35.6e12)),
    ({"MI300X"}, (1307e12, 653e12, 163e12)),
    ({"MI250X"}, (191.5e12, 0, 47.9e12)),
]
_OTHERS = {"Laptop", "D", "Ti", "SUPER", "MIG"}  # Words that make another device of one in the list.


def known_peak(device: torch.device, precision: str, model: nn.Module) -> tuple[float | None, str]:
    """Return the most FLOP/s of ``device`` as ``model`` is trained on it, None if not known, and its name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"the device {device.type!r}"
    dtypes = {parameter.dtype for parameter in model.parameters()}
    is_half = precision != "fp32" or dtypes <= {torch.bfloat16, torch.float16}
    return peak_of(name, "half" if is_half else "tf32" if _uses_tf32() else "float32"), name


def peak_of(name: str, kind: str) -> float | None:
    """Return the most FLOP/s of a device by its name, in ``half``, ``tf32`` or ``float32``, if known."""
    words = set(re.split(r"[\s-]+", name))
    if words & _OTHERS:
        return None
    half, tf32, float32 = next((peaks for wanted, peaks in _PEAKS if wanted <= words), (0.0, 0.0, 0.0))
    peaks = {"half": half, "tf32": tf32 or float32, "float32": float32}
    return peaks[kind] or None


def _uses_tf32() -> bool:
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # It was set in torch's newer way, per backend, and cannot be read in this one.
        return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")
