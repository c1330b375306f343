"""``apply-opt compile-check [TARGET]``: what ``torch.compile`` would do for the program, as it is."""

from __future__ import annotations

import argparse
import secrets
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apply_opt.commands import Result, add_checkout_arguments
from apply_opt.commands.progress import waiting
from apply_opt.commands.proof import alone, conditions, failure, named_checkout
from apply_opt.commands.proof_options import (
    add_effort_arguments,
    add_proof_arguments,
    add_target_argument,
    effort_of,
)
from apply_opt.errors import ApplyOptError, UsageError
from apply_opt.io import machine, workers
from apply_opt.io.workers import Arm, Setting, WorkerFailed
from apply_opt.model import compiled, measurement
from apply_opt.model.compiled import CHANGES, PAYS, Case
from apply_opt.model.measurement import BEFORE, COMPARED, LEVEL, SAME, Sample

HELP = "what torch.compile would do for a target's program: graphs, breaks, time to compile, gain, parity, a verdict"
EPILOG = """examples:
  apply-opt compile-check                                 the whole, as a user would compile it
  apply-opt compile-check time_llm --stage wavelets --option prompt=dwt
  apply-opt compile-check nemo_conformer --stage attention --quick --json
  apply-opt compile-check --backend aot_eager             graphs, breaks and parity; without a C++ compiler, and without times

A break is a place where a graph has to end: what is there runs in Python. The ratio is how many times as fast the compiled calls
are; both kinds take turns in one process, in random blocks, and the interval is that of `bench`. A verdict is no failure: the exit
code is 0 whatever it is. Nothing is written to the checkout, and no record is kept."""
WHOLE, INDUCTOR = "whole", "inductor"
BACKENDS = (INDUCTOR, "aot_eager", "eager")
SEEDS = (0, 1, 2)
COMPILING = "apply-opt: compiling from here on"
"""What the worker prints when it begins: what goes wrong afterwards, and ends it, is the compiler's."""
SHARE = 10
"""A sample takes this share of one of ``bench``'s, which has a process of its own to start."""
Line = tuple[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_target_argument(parser)
    parser.add_argument(
        "--stage", metavar="NAME", default=WHOLE, help="a part of the program (a wrong name lists them; default: whole)"
    )
    parser.add_argument("--backend", choices=BACKENDS, default=INDUCTOR, help="of torch.compile (default: inductor)")
    add_proof_arguments(parser)
    add_effort_arguments(parser)
    add_checkout_arguments(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Compile, count, compare, measure, judge."""
    place = named_checkout(arguments)
    if arguments.backend == INDUCTOR:
        _need_compiler()
    try:
        with alone(place, arguments) as (arm, setting, workload), waiting("it is compiled: minutes, not seconds"):
            orders = _orders(arguments)
            begin = {"kind": "compile-check", **conditions(place, setting), **_asked(arguments)}
            timed, every = list(workload.cases), list(workload.compared)
            found = _found(arm, setting, arguments, cases=timed, compared=every, orders=orders)
    except WorkerFailed as error:
        return failure(error, 4)
    document = {**begin, **_document(found)}
    return Result(list(_lines(document)), document)


def _need_compiler() -> None:
    if machine.compiler() is None:
        message = f"torch.compile's inductor needs a C++ compiler, and {machine.compiler_name()} is not found here"
        step = "install one (Debian: apt install g++), or name it: export CXX=PROGRAM\n"
        raise ApplyOptError(
            message, f"{step}without one, and without times: apply-opt compile-check --backend aot_eager"
        )


def _orders(arguments: argparse.Namespace) -> list[tuple[str, Sequence[str]]]:
    """The blocks, as ``bench`` has them; none where what is compiled does not run as compiled code."""
    if arguments.backend != INDUCTOR:
        return []
    arguments.seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    effort = effort_of(arguments)
    orders = [(COMPARED, order) for order in measurement.schedule(effort.blocks, arguments.seed)]
    orders += [(SAME, order) for order in measurement.schedule(effort.same, arguments.seed + 1)]
    return measurement.shuffled(orders, arguments.seed)


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"stage": arguments.stage, "backend": arguments.backend, "seed": arguments.seed, "level": LEVEL}


def _found(arm: Arm, setting: Setting, arguments: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """What the worker tells; a process that ended while it compiled has told something, too."""
    effort = effort_of(arguments)
    limits = {
        "iterations": -(-effort.iterations // SHARE),
        "seconds": effort.seconds / SHARE,
        "limit": effort.limit / SHARE,
    }
    more |= {
        "budget": arguments.timeout / 2,
        **limits,
        "stage": arguments.stage,
        "backend": arguments.backend,
        "kind": COMPARED,
        "seeds": SEEDS,
    }
    try:
        found = workers.run(arm, setting, "compile", seed=arguments.seed or 0, **more)
    except WorkerFailed as error:
        if COMPILING not in error.output:
            raise
        more_time = "; --timeout SECONDS for more" * (error.reason == "hung")
        return {"failed": error.message + more_time, "cases": {}, "samples": [], "versions": {}, "stages": []}
    if arguments.stage not in found["stages"]:
        names = ", ".join(found["stages"])
        raise UsageError(f"the program has no stage called {arguments.stage}", f"--stage NAME: {names}")
    if not found["cases"]:
        message = f"{arguments.stage} did not run: the workload goes another way"
        raise WorkerFailed("unused", message, (), "choose what is run: --option KEY=VALUE")
    return found


def _document(found: Mapping[str, Any]) -> dict[str, Any]:
    """What was found, with what follows from it."""
    known = {key: found.get(key) for key in ("versions", "stages", "failed", "first", "graphs", "again", "operators")}
    known |= {"breaks": found.get("breaks", []), "fullgraph": found.get("fullgraph"), "seconds": found.get("seconds")}
    samples = [{**s, "median": statistics.median(s["times"])} for s in found["samples"]]
    verdicts = (
        {case: _verdict(samples, case) for case in dict.fromkeys(s["case"] for s in samples)}
        if not found["failed"]
        else {}
    )
    cases = {name: _case(found, samples, name, verdict) for name, verdict in verdicts.items()}
    even = {name: compiled.calls_to_break_even(case, found["seconds"]) for name, case in cases.items()}
    judged = compiled.judge(found, cases, even)
    return {
        **known,
        "cases": found["cases"],
        "verdicts": {case: verdict._asdict() for case, verdict in verdicts.items()},
        "calls_to_break_even": even,
        "verdict": judged.word,
        "sentence": judged.sentence,
        "samples": samples,
    }


def _verdict(samples: Sequence[Mapping[str, Any]], case: str) -> measurement.Verdict:
    own = [Sample(s["kind"], s["block"], s["side"], s["median"]) for s in samples if s["case"] == case]
    return measurement.judge_samples(own)


def _case(
    found: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], case: str, verdict: measurement.Verdict
) -> Case:
    eager = [s["median"] for s in samples if s["case"] == case and s["kind"] == COMPARED and s["side"] == BEFORE]
    return Case(verdict.word, verdict.speedup, statistics.median(eager), found["cases"][case]["calls"])


def _lines(document: Mapping[str, Any]) -> Iterator[Line]:
    """All of it, for people."""
    version, backend = document["versions"].get("torch", ""), document["backend"]
    title = f"torch.compile ({' '.join(filter(None, ['torch', version]))}, backend {backend})"
    yield "bold", f"{title} of {document['target']}, stage {document['stage']}"
    if document["first"]:
        yield from _counts(document)
        yield from _places(document["breaks"])
    for case, found in document["cases"].items():
        yield from _case_lines(document, case, found)
    style = {PAYS: "green", CHANGES: "red"}.get(document["verdict"], "yellow")
    yield style, document["sentence"]


def _counts(document: Mapping[str, Any]) -> Iterator[Line]:
    first, places = document["first"], document["breaks"]
    breaks = sum(place["times"] for place in places)
    yield (
        "",
        f"first call      {_number(first['graphs'], 'graph')}, {_number(first['breaks'], 'break')}; {first['seconds']:.3g} s",
    )
    again = f", {document['again']} of them for a second time" if document["again"] else ""
    text = (
        f"{_number(document['graphs'], 'graph')}{again}, {_number(breaks, 'break')} in {_number(len(places), 'place')}"
    )
    seconds = "" if document["failed"] else f"; {document['seconds']:.3g} s to compile"
    yield "", f"all cases       {text}{seconds}"
    full = document["fullgraph"]
    yield "", f"fullgraph=True  {'works' if full['works'] else 'does not work: ' + full['reason']}"


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _places(places: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    if places:
        yield "", "breaks, in the first call and in all cases:"
    for place in places:
        origin = f", from {place['from']}" if place["from"] not in ("", place["place"]) else ""
        yield "", f"  {place['first']:3} {place['times']:4}  {place['place']}{origin}"
        yield "dim", f"            {place['reason']}"


def _case_lines(document: Mapping[str, Any], case: str, found: Mapping[str, Any]) -> Iterator[Line]:
    yield "", f"{case}: {_parity(found)}{_new(found)}"
    verdict = document["verdicts"].get(case)
    if verdict:
        estimate, low, high = verdict["speedup"]
        noise = f"the original against itself: up to {verdict['noise']:.3f}x"
        text = f"{verdict['word']} {estimate:.3f}x ({100 * LEVEL:.4g} % interval {low:.3f} to {high:.3f}; {noise})"
        even = document["calls_to_break_even"][case]
        pays = "never pays" if even is None else f"pays after at most {_number(even, 'call')}"
        yield "dim", f"  {text}; {pays}"


def _parity(found: Mapping[str, Any]) -> str:
    if "parity" not in found:
        return "not compared, for lack of time"
    parity = found["parity"]
    if not found["steady"]:
        return "not comparable: the program does not agree with itself"
    if parity["identical"]:
        return "identical"
    parts = [f"{parity['other']} is of another kind"] if parity["other"] else []
    if parity["discrete"] > parity["same"]:
        parts.append(
            f"{parity['discrete'] - parity['same']} of {parity['discrete']} texts, whole numbers and the like differ"
        )
    return "; ".join([*parts, *([f"largest difference {parity['largest']:.3g}"] if parity["largest"] else [])])


def _new(found: Mapping[str, Any]) -> str:
    return (
        f"; {_number(found['graphs'], 'new graph')}, {found['again']} for a second time" if found.get("graphs") else ""
    )
