"""A file of tensors is one of the safetensors format, the same for the same tensors, and written piece by piece."""

import json
import struct

import pytest
import safetensors.torch
import torch

from hookline.checkpoint import tensors
from hookline.durable import write_new

NATIVE = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def made(dtype, *shape):
    size = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (size,), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def same(left, right):
    raw = [tensor.reshape(-1).view(torch.uint8) for tensor in (left, right)]
    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(*raw)


@pytest.fixture
def every():
    shapes = [(), (1,), (3, 5), (0,), (2, 0, 3)]
    return {f"{dtype}/{shape} é🙂": made(dtype, *shape) for dtype in NATIVE for shape in shapes}


def test_every_type_of_the_format_is_native():
    assert all(tensors.native_name(dtype) for dtype in NATIVE)
    assert tensors.native_name(torch.complex128) is None


def test_the_library_and_this_package_read_what_was_written(tmp_path, every):
    write_new(tmp_path / "a.safetensors", tensors.pieces(every))
    for read in (safetensors.torch.load_file, tensors.read):
        loaded = read(tmp_path / "a.safetensors")
        assert loaded.keys() == every.keys()
        assert all(same(loaded[name], value) for name, value in every.items())


def test_every_tensor_is_aligned_and_none_is_left_out(every):
    raw = b"".join(tensors.pieces(every))
    (size,) = struct.unpack("<Q", raw[:8])
    head = json.loads(raw[8 : 8 + size])
    assert size % 8 == 0
    assert head.pop("__metadata__") == {"format": "pt"}
    places = sorted(entry["data_offsets"] for entry in head.values())
    assert [end for _, end in places][:-1] == [start for start, _ in places][1:]
    assert places[-1][1] == len(raw) - 8 - size
    for name, entry in head.items():
        assert entry["data_offsets"][0] % every[name].element_size() == 0


def test_equal_tensors_in_any_order_give_equal_files(every):
    turned = dict(reversed([(name, value.clone()) for name, value in every.items()]))
    assert b"".join(tensors.pieces(every)) == b"".join(tensors.pieces(turned))


def test_no_tensor_is_copied_and_none_is_touched_before_its_turn():
    named = {"a": torch.zeros(1000), "b": torch.zeros(1000)}
    pieces = tensors.pieces(named)
    next(pieces)
    first = next(pieces)
    named["a"][0] = 7.0
    assert struct.unpack("<f", first[:4]) == (7.0,)
    assert len(first) == 4000


def test_what_is_read_is_no_view_of_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    write_new(path, tensors.pieces({"a": torch.ones(3)}))
    loaded = tensors.read(path)["a"]
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert loaded.tolist() == [1.0, 1.0, 1.0]
