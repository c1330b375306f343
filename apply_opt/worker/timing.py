"""The job ``time``: each case's timings after a warm-up for its shape, the share of each stage, and the peak of memory.

Every repetition gets inputs that the program has not seen, in this process or in another: a result that is remembered must
not look like one that is computed. After all of them, the first inputs once more have to give what they gave at first. What
runs in less than ``SAMPLE_SECONDS`` is run several times for one sample.
"""

from __future__ import annotations

import functools
import gc
import itertools
import math
import statistics
import sys
import threading
from collections.abc import Callable, Sequence
from time import perf_counter  # as it is before the checkout's code, which may replace it, is loaded
from typing import Any

from _apply_opt_values import kept_leaves, same_leaves  # type: ignore[import-not-found]

SAMPLE_SECONDS, MOST_LOOPS, LEAST_SAMPLES = 0.002, 100, 3
RESOLUTION, ROUNDING = 1e-9, 0.01
STAGE_RUNS, STAGE_SEEDS = 5, 10**9
SEED_BLOCKS, SEEDS_APART = 4000, 10**6  # numpy's older generators take no seed from 2**32 on


def time_cases(arm: Any) -> dict[str, Any]:
    """The timings of each case. The first run of each is under the canary, and not timed."""
    names = arm.specification["cases"]
    began = perf_counter()
    with arm.canary:
        arm.load()
        load = perf_counter() - began
        first = {case: _outputs(arm, case) for case in names}
    cases = {case: _timings(arm, case) for case in names}
    memory = _peak_memory()
    has_stages = hasattr(arm.workload, "stages")
    stages = {case: _stage_seconds(arm, case, cases[case]["median"]) for case in names} if has_stages else {}
    unsteady = [case for case in names if not same_leaves(first[case], _outputs(arm, case), ROUNDING)]
    return {"cases": cases, "memory": memory, "stages": stages, "load": load, "unsteady": unsteady}


def _outputs(arm: Any, case: str) -> Any:
    """What the first inputs give, as leaves that nothing changes any more."""
    inputs = arm.workload.inputs(case, 0)
    arm.seed_everything(0)
    return kept_leaves(arm.run(inputs))


class Clock:
    """Seconds on the wall, with a GPU waited for; and those between two CUDA events, where there is a GPU at work."""

    def __init__(self) -> None:
        torch = sys.modules.get("torch")
        self._cuda: Any = torch.cuda if torch and torch.cuda.is_available() and torch.cuda.is_initialized() else None
        self.device: list[float] = []

    def wait(self) -> None:
        """Until all that was asked of the GPU is done."""
        if self._cuda:
            self._cuda.synchronize()

    def measure(self, run: Callable[[Any], Any], values: Sequence[Any]) -> float:
        """Seconds for ``run`` with each of ``values``."""
        events = [self._cuda.Event(enable_timing=True) for _ in range(2)] if self._cuda else []
        self.wait()
        start = perf_counter()
        if events:
            events[0].record()
        for value in values:
            run(value)
        if events:
            events[1].record()
        self.wait()
        seconds = perf_counter() - start
        if events:
            self.device.append(events[0].elapsed_time(events[1]) / 1000 / len(values))
        return max(seconds, RESOLUTION)


def _timings(arm: Any, case: str) -> dict[str, Any]:
    specification = arm.specification
    seeds = itertools.count(specification["seeds"][0] % SEED_BLOCKS * SEEDS_APART + 1)

    def fresh(count: int) -> list[Any]:
        return [arm.workload.inputs(case, next(seeds)) for _ in range(count)]

    clock = Clock()
    warm = [clock.measure(arm.run, fresh(1))]
    while len(warm) < specification["warm_up"] and sum(warm) < specification["limit"]:
        warm.append(clock.measure(arm.run, fresh(1)))
    loops = min(MOST_LOOPS, math.ceil(SAMPLE_SECONDS / min(warm)))
    clock.device.clear()
    gc.collect()  # of what was loaded and prepared, or its cost would fall to whichever side allocates most
    times: list[float] = []
    began = perf_counter()
    while not is_enough(times, perf_counter() - began, specification):
        times.append(clock.measure(arm.run, fresh(loops)) / loops)
    device = {"device": clock.device} if clock.device else {}
    return {"times": times, "loops": loops, "median": statistics.median(times), **device}


def is_enough(times: list[float], elapsed: float, specification: Any) -> bool:
    """Enough samples and seconds; or the limit of time, with a few at least, or else a few times the limit."""
    if len(times) >= specification["iterations"] and elapsed >= specification["seconds"]:
        return True
    limit = specification["limit"]
    return elapsed >= limit and (len(times) >= LEAST_SAMPLES or elapsed >= LEAST_SAMPLES * limit)


def _peak_memory() -> dict[str, int]:
    """Bytes: the most that this process has held."""
    found = {}
    if sys.platform == "linux":  # getrusage would tell the parent's peak, where that is higher
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            (peak,) = [line.split()[1] for line in file if line.startswith("VmHWM:")]
        found["process"] = int(peak) << 10
    elif sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        found["cuda"] = torch.cuda.max_memory_allocated()
    return found


def _stage_seconds(arm: Any, case: str, seconds: float) -> dict[str, float]:
    """The median over a few runs of what was spent in each stage; stages that run side by side each count in full.

    ``seconds`` is what a run takes: of long ones there are fewer.
    """
    stages = arm.workload.stages(arm.subject)
    originals = {name: getattr(owner, attribute) for name, (owner, attribute) in stages.items()}
    runs: list[dict[str, float]] = []
    for name, (owner, attribute) in stages.items():
        setattr(owner, attribute, _timed(originals[name], name, runs))
    for seed in range(max(1, min(STAGE_RUNS, int(arm.specification["limit"] / seconds)))):
        inputs = arm.workload.inputs(case, STAGE_SEEDS + seed)
        runs.append(dict.fromkeys(stages, 0.0))
        arm.run(inputs)
    for name, (owner, attribute) in stages.items():
        setattr(owner, attribute, originals[name])
    return {name: statistics.median(run[name] for run in runs) for name in stages}


def _timed(original: Callable[..., Any], name: str, runs: list[dict[str, float]]) -> Callable[..., Any]:
    clock, lock = Clock(), threading.Lock()

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        clock.wait()
        start = perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            clock.wait()
            with lock:
                runs[-1][name] += perf_counter() - start

    return call
