"""``apply-opt adopt``: take a tree that was patched with ``patch -p1`` into the ledger."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.commands import GONE, Result, add_checkout_arguments, state
from apply_opt.commands.planning import Plan, Texts, find_checkout, parse_settings
from apply_opt.commands.writing import record
from apply_opt.errors import ApplyOptError, Refused, UsageError
from apply_opt.io import catalog, files, git, ledger, transaction
from apply_opt.io.catalog import Catalog
from apply_opt.io.checkout import Checkout, inside
from apply_opt.io.parts import Parts
from apply_opt.model import patch
from apply_opt.model.parameters import resolve
from apply_opt.model.plan import ALREADY, PLANNED, Outcome, Planner, plan_one
from apply_opt.model.target import MAIN
from apply_opt.model.unit import Optimization

HELP = "take over what was put in with `patch -p1`, so that it can be reverted"
EPILOG = """examples:
  apply-opt adopt                       one of the patches that come with apply-opt, or all that is new since git's last commit
  apply-opt adopt --patch quick.patch   one that you made with apply-opt export

A patch is only taken over where taking it out gives a file from which apply-opt itself makes the present one, byte for byte
(your own edits elsewhere in the file do not matter)."""


NOT_AS_MADE = "not as apply-opt makes it of the last commit (lines edited, or other values than the defaults chosen)"
NAME_IT = "name the patch that was applied: apply-opt adopt --patch FILE"
MAX_ORDERED = 5
"""How many optimizations are tried in every order."""


class Candidate(NamedTuple):
    """A patch that may be in the tree, and the optimizations (with their settings) that it is said to hold."""

    path: str
    data: bytes
    names: Sequence[str]
    settings: Sequence[str]
    others: Sequence[str] = ()
    """What it holds besides, that is in the ledger already, in files of their own."""


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


class _Tree:
    """The files as they are (``now``), and as they would be without what was found in them so far (``before``)."""

    def __init__(self, units: Catalog, place: Checkout) -> None:
        self.units = units
        self.place = place
        self.parts = Parts(place)
        self.now: dict[str, bytes] = {}
        self.before: dict[str, bytes] = {}
        self.left: list[tuple[str, str]] = []
        """What is there, and in which file, but not as apply-opt makes it of the last commit."""
        self.committed: list[tuple[str, str]] = []
        """What the last commit has already, and in which file."""

    def file(self, name: str) -> str:
        """The file that an optimization changes, the main one if there is no such. Raises :class:`Refused` where it is not found."""
        optimization = self.units.optimizations.get(name)
        if optimization is not None and optimization.target != self.place.target.name:
            raise Refused(
                f"{name} is for {optimization.target}, and this is {self.place.target.name}", "apply-opt list"
            )
        path = self.parts.file(optimization.part if optimization else MAIN)
        if path not in self.now:
            self.now[path] = self.before[path] = files.read(inside(self.place.root, path)) or b""
        return path

    def texts(self) -> dict[str, Texts]:
        """The files that hold something, without and with it."""
        return {path: (data, self.now[path]) for path, data in self.before.items() if data != self.now[path]}


def _look(units: Catalog, place: Checkout, given: Optional[Candidate]) -> tuple[Plan, list[str], list[str]]:
    """What leads from the files without the patches that are in them to the files as they are; the patches; what is left."""
    applied = ledger.load(place.root)
    states = state.contents(applied)
    known = {e.name for e in applied.entries if state.entry_state(applied, e, states) != GONE}
    since = _Tree(units, place)
    new = [] if given or known else _since_last_commit(since)
    if new and not since.left:
        return Plan(place, applied, new, since.texts()), ["the last commit"], []
    tree = _Tree(units, place)
    outcomes, paths = _of_patches(tree, [given] if given else _shipped(units), known, bool(given))
    if new and not outcomes:
        tree, outcomes, paths = since, new, ["the last commit"]
    taken = {outcome.name for outcome in outcomes}
    left = [f"{name} ({path})" for name, path in since.left if name not in taken]
    if outcomes:
        return Plan(place, applied, outcomes, tree.texts()), paths, left
    there = [name for name in given.names if name in known] if given else []
    if there:
        raise Refused(
            f"{' '.join(there)} is in the ledger already", f"apply-opt status; apply-opt revert {' '.join(there)}"
        )
    if left:
        raise Refused(f"{', '.join(left)}: there, but {NOT_AS_MADE}", NAME_IT)
    if since.committed:
        text = ", ".join(f"{name} ({path})" for name, path in since.committed)
        raise Refused(f"{text}: git's last commit has it already, so there is nothing to go back to", NAME_IT)
    raise Refused(
        f"{place.file} holds none of the patches that come with apply-opt (or its lines were edited)", NAME_IT
    )


def _of_patches(
    tree: _Tree, candidates: Iterable[Candidate], known: Collection[str], asked: bool
) -> tuple[list[Outcome], list[str]]:
    """What leads from the files without those of the patches that are in them to the files as they are; and these patches."""
    outcomes: list[Outcome] = []
    paths: list[str] = []
    there = {*known}
    for candidate in candidates:
        if asked:
            candidate = _rest(tree, candidate, known)
        if there.intersection(candidate.names):
            continue
        taken = _take(tree, candidate, asked) or ()
        outcomes[:0] = taken
        there.update(outcome.name for outcome in taken)
        paths += [candidate.path] * bool(taken)
    return outcomes, paths


def _rest(tree: _Tree, candidate: Candidate, known: Collection[str]) -> Candidate:
    """What of the patch is not in the ledger, where that is in files of its own."""
    ours = [name for name in candidate.names if name not in known]
    others = [name for name in candidate.names if name in known]
    if not ours or {*map(tree.file, ours)} & {*map(tree.file, others)}:
        return candidate
    return candidate._replace(names=ours, others=others)


def _since_last_commit(tree: _Tree) -> list[Outcome]:
    """What leads from git's last commit to the files as they are, where optimizations as they come do, and nothing else.

    That is how a tree looks in which somebody has used a patch of their own (``apply-opt export``).
    """
    names: dict[str, list[str]] = {}
    for optimization in tree.units.optimizations.values():
        if optimization.target == tree.place.target.name:
            with contextlib.suppress(Refused):
                names.setdefault(tree.file(optimization.name), []).append(optimization.name)
    return [outcome for path, ours in names.items() for outcome in _of_last_commit(tree, path, ours)]


def _of_last_commit(tree: _Tree, path: str, names: Sequence[str]) -> Sequence[Outcome]:
    before = git.committed(tree.place.root, path)
    there = _already(tree, names, path, tree.now[path])
    committed = _already(tree, there, path, before) if before is not None else []
    tree.committed += [(name, path) for name in committed]
    there = [name for name in there if name not in committed]
    for order in _orders(tree.units, there) if before is not None else ():
        with contextlib.suppress(ApplyOptError):
            return _replay(tree, Candidate("the patch", b"", order, ()), {path: before or b""})
    tree.left += [(name, path) for name in there]
    return ()


def _already(tree: _Tree, names: Sequence[str], path: str, data: bytes) -> list[str]:
    """Which of ``names`` that version of a file has already."""
    planner, found = Planner(data, path), []
    for optimization in (tree.units.optimizations[name] for name in names):
        parameters = resolve(optimization.parameters, {}, optimization.name)
        outcome = planner.plan(optimization, catalog.codemod(optimization), parameters, take=False)
        found += [optimization.name] if outcome.kind == ALREADY else []
    return found


def _orders(units: Catalog, names: Sequence[str]) -> Iterator[Sequence[str]]:
    """The orders in which ``names`` may have been applied: as a bundle has them; every one, where they are few."""
    for bundle in units.bundles.values():
        if {*names} <= {*bundle.optimizations}:
            yield [name for name in bundle.optimizations if name in names]
    if 0 < len(names) <= MAX_ORDERED:
        yield from itertools.permutations(names)


def _plan(optimization: Optimization, data: bytes, path: str, given: Mapping[str, str]) -> Outcome:
    parameters = resolve(optimization.parameters, given, optimization.name)
    return plan_one(optimization, catalog.codemod(optimization), data, path, parameters)


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


def _take(tree: _Tree, candidate: Candidate, asked: bool) -> Optional[Sequence[Outcome]]:
    """The outcomes that lead from the files without the patch to the files as they are; ``None`` where it is not in them."""
    try:
        before = {}
        for path, file in _matched(tree, candidate, patch.parse(candidate.data, candidate.path)).items():
            before[path] = patch.apply(file, tree.before[path], reverse=True)
        unknown = [name for name in candidate.names if name not in tree.units.optimizations]
        if unknown or not candidate.names:
            raise Refused(
                f"{candidate.path} does not say which optimizations it holds (X-Apply-Opt)",
                "make it with: apply-opt export NAME",
            )
        return _replay(tree, candidate, before)
    except ApplyOptError:
        if asked:
            raise
        return None


def _matched(tree: _Tree, candidate: Candidate, parsed: Sequence[patch.FilePatch]) -> dict[str, patch.FilePatch]:
    """Which of the checkout's files each file of a patch is: their paths end with the one that the patch names."""
    paths = list(dict.fromkeys(tree.file(name) for name in candidate.names or [MAIN]))
    others = {tree.file(name) for name in candidate.others}
    matched: dict[str, patch.FilePatch] = {}
    for file in parsed:
        if any(other == file.path or other.endswith(f"/{file.path}") for other in others):
            continue
        found = [p for p in paths if p == file.path] or [p for p in paths if p.endswith(f"/{file.path}")]
        if len(found) != 1 or found[0] in matched:
            names = ", ".join(file.path for file in parsed)
            raise Refused(f"{candidate.path} changes {names}, not {', '.join(paths)}", "name the file: --file PATH")
        matched[found[0]] = file
    return matched


def _replay(tree: _Tree, candidate: Candidate, before: Mapping[str, bytes]) -> Sequence[Outcome]:
    """The outcomes that lead from ``before`` to the files as they are; from now on, the tree is without them."""
    given = parse_settings(candidate.settings)
    data, outcomes = {**tree.before, **before}, []
    for name in candidate.names:
        own = {k.partition(".")[2]: v for k, v in given.items() if k.startswith(name + ".")}
        path = tree.file(name)
        outcome = _plan(tree.units.optimizations[name], data[path], path, own)
        if outcome.kind != PLANNED:
            step = f"take it out with: patch -R -p1 < {candidate.path}"
            raise Refused(f"without {candidate.path}, {name} would not land: {outcome.message}", step)
        data[path] = outcome.after
        outcomes.append(outcome)
    for path, text in data.items():
        if text != tree.before[path]:
            raise Refused(
                f"{path} is not what {' '.join(candidate.names)} makes of it: its own lines were edited, or another version wrote it",
                f"take it out with: patch -R -p1 < {candidate.path}",
            )
    tree.before.update(before)
    return outcomes


def _record(plan: Plan, paths: Sequence[str], left: Sequence[str]) -> Result:
    root = plan.checkout.root
    names = [outcome.name for outcome in plan.outcomes]
    new, objects = record(plan, by="adopt")
    transaction.commit(root, [], new, objects)
    lines = [("green", f"{name} is taken over") for name in names]
    lines.append(("dim", "take out: apply-opt revert " + " ".join(names)))
    lines += [("red", f"not taken over: {text}: {NOT_AS_MADE}") for text in left]
    lines += [("", NAME_IT)] if left else []
    patches = [os.path.basename(path) for path in paths]
    return Result(lines, {"checkout": root, "adopted": names, "patches": patches, "left": list(left)})
