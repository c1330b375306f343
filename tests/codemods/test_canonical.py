"""The form of a function: the same for what is the same, and never for what is not."""

from __future__ import annotations

import ast
import textwrap

import pytest

from apply_opt.model.source import Function
from codemods._canonical import form

SAME = {
    "names and notes": ("a = f(x)\nreturn a + a", '"""Twice."""\nb: int = f(x)  # once\nreturn b + b'),
    "steps": ("return g(f(x))", "y = f(x)\nz = g(y)\nreturn z"),
    "one variable for all steps": ("return g(f(x))", "y = f(x)\ny = g(y)\nreturn y"),
    "two at once": ("a = f(x)\nb = g(x)\nreturn a, b, a, b", "a, b = f(x), g(x)\nreturn a, b, a, b"),
    "branches": ("if x:\n    y = 1\nelse:\n    y = 2\nreturn y", "return 1 if x else 2"),
    "more branches": ("if x:\n    y = 1\nelif z:\n    y = 2\nelse:\n    y = 3\nreturn y", "return 1 if x else 2 if z else 3"),
    "a loop": ("return [f(y) for y in x]", "found = []\nfor y in x:\n    z = f(y)\n    found.append(z)\nreturn found"),
    "a list in a sum": ("return sum([y for y in x])", "return sum(y for y in x)"),
    "other names in a list": ("return [y for y in x], [y for y in z]", "return [a for a in x], [b for b in z]"),
    "another order": ("return 1 < x", "return x > 1"),
    "equal": ("return 0 == x", "return x == 0"),
    "sizes": ("return x.dim(), x.shape, len(x), x.shape[1]", "return x.ndim, x.size(), x.size(0), x.size(1)"),
    "dimensions": ("return len(x.shape)", "return x.dim()"),
    "lengths": ("return x.shape[0]", "return len(x)"),
    "a tensor": ("return torch.is_tensor(x)", "return isinstance(x, torch.Tensor)"),
    "counting": ("return range(x)", "return range(0, x)"),
    "methods": ("return x.sum(-1).mean(axis=0)", "return torch.mean(torch.sum(x, dim=-1), dim=0)"),
    "limits": ("return x.clamp(0, 1)", "return torch.clip(x, max=1, min=0)"),
    "at least": ("return torch.clamp_min(x, 0)", "return x.clamp(min=0)"),
    "squares": ("return x**2, x**2, x**2", "return x.pow(2), torch.pow(x, 2), x.square()"),
    "rows": ("return torch.stack(x)", "return torch.stack(x, 0)"),
    "gradients": ("return x.detach().sum()", "with torch.inference_mode():\n    return x.sum()"),
    "options": ("return ptwt.wavedec(x, w, mode='zero', level=3)", "return ptwt.wavedec(level=3, wavelet=w, mode='zero', data=x)"),
    "messages": ("raise ValueError('a')", "raise ValueError"),
    "another exception": ("try:\n    return f(x)\nexcept OSError as e:\n    raise ValueError(e)", "return f(x)"),
    "handlers": ("try:\n    y = f(x)\nexcept:\n    y = 0\nreturn y", "try:\n    y = f(x)\nexcept Exception as e:\n    y = 0\nreturn y"),
    "loops of the same variable": (
        "for y in x:\n    f(y)\nfor y in z:\n    g(y)",
        "for a in x:\n    f(a)\nfor b in z:\n    g(b)",
    ),
    "checks": ("if x.dim() != 3 or torch.isnan(x).any():\n    raise ValueError\nreturn x", "assert x.ndim == 3, 'three'\nreturn x"),
    "finite": ("assert torch.isfinite(x).all()\nreturn x", "if bool(x.isinf().any().item()):\n    raise ValueError\nreturn x"),
    "not empty": ("return x.mean()", "if x.numel() == 0:\n    y = 0.0\nelse:\n    y = x.mean()\nreturn y"),
    "something in it": ("return x.mean()", "return x.mean() if x.numel() > 0 else 0.0"),
    "unread": ("return x", "device = x.device\nreturn x"),
}  # fmt: skip


def form_of(text: str) -> str:
    body = textwrap.indent(text, "    ")
    (function,) = ast.parse(f"def f(self, x, z, w):\n{body}\n").body
    assert isinstance(function, Function)
    return form(function)


@pytest.mark.parametrize("what", SAME)
def test_the_same(what: str) -> None:
    one, other = SAME[what]
    assert form_of(one) == form_of(other)


OTHER = {
    "another operation": ("return f(x)", "return g(x)"),
    "another name that is not its own": ("return x + a", "return x + b"),
    "swapped": ("return x - z", "return z - x"),
    "swapped variables": ("a = f(x)\nb = g(x)\nreturn a - b", "a = f(x)\nb = g(x)\nreturn b - a"),
    "swapped steps": ("return g(f(x))", "y = g(x)\ny = f(y)\nreturn y"),
    "exchanged": ("return z, x", "x, z = z, x\nreturn x, x"),
    "changed in between": ("a = f(x)\nx = x + 1\nreturn a + x + x", "x = x + 1\na = f(x)\nreturn a + x + x"),
    "a list that grew": ("n = len(y)\ny.append(x)\nreturn n, y", "y.append(x)\nn = len(y)\nreturn n, y"),
    "in place": ("a = x + 0\nx.add_(1)\nreturn a", "x.add_(1)\nreturn x + 0"),
    "an entry": ("a = x + 0\nx[0] = 1\nreturn a", "x[0] = 1\nreturn x + 0"),
    "added to": ("a = x + 0\nx += 1\nreturn a, x", "x += 1\nreturn x + 0, x"),
    "an iterator": ("a = zip(x, z)\nreturn [b for _ in w for b in a]", "return [b for _ in w for b in zip(x, z)]"),
    "a generator": ("a = (y for y in x)\nreturn [b for _ in w for b in a]", "return [b for _ in w for b in (y for y in x)]"),
    "taken out": ("a = y.pop()\nreturn [a for _ in w]", "return [y.pop() for _ in w]"),
    "taken out twice": ("a = y.pop()\na = a + 1\nreturn [a for _ in w]", "return [y.pop() + 1 for _ in w]"),
    "a name in a list": ("y = f(x)\nreturn [x for x in z if y]", "return [x for x in z if f(x)]"),
    "branches": ("return 1 if x else 2", "return 2 if x else 1"),
    "a list with a condition": ("return [y for y in x]", "return [y for y in x if y]"),
    "a list that had something": ("y = [1]\nfor a in x:\n    y.append(a)\nreturn y", "return [a for a in x]"),
    "a list of itself": ("y = []\nfor a in x:\n    y.append(len(y))\nreturn y", "y = [len(y) for a in x]\nreturn y"),
    "a loop with an end": ("y = []\nfor a in x:\n    y.append(a)\nelse:\n    y = z\nreturn y", "return [a for a in x]"),
    "another dimension": ("return x.sum(0)", "return x.sum(1)"),
    "all dimensions": ("return x.sum()", "return x.sum(0)"),
    "another limit": ("return x.clamp(0)", "return x.clamp(max=0)"),
    "a dimension that is kept": ("return x.sum(0, True)", "return x.sum(0)"),
    "cubes": ("return x.pow(3)", "return x**2"),
    "another range": ("return range(1, x)", "return range(x)"),
    "another size": ("return x.size(1)", "return x.size(0)"),
    "another module's": ("return np.mean(x)", "return torch.mean(x)"),
    "another exception": ("raise ValueError", "raise TypeError"),
    "an exception that is caught": ("try:\n    return f(x)\nexcept OSError:\n    return 0", "return f(x)"),
    "a check that is caught": (
        "try:\n    if x.dim() != 3:\n        raise ValueError\n    return f(x)\nexcept ValueError:\n    return 0",
        "try:\n    return f(x)\nexcept ValueError:\n    return 0",
    ),
    "an assertion that is caught": (
        "try:\n    assert x.dim() == 3\n    return f(x)\nexcept AssertionError:\n    return 0",
        "try:\n    return f(x)\nexcept AssertionError:\n    return 0",
    ),
    "a loop that leaves a value": ("for z in x:\n    pass\nreturn z", "return z"),
    "a loop that leaves an attribute": ("for self.z in x:\n    pass\nreturn x", "return x"),
    "a counter that leaves a value": ("y = 0\nfor y, a in enumerate(x):\n    f(a)\nreturn y", "y = 0\nfor a in x:\n    f(a)\nreturn y"),
    "another that is empty": ("if z.numel() == 0:\n    x = g(x)\nreturn f(x)", "return f(x)"),
    "a constant for another that is empty": ("y = 0.0 if z.numel() == 0 else f(x)\nreturn y", "return f(x)"),
    "something for what is empty": ("if x.numel() == 0:\n    return z\nreturn f(x)", "return f(x)"),
    "a check of values": ("if x > 3:\n    raise ValueError\nreturn x", "return x"),
    "a check with a value": ("if x.numel() == 1:\n    return 0\nreturn x", "return x"),
    "an assertion": ("assert x.max() < 3\nreturn x", "return x"),
    "an assertion that asks for less": ("assert x.dim() == 3 or x.max() < 3\nreturn x", "return x"),
    "another context": ("with torch.autocast('cpu'):\n    return f(x)", "return f(x)"),
    "a call that is made": ("g(x)\nreturn x", "return x"),
    "unread, but called": ("y = g(x)\nreturn x", "return x"),
    "unread, but asked for": ("y = x[0]\nreturn x", "return x"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHER)
def test_something_else(what: str) -> None:
    one, other = OTHER[what]
    assert form_of(one) != form_of(other)
