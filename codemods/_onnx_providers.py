"""Whether a session's providers can be said a second time, in front of it, with the same meaning and without harm.

A second evaluation must find every name bound, must not consume an iterator, and must not call anything. What is not
shown to be so counts as not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Optional

from apply_opt.model.source import Function, Source, bodies, callee, own_nodes

from ._onnx_files import DEPTH
from ._onnx_uses import HARMLESS, Use
from ._scopes import (
    FUNCTIONS,
    PARAMETER,
    Binding,
    Scope,
    bindings,
    called,
    callers,
    default_of,
    parameters_of,
    passed,
    position,
    scope_of,
    targets_of,
)

LITERAL = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.expr_context)
LOOKS = (ast.Compare, ast.UnaryOp, ast.FormattedValue, ast.If, ast.While)
PLAIN = (
    *(*LITERAL, ast.Name, ast.Attribute, ast.IfExp, ast.BoolOp, ast.Compare, ast.UnaryOp),
    *(ast.boolop, ast.cmpop, ast.Not),
)
SIMPLE = (ast.Assign, ast.AnnAssign, ast.Expr, ast.Return)
PASSES_ON = (ast.Call, ast.keyword, ast.Tuple, ast.List, ast.Dict)
ONCE = {
    *("iter", "map", "filter", "zip", "reversed", "enumerate", "chain", "from_iterable", "generator", "stream"),
    *("open", "reader", "glob", "iglob", "rglob", "iterdir", "scandir", "finditer", "imap", "as_completed"),
}
EAGER = (
    *(ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.BinOp, ast.Subscript),
    *(ast.ListComp, ast.SetComp, ast.DictComp),
)
PURE_CALLS = HARMLESS | {"join", "Path", "fspath", "exists"}
GROWS = {"append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse"}
ENDS = (ast.Return, ast.Raise, ast.Continue, ast.Break)


def can_repeat(source: Source, use: Use, place: ast.stmt) -> bool:
    """Whether the providers of ``use`` can be evaluated at ``place``: in that statement, or right in front of or after it."""
    providers = use.providers
    if providers is None:
        return False
    if all(isinstance(n, LITERAL) for n in ast.walk(providers)):
        return True
    function = scope_of(source, place)
    if use.statement not in source.ancestors(providers) or function is not scope_of(source, use.statement):
        return False
    adjacent = _is_adjacent(source, place, use.statement)
    if _is_known(source, function, providers, place, adjacent):
        return True
    return adjacent and _is_evaluated(source, use.statement, providers) and _is_plain(source, providers)


def _is_adjacent(source: Source, place: ast.stmt, statement: ast.stmt) -> bool:
    """Whether nothing runs between the two."""
    parent = [*source.ancestors(statement), source.tree][0]
    block = next(block for block in bodies(parent) if statement in block)
    return place is statement or place in block[: block.index(statement)][-1:]


# A name of the function


def _is_known(source: Source, function: Scope, name: ast.expr, place: ast.stmt, adjacent: bool) -> bool:
    """Whether ``name`` is a function's variable, bound at ``place`` to a list that stays as it is until the session is built."""
    if not isinstance(name, ast.Name) or not isinstance(function, FUNCTIONS):
        return False
    parameter = [a for a in parameters_of(function) if a.arg == name.id]
    for node in (n for n in ast.walk(function) if name.id in _names(n) and n is not name and n not in parameter):
        own = isinstance(node, ast.Name) and scope_of(source, node) is function
        if not (own and isinstance(node, ast.Name) and _is_usual(source, node, place, adjacent)):
            return False
    if parameter:
        return _is_list_parameter(source, function, name.id, DEPTH)
    return any(_binds(block[: block.index(step)], name.id) for block, step in _chain(source, function, place))


def _names(node: ast.AST) -> list[object]:
    """The names that ``node`` reads, gives a value, or declares."""
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        return list(node.names)
    if isinstance(node, ast.alias):
        return [node.asname or node.name.partition(".")[0]]
    fields = ("id", "name", "rest") if not isinstance(node, ast.arg) else ("arg",)
    return [getattr(node, field, None) for field in fields]


def _is_usual(source: Source, node: ast.Name, place: ast.stmt, adjacent: bool) -> bool:
    """Whether this mention of the name leaves its value known: a plain assignment or change above ``place``, or a look."""
    statement, (parent, *rest) = source.statement(node), source.ancestors(node)
    above = position(statement) < position(place)
    if isinstance(node.ctx, ast.Del):
        return False
    if isinstance(node.ctx, ast.Store):
        if isinstance(statement, ast.AugAssign):
            return above and is_eager(source, statement.value)
        value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
        return above and targets_of(statement) == [node] and value is not None and is_eager(source, value)
    if isinstance(parent, ast.Attribute):
        return above and parent.attr in GROWS and isinstance(rest[0], ast.Call)
    if isinstance(parent, ast.Subscript):
        return above or isinstance(parent.ctx, ast.Load)
    call = rest[0] if isinstance(parent, ast.keyword) else parent
    if isinstance(call, ast.Call) and callee(call) in HARMLESS | {
        "InferenceSession",
        "len",
        "list",
        "tuple",
        "join",
        "_warn_without_cuda",
    }:
        return True
    return isinstance(parent, LOOKS) or adjacent


def _chain(source: Source, function: Function, place: ast.stmt) -> Iterator[tuple[list[ast.stmt], ast.stmt]]:
    """The blocks around ``place``, each with its statement that holds it: what stands above that has run."""
    step: ast.AST = place
    for parent in source.ancestors(place):
        for block in bodies(parent):
            if isinstance(step, ast.stmt) and step in block:
                yield block, step
        if parent is function:
            return
        step = parent


def _binds(block: Iterable[ast.stmt], name: str) -> bool:
    """Whether ``name`` has a value when ``block`` is over."""
    return any(_binds_one(statement, name) for statement in block)


def _binds_one(statement: ast.stmt, name: str) -> bool:
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        return statement.value is not None and any(
            isinstance(t, ast.Name) and t.id == name for t in targets_of(statement)
        )
    if isinstance(statement, ast.If):
        return all(_binds_or_ends(arm, name) for arm in (statement.body, statement.orelse))
    if isinstance(statement, ast.Try):
        tried = _binds([*statement.body, *statement.orelse], name)
        return _binds(statement.finalbody, name) or (
            tried and all(_binds_or_ends(h.body, name) for h in statement.handlers)
        )
    return False


def _binds_or_ends(block: list[ast.stmt], name: str) -> bool:
    return _binds(block, name) or (bool(block) and isinstance(block[-1], ENDS))


# Any expression, right in front of the session


def _is_evaluated(source: Source, statement: ast.stmt, providers: ast.expr) -> bool:
    """Whether a simple ``statement`` certainly evaluates ``providers``, and runs nothing before that which matters."""
    around = source.ancestors(providers)
    inside = around[: around.index(statement)]
    others = [n for n in ast.walk(statement) if n not in inside]
    if any(isinstance(n, (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)) for n in others):
        return False
    pure = all(callee(n) in PURE_CALLS for n in others if isinstance(n, ast.Call))
    return pure and isinstance(statement, SIMPLE) and all(isinstance(n, PASSES_ON) for n in inside)


def _is_plain(source: Source, providers: ast.expr) -> bool:
    """Whether ``providers`` are only names, attributes of names and constants, none of them an iterator."""
    parts = list(ast.walk(providers))
    direct = all(isinstance(n.value, ast.Name) for n in parts if isinstance(n, ast.Attribute))
    return direct and all(isinstance(n, PLAIN) for n in parts) and is_eager(source, providers)


# What can be gone through twice


def is_eager(source: Source, value: ast.expr, depth: int = DEPTH) -> bool:
    """Whether ``value`` is not an iterator, which is empty when it has been gone through once; unknown calls give lists."""
    if isinstance(value, ast.Await):
        return is_eager(source, value.value, depth)
    if isinstance(value, ast.IfExp):
        return is_eager(source, value.body, depth) and is_eager(source, value.orelse, depth)
    if isinstance(value, ast.BoolOp):
        return all(is_eager(source, part, depth) for part in value.values)
    if isinstance(value, ast.Call):
        function = called(source, value)
        lazy = function is not None and any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in own_nodes(function))
        return not lazy and callee(value) not in ONCE and "itertools" not in ast.unparse(value.func)
    if isinstance(value, (ast.Name, ast.Attribute)) and depth:
        found = bindings(source, value, value)
        name = value.id if isinstance(value, ast.Name) else ""
        return bool(found or not name) and all(_is_eager_binding(source, b, name, depth - 1) for b in found)
    return isinstance(value, EAGER)


def _is_eager_binding(source: Source, binding: Binding, name: str, depth: int) -> bool:
    statement = binding.statement
    if binding.value is not None:
        return is_eager(source, binding.value, depth)
    if binding.kind == PARAMETER and isinstance(statement, FUNCTIONS):
        return _is_list_parameter(source, statement, name, depth)
    if isinstance(statement, (ast.Import, ast.ImportFrom, ast.AnnAssign)):
        return True
    elements: Optional[list[ast.expr]] = getattr(binding.among, "elts", None)
    return elements is not None and all(is_eager(source, element, depth) for element in elements)


def _is_list_parameter(source: Source, function: Function, name: str, depth: int) -> bool:
    """Whether a parameter is not said to be an iterator, nor given one in this file."""
    annotations = [a.annotation for a in parameters_of(function) if a.arg == name and a.annotation is not None]
    if any(word in ast.unparse(a) for a in annotations for word in ("Iter", "Generator")):
        return False
    given = [default_of(function, name), *(passed(source, function, name, call) for call in callers(source, function))]
    return all(value is None or is_eager(source, value, depth) for value in given)
