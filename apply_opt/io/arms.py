"""Copies of a checkout to run from, for example one as it is and one changed. The checkout itself is only read."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator

from apply_opt.errors import ApplyOptError
from apply_opt.io import installed
from apply_opt.io.checkout import SKIPPED, inside
from apply_opt.io.interrupt import scratch
from apply_opt.io.workers import Arm

LINKED_SIZE = 64 * 2**20
"""A file from this size on is no source, and nothing that a program adds lines to: the copies get a link to it."""
NAMES = ("one", "two")
"""Of the copies. Of the same length, since how long a path is can change how fast a program runs."""


@contextlib.contextmanager
def copies(root: str, *changed: dict[str, bytes]) -> Iterator[list[Arm]]:
    """An arm for each of ``changed`` (two at most): a copy of ``root`` with these files' contents."""
    with scratch("apply-opt-arms-") as parent:
        found = []
        for name, contents in zip(NAMES, changed):
            folder = os.path.join(parent, name)
            _copy(root, folder, contents)
            for path, data in contents.items():
                with open(inside(folder, path), "xb") as file:
                    file.write(data)
            found.append(Arm(folder, sorted(contents)))
        yield found


def _copy(root: str, folder: str, changed: Collection[str]) -> None:
    """Everything but what is ``changed`` and what belongs to git, environments and caches.

    Of installed packages only those that are changed. No byte code: Python would trust one that is out of date. Links stay
    links: those out of the checkout lead to where they led, those within it to the copy.
    """
    links: list[tuple[str, str]] = []
    others = installed.others(root, changed)

    def skipped(parent: str, names: list[str]) -> set[str]:
        found = {name for name in names if name in SKIPPED or name.endswith((".pyc", ".pyo"))}
        found |= others if parent == root else set()
        for name in names:
            path = os.path.join(parent, name)
            own = _own(path, root)
            if own in changed:
                found.add(name)
            elif os.path.islink(path) and name not in found:
                said, real = os.readlink(path), os.path.realpath(path)
                if _is_outside(real, root):
                    links.append((own, os.path.join(parent, said)))
                elif os.path.isabs(said):
                    links.append((own, os.path.join(folder, os.path.relpath(real, root))))
        found |= {os.path.basename(own) for own, _ in links if os.path.dirname(own) == _own(parent, root)}
        return found

    try:
        shutil.copytree(root, folder, symlinks=True, ignore=skipped, copy_function=_copy_file)
        for own, target in links:
            os.symlink(target, os.path.join(folder, own))
    except shutil.Error as error:
        source, _, why = error.args[0][0]
        raise ApplyOptError(f"{source} cannot be copied to run it: {why}", f"check with: ls -ld {source}") from error
    except OSError as error:
        raise ApplyOptError(f"{root} cannot be copied to {folder}: {error.strerror}", "export TMPDIR=FOLDER") from error


def _own(path: str, root: str) -> str:
    """The path of something in the checkout, from its root; empty for the root itself."""
    own = os.path.relpath(path, root).replace(os.sep, "/")
    return "" if own == "." else own


def _is_outside(path: str, root: str) -> bool:
    try:
        return os.path.commonpath([root, path]) != root
    except ValueError:  # another drive
        return True


def _copy_file(source: str, target: str) -> None:
    if not os.path.isfile(source):  # a pipe, a socket: no program needs it to be copied
        return
    if os.path.getsize(source) >= LINKED_SIZE:
        os.symlink(source, target)
    else:
        shutil.copy(source, target)
