"""What of the ledger still stands in the files, and both without some of it. Shared by ``status``, ``revert`` and ``apply``."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional

from apply_opt.commands import APPLIED, EDITED, GONE, PARTLY
from apply_opt.errors import Conflict
from apply_opt.io import files, ledger
from apply_opt.io.checkout import STATE_FOLDER, inside
from apply_opt.io.ledger import Entry, FileRecord, Ledger
from apply_opt.model.digest import sha256

if TYPE_CHECKING:
    from apply_opt.model.merge import MergeConflict

Contents = Mapping[str, Optional[bytes]]
Chain = list[tuple[bytes, bytes]]
"""A file before and after each change to it, oldest first."""


class OnTop(Conflict):
    """A change cannot be taken out alone: ``over`` were put on top of its lines."""

    def __init__(self, name: str, path: str, over: Sequence[str]) -> None:
        super().__init__(
            f"{path}: {', '.join(over)} was put on top of lines of {name}. Nothing was changed",
            f"apply-opt revert {' '.join([*over, name])}",
        )
        self.over = over


class Rest(NamedTuple):
    """What is left when changes are taken out: the files, the ledger, and the contents that it needs."""

    files: Mapping[str, bytes]
    ledger: Ledger
    objects: Sequence[bytes]


def contents(record: Ledger) -> dict[str, Optional[bytes]]:
    """The ledger's files as they are now."""
    return {path: files.read(inside(record.root, path)) for path in record.paths()}


def entry_state(record: Ledger, entry: Entry, now: Contents) -> str:
    """Whether an entry's change is in place, as left or with other edits around it, in part, or not at all."""
    states = {_file_state(record, entry.name, path, now[path]) for path in (f.path for f in entry.files)}
    if len(states) == 1:
        return states.pop()
    return EDITED if states == {APPLIED, EDITED} else PARTLY


def _file_state(record: Ledger, name: str, path: str, now: Optional[bytes]) -> str:
    if now is None:
        return GONE
    records = record.chain(path)
    digest = sha256(now)
    if _is_unbroken(records):
        if digest == records[-1].after:
            return APPLIED
        if digest == records[0].before:
            return GONE
    from apply_opt.model import merge
    from apply_opt.model.structure import undo

    owners, chain = _chain(record, path, now)
    index = owners.index(name)
    before, after = _on_top(chain, index, _is_unbroken(records))
    found = merge.presence(before, after, now)
    if found == merge.PRESENT and name == owners[-1] and digest == records[-1].after:
        return APPLIED
    if found != merge.PRESENT and undo(after, now, before) is not None:  # a formatter ran over its lines
        return EDITED
    return {merge.PRESENT: EDITED, merge.ABSENT: GONE, merge.ALTERED: PARTLY}[found]


def _is_unbroken(records: Sequence[FileRecord]) -> bool:
    """Whether each change was made to what the one before it left: nobody else's edits are between them."""
    return all(one.after == other.before for one, other in itertools.pairwise(records))


def _chain(record: Ledger, path: str, now: bytes) -> tuple[list[str], Chain]:
    """Who changed a file, and the file before and after each of them, with the line endings that it has now."""
    from apply_opt.model.merge import with_endings_of

    links = [(e.name, f) for e in record.entries for f in e.files if f.path == path]
    pairs = [(ledger.content(record.root, f.before), ledger.content(record.root, f.after)) for _, f in links]
    return [name for name, _ in links], [(with_endings_of(a, now), with_endings_of(b, now)) for a, b in pairs]


def _on_top(chain: Chain, index: int, unbroken: bool) -> tuple[bytes, bytes]:
    """The file without a change and with it, as if it had been made last: next to the lines of those made after it.

    Where those wrote over its lines, it stands if they do: the file before all of them, and after. Where others edited
    its lines in between, all that can be told is whether they are as it left them.
    """
    from apply_opt.model.merge import MergeConflict
    from apply_opt.model.stack import take_out

    last = chain[-1][1]
    try:
        return take_out(chain, index, last)[1], last
    except MergeConflict:
        return (chain[index][0], last) if unbroken else chain[index]


def without(record: Ledger, names: Collection[str], now: Contents) -> Rest:
    """The files and the ledger without ``names``. What was taken out by hand goes from the ledger as well.

    Raises :class:`Conflict` where lines of one of ``names`` were edited, or its file is not there.
    """
    from apply_opt.model.merge import MergeConflict
    from apply_opt.model.stack import take_out

    gone = {e.name for e in record.entries if entry_state(record, e, now) == GONE}
    result: dict[str, bytes] = {}
    objects: list[bytes] = []
    entries = {e.name: e for e in record.entries}
    for path, data in now.items():
        owners, chain = _chain(record, path, data or b"")
        if data is None:
            if set(owners).intersection(names):
                step = "put it back (git checkout), or: apply-opt revert --from-backup"
                raise Conflict(f"{path} is not there any more", step)
            continue
        for name in [n for n in reversed(owners) if n in gone or n in names]:
            index = owners.index(name)
            if name in gone:
                chain = _forget(chain, index)
            else:
                try:
                    chain, data = take_out(chain, index, data)
                except MergeConflict as conflict:
                    over = [owners[i] for i in _over(chain, index, data)]
                    raise _refusal(name, path, data, conflict, over) from conflict
            del owners[index]
            entries.pop(name, None)
        result[path] = data
        for name, (before, after) in zip(owners, chain):
            file, needed = file_record(path, before, after)
            objects += needed
            if name in entries:
                entries[name] = _with_file(entries[name], file)
    return Rest(result, Ledger(record.root, tuple(entries.values())), objects)


def file_record(path: str, before: bytes, after: bytes) -> tuple[FileRecord, list[bytes]]:
    """The ledger's record of one change, and the contents that it names."""
    from apply_opt.model import patch

    text = patch.make(before, after, path)
    return FileRecord(path, sha256(before), sha256(after), sha256(text)), [before, after, text]


def _with_file(entry: Entry, file: FileRecord) -> Entry:
    return entry._replace(files=tuple(file if f.path == file.path else f for f in entry.files))


def _forget(chain: Chain, index: int) -> Chain:
    """The chain without a change that is not in the file any more."""
    from apply_opt.model.merge import MergeConflict
    from apply_opt.model.stack import take_out

    try:
        return take_out(chain, index, chain[-1][1])[0]
    except MergeConflict:
        return chain[:index] + chain[index + 1 :]


def _over(chain: Chain, index: int, data: bytes) -> list[int]:
    """Which later changes, the last first, have to be taken out of ``data`` before this one can be; none where that does not help."""
    from apply_opt.model.merge import MergeConflict
    from apply_opt.model.stack import take_out

    later = range(len(chain) - 1, index, -1)
    for wanted in [*([i] for i in later), list(later)]:
        rest, text = chain, data
        try:
            for i in wanted:
                rest, text = take_out(rest, i, text)
            take_out(rest, index, text)
        except MergeConflict:
            continue
        return wanted
    return []


def _refusal(name: str, path: str, data: bytes, conflict: MergeConflict, over: Sequence[str]) -> Conflict:
    """Why ``name`` cannot be taken out of ``path``, and what to do."""
    from apply_opt.model.merge import split

    if over:
        return OnTop(name, path, over)
    lines = [line.decode("utf-8", "replace").rstrip() for line in split(data)]
    shown = "".join(f"\n  {n:5}  {lines[n - 1]}" for n in conflict.lines[:20] if n <= len(lines))
    return Conflict(
        f"{path}: lines of {name} have been edited since, so it is not clear what to put back. "
        f"Nothing was changed. About here:{shown}",
        "undo your edit there and run this again; or put the whole file back as it was: "
        f"apply-opt revert --from-backup (your version is kept in {STATE_FOLDER}/rescued)",
    )
