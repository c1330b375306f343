"""Which method of the tokenizer makes both kinds of tokens, what models it comes to in the end, and under which locks."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.source import Edit, Function, Source, callee, last_line, own_nodes, same

from ._escapes import encoding_methods
from ._scopes import (
    Binding,
    bindings,
    calls,
    calls_of,
    check_defined_once,
    family,
    imported_as,
    methods,
    owners,
)
from ._step_audio_tokenizer import LOG_MEL, encoder_uses, reindent, tokenizer_class

LOCKS = ("Lock", "RLock")
NO_METHOD = {"staticmethod", "classmethod", "property", "contextmanager"}


class Tokenizing(NamedTuple):
    """The method, and the names of the attributes that hold the models and their locks."""

    method: Function
    model: str
    model_lock: str
    session: str
    session_lock: str


def tokenizing(source: Source) -> Tokenizing:
    """How the tokenizer does it. Raises where that is not to be seen."""
    tokenizer = tokenizer_class(source)
    encoding, feeding = encoding_methods(source), _feeding(source, tokenizer)
    uses = [use for method in encoding for use in encoder_uses(source, method)]
    runs = [c.func for method in feeding for c in calls(source, "run", method) if isinstance(c.func, ast.Attribute)]
    method = _method(source, tokenizer, encoding, feeding)
    return Tokenizing(method, *_guarded(source, uses, "the encoder"), *_guarded(source, runs, "the ONNX session"))


def _feeding(source: Source, tokenizer: ast.ClassDef) -> list[Function]:
    """The tokenizer's methods that make log-mel frames."""
    own = [m for cls in family(source, tokenizer) for m in methods(cls)]
    around = [source.ancestors(call) for call in calls_of(source, LOG_MEL)]
    return [method for method in own if any(method in nodes for nodes in around)]


def _method(
    source: Source, tokenizer: ast.ClassDef, encoding: Sequence[Function], feeding: Sequence[Function]
) -> Function:
    """The method that has both kinds of tokens made of audio and its rate, by itself and not by another such method."""
    own = {m.name: m for cls in reversed(family(source, tokenizer)) for m in methods(cls)}
    reached = {method: _reached(source, own, method) for method in own.values()}
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
    if later or words & NO_METHOD or len(method.args.args) < 3:
        raise NoSite(f"{where} is no plain method that takes audio and its rate")
    return method


def _reached(source: Source, own: Mapping[str, Function], method: Function) -> list[Function]:
    """``method`` and those of the object's own methods that it uses, directly or not."""
    found = [method]
    for function in found:
        nodes = [n for n in ast.walk(function) if isinstance(n, ast.Attribute) and n.attr in own]
        used = dict.fromkeys(own[n.attr] for n in nodes if owners(source, n))
        found += [f for f in used if f not in found]
    return found


def _guarded(source: Source, uses: Sequence[ast.Attribute], what: str) -> tuple[str, str]:
    """The attributes of the tokenizer that hold the model on which methods are called, and the lock that is held then."""
    found = {(_attribute(source, use.value), *_locks(source, use)) for use in uses}
    line = f"{source.name}:{uses[0].lineno}" if uses else source.name
    if len(found) > 1:
        raise Ambiguous(f"{line}: {what} is called in several ways, or under several locks")
    names = next(iter(found), ())
    if len(names) != 2 or names[0] is None:
        raise NoSite(f"{line}: {what} is not an attribute of the tokenizer that is called under one lock of its own")
    return names  # type: ignore[return-value]


def _attribute(source: Source, node: ast.expr) -> Optional[str]:
    """The attribute of the tokenizer that ``node`` is, or a variable that is given that alone."""
    if isinstance(node, ast.Name):
        values = [b.value for b in bindings(source, node, node)]
        node = values[0] if len(values) == 1 and values[0] is not None else node
    return node.attr if isinstance(node, ast.Attribute) and owners(source, node) else None


def _locks(source: Source, node: ast.AST) -> list[str]:
    """The attributes of the tokenizer that are held as locks around ``node``."""
    blocks = [n for n in source.ancestors(node) if isinstance(n, ast.With)]
    held = [item.context_expr for block in blocks for item in block.items]
    names = [(_attribute(source, n), n) for n in held if isinstance(n, (ast.Attribute, ast.Name))]
    return [name for name, node in names if name is not None and _is_lock(source, node)]


def _is_lock(source: Source, node: ast.expr) -> bool:
    """Whether ``node`` is only ever given a new lock."""
    made = {alias for name in LOCKS for alias in imported_as(source, name)}
    values = [_given(b, node) for b in bindings(source, node, node)]
    return bool(values) and all(isinstance(v, ast.Call) and callee(v) in made for v in values)


def _given(binding: Binding, node: ast.expr) -> Optional[ast.expr]:
    """The value that ``binding`` gives ``node``; that of its place, where several are given theirs at once."""
    statement = binding.statement
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):  # type: ignore[attr-defined]
        pairs = zip(target.elts, statement.value.elts)  # type: ignore[attr-defined]
        return next((value for element, value in pairs if same(element, node)), None)
    return binding.value


def below(source: Source, method: Function, text: str) -> Edit:
    """``text`` (four-space indents, ``\\n``), a method, below ``method``, with an empty line between."""
    line = last_line(method)
    newline, indent = source.newline(line), source.indent(method.lineno)
    lines = reindent(text, source.indent_unit()).split("\n")
    code = newline.join(indent + part if part else "" for part in ["", *lines])
    if not source.lines[line - 1].endswith(("\n", "\r")):  # the end of a file without a last newline
        return Edit(line, line, source.lines[line - 1] + newline + code)
    return Edit(line + 1, line, code + newline)
