"""What the engine knows of targets. All of it comes from ``target.toml``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

from apply_opt.model.parameters import texts

MAIN = ""
"""The part of a target that its main file is: the one that it is recognised by."""


class Part(NamedTuple):
    """A file of a target that optimizations change. ``files`` are looked at first.

    A file is the part if it has all ``markers``, and one of ``any_markers`` where there are such.
    """

    name: str
    files: Sequence[str]
    markers: Sequence[bytes]
    any_markers: Sequence[bytes] = ()


class Revision(NamedTuple):
    """A known state of a file upstream: facts only (hashes), no source.

    ``after`` maps an optimization or bundle, at its default parameters, to the sha256 of the file after it.
    """

    repository: str
    commits: Sequence[str]
    path: str
    sha256: str
    after: Mapping[str, str]

    def names(self) -> list[str]:
        """The optimizations whose results are known."""
        return sorted({name for key in self.after for name in key.split("+")})

    def holding(self, digest: str) -> Optional[Sequence[str]]:
        """The optimizations that the file with this sha256 holds; ``None`` where it is not known."""
        states = {self.sha256: (), **{value: key.split("+") for key, value in self.after.items()}}
        return states.get(digest)


class Target(NamedTuple):
    """A family of repositories. ``files`` and the markers are those of the main file, as :class:`Part` has them.

    ``parts`` are other files that optimizations change.
    """

    name: str
    title: str
    upstream: Sequence[str]
    licence: str
    files: Sequence[str]
    markers: Sequence[bytes]
    revisions: Sequence[Revision]
    folder: str
    any_markers: Sequence[bytes] = ()
    parts: Mapping[str, Part] = {}

    def part(self, name: str) -> Part:
        """One of the files that optimizations change."""
        return self.parts[name] if name else Part(MAIN, self.files, self.markers, self.any_markers)


def parse_target(name: str, folder: str, table: Mapping[str, Any]) -> Target:
    """A :class:`Target` from its ``target.toml``."""
    main = _parse_part(MAIN, table["recognise"])
    return Target(
        name=name,
        title=table["title"],
        upstream=texts(table, "upstream"),
        licence=table["licence"],
        files=main.files,
        markers=main.markers,
        revisions=tuple(
            Revision(r["repository"], texts(r, "commits"), r["path"], r.get("sha256", ""), dict(r.get("after", {})))
            for r in table.get("revision", ())
        ),
        folder=folder,
        any_markers=main.any_markers,
        parts={name: _parse_part(name, part) for name, part in table.get("part", {}).items()},
    )


def _parse_part(name: str, table: Mapping[str, Any]) -> Part:
    """A :class:`Part`. Raises :class:`ValueError` where any file could be it, or its name cannot be typed as one."""
    files, markers, any_markers = texts(table, "files"), texts(table, "markers"), texts(table, "any_markers", ())
    if name and not (files and (markers or any_markers) and name.isascii() and name.isidentifier()):
        raise ValueError(f"the part {name} (a word, with files and markers)")
    return Part(name, files, tuple(m.encode() for m in markers), tuple(m.encode() for m in any_markers))
