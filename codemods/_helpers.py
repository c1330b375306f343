"""Functions and classes that codemods write above a top-level statement: whether one is there already, and where it goes."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from apply_opt.errors import Conflict, PartlyApplied
from apply_opt.model.source import Edit, Source, first_line, last_line

from ._scopes import named

TAKE_ONE_OUT = "take one of them out by hand"


def helpers(source: Source, name: str) -> list[ast.FunctionDef]:
    """The module-level functions called ``name``."""
    return [s for s in source.tree.body if isinstance(s, ast.FunctionDef) and s.name == name]


def has_helper(source: Source, name: str, uses: Sequence[ast.AST], else_at: int) -> bool:
    """Whether our function ``name`` is there, and used; ``uses`` are the places where it should be.

    Raises where it is there twice or by half, and where the name stands for something else.
    """
    ours, lines = helpers(source, name), sorted({getattr(use, "lineno", 0) for use in uses})
    if len(ours) > 1:
        where = ", ".join(str(function.lineno) for function in ours)
        raise PartlyApplied(f"{source.name}: {name} is defined more than once: lines {where}", TAKE_ONE_OUT)
    if len(lines) > 1:
        where = ", ".join(map(str, lines))
        raise PartlyApplied(f"{source.name}: {name} is used more than once: lines {where}", TAKE_ONE_OUT)
    if bool(ours) != bool(lines):
        half = f"defined (line {ours[0].lineno}) but not used here" if ours else "used but not defined"
        raise PartlyApplied(
            f"{source.name}:{lines[0] if lines else else_at} is partly applied: {name} is {half}",
            "take the half that is there out by hand, then apply again",
        )
    if not ours:
        refuse_taken(source, name)
    return bool(ours)


def refuse_taken(source: Source, *names: str) -> None:
    """Raise :class:`Conflict` where the code uses one of ``names`` already."""
    for name in names:
        if is_taken(source, name):
            raise Conflict(f"{source.name} already uses the name {name} for something else")


def is_taken(source: Source, name: str) -> bool:
    """Whether the code uses ``name`` for a variable, parameter, function, class or import anywhere."""
    return any(not isinstance(node, (ast.Attribute, ast.keyword, ast.Call)) for node in named(source, name))


def insert_above(source: Source, node: ast.AST, text: str) -> Edit:
    """``text`` (four-space indents, ``\\n``) as a module-level block above the top-level statement that holds ``node``.

    Comments that stand directly on that statement stay with it, except at the top of the file, where they are the file's.
    """
    statement = source.top_level(node)
    index = source.tree.body.index(statement)
    line, above = first_line(statement), source.tree.body[:index]
    while above and last_line(above[-1]) >= line:  # `x = 1; y = 2`
        line = first_line(above.pop())
    floor = last_line(above[-1]) + 1 if above else line
    while line > floor and source.lines[line - 2].startswith("#"):
        line -= 1
    newline, unit = source.newline(line), source.indent_unit()
    return Edit(line, line - 1, (_gap(source, line) + reindent(text, unit) + "\n\n\n").replace("\n", newline))


def _gap(source: Source, line: int) -> str:
    """What makes the empty lines above ``line`` two, where there is anything above them."""
    written = [text for text in source.lines[: line - 1] if text.strip()]
    empty = next((n for n, text in enumerate(reversed(source.lines[: line - 1])) if text.strip()), 0)
    return "\n" * max(0, 2 - empty) if written else ""


def reindent(text: str, unit: str) -> str:
    """``text`` with ``unit`` for each four spaces at the start of a line."""
    lines = []
    for line in text.strip("\n").split("\n"):
        body = line.lstrip(" ")
        lines.append(unit * ((len(line) - len(body)) // 4) + body)
    return "\n".join(lines)
