"""``conformer_skip_full_batch``: both masks under a condition; not where what masks is something else."""

from __future__ import annotations

import pytest
from cases import above, constant, lands, refuses, replaced, skips
from conformer import CLASS, LOOP, USE, module

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY

NAME = "conformer_skip_full_batch"
HELPER = constant(NAME, "HELPER_TEXT")
MASK = "x = apply_channel_mask(x, mask)"
SKIPPED_LOOP = LOOP.replace(f"    {MASK}\n", f"    if _hides_frames(mask, x):\n        {MASK}\n")
SKIPPED_END = f"if _hides_frames(mask, x):\n    {MASK}"


def changed(loop: str = SKIPPED_LOOP, end: str = SKIPPED_END, **pieces: str) -> str:
    """The module with the change in it."""
    return above(module(loop, end, **pieces), CLASS, HELPER)


class TestLands:
    def test_as_it_is_in_nemo(self) -> None:
        lands(NAME, module(), changed())

    @pytest.mark.parametrize(
        "apply",
        [
            "def apply_channel_mask(tensor, mask):\n    return mask[:, None] * tensor",
            "def apply_channel_mask(tensor, mask):\n    wide = mask.unsqueeze(1).expand(1, 2, 3, 4)\n    return tensor * wide",
            "def apply_channel_mask(tensor, mask):\n    return tensor * mask[:, None, :, :].to(tensor.dtype)",
        ],
    )
    def test_other_ways_to_multiply(self, apply: str) -> None:
        lands(NAME, module(apply=apply), changed(apply=apply))

    def test_within_an_expression(self) -> None:
        before = module().replace(
            f"        {MASK}\n        return x, lengths", "        return apply_channel_mask(x, mask), lengths"
        )
        after = replaced(
            changed(),
            (
                f"        if _hides_frames(mask, x):\n            {MASK}\n        return x, lengths",
                "        return (apply_channel_mask(x, mask) if _hides_frames(mask, x) else x), lengths",
            ),
        )
        lands(NAME, before, after)


class TestRefuses:
    @pytest.mark.parametrize(
        "factor",
        ["mask", "mask.unsqueeze(2)", "(1 - mask.unsqueeze(1))", "mask.unsqueeze(1).float().sqrt()", "mask[None]"],
    )
    def test_something_else_than_the_mask(self, factor: str) -> None:
        apply = f"def apply_channel_mask(tensor, mask):\n    return tensor * {factor}"
        refuses(NAME, module(apply=apply), NoSite, "with an axis for the channels")

    def test_a_class_that_nobody_uses(self) -> None:
        use = USE.replace("MaskedConvSequential(*layers)", "nn.Sequential(*layers)")
        refuses(NAME, module(use=use), NoSite, "is not used in this file")

    def test_no_masks(self) -> None:
        refuses(NAME, module("for layer in self:\n    x = layer(x)", ""), NoSite)

    def test_a_name_that_is_taken(self) -> None:
        refuses(NAME, module(top="import torch\nfrom torch import nn\n_hides_frames = 1"), Conflict)

    def test_half_of_it(self) -> None:
        refuses(NAME, changed(end=MASK), PartlyApplied, "used 1 times")
        refuses(NAME, changed().replace(HELPER.strip("\n"), ""), PartlyApplied, "defined 0 times")


def test_already_there() -> None:
    skips(NAME, changed(), ALREADY)


def test_torch_is_not_there() -> None:
    refuses(NAME, module(top="from torch import nn"), Ambiguous, "torch is not imported")
