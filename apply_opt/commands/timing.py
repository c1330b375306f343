"""``apply-opt timing show FILE``: the times that a timed program left, and what holds it up."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, Optional

from apply_opt.commands import Result, add_json_argument
from apply_opt.commands.words import language
from apply_opt.errors import ApplyOptError
from apply_opt.io import catalog, files
from apply_opt.model.stage_times import (
    Bottleneck,
    StageTime,
    Times,
    Waiting,
    parse,
    parse_bottlenecks,
    parse_waiting,
)

HELP = "the times that a timed program left in its log or its JSON file, and what holds it up"
EPILOG = """examples:
  apply-opt act_timing                                                  put the stages in
  python imitate_episodes.py … 2>&1 | tee profile.log                   train
  apply-opt timing show profile.log                                     where the time goes
  APPLY_OPT_TIMING_DIR=times APPLY_OPT_TIMING_EVENTS=1000 python imitate_episodes.py …
  apply-opt timing show times/timing-….json --trace trace.json          … and open trace.json in https://ui.perfetto.dev
  APPLY_OPT_LANG=zh apply-opt timing show profile.log                   用中文"""
BAR = 30
LITTLE_WAIT = 0.1
"""A smaller part of a training step than this is not worth anybody's time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("action", choices=("show",), help="show: a table, and advice")
    parser.add_argument("file", metavar="FILE", help="a log, or a JSON file of APPLY_OPT_TIMING_DIR")
    parser.add_argument(
        "--trace", metavar="PATH", help="write the last calls of each process there, for a trace viewer"
    )
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Show."""
    data = files.read(arguments.file)
    if data is None:
        raise ApplyOptError(f"there is no {arguments.file}", "apply-opt timing --help")
    times = parse(data, arguments.file)
    rules = [o.rules for o in catalog.load().optimizations.values() if o.rules]
    waits = next(filter(None, (_waits(times, parse_waiting(table)) for table in rules)), None)
    found = [(b, times.share(b.stages)) for table in rules for b in parse_bottlenecks(table) if times.share(b.stages)]
    found.sort(key=lambda pair: (_is_idle(pair[0], waits), -pair[1]))
    lines = [*_table(times), *_advice(waits, found)]
    if arguments.trace:
        lines.append(
            ("dim", f"{_write_trace(data, arguments)} calls: {arguments.trace} (https://ui.perfetto.dev opens it)")
        )
    return Result(lines, _document(times, waits, found))


Waits = tuple[str, float]
"""The stage in which data is waited for, and its share of the training's steps."""


def _waits(times: Times, waiting: Optional[Waiting]) -> Optional[Waits]:
    """How much of the steps is waiting for data, where they have such a stage."""
    if waiting is None or all(stage.name != waiting.stage for stage in times.stages):
        return None
    wait, work = times.seconds([waiting.stage]), times.seconds(waiting.steps)
    return (waiting.stage, wait / (wait + work)) if wait + work else None


def _is_idle(bottleneck: Bottleneck, waits: Optional[Waits]) -> bool:
    """Whether it is the data loader's, and nobody waits for that."""
    return bottleneck.data and waits is not None and waits[1] < LITTLE_WAIT


def _words(english: str, chinese: str) -> str:
    return english if language() == "en" else chinese


def _table(times: Times) -> Iterator[tuple[str, str]]:
    """Each stage with a bar for its share, and a line for the epochs."""
    width = max(len(stage.name) for stage in times.stages)
    yield "bold", _words(f"{'stage':{width}}  share of all own times", f"{'环节':{width}}  占全部自身耗时的比例")
    longest = max(stage.share for stage in times.stages) or 1.0
    for stage in times.stages:
        bar = "█" * round(BAR * stage.share / longest)
        yield "", f"{stage.name:{width}}  {stage.share:6.1%} {bar:{BAR}}  {_figures(stage)}"
        if stage.gpu_seconds is not None:
            yield "", f"{'':{width}}  {'GPU':>6} {'':{BAR}}  {stage.gpu_seconds:9.2f} s  {stage.gpu_calls:7} x"
    if times.laps:
        laps, seconds = len(times.laps), sum(times.laps)
        mean = seconds / laps
        yield (
            "",
            _words(
                f"{laps} {'epochs (or groups of steps)' if laps > 1 else 'epoch (or group of steps)'}, {seconds:.2f} s, {mean:.2f} s each",
                f"{laps} 个周期（或步组），共 {seconds:.2f} 秒，平均 {mean:.2f} 秒",
            ),
        )


def _figures(stage: StageTime) -> str:
    said = f"{stage.seconds:9.2f} s  {stage.calls:7} x {stage.mean_ms:9.3f} ms"
    if stage.median_ms is not None and stage.p95_ms is not None:
        said += _words(
            f"  median ~{_ms(stage.median_ms)}, p95 ~{_ms(stage.p95_ms)}",
            f"  中位约 {_ms(stage.median_ms)}，p95 约 {_ms(stage.p95_ms)}",
        )
    where = stage.where if language() != "en" else stage.where.replace("主进程", "main").replace("子进程", "workers")
    return f"{said}  {where}".rstrip()


def _ms(value: float) -> str:
    """Milliseconds that are good to a factor of two."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _advice(waits: Optional[Waits], found: Sequence[tuple[Bottleneck, float]]) -> Iterator[tuple[str, str]]:
    """Whether data is waited for; each bottleneck beside its usual share; and of the largest, what to do."""
    if waits is not None:
        stage, share = waits
        pays = share >= LITTLE_WAIT
        yield (
            "yellow" if pays else "green",
            _words(
                f"{share:.1%} of the training is waiting for data ({stage}): "
                + (
                    "quicker items make it faster"
                    if pays
                    else "the loader keeps up; quicker items gain no more than that"
                ),
                f"训练中有 {share:.1%} 的时间在等待数据（{stage}）："
                + ("加快样本构造会有收益" if pays else "数据加载跟得上，加快样本构造最多只有这点收益"),
            ),
        )
    for number, (bottleneck, share) in enumerate(found):
        low, high = bottleneck.usual
        idle = _words("; nobody waits for it", "；没有人在等它") if _is_idle(bottleneck, waits) else ""
        title, usual = (
            _words(bottleneck.title, bottleneck.title_zh),
            _words(f"usually {low}-{high} %", f"参考 {low}-{high}%"),
        )
        is_told = not idle and share * 100 >= (low if not number else high)
        yield (
            "bold" if is_told else "",
            _words(f"{title}: {share:.1%} ({usual}){idle}", f"{title}：{share:.1%}（{usual}）{idle}"),
        )
        if is_told:
            yield "", f"  {_words(bottleneck.advice, bottleneck.advice_zh)}"
            for name in bottleneck.units:
                yield "cyan", f"  apply-opt diff {name}"


def _document(times: Times, waits: Optional[Waits], found: Sequence[tuple[Bottleneck, float]]) -> dict[str, Any]:
    return {
        "stages": [stage._asdict() for stage in times.stages],
        "epoch_seconds": list(times.laps),
        "waiting_for_data": waits[1] if waits else None,
        "bottlenecks": [
            {"title": b.title, "share": share, "usual_percent": list(b.usual), "units": list(b.units)}
            for b, share in found
        ],
    }


def _write_trace(data: bytes, arguments: argparse.Namespace) -> int:
    """The trace alone, in a file of its own; how many calls it has."""
    try:
        events = json.loads(data).get("traceEvents")
    except (ValueError, AttributeError, RecursionError):
        events = None
    if not events:
        raise ApplyOptError(
            f"{arguments.file} has no calls for a trace",
            "APPLY_OPT_TIMING_DIR=times APPLY_OPT_TIMING_EVENTS=1000 python TRAIN.py …",
        )
    if os.path.exists(arguments.trace) and os.path.samefile(arguments.trace, arguments.file):
        raise ApplyOptError(f"{arguments.trace} is the file that is shown", "another name: --trace trace.json")
    files.replace(arguments.trace, json.dumps({"traceEvents": events}).encode(), arguments.trace + files.SCRATCH)
    return len(events)
