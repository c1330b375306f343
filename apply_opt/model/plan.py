"""What an apply would do, computed in memory. Nothing here reads or writes a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Refused
from apply_opt.model.codemod import OURS, Codemod, InvalidResult, Site, rewrite_file
from apply_opt.model.parameters import Value
from apply_opt.model.target import Revision
from apply_opt.model.unit import Optimization

PLANNED = "planned"
ALREADY = "already"
NOT_NEEDED = "not_needed"
LEFT_OUT = "left_out"
REFUSED = "refused"


class Outcome(NamedTuple):
    """What became of one optimization in a plan. ``before`` and ``after`` are the file's bytes where it is planned."""

    optimization: Optimization
    kind: str
    parameters: Mapping[str, Value]
    sites: Sequence[Site] = ()
    before: bytes = b""
    after: bytes = b""
    message: str = ""
    next_step: str = ""
    warnings: Sequence[str] = ()
    error: Optional[Refused] = None

    @property
    def name(self) -> str:
        """The optimization's name."""
        return self.optimization.name


def plan_one(
    optimization: Optimization,
    codemod: Codemod,
    data: bytes,
    file: str,
    parameters: Mapping[str, Value],
) -> Outcome:
    """What ``optimization`` would make of ``data``. Its refusal is an outcome too, not an exception."""
    try:
        rewrite = rewrite_file(codemod, data, file, optimization.sites, parameters)
    except Refused as error:
        manual = f"by hand:{optimization.manual.rstrip()}"
        step = "\n".join(filter(None, [error.next_step, manual]))
        return Outcome(optimization, REFUSED, parameters, message=error.message, next_step=step, error=error)
    warnings = warnings_of(optimization, parameters)
    if rewrite.data is not None:
        return Outcome(optimization, PLANNED, parameters, rewrite.sites, data, rewrite.data, warnings=warnings)
    site = rewrite.sites[0]
    if site.state == OURS:
        return Outcome(optimization, ALREADY, parameters, rewrite.sites, message=f"already there ({file}:{site.line})")
    return Outcome(
        optimization,
        NOT_NEEDED,
        parameters,
        rewrite.sites,
        message=f"not needed: {file}:{site.line} already has {site.note}",
    )


def warnings_of(optimization: Optimization, parameters: Mapping[str, Value]) -> list[str]:
    """The manifest's warnings for these values: keyed ``name=value``, or ``name`` for any value but the default."""
    defaults = {p.name: p.default for p in optimization.parameters}
    found = []
    for key, text in optimization.warnings.items():
        name, _, value = key.partition("=")
        if str(parameters[name]).lower() == value.lower() if value else parameters[name] != defaults[name]:
            found.append(f"{name}={parameters[name]}: {text}")
    return found


def known(revisions: Sequence[Revision], data: bytes) -> Optional[Revision]:
    """The upstream revision whose file is ``data``."""
    digest = hashlib.sha256(data).hexdigest()
    return next((r for r in revisions if r.sha256 == digest), None)


def known_after(revisions: Sequence[Revision], data: bytes) -> Sequence[str]:
    """The optimizations that, applied to a known upstream file, give ``data``."""
    digest = hashlib.sha256(data).hexdigest()
    return next((key.split("+") for r in revisions for key, value in r.after.items() if value == digest), ())


def check_known(revision: Optional[Revision], names: Sequence[str], data: bytes) -> None:
    """Hold what ``names`` (at their defaults) made of a known upstream file against its recorded hash.

    Raises :class:`InvalidResult`.
    """
    expected = revision.after.get("+".join(names)) if revision else None
    if revision and expected and expected != hashlib.sha256(data).hexdigest():
        raise InvalidResult(f"{revision.repository} {revision.path}: the result is not the recorded one")


def is_default(optimization: Optimization, parameters: Mapping[str, Value]) -> bool:
    """Whether every parameter has its default."""
    return all(parameters.get(p.name) == p.default for p in optimization.parameters)
