"""Rewrite a few lines with LibCST: it sees only those lines, so it costs what they cost and can touch nothing else.

LibCST is imported on the first use: finding a place needs only :mod:`ast`.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from apply_opt.errors import Refused
from apply_opt.model.source import Edit, Source, first_line, last_line, split_lines

if TYPE_CHECKING:
    import libcst as cst


def rewrite(source: Source, statement: ast.stmt, transformer: cst.CSTTransformer) -> Edit:
    """``statement``'s own lines after ``transformer``, every other byte of them kept.

    Raises :class:`Refused` where LibCST does not give the lines back unchanged, or changes nothing.
    """
    import libcst as cst

    first, last = first_line(statement), last_line(statement)
    text = "".join(source.lines[first - 1 : last])
    # An indented run of lines is a block: a header of our own on top makes it a module, whatever its indentation.
    header = f"if 1:{source.newline(first)}" if source.indent(first).strip("\f") else ""
    try:
        module = cst.parse_module(header + text)
    except cst.ParserSyntaxError as error:
        raise Refused(f"{source.name}:{first}: LibCST cannot read these lines: {error.message}") from error
    if module.code != header + text:
        raise Refused(f"{source.name}:{first}: LibCST does not give these lines back unchanged")
    result = module.visit(transformer).code
    if result == module.code:
        raise Refused(f"{source.name}:{first}: nothing there could be rewritten")
    return _shrink(source, Edit(first, last, result[len(header) :]))


def _shrink(source: Source, edit: Edit) -> Edit:
    """``edit`` without the lines at its start and end that it leaves as they are."""
    old, new = source.lines[edit.first - 1 : edit.last], split_lines(edit.text)
    shortest = min(len(old), len(new))
    start = next((i for i in range(shortest) if old[i] != new[i]), shortest)
    rest = shortest - start
    end = next((i for i in range(rest) if old[-1 - i] != new[-1 - i]), rest)
    return Edit(edit.first + start, edit.last - end, "".join(new[start : len(new) - end]))
