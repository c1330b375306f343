"""``conformer_stride_flags``: the question whether a layer has a stride, in the masked loop; no other one."""

from __future__ import annotations

import pytest
from cases import above, constant, lands, refuses, replaced, skips
from conformer import CLASS, LOOP, NUMBERED, module

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY

NAME = "conformer_stride_flags"
HELPER = constant(NAME, "HELPER_TEXT")
ASKED = 'hasattr(layer, "stride") and layer.stride != (1, 1)'


def changed(loop: str = LOOP, asked: str = ASKED) -> str:
    """The module with the change in it."""
    return above(module(replaced(loop, (asked, f"_can_have_stride(layer) and {asked}"))), CLASS, HELPER)


@pytest.mark.parametrize("loop", [LOOP, NUMBERED])
def test_lands(loop: str) -> None:
    lands(NAME, module(loop), changed(loop))


@pytest.mark.parametrize(
    "test", ["getattr(layer, 'stride', (1, 1)) != (1, 1)", "hasattr(layer, 'stride') and layer.stride != (1, 1)"]
)
def test_lands_on_the_same_in_other_words(test: str) -> None:
    loop = replaced(LOOP, (ASKED, test))
    lands(NAME, module(loop), changed(loop, test))


@pytest.mark.parametrize(
    "test",
    [
        "layer.stride != (1, 1)",
        "hasattr(layer, 'stride') and layer.stride != (2, 2)",
        "isinstance(layer, nn.Conv2d) and layer.stride[0] > 1",
    ],
)
def test_another_question(test: str) -> None:
    refuses(NAME, module(replaced(LOOP, (ASKED, test))), Ambiguous, "more is asked")


def test_no_question() -> None:
    refuses(NAME, module(LOOP[: LOOP.index("    if hasattr")]), NoSite, "does not ask once")


@pytest.mark.parametrize("top", ["import torch.nn as nn", "from torch import nn as nn", "from torch import Tensor, nn"])
def test_lands_however_it_is_imported(top: str) -> None:
    after = changed().replace("import torch\nfrom torch import nn", f"import torch\n{top}", 1)
    lands(NAME, module(top=f"import torch\n{top}"), after)


@pytest.mark.parametrize(
    "top", ["from jax import nn", "import flax.nnx as nn", "from torch import nn as layers\nnn = layers"]
)
def test_something_else_is_called_nn(top: str) -> None:
    refuses(NAME, module(top=f"import torch\n{top}"), Ambiguous, "torch.nn is not imported as nn")


def test_a_name_that_is_taken() -> None:
    refuses(NAME, module(top="import torch\nfrom torch import nn\n_can_have_stride = 1"), Conflict, "_can_have_stride")


def test_half_of_it() -> None:
    refuses(NAME, changed().replace(HELPER.strip("\n"), ""), PartlyApplied)


def test_already_there() -> None:
    skips(NAME, changed(), ALREADY)
