"""Timings: what is repeated, how often, with which inputs; and what a process says of its memory."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


class Arm:
    """An arm whose runs are written down."""

    def __init__(self, takes: float = 0.0, **specification: Any) -> None:
        self.takes = takes
        usual = {"cases": ["a"], "seeds": [0], "warm_up": 2, "iterations": 4, "seconds": 0.0, "limit": 5.0}
        self.specification = {**usual, **specification}
        self.workload = SimpleNamespace(inputs=lambda case, seed: (case, seed))
        self.canary = self
        self.subject = self
        self.ran: list[Any] = []
        self.is_on = False

    def __enter__(self) -> None:
        self.is_on = True

    def __exit__(self, *_: object) -> None:
        self.is_on = False

    def load(self) -> None:
        assert self.is_on

    def seed_everything(self, seed: int) -> None:
        pass

    def run(self, inputs: Any) -> Any:
        self.ran.append((inputs, self.is_on))
        time.sleep(self.takes)
        self.first()
        self.second()
        return self.gives(inputs)

    def gives(self, inputs: Any) -> Any:
        return list(inputs)

    def first(self) -> None:
        time.sleep(self.takes)

    def second(self) -> None:
        pass


def test_first_run_of_each_case_is_watched_and_not_timed(worker: SimpleNamespace) -> None:
    arm = Arm(0.003, cases=["a", "b"])
    found = worker.timing.time_cases(arm)
    assert [entry for entry in arm.ran if entry[1]] == [(("a", 0), True), (("b", 0), True)]
    assert arm.ran[:2] == [entry for entry in arm.ran if entry[1]]
    assert {case: len(result["times"]) for case, result in found["cases"].items()} == {"a": 4, "b": 4}


def test_no_input_comes_twice(worker: SimpleNamespace) -> None:
    """A program that remembers its results must not look fast."""
    arm = Arm(0.003)
    worker.timing.time_cases(arm)
    *timed, last = [inputs for inputs, _ in arm.ran]
    assert len(set(timed)) == len(timed)
    assert last == timed[0] == ("a", 0), "what it gives is looked at again"


def test_no_input_comes_in_two_processes_but_the_first(worker: SimpleNamespace) -> None:
    """What is remembered on disk must not look fast either."""
    arms = [Arm(0.003, seeds=[seed]) for seed in (5, 6)]
    for arm in arms:
        worker.timing.time_cases(arm)
    one, other = ({inputs for inputs, _ in arm.ran} for arm in arms)
    assert one & other == {("a", 0)}


def test_seeds_that_every_generator_takes(worker: SimpleNamespace) -> None:
    arm = Arm(0.003, seeds=[2**31 - 1])
    worker.timing.time_cases(arm)
    assert all(seed < 2**32 for (_, seed), _ in arm.ran)


def test_outputs_that_change_with_the_runs(worker: SimpleNamespace) -> None:
    """Also where nothing watches any more."""
    steady, tired, alone = Arm(0.003), Arm(0.003, cases=["b", "a"]), Arm(0.003)
    tired.gives = lambda inputs: [inputs[0] if len(tired.ran) < 5 else "nothing"]  # type: ignore[method-assign]
    alone.gives = lambda inputs: [alone.is_on]  # type: ignore[method-assign]
    found = [worker.timing.time_cases(arm)["unsteady"] for arm in (steady, tired, alone)]
    assert found == [[], ["b", "a"], ["a"]]


def test_a_clock_that_the_checkout_replaces(worker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    arm = Arm(0.005)
    slow = time.perf_counter
    arm.load = lambda: monkeypatch.setattr(time, "perf_counter", lambda: slow() / 10)  # type: ignore[method-assign]
    found = worker.timing.time_cases(arm)
    assert found["cases"]["a"]["median"] > 0.009
    assert found["load"] < 0.005


def test_both_arms_get_the_same(worker: SimpleNamespace) -> None:
    arms = [Arm(0.003), Arm(0.004)]
    for arm in arms:
        worker.timing.time_cases(arm)
    assert arms[0].ran == arms[1].ran


class TestEnough:
    """How long it goes on."""

    def test_iterations(self, worker: SimpleNamespace) -> None:
        assert len(worker.timing.time_cases(Arm(0.003, iterations=9))["cases"]["a"]["times"]) == 9

    def test_seconds(self, worker: SimpleNamespace) -> None:
        began = time.monotonic()
        found = worker.timing.time_cases(Arm(0.003, seconds=0.2))["cases"]["a"]
        assert len(found["times"]) > 10 and time.monotonic() - began >= 0.2

    def test_limit(self, worker: SimpleNamespace) -> None:
        found = worker.timing.time_cases(Arm(0.03, iterations=1000, limit=0.05))["cases"]["a"]
        assert len(found["times"]) == 3, "a few there are"

    def test_what_takes_many_times_the_limit(self, worker: SimpleNamespace) -> None:
        arm = Arm(0.02, iterations=1000, limit=0.001)
        arm.workload.stages = lambda subject: {"one": (subject, "first")}
        assert len(worker.timing.time_cases(arm)["cases"]["a"]["times"]) == 1
        assert len(arm.ran) == 5, "watched, warm-up, timed, stages, and the first again"

    def test_short_ones_are_run_together(self, worker: SimpleNamespace) -> None:
        found = worker.timing.time_cases(Arm())["cases"]["a"]
        assert found["loops"] > 1
        assert 0 < found["median"] < 0.002
        assert worker.timing.time_cases(Arm(0.003))["cases"]["a"]["loops"] == 1

    def test_no_time_at_all(self, worker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
        """A clock that did not tick: there is still a logarithm to be had."""
        monkeypatch.setattr(worker.timing, "perf_counter", lambda: 7.0)
        found = worker.timing.time_cases(Arm(iterations=3))["cases"]["a"]
        assert all(value > 0 for value in found["times"])


def test_times_are_those_of_the_runs(worker: SimpleNamespace) -> None:
    found = worker.timing.time_cases(Arm(0.005))["cases"]["a"]
    assert 0.009 < found["median"] < 0.05
    assert sorted(found["times"])[0] <= found["median"] <= sorted(found["times"])[-1]


def test_garbage_of_loading_is_collected_before(worker: SimpleNamespace) -> None:
    """Or the side that allocates more would pay for what both have loaded."""
    arm, collected = Arm(0.003), []

    def note(phase: str, about: dict[str, int]) -> None:
        if phase == "stop" and about["generation"] == 2:
            collected.append(len(arm.ran))

    gc.disable()
    gc.callbacks.append(note)
    try:
        worker.timing.time_cases(arm)
    finally:
        gc.callbacks.remove(note)
        gc.enable()
    assert collected == [3], "watched and twice to warm up"


def test_stages(worker: SimpleNamespace) -> None:
    arm = Arm(0.005)
    arm.workload.stages = lambda subject: {"one": (subject, "first"), "two": (subject, "second")}
    found = worker.timing.time_cases(arm)["stages"]["a"]
    assert 0.004 < found["one"] < 0.05
    assert found["two"] < 0.003
    assert "stages" in worker.timing.time_cases(Arm()) and worker.timing.time_cases(Arm())["stages"] == {}


class Cuda:
    """What is used of ``torch.cuda``: a device that needs 10 ms for whatever it is asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def synchronize(self) -> None:
        self.calls.append("synchronize")
        time.sleep(0.01)

    def max_memory_allocated(self) -> int:
        return 123

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = time.perf_counter()

        def elapsed_time(self, other: Any) -> float:
            return float(other.at - self.at) * 1000


def test_a_gpu_is_waited_for(worker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=Cuda(), Tensor=Cuda))  # type: ignore[arg-type]
    found = worker.timing.time_cases(Arm(0.002))
    times, device = found["cases"]["a"]["times"], found["cases"]["a"]["device"]
    assert min(times) > 0.01, "the wall clock sees the end of the work"
    assert len(device) == len(times)
    assert all(0.003 < value < wall for value, wall in zip(device, times))
    assert found["memory"]["cuda"] == 123


@pytest.mark.skipif(sys.platform != "linux", reason="getrusage is all there is")
def test_peak_of_memory_is_the_process_own(worker: SimpleNamespace, tmp_path: Path) -> None:
    """A parent that is large does not make its child so."""
    folder = str(Path(worker.timing.__file__).parent)
    child = f"import sys; sys.path.insert(0, {folder!r}); import values; sys.modules['_apply_opt_values'] = values; import timing; "
    child += "print(timing._peak_memory()['process'])"
    script = f"held = bytearray(b'x' * (300 << 20))\nimport subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert 2**20 < int(ran.stdout) < 150 * 2**20
