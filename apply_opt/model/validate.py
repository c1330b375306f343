"""The rules that the result of every edit has to pass before it may be written.

Outside the edited lines the bytes are the same and so is the syntax tree; no definition is doubled. Only the top-level
statements about an edit are compared piece by piece: for all others, the same bytes between the same boundaries say the same.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from apply_opt.errors import ApplyOptError, InvalidResult
from apply_opt.model.source import Edit, Source, bodies, first_line, in_order, last_line, split_lines

BLOCKS = (ast.ExceptHandler, ast.match_case)
Range = tuple[int, int]
"""First and last line; an empty one, before its first line, has ``last == first - 1``."""


def check_edits(source: Source, edits: Iterable[Edit]) -> Source:
    """The result of ``edits``. Raises :class:`InvalidResult` where a rule is broken."""
    edits = in_order(edits)
    try:
        after = Source(source.splice(edits), source.name)
    except InvalidResult:
        raise
    except ApplyOptError as error:
        raise InvalidResult(f"the result is not a Python file: {error}") from error
    old = [(edit.first, edit.last) for edit in edits]
    new = _new_ranges(edits)
    back = [Edit(*b, "".join(source.lines[a[0] - 1 : a[1]])) for a, b in zip(old, new)]
    if after.splice(back) != source.data:
        raise InvalidResult("bytes outside the edits changed")
    near_old, far_old = _split(source.tree, old)
    near_new, far_new = _split(after.tree, new)
    moved = [_moved(span, old, new) for span in far_old]
    if moved != far_new or _pieces_outside(near_old, old) != _pieces_outside(near_new, new):
        raise InvalidResult("the syntax tree outside the edits changed")
    before, now = _definitions(near_old), _definitions(near_new)
    top = {s.name for s in source.tree.body if isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    doubled = [n for n, count in now.items() if count > max(1, before[n]) or (not before[n] and n[1:] in top)]
    if doubled:
        raise InvalidResult(f"definitions doubled: {sorted(doubled)}")
    return after


def _new_ranges(edits: Sequence[Edit]) -> list[Range]:
    """Where the edits' text stands in the result."""
    ranges, shift = [], 0
    for edit in edits:
        count = len(split_lines(edit.text))
        ranges.append((edit.first + shift, edit.first + shift + count - 1))
        shift += count - (edit.last - edit.first + 1)
    return ranges


def _split(tree: ast.Module, ranges: Sequence[Range]) -> tuple[list[ast.stmt], list[Range]]:
    """The top-level statements in or next to a range, and the lines of all others."""
    near, far = [], []
    for statement in tree.body:
        first, last = first_line(statement), last_line(statement)
        if any(r_first <= last + 1 and r_last >= first - 1 for r_first, r_last in ranges):
            near.append(statement)
        else:
            far.append((first, last))
    return near, far


def _moved(span: Range, old: Sequence[Range], new: Sequence[Range]) -> Range:
    """Where lines that no edit touches stand in the result."""
    above = [b[1] - a[1] for a, b in zip(old, new) if a[0] <= span[0]]
    return (span[0] + above[-1], span[1] + above[-1]) if above else span


class Piece(NamedTuple):
    """A simple statement, a decorator or a block's header: its lines, what it says, and the headers that it is below."""

    first: int
    last: int
    text: str
    above: tuple[Piece, ...]


def pieces(statements: Iterable[ast.stmt], above: tuple[Piece, ...] = ()) -> Iterator[Piece]:
    """All that ``statements`` are made of, in order."""
    for statement in statements:
        inner = [first_line(block[0]) for block in bodies(statement)]
        for decorator in getattr(statement, "decorator_list", ()):
            yield Piece(decorator.lineno, decorator.end_lineno or 0, f"@{ast.dump(decorator)}", above)
        header_end = _header_end(statement) if inner else last_line(statement)
        head = Piece(statement.lineno, header_end, header(statement), above)
        yield head
        for block in bodies(statement):
            yield from pieces(block, (*above, head))


def _header_end(statement: ast.stmt) -> int:
    """The last line on which the header of a block has code; comments above the block's first statement are not of it."""
    children = [c for c in ast.iter_child_nodes(statement) if not isinstance(c, (ast.stmt, *BLOCKS))]
    ends = [
        getattr(n, "end_lineno", None) or 0 for c in children if c not in _decorators(statement) for n in ast.walk(c)
    ]
    return max([statement.lineno, *ends])


def _decorators(statement: ast.stmt) -> Sequence[ast.AST]:
    found: Sequence[ast.AST] = getattr(statement, "decorator_list", ())
    return found


def _pieces_outside(statements: Iterable[ast.stmt], ranges: Sequence[Range]) -> list[list[str]]:
    """What ``statements`` say on the lines that no range holds, piece by piece, in order, and below which headers."""

    def outside(piece: Piece) -> bool:
        return not any(first <= piece.last and last >= piece.first for first, last in ranges)

    found = [piece for piece in pieces(statements) if outside(piece)]
    return [[piece.text, *(head.text if outside(head) else "" for head in piece.above)] for piece in found]


def header(statement: ast.stmt) -> str:
    """``statement`` without its decorators and without the statements inside it."""
    parts = [type(statement).__name__]
    for name, value in ast.iter_fields(statement):
        values = value if isinstance(value, list) else [value]
        if name == "decorator_list" or any(isinstance(v, ast.stmt) for v in values):
            continue
        for v in values:
            outer = [c for c in ast.iter_child_nodes(v) if not isinstance(c, ast.stmt)] if hasattr(v, "body") else [v]
            parts += [f"{name}={ast.dump(c) if isinstance(c, ast.AST) else c!r}" for c in outer]
    return " ".join(parts)


def _definitions(statements: Iterable[ast.stmt], scope: str = "") -> Counter[str]:
    """How often each function and class is defined, by its dotted name."""
    found: Counter[str] = Counter()
    for statement in statements:
        named = isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        name = f"{scope}.{statement.name}" if named else scope  # type: ignore[attr-defined]
        found[name] += named
        for block in bodies(statement):
            found += _definitions(block, name)
    return found
