#!/usr/bin/env python3
"""How often ``apply-opt bench`` is right on this machine: on the same code twice, and on one that is made slower.

    python scripts/check_bench.py --times 20 --option seconds=1.03706
    python scripts/check_bench.py --times 50 --quick --slowdown 0.05 --output check.json

Runs the reference tree of the tokenizer, so many times each: with a local renamed (a verdict of faster or slower is wrong),
and with a wait in it that takes a given share of each run (it is to be seen, and slower). Do it on a machine that does
nothing else. The exit code is 1 where more than 1 in 20 verdicts on the same code was wrong, where one called the slower code
faster, or where fewer than half of those on it were "slower".
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from typing import Any

from apply_opt.commands import bench
from apply_opt.commands.planning import Plan, Request, Texts, make_plan
from apply_opt.commands.proof import subject_between
from apply_opt.commands.proof_options import above, add_effort_arguments, add_proof_arguments, effort_of
from apply_opt.io import catalog, checkout, machine
from apply_opt.model.measurement import FASTER, SLOWER

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REFERENCE = os.path.join(ROOT, "target_repos", "step_audio_editx", "reference")
LINE = b"        vq02, vq06 = self.get_vq02_code(audio), self.get_vq06_code(audio)\n"
RENAMED = b"        sound = audio\n" + LINE.replace(b"(audio)", b"(sound)")
SLOWER_BY = b"""\
        began = time.perf_counter()
%b        until = time.perf_counter() + %f * (time.perf_counter() - began)
        while time.perf_counter() < until:
            pass
"""


def main() -> int:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=above(0, int), default=10, metavar="N", help="of each kind (default: 10)")
    parser.add_argument("--slowdown", type=above(0.0, float), default=0.03, metavar="SHARE", help="default: 0.03")
    parser.add_argument("--output", metavar="FILE", help="write what was found (JSON) there")
    add_proof_arguments(parser)
    add_effort_arguments(parser)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"times": arguments.times, "effort": effort_of(arguments)._asdict()}
    found["machine"] = machine.summary()
    kinds = {"the same code": RENAMED, f"slower by {arguments.slowdown:g}": SLOWER_BY % (LINE, arguments.slowdown)}
    with tempfile.TemporaryDirectory() as scratch:
        tree = os.path.join(scratch, "tree")
        shutil.copytree(REFERENCE, tree, ignore=shutil.ignore_patterns("__pycache__"))
        plan = _plan(tree)
        before = plan.files[plan.checkout.file][0]
        assert before.count(LINE) == 1
        for name, lines in kinds.items():
            found[name] = _verdicts(plan, name, (before, before.replace(LINE, lines)), arguments)
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
    words = [verdict["word"] for verdicts in found["the same code"] for verdict in verdicts.values()]
    is_alarmed = 20 * sum(word in (FASTER, SLOWER) for word in words) > len(words)
    slowed = [v["word"] for verdicts in found[f"slower by {arguments.slowdown:g}"] for v in verdicts.values()]
    return int(is_alarmed or FASTER in slowed or 2 * slowed.count(SLOWER) < len(slowed))


def _plan(tree: str) -> Plan:
    """The tree as a checkout; what is planned for it is of no interest."""
    units = catalog.load(packs=False)
    place = checkout.find(tree, units.targets.values())
    return make_plan(units, place, [units.optimizations["tokenizer_ort_threads"]], Request())


def _verdicts(plan: Plan, name: str, texts: Texts, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The verdicts of each measurement, for each case; said as they come."""
    found = []
    with subject_between(plan, [name], {plan.checkout.file: texts}, arguments) as subject:
        for number in range(arguments.times):
            seed = None if arguments.seed is None else arguments.seed + number
            found.append(bench.measure(subject, effort_of(arguments), seed)["verdicts"])
            for case in subject.workload.cases:
                counts = Counter(verdicts[case]["word"] for verdicts in found)
                said = ", ".join(f"{word} {count}" for word, count in counts.most_common())
                speedup = ", ".join(f"{value:.4f}" for value in found[-1][case]["speedup"])
                print(f"{name}, {case}, {number + 1} of {arguments.times}: {said}  (last: {speedup})", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
