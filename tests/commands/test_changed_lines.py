"""Each arm has to have run its own code, and the changed lines where they are: after, or before where they are taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from apply_opt.commands.proof import Void, check_identity
from apply_opt.model.digest import sha256

OLD = b"def f():\n    one()\n    two()\n    three()\n"
LESS = b"def f():\n    one()\n    three()\n"
COMMENTED = b"def f():\n    one()\n    # two() is not needed here\n\n    three()\n"
OTHER = b"def f():\n    one()\n    2()\n    three()\n"


def ran(subject: Any, side: int, lines: Mapping[str, Sequence[int]]) -> int:
    """What is found where each of ``lines`` of each file ran twice in the arm ``side``."""
    identity = {
        path: {"modules": ["m"], "sha256": sha256(texts[side]), "lines": {str(n): 2 for n in lines[path]}}
        for path, texts in subject.texts.items()
    }
    return check_identity({"identity": identity}, subject, side)


def subject(**texts: tuple[bytes, bytes]) -> Any:
    return SimpleNamespace(texts=texts)


def test_changed_lines_have_to_run_after() -> None:
    changed = subject(a=(OLD, OTHER))
    assert ran(changed, 1, {"a": (1, 2, 3)}) == 2
    assert ran(changed, 0, {"a": (1, 2)}) == 0
    with pytest.raises(Void, match="none of the changed lines of a ran"):
        ran(changed, 1, {"a": (1, 2, 4)})


@pytest.mark.parametrize("after", [LESS, COMMENTED])
def test_removed_lines_have_to_run_before(after: bytes) -> None:
    removed = subject(a=(OLD, after))
    assert ran(removed, 0, {"a": (1, 2, 3)}) == 2
    assert ran(removed, 1, {"a": (1, 2, 3)}) == 0
    with pytest.raises(Void, match="none of the changed lines of a ran"):
        ran(removed, 0, {"a": (1, 2, 4)})


def test_of_each_file() -> None:
    both = subject(a=(OLD, OTHER), b=(OLD, LESS))
    assert ran(both, 0, {"a": (), "b": (3,)}) == 2
    assert ran(both, 1, {"a": (3,), "b": ()}) == 2
    with pytest.raises(Void, match="of a ran"):
        ran(both, 1, {"a": (), "b": (1, 2, 3)})
    with pytest.raises(Void, match="of b ran"):
        ran(both, 0, {"a": (1, 2, 3), "b": ()})


def test_a_change_of_comments_alone_is_seen_nowhere() -> None:
    with pytest.raises(Void, match="of a ran"):
        ran(subject(a=(LESS, LESS.replace(b"    three", b"    # 3\n    three"))), 0, {"a": (1, 2, 3)})


def test_the_arm_has_to_have_its_own_file() -> None:
    identity = {"a": {"modules": ["m"], "sha256": sha256(OLD), "lines": {"3": 1}}}
    with pytest.raises(Void, match="the arm after ran another version of a"):
        check_identity({"identity": identity}, subject(a=(OLD, OTHER)), 1)
    identity["a"]["modules"] = []
    with pytest.raises(Void, match="a was never imported"):
        check_identity({"identity": identity}, subject(a=(OLD, OTHER)), 0)
