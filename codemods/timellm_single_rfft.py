"""Transform a series once, where its likeness to itself is looked for.

The autocorrelation of a series is the inverse transform of its transform times the conjugate of that (the Wiener-Khinchin theorem).
The code computes both factors from the same series, with the same call.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, callee, own_nodes

from ._helpers import meant
from ._lines import block_of, respelled
from ._products import in_loop
from ._scopes import position

SITE = "transform"
TRANSFORMS = ("torch.fft.rfft", "torch.fft.fft")
VIEWS = ("transpose", "permute", "contiguous", "squeeze", "unsqueeze", "reshape", "view", "float", "detach", "swapaxes")
METHODS = ("conj", "abs", "mean", "sum", "topk", "size", "dim", "len", "int", "max", "min")
WRITING = (ast.AugAssign, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal, ast.Lambda)


class Twice(NamedTuple):
    """Two assignments of the same transform; ``second`` is a name already, where it was put there by this change."""

    first: ast.Assign
    second: ast.Assign


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``transform``: the second call."""
    found = _twice(source)
    is_ours = isinstance(found.second.value, ast.Name)
    return [Site(SITE, found.second.lineno, OURS if is_ours else TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The first result under the second name."""
    found = _twice(source)
    return [respelled(source, found.second, {found.second.value: ast.unparse(found.first.targets[0])})]


def _twice(source: Source) -> Twice:
    functions = [n for n in source.nodes("rfft", "fft") if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    found = [twice for function in functions if (twice := _in_function(source, function))]
    if not found:
        raise NoSite(
            f"{source.name}: nothing is transformed twice (two assignments of the same torch.fft.rfft) in a function that changes "
            "nothing and gives indices alone"
        )
    if len(found) > 1:
        lines = ", ".join(str(twice.second.lineno) for twice in found)
        raise Ambiguous(f"{source.name}: transforms are repeated in {len(found)} places: lines {lines}")
    return found[0]


def _in_function(source: Source, function: Function) -> Optional[Twice]:
    given = [s for s in own_nodes(function) if isinstance(s, ast.Assign) and _target(s) and s in block_of(source, s)]
    for first, second in ((a, b) for a in given for b in given if position(a) < position(b)):
        is_same = ast.unparse(first.value) == ast.unparse(second.value) or ast.unparse(second.value) == _target(first)
        if not _is_transform(source, first.value) or not is_same or in_loop(source, first):
            continue
        block = block_of(source, first)
        if second not in block:
            continue
        between = block[block.index(first) + 1 : block.index(second)]
        read = {n.id for n in ast.walk(first.value) if isinstance(n, ast.Name)}
        if any(not isinstance(s, ast.Assign) or _target(s) in {*read, ""} for s in (first, *between)):
            continue
        if _is_of_both(function, first, second) and _makes_indices(source, function):
            return Twice(first, second)
    return None


def _target(statement: ast.Assign) -> str:
    is_one = len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name)
    return ast.unparse(statement.targets[0]) if is_one else ""


def _is_transform(source: Source, node: ast.expr) -> bool:
    """Whether that is a transform of a variable, or of another view of it."""
    if not isinstance(node, ast.Call) or meant(source, node.func) not in TRANSFORMS:
        return False
    inner = [n for n in ast.walk(node) if isinstance(n, ast.Call) and n is not node]
    return all(callee(call) in VIEWS for call in inner) and not any(
        isinstance(n, ast.NamedExpr) for n in ast.walk(node)
    )


def _is_of_both(function: Function, first: ast.Assign, second: ast.Assign) -> bool:
    """Whether each name gets its value there alone."""
    names = [_target(first), _target(second)]
    stores = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)]
    return names[0] != names[1] and all(stores.count(name) == 1 for name in names)


def _makes_indices(source: Source, function: Function) -> bool:
    """Whether nothing but indices comes out of ``function``, and nothing in it writes to a tensor.

    Indices have no gradients. Those of two transforms would be added up in another order than that of one.
    """
    for node in ast.walk(function):
        if isinstance(node, WRITING):
            return False
        if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            return False
        if isinstance(node, ast.Call) and not _is_pure(source, node):
            return False
        if isinstance(node, ast.Return) and not (node.value and _is_index(source, function, node.value)):
            return False
    return True


def _is_pure(source: Source, call: ast.Call) -> bool:
    """Whether that is a function or method of torch's that writes to nothing which is given to it."""
    name, last = meant(source, call.func), callee(call)
    is_written = last.endswith("_") or any(k.arg in ("out", "inplace", None) for k in call.keywords)
    return not is_written and (name.startswith("torch.") or last in VIEWS or last in METHODS)


def _is_index(source: Source, function: Function, node: ast.expr) -> bool:
    """Whether that is the second part of what ``torch.topk`` gives, or a variable that is nothing else."""
    if isinstance(node, ast.Attribute) and node.attr == "indices":
        return _is_topk(source, node.value)
    if isinstance(node, ast.Subscript) and ast.unparse(node.slice) == "1":
        return _is_topk(source, node.value)
    if not isinstance(node, ast.Name):
        return False
    stores = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == node.id and n is not node]
    given = [source.statement(n) for n in stores if not isinstance(n.ctx, ast.Load)]
    if len(given) != 1 or not isinstance(given[0], ast.Assign) or len(given[0].targets) != 1:
        return False
    target, value = given[0].targets[0], given[0].value
    if isinstance(target, ast.Tuple):
        names = [ast.unparse(part) for part in target.elts]
        return len(names) == 2 and names[1] == node.id and names[0] != node.id and _is_topk(source, value)
    return isinstance(target, ast.Name) and not isinstance(value, ast.Name) and _is_index(source, function, value)


def _is_topk(source: Source, node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and callee(node) == "topk"
