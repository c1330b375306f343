"""Operators and host synchronisations of programs of which both are known."""

from __future__ import annotations

import _thread
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")


@pytest.fixture
def counting(worker: SimpleNamespace) -> Iterator[Any]:
    """On from before anything that the program starts."""
    found = worker.counters.Counting()
    with found.installed():
        found.refusal = ""  # what pytest's own threads have to do with it is another test's
        yield found


def count(counting: Any, program: Callable[[Any], Any], x: Any) -> Any:
    """The counts of a program whose input is on the device."""
    return counting.of(program, x, x)


def ones() -> Any:
    return torch.ones(4)


class TestOperators:
    """What is launched."""

    @pytest.mark.parametrize(
        ("program", "operators"),
        [
            (lambda x: x + x, {"add": 1}),
            (lambda x: x @ x, {"dot": 1}),
            (lambda x: torch.nn.functional.softmax(x * 2, dim=0), {"mul": 1, "_softmax": 1}),
            (lambda x: x.view(2, 2).t()[0].unsqueeze(0).detach().expand(3, 2), {}),
            (lambda x: torch.empty(3), {}),
            (lambda x: x.add_(1), {"add_": 1}),
            (lambda x: x.split(2)[0].sum(), {"sum": 1}),
            (lambda x: [x.clone() for _ in range(5)], {"clone": 5}),
            (lambda x: torch.zeros(2, 2).reshape(4), {"zeros": 1}),
        ],
    )
    def test_known_programs(self, counting: Any, program: Callable[[Any], Any], operators: dict[str, int]) -> None:
        found = count(counting, program, ones())
        assert found["by_operator"] == operators
        assert found["operators"] == sum(operators.values())

    def test_backward_counts(self, counting: Any) -> None:
        forward = count(counting, lambda x: (x * x).sum(), ones().requires_grad_())["operators"]
        assert count(counting, lambda x: (x * x).sum().backward(), ones().requires_grad_())["operators"] > forward + 2

    def test_inference_mode_is_the_same(self, counting: Any) -> None:
        with torch.inference_mode():
            assert count(counting, lambda x: x + x, ones())["operators"] == 1

    def test_each_count_starts_anew(self, counting: Any) -> None:
        assert [count(counting, lambda x: x + x, ones())["operators"] for _ in range(3)] == [1, 1, 1]

    def test_nothing_is_counted_in_between(self, counting: Any) -> None:
        count(counting, lambda x: x, ones())
        ones().sum().item()
        assert (counting.operators, counting.waits) == ({}, {})


class TestKeptForBackward:
    """4 bytes for each number that autograd needs later."""

    @pytest.mark.parametrize(
        ("program", "numbers"),
        [
            (lambda x, w: x + 1, 0),
            (lambda x, w: (x * x).sum(), 4),
            (lambda x, w: x.exp().exp(), 8),
            (lambda x, w: x[:2].exp() + x[2:].exp(), 4),
            (lambda x, w: [x.view(2, 2).t() * x.view(2, 2)], 4),
            (lambda x, w: x.detach().exp(), 0),
            (lambda x, w: x * w, 4),
            (lambda x, w: torch.nn.functional.linear(x.view(1, 4), w.view(1, 4)), 4),
        ],
    )
    @pytest.mark.parametrize("backwards", [False, True])
    def test_known_programs(
        self, worker: SimpleNamespace, program: Callable[..., Any], numbers: int, backwards: bool
    ) -> None:
        weight = torch.nn.Parameter(ones())

        def run(x: Any) -> None:
            result = program(x, weight)
            if backwards and isinstance(result, torch.Tensor) and result.requires_grad:
                result.sum().backward()

        assert worker.counters.kept_for_backward(run, ones().requires_grad_(), [weight]) == 4 * numbers

    def test_without_gradients(self, worker: SimpleNamespace) -> None:
        with torch.no_grad():
            assert worker.counters.kept_for_backward(lambda x: x.exp(), ones().requires_grad_(), []) == 0


class TestWaits:
    """What makes the host wait for the device."""

    @pytest.mark.parametrize(
        ("program", "waits"),
        [
            (lambda x: x.sum().item(), {"item": 1}),
            (lambda x: x.tolist(), {"tolist": 1}),
            (lambda x: x.cpu(), {"cpu": 1}),
            (lambda x: x.cpu().numpy(), {"cpu": 1}),
            (lambda x: x.cpu().tolist(), {"cpu": 1}),
            (lambda x: [x.cpu(), (x.cpu() + 1).sum().item(), x.sum().item()], {"cpu": 2, "item": 1}),
            (lambda x: x.numpy().tolist(), {}),
            (lambda x: torch.ones(3).sum().item(), {}),
            (lambda x: torch.ones(3)[torch.ones(3) > 0], {}),
            (lambda x: torch.ones(4).copy_(x).sum().item(), {"item": 1}),
            (lambda x: torch.nn.Linear(2, 2)(torch.ones(2)).tolist(), {"tolist": 1}),
            (lambda x: x.view(2, 2)[0].tolist(), {"tolist": 1}),
            (lambda x: torch.stack([torch.ones(4), x])[0].tolist(), {"tolist": 1}),
            (lambda x: bool(x[0] > 0), {"__bool__": 1}),
            (lambda x: 1 if (x > 0).all() else 0, {"__bool__": 1}),
            (lambda x: [i for i in x if i > 2], {"__bool__": 4}),
            (lambda x: float(x[0]) + int(x[1]), {"__float__": 1, "__int__": 1}),
            (lambda x: range(10)[x[0].long()], {"__index__": 1}),
            (lambda x: x.nonzero(), {"nonzero": 1}),
            (lambda x: torch.masked_select(x, x > 0), {"masked_select": 1}),
            (lambda x: x[x > 0], {"index": 1}),
            (lambda x: x[torch.tensor([0, 1])], {}),
            (lambda x: x.masked_fill(x > 0, 0), {}),
            (lambda x: x.unique(), {"_unique2": 1}),
            (lambda x: torch.equal(x, x), {"equal": 1}),
            (lambda x: x.to("cpu"), {}),
            (lambda x: torch.where(x > 0, x, 0 * x), {}),
            (lambda x: torch.cuda.empty_cache(), {"empty_cache": 1}),
        ],
    )
    def test_known_programs(self, counting: Any, program: Callable[[Any], Any], waits: dict[str, int]) -> None:
        found = count(counting, program, ones())
        assert found["by_synchronisation"] == waits
        assert found["synchronisations"] == sum(waits.values())

    def test_setting_by_a_mask(self, counting: Any) -> None:
        def one(x: Any) -> None:
            x[x > 0] = 1

        def several(x: Any) -> None:
            x[x > 0] = torch.arange(4.0)

        assert count(counting, one, ones())["synchronisations"] == 0
        assert count(counting, several, ones())["synchronisations"] == 1

    def test_copy_from_a_gpu(self, worker: SimpleNamespace) -> None:
        """Told from the arguments, since there is none here."""
        gpu, cpu = (
            SimpleNamespace(is_cuda=True, device="cuda:0"),
            SimpleNamespace(is_cuda=False, device=torch.device("cpu")),
        )
        waits = worker.counters._is_copy_to_host
        assert waits("_to_copy", [gpu], {"device": torch.device("cpu")})
        assert not waits("_to_copy", [gpu], {"device": torch.device("cpu"), "non_blocking": True})
        assert not waits("_to_copy", [gpu], {"dtype": torch.float16})
        assert not waits("_to_copy", [cpu], {"device": torch.device("cpu")})
        assert waits("copy_", [cpu, gpu], {})
        assert not waits("copy_", [cpu, gpu, True], {})
        assert not waits("copy_", [cpu, cpu], {})


def by_thread(x: Any) -> None:
    thread = threading.Thread(target=lambda: (x + x).sum().item())
    thread.start()
    thread.join()


def by_new_pool(x: Any) -> None:
    with ThreadPoolExecutor(2) as pool:
        pool.submit(lambda: (x + x).sum().item()).result()


def by_thread_pool(x: Any) -> None:
    with ThreadPool(2) as pool:
        pool.apply(lambda: (x + x).sum().item())


def by_subclass(x: Any) -> None:
    class Own(threading.Thread):
        def run(self) -> None:
            (x + x).sum().item()

    thread = Own()
    thread.start()
    thread.join()


def by_hand(x: Any) -> None:
    done = threading.Event()
    _thread.start_new_thread(lambda: ((x + x).sum().item(), done.set()), ())
    done.wait(10)


class TestThreads:
    """Work that is moved to another thread is still work: a count that missed it would be a false claim."""

    @pytest.mark.parametrize("program", [by_thread, by_new_pool, by_thread_pool, by_subclass, by_hand])
    def test_started_by_the_run(self, counting: Any, program: Callable[[Any], None]) -> None:
        found = count(counting, program, ones())
        assert found["by_operator"] == {"add": 1, "sum": 1, "_local_scalar_dense": 1}
        assert found["by_synchronisation"] == {"item": 1}

    def test_pool_that_is_older_than_the_run(self, counting: Any) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: None, range(8)))
            found = count(counting, lambda x: list(pool.map(lambda _: x + x, range(20))), ones())
        assert found["operators"] == 20

    def test_loop_of_its_own_that_is_older_than_the_run(self, counting: Any) -> None:
        """A thread that has been running since before, and takes its work from a queue."""
        asked: queue.Queue[Any] = queue.Queue()
        answers: queue.Queue[Any] = queue.Queue()

        def serve() -> None:
            while (value := asked.get()) is not None:
                answers.put((value + value).sum())

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            found = count(counting, lambda x: (asked.put(x), answers.get())[1].item(), ones())
        finally:
            asked.put(None)
            thread.join()
        assert found["by_operator"] == {"add": 1, "sum": 1, "_local_scalar_dense": 1}
        assert found["by_synchronisation"] == {"item": 1}

    def test_two_at_once(self, counting: Any) -> None:
        def work(x: Any) -> None:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda _: [(x + x).sum().item() for _ in range(20)], range(16)))

        found = count(counting, work, ones())
        assert found["by_operator"] == {"add": 320, "sum": 320, "_local_scalar_dense": 320}
        assert found["by_synchronisation"] == {"item": 320}

    def test_older_than_the_counting_is_refused(self, worker: SimpleNamespace) -> None:
        with ThreadPoolExecutor(1, thread_name_prefix="old") as pool:
            pool.submit(len, "").result()
            counting = worker.counters.Counting()
            with counting.installed():
                found = count(counting, lambda x: pool.submit(lambda: x + x).result(), ones())
        assert (found["operators"], found["synchronisations"]) == (None, None)
        assert "old_0" in found["refused"]


def test_everything_is_as_it_was_afterwards(worker: SimpleNamespace) -> None:
    def state() -> list[Any]:
        return [vars(torch.Tensor).get(name) for name in worker.counters.METHODS] + [
            torch.Tensor.item, torch.cuda.synchronize, threading.Thread.start, _thread.start_new_thread,
        ]  # fmt: skip

    before = state()
    with worker.counters.Counting().installed():
        assert state() != before
    assert state() == before


def test_without_torch_nothing_is_launched(worker: SimpleNamespace) -> None:
    """In a process of its own, where torch is not imported; nor by the counting. One that comes late is not counted."""
    code = f"""
import sys
sys.path.insert(0, {str(__import__("pathlib").Path(worker.counters.__file__).parent)!r})
from counters import Counting
counting = Counting()
with counting.installed():
    print(counting.of(len, "abc", None), "torch" in sys.modules)
    import torch
    print(counting.of(lambda x: x + x, torch.ones(1), None))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.splitlines()
    assert ran[0].startswith("{'operators': 0, 'synchronisations': 0") and ran[0].endswith(" False")
    assert "torch was loaded late" in ran[1]
