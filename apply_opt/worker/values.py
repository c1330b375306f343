"""What a program gives, taken apart into leaves that can be kept in a file and compared: containers, tensors, plain values.

Each leaf comes with its kind in words (type, dtype, shape, device, ``requires_grad``), which is compared like any other
value. What cannot be compared is a leaf that says so: a parity check must not pass over it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

PLAIN = (bool, int, float, str)
DEEPEST = 20
CONTAINER = object()
"""Stands for the value of what has leaves below it: all that is to be said of it is its kind."""


class Leaf(NamedTuple):
    """One value: its path, what it is, and what stands for it (JSON, or a tensor)."""

    name: str
    kind: str
    value: Any


def unsupported(what: str) -> dict[str, str]:
    """A value that no comparison can pass."""
    return {"unsupported": what}


def leaves(value: Any, name: str = "", depth: int = 0) -> Iterator[Leaf]:
    """The leaves of ``value``. A container is one as well, by its type and its keys or length."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if depth > DEEPEST:
        yield Leaf(name, _type(value), unsupported(f"nested more than {DEEPEST} deep"))
    elif torch is not None and isinstance(value, torch.Tensor):
        yield _tensor(torch, value, name)
    elif numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        yield _array(numpy, value, name)
    elif isinstance(value, Mapping):
        yield from _below(name, f"{_type(value)} of {len(value)}", [(_key(k), v) for k, v in value.items()], depth)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        yield from _below(name, _type(value), fields, depth)
    elif isinstance(value, (list, tuple, set, frozenset, range)):
        yield from _items(value, name, depth)
    else:
        yield _plain(value, name)


def kept_leaves(value: Any) -> list[Leaf]:
    """The leaves of ``value`` as they are now: what becomes of it later changes none of them."""
    return [leaf._replace(value=list(leaf.value)) if isinstance(leaf.value, list) else leaf for leaf in leaves(value)]


def same_leaves(one: Sequence[Leaf], other: Sequence[Leaf], share: float = 0.0) -> bool:
    """Whether two values are the same; numbers of tensors up to ``share`` of the largest. NaN is the same as NaN."""
    if [leaf[:2] for leaf in one] != [leaf[:2] for leaf in other]:
        return False
    return all(_is_same(a.value, b.value, share) for a, b in zip(one, other))


def _is_same(one: Any, other: Any, share: float) -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(one, torch.Tensor):
        return repr(one) == repr(other)
    most = share * float(one.abs().nan_to_num().max()) if share and one.numel() and one.is_floating_point() else 0.0
    return bool(torch.allclose(one, other, rtol=0.0, atol=most, equal_nan=True))


def _below(name: str, kind: str, items: Sequence[tuple[str, Any]], depth: int) -> Iterator[Leaf]:
    yield Leaf(name, f"{kind}: {', '.join(key for key, _ in items)}", CONTAINER)
    for key, item in items:
        yield from leaves(item, f"{name}.{key}" if name else key, depth + 1)


def _items(value: Any, name: str, depth: int) -> Iterator[Leaf]:
    items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else list(value)
    kinds = {type(item) for item in items}
    if kinds <= set(PLAIN):
        words = ", ".join(sorted(kind.__name__ for kind in kinds)) or "nothing"
        yield Leaf(name, f"{_type(value)} of {len(items)}: {words}", items)
    else:
        yield from _below(name, f"{_type(value)} of {len(items)}", [(str(i), v) for i, v in enumerate(items)], depth)


def _plain(value: Any, name: str) -> Leaf:
    kind = _type(value)
    if isinstance(value, Enum):
        return Leaf(name, kind, value.name)
    if value is None or type(value) in PLAIN:
        return Leaf(name, kind, value)
    for base in PLAIN[1:]:
        if isinstance(value, base):
            return Leaf(name, kind, base(value))
    if isinstance(value, complex):
        return Leaf(name, kind, [value.real, value.imag])
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Leaf(name, kind, f"{len(bytes(value))} bytes, sha256 {hashlib.sha256(bytes(value)).hexdigest()}")
    return Leaf(name, kind, unsupported(f"an object of {kind}"))


def _tensor(torch: Any, value: Any, name: str) -> Leaf:
    what = _odd(torch, value)
    if what:
        return Leaf(name, _type(value), unsupported(what))
    facts = [value.dtype, tuple(value.shape), value.device, f"requires_grad={value.requires_grad}"]
    facts += [] if value.is_contiguous() else [f"strides {tuple(value.stride())}"]
    kind = f"{_type(value)} {' '.join(map(str, facts))}"
    return Leaf(
        name, kind, value.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg().cpu().contiguous().clone()
    )


def _odd(torch: Any, value: Any) -> str:
    """What is not a plain block of numbers, in words."""
    if value.layout != torch.strided or value.is_nested:
        return f"a tensor with the layout {value.layout}{' (nested)' if value.is_nested else ''}"
    if value.is_quantized or value.is_meta:
        return f"a {'quantized' if value.is_quantized else 'meta'} tensor"
    if type(value).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return f"a tensor of {_type(value)}"
    return ""


def _array(numpy: Any, value: Any, name: str) -> Leaf:
    """A numpy array or scalar, as a tensor; texts as a list."""
    kind = f"{_type(value)} {value.dtype} {value.shape}"
    if value.dtype.kind in "US":
        return Leaf(name, kind, [str(item) for item in value.ravel().tolist()])
    import torch

    try:
        return Leaf(name, kind, torch.from_numpy(numpy.array(value, copy=True, order="C")))
    except (TypeError, ValueError):
        return Leaf(name, kind, unsupported(f"a numpy array of {value.dtype}"))


def _key(key: Any) -> str:
    """A key in a path; spelled out where it could be taken for another, or for two."""
    return key if isinstance(key, str) and not set(".[") & set(key) else f"[{key!r}]"


def _type(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
