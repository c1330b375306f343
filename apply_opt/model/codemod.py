"""What a codemod is, and the rules that every codemod's result must pass.

A codemod is a module with two functions, both pure:

``find(source, parameters) -> list[Site]``
    looks for the declared sites with :mod:`ast` alone. Raises :class:`~apply_opt.errors.NoSite`,
    :class:`~apply_opt.errors.Ambiguous` or :class:`~apply_opt.errors.Conflict` where it is not sure.
``edit(source, parameters, sites) -> list[Edit]``
    the new lines for sites that are ``TODO``.

A third, ``preflight(folder, parameters) -> list[str]``, is for optimizations that need something outside the checkout:
it gives what it found, or raises :class:`~apply_opt.errors.Refused`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from apply_opt.errors import InvalidResult, PartlyApplied
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source
from apply_opt.model.validate import check_edits

TODO = "todo"
"""The site is there and the change is not."""
OURS = "ours"
"""The site holds what this codemod writes."""
THEIRS = "theirs"
"""The checkout's author has done it in their own way."""


class Site(NamedTuple):
    """One place, as found: its declared name, its line, its state, and (for ``THEIRS``) what stands there."""

    name: str
    line: int
    state: str
    note: str = ""


class Codemod(Protocol):
    """The module behind an optimization."""

    def find(self, source: Source, parameters: Mapping[str, Value]) -> list[Site]:
        """The declared sites."""
        ...

    def edit(self, source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
        """The new lines."""
        ...


class CheckedCodemod(Codemod, Protocol):
    """One that needs something outside the checkout, and looks at it before it is applied."""

    def preflight(self, folder: str, parameters: Mapping[str, Value]) -> list[str]:
        """What was found in ``folder``."""
        ...


class Rewrite(NamedTuple):
    """What a codemod makes of a file. ``data`` is ``None`` where nothing is to be done."""

    sites: Sequence[Site]
    data: bytes | None

    @property
    def state(self) -> str:
        """The state that all sites share."""
        return self.sites[0].state


def survey(codemod: Codemod, source: Source, declared: Sequence[str], parameters: Mapping[str, Value]) -> list[Site]:
    """The sites in ``source``: exactly the ``declared`` ones and all in one state, else an error."""
    sites = codemod.find(source, parameters)
    if sorted(site.name for site in sites) != sorted(declared):
        raise InvalidResult(f"declared sites {list(declared)}, found {[site.name for site in sites]}")
    if len({site.state for site in sites}) > 1:
        done = ", ".join(f"{s.name} (line {s.line})" for s in sites if s.state != TODO)
        missing = ", ".join(s.name for s in sites if s.state == TODO)
        raise PartlyApplied(
            f"{source.name} is partly applied: {done} is there, {missing} is not",
            "take the half that is there out by hand (git diff, git checkout), then apply again",
        )
    return sites


def rewrite_file(
    codemod: Codemod, data: bytes, name: str, declared: Sequence[str], parameters: Mapping[str, Value]
) -> Rewrite:
    """Bytes in, bytes out: the codemod's result, validated."""
    source = Source(data, name)
    sites = survey(codemod, source, declared, parameters)
    if sites[0].state != TODO:
        return Rewrite(sites, None)
    after = check_edits(source, codemod.edit(source, parameters, sites))
    check_settled(codemod, after, declared, parameters)
    return Rewrite(sites, after.data)


def check_settled(
    codemod: Codemod, after: Source, declared: Sequence[str], parameters: Mapping[str, Value]
) -> list[Site]:
    """The sites in the result. Planning again on it has to be a no-op, else :class:`InvalidResult` is raised."""
    sites = survey(codemod, after, declared, parameters)
    if any(site.state == TODO for site in sites):
        raise InvalidResult("planning again on the result is not a no-op")
    return sites
