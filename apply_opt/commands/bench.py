"""``apply-opt bench NAME…``: how many times as fast the program is with an optimization, and how sure that is."""

from __future__ import annotations

import argparse
import math
import secrets
import statistics
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from apply_opt.commands import Result, add_checkout_arguments
from apply_opt.commands.planning import add_plan_arguments
from apply_opt.commands.progress import progress
from apply_opt.commands.proof import Ready, Subject, Void, beside, check_identity, failure, header, subject
from apply_opt.commands.proof_options import above, add_effort_arguments, add_proof_arguments, effort_of
from apply_opt.io import records, workers
from apply_opt.io.workers import Arm, WorkerFailed
from apply_opt.model import measurement
from apply_opt.model.effort import Effort
from apply_opt.model.measurement import (
    AFTER,
    BEFORE,
    COMPARED,
    FASTER,
    INCONCLUSIVE,
    LEVEL,
    SAME,
    SLOWER,
    Sample,
    Verdict,
)

HELP = "measure the target with and without an optimization, in random order, with a verdict"
EPILOG = """examples:
  apply-opt bench tokenizer_ort_threads --quick
  apply-opt bench tokenizer_ort_threads --blocks 20       the interval gets narrower with the number of blocks
  apply-opt bench tokenizer_quick --allow lossy --output quick.json
  apply-opt bench tokenizer_fast --min-speedup 3          fails unless the lower bound is at least 3

verdicts: faster, slower, no difference, inconclusive (with the smallest effect that could have been seen).
The gain to quote is the lower bound of the interval. Exit code 5 where --min-speedup is not reached, or a run failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_plan_arguments(parser)
    add_proof_arguments(parser)
    add_effort_arguments(parser)
    parser.add_argument(
        "--min-speedup", type=above(0.0, float), metavar="X", help="fail unless the lower bound is at least X"
    )
    parser.add_argument("--output", metavar="FILE", help="another place for the JSON record, with all samples")
    add_checkout_arguments(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Measure, judge, record."""
    records.check_output(arguments.output)
    try:
        with subject(arguments) as found:
            record = measure(found, effort_of(arguments), arguments.seed)
    except (WorkerFailed, Void) as error:
        return failure(error, 5)
    paths = records.keep_both(found.plan.checkout.root, record, arguments.output)
    reached = is_reached(record, arguments.min_speedup)
    lines = [
        *summary(record),
        *beside(found),
        *_conclusion(reached, arguments.min_speedup),
        ("dim", f"record: {paths[-1]}"),
    ]
    return Result(lines, record, code=0 if reached else 5)


def measure(found: Subject, effort: Effort, seed: int | None = None, level: float = LEVEL) -> dict[str, Any]:
    """The record: every sample, and the verdict for each case. Raises :class:`WorkerFailed` and ``Void``."""
    seed = secrets.randbelow(2**31) if seed is None else seed
    begin = header(found, "bench")
    orders = [(COMPARED, order) for order in measurement.schedule(effort.blocks, seed)]
    orders += [(SAME, order) for order in measurement.schedule(effort.same, seed + 1)]
    orders = measurement.shuffled(orders, seed)
    samples: list[dict[str, Any]] = []
    profiles: dict[str, Any] = {}
    with progress(4 * len(orders) + 2) as advance:
        for side, arm in ((BEFORE, found.before), (AFTER, found.after)):
            profiles[side] = workers.run(arm, found.setting, "profile", cases=found.workload.cases)
            check_identity(profiles[side], found, int(side == AFTER))
            advance()
        for number, (kind, order) in enumerate(orders):
            for side in order:
                result = sample(found, effort, kind == COMPARED and side == AFTER, seed + number)
                samples.append({"block": number, "kind": kind, "side": side, **result})
                advance()
    _check_steady(samples)
    return {
        **begin,
        "seed": seed,
        "effort": effort._asdict(),
        "level": level,
        "versions": profiles[BEFORE]["versions"],
        "amounts": {case: list(amount) for case, amount in found.workload.amounts.items()},
        "requests": dict(found.workload.requests),
        "counts": {side: profile["counts"] for side, profile in profiles.items()},
        "stages": {side: _stages(samples, side, found.workload.cases) for side in (BEFORE, AFTER)},
        "verdicts": {case: _judged(samples, case, level)._asdict() for case in found.workload.cases},
        "samples": samples,
    }


def sample(found: Subject, effort: Effort, is_after: bool, seed: int) -> dict[str, Any]:
    """One process of one side. Raises :class:`WorkerFailed`, and ``Void`` where it ran other code than it should have."""
    arm: Arm = found.after if is_after else found.before
    result = timed(Ready(arm, found.setting, found.workload), effort, seed)
    ran = check_identity(result, found, int(is_after))
    return {"changed_lines_ran": ran, **{key: result[key] for key in ("cases", "memory", "stages", "load", "unsteady")}}


def timed(ready: Ready, effort: Effort, seed: int) -> dict[str, Any]:
    """What one process of a program says: the timings of each case, and of each stage."""
    return workers.run(
        ready.arm,
        ready.setting,
        "time",
        cases=ready.workload.cases,
        seeds=[seed],
        warm_up=2,
        iterations=effort.iterations,
        seconds=effort.seconds,
        limit=effort.limit,
    )


def _check_steady(samples: Sequence[Mapping[str, Any]]) -> None:
    """Raise where only the changed program gave other outputs for the first inputs once it had run often."""
    before, after = (
        {case for s in samples if (s["kind"], s["side"]) == pair for case in s["unsteady"]}
        for pair in ((COMPARED, BEFORE), (COMPARED, AFTER))
    )
    check_steady(before, after)


def check_steady(before: Set[str], after: Set[str]) -> None:
    """The same, of the cases in which each side did not agree with itself."""
    if after - before:
        message = (
            f"{', '.join(sorted(after - before))}: with the change the same inputs give other outputs after many runs"
        )
        raise Void(f"{message}, so that what was timed is not what verify compares", "look for what the change keeps")


def _stages(samples: Sequence[Mapping[str, Any]], side: str, cases: Sequence[str]) -> dict[str, dict[str, float]]:
    """For each case, the seconds of each stage: the median over the processes of one side."""
    own = [sample["stages"] for sample in samples if sample["kind"] == COMPARED and sample["side"] == side]
    return {
        case: {stage: statistics.median(stages[case][stage] for stages in own) for stage in own[0][case]}
        for case in cases
        if own and case in own[0]
    }


def _judged(samples: Sequence[Mapping[str, Any]], case: str, level: float) -> Verdict:
    own = [Sample(s["kind"], s["block"], s["side"], s["cases"][case]["median"]) for s in samples]
    return measurement.judge_samples(own, level)


def is_reached(record: dict[str, Any], wanted: float | None) -> bool:
    """Whether every case is faster, and by ``wanted`` at its interval's lower end; true where nothing is wanted."""
    verdicts = record["verdicts"].values()
    return wanted is None or all(v["word"] == FASTER and v["speedup"][1] >= wanted for v in verdicts)


def summary(record: dict[str, Any]) -> list[tuple[str, str]]:
    """What a measurement found, for people."""
    names = ", ".join(record["optimizations"])
    threads = f"{record['threads']} thread" + "s" * (record["threads"] != 1)
    lines = [("", f"{names}  ({len(record['samples'])} processes, {threads})")]
    for case, verdict in record["verdicts"].items():
        lines += _case_lines(record, case, verdict)
    return [*lines, *_memory(record), *_load(record)]


def _case_lines(record: dict[str, Any], case: str, verdict: dict[str, Any]) -> Iterator[tuple[str, str]]:
    estimate, low, high = verdict["speedup"]
    style = {FASTER: "green", SLOWER: "red"}.get(verdict["word"], "yellow")
    gain = f"at least {math.floor(1000 * low) / 1000:.3f}x" if verdict["word"] == FASTER else f"{estimate:.3f}x"
    noise = f"the same code against itself: up to {verdict['noise']:.3f}x"
    yield (
        style,
        f"{case:12}  {verdict['word']:14}{gain}  "
        f"({estimate:.3f}x, {100 * record['level']:.4g} % interval {low:.3f} to {high:.3f}; {noise})",
    )
    if verdict["word"] == INCONCLUSIVE:
        yield "dim", f"{'':12}the smallest effect that could have been seen: {verdict['smallest']:.3f}x"
    yield "dim", f"{'':12}{_counts(*(record['counts'][side][case] for side in (BEFORE, AFTER)))}"
    for stage, seconds in record["stages"][BEFORE].get(case, {}).items():
        after = record["stages"][AFTER].get(case, {}).get(stage, math.nan)
        if seconds or after:
            yield "dim", f"{'':12}{stage}: {seconds * 1000:.4g} -> {after * 1000:.4g} ms"


def _counts(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    refused = before.get("refused") or after.get("refused")
    if refused:
        return f"operators and synchronisations were not counted: {refused}"
    names = ("operators", "synchronisations")
    said = "; ".join(f"{name} {before[name]} -> {after[name]}" for name in names)
    kept = [side.get("kept_for_backward", 0) / 2**20 for side in (before, after)]
    return said + (f"; kept for the backward pass {kept[0]:.1f} -> {kept[1]:.1f} MiB" if any(kept) else "")


def _memory(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The peak of a process, in the middle of each side's."""
    samples = [sample for sample in record["samples"] if sample["kind"] == COMPARED]
    for what in samples[0]["memory"] if samples else ():
        sides = [[s["memory"][what] for s in samples if s["side"] == side] for side in (BEFORE, AFTER)]
        before, after = (statistics.median(values) / 2**20 for values in sides)
        yield "dim", f"peak memory ({what}): {before:.1f} -> {after:.1f} MiB"


def _load(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The seconds until the program can run: what is moved there is no gain for who starts it anew each time."""
    samples = [sample for sample in record["samples"] if sample["kind"] == COMPARED and "load" in sample]
    if samples:
        sides = [statistics.median(s["load"] for s in samples if s["side"] == side) for side in (BEFORE, AFTER)]
        yield "dim", f"loading: {sides[0]:.3g} -> {sides[1]:.3g} s"


def _conclusion(reached: bool, wanted: float | None) -> list[tuple[str, str]]:
    return [] if reached else [("red", f"a speed-up of at least {wanted:g} was asked for, and is not shown")]
