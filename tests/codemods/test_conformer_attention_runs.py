"""The reference attention with the changes and without: the same bits, and less is written."""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from cases import UNITS, constant, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from apply_opt.model.plan import PLANNED

torch = pytest.importorskip("torch")
FILE = (
    Path(UNITS.targets["nemo_conformer"].folder)
    / "reference/nemo/collections/asr/parts/submodules/multi_head_attention.py"
)
SHIFT, SCORES = "conformer_relative_shift", "conformer_inplace_scores"
CHANGES = [(SHIFT,), (SCORES,), (SHIFT, SCORES), (SCORES, SHIFT)]
ids = pytest.mark.parametrize("names", CHANGES, ids="+".join)
WIDTH, HEADS = 12, 3


@functools.cache
def module(names: Sequence[str] = ()) -> Any:
    """The attention's file with ``names`` in it, as a module."""
    text = FILE.read_bytes()
    for name in names:
        outcome = plan(name, text)
        assert outcome.kind == PLANNED, outcome.message
        text = outcome.after
    found = types.ModuleType("attention")
    exec(compile(text, str(FILE), "exec"), vars(found))
    return found


def built(names: Sequence[str] = (), dropout: float = 0.2) -> Any:
    """An attention with weights that do not depend on ``names``."""
    torch.manual_seed(0)
    return module(names).RelPositionMultiHeadAttention(HEADS, WIDTH, dropout)


def frames(count: int, lengths: Sequence[int]) -> tuple[Any, Any, Any]:
    """Frames (B, T, width), the mask (B, T, T) of what is behind their ends, and the positions."""
    x = torch.randn(len(lengths), count, WIDTH, generator=torch.Generator().manual_seed(1))
    inside = torch.arange(count) < torch.tensor(lengths)[:, None]
    return x, ~(inside[:, None] & inside[:, :, None]), module().RelPositionalEncoding(WIDTH)(x)


def trained(attention: Any, x: Any, mask: Any, positions: Any) -> list[Any]:
    """What comes out, and the gradients of the input and of all parameters."""
    torch.manual_seed(2)
    x = x.clone().requires_grad_()
    seen = attention(x, x, x, mask, positions)
    (seen * torch.sin(torch.arange(seen.numel())).view(seen.shape)).sum().backward()
    return [seen.detach(), x.grad, *(p.grad for p in attention.parameters())]


def same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


@ids
@pytest.mark.parametrize(("count", "lengths"), [(1, (1,)), (2, (2, 1)), (7, (7, 0, 3)), (16, (16, 16))])
class TestSameBits:
    def test_training(self, names: Sequence[str], count: int, lengths: Sequence[int]) -> None:
        data = frames(count, lengths)
        before = trained(built(), *data)
        assert same(before, trained(built(names), *data))
        assert count == 1 or all(gradient.abs().max() > 0 for gradient in before[1:])

    @pytest.mark.parametrize(
        "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
    )
    def test_without_gradients(
        self, names: Sequence[str], count: int, lengths: Sequence[int], mode: type[AbstractContextManager[Any]]
    ) -> None:
        x, mask, positions = frames(count, lengths)
        kept = [x.clone(), mask.clone(), positions.clone()]
        with mode():
            before, after = (built(n).eval()(x, x, x, mask, positions) for n in ((), names))
        assert same([before], [after])
        assert same(kept, [x, mask, positions]), "what is the caller's is as it was"


@ids
def test_no_gradients_are_asked_of_the_weights(names: Sequence[str]) -> None:
    """Frozen weights, with gradients on: of the input alone."""
    data = frames(7, (7, 3))
    found = []
    for attention in (built(), built(names)):
        attention.eval().requires_grad_(False)
        x = data[0].clone().requires_grad_()
        attention(x, x, x, *data[1:]).square().sum().backward()
        found.append(x.grad)
    assert same(found[:1], found[1:])


@ids
def test_functional_gradients(names: Sequence[str]) -> None:
    """``torch.func`` has its own way to make gradients."""
    x, mask, positions = frames(5, (5, 2))

    def value(attention: Any) -> Any:
        parameters = dict(attention.named_parameters())
        return torch.func.grad(
            lambda given: torch.func.functional_call(attention, given, (x, x, x, mask, positions)).square().sum()
        )(parameters)

    before, after = (value(built(n).eval()) for n in ((), names))
    assert same(list(before.values()), list(after.values()))


@pytest.mark.parametrize("names", [names for names in CHANGES if SHIFT in names], ids="+".join)
def test_exported(names: Sequence[str]) -> None:
    """Captured at one length, and run at another. (The original is refused: it divides by the number of frames.)"""
    x, mask, positions = frames(6, (6, 4))
    longer = frames(9, (9, 2))
    frames_of = torch.export.Dim("frames", min=3, max=64)
    attention = built(names).eval()
    shapes = ({1: frames_of}, {1: frames_of}, {1: frames_of}, {1: frames_of, 2: frames_of}, {1: 2 * frames_of - 1})
    with torch.no_grad():
        captured = torch.export.export(attention, (x, x, x, mask, positions), dynamic_shapes=shapes, strict=False)
        found = captured.module()(longer[0], longer[0], longer[0], *longer[1:])
        expected = built().eval()(longer[0], longer[0], longer[0], *longer[1:])
    assert torch.allclose(found, expected, atol=1e-6)


@ids
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("count", [1, 2, 9])
def test_traced(names: Sequence[str], count: int) -> None:
    """What was traced with some frames is right for any other number of them."""
    x, mask, positions = frames(6, (6, 4))
    y, hidden, others = frames(count, (count, 1))
    with torch.no_grad():
        traced = torch.jit.trace(built(names).eval(), (x, x, x, mask, positions), check_trace=False)
        assert same([traced(y, y, y, hidden, others)], [built().eval()(y, y, y, hidden, others)])


class Written(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
    """How many results of at least so many elements lie in memory of their own."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.kept, self.places = least, [], set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point() and result.numel() >= self.least:
            self.kept.append(result)
            self.places.add(result.untyped_storage().data_ptr())
        return result


@pytest.mark.parametrize(("names", "tensors"), [((), 8), ((SHIFT,), 7), ((SCORES,), 5), ((SHIFT, SCORES), 4)], ids=str)
def test_less_is_written(names: Sequence[str], tensors: int) -> None:
    count = 32
    x, mask, positions = frames(count, (count, 5))
    with Written(2 * HEADS * count * count) as written, torch.no_grad():
        built(names).eval()(x, x, x, mask, positions)
    assert len(written.places) == tensors


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(0, 24), st.integers(0, 2))
def test_a_shift_is_a_shift(rows: int, columns: int, extra: int) -> None:
    """For any sizes: the columns that are given are the first of the padded shift's, and all that a frame can have."""
    x = torch.randn(1 + extra, 2, rows, columns)
    space: dict[str, Any] = {"torch": torch}
    exec(constant(SHIFT, "HELPER_TEXT"), space)
    shifted = space["_shifted_rows"](x)
    padded = torch.nn.functional.pad(x, (1, 0)).view(1 + extra, 2, columns + 1, rows)[:, :, 1:].view(x.shape)
    assert torch.equal(shifted, padded[:, :, :, : shifted.shape[3]])
    is_view = rows > 0 and columns >= 2 * rows - 1
    assert shifted.shape[3] == (columns - rows + 1 if is_view else columns)
    assert shifted.shape[3] >= min(rows, columns)
    assert (shifted.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()) == is_view or not x.numel()


def test_more_columns_than_there_are_is_an_error() -> None:
    """Not wrong values: what a caller reads behind them does not fit what it is added to."""
    shifted = built((SHIFT,)).rel_shift(torch.randn(1, HEADS, 4, 7))
    with pytest.raises(RuntimeError):
        shifted[:, :, :, :6] + torch.randn(1, HEADS, 4, 6)


@ids
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traced_without_gradients_and_trained(names: Sequence[str]) -> None:
    """A trace does not know whether it will be run with gradients."""
    x, mask, positions = frames(6, (6, 4))
    attention = built(names).eval()
    with torch.no_grad():
        traced = torch.jit.trace(attention, (x, x, x, mask, positions), check_trace=False)
    found = []
    for call in (traced, built().eval()):
        given = x.clone().requires_grad_()
        call(given, given, given, mask, positions).square().sum().backward()
        found.append(given.grad)
    assert torch.allclose(*found, atol=1e-6)
