"""``apply-opt advise [TARGET]``: where the program's time goes, what pays here, and what of what is said about it holds here.

Nothing is looked up: each share and each gain is measured, on this machine, with this checkout's code and the workload's options.
Every round runs the original twice and each candidate once, each in a process of its own, in random order
(:func:`apply_opt.model.measurement.against`). First each optimization alone; then those that pay one on top of the other, the best
first, so that one that does what another one has done already is found out and left.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import secrets
import shlex
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from apply_opt.commands import Result, add_checkout_arguments, advice, bench
from apply_opt.commands.planning import Request, make_plan, refuse_unless_landed
from apply_opt.commands.progress import progress
from apply_opt.commands.proof import (
    Ready,
    Subject,
    Void,
    alone,
    conditions,
    failure,
    named_checkout,
    never_imported,
    subject_of,
    unless_given,
)
from apply_opt.commands.proof_options import (
    add_effort_arguments,
    add_proof_arguments,
    add_target_argument,
    effort_of,
)
from apply_opt.errors import Refused
from apply_opt.io import catalog, targets
from apply_opt.io.catalog import Catalog, Unit
from apply_opt.io.checkout import Checkout
from apply_opt.io.workers import WorkerFailed
from apply_opt.model import claims, measurement
from apply_opt.model.claims import BOTH, NOT_MEASURED, OTHER_INPUTS, SEE, WHOLE, Claim
from apply_opt.model.effort import Effort
from apply_opt.model.measurement import FASTER, LEVEL, SLOWER, Interval, Verdict
from apply_opt.model.plan import PLANNED
from apply_opt.model.unit import Optimization

HELP = "where the time of a target's program goes, which optimizations pay here, in order, and which claims about it hold here"
EPILOG = """examples:
  apply-opt advise --quick                                what takes the time of this checkout's program, and what helps
  apply-opt advise time_llm --option batch=32 --option variables=7 --option steps=512
  apply-opt advise time_llm --option part=forecast --option mode=training --json

Give the workload the inputs that you have: advice for others may be wrong for you. Each optimization is measured alone, with what
it needs; then those that pay, one on top of the other. Nothing is written to the checkout, and nothing is compared:
`apply-opt NAME --prove` does that before it applies. Those that change results (class lossy) are measured where a claim is about
them, or with --allow lossy."""
ORIGINAL, LOSSY = ("original", "original again"), "lossy"


class Candidate(NamedTuple):
    """An optimization or bundle that can be measured: its name, all that is put in for it, and its arms."""

    name: str
    applies: Sequence[Optimization]
    subject: Subject

    @property
    def is_lossy(self) -> bool:
        """Whether something of it changes results."""
        return any(optimization.safety == LOSSY for optimization in self.applies)


class Round(NamedTuple):
    """What the processes of one round gave: the seconds of a run by arm and case; of the originals each stage's share, by case;
    and by arm the cases in which the same inputs gave other outputs later.
    """

    seconds: Mapping[str, Mapping[str, float]]
    shares: Sequence[Mapping[str, Mapping[str, float]]]
    unsteady: Mapping[str, Sequence[str]]


class Trial(NamedTuple):
    """What all measurements share: the checkout's program as it is, its workload, how long to measure."""

    units: Catalog
    place: Checkout
    arguments: argparse.Namespace
    original: Ready
    effort: Effort
    seed: int
    stack: contextlib.ExitStack

    def candidate(self, name: str, members: Sequence[str]) -> Candidate:
        """The optimizations ``members`` with all that they need. Raises :class:`Refused` and ``Void`` where they cannot be had."""
        names = self.units.with_required(members)
        applies = [self.units.optimizations[each] for each in names]
        plan = make_plan(self.units, self.place, applies, Request(allow=(LOSSY,)))
        refuse_unless_landed(plan, names)
        if not plan.of_kind(PLANNED):
            raise Refused(f"{plan.outcomes[-1].kind}: {plan.outcomes[-1].message}")
        return Candidate(name, applies, self.stack.enter_context(subject_of(plan, self.arguments, self.original)))

    def _original(self, seed: int) -> dict[str, Any]:
        """One process of the program as it is. Raises :class:`WorkerFailed`, and ``Void`` where it does not run the checkout's code."""
        found = bench.timed(self.original, self.effort, seed)
        if not any(identity["modules"] for identity in found["identity"].values()):
            raise never_imported(list(found["identity"]))
        return found

    def measured(self, candidates: Sequence[Candidate], seed: int) -> tuple[list[Round], dict[str, str]]:
        """Rounds with one process for each candidate and two for the original; and why some candidates say nothing.

        Raises :class:`WorkerFailed` where the original cannot be run, and ``Void`` where that is not the checkout's code.
        """
        rounds: list[Round] = []
        lost: dict[str, str] = {}
        with progress(self.effort.blocks * (len(candidates) + len(ORIGINAL))) as advance:
            for number in range(seed, seed + self.effort.blocks):
                results: dict[str, dict[str, Any]] = {}
                arms: list[str | Candidate] = [*ORIGINAL, *candidates]
                for arm in measurement.shuffled(arms, number):
                    if isinstance(arm, str):
                        results[arm] = self._original(number)
                    elif arm.name not in lost:
                        try:
                            results[arm.name] = bench.sample(arm.subject, self.effort, True, number)
                        except (WorkerFailed, Void) as error:
                            lost[arm.name] = error.message
                    advance()
                rounds.append(_round(results))
        return rounds, {**lost, **_unsteady(rounds)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_target_argument(parser)
    parser.add_argument(
        "--allow",
        metavar="CLASS",
        choices=(LOSSY,),
        action="append",
        default=[],
        help="lossy: measure and advise also what changes results",
    )
    add_proof_arguments(parser)
    add_effort_arguments(parser, "rounds of a process for each optimization and two for the original")
    add_checkout_arguments(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Measure each alone, all that pays together, and hold claims against it."""
    place = named_checkout(arguments)
    units, said = catalog.load(), targets.load_claims(place.target.folder)
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    try:
        with alone(place, arguments) as original, contextlib.ExitStack() as stack:
            begin = {"kind": "advise", **conditions(place, original.setting), "seed": seed}
            trial = Trial(units, place, arguments, original, effort_of(arguments), seed, stack)
            found, others = _candidates(trial, said)
            rounds, lost = trial.measured(found, seed)
            verdicts = _verdicts(rounds, [candidate.name for candidate in found if candidate.name not in lost])
            advised = _advised(trial, found, verdicts)
    except (WorkerFailed, Void) as error:
        return failure(error, 4)
    shares = _shares(rounds)
    document = {
        **begin,
        "place": _place(arguments),
        "effort": trial.effort._asdict(),
        "level": LEVEL,
        "seconds": {case: _median(rounds, case) for case in original.workload.cases},
        "shares": shares,
        "units": [_told(candidate, verdicts[candidate.name]) for candidate in found if candidate.name in verdicts],
        "not_measured": {**others, **lost},
        **advised,
        "own_options": _own_options(units, advised["advised"], original.setting.options),
        "claims": [_held(claim, original.setting.options, rounds, verdicts, others) for claim in said],
        "rounds": [{"seconds": one.seconds, "shares": one.shares} for one in rounds],
    }
    return Result(list(advice.lines(document)), document)


def _place(arguments: argparse.Namespace) -> list[str]:
    """What was typed to say which checkout is meant, and what a process may take."""
    found = ["--repo", shlex.quote(arguments.repo)] if arguments.repo != "." else []
    found += [word for path in arguments.file for word in ("--file", shlex.quote(path))]
    usual = {"threads": 1, "cores": None, "timeout": 900.0, "memory": None}
    own = {name: getattr(arguments, name) for name in usual}
    return [
        *found,
        *(word for name, value in own.items() if value != usual[name] for word in (f"--{name}", f"{value:g}")),
    ]


def _own_options(units: Catalog, names: Sequence[str], given: Mapping[str, Any]) -> dict[str, str]:
    """The options that a proof of ``names`` takes besides: those of theirs, where none of them is given."""
    usual = {key: value for name in names for key, value in units.optimizations[name].workload.items()}
    return dict(unless_given(usual, given))


def _candidates(trial: Trial, said: Sequence[Claim]) -> tuple[list[Candidate], dict[str, str]]:
    """The optimizations that can be measured here, and bundles that claims are about; and why the others cannot.

    Those that change results are among them only where they are allowed, or claims are about them.
    """
    units, claimed = trial.units, {claim.unit for claim in said if claim.unit}
    own = [unit for unit in units.optimizations.values() if unit.target == trial.place.target.name]
    wanted: list[Unit] = [u for u in own if u.safety != LOSSY or trial.arguments.allow or u.name in claimed]
    wanted += [units.bundles[name] for name in sorted(claimed & units.bundles.keys())]
    found, others = [], {}
    for unit in wanted:
        try:
            found.append(trial.candidate(unit.name, [member.name for member in units.members(unit)]))
        except (Refused, Void) as error:
            others[unit.name] = error.message.removeprefix(f"{unit.name}: ")
    return found, others


def _unsteady(rounds: Sequence[Round]) -> dict[str, str]:
    """What gave other outputs for the same inputs once it had run often, where the original never did."""
    cases: dict[str, set[str]] = {}
    for one in rounds:
        for name, unsteady in one.unsteady.items():
            cases.setdefault(name, set()).update(unsteady)
    original = set().union(*(cases[name] for name in ORIGINAL))
    found = {}
    for name, own in cases.items():
        try:
            bench.check_steady(original, own)
        except Void as error:
            found[name] = error.message
    return found


def _round(results: Mapping[str, Mapping[str, Any]]) -> Round:
    seconds = {name: {case: t["median"] for case, t in result["cases"].items()} for name, result in results.items()}
    shares = [
        {
            case: {stage: taken / seconds[name][case] for stage, taken in stages.items()}
            for case, stages in results[name]["stages"].items()
        }
        for name in ORIGINAL
    ]
    return Round(seconds, shares, {name: result["unsteady"] for name, result in results.items()})


def _median(rounds: Sequence[Round], case: str) -> float:
    """The seconds of a run of the original."""
    return statistics.median(found.seconds[name][case] for found in rounds for name in ORIGINAL)


def _shares(rounds: Sequence[Round]) -> dict[str, dict[str, Interval]]:
    """For each case, the interval of each stage's share of a run; of those that ran."""
    found = {
        case: {name: _share(rounds, case, name, WHOLE) for name in own} for case, own in rounds[0].shares[0].items()
    }
    return {case: {name: share for name, share in own.items() if share is not None} for case, own in found.items()}


def _verdicts(rounds: Sequence[Round], names: Collection[str]) -> dict[str, dict[str, Verdict]]:
    """For each of ``names`` and each case: how many times as fast it is as the original."""
    found: dict[str, dict[str, Verdict]] = {name: {} for name in names}
    cases = list(rounds[0].seconds[ORIGINAL[0]])
    for case in cases:
        seconds = [{name: one.seconds[name][case] for name in (*ORIGINAL, *names)} for one in rounds]
        for name, verdict in measurement.against(seconds, ORIGINAL, 1 - (1 - LEVEL) / len(cases)).items():
            found[name][case] = verdict
    return found


def _low(verdicts: Mapping[str, Verdict]) -> float:
    """The least of the intervals' lower ends."""
    return min(verdict.speedup.low for verdict in verdicts.values())


def _word(verdicts: Mapping[str, Verdict]) -> str:
    """One word for all cases: faster, where one is and none is slower."""
    words = [verdict.word for verdict in verdicts.values()]
    return next((word for word in (SLOWER, FASTER) if word in words), words[0])


def _advised(trial: Trial, found: Sequence[Candidate], verdicts: Mapping[str, Mapping[str, Verdict]]) -> dict[str, Any]:
    """The optimizations that pay and go together, the best first, and what they give together.

    Each is held against all before it: what adds nothing that can be shown is left out.
    """
    paying = [c for c in found if c.name in verdicts and _word(verdicts[c.name]) == FASTER]
    paying = [c for c in paying if c.name in trial.units.optimizations and (trial.arguments.allow or not c.is_lossy)]
    paying.sort(key=lambda candidate: _low(verdicts[candidate.name]), reverse=True)
    steps, rounds, apart, failed = _measured_steps(trial, paying)
    adds = _adds(rounds, [step.name for step in steps])
    useful = [step for step in steps if step.name not in adds or _word(adds[step.name]) == FASTER]
    if useful != steps[: len(useful)]:
        own = {candidate.name: candidate.applies for candidate in found}
        last = trial.candidate("together", [each.name for step in useful for each in own[step.name]])
        rounds, lost = trial.measured([last], trial.seed + 2 * trial.effort.blocks)
        useful, failed = [last] if not lost else [], {**failed, **lost}
    gains = _verdicts(rounds, [useful[-1].name])[useful[-1].name] if useful else {}
    return {
        "advised": [each.name for each in useful[-1].applies] if useful else [],
        "adds": {name: _document(added) for name, added in adds.items()},
        "left": [name for name, added in adds.items() if _word(added) != FASTER],
        "apart": apart,
        "together": _document(gains),
        "failed": failed,
    }


def _measured_steps(
    trial: Trial, paying: Sequence[Candidate]
) -> tuple[list[Candidate], list[Round], dict[str, str], dict[str, str]]:
    """What goes together, one on top of the other, and its rounds; why some do not go with those, and why some say nothing there."""
    failed: dict[str, str] = {}
    while True:
        steps, apart = _steps(trial, [candidate for candidate in paying if candidate.name not in failed])
        if not steps:
            return [], [], apart, failed
        rounds, lost = trial.measured(steps, trial.seed + trial.effort.blocks)
        first = next((step.name for step in steps if step.name in lost), None)
        if first is None:
            return steps, rounds, apart, failed
        failed[first] = lost[first]  # and those on top of it: they are tried again without


def _document(verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    return {case: verdict._asdict() for case, verdict in verdicts.items()}


def _steps(trial: Trial, paying: Sequence[Candidate]) -> tuple[list[Candidate], dict[str, str]]:
    """One on top of the other: each with all before it; and why some do not go with those."""
    steps: list[Candidate] = []
    apart = {}
    for candidate in paying:
        before = [each.name for each in steps[-1].applies] if steps else []
        own = [each.name for each in candidate.applies]
        if set(own) <= set(before):  # something else needs it
            continue
        names = [*before, *own]
        try:
            steps.append(trial.candidate(candidate.name, names))
        except (Refused, Void) as error:
            apart[candidate.name] = error.message.removeprefix(f"{candidate.name}: ")
    return steps, apart


def _adds(rounds: Sequence[Round], names: Sequence[str]) -> dict[str, dict[str, Verdict]]:
    """For each of ``names`` but the first, and each case: how many times as fast it is as the one before it."""
    found: dict[str, dict[str, Verdict]] = {name: {} for name in names[1:]}
    cases = list(rounds[0].seconds[ORIGINAL[0]]) if found else []
    for case in cases:
        level = 1 - (1 - LEVEL) / (len(cases) * len(found))
        seconds = [{name: own[case] for name, own in one.seconds.items()} for one in rounds]
        for before, name in itertools.pairwise(names):
            found[name][case] = measurement.against(seconds, [before], level, [name])[name]
    return found


def _told(candidate: Candidate, verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    """A candidate's part of the document."""
    return {
        "name": candidate.name,
        "applies": [optimization.name for optimization in candidate.applies],
        "classes": list(dict.fromkeys(optimization.safety for optimization in candidate.applies)),
        "lossy": candidate.is_lossy,
        "word": _word(verdicts),
        "low": _low(verdicts),
        "verdicts": _document(verdicts),
    }


def _held(
    claim: Claim,
    options: Mapping[str, Any],
    rounds: Sequence[Round],
    verdicts: Mapping[str, Mapping[str, Verdict]],
    others: Collection[str] = (),
) -> dict[str, Any]:
    """A claim against what was measured in each case that it is about; ``others`` are optimizations that cannot be had here."""
    told: dict[str, Any] = {"says": claim.says, "says_zh": claim.says_zh, "said": list(claim.said), "see": claim.see}
    told |= {"stage": claim.stage, "of": claim.of, "unit": claim.unit, "ask": claim.ask, "measured": {}}
    stages = {stage for own in rounds[0].shares[0].values() for stage in own}
    if claim.unit in others or (claim.stage and claim.stage not in stages):
        return {**told, "word": NOT_MEASURED}
    cases = [case for case in rounds[0].seconds[ORIGINAL[0]] if claim.is_about(case, options)]
    if claim.see or not cases:
        return {**told, "word": SEE if claim.see else OTHER_INPUTS}
    if claim.unit:
        found = verdicts.get(claim.unit, {})
        measured = {case: found[case].speedup for case in cases if case in found}
    else:
        shares = {case: _share(rounds, case, claim.stage, claim.of) for case in cases}
        measured = {case: share for case, share in shares.items() if share is not None}
    words = {claims.judge(claim, interval) for interval in measured.values()}
    return {**told, "measured": measured, "word": words.pop() if len(words) == 1 else BOTH if words else NOT_MEASURED}


def _share(rounds: Sequence[Round], case: str, stage: str, of: str) -> Optional[Interval]:
    """The share of a stage in another one, or in a run; nothing where one of them did not run."""
    processes = [process.get(case, {}) for one in rounds for process in one.shares]
    pairs = [(process.get(stage, 0.0), process.get(of, 0.0) if of != WHOLE else 1.0) for process in processes]
    if not all(part and whole for part, whole in pairs):
        return None
    estimate, low, high = measurement.mean([part / whole for part, whole in pairs])
    return Interval(estimate, max(0.0, low), high)
