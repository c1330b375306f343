"""What ``apply``, ``diff``, ``export`` and ``list`` share: from names to a plan for this checkout."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional, cast

from apply_opt.commands import GONE, PARTLY, state
from apply_opt.errors import Conflict, LedgerError, NoSite, NotRecognised, Refused, UsageError
from apply_opt.io import catalog, checkout, files, ledger
from apply_opt.io.catalog import Catalog, Unit
from apply_opt.io.checkout import Checkout, inside
from apply_opt.io.parts import Parts
from apply_opt.model import plan
from apply_opt.model.codemod import CheckedCodemod, Site
from apply_opt.model.digest import sha256
from apply_opt.model.parameters import Value, resolve
from apply_opt.model.plan import ALREADY, LEFT_OUT, NOT_NEEDED, PLANNED, REFUSED, Outcome
from apply_opt.model.target import Revision
from apply_opt.model.unit import Optimization

Texts = tuple[bytes, bytes]
"""A file before and after."""


class Request(NamedTuple):
    """What was asked for, apart from the names. ``given`` is the ``--set`` values; ``preflight`` a folder.

    ``shown`` are optimizations that are only to be shown: neither their class nor a preflight holds them back. With
    ``as_it_is``, what is applied already counts as what was asked for, whatever its values. ``command`` is the one that
    was typed, empty for ``apply``.
    """

    given: Mapping[str, str] = {}
    allow: Sequence[str] = ()
    preflight: Optional[str] = None
    shown: Sequence[str] = ()
    as_it_is: bool = False
    command: str = ""


class Plan(NamedTuple):
    """The outcomes in order, and each file before and after all of them: the main file, and those that were asked for."""

    checkout: Checkout
    ledger: ledger.Ledger
    outcomes: Sequence[Outcome]
    files: Mapping[str, Texts]

    def changed(self) -> dict[str, Texts]:
        """The files that would be other ones."""
        return {path: texts for path, texts in self.files.items() if texts[0] != texts[1]}

    def of_kind(self, kind: str) -> list[Outcome]:
        """The outcomes of one kind."""
        return [outcome for outcome in self.outcomes if outcome.kind == kind]


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what to plan."""
    parser.set_defaults(command=parser.prog.partition(" ")[2])
    parser.add_argument("names", metavar="NAME", nargs="+", help="an optimization or a bundle (apply-opt list)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a parameter; may be repeated")
    parser.add_argument(
        "--allow",
        metavar="CLASS",
        choices=("lossy",),
        action="append",
        default=[],
        help="lossy: accept that results change",
    )
    parser.add_argument("--preflight", metavar="DIR", help="a folder to check first, for optimizations that need one")


def locate(arguments: argparse.Namespace) -> tuple[Catalog, Checkout]:
    """The units that the arguments may mean, and the checkout."""
    units = catalog.load_for(arguments.names)
    wanted = [units.unit(name) for name in arguments.names]
    return units, find_checkout(units, wanted, arguments.repo, arguments.file)


def plan_for(
    arguments: argparse.Namespace,
    units: Catalog,
    place: Checkout,
    shown: Sequence[str] = (),
    as_it_is: bool = False,
) -> Plan:
    """The plan that the arguments ask for; ``shown`` and ``as_it_is`` are :class:`Request`'s."""
    command = "" if arguments.command == "apply" else arguments.command
    request = Request(parse_settings(arguments.set), arguments.allow, arguments.preflight, shown, as_it_is, command)
    return make_plan(units, place, members(units, arguments.names), request)


def taken_out(plan: Plan, names: Sequence[str]) -> dict[str, Texts]:
    """The files that hold ``names`` by the ledger, without and with them; the main file first."""
    now = state.contents(plan.ledger)
    rest = state.without(plan.ledger, names, now)
    paths = sorted(rest.files, key=lambda path: path != plan.checkout.file)
    return {path: (rest.files[path], now[path] or b"") for path in paths if rest.files[path] != now[path]}


def steps_out(plan: Plan, names: Sequence[str]) -> list[tuple[str, str, Texts]]:
    """What each of ``names`` does, from the ledger: its name, a file, and that without and with it.

    The last to be applied is taken out first, and the next from what is left: one may stand on lines of another.
    """
    now = state.contents(plan.ledger)
    order = [entry.name for entry in plan.ledger.entries if entry.name in names]
    steps, later = [], {path: data or b"" for path, data in now.items()}
    for number in reversed(range(len(order))):
        earlier = {**later, **state.without(plan.ledger, order[number:], now).files}
        steps += [(order[number], path, (earlier[path], later[path])) for path in later if earlier[path] != later[path]]
        later = earlier
    return steps[::-1]


def refuse_unless_landed(plan: Plan, names: Sequence[str], strict: bool = False) -> None:
    """Raise where something asked for by its own name cannot be had, or nothing of a bundle, or (strict) not all of it."""
    failed = [o for o in plan.outcomes if o.kind in (REFUSED, LEFT_OUT)]
    landed = [o for o in plan.outcomes if o.kind in (PLANNED, ALREADY, NOT_NEEDED)]
    by_name = [o for o in failed if o.name in names]
    failed = by_name or failed
    if failed and (by_name or strict or not landed):
        text = "; ".join(f"{o.name}: {o.message}" for o in failed)
        error = Refused(text, "\n".join(dict.fromkeys(o.next_step for o in failed if o.next_step)))
        causes = {type(o.error).kind for o in failed if o.error is not None}
        if len(causes) == 1:
            (error.kind,) = causes
        raise error


def parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """``--set key=value`` (or ``optimization.key=value``), each once."""
    return parse_pairs(settings, "--set", "intra_op=4")


def parse_pairs(texts: Sequence[str], option: str, example: str) -> dict[str, str]:
    """``key=value`` words of an option, each key once."""
    given: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} {text}: a setting is key=value", f"for example: {option} {example}")
        if key in given:
            raise UsageError(f"{option} {key} is given twice", f"give it once: {option} {text}")
        given[key] = value
    return given


def members(units: Catalog, names: Sequence[str]) -> list[Optimization]:
    """The optimizations that ``names`` stand for, each once, in order."""
    found = [member for name in names for member in units.members(units.unit(name))]
    return list({member.name: member for member in found}.values())


def find_checkout(units: Catalog, wanted: Sequence[Unit], repo: str, named: Sequence[str]) -> Checkout:
    """The checkout for ``wanted`` (for anything known, where that is empty)."""
    names = {unit.target for unit in wanted} or set(units.targets)
    if len(names) > 1 and wanted:
        raise UsageError(f"these are for different targets: {', '.join(sorted(names))}", "apply them one by one")
    return checkout.find(repo, [units.targets[name] for name in sorted(names)], named)


def make_plan(
    units: Catalog,
    place: Checkout,
    optimizations: Sequence[Optimization],
    request: Request,
    parts: Optional[Parts] = None,
) -> Plan:
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
    now = state.contents(record)
    states = {e.name: state.entry_state(record, e, now) for e in record.entries}
    here = [e for e in record.entries if states[e.name] != GONE and _is_part_of(units, place, e)]
    view = _View(record, states, [e.name for e in here], request, parameters, units.optimizations)
    tree = _Tree(parts or Parts(place), {place.file: before})
    try:
        outcomes = _plan_all(view, tree, optimizations)
    except (Refused, RecursionError):  # one of them is at fault: which one, and what the others make, shows one by one
        tree = _Tree(tree.parts, tree.before, careful=True)
        outcomes = _plan_all(view, tree, optimizations)
    for path, planner in tree.planners.items():
        stack = [(e.name, e.parameters) for e in here if any(f.path == path for f in e.files)]
        stack += [(o.name, o.parameters) for o in outcomes if o.kind == PLANNED and o.file == path]
        if all(plan.is_default(units.optimizations[n], p) for n, p in stack if n in units.optimizations):
            revision = _revision(place, record, path, planner.before)
            plan.check_known(revision, [name for name, _ in stack], planner.data)
    return Plan(place, record, outcomes, tree.texts())


def _is_part_of(units: Catalog, place: Checkout, entry: ledger.Entry) -> bool:
    """Whether an entry changed the main file, or another part of the target than that."""
    unit = units.optimizations.get(entry.name)
    return any(file.path == place.file for file in entry.files) or bool(unit and unit.part)


def _revision(place: Checkout, record: ledger.Ledger, path: str, now: bytes) -> Optional[Revision]:
    """The upstream revision that the file is, apart from what the ledger says; ``None`` where it was edited."""
    chain = record.chain(path)
    if not chain:
        return plan.known(place.target.revisions, now)
    pristine = ledger.content(place.root, chain[0].before)
    return plan.known(place.target.revisions, pristine) if sha256(now) == chain[-1].after else None


class _Tree:
    """A planner for each file that an optimization asks for, from when the first one does."""

    def __init__(self, parts: Parts, before: Mapping[str, bytes], careful: bool = False) -> None:
        self.parts = parts
        self.before = dict(before)
        self.careful = careful
        self.planners: dict[str, plan.Planner] = {}

    def planner(self, optimization: Optimization) -> plan.Planner:
        """The planner for its file. Raises :class:`Refused` where that is not found."""
        path = self.parts.file(optimization.part)
        if path not in self.planners:
            if path not in self.before:
                self.before[path] = files.read(inside(self.parts.place.root, path)) or b""
            self.planners[path] = plan.Planner(self.before[path], path, self.careful)
        return self.planners[path]

    def texts(self) -> dict[str, Texts]:
        """Each file before and after what was planned."""
        after = {path: planner.data for path, planner in self.planners.items()}
        return {path: (data, after.get(path, data)) for path, data in self.before.items()}


class _View(NamedTuple):
    """What the decision about one optimization rests on, besides the file itself."""

    record: ledger.Ledger
    states: Mapping[str, str]
    applied: Sequence[str]
    request: Request
    parameters: Mapping[str, Mapping[str, Value]]
    known: Mapping[str, Optimization]

    def conflicts(self, name: str) -> Sequence[str]:
        """What an optimization that is there does not go together with."""
        return self.known[name].conflicts if name in self.known else ()


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
            resolve(everything, {key: given[key]}, " or ".join(o.name for o in optimizations))
    return result


def _plan_all(view: _View, tree: _Tree, optimizations: Sequence[Optimization]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for optimization in optimizations:
        names = {*view.applied, *(o.name for o in outcomes if o.kind in (PLANNED, ALREADY, NOT_NEEDED))}
        outcomes.append(_plan_one(view, tree, names, optimization))
    settled: dict[str, Sequence[Site]] = {}
    for planner in tree.planners.values():
        planner.finish()
        settled |= planner.settled
    return [o._replace(sites=settled.get(o.name, o.sites)) for o in outcomes]


def _plan_one(view: _View, tree: _Tree, names: set[str], optimization: Optimization) -> Outcome:
    """One optimization on top of ``names``: what the ledger says of it, what stands in its way, what its codemod says."""
    parameters = view.parameters[optimization.name]
    entry = view.record.entry(optimization.name)
    known = _recorded(entry, view.states[entry.name], optimization, parameters, view.request) if entry else None
    if known is not None:
        return known
    blocked = _blocked(view, tree, names, optimization, parameters)
    held_back, notes = _held_back(optimization, parameters, view.request)
    if held_back and optimization.name in view.request.shown:
        notes, held_back = (f"to apply it: {held_back.next_step}",), None
    try:
        planner = tree.planner(optimization)
    except Refused as error:
        return plan.refused(optimization, parameters, error)
    outcome = planner.plan(optimization, catalog.codemod(optimization), parameters, take=not (blocked or held_back))
    has_site = outcome.kind == PLANNED or (outcome.kind == REFUSED and not isinstance(outcome.error, NoSite))
    if blocked and has_site:
        return blocked
    if outcome.kind != PLANNED:
        missing = sorted(set(optimization.requires) - names)
        if missing and isinstance(outcome.error, NoSite):  # it is put on top of what these make
            return outcome._replace(next_step=f"together: apply-opt {' '.join([*missing, optimization.name])}")
        return outcome
    return held_back._replace(file=outcome.file) if held_back else outcome._replace(notes=notes)


def _blocked(
    view: _View, tree: _Tree, names: set[str], optimization: Optimization, parameters: Mapping[str, Value]
) -> Optional[Outcome]:
    """Why an optimization that has a site is not applied: what is in its way, or what it needs."""
    for other in sorted(n for n in names if n in optimization.conflicts or optimization.name in view.conflicts(n)):
        message = f"does not go together with {other}"
        return _refusal(optimization, parameters, message, f"apply-opt revert {other}")
    for other in sorted(set(optimization.requires) - names):
        if not _is_there(tree, view.known[other]):
            return _refusal(optimization, parameters, f"needs {other}", f"apply-opt {other}")
    return None


def _is_there(tree: _Tree, optimization: Optimization) -> bool:
    """Whether an optimization is in the checkout without being in the ledger: put in by hand, or by its author."""
    defaults = resolve(optimization.parameters, {}, optimization.name)
    try:
        planner = tree.planner(optimization)
    except Refused:
        return False
    return planner.plan(optimization, catalog.codemod(optimization), defaults, take=False).kind in (ALREADY, NOT_NEEDED)


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
        message = "is applied, and its lines have been edited since"
        step = f"undo those edits, or take it out with what is around it: apply-opt revert {entry.name}"
        return _refusal(optimization, parameters, message, f"{step} (shows the lines)")
    asked = {key.rpartition(".")[2] for key in request.given}
    same = all(entry.parameters.get(key) == value for key, value in parameters.items() if key in asked or not asked)
    if same or (request.as_it_is and not asked):
        values = parameters if asked else {**parameters, **entry.parameters}
        message = f"applied at {entry.applied_at}"
        return Outcome(optimization, ALREADY, values, message=message, file=entry.files[0].path)
    return _refusal(
        optimization,
        parameters,
        f"is applied with other values: {entry.settings()}",
        f"apply-opt revert {entry.name}, then apply it again",
    )


def _refusal(optimization: Optimization, parameters: Mapping[str, Value], message: str, next_step: str) -> Outcome:
    error = Conflict(message, next_step)
    return Outcome(optimization, REFUSED, parameters, message=message, next_step=next_step, error=error)


def _held_back(
    optimization: Optimization, parameters: Mapping[str, Value], request: Request
) -> tuple[Optional[Outcome], Sequence[str]]:
    """Why an optimization that would land is not applied: its class, or what has to be looked at first; and what was found."""
    is_lossy = optimization.safety_for(parameters) == "lossy"
    value = optimization.special_value(parameters)
    typed = " ".join(filter(None, ("apply-opt", request.command, optimization.name)))
    step = typed + " --allow lossy" * is_lossy + f" --set {value}" * bool(value)
    if optimization.preflight:
        step += f" {optimization.preflight}\n{optimization.preflight_help}"
    if is_lossy and "lossy" not in request.allow:
        return Outcome(optimization, LEFT_OUT, parameters, message="changes results (class lossy)", next_step=step), ()
    if not optimization.preflight or parameters.get("unchecked") is True:
        return None, ()
    if request.preflight is None:
        return Outcome(optimization, LEFT_OUT, parameters, message="has to be checked first", next_step=step), ()
    if not os.path.isdir(request.preflight):
        raise UsageError(f"--preflight {request.preflight} is not a folder", optimization.preflight_help)
    try:
        codemod = cast(CheckedCodemod, catalog.codemod(optimization))
        return None, codemod.preflight(request.preflight, parameters)
    except Refused as error:
        return Outcome(
            optimization, LEFT_OUT, parameters, message=error.message, next_step=error.next_step, error=error
        ), ()
