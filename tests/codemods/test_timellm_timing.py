"""``timellm_timing``: another target's stages, by a manifest alone."""

from __future__ import annotations

import pytest
from cases import UNITS, lands, plan, refuses, replaced, skips, with_class, with_tabs
from support import ROOT

from apply_opt.errors import Ambiguous, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, PLANNED

NAME = "timellm_timing"
REFERENCE = (ROOT / "target_repos/time_llm/reference/models/TimeLLM.py").read_text(encoding="utf-8")
HEADER = "def forecast(self, x_enc, x_mark_enc, x_dec, x_mark_dec):"
BODY = """
lags = self.calcute_lags(x_enc)
prompt = []
for b in range(len(x_enc)):
    low, high = lows[b].tolist()[0], highs[b].tolist()[0]
    prompt.append(f"{low} {high} {lags[b].tolist()}")
prompt = self.tokenizer(prompt, return_tensors="pt").input_ids
words = self.llm_model.get_input_embeddings()(prompt)
enc_out, n_vars = self.patch_embedding(x_enc)
enc_out = self.reprogramming_layer(enc_out, words, words)
dec_out = self.llm_model(inputs_embeds=enc_out).last_hidden_state
dec_out = self.output_projection(dec_out)
return dec_out
"""
STAGES = (
    ("01", "lags = self", "lags = self.calcute_lags(x_enc)"),
    ("02", "for b in", '    prompt.append(f"{low} {high} {lags[b].tolist()}")'),
    ("03", "prompt = self", 'prompt = self.tokenizer(prompt, return_tensors="pt").input_ids'),
    ("05", "enc_out, n", "enc_out, n_vars = self.patch_embedding(x_enc)"),
    ("06", "enc_out = ", "enc_out = self.reprogramming_layer(enc_out, words, words)"),
    ("07", "dec_out = self.llm", "dec_out = self.llm_model(inputs_embeds=enc_out).last_hidden_state"),
    ("08", "dec_out = self.out", "dec_out = self.output_projection(dec_out)"),
)


def module(body: str) -> str:
    return with_class("import torch\nfrom torch import nn", "class Model(nn.Module):\n", {HEADER: body})


def timed() -> str:
    body = replaced(
        BODY,
        ("\nlags", "\n_t00_TOTAL_forecast.start()\nlags"),
        ("\nreturn dec", "\n_t00_TOTAL_forecast.stop()\nreturn dec"),
    )
    for number, first, last in STAGES:
        body = replaced(body, (f"\n{first}", f"\n_t{number}.start()\n{first}"))
        body = replaced(body, (f"{last}\n", f"{last}\n_t{number}.stop()\n"))
    return body


def after() -> str:
    """The clock has tests of its own; it is the same for all targets."""
    made = plan(NAME, module(BODY)).after.decode()
    return module(timed()) + made[made.index("\n\nfrom time import") :]


def test_lands() -> None:
    lands(NAME, module(BODY), after())
    outcome = plan(NAME, with_tabs(module(BODY)))
    assert outcome.after.decode().startswith(with_tabs(module(timed())))


def test_lands_on_the_reference() -> None:
    outcome = plan(NAME, REFERENCE)
    assert outcome.kind == PLANNED, outcome.message
    skips(NAME, outcome.after.decode(), ALREADY)


def test_no_codemod_of_its_own() -> None:
    assert not (ROOT / f"codemods/{NAME}.py").exists()
    assert UNITS.optimizations[NAME].codemod == UNITS.optimizations["act_timing_items"].codemod


def test_on_top_of_the_others() -> None:
    """Those that change what the stages hold."""
    text = REFERENCE
    for name in ("timellm_token_prefix_cache", "timellm_source_cache", "timellm_outputs_off", "timellm_sdpa"):
        text = plan(name, text).after.decode()
    outcome = plan(NAME, text)
    assert outcome.kind == PLANNED, outcome.message
    assert all(f"_t0{number}.start()" in outcome.after.decode() for number in range(1, 9))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (("self.reprogramming_layer(", "self.attend("), NoSite, "no function called forecast with"),
        (("self.tokenizer(", "self.words("), NoSite, "03_tokenizer"),
        (("return dec_out", "return self.output_projection(dec_out)"), Ambiguous, "several places"),
        (("    low, high", "    if done:\n        return None\n    low, high"), Ambiguous, "may be left"),
    ],
)
def test_what_is_not_there_or_cannot_be_told(
    change: tuple[str, str], error: type[Ambiguous] | type[NoSite], words: str
) -> None:
    refuses(NAME, module(replaced(BODY, change)), error, words)


def test_half_of_it() -> None:
    refuses(NAME, replaced(after(), ("        _t07.stop()\n", "")), PartlyApplied)


def test_other_models() -> None:
    refuses(NAME, module(BODY).replace("def forecast", "def predict"), NoSite)
