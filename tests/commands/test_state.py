"""What of a ledger still stands in the files: entries over several files, and entries on top of each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from apply_opt.commands import APPLIED, EDITED, GONE, PARTLY, state
from apply_opt.errors import Conflict
from apply_opt.io.ledger import Entry, FileRecord, Ledger
from apply_opt.model.digest import sha256

LINES = b"".join(b"line %d\n" % n for n in range(8))
USER = b"the user's\n"


def after(data: bytes, number: int, text: bytes) -> bytes:
    """``data`` with ``text`` put in behind a line."""
    line = b"line %d\n" % number
    return data.replace(line, line + text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".apply-opt" / "objects").mkdir(parents=True)
    return tmp_path


def ledger(root: Path, *changes: tuple[str, dict[str, tuple[bytes, bytes]]]) -> Ledger:
    """A ledger with entries by name: per file what it was before and after."""
    entries = []
    for name, found in changes:
        for data in (data for pair in found.values() for data in (*pair, b"patch")):
            (root / ".apply-opt" / "objects" / sha256(data)).write_bytes(data)
        records = tuple(FileRecord(path, sha256(a), sha256(b), sha256(b"patch")) for path, (a, b) in found.items())
        entries.append(Entry(name, "t", {}, records, "", "", "", None, "apply"))
    return Ledger(str(root), tuple(entries))


def states(record: Ledger, **now: bytes | None) -> list[str]:
    return [state.entry_state(record, entry, now) for entry in record.entries]


A, B = after(LINES, 2, b"ours\n"), after(LINES, 5, b"ours\n")


def test_an_entry_over_two_files(root: Path) -> None:
    record = ledger(root, ("one", {"x": (LINES, A), "y": (LINES, B)}))
    assert states(record, x=A, y=B) == [APPLIED]
    assert states(record, x=A + USER, y=B) == [EDITED]
    assert states(record, x=A + USER, y=USER + B) == [EDITED]
    assert states(record, x=LINES, y=B) == [PARTLY]
    assert states(record, x=A.replace(b"ours", b"mine"), y=B) == [PARTLY]
    assert states(record, x=LINES, y=LINES + USER) == [GONE]
    assert states(record, x=None, y=B) == [PARTLY]
    assert states(record, x=None, y=None) == [GONE]


def test_two_files_come_off_together(root: Path) -> None:
    both = ("both", {"x": (LINES, A), "y": (LINES, B)})
    record = ledger(root, both, ("other", {"x": (A, after(A, 6, b"other\n"))}))
    rest = state.without(record, ["both"], {"x": USER + after(A, 6, b"other\n"), "y": B + USER})
    assert rest.files == {"x": USER + after(LINES, 6, b"other\n"), "y": LINES + USER}
    (left,) = rest.ledger.entries
    assert left.name == "other"
    (file,) = left.files
    assert (file.before, file.after) == (sha256(LINES), sha256(after(LINES, 6, b"other\n")))
    assert {sha256(data) for data in rest.objects} == {file.before, file.after, file.patch}


def test_one_of_the_files_is_gone(root: Path) -> None:
    record = ledger(root, ("both", {"x": (LINES, A), "y": (LINES, B)}), ("other", {"y": (B, B + b"other\n")}))
    with pytest.raises(Conflict, match="x is not there any more"):
        state.without(record, ["both"], {"x": None, "y": B + b"other\n"})
    rest = state.without(record, ["other"], {"x": None, "y": B + b"other\n"})
    assert [entry.name for entry in rest.ledger.entries] == ["both"]
    assert rest.files == {"y": B}


OVER = A.replace(b"ours\n", b"ours, and theirs\n")


def test_a_change_that_was_written_over_stands_if_the_later_one_does(root: Path) -> None:
    record = ledger(root, ("one", {"x": (LINES, A)}), ("two", {"x": (A, OVER)}))
    assert states(record, x=OVER) == [APPLIED, APPLIED]
    assert states(record, x=USER + OVER) == [EDITED, EDITED]
    assert states(record, x=USER + LINES) == [GONE, PARTLY]  # of the second, what it wrote over is not there either
    with pytest.raises(Conflict, match="two was put on top of lines of one"):
        state.without(record, ["one"], {"x": USER + OVER})
    assert state.without(record, ["one", "two"], {"x": USER + OVER}).files == {"x": USER + LINES}


def test_what_was_taken_out_by_hand_goes_from_the_record_as_well(root: Path) -> None:
    """The others' records are as if it had never been there; so the backup is the original again."""
    record = ledger(root, ("one", {"x": (LINES, A)}), ("two", {"x": (A, after(A, 5, b"two\n"))}))
    now = USER + after(LINES, 5, b"two\n")
    rest = state.without(record, [], {"x": now})
    assert rest.files == {"x": now}
    (left,) = rest.ledger.entries
    assert left.name == "two"
    assert left.files[0].before == sha256(LINES)
    assert left.files[0].after == sha256(after(LINES, 5, b"two\n"))


def test_a_record_that_cannot_be_made_as_if_is_only_shorter(root: Path) -> None:
    """The user wrote over the first change, then made the second, then took out what was left of the first."""
    edited = A.replace(b"ours\n", b"ours, edited\n")
    record = ledger(root, ("one", {"x": (LINES, A)}), ("two", {"x": (edited, after(edited, 5, b"two\n"))}))
    now = after(LINES, 5, b"two\n")
    assert states(record, x=now) == [GONE, EDITED]
    bare = LINES + USER
    assert states(record, x=bare) == [GONE, GONE]
    assert state.without(record, [], {"x": bare}).ledger.entries == ()
