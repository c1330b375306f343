"""``conformer_inplace_masks``: on top of ``conformer_fewer_masks``, in the place of both masks where a convolution was before."""

from __future__ import annotations

from cases import above, block, constant, lands, plan, refuses, replaced, skips
from conformer import CLASS, module

from apply_opt.errors import Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, PLANNED

NAME, FEWER = "conformer_inplace_masks", "conformer_fewer_masks"
HELPER = constant(NAME, "HELPER_TEXT")
MASK = "x = apply_channel_mask(x, mask)"


def fewer(text: str) -> str:
    """``text`` with the change that this one needs."""
    outcome = plan(FEWER, text)
    assert outcome.kind == PLANNED, outcome.message
    return outcome.after.decode()


def in_place(number: str, indent: int) -> str:
    return (
        block(f"if _is_new(self, {number}, x, mask):\n    x.mul_(mask.unsqueeze(1))\nelse:\n    {MASK}", indent) + "\n"
    )


def changed(text: str) -> str:
    """``text``, which has fewer masks, with them made in place where they can be."""
    loop, end = f"                {MASK}\n            x = layer", f"            {MASK}\n        return"
    text = replaced(
        text,
        (loop, in_place("i", 16) + "            x = layer"),
        (end, in_place("len(self)", 12) + "        return"),
    )
    return above(text, CLASS, HELPER)


class TestLands:
    def test_on_fewer_masks(self) -> None:
        lands(NAME, fewer(module()), changed(fewer(module())))

    def test_carriage_returns(self) -> None:
        text = fewer(module())
        lands(NAME, text.replace("\n", "\r\n"), changed(text).replace("\n", "\r\n"))

    def test_within_an_expression(self) -> None:
        before = fewer(
            module().replace(
                f"        {MASK}\n        return x, lengths", "        return apply_channel_mask(x, mask), lengths"
            )
        )
        after = replaced(
            before,
            (f"                {MASK}\n            x = layer", in_place("i", 16) + "            x = layer"),
            (
                "(apply_channel_mask(x, mask) if len(self) in masked",
                "((x.mul_(mask.unsqueeze(1)) if _is_new(self, len(self), x, mask) else apply_channel_mask(x, mask)) if len(self) in masked",
            ),
        )
        lands(NAME, before, above(after, CLASS, HELPER))


class TestRefuses:
    def test_a_factor_that_is_not_the_mask(self) -> None:
        text = fewer(module(apply="def apply_channel_mask(tensor, mask):\n    return tensor * (1 - mask[:, None])"))
        refuses(NAME, text, NoSite, "with an axis for the channels")

    def test_a_name_that_is_taken(self) -> None:
        text = fewer(module(top="import torch\nfrom torch import nn\n_is_new = 1"))
        refuses(NAME, text, Conflict, "already uses the name _is_new")

    def test_half_of_it(self) -> None:
        text = changed(fewer(module()))
        refuses(NAME, replaced(text, (in_place("len(self)", 12), f"            {MASK}\n")), PartlyApplied, "one of two")
        refuses(NAME, text.replace(HELPER.strip("\n"), ""), PartlyApplied)


def test_already_there() -> None:
    skips(NAME, changed(fewer(module())), ALREADY)
