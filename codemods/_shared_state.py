"""Whether two methods of an object can run at the same time: what they do with its attributes, with globals, with an argument.

What a call may change is not known, so that a method that is called on an attribute counts as a change of it. Where two
methods may get in each other's way, :func:`in_the_way` says how.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from apply_opt.model.source import Function, Source, callee, own_nodes

from ._scopes import bindings, called, family, methods, owners, position, scope_of, targets_of

IN_PLACE = re.compile(
    r"\w*[a-z]_|copyto|put|seek|truncate|write|writelines|save|acquire|release|sort|reverse|add|append\w*|clear|"
    r"discard|extend|insert|move_to_end|pop\w*|remove|setdefault|update"
)
"""Methods that change what they are called on, and functions that change their first argument."""
RANDOM = re.compile(
    r"rand\w*|random|uniform_?|normal_?|choices?|shuffle|sample|bernoulli_?|multinomial|exponential_|dropout\w*|"
    r"(manual_)?seed"
)
OF_THE_THREAD = {"current_thread", "get_ident", "get_native_id"}
QUIET = {
    "int",
    "float",
    "str",
    "bool",
    "len",
    "isinstance",
    "hasattr",
    "range",
    "min",
    "max",
    "round",
    "print",
    "join",
    "exists",
    "isfile",
    "isdir",
}
NUMBERS = {"int", "float", "bool", "device"}
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
        if any(use.changes or _may_be_changed(source, use.node) for use in found):
            lines = " and ".join(f"line {use.node.lineno}" for use in found)
            return f"both use self.{name} ({lines}), and it may change there"
    for functions, others in (reached, reached[::-1]):
        for name, line in _globals(functions):
            if any(name in _names(function) for function in others):
                return f"both use the global variable {name} (line {line})"
    draws = [next((n for f in functions for n in _calls(f, RANDOM)), None) for functions in reached]
    if all(draws):
        lines = " and ".join(f"line {call.lineno}" for call in draws if call is not None)
        return f"both draw random numbers ({lines}), in an order that would not be the same each time"
    for functions in reached:
        own = of_the_thread(source, cls, functions)
        if own is not None:
            return f"{ast.unparse(own)} (line {own.lineno}) is another one in another thread"
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


def _calls(function: Function, names: re.Pattern[str]) -> list[ast.Call]:
    return [n for n in ast.walk(function) if isinstance(n, ast.Call) and names.fullmatch(callee(n))]


def of_the_thread(source: Source, cls: ast.ClassDef, functions: Sequence[Function]) -> Optional[ast.expr]:
    """What ``functions`` use that each thread has its own of: variables of the module, attributes of ``cls``.

    Values of :mod:`contextvars` go along with a copied context, and are no such thing.
    """
    made = [n for n in source.nodes("local") if isinstance(n, ast.Call) and callee(n) == "local" and not n.args]
    targets = [t for call in made for t in targets_of(source.statement(call))]
    variables = {t.id for t in targets if isinstance(t, ast.Name) and isinstance(scope_of(source, t), ast.Module)}
    attributes = {t.attr for t in targets if isinstance(t, ast.Attribute) and cls in owners(source, t)}
    for node in (n for function in functions for n in ast.walk(function)):
        if isinstance(node, ast.Name) and node.id in variables | OF_THE_THREAD:
            return node
        is_own = isinstance(node, ast.Attribute) and node.attr in attributes and cls in owners(source, node)
        if is_own or (isinstance(node, ast.Attribute) and node.attr in OF_THE_THREAD):
            return node  # type: ignore[return-value]
    return None


def _whole(source: Source, node: ast.expr) -> ast.expr:
    """``node`` with what is taken out of it right there: ``self.x[0].y``."""
    parent = source.ancestors(node)[0]
    is_part = isinstance(parent, (ast.Attribute, ast.Subscript)) and parent.value is node
    return _whole(source, parent) if is_part else node  # type: ignore[arg-type]


def _may_be_changed(source: Source, node: ast.Attribute) -> bool:
    """Whether a function that may do anything gets what ``node`` holds, or a variable that is changed in place."""
    function = source.function(node)
    is_changed = function is not None and changed_in_place(source, function, node) is not None
    return is_changed or (_is_argument(source, node) and not _is_number(source, node))


def _is_argument(source: Source, node: ast.expr) -> bool:
    whole = _whole(source, node)
    parent, *rest = source.ancestors(whole)
    call = rest[0] if isinstance(parent, ast.keyword) else parent
    return isinstance(call, ast.Call) and call.func is not whole and callee(call) not in QUIET | LOGS


def _is_number(source: Source, node: ast.Attribute) -> bool:
    """Whether the attribute is only ever given numbers, or a device: nothing that could be changed in place."""
    values = [b.value for b in bindings(source, node, source.tree.body[-1])] or [None]
    return all(
        (isinstance(v, ast.Constant) and not isinstance(v.value, str))
        or (isinstance(v, ast.Call) and callee(v) in NUMBERS)
        for v in values
    )


def changed_in_place(source: Source, function: Function, node: ast.expr) -> Optional[ast.AST]:
    """Where ``function`` changes in place what ``node`` holds: right there, by a function it is handed to, or by a variable."""
    whole = _whole(source, node)
    if _is_changed(source, whole):
        return whole
    statement = source.statement(whole)
    is_given = isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is whole
    names = {t.id for t in targets_of(statement) if isinstance(t, ast.Name)} if is_given else set()
    uses = [
        n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id in names and n not in targets_of(statement)
    ]
    return next((n for n in uses if _is_changed(source, _whole(source, n))), None)


def changes_global(source: Source, function: Function) -> Optional[ast.AST]:
    """Where ``function`` changes a variable of the module in place."""
    own = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own |= {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)}
    module = {t.id for s in source.tree.body for t in targets_of(s) if isinstance(t, ast.Name)}
    uses = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id in module - own]
    return next((n for n in uses if _is_changed(source, _whole(source, n))), None)


def _is_changed(source: Source, node: ast.expr) -> bool:
    """Whether a part of it is stored to, or a method or function is called that changes it."""
    if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
        return True
    parent = source.ancestors(node)[0]
    if isinstance(parent, ast.Call) and parent.func is node:
        return bool(IN_PLACE.fullmatch(callee(parent)))
    if isinstance(parent, ast.Call) and parent.args[:1] == [node]:
        return bool(IN_PLACE.fullmatch(callee(parent)))
    return isinstance(parent, ast.AugAssign) or (isinstance(parent, ast.keyword) and parent.arg == "out")


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
