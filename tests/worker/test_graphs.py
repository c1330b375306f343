"""Graphs and graph breaks of programs of which both are known, and what torch's versions say of a break."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch._dynamo")

ROOT = str(Path(__file__).parent)
THIS = "test_graphs.py"


def record(text: str, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, None) if error else None
    return logging.LogRecord("torch._dynamo.x.__graph_breaks", logging.DEBUG, "", 0, text, (), info)


class TestLog:
    """What the log says, from the oldest version that is supported to the newest."""

    def test_old_form(self, worker: SimpleNamespace) -> None:
        """The place is in the stack alone, and the reason in the exception."""
        text = 'Graph break: from user code at:\n  File "/a/one.py", line 3, in f\n    g(x)\n  File "/a/two.py", line 7, in g\n    x'
        note = worker.graphs.note_of(record(text, RuntimeError("Tensor.item\nmore")))
        assert note == (("/a/two.py", 7), [("/a/one.py", 3), ("/a/two.py", 7)], "Tensor.item")

    def test_old_form_of_a_function_that_is_left_to_python(self, worker: SimpleNamespace) -> None:
        text = 'Graph break: skip: from user code at:\n  File "/a/one.py", line 3, in f\n    x\n'
        assert worker.graphs.note_of(record(text))[0] == ("/a/one.py", 3)

    @pytest.mark.parametrize("words", ["Reason", "Graph Break Reason"])
    def test_place_in_the_first_line(self, worker: SimpleNamespace, words: str) -> None:
        text = f"Graph break in user code at /a b/two.py:7\n{words}: No\n  Explanation: It cannot.\n  Hint: none\n\nUser code "
        text += 'traceback:\n  File "/a/one.py", line 3, in f\n    g(x)\n'
        note = worker.graphs.note_of(record(text))
        assert note == (("/a b/two.py", 7), [("/a/one.py", 3)], "No: It cannot.")

    def test_said_before(self, worker: SimpleNamespace) -> None:
        text = "Graph break (user stack suppressed due to duplicate graph break) in user code at C:\\two.py:7\n"
        assert worker.graphs.note_of(record(text + "Graph Break Reason: No")) == (("C:\\two.py", 7), [], "No")

    def test_other_lines(self, worker: SimpleNamespace) -> None:
        assert worker.graphs.note_of(record("something else")) is None
        assert worker.graphs.note_of(record("something\nelse")) is None

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (
                "Encountered graph break when attempting to trace CALL: f(x, y):\n\nNo item\n  Explanation: It is.",
                "No item: It is.",
            ),
            ("Failed. Skipping the function. Graph break encountered:\n\nNo loop\n  Hint: x", "No loop"),
            ("call_method item\nfrom x", "call_method item"),
            ("nothing follows:", ""),
            ("", ""),
        ],
    )
    def test_reason(self, worker: SimpleNamespace, text: str, reason: str) -> None:
        assert worker.graphs.reason_of(text) == reason


@pytest.fixture
def watched(worker: SimpleNamespace) -> Iterator[Callable[..., Any]]:
    """``watched(program, *inputs)``: the watch, after the program was compiled for each of the inputs."""

    def run(program: Callable[[Any], Any], *inputs: Any) -> Any:
        torch._dynamo.reset()
        packages = str(Path(torch.__file__).parent.parent)
        with worker.graphs.Watch("eager", {ROOT: "", packages: "", sys.prefix: ""}) as watch:
            compiled = torch.compile(program, backend=watch.backend)
            for x in inputs:
                compiled(x)
        return watch

    yield run
    torch._dynamo.reset()


def one_graph(x: Any) -> Any:
    return torch.relu(x) * 2


def item(x: Any) -> Any:
    scale = (x * 2).sum().item()
    return x * scale


def loop(x: Any) -> Any:
    total = 0.0
    for row in x + 1:
        total += row.sum().item()
    return x * total


def branch(x: Any) -> Any:
    y = x + 1
    if y.sum() > 0:
        return y * 2
    return y * 3


def nested(x: Any) -> Any:
    return item(x + 1)


def place(program: Any, text: str) -> str:
    """Where ``text`` is in a program of this file."""
    code, lines = program.__code__, Path(__file__).read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if n > code.co_firstlineno and text in line)
    return f"{THIS}:{number}"


class TestPrograms:
    """Counts, places, reasons."""

    def test_no_break(self, watched: Callable[..., Any]) -> None:
        watch = watched(one_graph, torch.ones(3))
        assert (watch.graphs, watch.again, watch.operators, watch.breaks()) == (1, 0, 2, [])

    def test_one_break(self, watched: Callable[..., Any]) -> None:
        watch = watched(item, torch.ones(3))
        (found,) = watch.breaks()
        assert watch.graphs == 2
        assert (found["place"], found["from"], found["times"]) == (place(item, ".item()"), place(item, ".item()"), 1)
        assert "item" in found["reason"] and "\n" not in found["reason"]

    def test_branch(self, watched: Callable[..., Any]) -> None:
        watch = watched(branch, torch.ones(3))
        (found,) = watch.breaks()
        assert (watch.graphs, found["place"]) == (2, place(branch, "if y"))
        assert "branch" in found["reason"]

    def test_function_that_is_left_to_python(self, watched: Callable[..., Any]) -> None:
        """torch's own list of breaks is empty here."""
        watch = watched(loop, torch.ones(3))
        (found,) = watch.breaks()
        assert (watch.graphs, found["place"]) == (0, place(loop, ".item()"))

    def test_from_where(self, watched: Callable[..., Any], tmp_path: Path) -> None:
        """The last line of the user's own, also where the function that broke was called by one that is left to Python."""
        library = tmp_path / "library.py"
        library.write_text("def item(x):\n    return x.sum().item()\n")
        space: dict[str, Any] = {}
        exec(compile(library.read_text(), str(library), "exec"), space)

        def called(x: Any) -> Any:
            for row in x:
                print("a break")
                space["item"](row)

        found = {place["place"]: place["from"] for place in watched(called, torch.ones(2, 2)).breaks()}
        assert found["library.py:2"].startswith(THIS)
        assert watched(nested, torch.ones(3)).breaks()[0]["from"] == place(item, ".item()")

    def test_compiled_again(self, watched: Callable[..., Any]) -> None:
        watch = watched(one_graph, torch.ones(3), torch.ones(4), torch.ones(5))
        assert (watch.graphs, watch.again) == (2, 1), "the second is for every length"

    def test_log_is_as_it_was(self, watched: Callable[..., Any]) -> None:
        names = [name for name in logging.root.manager.loggerDict if name.endswith(".__graph_breaks")]
        before = [
            (logging.getLogger(n).level, logging.getLogger(n).propagate, logging.getLogger(n).handlers[:])
            for n in names
        ]
        watched(item, torch.ones(3))
        after = [
            (logging.getLogger(n).level, logging.getLogger(n).propagate, logging.getLogger(n).handlers[:])
            for n in names
        ]
        assert names and before == after

    def test_log_alone(
        self, watched: Callable[..., Any], worker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A torch that keeps no list of breaks."""
        monkeypatch.setattr(worker.graphs, "_reasons", tuple)
        watch = watched(item, torch.ones(3))
        assert (watch.graphs, [found["place"] for found in watch.breaks()]) == (2, [place(item, ".item()")])

    def test_list_alone(
        self, watched: Callable[..., Any], worker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A torch whose log has another form."""
        monkeypatch.setattr(worker.graphs, "note_of", lambda record: None)
        watch = watched(item, torch.ones(3))
        assert (watch.graphs, [found["place"] for found in watch.breaks()]) == (2, [place(item, ".item()")])


def test_torch_that_has_neither_list_nor_numbers(worker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._dynamo.utils, "graph_break_reasons")
    monkeypatch.setattr(torch._guards, "CompileContext", SimpleNamespace)
    assert (worker.graphs._reasons(), worker.graphs._is_again()) == ((), False)


def test_names_of_places(worker: SimpleNamespace, tmp_path: Path) -> None:
    """From the checkout's root, from the libraries' folder, and else the file's name alone: no path of this machine."""
    roots = {str(tmp_path / "tree"): "", str(tmp_path / "lib"): "lib/"}
    watch = worker.graphs.Watch("eager", roots)
    paths = ("tree/a/b.py", "lib/c/d.py", "other/e.py")
    assert [watch.name((str(tmp_path / path), 5)) for path in paths] == ["a/b.py:5", "lib/c/d.py:5", "e.py:5"]


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("generic_jump TensorVariable()", "a branch that depends on a tensor's values"),
        ("step_unsupported", "what follows cannot be gone on with after a break (in try, with)"),
        ("Tensor.item", "Tensor.item"),
    ],
)
def test_what_the_list_says(worker: SimpleNamespace, reason: str, said: str) -> None:
    assert worker.graphs._plain(reason) == said
