"""What the engine knows of targets, optimizations and bundles. All of it comes from data files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from apply_opt.model.parameters import Parameter, parse_parameter

SAFETY = ("instrument", "exact", "tolerance", "inference_only", "lossy")


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
    """A family of repositories. ``files`` are looked at first; a file is the target's if it has all ``markers``."""

    name: str
    title: str
    upstream: Sequence[str]
    licence: str
    files: Sequence[str]
    markers: Sequence[bytes]
    revisions: Sequence[Revision]
    folder: str


class Optimization(NamedTuple):
    """One named, reversible change. ``sites`` are the places that its codemod must find, each exactly once."""

    name: str
    title: str
    title_zh: str
    target: str
    safety: str
    sites: Sequence[str]
    parameters: Sequence[Parameter]
    manual: str
    warnings: Mapping[str, str]
    requires: Sequence[str]
    conflicts: Sequence[str]
    preflight: str
    folder: str
    codemod: str


class Bundle(NamedTuple):
    """Optimizations that are applied together, in this order."""

    name: str
    title: str
    title_zh: str
    target: str
    optimizations: Sequence[str]
    folder: str


def parse_target(name: str, folder: str, table: Mapping[str, Any]) -> Target:
    """A :class:`Target` from its ``target.toml``."""
    recognise = table["recognise"]
    return Target(
        name=name,
        title=table["title"],
        upstream=tuple(table["upstream"]),
        licence=table["licence"],
        files=tuple(recognise["files"]),
        markers=tuple(marker.encode() for marker in recognise["markers"]),
        revisions=tuple(
            Revision(r["repository"], tuple(r["commits"]), r["path"], r.get("sha256", ""), dict(r.get("after", {})))
            for r in table.get("revision", ())
        ),
        folder=folder,
    )


def parse_optimization(name: str, folder: str, codemod: str, table: Mapping[str, Any]) -> Optimization:
    """An :class:`Optimization` from its ``optimization.toml``."""
    return Optimization(
        name=name,
        title=table["title"],
        title_zh=table.get("title_zh", table["title"]),
        target=table["target"],
        safety=table["safety"],
        sites=tuple(table["sites"]),
        parameters=tuple(parse_parameter(key, value) for key, value in table.get("parameters", {}).items()),
        manual=table["manual"],
        warnings=dict(table.get("warnings", {})),
        requires=tuple(table.get("requires", ())),
        conflicts=tuple(table.get("conflicts", ())),
        preflight=table.get("preflight", ""),
        folder=folder,
        codemod=codemod,
    )


def parse_bundle(name: str, folder: str, table: Mapping[str, Any]) -> Bundle:
    """A :class:`Bundle` from its ``bundle.toml``."""
    return Bundle(
        name,
        table["title"],
        table.get("title_zh", table["title"]),
        table["target"],
        tuple(table["optimizations"]),
        folder,
    )
