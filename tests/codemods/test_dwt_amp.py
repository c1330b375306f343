"""``dwt_amp``: autocast around the decomposition, and nothing else; the bands are float32 afterwards."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from cases import above, constant, lands, plan, refuses, replaced, skips, with_class, with_tabs
from support import ROOT

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, NOT_NEEDED, REFUSED

NAME, FILTERS, BATCH = "dwt_amp", "dwt_cached_filters", "dwt_batch_features"
GENERATOR = (ROOT / "target_repos/time_llm/reference/layers/DWTPromptGenerator.py").read_text(encoding="utf-8")
HELPER = constant(NAME, "TEXT").replace("DTYPE", "bfloat16")
CLASS = "class Prompter(torch.nn.Module):\n"
BODY = "return ptwt.wavedec(x, self.wavelet, level=self.level, mode='reflect')"
WRITES = {"def build_prompt_text(self, features):": "return str(features)"}


def module(body: str = BODY, top: str = "import ptwt\nimport torch", header: str = "def forward(self, x):") -> str:
    """A generator that decomposes in this way."""
    return with_class(top, CLASS, {header: body, **WRITES})


def changed(before: str, call: str = "ptwt.wavedec", helper: str = HELPER) -> str:
    """The same with the change in it."""
    return above(replaced(before, (call + "(", f"_in_half({call}, ")), CLASS, helper)


def test_lands_on_the_reference() -> None:
    after = replaced(GENERATOR, ("ptwt.wavedec(", "_in_half(ptwt.wavedec, "))
    lands(NAME, GENERATOR, above(after, "class DWTPromptGenerator", HELPER))


def test_lands() -> None:
    lands(NAME, module(), changed(module()))
    before = module(
        "with torch.no_grad():\n    return pt.wavedec(x, 'db4', level=3)", "import ptwt as pt\nimport torch"
    )
    lands(NAME, before, changed(before, "pt.wavedec"))
    half = HELPER.replace("bfloat16", "float16")
    lands(NAME, module(), changed(module(), helper=half), dtype="float16")


def test_over_several_lines_and_with_tabs() -> None:
    body = "return ptwt.wavedec(\n    x.reshape(\n        -1, 1, 9\n    ),  # rows\n    'db4',\n)"
    expected = changed(module(body.replace("wavedec(\n    x", "wavedec(x"))).replace(
        "ptwt.wavedec, x", "ptwt.wavedec,\n            x"
    )
    lands(NAME, with_tabs(module(body)), with_tabs(expected))


def test_series_in_parentheses() -> None:
    before = module("return ptwt.wavedec((x - x.mean()), 'db4')")
    lands(NAME, before, changed(before))
    refuses(NAME, module("return (ptwt.wavedec)(x, 'db4')"), Ambiguous, "in a way that is not known")


@pytest.mark.parametrize("body", ["return pywt.wavedec(x, 'db4')", "return x  # ptwt.wavedec(x)", "return ptwt.swt(x)"])
def test_no_decomposition(body: str) -> None:
    refuses(NAME, module(body), NoSite, "ptwt.wavedec")


def test_two_decompositions() -> None:
    refuses(NAME, module(f"if x is None:\n    {BODY}\n{BODY}"), Ambiguous, "in 2 places")


def test_what_cannot_be_told() -> None:
    refuses(NAME, module("return ptwt.wavedec(data=x, wavelet='db4')"), Ambiguous, "not the first argument")
    refuses(NAME, module("return ptwt.wavedec(*x)"), Ambiguous, "not the first argument")
    refuses(NAME, module(top="import ptwt"), Ambiguous, "torch is not imported")


def test_the_author_has_decided() -> None:
    within = f"with torch.autocast('cuda'):\n    {BODY}"
    skips(NAME, module(within), NOT_NEEDED, "autocast")
    skips(NAME, module(header="@torch.autocast('cuda')\n    def forward(self, x):"), NOT_NEEDED, "autocast")
    off = replaced(within, ("'cuda'", "'cuda', enabled=False"))
    refuses(NAME, module(off), Conflict, "turned off")


def test_names_and_halves() -> None:
    refuses(NAME, module() + "\n\n_in_half = 1\n", Conflict, "_in_half")
    refuses(NAME, module() + HELPER, PartlyApplied, "used 0 times")
    refuses(NAME, replaced(changed(module()), ("def _in_half", "def _other")), PartlyApplied, "defined 0 times")


def test_not_beside_batches() -> None:
    """Whether a prompt is from half precision would depend on how many windows there are."""
    batches = plan(BATCH, GENERATOR).after
    refuses(NAME, batches.decode(), Conflict, "whole batches")
    assert plan(BATCH, plan(NAME, GENERATOR).after).kind == REFUSED


def test_with_kept_filters_in_both_orders() -> None:
    one = plan(FILTERS, plan(NAME, GENERATOR).after).after
    other = plan(NAME, plan(FILTERS, GENERATOR).after).after
    assert sorted(one.splitlines()) == sorted(other.splitlines()) and b"_in_half(_wavedec, x_enc" in one
    for made in (one, other):
        assert plan(NAME, made).kind == plan(FILTERS, made).kind == ALREADY


torch = pytest.importorskip("torch")
numpy = pytest.importorskip("numpy")
ptwt = pytest.importorskip("ptwt")


def loaded(path: Path, data: bytes) -> Any:
    """The module with this text."""
    path.write_bytes(data)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bands(tmp_path: Path, dtype: str) -> None:
    """They are what autocast makes of them, and float32; a generator makes features of them, where it did not before."""
    made = loaded(tmp_path / "half.py", plan(NAME, GENERATOR, dtype=dtype).after)
    x = torch.randn(1, 3, 96, generator=torch.Generator().manual_seed(0))
    bands, plain = made._in_half(ptwt.wavedec, x, "db4", level=3), ptwt.wavedec(x, "db4", level=3)
    with torch.autocast("cpu", dtype=getattr(torch, dtype)):
        halves = ptwt.wavedec(x, "db4", level=3)
    assert all(band.dtype == torch.float32 and torch.equal(band, half.float()) for band, half in zip(bands, halves))
    assert not all(map(torch.equal, bands, plain))
    for band, other in zip(bands, plain):
        torch.testing.assert_close(band, other, rtol=2e-2, atol=4e-2)
    features = made.DWTPromptGenerator()(x)
    assert features["energy_ratio"].dtype == numpy.float32
    assert (
        features["energy_entropy"]
        != loaded(tmp_path / "plain.py", GENERATOR.encode()).DWTPromptGenerator()(x)["energy_entropy"]
    )


def test_too_large_for_float16(tmp_path: Path) -> None:
    """As the warning says."""
    x = torch.full((1, 2, 96), 1e5)
    assert loaded(tmp_path / "half.py", plan(NAME, GENERATOR).after).DWTPromptGenerator()(x)
    made = loaded(tmp_path / "smaller.py", plan(NAME, GENERATOR, dtype="float16").after)
    bands = made._in_half(ptwt.wavedec, x, "db4", level=3)
    assert not all(band.isfinite().all() for band in bands)
