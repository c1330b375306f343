"""The ONNX Runtime session of the speech tokenizer, and the ``SessionOptions`` that it is built with.

A file may build other sessions too (a speaker or a vocoder model, voice activity detection). The right one is told by its
model's file name, or by where it goes: the tokenizer keeps it and runs it on log-mel frames. Its options are then followed
back to the statement that makes them. Where two sessions share them, or where more may be set out of sight, that is an
error: what is written here has to reach this session and no other.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, NoSite, Refused
from apply_opt.model.source import Function, Source, callee, same

from ._scopes import (
    FUNCTIONS,
    PARAMETER,
    Scope,
    argument,
    bindings,
    called,
    callers,
    calls,
    calls_of,
    certain,
    check_defined_once,
    class_of,
    family,
    function_of,
    has_star,
    imported_as,
    mentions,
    named,
    owners,
    passed,
    position,
    reaching,
    scope_of,
)
from ._step_audio_tokenizer import LOG_MEL, tokenizer_class

MODEL = "speech_tokenizer"
MODEL_FILE = re.compile(r"\w\.(onnx|ort)$")
LIKELY = re.compile(r"tok|vq", re.IGNORECASE)
HARMLESS = {"print", "repr", "str", "isinstance", "getattr", "hasattr", "id", "type", "debug", "info", "warning"}
PLACES = (ast.Name, ast.Attribute, ast.Subscript)
DEPTH = 5


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


class Creation(NamedTuple):
    """A call of ``InferenceSession``, and the call of the function around it where that decides on what is built."""

    call: ast.Call
    via: Optional[ast.Call]

    def where(self, source: Source) -> str:
        """The place, for messages."""
        return f"{source.name}:{(self.via or self.call).lineno}"


@functools.lru_cache(maxsize=8)
def speech_tokenizer_options(source: Source) -> Options:
    """The options of the speech tokenizer's session, which may be built in more than one place (say, with a fallback)."""
    every = list(_creations(source))
    ours = _speech_tokenizer(source, every)
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
                new = [Name(scope_of(source, kept), target, kept, until) for target in _targets(kept)]
                names += [n for n in new if not any(same(n.expression, old.expression) for old in names)]
    return options._replace(names=names)


def _covers(source: Source, statement: ast.stmt, other: ast.stmt) -> bool:
    return statement is other or certain(source, statement, other)


def _creations(source: Source) -> Iterator[Creation]:
    """Every session that the file builds; one for each call of a builder that gets the model or the options handed."""
    for call in calls_of(source, "InferenceSession"):
        function = function_of(source, call)
        inputs = [argument(call, "path_or_bytes", 0), argument(call, "sess_options", 1)]
        outer = callers(source, function) if function and _depends(source, function, inputs) else []
        yield from [Creation(call, via) for via in outer] or [Creation(call, None)]


def _depends(source: Source, function: ast.AST, inputs: Sequence[Optional[ast.expr]]) -> bool:
    """Whether some of ``inputs`` come from the parameters of ``function``."""
    todo = [n for value in inputs if value is not None for n in ast.walk(value) if isinstance(n, ast.Name)]
    seen = set()
    while todo:
        name = todo.pop()
        for binding in bindings(source, name, name) if name.id not in seen else ():
            if binding.kind == PARAMETER and binding.statement is function and name.id not in ("self", "cls"):
                return True
            if binding.value is not None:
                todo += [n for n in ast.walk(binding.value) if isinstance(n, ast.Name)]
        seen.add(name.id)
    return False


# Which session it is


def _speech_tokenizer(source: Source, every: Sequence[Creation]) -> list[Creation]:
    """Those of ``every`` that are the speech tokenizer's."""
    tokenizer = tokenizer_class(source)
    near = [c for c in every if not _is_others_own(source, tokenizer, c)]
    files = {c: set(_model_files(source, c)) for c in near}
    named = [c for c in near if any(MODEL in text for text in files[c])]
    for creation in named:
        if any(MODEL not in text for text in files[creation]):
            models = ", ".join(sorted(files[creation]))
            raise Ambiguous(f"{creation.where(source)} builds sessions for several models: {models}")
    fed = [c for c in near if all(LIKELY.search(text) for text in files[c]) and _gets_log_mel(source, tokenizer, c)]
    found = [c for c in fed if c in named] or named or fed
    inside = [c for c in found if class_of(source, c.call) in family(source, tokenizer)]
    if not found:
        lines = ", ".join(str(c.call.lineno) for c in every)
        others = f" (that of line {lines} is not shown to be its own)" if lines else ""
        raise NoSite(f"{source.name}: no onnxruntime.InferenceSession for the speech tokenizer{others}")
    return inside or found


def _is_others_own(source: Source, tokenizer: ast.ClassDef, creation: Creation) -> bool:
    """Whether another class, or a function alone, builds the session for itself: it runs it too."""
    cls = class_of(source, creation.call) or (class_of(source, creation.via) if creation.via else None)
    if cls is None:
        function = function_of(source, creation.call)
        kept = any(_destinations(source, creation.call, creation.via, DEPTH)) or _is_handed_out(source, creation.call)
        return function is not None and not kept and any(_runs(source, function))
    if cls in family(source, tokenizer) or tokenizer in family(source, cls):
        return False
    return any(_runs(source, cls))


def _runs(source: Source, within: ast.AST) -> Iterator[ast.Call]:
    """The calls of an object's ``run``; not those of a module's, as ``subprocess.run``."""
    for call in calls(source, "run", within):
        if isinstance(call.func, ast.Attribute) and not _is_module(source, call.func.value):
            yield call


def _is_handed_out(source: Source, call: ast.Call) -> bool:
    """Whether the variable that gets the session is returned or passed on."""
    names = [t for t in _targets(source.statement(call)) if isinstance(t, ast.Name)]
    uses = [
        use for name in names for use in mentions(source, name) if function_of(source, use) is function_of(source, call)
    ]
    return any(
        isinstance(source.ancestors(use)[0], (ast.Return, ast.Tuple, ast.Call, ast.keyword, ast.Dict)) for use in uses
    )


def _is_module(source: Source, node: ast.expr) -> bool:
    found = bindings(source, node, node) if isinstance(node, ast.Name) else []
    return any(isinstance(b.statement, (ast.Import, ast.ImportFrom)) for b in found)


def _model_files(source: Source, creation: Creation) -> Iterator[str]:
    """The names of model files that the session's path may have."""
    path = argument(creation.call, "path_or_bytes", 0)
    for text in _strings(source, path, creation.via, DEPTH) if path is not None else ():
        if MODEL in text or MODEL_FILE.search(text):
            yield text


def _strings(source: Source, expression: ast.expr, via: Optional[ast.Call], depth: int) -> Iterator[str]:
    """The strings in ``expression``, its variables followed to what they may be given."""
    for node in ast.walk(expression):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, (ast.Name, ast.Attribute)) and depth:
            for binding in reaching(source, node, node):
                values = [binding.value]
                if (
                    binding.kind == PARAMETER
                    and isinstance(node, ast.Name)
                    and isinstance(binding.statement, FUNCTIONS)
                ):
                    function = binding.statement
                    outer = [via] if via and called(source, via) is function else callers(source, function)
                    values = [passed(source, function, node.id, call) for call in outer]
                for value in filter(None, values):
                    yield from _strings(source, value, via, depth - 1)


def _gets_log_mel(source: Source, tokenizer: ast.ClassDef, creation: Creation) -> bool:
    """Whether the session ends up where the tokenizer has it when it makes log-mel frames."""
    feeding = {
        m for call in calls_of(source, LOG_MEL, tokenizer) if (m := _method(source, tokenizer, call)) is not None
    }
    if _method(source, tokenizer, creation.call) in feeding:
        return True
    for place in set(_destinations(source, creation.call, creation.via, DEPTH)):
        for node in _mentions_of(source, place):
            method = _method(source, tokenizer, node)
            if method is not None and any(_goes_with(source, method, other) for other in feeding):
                return True
    return False


def _goes_with(source: Source, method: Function, other: Function) -> bool:
    """Whether one of two methods is the other, or calls it."""
    return other is method or bool(calls(source, other.name, method) or calls(source, method.name, other))


def _method(source: Source, tokenizer: ast.ClassDef, node: ast.AST) -> Optional[Function]:
    """The method of the tokenizer that ``node`` is in, at any depth."""
    return next(
        (n for n in source.ancestors(node) if isinstance(n, FUNCTIONS) and scope_of(source, n) is tokenizer), None
    )


def _mentions_of(source: Source, place: str) -> list[ast.AST]:
    """Where the code reads what is spelled ``place``."""
    expression = ast.parse(place, mode="eval").body
    base = expression.value if isinstance(expression, ast.Subscript) else expression
    nodes = named(source, getattr(base, "attr", getattr(base, "id", "")))
    if base is not expression:
        nodes = [source.ancestors(n)[0] for n in nodes if isinstance(n, (ast.Name, ast.Attribute))]
    loads = [n for n in nodes if isinstance(n, PLACES) and isinstance(n.ctx, ast.Load)]
    return [n for n in loads if isinstance(n, type(expression)) and _spelled(source, n) == place]


def _destinations(source: Source, node: ast.AST, via: Optional[ast.Call], depth: int) -> Iterator[str]:
    """How other code reaches what ``node`` makes: ``self.session``, ``self.sessions['vq06']``."""
    statement = source.statement(node)
    for target in _targets(statement):
        if isinstance(target, ast.Name) and depth:
            if isinstance(scope_of(source, statement), ast.ClassDef):
                yield f"self.{target.id}"
            for use in mentions(source, target):
                kept = source.statement(use)
                if isinstance(kept, (ast.Assign, ast.Return)) and kept.value is use:
                    yield from _destinations(source, use, via, depth - 1)
        elif isinstance(target, (ast.Attribute, ast.Subscript)):
            yield _spelled(source, target)
            for use in mentions(source, target):
                function = function_of(source, use)
                if function and isinstance(source.ancestors(use)[0], ast.Return):  # a property, or a lazy loader
                    yield f"self.{function.name}"
    function = function_of(source, statement)
    if isinstance(statement, ast.Return) and function is not None and depth:
        yield f"self.{function.name}"
        for call in [via] if via and called(source, via) is function else callers(source, function):
            yield from _destinations(source, call, None, depth - 1)


def _spelled(source: Source, node: ast.expr) -> str:
    """``node`` as text; what belongs to the object or its class begins with ``self``, whatever that is called there."""
    root = node
    while isinstance(root, (ast.Attribute, ast.Subscript)) and isinstance(root.value, (ast.Attribute, ast.Subscript)):
        root = root.value
    text = ast.unparse(node)
    if isinstance(root, ast.Attribute) and owners(source, root):
        return "self" + text[len(ast.unparse(root.value)) :]
    return text


def _targets(statement: ast.stmt) -> list[ast.expr]:
    if isinstance(statement, ast.Assign):
        return statement.targets
    return [statement.target] if isinstance(statement, ast.AnnAssign) else []


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
    if binding.value is not None and _makes_options(source, binding.value):
        others = [name._replace(expression=t) for t in _targets(statement) if not same(t, name.expression)]
        return Options(statement, [name, *others], use)
    if isinstance(binding.value, (ast.Name, ast.Attribute, ast.Call)):
        inner = _follow(source, creation, binding.value, binding.value, depth - 1)
        return inner._replace(names=[*inner.names, name], use=use or inner.use)
    raise lost


def _as_written(statement: ast.stmt, name: ast.expr) -> ast.expr:
    """``name`` as ``statement`` has it, which differs where a class body makes what methods call ``self.name``."""
    word = name.attr if isinstance(name, ast.Attribute) else ""
    return next((t for t in _targets(statement) if isinstance(t, ast.Name) and t.id == word), name)


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
    function, here = function_of(source, creation.call), scope_of(source, at)
    if here is scope_of(source, creation.call):
        return providers
    if isinstance(providers, ast.Name) and function and creation.via and here is scope_of(source, creation.via):
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
        elif isinstance(name.expression, ast.Attribute):
            if set(_classes_around(source, node)) & set(_classes_around(source, name.scope)):
                yield node
        elif name.since is None or any(b.statement is name.since for b in bindings(source, node, node)):
            yield node


def _classes_around(source: Source, node: ast.AST) -> list[ast.ClassDef]:
    cls = node if isinstance(node, ast.ClassDef) else class_of(source, node)
    return family(source, cls) if cls else []


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
        elif isinstance(parent, (ast.List, ast.Tuple, ast.Dict, ast.Set, ast.Starred, ast.Yield)):
            raise Ambiguous(f"{source.name}:{node.lineno}: the options are kept in a container here, out of sight")


def is_set(source: Source, node: ast.expr) -> bool:
    """Whether an attribute of ``node`` is set here."""
    parent = source.ancestors(node)[0]
    return isinstance(parent, ast.Attribute) and isinstance(parent.ctx, ast.Store)
