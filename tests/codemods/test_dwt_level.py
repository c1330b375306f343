"""``dwt_level``: only what the model gives its wavelet prompt generator."""

from __future__ import annotations

import pytest
from cases import lands, refuses, skips, with_tabs
from wavelet_generator import MODEL, model

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.plan import NOT_NEEDED

NAME = "dwt_level"
GIVEN = ("level=configs.level", "level=2")


def test_lands() -> None:
    lands(NAME, MODEL, model(GIVEN))
    lands(NAME, MODEL, model(("level=configs.level", "level=5")), level=5)


def test_lands_in_one_line_and_by_a_condition() -> None:
    before = model(
        (
            "        if configs.use_dwt_prompt:\n            self.generator = DWTPromptGenerator(\n",
            "        self.generator = (",
        ),
        ("                wavelet=configs.wavelet,  # by its name\n", ""),
        ("                level=configs.level,\n", "Generator(level=configs.level)"),
        ("                compression_level='balanced'\n            )", " if configs.use else None)"),
    )
    lands(NAME, before, before.replace(*GIVEN))


def test_lands_with_other_line_endings_and_tabs() -> None:
    lands(NAME, with_tabs(MODEL), with_tabs(model(GIVEN)))


def test_done_by_somebody() -> None:
    skips(NAME, model(GIVEN), NOT_NEEDED, "level=2")
    lands(NAME, model(GIVEN), model(("level=configs.level", "level=4")), level=4)


@pytest.mark.parametrize(
    "changes",
    [
        (("build_prompt_text", "describe"),),
        (("DWTPromptGenerator(\n", "make.generator(\n"),),
        (("            self.generator = DWT", "            self.other = DWT"),),
        (("compression_level='balanced'", "**configs.more"),),
    ],
)
def test_no_generator_is_made(changes: tuple[tuple[str, str], ...]) -> None:
    refuses(NAME, model(*changes), NoSite, "no generator of prompts")


def test_several_generators() -> None:
    twice = model(
        ("    def forecast", "    def reset(self):\n        self.generator = Other(level=3)\n\n    def forecast")
    )
    refuses(NAME, twice, Ambiguous, "in 2 places")


def test_not_given() -> None:
    refuses(NAME, model(("                level=configs.level,\n", "")), Ambiguous, "is not given level=")
    positional = model(("wavelet=configs.wavelet,  # by its name\n                level=configs.level", "'db4', 3"))
    refuses(NAME, positional, Ambiguous, "is not given level=")
