"""The job ``compile``: what :func:`torch.compile` makes of one function of the program, in the program.

The function is replaced by one that can be switched between the original and the compiled one, so that each call has what it has
there: gradients or none, precision, hooks. All this is in one process: to compile in each anew would take most of the time. In the
order of the samples the original and the compiled function take turns.

A program that fails only where it is compiled is a result, ``failed``. What ends the process is told by the last line printed.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple, Optional

from _apply_opt_graphs import CompilerFailed, Watch  # type: ignore[import-not-found]
from _apply_opt_timing import SEED_BLOCKS, SEEDS_APART, Clock, is_enough  # type: ignore[import-not-found]
from _apply_opt_values import CONTAINER, kept_leaves, same_leaves  # type: ignore[import-not-found]

WHOLE = "whole"
COMPILING = "apply-opt: compiling from here on"
STRIDES = re.compile(r" strides \(.*?\)")
MOST_WARM_UPS, QUIET = 12, 2
"""Runs before the timing begins: until this many, one after the other, compile nothing."""


class Run(NamedTuple):
    """One run of the program: its seconds (all of it, or the function's calls), how many calls, and what they and it gave."""

    seconds: float
    calls: Sequence[float]
    leaves: Sequence[Any]


def compile_function(arm: Any) -> dict[str, Any]:
    """What becomes of the stage that the specification names; without it in the program, only the names that there are."""
    arm.load()
    stages = {WHOLE: _entry(arm), **(arm.workload.stages(arm.subject) if hasattr(arm.workload, "stages") else {})}
    name = arm.specification["stage"]
    if name not in stages:
        return {"stages": list(stages)}
    with Switch(stages[name], is_whole=name == WHOLE).installed() as switch:
        return {"stages": list(stages), **Check(arm, switch).result()}


def _entry(arm: Any) -> tuple[Any, str]:
    """What a user would compile; where the workload does not say, all of its run."""
    return arm.workload.entry(arm.subject) if hasattr(arm.workload, "entry") else (arm.workload, "run")


class Switch:
    """Stands in the place of a function, calls ``function`` for it, and keeps how long that took and what it gave."""

    def __init__(self, place: tuple[Any, str], is_whole: bool) -> None:
        self.owner, self.attribute = place
        self.is_whole = is_whole
        self.original = self.function = getattr(*place)
        self.is_keeping = False
        self.seconds: list[float] = []
        self.kept: list[Any] = []
        self.after_call: Callable[[], None] = lambda: None
        self._clock, self._lock = Clock(), threading.Lock()

    @contextlib.contextmanager
    def installed(self) -> Iterator[Switch]:
        """In its place, and afterwards as it was."""
        is_own = self.attribute in vars(self.owner)

        @functools.wraps(self.original)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(args, kwargs)

        setattr(self.owner, self.attribute, call)
        try:
            yield self
        finally:
            setattr(self.owner, self.attribute, self.original) if is_own else delattr(self.owner, self.attribute)

    def _call(self, args: Any, kwargs: Any) -> Any:
        self._clock.wait()
        start = perf_counter()
        try:
            result = self.function(*args, **kwargs)
        except Exception as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "torch._functorch")):
                raise CompilerFailed(_said(error)) from error
            raise
        finally:
            self._clock.wait()
            with self._lock:
                self.seconds.append(perf_counter() - start)
            self.after_call()
        if self.is_keeping:
            leaves = kept_leaves(result)
            with self._lock:
                self.kept += leaves
        return result

    def run(self, arm: Any, inputs: Any, keep: bool = False) -> Run:
        """The program once. What it keeps is taken at once: nobody changes it any more."""
        self.seconds, self.kept, self.is_keeping = [], [], keep
        self._clock.wait()
        start = perf_counter()
        outputs = arm.run(inputs)
        self._clock.wait()
        whole = perf_counter() - start
        leaves = [*self.kept, *kept_leaves(outputs)] if keep else []
        return Run(whole if self.is_whole else sum(self.seconds), self.seconds, leaves)


class Check:
    """The steps, and what they have found."""

    def __init__(self, arm: Any, switch: Switch) -> None:
        import torch

        self.arm, self.switch, self.specification = arm, switch, arm.specification
        packages = os.path.dirname(os.path.dirname(os.path.realpath(torch.__file__)))
        workload = os.path.dirname(os.path.realpath(self.specification["workload"]))
        self.roots = {self.specification["checkout"]: "", workload: "", packages: "", sys.prefix: ""}
        self.cases: dict[str, dict[str, Any]] = {}
        self.first: dict[str, Any] = {}
        self.seconds = 0.0
        self.samples: list[dict[str, Any]] = []
        self.buffers = [(buffer, buffer.detach().clone()) for buffer in _buffers(arm)]

    def result(self) -> dict[str, Any]:
        """Everything, as far as it came."""
        timed, others = self.specification["cases"], self.specification["compared"]
        for case in dict.fromkeys([*timed, *others]):
            self._observe(case)
        if not any(found["calls"] for found in self.cases.values()):
            return {"cases": {}}
        print(COMPILING, flush=True)
        failed = None
        with self._cold(), Watch(*self._asked()) as self.watch:
            try:
                self._compiled()
            except (Exception, CompilerFailed) as error:
                failed = str(error) if isinstance(error, CompilerFailed) else _said(error)
            self.switch.after_call = lambda: None
            self.switch.function = self.switch.original
            breaks = self.watch.breaks()
        at_first = self.first.get("breaks", {})
        return {
            "first": {**self.first, "breaks": sum(at_first.values())} if self.first else None,
            "graphs": self.watch.graphs,
            "again": self.watch.again,
            "operators": self.watch.operators,
            "breaks": [{**place, "first": at_first.get(place["place"], 0)} for place in breaks],
            "seconds": self.seconds,
            "cases": {case: self._told(case) for case, found in self.cases.items() if found["calls"]},
            "samples": self.samples,
            "failed": failed,
            "fullgraph": self._fullgraph(),
        }

    def _asked(self) -> tuple[str, dict[str, str], float]:
        return self.specification["backend"], self.roots, self.specification["budget"]

    def _observe(self, case: str) -> None:
        """What the original gives, and whether it gives that again."""
        runs = {seed: self._run(case, seed) for seed in self.specification["seeds"]}
        again = self._run(case, self.specification["seeds"][0])
        first = runs[self.specification["seeds"][0]]
        self.cases[case] = {
            "calls": len(again.calls),
            "seconds": again.seconds,
            "runs": runs,
            "steady": same_leaves(first.leaves, again.leaves),
        }

    def _run(self, case: str, seed: int) -> Run:
        """From the same state each time: a run in training changes what a module remembers (running means)."""
        for buffer, value in self.buffers:
            buffer.data.copy_(value)
        inputs = self.arm.workload.inputs(case, seed)
        self.arm.seed_everything(seed)
        return self.switch.run(self.arm, inputs, keep=True)

    def _compiled(self) -> None:
        self._turn_on(self.watch, fullgraph=False)
        self.switch.after_call = self._look
        timed = [case for case in self.specification["cases"] if self.cases[case]["calls"]]
        for case in timed:
            self._compare(case)
        for case in timed if self.specification["orders"] else ():
            self._time(case)
        self.switch.function = self.compiled
        for case, found in self.cases.items():
            if case not in timed and found["calls"] and self.watch.left() > 0:
                self._compare(case)

    def _turn_on(self, watch: Any, fullgraph: bool) -> None:
        import torch
        import torch._functorch.config as config

        if hasattr(config, "donated_buffer"):
            config.donated_buffer = False  # workloads keep the graph of a backward pass, as training does not
        self.compiled = torch.compile(self.switch.original, backend=watch.backend, fullgraph=fullgraph)
        self.switch.function = self.compiled

    def _look(self) -> None:
        """What one call, the first, makes of it."""
        if not self.first:
            breaks = {place["place"]: place["times"] for place in self.watch.breaks()}
            self.first = {"graphs": self.watch.graphs, "breaks": breaks, "seconds": self.switch.seconds[-1]}

    def _compare(self, case: str) -> None:
        """What the compiled function gives for what the original was given."""
        found = self.cases[case]
        graphs, again = self.watch.graphs, self.watch.again
        found["compared"] = [
            compared(found["runs"][seed].leaves, self._watched(functools.partial(self._run, case, seed), case).leaves)
            for seed in self.specification["seeds"]
        ]
        found["graphs"], found["again"] = self.watch.graphs - graphs, self.watch.again - again

    def _watched(self, run: Callable[[], Run], case: str) -> Run:
        """A run; what it takes longer than the original counts as the compiler's, where that was at work."""
        graphs = self.watch.graphs
        done = run()
        if self.watch.graphs > graphs:
            self.seconds += max(0.0, done.seconds - self.cases[case]["seconds"])
        return done

    def _time(self, case: str) -> None:
        seeds = itertools.count(self.specification["seed"] % SEED_BLOCKS * SEEDS_APART + 1)

        def once() -> Run:
            inputs = self.arm.workload.inputs(case, next(seeds))
            return self._watched(functools.partial(self.switch.run, self.arm, inputs), case)

        self.switch.function = self.compiled
        quiet = 0
        for _ in range(MOST_WARM_UPS):
            graphs = self.watch.graphs
            once()
            quiet = quiet + 1 if self.watch.graphs == graphs else 0
            if quiet == QUIET:
                break
        for number, (kind, order) in enumerate(self.specification["orders"]):
            for side in order:
                is_compiled = side == "after" and kind == self.specification["kind"]
                self.switch.function = self.compiled if is_compiled else self.switch.original
                sample = {"case": case, "kind": kind, "block": number, "side": side}
                self.samples.append({**sample, "times": self._times(once)})

    def _times(self, once: Callable[[], Run]) -> list[float]:
        times: list[float] = []
        began = perf_counter()
        while not is_enough(times, perf_counter() - began, self.specification):
            times.append(once().seconds)
        return times

    def _told(self, case: str) -> dict[str, Any]:
        """A case's part of the result."""
        found = self.cases[case]
        known = {key: found[key] for key in ("calls", "seconds", "steady")}
        if "compared" not in found:
            return known
        return {**known, "graphs": found["graphs"], "again": found["again"], "parity": together(found["compared"])}

    def _fullgraph(self) -> dict[str, Any]:
        """Whether the first call can be one graph. Only what Dynamo says counts: no code is generated."""
        import torch._dynamo

        torch._dynamo.reset()  # type: ignore[no-untyped-call,unused-ignore]
        case = next(case for case, found in self.cases.items() if found["calls"])
        with Watch("eager", self.roots) as watch:
            try:
                self._turn_on(watch, fullgraph=True)
                self._run(case, self.specification["seeds"][0])
            except (Exception, CompilerFailed) as error:
                return {"works": False, "reason": str(error) if isinstance(error, CompilerFailed) else _said(error)}
        return {"works": True, "reason": ""}

    @contextlib.contextmanager
    def _cold(self) -> Iterator[None]:
        """Nothing that was compiled before is found again."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
                os.environ[name] = os.path.join(folder, name)
            yield


def _buffers(arm: Any) -> list[Any]:
    """Of the module, where the workload has one."""
    module = arm.workload.module(arm.subject) if hasattr(arm.workload, "module") else None
    return list(module.buffers()) if module is not None else []


def compared(before: Sequence[Any], after: Sequence[Any]) -> dict[str, Any]:
    """How the leaves of a run differ: the largest difference of numbers, and how many of what is discrete are the same.

    ``other`` is the name of the first leaf that is of another kind (type, dtype, shape; not how it lies in memory).
    """
    other = next((a.name or "value" for a, b in zip(before, after) if _kind(a) != _kind(b)), "")
    if len(before) != len(after):
        other = other or f"{len(after)} values instead of {len(before)}"
    found = [difference(a.value, b.value) for a, b in zip(before, after) if a.value is not CONTAINER]
    return together([{"largest": n, "same": same, "discrete": total, "other": other} for n, same, total in found])


def _kind(leaf: Any) -> tuple[str, str]:
    return leaf.name, STRIDES.sub("", leaf.kind)


def difference(one: Any, other: Any) -> tuple[float, int, int]:
    """Of two values: the largest difference of their numbers, and of what is discrete how many are the same, of how many."""
    torch = sys.modules["torch"]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and one.shape == other.shape:
        if one.is_floating_point() or one.is_complex():
            wide = [tensor.to(torch.complex128 if one.is_complex() else torch.float64) for tensor in (one, other)]
            apart = (wide[0] - wide[1]).abs()
            apart[(wide[0] == wide[1]) | (wide[0].isnan() & wide[1].isnan())] = 0.0
            return float(apart.nan_to_num(math.inf, math.inf).max()) if apart.numel() else 0.0, 0, 0
        return 0.0, int((one == other).sum()), one.numel()
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        found = [difference(a, b) for a, b in zip(one, other)]
        return max((f[0] for f in found), default=0.0), sum(f[1] for f in found), sum(f[2] for f in found)
    if isinstance(one, float) and isinstance(other, float):
        return 0.0 if repr(one) == repr(other) else abs(one - other) if math.isfinite(one - other) else math.inf, 0, 0
    return 0.0, int(repr(one) == repr(other)), 1


def together(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several comparisons as one."""
    largest = max((one["largest"] for one in found), default=0.0)
    same, discrete = (sum(one[name] for one in found) for name in ("same", "discrete"))
    other = next((one["other"] for one in found if one["other"]), "")
    is_identical = not largest and same == discrete and not other
    return {"identical": is_identical, "largest": largest, "same": same, "discrete": discrete, "other": other}


def _said(error: BaseException) -> str:
    """An error in one line: its type, and what it says; of one that only passes another on, the other's."""
    inner: Optional[BaseException] = getattr(error, "inner_exception", None)
    if inner is not None:
        return _said(inner)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
