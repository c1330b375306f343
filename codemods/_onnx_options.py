"""The ``SessionOptions`` of the speech tokenizer's session, followed back to the statement that makes it.

Where two sessions share it, or where more may be set out of sight, that is an error: what is written to it has to reach
this session and no other.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, NoSite, Refused
from apply_opt.model.source import Source, callee, same

from ._onnx_session import DEPTH, Creation, sessions, those_of_the_tokenizer
from ._scopes import (
    FUNCTIONS,
    PARAMETER,
    Scope,
    argument,
    bindings,
    called,
    callers,
    certain,
    check_defined_once,
    function_of,
    has_star,
    imported_as,
    mentions,
    passed,
    position,
    reaching,
    scope_of,
    targets_of,
)

HARMLESS = {"print", "repr", "str", "isinstance", "getattr", "hasattr", "id", "type", "debug", "info", "warning"}
HIDES = (ast.List, ast.Tuple, ast.Dict, ast.Set, ast.Starred, ast.Yield, ast.NamedExpr, ast.Lambda, ast.Subscript)


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

    ``through`` are the calls of functions that return it, ``handed`` those of functions that are given it.
    """

    made: ast.stmt
    names: Sequence[Name]
    use: Optional[Use]
    through: Sequence[ast.Call] = ()
    handed: Sequence[ast.Call] = ()

    def appearances(self, source: Source) -> list[ast.expr]:
        """Where the code mentions it while it can still be changed for the session, from top to bottom."""
        found = {node: None for name in self.names for node in _appearances(source, name)}
        return sorted(found, key=position)


@functools.lru_cache(maxsize=8)
def speech_tokenizer_options(source: Source) -> Options:
    """The options of the speech tokenizer's session, which may be built in more than one place (say, with a fallback)."""
    every = list(sessions(source))
    ours = those_of_the_tokenizer(source, every)
    found = [_options(source, creation) for creation in ours]
    made = sorted({o.made.lineno for o in found})
    if len(made) > 1:
        lines = ", ".join(map(str, made))
        raise Ambiguous(
            f"{source.name}: the speech tokenizer's session is built with options from several lines: {lines}"
        )
    for other in (c for c in every if c not in ours):
        if _made_by(source, other) is found[0].made:
            raise Ambiguous(
                f"{source.name}:{made[0]}: the options made here are for another session too (line {other.call.lineno})",
                "give the speech tokenizer's session options of its own",
            )
    result = _with_aliases(source, _merged(source, found))
    _check_functions(source, result)
    _check_stays_here(source, result)
    return result


def _merged(source: Source, found: Sequence[Options]) -> Options:
    """The options of several sessions as one; to be set before the first session, where that comes before them all."""
    first = found[0]
    names = [name for options in found for name in options.names]
    through = [call for options in found for call in options.through]
    handed = [call for options in found for call in options.handed]
    uses = [options.use for options in found]
    use = uses[0]
    for other in uses[1:]:
        if use is not None and (other is None or not _covers(source, use.statement, other.statement)):
            use = None
    return Options(first.made, names, use, through, handed)


def _with_aliases(source: Source, options: Options) -> Options:
    """The options with the further names that they are given on the way (``self.options = options``)."""
    names = list(options.names)
    for name in names:
        for node in _appearances(source, name):
            kept = source.statement(node)
            if (
                source.ancestors(node)[0] is kept
                and isinstance(kept, (ast.Assign, ast.AnnAssign))
                and kept.value is node
            ):
                until = name.until if scope_of(source, kept) is name.scope else None
                new = [Name(scope_of(source, kept), target, kept, until) for target in targets_of(kept)]
                names += [n for n in new if not any(same(n.expression, old.expression) for old in names)]
    return options._replace(names=names)


def _covers(source: Source, statement: ast.stmt, other: ast.stmt) -> bool:
    return statement is other or certain(source, statement, other)


# Where its options are made


def _made_by(source: Source, creation: Creation) -> Optional[ast.stmt]:
    """The statement that makes the options of some other session, where that can be told."""
    try:
        return _options(source, creation).made
    except Refused:
        return None


def _options(source: Source, creation: Creation) -> Options:
    """The options that a session is built with."""
    call, function = creation.call, function_of(source, creation.call)
    if function is not None:
        check_defined_once(source, function)
    options = argument(call, "sess_options", 1)
    if options is None and has_star(call):
        raise NoSite(f"{source.name}:{call.lineno}: the session's arguments are handed over in a container (* or **)")
    if options is None or isinstance(options, ast.Constant):
        raise NoSite(f"{source.name}:{call.lineno}: the session is built without SessionOptions")
    return _follow(source, creation, options, call, DEPTH)


def _follow(source: Source, creation: Creation, options: ast.expr, at: ast.expr, depth: int) -> Options:
    """Where ``options``, an expression that ``at`` is given, are made."""
    lost = NoSite(
        f"{source.name}:{at.lineno}: where {ast.unparse(options)} is made (SessionOptions()) could not be found"
    )
    if _makes_options(source, options):
        raise NoSite(f"{source.name}:{options.lineno}: the session's options are made right in a call, out of reach")
    if not depth:
        raise lost
    if isinstance(options, ast.Call):
        return _from_function(source, creation, options, depth, lost)
    found = [b for b in reaching(source, options, at) if not b.is_empty()]
    if len(found) > 1:
        lines = ", ".join(str(b.statement.lineno) for b in found)
        raise Ambiguous(f"{source.name}: {ast.unparse(options)} may come from several places: lines {lines}")
    if not found:
        raise lost
    binding, statement = found[0], found[0].statement
    if isinstance(statement, FUNCTIONS):
        if binding.kind == PARAMETER:
            return _from_caller(source, creation, options, statement, depth, lost)
        return _from_return(source, creation, statement, depth, lost)  # a property
    until = source.statement(at) if certain(source, statement, at) else None
    use = Use(until, options, _providers(source, creation, at)) if until else None
    name = Name(scope_of(source, statement), _as_written(statement, options), statement, until)
    seen = [] if same(name.expression, options) else [name._replace(expression=options)]
    if binding.value is not None and _makes_options(source, binding.value):
        others = [name._replace(expression=t) for t in targets_of(statement) if not same(t, name.expression)]
        return Options(statement, [name, *others, *seen], use)
    if isinstance(binding.value, (ast.Name, ast.Attribute, ast.Call)):
        inner = _follow(source, creation, binding.value, binding.value, depth - 1)
        return inner._replace(names=[*inner.names, name, *seen], use=use or inner.use)
    raise lost


def _as_written(statement: ast.stmt, name: ast.expr) -> ast.expr:
    """``name`` as ``statement`` has it, which differs where a class body makes what methods call ``self.name``."""
    word = name.attr if isinstance(name, ast.Attribute) else ""
    return next((t for t in targets_of(statement) if isinstance(t, ast.Name) and t.id == word), name)


def _makes_options(source: Source, value: ast.expr) -> bool:
    inner = value.value if isinstance(value, ast.NamedExpr) else value
    return isinstance(inner, ast.Call) and callee(inner) in imported_as(source, "SessionOptions")


def _from_function(source: Source, creation: Creation, call: ast.Call, depth: int, lost: NoSite) -> Options:
    """The options that a function of this file returns."""
    function = called(source, call)
    if function is None:
        raise lost
    inner = _from_return(source, creation, function, depth, lost)
    return inner._replace(through=[*inner.through, call])


def _from_return(source: Source, creation: Creation, function: ast.stmt, depth: int, lost: NoSite) -> Options:
    nodes = [n for n in ast.walk(function) if isinstance(n, ast.Return) and function_of(source, n) is function]
    found = [
        _follow(source, creation, n.value, n.value, depth - 1)
        for n in nodes
        if n.value is not None and not isinstance(n.value, ast.Constant)
    ]
    if not found or len({options.made for options in found}) > 1:
        raise lost
    return _merged(source, found)


def _from_caller(
    source: Source, creation: Creation, options: ast.expr, function: ast.stmt, depth: int, lost: NoSite
) -> Options:
    """The options that the function around gets as a parameter."""
    assert isinstance(options, ast.Name) and isinstance(function, FUNCTIONS)
    outer = [creation.via] if creation.via and called(source, creation.via) is function else callers(source, function)
    value = passed(source, function, options.id, outer[0]) if len(outer) == 1 and outer[0] else None
    if value is None or outer[0] is None:
        raise lost
    inner = _follow(source, creation, value, outer[0], depth - 1)
    return inner._replace(names=[*inner.names, Name(function, options, None, None)], handed=[*inner.handed, outer[0]])


def _providers(source: Source, creation: Creation, at: ast.AST) -> Optional[ast.expr]:
    """The session's providers as they are written where ``at`` is; ``None`` where it has none, or where that is elsewhere."""
    providers = argument(creation.call, "providers", 2)
    function = function_of(source, creation.call)
    if source.statement(at) is source.statement(creation.call):
        return providers
    is_via = creation.via is not None and source.statement(at) is source.statement(creation.via)
    if isinstance(providers, ast.Name) and function and creation.via and is_via:
        found = bindings(source, providers, providers)
        if len(found) == 1 and found[0].kind == PARAMETER:
            return passed(source, function, providers.id, creation.via)
    return None


# Who else may set them


def _appearances(source: Source, name: Name) -> Iterator[ast.expr]:
    """Where ``name`` means the options: not after the session is built, nor where another scope has its own such name."""
    for node in mentions(source, name.expression):
        statement = source.statement(node)
        if scope_of(source, node) is name.scope:
            late = name.until is not None and position(statement) > position(name.until)
            if not late and (name.since is None or position(statement) > position(name.since)):
                yield node
        elif isinstance(node, ast.Attribute) or any(
            b.statement is (name.since or name.scope) for b in bindings(source, node, node)
        ):
            yield node


def _check_functions(source: Source, options: Options) -> None:
    """Raise where a function that makes or sets these options is called for something else as well."""
    setting = {function_of(source, n) for n in options.appearances(source) if is_set(source, n)}
    for call in (*options.through, *options.handed):
        function = called(source, call)
        matters = function is not None and (function in setting or call in options.through)
        for other in callers(source, function) if function and matters else ():
            if other not in (*options.through, *options.handed):
                raise Ambiguous(
                    f"{source.name}:{other.lineno}: {callee(other)}() is called here for something else too",
                    "give the speech tokenizer's session options of its own",
                )


def _check_stays_here(source: Source, options: Options) -> None:
    """Raise where the options are handed to code that may set more of them."""
    for node in options.appearances(source):
        parent, *rest = source.ancestors(node)
        call = rest[0] if isinstance(parent, ast.keyword) else parent
        if isinstance(node.ctx, ast.Load) and isinstance(call, ast.Call) and call.func is not node:  # type: ignore[attr-defined]
            known = HARMLESS | {*imported_as(source, "InferenceSession"), "setattr"}
            if call not in options.handed and callee(call) not in known:
                raise Ambiguous(
                    f"{source.name}:{call.lineno}: {ast.unparse(call.func)}() gets the options too, and may set more of them"
                )
        elif isinstance(parent, HIDES) or (isinstance(parent, (ast.IfExp, ast.BoolOp)) and _is_assigned(source, node)):
            raise Ambiguous(f"{source.name}:{node.lineno}: the options are kept in something else here, out of sight")


def _is_assigned(source: Source, node: ast.expr) -> bool:
    return isinstance(source.statement(node), (ast.Assign, ast.AnnAssign))


def is_set(source: Source, node: ast.expr) -> bool:
    """Whether an attribute of ``node`` is set here."""
    parent = source.ancestors(node)[0]
    return isinstance(parent, ast.Attribute) and isinstance(parent.ctx, ast.Store)
