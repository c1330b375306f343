"""The ledger's file: what is written is read back, and what was tampered with is not believed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apply_opt.errors import LedgerError
from apply_opt.io import ledger
from apply_opt.io.ledger import Entry, FileRecord, Ledger
from apply_opt.model.digest import sha256

A, B, C, P = (sha256(text) for text in (b"a", b"b", b"c", b"p"))


def entry(name: str, *files: FileRecord) -> Entry:
    return Entry(
        name,
        "t",
        {"n": 1, "on": True, "名": "值"},
        files,
        "c" * 64,
        "0.1.0",
        "2026-01-01T00:00:00+00:00",
        None,
        "apply",
    )


TWO = (entry("x", FileRecord("a.py", A, B, P), FileRecord("b/c.py", A, C, P)), entry("y", FileRecord("a.py", B, C, P)))


def write(root: Path, data: bytes, name: str = "ledger.json") -> None:
    (root / ".apply-opt").mkdir(exist_ok=True)
    (root / ".apply-opt" / name).write_bytes(data)


def test_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = Ledger(str(tmp_path), TWO)
    write(tmp_path, ledger.dump(record))
    assert ledger.load(str(tmp_path)) == record


def test_nothing_applied_is_an_empty_one(tmp_path: Path) -> None:
    assert ledger.load(str(tmp_path)) == Ledger(str(tmp_path), ())


def test_what_it_says() -> None:
    record = Ledger("/x", TWO)
    assert record.entry("y") is TWO[1]
    assert record.entry("z") is None
    assert record.paths() == ["a.py", "b/c.py"]
    assert [(f.before, f.after) for f in record.chain("a.py")] == [(A, B), (B, C)]
    assert record.chain("d.py") == []
    assert record.objects() == {A, B, C, P}


def test_cut_off_at_every_length(tmp_path: Path) -> None:
    data = ledger.dump(Ledger(str(tmp_path), TWO[:1]))
    for length in range(len(data) - 1):  # without its last newline it is whole
        write(tmp_path, data[:length])
        with pytest.raises(LedgerError, match=r"ledger.json is damaged or cut off") as raised:
            ledger.load(str(tmp_path))
        assert "apply-opt revert --from-backup" in raised.value.next_step


@given(st.data())
def test_any_other_byte_anywhere_is_found(tmp_path: Path, data: st.DataObject) -> None:
    record = Ledger(str(tmp_path), TWO)
    text = bytearray(ledger.dump(record))
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] = data.draw(st.integers(0, 255))
    write(tmp_path, bytes(text))
    with contextlib.suppress(LedgerError):
        assert ledger.load(str(tmp_path)) == record  # white space, or the byte that was there


def edited(change: Callable[[dict[str, Any]], object], checked: bool = True) -> bytes:
    """The ledger's file with ``change`` made to it; with the right check sum, as somebody would forge it."""
    document = json.loads(ledger.dump(Ledger("", TWO)))
    change(document)
    if checked:
        document["check"] = ledger._check(document["entries"])
    return json.dumps(document).encode()


def first_file(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["entries"][0]["files"][0].update(values)


FORGED = {
    "a path up": first_file(path="../x.py"),
    "a path up on Windows": first_file(path="a\\..\\..\\x.py"),
    "an absolute path": first_file(path="/etc/passwd"),
    "no path": first_file(path=""),
    "a path that is none": first_file(path=3),
    "a hash that is a path": first_file(before="../../../../etc/passwd" + "0" * 42),
    "a short hash": first_file(after="abc"),
    "a hash in capitals": first_file(patch="A" * 64),
    "a hash that is none": first_file(patch=None),
    "a file too few": lambda document: document["entries"][0].pop("files"),
    "a field too many": lambda document: document["entries"][0].update(surprise=1),
    "a field too few": lambda document: document["entries"][0].pop("name"),
    "no entries": lambda document: document.update(entries=None),
    "entries that are none": lambda document: document.update(entries=[1]),
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED.keys())
def test_forged(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    write(tmp_path, edited(change))
    with pytest.raises(LedgerError, match=r"ledger.json is damaged or cut off"):
        ledger.load(str(tmp_path))


def test_edited(tmp_path: Path) -> None:
    write(tmp_path, edited(lambda document: document["entries"][0].update(by="me"), checked=False))
    with pytest.raises(LedgerError, match=r"ledger.json was edited: its check sum is wrong"):
        ledger.load(str(tmp_path))


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_of_another_version(version: object, tmp_path: Path) -> None:
    write(tmp_path, edited(lambda document: document.update(format=version)))
    with pytest.raises(LedgerError, match=f"has format {version}; this apply-opt knows format 1") as raised:
        ledger.load(str(tmp_path))
    assert "use the newer apply-opt" in raised.value.next_step


@pytest.mark.parametrize("data", [b"[]", b"null", b"1", b"{}", b"\xff", b"\0", b"[" * 100_000, b'{"format": 1}'])
def test_no_ledger_at_all(data: bytes, tmp_path: Path) -> None:
    write(tmp_path, data)
    with pytest.raises(LedgerError):
        ledger.load(str(tmp_path))


def test_lost(tmp_path: Path) -> None:
    """Backups without a ledger: not the same as nothing applied, unless a run is just making them."""
    (tmp_path / ".apply-opt" / "backup" / "b").mkdir(parents=True)
    assert ledger.load(str(tmp_path)).entries == ()
    write(tmp_path, b"", "backup/b/c.py")
    with pytest.raises(LedgerError, match=r"ledger.json is missing"):
        ledger.load(str(tmp_path))
    assert not ledger.interrupted(str(tmp_path))
    write(tmp_path, b"", "journal.json")
    assert ledger.load(str(tmp_path)).entries == ()
    assert ledger.interrupted(str(tmp_path))


def test_contents_are_what_their_names_say(tmp_path: Path) -> None:
    (tmp_path / ".apply-opt" / "objects").mkdir(parents=True)
    write(tmp_path, b"a", f"objects/{A}")
    assert ledger.content(str(tmp_path), A) == b"a"
    write(tmp_path, b"x", f"objects/{B}")
    for name, what in ((B, "damaged"), (C, "missing")):
        with pytest.raises(LedgerError, match=f"objects/{name} is {what}") as raised:
            ledger.content(str(tmp_path), name)
        assert "--from-backup" in raised.value.next_step


def test_backups_by_their_own_names(tmp_path: Path) -> None:
    (tmp_path / ".apply-opt" / "backup" / "b").mkdir(parents=True)
    assert ledger.backups(str(tmp_path)) == []
    for name in ("z.py", "b/c.py", "b/.c.py.apply-opt-new"):
        write(tmp_path, b"", f"backup/{name}")
    assert ledger.backups(str(tmp_path)) == ["b/c.py", "z.py"]


@pytest.mark.parametrize(
    ("names", "interrupted", "unfinished"),
    [
        ((), False, False),
        (("ledger.json", "lock", "objects/a", "backup/x.py"), False, False),
        (("rescued/x.py",), False, False),
        (("lock",), True, False),
        (("objects/a",), True, False),
        (("ledger.json", "journal.json"), True, True),
        (("ledger.json", "objects/.a.apply-opt-new"), True, True),
        (("ledger.json", "backup/x.py", "../.x.py.apply-opt-new"), True, True),
        (("ledger.json", "backup/y.py", "../.x.py.apply-opt-new"), False, False),
    ],
)
def test_what_a_killed_run_leaves(names: tuple[str, ...], interrupted: bool, unfinished: bool, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / ".apply-opt" / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path, b"", name)
    assert ledger.interrupted(str(tmp_path)) == interrupted
    assert ledger.unfinished(str(tmp_path)) == unfinished
