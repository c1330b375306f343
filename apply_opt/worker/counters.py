"""What one run asks of a device, counted. These figures hold on every machine, unlike times.

An operator is what reaches torch's dispatcher, below autograd; on a GPU each is one kernel or more. A host synchronisation
is a call that makes the host wait for the device's result: ``.item()``, ``.tolist()``, ``.cpu()``, ``.numpy()``, a truth
value, ``nonzero``. On a machine without a GPU the same calls are counted where they stand, since the program is the same.
"""

from __future__ import annotations

import functools
from collections import Counter as Tally
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

METHODS = ("item", "tolist", "cpu", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__")
OPERATORS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim"}
FREE = {
    "view",
    "_unsafe_view",
    "detach",
    "alias",
    "slice",
    "select",
    "transpose",
    "t",
    "permute",
    "unsqueeze",
    "squeeze",
}
"""Operators that launch nothing: they make another view of the same memory."""


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Counts while it is entered. A method that waits is one synchronisation, whatever it calls underneath."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.operators: Tally[str] = Tally()
        self.waits: Tally[str] = Tally()
        self._inside = 0
        self._originals: dict[str, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in FREE:
            self.operators[name] += 1
        if name in OPERATORS and not self._inside:
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> Counter:
        for name in METHODS:
            self._originals[name] = getattr(torch.Tensor, name)
            setattr(torch.Tensor, name, self._counted(name, self._originals[name]))
        super().__enter__()  # type: ignore[no-untyped-call, unused-ignore]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call, unused-ignore]
        for name, original in self._originals.items():
            setattr(torch.Tensor, name, original)

    def _counted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._inside:
                self.waits[name] += 1
            self._inside += 1
            try:
                return original(*args, **kwargs)
            finally:
                self._inside -= 1

        return call

    def result(self) -> dict[str, Any]:
        """The sums, and what they are made of."""
        return {
            "operators": sum(self.operators.values()),
            "synchronisations": sum(self.waits.values()),
            "by_operator": dict(self.operators.most_common()),
            "by_synchronisation": dict(self.waits.most_common()),
        }
