"""``apply-opt export NAME…``: a patch for this checkout, for people without apply-opt."""

from __future__ import annotations

import argparse
import datetime
import shlex
from collections.abc import Sequence

from apply_opt import __version__
from apply_opt.commands import Result, add_checkout_arguments
from apply_opt.commands.outcomes import files_document, outcome_document, outcome_lines
from apply_opt.commands.planning import (
    Plan,
    Texts,
    add_plan_arguments,
    locate,
    plan_for,
    refuse_unless_landed,
    taken_out,
)
from apply_opt.errors import Refused
from apply_opt.io import git
from apply_opt.model import patch
from apply_opt.model.digest import sha256
from apply_opt.model.plan import ALREADY, PLANNED, Outcome

HELP = "print a patch for this checkout, for `patch -p1` and `git apply`"
EPILOG = """examples:
  apply-opt export tokenizer_quick --allow lossy > quick.patch
  patch -p1 < quick.patch          put it in (or: git apply quick.patch)
  patch -R -p1 < quick.patch       take it out

Where it is applied already, the patch is the one that takes it out with `patch -R -p1`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_plan_arguments(parser)
    add_checkout_arguments(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Plan, and print the plan as a patch."""
    plan = plan_for(arguments, *locate(arguments), as_it_is=True)
    refuse_unless_landed(plan, arguments.names)
    planned, texts = plan.of_kind(PLANNED), plan.changed()
    if not planned:
        planned = _applied(plan)
        texts = taken_out(plan, [outcome.name for outcome in planned])
    for path in texts:
        if set("\n\t").intersection(path):
            raise Refused(f"no patch can name {path!r}", "give the folder another name first")
    if not texts:
        reasons = "; ".join(f"{o.name}: {o.message}" for o in plan.outcomes)
        raise Refused(f"there is nothing to export: {reasons}", "apply-opt status")
    head = git.head(plan.checkout.root)
    origin = f"{plan.checkout.target.name}{f' at {head}' if head else ''}"
    text = header(planned, origin, list(texts.values()))
    text += b"".join(patch.make(before, after, path) for path, (before, after) in texts.items())
    document = {
        "checkout": plan.checkout.root,
        "file": plan.checkout.file,
        "files": files_document(texts),
        "patch": text.decode("utf-8", "surrogateescape"),
        "outcomes": [outcome_document(o) for o in plan.outcomes],
    }
    missing = [o for o in plan.outcomes if o not in planned]
    return Result(outcome_lines(missing) if missing else [], document, raw=text)


def _applied(plan: Plan) -> list[Outcome]:
    """What is applied already, with the values that it was applied with: its patch takes it out."""
    entries = [(o, plan.ledger.entry(o.name)) for o in plan.of_kind(ALREADY)]
    return [o._replace(parameters=entry.parameters) for o, entry in entries if entry is not None]


def header(planned: Sequence[Outcome], origin: str, texts: Sequence[Texts], notes: str = "", date: str = "") -> bytes:
    """The DEP-3 header (https://dep-team.pages.debian.net/deps/dep3/) with what ``adopt`` needs to know the patch again.

    ``texts`` are the files before and after, in the order in which the patch has them.
    """
    date = date or datetime.date.today().isoformat()
    settings = [
        f"{o.name}.{p.name}={o.parameters[p.name]}"
        for o in planned
        for p in o.optimization.parameters
        if o.parameters.get(p.name, p.default) != p.default
    ]
    lines = [
        "Description: " + "; ".join(o.optimization.title for o in planned),
        *(f" {line}" if line else " ." for line in notes.splitlines()),
        f"Origin: vendor, apply-opt {__version__}, for {origin}",
        "Forwarded: not-needed",
        f"Last-Update: {date}",
        f"X-Apply-Opt: {' '.join(o.name for o in planned)}",
        *([f"X-Apply-Opt-Set: {shlex.join(settings)}"] if settings else []),
        f"X-Sha256-Before: {' '.join(sha256(before) for before, _ in texts)}",
        f"X-Sha256-After: {' '.join(sha256(after) for _, after in texts)}",
        "---",
    ]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
