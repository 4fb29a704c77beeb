"""Tensors in any nesting; what a StepKernel does with a batch is in test_kernel.py."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from hookline import to_device
from hookline.nesting import map_tensors

Pair = namedtuple("Pair", "left right")
ONE = torch.ones(1)


@dataclass(frozen=True)
class Sample:
    image: object
    name: str = ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ONE, [1]),
        ([ONE, (2, ONE)], [[1], (2, [1])]),
        ({"a": ONE, "b": None}, {"a": [1], "b": None}),
        (OrderedDict(a=ONE), OrderedDict(a=[1])),
        (defaultdict(list, a=ONE), defaultdict(list, a=[1])),
        (Pair(ONE, "text"), Pair([1], "text")),
        (Sample([ONE], "text"), Sample([[1]], "text")),
        (Sample, Sample),
        ({1}, {1}),
    ],
)
def test_every_tensor_is_replaced_and_containers_are_copied(value, expected):
    mapped = map_tensors(value, lambda tensor: tensor.int().tolist())
    assert mapped == expected
    assert type(mapped) is type(expected)
    assert ONE.dtype == torch.float32


def test_what_has_a_method_to_is_one_tensor():
    packed = nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
    assert map_tensors([packed], type) == [nn.utils.rnn.PackedSequence]


def test_to_device_sends_every_tensor():
    sent = to_device({"x": [ONE], "name": "text"}, torch.device("meta"))
    assert sent["x"][0].device.type == "meta"
    assert sent["name"] == "text"
