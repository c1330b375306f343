"""``conformer_channels_last``: what calls the layers in the masked loop, and nothing else."""

from __future__ import annotations

import pytest
from cases import above, constant, lands, refuses, replaced, skips
from conformer import CLASS, LOOP, NUMBERED, module

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY

NAME = "conformer_channels_last"
TEXT = constant(NAME, "HELPER_TEXT")
HELPER = TEXT.replace("{where}", constant(NAME, "ON_CPU"))
CALL, CALLED = "layer(x)", "_channels_last(layer, x)"


def changed(loop: str = LOOP, helper: str = HELPER) -> str:
    """The module with the change in it."""
    return above(module(loop.replace(CALL, CALLED)), CLASS, helper)


@pytest.mark.parametrize("loop", [LOOP, NUMBERED, replaced(LOOP, ("layer(x)", "layer(x)  # one after the other"))])
def test_lands(loop: str) -> None:
    lands(NAME, module(loop), changed(loop))


def test_lands_within_an_expression() -> None:
    loop = LOOP.replace(
        "    x = apply_channel_mask(x, mask)\n    x = layer(x)", "    x = layer(apply_channel_mask(x, mask))"
    )
    after = loop.replace("layer(apply_channel_mask(x, mask))", "_channels_last(layer, apply_channel_mask(x, mask))")
    lands(NAME, module(loop), changed(after))


def test_on_every_device() -> None:
    lands(NAME, module(), changed(helper=TEXT.replace("{where}", "")), devices="all")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("layer(x, mask)", Ambiguous),
        ("layer(x); x = layer(x)", Ambiguous),
        ("self.run(x)", Ambiguous),
        ("layer(x) + x", Ambiguous),
        ("_other(layer, x)", Ambiguous),
    ],
)
def test_another_call(call: str, error: type[Conflict]) -> None:
    refuses(NAME, module(LOOP.replace(CALL, call)), error)


def test_no_masks() -> None:
    refuses(NAME, "from torch import nn\n\n\nclass A(nn.Sequential):\n    pass\n", NoSite, "2.5.0")


def test_a_name_that_is_taken() -> None:
    refuses(NAME, module(top="import torch\nfrom torch import nn\n_channels_last = 1"), Conflict, "_channels_last")


def test_half_of_it() -> None:
    refuses(NAME, changed().replace(HELPER.strip("\n"), ""), PartlyApplied)


def test_already_there() -> None:
    skips(NAME, changed(), ALREADY)


def test_torch_is_not_there() -> None:
    refuses(NAME, module(top="from torch import nn"), Ambiguous, "torch is not imported")
