"""Where a data set of recorded episodes makes its items, and what of an HDF5 file outlives the ``with`` that opened it.

What is read of an HDF5 file with an index is an array of its own; a group, a data set without an index, and the file's attributes read
when they are asked: https://docs.h5py.org/en/stable/high/dataset.html#reading-writing-data.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Optional

from apply_opt.model.source import Function, Source, callee

from ._helpers import is_builtin, meant
from ._scopes import FUNCTIONS, methods

ITEMS = ("__getitem__", "__getitems__")
FACTS = {"shape", "dtype", "size", "ndim", "nbytes", "chunks", "compression", "maxshape", "name", "filename"}
"""Attributes of a file, group or data set that are values of their own."""
COPIES = {f"numpy.{name}" for name in ("array", "asarray", "asanyarray", "ascontiguousarray", "shape", "stack")}
TOLD = {"len", "list", "sorted", "tuple", "set", "print", "str", "repr", "isinstance"}
"""Functions of which nothing that comes out reads the file."""
LEAVES = {"quit", "exit", "_exit", "abort"}
LATER = (ast.Lambda, ast.GeneratorExp, *FUNCTIONS, ast.ClassDef)


def item_methods(source: Source) -> list[Function]:
    """The methods that make items: ``__getitem__`` of a class, and what it calls of its own class."""
    found: list[Function] = []
    for cls in (n for n in source.nodes("__getitem__") if isinstance(n, ast.ClassDef)):
        own = methods(cls)
        reached = [m for m in own if m.name in ITEMS]
        for method in reached:
            asked = {callee(n) for n in ast.walk(method) if isinstance(n, ast.Call) and _is_own(n, method)}
            reached += [m for m in own if m.name in asked and m not in reached]
        found += [m for m in reached if m not in found]
    return found


def _is_own(call: ast.Call, method: Function) -> bool:
    """Whether ``call`` is ``self.NAME(…)``."""
    base = call.func.value if isinstance(call.func, ast.Attribute) else None
    return isinstance(base, ast.Name) and base.id in [a.arg for a in method.args.args[:1]]


def outlives(source: Source, block: ast.With, name: str, function: Function) -> Iterator[ast.expr]:
    """The places where a file, open in ``block`` as ``name``, or something that reads from it, gets where it may be kept.

    That is anywhere but in an index that reads it, a question (``in``, ``len``, ``.shape``), or a variable of which the same holds.
    """
    names = [name]
    for word in names:
        own = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == word]
        for node in (n for n in own if isinstance(n.ctx, ast.Load)):
            around = source.ancestors(node)
            within = around[: around.index(block)] if block in around else None
            if within is None or any(isinstance(n, LATER) for n in within):
                yield node
                continue
            lazy = _widest(source, node, is_file=word == name)
            variable = _variable(source, lazy)
            if variable is not None:
                names += [variable] if variable not in names else []
            elif not _is_read(source, lazy):
                yield lazy


def _widest(source: Source, node: ast.expr, is_file: bool) -> ast.expr:
    """``root[…]["NAME"]`` for ``root``: the group or data set that is looked up there."""
    parent = source.ancestors(node)[0]
    while isinstance(parent, ast.Subscript) and parent.value is node and (is_file or _is_name(parent.slice)):
        node, is_file = parent, False
        parent = source.ancestors(node)[0]
    return node


def _is_name(key: ast.expr) -> bool:
    """Whether ``key`` is certainly a text."""
    return isinstance(key, ast.JoinedStr) or (isinstance(key, ast.Constant) and isinstance(key.value, str))


def _variable(source: Source, value: ast.expr) -> Optional[str]:
    """The variable that ``value`` is given to, where that is all that is done with it."""
    statement = source.ancestors(value)[0]
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        (target,) = statement.targets
        return target.id if isinstance(target, ast.Name) else None
    return None


def _is_read(source: Source, lazy: ast.expr) -> bool:
    """Whether what is done with ``lazy`` is over at once."""
    parent, *around = source.ancestors(lazy)
    if isinstance(parent, ast.Attribute):
        return parent.attr in FACTS or _is_asked(parent, around)
    if isinstance(parent, ast.Call) and lazy in parent.args:
        name = meant(source, parent.func)
        return name in COPIES or (name in TOLD and is_builtin(source, name))
    if isinstance(parent, ast.Compare):
        return all(isinstance(operator, (ast.In, ast.NotIn)) for operator in parent.ops)
    is_loop = isinstance(parent, (ast.For, ast.comprehension)) and parent.iter is lazy
    return is_loop or (isinstance(parent, ast.Subscript) and parent.value is lazy)


def _is_asked(attribute: ast.Attribute, around: list[ast.AST]) -> bool:
    """Whether ``root.attrs`` is read, ``root.keys()`` called."""
    parent = around[0]
    if attribute.attr == "keys":
        return isinstance(parent, ast.Call)
    if attribute.attr != "attrs":
        return False
    if isinstance(parent, ast.Attribute):
        return parent.attr in ("get", "keys", "items", "values") and isinstance(around[1], ast.Call)
    return isinstance(parent, (ast.Subscript, ast.Compare))


def leaves(handler: ast.ExceptHandler) -> bool:
    """Whether an exception's handler comes to no end of its own."""
    last = handler.body[-1]
    is_exit = isinstance(last, ast.Expr) and isinstance(last.value, ast.Call) and callee(last.value) in LEAVES
    return is_exit or isinstance(last, ast.Raise)
