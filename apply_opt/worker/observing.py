"""The job ``observe``: run every case with every seed, and give back all that can be seen of it, by name.

Names are ``CASE | seed N | WHAT`` and ``bad input | NAME | exception``; :mod:`apply_opt.model.parity` compares them. The
canary is on all the while, from loading on: that a changed line ran is said of the very runs that are compared.
"""

from __future__ import annotations

import builtins
import contextlib
import copy
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from _apply_opt_values import CONTAINER, kept_leaves, leaves, same_leaves  # type: ignore[import-not-found]

Observation = tuple[str, Any]
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{4,}")


def observe(arm: Any) -> dict[str, Any]:
    """The observations: what JSON can hold in the result itself, tensors in a file beside it."""
    cases = arm.specification["cases"]
    sizes = {case: _sizes(arm.workload.inputs(case, 0)) for case in cases}
    settings = _settings(arm)
    with arm.canary:
        arm.load()
        is_wanted = arm.is_wrong or not arm.specification["wrong"]  # a variant that this checkout has not needs no run
        values = dict(_everything(arm)) if is_wanted else {}
    values |= dict(_set(arm, settings))
    torch = sys.modules.get("torch")
    tensors = {name: value for name, value in values.items() if torch and isinstance(value, torch.Tensor)}
    if tensors:
        torch.save(tensors, arm.specification["result"] + ".pt")  # type: ignore[union-attr]
    plain = {name: _portable(value, arm) for name, value in values.items() if name not in tensors}
    return {"values": plain, "tensors": len(tensors), "sizes": sizes, "is_wrong": arm.is_wrong}


def _everything(arm: Any) -> Iterator[Observation]:
    for case in arm.specification["cases"]:
        for seed in arm.specification["seeds"]:
            for name, value in _observations(arm, case, seed):
                yield f"{case} | seed {seed} | {name}", value
    for name, inputs in arm.workload.bad_inputs().items():
        arm.seed_everything(0)
        outputs, exception = _attempt(arm, inputs)
        for what, value in _results(outputs, exception):
            if not isinstance(value, dict):  # what cannot be compared is no result that anyone waits for here
                yield f"bad input | {name} | {what}", value
    yield from _afterwards(arm)


def _afterwards(arm: Any) -> Iterator[Observation]:
    """Each case once more: after longer ones, after what was refused. And whether what it gave stays as it was."""
    seed, given = arm.specification["seeds"][0], []
    for case in reversed(arm.specification["cases"]):
        inputs = arm.workload.inputs(case, seed)
        arm.seed_everything(seed)
        outputs, exception = _attempt(arm, inputs)
        given.append((case, outputs, kept_leaves(outputs)))
        for name, value in _results(outputs, exception):
            yield f"{case} | afterwards | {name}", value
    for case, outputs, kept in given:
        yield f"{case} | afterwards | outputs stay as they were", same_leaves(kept, list(leaves(outputs)))


def _settings(arm: Any) -> dict[str, Any]:
    """What a program may set for all that runs in its process."""
    found: dict[str, Any] = {"recursion limit": sys.getrecursionlimit()}
    found |= {f"environment {name}": value for name, value in os.environ.items()}
    found |= {f"built-in {name}": value for name, value in vars(builtins).items() if name != "_"}
    if arm.has("torch"):
        import torch

        found["torch gradients"] = torch.is_grad_enabled()
        found["torch inference mode"] = torch.is_inference_mode_enabled()
        found["torch default dtype"] = str(torch.get_default_dtype())
        found["torch threads"] = torch.get_num_threads()
        found["torch deterministic"] = torch.are_deterministic_algorithms_enabled()
        with contextlib.suppress(RuntimeError):  # it was set in the new way, and may not be asked for in the old one
            found["torch matrix products"] = torch.get_float32_matmul_precision()
    return found


def _set(arm: Any, before: Mapping[str, Any]) -> Iterator[Observation]:
    """What is set otherwise than it was."""
    after = _settings(arm)
    for name in sorted({*before, *after}):
        if before.get(name) is not after.get(name) and before.get(name) != after.get(name):
            is_told = name.startswith("torch ")  # environment variables may hold a process' own numbers and folders
            yield f"setting {name}", after.get(name) if is_told else "another"


def _sizes(inputs: Any) -> list[int]:
    """How large an input is: the dimensions of its tensors, the lengths of its lists and texts."""
    found: list[int] = []
    for leaf in leaves(inputs):
        if hasattr(leaf.value, "shape"):
            found += leaf.value.shape
        elif isinstance(leaf.value, (list, str)):
            found.append(len(leaf.value))
    return found


def _portable(value: Any, arm: Any) -> Any:
    """A text without what differs from run to run for no reason of the program's: where its copy lies."""
    if isinstance(value, str):
        return value.replace(arm.specification["checkout"], "CHECKOUT")
    if isinstance(value, list):
        return [_portable(item, arm) for item in value]
    return value


def _attempt(arm: Any, inputs: Any) -> tuple[Any, str]:
    """The outputs, and the exception in words (``none``). What is not installed is no result: that is raised."""
    try:
        return arm.run(inputs), "none"
    except ModuleNotFoundError:
        raise
    except BaseException as error:  # SystemExit, too
        return None, f"{type(error).__module__}.{type(error).__qualname__}: {ADDRESS.sub('0x…', str(error))}"


def _observations(arm: Any, case: str, seed: int) -> Iterator[Observation]:
    yield from _run(arm, case, seed, "")
    if arm.trains:
        import torch

        with torch.no_grad():
            yield from _run(arm, case, seed, "inference ")
        yield from _training(arm, case, seed)


def _run(arm: Any, case: str, seed: int, prefix: str) -> Iterator[Observation]:
    """One run: outputs, inputs afterwards, generators, buffers."""
    inputs = arm.workload.inputs(case, seed)
    arm.seed_everything(seed)
    outputs, exception = _attempt(arm, inputs)
    states = _generator_states(arm)
    yield from _results(outputs, exception, prefix)
    yield from _named(f"{prefix}input", inputs)
    for name, state in states.items():
        yield f"{prefix}generator {name}", state
    if arm.module is not None:
        for name, buffer in arm.module.named_buffers():
            yield from _named(f"{prefix}buffer {name}", buffer)


def _results(outputs: Any, exception: str, prefix: str = "") -> Iterator[Observation]:
    """The exception in words, and where there was none the outputs."""
    yield f"{prefix}exception", exception
    if exception == "none":
        yield from _named(f"{prefix}output", outputs if isinstance(outputs, Mapping) else {"value": outputs})


def _named(what: str, value: Any) -> Iterator[Observation]:
    for leaf in leaves(value):
        name = f"{what} {leaf.name}".rstrip()
        if leaf.value is not CONTAINER:
            yield name, leaf.value
        yield f"kind of {name}", leaf.kind


def _training(arm: Any, case: str, seed: int) -> Iterator[Observation]:
    """Gradients of the first step, parameters after one step and after five; the module is as it was afterwards."""
    kept = [(tensor, tensor.detach().clone()) for tensor in (*arm.module.parameters(), *arm.module.buffers())]
    state = copy.deepcopy(arm.module.state_dict())
    exception = "none"
    try:
        yield from _steps(arm, case, seed)
    except (ModuleNotFoundError, GeneratorExit):
        raise
    except BaseException as error:
        exception = f"{type(error).__module__}.{type(error).__qualname__}: {ADDRESS.sub('0x…', str(error))}"
    yield "training exception", exception
    arm.module.zero_grad(set_to_none=True)
    arm.module.load_state_dict(state)
    for tensor, value in kept:  # buffers that are not part of the state, too
        tensor.data.copy_(value)


def _steps(arm: Any, case: str, seed: int) -> Iterator[Observation]:
    import torch

    optimizer = torch.optim.SGD(arm.module.parameters(), lr=1e-3)
    for step in range(1, 6):
        arm.seed_everything(seed + step)
        inputs = arm.workload.inputs(case, seed + step)
        optimizer.zero_grad()
        loss = arm.workload.loss(arm.run(inputs))
        if not loss.requires_grad:
            yield "training", "nothing to differentiate"
            return
        loss.backward()
        if step == 1:
            yield from _gradients(arm, inputs)
        optimizer.step()
        if step in (1, 5):
            for name, parameter in arm.module.named_parameters():
                yield from _named(f"parameter {name} after {step} steps", parameter)


def _gradients(arm: Any, inputs: Any) -> Iterator[Observation]:
    for name, parameter in arm.module.named_parameters():
        yield from _named(f"gradient {name}", parameter.grad)
    for name, tensor in _tensors(inputs):
        if tensor.requires_grad and tensor.is_leaf:
            yield from _named(f"gradient of input {name}", tensor.grad)


def _tensors(inputs: Any) -> Iterator[tuple[str, Any]]:
    import torch

    items = (
        inputs.items() if isinstance(inputs, dict) else enumerate(inputs) if isinstance(inputs, (list, tuple)) else ()
    )
    yield from ((str(name), value) for name, value in items if isinstance(value, torch.Tensor))


def _generator_states(arm: Any) -> dict[str, str]:
    """The state of every random generator that the program may draw from, as a hash."""
    import random

    found = {"python": repr(random.getstate()).encode()}
    if arm.has("numpy"):
        import numpy

        kind, keys, *rest = numpy.random.get_state(legacy=True)
        found["numpy"] = repr((kind, list(keys), rest)).encode()
    if arm.has("torch"):
        import torch

        found["torch"] = torch.get_rng_state().numpy().tobytes()
        if torch.cuda.is_available():
            found["cuda"] = b"".join(state.numpy().tobytes() for state in torch.cuda.get_rng_state_all())
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}
