"""The user's tree: its root, the target that it is a checkout of, and its main file. Nothing here writes.

The other files that optimizations change are looked for in :mod:`apply_opt.io.parts`, once one is asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional, TypeVar, Union

from apply_opt.errors import Ambiguous, NotRecognised, Refused, UsageError
from apply_opt.io import files

if TYPE_CHECKING:
    from apply_opt.model.target import Part, Target

    Kind = TypeVar("Kind", bound=Union[Part, Target])

STATE_FOLDER = ".apply-opt"
MAX_SEARCHED, MAX_SOURCE = 200_000, 2_000_000  # files looked through, and the bytes of one, where none was named
OWN_DATA = os.path.join("", "apply_opt", "units", "")
"""Where an installed apply-opt has its own trees: beside the packages that may be a checkout, and never one itself."""
SKIPPED = frozenset(
    {STATE_FOLDER, ".git", ".hg", ".svn", "__pycache__", "node_modules", "site-packages", ".venv", "venv", ".tox"}
)


class Checkout(NamedTuple):
    """``root`` is an absolute path without links; ``target`` is what was recognised there, in ``file`` (relative).

    ``named`` are absolute paths: where the user says that other parts of the target are.
    """

    root: str
    target: Target
    file: str
    named: Mapping[str, str] = {}

    def path(self) -> str:
        """The absolute path of the main file."""
        return inside(self.root, self.file)


def ancestors(start: str) -> list[str]:
    """``start`` and the folders above it. Raises :class:`NotRecognised` where there is no such folder."""
    try:
        path = os.path.realpath(start)
    except (OSError, ValueError):  # the current folder has been removed; a NUL byte
        path = ""
    if not os.path.isdir(path):
        raise NotRecognised(f"{start} is not a folder", "name the checkout: --repo DIR")
    result = [path]
    while os.path.dirname(path) != path:
        path = os.path.dirname(path)
        result.append(path)
    return result


def ledger_root(start: str) -> Optional[str]:
    """The nearest folder, from ``start`` upwards, that has a ledger."""
    for folder in ancestors(start):
        if os.path.isdir(os.path.join(folder, STATE_FOLDER)):
            _check_owner(folder)
            return folder
        if os.path.lexists(os.path.join(folder, ".git")):
            return None
    return None


def _check_owner(root: str) -> None:
    """A state folder says what to write where: one that another user has put above our files is not followed.

    As git's safe.directory has it (https://git-scm.com/docs/git-config#Documentation/git-config.txt-safedirectory).
    """
    state = os.path.join(root, STATE_FOLDER)
    owner = os.stat(state).st_uid
    if hasattr(os, "geteuid") and owner not in (0, os.geteuid(), os.stat(root).st_uid):
        raise Refused(
            f"{state} belongs to another user, who is not the owner of {root} either",
            f"look at it; if you trust it: chown -R $(id -u) {state}",
        )


def find(start: str, targets: Iterable[Target], named: Sequence[str] = ()) -> Checkout:
    """The checkout that ``start`` is in.

    From ``start`` upwards, the first folder with a target's file at one of its usual places; else, in the repository (or
    in ``start``, where there is none), the only file anywhere that has a target's markers. Or as ``named``: the main
    file's path, and ``PART=PATH`` for others, from ``start``.
    """
    targets = list(targets)
    folders = ancestors(start)
    file, parts = _read_names(named, targets)
    place = _find(folders, targets) if file is None else _named(folders[0], targets, file)
    for name in parts:
        if name not in place.target.parts:
            known = f"its parts: {', '.join(place.target.parts) or 'none'}"
            raise UsageError(f"{place.target.name} has no part called {name}", known)
    return place._replace(named={name: os.path.join(folders[0], path) for name, path in parts.items()})


def _read_names(named: Sequence[str], targets: Sequence[Target]) -> tuple[Optional[str], dict[str, str]]:
    """The main file's path, and those of parts. What has the name of no part before its ``=`` is a path."""
    known = {name for target in targets for name in target.parts}
    pairs = [text.partition("=") for text in named]
    parts = [(name, path) for name, equals, path in pairs if equals and name in known]
    paths = [text for text, (name, equals, _) in zip(named, pairs) if not equals or name not in known]
    if len(paths) > 1 or len(dict(parts)) < len(parts):
        raise UsageError("--file names one file twice", "once for each: --file PATH, and --file PART=PATH for a part")
    return (paths[0] if paths else None), dict(parts)


def _find(folders: Sequence[str], targets: Sequence[Target]) -> Checkout:
    top = folders[0]
    for folder in folders:
        for target in targets:
            for name in target.files:
                if is_kind(folder, name, target):
                    return _rooted(folder, target, name)
        if is_root(folder):
            top = folder
            break
    return _search(top, targets)


def is_root(folder: str) -> bool:
    """Whether ``folder`` is the top of a git repository, or has a ledger."""
    return any(os.path.lexists(os.path.join(folder, name)) for name in (".git", STATE_FOLDER))


def _rooted(folder: str, target: Target, name: str) -> Checkout:
    """The checkout of a file: where the ledger is that it belongs to, if there is one; links in its name are followed."""
    path = inside(folder, name)
    root = ledger_root(os.path.dirname(path)) or folder
    return Checkout(root, target, relative(root, path))


def relative(root: str, path: str) -> str:
    """``path`` from ``root``, with forward slashes; where it is not below it, as it is."""
    return os.path.relpath(path, root).replace(os.sep, "/") if _is_below(path, root) else path


def _named(folder: str, targets: Sequence[Target], file: str) -> Checkout:
    path = os.path.realpath(os.path.join(folder, file))
    root = next((f for f in ancestors(folder) if is_root(f)), folder)
    name = relative(root, path)
    if not os.path.isdir(path):
        inside(root, name)
    for target in targets:
        if is_kind(root, name, target):
            return _rooted(root, target, name)
    if not os.path.lexists(path):
        parts = ", ".join(f"{name}=PATH" for target in targets for name in target.parts)
        step = "name it as it is from there: --file PATH" + (f" (another part of it: {parts})" if parts else "")
        raise NotRecognised(f"there is no file {file} in {folder}", step)
    raise NotRecognised(
        f"{file} is not a file of {_names(targets)}{_why_not(root, name, targets)}",
        "leave --file out, to have it looked for",
    )


def _why_not(root: str, name: str, targets: Sequence[Target]) -> str:
    """What the file lacks to be one of ``targets``; nothing, where there is no such file."""
    data = read(root, name)
    return "" if data is None else "".join(f"\n  {target.name}: it lacks {missing(data, target)}" for target in targets)


def is_kind(folder: str, name: str, kind: Union[Part, Target]) -> bool:
    """Whether ``name`` in ``folder`` is a file, and of that kind."""
    data = read(folder, name)
    return data is not None and has_markers(data, kind)


def read(folder: str, name: str) -> Optional[bytes]:
    """A file in ``folder``. Raises :class:`Refused` where its name leads out of it."""
    is_file = os.path.isfile(os.path.join(folder, name))
    return files.read(inside(folder, name)) or b"" if is_file else None


def has_markers(data: bytes, kind: Union[Part, Target]) -> bool:
    """Whether ``data`` has every marker of ``kind``, and one of those of which one is enough."""
    return not missing(data, kind)


def missing(data: bytes, kind: Union[Part, Target]) -> str:
    """The markers of ``kind`` that ``data`` lacks, in words."""
    lacking = [marker.decode() for marker in kind.markers if marker not in data]
    if kind.any_markers and not any(marker in data for marker in kind.any_markers):
        lacking.append("any of " + ", ".join(marker.decode() for marker in kind.any_markers))
    return " and ".join(lacking)


def _search(root: str, targets: Sequence[Target]) -> Checkout:
    inner = [entry.name for entry in os.scandir(root) if os.path.lexists(os.path.join(entry.path, ".git"))]
    if inner and not is_root(root):
        raise NotRecognised(
            f"{root} is no checkout itself; it holds {', '.join(sorted(inner)[:5])}",
            "go to the one you mean, or: --repo DIR",
        )
    found = search(root, targets)
    if len(found) > 1:
        places = "".join(f"\n  {name}  ({target.name})" for name, target in found)
        raise Ambiguous(f"{len(found)} files in {root} could be meant:{places}", f"name one: --file {found[0][0]}")
    if not found:
        raise NotRecognised(
            f"{root} is not a checkout of {_names(targets)}: no file in it has what they are recognised by",
            "go to the checkout, or name it: --repo DIR",
        )
    name, target = found[0]
    return _rooted(root, target, name)


def search(root: str, kinds: Sequence[Kind]) -> list[tuple[str, Kind]]:
    """The Python files below ``root`` that are of one of ``kinds``. Raises :class:`NotRecognised` for a tree without end."""
    found: list[tuple[str, Kind]] = []
    for count, entry in enumerate(files.walk(root, SKIPPED)):
        if count >= MAX_SEARCHED:
            raise NotRecognised(
                f"{root} holds more than {MAX_SEARCHED} files: it is not searched further",
                "name the checkout: --repo DIR",
            )
        if OWN_DATA in entry.path:
            continue
        if not entry.name.endswith(".py") or entry.stat(follow_symlinks=False).st_size > MAX_SOURCE:
            continue
        data = files.read(entry.path) or b""
        found += [(relative(root, entry.path), kind) for kind in kinds if has_markers(data, kind)]
    return found


def _names(targets: Sequence[Target]) -> str:
    return " or ".join(target.name for target in targets) or "any known target"


def inside(root: str, name: str) -> str:
    """The absolute path of ``name`` in ``root``, links resolved.

    Raises :class:`Refused` where that leads out of ``root``, or into what belongs to git or to apply-opt. Names come from
    patches, ledgers and journals, which a stranger may have written.
    """
    path = os.path.realpath(os.path.join(root, name)) if is_plain(name) else ""
    if path and _is_below(path, root) and is_plain(os.path.relpath(path, root)):
        return path
    raise Refused(
        f"{name} leads out of the checkout {root}{f' (to {path})' if path else ', or to what is not its own'}",
        "name the checkout that holds the file: --repo DIR",
    )


def is_plain(name: object) -> bool:
    """Whether ``name`` is a relative path that names a file of the tree itself: no ``..``, nothing of git's or of ours.

    Letters' case, a drive's name, and the endings that Windows drops, make no difference to what is refused.
    """
    if not isinstance(name, str) or not name or "\0" in name or os.path.isabs(name):
        return False
    parts = [part.split(":")[0].rstrip(". ").lower() for part in re.split(r"[/\\]", name)]
    return not {"", ".git", "git~1", STATE_FOLDER}.intersection(parts)


def _is_below(path: str, root: str) -> bool:
    try:
        return path != root and os.path.commonpath([root, path]) == root
    except ValueError:  # another drive
        return False
