"""The ONNX Runtime sessions that a file builds, and which of them is the speech tokenizer's.

A file may build other sessions too: for a speaker or a vocoder model, for voice activity detection. The right one is told
by its model's file name, or by where it goes: the tokenizer keeps it and runs it on log-mel frames.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.source import Function, Source

from ._onnx_files import DEPTH, file_names, values, words
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
    reaching,
    scope_of,
    targets_of,
)
from ._step_audio_tokenizer import LOG_MEL, tokenizer_class

MODEL = "speech_tokenizer"
LIKELY = re.compile(r"tok|vq", re.IGNORECASE)
OTHERS = re.compile(r"vad|spk|camp|speaker|flow|f0|punc|denois|vocod|hift", re.IGNORECASE)
PLACES = (ast.Name, ast.Attribute, ast.Subscript)
RUN = ("run", "run_with_iobinding", "run_with_ort_values")


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
    files = {c: _model_files(source, c) for c in every}
    named = [c for c in near if any(MODEL in text for text in files[c]) and _is_linked(source, tokenizer, c)]
    for creation in named:
        if any(MODEL not in text for text in files[creation]):
            models = ", ".join(sorted(files[creation]))
            raise Ambiguous(f"{creation.where(source)} builds sessions for several models: {models}")
    fed = [c for c in named if _gets_log_mel(source, tokenizer, c)]
    found = fed or named or [c for c in near if _is_likely(source, tokenizer, c, files[c], len(every) == 1)]
    inside = [c for c in found if class_of(source, c.call) in family(source, tokenizer)]
    for creation in found if not named else ():
        if _is_repeated(source, creation):
            raise Ambiguous(f"{creation.where(source)} builds sessions for several models: one for each turn of a loop")
    if not found:
        lines = ", ".join(str(c.call.lineno) for c in every)
        others = f" (that of line {lines} is not shown to be its own)" if lines else ""
        raise NoSite(f"{source.name}: no onnxruntime.InferenceSession for the speech tokenizer{others}")
    return inside or found


def _model_files(source: Source, creation: Creation) -> set[str]:
    """The names of model files that the session's path may have."""
    path = argument(creation.call, "path_or_bytes", 0)
    return file_names(source, path, creation.via, MODEL) if path is not None else set()


# Which one it is, by its model's file name


def _is_linked(source: Source, tokenizer: ast.ClassDef, creation: Creation) -> bool:
    """Whether the tokenizer builds the session, has it built, or may be handed it: not where code beside it does, for itself."""
    cls = class_of(source, creation.call)
    inside = cls is not None and _is_related(source, tokenizer, cls)
    return inside or _is_reached(source, tokenizer, creation) or _is_handed_in(source, tokenizer)


def _is_related(source: Source, tokenizer: ast.ClassDef, cls: ast.ClassDef) -> bool:
    return cls in family(source, tokenizer) or tokenizer in family(source, cls)


def _is_reached(source: Source, tokenizer: ast.ClassDef, creation: Creation) -> bool:
    """Whether the tokenizer mentions what the session is built in, or given to, also through other functions."""
    own, seen = family(source, tokenizer), set[str]()
    todo: list[ast.AST] = [creation.via or creation.call]
    while todo:
        at = todo.pop()
        if any(cls in own for cls in source.ancestors(at)):
            return True
        for name in _names_around(source, at) - seen:
            seen.add(name)
            todo += [n for n in named(source, name) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    return False


def _names_around(source: Source, node: ast.AST) -> set[str]:
    """The functions and classes that ``node`` is in; outside of functions, the variables that are given a value there."""
    around = [n for n in source.ancestors(node) if isinstance(n, (*FUNCTIONS, ast.ClassDef))]
    names = {n.name for n in around if isinstance(n, ast.ClassDef) or not isinstance(scope_of(source, n), ast.ClassDef)}
    targets = targets_of(source.statement(node)) if function_of(source, node) is None else []
    return names | {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}


def _is_handed_in(source: Source, tokenizer: ast.ClassDef) -> bool:
    """Whether what the tokenizer runs on log-mel frames comes from a parameter of its own."""
    nodes = [node for method in feeding_methods(source, tokenizer) for node in _receivers(source, method)]
    given = [b.value for node in nodes for b in bindings(source, node, node) if isinstance(b.value, ast.Name)]
    return any(b.kind == PARAMETER for node in [*nodes, *given] for b in bindings(source, node, node))


# Which one it is, by what it is run on


def _is_likely(source: Source, tokenizer: ast.ClassDef, creation: Creation, files: set[str], is_only: bool) -> bool:
    """Whether a session for another or an unknown file is run on log-mel frames, and nothing speaks for another model."""
    path = argument(creation.call, "path_or_bytes", 0)
    places = _places(source, tokenizer, creation)
    said = [*places, *(words(source, path, creation.via) if path is not None else ())]
    if any(OTHERS.search(word) for word in said):
        return False
    if files and all(LIKELY.search(text) for text in files):
        return _gets_log_mel(source, tokenizer, creation)
    run = {_spelled(source, n) for m in feeding_methods(source, tokenizer) for n in _receivers(source, m)}
    there = {*places, *(f"{place}()" for place in places), ast.unparse(creation.call)}
    return (not files or is_only) and len(run) == 1 and bool(run & there)


def _receivers(source: Source, method: Function) -> Iterator[ast.expr]:
    """The objects that ``method`` runs as it runs a session; its variables followed to what they are given."""
    for call in (call for name in RUN for call in calls(source, name, method)):
        if isinstance(call.func, ast.Attribute) and not is_module(source, call.func.value):
            node = call.func.value
            given = list(values(source, node, None)) if isinstance(node, ast.Name) else []
            yield from given or [node]


def _places(source: Source, tokenizer: ast.ClassDef, creation: Creation) -> set[str]:
    """How the tokenizer reaches the session, or the object of another class that keeps it."""
    cls, via = class_of(source, creation.call), creation.via
    if cls is None or _is_related(source, tokenizer, cls):
        found = set(_destinations(source, creation.call, via, DEPTH))
    else:
        found = set(_destinations(source, via, None, DEPTH)) if via else set()
    user = class_of(source, via) if via else None
    return found if user is None or _is_related(source, tokenizer, user) else set()


def _is_repeated(source: Source, creation: Creation) -> bool:
    """Whether the session is built in each turn of a loop over models."""
    path = argument(creation.call, "path_or_bytes", 0)
    return path is not None and _from_loop(source, path, creation.via, DEPTH)


def _from_loop(source: Source, expression: ast.expr, via: Optional[ast.Call], depth: int) -> bool:
    for node in ast.walk(expression):
        if isinstance(node, (ast.Name, ast.Attribute)) and depth:
            if any(binding.among is not None for binding in reaching(source, node, node)):
                return True
            if any(_from_loop(source, value, via, depth - 1) for value in values(source, node, via)):
                return True
    return False


def _is_others_own(source: Source, tokenizer: ast.ClassDef, creation: Creation) -> bool:
    """Whether another class, or a function alone, builds the session for itself: it runs it too."""
    cls = class_of(source, creation.call) or (class_of(source, creation.via) if creation.via else None)
    if cls is None:
        function = function_of(source, creation.call)
        kept = any(_destinations(source, creation.call, creation.via, DEPTH)) or _is_handed_out(source, creation.call)
        return function is not None and not kept and any(_runs(source, function))
    if any(_is_related(source, tokenizer, c) for c in [cls, *source.ancestors(cls)] if isinstance(c, ast.ClassDef)):
        return False
    if creation.via is not None and class_of(source, creation.via) in family(source, tokenizer):  # a wrapper of its own
        return bool(feeding_methods(source, tokenizer)) and not _gets_log_mel(source, tokenizer, creation)
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


def _gets_log_mel(source: Source, tokenizer: ast.ClassDef, creation: Creation) -> bool:
    """Whether the session ends up where the tokenizer has it when it makes log-mel frames."""
    feeding = feeding_methods(source, tokenizer)
    if _method(source, tokenizer, creation.call) in feeding:
        return True
    for place in _places(source, tokenizer, creation):
        for node in _mentions_of(source, place):
            method = _method(source, tokenizer, node)
            if method is not None and any(_goes_with(source, method, other) for other in feeding):
                return True
    return False


def feeding_methods(source: Source, tokenizer: ast.ClassDef) -> set[Function]:
    """The tokenizer's methods that make log-mel frames."""
    found = (_method(source, tokenizer, call) for call in calls_of(source, LOG_MEL, tokenizer))
    return {method for method in found if method is not None}


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
        yield f"self.{function.name}" if isinstance(scope_of(source, function), ast.ClassDef) else function.name
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
