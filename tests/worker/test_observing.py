"""What is seen of a program that is run and trained: each kind of mistake shows, and the right program agrees with itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apply_opt.model import parity

torch = pytest.importorskip("torch")
Observe = Callable[..., dict[str, Any]]


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A layer, a mask, and a buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("mask", torch.tensor([0.0, float("-inf"), 0.0]), persistent=False)
        self.activate = torch.relu
        self.finish: Callable[[Any], Any] = lambda x: x

    def forward(self, x: Any, noise: bool = False) -> Any:
        if x is None:
            raise ValueError(f"no input for {object()!r}")
        self.calls += 1
        hidden = self.activate(self.layer(x))
        return self.finish(hidden * 2)


class WithWorkload:
    """A workload as a module would be."""

    LIBRARIES = ("torch", "numpy")

    def __init__(self, change: Callable[[Net], Any]) -> None:
        self.change = change

    def load(self, folder: str, options: Any) -> Net:
        net = Net()
        self.change(net)
        return net

    def inputs(self, case: str, seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        return {"x": torch.randn(int(case), 4, generator=generator).requires_grad_()}

    def run(self, net: Net, inputs: Any) -> Any:
        return {"y": net(inputs["x"]), "count": int(inputs["x"] is not None and len(inputs["x"]))}

    def bad_inputs(self) -> Any:
        return {"nothing": {"x": None}}

    def module(self, net: Net) -> Net:
        return net

    def loss(self, outputs: Any) -> Any:
        return (outputs["y"] + outputs["y"].square()).sum()


@pytest.fixture
def observe(worker: SimpleNamespace, tmp_path: Path) -> Observe:
    """The observations of :class:`Net` after ``change``."""

    def run(change: Callable[[Net], Any] = lambda net: None, **members: Any) -> dict[str, Any]:
        workload = WithWorkload(change)
        vars(workload).update(members)
        result = str(tmp_path / "result.json")
        specification = {
            "checkout": "/checkout", "files": [], "folder": "", "options": {}, "threads": torch.get_num_threads(),
            "cases": ["2", "5"], "seeds": [0, 1], "wrong": None, "double": False, "result": result,
        }  # fmt: skip
        found = worker.observing.observe(worker.jobs.Arm(workload, specification))
        tensors = torch.load(result + ".pt", weights_only=True)
        assert len(tensors) == found["tensors"]
        return {**found["values"], **tensors}

    return run


def names(found: list[parity.Difference]) -> set[str]:
    """What differs, for any case and seed."""
    return {difference.name.rpartition(" | ")[2] for difference in found}


def differences(before: Any, after: Any) -> set[str]:
    return names(parity.differences(before, after, parity.rule_of("exact")))


def test_agrees_with_itself(observe: Observe) -> None:
    _, one, other = observe(), observe(), observe()  # PyTorch's first optimizer of a process sets variables of its own
    assert parity.broken(one) == []
    assert parity.differences(one, other, parity.rule_of("exact")) == []
    assert parity.has_outputs(one)


def test_everything_is_there(observe: Observe) -> None:
    found = observe()
    for name in (
        "exception", "output y", "kind of output y", "output count", "input x", "generator python", "generator numpy",
        "generator torch", "buffer calls", "buffer mask", "inference output y", "gradient layer.weight",
        "gradient layer.bias", "gradient of input x", "parameter layer.weight after 1 steps",
        "parameter layer.bias after 5 steps", "training exception",
    ):  # fmt: skip
        for seed in (0, 1):
            assert f"5 | seed {seed} | {name}" in found, name
    assert found["bad input | nothing | exception"] == "builtins.ValueError: no input for <object object at 0x…>"
    assert found["2 | seed 0 | kind of output y"] == "torch.Tensor torch.float32 (2, 3) cpu requires_grad=True"
    assert found["2 | seed 0 | kind of inference output y"].endswith("requires_grad=False")


def test_training_leaves_no_trace(observe: Observe) -> None:
    found = observe()
    calls = [float(found[f"{case} | seed {seed} | buffer calls"]) for case in "25" for seed in (0, 1)]
    assert calls == [1, 3, 5, 7], "a run with gradients and one without each; those of training are taken back"


class _ReluOutOfPlace(torch.autograd.Function):  # type: ignore[misc, name-defined]
    """Right forwards, wrong backwards."""

    @staticmethod
    def forward(context: Any, x: Any) -> Any:
        return torch.relu(x)

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        return gradient


def _consuming(call: Callable[[], Any]) -> Callable[[Net], Any]:
    def change(net: Net) -> None:
        net.finish = lambda x: (call(), x)[1]

    return change


class TestMistakes:
    """Each shows where it should, and only there."""

    @pytest.mark.parametrize(
        ("finish", "expected"),
        [
            (lambda x: x * 1.0000002, {"output y", "inference output y"}),
            (lambda x: x.double(), {"output y", "kind of output y"}),
            (lambda x: x[None], {"output y", "kind of output y"}),
            (lambda x: x.detach(), {"kind of output y", "gradient layer.weight", "training"}),
            (lambda x: [x], {"output y", "kind of output y", "output y.0", "training exception"}),
            (lambda x: None, {"output y", "kind of output y", "training exception"}),
            (lambda x: x.to_sparse(), {"output y", "kind of output y"}),
            (lambda x: -x * -1 if x.requires_grad else x + 1e-3, {"inference output y"}),
        ],
    )
    def test_in_outputs(self, observe: Observe, finish: Any, expected: set[str]) -> None:
        found = differences(observe(), observe(lambda net: setattr(net, "finish", finish)))
        assert expected <= found

    def test_in_backward_only(self, observe: Observe) -> None:
        found = differences(observe(), observe(lambda net: setattr(net, "activate", _ReluOutOfPlace.apply)))
        assert "output y" not in found
        assert {"gradient layer.weight", "gradient of input x", "parameter layer.bias after 5 steps"} <= found

    def test_in_place_on_what_backward_needs(self, observe: Observe) -> None:
        """The well-known "free win" that breaks autograd: an exception in training is an observation, not a crash."""
        after = observe(lambda net: setattr(net, "finish", lambda x: x))
        broken = observe(lambda net: setattr(net, "activate", lambda x: torch.exp(x).mul_(1.0)))
        assert after["2 | seed 0 | training exception"] == "none"
        assert "modified by an inplace operation" in broken["2 | seed 0 | training exception"]

    def test_inputs_are_mutated(self, observe: Observe) -> None:
        def change(net: Net) -> None:
            layer = net.layer.forward

            def forward(x: Any) -> Any:
                with torch.no_grad():
                    result = layer(x)
                    x.mul_(0.5)
                return layer(x * 2) * 0 + result

            net.layer.forward = forward

        assert {"input x", "inference input x"} <= differences(observe(), observe(change))

    @pytest.mark.parametrize(
        ("call", "generator"),
        [
            (random.random, "python"),
            (lambda: torch.rand(1), "torch"),
            (lambda: __import__("numpy").random.rand(), "numpy"),
        ],
    )
    def test_generators_are_drawn_from(self, observe: Observe, call: Any, generator: str) -> None:
        found = differences(observe(), observe(_consuming(call)))
        assert found == {f"generator {generator}", f"inference generator {generator}"}

    def test_buffers(self, observe: Observe) -> None:
        found = differences(observe(), observe(lambda net: setattr(net, "finish", lambda x: (net.calls.add_(1), x)[1])))
        assert found == {"buffer calls", "inference buffer calls"}

    def test_parameters_that_appear(self, observe: Observe) -> None:
        found = differences(observe(), observe(lambda net: setattr(net, "more", torch.nn.Linear(1, 1))))
        assert {"gradient more.weight", "parameter more.bias after 1 steps"} <= found

    def test_exceptions_on_bad_input(self, observe: Observe) -> None:
        def change(net: Net) -> None:
            forward = net.forward
            net.forward = lambda x: forward(torch.zeros(0, 4) if x is None else x)

        found = differences(observe(), observe(change))
        assert found == {
            "exception",
            "kind of output",
            "kind of output y",
            "output y",
            "kind of output count",
            "output count",
        }

    @pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), RecursionError()])
    def test_exceptions_in_a_run(self, observe: Observe, error: BaseException) -> None:
        def finish(x: Any) -> Any:
            raise error

        after = observe(lambda net: setattr(net, "finish", finish), loss=lambda outputs: torch.zeros(1))
        name = type(error).__name__
        assert after["2 | seed 0 | exception"] == f"builtins.{name}: {error}"
        assert "2 | seed 0 | output y" not in after
        assert {"exception", "output y"} <= differences(observe(), after)
        assert not parity.has_outputs(after)

    def test_a_case_without_gradients(self, observe: Observe) -> None:
        """Nothing is trained in it, and that is no error; where there were some, it is a difference."""
        found = observe(loss=lambda outputs: torch.zeros(1))
        assert found["2 | seed 0 | training"] == "nothing to differentiate"
        assert found["2 | seed 0 | training exception"] == "none"
        assert {"training", "gradient linear.weight"} & differences(observe(), found)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_nan_and_infinity(self, observe: Observe, value: float) -> None:
        found = observe(lambda net: setattr(net, "finish", lambda x: x.clone().fill_(value)))
        assert {"output y", "inference output y"} <= names(parity.broken(found))


def test_what_is_not_installed_is_no_observation(observe: Observe) -> None:
    def finish(x: Any) -> Any:
        raise ModuleNotFoundError("No module named 'x'", name="x")

    with pytest.raises(ModuleNotFoundError):
        observe(lambda net: setattr(net, "finish", finish))


def test_outputs_of_other_kinds(observe: Observe) -> None:
    def run(net: Net, inputs: Any) -> Any:
        if inputs["x"] is None:
            raise ValueError
        return ("/checkout/file.py", {"deep": [None, torch.ones(1, dtype=torch.bfloat16)]}, b"x")

    found = observe(run=run, loss=lambda outputs: net_loss())
    assert found["2 | seed 0 | output value.0"] == "CHECKOUT/file.py", "where the copy lies is not the program's doing"
    assert found["2 | seed 0 | output value.1.deep.1"].dtype == torch.bfloat16
    assert found["2 | seed 0 | output value.1.deep.0"] is None


def net_loss() -> Any:
    return torch.zeros(1, requires_grad=True).sum()


def test_a_wrong_variant_that_is_none_is_not_run(worker: SimpleNamespace, tmp_path: Path) -> None:
    """This checkout has nothing of the kind: there is nothing to be found."""
    runs: list[str] = []
    for name, is_one in (("of another part", False), ("of this one", None)):
        workload = WithWorkload(lambda net: None)
        vars(workload)["WRONG"] = {name: lambda net, is_one=is_one: is_one}
        run = workload.run
        vars(workload)["run"] = lambda net, inputs, name=name, run=run: (runs.append(name), run(net, inputs))[1]
        specification = {
            "checkout": "/checkout", "files": [], "folder": "", "options": {}, "threads": torch.get_num_threads(),
            "cases": ["2"], "seeds": [0], "wrong": name, "double": False, "result": str(tmp_path / "result.json"),
        }  # fmt: skip
        found = worker.observing.observe(worker.jobs.Arm(workload, specification))
        assert found["is_wrong"] == (is_one is None) and bool(found["values"]) == (is_one is None)
    assert set(runs) == {"of this one"}
