"""``conformer_feed_forward_onednn``: the two linear layers of a feed-forward module, and of nothing that looks like it."""

from __future__ import annotations

import types
from typing import Any

import pytest
from cases import above, block, constant, lands, refuses, replaced, skips, with_class

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY

NAME = "conformer_feed_forward_onednn"
HELPER = constant(NAME, "HELPER_TEXT")
CLASS = "class FeedForward(nn.Module):\n"
LAYERS = """
self.wide = nn.Linear(width, inner, bias=bias)
self.drop = nn.Dropout(0.1)
self.narrow = nn.Linear(inner, width, bias=bias)
"""
FORWARD = """
x = self.wide(x)
x = self.drop(torch.relu(x))
return self.narrow(x)
"""
WIDE, NARROW = "_linear_by_onednn(self.wide, x)", "_linear_by_onednn(self.narrow, x)"
CHANGED = replaced(FORWARD, ("self.wide(x)", WIDE), ("self.narrow(x)", NARROW))


def module(
    layers: str = LAYERS, forward: str = FORWARD, top: str = "import torch\nfrom torch import nn", more: str = ""
) -> str:
    """A feed-forward module with these layers."""
    init = f"super().__init__()\n{block(layers)}"
    return with_class(
        top, CLASS, {"def __init__(self, width, inner, bias):": init, "def forward(self, x):": forward}, more
    )


def changed(layers: str = LAYERS, forward: str = CHANGED, more: str = "") -> str:
    """The module with the change in it."""
    return above(module(layers, forward, more=more), CLASS, HELPER)


@pytest.mark.parametrize(
    "layers",
    [
        LAYERS,
        replaced(LAYERS, ("nn.Linear(width, inner,", "torch.nn.Linear(in_features=width, out_features=inner,")),
        replaced(
            LAYERS, ("width, inner, bias", "width, 4 * width, bias"), ("inner, width, bias", "4 * width, width, bias")
        ),
    ],
)
def test_lands(layers: str) -> None:
    lands(NAME, module(layers), changed(layers))


def test_lands_beside_other_methods() -> None:
    more = "def reset(self):\n    nn.init.zeros_(self.wide.weight)"
    lands(NAME, module(more=more), changed(more=more))


def test_lands_on_one_line() -> None:
    forward = "x = self.wide(x); return self.narrow(x)"
    after = f"x = {WIDE}; return {NARROW}"
    lands(NAME, module(forward=forward), changed(forward=after))


@pytest.mark.parametrize(
    "layers",
    [
        replaced(LAYERS, ("nn.Linear(inner, width", "nn.Linear(inner, inner")),
        replaced(LAYERS, ("nn.Linear(inner, width", "nn.Bilinear(inner, width")),
        replaced(LAYERS, ("self.narrow = nn", "self.gate = nn.Linear(width, inner)\nself.narrow = nn")),
        replaced(LAYERS, ("width, inner, bias", "width, width, bias"), ("inner, width, bias", "width, width, bias")),
    ],
)
def test_other_layers(layers: str) -> None:
    refuses(NAME, module(layers), NoSite, "once each")


@pytest.mark.parametrize(
    "forward",
    [
        replaced(FORWARD, ("return self.narrow(x)", "return self.narrow(x) + self.narrow(x)")),
        replaced(FORWARD, ("self.wide(x)", "self.wide(x, 1)")),
        replaced(FORWARD, ("self.wide(x)", "self.wide(input=x)")),
        "return self.narrow(self.wide(x))",
        "return other(self.narrow, self.wide(x))",
    ],
)
def test_other_calls(forward: str) -> None:
    refuses(NAME, module(forward=forward), NoSite, "once each")


def test_called_in_two_methods() -> None:
    refuses(NAME, module(forward="return self.wide(x)", more="def back(self, x):\n    return self.narrow(x)"), NoSite)


def test_two_of_them() -> None:
    text = module() + module(top="").replace("FeedForward", "Other")
    refuses(NAME, text, Ambiguous, "FeedForward (line 5), Other")


def test_compiled() -> None:
    text = module().replace("    def forward", "    @torch.compile\n    def forward")
    refuses(NAME, text, Conflict, "decorated")


@pytest.mark.parametrize("top", ["from torch import nn", "import torch\nimport torch.nn as layers\nnn = layers"])
def test_torch_is_something_else(top: str) -> None:
    refuses(NAME, module(top=top), Ambiguous, "is not imported")


def test_a_name_that_is_taken() -> None:
    refuses(NAME, module(top="import torch\nfrom torch import nn\n_linear_by_onednn = 1"), Conflict)


@pytest.mark.parametrize("text", [HELPER.strip("\n"), WIDE, NARROW])
def test_half_of_it(text: str) -> None:
    refuses(NAME, changed().replace(text, "x" if text in (WIDE, NARROW) else ""), PartlyApplied)


def test_scripted() -> None:
    refuses(NAME, module() + "\n\nscripted = torch.jit.script(model)\n", Conflict, "torch.jit.script")


def test_already_there() -> None:
    skips(NAME, changed(), ALREADY)


class TestRuns:
    def linear(self) -> tuple[Any, Any, Any]:
        torch = pytest.importorskip("torch")
        space = types.SimpleNamespace(torch=torch, nn=torch.nn)
        exec(HELPER, vars(space))
        torch.manual_seed(0)
        return torch, space._linear_by_onednn, torch.nn.Linear(24, 40)

    @pytest.mark.parametrize("shape", [(3, 7, 24), (24,), (1, 24), (2, 3, 5, 24), (31, 29, 24)])
    @pytest.mark.parametrize("bias", [True, False])
    def test_the_same_but_for_rounding(self, shape: tuple[int, ...], bias: bool) -> None:
        torch, run, layer = self.linear()
        layer = layer if bias else torch.nn.Linear(24, 40, bias=False)
        found = []
        for call in (layer, lambda x: run(layer, x)):
            layer.zero_grad()
            x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
            y = call(x)
            (y * torch.sin(torch.arange(y.numel())).view(y.shape)).sum().backward()
            found.append([y, x.grad, *(p.grad for p in layer.parameters())])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)

    def test_as_it_is(self) -> None:
        """Hooks are called; other types, no frames at all, and lower precision go the usual way, to the very bits."""
        torch, run, layer = self.linear()
        x = torch.randn(3, 24)
        assert run(layer, x[:0]).shape == (0, 40)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(run(layer, x), layer(x))
        called: list[Any] = []
        layer.register_forward_hook(lambda *_: called.append(1))
        run(layer, x)
        assert called
        assert torch.equal(run(layer.double(), x.double()), layer(x.double()))
        with pytest.raises(RuntimeError) as ours:
            run(layer.float(), x[:, 1:])
        with pytest.raises(RuntimeError) as theirs:
            layer(x[:, 1:])
        assert str(ours.value) == str(theirs.value)

    def test_compiled_as_a_whole(self) -> None:
        torch, run, layer = self.linear()
        x = torch.randn(3, 24)
        compiled = torch.compile(lambda x: run(layer, x), backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), layer(x))

    def test_a_layer_of_another_class(self) -> None:
        torch, run, _ = self.linear()

        class Doubled(torch.nn.Linear):  # type: ignore[misc, name-defined]
            def forward(self, x: Any) -> Any:
                return 2 * super().forward(x)

        layer, x = Doubled(24, 40), torch.randn(3, 24)
        assert torch.equal(run(layer, x), layer(x))
        assert torch.equal(run(torch.nn.Identity(), x), x)
