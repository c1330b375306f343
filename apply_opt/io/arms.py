"""Two copies of a checkout to run from, one as it is and one changed. The checkout itself is only read."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from apply_opt.io.checkout import SKIPPED, inside
from apply_opt.io.workers import Arm

LINKED_SIZE = 4 * 2**20
"""A file from this size on is no source: the copies get a link to it."""


@contextlib.contextmanager
def copies(root: str, before: dict[str, bytes], after: dict[str, bytes]) -> Iterator[tuple[Arm, Arm]]:
    """The arms ``before`` and ``after``: copies of ``root`` with these files' contents."""
    with tempfile.TemporaryDirectory(prefix="apply-opt-arms-") as parent:
        arms = []
        for name, contents in (("before", before), ("after", after)):
            folder = os.path.join(os.path.realpath(parent), name)
            _copy(root, folder)
            for path, data in contents.items():
                with open(inside(folder, path), "wb") as file:
                    file.write(data)
            arms.append(Arm(folder, sorted(contents)))
        yield arms[0], arms[1]


def _copy(root: str, folder: str) -> None:
    """Everything but what belongs to git, environments and caches. Links stay links: what they lead to is not changed."""

    def skipped(_: str, names: list[str]) -> set[str]:
        return {name for name in names if name in SKIPPED or name.endswith((".pyc", ".pyo"))}

    shutil.copytree(root, folder, symlinks=True, ignore=skipped, copy_function=_copy_file)


def _copy_file(source: str, target: str) -> None:
    if not os.path.isfile(source):  # a pipe, a socket: no program needs it to be copied
        return
    if os.path.getsize(source) >= LINKED_SIZE:
        os.symlink(source, target)
    else:
        shutil.copyfile(source, target)
