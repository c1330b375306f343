"""``dwt_adaptive_level``: only where the model knows how long its series are when it makes its generator."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from cases import constant, lands, refuses, skips
from wavelet_generator import MODEL, model

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.plan import NOT_NEEDED

NAME = "dwt_adaptive_level"
RULE = constant(NAME, "RULE")
GIVEN = ("level=configs.level", f"level={RULE}")


def test_lands() -> None:
    lands(NAME, MODEL, model(GIVEN))
    skips(NAME, model(GIVEN), NOT_NEEDED, RULE)


@pytest.mark.parametrize(("steps", "level"), [(1, 2), (199, 2), (200, 3), (499, 3), (500, 4), (5000, 4)])
def test_the_rule(steps: int, level: int) -> None:
    assert eval(RULE, {"self": SimpleNamespace(seq_len=steps)}) == level


@pytest.mark.parametrize(
    "changes",
    [
        (("        self.seq_len = configs.seq_len\n", ""),),
        (("        self.seq_len = configs.seq_len\n", "        if configs.long:\n            self.seq_len = 512\n"),),
        (
            ("        self.seq_len = configs.seq_len\n", ""),
            ("    def forecast", "        self.seq_len = 1\n\n    def forecast"),
        ),
    ],
)
def test_the_length_is_not_known(changes: tuple[tuple[str, str], ...]) -> None:
    refuses(NAME, model(*changes), Ambiguous, "self.seq_len has no value yet")


def test_look_alikes() -> None:
    refuses(NAME, model(("build_prompt_text", "describe")), NoSite, "no generator of prompts")
    refuses(NAME, model(("                level=configs.level,\n", "")), Ambiguous, "is not given level=")
