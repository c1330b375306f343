"""``apply-opt apply NAME…`` (or ``apply-opt NAME…``): put optimizations into a checkout."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Mapping, Sequence

from apply_opt import __version__
from apply_opt.commands import Result, add_checkout_arguments, state
from apply_opt.commands.planning import Plan, Request, find_checkout, make_plan, members, parse_settings
from apply_opt.commands.writing import write
from apply_opt.errors import LedgerError, Refused
from apply_opt.io import catalog, files, git, ledger, transaction
from apply_opt.io.catalog import Catalog
from apply_opt.io.checkout import Checkout, sha256
from apply_opt.model import patch
from apply_opt.model.plan import ALREADY, LEFT_OUT, NOT_NEEDED, PLANNED, REFUSED, Outcome
from apply_opt.model.unit import SAFETY

HELP = "put an optimization or a bundle into the checkout"
EPILOG = """examples:
  apply-opt tokenizer_quick                         what keeps the results; says what was left out
  apply-opt tokenizer_quick --allow lossy           also what changes them
  apply-opt tokenizer_ort_threads --set intra_op=4  a parameter (apply-opt show NAME lists them)
  apply-opt tokenizer_quick --repo ~/Step-Audio-EditX --commit"""
WORDS = {
    PLANNED: "applied",
    ALREADY: "already applied",
    NOT_NEEDED: "not needed",
    LEFT_OUT: "left out",
    REFUSED: "refused",
}
STYLES = {PLANNED: "green", ALREADY: "green", NOT_NEEDED: "cyan", LEFT_OUT: "yellow", REFUSED: "red"}


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what to plan; shared with ``diff`` and ``export``."""
    parser.add_argument("names", metavar="NAME", nargs="+", help="an optimization or a bundle (apply-opt list)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a parameter; may be repeated")
    parser.add_argument(
        "--allow",
        metavar="CLASS",
        choices=SAFETY,
        action="append",
        default=[],
        help="lossy: accept that results change",
    )
    parser.add_argument("--preflight", metavar="DIR", help="a folder to check first, for optimizations that need one")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_plan_arguments(parser)
    parser.add_argument("--strict", action="store_true", help="apply nothing unless everything named can be applied")
    parser.add_argument("--commit", action="store_true", help="commit the change with git")
    add_checkout_arguments(parser)


def plan_for(arguments: argparse.Namespace, shown: Sequence[str] = ()) -> Plan:
    """The plan that the arguments ask for; ``shown`` may be in it although they would not be applied."""
    return _plan(arguments, *_find(arguments), shown)


def _find(arguments: argparse.Namespace) -> tuple[Catalog, Checkout]:
    units = catalog.load_for(arguments.names)
    wanted = [units.unit(name) for name in arguments.names]
    return units, find_checkout(units, wanted, arguments.repo, arguments.file)


def _plan(arguments: argparse.Namespace, units: Catalog, place: Checkout, shown: Sequence[str] = ()) -> Plan:
    request = Request(parse_settings(arguments.set), arguments.allow, arguments.preflight, shown)
    return make_plan(units, place, members(units, arguments.names), request)


def refuse_single(plan: Plan, strict: bool) -> None:
    """Raise where one thing was asked for and cannot be had, or where all were demanded."""
    failed = [o for o in plan.outcomes if o.kind in (REFUSED, LEFT_OUT)]
    landed = [o for o in plan.outcomes if o.kind in (PLANNED, ALREADY, NOT_NEEDED)]
    if failed and (strict or not landed):
        first = failed[0]
        if first.error is not None and len(failed) == 1:
            first.error.message, first.error.next_step = f"{first.name}: {first.message}", first.next_step
            raise first.error
        text = "; ".join(f"{o.name}: {o.message}" for o in failed)
        raise Refused(text, "\n".join(dict.fromkeys(o.next_step for o in failed if o.next_step)))


def run(arguments: argparse.Namespace) -> Result:
    """Apply. Plans first without a lock, so that a refusal writes nothing at all, not even a lock file."""
    units, place = _find(arguments)
    plan, commit = None, None
    try:
        plan = _plan(arguments, units, place)
        refuse_single(plan, arguments.strict)
    except LedgerError:  # another run is at work, or was killed: under the lock it is clear
        plan = None
    if plan is None or plan.of_kind(PLANNED):
        if arguments.commit:
            git.check_clean(place.root, [place.file])
        with transaction.locked(place.root):
            if plan is None or _is_stale(plan):
                plan = _plan(arguments, units, place)
                refuse_single(plan, arguments.strict)
            if plan.of_kind(PLANNED):
                commit = _write(plan, git.head(place.root), arguments.commit)
    return _result(plan, commit)


def _is_stale(plan: Plan) -> bool:
    """Whether somebody was quicker, between the plan and the lock."""
    root = plan.checkout.root
    return ledger.load(root) != plan.ledger or files.read(plan.checkout.path()) != plan.before


def _write(plan: Plan, head: str | None, with_git: bool) -> str | None:
    """Write the plan; gives git's commit, where there is to be one."""
    file, planned = plan.checkout.file, plan.of_kind(PLANNED)
    rest = state.without(plan.ledger, (), state.contents(plan.ledger))
    names = [outcome.name for outcome in planned]
    entries = [entry for entry in rest.ledger.entries if entry.name not in names]
    objects = list(rest.objects)
    for outcome in planned:
        text = patch.make(outcome.before, outcome.after, file)
        objects += [outcome.before, outcome.after, text]
        record = ledger.FileRecord(file, sha256(outcome.before), sha256(outcome.after), sha256(text))
        entries.append(make_entry(plan, outcome, record, head))
    message = (
        f"Apply {', '.join(names)}\n\n"
        f"Put in by apply-opt {__version__}; taken out by: apply-opt revert {' '.join(names)}\n"
    )
    change = transaction.Change(file, plan.before, plan.after)
    new = ledger.Ledger(plan.checkout.root, tuple(entries))
    return write([change], plan.ledger, new, objects, message if with_git else None)


def make_entry(
    plan: Plan, outcome: Outcome, record: ledger.FileRecord, head: str | None, by: str = "apply"
) -> ledger.Entry:
    """The ledger's entry for an outcome."""
    return ledger.Entry(
        name=outcome.name,
        target=plan.checkout.target.name,
        parameters=dict(outcome.parameters),
        files=(record,),
        codemod=sha256(files.read(outcome.optimization.codemod) or b""),
        version=__version__,
        applied_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        head=head,
        by=by,
    )


def outcome_lines(outcomes: Sequence[Outcome], words: Mapping[str, str] = WORDS) -> list[tuple[str, str]]:
    """One outcome a line, with what to do next below those that did not land."""
    width = max(len(o.name) for o in outcomes)
    lines = []
    for outcome in outcomes:
        found = sorted({site.line for site in outcome.sites})
        detail = outcome.message or f"line{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}"
        lines.append((STYLES[outcome.kind], f"{outcome.name:{width}}  {words[outcome.kind]:16}  {detail}"))
        lines += [("dim", f"{'':{width}}  {text}") for text in outcome.notes]
        lines += [("yellow", f"{'':{width}}  warning: {text}") for text in outcome.warnings]
        if outcome.kind in (LEFT_OUT, REFUSED) and outcome.next_step:
            lines += [("dim", f"{'':{width}}  {text}") for text in outcome.next_step.splitlines()]
    return lines


def outcome_document(outcome: Outcome) -> dict[str, object]:
    """An outcome for scripts."""
    return {
        "name": outcome.name,
        "outcome": outcome.kind,
        "class": outcome.optimization.safety,
        "parameters": dict(outcome.parameters),
        "sites": [site._asdict() for site in outcome.sites],
        "message": outcome.message,
        "next_step": outcome.next_step,
        "warnings": list(outcome.warnings),
        "notes": list(outcome.notes),
    }


def _result(plan: Plan, commit: str | None) -> Result:
    lines = outcome_lines(plan.outcomes)
    if plan.of_kind(PLANNED):
        lines.append(
            (
                "",
                f"{plan.checkout.file} changed in {plan.checkout.root}" + (f", commit {commit[:10]}" if commit else ""),
            )
        )
        lines.append(
            (
                "dim",
                "look: apply-opt status    take out: apply-opt revert "
                + " ".join(o.name for o in plan.of_kind(PLANNED)),
            )
        )
    document = {
        "checkout": plan.checkout.root,
        "target": plan.checkout.target.name,
        "file": plan.checkout.file,
        "commit": commit,
        "sha256": {"before": sha256(plan.before), "after": sha256(plan.after)},
        "outcomes": [outcome_document(o) for o in plan.outcomes],
    }
    return Result(lines, document)
