"""The kept words are those that would be computed, bit for bit, whatever has become of the weights; and nobody else sees them."""

from __future__ import annotations

import copy
import gc
import io
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cases import plan

torch = pytest.importorskip("torch")
prune = pytest.importorskip("torch.nn.utils.prune")
BEFORE = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, words, width, tokens):
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.word_embeddings = self.embedding.weight
        self.mapping_layer = nn.Linear(words, tokens)
        self.change = None

    def forward(self, x):
        words = self.mapping_layer(self.word_embeddings.permute(1, 0)).permute(1, 0)
        if self.change is not None:
            self.change(words)
        return x @ words.T
"""
AFTER = plan("timellm_source_cache", BEFORE).after.decode()
COUNTED = {"addmm", "mm", "linear", "matmul", "addmm_"}


def module() -> types.ModuleType:
    """The changed module, anew."""
    made = types.ModuleType("changed")
    exec(AFTER, vars(made))
    return made


class Pair:
    """A model without and one with the change, of the same weights."""

    def __init__(self) -> None:
        before = types.ModuleType("before")
        exec(BEFORE, vars(before))
        torch.manual_seed(0)
        self.space = module()
        self.old = before.Model(57, 8, 20).eval()
        self.new = self.space.Model(57, 8, 20).eval()
        for model in (self.new, self.old):
            model.load_state_dict(self.old.state_dict())
        self.x = torch.randn(3, 8)

    def both(self, action: Callable[[Any], Any]) -> list[Any]:
        """What ``action`` gives for each."""
        return [action(self.old), action(self.new)]

    def same(self) -> None:
        """Both forecast the same, without gradients and twice."""
        with torch.no_grad():
            for _ in range(2):
                old, new = self.both(lambda model: model(self.x))
                assert torch.equal(old, new) and old.dtype == new.dtype and old.stride() == new.stride()

    @property
    def kept(self) -> int:
        """How many layers' words are kept."""
        return len(self.space._KEPT_WORDS)


@pytest.fixture
def pair() -> Pair:
    return Pair()


@pytest.fixture(autouse=True)
def unchanged_settings() -> Iterator[None]:
    yield
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


class Calls(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
    """The sizes of the matrix products that run."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += function.overloadpacket.__name__ in COUNTED
        return function(*args, **(kwargs or {}))


def products(model: Any, x: Any) -> int:
    """How many matrix products a pass makes: one is the head's."""
    with Calls() as calls, torch.no_grad():
        model(x)
    return calls.products


def test_computed_once(pair: Pair) -> None:
    assert [products(pair.new, pair.x) for _ in range(4)] == [2, 1, 1, 1]
    assert [products(pair.old, pair.x) for _ in range(2)] == [2, 2]
    pair.same()


def test_a_naive_cache_would_not_do(pair: Pair) -> None:
    """The test below sees what it is for."""
    kept: list[Any] = []
    pair.new.mapping_layer.forward = lambda x: (
        kept or kept.append(torch.nn.Linear.forward(pair.new.mapping_layer, x)) or kept
    )[0]
    with torch.no_grad():
        pair.new(pair.x)
        pair.both(lambda model: model.mapping_layer.weight.mul_(2))
    with pytest.raises(AssertionError):
        pair.same()


def fused(model: Any) -> None:
    """A step by a fused optimizer, which the versions of the weights do not tell of."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def step(model: Any, mode: bool) -> None:
    """A pass with gradients and a fused step."""
    torch.manual_seed(1)
    model.train(mode)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    model(torch.randn(3, 8)).square().sum().backward()
    optimizer.step()


def replace(model: Any) -> None:
    """Another parameter on the same memory, written to as often as the one before."""
    other = torch.nn.Parameter(model.mapping_layer.weight.data)
    with torch.no_grad():
        while other._version < model.mapping_layer.weight._version:
            other.mul_(1.5)
    assert other._version == model.mapping_layer.weight._version > 0
    model.mapping_layer.weight = other


def no_grad(action: Callable[[Any], Any]) -> Callable[[Any], None]:
    def run(model: Any) -> None:
        with torch.no_grad():
            action(model)

    return run


CHANGES: dict[str, Callable[[Any], Any]] = {
    "in place": no_grad(lambda m: m.mapping_layer.weight.mul_(2)),
    "the bias": no_grad(lambda m: m.mapping_layer.bias.add_(1)),
    "the words": no_grad(lambda m: m.embedding.weight[3].zero_()),
    "other words": lambda m: setattr(m, "word_embeddings", torch.nn.Parameter(torch.ones(57, 8))),
    "data": lambda m: setattr(m.mapping_layer.weight, "data", m.mapping_layer.weight.data * 2),
    "another weight": lambda m: setattr(m.mapping_layer, "weight", torch.nn.Parameter(torch.ones(20, 57))),
    "the same memory": replace,
    "another layer": lambda m: setattr(m, "mapping_layer", torch.nn.Linear(57, 20, bias=False)),
    "state": lambda m: m.load_state_dict({name: value * 2 for name, value in m.state_dict().items()}),
    "assigned": lambda m: m.load_state_dict({n: v * 2 for n, v in m.state_dict().items()}, assign=True),
    "rounded": lambda m: m.half().float(),
    "other type": lambda m: m.mapping_layer.double() and m.embedding.double(),
    "there and back": lambda m: m.to("meta").to_empty(device="cpu").load_state_dict(STATE),
    "Adam": lambda m: step(m, True) or m.eval(),
    "Adam in evaluation": lambda m: step(m, False),
    "fused, and eval": lambda m: fused(m) or m.eval(),
    "fused, and train": lambda m: m.train() and (fused(m) or m.eval()),
    "through data, and eval": lambda m: m.mapping_layer.weight.data.add_(1) is None or m.eval(),
    "no bias": lambda m: setattr(m.mapping_layer, "bias", None),
}
STATE = {
    "embedding.weight": torch.ones(57, 8),
    "word_embeddings": torch.ones(57, 8),
    "mapping_layer.weight": torch.ones(20, 57),
    "mapping_layer.bias": torch.ones(20),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_weights(pair: Pair, name: str) -> None:
    pair.same()
    assert pair.kept == 1
    for model in (pair.old, pair.new):
        torch.manual_seed(3)
        CHANGES[name](model)
    x, is_double = pair.x, name == "other type"
    pair.x = x.double() if is_double else x
    pair.same()


def test_memory_that_is_used_again(pair: Pair) -> None:
    """Weights at the same address as those before, and never written to as far as PyTorch knows."""
    memory, address = bytearray(4 * 20 * 57), 0
    for factor in range(1, 4):
        for model in (pair.old, pair.new):
            weight = model.mapping_layer.weight
            weight.data = torch.full((20, 57), float(factor))
            memory[:] = weight.detach().numpy().tobytes()
            weight.data = torch.frombuffer(memory, dtype=torch.float32).view(20, 57)
        assert address in (0, weight.data_ptr())
        address = weight.data_ptr()
        pair.same()


def test_gradients(pair: Pair) -> None:
    pair.same()
    for mode in (True, False):
        gradients = []
        for model in (pair.old, pair.new):
            model.train(mode).zero_grad()
            model(pair.x).square().sum().backward()
            gradients.append([p.grad for p in model.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
        assert pair.kept == 0
    pair.same()


@pytest.mark.parametrize("mode", [True, False])
def test_dropped(pair: Pair, mode: bool) -> None:
    other = pair.space.Model(57, 8, 20).eval()
    with torch.no_grad():
        other(pair.x)
        pair.new(pair.x)
    assert pair.kept == 2
    pair.new.train(mode)
    assert pair.kept == 1, "another model's stay"
    assert torch.nn.Sequential(other).eval() is not None
    assert pair.kept == 0, "also within another module"


def test_training_without_gradients(pair: Pair) -> None:
    pair.new.train()
    with torch.no_grad():
        pair.new(pair.x)
    assert pair.kept == 0


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_autocast(pair: Pair, kind: Any) -> None:
    pair.same()
    with torch.autocast("cpu", dtype=kind):
        pair.same()
        with torch.autocast("cpu", enabled=False):
            pair.same()
    pair.same()
    for other in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=other):
            pair.same()


def test_what_one_writes_to(pair: Pair) -> None:
    for model in (pair.old, pair.new):
        model.change = lambda words: words.mul_(2)
    pair.same()
    pair.same()
    for model in (pair.old, pair.new):
        model.change = None
    pair.same()


@pytest.mark.parametrize("first", [True, False])
def test_inference_mode(pair: Pair, first: bool) -> None:
    """What was made there is never seen outside, nor the other way round."""
    seen = []
    pair.new.change = seen.append
    for inside in (first, not first, first):
        with torch.inference_mode(inside), torch.no_grad():
            pair.new(pair.x)
    assert [words.is_inference() for words in seen] == [first, not first, first]
    pair.new.change = None
    pair.new(pair.x).sum().backward()
    pair.same()
    with torch.inference_mode():
        assert torch.equal(*pair.both(lambda model: model(pair.x)))


def test_weights_made_in_inference_mode() -> None:
    space = module()
    with torch.inference_mode():
        model = space.Model(57, 8, 20).eval()
        assert torch.equal(model(torch.ones(2, 8)), model(torch.ones(2, 8)))
    assert len(space._KEPT_WORDS) == 0


def double(layer: Any, given: Any, made: Any = None) -> Any:
    return (given[0] * 2,) if made is None else made * 2


class Other(torch.nn.Linear):  # type: ignore[misc, name-defined]
    def forward(self, x: Any) -> Any:
        return super().forward(x) + 1


class Doubled(torch.nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: Any) -> Any:
        return x * 2


class Odd(torch.Tensor):  # type: ignore[misc, name-defined]
    """Another kind of tensor."""


def odd_words(model: Any) -> None:
    del model.word_embeddings
    model.word_embeddings = torch.ones(57, 8).as_subclass(Odd)


def weight_norm(model: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.nn.utils.weight_norm(model.mapping_layer)


OTHERS: dict[str, Callable[[Any], Any]] = {
    "a hook": lambda m: m.mapping_layer.register_forward_hook(double),
    "a hook ahead": lambda m: m.mapping_layer.register_forward_pre_hook(double),
    "parametrized": lambda m: torch.nn.utils.parametrize.register_parametrization(m.mapping_layer, "weight", Doubled()),
    "normed": weight_norm,
    "pruned": lambda m: prune.l1_unstructured(m.mapping_layer, "weight", 0.5),
    "replaced": lambda m: setattr(m.mapping_layer, "forward", lambda x: torch.zeros(8, 20)),
    "another kind of words": odd_words,
    "another class": lambda m: setattr(m, "mapping_layer", Other(57, 20)),
    "no layer": lambda m: setattr(m, "mapping_layer", torch.nn.Sequential(torch.nn.Linear(57, 20), Doubled())),
    "quantized": lambda m: setattr(
        m, "mapping_layer", torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(m.mapping_layer))[0]
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OTHERS)
def test_other_layers(pair: Pair, name: str) -> None:
    pair.same()
    for model in (pair.old, pair.new):
        torch.manual_seed(2)
        OTHERS[name](model)
        model.mapping_layer.training = False
    pair.same()
    assert not any(layer is pair.new.mapping_layer for layer in pair.space._KEPT_WORDS)


def test_no_numbers(pair: Pair) -> None:
    with torch.no_grad():
        made = [pair.new.to("meta")(pair.x.to("meta")) for _ in range(2)]
    assert [(m.shape, m.is_meta) for m in made] == [((3, 20), True)] * 2


def test_hooks_of_all_modules(pair: Pair) -> None:
    pair.same()
    seen: list[Any] = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda layer, *_: seen.append(type(layer)))
    try:
        pair.same()
    finally:
        handle.remove()
    assert seen.count(torch.nn.Linear) == 4


def test_copied_and_saved(pair: Pair) -> None:
    names = list(pair.new.state_dict())
    pair.same()
    assert list(pair.new.state_dict()) == names
    assert [name for name, _ in pair.new.named_buffers()] == []
    copied = copy.deepcopy(pair.new)
    with torch.no_grad():
        copied.mapping_layer.weight.mul_(3)
        assert not torch.equal(copied(pair.x), pair.new(pair.x))
    pair.same()
    file = io.BytesIO()
    torch.save(pair.new.state_dict(), file)
    fresh = io.BytesIO()
    torch.save(module().Model(57, 8, 20).state_dict(), fresh)
    assert len(file.getvalue()) == len(fresh.getvalue())
    before = vars(module().Model(57, 8, 20).mapping_layer).keys()
    assert vars(pair.new.mapping_layer).keys() == before, "the layer has nothing new on it"


def test_nothing_outlives_the_model(pair: Pair) -> None:
    pair.same()
    pair.new = None
    gc.collect()
    assert pair.kept == 0


def test_old_weights_are_not_held(pair: Pair) -> None:
    pair.same()
    weak = torch.multiprocessing.reductions.StorageWeakRef(pair.new.mapping_layer.weight.untyped_storage())
    pair.new.double()
    assert weak.expired()


def test_threads(pair: Pair) -> None:
    with torch.no_grad():
        expected = pair.old(pair.x)
    found: list[bool] = []

    def run() -> None:
        with torch.no_grad():
            found.extend(torch.equal(pair.new(pair.x), expected) for _ in range(50))

    def toggle() -> None:
        for _ in range(200):
            pair.new.eval()

    threads = [threading.Thread(target=action) for action in (run, run, toggle, run)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 150


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_function_transforms(pair: Pair) -> None:
    pair.same()
    weights = {name: value.detach() * 2 for name, value in pair.new.named_parameters()}
    with torch.no_grad():
        called = pair.both(lambda model: torch.func.functional_call(model, weights, (pair.x,)))
        assert torch.equal(*called)
        many = {name: torch.stack([value, value * 3]) for name, value in weights.items()}

        def one(model: Any) -> Any:
            return torch.func.vmap(lambda w: torch.func.functional_call(model, w, (pair.x,)))(many)

        assert torch.equal(*pair.both(one))
        assert torch.equal(*pair.both(lambda model: torch.func.vmap(model)(pair.x[:, None])))
        assert torch.equal(*pair.both(lambda model: torch.func.jvp(model, (pair.x,), (pair.x,))[1]))
    pair.same()


def test_traced(pair: Pair) -> None:
    pair.same()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(pair.new, pair.x)
        assert "linear" in str(traced.inlined_graph)
        exported = torch.export.export(pair.new, (pair.x,))
    assert any("linear" in str(node.target) for node in exported.graph.nodes)


def test_compiled(pair: Pair) -> None:
    pair.same()
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(pair.new, backend="eager", fullgraph=True)
        assert torch.equal(compiled(pair.x), pair.old(pair.x))
        for model in (pair.old, pair.new):
            model.mapping_layer.weight.mul_(2)
        assert torch.equal(compiled(pair.x), pair.old(pair.x))


def test_replicas(pair: Pair) -> None:
    """As DataParallel makes them: the weights are no parameters."""
    pair.same()
    replica = pair.new._replicate_for_data_parallel()
    replica.mapping_layer = pair.new.mapping_layer._replicate_for_data_parallel()
    for name, parameter in pair.new.mapping_layer._parameters.items():
        replica.mapping_layer.__dict__[name] = parameter.detach().clone() * 2
    replica.__dict__["word_embeddings"] = pair.new.word_embeddings.detach().clone()
    with torch.no_grad():
        assert not torch.equal(replica(pair.x), pair.new(pair.x))
    assert pair.kept == 1
    pair.same()
