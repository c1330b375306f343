"""``apply-opt status``: what is applied here. The quick command: imports no LibCST, git, torch or rich."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional

from apply_opt.commands import APPLIED, EDITED, GONE, PARTLY, Result, add_checkout_arguments
from apply_opt.errors import Ambiguous, NoSite, NotRecognised, OtherValues, PartlyApplied, Refused
from apply_opt.io import checkout, files
from apply_opt.io.checkout import STATE_FOLDER, Checkout
from apply_opt.model.digest import sha256

if TYPE_CHECKING:
    from apply_opt.model.source import Source
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
    names = _known(found)
    found.states.update((name, (NOT_APPLIED, "")) for name in sorted(names) if name not in found.states)
    if not names:
        place = place or _recognise(arguments, bool(found.states))
        for name, (what, note) in _by_structure(place).items() if place else ():
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


def _known(found: Found) -> set[str]:
    """What could be applied, where the ledger tells all that is: its changes, as they were left, to a file known upstream."""
    if len(found.originals) != 1 or any(what != APPLIED for what, _ in found.states.values()):
        return set()
    from apply_opt.io import targets

    return targets.known_names(targets.data_root(), found.originals[0])


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


def _by_structure(place: Checkout) -> dict[str, tuple[str, str]]:
    """What the files say by themselves: by their hash where it is known, else by their structure."""
    data = files.read(place.path()) or b""
    digest = sha256(data)
    for revision in place.target.revisions:
        states = {revision.sha256: (), **{value: key.split("+") for key, value in revision.after.items()}}
        if digest in states:
            names = {name for key in revision.after for name in key.split("+")}
            there = (BY_HAND, f"as on {revision.repository}")
            return {name: there if name in states[digest] else (NOT_APPLIED, "") for name in sorted(names)}
    from apply_opt.io import catalog
    from apply_opt.model.source import Source

    ours = [o for o in catalog.load().optimizations.values() if o.target == place.target.name]
    try:
        source = Source(data, place.file)
    except Refused as error:
        return {optimization.name: (UNCLEAR, error.message) for optimization in ours}
    return {optimization.name: _look(source, optimization) for optimization in ours}


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
