"""Undo a change by structure, where its lines are no longer there letter by letter (a formatter ran over the file).

Statements are compared as syntax trees, scope by scope: what the change put into a class or function is taken out of the
same class or function, and what it replaced is put back.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Optional

from apply_opt.errors import Refused
from apply_opt.model.source import Edit, Source, first_line, last_line
from apply_opt.model.validate import header, pieces

Scope = Sequence[ast.stmt]


class _Lost(Exception):
    """A statement of the change is not there any more, or not in one place only."""


def undo(base: bytes, ours: bytes, theirs: bytes) -> Optional[bytes]:
    """``ours`` without the change from ``theirs`` to ``base``; ``None`` where that is not certain."""
    try:
        sources = _read(base), _read(ours), _read(theirs)
        edits = list(_edits(sources, *(source.tree.body for source in sources)))
        edits += _comments_taken_out(sources, edits)
        result = sources[1].splice(edits)
        return result if edits and _is_undone(_read(result), sources) else None
    except (_Lost, Refused, RecursionError):
        return None


def _read(data: bytes) -> Source:
    """The file, its docstrings as ``help()`` shows them: to indent code anew changes the white space in them."""
    source = Source(data)
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            text = ast.get_docstring(node)
            if text is not None:
                node.body[0].value.value = text  # type: ignore[attr-defined]
    return source


def _is_undone(result: Source, sources: tuple[Source, Source, Source]) -> bool:
    """The result says what the user's file says, without what the change wrote and with what it replaced: no more, no less.

    Nor is a comment of the user's lost, where one stands between the change's lines, or one of the change's left.
    """
    base, ours, theirs, now = (Counter((p.text, len(p.above)) for p in pieces(s.tree.body)) for s in (*sources, result))
    wrote, said, was, left = (Counter(text for _, text in _comments(source)) for source in (*sources, result))
    gone = all(left[text] <= max(said[text] - count, 0) for text, count in (wrote - was).items())
    return now == ours - (base - theirs) + (theirs - base) and gone and not said - wrote - left


def _comments(source: Source) -> list[tuple[int, str]]:
    """The comments, each with its line."""
    tokens = tokenize.generate_tokens(io.StringIO(source.text).readline)
    return [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]


def _comments_taken_out(sources: tuple[Source, Source, Source], edits: Sequence[Edit]) -> Iterator[Edit]:
    """The comments that the change wrote on lines of their own, as far as they do not go with its statements."""
    base, _, theirs = (Counter(text for _, text in _comments(source)) for source in sources)
    now = sources[1]
    for text, count in (base - theirs).items():
        lines = [line for line, found in _comments(now) if found == text and now.lines[line - 1].strip() == text]
        rest = [line for line in lines if not any(e.first <= line <= e.last for e in edits)]
        count -= len(lines) - len(rest)
        if 0 < count < len(rest):  # the user has written the same
            raise _Lost
        yield from (Edit(line, line, "") for line in (rest if count > 0 else ()))


def _edits(sources: tuple[Source, Source, Source], base: Scope, ours: Scope, theirs: Scope) -> Iterator[Edit]:
    """The edits to ``ours`` that undo what differs between ``theirs`` (original) and ``base`` (changed) in one scope."""
    keys_base, keys_theirs = [_key(s) for s in base], [_key(s) for s in theirs]
    for tag, a0, a1, b0, b1 in SequenceMatcher(None, keys_base, keys_theirs, autojunk=False).get_opcodes():
        if tag == "equal":
            for changed, original in zip(base[a0:a1], theirs[b0:b1]):
                if ast.dump(changed) != ast.dump(original):
                    yield from _inside(sources, changed, ours, original)
        elif a0 == a1:
            yield _put_between(sources, [base[i] for i in (a0 - 1, a0) if 0 <= i < len(base)], ours, theirs[b0:b1])
        else:
            yield _replace(sources, base[a0:a1], ours, theirs[b0:b1])


def _key(statement: ast.stmt) -> str:
    """What identifies a statement in its scope: a name, for what has one; else all that it says."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return f"{type(statement).__name__} {statement.name}"
    return ast.dump(statement)


def _inside(
    sources: tuple[Source, Source, Source], changed: ast.stmt, ours: Scope, original: ast.stmt
) -> Iterator[Edit]:
    """A class or function that the change edited: its decorators, its head, then its body."""
    found = [s for s in ours if _key(s) == _key(changed)]
    if len(found) != 1:
        raise _Lost
    mine, was, is_ = ([ast.dump(d) for d in s.decorator_list] for s in (found[0], original, changed))  # type: ignore[attr-defined]
    for dump in (d for d in is_ if d not in was):
        places = [d for d, text in zip(found[0].decorator_list, mine) if text == dump]  # type: ignore[attr-defined]
        if len(places) != 1:
            raise _Lost
        yield Edit(places[0].lineno, places[0].end_lineno, "")
    if header(changed) != header(original):
        yield _put_back(sources, (found[0].lineno, _head_end(found[0])), (original.lineno, _head_end(original)))
    yield from _edits(sources, changed.body, found[0].body, original.body)  # type: ignore[attr-defined]


def _replace(sources: tuple[Source, Source, Source], run: Scope, ours: Scope, original: Scope) -> Edit:
    """The run of statements that the change wrote, wherever it now stands in the scope, gives way to the original's."""
    wanted, dumps = [ast.dump(s) for s in run], [ast.dump(s) for s in ours]
    starts = [i for i in range(len(dumps) - len(wanted) + 1) if dumps[i : i + len(wanted)] == wanted]
    if len(starts) != 1:
        raise _Lost
    found = ours[starts[0] : starts[0] + len(run)]
    first, last = first_line(found[0]), last_line(found[-1])
    if original:
        return _put_back(sources, (first, last), (first_line(original[0]), last_line(original[-1])))
    now = sources[1]
    while last < len(now.lines) and not now.lines[last].strip():
        last += 1
    return Edit(first, last, "")


def _put_between(sources: tuple[Source, Source, Source], around: Scope, ours: Scope, original: Scope) -> Edit:
    """The original's statements, which the change only took out, between the two that they stood between."""
    places = [[i for i, s in enumerate(ours) if _key(s) == _key(one)] for one in around]
    if len(around) != 2 or any(len(found) != 1 for found in places) or places[0][0] + 1 != places[1][0]:
        raise _Lost
    above, below = (ours[found[0]] for found in places)
    line = last_line(above) + 1
    if first_line(below) < line:  # both on one line
        raise _Lost
    text = _lines(sources, sources[1].indent(first_line(above)), (first_line(original[0]), last_line(original[-1])))
    return Edit(line, line - 1, "".join(part + sources[1].newline(line - 1) for part in text))


def _head_end(statement: ast.stmt) -> int:
    return first_line(statement.body[0]) - 1  # type: ignore[attr-defined]


def _put_back(sources: tuple[Source, Source, Source], span: tuple[int, int], original: tuple[int, int]) -> Edit:
    """Lines ``span`` of the user's file give way to lines ``original`` of the original, indented as those were."""
    now = sources[1]
    texts = _lines(sources, now.indent(span[0]), original)
    return Edit(*span, "".join(text + now.newline(span[1]) for text in texts))


def _lines(sources: tuple[Source, Source, Source], indent: str, original: tuple[int, int]) -> list[str]:
    """Lines ``original`` of the original, with another indentation and without their ends."""
    before = sources[2]
    old_indent = before.indent(original[0])
    lines = before.lines[original[0] - 1 : original[1]]
    if any(line.strip() and not line.startswith(old_indent) for line in lines):
        raise _Lost
    return [(indent + line[len(old_indent) :]).rstrip("\r\n") if line.strip() else "" for line in lines]
