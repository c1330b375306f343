"""Whether two sets of observations agree, by the rule of a safety class.

An observation is a named value: a tensor, or what JSON holds. Names say what it is: ``CASE | seed N | output X``,
``… | gradient X``, ``… | generator torch``, ``… | exception``, ``bad input | X | exception``. With ``inference`` in front
are those of a run with gradients off, where the program has a module that is trained as well.
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
REFEREE_TRUST = {"torch.float32": 1e-3, "torch.float16": 3e-2, "torch.bfloat16": 3e-2}
"""How far from the original, relative to its size, a float64 run may be that is one of the same program."""
FINE = ("none", None)


class Difference(NamedTuple):
    """One observation that does not agree, and how."""

    name: str
    how: str


SHOWN = 20
"""Differences are listed up to so many."""


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
    """Every observation that is on one side only, is broken, or differs by ``rule``."""
    found = missing(before, after)
    for name in before:
        if name in after:
            how = _broken(name, after[name]) or rule(name, before[name], after[name])
            if how:
                found.append(Difference(name, how))
    return found


def missing(before: Observations, after: Observations) -> list[Difference]:
    """Every observation that is on one side only."""
    found = [Difference(name, "missing after") for name in before if name not in after]
    return found + [Difference(name, "missing before") for name in after if name not in before]


def broken(values: Observations) -> list[Difference]:
    """The observations that no rule can hold against another: NaN, infinite results, exceptions, and what is not supported."""
    found = [(name, _broken(name, value)) for name, value in values.items()]
    return [Difference(name, how) for name, how in found if how]


def of_results(found: Sequence[Difference]) -> list[Difference]:
    """Those of runs that gave a result: to see a crash takes no look at results."""
    failed = {d.name.rpartition(" | ")[0] for d in found if _what(d.name).endswith("exception")}
    return [d for d in found if d.name.rpartition(" | ")[0] not in failed]


def has_outputs(values: Observations) -> bool:
    """Whether every run gave an output at all."""
    runs = {name.rpartition(" | ")[0] for name in values if name.endswith(" | exception")}
    with_output = {name.rpartition(" | ")[0] for name in values if _what(name).startswith("output ")}
    return bool(with_output) and all(run in with_output for run in runs if not run.startswith("bad input"))


def _what(name: str) -> str:
    return name.rpartition(" | ")[2]


def _broken(name: str, value: Any) -> Optional[str]:
    what = _what(name)
    if name.startswith("bad input"):  # what it makes of that is only to be the same
        return None
    if what.endswith("exception"):
        return None if value in FINE else f"raised {_short(value)}"
    if isinstance(value, dict):
        return f"{value.get('unsupported', 'an object')}, which cannot be compared"
    if _is_tensor(value):
        return _not_finite(value, what)
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    odd = [item for item in items if isinstance(item, float) and not math.isfinite(item)]
    return f"{len(odd)} of {len(items)} values are NaN or infinite" if odd else None


def _not_finite(value: torch.Tensor, what: str) -> Optional[str]:
    """NaN anywhere; infinity but in what the program keeps or was given (a mask, say)."""
    if not (value.is_floating_point() or value.is_complex()):
        return None
    wide = value.to(_wide(value))
    count = int(wide.isnan().sum())
    if count:
        return f"{count} of {value.numel()} values are NaN"
    count = int(wide.isinf().sum())
    is_kept = what.removeprefix("inference ").startswith(("buffer ", "input"))
    return f"{count} of {value.numel()} values are infinite" if count and not is_kept else None


def rule_of(safety: str, before: Observations = {}, referee: Optional[Observations] = None) -> Rule:  # noqa: B006
    """The rule of a safety class.

    ``referee`` holds the unchanged program's observations in float64, where there are such. An ``inference_only`` change
    may round differently with gradients off; where ``before`` shows that the program is trained, all else is to be exact.
    """
    if safety in ("instrument", "exact"):
        return lambda name, *values: exact(*values)
    is_trained = safety == "inference_only" and any(is_of_training(name) for name in before)

    def tolerant(name: str, old: Any, new: Any) -> Optional[str]:
        if is_trained and not _what(name).startswith("inference "):
            return exact(old, new)
        how = close(old, new, is_output=_what(name).removeprefix("inference ").startswith("output "))
        if how is None or referee is None or not _can_be_refereed(old, new, referee.get(name)):
            return how
        return no_further(old, new, referee[name])

    return tolerant


def is_of_training(name: str) -> bool:
    """Whether the observation of this name was made in training."""
    return _what(name).startswith(("gradient ", "parameter ", "training "))


def _can_be_refereed(before: Any, after: Any, referee: Any) -> bool:
    tensors = [value for value in (before, after, referee) if _is_tensor(value) and value.is_floating_point()]
    return len(tensors) == 3 and len({value.shape for value in tensors}) == 1 and before.dtype == after.dtype


def exact(before: Any, after: Any) -> Optional[str]:
    """Bit for bit."""
    kinds = _kinds(before, after)
    if kinds:
        return kinds
    if not _is_tensor(before):  # repr() tells 1 from 1.0 and from True, and 0.0 from -0.0
        return None if repr(before) == repr(after) else _discrete(before, after)
    places = (_bits(before) != _bits(after)).any(dim=1)
    if not bool(places.any()):
        return None
    return f"{int(places.sum())} of {before.numel()} values differ, by up to {_error(before, after):.3g}"


def _bits(value: torch.Tensor) -> torch.Tensor:
    """The bytes of each value: (values, bytes)."""
    import torch

    # a single value may have any stride, and still be contiguous
    plain = value.clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1, 1).view(torch.uint8)


def close(before: Any, after: Any, is_output: bool = False) -> Optional[str]:
    """Within the defaults of :func:`torch.testing.assert_close` for the type; what is discrete has to be the same.

    The absolute part of the defaults is meant for values around 1. An output of which all values are smaller has to be
    that much closer: else zeros would pass for anything below 1e-5. (Gradients may be rounding errors and no more.)
    """
    if not _is_continuous(before) or not _is_continuous(after):
        return exact(before, after)
    import torch

    if not _is_tensor(before) and not _is_tensor(after):
        before, after = (torch.tensor(value, dtype=torch.float64) for value in (before, after))
    kinds = _kinds(before, after)
    if kinds:
        return kinds
    try:
        torch.testing.assert_close(after, before)
        if is_output and before.numel() and 0 < (largest := float(before.to(_wide(before)).abs().max())) < 1:
            torch.testing.assert_close(*(value * _power_of_two(1 / largest) for value in (after, before)))
    except AssertionError:
        return f"not close: error up to {_error(before, after):.3g}, relative to the largest value"
    return None


def _power_of_two(value: float) -> float:
    """The largest one up to ``value``: to multiply by it rounds nothing."""
    return math.ldexp(1.0, math.frexp(value)[1] - 1)


def no_further(before: torch.Tensor, after: torch.Tensor, referee: torch.Tensor) -> Optional[str]:
    """Whether ``after`` is no further from a float64 run than so many times what ``before`` is (root mean square).

    A float64 run that is far from the original is one of another program: nothing is measured by it.
    """
    kind = str(before.dtype)
    factor = REFEREE_FACTOR.get(kind, 1.0)
    ours, theirs, size = (
        _rms(value) for value in (after.double() - referee, before.double() - referee, before.double())
    )
    if not theirs <= REFEREE_TRUST.get(kind, 0.0) * size:
        return f"not close to the original, and the float64 run ({theirs:.3g} from it, of {size:.3g}) is no referee"
    if ours <= factor * theirs:
        return None
    return f"{ours:.3g} from the float64 run, the original {theirs:.3g}: more than {factor:g} times as far"


def _rms(value: torch.Tensor) -> float:
    return float(value.square().mean().sqrt()) if value.numel() else 0.0


def agreement(before: Observations, after: Observations) -> Agreement:
    """How much of the outputs is the same, for what is not promised to be."""
    same = total = 0
    error = 0.0
    for name in before:
        if not _what(name).startswith("output ") or name not in after:
            continue
        old, new = before[name], after[name]
        if isinstance(old, list) and isinstance(new, list):
            same += sum(repr(a) == repr(b) for a, b in zip(old, new))
            total += max(len(old), len(new))
        elif _is_tensor(old) and _is_tensor(new):
            if old.shape == new.shape and _is_continuous(old):
                error = max(error, _error(old, new))
            else:
                same += int((old == new).sum()) if old.shape == new.shape else 0
                total += max(old.numel(), new.numel())
        else:
            same, total = same + (type(old) is type(new) and repr(old) == repr(new)), total + 1
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
        places = [i for i, (a, b) in enumerate(zip(before, after)) if repr(a) != repr(b)]
        return f"{len(places)} of {len(before)} values differ, the first at {places[0]}"
    return f"{_short(before)} before, {_short(after)} after"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _error(before: torch.Tensor, after: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    if not before.numel():
        return 0.0
    old, new = (value.to(_wide(value)) for value in (before, after))
    return float((new - old).abs().max()) / (float(old.abs().max()) or 1.0)


def _wide(value: torch.Tensor) -> torch.dtype:
    import torch

    return torch.complex128 if value.is_complex() else torch.float64


def _is_tensor(value: Any) -> bool:
    return type(value).__module__.startswith("torch") and hasattr(value, "isnan")


def _is_continuous(value: Any) -> bool:
    if _is_tensor(value):
        return bool(value.is_floating_point() or value.is_complex())
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    return bool(items) and all(isinstance(item, float) for item in items)
