"""``apply-opt status``: what is applied here. The quick command: imports no LibCST, git, torch or rich."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional

from apply_opt.commands import APPLIED, EDITED, GONE, PARTLY, Result, add_checkout_arguments
from apply_opt.errors import Ambiguous, ApplyOptError, NoSite, NotRecognised, OtherValues, PartlyApplied, Refused
from apply_opt.io import checkout, files
from apply_opt.io.checkout import STATE_FOLDER, Checkout, inside
from apply_opt.model.digest import sha256

if TYPE_CHECKING:
    from apply_opt.model.source import Source
    from apply_opt.model.target import Revision
    from apply_opt.model.unit import Optimization

HELP = "what is applied here, by apply-opt or by hand, and whether it was edited since"
EPILOG = """states:
  applied                      as apply-opt left it
  applied, and edited since    its lines stand; others were edited
  partly applied               some of its lines are gone or edited
  applied by hand              with `patch -p1`, not by apply-opt (apply-opt adopt takes it over)
  taken out by hand            with `patch -R -p1` or git; the record goes with the next apply or revert
  not needed                   the checkout's author has done it
  no site                      the code that it changes is not there
  cannot be told               the code that it changes is there, in a form in which it could be anything
  not applied"""
BY_HAND, NOT_NEEDED, NOT_APPLIED = "applied by hand", "not needed", "not applied"
NO_SITE, UNCLEAR = "no site", "cannot be told"
STYLES = {
    APPLIED: "green",
    EDITED: "green",
    PARTLY: "red",
    GONE: "yellow",
    BY_HAND: "green",
    NOT_NEEDED: "cyan",
    NO_SITE: "dim",
    UNCLEAR: "yellow",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_checkout_arguments(parser)


class Found(NamedTuple):
    """What the ledger says, held against the files: a state and a note for each entry."""

    originals: Sequence[str]
    """The hashes of the files as they were before the first entry."""
    states: dict[str, tuple[str, str]]
    files: Sequence[str] = ()
    target: Optional[str] = None
    recovered: bool = False
    lost: int = 0
    """How many of the contents that a revert needs are not there any more."""


def run(arguments: argparse.Namespace) -> Result:
    """Look; put right what an interrupted run left, if anything."""
    root = checkout.ledger_root(arguments.repo)
    place = None if root else _recognise(arguments, False)
    root = root or (place.root if place else None)
    found = _recorded(root) if root else Found((), {})
    by_files = _known(root, found) if root else None
    if by_files is None:
        place = place or _recognise(arguments, bool(found.states))
        by_files = _by_files(place) if place else {}
    for name, (what, note) in by_files.items():
        if name not in found.states or (found.states[name][0] == GONE and what == BY_HAND):
            found.states[name] = (what, note)
    if place is not None:
        found = found._replace(files=found.files or [place.file], target=place.target.name)
    return _result(root or os.path.realpath(arguments.repo), found)


def _recorded(root: str) -> Found:
    if not os.path.isdir(os.path.join(root, STATE_FOLDER)):
        return Found((), {})
    from apply_opt.commands import state
    from apply_opt.io import ledger

    recovered = False
    if ledger.interrupted(root):
        from apply_opt.io import transaction

        with transaction.locked(root) as recovered:
            pass
    record = ledger.load(root)
    now = state.contents(record)
    states = {}
    for entry in record.entries:
        states[entry.name] = (state.entry_state(record, entry, now), f"{entry.applied_at}  {entry.settings()}".rstrip())
    lost = sum(not os.path.isfile(ledger.folder(root, "objects", name)) for name in record.objects())
    target = record.entries[0].target if record.entries else None
    originals = [record.chain(path)[0].before for path in record.paths()]
    return Found(originals, states, record.paths(), target, recovered, lost)


def _known(root: str, found: Found) -> Optional[dict[str, tuple[str, str]]]:
    """What the files say, where ledger and hashes tell all: they were known upstream, and what was applied is as it was left."""
    if not found.originals or any(what != APPLIED for what, _ in found.states.values()):
        return None
    from apply_opt.io import targets

    revisions = targets.known_revisions(targets.data_root(), found.originals[0])
    recorded = [revision for revision in revisions if revision.sha256 in found.originals]
    if {revision.sha256 for revision in recorded} != set(found.originals):
        return None
    states = {name: (NOT_APPLIED, "") for revision in recorded for name in revision.names()}
    for path in sorted({revision.path for revision in revisions} - {revision.path for revision in recorded}):
        with contextlib.suppress(Refused):
            more = _by_hash([r for r in revisions if r.path == path], checkout.read(root, path) or b"")
            if more is not None:
                states |= more
                continue
        return None
    return states


def _recognise(arguments: argparse.Namespace, has_ledger: bool) -> Optional[Checkout]:
    from apply_opt.io import targets

    known = targets.load_targets(targets.data_root())
    try:
        return checkout.find(arguments.repo, known.values(), arguments.file)
    except (NotRecognised, Ambiguous):
        if has_ledger:
            return None
        from apply_opt.io import catalog

        packs = {k: v for k, v in catalog.load().targets.items() if k not in known}
        if packs:
            return checkout.find(arguments.repo, packs.values(), arguments.file)
        raise


def _by_files(place: Checkout) -> dict[str, tuple[str, str]]:
    """What the files say by themselves. Parts are not looked for through the whole tree: that is for quick commands too long."""
    from apply_opt.io import parts
    from apply_opt.model.target import MAIN

    found = _by_file(place, MAIN, place.file)
    for part in place.target.parts.values():
        try:
            path = parts.near(place, part)
            absent = NO_SITE, f"there is no {' or '.join(part.files)} (apply-opt list looks for it elsewhere)"
        except ApplyOptError as error:
            path, absent = None, (UNCLEAR, error.message)
        found |= _by_file(place, part.name, path) if path else {o.name: absent for o in _ours(place, part.name)}
    return found


def _by_file(place: Checkout, part: str, path: str) -> dict[str, tuple[str, str]]:
    """What a file says: by its hash where it is known, else by its structure."""
    data = files.read(inside(place.root, path)) or b""
    known = _by_hash(place.target.revisions, data)
    if known is not None:
        return known
    from apply_opt.model.source import Source

    ours = _ours(place, part)
    try:
        source = Source(data, path)
    except Refused as error:
        return {optimization.name: (UNCLEAR, error.message) for optimization in ours}
    return {optimization.name: _look(source, optimization) for optimization in ours}


def _by_hash(revisions: Sequence[Revision], data: bytes) -> Optional[dict[str, tuple[str, str]]]:
    digest = sha256(data)
    for revision in revisions:
        names = revision.holding(digest)
        if names is not None:
            there = (BY_HAND, f"as on {revision.repository}")
            return {name: there if name in names else (NOT_APPLIED, "") for name in revision.names()}
    return None


def _ours(place: Checkout, part: str) -> list[Optimization]:
    from apply_opt.io import catalog

    return [o for o in catalog.load().optimizations.values() if o.target == place.target.name and o.part == part]


def _look(source: Source, optimization: Optimization) -> tuple[str, str]:
    from apply_opt.io import catalog
    from apply_opt.model.codemod import OURS, THEIRS, survey
    from apply_opt.model.parameters import resolve

    defaults = resolve(optimization.parameters, {}, optimization.name)
    try:
        site = survey(catalog.codemod(optimization), source, optimization.sites, defaults)[0]
    except NoSite as error:
        return NO_SITE, error.message
    except Refused as error:
        return {PartlyApplied: PARTLY, OtherValues: BY_HAND}.get(type(error), UNCLEAR), error.message
    except RecursionError as error:
        return UNCLEAR, f"{source.name} is nested too deeply: {error}"
    where = f"{source.name}:{site.line}"
    if site.state == OURS:
        return BY_HAND, where
    return (NOT_NEEDED, f"{where} has {site.note}") if site.state == THEIRS else (NOT_APPLIED, "")


def _result(root: str, found: Found) -> Result:
    pristine = all(s in (NOT_APPLIED, NOT_NEEDED, NO_SITE, GONE) for s, _ in found.states.values())
    about = ", ".join(filter(None, [found.target, *found.files]))
    lines = [("", root + (f"  ({about})" if about else ""))]
    if found.recovered:
        lines.append(("yellow", "an interrupted run was put right"))
    if found.lost:
        text = f"{found.lost} of the contents in {STATE_FOLDER}/objects are lost: put the files back with "
        lines.append(("red", text + "apply-opt revert --from-backup"))
    if pristine:
        was = any(state == GONE for state, _ in found.states.values())
        text = (
            "what apply-opt had put in was taken out" if was else "nothing of apply-opt is recorded or recognised here"
        )
        lines.append(("green", f"pristine: {text}"))
    width = max((len(name) for name in found.states), default=0)
    for name, (what, note) in found.states.items():
        lines.append((STYLES.get(what, ""), f"{name:{width}}  {what:15}  {note}".rstrip()))
    if any(what == BY_HAND for what, _ in found.states.values()):
        step = "apply-opt adopt (with --patch FILE for a patch of your own)"
        lines.append(("dim", f"take it over, so that it can be reverted: {step}"))
    document = {
        "checkout": root,
        "target": found.target,
        "files": list(found.files),
        "pristine": pristine,
        "recovered": found.recovered,
        "lost_objects": found.lost,
        "optimizations": {name: {"state": what, "note": note} for name, (what, note) in found.states.items()},
    }
    return Result(lines, document)
