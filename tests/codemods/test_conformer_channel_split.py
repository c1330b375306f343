"""``conformer_channel_split``: what calls the layers in the masked loop; not where a fork splits channels itself."""

from __future__ import annotations

import pytest
from cases import above, constant, lands, refuses, skips
from conformer import CLASS, LOOP, NUMBERED, USE, module

from apply_opt.errors import Ambiguous, Conflict, PartlyApplied
from apply_opt.model.plan import ALREADY, NOT_NEEDED

NAME = "conformer_channel_split"
HELPER = constant(NAME, "HELPER_TEXT").replace("{most}", "500000000")
CALL, CALLED = "layer(x)", "_in_pieces(layer, x)"
METHOD = "\n    def run(self, x):\n        return torch.cat([self.one(part) for part in {}])\n"


def changed(loop: str = LOOP, use: str = USE, helper: str = HELPER) -> str:
    """The module with the change in it."""
    return above(module(loop.replace(CALL, CALLED), use=use), CLASS, helper)


@pytest.mark.parametrize("loop", [LOOP, NUMBERED])
def test_lands(loop: str) -> None:
    lands(NAME, module(loop), changed(loop))


def test_another_size() -> None:
    lands(NAME, module(), changed(helper=HELPER.replace("500000000", "7")), most=7)


@pytest.mark.parametrize("split", ["torch.split(x, 2, 0)", "x.split(2, dim=2)", "x.chunk(2)", "x.split(1)"])
def test_lands_where_something_else_is_split(split: str) -> None:
    use = USE.rstrip("\n") + METHOD.format(split)
    lands(NAME, module(use=use), changed(use=use))


@pytest.mark.parametrize(
    "split", ["torch.split(x, 2, 1)", "x.split(2, dim=1)", "torch.chunk(x, 2, dim=1)", "x.chunk(2, 1)"]
)
def test_a_fork_that_splits_channels_itself(split: str) -> None:
    skips(NAME, module(use=USE.rstrip("\n") + METHOD.format(split)), NOT_NEEDED, "by channels")


def test_another_class_that_splits() -> None:
    other = "class Other:" + METHOD.format("x.split(2, dim=1)")
    use = USE.rstrip("\n") + "\n\n\n" + other
    lands(NAME, module(use=use), changed(use=use))


def test_another_call() -> None:
    refuses(NAME, module(LOOP.replace(CALL, "layer(x, mask)")), Ambiguous)


@pytest.mark.parametrize("name", ["_in_pieces", "_MOST_ELEMENTS"])
def test_a_name_that_is_taken(name: str) -> None:
    refuses(NAME, module(top=f"import torch\nfrom torch import nn\n{name} = 1"), Conflict, name)


def test_half_of_it() -> None:
    refuses(NAME, changed().replace(HELPER.strip("\n"), ""), PartlyApplied)


def test_already_there() -> None:
    skips(NAME, changed(), ALREADY)


def test_torch_is_not_there() -> None:
    refuses(NAME, module(top="from torch import nn"), Ambiguous, "torch is not imported")
