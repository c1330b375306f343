"""The ONNX Runtime sessions that a file builds, and which of them is the speech tokenizer's.

A file may build other sessions too: for a speaker or a vocoder model, for voice activity detection. The right one is told
by its model's file name, or by where it goes: the tokenizer keeps it and runs it on log-mel frames.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional, Union

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.source import Function, Source

from ._scopes import (
    FUNCTIONS,
    PARAMETER,
    argument,
    bindings,
    called,
    callers,
    calls,
    calls_of,
    class_of,
    family,
    function_of,
    mentions,
    named,
    owners,
    passed,
    reaching,
    scope_of,
    targets_of,
)
from ._step_audio_tokenizer import LOG_MEL, tokenizer_class

MODEL = "speech_tokenizer"
MODEL_FILE = re.compile(r"\w\.(onnx|ort)$")
LIKELY = re.compile(r"tok|vq", re.IGNORECASE)
PLACES = (ast.Name, ast.Attribute, ast.Subscript)
DEPTH = 5


class Creation(NamedTuple):
    """A call of ``InferenceSession``, and the call of the function around it where that decides on what is built."""

    call: ast.Call
    via: Optional[ast.Call]

    def where(self, source: Source) -> str:
        """The place, for messages."""
        return f"{source.name}:{(self.via or self.call).lineno}"


def sessions(source: Source) -> Iterator[Creation]:
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


def those_of_the_tokenizer(source: Source, every: Sequence[Creation]) -> list[Creation]:
    """Those of ``every`` that are the speech tokenizer's: more than one where it is built in several places (a fallback)."""
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
    for creation in found if not named else ():
        if _is_repeated(source, creation):
            raise Ambiguous(f"{creation.where(source)} builds sessions for several models: one for each turn of a loop")
    if not found:
        lines = ", ".join(str(c.call.lineno) for c in every)
        others = f" (that of line {lines} is not shown to be its own)" if lines else ""
        raise NoSite(f"{source.name}: no onnxruntime.InferenceSession for the speech tokenizer{others}")
    return inside or found


def _is_repeated(source: Source, creation: Creation) -> bool:
    """Whether the session is built in each turn of a loop over models."""
    path = argument(creation.call, "path_or_bytes", 0)
    return path is not None and _from_loop(source, path, creation.via, DEPTH)


def _from_loop(source: Source, expression: ast.expr, via: Optional[ast.Call], depth: int) -> bool:
    for node in ast.walk(expression):
        if isinstance(node, (ast.Name, ast.Attribute)) and depth:
            if any(binding.among is not None for binding in reaching(source, node, node)):
                return True
            if any(_from_loop(source, value, via, depth - 1) for value in _values(source, node, via)):
                return True
    return False


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
        if isinstance(call.func, ast.Attribute) and not is_module(source, call.func.value):
            yield call


def _is_handed_out(source: Source, call: ast.Call) -> bool:
    """Whether the variable that gets the session is returned or passed on."""
    names = [t for t in targets_of(source.statement(call)) if isinstance(t, ast.Name)]
    uses = [
        use for name in names for use in mentions(source, name) if function_of(source, use) is function_of(source, call)
    ]
    return any(
        isinstance(source.ancestors(use)[0], (ast.Return, ast.Tuple, ast.Call, ast.keyword, ast.Dict)) for use in uses
    )


def is_module(source: Source, node: ast.expr) -> bool:
    """Whether ``node`` is the name of an imported module."""
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
            for value in _values(source, node, via):
                yield from _strings(source, value, via, depth - 1)


def _values(source: Source, node: Union[ast.Name, ast.Attribute], via: Optional[ast.Call]) -> Iterator[ast.expr]:
    """What a variable may be given: values, what a loop takes them from, and what callers pass."""
    for binding in reaching(source, node, node):
        values = [binding.value, binding.among]
        function = binding.statement
        if binding.kind == PARAMETER and isinstance(node, ast.Name) and isinstance(function, FUNCTIONS):
            outer = [via] if via and called(source, via) is function else callers(source, function)
            values = [passed(source, function, node.id, call) for call in outer]
        yield from (value for value in values if value is not None)


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
    for target in targets_of(statement):
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
