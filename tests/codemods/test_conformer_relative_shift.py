"""``conformer_relative_shift``: a view in the place of padding and folding; only where callers read the first columns."""

from __future__ import annotations

import pytest
from cases import above, block, constant, lands, plan, refuses, replaced, skips, with_class

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY

NAME = "conformer_relative_shift"
HELPER = constant(NAME, "HELPER_TEXT")
CLASS = "class Attention(torch.nn.Module):\n"
SHIFT = """
batch, heads, rows, columns = x.size()
wide = torch.nn.functional.pad(x, pad=(1, 0))
folded = wide.view(batch, heads, -1, rows)
folded = folded[:, :, 1:].view(batch, heads, rows, columns)
return folded
"""
CALL = """
scores = q @ p
scores = self.rel_shift(scores)
if self.fused:
    scores = scores[:, :, :, : k.size(-2)] * self.scale
    return fused(scores)
scores = scores[:, :, :, : k.shape[-1]]
return scores + 1
"""


def module(
    shift: str = SHIFT,
    call: str = CALL,
    top: str = "import torch\nfrom torch.nn import functional as F",
    more: str = "",
) -> str:
    """An attention that shifts and is shifted like that."""
    methods = {"def rel_shift(self, x):": f'"""Shift."""\n{block(shift)}', "def forward(self, q, k, p, n):": call}
    return with_class(top, CLASS, methods, more)


def changed(call: str = CALL) -> str:
    """The module with the change in it."""
    return above(module("return _shifted_rows(x)", call), CLASS, HELPER)


@pytest.mark.parametrize(
    "shift",
    [
        SHIFT,
        replaced(SHIFT, (".size()", ".shape"), ("torch.nn.functional.pad(x, pad=(1, 0))", "F.pad(x, (1, 0))")),
        replaced(SHIFT, ("pad=(1, 0)", "(1, 0), value=0.0"), ("-1, rows", "columns + 1, rows")),
        replaced(
            SHIFT, ("wide.view(batch, heads, -1", "wide.reshape(batch, heads, -1"), ("[:, :, 1:]", "[:, :, 1:, :]")
        ),
        replaced(SHIFT, ("pad=(1, 0)", "(1, 0), 'constant', 0")),
        replaced(SHIFT, ("pad=(1, 0)", "(1, 0), mode='constant', value=0.0")),
        "wide = F.pad(x, [1, 0])\ntall = wide.view(x.size(0), x.size(1), -1, x.size(2))\nreturn tall[:, :, 1:].view_as(x)",
        "b, h, t, n = x.shape\nreturn F.pad(x, (1, 0)).view((b, h, n + 1, t))[:, :, 1:].view((b, h, t, n))",
    ],
)
def test_lands_however_it_is_written(shift: str) -> None:
    lands(NAME, module(shift), changed())


@pytest.mark.parametrize(
    "call",
    [
        "return self.rel_shift(q @ p)[:, :, :, : k.size(0)]",
        "return self.rel_shift(torch.matmul(q, p))[..., : k.shape[-2]]",
        "shifted = self.rel_shift(torch.einsum(n, q, p))\nreturn shifted[:, :, :, : k.size(0)] + shifted[..., : k.size(0)]",
        "scores = q @ p\nprint(scores.shape)\nshifted = self.rel_shift(scores)\nreturn shifted[..., : k.size(1)]",
        "m = k.size(0)\nreturn self.rel_shift(q.matmul(p))[..., :m]",
        "b, m = k.shape\nreturn self.rel_shift(q @ p)[..., :m]",
        "if n:\n    s = q @ p\n    s = self.rel_shift(s)\n    s = s[..., : k.size(0)]\n    s += 1\n    return s",
    ],
)
def test_lands_where_callers_read_the_first_columns(call: str) -> None:
    lands(NAME, module(call=call), changed(call))


@pytest.mark.parametrize(
    "call",
    [
        "return self.rel_shift(q @ p)",
        "shifted = self.rel_shift(q @ p)\nreturn shifted + 1",
        "shifted = self.rel_shift(q @ p); print(shifted)\nreturn shifted[..., : k.size(0)]",
        "shifted = self.rel_shift(q @ p)\nshort = shifted[:, :, :, : k.size(0)]\nreturn short + shifted.sum()",
        "return self.rel_shift(q @ p)[:, :, : k.size(0)]",
        "return self.rel_shift(q @ p)[..., :n]",
        "return self.rel_shift(q @ p)[..., :7]",
        "return self.rel_shift(q @ p)[..., : p.size(0)]",
        "s = q @ p\nt = self.rel_shift(s)\nreturn t[..., : s.size(-1)]",
        "s = self.rel_shift(q @ p)\ns += k\nreturn s[..., : k.size(0)]",
        "s = q @ p\nt = self.rel_shift(s)[..., : k.size(0)]\ns *= 3\nreturn t",
        "s = q @ p\nmatch k:\n    case s:\n        pass\nt = self.rel_shift(s)[..., : k.size(0)]\nreturn t",
        "s = q @ p\nimport math as s\nreturn self.rel_shift(s)[..., : k.size(0)]",
        "global s\ns = q @ p\nreturn self.rel_shift(s)[..., : k.size(0)]",
        "return getattr(self, 'rel_shift')(q @ p) + self.rel_shift(q @ p)[..., : k.size(0)]",
        "return self.rel_shift(q @ p)[..., : k.size(0) - n]",
        "return self.rel_shift(q @ p)[..., :None]",
        "m = 1 - k.size(0)\nreturn self.rel_shift(q @ p)[..., :m]",
        "return self.rel_shift(q @ p)[:, :, :, n:]",
        "return self.rel_shift(q @ p)[:, :, :, :-1]",
        "s = self.rel_shift(q @ p)\nif n:\n    s = s[..., : k.size(0)]\nreturn s",
        "s = self.rel_shift(q @ p)\ndef later():\n    return s\ns = s[..., : k.size(0)]\nreturn later()",
        "for i in k:\n    print(s)\n    s = self.rel_shift(q @ i)\n    print(s[..., : k.size(0)])",
        "return map(self.rel_shift, q @ p)",
        "shift = self.rel_shift\nreturn shift(q @ p)[..., : k.size(0)]",
    ],
)
def test_all_columns_may_be_read(call: str) -> None:
    refuses(NAME, module(call=call), Ambiguous, "rel_shift")


@pytest.mark.parametrize(
    "call",
    [
        "return self.rel_shift(q)[..., : k.size(0)]",
        "return self.rel_shift(self.scores)[..., : k.size(0)]",
        "return self.rel_shift(q.T)[..., : k.size(0)]",
        "return self.rel_shift(torch.einsum(n, q))[..., : k.size(0)]",
        "s = 1\nself.later = lambda: s\ns = q @ p\ns = self.rel_shift(s)\nreturn s[..., : k.size(0)]",
        "return self.rel_shift(self.matmul(q, p))[..., : k.size(0)]",
        "return self.rel_shift(torch.matmul(q, k, out=n))[..., : k.size(0)]",
        "s = q @ p\nreturn s, self.rel_shift(s)[..., : k.size(0)]",
        "s = q @ p\nt = self.rel_shift(s)[..., : k.size(0)]\nt.relu_()\nreturn s + t",
        "s = q @ p\nself.kept = s\ns = self.rel_shift(s)\nreturn s[..., : k.size(0)]",
        "s = self.kept = q @ p\ns = self.rel_shift(s)\nreturn s[..., : k.size(0)]",
        "s = q @ p\nif n:\n    s = q\ns = self.rel_shift(s)\nreturn s[..., : k.size(0)]",
        "s = q\nif n:\n    s = q @ p\ns = self.rel_shift(s)\nreturn s[..., : k.size(0)]",
        "q = self.rel_shift(q)\nreturn q[..., : k.size(0)]",
    ],
)
def test_somebody_else_may_have_the_scores(call: str) -> None:
    """What was a copy is a view now: whoever writes to one would write to the other."""
    refuses(NAME, module(call=call), Ambiguous, "nobody else reads")


@pytest.mark.parametrize(
    "shift",
    [
        replaced(SHIFT, ("torch.nn.functional.pad(x, pad=(1, 0))", "self.pad(x, (1, 0))")),
        replaced(SHIFT, ("torch.nn.functional.pad(x, pad=(1, 0))", "numpy.pad(x, (1, 0))")),
        replaced(SHIFT, ("pad=(1, 0)", "pad=(0, 1)")),
        replaced(SHIFT, ("pad=(1, 0)", "pad=(1, 0), value=1.0")),
        replaced(SHIFT, ("pad=(1, 0)", "pad=(1, 0), mode='reflect'")),
        replaced(SHIFT, ("folded[:, :, 1:]", "folded[:, :, :-1]")),
        replaced(SHIFT, ("-1, rows", "-1, columns")),
        replaced(SHIFT, ("heads, rows, columns)\n", "heads, columns, rows)\n")),
        replaced(SHIFT, ("-1, rows)\n", "-1, rows)\nfolded = folded * 2\n")),
        replaced(SHIFT, ("return folded", "return folded, columns")),
        replaced(SHIFT, ("return folded", "if self.zero:\n    folded = folded.tril()\nreturn folded")),
        replaced(SHIFT, ("return folded", "folded.relu_()\nreturn folded")),
        "return F.pad(x, (1, 0))",
    ],
)
def test_something_else(shift: str) -> None:
    refuses(NAME, module(shift), NoSite, "nothing to be saved")


def test_a_class_that_shifts_in_its_own_way() -> None:
    text = module() + "\n\nclass Other(Attention):\n    def rel_shift(self, x):\n        return x\n"
    refuses(NAME, text, Ambiguous, "2 methods are called rel_shift")


def test_two_of_them() -> None:
    text = module() + module(top="").replace("class Attention", "class Other")
    refuses(NAME, text, Ambiguous, "2 methods shift")


def test_compiled() -> None:
    text = module().replace("    def rel_shift", "    @torch.compile\n    def rel_shift")
    refuses(NAME, text, Conflict, "decorated")


def test_nobody_calls_it() -> None:
    refuses(NAME, module(call="return q"), NoSite, "not used")


def test_on_one_line() -> None:
    shift = "return F.pad(x, (1, 0)).view(x.size(0), x.size(1), -1, x.size(2))[:, :, 1:].view_as(x)"
    text = module(shift).replace(f"        {shift}", f"        b = x.shape; {shift}")
    refuses(NAME, text, Ambiguous, "other code on its lines")


@pytest.mark.parametrize("top", ["import torch.nn.functional as F", "if True:\n    import torch"])
def test_torch_is_not_there(top: str) -> None:
    refuses(NAME, module(top=top), Ambiguous, "torch is not imported")


@pytest.mark.parametrize("top", ["import numpy as torch", "from . import torch", "from jax import nn as torch"])
def test_torch_is_something_else(top: str) -> None:
    refuses(NAME, module(top=top), NoSite)


def test_torch_comes_with_its_parts() -> None:
    after = changed().replace("import torch\nfrom", "import torch.nn\nfrom")
    lands(NAME, module(top="import torch.nn\nfrom torch.nn import functional as F"), after)


def test_a_name_that_is_taken() -> None:
    refuses(NAME, module(top="import torch\n_shifted_rows = 1"), Conflict, "_shifted_rows")


def test_half_of_it() -> None:
    refuses(NAME, changed().replace(HELPER.strip("\n"), ""), PartlyApplied)


def test_scripted() -> None:
    refuses(NAME, module() + "\n\nscripted = torch.jit.script(model)\n", Conflict, "torch.jit.script")


def test_already_there() -> None:
    skips(NAME, changed(), ALREADY)


def test_nothing_of_that_kind() -> None:
    refuses(NAME, "import torch\n", NoSite)
    assert plan(NAME, "").kind == "refused"


@pytest.mark.parametrize(
    "more",
    ["shift = rel_shift", "def other(self, x):\n    return getattr(self, 'rel_shift')(x)"],
)
def test_a_method_with_another_name(more: str) -> None:
    refuses(NAME, module(more=more), Ambiguous, "has another name there")


@pytest.mark.parametrize(
    "top",
    [
        "import torch\nfrom torch.nn import functional as F\nF = make(F)",
        "import torch\ntry:\n    import fast as F\nexcept ImportError:\n    from torch.nn import functional as F",
    ],
)
def test_another_padding(top: str) -> None:
    refuses(
        NAME,
        module(replaced(SHIFT, ("torch.nn.functional.pad(x, pad=(1, 0))", "F.pad(x, pad=(1, 0))")), top=top),
        NoSite,
    )


def test_names_of_the_module_are_no_sizes() -> None:
    refuses(NAME, module(replaced(SHIFT, ("-1, rows", "-1, D2")), top="import torch\nD2 = 5"), NoSite)
    refuses(
        NAME, module(replaced(SHIFT, ("functional.pad(x,", "functional.pad(X,")), top="import torch\nX = 5"), NoSite
    )
