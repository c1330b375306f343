"""A loop over the samples of a batch that writes prompts, and what is in it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Optional

from apply_opt.errors import Ambiguous
from apply_opt.model.source import Source

from ._products import writes
from ._scopes import FUNCTIONS, PARAMETER, Binding, called, certain, default_of, paired, reaching, targets_of
from ._spellings import is_without_gradients

WRITER = "build_prompt_text"
"""The generator's method that writes a prompt."""
KEEPS = "_known_features"
"""Our function that keeps what a generator says (``dwt_feature_cache``)."""
PLAIN = (ast.List, ast.Dict, ast.Constant, ast.JoinedStr, ast.ListComp, ast.DictComp)
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
    own = [s for s in own_statements(loop) if isinstance(s, (ast.Assign, ast.AnnAssign)) and s.value]
    pairs = [pair for s in own for pair in paired(targets_of(s)[0], s.value)]  # type: ignore[arg-type]
    found = [value for target, value in pairs if ast.unparse(target) == name]
    return found[0] if len(found) == len(stores(loop, name)) == 1 else None


def check_unchanged(source: Source, loop: ast.AST, attribute: str = "") -> None:
    """Raise where ``loop``, or a function of this file that it calls, may change a tensor in place, or what ``attribute`` holds."""
    scopes: list[ast.AST] = [loop]
    for scope in scopes:
        function = scope if scope is not loop else source.function(loop)
        for node in ast.walk(scope):
            line = f"{source.name}:{getattr(node, 'lineno', 0)}"
            if function is not None and _may_write(function, node):
                raise Ambiguous(f"{line}: something is changed in place in the loop")
            if scope is not loop and isinstance(node, ast.Attribute) and ast.unparse(node) == attribute:
                raise Ambiguous(f"{line}: something else is done with {attribute}")
            other = called(source, node) if isinstance(node, ast.Call) else None
            is_ours = other is None or other.name == KEEPS  # what it changes is its own
            scopes += [] if is_ours or other in scopes else [other]  # type: ignore[list-item]


def _may_write(function: ast.AST, node: ast.AST) -> bool:
    """Whether ``node`` changes an object in place that may be a tensor: it is nothing that began as a list, a dictionary or a text."""
    if isinstance(node, ast.Call):
        is_method = isinstance(node.func, ast.Attribute) and writes(node.func.attr)
        return is_method or any(keyword.arg == "out" for keyword in node.keywords)
    if isinstance(node, ast.AugAssign):
        if any(isinstance(n, (ast.JoinedStr, ast.List)) or _is_text(n) for n in (node.value, *_sides(node.value))):
            return False
        target: ast.expr = node.target
    elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        target = node.value
    else:
        return False
    every = [n for n in ast.walk(function) if isinstance(n, (ast.Assign, ast.AnnAssign)) and n.value]
    given = [n.value for n in every if ast.unparse(targets_of(n)[0]) == ast.unparse(target)]
    return not given or not all(isinstance(value, PLAIN) for value in given)


def _sides(value: ast.expr) -> list[ast.expr]:
    """What a sum is made of, or a choice between two."""
    if isinstance(value, ast.IfExp):
        return [value.body, value.orelse]
    return [value.left, value.right] if isinstance(value, ast.BinOp) else []


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def check_given(source: Source, loop: ast.For, name: str) -> None:
    """Raise where the variable ``name`` may have no value when ``loop`` begins, or ``None``."""
    found = reaching(source, ast.Name(name, ast.Load()), loop)
    given = [binding.statement for binding in found if binding.kind != PARAMETER]
    is_sure = len(given) < len(found) or any(certain(source, s, loop) or _is_with(source, s, loop) for s in given)
    if not (is_sure or _are_of_both_arms(source, given, loop)) or any(_may_be_nothing(b, name) for b in found):
        raise Ambiguous(f"{source.name}:{loop.lineno}: where {name} comes from cannot be told")


def _is_with(source: Source, statement: ast.stmt, loop: ast.For) -> bool:
    """Whether ``statement`` is under the same condition as ``loop``: one of plain values."""
    around = [n for n in source.ancestors(loop) if isinstance(n, ast.If)]
    tests = [ast.unparse(n.test) for n in around if any(loop in ast.walk(s) for s in n.body)]
    block = source.ancestors(statement)[0]
    is_plain = isinstance(block, ast.If) and not any(
        isinstance(n, (ast.Call, ast.NamedExpr)) for n in ast.walk(block.test)
    )
    if not is_plain or not isinstance(block, ast.If) or statement not in block.body:
        return False
    return certain(source, block, loop) and ast.unparse(block.test) in tests


def _are_of_both_arms(source: Source, given: Sequence[ast.stmt], loop: ast.For) -> bool:
    """Whether there is a choice ahead of ``loop`` with one of the statements in each of its arms."""
    choices = [n for s in given for n in source.ancestors(s)[:1] if isinstance(n, ast.If) and certain(source, n, loop)]
    return any(all(any(s in arm for s in given) for arm in (choice.body, choice.orelse)) for choice in choices)


def _may_be_nothing(binding: Binding, name: str) -> bool:
    """Whether a variable is deleted there, declared, or given ``None``, be it in one case of two."""
    if isinstance(binding.statement, FUNCTIONS):
        value = default_of(binding.statement, name)
        return isinstance(value, ast.Constant) and value.value is None
    value = getattr(binding.statement, "value", None)
    values = [value.body, value.orelse] if isinstance(value, ast.IfExp) else getattr(value, "elts", [value])
    is_nothing = any(isinstance(v, ast.Constant) and v.value is None for v in values)
    return isinstance(binding.statement, ast.Delete) or binding.is_empty() or is_nothing


def check_plain(source: Source, loop: ast.For) -> None:
    """Raise where something in ``loop`` may run at another time, or gives a variable its value within an expression."""
    for node in ast.walk(loop):
        if isinstance(node, HIDDEN):
            raise Ambiguous(f"{source.name}:{node.lineno}: more is done in the loop than can be told")
