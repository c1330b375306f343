"""Where the other files of a target are that optimizations change: found as the main file is, once one is asked for."""

from __future__ import annotations

import os
from typing import Optional, Union

from apply_opt.errors import Ambiguous, ApplyOptError, NoSite, Refused
from apply_opt.io.checkout import Checkout, inside, is_kind, is_root, missing, read, relative, search
from apply_opt.model.target import MAIN, Part


class Parts:
    """The files of a checkout's parts; what was looked for once is known."""

    def __init__(self, place: Checkout) -> None:
        self.place = place
        self._found: dict[str, Union[str, Refused]] = {MAIN: place.file}

    def file(self, name: str) -> str:
        """The path, from the root, of the file that is the part ``name``. Raises :class:`Refused` where that is not certain."""
        if name not in self._found:
            try:
                self._found[name] = find(self.place, self.place.target.part(name))
            except ApplyOptError as error:
                self._found[name] = error if isinstance(error, Refused) else Refused(error.message, error.next_step)
        found = self._found[name]
        if isinstance(found, Refused):
            raise found
        return found


def find(place: Checkout, part: Part) -> str:
    """Where the user says that ``part`` is; else at a usual place, or in the main file; else the only file that has its markers."""
    return near(place, part) or _searched(place, part)


def near(place: Checkout, part: Part) -> Optional[str]:
    """Where ``part`` is, as far as that can be told without looking through the tree."""
    if part.name in place.named:
        return _named(place, part)
    return _usual(place, part) or (place.file if is_kind(place.root, place.file, part) else None)


def _usual(place: Checkout, part: Part) -> Optional[str]:
    """``part`` at one of its usual places: from the main file's folder, or from one above it, the nearest first."""
    folder = os.path.dirname(place.file)
    while True:
        for name in (os.path.join(folder, file) for file in part.files):
            if is_kind(place.root, name, part):
                found = relative(place.root, inside(place.root, name))
                if not _is_another_s(place.root, found):
                    return found
        if not folder:
            return None
        folder = os.path.dirname(folder)


def _is_another_s(root: str, name: str) -> bool:
    """Whether a file belongs to another repository inside this one, or to another ledger."""
    folder = os.path.dirname(name)
    while folder and not is_root(os.path.join(root, folder)):
        folder = os.path.dirname(folder)
    return bool(folder)


def _named(place: Checkout, part: Part) -> str:
    path = place.named[part.name]
    name = relative(place.root, os.path.realpath(path))
    data = read(place.root, name)
    if data is None:
        raise NoSite(f"there is no file {path}", f"name it as it is: --file {part.name}=PATH")
    if missing(data, part):
        step = f"leave --file {part.name}=… out, to have it looked for"
        raise NoSite(f"{path} is not the part {part.name} of {place.target.name}: it lacks {missing(data, part)}", step)
    return name


def _searched(place: Checkout, part: Part) -> str:
    found = [name for name, _ in search(place.root, [part])]
    what = f"the part {part.name} of {place.target.name}"
    if len(found) > 1:
        places = "".join(f"\n  {name}" for name in found)
        step = f"name one: --file {part.name}={found[0]}"
        raise Ambiguous(f"{len(found)} files in {place.root} could be {what}:{places}", step)
    if not found:
        lacking = f"{place.root} does not hold {what}: no file has {missing(b'', part)}"
        raise NoSite(lacking, f"if it is in a folder above: --repo DIR; or name it: --file {part.name}=PATH")
    return found[0]
