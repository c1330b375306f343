"""``timellm_single_rfft``: the same transform of the same variable, of which nothing comes out but indices."""

from __future__ import annotations

import pytest
from cases import lands, plan, refuses, replaced, skips, with_class

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.plan import ALREADY, PLANNED

NAME = "timellm_single_rfft"
CLASS = "class Model(torch.nn.Module):\n"
CALL = "torch.fft.rfft(x.permute(0, 2, 1).contiguous(), dim=-1)"
BODY = f"""
one = {CALL}
other = {CALL}
likeness = torch.fft.irfft(one * torch.conj(other), dim=-1)
_, found = torch.topk(torch.mean(likeness, dim=1), self.top_k, dim=-1)
return found
"""
FIRST, SECOND, LAST = f"one = {CALL}", f"other = {CALL}", "return found"


def module(body: str = BODY, top: str = "import torch", header: str = "def calcute_lags(self, x):") -> str:
    """A model with this method."""
    return with_class(top, CLASS, {header: body})


FORKS = [
    (BODY, SECOND, "other = one"),
    (BODY.replace("permute(0, 2, 1).contiguous()", "transpose(1, 2)"), "other = torch.fft.rfft(x.transpose(1, 2), dim=-1)", ""),
    (BODY.replace("x.permute(0, 2, 1).contiguous()", "x[:, :, 0]"), "other = torch.fft.rfft(x[:, :, 0], dim=-1)", ""),
    (BODY.replace("rfft(x", "fft(x"), SECOND.replace("rfft", "fft"), ""),
    (replaced(BODY, ("torch.conj(other)", "other.conj()")), SECOND, ""),
    (replaced(BODY, ("_, found = torch.topk", "found = torch.topk"), (LAST, "return found.indices")).replace(
        "found = torch.topk(torch.mean(likeness, dim=1), self.top_k, dim=-1)\nreturn found.indices",
        "return torch.topk(torch.mean(likeness, dim=1), self.top_k, dim=-1).indices",
    ), SECOND, ""),
    (replaced(BODY, ("_, found = torch.topk(torch.mean(likeness, dim=1), self.top_k, dim=-1)",
                     "found = likeness.mean(1).topk(self.top_k)[1]")), SECOND, ""),
    (replaced(BODY, (SECOND, f"size = len(x)\nmiddle = torch.mean(x)\n{SECOND}  # again")), SECOND, ""),
    (replaced(BODY, (SECOND, "other = torch.fft.rfft(\n    x.permute(0, 2, 1).contiguous(),\n    dim=-1,\n)")),
     "other = torch.fft.rfft(\n            x.permute(0, 2, 1).contiguous(),\n            dim=-1,\n        )", ""),
]  # fmt: skip


@pytest.mark.parametrize(("body", "old", "new"), FORKS)
def test_lands(body: str, old: str, new: str) -> None:
    lands(NAME, module(body), replaced(module(body), (old, new or "other = one")))


@pytest.mark.parametrize(
    ("top", "call"),
    [("import torch.fft as tf", "tf"), ("from torch import fft", "fft"), ("import torch.fft", "torch.fft")],
)
def test_other_imports(top: str, call: str) -> None:
    before = module(BODY.replace("torch.fft", call), f"import torch\n{top}")
    lands(NAME, before, replaced(before, (SECOND.replace("torch.fft", call), "other = one")))


def test_a_free_function() -> None:
    before = "import torch\n\n\ndef lags(x, k):\n" + "\n".join("    " + line for line in BODY.split("\n")[1:-1]) + "\n"
    before = before.replace("self.top_k", "k")
    lands(NAME, before, replaced(before, (SECOND, "other = one")))


def test_other_line_endings() -> None:
    outcome = plan(NAME, module().replace("\n", "\r\n"))
    assert outcome.kind == PLANNED
    assert outcome.after.decode() == replaced(module(), (SECOND, "other = one")).replace("\n", "\r\n")


@pytest.mark.parametrize(
    "body",
    [
        replaced(BODY, (SECOND, "other = torch.fft.rfft(x, dim=-1)")),
        replaced(BODY, (SECOND, SECOND.replace("dim=-1", "dim=1"))),
        replaced(BODY, (SECOND, SECOND.replace("(x.", "(y."))),
        replaced(BODY, (SECOND, SECOND.replace("rfft", "fft"))),
        replaced(BODY, (SECOND, SECOND.replace("other", "one"))),
        replaced(BODY, (SECOND, f"if self.training:\n    {SECOND}")),
        replaced(BODY, (SECOND, f"for other in x:\n    {SECOND}")),
        BODY.replace("torch.fft.rfft", "self.transform"),
    ],
)
def test_not_the_same(body: str) -> None:
    refuses(NAME, module(body), NoSite, "nothing is transformed twice")


@pytest.mark.parametrize(
    "between",
    [
        "x = x + 1",
        "x -= 1",
        "x[0] = 0",
        "x.mul_(2)",
        "y = x.mul_(2)",
        "y = torch.neg_(x)",
        "y = torch.neg(x, out=x)",
        "y = F.relu(x, inplace=True)",
        "y = self.change(x)",
        "y = (x := 2 * x)",
        "x, y = y, x",
        "x: object = y",
        "with self.something:\n    pass",
        "y = await self.other()",
    ],
)
def test_it_may_have_changed(between: str) -> None:
    header = "async def calcute_lags(self, x):" if "await" in between else "def calcute_lags(self, x):"
    refuses(NAME, module(replaced(BODY, (SECOND, f"{between}\n{SECOND}")), header=header), NoSite)


@pytest.mark.parametrize(
    "argument",
    ["self.dropout(x)", "torch.randn(3)", "torch.nn.functional.dropout(x)", "next(x)", "x.bernoulli()", "x.mul_(2)"],
)
def test_not_the_same_each_time(argument: str) -> None:
    refuses(NAME, module(BODY.replace("x.permute(0, 2, 1).contiguous()", argument)), NoSite)


def test_its_own_result() -> None:
    call = "torch.fft.fft(x)"
    refuses(NAME, module(BODY.replace(CALL, call).replace("one", "x")), NoSite)


@pytest.mark.parametrize(
    "more",
    [
        "one *= 2",
        "one.mul_(2)",
        "one[0] = 0",
        "one.real[0] = 0",
        "y = other.real\ny.zero_()",
        "torch.mul(one, 2, out=one)",
        "self.kept = one",
        "self.filter(one)",
        "kept.append(one)",
        "self.later = lambda: one",
        "del self.top_k",
        "one = one * 2",
    ],
)
def test_one_of_them_is_written_to(more: str) -> None:
    refuses(NAME, module(replaced(BODY, (SECOND, f"{SECOND}\n{more}"))), NoSite)


@pytest.mark.parametrize(
    "last",
    [
        "return likeness",
        "return found, likeness",
        "return _",
        "return",
        "yield found",
        "found = likeness\nreturn found",
        "if self.training:\n    return likeness\nreturn found",
    ],
)
def test_more_than_indices_comes_out(last: str) -> None:
    refuses(NAME, module(replaced(BODY, (LAST, last))), NoSite)


@pytest.mark.parametrize(
    "statement", ["found, _ = ", "found = ", "found, found = ", "_, _, found = ", "_, found = kept = "]
)
def test_not_the_indices(statement: str) -> None:
    refuses(NAME, module(replaced(BODY, ("_, found = ", statement))), NoSite)


def test_in_a_loop() -> None:
    body = "for x in x:\n" + "\n".join("    " + line for line in BODY.split("\n")[1:-1])
    refuses(NAME, module(body), NoSite)


def test_out() -> None:
    refuses(NAME, module(BODY.replace("dim=-1)\n", "dim=-1, out=self.room)\n")), NoSite)


def test_two_of_them() -> None:
    refuses(NAME, module() + module(top="").replace("Model", "Other"), Ambiguous, "2 places")


def test_already_there() -> None:
    skips(NAME, replaced(module(), (SECOND, "other = one")), ALREADY)


@pytest.mark.parametrize("text", ["import torch\n", "import torch\n\n\nTEXT = 'torch.fft.rfft'  # twice\n"])
def test_nothing_of_the_kind(text: str) -> None:
    refuses(NAME, text, NoSite)


def test_torch_is_something_else() -> None:
    refuses(NAME, module(top="import numpy as torch"), NoSite)
