"""Whether two sets of observations agree, by the rule of a safety class.

An observation is a named value: a tensor, a number, a string, or a list of numbers. Names say what it is:
``CASE | seed N | output X``, ``… | gradient X``, ``… | generator torch``, ``bad input | X | exception``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

if TYPE_CHECKING:
    import torch

Observations = Mapping[str, Any]
REFEREE_FACTOR = {"torch.float32": 2.0, "torch.float16": 3.0, "torch.bfloat16": 3.0}
"""How many times as far from a float64 run as the original a result may be, where it is not close to the original."""


class Difference(NamedTuple):
    """One observation that does not agree, and how."""

    name: str
    how: str


class Agreement(NamedTuple):
    """Of all discrete outputs (tokens), the share that is the same; of all tensors, the largest error."""

    same: int
    total: int
    error: float

    @property
    def share(self) -> float:
        """From 0 to 1; 1 where there is nothing discrete."""
        return self.same / self.total if self.total else 1.0


Rule = Callable[[str, Any, Any], Optional[str]]
"""How two values of the observation of this name differ, or ``None``."""


def differences(before: Observations, after: Observations, rule: Rule) -> list[Difference]:
    """Every observation that is on one side only, or differs by ``rule``; values that are not numbers (NaN) differ always."""
    found = [Difference(name, "missing after") for name in before if name not in after]
    found += [Difference(name, "missing before") for name in after if name not in before]
    for name in before:
        if name in after:
            how = _broken(after[name]) or rule(name, before[name], after[name])
            if how:
                found.append(Difference(name, how))
    return found


def broken(values: Observations) -> list[Difference]:
    """The observations that no rule can hold against another: tensors with NaN in them."""
    found = [(name, _broken(value)) for name, value in values.items()]
    return [Difference(name, how) for name, how in found if how]


def _broken(value: Any) -> Optional[str]:
    if _is_tensor(value) and value.is_floating_point() and bool(value.isnan().any()):
        return f"{int(value.isnan().sum())} of {value.numel()} values are NaN"
    return "is NaN" if isinstance(value, float) and math.isnan(value) else None


def rule_of(safety: str, referee: Optional[Observations] = None) -> Rule:
    """The rule of a safety class. ``referee`` holds the unchanged program's observations in float64, where there are such."""
    if safety in ("instrument", "exact"):
        return lambda name, before, after: exact(before, after)
    if safety == "inference_only":  # what is trained takes the original path
        return lambda name, *values: (exact if _is_of_training(name) else close)(*values)

    def tolerant(name: str, before: Any, after: Any) -> Optional[str]:
        how = close(before, after)
        if how is None or referee is None or not _can_be_refereed(before, after, referee.get(name)):
            return how
        return no_further(before, after, referee[name])

    return tolerant


def _is_of_training(name: str) -> bool:
    return name.rpartition(" | ")[2].startswith(("gradient ", "parameter "))


def _can_be_refereed(before: Any, after: Any, referee: Any) -> bool:
    tensors = [value for value in (before, after, referee) if _is_tensor(value) and value.is_floating_point()]
    return len(tensors) == 3 and len({value.shape for value in tensors}) == 1 and before.dtype == after.dtype


def exact(before: Any, after: Any) -> Optional[str]:
    """Bit for bit."""
    kinds = _kinds(before, after)
    if kinds:
        return kinds
    if not _is_tensor(before):
        return None if before == after else _discrete(before, after)
    import torch

    if torch.equal(before, after):
        return None
    return f"{int((before != after).sum())} of {before.numel()} values differ, by up to {_error(before, after):.3g}"


def close(before: Any, after: Any) -> Optional[str]:
    """Within the defaults of :func:`torch.testing.assert_close` for the type; what is discrete has to be the same."""
    if not _is_continuous(before) or not _is_continuous(after):
        return exact(before, after)
    import torch

    if not _is_tensor(before):
        before, after = (torch.tensor(value, dtype=torch.float64) for value in (before, after))
    kinds = _kinds(before, after)
    if kinds:
        return kinds
    try:
        torch.testing.assert_close(after, before)
    except AssertionError:
        return f"not close: error up to {_error(before, after):.3g}, relative to the largest value"
    return None


def no_further(before: torch.Tensor, after: torch.Tensor, referee: torch.Tensor) -> Optional[str]:
    """Whether ``after`` is no further from a float64 run than so many times what ``before`` is (root mean square)."""
    factor = REFEREE_FACTOR.get(str(before.dtype), 2.0)
    ours, theirs = (float((value.double() - referee).square().mean().sqrt()) for value in (after, before))
    if ours <= factor * theirs:
        return None
    return f"{ours:.3g} from the float64 run, the original {theirs:.3g}: more than {factor:g} times as far"


def agreement(before: Observations, after: Observations) -> Agreement:
    """How much of the outputs is the same, for what is not promised to be."""
    same = total = 0
    error = 0.0
    for name in before:
        if " | output " not in name or name not in after:
            continue
        old, new = before[name], after[name]
        if isinstance(old, list) and isinstance(new, list):
            same += sum(a == b for a, b in zip(old, new))
            total += max(len(old), len(new))
        elif _is_tensor(old) and _is_tensor(new) and old.shape == new.shape:
            error = max(error, _error(old, new))
        else:
            same, total = same + (not _is_tensor(old) and old == new), total + 1
    return Agreement(same, total, error)


def _kinds(before: Any, after: Any) -> Optional[str]:
    if type(before) is not type(after):
        return f"{type(before).__name__} before, {type(after).__name__} after"
    if _is_tensor(before) and (before.dtype, before.shape) != (after.dtype, after.shape):
        return f"{before.dtype} {tuple(before.shape)} before, {after.dtype} {tuple(after.shape)} after"
    return None


def _discrete(before: Any, after: Any) -> str:
    if isinstance(before, list):
        if len(before) != len(after):
            return f"{len(before)} values before, {len(after)} after"
        places = [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
        return f"{len(places)} of {len(before)} values differ, the first at {places[0]}"
    return f"{_short(before)} before, {_short(after)} after"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _error(before: torch.Tensor, after: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    if not before.numel():
        return 0.0
    largest = float(before.double().abs().max()) or 1.0
    return float((after.double() - before.double()).abs().max()) / largest


def _is_tensor(value: Any) -> bool:
    return type(value).__module__.startswith("torch") and hasattr(value, "isnan")


def _is_continuous(value: Any) -> bool:
    if _is_tensor(value):
        return bool(value.is_floating_point() or value.is_complex())
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    return bool(items) and all(isinstance(item, float) for item in items)
