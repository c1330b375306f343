"""Rewrite a few lines with LibCST: it sees only those lines, so it costs what they cost and can touch nothing else.

LibCST is imported on the first use: finding a place needs only :mod:`ast`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

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
    positioned = cst.MetadataWrapper(module, unsafe_skip_copy=True) if transformer.METADATA_DEPENDENCIES else module
    result = positioned.visit(transformer).code
    if result == module.code:
        raise Refused(f"{source.name}:{first}: nothing there could be rewritten")
    return _shrink(source, Edit(first, last, result[len(header) :]))


def replace(source: Source, statement: ast.stmt, changes: Mapping[ast.expr, str]) -> Edit:
    """``statement``'s own lines with other code for some of its expressions, and for nothing that merely reads like them.

    Code of several lines is indented as it is to stand in the file. Raises :class:`Refused` where LibCST does not have an
    expression at the place where :mod:`ast` has it.
    """
    indent = source.indent(first_line(statement)).strip("\f")
    return change(source, statement, {node: _Replacement(_relative(code, indent)) for node, code in changes.items()})


class _Replacement:
    """Gives other code, in the parentheses that stand there."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __call__(self, node: cst.BaseExpression) -> cst.BaseExpression:
        import libcst as cst

        new = cst.parse_expression(self.code)
        own = isinstance(new, cst.Tuple)  # whose parentheses are no matter of taste
        lpar = [*node.lpar, *(new.lpar if own else ())]
        return new.with_changes(lpar=lpar, rpar=[*(new.rpar if own else ()), *node.rpar])


def change(
    source: Source, statement: ast.stmt, changes: Mapping[ast.expr, Callable[[Any], cst.BaseExpression]]
) -> Edit:
    """``statement``'s own lines with what functions make of some of its expressions. Otherwise as :func:`replace`."""
    import libcst as cst
    from libcst.metadata import PositionProvider

    above = first_line(statement) - (2 if source.indent(first_line(statement)).strip("\f") else 1)
    wanted = {_place(source, node, above): function for node, function in changes.items()}

    class Change(cst.CSTTransformer):
        METADATA_DEPENDENCIES = (PositionProvider,)

        def on_leave(self, original_node: cst.CSTNode, updated_node: cst.CSTNode) -> cst.CSTNode:  # type: ignore[override]
            if not isinstance(original_node, cst.BaseExpression):
                return updated_node
            span = self.get_metadata(PositionProvider, original_node)
            function = wanted.pop((span.start.line, span.start.column, span.end.line, span.end.column), None)
            return function(updated_node) if function else updated_node

    edit = rewrite(source, statement, Change())
    if wanted:
        raise Refused(f"{source.name}:{statement.lineno}: LibCST reads this line differently")
    return edit


def _relative(code: str, indent: str) -> str:
    """``code`` with its further lines indented as seen from ``indent``, which LibCST adds to them."""
    first, *rest = split_lines(code)
    if any(quotes in code for quotes in ('"""', "'''")):  # the lines of a string are no one's indentation
        return code
    return first + "".join(line.removeprefix(indent) for line in rest)


def _place(source: Source, node: ast.expr, above: int) -> tuple[int, int, int, int]:
    """Where LibCST has ``node``: lines counted after ``above`` of them, columns in characters."""
    end_line = node.end_lineno or node.lineno
    columns = [
        len(source.lines[line - 1].encode()[:offset].decode())
        for line, offset in ((node.lineno, node.col_offset), (end_line, node.end_col_offset or 0))
    ]
    return node.lineno - above, columns[0], end_line - above, columns[1]


def _shrink(source: Source, edit: Edit) -> Edit:
    """``edit`` without the lines at its start and end that it leaves as they are."""
    old, new = source.lines[edit.first - 1 : edit.last], split_lines(edit.text)
    shortest = min(len(old), len(new))
    start = next((i for i in range(shortest) if old[i] != new[i]), shortest)
    rest = shortest - start
    end = next((i for i in range(rest) if old[-1 - i] != new[-1 - i]), rest)
    return Edit(edit.first + start, edit.last - end, "".join(new[start : len(new) - end]))
