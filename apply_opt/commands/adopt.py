"""``apply-opt adopt``: take a tree that was patched with ``patch -p1`` into the ledger."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.commands import GONE, Result, add_checkout_arguments, state
from apply_opt.commands.planning import Plan, find_checkout, parse_settings
from apply_opt.commands.writing import record
from apply_opt.errors import ApplyOptError, Refused, UsageError
from apply_opt.io import catalog, files, git, ledger, transaction
from apply_opt.io.catalog import Catalog
from apply_opt.io.checkout import Checkout
from apply_opt.model import patch
from apply_opt.model.parameters import resolve
from apply_opt.model.plan import ALREADY, PLANNED, Outcome, plan_one
from apply_opt.model.unit import Optimization

HELP = "take over what was put in with `patch -p1`, so that it can be reverted"
EPILOG = """examples:
  apply-opt adopt                       one of the patches that come with apply-opt, or all that is new since git's last commit
  apply-opt adopt --patch quick.patch   one that you made with apply-opt export

A patch is only taken over where taking it out gives a file from which apply-opt itself makes the present one, byte for byte
(your own edits elsewhere in the file do not matter)."""


MAX_ORDERED = 5
"""How many optimizations are tried in every order."""


class Candidate(NamedTuple):
    """A patch that may be in the tree, and the optimizations (with their settings) that it is said to hold."""

    path: str
    data: bytes
    names: Sequence[str]
    settings: Sequence[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "--patch", metavar="FILE", help="the patch that was applied (default: those that come with apply-opt)"
    )
    add_checkout_arguments(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Adopt."""
    units = catalog.load()
    given = _read(arguments.patch) if arguments.patch else None
    place = find_checkout(units, (), arguments.repo, arguments.file)
    if not ledger.interrupted(place.root):
        _look(units, place, given)  # so that a refusal writes nothing at all, not even a lock file
    with transaction.locked(place.root):
        return _record(*_look(units, place, given))


def _look(units: Catalog, place: Checkout, given: Optional[Candidate]) -> tuple[Plan, list[str]]:
    """What leads from the file without the patches that are in it to the file as it is; and the patches."""
    applied = ledger.load(place.root)
    now = files.read(place.path()) or b""
    states = state.contents(applied)
    known = {e.name for e in applied.entries if state.entry_state(applied, e, states) != GONE}
    outcomes: list[Outcome] = []
    paths: list[str] = []
    for candidate in [given] if given else _shipped(units):
        if known.intersection(candidate.names):
            continue
        before = outcomes[0].before if outcomes else now
        taken = _take(units, place, candidate, before, bool(given)) or ()
        outcomes[:0] = taken
        known.update(outcome.name for outcome in taken)
        paths += [candidate.path] * bool(taken)
    if not outcomes and not given and not known:
        outcomes = list(_since_last_commit(units, place, now))
        paths = ["the last commit"] * bool(outcomes)
    if outcomes:
        return Plan(place, applied, outcomes, outcomes[0].before, now), paths
    if given and known.intersection(given.names):
        raise Refused(f"{' '.join(given.names)} is in the ledger already", "apply-opt status; apply-opt revert")
    raise Refused(
        f"{place.file} holds none of the patches that come with apply-opt (or its lines were edited)",
        "name the patch that was applied: apply-opt adopt --patch FILE",
    )


def _since_last_commit(units: Catalog, place: Checkout, now: bytes) -> Sequence[Outcome]:
    """What leads from the file in git's last commit to the present one, where optimizations as they come do, and nothing else.

    That is how a tree looks in which somebody has used a patch of their own (``apply-opt export``).
    """
    before = git.committed(place.root, place.file)
    ours = [o for o in units.optimizations.values() if o.target == place.target.name]
    there = [o.name for o in ours if _plan(o, now, place, {}).kind == ALREADY]
    for order in itertools.permutations(there) if before is not None and 0 < len(there) <= MAX_ORDERED else ():
        with contextlib.suppress(ApplyOptError):
            return _replay(units, place, Candidate("the patch", b"", order, ()), before or b"", now)
    return ()


def _plan(optimization: Optimization, data: bytes, place: Checkout, given: Mapping[str, str]) -> Outcome:
    parameters = resolve(optimization.parameters, given, optimization.name)
    return plan_one(optimization, catalog.codemod(optimization), data, place.file, parameters)


def _read(path: str) -> Candidate:
    data = files.read(path, pipe=True)
    if data is None:
        raise UsageError(f"there is no file {path}", "name the patch: --patch FILE")
    return _candidate(path, data)


def _candidate(path: str, data: bytes) -> Candidate:
    fields = patch.headers(data)
    try:
        settings = shlex.split(fields.get("X-Apply-Opt-Set", ""))
    except ValueError as error:
        raise patch.PatchError(f"{path}: X-Apply-Opt-Set cannot be read: {error}") from error
    return Candidate(path, data, fields.get("X-Apply-Opt", "").split(), settings)


def _shipped(units: Catalog) -> Iterator[Candidate]:
    """The patches that come with apply-opt, those with the most in them first."""
    folders = {os.path.dirname(u.folder) for u in units.optimizations.values()}
    folders |= {u.folder for u in units.optimizations.values()}
    paths = [os.path.join(f, n) for f in sorted(folders) for n in sorted(os.listdir(f)) if n.endswith(".patch")]
    found = [_candidate(path, files.read(path) or b"") for path in paths]
    return iter(sorted(found, key=lambda c: -len(c.names)))


def _take(
    units: Catalog, place: Checkout, candidate: Candidate, now: bytes, asked: bool
) -> Optional[Sequence[Outcome]]:
    """The outcomes that lead from the file without the patch to the file as it is; ``None`` where the patch is not in it."""
    try:
        parsed = patch.parse(candidate.data, candidate.path)
        if len(parsed) > 1 or not f"/{place.file}".endswith(f"/{parsed[0].path}"):
            names = ", ".join(file.path for file in parsed)
            raise Refused(f"{candidate.path} changes {names}, not {place.file}", "name the file: --file PATH")
        before = patch.apply(parsed[0], now, reverse=True)
        unknown = [name for name in candidate.names if name not in units.optimizations]
        if unknown or not candidate.names:
            raise Refused(
                f"{candidate.path} does not say which optimizations it holds (X-Apply-Opt)",
                "make it with: apply-opt export NAME",
            )
        return _replay(units, place, candidate, before, now)
    except ApplyOptError:
        if asked:
            raise
        return None


def _replay(units: Catalog, place: Checkout, candidate: Candidate, before: bytes, now: bytes) -> Sequence[Outcome]:
    given = parse_settings(candidate.settings)
    data, outcomes = before, []
    for name in candidate.names:
        own = {k.partition(".")[2]: v for k, v in given.items() if k.startswith(name + ".")}
        outcome = _plan(units.optimizations[name], data, place, own)
        if outcome.kind != PLANNED:
            step = f"take it out with: patch -R -p1 < {candidate.path}"
            raise Refused(f"without {candidate.path}, {name} would not land: {outcome.message}", step)
        data = outcome.after
        outcomes.append(outcome)
    if data != now:
        raise Refused(
            f"{place.file} is not what {' '.join(candidate.names)} makes of it: its own lines were edited, or another version wrote it",
            f"take it out with: patch -R -p1 < {candidate.path}",
        )
    return outcomes


def _record(plan: Plan, paths: Sequence[str]) -> Result:
    root = plan.checkout.root
    names = [outcome.name for outcome in plan.outcomes]
    new, objects = record(plan, by="adopt")
    transaction.commit(root, [], new, objects)
    lines = [("green", f"{name} is taken over") for name in names]
    lines.append(("dim", "take out: apply-opt revert " + " ".join(names)))
    return Result(lines, {"checkout": root, "adopted": names, "patches": [os.path.basename(p) for p in paths]})
