"""What is read from the arrays is what is read from the tensors, letter by letter, and comes with one copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from cases import constant
from counted import Launched, asked_for
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
numpy = pytest.importorskip("numpy")
SPACE: dict[str, Any] = {"torch": torch}
exec(constant("timellm_prompt_stats", "HELPER_TEXT"), SPACE)
on_host = SPACE["_on_host"]
FLOATS = ["float32", "bfloat16", "float16", "float64"]
WHOLE = ["int64", "int32", "int8", "uint8", "bool"]
VALUES = [0.0, -0.0, 0.1, -1.5, 1e-30, 3e38, 65504.0, 1 / 3, float("nan"), float("inf"), -float("inf")]
types = pytest.mark.parametrize("name", FLOATS + WHOLE)


def tensor(name: str, *shape: int) -> Any:
    """Of this type and shape, with values of which each type has others that are hard to keep."""
    kind = getattr(torch, name)
    count = int(numpy.prod(shape))
    if name in FLOATS:
        return torch.tensor((VALUES * count)[:count], dtype=torch.float64).to(kind).reshape(shape)
    if name == "bool":
        return (torch.arange(count) % 3 == 0).reshape(shape)
    information = torch.iinfo(kind)
    numbers = [information.max, information.min, 0, 1, information.max - 1]
    return torch.tensor((numbers * count)[:count], dtype=kind).reshape(shape)


def written(values: Any) -> list[str]:
    """Each row as a prompt has it."""
    found = []
    for b in range(len(values)):
        row = values[b].tolist()
        found.append(f"{row} {values[b].tolist()!s} {type(row)}")
        one = values[b] if values.ndim == 1 else values[b][0]
        found.append(f"{one.item()} {one.item()!s} {type(one.item())} {'up' if one > 0 else 'down'} {not one <= 1}")
        if isinstance(one.item(), float):
            found.append(f"{one.item():.3f} {one.item():g} {'same' if one == 0 else 'other'} {one.item():.2e}")
        if values.ndim == 1 or values.shape[1] == 1:
            found.append(f"{values[b].item()} {'up' if values[b] > 0 else 'down'}")
    return found


def same(tensors: Sequence[Any]) -> None:
    """The arrays read as the tensors do, and the tensors are as they were."""
    kept = [t.clone() for t in tensors]
    arrays = on_host(*tensors)
    assert all(isinstance(array, numpy.ndarray) for array in arrays)
    assert [array.shape for array in arrays] == [tuple(t.shape) for t in tensors]
    assert [written(array) for array in arrays] == [written(t) for t in tensors]
    assert all(
        torch.equal(t.isnan(), k.isnan()) and torch.equal(t.nan_to_num(), k.nan_to_num()) for t, k in zip(tensors, kept)
    )


@types
@pytest.mark.parametrize("shape", [(11,), (11, 1), (7, 5), (1,), (1, 1)])
def test_alone(name: str, shape: tuple[int, ...]) -> None:
    same([tensor(name, *shape)])


@types
@pytest.mark.parametrize("other", ["float32", "float64", "int64", "bool"])
def test_with_another(name: str, other: str) -> None:
    same([tensor(name, 11), tensor(other, 11, 1), tensor(name, 11, 3)])
    same([tensor(other, 11, 2), tensor(name, 11, 1)])


def test_all_at_once() -> None:
    same([tensor(name, 12, i % 3 + 1) for i, name in enumerate(FLOATS + WHOLE)])


def test_more_dimensions() -> None:
    values = tensor("float32", 4, 3, 2)
    (array,) = on_host(values)
    assert array.shape == (4, 3, 2)
    assert str([array[b].tolist() for b in range(4)]) == str([values[b].tolist() for b in range(4)])


@types
@pytest.mark.parametrize("shape", [(0,), (0, 1), (0, 5)])
def test_no_rows(name: str, shape: tuple[int, ...]) -> None:
    same([tensor(name, *shape), tensor("int64", 0, 5)])


def test_nothing_in_a_row() -> None:
    arrays = on_host(torch.zeros(3, 0), tensor("float32", 3, 1))
    assert arrays[0].shape == (3, 0) and arrays[0][1].tolist() == []


def test_views_and_gradients() -> None:
    values = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    trained = values.clone().requires_grad_()
    for made in (trained, trained * 2, trained.sum(1)):
        (array,) = on_host(made)
        assert str(array.tolist()) == str(made.tolist())
    assert trained.grad is None
    negated = torch.complex(values, values).conj().imag
    assert negated.is_neg()
    for view in (values.T, values[::2], values[:, 1:3], values[:1].expand(5, 4), negated, values.median(dim=1).values):
        (array,) = on_host(view)
        assert str(array.tolist()) == str(view.tolist())
    with torch.inference_mode():
        inside = values * 3
    assert str(on_host(inside)[0].tolist()) == str(inside.tolist())


OTHERS: dict[str, Any] = {
    "a list": [1.5, 2.5],
    "nothing": None,
    "an array": numpy.ones(2),
    "fewer rows": torch.ones(1),
    "more rows": torch.ones(3, 1),
    "no rows": torch.tensor(3.0),
    "complex": torch.ones(2, dtype=torch.complex64),
    "on another device": torch.ones(2, device="meta"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_left_as_it_is(name: str) -> None:
    values = torch.ones(2, 1)
    for given_ in ((values, OTHERS[name]), (OTHERS[name], values)):
        assert all(a is b for a, b in zip(on_host(*given_), given_, strict=True))


def test_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_for(monkeypatch, "cpu", "item", "tolist", "__bool__", "__array__", "numpy")
    tensors = [tensor(name, 168, 1) for name in ("float32", "float32", "bfloat16", "int64", "float32")]
    with Launched() as launched:
        on_host(*tensors)
    assert asked == ["cpu", "numpy"]
    assert launched.names.count("cat") == 1
    assert "_local_scalar_dense" not in launched.names
    assert launched.names.count("_to_copy") == 1, "of the one that has 16 bits"


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(width=32), min_size=1), st.integers(-(2**63), 2**63 - 1))
def test_any_number(numbers: list[float], whole: int) -> None:
    values = torch.tensor(numbers, dtype=torch.float32)
    same([values, values.double(), torch.full((len(numbers),), whole, dtype=torch.int64), values.bfloat16()])
