"""``apply-opt status``: what is applied here. The quick command: imports no LibCST, git, torch or rich."""

from __future__ import annotations

import argparse
import os
from typing import Any, Optional

from apply_opt.commands import APPLIED, EDITED, GONE, PARTLY, Result, add_checkout_arguments
from apply_opt.errors import Ambiguous, NotRecognised, Refused
from apply_opt.io import checkout, files
from apply_opt.io.checkout import Checkout

HELP = "what is applied here, by apply-opt or by hand, and whether it was edited since"
EPILOG = """states:
  applied                      as apply-opt left it
  applied, and edited since    its lines stand; others were edited
  partly applied               some of its lines are gone or edited
  applied by hand              with `patch -p1`, not by apply-opt (apply-opt adopt takes it over)
  taken out by hand            with `patch -R -p1` or git; the record goes with the next apply or revert
  not needed                   the checkout's author has done it
  not applied"""
BY_HAND, NOT_NEEDED, NOT_APPLIED, NO_SITE = "applied by hand", "not needed", "not applied", "no site"
STYLES = {
    APPLIED: "green",
    EDITED: "green",
    PARTLY: "red",
    GONE: "yellow",
    BY_HAND: "green",
    NOT_NEEDED: "cyan",
    NO_SITE: "dim",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_checkout_arguments(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Look; put right what an interrupted run left, if anything."""
    root = checkout.ledger_root(arguments.repo)
    place = None if root else _recognise(arguments, False)
    root = root or (place.root if place else None)
    found, recovered = _recorded(root) if root else ({}, False)
    if not found or any(what != APPLIED for what, _ in found.values()):
        place = place or _recognise(arguments, bool(found))
        for name, (what, note) in _by_structure(place).items() if place else ():
            if name not in found or (found[name][0] == GONE and what == BY_HAND):
                found[name] = (what, note)
    return _result(place, root, found, recovered)


def _recorded(root: str) -> tuple[dict[str, tuple[str, str]], bool]:
    """What the ledger says, held against the files; and whether an interrupted run had to be put right."""
    from apply_opt.commands import state
    from apply_opt.io import ledger

    recovered = False
    if ledger.interrupted(root):
        from apply_opt.io import transaction

        with transaction.locked(root) as recovered:
            pass
    record = ledger.load(root)
    now = state.contents(record)
    found = {}
    for entry in record.entries:
        values = " ".join(f"{key}={value}" for key, value in entry.parameters.items())
        found[entry.name] = (state.entry_state(record, entry, now), f"{entry.applied_at}  {values}".rstrip())
    return found, recovered


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
    digest = checkout.sha256(data)
    for revision in place.target.revisions:
        if digest == revision.sha256:
            names = {name for key in revision.after for name in key.split("+")}
            return dict.fromkeys(sorted(names), (NOT_APPLIED, ""))
        for key, value in revision.after.items():
            if digest == value:
                return dict.fromkeys(key.split("+"), (BY_HAND, "its patch, on " + revision.repository))
    from apply_opt.io import catalog

    units = catalog.load()
    return {
        name: _look(place, data, optimization)
        for name, optimization in units.optimizations.items()
        if optimization.target == place.target.name
    }


def _look(place: Checkout, data: bytes, optimization: Any) -> tuple[str, str]:
    from apply_opt.io import catalog
    from apply_opt.model.codemod import OURS, THEIRS, survey
    from apply_opt.model.parameters import resolve
    from apply_opt.model.source import Source

    defaults = resolve(optimization.parameters, {}, optimization.name)
    try:
        site = survey(catalog.codemod(optimization), Source(data, place.file), optimization.sites, defaults)[0]
    except Ambiguous as error:
        return (PARTLY if "partly" in error.message else NO_SITE), error.message
    except Refused as error:
        return NO_SITE, error.message
    except RecursionError as error:
        return NO_SITE, f"{place.file} is nested too deeply: {error}"
    where = f"{place.file}:{site.line}"
    if site.state == OURS:
        return BY_HAND, where
    return (NOT_NEEDED, f"{where} has {site.note}") if site.state == THEIRS else (NOT_APPLIED, "")


def _result(
    place: Optional[Checkout], root: Optional[str], found: dict[str, tuple[str, str]], recovered: bool
) -> Result:
    where = place.root if place else root or os.getcwd()
    pristine = all(s in (NOT_APPLIED, NOT_NEEDED, NO_SITE, GONE) for s, _ in found.values())
    lines = [("", f"{where}" + (f"  ({place.target.name}, {place.file})" if place else ""))]
    if recovered:
        lines.append(("yellow", "an interrupted run was put right"))
    lines.append(("green", "pristine: nothing of apply-opt is in it") if pristine else ("", ""))
    width = max((len(name) for name in found), default=0)
    for name, (what, note) in found.items():
        lines.append((STYLES.get(what, ""), f"{name:{width}}  {what:15}  {note}".rstrip()))
    if any(what == BY_HAND for what, _ in found.values()):
        lines.append(("dim", "take it over, so that it can be reverted: apply-opt adopt"))
    document = {
        "checkout": where,
        "target": place.target.name if place else None,
        "pristine": pristine,
        "recovered": recovered,
        "optimizations": {name: {"state": what, "note": note} for name, (what, note) in found.items()},
    }
    return Result([line for line in lines if line[1]], document)
