"""What ``apply``, ``diff``, ``export`` and ``list`` share: from names to a plan for this checkout."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.commands import GONE, PARTLY, state
from apply_opt.errors import Conflict, LedgerError, NotRecognised, Refused, UsageError
from apply_opt.io import catalog, checkout, files, ledger
from apply_opt.io.catalog import Catalog, Unit
from apply_opt.io.checkout import Checkout
from apply_opt.model import plan
from apply_opt.model.parameters import Value, resolve
from apply_opt.model.plan import ALREADY, LEFT_OUT, PLANNED, REFUSED, Outcome
from apply_opt.model.unit import Optimization


class Request(NamedTuple):
    """What was asked for, apart from the names. ``given`` is the ``--set`` values; ``preflight`` a folder.

    ``shown`` are optimizations that are only to be shown: neither their class nor a preflight holds them back.
    """

    given: Mapping[str, str] = {}
    allow: Sequence[str] = ()
    preflight: Optional[str] = None
    shown: Sequence[str] = ()


class Plan(NamedTuple):
    """The outcomes in order, and the file before and after all of them."""

    checkout: Checkout
    ledger: ledger.Ledger
    outcomes: Sequence[Outcome]
    before: bytes
    after: bytes

    def of_kind(self, kind: str) -> list[Outcome]:
        """The outcomes of one kind."""
        return [outcome for outcome in self.outcomes if outcome.kind == kind]


def parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """``--set key=value`` (or ``optimization.key=value``), each once."""
    given: dict[str, str] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {text}: a setting is key=value", "for example: --set intra_op=4")
        if key in given:
            raise UsageError(f"--set {key} is given twice", f"give it once: --set {text}")
        given[key] = value
    return given


def members(units: Catalog, names: Sequence[str]) -> list[Optimization]:
    """The optimizations that ``names`` stand for, each once, in order."""
    found = [member for name in names for member in units.members(units.unit(name))]
    return list({member.name: member for member in found}.values())


def find_checkout(units: Catalog, wanted: Sequence[Unit], repo: str, file: Optional[str]) -> Checkout:
    """The checkout for ``wanted`` (for anything known, where that is empty)."""
    names = {unit.target for unit in wanted} or set(units.targets)
    if len(names) > 1 and wanted:
        raise UsageError(f"these are for different targets: {', '.join(sorted(names))}", "apply them one by one")
    return checkout.find(repo, [units.targets[name] for name in sorted(names)], file)


def make_plan(units: Catalog, place: Checkout, optimizations: Sequence[Optimization], request: Request) -> Plan:
    """Plan ``optimizations`` one after the other; each sees what the one before it made."""
    parameters = _parameters(optimizations, request.given)
    if ledger.unfinished(place.root):
        raise LedgerError(
            f"another apply-opt is at work in {place.root}, or was interrupted there",
            "apply-opt status waits for it, or puts right what it left",
        )
    record = ledger.load(place.root)
    before = files.read(place.path())
    if before is None:
        raise NotRecognised(f"{place.path()} is not there any more")
    chain = record.chain(place.file)
    now = state.contents(record)
    states = {e.name: state.entry_state(record, e, now) for e in record.entries}
    applied = [(e.name, dict(e.parameters)) for e in record.entries if states[e.name] != GONE]
    pristine = ledger.content(place.root, chain[0].before) if chain else before
    revision = plan.known(place.target.revisions, pristine)
    if chain and checkout.sha256(before) != chain[-1].after:
        revision = None
    view = _View(record, states, [name for name, _ in applied], request, parameters)
    try:
        planner, outcomes = _plan_all(view, plan.Planner(before, place.file), optimizations)
    except (Refused, RecursionError):  # one of them is at fault: which one, and what the others make, shows one by one
        planner, outcomes = _plan_all(view, plan.Planner(before, place.file, careful=True), optimizations)
    stack = [*applied, *((o.name, dict(o.parameters)) for o in outcomes if o.kind == PLANNED)]
    if outcomes and all(plan.is_default(units.optimizations[n], p) for n, p in stack if n in units.optimizations):
        plan.check_known(revision, [n for n, _ in stack], planner.data)
    return Plan(place, record, outcomes, before, planner.data)


class _View(NamedTuple):
    """What the decision about one optimization rests on, besides the file itself."""

    record: ledger.Ledger
    states: Mapping[str, str]
    applied: Sequence[str]
    request: Request
    parameters: Mapping[str, Mapping[str, Value]]


def _parameters(optimizations: Sequence[Optimization], given: Mapping[str, str]) -> dict[str, dict[str, Value]]:
    result, used = {}, set()
    for optimization in optimizations:
        own = {key.partition(".")[2]: v for key, v in given.items() if key.startswith(optimization.name + ".")}
        names = {p.name for p in optimization.parameters}
        shared = {key: v for key, v in given.items() if key in names}
        used |= set(shared) | {f"{optimization.name}.{key}" for key in own}
        result[optimization.name] = resolve(optimization.parameters, {**shared, **own}, optimization.name)
    for key in given:
        if key not in used:
            everything = [p for o in optimizations for p in o.parameters]
            resolve(everything, {key: given[key]}, ", ".join(o.name for o in optimizations))
    return result


def _plan_all(
    view: _View, planner: plan.Planner, optimizations: Sequence[Optimization]
) -> tuple[plan.Planner, list[Outcome]]:
    outcomes: list[Outcome] = []
    for optimization in optimizations:
        names = {*view.applied, *(o.name for o in outcomes if o.kind == PLANNED)}
        outcomes.append(_plan_one(view, planner, names, optimization))
    planner.finish()
    return planner, [o._replace(sites=planner.settled.get(o.name, o.sites)) for o in outcomes]


def _plan_one(view: _View, planner: plan.Planner, names: set[str], optimization: Optimization) -> Outcome:
    """One optimization on top of ``names``: what the ledger says of it, what stands in its way, what its codemod says."""
    parameters = view.parameters[optimization.name]
    entry = view.record.entry(optimization.name)
    known = _recorded(entry, view.states[entry.name], optimization, parameters, view.request) if entry else None
    if known is not None:
        return known
    for other in sorted(names.intersection(optimization.conflicts)):
        message = f"{optimization.name} does not go together with {other}"
        return _refusal(optimization, parameters, message, f"apply-opt revert {other}")
    for other in sorted(set(optimization.requires) - names):
        return _refusal(optimization, parameters, f"{optimization.name} needs {other}", f"apply-opt {other}")
    held_back, notes = _held_back(optimization, parameters, view.request)
    outcome = planner.plan(optimization, catalog.codemod(optimization), parameters, take=held_back is None)
    if outcome.kind != PLANNED:
        return outcome
    return held_back or outcome._replace(notes=notes)


def _recorded(
    entry: ledger.Entry,
    found: str,
    optimization: Optimization,
    parameters: Mapping[str, Value],
    request: Request,
) -> Optional[Outcome]:
    """What the ledger says of an optimization; ``None`` where its change has been taken out by hand since."""
    if found == GONE:
        return None
    if found == PARTLY:
        message = f"{entry.name} is applied, and its lines have been edited since"
        return _refusal(optimization, parameters, message, f"apply-opt revert {entry.name}, then apply it again")
    asked = {key.rpartition(".")[2] for key in request.given}
    if all(entry.parameters.get(key) == value for key, value in parameters.items() if key in asked or not asked):
        return Outcome(optimization, ALREADY, parameters, message=f"applied at {entry.applied_at}")
    values = " ".join(f"{key}={value}" for key, value in entry.parameters.items())
    return _refusal(
        optimization,
        parameters,
        f"{entry.name} is applied with other values: {values}",
        f"apply-opt revert {entry.name}, then apply it again",
    )


def _refusal(optimization: Optimization, parameters: Mapping[str, Value], message: str, next_step: str) -> Outcome:
    error = Conflict(message, next_step)
    return Outcome(optimization, REFUSED, parameters, message=message, next_step=next_step, error=error)


def _held_back(
    optimization: Optimization, parameters: Mapping[str, Value], request: Request
) -> tuple[Optional[Outcome], Sequence[str]]:
    """Why an optimization that would land is not applied: its class, or what has to be looked at first; and what was found."""
    if optimization.name in request.shown:
        return None, ()
    if optimization.safety == "lossy" and "lossy" not in request.allow:
        step = f"apply-opt {optimization.name} --allow lossy"
        return Outcome(optimization, LEFT_OUT, parameters, message="changes results (class lossy)", next_step=step), ()
    if not optimization.preflight or parameters.get("unchecked") is True:
        return None, ()
    if request.preflight is None:
        step = f"apply-opt {optimization.name} --allow lossy --preflight DIR, where DIR is {optimization.preflight}"
        return Outcome(optimization, LEFT_OUT, parameters, message="has to be checked first", next_step=step), ()
    if not os.path.isdir(request.preflight):
        raise UsageError(f"--preflight {request.preflight} is not a folder", f"DIR is {optimization.preflight}")
    try:
        return None, catalog.codemod(optimization).preflight(request.preflight, parameters)  # type: ignore[attr-defined]
    except Refused as error:
        return Outcome(
            optimization, LEFT_OUT, parameters, message=error.message, next_step=error.next_step, error=error
        ), ()
