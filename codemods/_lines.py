"""Whether a statement has its lines to itself, so that one can be put next to it, or it can be taken out."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from apply_opt.errors import Ambiguous
from apply_opt.model.source import Edit, Source, first_line, last_line


def starts_line(source: Source, statement: ast.stmt) -> bool:
    """Whether nothing is in front of ``statement`` on its first line, and that does not continue another one."""
    line = source.lines[first_line(statement) - 1]
    if first_line(statement) > 1 and source.lines[first_line(statement) - 2].rstrip("\r\n").endswith("\\"):
        return False
    return not line.encode()[: statement.col_offset].strip() and not line.lstrip().startswith("elif")


def ends_line(source: Source, statement: ast.stmt) -> bool:
    """Whether nothing but a comment follows ``statement`` on its last line."""
    rest = source.lines[last_line(statement) - 1].encode()[statement.end_col_offset or 0 :].strip()
    return rest in (b"", b";") or rest.startswith(b"#")


def is_alone(source: Source, statement: ast.stmt) -> bool:
    """Whether nothing else is on the lines of ``statement``; a comment behind it may be."""
    return starts_line(source, statement) and ends_line(source, statement)


def block_of(source: Source, statement: ast.stmt) -> list[ast.stmt]:
    """The statements among which ``statement`` stands."""
    parent = source.ancestors(statement)[0]
    blocks = [getattr(parent, name, None) for name in ("body", "orelse", "finalbody")]
    return next((block for block in blocks if isinstance(block, list) and statement in block), [])


def without(source: Source, statement: ast.stmt) -> Edit:
    """``statement``, which is alone on its lines, taken out; a comment behind it stays, on a line of its own."""
    line = source.lines[last_line(statement) - 1]
    rest = line.encode()[statement.end_col_offset or 0 :].decode().lstrip(" \t;")
    kept = source.indent(first_line(statement)) + rest if rest.startswith("#") else ""
    return Edit(first_line(statement), last_line(statement), kept)


def text_of(source: Source, node: ast.expr) -> str:
    """``node`` as it is written."""
    return ast.get_source_segment(source.text, node) or ast.unparse(node)


def line_of(source: Source, node: ast.expr) -> str:
    """``node`` as it is written, where that is one line; else as one line."""
    return text_of(source, node) if node.lineno == node.end_lineno else ast.unparse(node)


def called_by(source: Source, call: ast.Call, name: str) -> str:
    """``name(function, …)`` for the call ``function(…)``, otherwise as it is written."""
    whole, function = text_of(source, call), text_of(source, call.func)
    rest = whole[len(function) :].lstrip()
    if not whole.startswith(function) or not rest.startswith("("):
        raise Ambiguous(f"{source.name}:{call.lineno}: what is called there is written in a way that is not known")
    return f"{name}({function},{'' if rest[1:2] in ('', chr(10), chr(13)) else ' '}{rest[1:]}"


def respelled(source: Source, statement: ast.stmt, changes: Mapping[ast.expr, str]) -> Edit:
    """The lines of ``statement`` with other text for some of its expressions, none of them within another."""
    first, last = first_line(statement), last_line(statement)
    lines = [line.encode() for line in source.lines[first - 1 : last]]
    for node in sorted(changes, key=lambda n: (n.lineno, n.col_offset), reverse=True):
        start, end = node.lineno - first, (node.end_lineno or node.lineno) - first
        tail = lines[end][node.end_col_offset or 0 :]
        lines[start : end + 1] = [lines[start][: node.col_offset] + changes[node].encode() + tail]
    return Edit(first, last, b"".join(lines).decode())


def all_respelled(source: Source, changes: Mapping[ast.expr, str]) -> list[Edit]:
    """Other text for expressions in several statements, also where these share their lines."""
    lines: dict[tuple[int, int], dict[ast.expr, str]] = {}
    for node, text in changes.items():
        statement = source.statement(node)
        lines.setdefault((first_line(statement), last_line(statement)), {})[node] = text
    return [respelled(source, source.statement(next(iter(own))), own) for own in lines.values()]


def above(source: Source, statement: ast.stmt, text: str) -> Edit:
    """``text`` as a line above ``statement``, which starts its line, as far indented as it is."""
    line = first_line(statement)
    return Edit(line, line - 1, source.indent(line) + text + source.newline(line))


def below(source: Source, statement: ast.stmt, text: str) -> Edit:
    """``text`` as lines below ``statement``, which is alone on its lines, as far indented as it is."""
    line = last_line(statement)
    newline, indent = source.newline(line), source.indent(first_line(statement))
    lines = "".join((indent + part if part else "") + newline for part in text.split("\n"))
    if not source.lines[line - 1].endswith(("\n", "\r")):  # the end of a file without a last newline
        return Edit(line, line, source.lines[line - 1] + newline + lines.rstrip("\r\n"))
    return Edit(line + 1, line, lines)
