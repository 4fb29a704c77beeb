"""Nested state as a JSON tree and named tensors, and back, exactly.

None, bool, str, finite floats, ints of 64 bits, lists and dicts with str keys stand in the tree as they are.
Everything else is an object with one key that begins with ``$``, such as ``{"$tuple": [1, 2]}``; a plain dict
with such a key is stored as ``{"$dict": [[key, value], ...]}``, so nothing a state holds is taken for a tag.
"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch

from hookline.checkpoint.tensors import native_name
from hookline.errors import CheckpointError, Problem

__all__ = ["MAX_DEPTH", "MAX_NODES", "decode", "encode"]

MAX_DEPTH = 64
MAX_NODES = 10_000_000

_HOLDS = (
    "None, bool, int, float, str, bytes, list, tuple, set, dict (keys: None, bool, number, str or bytes), "
    "NumPy numbers and arrays, dense torch tensors, torch.Size or torch.dtype"
)
_KEYS = (type(None), bool, int, float, str, bytes, np.generic)
_NUMPY_TYPE = re.compile(r"[<>|=][biufc]\d{1,2}")
_TORCH_TYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous()


def encode(
    state: Any,
    *,
    component: str = "state",
    to_host: Callable[[torch.Tensor], torch.Tensor] = _shared,
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return ``state`` as data for ``json.dumps`` and contiguous CPU tensors that share no storage.

    A tensor is named by its path, joined by ``/``: a model's state dict keeps its own names. Tensors that are
    one and the same view are stored once and are one tensor again after `decode`; strides of dense tensors
    are kept, ``requires_grad`` is not. By default CPU tensors may share memory with ``state``: write them
    before the next update. Nothing else is shared.

    Args:
        state: Nested data; parameters count as tensors, other subclasses of the types held are refused.
        component: What ``state`` belongs to; the start of the path in an error.
        to_host: Returns a tensor as a contiguous one on the CPU.

    Raises:
        CheckpointError: If ``state`` holds anything else, or is nested deeper than `MAX_DEPTH`.
    """
    encoder = _Encoder(component, to_host)
    return encoder.encode(state), encoder.tensors


def decode(tree: Any, tensors: Mapping[str, torch.Tensor], *, component: str = "state") -> Any:
    """Return the state that `encode` turned into ``tree`` and ``tensors``; never runs code that they name.

    Raises:
        CheckpointError: If a tag is unknown or malformed, a tensor missing or unused, or a limit exceeded.
    """
    decoder = _Decoder(tensors)
    try:
        state = decoder.decode(tree, 0)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RuntimeError, struct.error) as error:
        raise _malformed(component, f"{type(error).__name__}: {error}") from error
    except _Malformed as error:
        raise _malformed(component, str(error)) from error
    if unused := tensors.keys() - decoder.used:
        raise _malformed(component, f"tensors that nothing refers to: {', '.join(sorted(unused))}")
    return state


class _Encoder:
    def __init__(self, component: str, to_host: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.component, self.to_host = component, to_host
        self.tensors: dict[str, torch.Tensor] = {}
        self.path: list[Any] = []
        self.num_nodes = 0
        self.stored: dict[Any, Any] = {}
        self.storages: set[int] = set()

    def encode(self, value: Any) -> Any:
        self.num_nodes += 1
        if len(self.path) > MAX_DEPTH or self.num_nodes > MAX_NODES:
            self.refuse(f"at most {MAX_DEPTH} levels and {MAX_NODES} values", type(value))
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind in _ENCODERS:
            return _ENCODERS[kind](self, value)
        if isinstance(value, np.generic) and _NUMPY_TYPE.fullmatch(value.dtype.str):
            return {"$numpy": [value.dtype.str, value.tobytes().hex()]}
        return self.refuse(_HOLDS, kind)

    def refuse(self, expected: str, got: Any) -> Any:
        path = self.path if len(self.path) <= MAX_DEPTH else [*self.path[:5], "…"]
        where = ".".join([self.component, *map(_shown, path)])
        fix = "Return plain data from its state_dict(), and rebuild the rest in load_state_dict()"
        raise CheckpointError(str(Problem(f"checkpoint: {where}", expected, got, fix=fix)))

    def child(self, key: Any, value: Any) -> Any:
        self.path.append(key)
        node = self.encode(value)
        self.path.pop()
        return node

    def number(self, value: int) -> Any:
        # Beyond 64 bits JSON readers round, and Python limits the digits it parses; hexadecimal avoids both.
        return value if -(2**63) <= value < 2**63 else {"$int": hex(value)}

    def real(self, value: float) -> Any:
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}

    def text(self, value: str) -> Any:
        return value if _is_unicode(value) else {"$str": value.encode("utf-8", "surrogatepass").hex()}

    def raw(self, value: bytes) -> Any:
        return {"$bytes": base64.b64encode(value).decode()}

    def items(self, values: Collection[Any]) -> list[Any]:
        return [self.child(index, value) for index, value in enumerate(values)]

    def members(self, values: Collection[Any]) -> list[Any]:
        for value in values:
            if not isinstance(value, _KEYS):
                self.refuse("a set of None, bool, numbers, str or bytes", type(value))
        # Hashes of str differ from process to process; equal states shall give equal files.
        return sorted(self.items(values), key=json.dumps)

    def mapping(self, value: Mapping[Any, Any]) -> Any:
        if all(type(key) is str and not key.startswith("$") and _is_unicode(key) for key in value):
            return {key: self.child(key, item) for key, item in value.items()}
        for key in value:
            if not isinstance(key, _KEYS):
                self.refuse("keys that are None, bool, numbers, str or bytes", type(key))
        return {"$dict": [[self.encode(key), self.child(key, item)] for key, item in value.items()]}

    def ordered(self, value: OrderedDict[Any, Any]) -> Any:
        # A module's state dict carries the versions of its layers in this attribute.
        return {"$ordered": [self.mapping(value), self.child("_metadata", getattr(value, "_metadata", None))]}

    def array(self, value: np.ndarray[Any, Any]) -> Any:
        if not _NUMPY_TYPE.fullmatch(value.dtype.str):
            self.refuse("a NumPy array of numbers or bool", value.dtype)
        name = self.unused_name()
        raw = np.array(value, order="C").reshape(-1).view(np.uint8)
        self.tensors[name] = torch.from_numpy(raw)
        return {"$array": [name, value.dtype.str, list(value.shape)]}

    def tensor(self, value: torch.Tensor) -> Any:
        value = value.detach()
        if value.layout is not torch.strided or value.is_quantized or value.device.type == "meta":
            self.refuse(
                "a dense tensor that is not quantized and holds data",
                (value.layout, value.dtype, value.device),
            )
        pointer = value.untyped_storage().data_ptr()
        form = (value.dtype, value.shape, value.stride(), value.is_conj(), value.is_neg())
        view = (value.device, pointer, value.storage_offset(), *form)
        if pointer == 0 or view not in self.stored:
            self.stored[view] = self.store(value)
        return self.stored[view]

    def store(self, value: torch.Tensor) -> Any:
        name = self.unused_name()
        data = self.to_host(value.resolve_conj().resolve_neg())
        native = native_name(value.dtype) is not None
        if not native:
            data = data.reshape(-1).view(torch.uint8)
        if data.untyped_storage().data_ptr() in self.storages:
            data = data.clone()
        self.storages.add(data.untyped_storage().data_ptr())
        self.tensors[name] = data
        if native and not _keeps_strides(value):
            return {"$tensor": name}
        strides = list(value.stride()) if _keeps_strides(value) else None
        return {"$tensor": [name, None if native else str(value.dtype), list(value.shape), strides]}

    def unused_name(self) -> str:
        name = "/".join(map(_shown, self.path)) or "value"
        # safetensors keeps "__metadata__" for itself.
        if name in self.tensors or name == "__metadata__" or not _is_unicode(name):
            name = next(n for i in range(len(self.tensors) + 1) if (n := f"tensor_{i}") not in self.tensors)
        return name


_ENCODERS: dict[type, Callable[[_Encoder, Any], Any]] = {
    int: _Encoder.number,
    float: _Encoder.real,
    str: _Encoder.text,
    bytes: _Encoder.raw,
    list: _Encoder.items,
    tuple: lambda encoder, value: {"$tuple": encoder.items(value)},
    torch.Size: lambda encoder, value: {"$size": encoder.items(value)},
    set: lambda encoder, value: {"$set": encoder.members(value)},
    frozenset: lambda encoder, value: {"$frozenset": encoder.members(value)},
    dict: _Encoder.mapping,
    Counter: lambda encoder, value: {"$counter": encoder.mapping(value)},
    OrderedDict: _Encoder.ordered,
    np.ndarray: _Encoder.array,
    torch.Tensor: _Encoder.tensor,
    torch.nn.Parameter: _Encoder.tensor,
    torch.dtype: lambda encoder, value: {"$dtype": str(value)},
}


class _Malformed(Exception):
    """A tree that `encode` cannot have made."""


class _Decoder:
    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self.used: set[str] = set()
        self.shared: dict[str, tuple[Any, torch.Tensor]] = {}
        self.num_nodes = 0

    def decode(self, node: Any, depth: int) -> Any:
        self.num_nodes += 1
        if depth > MAX_DEPTH or self.num_nodes > MAX_NODES:
            raise _Malformed(f"more than {MAX_DEPTH} levels or {MAX_NODES} values")
        if node is None or type(node) in (bool, int, float, str):
            return node
        if type(node) is list:
            return self.items(node, depth)
        if type(node) is not dict:
            raise _Malformed(f"a {type(node).__name__}")
        tag = next((key for key in node if not isinstance(key, str) or key.startswith("$")), None)
        if tag is None:
            return {key: self.decode(value, depth + 1) for key, value in node.items()}
        if len(node) != 1 or tag not in _DECODERS:
            raise _Malformed(f"an unknown tag {tag!r}")
        return _DECODERS[tag](self, node[tag], depth)

    def items(self, nodes: Any, depth: int) -> list[Any]:
        return [self.decode(node, depth + 1) for node in _checked(nodes, list)]

    def mapping(self, pairs: Any, depth: int) -> dict[Any, Any]:
        value = {self.decode(key, depth): self.decode(item, depth + 1) for key, item in _checked(pairs, list)}
        if len(value) != len(pairs):
            raise _Malformed("a dict with one key twice")
        return value

    def ordered(self, payload: Any, depth: int) -> OrderedDict[Any, Any]:
        items, metadata = payload
        value = OrderedDict(_checked(self.decode(items, depth), dict))
        if metadata is not None:
            value._metadata = self.decode(metadata, depth + 1)  # type: ignore[attr-defined]
        return value

    def array(self, payload: Any) -> np.ndarray[Any, Any]:
        name, dtype, shape = payload
        self.used.add(name)
        flat = np.frombuffer(self.tensors[name].numpy().tobytes(), _numpy_type(dtype))
        return np.array(flat.reshape(shape))

    def tensor(self, payload: Any) -> torch.Tensor:
        name = payload if isinstance(payload, str) else payload[0]
        if name not in self.shared:
            self.shared[name] = (payload, self.view(payload))
            self.used.add(name)
        stored_as, value = self.shared[name]
        if stored_as != payload:
            raise _Malformed(f"tensor {name!r} in two forms")
        return value

    def view(self, payload: Any) -> torch.Tensor:
        if isinstance(payload, str):
            return self.tensors[payload]
        name, dtype, shape, strides = payload
        value = self.tensors[name]
        if dtype is not None:
            value = value.view(_TORCH_TYPES[dtype]).reshape(shape)
        if strides is None:
            return value
        span = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, strides, strict=True))
        if span != value.numel():
            raise _Malformed(f"strides {strides} for shape {list(value.shape)}")
        return torch.empty_strided(value.shape, strides, dtype=value.dtype).copy_(value)


_DECODERS: dict[str, Callable[[_Decoder, Any, int], Any]] = {
    "$int": lambda _, payload, __: int(payload, 16),
    "$float": lambda _, payload, __: struct.unpack(">d", bytes.fromhex(payload))[0],
    "$str": lambda _, payload, __: bytes.fromhex(payload).decode("utf-8", "surrogatepass"),
    "$bytes": lambda _, payload, __: base64.b64decode(payload, validate=True),
    "$tuple": lambda decoder, payload, depth: tuple(decoder.items(payload, depth)),
    "$size": lambda decoder, payload, depth: torch.Size(decoder.items(payload, depth)),
    "$set": lambda decoder, payload, depth: set(decoder.items(payload, depth)),
    "$frozenset": lambda decoder, payload, depth: frozenset(decoder.items(payload, depth)),
    "$dict": _Decoder.mapping,
    "$counter": lambda decoder, payload, depth: Counter(_checked(decoder.decode(payload, depth), dict)),
    "$ordered": _Decoder.ordered,
    "$numpy": lambda _, payload, __: _numpy_number(*payload),
    "$array": lambda decoder, payload, _: decoder.array(payload),
    "$tensor": lambda decoder, payload, _: decoder.tensor(payload),
    "$dtype": lambda _, payload, __: _TORCH_TYPES[payload],
}


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise _Malformed(f"a {type(value).__name__} instead of a {kind.__name__}")
    return value


def _numpy_type(text: str) -> np.dtype[Any]:
    if not _NUMPY_TYPE.fullmatch(text):
        raise _Malformed(f"a NumPy type {text!r}")
    return np.dtype(text)


def _numpy_number(dtype: str, raw: str) -> Any:
    return np.frombuffer(bytes.fromhex(raw), _numpy_type(dtype)).reshape(())[()]


def _shown(key: Any) -> str:
    # Python refuses to write out thousands of decimal digits.
    return hex(key) if type(key) is int and abs(key) >= 2**63 else str(key)


def _is_unicode(text: str) -> bool:
    """Whether ``text`` survives UTF-8 and JSON: half a surrogate pair, as in some file names, does not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _keeps_strides(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` is dense in an order of its own (``channels_last``), which a resume must keep."""
    if tensor.numel() == 0 or (tensor.is_contiguous() and 1 not in tensor.shape):
        return False  # at once, as nearly always: a dimension of one element may have any stride
    if tensor.stride() == torch.empty(tensor.shape, device="meta").stride():
        return False
    return torch.empty_like(tensor, device="meta").stride() == tensor.stride()


def _malformed(component: str, got: str) -> CheckpointError:
    return CheckpointError(f"checkpoint: {component}: expected a state that hookline wrote, got {got}")
