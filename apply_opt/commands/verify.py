"""``apply-opt verify NAME…``: whether the program's results are what the safety class promises, from two processes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from apply_opt.commands import Result, add_checkout_arguments
from apply_opt.commands.planning import add_plan_arguments
from apply_opt.commands.progress import progress
from apply_opt.commands.proof import Subject, Void, beside, check_identity, failure, header, subject
from apply_opt.commands.proof_options import add_proof_arguments
from apply_opt.io import records, workers
from apply_opt.io.workers import WorkerFailed
from apply_opt.model import parity

HELP = "run the target with and without an optimization, and compare everything that comes out"
EPILOG = """examples:
  apply-opt verify tokenizer_ort_threads
  apply-opt verify tokenizer_quick --allow lossy

verdicts:
  parity          the class's rule holds                                          exit code 0
  lossy           results are not promised to be the same; figures are given                0
  parity failed   an observation differs                                                    4
  unverifiable    the unchanged program does not agree with itself, or a wrong variant
                  was not found                                                             4
  void            the changed lines did not run                                             4
  failed to run   a workload crashed, hung, or ran out of memory                            4"""
PARITY, LOSSY, FAILED, UNVERIFIABLE = "parity", "lossy", "parity failed", "unverifiable"
SEEDS = (0, 1, 2)
RANK = ("instrument", "exact", "inference_only", "tolerance", "lossy")


class Verdict(NamedTuple):
    """One word, why, and the figures."""

    verdict: str
    why: str = ""
    differences: Sequence[parity.Difference] = ()
    agreement: parity.Agreement | None = None
    observations: int = 0
    changed_lines_ran: int = 0
    wrong_variants_caught: Sequence[str] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_plan_arguments(parser)
    add_proof_arguments(parser)
    parser.add_argument("--output", metavar="FILE", help="another place for the JSON record")
    add_checkout_arguments(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Run both arms, compare, record."""
    records.check_output(arguments.output)
    try:
        with subject(arguments) as found:
            record = verify(found)
    except (WorkerFailed, Void) as error:
        return failure(error, 4)
    paths = records.keep_both(found.plan.checkout.root, record, arguments.output)
    lines = [*summary(record), *beside(found), ("dim", f"record: {paths[-1]}")]
    return Result(lines, record, code=0 if is_passed(record) else 4)


def verify(found: Subject) -> dict[str, Any]:
    """The record. Raises :class:`WorkerFailed` and :class:`~apply_opt.commands.proof.Void`."""
    begin = header(found, "verify")
    safety = safety_of(found)
    with progress(len(found.workload.wrong) + 4 + _has_referee(found, safety)) as advance:
        verdict = _judge(found, safety, advance)
    return {
        **begin,
        "class": safety,
        "seeds": list(SEEDS),
        **verdict._asdict(),
        "differences": [d._asdict() for d in verdict.differences],
        "agreement": verdict.agreement._asdict() if verdict.agreement else None,
    }


def is_passed(record: dict[str, Any]) -> bool:
    """Whether the class's rule holds."""
    return record["verdict"] in (PARITY, LOSSY)


def safety_of(found: Subject) -> str:
    """The weakest promise among the optimizations."""
    classes = [o.optimization.safety_for(o.parameters) for o in found.plan.outcomes if o.name in found.names]
    return max(classes, key=RANK.index)


def _judge(found: Subject, safety: str, advance: Callable[[], None]) -> Verdict:
    def observed(arm: workers.Arm, otherwise: bool = False, **more: Any) -> dict[str, Any]:
        result = _observe(_otherwise(found) if otherwise else found, arm, **more)
        advance()
        return result

    first = observed(found.before)
    values = first["values"]
    unstable: Sequence[parity.Difference] = ()
    why = _narrowness(found, first["sizes"])
    if not why:
        why, unstable = _instability(values, observed(found.before, otherwise=True)["values"])
    if safety == "inference_only" and not any(map(parity.is_of_training, values)):
        why = why or "the workload trains nothing, so that nothing shows that training is as it was"
    if why:
        return Verdict(UNVERIFIABLE, why, unstable, observations=len(values))
    referee = observed(found.before, double=True)["values"] if _has_referee(found, safety) else None
    rule = parity.rule_of(safety, values, referee)
    caught = []
    for name in found.workload.wrong:
        seen = observed(found.before, wrong=name)
        if not seen.get("is_wrong", True):
            continue
        if not parity.of_results(parity.differences(values, seen["values"], rule)):
            why = f"the wrong variant `{name}` was not found: the workload does not see enough"
            return Verdict(UNVERIFIABLE, why, observations=len(values))
        caught.append(name)
    if not caught:
        return Verdict(UNVERIFIABLE, "none of the wrong variants is one for this checkout", observations=len(values))
    after = observed(found.after)
    both = [after["values"], observed(found.after, otherwise=True)["values"]]
    differences = next(filter(None, (parity.differences(values, other, rule) for other in both)), [])
    is_bad = any(_losses(values, other) for other in both) if safety == "lossy" else bool(differences)
    return Verdict(
        FAILED if is_bad else LOSSY if safety == "lossy" else PARITY,
        differences=differences,
        agreement=parity.agreement(values, after["values"]),
        observations=len(values),
        changed_lines_ran=check_identity(after, found, 1) or check_identity(first, found, 0),
        wrong_variants_caught=caught,
    )


def _instability(first: parity.Observations, again: parity.Observations) -> tuple[str, Sequence[parity.Difference]]:
    """Why two runs of the unchanged program are nothing to compare with, and what shows it."""
    broken = parity.broken(first)
    if broken:
        return "the unchanged program fails, or gives what cannot be compared (NaN, infinity, objects)", broken
    if not parity.has_outputs(first):
        return "the unchanged program gives no outputs", ()
    differing = parity.differences(first, again, parity.rule_of("exact"))
    return ("the unchanged program does not agree with itself" if differing else ""), differing


def _narrowness(found: Subject, sizes: Mapping[str, Sequence[int]]) -> str:
    """Why what is run is too little to tell right from wrong."""
    if not found.workload.wrong:
        return "the workload has no wrong variant, so that nothing shows that a wrong result would be found"
    if len(set(map(tuple, sizes.values()))) < 2 and any(sizes.values()):
        return f"there is one shape of input only ({', '.join(found.workload.compared)}): give it two, one of them odd"
    if any(sizes.values()) and not any(size % 2 and size > 1 for size in _varied(list(sizes.values()))):
        return f"no input has an odd size ({', '.join(found.workload.compared)}): give it one"
    return "" if len(found.workload.compared) > 1 else "there is one case only: give it two"


def _varied(sizes: Sequence[Sequence[int]]) -> list[int]:
    """Those of the inputs' sizes that differ from case to case; all, where the cases have not the same number of them."""
    if len(set(map(len, sizes))) > 1:
        return [size for numbers in sizes for size in numbers]
    return [size for numbers in zip(*sizes) if len(set(numbers)) > 1 for size in numbers]


def _losses(before: parity.Observations, after: parity.Observations) -> list[parity.Difference]:
    """What even an optimization that changes results must not do: fail, give NaN, leave an output out."""
    return [*parity.broken(after), *(d for d in parity.missing(before, after) if " | output " in d.name)]


def _observe(found: Subject, arm: workers.Arm, **more: Any) -> dict[str, Any]:
    result = workers.run(arm, found.setting, "observe", cases=found.workload.compared, seeds=SEEDS, **more)
    check_identity(result, found, int(arm == found.after), as_it_is=not more)
    return result


def _otherwise(found: Subject) -> Subject:
    """The same, where sets and dictionaries of texts have another order: it is drawn anew in every process of a user's."""
    return found._replace(setting=found.setting._replace(hash_seed=1))


def _has_referee(found: Subject, safety: str) -> bool:
    """Whether the unchanged program's observations in float64 are asked for, and the workload knows how to give them."""
    return found.workload.has_referee and safety in ("tolerance", "inference_only")


def summary(record: dict[str, Any]) -> list[tuple[str, str]]:
    """What a comparison found, for people."""
    verdict, differences, agreement = record["verdict"], record["differences"], record["agreement"]
    style = {PARITY: "green", LOSSY: "yellow"}.get(verdict, "red")
    lines = [(style, f"{verdict}  {', '.join(record['optimizations'])}  (class {record['class']})")]
    if record["why"]:
        lines.append((style, record["why"]))
    if record["observations"] and verdict != UNVERIFIABLE:
        text = f"{record['observations']} observations in {len(record['cases'])} cases, {len(SEEDS)} seeds; "
        text += f"{len(differences)} differ; changed lines ran {record['changed_lines_ran']} times; "
        lines.append(("", text + f"wrong variants caught: {len(record['wrong_variants_caught'])}"))
        lines.append(("dim", f"cases: {'; '.join(record['cases'])}"))
    if agreement and agreement["total"]:
        share = parity.Agreement(**agreement).share
        lines.append(("", f"discrete outputs the same: {agreement['same']} of {agreement['total']} ({share:.2%})"))
    if agreement and agreement["error"]:
        lines.append(("", f"largest error of a tensor, relative to its largest value: {agreement['error']:.3g}"))
    lines += [("dim", f"  {d['name']}: {d['how']}") for d in differences[: parity.SHOWN]]
    if len(differences) > parity.SHOWN:
        lines.append(("dim", f"  and {len(differences) - parity.SHOWN} more"))
    return lines
