"""What `encode` holds, `decode` gives back the same: types, bits, order, ties; and nothing else gets in."""

import json
import math
import struct
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from hookline.checkpoint import codec
from hookline.checkpoint.codec import MAX_DEPTH, decode, encode
from hookline.checkpoint.tensors import native_name
from hookline.errors import CheckpointError


def same(left, right):
    """Whether two states are equal to the bit, types and order of keys included."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        raw = (
            left.contiguous().reshape(-1).view(torch.uint8),
            right.contiguous().reshape(-1).view(torch.uint8),
        )
        return left.dtype == right.dtype and left.shape == right.shape and torch.equal(*raw)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, np.generic):
        return left.dtype == right.dtype and left.tobytes() == right.tobytes()
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right)
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def round_trip(state):
    tree, tensors = encode(state)
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in tensors.values())
    on_disk = safetensors.torch.load(safetensors.torch.save(tensors))
    return decode(json.loads(json.dumps(tree, allow_nan=False)), on_disk)


NEGATIVE_NAN_WITH_PAYLOAD = struct.unpack(">d", bytes.fromhex("fff8000000000abc"))[0]
PLAIN = [
    None,
    True,
    False,
    0,
    -1,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    2**63,
    -(2**63) - 1,
    -(7**9000),
    0.1,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    math.inf,
    -math.inf,
    math.nan,
    NEGATIVE_NAN_WITH_PAYLOAD,
    "",
    "$tuple",
    'quotes " and \\ and \n and \x00',
    "Grüße 🙂",
    "\ud800",
    "\ud83d\ude00",
    b"",
    bytes(range(256)),
    [],
    (),
    {},
    set(),
    frozenset(),
    [[], [[]], ()],
    (1, (2.0, [3, None])),
    {1, "1", 1.5, None, b"1"},
    frozenset({1, 2**70}),
    {"a": 1, "b": [1, {"c": (1,)}]},
    {"b": 1, "a": 2},
    {0: "int", "0": "str", 0.5: "float", None: "none", b"x": "bytes"},
    {False: "bool"},
    {2**80: 1, 7**9000: [2]},
    {7**9000},
    {"$tuple": [1, 2]},
    {"$": 1, "plain": 2},
    {"$dict": [["k", "v"]]},
    {"\udfff": 1},
    {"\ud83d\ude00": 1},
    {"__metadata__": 1},
    Counter({"a": 2, 3: 1}),
    OrderedDict([("b", 1), ("a", 2)]),
    OrderedDict([(1, 2)]),
    torch.Size([2, 0, 3]),
    torch.Size([]),
    torch.float32,
    torch.bfloat16,
    torch.float8_e4m3fn,
]


@pytest.mark.parametrize("state", PLAIN, ids=lambda state: type(state).__name__)
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"key": [s, (s,)]}], ids=["bare", "nested"])
def test_plain_values_come_back_the_same(state, wrap):
    assert same(round_trip(wrap(state)), wrap(state))


NUMPY_TYPES = sorted(
    {np.dtype(code).str for code in "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]}
)


@pytest.mark.parametrize("name", NUMPY_TYPES)
def test_numpy_numbers_and_arrays_come_back_the_same(name):
    dtype = np.dtype(name)
    raw = np.arange(24 * dtype.itemsize, dtype=np.uint8).tobytes()
    array = np.array([0, 1] * 12, dtype) if dtype.kind == "b" else np.frombuffer(raw, dtype).copy()
    state = {
        "number": array[1],
        "key": {array[1]: 1},
        "arrays": [
            array,
            array.reshape(2, 3, 4),
            array.reshape(4, 6).T,
            array[::2],
            array[:0],
            array.reshape(24)[3:4].reshape(()),
        ],
        "fortran": np.asfortranarray(array.reshape(4, 6)),
        "big_endian": array.astype(dtype.newbyteorder(">")),
    }
    loaded = round_trip(state)
    assert same(loaded, state)
    loaded["arrays"][0][0] = 1  # a loaded array can be written to


def test_numpy_rng_keys_come_back_the_same():
    generator = np.random.Generator(np.random.MT19937(3))
    generator.random(7)
    state = generator.bit_generator.state
    assert same(round_trip(state), state)
    pcg = np.random.default_rng(1)
    loaded = np.random.default_rng(2)
    loaded.bit_generator.state = round_trip(pcg.bit_generator.state)  # 128-bit integers
    assert loaded.random() == pcg.random()


TORCH_TYPES = [
    dtype
    for name, dtype in sorted(vars(torch).items())
    if isinstance(dtype, torch.dtype)
    and name == str(dtype).split(".")[1]
    and "q" not in name
    and name != "complex32"
]


def test_every_torch_type_is_tried():
    assert {
        torch.float64,
        torch.bfloat16,
        torch.bool,
        torch.uint16,
        torch.complex64,
        torch.complex128,
    } <= set(TORCH_TYPES)
    assert len(TORCH_TYPES) > 20


@pytest.mark.parametrize("dtype", TORCH_TYPES, ids=str)
def test_tensors_of_every_type_and_shape_come_back_the_same(dtype):
    def made(*shape):
        size = math.prod(shape) * dtype.itemsize
        raw = torch.randint(0, 2 if dtype == torch.bool else 256, (size,), dtype=torch.uint8)
        return raw.view(dtype).reshape(shape)

    state = [made(), made(1), made(7), made(2, 3, 4), made(0), made(3, 0, 2)]
    assert same(round_trip(state), state)


def test_non_contiguous_tensors_come_back_with_their_values():
    base = torch.arange(24.0).reshape(4, 6)
    state = [base[:, ::2], base[1:3, 1:3], base[0].expand(5, 6), torch.arange(3.0).flip(0), base[1]]
    assert same(round_trip(state), state)


def test_lazily_conjugated_and_negated_tensors_are_stored_as_they_read():
    value = torch.tensor([1 + 2j, 3 - 4j])
    state = [value.conj(), value.conj().imag, value, torch.tensor([1 + 2j]).conj().imag]
    loaded = round_trip(state)
    assert [tensor.tolist() for tensor in loaded] == [tensor.tolist() for tensor in state]
    assert not any(tensor.is_conj() or tensor.is_neg() for tensor in loaded)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.rand(8, 4, 1, 1).to(memory_format=torch.channels_last),
        torch.rand(3, 4).t(),
        torch.rand(2, 3, 4).permute(2, 0, 1),
        torch.rand(3, 4, dtype=torch.complex128).t(),
    ],
    ids=["channels_last", "one_by_one", "transposed", "permuted", "complex128"],
)
def test_dense_tensors_keep_their_strides(tensor):
    loaded = round_trip(tensor)
    assert same(loaded, tensor)
    assert loaded.stride() == tensor.stride()


@pytest.mark.parametrize(
    "tensor", [torch.empty(3, 0).t(), torch.zeros(1).expand(4), torch.zeros(4, 4)[:, :2]]
)
def test_tensors_with_gaps_or_overlaps_become_contiguous(tensor):
    assert round_trip(tensor).is_contiguous()


def test_tied_tensors_are_stored_once_and_tied_again():
    weight = torch.nn.Parameter(torch.rand(3, 2))
    state = {
        "a": weight,
        "deep": [weight.detach()],
        "view": weight.detach().view(3, 2),
        "other": torch.rand(3, 2),
    }
    tree, tensors = encode(state)
    assert len(tensors) == 2
    loaded = decode(tree, {name: tensor.clone() for name, tensor in tensors.items()})
    loaded["a"].zero_()
    assert loaded["deep"][0].abs().sum() == loaded["view"].abs().sum() == 0
    assert loaded["other"].abs().sum() > 0


@pytest.mark.parametrize(
    "pair",
    [
        lambda x: (x, x[:2]),
        lambda x: (x[:3], x[1:]),
        lambda x: (x, x.t()),
        lambda x: (x, x.view(16)),
        lambda x: (x, x.view(torch.int32)),
    ],
    ids=["part", "overlap", "transposed", "reshaped", "reinterpreted"],
)
def test_other_views_of_one_storage_are_stored_apart(pair):
    state = pair(torch.rand(4, 4))
    tree, tensors = encode(state)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == 2
    loaded = decode(tree, tensors)
    assert same(loaded, state)


def test_empty_tensors_are_not_taken_for_tied():
    state = [torch.empty(0), torch.empty(0)]
    loaded = round_trip(state)
    assert loaded[0] is not loaded[1]


def test_gradients_are_not_part_of_a_state():
    loaded = round_trip({"p": torch.nn.Parameter(torch.rand(2)), "y": torch.rand(2, requires_grad=True) * 2})
    assert type(loaded["p"]) is torch.Tensor
    assert not loaded["p"].requires_grad
    assert not loaded["y"].requires_grad


def test_a_models_state_dict_keeps_its_names_order_and_versions():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    state = model.state_dict()
    tree, tensors = encode(state)
    assert list(tensors) == list(state)
    loaded = decode(tree, tensors)
    assert type(loaded) is OrderedDict
    assert same(loaded, state)
    assert loaded._metadata == state._metadata
    model.load_state_dict(loaded)


def test_names_that_collide_or_are_reserved_still_load():
    state = {
        "a/b": torch.tensor(1),
        "a": {"b": torch.tensor(2)},
        "__metadata__": torch.tensor(3),
        "\ud800": torch.tensor(4),
        "tensor_1": torch.tensor(5),
        "": torch.tensor(6),
        7**9000: torch.tensor(7),
    }
    tree, tensors = encode(state)
    assert "__metadata__" not in tensors
    assert len(tensors) == 7
    assert len({name.encode() for name in tensors}) == 7
    assert same(decode(tree, tensors), state)


SCHEDULERS = [
    lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
    lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 3]),
    lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 10),
    lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o),
    lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1.0),
]


@pytest.mark.parametrize("make", SCHEDULERS)
def test_states_of_torch_schedulers_are_held(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    state = make(optimizer).state_dict()
    assert same(round_trip(state), state)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, amsgrad=True),
        lambda p: torch.optim.AdamW(p, fused=True, lr=torch.tensor(1e-3)),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.LBFGS(p),
        lambda p: torch.optim.Adafactor(p),
        lambda p: torch.optim.Rprop(p),
        lambda p: torch.optim.NAdam(p),
    ],
)
def test_states_of_torch_optimizers_are_held(make):
    parameter = torch.nn.Parameter(torch.rand(3, 2))
    optimizer = make([parameter])

    def closure():
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    state = optimizer.state_dict()
    loaded = round_trip(state)
    assert same(loaded, state)
    make([parameter]).load_state_dict(loaded)


Point = namedtuple("Point", "x y")


class Text(str):
    pass


@pytest.mark.parametrize(
    "value",
    [
        object(),
        print,
        lambda: None,
        int,
        1j,
        range(3),
        bytearray(b"x"),
        Path("x"),
        Point(1, 2),
        Text("x"),
        deque([1]),
        defaultdict(int),
        np.array([object()], dtype=object),
        np.array(["text"]),
        np.datetime64("2024-01-01"),
        np.str_("x"),
        np.ma.array([1], mask=[True]),
        np.zeros(1, dtype=[("a", "i4")]),
        torch.device("cpu"),
        torch.Generator(),
        torch.zeros(2, device="meta"),
        torch.sparse_coo_tensor([[0]], [1.0], (2,), check_invariants=True),
        torch.nn.Linear(1, 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_held_is_refused_with_its_path(value):
    with pytest.raises(
        CheckpointError, match=r"checkpoint: hooks\.slow-eval\.history\.1: expected .*state_dict"
    ):
        encode({"slow-eval": {"history": [1, value]}}, component="hooks")


@pytest.mark.parametrize("key", [(1, 2), frozenset(), torch.float32, np.str_("x"), Text("x")], ids=repr)
def test_other_keys_are_refused(key):
    with pytest.raises(CheckpointError, match="checkpoint: state: expected"):
        encode({key: 1})


def test_a_set_of_other_things_is_refused():
    with pytest.raises(CheckpointError, match="a set of"):
        encode({(1, 2)})


def test_equal_sets_give_equal_text_whatever_their_hashes():
    letters = [chr(97 + i) for i in range(26)]
    assert encode(set(letters))[0] == {"$set": letters}
    assert encode({3, "b", 1, None})[0] == {"$set": ["b", 1, 3, None]}


def nested(levels, wrap, core=0):
    for _ in range(levels):
        core = wrap(core)
    return core


WRAPS = {
    "list": lambda s: [s],
    "tuple": lambda s: (s,),
    "dict": lambda s: {"k": s},
    "tagged dict": lambda s: {0: s},
    "ordered": lambda s: OrderedDict([(0, s)]),
    "counter": lambda s: Counter({0: s}),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_nesting_is_held_up_to_the_limit_and_refused_beyond(wrap):
    state = nested(MAX_DEPTH, wrap)
    assert same(round_trip(state), state)
    with pytest.raises(CheckpointError, match="levels"):
        encode(wrap(state))


def test_a_state_that_holds_itself_is_refused():
    state = {}
    state["self"] = [state]
    with pytest.raises(CheckpointError, match=r"hooks\.self\.0\.self\.0\.self\.…: expected at most"):
        encode(state, component="hooks")


def test_too_many_values_are_refused(monkeypatch):
    monkeypatch.setattr(codec, "MAX_NODES", 100)
    assert round_trip([0] * 99) == [0] * 99
    with pytest.raises(CheckpointError, match="100 values"):
        encode([0] * 100)
    with pytest.raises(CheckpointError, match="100 values"):
        decode([0] * 100, {})


WEIGHT = {"w": torch.arange(6.0).reshape(2, 3)}
RAW = {"w": torch.zeros(32, dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("tree", "tensors"),
    [
        ({"$unknown": 1}, {}),
        ({"$tuple": [1], "more": 2}, {}),
        ({"$tuple": [1], "$list": 2}, {}),
        ({"$tuple": 3}, {}),
        ({"$tuple": "text"}, {}),
        ({"$int": 3}, {}),
        ({"$int": "0xzz"}, {}),
        ({"$float": "00"}, {}),
        ({"$float": "zz"}, {}),
        ({"$float": None}, {}),
        ({"$str": "ff"}, {}),
        ({"$bytes": "a"}, {}),
        ({"$bytes": "!!!!"}, {}),
        ({"$set": [[]]}, {}),
        ({"$dict": [[1]]}, {}),
        ({"$dict": [[1, 2, 3]]}, {}),
        ({"$dict": {"a": 1}}, {}),
        ({"$dict": [[[], 1]]}, {}),
        ({"$dict": [[1, "a"], [1, "b"]]}, {}),
        ({"$ordered": [1, None]}, {}),
        ({"$ordered": [{}]}, {}),
        ({"$counter": []}, {}),
        ({"$numpy": ["|O", "0000000000000000"]}, {}),
        ({"$numpy": ["<i8", "00"]}, {}),
        ({"$numpy": ["S2", "0000"]}, {}),
        ({"$array": ["w", "S8", [4]]}, RAW),
        ({"$numpy": ["<i4", "0000000000000000"]}, {}),
        ({"$numpy": ["<i99", "00"]}, {}),
        ({"$size": ["a"]}, {}),
        ({"$dtype": "torch.load"}, {}),
        ({"$dtype": ["torch.float32"]}, {}),
        ({"$tensor": "missing"}, {}),
        ({"$tensor": 3}, {}),
        ({"$tensor": []}, {}),
        ({"$tensor": ["w"]}, WEIGHT),
        ({"$tensor": ["w", "torch.nothing", [2], None]}, RAW),
        ({"$tensor": ["w", "torch.complex128", [3], None]}, RAW),
        ({"$tensor": ["w", None, [2, 3], [1, 1]]}, WEIGHT),
        ({"$tensor": ["w", None, [2, 3], [2**40, 1]]}, WEIGHT),
        ({"$tensor": ["w", None, [2, 3], [-3, 1]]}, WEIGHT),
        ({"$tensor": ["w", None, [2, 3], [1]]}, WEIGHT),
        ({"$tensor": ["w", None, [2, 3], ["1", "2"]]}, WEIGHT),
        ([{"$tensor": "w"}, {"$tensor": ["w", None, [2, 3], [1, 2]]}], WEIGHT),
        ({"$array": ["w", "<f8", [5]]}, RAW),
        ({"$array": ["w", "|O", [4]]}, RAW),
        ({"$array": ["w"]}, RAW),
        ({"$array": [["w"], "<f8", [4]]}, RAW),
        ([], WEIGHT),
        (object(), {}),
        ({1: 2}, {}),
        (nested(MAX_DEPTH + 1, WRAPS["list"]), {}),
        (nested(MAX_DEPTH + 1, WRAPS["dict"]), {}),
        (nested(MAX_DEPTH + 1, lambda s: {"$dict": [[0, s]]}), {}),
        (nested(MAX_DEPTH + 1, lambda s: {"$tuple": [s]}), {}),
        ({"$array": ["w", "<f8", [2**70]]}, RAW),
        ({"$tensor": ["w", "torch.float64", [2**70], None]}, RAW),
        (nested(900, lambda s: {"$counter": s}), {}),
        (nested(900, lambda s: {"$ordered": [s, None]}), {}),
    ],
    ids=lambda value: str(next(iter(value), type(value).__name__))[:20] if type(value) is dict else "",
)
def test_what_encode_cannot_have_made_is_refused(tree, tensors):
    with pytest.raises(CheckpointError, match="checkpoint: optimizer: expected"):
        decode(tree, tensors, component="optimizer")


def test_a_reference_to_a_tensor_with_dangerous_strides_allocates_nothing():
    tree = {"$tensor": ["w", None, [2, 3], [2**45, 1]]}
    with pytest.raises(CheckpointError, match="strides"):
        decode(tree, WEIGHT)


def test_a_type_that_safetensors_would_change_is_stored_as_its_bytes(monkeypatch):
    monkeypatch.setattr(safetensors.torch, "load", lambda raw: {"one": torch.zeros(1, dtype=torch.float16)})
    native_name.cache_clear()
    tree, tensors = encode(torch.ones(3))
    native_name.cache_clear()
    assert tensors["value"].dtype == torch.uint8
    assert same(decode(tree, tensors), torch.ones(3))


def test_neither_side_pickles(no_pickle):
    state = {"t": torch.rand(2), "n": np.zeros(2), "x": (1, {2: 3})}
    assert same(round_trip(state), state)
