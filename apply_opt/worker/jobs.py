"""The jobs of a worker: ``prepare``, ``observe``, ``time`` and ``profile``. Each gives a result that JSON can hold.

A workload is a Python file of the target's (``target_repos/TARGET/workload.py``) with these functions. The checkout is
first on ``sys.path``; ``options`` is what the user gave, and ``file``, the path of the changed file in the checkout.

``prepare(folder, options)``     build what a run needs (models, data) in ``folder``, once
``cases(options)``               the names of the inputs to try, for example ``["3 s", "10 s"]``
``load(folder, options)``        import the checkout's entry point and give the subject, ready to run
``inputs(case, seed)``           fresh inputs of a case
``run(subject, inputs)``         the outputs, ``{name: tensor, number, string, or lists and dictionaries of these}``
``bad_inputs()``                 ``{name: inputs}`` that the subject is to refuse; the exceptions are compared
``WRONG``                        ``{name: function(subject)}``: makes the subject wrong, for :mod:`verify` to find

and, where there is something for them to say:

``stages(subject)``              ``{name: (owner, attribute)}``: functions whose share of the time is told
``amount(case)``                 ``(number, unit)``: how much a case is, for example ``(10.0, "s of audio")``
``double(subject)``              makes the subject compute in float64, as a referee where rounding differs
``module(subject)``              the :class:`torch.nn.Module` whose buffers, gradients and parameters are compared
``loss(outputs)``                a scalar to differentiate; without it nothing is trained
"""

from __future__ import annotations

import functools
import hashlib
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Optional

Specification = Mapping[str, Any]
LoadFile = Callable[[str, str], ModuleType]
STAGE_RUNS = 5


def run(specification: Specification, load_file: LoadFile) -> dict[str, Any]:
    """Do the job that ``specification`` names."""
    workload = load_file(specification["workload"], "_apply_opt_workload")
    if specification["job"] == "prepare":
        return _prepare(workload, specification)
    import torch

    torch.set_num_threads(specification["threads"])
    canary = _beside(load_file, "canary").Canary(specification["files"])
    arm = _Arm(workload, canary, specification)
    if specification["job"] == "profile":
        result = _profile(arm, _beside(load_file, "counters").Counter)
    else:
        result = {"observe": _observe, "time": _time}[specification["job"]](arm)
    return {**result, "identity": _identity(specification, canary), "versions": _versions()}


def _beside(load_file: LoadFile, name: str) -> ModuleType:
    """Another module of this folder, which is not on ``sys.path``."""
    return load_file(os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py"), f"_apply_opt_{name}")


def _prepare(workload: ModuleType, specification: Specification) -> dict[str, Any]:
    options = specification["options"]
    workload.prepare(specification["folder"], options)
    cases = list(workload.cases(options))
    amount = getattr(workload, "amount", None)
    return {
        "cases": cases,
        "wrong": sorted(workload.WRONG),
        "amounts": {case: list(amount(case)) for case in cases} if amount else {},
        "has_referee": hasattr(workload, "double"),
    }


class _Arm:
    """The subject of one arm, loaded and run once, with the counting on."""

    def __init__(self, workload: ModuleType, canary: Any, specification: Specification) -> None:
        self.workload = workload
        self.specification = specification
        self.canary = canary
        seed_everything(0)
        with canary:
            self.subject = workload.load(specification["folder"], specification["options"])
            if specification["double"]:
                workload.double(self.subject)
            if specification["wrong"]:
                workload.WRONG[specification["wrong"]](self.subject)
            first = specification["cases"][0]
            workload.run(self.subject, workload.inputs(first, 0))

    def run(self, inputs: Any) -> Any:
        return self.workload.run(self.subject, inputs)


def seed_everything(seed: int) -> None:
    """Python's, NumPy's and torch's generators, on every device."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def _identity(specification: Specification, canary: Any) -> dict[str, Any]:
    """For each changed file: the module that it was loaded as, its hash, and how often its lines ran."""
    lines = canary.lines()
    found = {}
    for path in specification["files"]:
        real = os.path.realpath(path)
        modules = [m for m in list(sys.modules.values()) if _file_of(m) == real]
        with open(real, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        ran = {str(line): count for line, count in lines.get(real, {}).items()}
        found[os.path.relpath(real, os.path.realpath(specification["checkout"]))] = {
            "modules": sorted({m.__name__ for m in modules}),
            "sha256": digest,
            "lines": ran,
        }
    return found


def _file_of(module: Any) -> Optional[str]:
    path = getattr(module, "__file__", None)
    return os.path.realpath(path) if isinstance(path, str) else None


def _versions() -> dict[str, str]:
    import platform

    names = ("torch", "numpy", "onnxruntime")
    found = {name: str(getattr(sys.modules.get(name), "__version__", "")) for name in names}
    return {"python": platform.python_version(), **{k: v for k, v in found.items() if v}}


# Observing


def _observe(arm: _Arm) -> dict[str, Any]:
    """Run every case with every seed; the values go to a file beside the result, what became of the run is returned."""
    import torch

    values: dict[str, Any] = {}
    for case in arm.specification["cases"]:
        for seed in arm.specification["seeds"]:
            for name, value in _observations(arm, case, seed):
                values[f"{case} | seed {seed} | {name}"] = value
    for name, inputs in arm.workload.bad_inputs().items():
        values[f"bad input | {name} | exception"] = _exception(arm, inputs)
    path = arm.specification["result"] + ".pt"
    torch.save(values, path)
    return {"values": path, "count": len(values)}


def _observations(arm: _Arm, case: str, seed: int) -> Iterator[tuple[str, Any]]:
    import torch

    inputs = arm.workload.inputs(case, seed)
    kept = _flat(inputs)
    kept = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in kept.items()}
    seed_everything(seed)
    outputs = arm.run(inputs)
    states = _generator_states()
    for name, value in _flat(outputs).items():
        yield f"output {name}", _detached(value)
        if isinstance(value, torch.Tensor):
            facts = [str(value.dtype), str(tuple(value.shape)), str(value.device), str(value.requires_grad)]
            yield f"kind of {name}", " ".join(facts)
    for name, value in _flat(inputs).items():
        yield f"input {name} unchanged", _same(value, kept.get(name))
    for name, value in states.items():
        yield f"generator {name}", value
    module = getattr(arm.workload, "module", None)
    if module is not None:
        for name, buffer in module(arm.subject).named_buffers():
            yield f"buffer {name}", _detached(buffer)
        if hasattr(arm.workload, "loss"):
            yield from _training(arm, case, seed)


def _training(arm: _Arm, case: str, seed: int) -> Iterator[tuple[str, Any]]:
    """Gradients of the loss, and the parameters after one and after five steps of plain gradient descent."""
    import copy

    import torch

    module = arm.workload.module(arm.subject)
    before = copy.deepcopy(module.state_dict())
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    for step in range(1, 6):
        seed_everything(seed + step)
        optimizer.zero_grad()
        arm.workload.loss(arm.run(arm.workload.inputs(case, seed + step))).backward()
        if step == 1:
            for name, parameter in module.named_parameters():
                yield f"gradient {name}", None if parameter.grad is None else _detached(parameter.grad)
        optimizer.step()
        if step in (1, 5):
            for name, parameter in module.named_parameters():
                yield f"parameter {name} after {step} steps", _detached(parameter)
    module.load_state_dict(before)


def _exception(arm: _Arm, inputs: Any) -> str:
    try:
        arm.run(inputs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Containers taken apart: every leaf by its path."""
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)) and not all(isinstance(item, (int, float, str)) for item in value):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {name: value}
    return {k: v for key, item in items for k, v in _flat(item, f"{name}.{key}" if name else key).items()}


def _detached(value: Any) -> Any:
    import numpy
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, numpy.ndarray):
        return torch.from_numpy(value.copy())
    return list(value) if isinstance(value, tuple) else value


def _same(value: Any, kept: Any) -> bool:
    import torch

    if isinstance(value, torch.Tensor) and isinstance(kept, torch.Tensor):
        return value.shape == kept.shape and value.dtype == kept.dtype and bool(torch.equal(value, kept))
    return bool(value == kept)


def _generator_states() -> dict[str, str]:
    """The state of every random generator, as a hash."""
    import numpy
    import torch

    with numpy.printoptions(threshold=sys.maxsize):
        states = {"python": repr(random.getstate()), "numpy": repr(numpy.random.get_state())}
    states["torch"] = repr(torch.get_rng_state().tolist())
    if torch.cuda.is_available():
        states["cuda"] = repr([state.tolist() for state in torch.cuda.get_rng_state_all()])
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in states.items()}


# Timing


def _time(arm: _Arm) -> dict[str, Any]:
    """The timings of each case, after a warm-up for its shape; and the most memory that the process has held."""
    cases = {case: _timings(arm, case) for case in arm.specification["cases"]}
    return {"cases": cases, "memory": _peak_memory()}


def _device_wait() -> Callable[[], Any]:
    """What lets a clock see the end of what was asked of a GPU."""
    import torch

    return torch.cuda.synchronize if torch.cuda.is_available() else lambda: None


def _timings(arm: _Arm, case: str) -> dict[str, Any]:
    specification = arm.specification
    wait = _device_wait()
    inputs = [arm.workload.inputs(case, seed) for seed in specification["seeds"]]
    for _ in range(specification["warm_up"]):
        arm.run(inputs[0])
    wait()
    times: list[float] = []
    began = time.perf_counter()
    while not _is_enough(times, time.perf_counter() - began, specification):
        value = inputs[len(times) % len(inputs)]
        start = time.perf_counter()
        arm.run(value)
        wait()
        times.append(time.perf_counter() - start)
    return {"times": times, "median": statistics.median(times)}


def _is_enough(times: list[float], elapsed: float, specification: Specification) -> bool:
    """Enough repetitions and time; or the limit of time, with a few at least."""
    if len(times) >= specification["iterations"] and elapsed >= specification["seconds"]:
        return True
    return len(times) >= 3 and elapsed >= specification["limit"]


def _peak_memory() -> dict[str, int]:
    import torch

    found = {}
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        found["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.max_memory_allocated()
    return found


# Profiling


def _profile(arm: _Arm, counter: Callable[[], Any]) -> dict[str, Any]:
    """For each case: operators launched and host synchronisations in one run, and the seconds that each stage takes."""
    counts: dict[str, Any] = {}
    stages: dict[str, Any] = {}
    for case in arm.specification["cases"]:
        inputs = arm.workload.inputs(case, 0)
        with counter() as counting:
            arm.run(inputs)
        counts[case] = counting.result()
        if hasattr(arm.workload, "stages"):
            stages[case] = _stage_seconds(arm, inputs)
    return {"counts": counts, "stages": stages}


def _stage_seconds(arm: _Arm, inputs: Any) -> dict[str, float]:
    """The median over a few runs of what was spent in each stage; stages that run side by side each count in full."""
    stages = arm.workload.stages(arm.subject)
    originals = {name: getattr(owner, attribute) for name, (owner, attribute) in stages.items()}
    runs: list[dict[str, float]] = []
    for name, (owner, attribute) in stages.items():
        setattr(owner, attribute, _timed(originals[name], name, runs))
    for _ in range(STAGE_RUNS):
        runs.append(dict.fromkeys(stages, 0.0))
        arm.run(inputs)
    for name, (owner, attribute) in stages.items():
        setattr(owner, attribute, originals[name])
    return {name: statistics.median(run[name] for run in runs) for name in stages}


def _timed(original: Callable[..., Any], name: str, runs: list[dict[str, float]]) -> Callable[..., Any]:
    wait = _device_wait()

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            wait()
            runs[-1][name] += time.perf_counter() - start

    return call
