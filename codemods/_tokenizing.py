"""Which method of the tokenizer makes both kinds of tokens, what models it comes to in the end, and under which locks.

Where it could not run for several utterances at the same time, each in a thread, these functions raise.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, Conflict, NoSite
from apply_opt.model.source import Edit, Function, Source, callee, own_nodes

from . import _lines
from ._escapes import encoding_methods
from ._helpers import reindent
from ._scopes import (
    FUNCTIONS,
    Binding,
    bindings,
    calls,
    calls_of,
    check_defined_once,
    family,
    imported_as,
    methods,
    named,
    owners,
)
from ._shared_state import changed_in_place, changes_global, of_the_thread, reaches
from ._step_audio_tokenizer import LOG_MEL, encoder_uses, tokenizer_class

LOCKS = ("Lock", "RLock")
LOCKED = re.compile(r"(?<![bc])lock|mutex|semaphore|synchron", re.IGNORECASE)
NO_METHOD = {"staticmethod", "classmethod", "property", "contextmanager"}


class Tokenizing(NamedTuple):
    """The method, and the names of the attributes that hold the models and their locks."""

    method: Function
    model: str
    model_lock: str
    session: str
    session_lock: str


@functools.lru_cache(maxsize=8)
def tokenizing(source: Source) -> Tokenizing:
    """How the tokenizer does it. Raises where that is not to be seen."""
    tokenizer = tokenizer_class(source)
    encoding, feeding = encoding_methods(source), _feeding(source, tokenizer)
    uses = [use for method in encoding for use in encoder_uses(source, method)]
    runs = [c.func for method in feeding for c in calls(source, "run", method) if isinstance(c.func, ast.Attribute)]
    method = _method(source, tokenizer, encoding, feeding)
    models = *_guarded(source, uses, "the encoder"), *_guarded(source, runs, "the ONNX session")
    _check_side_by_side(source, tokenizer, method, {*encoding, *feeding})
    return Tokenizing(method, *models)


def own_methods(source: Source, tokenizer: ast.ClassDef) -> dict[str, Function]:
    """The tokenizer's methods by their names, with those of its bases here that it does not define anew."""
    return {m.name: m for cls in reversed(family(source, tokenizer)) for m in methods(cls)}


def _feeding(source: Source, tokenizer: ast.ClassDef) -> list[Function]:
    """The tokenizer's methods that make log-mel frames."""
    around = [source.ancestors(call) for call in calls_of(source, LOG_MEL)]
    return [m for m in own_methods(source, tokenizer).values() if any(m in nodes for nodes in around)]


def _method(
    source: Source, tokenizer: ast.ClassDef, encoding: Sequence[Function], feeding: Sequence[Function]
) -> Function:
    """The method that has both kinds of tokens made of audio and its rate, by itself and not by another such method."""
    reached = {m: reaches(source, tokenizer, m) for m in own_methods(source, tokenizer).values()}
    both = [m for m, r in reached.items() if {*r} & {*encoding} and {*r} & {*feeding} and "batch" not in m.name]
    found = [m for m in both if not any(other is not m and other in reached[m] for other in both)]
    where = f"{source.name}: " + ", ".join(f"{m.name} (line {m.lineno})" for m in found)
    if not found:
        raise NoSite(f"{source.name}: no method of {tokenizer.name} makes both kinds of tokens")
    if len(found) > 1:
        raise Ambiguous(f"{where} of {tokenizer.name} make both kinds of tokens")
    (method,) = found
    check_defined_once(source, method)
    words = {n.attr if isinstance(n, ast.Attribute) else getattr(n, "id", "") for n in method.decorator_list}
    later = isinstance(method, ast.AsyncFunctionDef) or any(
        isinstance(n, (ast.Yield, ast.YieldFrom)) for n in own_nodes(method)
    )
    if later or words & NO_METHOD or len([*method.args.posonlyargs, *method.args.args]) < 3:
        raise NoSite(f"{where} is no plain method that takes audio and its rate")
    return method


# The models and their locks


def _guarded(source: Source, uses: Sequence[ast.Attribute], what: str) -> tuple[str, str]:
    """The attributes of the tokenizer that hold the model on which methods are called, and the lock that is held then."""
    found = {(_attribute(source, use.value), _lock(source, use)) for use in uses}
    line = f"{source.name}:{uses[0].lineno}" if uses else source.name
    if len(found) > 1:
        raise Ambiguous(f"{line}: {what} is called in several ways, or under several locks")
    model, lock = next(iter(found), (None, None))
    if model is None or lock is None:
        raise NoSite(f"{line}: {what} is not an attribute of the tokenizer that is called under one lock of its own")
    return model, lock


def _attribute(source: Source, node: ast.expr) -> Optional[str]:
    """The attribute of the tokenizer that ``node`` is, or a variable that is given that alone."""
    if isinstance(node, ast.Name):
        values = [b.value for b in bindings(source, node, node)]
        node = values[0] if len(values) == 1 and values[0] is not None else node
    is_own = isinstance(node, ast.Attribute) and owners(source, node) and not node.attr.startswith("__")
    return node.attr if isinstance(node, ast.Attribute) and is_own else None


def _lock(source: Source, use: ast.Attribute) -> Optional[str]:
    """The attribute of the tokenizer that is the only lock that is held where ``use`` is called."""
    call, held = source.ancestors(use)[0], list(_held(source, use))
    is_called = isinstance(call, ast.Call) and call.func is use
    return _attribute(source, held[0]) if is_called and len(held) == 1 and _is_lock(source, held[0]) else None


def _held(source: Source, node: ast.AST) -> Iterator[ast.expr]:
    """What is, or may be, a lock that is held at ``node`` by the function that it is in."""
    for around in source.ancestors(node):
        if isinstance(around, (*FUNCTIONS, ast.Lambda, ast.GeneratorExp)):
            yield from (d for d in getattr(around, "decorator_list", ()) if LOCKED.search(ast.unparse(d)))
            return
        for item in getattr(around, "items", ()) if isinstance(around, (ast.With, ast.AsyncWith)) else ():
            context = item.context_expr
            if not isinstance(context, ast.Call) or LOCKED.search(ast.unparse(context.func)):
                yield context


def _is_lock(source: Source, node: ast.expr) -> bool:
    """Whether ``node``, an attribute of the tokenizer, is only ever given a new lock; in its class or in a base."""
    nodes = [n for n in named(source, getattr(node, "attr", "")) if isinstance(n, ast.Attribute)]
    own = next((n for n in nodes if tokenizer_class(source) in owners(source, n)), node)
    values = [_given(b, own) for b in bindings(source, own, own)]
    return bool(values) and all(isinstance(v, ast.Call) and _makes_lock(source, v) for v in values)


def _makes_lock(source: Source, call: ast.Call) -> bool:
    """Whether ``call`` is one of ``threading``'s locks; other modules have some with the same names."""
    if isinstance(call.func, ast.Attribute):
        return callee(call) in LOCKS and ast.unparse(call.func.value) in imported_as(source, "threading")
    found = [b.statement for b in bindings(source, call.func, call)]
    names = [s.names for s in found if isinstance(s, ast.ImportFrom) and s.module == "threading"]
    made = {alias.asname or alias.name for aliases in names for alias in aliases if alias.name in LOCKS}
    return len(names) == len(found) and callee(call) in made


def _given(binding: Binding, node: ast.expr) -> Optional[ast.expr]:
    """The value that ``binding`` gives ``node``; that of its place, where several are given theirs at once."""
    statement = binding.statement
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):  # type: ignore[attr-defined]
        pairs = zip(target.elts, statement.value.elts)  # type: ignore[attr-defined]
        return next((v for element, v in pairs if getattr(element, "attr", "") == getattr(node, "attr", None)), None)
    return binding.value


# Several utterances at the same time


def _check_side_by_side(source: Source, tokenizer: ast.ClassDef, method: Function, models: set[Function]) -> None:
    """Raise where threads that run ``method`` would wait for each other in front of the models, or change the same things."""
    own = own_methods(source, tokenizer)
    outside = [method]  # what runs while no lock is held
    reached = reaches(source, tokenizer, method)
    taken = next((call for function in reached for call in calls(source, "acquire", function)), None)
    if taken is not None:
        raise Conflict(
            f"{source.name}:{taken.lineno}: {ast.unparse(taken)} may hold others back while one waits for them",
            "hold the lock by `with`, then apply again",
        )
    mine = of_the_thread(source, tokenizer, reached)
    if mine is not None:
        raise Conflict(f"{source.name}:{mine.lineno}: {ast.unparse(mine)} is another one in another thread")
    for function in outside:
        place = changes_global(source, function)
        if place is not None and not list(_held(source, place)):
            name, line = ast.unparse(place), getattr(place, "lineno", function.lineno)
            raise Conflict(
                f"{source.name}:{line}: {name} is changed while no lock is held: {method.name} is not for several threads",
                "hold a lock there, then apply again",
            )
        for node in (n for n in ast.walk(function) if isinstance(n, ast.Attribute) and owners(source, n)):
            where, held = f"{source.name}:{node.lineno}", next(_held(source, node), None)
            inner = own.get(node.attr)
            if inner is not None and held is not None and models & {*reaches(source, tokenizer, inner)}:
                raise Conflict(f"{where}: {ast.unparse(held)} is held here, so that others cannot come to the models")
            if inner is not None and held is None and inner not in outside:
                outside.append(inner)
            if inner is None and held is None and changed_in_place(source, function, node):
                raise Conflict(
                    f"{where}: self.{node.attr} is changed while no lock is held: {method.name} is not for several threads",
                    "hold a lock there, then apply again",
                )


def below(source: Source, method: Function, text: str) -> Edit:
    """``text`` (four-space indents, ``\\n``), a method, below ``method``, with an empty line between."""
    return _lines.below(source, method, "\n" + reindent(text, source.indent_unit()))
