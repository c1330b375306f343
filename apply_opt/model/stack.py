"""Take one change out of the middle of a stack of changes to a file."""

from __future__ import annotations

from collections.abc import Sequence

from apply_opt.model.merge import MergeConflict, three_way
from apply_opt.model.structure import undo

Link = tuple[bytes, bytes]
"""A file's bytes before and after one change."""


def take_out(chain: Sequence[Link], index: int, now: bytes) -> tuple[list[Link], bytes]:
    """The rest of ``chain`` and the file as they would be had change ``index`` never been made.

    Each later state is merged with the removal; where the user's edits (anywhere) do not meet the change's own lines,
    that is exact. Raises :class:`MergeConflict` where they do.
    """
    new, old = chain[index]
    rest = list(chain[:index])
    for before, after in chain[index + 1 :]:
        new_before = _merged(old, before, new)
        new_after = _merged(before, after, new_before)
        rest.append((new_before, new_after))
        old, new = after, new_after
    return rest, _merged(old, now, new)


def _merged(base: bytes, ours: bytes, theirs: bytes) -> bytes:
    try:
        return three_way(base, ours, theirs)
    except MergeConflict as conflict:
        result = undo(base, ours, theirs)
        if result is None:
            raise conflict
        return result
