"""``apply-opt adopt``: take a tree that was patched with ``patch -p1`` into the ledger."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from apply_opt.commands import Result, add_checkout_arguments
from apply_opt.commands import apply as apply_command
from apply_opt.commands.planning import Plan, find_checkout, parse_settings
from apply_opt.errors import ApplyOptError, Refused, UsageError
from apply_opt.io import catalog, files, git, ledger, transaction
from apply_opt.io.catalog import Catalog
from apply_opt.io.checkout import Checkout, sha256
from apply_opt.model import patch, plan
from apply_opt.model.parameters import resolve
from apply_opt.model.plan import PLANNED, Outcome

HELP = "take over what was put in with `patch -p1`, so that it can be reverted"
EPILOG = """examples:
  apply-opt adopt                       one of the patches that come with apply-opt
  apply-opt adopt --patch quick.patch   one that you made with apply-opt export

A patch is only taken over where taking it out gives a file from which apply-opt itself makes the present one, byte for byte
(your own edits elsewhere in the file do not matter)."""


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
    with transaction.locked(place.root):
        record = ledger.load(place.root)
        if record.chain(place.file):
            raise Refused(
                f"{place.file} already has entries in the ledger", "apply-opt status; apply-opt revert --all first"
            )
        now = files.read(place.path()) or b""
        candidates = [given] if given else list(_shipped(units))
        for candidate in candidates:
            taken = _take(units, place, record, candidate, now, bool(given))
            if taken is not None:
                return _record(place, record, taken, candidate, now)
    raise Refused(
        f"none of the patches that come with apply-opt is in {place.file} as it was published",
        "name the patch that was applied: apply-opt adopt --patch FILE",
    )


def _read(path: str) -> Candidate:
    data = files.read(path)
    if data is None:
        raise UsageError(f"there is no file {path}")
    return _candidate(path, data)


def _candidate(path: str, data: bytes) -> Candidate:
    fields = patch.headers(data)
    return Candidate(path, data, fields.get("X-Apply-Opt", "").split(), fields.get("X-Apply-Opt-Set", "").split())


def _shipped(units: Catalog) -> Iterator[Candidate]:
    """The patches that come with apply-opt, those with the most in them first."""
    folders = {os.path.dirname(u.folder) for u in units.optimizations.values()}
    folders |= {u.folder for u in units.optimizations.values()}
    paths = [os.path.join(f, n) for f in sorted(folders) for n in sorted(os.listdir(f)) if n.endswith(".patch")]
    found = [_candidate(path, files.read(path) or b"") for path in paths]
    return iter(sorted(found, key=lambda c: -len(c.names)))


def _take(
    units: Catalog, place: Checkout, record: ledger.Ledger, candidate: Candidate, now: bytes, asked: bool
) -> Optional[Sequence[Outcome]]:
    """The outcomes that lead from the file without the patch to the file as it is; ``None`` where the patch is not in it."""
    try:
        parsed = {f.path: f for f in patch.parse(candidate.data, candidate.path)}
        if set(parsed) != {place.file}:
            raise Refused(f"{candidate.path} changes {', '.join(parsed)}, not {place.file}")
        before = patch.apply(parsed[place.file], now, reverse=True)
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
        optimization = units.optimizations[name]
        own = {k.partition(".")[2]: v for k, v in given.items() if k.startswith(name + ".")}
        parameters = resolve(optimization.parameters, own, name)
        outcome = plan.plan_one(optimization, catalog.codemod(optimization), data, place.file, parameters)
        if outcome.kind != PLANNED:
            raise Refused(f"without {candidate.path}, {name} would not land: {outcome.message}")
        data = outcome.after
        outcomes.append(outcome)
    if data != now:
        raise Refused(
            f"{place.file} is not what {' '.join(candidate.names)} makes of it: its own lines were edited, or another version wrote it",
            f"take it out with: patch -R -p1 < {candidate.path}",
        )
    return outcomes


def _record(
    place: Checkout, record: ledger.Ledger, outcomes: Sequence[Outcome], candidate: Candidate, now: bytes
) -> Result:
    head = git.head(place.root)
    entries, objects = [], []
    view = Plan(place, record, outcomes, outcomes[0].before, now)
    for outcome in outcomes:
        text = patch.make(outcome.before, outcome.after, place.file)
        objects += [outcome.before, outcome.after, text]
        file = ledger.FileRecord(place.file, sha256(outcome.before), sha256(outcome.after), sha256(text))
        entries.append(apply_command.make_entry(view, outcome, file, head, by="adopt"))
    transaction.commit(place.root, [], ledger.Ledger(place.root, (*record.entries, *entries)), objects)
    names = [o.name for o in outcomes]
    lines = [("green", f"{name} is taken over") for name in names]
    lines.append(("dim", "take out: apply-opt revert " + " ".join(names)))
    return Result(lines, {"checkout": place.root, "adopted": names, "patch": os.path.basename(candidate.path)})
