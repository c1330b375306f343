"""Installed packages: a target's files in site-packages, which belong to pip and not to a checkout."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

from apply_opt.errors import Refused
from apply_opt.io import files
from apply_opt.io.checkout import SKIPPED, Checkout

FOLDERS = ("site-packages", "dist-packages")


def is_installed(root: str) -> bool:
    """Whether ``root`` is where pip puts packages."""
    return os.path.basename(root) in FOLDERS


def packages(names: Iterable[str]) -> list[str]:
    """The packages that the files ``names`` belong to."""
    return sorted({name.split("/")[0] for name in names})


def others(root: str, names: Iterable[str]) -> set[str]:
    """What lies in ``root`` beside the packages of the files ``names``, where packages are installed there."""
    return {*os.listdir(root)} - {*packages(names)} if is_installed(root) else set()


@contextlib.contextmanager
def copied(place: Checkout, parent: str) -> Iterator[str]:
    """A folder in ``parent`` with a copy of the package; one that is there already is taken as it is.

    A copy that was made here is taken away again where an error is raised.
    """
    (name,) = packages([place.file])
    folder = os.path.join(parent, f"{name}-apply-opt")
    is_made = not os.path.lexists(folder)
    if is_made:
        source = os.path.join(place.root, name)
        try:
            files.copy_tree(source, os.path.join(folder, name), SKIPPED)
        except OSError as error:
            why = f"{source} cannot be copied to {folder}: {error.strerror}"
            raise Refused(why, "go to a folder with room for it") from error
    elif not os.path.isfile(os.path.join(folder, place.file)):
        raise Refused(
            f"{folder} is there, and is no copy of the package {name}", "go to another folder, or move it away"
        )
    try:
        yield folder
    except BaseException:
        if is_made:
            files.remove_tree(folder)
        raise
