"""What of the ledger still stands in the files. Shared by ``status``, ``revert`` and ``apply``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from apply_opt.commands import APPLIED, EDITED, GONE, PARTLY
from apply_opt.io import files, ledger
from apply_opt.io.checkout import inside, sha256
from apply_opt.io.ledger import Entry, Ledger


def contents(record: Ledger) -> dict[str, Optional[bytes]]:
    """The ledger's files as they are now."""
    return {path: files.read(inside(record.root, path)) for path in record.paths()}


def entry_state(record: Ledger, entry: Entry, now: dict[str, Optional[bytes]]) -> str:
    """Whether an entry's change is in place, as left or with other edits around it, in part, or not at all."""
    states = {_file_state(record, f, now[f.path]) for f in entry.files}
    if len(states) == 1:
        return states.pop()
    return EDITED if states == {APPLIED, EDITED} else PARTLY


def _file_state(record: Ledger, file: ledger.FileRecord, now: Optional[bytes]) -> str:
    if now is None:
        return GONE
    chain = record.chain(file.path)
    digest = sha256(now)
    if digest == chain[-1].after:
        return APPLIED
    if digest == chain[0].before:
        return GONE
    from apply_opt.model import merge

    before, after = ledger.content(record.root, file.before), ledger.content(record.root, file.after)
    found = merge.presence(before, after, now)
    return {merge.PRESENT: EDITED, merge.ABSENT: GONE, merge.ALTERED: PARTLY}[found]


def live(record: Ledger, entries: Sequence[Entry], now: dict[str, Optional[bytes]]) -> list[Entry]:
    """``entries`` without those whose change is not in the files any more."""
    return [entry for entry in entries if entry_state(record, entry, now) != GONE]
