"""``apply --prove``: verify and bench in copies first, and give back the part of a plan that passes."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Union

from apply_opt.commands import bench, verify
from apply_opt.commands.planning import Plan
from apply_opt.commands.proof import Void, sources, subject_of
from apply_opt.commands.proof_options import effort_of
from apply_opt.errors import ApplyOptError, Refused
from apply_opt.io import records
from apply_opt.io.workers import WorkerFailed
from apply_opt.model.measurement import SLOWER
from apply_opt.model.plan import PLANNED

AGAIN = "run it again; nothing was written"
Replan = Callable[[Sequence[str]], Plan]
"""The plan for these optimizations alone."""
Parity = Union[dict[str, Any], WorkerFailed, Void]
"""The record of a comparison, or why there is none."""


class NotProven(ApplyOptError):
    """What was asked for does not keep its promise; nothing was written. ``record`` is what was found."""

    exit_code = 4
    kind = "not_proven"

    def __init__(self, message: str, next_step: str, record: dict[str, Any]) -> None:
        super().__init__(message, next_step)
        self.record = record


class NoGain(NotProven):
    """It keeps its promise, and is not as fast as was asked for."""

    exit_code = 5
    kind = "no_gain"


class Proved(NamedTuple):
    """What may be applied, what was dropped, and the evidence."""

    plan: Plan
    dropped: Sequence[str]
    parity: dict[str, Any]
    gain: dict[str, Any]


def prove(plan: Plan, arguments: argparse.Namespace, replan: Replan) -> Proved:
    """The plan, or what is left of it without the optimizations that fail by themselves.

    Raises :class:`NotProven` where nothing passes, or what passes one by one fails together, and :class:`NoGain` where the
    result is slower, or not as much faster as ``--min-speedup`` has it.
    """
    names = [outcome.name for outcome in plan.of_kind(PLANNED)]
    root = plan.checkout.root
    as_it_was = sources(root)
    parity = _verified(plan, arguments)
    dropped: list[str] = []
    if not _is_passed(parity) and not _is_of_the_workload(parity) and len(names) > 1:
        dropped = [name for name in names if not _is_passed(_verified(replan([name]), arguments, is_trial=True))]
        kept = [name for name in names if name not in dropped]
        if dropped and kept and not arguments.strict:
            plan = replan(kept)
            parity = _verified(plan, arguments)
    if not isinstance(parity, dict):
        raise parity
    if not _is_passed(parity):
        names = [outcome.name for outcome in plan.of_kind(PLANNED)]
        options = [f"--option {shlex.quote(text)}" for text in arguments.option]
        raise NotProven(_said(verify.summary(parity)), " ".join(["apply-opt verify", *names, *options]), parity)
    gain = _measured(plan, arguments)
    if sources(root) != as_it_was:
        raise Refused(
            f"files in {root} were edited while copies of it were run: what was proven is not what is there", AGAIN
        )
    return Proved(plan, dropped, parity, gain)


def _verified(plan: Plan, arguments: argparse.Namespace, is_trial: bool = False) -> Parity:
    """What ``verify`` finds. Of a trial, whose result is in what is left of the plan, no record is kept."""
    try:
        with subject_of(plan, arguments) as found:
            record = verify.verify(found)
    except (WorkerFailed, Void) as error:
        return error
    if not is_trial:
        records.keep(plan.checkout.root, record)
    return record


def _is_of_the_workload(parity: Parity) -> bool:
    """Whether nothing can be told of any change: each by itself would fare no better."""
    return isinstance(parity, dict) and parity["verdict"] == verify.UNVERIFIABLE


def _is_passed(parity: Parity) -> bool:
    return isinstance(parity, dict) and verify.is_passed(parity)


def _measured(plan: Plan, arguments: argparse.Namespace) -> dict[str, Any]:
    with subject_of(plan, arguments) as found:
        record = bench.measure(found, effort_of(arguments), arguments.seed)
    records.keep(plan.checkout.root, record)
    is_slower = any(verdict["word"] == SLOWER for verdict in record["verdicts"].values())
    if is_slower or not bench.is_reached(record, arguments.min_speedup):
        names = " ".join(record["optimizations"])
        wanted = "it is slower" if is_slower else f"a speed-up of at least {arguments.min_speedup:g} is not shown"
        step = f"apply-opt bench {names} --rigorous\nto have it all the same: apply-opt {names}"
        raise NoGain(f"nothing was written: {wanted}\n{_said(bench.summary(record))}", step, record)
    return record


def _said(lines: Sequence[tuple[str, str]]) -> str:
    return "\n".join(text for _, text in lines)
