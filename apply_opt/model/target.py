"""What the engine knows of targets. All of it comes from ``target.toml``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from apply_opt.model.parameters import texts


class Revision(NamedTuple):
    """A known state of a file upstream: facts only (hashes), no source.

    ``after`` maps an optimization or bundle, at its default parameters, to the sha256 of the file after it.
    """

    repository: str
    commits: Sequence[str]
    path: str
    sha256: str
    after: Mapping[str, str]


class Target(NamedTuple):
    """A family of repositories. ``files`` are looked at first.

    A file is the target's if it has all ``markers``, and one of ``any_markers`` where there are such.
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


def parse_target(name: str, folder: str, table: Mapping[str, Any]) -> Target:
    """A :class:`Target` from its ``target.toml``."""
    recognise = table["recognise"]
    return Target(
        name=name,
        title=table["title"],
        upstream=texts(table, "upstream"),
        licence=table["licence"],
        files=texts(recognise, "files"),
        markers=tuple(marker.encode() for marker in texts(recognise, "markers")),
        revisions=tuple(
            Revision(r["repository"], texts(r, "commits"), r["path"], r.get("sha256", ""), dict(r.get("after", {})))
            for r in table.get("revision", ())
        ),
        folder=folder,
        any_markers=tuple(marker.encode() for marker in texts(recognise, "any_markers", ())),
    )
