"""``apply-opt apply NAME…`` (or ``apply-opt NAME…``): put optimizations into a checkout."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apply_opt import __version__
from apply_opt.commands import Result, add_checkout_arguments
from apply_opt.commands.outcomes import files_document, outcome_document, outcome_lines
from apply_opt.commands.planning import (
    Plan,
    Request,
    add_plan_arguments,
    locate,
    make_plan,
    parse_settings,
    plan_for,
    refuse_unless_landed,
)
from apply_opt.commands.proof_options import above, add_effort_arguments, add_proof_arguments
from apply_opt.commands.writing import record, write
from apply_opt.errors import LedgerError, UsageError
from apply_opt.io import files, git, installed, ledger, transaction
from apply_opt.io.catalog import Catalog
from apply_opt.io.checkout import Checkout, inside
from apply_opt.model.plan import PLANNED

if TYPE_CHECKING:
    from apply_opt.commands.prove import Proved

HELP = "put an optimization or a bundle into the checkout"
EPILOG = """examples:
  apply-opt tokenizer_quick                         what keeps the results; says what was left out
  apply-opt tokenizer_quick --allow lossy           also what changes them
  apply-opt tokenizer_ort_threads --set intra_op=4  a parameter (apply-opt show NAME lists them)
  apply-opt tokenizer_quick --repo ~/Step-Audio-EditX --commit
  apply-opt tokenizer_fast --prove --min-speedup 2  only if copies give the same results, at least twice as fast"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_plan_arguments(parser)
    parser.add_argument("--strict", action="store_true", help="apply nothing unless everything named can be applied")
    parser.add_argument("--commit", action="store_true", help="commit the change with git")
    parser.add_argument(
        "--prove", action="store_true", help="run copies first (apply-opt verify, bench); apply what keeps its promise"
    )
    parser.add_argument(
        "--min-speedup",
        type=above(0.0, float),
        metavar="X",
        help="with --prove: the least gain (interval's lower bound)",
    )
    parser.add_argument(
        "--in-place", action="store_true", help="change an installed package itself (default: a copy of it, made here)"
    )
    add_checkout_arguments(parser)
    add_proof_arguments(parser)
    add_effort_arguments(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Apply. Plans first without a lock, so that a refusal writes nothing at all, not even a lock file."""
    if arguments.min_speedup is not None and not arguments.prove:
        raise UsageError("--min-speedup measures, which takes time and runs the checkout's code", "add --prove")
    units, place = locate(arguments)
    if installed.is_installed(place.root) and not arguments.in_place:
        return _to_a_copy(arguments, units, place)
    plan, commit, proved = None, None, None
    try:
        plan = plan_for(arguments, units, place)
        refuse_unless_landed(plan, arguments.names, arguments.strict)
    except LedgerError:  # another run is at work, or was killed: under the lock it is clear
        plan = None
    if plan is None or plan.of_kind(PLANNED):
        _check_clean(plan, arguments.commit)
        if plan is not None and arguments.prove:
            proved = _prove(plan, arguments, units, place)
            plan = proved.plan
        with transaction.locked(place.root):
            if plan is None or _is_stale(plan):
                if arguments.prove:
                    raise LedgerError("the checkout has changed since it was proven", "run this again")
                plan = plan_for(arguments, units, place)
                refuse_unless_landed(plan, arguments.names, arguments.strict)
                _check_clean(plan, arguments.commit)
            if plan.of_kind(PLANNED):
                commit = _write(plan, arguments.commit)
    result = _result(plan, commit, arguments)
    return result if proved is None else _with_evidence(result, proved)


def _to_a_copy(arguments: argparse.Namespace, units: Catalog, place: Checkout) -> Result:
    """What is installed belongs to pip, and to every program that uses it: a copy is changed, in the current folder."""
    refuse_unless_landed(plan_for(arguments, units, place), arguments.names, arguments.strict)
    with installed.copied(place, os.getcwd()) as folder:
        result = run(argparse.Namespace(**{**vars(arguments), "repo": folder, "file": []}))
    lines = [
        ("", f"{place.root} is as it was: {folder} is a copy of the package, to be used in its place"),
        (
            "dim",
            f"use it: export PYTHONPATH={shlex.quote(folder)}    look, take out: apply-opt status, revert --repo {shlex.quote(folder)}",
        ),
    ]
    return result._replace(lines=[*result.lines, *lines], document={**result.document, "copy_of": place.root})


def _prove(plan: Plan, arguments: argparse.Namespace, units: Catalog, place: Checkout) -> Proved:
    """Run copies. The checkout is only read."""
    from apply_opt.commands.prove import prove

    planned = [outcome.name for outcome in plan.of_kind(PLANNED)]
    settings = parse_settings(arguments.set)

    def replan(names: Sequence[str]) -> Plan:
        kept = [units.optimizations[name] for name in units.with_required(names) if name in planned]
        known = {word for o in kept for word in (o.name, *(p.name for p in o.parameters))}
        given = {key: text for key, text in settings.items() if key.partition(".")[0] in known}
        request = Request(given, arguments.allow, arguments.preflight)
        return make_plan(units, place, kept, request)

    return prove(plan, arguments, replan)


def _with_evidence(result: Result, proved: Proved) -> Result:
    from apply_opt.commands import bench, verify

    lines = [*verify.summary(proved.parity), *bench.summary(proved.gain)]
    lines += [("yellow", f"{name}  left out: by itself it does not keep its promise") for name in proved.dropped]
    evidence = {"dropped": list(proved.dropped), "verify": proved.parity, "bench": proved.gain}
    return result._replace(lines=[*lines, *result.lines], document={**result.document, "proof": evidence})


def _check_clean(plan: Plan | None, with_git: bool) -> None:
    if plan is not None and with_git:
        git.check_clean(plan.checkout.root, list(plan.changed()))


def _is_stale(plan: Plan) -> bool:
    """Whether somebody was quicker, between the plan and the lock."""
    root = plan.checkout.root
    now = {path: files.read(inside(root, path)) for path in plan.files}
    return ledger.load(root) != plan.ledger or any(now[path] != before for path, (before, _) in plan.files.items())


def _write(plan: Plan, with_git: bool) -> str | None:
    """Write the plan; gives git's commit, where there is to be one."""
    names = [outcome.name for outcome in plan.of_kind(PLANNED)]
    message = (
        f"Apply {', '.join(names)}\n\n"
        f"Put in by apply-opt {__version__}; taken out by: apply-opt revert {' '.join(names)}\n"
    )
    new, objects = record(plan, by="apply")
    changes = [transaction.Change(path, *texts) for path, texts in plan.changed().items()]
    return write(changes, plan.ledger, new, objects, message if with_git else None)


def _result(plan: Plan, commit: str | None, arguments: argparse.Namespace) -> Result:
    lines = outcome_lines(plan.outcomes)
    planned = [outcome.name for outcome in plan.of_kind(PLANNED)]
    if arguments.commit and not planned:
        lines.append(("yellow", "there was nothing to commit"))
    if planned:
        where = f"{', '.join(plan.changed())} changed in {plan.checkout.root}"
        lines.append(("", where + (f", commit {commit[:10]}" if commit else "")))
        names = arguments.names if len(planned) == len(plan.outcomes) else planned
        lines.append(("dim", f"look: apply-opt status    take out: apply-opt revert {' '.join(names)}"))
    hashes = files_document(plan.files)
    document = {
        "checkout": plan.checkout.root,
        "target": plan.checkout.target.name,
        "file": plan.checkout.file,
        "commit": commit,
        "sha256": hashes[plan.checkout.file],
        "files": {path: hashes[path] for path in plan.changed()},
        "outcomes": [outcome_document(o, done=True) for o in plan.outcomes],
    }
    return Result(lines, document)
