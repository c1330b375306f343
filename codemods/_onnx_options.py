"""The ``SessionOptions`` of the speech tokenizer's session, followed back to the statement that makes it.

Where two sessions share it, or where more may be set out of sight, that is an error: what is written to it has to reach
this session and no other.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Sequence
from typing import Optional

from apply_opt.errors import Ambiguous, NoSite, Refused
from apply_opt.model.source import Source, callee, same

from ._onnx_files import DEPTH
from ._onnx_session import Creation, sessions, those_of_the_tokenizer
from ._onnx_uses import (
    Name,
    Options,
    Use,
    call_with,
    check_functions,
    check_stays_here,
    is_private,
    mentions_of,
    names_given,
    of_unknown_objects,
)
from ._scopes import (
    FUNCTIONS,
    PARAMETER,
    argument,
    bindings,
    called,
    callers,
    certain,
    check_defined_once,
    class_named,
    function_of,
    has_star,
    imported_as,
    mentions,
    parameters_of,
    passed,
    reaching,
    scope_of,
    targets_of,
)


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
    result = _with_aliases(source, _merged(source, found))
    for other in every:
        if other not in ours:
            _check_apart(source, result, other)
    check_functions(source, ours, result)
    check_stays_here(source, result)
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
    is_returned = any(options.is_returned for options in found)
    return Options(first.made, names, use, through, handed, is_returned)


def _with_aliases(source: Source, options: Options) -> Options:
    """The options with the further names that they are given on the way (``self.options = options``)."""
    names, handed = list(options.names), list(options.handed)
    for name in names:
        for node in mentions_of(source, name):
            kept = source.statement(node)
            until = name.until if scope_of(source, kept) is name.scope else None
            if (call := call_with(source, node)) is not None and call not in handed:
                inner = _inside(source, name, call, node)
                handed += [call] if inner else []
                names += [n for n in inner if n not in names]
            for target in names_given(source, node):
                if not any(same(target, old.expression) for old in names):
                    names.append(Name(scope_of(source, kept), target, kept, until))
    return options._replace(names=names, handed=handed)


def _inside(source: Source, name: Name, call: ast.Call, node: ast.expr) -> list[Name]:
    """What a function of this file calls the options that are handed to it, certainly before the session is built."""
    function = called(source, call)
    if function is None or name.until is None or not certain(source, source.statement(call), name.until):
        return []
    given = [ast.Name(a.arg) for a in parameters_of(function) if passed(source, function, a.arg, call) is node]
    kept = all(len(bindings(source, name, function.body[0])) == 1 for name in given)
    return [Name(function, name, None, None) for name in given] if kept else []


def _covers(source: Source, statement: ast.stmt, other: ast.stmt) -> bool:
    return statement is other or certain(source, statement, other)


# Where options are made


def _check_apart(source: Source, options: Options, other: Creation) -> None:
    """Raise where another session has the same options, or where that cannot be told."""
    made, line = _made_by(source, other), options.made.lineno
    if made is options.made:
        raise Ambiguous(
            f"{source.name}:{line}: the options made here are for another session too (line {other.call.lineno})",
            "give the speech tokenizer's session options of its own",
        )
    if made is None and (not is_private(source, options) or _is_mentioned(source, options, other)):
        raise Ambiguous(
            f"{other.where(source)}: whether this session has options of its own, or those of line {line}, cannot be told",
            "make its options right in front of it, or hand it none",
        )


def _made_by(source: Source, creation: Creation) -> Optional[ast.AST]:
    """What makes the options of some other session: itself, if it has none; ``None`` where it cannot be told."""
    options = argument(creation.call, "sess_options", 1)
    if options is None and not has_star(creation.call):
        return creation.call
    if options is not None and (isinstance(options, ast.Constant) or _makes_options(source, options)):
        return creation.call
    try:
        return _options(source, creation).made
    except Refused:
        return None


def _is_mentioned(source: Source, options: Options, creation: Creation) -> bool:
    """Whether the call that builds a session has the options among its arguments."""
    calls = {creation.call, creation.via}
    return any(calls & set(source.ancestors(node)) for node in options.mentions(source))


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
        _check_used_once(source, options)
        return _from_return(source, creation, statement, depth, lost)  # a property
    until = source.statement(at) if certain(source, statement, at) else None
    use = Use(until, options, _providers(source, creation, at)) if until else None
    name = Name(scope_of(source, statement), _as_written(statement, options), statement, until)
    seen = [] if same(name.expression, options) else [name._replace(expression=options)]
    if binding.value is not None and _makes_options(source, binding.value):
        targets = targets_of(statement) if getattr(statement, "value", None) is binding.value else []
        others = [name._replace(expression=t) for t in targets if not same(t, name.expression)]
        return Options(statement, [name, *others, *seen], use)
    if isinstance(binding.value, (ast.Name, ast.Attribute, ast.Call)):
        inner = _follow(source, creation, binding.value, binding.value, depth - 1)
        return inner._replace(names=[*inner.names, name, *seen], use=use or inner.use)
    raise lost


def _check_used_once(source: Source, made: ast.expr) -> None:
    """Raise where a property that makes options makes them for something else as well."""
    for other in (*mentions(source, made), *of_unknown_objects(source, getattr(made, "attr", ""))):
        if other is not made:
            raise Ambiguous(
                f"{source.name}:{other.lineno}: {ast.unparse(other)} makes options for something else too",
                "give the speech tokenizer's session options of its own",
            )


def _as_written(statement: ast.stmt, name: ast.expr) -> ast.expr:
    """``name`` as ``statement`` has it, which differs where a class body makes what methods call ``self.name``."""
    word = name.attr if isinstance(name, ast.Attribute) else ""
    return next((t for t in targets_of(statement) if isinstance(t, ast.Name) and t.id == word), name)


def _makes_options(source: Source, value: ast.expr) -> bool:
    inner = value.value if isinstance(value, ast.NamedExpr) else value
    if not isinstance(inner, ast.Call) or callee(inner) not in imported_as(source, "SessionOptions"):
        return False
    return not isinstance(inner.func, ast.Name) or class_named(source, inner.func.id) is None


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
    return _merged(source, found)._replace(is_returned=True)


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
