#!/usr/bin/env python3
"""How quick the command line is, as ratios measured in one run.

    python scripts/bench_cli.py                              on the reference tree
    python scripts/bench_cli.py --upstream CLONE             on a clone of stepfun-ai/Step-Audio-EditX
    python scripts/bench_cli.py --output benchmarks/bench_cli.json

Each round runs everything once, in an order drawn anew, so that a busy moment of the machine hits both sides of a
ratio alike. A ratio is the median over rounds; its interval is a 95 % percentile bootstrap over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from apply_opt import __version__
from apply_opt.io import catalog, machine
from apply_opt.model.digest import sha256

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REFERENCE = os.path.join(ROOT, "target_repos", "step_audio_editx", "reference")
GOALS = {
    "status, pristine / python -c pass": 4.0,
    "status, applied / python -c pass": 4.0,
    "tokenizer_quick / libcst.tool codemod": 0.6,
    "plan for 2,650 lines / LibCST parse": 0.5,
    "tokenizer_quick, 20,000 files / small tree": 1.15,
}
PLAN = """
import gc, sys, time, libcst
from apply_opt.commands.planning import Request, make_plan, members
from apply_opt.io import catalog
from apply_opt.io.checkout import find
units = catalog.load()
names = members(units, ["tokenizer_quick"])
place = find(sys.argv[1], units.targets.values())
text = open(place.path(), encoding="utf-8").read()
for optimization in names:
    catalog.codemod(optimization)
libcst.parse_module("x = 1")
gc.disable()  # as in the command
start = time.perf_counter()
if sys.argv[2] == "plan":
    outcomes = make_plan(units, place, names, Request(allow=["lossy"])).outcomes
    assert [o.kind for o in outcomes] == ["planned", "planned", "left_out"], outcomes
else:
    libcst.parse_module(text)
print(time.perf_counter() - start)
"""
Timer = Callable[[], float]


def main() -> int:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", metavar="CLONE", help="a clone of stepfun-ai/Step-Audio-EditX")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--output", metavar="FILE", help="write the record (JSON) there")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # users have byte code, as installed packages do
    if arguments.output:
        os.makedirs(os.path.dirname(os.path.abspath(arguments.output)), exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        record = measure(scratch, arguments.upstream or REFERENCE, arguments.rounds)
    for name, row in record["ratios"].items():
        mark = "ok  " if row["ratio"] <= row["goal"] else "MISS"
        print(f"{mark} {name:45} {row['ratio']:6.2f}  [{row['low']:.2f}, {row['high']:.2f}]  goal {row['goal']}")
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
            file.write("\n")
    return int(any(row["ratio"] > row["goal"] for row in record["ratios"].values()))


def measure(scratch: str, tree: str, rounds: int) -> dict[str, Any]:
    """All timers, ``rounds`` times, and the ratios between them."""
    timers = _timers(scratch, tree)
    samples: dict[str, list[float]] = {name: [] for name in timers}
    generator = random.Random(0)
    for number in range(rounds + 1):
        for name in generator.sample(sorted(timers), len(timers)):
            seconds = timers[name]()
            if number:  # the first round warms the file cache and the byte code up
                samples[name].append(seconds)
    pairs = {name: name.split(" / ") for name in GOALS}
    ratios = {name: _ratio(samples[a], samples[b], GOALS[name]) for name, (a, b) in pairs.items()}
    with open(os.path.join(tree, "tokenizer.py"), "rb") as file:
        tree_hash = sha256(file.read())
    return {
        "what": "scripts/bench_cli.py: command line, wall time, ratios in one run in random order",
        "apply_opt": __version__,
        "codemods": {n: _hash(o.codemod) for n, o in catalog.load().optimizations.items()},
        "tokenizer_sha256": tree_hash,
        "machine": machine.summary(),
        "rounds": rounds,
        "ratios": ratios,
        "seconds": samples,
    }


def _hash(path: str) -> str:
    with open(path, "rb") as file:
        return sha256(file.read())


def _ratio(numerator: Sequence[float], denominator: Sequence[float], goal: float) -> dict[str, float]:
    rounds = [a / b for a, b in zip(numerator, denominator)]
    generator = random.Random(1)
    medians = sorted(statistics.median(generator.choices(rounds, k=len(rounds))) for _ in range(2000))
    return {"ratio": statistics.median(rounds), "low": medians[50], "high": medians[-51], "goal": goal}


def _timers(scratch: str, tree: str) -> dict[str, Timer]:
    command = [os.path.join(os.path.dirname(sys.executable), "apply-opt")]
    pristine, applied, small, big, long = (
        _copy(tree, scratch, n) for n in ("pristine", "applied", "small", "big", "long")
    )
    for number in range(20_000):
        folder = os.path.join(big, "data", str(number // 200))
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, f"{number}.py"), "w", encoding="utf-8") as file:
            file.write(f"x = {number}\n")
    for folder in (small, big):
        _commit(folder)
    subprocess.run(
        [*command, "tokenizer_quick", "--allow", "lossy"], cwd=applied, check=True, stdout=subprocess.DEVNULL
    )
    codemod = ["-m", "libcst.tool", "codemod", "--jobs=1", "--no-format", "--hide-progress"]
    codemod += ["convert_format_to_fstring.ConvertFormatStringCommand", "tokenizer.py"]
    _lengthen(os.path.join(long, "tokenizer.py"), 2650)
    return {
        "python -c pass": lambda: _time([sys.executable, "-c", "pass"], pristine),
        "status, pristine": lambda: _time([*command, "status"], pristine),
        "status, applied": lambda: _time([*command, "status"], applied),
        "libcst.tool codemod": lambda: _time([sys.executable, *codemod], pristine),
        "tokenizer_quick": lambda: _apply(command, small),
        "small tree": lambda: _apply(command, small),
        "tokenizer_quick, 20,000 files": lambda: _apply(command, big),
        "plan for 2,650 lines": lambda: _inside(long, "plan"),
        "LibCST parse": lambda: _inside(long, "parse"),
    }


def _copy(tree: str, scratch: str, name: str) -> str:
    folder = os.path.join(scratch, name)
    shutil.copytree(tree, folder, ignore=shutil.ignore_patterns(".git", ".apply-opt", "__pycache__"))
    return folder


def _commit(folder: str) -> None:
    settings = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "tree"]):
        subprocess.run(["git", *settings, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _lengthen(path: str, lines: int) -> None:
    """Put methods of another class behind the tokenizer's until the file has ``lines`` lines."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    method = "    def step_{n}(self, value, scale={n}):\n        total = value * scale + {n}\n        if total > {n}:\n"
    method += "            self.seen[{n}] = [total, {{'scale': scale, 'value': value}}]\n        return total\n\n"
    text += "\n\nclass Padding:\n"
    number = 0
    while text.count("\n") < lines:
        text += method.format(n=number)
        number += 1
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _time(command: Sequence[str], folder: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def _apply(command: Sequence[str], folder: str) -> float:
    """The time of an apply; what it did is taken out again, outside the clock."""
    seconds = _time([*command, "tokenizer_quick", "--allow", "lossy"], folder)
    subprocess.run([*command, "revert", "--all"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return seconds


def _inside(folder: str, what: str) -> float:
    """The time of planning (or of LibCST's parse) within a process that has imported everything already."""
    result = subprocess.run([sys.executable, "-c", PLAN, folder, what], check=True, capture_output=True, text=True)
    return float(result.stdout)


if __name__ == "__main__":
    sys.exit(main())
