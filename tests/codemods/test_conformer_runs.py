"""The reference subsampling with the changes and without: the same bits, and less work."""

from __future__ import annotations

import functools
import importlib
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cases import UNITS, plan

from apply_opt.model.plan import PLANNED

torch = pytest.importorskip("torch")
REFERENCE = Path(UNITS.targets["nemo_conformer"].folder) / "reference"
FILE = "nemo/collections/asr/parts/submodules/subsampling.py"
FEWER, IN_PLACE, SKIP, STRIDES = EVERY = (
    "conformer_fewer_masks",
    "conformer_inplace_masks",
    "conformer_skip_full_batch",
    "conformer_stride_flags",
)
CHANGES = [(FEWER,), (FEWER, IN_PLACE), (SKIP,), (STRIDES,), EVERY, (SKIP, FEWER, STRIDES, IN_PLACE)]
LAST, SPLIT = "conformer_channels_last", "conformer_channel_split"
ROUNDING = [(LAST,), (*EVERY, LAST), (LAST, FEWER, IN_PLACE), (SPLIT,), (*EVERY, SPLIT)]
VALUES: dict[str, dict[str, object]] = {SPLIT: {"most": 500}}
ids = pytest.mark.parametrize("names", CHANGES, ids="+".join)
FEATURES, WIDTH = 20, 8


@pytest.fixture(scope="module", autouse=True)
def reference() -> Iterator[None]:
    """Our own tree can be imported from, under NeMo's names."""
    sys.path.insert(0, str(REFERENCE))
    importlib.invalidate_caches()
    yield
    sys.path.remove(str(REFERENCE))
    for name in [name for name in sys.modules if name.partition(".")[0] == "nemo"]:
        del sys.modules[name]


@functools.cache
def code(names: Sequence[str]) -> types.CodeType:
    """The subsampling's file with ``names`` in it."""
    text = (REFERENCE / FILE).read_bytes()
    for name in names:
        outcome = plan(name, text, **VALUES.get(name, {}))
        assert outcome.kind == PLANNED, outcome.message
        text = outcome.after
    return compile(text, FILE, "exec")


def module(names: Sequence[str] = ()) -> Any:
    """The same as a module."""
    found = types.ModuleType("subsampling")
    exec(code(names), vars(found))
    return found


def built(names: Sequence[str] = (), kind: str = "dw_striding", causal: bool = False, **options: Any) -> Any:
    """A subsampling with weights that do not depend on ``names``."""
    torch.manual_seed(0)
    front = module(names).ConvSubsampling(
        kind,
        8,
        FEATURES,
        WIDTH,
        options.get("channels", WIDTH),
        activation=options.get("activation", torch.nn.ReLU()),
        is_causal=causal,
    )
    for hook in options.get("hooks", ()):
        hook(front.conv)
    return front


def frames(lengths: Sequence[int], full: int = 61) -> tuple[Any, Any]:
    """Frames (B, ``full``, features), noise also behind each end, and how many are each utterance's."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(lengths), full, FEATURES, generator=generator), torch.tensor(lengths)


def trained(front: Any, x: Any, lengths: Any) -> list[Any]:
    """What comes out, and the gradients of the input and of all parameters."""
    x = x.clone().requires_grad_()
    encoded, found = front(x=x, lengths=lengths)
    encoded.square().mean().backward()
    return [encoded.detach(), found, x.grad, *(p.grad for p in front.parameters())]


def same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether all tensors are equal bit by bit, but for the sign of zeros."""
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


@ids
@pytest.mark.parametrize(("kind", "causal"), [("dw_striding", False), ("dw_striding", True), ("striding", False)])
@pytest.mark.parametrize("lengths", [(61, 0, 1, 33), (61, 61), (7,)])
class TestSameBits:
    def test_training(self, names: Sequence[str], kind: str, causal: bool, lengths: Sequence[int]) -> None:
        given = frames(lengths)
        before = trained(built((), kind, causal), *given)
        assert same(before, trained(built(names, kind, causal), *given))
        assert len(before) > 10

    @pytest.mark.parametrize(
        "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
    )
    def test_without_gradients(
        self, names: Sequence[str], kind: str, causal: bool, lengths: Sequence[int], mode: Callable[[], Any]
    ) -> None:
        x, given = frames(lengths)
        kept = x.clone()
        with mode():
            before, after = (built(n, kind, causal)(x=x, lengths=given) for n in ((), names))
        assert same(before, after)
        assert torch.equal(x, kept), "the caller's frames are as they were"


def near(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether all tensors are the same but for rounding."""
    for a, b in zip(one, other, strict=True):
        if a.is_floating_point():
            torch.testing.assert_close(b, a)
        else:
            assert torch.equal(a, b)
    return True


@pytest.mark.parametrize("names", ROUNDING, ids="+".join)
class TestNearlyTheSame:
    @pytest.mark.parametrize(("kind", "causal"), [("dw_striding", False), ("dw_striding", True), ("striding", False)])
    @pytest.mark.parametrize("lengths", [(61, 0, 1, 33), (61, 61), (7,)])
    def test_training(self, names: Sequence[str], kind: str, causal: bool, lengths: Sequence[int]) -> None:
        given = frames(lengths)
        assert near(trained(built((), kind, causal), *given), trained(built(names, kind, causal), *given))

    @pytest.mark.parametrize(
        "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
    )
    def test_without_gradients(self, names: Sequence[str], mode: Callable[[], Any]) -> None:
        x, given = frames((61, 20, 0))
        kept = x.clone()
        with mode():
            assert near(*(built(n)(x=x, lengths=given) for n in ((), names)))
        assert same([x], [kept])

    @pytest.mark.parametrize("full", [8, 9, 15, 16, 17, 64])
    def test_sizes(self, names: Sequence[str], full: int) -> None:
        given = frames((full, full // 2), full)
        assert near(trained(built(), *given), trained(built(names), *given))

    def test_frames_in_another_order(self, names: Sequence[str]) -> None:
        """As an encoder hands them over: a view with the time last in memory."""
        x, given = frames((61, 20, 0))
        turned = x.transpose(1, 2).contiguous().transpose(1, 2)
        assert near(built()(x=x, lengths=given), built(names)(x=turned, lengths=given))

    def test_double(self, names: Sequence[str]) -> None:
        x, given = frames((61, 20, 0))
        assert near(*(built(n).double()(x=x.double(), lengths=given) for n in ((), names)))

    def test_hooks_are_called(self, names: Sequence[str]) -> None:
        found = []
        for front in (built(), built(names)):
            called: list[int] = []
            for number, layer in enumerate(front.conv):
                layer.register_forward_hook(lambda *_, number=number, called=called: called.append(number))
            front(*frames((61, 20)))
            found.append(called)
        assert found[0] == found[1]
        assert {*found[0]} == {*range(8)}

    def test_a_forward_of_its_own(self, names: Sequence[str]) -> None:
        """As libraries give it to a single layer."""
        called: list[int] = []
        front = built(names)
        for number, layer in enumerate(front.conv):
            if isinstance(layer, torch.nn.Conv2d):
                original = layer.forward
                layer.forward = lambda x, number=number, original=original: (called.append(number), original(x))[1]
        front(*frames((61, 20)))
        assert called == [0, 2, 3, 5, 6]

    def test_compiled_as_a_whole(self, names: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a break in the graph."""
        monkeypatch.setitem(sys.modules, "subsampling", module(names))
        helper = vars(module(names))["_channels_last" if LAST in names else "_in_pieces"]
        x, layer = torch.randn(2, 16, 50, 20), torch.nn.Conv2d(16, 16, 1)
        compiled = torch.compile(lambda x: helper(layer, x), backend="eager", fullgraph=True)
        assert near([compiled(x)], [layer(x)])

    def test_a_class_of_its_own(self, names: Sequence[str]) -> None:
        """What a subclass does, in whatever method, is done."""

        class Twice(torch.nn.Conv2d):  # type: ignore[misc, name-defined]
            def _conv_forward(self, *given: Any) -> Any:
                return 2 * super()._conv_forward(*given)

        fronts = [built(), built(names)]
        for front in fronts:
            for layer in front.conv:
                if isinstance(layer, torch.nn.Conv2d):
                    layer.__class__ = Twice
        given = frames((61, 20))
        assert near(*(front(*given) for front in fronts))
        assert not torch.allclose(fronts[0](*given)[0], built()(*given)[0])

    def test_exported(self, names: Sequence[str]) -> None:
        x, full = frames((64, 64), 64)
        given = torch.tensor([64, 10])
        with torch.no_grad():
            exported = torch.export.export(built(names), (), {"x": x, "lengths": full}, strict=False).module()
            assert near(exported(x=x, lengths=given), built()(x=x, lengths=given))


class Convolved(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
    """What is given to convolutions, and what comes out: whether its channels are last in memory, and its size."""

    def __init__(self) -> None:
        super().__init__()
        self.last: list[bool] = []
        self.sizes: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket is torch.ops.aten.convolution:
            self.last += [_is_last(tensor) for tensor in (args[0], result)]
            self.sizes += [args[0].numel(), result.numel()]
        return result


def _is_last(frames: Any) -> bool:
    return bool(frames.stride(1) == 1 and frames.stride(3) == frames.shape[1])


@pytest.mark.parametrize("names", [(LAST,), (LAST, FEWER, IN_PLACE)], ids="+".join)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("is_turned", [False, True])
def test_channels_are_last_all_the_way(names: Sequence[str], causal: bool, is_turned: bool) -> None:
    x, lengths = frames((61, 20))
    x = x.transpose(1, 2).contiguous().transpose(1, 2) if is_turned else x  # an encoder hands it over like that
    for asked, expected in ((names, True), ((), False)):
        with Convolved() as seen, torch.no_grad():
            built(asked, causal=causal)(x, lengths)
        assert len(seen.last) == 10
        assert all(seen.last) if expected else not all(seen.last)


def test_pieces_are_small() -> None:
    with Convolved() as whole, torch.no_grad():
        built()(*frames((61, 20)))
    with Convolved() as seen, torch.no_grad():
        built((SPLIT,))(*frames((61, 20)))
    row = 2 * WIDTH * FEATURES
    assert max(whole.sizes) > 2 * (500 + 3 * row)
    assert max(seen.sizes) <= 500 + 3 * row, "but for the rows at the edges"
    assert len(seen.sizes) > len(whole.sizes)


@ids
class TestOtherLayers:
    @pytest.mark.parametrize(
        "activation", ["Sigmoid", "Hardsigmoid", "Softplus", "PReLU", "Identity", "GELU", "SiLU", "Tanh"]
    )
    def test_activations(self, names: Sequence[str], activation: str) -> None:
        """Where f(0) is not 0, or not known to be, all masks stay."""
        given = frames((61, 20, 0))
        fronts = [built(n, activation=getattr(torch.nn, activation)()) for n in ((), names)]
        assert same(*(trained(front, *given) for front in fronts))

    def test_activations_that_work_in_place(self, names: Sequence[str]) -> None:
        given = frames((61, 20, 0))
        fronts = [built(n, activation=torch.nn.ReLU(inplace=True)) for n in ((), names)]
        assert same(*(trained(front, *given) for front in fronts))

    def test_a_convolution_of_one_frame_that_is_more(self, names: Sequence[str]) -> None:
        class Shifting(torch.nn.Conv2d):
            """Takes each frame from the one before."""

            def forward(self, x: Any) -> Any:
                return super().forward(x).roll(1, dims=2)

        def put(conv: Any) -> None:
            torch.manual_seed(2)
            conv[3] = Shifting(WIDTH, WIDTH, 1)

        given = frames((61, 20, 0))
        assert same(*(trained(built(n, hooks=[put]), *given) for n in ((), names)))

    def test_hooks_see_what_they_saw(self, names: Sequence[str]) -> None:
        given, seen = frames((61, 20, 0)), []
        for which in ((), names):
            found: list[Any] = []
            front = built(which)
            for layer in front.conv:
                layer.register_forward_hook(
                    lambda _, inputs, result, found=found: found.extend([inputs[0].clone(), result.clone()])
                )
            front(x=given[0], lengths=given[1])
            seen.append(found)
        assert len(seen[0]) >= 16
        if names != (SKIP,):
            assert same(*seen)

    def test_a_hook_that_keeps_a_result(self, names: Sequence[str]) -> None:
        """It is the hook's from then on: nothing is written to it."""
        kept: list[tuple[Any, Any]] = []
        front = built(names)
        front.conv[0].register_forward_hook(lambda _, inputs, result: kept.append((result, result.clone())))
        front(*frames((61, 20, 0)))
        assert all(torch.equal(result, copy) for result, copy in kept) and kept

    def test_layers_that_are_exchanged(self, names: Sequence[str]) -> None:
        """What is known of the layers is of those that are there."""

        def exchange(front: Any) -> None:
            torch.manual_seed(3)
            front.conv[5] = torch.nn.Conv2d(WIDTH, WIDTH, 3, stride=1, padding=1)

        given, fronts = frames((61, 20, 0)), [built(n) for n in ((), names)]
        for front in fronts:
            front.conv(*given)
            exchange(front)
        assert same(*(front.conv(*given) for front in fronts))


class Counting(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
    """How often anything is multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in (torch.ops.aten.mul, torch.ops.aten.mul_):
            self.products.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("names", "lengths", "new", "in_place"),
    [
        ((), (61, 20), 9, 0),
        ((FEWER,), (61, 20), 4, 0),
        ((FEWER, IN_PLACE), (61, 20), 1, 3),
        ((SKIP,), (61, 20), 9, 0),
        ((SKIP,), (61, 61), 0, 0),
        (EVERY, (61, 61), 0, 0),
        (EVERY, (61, 20), 1, 3),
    ],
)
def test_masks_are_fewer(names: Sequence[str], lengths: Sequence[int], new: int, in_place: int) -> None:
    with Counting() as counted, torch.no_grad():
        built(names)(*frames(lengths))
    found = [text.partition(".")[2].partition(".")[0] for text in counted.products]
    assert (found.count("mul"), found.count("mul_")) == (new, in_place)


def saved(names: Sequence[str], lengths: Sequence[int]) -> int:
    """Bytes that autograd keeps for the backward pass."""
    storages: dict[int, int] = {}
    keep: list[Any] = []

    def pack(tensor: Any) -> Any:
        keep.append(tensor)
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    front = built(names, channels=64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        front.conv(*frames(lengths, 200))
    own = {parameter.untyped_storage().data_ptr() for parameter in front.parameters()}
    return sum(size for place, size in storages.items() if place not in own)


def test_less_is_kept_for_the_backward_pass() -> None:
    plain = saved((), (200, 120))
    assert saved((FEWER,), (200, 120)) <= 0.6 * plain
    assert saved((FEWER, IN_PLACE), (200, 120)) <= 0.6 * plain
    assert saved((SKIP,), (200, 200)) <= 0.6 * plain


@ids
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("lengths", [(64, 64), (64, 10)])
def test_captured_code_holds_for_other_lengths(names: Sequence[str], lengths: Sequence[int]) -> None:
    """What is exported or traced with full utterances masks shorter ones."""
    x, full = frames((64, 64), 64)
    front, plain = built(names), built()
    given = torch.tensor(lengths)
    with torch.no_grad():
        exported = torch.export.export(front, (), {"x": x, "lengths": full}, strict=False).module()
        assert same(exported(x=x, lengths=given), plain(x=x, lengths=given))
        traced = torch.jit.trace(front, (x, full), check_trace=False)
        assert same(traced(x, given), plain(x=x, lengths=given))


@pytest.mark.parametrize(("first", "then"), [((), EVERY), (EVERY, ())])
def test_a_model_that_was_pickled_before(
    first: Sequence[str], then: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded by the other code, whether that is changed or not."""
    given, name = frames((61, 20, 0)), "nemo.collections.asr.parts.submodules.subsampling"
    expected = trained(built(), *given)

    def use(names: Sequence[str]) -> Any:
        found = module(names)
        for value in vars(found).values():
            if isinstance(value, type) and value.__module__ == "subsampling":
                value.__module__ = name
        monkeypatch.setitem(sys.modules, name, found)
        return found

    torch.manual_seed(0)
    front = use(first).ConvSubsampling("dw_striding", 8, FEATURES, WIDTH, WIDTH, activation=torch.nn.ReLU())
    front(*given)
    data = pickle.dumps(front)
    use(then)
    assert same(trained(pickle.loads(data), *given), expected)


class TestLayersThatAreNotWhatTheySeem:
    """A ``forward`` of an object's own, hooks on all modules, an activation in front of all."""

    def test_a_forward_of_its_own(self) -> None:
        front = built(NAMES)
        plain = module(NAMES)._layers_to_mask(front.conv)
        assert len(plain) < len(front.conv) + 1
        front.conv[1].forward = torch.sigmoid
        assert len(module(NAMES)._layers_to_mask(front.conv)) == len(front.conv) + 1
        given, mask = torch.ones(1), torch.ones(1)
        assert module(NAMES)._is_new(front.conv, 1, given, mask)
        front.conv[0].forward = lambda x: x
        assert not module(NAMES)._is_new(front.conv, 1, given, mask)

    def test_hooks_on_all_modules(self) -> None:
        front, found = built(NAMES), module(NAMES)
        hook = torch.nn.modules.module.register_module_forward_hook(lambda *given: None)
        try:
            assert len(found._layers_to_mask(front.conv)) == len(front.conv) + 1
            assert not found._is_new(front.conv, 1, torch.ones(1), torch.ones(1))
        finally:
            hook.remove()
        assert found._is_new(front.conv, 1, torch.ones(1), torch.ones(1))

    def test_an_activation_in_front(self) -> None:
        layers = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Conv2d(1, 1, 1))
        assert 0 in module(NAMES)._layers_to_mask(layers)


NAMES = ("conformer_fewer_masks", "conformer_inplace_masks")
