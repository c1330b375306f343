"""Matrix products, and variables that hold one that nobody else has."""

from __future__ import annotations

import ast

from apply_opt.model.source import Source

from ._helpers import meant
from ._scopes import LOOPS, certain, named, position

PRODUCTS = {"torch.matmul", "torch.bmm", "torch.baddbmm", "torch.einsum"}
METHODS = {"matmul", "bmm"}


def is_product(source: Source, node: ast.AST) -> bool:
    """Whether that is a new tensor, made by a matrix product of torch's."""
    if not isinstance(node, ast.Call):
        return isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)
    if any(k.arg in ("out", None) for k in node.keywords):
        return False
    function = meant(source, node.func)
    if function in PRODUCTS:
        return len(node.args) - function.endswith("einsum") >= 2
    is_method = isinstance(node.func, ast.Attribute) and node.func.attr in METHODS
    return is_method and len(node.args) == 1 and _is_variable(source, node.func.value)  # type: ignore[attr-defined]


def _is_variable(source: Source, node: ast.expr) -> bool:
    """Whether that is a variable with a value of its own, and no module, ``self`` or another name for it."""
    if not isinstance(node, ast.Name) or node.id in ("self", "cls") or meant(source, node) != node.id:
        return False
    given = [
        source.statement(n) for n in named(source, node.id) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    ]
    return not any(isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name) for statement in given)


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
    if any(source.function(n) is not function or is_later(source, n) for n in own) or _is_bound_otherwise(source, use):
        return False
    here = source.statement(use)
    reads = [n for n in own if n is not use and is_read(source, n) and position(given) < position(n)]
    has_one_reader = all(
        is_size(source, n) for n in reads if position(n) < position(use) or source.statement(n) is here
    )
    blocks = [
        n for n in source.ancestors(given) if isinstance(n, (ast.With, ast.AsyncWith))
    ]  # these may suppress an exception
    is_sure = certain(source, given, use) and all(block in source.ancestors(use) for block in blocks)
    return has_one_reader and is_sure and is_product(source, given.value)


def is_later(source: Source, node: ast.AST) -> bool:
    """Whether ``node`` is in code that runs at another time than the statements around it."""
    return any(isinstance(n, (ast.Lambda, ast.GeneratorExp)) for n in source.ancestors(node))


def _is_bound_otherwise(source: Source, use: ast.Name) -> bool:
    """Whether a variable's name is also bound by a pattern, an import, a definition or an exception, or is not this function's."""
    harmless = (ast.Name, ast.Attribute, ast.keyword, ast.Call, ast.arg)
    function = source.function(use)
    return any(not isinstance(n, harmless) and function in source.ancestors(n) for n in named(source, use.id))


def is_read(source: Source, node: ast.Name) -> bool:
    """Whether a variable is read there, also where it is written to in place (``x += 1``)."""
    parent = source.ancestors(node)[0]
    return isinstance(node.ctx, ast.Load) or (isinstance(parent, ast.AugAssign) and parent.target is node)


def is_read_after(source: Source, use: ast.Name) -> bool:
    """Whether the variable is read behind the statement of ``use``, and not for its size alone."""
    return any(not is_size(source, n) for n in reads_after(source, source.statement(use), use.id))


def writes(method: str) -> bool:
    """Whether a tensor's method of that name writes to it: ``add_``."""
    return method.endswith("_") and not method.startswith("_")


def reads_after(source: Source, statement: ast.stmt, name: str) -> list[ast.Name]:
    """Where the variable ``name`` is read behind ``statement``, in the same function."""
    end = (statement.end_lineno or 0, statement.end_col_offset or 0)
    own = [n for n in ast.walk(source.function(statement) or source.tree) if isinstance(n, ast.Name) and n.id == name]
    return [n for n in own if is_read(source, n) and position(n) >= end]


def in_loop(source: Source, node: ast.AST) -> bool:
    """Whether ``node`` is in a loop, where what is further down may have run before."""
    return any(isinstance(n, LOOPS) for n in source.ancestors(node))


def is_size(source: Source, node: ast.Name) -> bool:
    """Whether a variable is only asked for its shape, type or device there."""
    parent = source.ancestors(node)[0]
    return isinstance(parent, ast.Attribute) and parent.attr in ("shape", "size", "dtype", "device", "ndim", "dim")
