#!/usr/bin/env python3
"""Measure a Conformer encoder as it is, and as conformer_fast makes it; and a port of it beside. Works on copies.

测量 Conformer 编码器：原样与 conformer_fast 之后的对比，也可与单文件移植版对比。只在副本上运行。

    python scripts/benchmark_encoder.py --compare --repo ~/NeMo
    python scripts/benchmark_encoder.py --compare --profile --repo ~/NeMo --port ~/port/conformer_encoder.py
    python scripts/benchmark_encoder.py --profile --repo ~/NeMo --size large --frames 1600

--compare is `apply-opt verify` and `apply-opt bench` of conformer_fast on mixed and on full lengths, in inference and in
training: outputs and gradients first, then times in random order, then a page (report.html). With --port, the port's file is
held against the original in the same way: what it gives differs, or is the same, and how its time compares.
--profile prints where the time goes, operator by operator, before and after (torch.profiler).

Exit codes are those of apply-opt: 0 done, 1 an expected failure, 2 wrong usage, 3 refused, 4 results are not as promised,
5 a measurement failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)  # this clone's own apply_opt, whatever is installed

from apply_opt import cli  # noqa: E402
from apply_opt.errors import ApplyOptError, Refused, UsageError  # noqa: E402

PART, ROWS = "encoder", 15
QUIET = "99"  # of the profiler's own messages: none


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, profile, or both."""
    arguments = parser().parse_args(argv)
    try:
        _check(arguments)
        if arguments.inside:
            return _profile_here(arguments.inside)
        code = compare(arguments) if arguments.compare else 0
        return code or (profile(arguments) if arguments.profile else 0)
    except ApplyOptError as error:
        print(f"benchmark_encoder: {error.message}", *error.next_step.splitlines(), sep="\n  ", file=sys.stderr)
        return error.exit_code


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(
        prog="benchmark_encoder.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    add("--compare", action="store_true", help="results and times / 对比结果与耗时")
    add("--profile", action="store_true", help="where the time goes / 耗时分布")
    add("--repo", metavar="DIR", default=".", help="NeMo: a clone or an unpacked wheel (default: here) / NeMo 所在目录")
    add("--file", metavar="PATH", help="as of apply-opt: the encoder's file / 编码器所在文件")
    add("--port", metavar="FILE", help="an encoder in one file, to be held against NeMo's / 单文件移植版")
    named = "what is measured, with commas between (default: conformer_fast) / 测量哪些优化"
    add("--optimizations", default="conformer_fast", metavar="NAMES", help=named)
    add("--size", default="small", choices=("tiny", "small", "large"), help="(default: small) / 模型大小")
    add("--batch", default="4", metavar="N", help="utterances, with commas between (default: 4) / 批大小")
    add("--frames", default="400", metavar="N", help="of the longest, with commas between (default: 400) / 帧数")
    add("--threads", default="1", metavar="N", help="(default: 1) / 线程数")
    add("--quick", action="store_true", help="fewer and shorter measurements / 更少、更短的测量")
    add("--rigorous", action="store_true", help="more and longer ones / 更多、更长的测量")
    add("--inside", help=argparse.SUPPRESS)
    return result


def _check(arguments: argparse.Namespace) -> None:
    if not (arguments.compare or arguments.profile or arguments.inside):
        raise UsageError("there is nothing to do", "python scripts/benchmark_encoder.py --compare --profile --repo DIR")
    if arguments.port and not os.path.isfile(arguments.port):
        raise UsageError(f"--port {arguments.port} is not a file", "--port FILE: the module with ConformerEncoder")
    if importlib.util.find_spec("torch") is None:
        raise ApplyOptError("torch is not installed", "pip install torch")


def compare(arguments: argparse.Namespace) -> int:
    """``verify``, ``bench``, ``report``; and the same for the port, without a page."""
    own = [*_place(arguments), *_workload(arguments)]
    effort = [word for word in ("--quick", "--rigorous") if vars(arguments)[word[2:]]]
    names = arguments.optimizations.split(",")
    code = cli.main(["verify", *names, *own]) or cli.main(["bench", *names, *own, *effort])
    if code == 0:
        cli.main(["report", *_place(arguments)])
    return _compare_port(arguments, [*own, *effort]) if arguments.port and code == 0 else code


def _place(arguments: argparse.Namespace) -> list[str]:
    return ["--repo", arguments.repo, *(["--file", arguments.file] if arguments.file else [])]


def _options(arguments: argparse.Namespace) -> dict[str, str]:
    return {name: vars(arguments)[name] for name in ("size", "batch", "frames")}


def _workload(arguments: argparse.Namespace) -> list[str]:
    given = _options(arguments) | {"lengths": "mixed,full"}
    words = [word for name, value in given.items() for word in ("--option", f"{name}={value}")]
    return [*words, "--threads", arguments.threads]


def _compare_port(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """The port in the place of NeMo's encoder: does it give the same, and how long does it take?"""
    from apply_opt.commands import bench
    from apply_opt.commands.proof import subject_between
    from apply_opt.commands.proof_options import effort_of
    from apply_opt.io import files, workers
    from apply_opt.io.parts import Parts
    from apply_opt.model import parity

    own, plan = _planned(arguments, words)
    path = Parts(plan.checkout).file(PART)
    if path == plan.checkout.file:
        raise Refused(f"{path} holds the whole encoder: it is a port itself", "name NeMo: --repo DIR")
    texts = {path: (files.read(os.path.join(plan.checkout.root, path)) or b"", files.read(arguments.port) or b"")}
    print(f"\n{arguments.port} in the place of {path}:")
    with subject_between(plan, ["the port"], texts, own) as found:
        jobs = (
            workers.run(arm, found.setting, "observe", cases=found.workload.cases, seeds=[0])
            for arm in (found.before, found.after)
        )
        one, other = (result["values"] for result in jobs)
        different = parity.differences(one, other, parity.rule_of("exact"))
        print(f"{len(one)} observations, of which {len(different)} differ", *map(_shown, different[:ROWS]), sep="\n  ")
        record = bench.measure(found, effort_of(own), own.seed)
        print(*(text for _, text in bench.summary(record)), sep="\n")
    return 0


def _shown(difference: Any) -> str:
    return f"{difference.name}: {difference.how}"


def _planned(arguments: argparse.Namespace, words: Sequence[str]) -> tuple[argparse.Namespace, Any]:
    """What ``apply-opt bench`` makes of ``words``, and the plan for them."""
    from apply_opt.commands import bench
    from apply_opt.commands.planning import locate, plan_for

    command = argparse.ArgumentParser()
    bench.add_arguments(command)
    own = command.parse_args([*arguments.optimizations.split(","), *words])
    return own, plan_for(own, *locate(own), as_it_is=True)


def profile(arguments: argparse.Namespace) -> int:
    """One table for each side and kind of run."""
    from apply_opt.commands.proof import sides
    from apply_opt.io import arms

    _, plan = _planned(arguments, [*_place(arguments), *_workload(arguments)])
    texts, _ = sides(plan)
    if not texts:
        raise Refused("; ".join(f"{o.name}: {o.message}" for o in plan.outcomes), "apply-opt status")
    before, after = ({path: pair[side] for path, pair in texts.items()} for side in (0, 1))
    options = _options(arguments) | {"file": plan.checkout.file}
    with arms.copies(plan.checkout.root, before, after) as pair:
        for side, arm in zip(("before", "after"), pair):
            asked = {"folder": arm.checkout, "side": side, "options": options, "threads": int(arguments.threads)}
            command_line = [sys.executable, os.path.abspath(__file__), "--inside", json.dumps(asked)]
            environment = {"KINETO_LOG_LEVEL": QUIET, **os.environ}
            code = subprocess.run(command_line, cwd=arm.checkout, env=environment, check=False).returncode
            if code:
                return 1
    return 0


def _profile_here(text: str) -> int:
    """In a process of its own: run each case under the profiler, after a run that warms up."""
    asked = json.loads(text)
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    workload = _load_workload()
    torch.set_num_threads(asked["threads"])
    sys.path.insert(0, asked["folder"])
    options = asked["options"]
    subject = workload.load("", options)
    for case in workload.cases(options):
        for seed in range(3):
            workload.run(subject, workload.inputs(case, seed))
        inputs = workload.inputs(case, 3)
        with profiler(activities=[ProfilerActivity.CPU]) as found:
            workload.run(subject, inputs)
        print(f"\n{case}, {asked['side']}:")
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=ROWS, max_name_column_width=40))
    return 0


def _load_workload() -> Any:
    path = os.path.join(ROOT, "target_repos", "nemo_conformer", "workload.py")
    specification = importlib.util.spec_from_file_location("workload", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
