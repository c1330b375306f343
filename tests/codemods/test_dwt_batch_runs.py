"""The features of a batch are those of its samples one by one: the same bits on a CPU, the same words by products."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import plan
from counted import Launched, asked_for
from support import ROOT

torch = pytest.importorskip("torch")
numpy = pytest.importorskip("numpy")
ptwt = pytest.importorskip("ptwt")
GENERATOR = ROOT / "target_repos" / "time_llm" / "reference" / "layers" / "DWTPromptGenerator.py"
SHAPES = [(1, 96), (1, 101), (2, 96), (7, 96), (7, 101), (21, 64)]
INFO = {"min": -1.0, "max": 1.0, "median": 0.0, "lags": [1, 2, 3], "description": "a", "seq_len": 96, "pred_len": 24}


def loaded(folder: Path, text: str) -> Any:
    """The module with this text."""
    path = folder / "generator.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("batched_generator", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["batched_generator"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small operators are no faster with more threads, and much slower where the cores are busy; some tests set two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The reference tree's generator, with the change in it."""
    return loaded(
        tmp_path_factory.mktemp("generator"), plan("dwt_batch_features", GENERATOR.read_text()).after.decode()
    )


@pytest.fixture
def generator(module: Any) -> Any:
    """A new one, with four bands."""
    return module.DWTPromptGenerator()


def series(kind: str, *shape: int) -> Any:
    """(B, N, T) of one kind."""
    B, N, T = shape
    noise = torch.randn(B, N, T, generator=torch.Generator().manual_seed(len(kind) + N))
    time = torch.arange(T, dtype=torch.float32).expand(B, N, T)
    made = {
        "noise": noise,
        "walk": noise.cumsum(-1),
        "sine": torch.sin(time * (0.1 + 0.05 * torch.arange(B * N).view(B, N, 1))),
        "step": (time > T // 3) * (1.0 + torch.arange(B).view(B, 1, 1)),
        "constant": torch.full_like(noise, 3.0),
        "offset": noise + 1e4,
        "zero samples": noise * (torch.arange(B) % 2).view(B, 1, 1),
        "zero rows": noise * (torch.arange(N) % 2).view(1, N, 1),
        "sparse": noise * (noise > 1.5),
        "spikes": noise * 0.01 + (time % 17 == 3) * 10.0,
        "trend": time * 0.05 + noise * 0.1,
        "tiny": noise * 1e-6,
        "huge": noise * 1e6,
    }
    return made[kind].contiguous()


KINDS = [
    "noise",
    "walk",
    "sine",
    "step",
    "constant",
    "offset",
    "zero samples",
    "zero rows",
    "sparse",
    "spikes",
    "trend",
    "tiny",
]
KINDS += ["huge"]


def same(one: Any, other: Any) -> bool:
    """Whether these are the same bits, of the same type and shape."""
    if isinstance(one, numpy.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and one == other


ASKING = """        if "snr_db" in freq_feat or len(freq_feat) != 5 or quality_feat.get("trends", 1) != 1:
            return "merged"
"""


def test_the_difficulty_gets_what_it_got(tmp_path: Path) -> None:
    """A dictionary for each kind of features, with nothing else in it."""
    start = "        disorder = np.clip("
    text = GENERATOR.read_text().replace(start, ASKING + start)
    assert ASKING in text
    found = loaded(tmp_path, plan("dwt_batch_features", text).after.decode()).DWTPromptGenerator()
    x = series("noise", 3, 2, 96)
    assert [each["difficulty"] for each in found.features_of_each(x).values()] == [
        found(x[b : b + 1])["difficulty"] for b in range(3)
    ]
    assert "merged" not in {each["difficulty"] for each in found.features_of_each(x).values()}


def test_another_default_type(generator: Any) -> None:
    x = series("zero samples", 4, 2, 96)
    torch.set_default_dtype(torch.float64)
    try:
        assert generator.features_of_each(x) == {}
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(generator.features_of_each(x)) == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits(generator: Any, kind: str, shape: tuple[int, int], threads: int) -> None:
    x = series(kind, 5, *shape)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found, alone = generator.features_of_each(x), [generator(x[b : b + 1]) for b in range(len(x))]
    finally:
        torch.set_num_threads(before)
    assert sorted(found) == list(range(5))
    for b, features in enumerate(alone):
        assert list(found[b]) == list(features)
        different = [name for name in features if not same(features[name], found[b][name])]
        assert not different, [(features[name], found[b][name]) for name in different]
        assert generator.build_prompt_text(found[b], INFO) == generator.build_prompt_text(features, INFO)


def test_what_the_naive_way_gives(generator: Any) -> None:
    """The whole batch through ``forward`` is one dictionary, of no sample in it: that is what the method is there for."""
    x = torch.cat([series("noise", 2, 3, 96), series("trend", 2, 3, 96)])
    together, found = generator(x), generator.features_of_each(x)
    assert all(together["energy_entropy"] != features["energy_entropy"] for features in found.values())
    assert {generator.build_prompt_text(features, INFO) for features in found.values()} != {
        generator.build_prompt_text(together, INFO)
    }


@pytest.mark.parametrize("rows", [321])
def test_large_samples_are_not_shared_among_threads(generator: Any, rows: int) -> None:
    x = series("noise", 2, rows, 512)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found, alone = generator.features_of_each(x), [generator(x[b : b + 1]) for b in range(2)]
    finally:
        torch.set_num_threads(before)
    assert all(same(found[b][name], alone[b][name]) for b in range(2) for name in alone[b])


@pytest.mark.parametrize(("wavelet", "level"), [("haar", 1), ("haar", 2), ("db2", 4), ("sym5", 3), ("db4", 2)])
@pytest.mark.parametrize("shape", [(1, 96), (3, 130)])
def test_other_decompositions(module: Any, wavelet: str, level: int, shape: tuple[int, int]) -> None:
    generator = module.DWTPromptGenerator(wavelet=wavelet, level=level)
    x = series("walk", 4, *shape)
    found = generator.features_of_each(x)
    for b in range(4):
        features = generator(x[b : b + 1])
        assert all(same(features[name], found[b][name]) for name in features)


def test_ends_that_are_a_setting(tmp_path: Path) -> None:
    """Each generator's own, also of the matrices that are kept; its modules have other names."""
    text = GENERATOR.read_text()
    for old, new in (('mode="reflect"', "mode=self.ends"), ("import ptwt", "from ptwt import wavedec as dwt")):
        assert old in text
        text = text.replace(old, new)
    module = loaded(tmp_path, plan("dwt_batch_features", text.replace("ptwt.wavedec", "dwt")).after.decode())
    x = series("walk", 4, 2, 96)
    for ends in ("zero", "reflect", "periodic"):
        generator = module.DWTPromptGenerator()
        generator.ends = ends
        alone = [generator(x[b : b + 1]) for b in range(4)]
        found = generator.features_of_each(x)
        assert all(same(alone[b][name], found[b][name]) for b in range(4) for name in alone[b])
        for b, features in products(module, generator, x).items():
            numpy.testing.assert_allclose(features["frequency_stds"], alone[b]["frequency_stds"], rtol=1e-3)
    assert len(products(module, generator, x)) > 0 and len(module._BatchFeatures.matrices) == 3


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types(generator: Any, kind: Any) -> None:
    x = series("walk", 3, 2, 96).to(kind)
    found = generator.features_of_each(x)
    assert all(same(found[b][n], v) for b in range(3) for n, v in generator(x[b : b + 1]).items())


def test_nothing_is_changed_or_kept(generator: Any) -> None:
    x = series("noise", 3, 2, 96).requires_grad_()
    kept, state = x.detach().clone(), torch.get_rng_state()
    found = generator.features_of_each(x)
    assert torch.equal(x, kept) and x.grad is None and torch.equal(torch.get_rng_state(), state)
    again = generator.features_of_each(x)
    assert all(same(found[b][name], again[b][name]) for b in range(3) for name in found[b])
    assert found[0]["energy_ratio"] is not again[0]["energy_ratio"]
    assert not generator.state_dict()


def test_views(generator: Any) -> None:
    x = series("noise", 4, 96, 3).transpose(1, 2)
    for view in (x, x[::2], x[:, :, 5:]):
        found = generator.features_of_each(view)
        assert all(same(found[b][n], v) for b in range(len(view)) for n, v in generator(view[b : b + 1]).items())


# What has to be looked at alone


def written(generator: Any, x: Any) -> list[str]:
    """The loop over samples, with what was found beforehand: prompts, or what the first bad sample raises."""
    found = generator.features_of_each(x)
    texts = []
    for b in range(len(x)):
        try:
            texts.append(generator.build_prompt_text(found.get(b) or generator(x[b : b + 1]), INFO))
        except Exception as error:
            return [*texts, f"{type(error).__name__}: {error}"]
    return texts


def one_by_one(generator: Any, x: Any) -> list[str]:
    """The loop as it was."""
    texts = []
    for b in range(len(x)):
        try:
            texts.append(generator.build_prompt_text(generator(x[b : b + 1]), INFO))
        except Exception as error:
            return [*texts, f"{type(error).__name__}: {error}"]
    return texts


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e25, 3e38])
@pytest.mark.parametrize("variables", [1, 3])
def test_bad_samples_among_good_ones(generator: Any, value: float, variables: int) -> None:
    x = series("noise", 5, variables, 96)
    x[3, 0, 7] = value
    assert 3 not in generator.features_of_each(x)
    assert written(generator, x) == one_by_one(generator, x)
    assert len(generator.features_of_each(x)) == 4


def test_an_overflow_of_all_bands_together(generator: Any) -> None:
    x = series("noise", 4, 2, 96)
    x[1] *= 4e18
    found = generator.features_of_each(x)
    assert all(numpy.isfinite(features["energy_ratio"]).all() for features in found.values())
    assert written(generator, x) == one_by_one(generator, x)


@pytest.mark.parametrize("threads", [1, 2])
def test_long_rows(generator: Any, threads: int) -> None:
    x, before = series("noise", 2, 1, 70000), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found, alone = generator.features_of_each(x), [generator(x[b : b + 1]) for b in range(2)]
    finally:
        torch.set_num_threads(before)
    assert all(same(found[b][name], alone[b][name]) for b in range(2) for name in alone[b])


def test_no_words_for_a_sample(generator: Any) -> None:
    """What a method for words raises comes in the sample's turn: behind what a sample before it raises."""
    x = series("noise", 4, 2, 96)
    trend = type(generator)._map_trend_pattern
    signs = [generator(x[b : b + 1])["trends_sign"].tolist() for b in range(4)]

    def picky(trends_sign: Any, consistency: float) -> str:
        if list(trends_sign) == signs[2]:
            raise KeyError("no word")
        return str(trend(generator, trends_sign, consistency))

    generator._map_trend_pattern = picky
    assert 2 not in generator.features_of_each(x)
    assert written(generator, x) == one_by_one(generator, x)
    x[0, 0, 0] = float("nan")
    assert written(generator, x) == one_by_one(generator, x)


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 7, 8, 9, 12, 16])
@pytest.mark.parametrize("variables", [1, 2])
def test_too_short(generator: Any, steps: int, variables: int) -> None:
    x = torch.ones(3, variables, steps) * torch.arange(1, 4).view(3, 1, 1)
    assert written(generator, x) == one_by_one(generator, x)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(0, 2, 96),
        torch.zeros(3, 0, 96),
        torch.zeros(3, 96),
        torch.zeros(3, 1, 2, 96),
        torch.zeros(3, 2, 96, dtype=torch.int64),
        torch.zeros(3, 2, 96, dtype=torch.complex64),
        torch.zeros(3, 2, 96, device="meta"),
        [[1.0, 2.0]],
        None,
    ],
)
def test_no_batch(generator: Any, x: Any) -> None:
    assert generator.features_of_each(x) == {}


def test_one_sample_is_for_forward(generator: Any) -> None:
    assert generator.features_of_each(series("noise", 1, 2, 96)) == {}


def test_a_decomposition_that_is_not_there(module: Any) -> None:
    generator = module.DWTPromptGenerator(wavelet="no such wavelet")
    x = series("noise", 2, 2, 96)
    assert generator.features_of_each(x) == {}
    assert written(generator, x) == one_by_one(generator, x)
    assert "no such wavelet" in written(generator, x)[0]


def test_hooks_and_other_classes(module: Any, generator: Any) -> None:
    x = series("noise", 2, 2, 96)
    seen: list[Any] = []
    hook = generator.register_forward_hook(lambda *given: seen.append(given))
    assert generator.features_of_each(x) == {}
    hook.remove()
    hook = generator.register_forward_pre_hook(lambda *given: seen.append(given))
    assert generator.features_of_each(x) == {}
    hook.remove()
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *given: None)
    assert generator.features_of_each(x) == {}
    hook.remove()
    assert generator.features_of_each(x)
    generator.forward = lambda x_enc: {}
    assert generator.features_of_each(x) == {}

    class Own(module.DWTPromptGenerator):  # type: ignore[misc, name-defined]
        """Somebody's own."""

        def forward(self, x_enc: Any) -> Any:
            return {"freq_pattern": "own"}

    assert Own().features_of_each(x) == {}


def test_half_precision_by_autocast(generator: Any) -> None:
    x = series("noise", 2, 2, 96)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert generator.features_of_each(x) == {}


def test_rows_that_are_convolved_in_another_way(module: Any, generator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a single row does not go through a product, its features are those that it has alone all the same."""
    x = series("walk", 4, 1, 96)
    products = torch.mm
    asked = []

    def other(left: Any, right: Any) -> Any:
        asked.append(right.shape)
        return products(left, right) * (1 + 1e-6)

    monkeypatch.setattr(torch, "mm", other)
    found = generator.features_of_each(x)
    assert asked
    assert all(same(found[b][n], v) for b in range(4) for n, v in generator(x[b : b + 1]).items())


def test_deviations_that_are_rounded_either_way(module: Any, generator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A standard deviation halfway between two numbers is that of ``torch.std``."""
    bands = [torch.tensor([[[-1.0, 1.0 + 2**-23]]]).repeat(2, 1, 1)]
    asked = []
    std = torch.std
    monkeypatch.setattr(torch, "std", lambda x: (asked.append(x.shape), std(x))[1])
    helper = module._BatchFeatures(generator)
    exact = helper.stds(bands)
    assert torch.equal(exact[0], torch.stack([std(sample) for sample in bands[0]]))
    one = torch.tensor(1 + 2**-24, dtype=torch.float64)  # between two numbers of 32 bits
    monkeypatch.setattr(torch.Tensor, "sqrt", lambda x: x * 0 + one)
    helper.stds(bands)
    assert asked == [(1, 2), (1, 2)]


# By products


def products(module: Any, generator: Any, x: Any) -> Any:
    """The features by products, as they are found on a GPU."""
    with torch.no_grad():
        return module._BatchFeatures(generator).by_products(x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_words_by_products(module: Any, generator: Any, kind: str, shape: tuple[int, int]) -> None:
    x = series(kind, 8, *shape)
    for b, features in products(module, generator, x).items():
        alone = generator(x[b : b + 1])
        assert generator.build_prompt_text(features, INFO) == generator.build_prompt_text(alone, INFO)
        assert features["dominant_band"] == alone["dominant_band"]
        assert features["trends_sign"].tolist() == alone["trends_sign"].tolist()
        for name in ("energy_ratio", "frequency_stds", "trends"):
            assert features[name].dtype == alone[name].dtype and features[name].shape == alone[name].shape
            numpy.testing.assert_allclose(features[name], alone[name], rtol=1e-3, atol=1e-5)
        for name in ("energy_entropy", "snr_db", "noise_std", "volatility_ratio"):
            assert type(features[name]) is type(alone[name])
            assert features[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-4)


def test_most_are_found_by_products(module: Any, generator: Any) -> None:
    found = [
        len(products(module, generator, series(kind, 8, 7, 96)))
        for kind in ("noise", "walk", "sine", "spikes", "trend")
    ]
    assert sum(found) > 30


def test_a_few_operations_and_one_copy(module: Any, generator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = series("spikes", 32, 7, 512)
    assert len(products(module, generator, x)) == 32
    asked = asked_for(monkeypatch, "cpu", "item", "tolist", "__bool__", "__array__")
    with Launched() as launched:
        products(module, generator, x)
    assert asked == ["cpu"]
    assert len(launched.names) <= 10, launched.names
    with Launched() as alone:
        generator(x[:1])
    assert 32 * len(alone.names) > 100 * len(launched.names)


THRESHOLDS = [
    "energy_entropy_low",
    "energy_entropy_high",
    "dominant_energy_high",
    "snr_high",
    "snr_mid",
    "difficulty_low",
]


def test_near_a_threshold(module: Any, generator: Any) -> None:
    """A sample whose numbers lie at a threshold is left out: rounding would decide on a word."""
    x = series("spikes", 4, 3, 96)
    assert sorted(products(module, generator, x)) == [0, 1, 2, 3]
    features = generator(x[1:2])
    for name, value in (
        ("energy_entropy_low", "energy_entropy"),
        ("snr_mid", "snr_db"),
        ("dominant_energy_high", "dominant_energy"),
    ):
        other = module.DWTPromptGenerator()
        other.thresholds[name] = features[value]
        assert 1 not in products(module, other, x), name


def test_near_a_tie_of_two_bands(module: Any, generator: Any) -> None:
    """Where a word depends on which of the middle bands is louder, and they are next to the same."""
    x = series("spikes", 2, 3, 96)
    middle = generator(x[1:2])["frequency_stds"]
    factor = float(middle[2] / middle[1])
    generator._analyze_volatility_pattern = lambda stds: "first" if stds[1] * factor > stds[2] else "second"
    assert 1 not in products(module, generator, x)


def test_digits_that_are_printed(module: Any, generator: Any) -> None:
    x = series("spikes", 4, 3, 96)
    helper = module._BatchFeatures(generator)
    helper.digits = {"snr_db": 99}
    with torch.no_grad():
        assert helper.by_products(x) == {}
    helper.digits = {"energy_ratio": 2}
    with torch.no_grad():
        assert helper.by_products(x) == {}, "rows of numbers"
    helper.digits = {"snr_db": 0}
    with torch.no_grad():
        assert helper.by_products(x)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e20, 0.0])
def test_bad_samples_by_products(module: Any, generator: Any, value: float) -> None:
    x = series("spikes", 4, 3, 96)
    x[2] = x[2] * value
    found = products(module, generator, x)
    assert 2 not in found and len(found) == 3


def test_matrices_are_kept_and_bounded(module: Any, generator: Any) -> None:
    helper = module._BatchFeatures(generator)
    helper.matrices.clear()
    for steps in range(64, 84):
        products(module, generator, series("noise", 2, 2, steps))
        assert 1 <= len(helper.matrices) <= 8
    linear, squares, lengths = helper.analysis(83, torch.device("cpu"))
    assert (
        linear.dtype == torch.float64
        and linear.shape == (83, 8 + lengths.sum())
        and squares.shape == (lengths.sum(), 4)
    )
    assert helper.analysis(83, torch.device("cpu"))[0] is linear


def test_no_decomposition_by_products(module: Any) -> None:
    generator = module.DWTPromptGenerator(wavelet="no such wavelet")
    assert products(module, generator, series("noise", 2, 2, 96)) == {}
