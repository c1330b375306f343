"""What a program gives, taken apart: nothing is passed over, and nothing that differs looks the same."""

from __future__ import annotations

import collections
import dataclasses
import enum
import json
from types import SimpleNamespace
from typing import Any

import pytest


@dataclasses.dataclass
class Point:
    x: Any
    y: Any


class Colour(enum.Enum):
    RED = 1


class Text(str):
    __slots__ = ()


Pair = collections.namedtuple("Pair", "left right")


@pytest.fixture
def taken(worker: SimpleNamespace) -> Any:
    """``taken(value)``: for each path, kind and value."""

    def take(value: Any) -> dict[str, tuple[str, Any]]:
        leaves = list(worker.values.leaves(value, "x"))
        assert len({leaf.name for leaf in leaves}) == len(leaves)
        return {leaf.name: (leaf.kind, leaf.value) for leaf in leaves}

    return take


@pytest.mark.parametrize(
    ("value", "kind", "plain"),
    [
        (None, "NoneType", None),
        (True, "bool", True),
        (1, "int", 1),
        (1.5, "float", 1.5),
        ("a", "str", "a"),
        (2j, "complex", [0.0, 2.0]),
        (Colour.RED, "test_values.Colour", "RED"),
        (Text("a"), "test_values.Text", "a"),
        ([], "list of 0: nothing", []),
        ([1, 2], "list of 2: int", [1, 2]),
        ((1, 2.0), "tuple of 2: float, int", [1, 2.0]),
        ([True, 1], "list of 2: bool, int", [True, 1]),
        (range(3), "range of 3: int", [0, 1, 2]),
        ({3, 1, 2}, "set of 3: int", [1, 2, 3]),
        (frozenset("ab"), "frozenset of 2: str", ["a", "b"]),
    ],
)
def test_plain_values(taken: Any, value: Any, kind: str, plain: Any) -> None:
    assert taken(value) == {"x": (kind, plain)}
    assert json.loads(json.dumps(taken(value)["x"][1])) == plain


def test_bytes(taken: Any) -> None:
    (kind, text) = taken(b"abc")["x"]
    assert (kind, text[:16]) == ("bytes", "3 bytes, sha256 ")
    assert taken(b"abd")["x"] != taken(b"abc")["x"] != taken(bytearray(b"abc"))["x"]


@pytest.mark.parametrize(
    ("value", "paths", "kind"),
    [
        ({"a": 1, "b": None}, ["x", "x.a", "x.b"], "dict of 2: a, b"),
        ({1: 1, "1": 2}, ["x", "x.1", "x.[1]"], "dict of 2: [1], 1"),
        ({"a.b": 1, "a": {"b": 2}}, ["x", "x.['a.b']", "x.a", "x.a.b"], "dict of 2: ['a.b'], a"),
        ([1, None], ["x", "x.0", "x.1"], "list of 2: 0, 1"),
        ({}, ["x"], "dict of 0: "),
        (Point(1, [2]), ["x", "x.x", "x.y"], "test_values.Point: x, y"),
        (Pair(None, 1), ["x", "x.0", "x.1"], "test_values.Pair of 2: 0, 1"),
        (collections.OrderedDict(a=None), ["x", "x.a"], "collections.OrderedDict of 1: a"),
    ],
)
def test_containers(taken: Any, worker: SimpleNamespace, value: Any, paths: list[str], kind: str) -> None:
    found = taken(value)
    assert found["x"] == (kind, worker.values.CONTAINER)
    assert sorted(found) == paths


@pytest.mark.parametrize("value", [object(), lambda: 1, (i for i in range(3)), open, ValueError("x")])
def test_what_cannot_be_compared_says_so(taken: Any, value: Any) -> None:
    assert list(taken(value)["x"][1]) == ["unsupported"]


def test_nested_without_end(taken: Any) -> None:
    value: list[Any] = []
    value.append(value)
    assert [v for _, v in taken(value).values() if isinstance(v, dict)] == [{"unsupported": "nested more than 20 deep"}]


class TestTensors:
    """With torch and numpy."""

    @pytest.fixture
    def torch(self) -> Any:
        return pytest.importorskip("torch")

    @pytest.mark.parametrize(
        "dtype",
        ["float32", "float64", "float16", "bfloat16", "complex64", "complex128", "bool", "int8", "int64", "uint8"],
    )
    @pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
    def test_every_type_and_shape(self, taken: Any, torch: Any, dtype: str, shape: tuple[int, ...]) -> None:
        value = torch.ones(shape, dtype=getattr(torch, dtype))
        ((kind, kept),) = taken(value).values()
        assert kind == f"torch.Tensor torch.{dtype} {shape} cpu requires_grad=False"
        assert (torch.equal(kept, value) and kept.data_ptr() != value.data_ptr()) or not value.numel()

    def test_is_a_copy(self, taken: Any, torch: Any) -> None:
        value = torch.zeros(4, 4).t()[::2].requires_grad_()
        kind, kept = taken(value)["x"]
        assert "requires_grad=True" in kind
        with torch.no_grad():
            value += 1
        assert not kept.any() and kept.is_contiguous() and not kept.requires_grad

    def test_lazy_conjugate_and_negative(self, taken: Any, torch: Any) -> None:
        value = torch.tensor([1 + 2j])
        assert taken(value.conj())["x"][1].tolist() == [1 - 2j]
        assert taken(value.conj().imag)["x"][1].tolist() == [-2]

    def test_parameters_and_plain_subclasses(self, taken: Any, torch: Any) -> None:
        class Own(torch.Tensor):  # type: ignore[misc, name-defined]
            pass

        assert type(taken(torch.nn.Parameter(torch.ones(1)))["x"][1]) is torch.Tensor
        kind, kept = taken(torch.ones(1).as_subclass(Own))["x"]
        assert "Own" in kind and type(kept) is torch.Tensor

    @pytest.mark.filterwarnings("ignore")  # torch says of most of these that they are young, or old
    def test_what_is_no_plain_block_of_numbers(self, taken: Any, torch: Any) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        odd = {
            "sparse_coo": torch.eye(2).to_sparse(),
            "sparse_csr": torch.sparse_csr_tensor([0, 1], [0], torch.ones(1), check_invariants=True),
            "meta": torch.ones(2, device="meta"),
            "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
            "nested": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
            "FakeTensor": FakeTensorMode().from_tensor(torch.ones(2)),
        }
        for word, value in odd.items():
            kept = taken(value)["x"][1]
            assert isinstance(kept, dict) and word in kept["unsupported"], word

    def test_numpy(self, taken: Any, torch: Any) -> None:
        numpy = pytest.importorskip("numpy")
        for value in (numpy.ones((2, 3), "float32"), numpy.float32(2.5), numpy.arange(6)[::-2], numpy.ones(())):
            kind, kept = taken(value)["x"]
            assert kind.startswith("numpy.") and str(value.dtype) in kind
            assert kept.tolist() == value.tolist()
        assert taken(numpy.float32(1))["x"][0] != taken(numpy.ones(1, "float32"))["x"][0]
        assert taken(numpy.array(["a", "b"]))["x"][1] == ["a", "b"]
        for odd in (numpy.array([object()]), numpy.array(["2020"], "datetime64[Y]"), numpy.ones(1, ">f4")):
            assert "unsupported" in taken(odd)["x"][1], odd

    def test_in_containers(self, taken: Any, torch: Any) -> None:
        found = taken({"a": [torch.ones(1), {"b": (torch.ones(2), 1.0)}], "c": "text"})
        assert sorted(found) == ["x", "x.a", "x.a.0", "x.a.1", "x.a.1.b", "x.a.1.b.0", "x.a.1.b.1", "x.c"]
