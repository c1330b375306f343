"""What is launched, and how often the host asks for a tensor's numbers: counted on a CPU."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")


class Launched(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
    """The names of the operators that are launched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def asked_for(patch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """A list that gets the name of each of these methods of tensors when it is called, from now on."""
    asked = []
    for name in names:
        method = getattr(torch.Tensor, name)

        def noted(self: Any, *words: Any, name: str = name, method: Any = method) -> Any:
            asked.append(name)
            return method(self, *words)

        patch.setattr(torch.Tensor, name, noted)
    return asked
