"""What was applied to a checkout: ``.apply-opt/ledger.json``, and beside it every byte needed to take it out again.

::

    .apply-opt/ledger.json        the entries, oldest first, with a check sum
    .apply-opt/objects/<sha256>   file contents before and after each entry, and each entry's patch
    .apply-opt/backup/<path>      each file as it was before the first entry that changed it, under its own name
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from apply_opt.errors import LedgerError
from apply_opt.io import files
from apply_opt.io.checkout import STATE_FOLDER, inside, is_plain
from apply_opt.model.digest import sha256

FORMAT = 1
_RESCUE = "the original files are in .apply-opt/backup: apply-opt revert --from-backup puts them back"


class FileRecord(NamedTuple):
    """One file of an entry: its hash before and after, and the object that holds the patch."""

    path: str
    before: str
    after: str
    patch: str


class Entry(NamedTuple):
    """One optimization as it was applied. ``head`` is git's commit then; ``by`` is ``apply`` or ``adopt``."""

    name: str
    target: str
    parameters: Mapping[str, Any]
    files: Sequence[FileRecord]
    codemod: str
    version: str
    applied_at: str
    head: Optional[str]
    by: str

    def settings(self) -> str:
        """The parameters as they are typed."""
        from apply_opt.model.parameters import spelled

        return " ".join(f"{key}={spelled(value)}" for key, value in self.parameters.items())


class Ledger(NamedTuple):
    """All entries of a checkout, oldest first."""

    root: str
    entries: Sequence[Entry]

    def entry(self, name: str) -> Optional[Entry]:
        """The entry of an optimization, if it is applied."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def paths(self) -> list[str]:
        """The files that any entry changed, without repetition."""
        return list(dict.fromkeys(record.path for entry in self.entries for record in entry.files))

    def chain(self, path: str) -> list[FileRecord]:
        """What happened to one file, oldest first."""
        return [record for entry in self.entries for record in entry.files if record.path == path]

    def objects(self) -> set[str]:
        """The hashes of all objects that the entries need."""
        return {h for e in self.entries for r in e.files for h in (r.before, r.after, r.patch)}


def folder(root: str, *names: str) -> str:
    """A path inside the checkout's state folder."""
    return os.path.join(root, STATE_FOLDER, *names)


def interrupted(root: str) -> bool:
    """Whether an apply or revert was killed here, or is at work. (A ledger that was lost is another matter.)"""
    state = folder(root)
    names = set(os.listdir(state)) - {"rescued"} if os.path.isdir(state) else set()
    return unfinished(root) or (bool(names) and "ledger.json" not in names and not backups(root))


def unfinished(root: str) -> bool:
    """Whether a journal or a scratch file is there."""
    return os.path.exists(folder(root, "journal.json")) or any(map(os.path.lexists, scratches(root)))


def scratch(path: str) -> str:
    """The name of the file that is about to take the place of ``path``."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}{files.SCRATCH}")


def scratches(root: str) -> Iterator[str]:
    """The scratch files that there are in the state folder, and those that there may be beside the checkout's files."""
    for parent, _, names in os.walk(folder(root)):
        yield from (os.path.join(parent, name) for name in names if name.endswith(files.SCRATCH))
    yield from (scratch(inside(root, name)) for name in backups(root))


def backups(root: str) -> list[str]:
    """The files, relative to ``root``, of which there is a backup."""
    top = folder(root, "backup")
    found = [os.path.relpath(os.path.join(parent, name), top) for parent, _, names in os.walk(top) for name in names]
    for name in found:
        if not is_plain(name):
            raise LedgerError(
                f"{STATE_FOLDER}/backup/{name} is a backup that apply-opt does not make: it is not followed",
                f"look at {top}, and remove what is not yours",
            )
    return sorted(name.replace(os.sep, "/") for name in found if not name.endswith(files.SCRATCH))


def dump(ledger: Ledger) -> bytes:
    """The ledger's file."""
    import json

    entries = [{**e._asdict(), "files": [r._asdict() for r in e.files]} for e in ledger.entries]
    document = {"format": FORMAT, "check": _check(entries), "entries": entries}
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def _check(entries: Any) -> str:
    import json

    return sha256(json.dumps(entries, sort_keys=True).encode())


def load(root: str) -> Ledger:
    """The checkout's ledger; an empty one where nothing was applied.

    Raises :class:`LedgerError` where it is damaged, or lost: backups without a ledger are there only during a run.
    """
    data = files.read(folder(root, "ledger.json"))
    if data is not None:
        return _parse(root, data)
    if backups(root) and not os.path.exists(folder(root, "journal.json")):
        raise LedgerError(f"{STATE_FOLDER}/ledger.json is missing", _RESCUE)
    return Ledger(root, ())


def _parse(root: str, data: bytes) -> Ledger:
    import json

    try:
        document = json.loads(data)
        version = document["format"]
        if version != FORMAT:
            raise LedgerError(
                f"{STATE_FOLDER}/ledger.json has format {version}; this apply-opt knows format {FORMAT}",
                f"use the newer apply-opt that wrote it; or {_RESCUE}",
            )
        entries = document["entries"]
        if document["check"] != _check(entries):
            raise LedgerError(f"{STATE_FOLDER}/ledger.json was edited: its check sum is wrong", _RESCUE)
        return Ledger(root, tuple(_entry(entry) for entry in entries))
    except LedgerError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LedgerError(f"{STATE_FOLDER}/ledger.json is damaged or cut off ({error})", _RESCUE) from error


def _entry(table: Mapping[str, Any]) -> Entry:
    entry = Entry(**{**table, "files": tuple(FileRecord(**record) for record in table["files"])})
    texts = (entry.name, entry.target, entry.codemod, entry.version, entry.applied_at, entry.by, entry.head or "")
    if not all(isinstance(text, str) for text in texts) or not isinstance(entry.parameters, dict) or not entry.files:
        raise ValueError(f"entry {entry.name!r}")
    for record in entry.files:
        checked(*record)
    return entry


def checked(path: object, *hashes: object) -> tuple[str, list[str]]:
    """The path and the hashes. Raises :class:`ValueError` where they are not a file of the tree and names of objects."""
    if not isinstance(path, str) or not is_plain(path):
        raise ValueError(f"path {path!r}")
    names = [name for name in hashes if isinstance(name, str) and re.fullmatch("[0-9a-f]{64}", name)]
    if len(names) < len(hashes):
        raise ValueError(f"hashes {hashes!r}")
    return path, names


def content(root: str, name: str) -> bytes:
    """The bytes that have the sha256 ``name``. Raises :class:`LedgerError` where they are lost or changed."""
    data = files.read(folder(root, "objects", name))
    if data is None or sha256(data) != name:
        raise LedgerError(
            f"{STATE_FOLDER}/objects/{name} is {'missing' if data is None else 'damaged'}",
            "apply-opt revert --from-backup puts the original files back",
        )
    return data
