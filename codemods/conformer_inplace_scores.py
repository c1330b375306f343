"""Make the attention's scores in the memory of the first product: three tensors (B, H, T, T) less are written.

The scores are the sum of two products, scaled: two new tensors of that size, though nobody reads the products again. Autograd
keeps what a matrix product gets, not what it gives, and of a sum and a scaling nothing; so both are done in place, in training
too. The zeros behind the softmax are filled in place only where no gradients are made: the softmax keeps its result for them.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source, callee, own_nodes

from ._helpers import check_imported, insert_above, is_used, meant, refuse_compiled
from ._lines import all_respelled, text_of
from ._products import holds_product, in_loop, is_later, is_read_after, writes
from ._scopes import calls, certain, position

SUM, FILL = "_scaled_sum", "_filled"
SUM_TEXT = f'''
def {SUM}(scores, more, scale):
    """`(scores + more) / scale` in the memory of `scores`, a matrix product that nobody else reads."""
    if scores.shape != more.shape or scores.dtype != more.dtype or not isinstance(scale, (int, float)):
        return (scores + more) / scale
    return scores.add_(more).div_(scale)
'''
FILL_TEXT = f'''
def {FILL}(weights, mask, value):
    """`weights.masked_fill(mask, value)`, in place where no gradients are made: for these a softmax keeps its result.

    Code that is traced or compiled may be run with gradients later.
    """
    if torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return weights.masked_fill(mask, value)
    return weights.masked_fill_(mask, value)
'''


class Scores(NamedTuple):
    """``(first + more) / scale``, of which ``first`` is a product that nobody reads afterwards."""

    node: ast.BinOp
    first: ast.Name
    more: ast.expr


class Fill(NamedTuple):
    """``softmax(…).masked_fill(mask, value)``."""

    node: ast.Call
    weights: ast.expr


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites ``scores``: the scaled sum; and ``weights``: what is filled behind the softmax."""
    sums, fills = calls(source, SUM), calls(source, FILL)
    has_sum, has_fill = is_used(source, SUM, sums, 1), is_used(source, FILL, fills, 1)
    if has_sum and has_fill:
        return [Site("scores", sums[0].lineno, OURS), Site("weights", fills[0].lineno, OURS)]
    if has_sum or has_fill:
        there, missing = (SUM, FILL) if has_sum else (FILL, SUM)
        raise PartlyApplied(
            f"{source.name}:{(sums + fills)[0].lineno} is partly applied: {there} is there, and {missing} is not",
            "take the part that is there out by hand, then apply again",
        )
    check_imported(source, "torch")
    places = {"scores": _scores(source).node, "weights": _fill(source).node}
    functions = [source.function(node) for node in places.values()]
    refuse_compiled(source, *(function for function in functions if function is not None))
    return [Site(name, node.lineno, TODO) for name, node in places.items()]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """Both helpers above the class of the first place, and asked there."""
    scores, fill = _scores(source), _fill(source)
    first = min(scores.node, fill.node, key=lambda node: node.lineno)
    added = f"{SUM}({scores.first.id}, {text_of(source, scores.more)}, {text_of(source, scores.node.right)})"
    mask, value = (text_of(source, argument) for argument in fill.node.args)
    filled = f"{FILL}({text_of(source, fill.weights)}, {mask}, {value})"
    return [
        insert_above(source, first, SUM_TEXT),
        insert_above(source, first, FILL_TEXT),
        *all_respelled(source, {scores.node: added, fill.node: filled}),
    ]


def _scores(source: Source) -> Scores:
    found = [s for node in source.nodes("/") if (s := _as_scores(source, node))]
    if not found:
        raise NoSite(
            f"{source.name}: no scores are made as (a + b) / scale of a matrix product a that nobody reads afterwards"
        )
    if len(found) > 1:
        lines = ", ".join(str(s.node.lineno) for s in found)
        raise Ambiguous(f"{source.name}: scores are made in {len(found)} places: lines {lines}")
    return found[0]


def _as_scores(source: Source, node: ast.AST) -> Optional[Scores]:
    function = source.function(node)
    is_scaled = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.left, ast.BinOp)
    if not is_scaled or function is None:
        return None
    added = node.left  # type: ignore[attr-defined]
    if not isinstance(added.op, ast.Add) or not isinstance(added.left, ast.Name):
        return None
    statement = source.statement(node)
    is_kept = isinstance(statement, (ast.Assign, ast.Return)) and statement.value is node
    first = added.left
    is_own = is_kept and holds_product(source, first) and not is_read_after(source, first)
    is_other = not any(isinstance(n, ast.Name) and n.id == first.id for n in ast.walk(added.right))
    is_plain = not function.decorator_list and _is_number(node.right)  # type: ignore[attr-defined]
    return Scores(node, first, added.right) if is_own and is_other and is_plain else None  # type: ignore[arg-type]


def _is_number(scale: ast.expr) -> bool:
    """Whether a scale is read without running other code: it is asked for before the sum is made, not after."""
    if isinstance(scale, ast.Call):
        return ast.unparse(scale.func) in ("math.sqrt", "sqrt") and len(scale.args) == 1 and _is_number(scale.args[0])
    return isinstance(scale, (ast.Name, ast.Constant)) or (isinstance(scale, ast.Attribute) and _is_number(scale.value))


def _fill(source: Source) -> Fill:
    found = [f for node in source.nodes("softmax") if (f := _as_fill(source, node))]
    if not found:
        raise NoSite(f"{source.name}: no softmax is filled by the mask that its scores were filled by")
    if len(found) > 1:
        lines = ", ".join(str(f.node.lineno) for f in found)
        raise Ambiguous(f"{source.name}: what a softmax gives is filled in {len(found)} places: lines {lines}")
    return found[0]


def _as_fill(source: Source, node: ast.AST) -> Optional[Fill]:
    """``softmax(scores, …).masked_fill(mask, value)``, where ``scores`` were filled by the same mask: so it fits their shape."""
    if not isinstance(node, ast.Call) or callee(node) != "masked_fill" or not isinstance(node.func, ast.Attribute):
        return None
    weights, function = node.func.value, source.function(node)
    if len(node.args) != 2 or node.keywords or function is None:
        return None
    if not isinstance(weights, ast.Call) or callee(weights) != "softmax":
        return None
    if any(keyword.arg not in ("dim", "dtype") for keyword in weights.keywords):
        return None
    is_function = meant(source, weights.func) in SOFTMAXES
    scores = weights.args[0] if is_function and weights.args else getattr(weights.func, "value", None)
    mask = ast.unparse(node.args[0])
    if not isinstance(scores, ast.Name) or not isinstance(node.args[0], ast.Name):
        return None
    before = [
        n
        for n in own_nodes(function)
        if isinstance(n, ast.Call) and callee(n) in ("masked_fill", "masked_fill_") and n is not node
    ]
    fits = [
        n
        for n in before
        if n.args
        and not is_later(source, n)
        and ast.unparse(n.args[0]) == mask
        and _gives(source, n, scores.id)
        and certain(source, source.statement(n), node)
        and not _is_given_between(source, mask, n, node)
        and not _is_given_between(source, scores.id, n, node)
    ]
    return Fill(node, weights) if fits and not function.decorator_list else None


SOFTMAXES = ("torch.softmax", "torch.nn.functional.softmax")


def _gives(source: Source, fill: ast.Call, name: str) -> bool:
    """Whether ``fill`` is what the variable ``name`` gets, or is done to it in place."""
    statement = source.statement(fill)
    if isinstance(statement, ast.Assign) and statement.value is fill:
        return ast.unparse(statement.targets[0]) == name
    is_method = isinstance(fill.func, ast.Attribute) and callee(fill) == "masked_fill_"
    return is_method and ast.unparse(fill.func.value) == name  # type: ignore[attr-defined]


def _is_given_between(source: Source, name: str, one: ast.Call, other: ast.Call) -> bool:
    """Whether the variable ``name`` gets another value or shape between the statements of two calls, or is in a loop."""
    function, first = source.function(other), source.statement(one)
    end = (first.end_lineno or 0, first.end_col_offset or 0)
    own = [n for n in ast.walk(function or source.tree) if isinstance(n, ast.Name) and n.id == name]
    between = [n for n in own if end <= position(n) < position(source.statement(other))]
    return in_loop(source, other) or any(isinstance(n.ctx, ast.Store) or _is_in_place(source, n) for n in between)


def _is_in_place(source: Source, node: ast.Name) -> bool:
    """Whether a method is called there that changes the variable's tensor (``x.unsqueeze_(0)``)."""
    parent = source.ancestors(node)[0]
    return isinstance(parent, ast.Attribute) and writes(parent.attr)
