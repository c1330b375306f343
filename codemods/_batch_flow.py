"""Where the batches of data loaders go in a file: from a call that gives loaders to the one function that takes batches apart.

A name is followed through this file's functions, loops, ``enumerate``, ``next`` and generators. Raises where it goes anywhere else.
"""

from __future__ import annotations

import ast
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous
from apply_opt.model.source import Function, Source, callee

from ._scopes import bindings, called, callers, named
from ._stage_calls import is_timed

PASSES = {"iter", "tqdm", "cycle", "repeat", "next", "islice"}
"""Calls of which the first argument comes out, or its elements do."""
READ = {"dataset", "sampler", "batch_sampler", "batch_size", "num_workers"}


class Unpacked(NamedTuple):
    """Where a batch is taken apart: ``images, …, padding = batch``."""

    function: Function
    statement: ast.Assign


def unpacked(source: Source, names: list[ast.Name]) -> list[Unpacked]:
    """Where batches of the loaders that ``names`` (variables, as they are assigned) hold are taken apart."""
    found: list[Unpacked] = []
    todo = [(source.function(name), name.id) for name in names]
    done: set[tuple[Optional[Function], str]] = set()
    while todo:
        function, name = todo.pop()
        if (function, name) in done:
            continue
        done.add((function, name))
        for use in _reads(source, function, name):
            parts = _parts(source, use)
            if parts is not None:
                found.append(parts)
            else:
                todo += _next(source, use)
    return sorted(set(found), key=lambda parts: parts.statement.lineno)


def _reads(source: Source, function: Optional[Function], name: str) -> list[ast.Name]:
    """Where the variable is read. Raises where another function reads it too."""
    found = [n for n in named(source, name) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    for node in (n for n in found if function is None or function in source.ancestors(n)):
        own = source.function(node)
        if own is not function and not any(
            own in (b.statement, source.function(b.statement)) for b in bindings(source, node, node)
        ):
            raise Ambiguous(f"{source.name}:{node.lineno}: another function reads {name}, which is of a data loader")
    return [n for n in found if source.function(n) is function]


def _parts(source: Source, use: ast.expr) -> Optional[Unpacked]:
    """The statement that takes ``use`` apart, if that is what is done with it."""
    statement, function = source.statement(use), source.function(use)
    is_parts = isinstance(statement, ast.Assign) and statement.value is use and len(statement.targets) == 1
    if not is_parts or function is None or not isinstance(statement.targets[0], ast.Tuple):  # type: ignore[attr-defined]
        return None
    return Unpacked(function, statement)  # type: ignore[arg-type]


def _next(source: Source, use: ast.expr) -> list[tuple[Optional[Function], str]]:
    """The variables, with their functions, that have ``use`` or its elements next."""
    user, function = source.ancestors(use)[0], source.function(use)
    if isinstance(user, ast.Call) and use in user.args:
        return _given(source, user, use)
    if isinstance(user, (ast.For, ast.comprehension)) and user.iter is use:
        return [(function, _name(source, user.target))]
    if isinstance(user, ast.Assign) and len(user.targets) == 1:
        return [(function, _name(source, user.targets[0]))]
    if isinstance(user, ast.Yield) and function is not None:
        return [pair for call in callers(source, function) for pair in _next(source, call)]
    if isinstance(user, ast.Attribute) and user.attr in READ:
        return []
    raise Ambiguous(f"{source.name}:{use.lineno}: where {ast.unparse(use)} goes, of a data loader, cannot be told")


def _given(source: Source, call: ast.Call, use: ast.expr) -> list[tuple[Optional[Function], str]]:
    """The variables that have what ``call`` is given."""
    function = called(source, call)
    if function is not None:
        parameters = [*function.args.posonlyargs, *function.args.args]
        index = call.args.index(use)
        if (
            index >= len(parameters)
            or any(isinstance(a, ast.Starred) for a in call.args)
            or function not in source.tree.body
        ):
            raise Ambiguous(
                f"{source.name}:{call.lineno}: which argument of {function.name} a data loader is cannot be told"
            )
        return [(function, parameters[index].arg)]
    if callee(call) == "len":
        return []
    loop = source.ancestors(call)[0]
    if callee(call) == "enumerate" and isinstance(loop, ast.For) and isinstance(loop.target, ast.Tuple):
        return [(source.function(call), _name(source, loop.target.elts[-1]))]
    if (callee(call) in PASSES or is_timed(call)) and use is call.args[0]:
        return _next(source, call)
    raise Ambiguous(
        f"{source.name}:{call.lineno}: what {ast.unparse(call.func)} does with a data loader cannot be told"
    )


def _name(source: Source, target: ast.expr) -> str:
    if not isinstance(target, ast.Name):
        raise Ambiguous(f"{source.name}:{target.lineno}: a data loader or its batch goes to more than a variable")
    return target.id
