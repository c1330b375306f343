"""``apply-opt tune NAME``: the values of an optimization's parameters that are fastest on this machine, found by measuring.

Each candidate is measured against the defaults. With ``k`` candidates, the level of the intervals goes from 95 % to
1 - 0.05 / k, so that to name a winner is wrong in at most 1 of 20 searches (C. E. Bonferroni, 1936; see O. J. Dunn,
"Multiple Comparisons among Means", JASA 56, 1961).
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from apply_opt.commands import Result, add_checkout_arguments, bench
from apply_opt.commands.planning import (
    Plan,
    Request,
    Texts,
    add_plan_arguments,
    locate,
    make_plan,
    parse_settings,
    refuse_unless_landed,
)
from apply_opt.commands.proof import Void, subject_between
from apply_opt.commands.proof_options import add_effort_arguments, add_proof_arguments, effort_of
from apply_opt.errors import Refused, UsageError
from apply_opt.io import machine
from apply_opt.io.catalog import Catalog
from apply_opt.io.checkout import Checkout
from apply_opt.io.workers import WorkerFailed
from apply_opt.model.measurement import FASTER, LEVEL
from apply_opt.model.plan import PLANNED
from apply_opt.model.unit import Optimization

HELP = "find the fastest values of an optimization's parameters on this machine, by measuring"
EPILOG = """examples:
  apply-opt tune tokenizer_ort_threads --quick
  apply-opt tune tokenizer_ort_threads --values intra_op=1,2,3 --option seconds=10

Prints the --set line of the best; the defaults stay the best unless another is shown to be faster in every case."""
MOST = 24


class Failed(NamedTuple):
    """Values that the program could not be measured with, and why."""

    values: Mapping[str, str]
    error: WorkerFailed | Void


class Candidate(NamedTuple):
    """Values to try, and what the measurement against the defaults said."""

    values: Mapping[str, str]
    record: dict[str, Any]

    def low(self) -> float:
        """The least of the intervals' lower ends."""
        return min(float(verdict["speedup"][1]) for verdict in self.record["verdicts"].values())

    def is_better(self) -> bool:
        """Whether it is faster than the defaults in every case."""
        return all(verdict["word"] == FASTER for verdict in self.record["verdicts"].values())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_plan_arguments(parser)
    parser.add_argument(
        "--values",
        metavar="KEY=A,B,…",
        action="append",
        default=[],
        help="what to try, in place of the manifest's list",
    )
    add_checkout_arguments(parser)
    add_proof_arguments(parser, threads=None)
    add_effort_arguments(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Measure each candidate, and say which is best."""
    units, place = locate(arguments)
    (name,) = arguments.names if len(arguments.names) == 1 else (None,)
    if name not in units.optimizations:
        raise UsageError("one optimization at a time is tuned", "apply-opt tune tokenizer_ort_threads")
    optimization = units.optimizations[name]
    base = _planned(units, place, optimization, arguments, {})
    if not base.of_kind(PLANNED):
        step = f"apply-opt revert {name}, then tune, then apply"
        raise Refused(f"{name} is there already, or not needed: {base.outcomes[0].message}", step)
    grid = _grid(optimization, arguments)
    plans = [(values, _planned(units, place, optimization, arguments, values)) for values in grid]
    tried = [(values, plan) for values, plan in plans if _between(base, plan)]
    if not tried:
        raise UsageError(f"{name}: no values to try but the defaults", f"apply-opt tune {name} --values KEY=A,B")
    level = 1 - (1 - LEVEL) / len(tried)
    tries = []
    for number, (values, plan) in enumerate(tried, start=1):
        print(f"{number} of {len(tried)}: {_settings(values)}", file=sys.stderr, flush=True)
        tries.append(_tried(values, plan, base, arguments, level))
    found = [candidate for candidate in tries if isinstance(candidate, Candidate)]
    failed = [candidate for candidate in tries if isinstance(candidate, Failed)]
    if not found:
        raise failed[0].error
    return _result(optimization, found, failed, arguments)


def _grid(optimization: Optimization, arguments: argparse.Namespace) -> list[dict[str, str]]:
    """Every combination of the values to try. What ``--set`` gives is not varied."""
    given = parse_settings(arguments.set)
    wanted = {key: text.split(",") for key, text in parse_settings(arguments.values).items()}
    known = {p.name: p for p in optimization.parameters}
    for key in wanted:
        if key not in known:
            raise UsageError(
                f"{optimization.name} has no parameter called {key}", f"apply-opt show {optimization.name}"
            )
    cores = arguments.threads or machine.cores()["usable"]
    lists = {
        name: wanted.get(name) or parameter.candidates(cores)
        for name, parameter in known.items()
        if name in wanted or (parameter.tune and name not in given)
    }
    grid = [dict(zip(lists, values)) for values in itertools.product(*lists.values())]
    if len(grid) > MOST:
        raise UsageError(f"{len(grid)} combinations are more than {MOST}", "fewer at a time: --values KEY=A,B")
    return grid


def _planned(
    units: Catalog,
    place: Checkout,
    optimization: Optimization,
    arguments: argparse.Namespace,
    values: Mapping[str, str],
) -> Plan:
    given = {**parse_settings(arguments.set), **values}
    plan = make_plan(units, place, [optimization], Request(given, arguments.allow, arguments.preflight))
    refuse_unless_landed(plan, [optimization.name])
    return plan


def _between(base: Plan, plan: Plan) -> dict[str, Texts]:
    """The files that differ between the results of two plans."""
    texts = {path: (base.files[path][1], plan.files[path][1]) for path in plan.files}
    return {path: pair for path, pair in texts.items() if pair[0] != pair[1]}


def _tried(
    values: Mapping[str, str], plan: Plan, base: Plan, arguments: argparse.Namespace, level: float
) -> Candidate | Failed:
    names = [outcome.name for outcome in plan.outcomes]
    try:
        with subject_between(plan, names, _between(base, plan), arguments) as found:
            return Candidate(values, bench.measure(found, effort_of(arguments), arguments.seed, level))
    except (WorkerFailed, Void) as error:  # with these values; what the others gave is not lost
        return Failed(values, error)


def _result(
    optimization: Optimization, found: Sequence[Candidate], failed: Sequence[Failed], arguments: argparse.Namespace
) -> Result:
    better = [candidate for candidate in found if candidate.is_better()]
    best = max(better, key=Candidate.low, default=None)
    lines = [("", f"{optimization.name}: against the defaults, each interval at {found[0].record['level']:.2%}")]
    for candidate in sorted(found, key=Candidate.low, reverse=True):
        style = "green" if candidate is best else ""
        for case, verdict in candidate.record["verdicts"].items():
            estimate, low, high = verdict["speedup"]
            text = f"{_settings(candidate.values):40} {case:10} {verdict['word']:14} "
            lines.append((style, text + f"{estimate:.3f}x  ({low:.3f} to {high:.3f})"))
    lines += [("red", f"{_settings(values):40} {error.message}") for values, error in failed]
    if best is None:
        lines.append(("bold", "none is shown to be faster than the defaults in every case: leave them"))
    given = {key: value for key, value in parse_settings(arguments.set).items() if not best or key not in best.values}
    allowed = ["--allow lossy"] if arguments.allow else []
    chosen = _settings({**given, **(best.values if best else {})})
    command = " ".join(["apply-opt", optimization.name, *filter(None, [chosen, *allowed])])
    lines.append(("bold", command))
    document = {
        "optimization": optimization.name,
        "best": dict(best.values) if best else {},
        "command": command,
        "candidates": [{"values": dict(c.values), "bench": c.record} for c in found],
        "failed": [{"values": dict(values), "error": error.message} for values, error in failed],
    }
    return Result(lines, document)


def _settings(values: Mapping[str, str]) -> str:
    return " ".join(f"--set {key}={value}" for key, value in values.items())
