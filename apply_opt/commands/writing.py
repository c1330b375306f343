"""What ``apply`` and ``revert`` share once they know what to write: the files and the ledger, and git's commit with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from apply_opt.io import files, git, ledger, transaction
from apply_opt.io.checkout import inside
from apply_opt.io.ledger import Ledger
from apply_opt.io.transaction import Change


def write(
    changes: Sequence[Change], old: Ledger, new: Ledger, objects: Sequence[bytes], message: Optional[str]
) -> Optional[str]:
    """Make ``changes`` and put ``new`` in the place of ``old``; with a ``message``, commit with git. Both or neither.

    Gives the commit's hash.
    """
    root = old.root
    kept = [ledger.content(root, name) for name in sorted(old.objects())] if message else []
    transaction.commit(root, changes, new, objects)
    if message is None or not changes:
        return None
    try:
        return git.commit(root, [change.path for change in changes], message)
    except BaseException:  # a hook may have reformatted the file; before, it was as in the last commit
        now = [(c, files.read(inside(root, c.path)) or b"") for c in changes]
        transaction.commit(root, [Change(c.path, data, c.before) for c, data in now], old, kept)
        raise
