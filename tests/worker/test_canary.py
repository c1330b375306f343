"""Which lines ran: in every thread, while the counting is on, and not a line longer."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from apply_opt.model.changed import statements

PROGRAM = '''\
"""A module."""
import threading

LIMIT = 3


def work(count):
    """Counts."""
    total = 0
    for i in range(count):
        total += i
    if total > 1000:
        total = 0
    return total


def steps(count):
    for i in range(count):
        yield work(
            i
        )


def recurse(depth):
    return recurse(depth - 1) if depth else 0
'''
START, LOOP, ADD, NEVER, END = 9, 10, 11, 13, 14


@pytest.fixture
def load(tmp_path: Path) -> Callable[[], ModuleType]:
    """Imports the program."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)

    def importing() -> ModuleType:
        spec = importlib.util.spec_from_file_location("program", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return importing


@pytest.fixture
def canary(worker: SimpleNamespace, tmp_path: Path) -> Any:
    return worker.canary.Canary([str(tmp_path / "program.py")])


def lines(canary: Any) -> dict[int, int]:
    (found,) = canary.lines().values()
    return dict(found)


def test_each_line_as_often_as_it_runs(canary: Any, load: Callable[[], Any]) -> None:
    with canary:
        program = load()
        program.work(3)
        program.work(2)
    found = lines(canary)
    assert (found[START], found[LOOP], found[ADD], found[END]) == (2, 7, 5, 2)
    assert NEVER not in found
    assert found[4] == 1


def test_what_runs_is_known_to_have_code(canary: Any, load: Callable[[], Any]) -> None:
    with canary:
        program = load()
        list(program.steps(3))
        program.recurse(2)
    known = {line for s in statements(PROGRAM.encode(), range(1, 100)) for line in s.lines}
    assert set(lines(canary)) - known == {1}, "the module's own docstring is assigned, all else is a statement"


def test_only_while_it_is_on(canary: Any, load: Callable[[], Any]) -> None:
    program = load()
    program.work(1)
    with canary:
        pass
    program.work(1)
    assert lines(canary) == {}


def test_a_link_is_the_same_file(worker: SimpleNamespace, load: Callable[[], Any], tmp_path: Path) -> None:
    (tmp_path / "link.py").symlink_to(tmp_path / "program.py")
    canary = worker.canary.Canary([str(tmp_path / "link.py")])
    with canary:
        load().work(1)
    assert lines(canary)[START] == 1


def test_another_file_of_the_same_name_is_not(canary: Any, load: Callable[[], Any], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "program.py").write_text(PROGRAM)
    namespace: dict[str, Any] = {}
    with canary:
        exec(compile(PROGRAM, str(other / "program.py"), "exec"), namespace)
        namespace["work"](1)
    assert lines(canary) == {}


class TestThreads:
    """What the program hands to others."""

    def test_thread(self, canary: Any, load: Callable[[], Any]) -> None:
        with canary:
            thread = threading.Thread(target=load().work, args=(4,))
            thread.start()
            thread.join()
        assert lines(canary)[ADD] == 4

    def test_pool_that_is_older_than_the_run(self, canary: Any, load: Callable[[], Any]) -> None:
        with canary, ThreadPoolExecutor(2) as pool:
            program = load()
            list(pool.map(program.work, [0, 0]))
            list(pool.map(program.work, [3, 4]))
        assert lines(canary)[ADD] == 7

    def test_many_at_once(self, canary: Any, load: Callable[[], Any]) -> None:
        with canary, ThreadPoolExecutor(8) as pool:
            list(pool.map(load().work, [500] * 16))
        assert lines(canary)[ADD] == 8000

    def test_pool_is_left_alone_afterwards(self, canary: Any, load: Callable[[], Any]) -> None:
        """Else the arm that has a pool would be timed with the tracing on."""

        def traced() -> bool:
            (lambda: None)()
            return sys.gettrace() == canary._trace

        with ThreadPoolExecutor(1) as pool:
            with canary:
                program = load()
                assert pool.submit(traced).result()
                pool.submit(program.work, 2).result()
            count = lines(canary)[ADD]
            assert not pool.submit(traced).result()
            pool.submit(program.work, 2).result()
        assert lines(canary)[ADD] == count == 2

    def test_function_that_is_still_running(self, canary: Any, load: Callable[[], Any]) -> None:
        program = load()
        go, done = threading.Event(), []

        def numbers(*_: Any) -> Any:
            yield 1
            go.wait(10)
            yield from range(50)
            done.append(sys.gettrace())

        program.range = numbers  # type: ignore[attr-defined]
        with canary:
            thread = threading.Thread(target=program.work, args=(0,))
            thread.start()
            while LOOP not in lines(canary):
                pass
        count = lines(canary).get(ADD, 0)
        go.set()
        thread.join()
        assert done == [None]
        assert lines(canary).get(ADD, 0) <= count + 1


def test_what_traced_before_traces_again(canary: Any) -> None:
    before = sys.gettrace(), threading.gettrace()

    def other(*_: Any) -> None:
        return None

    sys.settrace(other)
    threading.settrace(other)
    try:
        with canary:
            assert sys.gettrace() == canary._trace
        assert (sys.gettrace(), threading.gettrace()) == (other, other)
    finally:
        sys.settrace(before[0])
        threading.settrace(before[1])  # type: ignore[arg-type]
