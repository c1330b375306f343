"""``conformer_inplace_scores``: only over a product that nobody else reads, and a softmax whose scores had the same mask."""

from __future__ import annotations

import pytest
from cases import above, block, constant, lands, refuses, replaced, skips, with_class

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY

NAME = "conformer_inplace_scores"
SUM, FILL = constant(NAME, "SUM_TEXT"), constant(NAME, "FILL_TEXT")
CLASS = "class Attention(torch.nn.Module):\n"
WEIGH = """
if mask is None:
    return self.out(scores.softmax(-1))
scores = scores.masked_fill(mask, -10000.0)
return torch.softmax(scores, dim=-1).masked_fill(mask, 0.0)
"""
SCORE = """
first = torch.matmul(q, k)
more = more[:, :, :, : first.size(-1)]
scores = (first + more) / self.scale
return self.weigh(scores, mask)
"""
WEIGHED, SCORED = (
    "_filled(torch.softmax(scores, dim=-1), mask, 0.0)",
    "_scaled_sum(first, more, self.scale)",
)


def module(
    weigh: str = WEIGH, score: str = SCORE, top: str = "import torch\nfrom torch.nn import functional as F"
) -> str:
    """An attention that scores and weighs like that."""
    return with_class(
        top, CLASS, {"def weigh(self, scores, mask):": weigh, "def forward(self, q, k, more, mask):": score}
    )


def changed(weigh: str = WEIGH, score: str = SCORE) -> str:
    """The module with the change in it."""
    weigh = weigh.replace("torch.softmax(scores, dim=-1).masked_fill(mask, 0.0)", WEIGHED)
    return above(
        module(weigh, score.replace("(first + more) / self.scale", SCORED)),
        CLASS,
        SUM.rstrip("\n") + "\n\n\n" + FILL.strip("\n"),
    )


@pytest.mark.parametrize(
    "score",
    [
        SCORE,
        replaced(SCORE, ("torch.matmul(q, k)", "q @ k")),
        replaced(
            SCORE,
            (
                "scores = (first + more) / self.scale\nreturn self.weigh(scores, mask)",
                "return (first + more) / self.scale",
            ),
        ),
        replaced(SCORE, ("return", "print(first.shape)\nreturn")),
        f"if mask is None:\n    return q\nelse:\n{block(SCORE, 4)}",
    ],
)
def test_lands(score: str) -> None:
    lands(NAME, module(score=score), changed(score=score))


@pytest.mark.parametrize(
    "weigh",
    [
        "scores.masked_fill_(mask, -1e4)\nreturn torch.softmax(scores, dim=-1).masked_fill(mask, 0.0)",
        replaced(WEIGH, ("scores = scores", "mask = mask.unsqueeze(1)\nscores = scores")),
    ],
)
def test_lands_on_other_ways_to_weigh(weigh: str) -> None:
    lands(NAME, module(weigh), changed(weigh))


def test_lands_on_one_line() -> None:
    score = "first = q @ k; s = (first + more) / self.scale; return s"
    weigh = "scores = scores.masked_fill(mask, -1e4); return torch.softmax(scores, dim=-1).masked_fill(mask, 0.0)"
    lands(NAME, module(weigh, score), changed(weigh, score))
    both = "first = q @ k; s = (first + more) / self.scale; s = s.masked_fill(mask, -1e4)"
    both += "; return torch.softmax(s, -1).masked_fill(mask, 0)"
    after = both.replace("(first + more) / self.scale", SCORED)
    after = after.replace("torch.softmax(s, -1).masked_fill(mask, 0)", "_filled(torch.softmax(s, -1), mask, 0)")
    lands(NAME, module("return scores", both), changed("return scores", after))


def test_other_softmaxes() -> None:
    for softmax in ("F.softmax(scores, -1)", "scores.softmax(dim=-1)"):
        weigh = replaced(WEIGH, ("torch.softmax(scores, dim=-1).masked_fill", f"{softmax}.masked_fill"))
        after = changed().replace(WEIGHED, f"_filled({softmax}, mask, 0.0)")
        lands(NAME, module(weigh), after)


@pytest.mark.parametrize(
    "score",
    [
        replaced(SCORE, ("return", "print(first)\nreturn")),
        replaced(SCORE, ("return", "self.kept = first\nreturn")),
        replaced(SCORE, ("torch.matmul(q, k)", "q + k")),
        replaced(SCORE, ("torch.matmul(q, k)", "self.matmul(q, k)")),
        replaced(SCORE, ("torch.matmul(q, k)", "torch.matmul(q, k)[0]")),
        replaced(SCORE, ("torch.matmul(q, k)", "torch.matmul(q, k, out=self.kept)")),
        replaced(SCORE, ("first = torch.matmul(q, k)", "first = self.kept = torch.matmul(q, k)")),
        replaced(SCORE, ("(first + more)", "(first + first.T)")),
        replaced(SCORE, ("(first + more)", "(first - more)")),
        replaced(SCORE, ("/ self.scale", "* self.scale")),
        replaced(SCORE, ("scores = (first", "for i in range(2):\n    scores = (first")),
        replaced(SCORE, ("scores = (first + more) / self.scale", "scores = [(first + more) / self.scale, 1]")),
        replaced(SCORE, ("first = torch.matmul(q, k)", "first = torch.matmul(q, k)\nif mask is None:\n    first = q")),
        replaced(SCORE, ("scores =", "def later():\n    return first\nscores =")),
        replaced(SCORE, ("first = torch", "later = (first for i in k)\nfirst = torch")),
        replaced(SCORE, ("/ self.scale", "/ self.scale(first)")),
        replaced(SCORE, ("/ self.scale", "/ more.mul_(2)")),
        replaced(SCORE, ("return", "first *= 0\nreturn")),
        replaced(SCORE, ("scores =", "match more:\n    case first:\n        pass\nscores =")),
        replaced(SCORE, ("scores =", "import math as first\nscores =")),
        replaced(SCORE, ("first = torch", "global first\nfirst = torch")),
        replaced(SCORE, ("scores =", "with suppress(ValueError):\n    first = torch.matmul(k, q)\nscores =")),
        replaced(SCORE, ("first = torch.matmul(q, k)", "pool = self\nfirst = pool.bmm(q)")),
    ],
)
def test_somebody_else_may_have_the_product(score: str) -> None:
    refuses(NAME, module(score=score), NoSite, "nobody reads afterwards")


@pytest.mark.parametrize(
    "weigh",
    [
        replaced(WEIGH, ("scores = scores.masked_fill(mask, -10000.0)\n", "")),
        replaced(WEIGH, ("scores = scores.masked", "if self.causal:\n    scores = scores.masked")),
        replaced(WEIGH, ("-10000.0)\n", "-10000.0)\nscores = scores[0]\n")),
        f"for mask in mask:\n{block(WEIGH, 4)}",
        replaced(WEIGH, ("masked_fill(mask, 0.0)", "masked_fill(~mask, 0.0)")),
        replaced(WEIGH, ("masked_fill(mask, 0.0)", "masked_fill(other, 0.0)")),
        replaced(WEIGH, ("-10000.0)\n", "-10000.0)\nmask = mask.unsqueeze(1)\n")),
        replaced(WEIGH, ("scores = scores.masked_fill", "kept = scores.masked_fill")),
        replaced(WEIGH, ("torch.softmax(scores, dim=-1).masked_fill", "self.kept(scores).masked_fill")),
        replaced(WEIGH, ("scores, dim=-1)", "scores, dim=-1, out=self.kept)")),
        replaced(WEIGH, ("-10000.0)\n", "-10000.0)\nmask.unsqueeze_(1)\n")),
        replaced(
            WEIGH, ("scores = scores.masked_fill(mask, -10000.0)", "f = lambda scores: scores.masked_fill_(mask, 1)")
        ),
        replaced(WEIGH, ("scores = scores.masked_fill(mask, -10000.0)", "masked_fill(mask, scores)")),
        replaced(WEIGH, ("if mask", "F = self.other\nif mask"), ("torch.softmax(", "F.softmax(")),
    ],
)
def test_another_mask(weigh: str) -> None:
    refuses(NAME, module(weigh), NoSite, "filled by the mask")


def test_two_of_them() -> None:
    refuses(NAME, module() + module(top="").replace("Attention", "Other"), Ambiguous, "2 places")
    weigh = WEIGH.replace("return torch", "first = torch") + WEIGH
    refuses(NAME, module(weigh), Ambiguous, "2 places")


def test_torch_is_something_else() -> None:
    refuses(NAME, module(top="import numpy as torch"), Ambiguous, "torch is not imported")


@pytest.mark.parametrize("method", ["weigh", "forward"])
def test_compiled(method: str) -> None:
    refuses(NAME, module().replace(f"    def {method}", f"    @torch.compile\n    def {method}"), NoSite)


@pytest.mark.parametrize("name", ["_scaled_sum", "_filled"])
def test_a_name_that_is_taken(name: str) -> None:
    refuses(NAME, module(top=f"import torch\n{name} = 1"), Conflict, name)


@pytest.mark.parametrize("text", [SUM, FILL, WEIGHED, SCORED])
def test_half_of_it(text: str) -> None:
    refuses(NAME, changed().replace(text.strip("\n"), "None" if text in (WEIGHED, SCORED) else ""), PartlyApplied)


def test_scripted() -> None:
    refuses(NAME, module() + "\n\nscripted = torch.jit.script(model)\n", Conflict, "torch.jit.script")


def test_already_there() -> None:
    skips(NAME, changed(), ALREADY)


def test_variables_read_by_their_names() -> None:
    refuses(NAME, module(score=replaced(SCORE, ("return", "self.kept = locals()\nreturn"))), Conflict, "locals()")
