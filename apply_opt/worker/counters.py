"""The job ``profile``: what one run asks of a device, counted. These figures hold on every machine, unlike times.

An operator is what reaches torch's dispatcher, below autograd, and is more than another view of the same memory or room
for a result; on a GPU each is one kernel or more. A host synchronisation is a call that makes the host wait for the
device's result: ``.item()``, ``.tolist()``, ``.cpu()``, a truth value, ``nonzero``, an index that is a mask. On a machine
without a GPU the same calls are counted, of what would be on one: a model's parameters, what the workload says of its
inputs, and all that is computed from them.

What autograd keeps for the backward pass is counted in a run of its own: bytes, each memory once, parameters not at all.

Torch's dispatch modes belong to one thread (https://docs.pytorch.org/docs/stable/notes/extending.html). Work that a
program hands to other threads is counted as well: from before the target is loaded, every thread that Python starts has a
mode of its own. Where there were threads before that, no figure is given.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import sys
import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

METHODS = ("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__complex__", "__index__")
"""Of tensors. Not ``numpy``, which a tensor on a device refuses."""
FUNCTIONS = ("synchronize", "empty_cache")
"""Of ``torch.cuda``. To give memory back waits for the device, too."""
OPERATORS = {
    "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "_linalg_check_errors",
}  # fmt: skip
ROOM = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_"}


def profile(arm: Any) -> dict[str, Any]:
    """For each case, the counts of one run that is not the first."""
    counting = Counting()
    with counting.installed():
        with arm.canary:
            arm.load()
            for case in arm.specification["cases"]:
                arm.run(arm.workload.inputs(case, 0))
        counts = {}
        for case in arm.specification["cases"]:
            inputs = arm.workload.inputs(case, 1)
            own = arm.workload.on_device(inputs) if hasattr(arm.workload, "on_device") else inputs
            counts[case] = counting.of(arm.run, inputs, own)
            counts[case]["kept_for_backward"] = kept_for_backward(
                arm.run, arm.workload.inputs(case, 1), own_memory(arm)
            )
    return {"counts": counts}


def own_memory(arm: Any) -> list[Any]:
    """The parameters of the workload's module."""
    module = arm.workload.module(arm.subject) if hasattr(arm.workload, "module") else None
    return list(module.parameters()) if module is not None and "torch" in sys.modules else []


def kept_for_backward(run: Callable[[Any], Any], inputs: Any, parameters: list[Any]) -> int:
    """Bytes of the memories that autograd keeps of what this thread does, each counted once; not those of ``parameters``.

    See https://docs.pytorch.org/docs/stable/autograd.html#torch.autograd.graph.saved_tensors_hooks.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        run(inputs)
        return 0
    kept: list[Any] = []  # so that no memory is given to another tensor meanwhile

    def keep(tensor: Any) -> Any:
        kept.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run(inputs)
    own, found = _memories(parameters), _memories(kept)
    return sum(size for place, size in found.items() if place not in own)


def _memories(tensors: list[Any]) -> dict[int, int]:
    """Where each memory of these is, and its size; sparse tensors and the like have none."""
    found: dict[int, int] = {}
    for tensor in tensors:
        with contextlib.suppress(RuntimeError, NotImplementedError):
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return found


class Counting:
    """The tallies, which all threads share, and whether they are open."""

    def __init__(self) -> None:
        self.is_open = False
        self.operators: Tally[str] = Tally()
        self.waits: Tally[str] = Tally()
        self.refusal = ""
        self.on_device: Any = {}
        self._lock = threading.Lock()
        self._here = threading.local()

    def of(self, run: Callable[[Any], Any], inputs: Any, on_device: Any) -> dict[str, Any]:
        """The sums of one call, and what they are made of; without numbers where not everything was seen.

        ``on_device``: the tensors, in any containers, that a GPU would have before the call.
        """
        if not self.refusal and "torch" in sys.modules and not self._is_watching():
            self.refusal = "torch was loaded late; name it among the workload's LIBRARIES"
        self.operators.clear()
        self.waits.clear()
        if "torch" in sys.modules:
            from torch.utils.weak import WeakIdKeyDictionary

            self.on_device = WeakIdKeyDictionary()
            self.put_on_device(on_device)
        self.is_open = True
        try:
            with self._mode():
                run(inputs)
        finally:
            self.is_open = False
        if self.refusal:
            return {"operators": None, "synchronisations": None, "refused": self.refusal}
        return {
            "operators": sum(self.operators.values()),
            "synchronisations": sum(self.waits.values()),
            "by_operator": dict(self.operators.most_common()),
            "by_synchronisation": dict(self.waits.most_common()),
        }

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Every thread that is started in here can be counted, and so can each call that waits."""
        others = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
        if others:
            self.refusal = f"there were other threads before the target was loaded: {', '.join(others)}"
        undo = [_replace(threading.Thread, "start", self._counted_start)]
        spawners = [name for name in ("start_new_thread", "start_new") if hasattr(_thread, name)]
        undo += [_replace(_thread, name, self._counted_spawn) for name in spawners]
        torch = sys.modules.get("torch")
        if torch:
            undo += [_replace(torch.Tensor, name, functools.partial(self._waiting, name)) for name in METHODS]
            undo += [_replace(torch.cuda, name, functools.partial(self._waiting, name)) for name in FUNCTIONS]
        try:
            yield
        finally:
            for step in reversed(undo):
                step()

    def launched(self, name: str, waits: bool) -> None:
        """One operator."""
        if self.is_open:
            with self._lock:
                self.operators[name] += 1
                if waits and not getattr(self._here, "inside", 0):
                    self.waits[name] += 1

    def put_on_device(self, values: Any) -> None:
        """From now on the tensors in ``values`` count as being on the device."""
        for tensor in _tensors(values):
            self.on_device[tensor] = True

    def is_on_device(self, values: Any) -> bool:
        """Whether one of the tensors in ``values`` is on the device, or would be."""
        import torch

        return any(
            t.device.type != "cpu" or isinstance(t, torch.nn.Parameter) or t in self.on_device for t in _tensors(values)
        )

    def _is_watching(self) -> bool:
        return hasattr(sys.modules["torch"].Tensor.item, "__wrapped__")

    def _mode(self) -> Any:
        from contextlib import nullcontext

        return _mode_of()(self) if "torch" in sys.modules else nullcontext()

    def _counted_start(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def start(thread: threading.Thread) -> Any:
            run = thread.run

            def counted() -> None:
                with self._mode():
                    run()

            thread.run = counted  # type: ignore[method-assign]
            return original(thread)

        return start

    def _counted_spawn(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def spawn(function: Callable[..., Any], *rest: Any) -> Any:
            def counted(*args: Any, **kwargs: Any) -> Any:
                with self._mode():
                    return function(*args, **kwargs)

            return original(counted, *rest)

        return spawn

    def _waiting(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            inside = getattr(self._here, "inside", 0)
            if not self.is_open or inside or (name in METHODS and not self.is_on_device(args[:1])):
                return original(*args, **kwargs)
            with self._lock:
                self.waits[name] += 1
            self._here.inside = inside + 1
            try:
                return self._arrived(original(*args, **kwargs)) if name == "cpu" else original(*args, **kwargs)
            finally:
                self._here.inside = inside

        return call

    def _arrived(self, tensor: Any) -> Any:
        """What ``cpu()`` gives, which is the very tensor where there is no device: its copy on the host, told apart."""
        import torch

        copy = torch.ops.aten.alias(tensor)
        self.on_device.pop(copy, None)
        return copy


def _replace(owner: Any, name: str, wrapped: Callable[[Any], Any]) -> Callable[[], None]:
    """Put a wrapper in the place of an attribute; gives what takes it away again."""
    original, is_own = getattr(owner, name), name in vars(owner)
    setattr(owner, name, wrapped(original))
    return lambda: setattr(owner, name, original) if is_own else delattr(owner, name)


@functools.cache
def _mode_of() -> Any:
    """The mode's class: torch is imported by then, or is not there."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):  # type: ignore[misc, no-untyped-call, unused-ignore]
        """Sees the operators of one thread."""

        def __init__(self, counting: Counting) -> None:
            super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
            self.counting = counting

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            counting, kwargs = self.counting, kwargs or {}
            if not counting.is_open:
                return func(*args, **kwargs)
            is_there = counting.is_on_device([args, kwargs])
            if not _is_free(func):
                name = func.overloadpacket.__name__
                waits = is_there and (name in OPERATORS or _is_copy_to_host(name, args, kwargs))
                counting.launched(name, waits)
            result = func(*args, **kwargs)
            if is_there:
                counting.put_on_device(result)
            return result

    return Mode


def _tensors(values: Any) -> list[Any]:
    import torch
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


@functools.cache
def _is_free(func: Any) -> bool:
    """Whether an operator launches nothing: it makes a view, or room."""
    views = [r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns]
    return (bool(views) and all(views)) or func.overloadpacket.__name__ in ROOM


def _is_copy_to_host(name: str, args: Any, kwargs: Any) -> bool:
    """Whether an operator brings data from a GPU, or needs to know how much a mask selects."""
    import torch

    if name == "index" or (name in ("index_put", "index_put_") and args[2].numel() > 1):
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    if name == "_to_copy":
        target = torch.device(kwargs.get("device") or args[0].device)
        return args[0].is_cuda and target.type == "cpu" and not kwargs.get("non_blocking")
    if name == "copy_":
        return bool(args[1].is_cuda and args[0].device.type == "cpu" and not (args[2:] and args[2]))
    return False
