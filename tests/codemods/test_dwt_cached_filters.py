"""``dwt_cached_filters``: only the decomposition of a class that writes prompts, which gives the same bits as before."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
from cases import above, constant, lands, plan, refuses, replaced, skips, with_class, with_tabs
from counted import Launched
from support import ROOT

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED

NAME = "dwt_cached_filters"
GENERATOR = (ROOT / "target_repos/time_llm/reference/layers/DWTPromptGenerator.py").read_text(encoding="utf-8")
TEXT = constant(NAME, "KEPT_TEXT")
HELPER = TEXT.replace("WAVEDEC", "ptwt.wavedec")
CLASS = "class Prompter(torch.nn.Module):\n"
BODY = "return ptwt.wavedec(x, self.wavelet, level=self.level, mode='reflect')"
TOP = "import ptwt\nimport torch"
WRITES = {"def build_prompt_text(self, features):": "return str(features)"}


def module(body: str = BODY, top: str = TOP, **more: str) -> str:
    """A generator that decomposes in this way."""
    return with_class(top, CLASS, {"def forward(self, x):": body, **WRITES}, **more)


def changed(before: str, call: str = "ptwt.wavedec") -> str:
    """The same with the change in it."""
    head, cls, rest = before.partition(CLASS)
    return above(head + cls + replaced(rest, (call + "(", "_wavedec(")), CLASS, TEXT.replace("WAVEDEC", call))


def test_lands_on_the_reference() -> None:
    after = replaced(GENERATOR, ("ptwt.wavedec(", "_wavedec("))
    lands(NAME, GENERATOR, above(after, "class DWTPromptGenerator", HELPER))


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        "try:\n    return ptwt.wavedec(x, self.wavelet, level=3)\nexcept Exception as e:\n    raise RuntimeError from e",
        "return ptwt.wavedec(\n    x.reshape(-1, 1, 9),  # rows\n    'db4',\n    mode=mode_of(x),\n)",
        "return ptwt.wavedec(data=x, wavelet=self.wavelet)",
        "return ptwt.wavedec(*self.given(x))",
        "return [ptwt.wavedec(row, self.wavelet) for row in x]",
    ],
)
def test_lands(body: str) -> None:
    lands(NAME, module(body), changed(module(body)))


@pytest.mark.parametrize(
    ("given", "call"),
    [
        ("from ptwt import wavedec", "wavedec"),
        ("import ptwt as pt", "pt.wavedec"),
        ("from ptwt import wavedec as w", "w"),
    ],
)
def test_other_names_of_the_function(given: str, call: str) -> None:
    before = module(BODY.replace("ptwt.wavedec", call), f"{given}\nimport torch")
    lands(NAME, before, changed(before, call))


def test_where_the_library_may_be_missing() -> None:
    before = module(top="try:\n    import ptwt\nexcept ImportError:\n    ptwt = None\nimport torch")
    lands(NAME, before, changed(before))


def test_in_another_method_and_with_tabs() -> None:
    before = with_class(TOP, CLASS, {"def _bands(self, x):": BODY, **WRITES})
    lands(NAME, with_tabs(before), with_tabs(changed(before)))


@pytest.mark.parametrize(
    "text",
    [
        module("return pywt.wavedec(x, 'db4')  # ptwt.wavedec(x, 'db4')"),
        module("return self.ptwt.wavedec(x, 'db4')"),
        module("return ptwt.waverec(x, 'db4')"),
        module("return ptwt.wavedec2(x, 'db4')"),
        module().replace("build_prompt_text", "describe"),
        module("return x", more="'ptwt.wavedec(x, self.wavelet)'"),
        module()
        .replace(CLASS, f"def forward(x):\n    {BODY}\n\n\n{CLASS}")
        .replace(f"        {BODY}", "        return x"),
        module(top="from other import ptwt\nimport torch"),
        module(BODY.replace("ptwt.", ""), "from .ptwt import wavedec\nimport torch"),
    ],
)
def test_no_decomposition(text: str) -> None:
    refuses(NAME, text, NoSite, "ptwt.wavedec")


def test_two_decompositions() -> None:
    refuses(NAME, module(f"if x is None:\n    {BODY}\n{BODY}"), Ambiguous, "in 2 places")


@pytest.mark.parametrize(
    "text",
    [
        module(f"import ptwt\n{BODY}", "import torch"),
        module(f"ptwt = self.library\n{BODY}"),
        module(top="from ptwt import *\nimport torch", body=BODY.replace("ptwt.", "")),
        module(top="import ptwt"),
        module(top="import ptwt\nimport jax as torch"),
    ],
)
def test_what_the_names_mean_cannot_be_told(text: str) -> None:
    outcome = plan(NAME, text)
    assert type(outcome.error) in (Ambiguous, NoSite), outcome.after.decode()


def test_the_author_gives_filters() -> None:
    skips(NAME, module("return ptwt.wavedec(x, (self.a, self.b, self.c, self.d))"), NOT_NEEDED, "given filters")


def test_names_that_are_taken() -> None:
    for name in ("_wavedec", "_filters", "_KEPT_FILTERS"):
        refuses(NAME, module() + f"\n\n{name} = 1\n", Conflict, name)


def test_by_half() -> None:
    whole = changed(module())
    refuses(NAME, replaced(whole, ("return _wavedec(x", "return ptwt.wavedec(x")), PartlyApplied, "used 0 times")
    refuses(NAME, module().replace("ptwt.wavedec(", "_wavedec("), PartlyApplied, "defined 0 times")
    refuses(NAME, whole.replace("def _filters(", "def _others("), PartlyApplied, "_filters is defined 0 times")


# Beside the other units


BATCH = "dwt_batch_features"


def both(*names: str) -> str:
    """The reference tree's generator with these units, one after the other."""
    data = GENERATOR.encode()
    for name in names:
        outcome = plan(name, data)
        assert outcome.kind == PLANNED, outcome.message
        data = outcome.after
    return data.decode()


def test_with_batches_in_every_order() -> None:
    one, other = both(NAME, BATCH), both(BATCH, NAME)
    assert sorted(one.splitlines()) == sorted(other.splitlines())
    assert plan(NAME, one).kind == plan(BATCH, other).kind == ALREADY


@pytest.mark.parametrize(
    "change",
    [
        ("return ptwt.wavedec(data, wavelet, *more", "return ptwt.wavedec(data * 2, wavelet, *more"),
        ("made if is_same else name", "made"),
    ],
)
def test_batches_are_for_our_own_words_only(change: tuple[str, str]) -> None:
    """A function of that name which does something else is not taken for the decomposition."""
    refuses(BATCH, replaced(both(NAME), change), Ambiguous, "ptwt.wavedec")


# What it does


torch = pytest.importorskip("torch")
numpy = pytest.importorskip("numpy")
ptwt = pytest.importorskip("ptwt")


def loaded(path: Path, text: str, patch: pytest.MonkeyPatch) -> Any:
    """The module with this text."""
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, path.stem, made)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The reference tree's generator with the change in it; nothing is kept yet."""
    return loaded(tmp_path / "generator_with_kept_filters.py", both(NAME), monkeypatch)


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same as it was."""
    return loaded(tmp_path / "generator_as_it_was.py", GENERATOR, monkeypatch)


def windows(kind: Any = torch.float32, *shape: int) -> Any:
    """(B, N, T)."""
    return torch.randn(shape or (1, 3, 96), generator=torch.Generator().manual_seed(0)).to(kind)


def bits(features: Any) -> Any:
    """Features as what can be compared."""
    if isinstance(features, str):
        return features
    return {n: v.tobytes() + str(v.shape).encode() if isinstance(v, numpy.ndarray) else v for n, v in features.items()}


def result(module: Any, x: Any, **settings: Any) -> Any:
    """What the module's generator says, or raises."""
    try:
        return bits(module.DWTPromptGenerator(**settings)(x))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64])
@pytest.mark.parametrize("wavelet", ["db4", "haar", "db1", "bior2.2", "sym5", "coif1", "DB4"])
def test_the_same_bits(made: Any, plain: Any, kind: Any, wavelet: str) -> None:
    for _ in range(2):
        assert result(made, windows(kind), wavelet=wavelet) == result(plain, windows(kind), wavelet=wavelet)
    assert (wavelet, torch.float32, torch.device("cpu")) in made._KEPT_FILTERS
    assert isinstance(next(iter(made._KEPT_FILTERS.values())), tuple)


@pytest.mark.parametrize("mode", ["zero", "constant", "periodic", "symmetric", "reflect"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_same_bands(made: Any, mode: str, kind: Any) -> None:
    """The function by itself: other ends, other types, gradients."""
    x = windows(kind, 4, 1, 101).requires_grad_()
    other = x.detach().clone().requires_grad_()
    bands, plain = made._wavedec(x, "db3", mode=mode, level=3), ptwt.wavedec(other, "db3", mode=mode, level=3)
    assert all(map(torch.equal, bands, plain)) and bands[0].dtype == kind
    sum((band**3).sum() for band in bands).backward()
    sum((band**3).sum() for band in plain).backward()
    assert torch.equal(x.grad, other.grad)


@pytest.mark.parametrize(
    ("x", "settings"),
    [
        (windows(), {"wavelet": "no such wavelet"}),
        (windows(), {"wavelet": "mexh"}),
        (windows(), {"wavelet": ""}),
        (windows(), {"wavelet": None}),
        (windows(), {"wavelet": 3}),
        (windows()[..., :8], {}),
        (windows()[..., :5], {}),
        (windows() * float("nan"), {}),
        ([1.0], {}),
        (None, {"wavelet": "no such wavelet"}),
    ],
)
def test_the_same_errors(made: Any, plain: Any, x: Any, settings: Any) -> None:
    for _ in range(2):
        said = result(made, x, **settings)
        assert said == result(plain, x, **settings)
        assert isinstance(said, str)
    assert all(name == "db4" for name, *_ in made._KEPT_FILTERS)


def test_what_is_no_tensor_or_no_name_goes_as_it_is(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ptwt, "wavedec", lambda *given, **options: asked.append((given, options)))
    for data, wavelet in (([1.0], "db4"), (windows(), (1, 2)), (windows(), type("Name", (str,), {})("db4"))):
        made._wavedec(data, wavelet, 1, level=2)
        (data_given, wavelet_given, one), options = asked.pop()
        assert data_given is data and wavelet_given is wavelet and (one, options) == (1, {"level": 2})
    assert not made._KEPT_FILTERS


def test_a_wavelet_that_changes(made: Any, plain: Any) -> None:
    """By another name, and as an object whose numbers somebody changes."""
    ours, theirs = made.DWTPromptGenerator(), plain.DWTPromptGenerator()
    own = types.SimpleNamespace(filter_bank=[[0.5, 0.5], [0.5, -0.5], [1.0, 1.0], [1.0, -1.0]])
    cls = type("Own", (types.SimpleNamespace,), {"__len__": lambda self: 2})
    changing = cls(**vars(own))
    for wavelet in ("db4", "haar", "db4", changing):
        ours.wavelet = theirs.wavelet = wavelet
        assert bits(ours(windows())) == bits(theirs(windows()))
    changing.filter_bank = [[0.25, 0.75], *own.filter_bank[1:]]
    before = bits(theirs(windows()))
    assert bits(ours(windows())) == before
    assert before["energy_entropy"] != bits(made.DWTPromptGenerator("haar")(windows()))["energy_entropy"]


@pytest.mark.parametrize("first", [torch.inference_mode, torch.no_grad])
def test_first_without_gradients(made: Any, first: Any) -> None:
    """What is made in inference mode could not be saved for a backward pass."""
    with first():
        made._wavedec(windows(), "db4", level=2)
    (kept,) = made._KEPT_FILTERS.values()
    assert isinstance(kept, tuple) and not any(t.is_inference() or t.requires_grad for t in kept)
    x = windows().requires_grad_()
    made._wavedec(x, "db4", level=2)[0].sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("is_first", [True, False])
def test_autocast(made: Any, plain: Any, is_first: bool) -> None:
    if not is_first:
        made._wavedec(windows(), "db4")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bands, others = made._wavedec(windows(), "db4", level=2), ptwt.wavedec(windows(), "db4", level=2)
        assert bands[0].dtype == others[0].dtype == torch.bfloat16
        assert all(map(torch.equal, bands, others))
        assert result(made, windows()) == result(plain, windows())
    assert result(made, windows()) == result(plain, windows())


def test_kept_by_type_and_device(made: Any) -> None:
    for x in (windows(), windows(torch.float64), windows().to("meta"), windows()):
        try:
            made._wavedec(x, "db4")
        except Exception:  # ptwt reads numbers of shapes only
            assert x.device.type == "meta"
    kept = {(dtype, device.type): value for (_, dtype, device), value in made._KEPT_FILTERS.items()}
    assert kept.pop((torch.float32, "meta"), "db4") == "db4"
    assert {key: value[0].dtype for key, value in kept.items()} == {
        (torch.float32, "cpu"): torch.float32,
        (torch.float64, "cpu"): torch.float64,
    }


def test_shapes_only(made: Any) -> None:
    """What is made while somebody looks at shapes only is no filter for later."""
    with torch._subclasses.FakeTensorMode():
        made._wavedec(torch.zeros(2, 1, 96), "db4", level=2)
    assert not made._KEPT_FILTERS


def test_another_library(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ptwt that does not know filters, or does something else with them, gets the name; it is asked about it once."""
    kept, asked = ptwt.wavedec, []

    def refusing(data: Any, wavelet: Any, **options: Any) -> Any:
        asked.append(wavelet)
        if isinstance(wavelet, tuple):
            raise AttributeError("filter_bank")
        return kept(data, wavelet, **options)

    def other(data: Any, wavelet: Any, **options: Any) -> Any:
        asked.append(wavelet)
        bands = kept(data, wavelet, **options)
        return [band * 2 for band in bands] if isinstance(wavelet, tuple) else bands

    for library in (refusing, other):
        monkeypatch.setattr(ptwt, "wavedec", library)
        made._KEPT_FILTERS.clear()
        for _ in range(3):
            assert all(map(torch.equal, made._wavedec(windows(), "db4", level=1), kept(windows(), "db4", level=1)))
        assert [type(wavelet) for wavelet in asked] == [tuple, *[str] * (3 if library is refusing else 4)]
        asked.clear()


def test_no_pywt(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pywt", None)
    assert made._filters("db4", torch.float32, torch.device("cpu")) == "db4"
    assert not made._KEPT_FILTERS


def test_nothing_of_the_generator_is_kept(made: Any, plain: Any) -> None:
    generator = made.DWTPromptGenerator()
    before, state = dict(vars(generator)), torch.get_rng_state()
    expected = bits(plain.DWTPromptGenerator()(windows()))
    for one in (generator, copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))):
        assert bits(one(windows())) == expected
    assert vars(generator) == before and torch.equal(torch.get_rng_state(), state)
    assert not generator.state_dict()


def test_threads(made: Any, plain: Any) -> None:
    expected, found = result(plain, windows()), []
    threads = [threading.Thread(target=lambda: found.append(result(made, windows()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8 and len(made._KEPT_FILTERS) == 1


def test_fewer_operators(made: Any, plain: Any) -> None:
    generators = made.DWTPromptGenerator(), plain.DWTPromptGenerator()
    counts = []
    for generator in generators:
        generator(windows())
        with Launched() as launched:
            generator(windows())
        counts.append(launched.names)
    assert [names.count("lift_fresh") for names in counts] == [0, 4]
    assert len(counts[0]) < len(counts[1])


def test_one_graph(made: Any) -> None:
    """With its filters as constants, and no word for the wavelet, ptwt's decomposition is one graph."""
    generator, graphs = made.DWTPromptGenerator(), []

    def backend(graph: Any, examples: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def bands(x: Any) -> Any:
        return made._wavedec(x, generator.wavelet, level=generator.level)

    compiled = torch.compile(bands, backend=backend, fullgraph=True)
    for wavelet in ("db4", "haar", "db4"):
        generator.wavelet = wavelet
        assert all(map(torch.equal, compiled(windows()), bands(windows())))
    assert len(graphs) == 2
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(lambda x: ptwt.wavedec(x, "db4", level=3), backend=backend, fullgraph=True)(windows())
    torch._dynamo.reset()
