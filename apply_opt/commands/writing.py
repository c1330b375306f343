"""What is written once it is known: the ledger's new entries; the files and the ledger, and git's commit with them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Optional

from apply_opt import __version__
from apply_opt.commands import state
from apply_opt.commands.planning import Plan
from apply_opt.errors import ApplyOptError
from apply_opt.io import files, git, ledger, transaction
from apply_opt.io.checkout import STATE_FOLDER, inside
from apply_opt.io.ledger import Ledger
from apply_opt.io.transaction import Change
from apply_opt.model.digest import sha256
from apply_opt.model.plan import PLANNED


def record(plan: Plan, by: str) -> tuple[Ledger, list[bytes]]:
    """The ledger with the plan's changes in it, and the contents that it needs."""
    root, planned = plan.checkout.root, plan.of_kind(PLANNED)
    rest = state.without(plan.ledger, (), state.contents(plan.ledger))
    names = {outcome.name for outcome in planned}
    entries = [entry for entry in rest.ledger.entries if entry.name not in names]
    objects = list(rest.objects)
    head = git.head(root)
    for outcome in planned:
        file, needed = state.file_record(outcome.file, outcome.before, outcome.after)
        objects += needed
        entry = ledger.Entry(
            name=outcome.name,
            target=plan.checkout.target.name,
            parameters=dict(outcome.parameters),
            files=(file,),
            codemod=sha256(files.read(outcome.optimization.codemod) or b""),
            version=__version__,
            applied_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            head=head,
            by=by,
        )
        entries.append(entry)
    return Ledger(root, tuple(entries)), objects


def write(
    changes: Sequence[Change], old: Ledger, new: Ledger, objects: Sequence[bytes], message: Optional[str]
) -> Optional[str]:
    """Make ``changes`` and put ``new`` in the place of ``old``; with a ``message``, commit with git. Both or neither.

    Gives the commit's hash.
    """
    root = old.root
    kept = [ledger.content(root, name) for name in sorted(old.objects())] if message else []
    head = git.head(root) if message else None
    transaction.commit(root, changes, new, objects)
    if message is None or not changes:
        return None
    try:
        git.commit(root, [change.path for change in changes], message)
    except BaseException as error:
        if git.head(root) == head:
            rescued = _take_back(root, changes, old, kept)
            if rescued and isinstance(error, ApplyOptError):
                error.next_step += f"; what stood in {', '.join(rescued)} is in {STATE_FOLDER}/rescued"
            raise
    return git.head(root)


def _take_back(root: str, changes: Sequence[Change], old: Ledger, kept: Sequence[bytes]) -> list[str]:
    """Undo what git did not commit: the files are as in the last commit again.

    What hooks or the user made of them in the meantime is put aside. Gives the files of which that is so.
    """
    now = [(change, files.read(inside(root, change.path))) for change in changes]
    rescued = [change.path for change, data in now if data not in (None, change.before, change.after)]
    for change, data in now:
        if change.path in rescued:
            transaction.put_aside(root, change.path, data or b"")
    undone = [Change(c.path, data, c.before) for c, data in now if data is not None and data != c.before]
    transaction.commit(root, undone, old, kept)
    return rescued
