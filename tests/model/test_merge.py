"""The three-way merge: what is taken out is taken out whole, and nothing else with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apply_opt.model.merge import ABSENT, ALTERED, PRESENT, MergeConflict, hunks, opcodes, presence, split, three_way

BEFORE = b"".join(b"line %d\n" % n for n in range(10))


def changed(data: bytes, *edits: tuple[int, int, bytes]) -> bytes:
    """``data`` with lines ``[first, end)`` (0-based) replaced; edits from the bottom up."""
    lines = split(data)
    for first, end, text in sorted(edits, reverse=True):
        lines[first:end] = [text]
    return b"".join(lines)


AFTER = changed(BEFORE, (3, 3, b"ours 1\nours 2\nours 3\n"), (7, 8, b"line 7, ours\n"))

KEPT = {
    "nothing": AFTER,
    "above": b"user\n" + AFTER,
    "below": AFTER + b"user\n",
    "between": changed(AFTER, (8, 8, b"user\n")),
    "directly above what was put in": changed(AFTER, (3, 3, b"user\n")),
    "directly below what was put in": changed(AFTER, (6, 6, b"user\n")),
    "directly above what was replaced": changed(AFTER, (10, 10, b"user\n")),
    "directly below what was replaced": changed(AFTER, (11, 11, b"user\n")),
    "the neighbours replaced": changed(AFTER, (2, 3, b"user\n"), (6, 7, b"user\n"), (9, 10, b"u\n"), (11, 12, b"u\n")),
    "the neighbours taken out": changed(AFTER, (2, 3, b""), (6, 7, b""), (9, 10, b""), (11, 12, b"")),
    "everything else taken out": b"ours 1\nours 2\nours 3\nline 7, ours\n",
    "a block moved to the top": b"ours 1\nours 2\nours 3\n" + AFTER.replace(b"ours 1\nours 2\nours 3\n", b""),
}


@pytest.mark.parametrize("now", KEPT.values(), ids=KEPT.keys())
def test_the_users_edits_stay_and_ours_go(now: bytes) -> None:
    expected = now.replace(b"ours 1\nours 2\nours 3\n", b"").replace(b"line 7, ours\n", b"line 7\n")
    assert three_way(AFTER, now, BEFORE) == expected
    assert presence(BEFORE, AFTER, now) == PRESENT
    assert presence(BEFORE, AFTER, expected) == ABSENT


CONFLICTS = {
    "a line put in between ours": (changed(AFTER, (4, 4, b"user\n")), 5),
    "one of our lines edited": (changed(AFTER, (4, 5, b"user\n")), 5),
    "one of our lines taken out": (changed(AFTER, (4, 5, b"")), 4),
    "what we replaced edited": (changed(AFTER, (10, 11, b"line 7, the user's\n")), 11),
    "our lines doubled": (changed(AFTER, (4, 5, b"")) + b"ours 1\nours 2\nours 3\n" * 2, 4),
}


@pytest.mark.parametrize(("now", "line"), CONFLICTS.values(), ids=CONFLICTS.keys())
def test_says_where_ours_were_edited(now: bytes, line: int) -> None:
    with pytest.raises(MergeConflict, match="changed since: lines") as raised:
        three_way(AFTER, now, BEFORE)
    assert line in raised.value.lines
    assert all(0 < n <= len(split(now)) + 1 for n in raised.value.lines)
    assert presence(BEFORE, AFTER, now) == ALTERED


def test_only_one_of_two_places_is_altered() -> None:
    assert presence(BEFORE, AFTER, changed(AFTER, (10, 11, b"line 7\n"))) == ALTERED


def test_lines_that_a_change_took_out_come_back_where_they_were() -> None:
    after = changed(BEFORE, (4, 6, b""))
    now = b"user\n" + after + b"user\n"
    assert three_way(after, now, BEFORE) == b"user\n" + BEFORE + b"user\n"
    assert presence(BEFORE, after, now) == PRESENT
    with pytest.raises(MergeConflict):
        three_way(after, changed(after, (4, 4, b"user\n")), BEFORE)


def test_lines_that_could_be_anybodys_are_not_looked_for_elsewhere() -> None:
    """The change put in a second ``return``; the user took that one out, and the first is not ours to take."""
    before = b"def f():\n    return x\n\ndef g():\n    pass\n"
    after = before + b"    return x\n"
    now = before.replace(b"def f", b"def h")
    with pytest.raises(MergeConflict):
        three_way(after, now + b"user\n", before)


def test_two_runs_that_now_share_a_line_are_not_both_there() -> None:
    before, after = b"1\nkeep\n2\n", b"a\nb\nkeep\nb\nc\n"
    with pytest.raises(MergeConflict) as raised:
        three_way(after, b"a\nb\nc\n", before)
    assert raised.value.lines


def test_taken_out_by_hand_with_something_else_in_its_place() -> None:
    assert presence(BEFORE, AFTER, changed(BEFORE, (3, 3, b"another's\n"))) == ABSENT


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("final", [b"", b"no newline at the end"])
def test_keeps_line_endings_and_a_missing_last_one(ending: bytes, final: bytes) -> None:
    before, after = ((data + final).replace(b"\n", ending) for data in (BEFORE, AFTER))
    now = b"user\r\n" + after
    assert three_way(after, now, before) == b"user\r\n" + before


def test_what_was_put_in_starts_as_late_as_it_can() -> None:
    """Blank lines belong behind a function, so that two functions put in at one place do not share any."""
    old = split(b"import x\n\n\nclass C:\n    a = 1\n    b = 2\n")
    new = split(b"import x\n\n\ndef f():\n    pass\n\n\nclass C:\n    a = 1\n    b = 2\n")
    (hunk,) = hunks(old, new)
    assert new[hunk.b0 : hunk.b1] == split(b"def f():\n    pass\n\n\n")
    (hunk,) = hunks(new, old)
    assert new[hunk.a0 : hunk.a1] == split(b"def f():\n    pass\n\n\n")


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a\n", [b"a\n"]),
        (b"\n\na\r\nb\rc", [b"\n", b"\n", b"a\r\n", b"b\rc"]),
        (b"\x0c\n", [b"\x0c\n"]),
    ],
)
def test_splits_at_line_feeds_only(data: bytes, lines: list[bytes]) -> None:
    assert split(data) == lines


# Any lines at all.

LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"\n", b"c\r\n", b"    d\n"]), max_size=12).flatmap(
    lambda lines: st.sampled_from([b"".join(lines), b"".join(lines) + b"end"])
)


@given(LINES, LINES)
def test_opcodes_lead_from_one_file_to_the_other(old: bytes, new: bytes) -> None:
    a, b = split(old), split(new)
    result: list[bytes] = []
    end_a = end_b = 0
    for tag, a0, a1, b0, b1 in opcodes(a, b):
        assert (a0, b0) == (end_a, end_b)
        assert (tag == "equal") == (a[a0:a1] == b[b0:b1])
        result += a[a0:a1] if tag == "equal" else b[b0:b1]
        end_a, end_b = a1, b1
    assert (end_a, end_b) == (len(a), len(b))
    assert result == b


@given(LINES, LINES)
def test_what_was_just_changed_is_taken_out_exactly(before: bytes, after: bytes) -> None:
    assert three_way(after, after, before) == before
    assert three_way(before, before, after) == after


@settings(max_examples=400)
@given(LINES, LINES, LINES)
def test_a_change_goes_whole_or_not_at_all(before: bytes, after: bytes, now: bytes) -> None:
    """Each kind of line is there as often as the sum of both changes says."""
    try:
        result = three_way(after, now, before)
    except MergeConflict as conflict:
        assert conflict.lines
        return
    ours, base, theirs = (Counter(split(data)) for data in (now, after, before))
    removed, added = Counter[bytes](), Counter[bytes]()
    if now == after:
        removed, added = base, theirs
    else:
        for hunk in hunks(split(after), split(before)):
            removed.update(split(after)[hunk.a0 : hunk.a1])
            added.update(split(before)[hunk.b0 : hunk.b1])
    assert Counter(split(result)) == ours - removed + added


@st.composite
def unique_edits(draw: st.DrawFn) -> tuple[list[bytes], dict[int, list[bytes]], dict[int, list[bytes]]]:
    """Lines that are all different, and two sets of lines to put in front of some of them: ours and the user's."""
    count = draw(st.integers(1, 12))
    lines = [b"line %d\n" % n for n in range(count)]
    ours, users = (
        {n: [b"%s %d.%d\n" % (who, n, i) for i in range(size)] for n, size in draw(sizes).items()}
        for who, sizes in ((b"ours", _sizes(count)), (b"user's", _sizes(count)))
    )
    return lines, ours, users


def _sizes(count: int) -> st.SearchStrategy[dict[int, int]]:
    return st.dictionaries(st.integers(0, count), st.integers(1, 3), max_size=4)


def put_in(lines: Sequence[bytes], *inserts: dict[int, list[bytes]]) -> bytes:
    """``lines`` with each of ``inserts`` in front of the lines that it names."""
    result: list[bytes] = []
    for n in range(len(lines) + 1):
        for insert in inserts:
            result += insert.get(n, [])
        result += lines[n : n + 1]
    return b"".join(result)


@given(unique_edits(), st.booleans())
def test_edits_anywhere_beside_ours_survive(
    case: tuple[list[bytes], dict[int, list[bytes]], dict[int, list[bytes]]], first: bool
) -> None:
    lines, ours, users = case
    before, after, expected = put_in(lines), put_in(lines, ours), put_in(lines, users)
    now = put_in(lines, ours, users) if first else put_in(lines, users, ours)
    assert three_way(after, now, before) == expected
    if ours:
        assert presence(before, after, now) == PRESENT
        assert presence(before, after, expected) == ABSENT
