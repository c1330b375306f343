"""What can happen to a ``SessionOptions``: where the code mentions it, and who may have it besides its session.

The uses that are known to keep it where it is are listed; with any other, it counts as out of sight.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous
from apply_opt.model.source import Function, Source, callee

from ._onnx_session import Creation, is_module
from ._scopes import (
    FUNCTIONS,
    Scope,
    bindings,
    called,
    function_of,
    imported_as,
    loops_with,
    mentions,
    named,
    owners,
    position,
    reaching,
    scope_of,
    targets_of,
)

HARMLESS = {"print", "repr", "str", "isinstance", "id", "type", "debug", "info", "warning"}
NUMBERS = ("intra_op_num_threads", "inter_op_num_threads")
CHANGED = (*NUMBERS, "execution_mode")
DECORATORS = ("staticmethod", "classmethod", "property", "cache", "no_grad", "inference_mode")
BY_NAME = ("getattr", "attrgetter", "methodcaller", "globals", "locals", "vars", "__dict__", "__getattribute__")


class Name(NamedTuple):
    """What the options are called in one scope, from the statement ``since`` to ``until`` (``None``: from its start, to its end)."""

    scope: Scope
    expression: ast.expr
    since: Optional[ast.stmt]
    until: Optional[ast.stmt]


class Use(NamedTuple):
    """The statement before which options can be set, what they are called there, and the session's providers as written there."""

    statement: ast.stmt
    name: ast.expr
    providers: Optional[ast.expr]


class Options(NamedTuple):
    """A ``SessionOptions``: the statement that makes it, its names (the first one there), and where to set it for its session.

    ``through`` are the calls of functions that return it (a property does too, without a call: ``is_returned``),
    ``handed`` those of functions that are given it.
    """

    made: ast.stmt
    names: Sequence[Name]
    use: Optional[Use]
    through: Sequence[ast.Call] = ()
    handed: Sequence[ast.Call] = ()
    is_returned: bool = False

    def mentions(self, source: Source) -> list[ast.expr]:
        """Where the code mentions it, from top to bottom."""
        found = {node: None for name in self.names for node in mentions_of(source, name)}
        return sorted(found, key=position)

    def appearances(self, source: Source) -> list[ast.expr]:
        """Those of the mentions where it can still be changed for the session."""
        found = {n: None for name in self.names for n in mentions_of(source, name) if not _is_late(source, name, n)}
        return sorted(found, key=position)


# Where they are mentioned


def mentions_of(source: Source, name: Name) -> Iterator[ast.expr]:
    """Where ``name`` means the options: not where another scope, or a later assignment, has its own such name."""
    for node in mentions(source, name.expression):
        given = (name.since or name.scope, None)
        if isinstance(node, ast.Attribute) and scope_of(source, node) is not name.scope:
            yield node
        elif scope_of(source, node) is not name.scope:
            if any(b.statement in given for b in bindings(source, node, node)):
                yield node
        elif name.since is None or position(source.statement(node)) > position(name.since):
            early = not _is_late(source, name, node)
            if early or any(b.statement in given for b in reaching(source, node, node)):
                yield node


def _is_late(source: Source, name: Name, node: ast.expr) -> bool:
    """Whether ``node`` comes after the session is built, in the function that builds it."""
    if name.until is None or scope_of(source, node) is not name.scope:
        return False
    after = position(source.statement(node)) > position(name.until)
    return after and not loops_with(source, node, name.until, name.since)


def is_set(source: Source, node: ast.expr) -> bool:
    """Whether one of the options that may be changed is set here."""
    parent = source.ancestors(node)[0]
    return isinstance(parent, ast.Attribute) and isinstance(parent.ctx, ast.Store) and parent.attr in CHANGED


# Who else may have them


def names_given(source: Source, node: ast.expr) -> list[ast.expr]:
    """The further names that a plain assignment of ``node`` gives it."""
    kept = source.statement(node)
    plain = isinstance(kept, (ast.Assign, ast.AnnAssign)) and kept.value is node
    targets = targets_of(kept) if plain and not isinstance(scope_of(source, kept), ast.ClassDef) else []
    return targets if all(isinstance(t, (ast.Name, ast.Attribute)) for t in targets) else []


def check_functions(source: Source, ours: Sequence[Creation], options: Options) -> None:
    """Raise where a function that makes, sets or uses these options may run for something else as well."""
    setting = {function_of(source, n) for n in options.appearances(source) if is_set(source, n)}
    through = {called(source, call) for call in options.through}
    known = {*options.through, *options.handed, *(c.via for c in ours if c.via)}
    for function in {called(source, call) for call in known}:
        if function is not None:
            is_one_s_own = function in (setting | through | {function_of(source, options.made)})
            _check_function(source, function, known, is_one_s_own)


def _check_function(source: Source, function: Function, known: Collection[ast.Call], is_one_s_own: bool) -> None:
    """Raise for uses of ``function`` that cannot be followed, and for others than the ``known`` where it is for one session."""
    for use in _uses_of(source, function):
        call = source.ancestors(use)[0]
        is_call = isinstance(call, ast.Call) and call.func is use
        runs = called(source, call) if isinstance(call, ast.Call) and is_call else None
        if call not in known and (runs is None or (runs is function and is_one_s_own)):
            what = f"{ast.unparse(use)}() is called" if is_call else f"{ast.unparse(use)} is used"
            raise Ambiguous(
                f"{source.name}:{use.lineno}: {what} here for something else too",
                "give the speech tokenizer's session options of its own",
            )
    _check_no_string(source, function.name, BY_NAME)
    for decorator in function.decorator_list:
        if not any(word in ast.unparse(decorator) for word in DECORATORS):
            line = decorator.lineno
            raise Ambiguous(
                f"{source.name}:{line}: what @{ast.unparse(decorator)} makes of {function.name}() is not known"
            )


def _uses_of(source: Source, function: Function) -> list[ast.expr]:
    """Where the code uses what may be ``function``."""
    kind = ast.Attribute if isinstance(scope_of(source, function), ast.ClassDef) else ast.Name
    nodes = [n for n in named(source, function.name) if isinstance(n, kind) and isinstance(n.ctx, ast.Load)]
    return [n for n in nodes if not (isinstance(n, ast.Attribute) and is_module(source, n.value))]


def check_stays_here(source: Source, options: Options) -> None:
    """Raise where the options get out of sight: to code that may set more of them, or build another session with them."""
    for node in options.mentions(source):
        call = call_with(source, node)
        if call is not None and call not in options.handed and not _is_harmless(source, call, node):
            raise Ambiguous(
                f"{source.name}:{call.lineno}: {ast.unparse(call.func)}() gets the options too, and may set more of them"
            )
        if call is None and not _is_plain_use(source, options, node):
            raise Ambiguous(f"{source.name}:{node.lineno}: the options are kept in something else here, out of sight")
        _check_not_read(source, source.ancestors(node)[0])
    for name in options.names:
        _check_not_reached(source, name)


def call_with(source: Source, node: ast.expr) -> Optional[ast.Call]:
    """The call that ``node`` is an argument of."""
    parent, *rest = source.ancestors(node)
    call = rest[0] if isinstance(parent, ast.keyword) else parent
    is_loaded = isinstance(getattr(node, "ctx", None), ast.Load)
    return call if isinstance(call, ast.Call) and call.func is not node and is_loaded else None


def _is_harmless(source: Source, call: ast.Call, node: ast.expr) -> bool:
    """Whether ``call`` only looks at its argument ``node``, or sets one option by its name."""
    name = callee(call)
    if name in ("setattr", "getattr", "hasattr"):
        return call.args[:1] == [node]
    return name in imported_as(source, "InferenceSession") or (name in HARMLESS and called(source, call) is None)


def _check_not_read(source: Source, node: ast.AST) -> None:
    """Raise where a number of threads is read from the options, to be used for something else."""
    if isinstance(node, ast.Attribute) and node.attr in NUMBERS and isinstance(node.ctx, ast.Load):
        call, parent = call_with(source, node), source.ancestors(node)[0]
        if not isinstance(parent, (ast.FormattedValue, ast.Expr)) and (call is None or callee(call) not in HARMLESS):
            raise Ambiguous(f"{source.name}:{node.lineno}: {ast.unparse(node)} is used for something else too")


def _is_plain_use(source: Source, options: Options, node: ast.expr) -> bool:
    """Whether ``node`` is only given a value, asked about, returned to a known caller, or has an attribute used."""
    parent, *rest = source.ancestors(node)
    if not isinstance(getattr(node, "ctx", None), ast.Load):
        return True
    if isinstance(parent, ast.Attribute):
        return not parent.attr.startswith("__")
    if isinstance(parent, ast.Return):
        return options.is_returned
    while isinstance(parent, ast.BoolOp):
        parent, *rest = rest
    asked = isinstance(parent, (ast.Compare, ast.UnaryOp, ast.If, ast.While, ast.Assert, ast.Expr, ast.FormattedValue))
    return asked or (isinstance(parent, ast.IfExp) and node in ast.walk(parent.test)) or bool(names_given(source, node))


def _check_not_reached(source: Source, name: Name) -> None:
    """Raise where the code gets at an attribute, or a variable, through something that cannot be followed."""
    word = getattr(name.expression, "attr", getattr(name.expression, "id", ""))
    kept = isinstance(name.expression, ast.Attribute) or isinstance(name.scope, ast.ClassDef)
    for node in of_unknown_objects(source, word) if kept else ():
        raise Ambiguous(
            f"{source.name}:{node.lineno}: {ast.unparse(node)} may be the speech tokenizer's options, under another name"
        )
    words = BY_NAME if kept or not isinstance(name.scope, FUNCTIONS) else ("locals", "vars")
    _check_no_string(source, word, words)


def of_unknown_objects(source: Source, word: str) -> list[ast.Attribute]:
    """The attributes called ``word`` of what is neither ``self`` nor a class of this file nor a module."""
    nodes = [n for n in named(source, word) if isinstance(n, ast.Attribute) and n.attr == word]
    return [n for n in nodes if not owners(source, n) and not is_module(source, n.value)]


def _check_no_string(source: Source, word: str, words: Sequence[str]) -> None:
    """Raise where one of ``words`` (``getattr``) looks ``word`` up."""
    for node in source.nodes(*words):
        if _is_by_name(node, words) and word in {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}:
            line = getattr(node, "lineno", 0)
            raise Ambiguous(f"{source.name}:{line}: {ast.unparse(node)} gets at the session or its options by name")


def _is_by_name(node: ast.AST, words: Sequence[str]) -> bool:
    """Whether ``node`` looks something up by a name in a string: ``getattr(x, "so")``, ``globals()["so"]``."""
    if isinstance(node, ast.Call):
        found = [node.func, *(n.func for n in ast.walk(node.func) if isinstance(n, ast.Call))]
        return any(
            isinstance(f, (ast.Name, ast.Attribute)) and getattr(f, "id", getattr(f, "attr", "")) in words
            for f in found
        )
    return isinstance(node, ast.Subscript) and any(word in ast.unparse(node.value) for word in words)


def is_private(source: Source, options: Options) -> bool:
    """Whether only the function that makes the options can have them: it keeps them in variables of its own."""
    names = options.names
    local = all(isinstance(n.expression, ast.Name) and isinstance(n.scope, FUNCTIONS) for n in names)
    declared = [n for name in names for n in named(source, getattr(name.expression, "id", ""))]
    outer = any(isinstance(n, (ast.Global, ast.Nonlocal)) for n in declared)
    again = named(source, "get_session_options") or named(source, "_sess_options")
    given_away = options.through or options.handed or options.is_returned
    return local and not outer and not again and not given_away
