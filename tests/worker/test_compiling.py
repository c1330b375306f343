"""The job ``compile``: in the program's place, in turns, and what is compared."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch._dynamo")


class Program:
    """A function of tensors, with two stages."""

    def whole(self, x: Any) -> dict[str, Any]:
        return {"sum": self.stage(x) + 1, "words": "up" if self.decide(x) else "down"}

    def stage(self, x: Any) -> Any:
        return torch.relu(x).sum()

    def decide(self, x: Any) -> bool:
        return True if x.sum() > 0 else False  # noqa: SIM210, a branch is what it is for

    def unused(self, x: Any) -> Any:
        return x


class Arm:
    """An arm of it; cases are lengths."""

    def __init__(self, cls: type[Program] = Program, **specification: Any) -> None:
        self.cls = type("Own", (cls,), {})
        usual = {
            "stage": "stage",
            "backend": "eager",
            "cases": ["8"],
            "compared": ["8", "7"],
            "seeds": [0, 1],
            "orders": [],
        }
        usual |= {"budget": 300.0, "kind": "before/after", "seed": 3, "iterations": 2, "seconds": 0.0, "limit": 1.0}
        usual |= {"checkout": str(Path(__file__).parent), "workload": __file__}
        self.specification = {**usual, **specification}
        self.subject: Any = None
        self.workload: Any = SimpleNamespace(
            inputs=self.inputs, run=lambda subject, x: subject.whole(x), stages=self.stages
        )

    def load(self) -> None:
        self.subject = self.cls()

    def seed_everything(self, seed: int) -> None:
        torch.manual_seed(seed)

    def inputs(self, case: str, seed: int) -> Any:
        return torch.arange(float(case)) + seed

    def stages(self, subject: Any) -> dict[str, Any]:
        return {name: (self.cls, name) for name in ("stage", "decide", "unused")}

    def run(self, inputs: Any) -> Any:
        return self.workload.run(self.subject, inputs)


@pytest.fixture
def check(worker: SimpleNamespace) -> Iterator[Callable[..., Any]]:
    """``check(arm)``: the result of the job."""
    torch._dynamo.reset()
    with contextlib.ExitStack():
        yield worker.compiling.compile_function
    torch._dynamo.reset()


def test_a_stage(check: Callable[..., Any]) -> None:
    found = check(Arm())
    assert found["stages"] == ["whole", "stage", "decide", "unused"]
    assert {key: found["first"][key] for key in ("graphs", "breaks")} == {"graphs": 1, "breaks": 0}
    assert (found["graphs"], found["again"], found["operators"]) == (2, 1, 4), "the second is for every length"
    assert (found["breaks"], found["failed"], found["fullgraph"]) == ([], None, {"works": True, "reason": ""})
    assert found["first"]["seconds"] > 0 and found["seconds"] > 0
    assert {case: (c["calls"], c["graphs"], c["steady"]) for case, c in found["cases"].items()} == {
        "8": (1, 1, True),
        "7": (1, 1, True),
    }
    same = {"identical": True, "largest": 0.0, "same": 2, "discrete": 2, "other": ""}
    assert [case["parity"] for case in found["cases"].values()] == [same, same]


def test_the_whole_is_what_the_workload_says(check: Callable[..., Any]) -> None:
    arm = Arm(stage="whole")
    arm.workload.entry = lambda subject: (arm.cls, "decide")
    assert check(arm)["graphs"] == 2
    assert check(Arm(stage="whole"))["breaks"], "of the run itself, where it does not say"


def test_a_break(check: Callable[..., Any]) -> None:
    found = check(Arm(stage="decide"))
    (place,) = found["breaks"]
    assert place["place"].startswith("test_compiling.py:") and (place["first"], found["first"]["breaks"]) == (1, 1)
    assert not found["fullgraph"]["works"] and found["fullgraph"]["reason"]


def test_no_such_stage(check: Callable[..., Any]) -> None:
    assert check(Arm(stage="nothing")) == {"stages": ["whole", "stage", "decide", "unused"]}


def test_a_stage_that_does_not_run(check: Callable[..., Any]) -> None:
    assert check(Arm(stage="unused"))["cases"] == {}


def test_the_function_is_put_back(check: Callable[..., Any]) -> None:
    arm = Arm()
    check(arm)
    assert "stage" not in vars(arm.cls), "it was the parent's"
    arm.cls.stage = own = lambda self, x: x.sum()  # type: ignore[assignment]
    check(arm)
    assert vars(arm.cls)["stage"] is own


def test_a_function_of_one_object(check: Callable[..., Any]) -> None:
    arm = Arm()
    arm.workload.stages = lambda subject: {"stage": (subject, "stage")}
    assert check(arm)["graphs"] == 2
    assert "stage" not in vars(arm.subject)


class Other(Program):
    """Another result where it is compiled."""

    def stage(self, x: Any) -> Any:
        return torch.relu(x).sum() + (0.5 if torch.compiler.is_compiling() else 0.0)

    def decide(self, x: Any) -> bool:
        return torch.compiler.is_compiling()


@pytest.mark.parametrize(("stage", "largest", "same"), [("stage", 0.5, 2), ("decide", 0.0, 0)])
def test_other_results(check: Callable[..., Any], stage: str, largest: float, same: int) -> None:
    parity = check(Arm(Other, stage=stage))["cases"]["8"]["parity"]
    assert not parity["identical"]
    assert parity["largest"] == largest
    assert parity["same"] == same < parity["discrete"] or stage == "stage"


class Random(Program):
    """Never the same twice."""

    count = 0

    def stage(self, x: Any) -> Any:
        type(self).count += 1
        return x.sum() + type(self).count


def test_a_program_that_does_not_agree_with_itself(check: Callable[..., Any]) -> None:
    assert check(Arm(Random))["cases"]["8"]["steady"] is False


class Learning(Program, torch.nn.Module):  # type: ignore[misc]
    """It remembers how often it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def stage(self, x: Any) -> Any:
        self.count += 1
        return x.sum() + self.count


def test_a_module_that_remembers(check: Callable[..., Any]) -> None:
    """Each run that is compared begins as the first did."""
    arm = Arm(Learning, orders=[("before/after", ("before",))])
    arm.workload.module = lambda subject: subject
    cases = check(arm)["cases"]
    assert all(found["steady"] and found["parity"]["identical"] for found in cases.values())


def test_a_graph_that_is_kept(check: Callable[..., Any]) -> None:
    """As workloads do that compute gradients: newer versions of torch take the buffers of a graph, if nobody objects."""

    class Trained(Program):
        def stage(self, x: Any) -> Any:
            return (x.sigmoid() * x.exp()).sum()

    arm = Arm(Trained, backend="aot_eager")
    arm.inputs = lambda case, seed: (torch.arange(float(case)) / 9 + seed).requires_grad_()  # type: ignore[method-assign]
    arm.workload.inputs = arm.inputs

    def run(subject: Any, x: Any) -> Any:
        made = subject.stage(x)
        return [torch.autograd.grad(made, x, retain_graph=True), torch.autograd.grad(made, x)]

    arm.workload.run = run
    assert check(arm)["failed"] is None


class Careful(Program):
    """It catches its own errors, as programs do."""

    def whole(self, x: Any) -> dict[str, Any]:
        with contextlib.suppress(Exception):
            return super().whole(x)
        return {"sum": None}


def broken(graph: Any, inputs: Any) -> Any:
    """A backend."""
    raise OSError("no room\nfor anything")


def wrong(graph: Any, inputs: Any) -> Any:
    """A backend whose code does not run."""
    return lambda *inputs: [][0]


@pytest.mark.parametrize(
    ("backend", "cls", "failed"),
    [
        (broken, Program, "OSError: no room"),
        (broken, Careful, "OSError: no room"),
        (wrong, Program, "IndexError: list index out of range"),
        (wrong, Careful, None),
    ],
)
def test_what_fails_only_where_it_is_compiled(
    check: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, backend: Any, cls: type[Program], failed: str | None
) -> None:
    """The compiler's own error is not the program's to catch; an error of the compiled code is, and then the results differ."""
    lookup = torch._dynamo.lookup_backend
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: backend if name == "aot_eager" else lookup(name))
    found = check(Arm(cls, backend="aot_eager"))
    assert found["failed"] == failed
    assert (found["first"]["graphs"], found["fullgraph"]["works"], found["samples"]) == (1, True, [])
    assert ("parity" in found["cases"]["7"]) == (failed is None), "it did not come so far"
    assert failed or not found["cases"]["8"]["parity"]["identical"]


def test_an_error_without_words(worker: SimpleNamespace) -> None:
    assert worker.compiling._said(ValueError()) == "ValueError"


def test_times_in_the_order_that_is_asked_for(check: Callable[..., Any]) -> None:
    orders = [("before/after", ("before", "after", "after", "before")), ("before/before", ("after", "before"))]
    found = check(Arm(orders=orders))
    asked = [(kind, number, side) for number, (kind, order) in enumerate(orders) for side in order]
    assert [(s["kind"], s["block"], s["side"]) for s in found["samples"]] == asked
    assert all(s["case"] == "8" and len(s["times"]) >= 2 and min(s["times"]) > 0 for s in found["samples"])
    assert set(found["cases"]) == {"8", "7"}, "what is compared and not timed comes afterwards"


def test_no_time(check: Callable[..., Any]) -> None:
    """Before the first graph; what was found so far is told."""
    found = check(Arm(budget=0.0))
    assert found["failed"] == "no end within 0 s, 0 graphs so far; --timeout SECONDS for more"
    assert (found["graphs"], found["fullgraph"]["works"]) == (0, True)


def test_no_time_for_more_cases(
    check: Callable[..., Any], worker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is timed is compared all the same."""
    monkeypatch.setattr(worker.compiling.Watch, "left", lambda self: 0.0)
    cases = check(Arm())["cases"]
    assert ["parity" in found for found in cases.values()] == [True, False]


def test_what_is_timed_is_what_the_order_says(check: Callable[..., Any], worker: SimpleNamespace) -> None:
    """The original in blocks of the same against itself, whatever the side."""
    seen: list[str] = []

    class Marked(worker.compiling.Switch):  # type: ignore[misc, name-defined]
        def run(self, arm: Any, inputs: Any, keep: bool = False) -> Any:
            seen.append("original" if self.function is self.original else "compiled")
            return super().run(arm, inputs, keep)

    arm = Arm(orders=[("before/before", ("before", "after")), ("before/after", ("after",))], iterations=1)
    arm.load()
    with Marked((arm.cls, "stage"), False).installed() as switch:
        found = worker.compiling.Check(arm, switch).result()
    counts = [len(sample["times"]) for sample in found["samples"]]
    assert seen[6 + 2 + 2 :][: sum(counts)] == ["original"] * sum(counts[:2]) + ["compiled"] * counts[2]


def test_always_compiled_anew(check: Callable[..., Any]) -> None:
    """Before the timing it waits for some runs in which nothing is compiled, but not for ever."""

    class Restless(Program):
        def stage(self, x: Any) -> Any:
            torch._dynamo.reset()
            return x.sum()

    found = check(Arm(Restless, orders=[("before/after", ("after",))], iterations=1))
    assert found["samples"]


class TestDifference:
    """Of two values."""

    @pytest.mark.parametrize(
        ("one", "other", "found"),
        [
            (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), (0.5, 0, 0)),
            (torch.tensor([1.0, math.nan]), torch.tensor([1.0, math.nan]), (0.0, 0, 0)),
            (torch.tensor([1.0, math.inf]), torch.tensor([1.0, math.inf]), (0.0, 0, 0)),
            (torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0]), (math.inf, 0, 0)),
            (torch.tensor([1j]), torch.tensor([2j]), (1.0, 0, 0)),
            (torch.tensor([]), torch.tensor([]), (0.0, 0, 0)),
            (torch.tensor([1, 2]), torch.tensor([1, 3]), (0.0, 1, 2)),
            (torch.tensor([1.0]), torch.tensor([1.0, 2.0]), (0.0, 0, 1)),
            (1.0, 1.25, (0.25, 0, 0)),
            (math.nan, math.nan, (0.0, 0, 0)),
            (math.inf, 1.0, (math.inf, 0, 0)),
            ("up", "down", (0.0, 0, 1)),
            (True, True, (0.0, 1, 1)),
            ([1, "a", 0.5], [1, "b", 0.25], (0.25, 1, 2)),
            ([1], [1, 2], (0.0, 0, 1)),
            ([], [], (0.0, 0, 0)),
        ],
    )
    def test_values(self, worker: SimpleNamespace, one: Any, other: Any, found: Any) -> None:
        assert worker.compiling.difference(one, other) == found

    def compare(self, worker: SimpleNamespace, one: Any, other: Any) -> Any:
        leaves = worker.values.kept_leaves
        return worker.compiling.compared(leaves(one), leaves(other))

    def test_how_it_lies_in_memory_is_no_difference(self, worker: SimpleNamespace) -> None:
        x = torch.arange(6.0).view(2, 3)
        assert self.compare(worker, x, x.t().contiguous().t())["identical"]

    @pytest.mark.parametrize(
        ("one", "other", "name"),
        [
            ({"a": torch.ones(2)}, {"a": torch.ones(2).double()}, "a"),
            ({"a": 1}, {"b": 1}, "value"),
            (1, 1.0, "value"),
            ([1.0, "x", []], [1.0, "x", [], None], "value"),
        ],
    )
    def test_another_kind(self, worker: SimpleNamespace, one: Any, other: Any, name: str) -> None:
        found = self.compare(worker, one, other)
        assert (found["identical"], found["other"]) == (False, name)

    def test_more_values(self, worker: SimpleNamespace) -> None:
        leaves = worker.values.kept_leaves(1)
        assert worker.compiling.compared(leaves, leaves * 2)["other"] == "2 values instead of 1"
