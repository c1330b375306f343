"""Matrix products, and variables that hold one that nobody else has."""

from __future__ import annotations

import ast

from apply_opt.model.source import Source

from ._helpers import meant
from ._scopes import certain, position

PRODUCTS = {"torch.matmul", "torch.bmm", "torch.baddbmm", "torch.einsum"}
METHODS = {"matmul", "bmm"}
LOOPS = (ast.For, ast.AsyncFor, ast.While)


def is_product(source: Source, node: ast.AST) -> bool:
    """Whether that is a new tensor, made by a matrix product of torch's."""
    if isinstance(node, ast.Call):
        is_torch, operands = (
            meant(source, node.func) in PRODUCTS,
            len(node.args) - ast.unparse(node.func).endswith("einsum"),
        )
        is_method = (
            isinstance(node.func, ast.Attribute) and node.func.attr in METHODS and _is_variable(source, node.func.value)
        )
        is_new = not any(k.arg in ("out", None) for k in node.keywords)
        return is_new and ((is_torch and operands >= 2) or (is_method and operands == 1))
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)


def _is_variable(source: Source, node: ast.expr) -> bool:
    """Whether that is a variable, and no module or ``self``."""
    return isinstance(node, ast.Name) and node.id not in ("self", "cls") and meant(source, node) == node.id


def holds_product(source: Source, use: ast.Name) -> bool:
    """Whether a variable holds, where it is read, a matrix product that nothing else has been given since."""
    function = source.function(use)
    own = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == use.id] if function else []
    before = [n for n in own if not isinstance(n.ctx, ast.Load) and position(n) < position(source.statement(use))]
    if not before or in_loop(source, use):
        return False
    given = source.statement(max(before, key=position))
    if not isinstance(given, ast.Assign) or given.targets != [max(before, key=position)]:
        return False
    reads = [n for n in own if isinstance(n.ctx, ast.Load) and position(given) < position(n) < position(use)]
    own_scope = [n for n in own if not any(isinstance(a, ast.Lambda) for a in source.ancestors(n))]
    is_own = (
        len(own_scope) == len(own)
        and all(source.function(n) is function for n in own)
        and all(is_size(source, n) for n in reads)
    )
    return is_own and is_product(source, given.value) and certain(source, given, use)


def is_read_after(source: Source, use: ast.Name) -> bool:
    """Whether the variable is read behind the statement of ``use``, and not for its size alone."""
    function, statement = source.function(use), source.statement(use)
    end = (statement.end_lineno or 0, statement.end_col_offset or 0)
    own = [n for n in ast.walk(function or source.tree) if isinstance(n, ast.Name) and n.id == use.id and n is not use]
    return any(isinstance(n.ctx, ast.Load) and position(n) >= end and not is_size(source, n) for n in own)


def in_loop(source: Source, node: ast.AST) -> bool:
    """Whether ``node`` is in a loop, where what is further down may have run before."""
    return any(isinstance(n, LOOPS) for n in source.ancestors(node))


def is_size(source: Source, node: ast.Name) -> bool:
    """Whether a variable is only asked for its shape, type or device there."""
    parent = source.ancestors(node)[0]
    return isinstance(parent, ast.Attribute) and parent.attr in ("shape", "size", "dtype", "device", "ndim", "dim")
