"""``apply-opt list``: the optimizations for this checkout's target, and what it makes of them; or all that there are."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Optional

from apply_opt.commands import Result, add_checkout_arguments
from apply_opt.commands.planning import Request, find_checkout, make_plan
from apply_opt.commands.words import language, title
from apply_opt.errors import ApplyOptError, NotRecognised
from apply_opt.io import catalog
from apply_opt.io.checkout import Checkout
from apply_opt.io.parts import Parts
from apply_opt.model.plan import ALREADY, LEFT_OUT, NOT_NEEDED, PLANNED
from apply_opt.model.unit import Bundle, Optimization

HELP = "the optimizations for this checkout's target, and what it makes of them (--all: for every target)"
EPILOG = """examples:
  apply-opt list
  apply-opt list --all
  apply-opt list --repo ~/Step-Audio-EditX --json"""
LANDS = ("applicable", "applied", "not needed")
ORDER = (*LANDS, "refused", "unknown", "no site")
STATES = {PLANNED: "applicable", ALREADY: "applied", NOT_NEEDED: "not needed", LEFT_OUT: "applicable"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--all", action="store_true", help="also those for other targets (with --json they always are)")
    add_checkout_arguments(parser)


def run(arguments: argparse.Namespace) -> Result:
    """List; in a folder that is no checkout, without the states."""
    units = catalog.load()
    place: Optional[Checkout] = None
    reason = ""
    try:
        place = find_checkout(units, (), arguments.repo, arguments.file)
    except NotRecognised as error:
        if arguments.repo != "." or arguments.file:
            raise
        reason = error.message
    parts = Parts(place) if place else None
    rows = [_row(units, parts, optimization) for optimization in units.optimizations.values()]
    states = {str(row["name"]): str(row["state"] or "") for row in rows}
    bundles: list[dict[str, object]] = [_bundle_row(bundle, states) for bundle in units.bundles.values()]
    lines = [("", f"{place.root}  ({place.target.name}, {place.file})") if place else ("yellow", reason)]
    everything = {"optimizations": rows, "bundles": bundles}
    if place and not arguments.all:
        rows, bundles = ([row for row in each if row["target"] == place.target.name] for each in (rows, bundles))
    others = sum(map(len, everything.values())) - len(rows) - len(bundles)
    width = max((len(str(row["name"])) for row in [*rows, *bundles]), default=0) + 2
    for row in rows:
        state = str(row["state"] or "")
        style = {"applied": "green", "applicable": "bold", "no site": "dim", "refused": "red"}.get(state, "")
        lines.append((style, f"{row['name']:{width}}{row['class']:15}{state:13}{row['title']}"))
        if row["note"]:
            lines += [("dim", f"{'':{width}}{text}") for text in str(row["note"]).splitlines()]
    lines.append(("", "bundles:" if language() == "en" else "组合："))
    for bundle in bundles:
        lines += [("bold", f"{bundle['name']:{width}}{'':15}{bundle['state'] or '':13}{bundle['title']}")]
        lines += [("dim", f"{'':{width}}{bundle['note']}")] if bundle["note"] else []
    if others:
        text = "{} more for other targets" if language() == "en" else "另有 {} 项用于其他目标"
        lines.append(("dim", f"{text.format(others)}: apply-opt list --all"))
    more = ("show NAME says more", "diff NAME shows the change")
    more = more if language() == "en" else ("show NAME 查看详情", "diff NAME 查看改动")
    lines.append(("dim", f"apply-opt {more[0]}; apply-opt {more[1]}"))
    return Result(lines, {"checkout": place.root if place else None, "reason": reason, **everything})


def _bundle_row(bundle: Bundle, states: Mapping[str, str]) -> dict[str, object]:
    """A bundle, and what becomes of it: applicable as long as something of it is."""
    own = {name: states[name] for name in bundle.optimizations}
    state = next((state for state in ORDER if state in own.values()), "")
    without = [f"{name}: {other}" for name, other in own.items() if state in LANDS and other not in ("", *LANDS)]
    return {
        "name": bundle.name,
        "target": bundle.target,
        "title": title(bundle),
        "optimizations": list(bundle.optimizations),
        "state": state or None,
        "note": "without " + ", ".join(without) if without else "",
    }


def _row(units: catalog.Catalog, parts: Optional[Parts], optimization: Optimization) -> dict[str, object]:
    row: dict[str, object] = {
        "name": optimization.name,
        "target": optimization.target,
        "class": optimization.safety,
        "title": title(optimization),
        "file": None,
        "state": None,
        "note": "",
    }
    if parts is None or optimization.target != parts.place.target.name:
        return row
    try:
        needed = [units.optimizations[name] for name in units.with_required([optimization.name])]
        *others, outcome = make_plan(units, parts.place, needed, Request(), parts).outcomes
    except ApplyOptError as error:
        return {**row, "state": "unknown", "note": error.message}
    missing = [other.name for other in others if other.kind == PLANNED]
    apart = [
        o.name
        for o in units.optimizations.values()
        if o.name in optimization.conflicts or optimization.name in o.conflicts
    ]
    beside = [f"together with {', '.join(missing)}"] if missing else []
    beside += [f"not together with {', '.join(apart)}"] if apart else []
    text = {LEFT_OUT: "\n".join([outcome.next_step, *beside]), PLANNED: "\n".join(beside)}
    note = text.get(outcome.kind, outcome.message)
    refused = "no site" if outcome.error is not None and outcome.error.kind == "no_site" else "refused"
    row["file"] = outcome.file or None
    return {**row, "state": STATES.get(outcome.kind, refused), "note": note}
