"""Which file a session's model may come from: the texts that its path may be, and the words that lead there.

Only the last part of a path names the file. What a part is made of is computed where that takes no more than joining and
replacing text; a part that is not known is ``?``.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Optional, Union

from apply_opt.model.source import Source, callee

from ._scopes import FUNCTIONS, PARAMETER, called, callers, passed, reaching

UNKNOWN = "?"
MODEL_FILE = re.compile(r"\w\.(onnx|ort)$")
PLACEHOLDER = re.compile(r"%\w|{[^}]*}")
DEPTH = 5
MOST = 50
FOLDER = {"dirname", "split", "parent", "parents"}
RENAMED = {"with_name", "with_stem"}
JOINED = {"join", "joinpath"}


def values(source: Source, node: Union[ast.Name, ast.Attribute], via: Optional[ast.Call]) -> Iterator[ast.expr]:
    """What a variable may be given: values, what a loop takes them from, and what callers pass."""
    for binding in reaching(source, node, node):
        found = [binding.value, binding.among]
        function = binding.statement
        if binding.kind == PARAMETER and isinstance(node, ast.Name) and isinstance(function, FUNCTIONS):
            outer = [via] if via and called(source, via) is function else callers(source, function)
            found = [passed(source, function, node.id, call) for call in outer]
        yield from (value for value in found if value is not None)


def file_names(source: Source, path: ast.expr, via: Optional[ast.Call], model: str) -> set[str]:
    """The names of files that ``path`` may end in, as far as they are known; those with ``model`` also in part."""
    names = {re.split(r"[/\\]", text)[-1] for text in _texts(source, path, via, DEPTH)}
    return {n for n in names if model in n or (UNKNOWN not in n and MODEL_FILE.search(n))}


def words(source: Source, expression: ast.expr, via: Optional[ast.Call], depth: int = DEPTH) -> Iterator[str]:
    """The names and strings in ``expression``, and in what its variables may be given."""
    for node in ast.walk(expression):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, (ast.Name, ast.Attribute)):
            yield node.id if isinstance(node, ast.Name) else node.attr
            for value in values(source, node, via) if depth else ():
                yield from words(source, value, via, depth - 1)


def _texts(source: Source, node: ast.AST, via: Optional[ast.Call], depth: int) -> list[str]:
    """The texts that ``node`` may be."""

    def texts(part: ast.AST) -> list[str]:
        return _texts(source, part, via, depth)

    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, (ast.Name, ast.Attribute)):
        if isinstance(node, ast.Attribute) and node.attr in FOLDER:
            return [UNKNOWN]
        given = list(values(source, node, via)) if depth else []
        found = [text for value in given for text in _texts(source, value, via, depth - 1)]
        if not given and isinstance(node, ast.Attribute):
            return texts(node.value)
        return list(dict.fromkeys(found)) or [UNKNOWN]
    if isinstance(node, ast.JoinedStr):
        return _in_a_row([texts(part) for part in node.values])
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Div)):
        return _in_a_row([texts(node.left), texts(node.right)], "/" if isinstance(node.op, ast.Div) else "")
    if isinstance(node, ast.BinOp):
        return _filled(texts(node.left), [texts(n) for n in getattr(node.right, "elts", [node.right])])
    if isinstance(node, ast.Call):
        return _of_call(node, texts)
    if isinstance(node, ast.Subscript):
        return _of_item(source, node, via, depth)
    parts = [node.body, node.orelse] if isinstance(node, ast.IfExp) else ast.iter_child_nodes(node)
    return [text for part in parts for text in texts(part)]


def _in_a_row(parts: Sequence[list[str]], between: str = "") -> list[str]:
    """Every way to take one of each of ``parts`` and put them together."""
    rows = itertools.product(*(part or [UNKNOWN] for part in parts))
    return [between.join(row) for row in itertools.islice(rows, MOST)]


def _filled(templates: list[str], given: Sequence[list[str]]) -> list[str]:
    """``templates`` with their placeholders replaced by what there is one text for."""
    found = []
    for template in templates:
        fillers = iter([part[0] if len(part) == 1 else UNKNOWN for part in given])
        found.append(PLACEHOLDER.sub(lambda match: next(fillers, UNKNOWN), template))  # noqa: B023  it is used right here
    return found


def _of_call(call: ast.Call, texts: Callable[[ast.AST], list[str]]) -> list[str]:
    """The texts that a call may give: of an unknown function, everything that it is given."""
    name, base = callee(call), getattr(call.func, "value", None)
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    if name in FOLDER:
        return [UNKNOWN]
    if name in RENAMED or (name in JOINED and call.args and not isinstance(call.args[-1], ast.Starred)):
        return texts(call.args[-1]) if call.args else [UNKNOWN]
    if name == "format" and base is not None:
        return _filled(texts(base), [texts(argument) for argument in given])
    if name == "replace" and base is not None and len(call.args) == 2:
        old, new = (texts(argument) for argument in call.args)
        known = len(old) == len(new) == 1 and UNKNOWN not in old + new
        return [text.replace(old[0], new[0]) for text in texts(base)] if known else [UNKNOWN]
    if name in ("sub", "replace", "translate"):
        return [UNKNOWN]
    receiver = texts(base) if base is not None else []
    return [*receiver, *(text for argument in given for text in texts(argument))]


def _of_item(source: Source, node: ast.Subscript, via: Optional[ast.Call], depth: int) -> list[str]:
    """The texts of one item: that with the key, where the dictionary is written out; else all."""
    base = node.value
    outer = list(values(source, base, via)) if isinstance(base, (ast.Name, ast.Attribute)) and depth else [base]
    for value in outer:
        if isinstance(value, ast.Dict) and isinstance(node.slice, ast.Constant):
            pairs = [(k, v) for k, v in zip(value.keys, value.values) if isinstance(k, ast.Constant)]
            items = [v for k, v in pairs if k.value == node.slice.value]
            if len(outer) == 1 and items:
                return _texts(source, items[-1], via, depth)
    return [text for value in outer for text in _texts(source, value, via, depth - 1 if depth else 0)]
