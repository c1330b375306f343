"""A Python file as bytes, as text and as a syntax tree, with a way back from lines to the very bytes.

A line ends with ``\\n``, ``\\r\\n`` or ``\\r``, as for the interpreter (and not at a form feed or ``U+2028``, where
``str.splitlines`` also splits). Lines are counted from 1, as in :mod:`ast`.
"""

from __future__ import annotations

import ast
import codecs
import io
import re
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Union

from apply_opt.errors import Refused

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")

Function = Union[ast.FunctionDef, ast.AsyncFunctionDef]


class Edit(NamedTuple):
    """Lines ``first`` to ``last`` (inclusive) give way to ``text``; ``last == first - 1`` inserts before ``first``."""

    first: int
    last: int
    text: str


class Source:
    """A decoded and parsed file. Raises :class:`Refused` where the bytes are not a Python file that can be kept."""

    def __init__(self, data: bytes, name: str = "<file>") -> None:
        self.name = name
        self.data = data
        self.bom = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
        self.encoding, self.text = _decode(data, name, len(self.bom))
        self.lines = split_lines(self.text)
        self.tree = _parse(self.text, name)
        self._walked: dict[ast.stmt, list[ast.AST]] = {}
        self._parents: dict[ast.AST, ast.AST] = {}

    def mentioning(self, *words: str) -> list[ast.stmt]:
        """The top-level statements with any of ``words`` in their text: where to look, in a file of any length."""
        present = [word for word in words if word in self.text]
        found = []
        for statement in self.tree.body if present else ():
            text = "".join(self.lines[first_line(statement) - 1 : last_line(statement)])
            if any(word in text for word in present):
                found.append(statement)
        return found

    def nodes(self, *words: str) -> list[ast.AST]:
        """All nodes in the top-level statements that mention any of ``words``."""
        return [node for statement in self.mentioning(*words) for node in self._walk(statement)]

    def ancestors(self, node: ast.AST) -> list[ast.AST]:
        """What ``node`` is in, from its parent outwards to the top-level statement."""
        if node not in self._parents and hasattr(node, "lineno"):
            for statement in self.tree.body:
                if first_line(statement) <= node.lineno <= last_line(statement):
                    self._walk(statement)
        found = []
        while node in self._parents:
            node = self._parents[node]
            found.append(node)
        return found

    def statement(self, node: ast.AST) -> ast.stmt:
        """The innermost statement that ``node`` is in, or is."""
        return next(n for n in [node, *self.ancestors(node)] if isinstance(n, ast.stmt))

    def function(self, node: ast.AST) -> Function | None:
        """The innermost function that ``node`` is in."""
        found = (n for n in self.ancestors(node) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
        return next(found, None)

    def top_level(self, node: ast.AST) -> ast.stmt:
        """The top-level statement that ``node`` is in, or is."""
        found = [node, *self.ancestors(node)][-1]
        assert isinstance(found, ast.stmt)
        return found

    def _walk(self, statement: ast.stmt) -> list[ast.AST]:
        if statement not in self._walked:
            nodes: list[ast.AST] = [statement]
            for node in nodes:
                for child in ast.iter_child_nodes(node):
                    if not isinstance(child, (ast.expr_context, ast.operator)):  # those are shared between trees
                        self._parents[child] = node
                        nodes.append(child)
            self._walked[statement] = nodes
        return self._walked[statement]

    def newline(self, line: int) -> str:
        """How ``line`` ends; where it does not (last line of the file), how the file's lines end."""
        for text in (self.lines[line - 1 : line] or [""]) + self.lines[:1]:
            ending = text[len(text.rstrip("\r\n")) :]
            if ending:
                return ending
        return "\n"

    def indent_unit(self) -> str:
        """One level of indentation as the first indented block has it, else four spaces."""
        for node in ast.walk(self.tree):
            for body in bodies(node):
                first, parent = body[0], getattr(node, "lineno", 0)
                if parent and first.lineno > parent and not isinstance(node, ast.Match):  # its cases are one level more
                    outer, inner = self.indent(parent), self.indent(first.lineno)
                    if len(inner) > len(outer) and inner.startswith(outer):
                        return inner[len(outer) :]
        return "    "

    def indent(self, line: int) -> str:
        """The white space that ``line`` starts with."""
        text = self.lines[line - 1]
        return text[: len(text) - len(text.lstrip(" \t\f"))]

    def splice(self, edits: Iterable[Edit]) -> bytes:
        """The file's bytes with ``edits`` made; every byte outside them is as it was.

        What is inserted at one place stands there in the order of ``edits``.
        """
        lines = list(self.lines)
        for edit in reversed(in_order(edits)):
            lines[edit.first - 1 : edit.last] = [edit.text]
        return self.bom + _encode("".join(lines), self.encoding, self.name)


def in_order(edits: Iterable[Edit]) -> list[Edit]:
    """``edits`` from the top of the file to its end; those at one place stay in the order in which they come."""
    return sorted(edits, key=lambda edit: (edit.first, edit.last))


def split_lines(text: str) -> list[str]:
    """The lines of ``text`` with their endings."""
    return _LINE.findall(text)


def _decode(data: bytes, name: str, skip: int) -> tuple[str, str]:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        encoding = "utf-8" if encoding == "utf-8-sig" else encoding
        text = data[skip:].decode(encoding)
        is_kept = text.encode(encoding) == data[skip:]
    except (SyntaxError, UnicodeError, LookupError) as error:
        raise Refused(
            f"{name} cannot be decoded: {error}",
            "save the file as UTF-8, or declare its encoding on the first line: # -*- coding: latin-1 -*-",
        ) from error
    if not is_kept:
        raise Refused(f"{name}: its encoding ({encoding}) does not round-trip", "save the file as UTF-8")
    return encoding, text


def _encode(text: str, encoding: str, name: str) -> bytes:
    try:
        return text.encode(encoding)
    except UnicodeError as error:
        raise Refused(
            f"{name}: the change does not fit the file's encoding ({encoding}): {error}", "save the file as UTF-8"
        ) from error


def _parse(text: str, name: str) -> ast.Module:
    try:
        with warnings.catch_warnings():  # what the interpreter thinks of the user's code is not our business
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (RecursionError, MemoryError) as error:
        raise Refused(
            f"{name} is nested too deeply for this Python ({error or type(error).__name__})",
            "make the edit by hand: apply-opt show NAME",
        ) from error
    except (SyntaxError, ValueError) as error:
        where = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise Refused(
            f"{name}{where} is not valid Python for this interpreter: {getattr(error, 'msg', error)}",
            f"mend it first; `python -m py_compile {name}` shows the place "
            "(code for a newer Python needs apply-opt run by that Python)",
        ) from error


def bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The non-empty statement lists directly inside ``node``."""
    for field in ("body", "orelse", "finalbody"):
        value = getattr(node, field, None)
        if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            yield value
    for handler in getattr(node, "handlers", ()):
        yield handler.body
    for case in getattr(node, "cases", ()):
        yield case.body


def first_line(node: ast.stmt) -> int:
    """The first line of a statement, its decorators included."""
    decorators: Sequence[ast.expr] = getattr(node, "decorator_list", ())
    return min([node.lineno, *(d.lineno for d in decorators)])


def last_line(node: ast.stmt) -> int:
    """The last line of a statement."""
    return node.end_lineno or node.lineno


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes that belong to ``scope`` itself: all below it, but not what nested functions and classes hold."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield from own_nodes(child)


def callee(call: ast.Call) -> str:
    """The last name of what is called: ``c`` for ``a.b.c(…)``."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def same(left: ast.AST, right: ast.AST) -> bool:
    """Whether two expressions read the same, whatever their formatting and context (load or store)."""
    return ast.unparse(left) == ast.unparse(right)
