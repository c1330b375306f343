"""``dwt_feature_cache``: what a generator says is kept by all that it depends on, and nothing else is."""

from __future__ import annotations

import copy
import gc
import importlib.util
import pickle
import sys
import threading
import types
from typing import Any

import pytest
from cases import above, constant, lands, plan, refuses, replaced, with_class, with_tabs
from support import ROOT

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, REFUSED

NAME, BATCH, STATISTICS = "dwt_feature_cache", "dwt_batch_prompts", "dwt_prompt_stats"
REFERENCE = ROOT / "target_repos/time_llm/reference"
MODEL = (REFERENCE / "models/TimeLLM.py").read_text(encoding="utf-8")
HELPER = constant(NAME, "TEXT").replace("ENTRIES", "4096")
CLASS = "class Model(torch.nn.Module):\n"
HEADER = "def forecast(self, x):"
BODY = """
prompts = []
for b in range(len(x)):
    features = self.generator(x[b:b+1])
    prompts.append(self.generator.build_prompt_text(features, {"b": b}))
return prompts
"""
ASKED = ("self.generator(x", "_known_features(self.generator, x")


def module(body: str = BODY, header: str = HEADER, top: str = "import torch") -> str:
    """A model whose method is this."""
    return with_class(top, CLASS, {header: body})


def changed(before: str, *changes: tuple[str, str], helper: str = HELPER) -> str:
    """The same with the change in it."""
    return above(replaced(before, *changes or (ASKED,)), CLASS, helper)


def test_lands_on_the_reference() -> None:
    before, after = "self.dwt_prompt_generator(samples", "_known_features(self.dwt_prompt_generator, samples"
    lands(NAME, MODEL, above(replaced(MODEL, (before, after)), "class Model", HELPER))


@pytest.mark.parametrize(
    ("body", "change"),
    [
        (BODY, ASKED),
        (replaced(BODY, ("features = ", "features: dict = ")), ASKED),
        ("return self.generator.build_prompt_text(self.generator(x), {})", ASKED),
        (replaced(BODY, ("(x[b:b+1])", "(x[b].unsqueeze(0))")), ASKED),
        (
            replaced(BODY, ("(x[b:b+1])", "((x[b:b+1] - 1))")),
            ("self.generator((x", "_known_features(self.generator, (x"),
        ),
    ],
)
def test_lands(body: str, change: tuple[str, str]) -> None:
    lands(NAME, module(body), changed(module(body), change))


def test_over_several_lines() -> None:
    before = module(replaced(BODY, ("(x[b:b+1])", "(\n        x[b : b + 1, :, :],\n    )")))
    gap = " " * 16
    change = f"self.generator(\n{gap}x", f"_known_features(self.generator,\n{gap}x"
    lands(NAME, before, changed(before, change))


def test_how_many() -> None:
    lands(NAME, module(), changed(module(), helper=HELPER.replace("4096", "7")), entries=7)


def test_lands_with_other_line_endings_and_tabs() -> None:
    lands(NAME, with_tabs(module()), with_tabs(changed(module())))


@pytest.mark.parametrize(
    "body",
    [
        replaced(BODY, ("self.generator(x", "self.other(x")),
        replaced(BODY, ("build_prompt_text", "describe")),
        replaced(BODY, ("self.generator(x[b:b+1])", "self.generator.forward(x[b:b+1])")),
        BODY.replace("self.generator", "self.generators[b % 2]"),
        BODY.replace("self.generator", "generator"),
        "return 'self.generator(x)'  # self.generator.build_prompt_text",
    ],
)
def test_nobody_is_asked(body: str) -> None:
    refuses(NAME, module(body), NoSite, "nobody asks")


@pytest.mark.parametrize("given", ["x, b", "x_enc=x", "*x", "x, flag=True"])
def test_more_than_a_sample(given: str) -> None:
    refuses(NAME, module(replaced(BODY, ("x[b:b+1]", given))), Ambiguous, "nothing else")


def test_asked_twice() -> None:
    refuses(
        NAME, module(replaced(BODY, ("    features", "    self.generator(x)\n    features"))), Ambiguous, "in 2 places"
    )


def test_compiled() -> None:
    refuses(NAME, module(header="@torch.compile\n    def forecast(self, x):"), Conflict, "decorated")
    refuses(
        NAME, module(replaced(BODY, ("prompts = []", "prompts = []\nself.generator.compile()"))), Conflict, "compiled"
    )
    pattern = module(top="import re\nimport torch\n\nWORD = re.compile('x')")
    lands(NAME, pattern, changed(pattern))
    refuses(NAME, module(top="import jax as torch"), Ambiguous, "torch is not imported")


def test_names_and_halves() -> None:
    for name in ("_known_features", "_all_that_counts", "_is_plain", "_KNOWN_FEATURES", "_Lock", "_OrderedDict"):
        refuses(NAME, module() + f"\n\n{name} = 1\n", Conflict, name)
    refuses(NAME, replaced(changed(module()), ASKED[::-1]), PartlyApplied, "used 0 times")
    refuses(
        NAME,
        replaced(changed(module()), ("def _is_plain", "def _other")),
        PartlyApplied,
        "_is_plain is defined 0 times",
    )


def test_not_beside_batches() -> None:
    refuses(NAME, plan(BATCH, MODEL).after.decode(), Conflict, "whole batch")
    assert plan(BATCH, plan(NAME, MODEL).after).kind == REFUSED


def test_beside_the_statistics() -> None:
    one, other = plan(STATISTICS, plan(NAME, MODEL).after).after, plan(NAME, plan(STATISTICS, MODEL).after).after
    assert sorted(one.splitlines()) == sorted(other.splitlines())
    assert plan(NAME, one).kind == plan(STATISTICS, other).kind == ALREADY


# What it does

torch = pytest.importorskip("torch")
numpy = pytest.importorskip("numpy")
pytest.importorskip("ptwt")


@pytest.fixture
def cache() -> Any:
    """What is written above the model, with a bound of three windows."""
    space: dict[str, Any] = {"torch": torch}
    exec(HELPER.replace("4096", "3"), space)
    return types.SimpleNamespace(**space)


@pytest.fixture
def prompter(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of the reference tree's generator, which counts how often it is asked."""
    spec = importlib.util.spec_from_file_location("known_generator", REFERENCE / "layers/DWTPromptGenerator.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "known_generator", made)
    spec.loader.exec_module(made)
    cls, forward = made.DWTPromptGenerator, made.DWTPromptGenerator.forward
    cls.asked = []

    def counted(self: Any, x_enc: Any) -> Any:
        cls.asked.append(x_enc)
        return forward(self, x_enc)

    cls.forward = counted
    return cls


@pytest.fixture
def generator(prompter: Any) -> Any:
    """One of them, in eval mode."""
    return prompter().eval()


def window(seed: int = 0, kind: Any = torch.float32) -> Any:
    """(1, 3, 96)."""
    return torch.randn(1, 3, 96, generator=torch.Generator().manual_seed(seed)).to(kind)


def bits(features: Any) -> Any:
    """Features as what can be compared."""
    return {
        n: (v.tobytes(), v.dtype, v.shape) if isinstance(v, numpy.ndarray) else (type(v), v)
        for n, v in features.items()
    }


def test_the_same_window_again(cache: Any, generator: Any) -> None:
    first = cache._known_features(generator, window())
    again = cache._known_features(generator, window())
    assert bits(first) == bits(again) == bits(generator.forward(window())) and list(first) == list(again)
    assert len(generator.asked) == 2, "once, and once for this test"


def published(generator: Any, sample: Any, kept: dict[Any, Any]) -> Any:
    """The wrong way, as it was published: by mean, standard deviation, minimum and maximum."""
    key = tuple(round(float(getattr(sample, name)()), 3) for name in ("mean", "std", "min", "max"))
    if key not in kept:
        kept[key] = generator(sample)
    return kept[key]


def colliding() -> Any:
    """Two windows of one mean, standard deviation, minimum and maximum: the same one, and backwards."""
    walk = window().cumsum(-1)
    return walk, walk.flip(-1)


def test_windows_with_one_mean_and_deviation(cache: Any, generator: Any) -> None:
    """What the published key gets wrong is told apart here."""
    kept: dict[Any, Any] = {}
    up, down = colliding()
    right = [bits(generator(x)) for x in (up, down)]
    assert right[0]["trend_desc"] != right[1]["trend_desc"]
    assert [bits(published(generator, x, kept)) for x in (up, down)] == [right[0], right[0]]
    assert [bits(cache._known_features(generator, x)) for x in (up, down)] == right


def test_every_byte_counts(cache: Any, generator: Any) -> None:
    x = window()
    others = [x.clone() for _ in range(4)]
    others[0] = x.transpose(1, 2).contiguous().transpose(1, 2)
    others[3][0, 2, 95] = torch.nextafter(x[0, 2, 95], torch.tensor(9.0))
    others[1] = x.double()
    others[2] = x.reshape(1, 9, 32)
    cache._known_features(generator, x)
    for other in others:
        assert bits(cache._known_features(generator, other)) == bits(generator.forward(other))
    assert len(generator.asked) == 9, "nobody was taken for another one"
    half = window(0, torch.float16)
    assert cache._all_that_counts(generator, half) != cache._all_that_counts(generator, half.view(torch.bfloat16))
    base = torch.zeros(900)
    as_one, as_three = (base.as_strided(shape, (288, 96, 1)) for shape in ((1, 3, 96), (3, 1, 96)))
    assert cache._all_that_counts(generator, as_one) != cache._all_that_counts(generator, as_three)
    zero = torch.zeros(1, 3, 96)
    assert cache._all_that_counts(generator, zero) != cache._all_that_counts(generator, -zero)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types(cache: Any, generator: Any, kind: Any) -> None:
    for _ in range(2):
        assert bits(cache._known_features(generator, window(0, kind))) == bits(generator.forward(window(0, kind)))
    assert len(generator.asked) == 3


def test_who_gets_features_may_change_them(cache: Any, generator: Any) -> None:
    expected = bits(generator(window()))
    for _ in range(3):
        features = cache._known_features(generator, window())
        assert bits(features) == expected
        features["trends"] *= 2
        features["energy_ratio"][0] = 9
        features["difficulty"] = "changed"
        features.clear()


def test_deep_copies(cache: Any) -> None:
    class Deep(torch.nn.Module):  # type: ignore[misc, name-defined]
        """With lists and tensors in what it says."""

        def forward(self, x: Any) -> Any:
            return {"list": [[1], {"a": [2]}], "tensor": torch.ones(2)}

    generator = Deep().eval()
    for _ in range(3):
        features = cache._known_features(generator, window())
        assert features["list"] == [[1], {"a": [2]}] and torch.equal(features["tensor"], torch.ones(2))
        features["list"][0].append(1)
        features["list"][1]["a"][0] = 5
        features["tensor"].zero_()


def test_settings_that_change(cache: Any, generator: Any) -> None:
    changes: list[Any] = [
        lambda: setattr(generator, "level", 2),
        lambda: setattr(generator, "wavelet", "haar"),
        lambda: generator.thresholds.update(snr_high=-100.0),
        lambda: setattr(generator, "more", 1),
        lambda: setattr(generator, "more", True),
    ]
    cache._known_features(generator, window())
    for number, change in enumerate(changes, 2):
        change()
        for _ in range(2):
            features = cache._known_features(generator, window())
        assert len(generator.asked) == number
        expected = bits(generator(window()))
        generator.asked.pop()
        assert bits(features) == expected


def test_the_last_ones_are_kept(cache: Any, generator: Any) -> None:
    for seed in (0, 1, 2, 0, 3):  # 1 goes: 0 was used again
        cache._known_features(generator, window(seed))
    assert len(generator.asked) == 4
    for seed in (0, 2, 3):
        cache._known_features(generator, window(seed))
    assert len(generator.asked) == 4
    cache._known_features(generator, window(1))
    assert len(generator.asked) == 5
    assert [len(kept) for kept in cache._KNOWN_FEATURES.values()] == [3]


STEPS_ASIDE: dict[str, Any] = {
    "training": lambda g: g.train(),
    "a hook": lambda g: g.register_forward_hook(lambda *given: None),
    "a hook ahead": lambda g: g.register_forward_pre_hook(lambda *given: None),
    "another forward": lambda g: setattr(g, "forward", lambda x: {"a": 1}),
    "another method": lambda g: setattr(g, "_map_trend_pattern", lambda *given: "up"),
    "a parameter": lambda g: g.register_parameter("p", torch.nn.Parameter(torch.ones(1))),
    "a buffer": lambda g: g.register_buffer("b", torch.ones(1)),
    "a part": lambda g: setattr(g, "part", torch.nn.Identity()),
    "an object": lambda g: setattr(g, "own", object()),
    "an array": lambda g: setattr(g, "own", numpy.ones(1)),
}


@pytest.mark.parametrize("what", STEPS_ASIDE)
def test_steps_aside(cache: Any, generator: Any, what: str) -> None:
    cache._known_features(generator, window())
    STEPS_ASIDE[what](generator)
    assert cache._all_that_counts(generator, window()) is None
    for _ in range(2):
        assert cache._known_features(generator, window()) is not None
    assert [len(kept) for kept in cache._KNOWN_FEATURES.values()] == [1]


def test_what_is_no_plain_tensor(cache: Any, generator: Any) -> None:
    odd = [window().requires_grad_(), torch.nn.Parameter(window()), window().to("meta"), torch.zeros(1, 3, 96).int()]
    for sample in [*odd, torch.zeros(1, 2, dtype=torch.complex64), [1.0], None, "text"]:
        assert cache._all_that_counts(generator, sample) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert cache._all_that_counts(generator, window()) is None
    assert cache._all_that_counts(lambda x: x, window()) is None
    assert cache._known_features(lambda x: "said", window()) == "said"


def test_exceptions_are_not_kept(cache: Any, generator: Any) -> None:
    broken = window()
    broken[0, 0, 0] = float("nan")
    for number in (1, 2):
        with pytest.raises(ValueError, match="NaN"):
            cache._known_features(generator, broken)
        assert len(generator.asked) == number
    with pytest.raises(TypeError, match="a tensor is needed"):
        cache._known_features(generator, [1.0])


def test_a_generator_that_counts(cache: Any) -> None:
    """What changes a setting of its own is asked each time; so is what changes the window."""

    class Counting(torch.nn.Module):  # type: ignore[misc, name-defined]
        """Says how often it was asked; now and then that is 0 again."""

        count = 0

        def forward(self, x: Any) -> Any:
            self.count = (self.count + 1) % 2
            return {"count": self.count}

    class Writing(torch.nn.Module):  # type: ignore[misc, name-defined]
        """Changes the window."""

        def forward(self, x: Any) -> Any:
            x += 1
            return {"mean": float(x.mean())}

    counting = Counting().eval()
    assert [cache._known_features(counting, window())["count"] for _ in range(5)] == [1, 0, 1, 0, 1]
    writing = Writing().eval()
    for _ in range(2):
        x = window()
        assert cache._known_features(writing, x) == {"mean": float((window() + 1).mean())}
        assert torch.equal(x, window() + 1)


def test_what_autograd_records_is_not_kept(cache: Any) -> None:
    class Learning(torch.nn.Module):  # type: ignore[misc, name-defined]
        """What it says has gradients."""

        def forward(self, x: Any) -> Any:
            return {"x": x.clone().requires_grad_() * 2}

    generator = Learning().eval()
    assert [cache._known_features(generator, window())["x"].requires_grad for _ in range(2)] == [True, True]


def test_in_inference_mode(cache: Any, generator: Any) -> None:
    with torch.inference_mode():
        expected = bits(cache._known_features(generator, window()))
    assert bits(cache._known_features(generator, window())) == expected
    assert len(generator.asked) == 2


def test_models_share_nothing(cache: Any, prompter: Any) -> None:
    one = prompter().eval()
    expected = bits(cache._known_features(one, window()))
    for other in (prompter().eval(), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        before = len(prompter.asked)
        assert bits(cache._known_features(other, window())) == expected
        assert len(prompter.asked) == before + 1
        assert vars(other) == vars(one)
    del other
    gc.collect()
    assert len(cache._KNOWN_FEATURES) == 1, "what is gone is gone"


def test_nothing_is_changed(cache: Any, generator: Any) -> None:
    x, state, before = window(), torch.get_rng_state(), copy.deepcopy(vars(generator))
    for _ in range(2):
        cache._known_features(generator, x)
    assert torch.equal(x, window()) and torch.equal(torch.get_rng_state(), state)
    assert vars(generator) == before and not generator.state_dict()


def test_threads(cache: Any, generator: Any) -> None:
    expected = [bits(generator(window(seed))) for seed in range(6)]
    wrong: list[Any] = []

    def work() -> None:
        for seed in [0, 1, 2, 3, 4, 5] * 5:
            if bits(cache._known_features(generator, window(seed))) != expected[seed]:
                wrong.append(seed)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and [len(kept) for kept in cache._KNOWN_FEATURES.values()] == [3]
