"""``dwt_wavelet``: only what the model gives its wavelet prompt generator."""

from __future__ import annotations

from cases import lands, refuses, skips
from wavelet_generator import MODEL, model

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.plan import NOT_NEEDED

NAME = "dwt_wavelet"
GIVEN = ("wavelet=configs.wavelet", 'wavelet="db1"')


def test_lands() -> None:
    lands(NAME, MODEL, model(GIVEN))
    lands(NAME, MODEL, model(("wavelet=configs.wavelet", 'wavelet="db3"')), wavelet="db3")


def test_done_by_somebody() -> None:
    skips(NAME, model(("wavelet=configs.wavelet", "wavelet='db1'")), NOT_NEEDED, 'wavelet="db1"')


def test_look_alikes() -> None:
    refuses(NAME, model(("build_prompt_text", "describe")), NoSite, "no generator of prompts")
    refuses(NAME, model(("wavelet=configs.wavelet", "base=configs.wavelet")), Ambiguous, "is not given wavelet=")
