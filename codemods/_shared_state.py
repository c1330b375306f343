"""Whether two methods of an object can run at the same time: what they do with its attributes, with globals, with an argument.

What a call may change is not known, so that a method that is called on an attribute counts as a change of it. Where two
methods may get in each other's way, :func:`in_the_way` says how.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from apply_opt.model.source import Function, Source, callee, own_nodes

from ._scopes import called, family, methods, owners, position, scope_of, targets_of

LOGS = {"debug", "info", "warning", "warn", "error", "exception", "critical", "log"}
LOOPS = (ast.For, ast.AsyncFor, ast.comprehension)


class Use(NamedTuple):
    """One place that uses an attribute of the object; ``changes`` where it may be another one, or hold something else, after it."""

    node: ast.Attribute
    changes: bool


def in_the_way(source: Source, cls: ast.ClassDef, one: Function, other: Function) -> Optional[str]:
    """Why ``one`` and ``other``, methods of ``cls``, cannot run side by side; ``None`` where nothing speaks against it."""
    reached = [reaches(source, cls, method) for method in (one, other)]
    uses = [_uses(source, cls, functions) for functions in reached]
    for name in sorted(set(uses[0]) & set(uses[1])):
        found = [min(uses[side][name], key=lambda use: (not use.changes, position(use.node))) for side in (0, 1)]
        if any(use.changes for use in found):
            lines = " and ".join(f"line {use.node.lineno}" for use in found)
            return f"both use self.{name} ({lines}), and it may change there"
    for functions, others in (reached, reached[::-1]):
        for name, line in _globals(functions):
            if any(name in _names(function) for function in others):
                return f"both use the global variable {name} (line {line})"
    for method in (one, other):
        changed = _changes_argument(source, method)
        if changed is not None:
            return f"line {changed} may change what {method.name} is given"
    return None


def reaches(source: Source, cls: ast.ClassDef, method: Function) -> list[Function]:
    """``method`` and the functions of this file that it runs: those it calls, and properties of the object."""
    found = [method]
    for function in found:
        found += [inner for inner in _runs(source, cls, function) if inner not in found]
    return found


@functools.lru_cache(maxsize=256)
def _runs(source: Source, cls: ast.ClassDef, function: Function) -> tuple[Function, ...]:
    """The functions of this file that ``function`` itself runs."""
    own = {m.name: m for c in reversed(family(source, cls)) for m in methods(c)}
    nodes = list(ast.walk(function))
    found = [called(source, node) for node in nodes if isinstance(node, ast.Call)]
    attributes = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr in own]
    found += [own[node.attr] for node in attributes if owners(source, node)]
    return tuple(f for f in dict.fromkeys(found) if f is not None)


def _uses(source: Source, cls: ast.ClassDef, functions: Sequence[Function]) -> dict[str, list[Use]]:
    """What ``functions`` do with the attributes of the object, by their names; not with its methods."""
    own = {m.name for c in family(source, cls) for m in methods(c)}
    found: dict[str, list[Use]] = {}
    for node in (node for function in functions for node in ast.walk(function)):
        if isinstance(node, ast.Attribute) and node.attr not in own and owners(source, node):
            found.setdefault(node.attr, []).append(Use(node, _changes(source, node)))
    return found


def _changes(source: Source, node: ast.expr) -> bool:
    """Whether the value that ``node`` reads may be changed right here: stored to, held as a lock, or asked to do something."""
    parent = source.ancestors(node)[0]
    if not isinstance(getattr(node, "ctx", None), ast.Load) or isinstance(parent, (ast.withitem, ast.AugAssign)):
        return True
    if isinstance(parent, (ast.Attribute, ast.Subscript)) and parent.value is node:
        around = source.ancestors(parent)[0]
        if isinstance(around, ast.Call) and around.func is parent:
            return callee(around) not in LOGS
        return _changes(source, parent)
    return False


def _globals(functions: Sequence[Function]) -> Iterator[tuple[str, int]]:
    """The global variables that ``functions`` give another value."""
    for node in (node for function in functions for node in ast.walk(function)):
        if isinstance(node, ast.Global):
            yield from ((name, node.lineno) for name in node.names)


def _names(function: Function) -> set[str]:
    return {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}


def _changes_argument(source: Source, method: Function) -> Optional[int]:
    """Where ``method`` may change an argument in place, or a part of it, rather than make something new of it."""
    given = _made_of_arguments(source, method)
    for node in (n for n in ast.walk(method) if isinstance(n, ast.Name) and n.id in given):
        parent, *rest = source.ancestors(node)
        if isinstance(parent, ast.AugAssign) and parent.target is node:
            return parent.lineno
        if isinstance(parent, ast.Subscript) and parent.value is node and not isinstance(parent.ctx, ast.Load):
            return parent.lineno
        in_place = isinstance(parent, ast.Attribute) and parent.attr.endswith("_") and not parent.attr.endswith("__")
        if in_place and isinstance(rest[0], ast.Call):
            return node.lineno
    return next((k.value.lineno for k in ast.walk(method) if isinstance(k, ast.keyword) and k.arg == "out"), None)


def _made_of_arguments(source: Source, method: Function) -> set[str]:
    """The parameters of ``method``, and its variables that get a value made of them."""
    arguments = method.args
    found = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)[1:]}
    statements = [n for n in own_nodes(method) if isinstance(n, (ast.Assign, ast.AnnAssign, *LOOPS))]
    for _ in statements:
        for node in statements:
            value = node.iter if isinstance(node, LOOPS) else node.value
            targets = [node.target] if isinstance(node, LOOPS) else targets_of(node)
            if value is not None and any(isinstance(n, ast.Name) and n.id in found for n in ast.walk(value)):
                found |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return found - {"self"} if isinstance(scope_of(source, method), ast.ClassDef) else found
