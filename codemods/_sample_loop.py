"""A loop over the samples of a batch that writes prompts from wavelets, and what is in it."""

from __future__ import annotations

import ast

from apply_opt.errors import Ambiguous
from apply_opt.model.source import Source

WRITER = "build_prompt_text"
"""The generator's method that writes a prompt."""
HIDDEN = (ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef, ast.Yield, ast.YieldFrom, ast.Await, ast.NamedExpr)


def stores(scope: ast.AST, name: str) -> list[ast.Name]:
    """Where a variable gets a value in ``scope``, or is deleted."""
    names = [n for n in ast.walk(scope) if isinstance(n, ast.Name) and n.id == name]
    return [n for n in names if not isinstance(n.ctx, ast.Load)]


def given_once(loop: ast.For, name: str) -> list[ast.Assign]:
    """The assignments of ``loop``'s own to a variable: one, or none where it gets a value anywhere else in it, too."""
    found = [s for s in loop.body if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == name]
    return found if len(found) == len(stores(loop, name)) == 1 else []


def check_plain(source: Source, loop: ast.For) -> None:
    """Raise where something in ``loop`` may run at another time, or gives a variable its value within an expression."""
    for node in ast.walk(loop):
        if isinstance(node, HIDDEN):
            raise Ambiguous(f"{source.name}:{node.lineno}: more is done in the loop than can be told")
