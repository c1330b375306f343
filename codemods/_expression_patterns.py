"""Expressions found by a pattern: Python itself, where ``_`` stands for any expression and ``...`` for any arguments."""

from __future__ import annotations

import ast
from collections.abc import Iterable

Patterns = tuple[ast.expr, ...]


def patterns(texts: Iterable[str]) -> Patterns:
    """Each of ``texts`` as a pattern. Raises :class:`SyntaxError`."""
    return tuple(ast.parse(text, mode="eval").body for text in texts)


def written(some: Patterns) -> str:
    """The patterns, for people."""
    return " or ".join(map(ast.unparse, some))


def is_like(node: ast.AST, some: Patterns) -> bool:
    """Whether ``node`` fits one of the patterns."""
    return any(_fits(pattern, node) for pattern in some)


def found(nodes: Iterable[ast.AST], some: Patterns) -> list[ast.expr]:
    """Those of ``nodes`` that fit one of the patterns."""
    return [node for node in nodes if isinstance(node, ast.expr) and is_like(node, some)]


def _fits(pattern: ast.AST, node: ast.AST) -> bool:
    if isinstance(pattern, ast.Name) and pattern.id == "_":
        return isinstance(node, ast.expr)
    if type(pattern) is not type(node):
        return False
    if isinstance(pattern, ast.Call) and any(_is_rest(argument) for argument in pattern.args):
        assert isinstance(node, ast.Call)
        return _fits(pattern.func, node.func)
    fields = (name for name in pattern._fields if name not in ("ctx", "kind"))
    return all(_same(getattr(pattern, name), getattr(node, name)) for name in fields)


def _is_rest(argument: ast.expr) -> bool:
    return isinstance(argument, ast.Constant) and argument.value is ...


def _same(wanted: object, given: object) -> bool:
    if isinstance(wanted, ast.AST) and isinstance(given, ast.AST):
        return _fits(wanted, given)
    if isinstance(wanted, list) and isinstance(given, list):
        return len(wanted) == len(given) and all(map(_same, wanted, given))
    return type(wanted) is type(given) and wanted == given
