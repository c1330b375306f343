"""Take one change out of a file that has moved on since: a three-way merge over lines.

The merge differs from ``diff3`` in one point: a change that only *touches* another one (stands on the next line) does not
conflict with it. It has to, in a tool that merges two people's work; here one side is our own recorded change, so the
lines that it wrote are known exactly and can be taken out from between any others.

Lines are bytes that end with ``\\n`` (or the end of the file): a merge never decodes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple, Optional

PRESENT, ABSENT, ALTERED, WRITTEN_OVER = "present", "absent", "altered", "written over"
LONG = 6000
"""How many lines (of both files together) may differ in one run before speed counts more than the best alignment."""

Opcode = tuple[str, int, int, int, int]


class Hunk(NamedTuple):
    """Lines ``[a0, a1)`` of one file stand as lines ``[b0, b1)`` in the other (0-based, half open)."""

    a0: int
    a1: int
    b0: int
    b1: int


class MergeConflict(Exception):
    """The lines that were to be taken out have been changed since. ``lines`` are their numbers in the file now."""

    def __init__(self, lines: Sequence[int]) -> None:
        super().__init__(f"changed since: lines {', '.join(map(str, lines))}")
        self.lines = lines


def split(data: bytes) -> list[bytes]:
    """The lines of ``data`` with their endings."""
    return re.findall(rb"[^\n]*\n|[^\n]+\Z", data)


def hunks(old: Sequence[bytes], new: Sequence[bytes]) -> list[Hunk]:
    """Where ``old`` and ``new`` differ."""
    return [Hunk(*ranges) for tag, *ranges in opcodes(old, new) if tag != "equal"]


def opcodes(old: Sequence[bytes], new: Sequence[bytes]) -> list[Opcode]:
    """As :meth:`difflib.SequenceMatcher.get_opcodes`, but what was put in (or taken out) whole starts as late as it can.

    Of the many places where a block between equal lines can be said to start, the last one has the blank lines behind a
    function and not in front of it, which is how people write them.
    """
    result: list[Opcode] = []
    for tag, a0, a1, b0, b1 in _opcodes(old, new):
        if tag == "equal" and result and result[-1][0] in ("insert", "delete"):
            kind, c0, c1, d0, d1 = result.pop()
            lines, start, end = (new, d0, d1) if kind == "insert" else (old, c0, c1)
            slide = 0
            while slide < a1 - a0 - 1 and start + slide < end and lines[start + slide] == old[a0 + slide]:
                slide += 1
            if slide and result and result[-1][0] == "equal":
                _, e0, e1, f0, f1 = result.pop()
                result.append(("equal", e0, e1 + slide, f0, f1 + slide))
            elif slide:
                result.append(("equal", c0, c0 + slide, d0, d0 + slide))
            result.append((kind, c0 + slide, c1 + slide, d0 + slide, d1 + slide))
            result.append((tag, a0 + slide, a1, b0 + slide, b1))
        else:
            result.append((tag, a0, a1, b0, b1))
    return result


def _opcodes(old: Sequence[bytes], new: Sequence[bytes]) -> list[Opcode]:
    """:mod:`difflib`'s opcodes. What both begin and end with is set apart first, since difflib's time grows with the square
    of how often a line is repeated; in what is left, lines that are on every page are no anchors if it is long.
    """
    limit = min(len(old), len(new))
    head = next((i for i in range(limit) if old[i] != new[i]), limit)
    tail = next((i for i in range(limit - head) if old[-1 - i] != new[-1 - i]), limit - head)
    is_long = len(old) + len(new) - 2 * (head + tail) > LONG
    middle = SequenceMatcher(None, old[head : len(old) - tail], new[head : len(new) - tail], autojunk=is_long)
    codes: list[Opcode] = [("equal", 0, head, 0, head)] if head else []
    codes += [(tag, a0 + head, a1 + head, b0 + head, b1 + head) for tag, a0, a1, b0, b1 in middle.get_opcodes()]
    if tail:
        codes.append(("equal", len(old) - tail, len(old), len(new) - tail, len(new)))
    return _joined(codes)


def _joined(codes: Sequence[Opcode]) -> list[Opcode]:
    """Neighbouring runs of equal lines as one."""
    result: list[Opcode] = []
    for code in codes:
        if code[0] == "equal" and result and result[-1][0] == "equal":
            _, a0, _, b0, _ = result.pop()
            code = ("equal", a0, code[2], b0, code[4])
        result.append(code)
    return result


def with_endings_of(data: bytes, other: bytes) -> bytes:
    """``data`` with the line endings of ``other``, where both have one kind throughout: LF or CRLF."""
    kinds = [{line.endswith(b"\r\n") for line in split(text) if line.endswith(b"\n")} for text in (data, other)]
    if kinds == [{False}, {True}]:
        return data.replace(b"\n", b"\r\n")
    return data.replace(b"\r\n", b"\n") if kinds == [{True}, {False}] else data


def three_way(base: bytes, ours: bytes, theirs: bytes) -> bytes:
    """``ours`` with the change from ``base`` to ``theirs`` made to it as well.

    Raises :class:`MergeConflict` where ``ours`` has changed the very lines that the change is about.
    """
    if ours == base:
        return theirs
    base_lines, our_lines, their_lines = split(base), split(ours), split(theirs)
    place = _Places(base_lines, our_lines, their_lines)
    todo = hunks(base_lines, their_lines)
    found = [place.of(hunk.a0, hunk.a1) for hunk in todo]
    failed = [line for hunk, at in zip(todo, found) if at is None for line in place.near(hunk.a0, hunk.a1)]
    moves = sorted((at, hunk) for hunk, at in zip(todo, found) if at is not None)
    failed += [first + 1 for ((_, end), _), ((first, _), _) in itertools.pairwise(moves) if first < end]
    if failed:
        raise MergeConflict(sorted(set(failed)))
    result = list(our_lines)
    for (first, end), hunk in reversed(moves):
        result[first:end] = their_lines[hunk.b0 : hunk.b1]
    torn = [n for n, line in enumerate(result[:-1], 1) if not line.endswith(b"\n")]
    if torn:  # a last line without an ending would run into what stands behind it now
        raise MergeConflict(torn)
    return b"".join(result)


def presence(before: bytes, after: bytes, now: bytes) -> str:
    """Whether the change from ``before`` to ``after`` still stands in ``now``: present, absent, or altered (partly)."""
    before_lines, after_lines, now_lines = split(before), split(after), split(now)
    in_after = _Places(after_lines, now_lines, before_lines)
    in_before = _Places(before_lines, now_lines, after_lines)
    states = set()
    for hunk in hunks(before_lines, after_lines):
        own = set(after_lines[hunk.b0 : hunk.b1]).difference(before_lines)
        is_deletion = hunk.b0 == hunk.b1 and in_before.of(hunk.a0, hunk.a1) is not None  # lines tell more than a gap
        if not is_deletion and in_after.of(hunk.b0, hunk.b1) is not None:
            states.add(PRESENT)
        elif (
            is_deletion
            or in_before.of(hunk.a0, hunk.a1) is not None
            or (hunk.a0 == hunk.a1 and own.isdisjoint(now_lines))
        ):
            states.add(ABSENT)
        else:
            states.add(WRITTEN_OVER if own and own.isdisjoint(now_lines) else ALTERED)
    if states == {ABSENT, WRITTEN_OVER}:  # not a line of it is left; another version of the file, say
        return ABSENT
    return states.pop() if len(states) == 1 and WRITTEN_OVER not in states else ALTERED


class _Places:
    """Where runs of a file's lines stand in a later version of it. ``other`` is the file that it is compared with."""

    def __init__(self, old: Sequence[bytes], new: Sequence[bytes], other: Sequence[bytes]) -> None:
        self.new = new
        self.old = old
        self.other = set(other)
        self.line: dict[int, int] = {}
        for tag, a0, a1, b0, b1 in _opcodes(old, new):
            if tag == "equal":
                self.line.update(zip(range(a0, a1), range(b0, b1)))

    def of(self, first: int, end: int) -> Optional[tuple[int, int]]:
        """Where lines ``[first, end)`` stand now, if they stand together and unchanged.

        An empty run is the point between two lines: it is known where both neighbours still stand side by side.
        """
        if first < end:
            start = self.line.get(first)
            intact = start is not None and all(self.line.get(first + i) == start + i for i in range(end - first))
            return (start, start + end - first) if intact and start is not None else self._search(first, end)
        before = self.line.get(first - 1, -2) if first else -1
        after = self.line.get(first, -2) if first < len(self.old) else len(self.new)
        return (after, after) if after == before + 1 else None

    def _search(self, first: int, end: int) -> Optional[tuple[int, int]]:
        """The only exact occurrence of lines ``[first, end)``, where the alignment went astray over repeated lines.

        Only for lines that tell: those that the other file has as well could be anybody's.
        """
        wanted = list(self.old[first:end])
        if self.other.issuperset(wanted):
            return None
        starts = [i for i in range(len(self.new) - len(wanted) + 1) if list(self.new[i : i + len(wanted)]) == wanted]
        return (starts[0], starts[0] + len(wanted)) if len(starts) == 1 else None

    def near(self, first: int, end: int) -> Iterable[int]:
        """1-based numbers of the lines that now stand between those of ``[first, end)``, each with its neighbours.

        Where there are none, because lines were taken out, of all that is left there.
        """
        known = [self.line[i] for i in range(max(0, first - 1), end + 1) if i in self.line]
        low, high = (min(known), max(known)) if known else (0, 0)
        ours = {self.line[i] for i in range(first, end) if i in self.line}
        others = [n for n in range(low + 1, high) if n not in ours]
        return {m + 1 for n in others for m in (n - 1, n, n + 1)} or range(low + 1, high + 2)
