"""Which methods run the FunASR encoder, and whether it is done when they return.

A decorator that sets something while a method runs is of use only there. Where that cannot be told, these functions raise.
"""

from __future__ import annotations

import ast
import re
from typing import Optional, Union

from apply_opt.errors import Ambiguous, Conflict
from apply_opt.model.source import Function, Source, callee, own_nodes

from ._scopes import (
    FUNCTIONS,
    REPLACES,
    calls,
    check_defined_once,
    class_of,
    family,
    mentions,
    methods,
    named,
    owners,
    targets_of,
)
from ._step_audio_tokenizer import ENCODE, encoder_uses, tokenizer_class

PREPARES = re.compile(r"_*(init|post_init|setup|set_up|(init|load)(_models?)?)_*|.*warm.*", re.IGNORECASE)
COMPILES = re.compile(r"\bn?jit\b|compile|\bscript(_method)?\b")
NOT_COMPILED = re.compile(r"(no|not|dont|never)_?(jit|compile)|(disable|ignore|unused|is_compiling)\b")
HARMLESS = {"no_grad", "inference_mode", "enable_grad", "autocast"}


def encoding_methods(source: Source) -> list[Function]:
    """The methods of the tokenizer that run the encoder, and are done with it when they return. At least one."""
    found = _users(source)
    chosen = [m for m in found if not PREPARES.fullmatch(m.name) and m.name != ENCODE]
    chosen = chosen or [m for m in found if m.name == ENCODE]
    if not chosen:
        method, uses = next(iter(found.items()))
        raise Ambiguous(
            f"{source.name}:{uses[0].lineno}: {ENCODE}() is only called in {method.name}, which prepares the tokenizer: "
            "what encodes later is not to be seen"
        )
    for method, uses in found.items():
        if method in chosen:
            check_stands(source, method)
        for use in uses:
            _check_runs_inside(source, method, use)
    return chosen


def _users(source: Source) -> dict[Function, list[ast.Attribute]]:
    """The methods of the tokenizer, and of its subclasses here, that take ``infer_encoder``; each with the places."""
    tokenizer = tokenizer_class(source)
    found: dict[Function, list[ast.Attribute]] = {}
    for use in (use for taken in encoder_uses(source) for use in _kept_as(source, taken)):
        classes = [n for n in source.ancestors(use) if isinstance(n, ast.ClassDef)]
        cls = next((c for c in classes if tokenizer in family(source, c)), None)
        if cls is None:
            continue
        method = next((n for n in reversed(source.ancestors(use)) if n in methods(cls)), None)
        if not isinstance(method, FUNCTIONS):
            raise Ambiguous(f"{source.name}:{use.lineno}: {ENCODE}() is not called in a method of {cls.name} itself")
        found.setdefault(method, []).append(use)
    return found


def _kept_as(source: Source, use: ast.Attribute) -> list[ast.Attribute]:
    """``use``; or, where it is kept on ``self`` under another name, the uses of that."""
    statement = source.ancestors(use)[0]
    if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or len(targets_of(statement)) != 1:
        return [use]
    target = targets_of(statement)[0]
    if not isinstance(target, ast.Attribute) or not owners(source, target):
        return [use]
    kept = [n for n in mentions(source, target) if isinstance(n, ast.Attribute)]
    return [n for n in kept if isinstance(n.ctx, ast.Load)]


# Where a decorator would not be there, or could not stand


def check_stands(source: Source, method: Function) -> None:
    """Raise where a decorator on ``method`` would not be around what runs."""
    where = f"{source.name}:{method.lineno}: {method.name}"
    if _runs_later(method):
        raise Conflict(f"{where} is a coroutine or generator: it runs after it returns")
    for place in _compiled(source, method):
        raise Conflict(f"{where} is compiled (line {place.lineno}): the compiler would have to read our decorator")
    check_defined_once(source, method)
    _check_not_replaced(source, method)


def _check_not_replaced(source: Source, method: Function) -> None:
    """Raise where the file puts something else in the place of ``method``; what only wraps it has it inside."""
    cls, name = class_of(source, method), method.name
    stores = [n for n in named(source, name) if isinstance(n, (ast.Attribute, ast.Name))]
    places: list[ast.AST] = [
        n for n in stores if not isinstance(n.ctx, ast.Load) and (isinstance(n, ast.Attribute) or _in(source, n, cls))
    ]
    for node in source.nodes(name):
        call = source.ancestors(node)[0] if isinstance(node, ast.Constant) and node.value == name else None
        if isinstance(call, ast.Call) and callee(call) in REPLACES:
            places.append(call)
    for place in places:
        if not _wraps(source.statement(place), name):
            line = getattr(place, "lineno", method.lineno)
            raise Conflict(f"{source.name}:{line}: {name} is replaced here, so what stands in the class does not run")


def _in(source: Source, node: ast.AST, cls: Optional[ast.ClassDef]) -> bool:
    return class_of(source, node) is cls and source.function(node) is (source.function(cls) if cls else None)


def _wraps(statement: ast.stmt, name: str) -> bool:
    """Whether what is assigned is made of the method called ``name`` itself."""
    loads = (n for n in ast.walk(statement) if isinstance(n, (ast.Attribute, ast.Name)) and isinstance(n.ctx, ast.Load))
    return any(getattr(n, "attr", getattr(n, "id", "")) == name for n in loads)


def _compiled(source: Source, method: Function) -> list[ast.expr]:
    """Where ``method`` is given to a compiler; not where it is kept from one."""
    found = [
        d
        for d in method.decorator_list
        if COMPILES.search(ast.unparse(d)) and not NOT_COMPILED.search(ast.unparse(getattr(d, "func", d)))
    ]
    for name in ("compile", "script", "trace"):
        for call in calls(source, name):
            if any(getattr(n, "attr", getattr(n, "id", "")) == method.name for n in ast.walk(call)):
                found.append(call)
    return found


def _runs_later(function: Function) -> bool:
    yields = any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in own_nodes(function))
    return isinstance(function, ast.AsyncFunctionDef) or yields


# From where the encoder is called


def _check_runs_inside(source: Source, method: Function, use: ast.expr) -> None:
    """Raise where the encoder may run when ``method`` has returned."""
    later = _handed_on(source, method, use)
    if later is not None:
        raise Ambiguous(
            f"{source.name}:{later.lineno}: {ENCODE} is handed on here, and may run when {method.name} has returned"
        )


def _handed_on(source: Source, method: Function, use: ast.expr) -> Optional[ast.expr]:
    """The place in ``method`` from which ``use`` may be called at another time; ``None`` where it is called there and then."""
    late = _late(source, method, use)
    around = source.ancestors(use)
    for node in around[: around.index(method)] if late is None else ():
        if isinstance(node, ast.GeneratorExp):
            return node
        if isinstance(node, ast.Lambda):
            return _handed_on(source, method, node)
        if isinstance(node, FUNCTIONS):
            decorators = {callee(d) if isinstance(d, ast.Call) else _last(d) for d in node.decorator_list}
            if _runs_later(node) or decorators - HARMLESS:
                return use
            return _first_late(source, method, node.name, node)
    return late


def _late(source: Source, method: Function, value: ast.expr) -> Optional[ast.expr]:
    """The place where ``value``, a function, is passed out of sight; ``None`` where it is called, or waited for."""
    parent = source.ancestors(value)[0]
    if isinstance(parent, ast.Call):
        if parent.func is value or (callee(parent) == "submit" and _is_waited_for(source, parent)):
            return None
        return _late(source, method, parent) if callee(parent) == "partial" and value in parent.args[:1] else value
    if isinstance(parent, (ast.BoolOp, ast.IfExp)):
        return None if value is getattr(parent, "test", None) else _late(source, method, parent)
    if isinstance(parent, ast.NamedExpr):
        return _first_late(source, method, parent.target.id, parent) or _late(source, method, parent)
    if isinstance(parent, (ast.Assign, ast.AnnAssign)) and len(targets_of(parent)) == 1:
        target = targets_of(parent)[0]
        if isinstance(target, ast.Name):
            return _first_late(source, method, target.id, parent)
    return None if isinstance(parent, (ast.Expr, ast.Compare, ast.UnaryOp, ast.If)) else value


def _first_late(source: Source, method: Function, name: str, besides: ast.AST) -> Optional[ast.expr]:
    """The first use of the variable ``name`` in ``method``, outside of ``besides``, from which it is handed on."""
    uses = [n for n in named(source, name) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    for use in uses:
        around = source.ancestors(use)
        if method in around and besides not in around and (late := _handed_on(source, method, use)) is not None:
            return late
    return None


def _is_waited_for(source: Source, call: ast.Call) -> bool:
    """Whether what ``call`` starts is waited for on the spot: ``pool.submit(…).result()``, without a time limit."""
    result, around = source.ancestors(call)[:2]
    waits = isinstance(result, ast.Attribute) and result.attr == "result"
    is_bare = isinstance(around, ast.Call) and not around.args and not around.keywords
    return waits and is_bare and "ProcessPool" not in source.text


def _last(node: Union[ast.expr, ast.stmt]) -> str:
    return str(getattr(node, "attr", getattr(node, "id", "")))
