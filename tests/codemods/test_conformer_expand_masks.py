"""``conformer_expand_masks``: a view for a mask that is only read; never for one that may be written to."""

from __future__ import annotations

import pytest
from cases import block, lands, refuses, skips

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.plan import ALREADY, NOT_NEEDED

NAME = "conformer_expand_masks"
REPEATED, EXPANDED = "pad.unsqueeze(1).repeat([1, n, 1])", "pad.unsqueeze(1).expand(-1, n, -1)"
COMBINED = "wide = torch.logical_and(wide, wide.transpose(1, 2))"


def module(value: str = REPEATED, rest: str = COMBINED, method: str = "_create_masks") -> str:
    """An encoder that makes its masks like that."""
    return "\n".join(
        [
            "import torch\n\n\nclass ConformerEncoder(torch.nn.Module):",
            f"    def {method}(self, pad, n):",
            f"        wide = {value}",
            block(rest, 8),
            "        return torch.logical_and(wide, pad[:, None].to(wide.device))\n",
        ]
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (REPEATED, EXPANDED),
        ("pad.unsqueeze(1).repeat(1, n, 1)", EXPANDED),
        ("pad.unsqueeze(dim=1).repeat((1, n, 1))", "pad.unsqueeze(dim=1).expand(-1, n, -1)"),
        ("pad[:, None, :].repeat(1, pad.shape[1], 1)", "pad[:, None, :].expand(-1, pad.shape[1], -1)"),
    ],
)
def test_lands(before: str, after: str) -> None:
    lands(NAME, module(before), module(after))


@pytest.mark.parametrize(
    "rest", ["wide = wide & wide.transpose(1, 2)", "wide = ~wide", "print(wide.shape, wide.size(1))", ""]
)
def test_lands_where_it_is_only_read(rest: str) -> None:
    lands(NAME, module(rest=rest), module(EXPANDED, rest))


@pytest.mark.parametrize(
    "rest",
    [
        "wide[:, 0] = True",
        "wide.logical_and_(wide.transpose(1, 2))",
        "wide &= pad",
        "self.kept = wide",
        "wide = wide.transpose(1, 2)\nwide[0] = 1",
        "torch.logical_and(pad, pad, out=wide)",
        "return wide",
        "use(wide)",
        "wide = wide.view(-1)",
    ],
)
def test_what_may_be_written_to(rest: str) -> None:
    refuses(NAME, module(rest=rest), Ambiguous, "may be written to")


@pytest.mark.parametrize(
    "value",
    [
        "pad.unsqueeze(1).repeat(2, n, 1)",
        "pad.unsqueeze(2).repeat(1, n, 1)",
        "pad.repeat(1, n, 1)",
        "pad.unsqueeze(1)",
        "pad.unsqueeze(1).repeat(n)",
        "pad.unsqueeze(1).repeat_interleave(n, 1)",
    ],
)
def test_nothing_of_that_kind(value: str) -> None:
    refuses(NAME, module(value), NoSite)


def test_in_another_method() -> None:
    refuses(NAME, module(method="forward"), NoSite)


def test_twice() -> None:
    refuses(NAME, module(rest=f"{COMBINED}\nother = {REPEATED}"), Ambiguous, "2 times")


def test_already_there() -> None:
    skips(NAME, module(EXPANDED), ALREADY)
    skips(
        NAME,
        module("pad.unsqueeze(1).expand(-1, pad.size(1), 1)".replace("1)", "-1)", 0).replace(", 1)", ", 1)")),
        NOT_NEEDED,
        "expanded already",
    )
