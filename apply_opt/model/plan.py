"""What an apply would do, computed in memory. Nothing here reads or writes a file."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import InvalidResult, Refused
from apply_opt.model.codemod import OURS, TODO, Codemod, Site, check_settled, survey
from apply_opt.model.digest import sha256
from apply_opt.model.parameters import Value, spelled
from apply_opt.model.source import Edit, Source
from apply_opt.model.target import Revision
from apply_opt.model.unit import Optimization
from apply_opt.model.validate import check_edits

PLANNED = "planned"
ALREADY = "already"
NOT_NEEDED = "not_needed"
LEFT_OUT = "left_out"
REFUSED = "refused"


class Outcome(NamedTuple):
    """What became of one optimization in a plan. ``before`` and ``after`` are the bytes of its ``file``, where it is planned."""

    optimization: Optimization
    kind: str
    parameters: Mapping[str, Value]
    sites: Sequence[Site] = ()
    before: bytes = b""
    after: bytes = b""
    message: str = ""
    next_step: str = ""
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    error: Optional[Refused] = None
    file: str = ""

    @property
    def name(self) -> str:
        """The optimization's name."""
        return self.optimization.name


class Planner:
    """Plans optimizations one after the other on one file.

    All look at the same source as long as their edits keep clear of each other, so that a bundle costs little more than
    one optimization; where they do not, or one needs another, the next looks at what the ones before it made.
    :meth:`finish` validates the sum. A ``careful`` planner validates after each, to find the one at fault.
    """

    def __init__(self, data: bytes, file: str, careful: bool = False) -> None:
        self.before = self.data = data
        self.file = file
        self.careful = careful
        self.error: Optional[Refused] = None
        self.settled: dict[str, Sequence[Site]] = {}
        """Where what was planned stands in the result, for each optimization; complete after :meth:`finish`."""
        self._edits: list[Edit] = []
        self._landed: list[tuple[Codemod, Optimization, Mapping[str, Value]]] = []
        self._earlier: list[tuple[Codemod, Optimization, Mapping[str, Value]]] = []
        try:
            self._source: Optional[Source] = Source(data, file)
        except Refused as error:
            self._source, self.error = None, error

    def plan(
        self, optimization: Optimization, codemod: Codemod, parameters: Mapping[str, Value], take: bool = True
    ) -> Outcome:
        """What ``optimization`` makes of the file as planned so far; with ``take=False`` it is only looked for.

        A refusal is an outcome too, not an exception.
        """
        try:
            return self._plan(optimization, codemod, parameters, take)
        except (Refused, RecursionError) as cause:
            error = cause if isinstance(cause, Refused) else Refused(f"{self.file} is nested too deeply: {cause}")
            return refused(optimization, parameters, error)._replace(file=self.file)

    def _plan(
        self, optimization: Optimization, codemod: Codemod, parameters: Mapping[str, Value], take: bool
    ) -> Outcome:
        if self._source is None:
            raise self.error or Refused(f"{self.file} cannot be planned")
        if any(landed.name in optimization.requires for _, landed, _ in self._landed):
            self.finish()
        sites = survey(codemod, self._source, optimization.sites, parameters)
        site = sites[0]
        if site.state == OURS:
            message = f"already there ({self.file}:{site.line})"
            return Outcome(optimization, ALREADY, parameters, sites, message=message, file=self.file)
        if site.state != TODO:
            message = f"{self.file}:{site.line} already has {site.note}"
            return Outcome(optimization, NOT_NEEDED, parameters, sites, message=message, file=self.file)
        warnings = warnings_of(optimization, parameters)
        outcome = Outcome(optimization, PLANNED, parameters, sites, self.data, warnings=warnings, file=self.file)
        return self._take(outcome, codemod) if take else outcome

    def _take(self, outcome: Outcome, codemod: Codemod) -> Outcome:
        assert self._source is not None
        optimization, parameters = outcome.optimization, outcome.parameters
        edits = codemod.edit(self._source, parameters, outcome.sites)
        if _overlap(edits, self._edits):
            self.finish()
            sites = survey(codemod, self._source, optimization.sites, parameters)
            edits = codemod.edit(self._source, parameters, sites)
        if self.careful:
            after = check_edits(self._source, edits)
            self.settled[optimization.name] = check_settled(codemod, after, optimization.sites, parameters)
            self._source, self.data = after, after.data
        else:
            self._edits += edits
            self._landed.append((codemod, optimization, parameters))
            self.data = self._source.splice(self._edits)
        return outcome._replace(after=self.data)

    def finish(self) -> None:
        """Validate what was planned. Raises :class:`InvalidResult`."""
        if self._source is None or not self._edits:
            return
        after = check_edits(self._source, self._edits)
        for codemod, optimization, parameters in self._landed:
            self.settled[optimization.name] = check_settled(codemod, after, optimization.sites, parameters)
        for codemod, optimization, parameters in self._earlier:  # their lines have moved
            with contextlib.suppress(Refused):
                self.settled[optimization.name] = survey(codemod, after, optimization.sites, parameters)
        self._earlier += self._landed
        self._source, self._edits, self._landed = after, [], []


def refused(optimization: Optimization, parameters: Mapping[str, Value], error: Refused) -> Outcome:
    """The outcome that a refusal is, with the edit for somebody who makes it by hand."""
    manual = f"by hand:\n{optimization.manual.strip()}"
    step = "\n".join(filter(None, [error.next_step, manual]))
    return Outcome(optimization, REFUSED, parameters, message=error.message, next_step=step, error=error)


def _overlap(some: Sequence[Edit], others: Sequence[Edit]) -> bool:
    """Whether any of ``some`` touches lines that one of ``others`` replaces, or replaces lines next to which another inserts."""
    return any(
        a.first <= b.last and b.first <= a.last for a in some for b in others if a.first <= a.last or b.first <= b.last
    )


def plan_one(
    optimization: Optimization,
    codemod: Codemod,
    data: bytes,
    file: str,
    parameters: Mapping[str, Value],
) -> Outcome:
    """What ``optimization`` alone would make of ``data``."""
    return Planner(data, file, careful=True).plan(optimization, codemod, parameters)


def warnings_of(optimization: Optimization, parameters: Mapping[str, Value]) -> list[str]:
    """The manifest's warnings for these values: keyed ``name=value``, or ``name`` for any value but the default."""
    defaults = {p.name: p.default for p in optimization.parameters}
    found = []
    for key, text in optimization.warnings.items():
        name, _, value = key.partition("=")
        if str(parameters[name]).lower() == value.lower() if value else parameters[name] != defaults[name]:
            found.append(f"{name}={spelled(parameters[name])}: {text}")
    return found


def known(revisions: Sequence[Revision], data: bytes) -> Optional[Revision]:
    """The upstream revision whose file is ``data``."""
    digest = sha256(data)
    return next((r for r in revisions if r.sha256 == digest), None)


def check_known(revision: Optional[Revision], names: Sequence[str], data: bytes) -> None:
    """Hold what ``names`` (at their defaults) made of a known upstream file against its recorded hash.

    Raises :class:`InvalidResult`.
    """
    expected = revision.after.get("+".join(names)) if revision else None
    if revision and expected and expected != sha256(data):
        raise InvalidResult(f"{revision.repository} {revision.path}: the result is not the recorded one")


def is_default(optimization: Optimization, parameters: Mapping[str, Value]) -> bool:
    """Whether every parameter has its default."""
    return all(parameters.get(p.name) == p.default for p in optimization.parameters)
