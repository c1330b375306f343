"""A loop over the samples of a batch that writes prompts from wavelets, and what is in it."""

from __future__ import annotations

import ast
from typing import Optional

from apply_opt.errors import Ambiguous
from apply_opt.model.source import Source

from ._scopes import targets_of
from ._spellings import is_without_gradients

WRITER = "build_prompt_text"
"""The generator's method that writes a prompt."""
HIDDEN = (ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef, ast.Yield, ast.YieldFrom, ast.Await, ast.NamedExpr)


def stores(scope: ast.AST, name: str) -> list[ast.Name]:
    """Where a variable gets a value in ``scope``, or is deleted."""
    names = [n for n in ast.walk(scope) if isinstance(n, ast.Name) and n.id == name]
    return [n for n in names if not isinstance(n.ctx, ast.Load)]


def own_statements(loop: ast.For) -> list[ast.stmt]:
    """The statements of ``loop`` that run each time it does, in order: also those without gradients."""
    return [s for statement in loop.body for s in (statement.body if is_without_gradients(statement) else [statement])]  # type: ignore[attr-defined]


def given_once(loop: ast.For, name: str) -> Optional[ast.expr]:
    """What the variable gets in one of :func:`own_statements`; nothing, where it gets a value anywhere else in ``loop``, too."""
    own = [s for s in own_statements(loop) if isinstance(s, (ast.Assign, ast.AnnAssign))]
    found = [s.value for s in own if ast.unparse(targets_of(s)[0]) == name]
    return found[0] if len(found) == len(stores(loop, name)) == 1 else None


def check_plain(source: Source, loop: ast.For) -> None:
    """Raise where something in ``loop`` may run at another time, or gives a variable its value within an expression."""
    for node in ast.walk(loop):
        if isinstance(node, HIDDEN):
            raise Ambiguous(f"{source.name}:{node.lineno}: more is done in the loop than can be told")
