"""``apply-opt timing show FILE``: the times that a timed program left, and what holds it up."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

from apply_opt.commands import Result, add_json_argument
from apply_opt.commands.words import language
from apply_opt.errors import ApplyOptError
from apply_opt.io import catalog, files
from apply_opt.model.stage_times import Bottleneck, StageTime, Times, parse, parse_bottlenecks

HELP = "the times that a timed program left in its log or its JSON file, and what holds it up"
EPILOG = """examples:
  apply-opt act_timing                                                  put the stages in
  python imitate_episodes.py … 2>&1 | tee profile.log                   train
  apply-opt timing show profile.log                                     where the time goes
  APPLY_OPT_TIMING_DIR=times APPLY_OPT_TIMING_EVENTS=1000 python imitate_episodes.py …
  apply-opt timing show times/timing-*.json --trace trace.json          … and open trace.json in https://ui.perfetto.dev
  APPLY_OPT_LANG=zh apply-opt timing show profile.log                   用中文"""
BAR = 30
WAIT, STEP = "15_data_wait", ("20_train_forward_pass", "21_backward", "22_optimizer_step")
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
    found = [(b, times.share(b.stages)) for b in _bottlenecks() if times.share(b.stages)]
    found.sort(key=lambda pair: -pair[1])
    lines = [*_table(times), *_advice(times, found)]
    if arguments.trace:
        lines.append(
            ("dim", f"{_write_trace(data, arguments)} calls: {arguments.trace} (https://ui.perfetto.dev opens it)")
        )
    return Result(lines, _document(times, found))


def _bottlenecks() -> list[Bottleneck]:
    """Those of all manifests."""
    rules = [o.rules for o in catalog.load().optimizations.values() if o.rules]
    return [b for table in rules for b in parse_bottlenecks(table.get("bottlenecks", ()))]


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
        if stage.name in times.on_gpu:
            yield "", f"{'':{width}}  {'GPU':>6} {'':{BAR}}  {_figures(times.on_gpu[stage.name])}"
    if times.laps:
        laps, seconds = len(times.laps), sum(times.laps)
        mean = seconds / laps
        yield (
            "",
            _words(
                f"{laps} epochs, {seconds:.2f} s, {mean:.2f} s each",
                f"{laps} 个周期，共 {seconds:.2f} 秒，平均 {mean:.2f} 秒",
            ),
        )


def _figures(stage: StageTime) -> str:
    said = f"{stage.seconds:9.2f} s  {stage.calls:7} x {stage.mean_ms:9.3f} ms"
    if stage.median_ms is not None and stage.p95_ms is not None:
        said += _words(
            f"  median ~{_ms(stage.median_ms)}, p95 ~{_ms(stage.p95_ms)}",
            f"  中位约 {_ms(stage.median_ms)}，p95 约 {_ms(stage.p95_ms)}",
        )
    return f"{said}  {stage.where}".rstrip()


def _ms(value: float) -> str:
    """Milliseconds that are good to a factor of two."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _advice(times: Times, found: Sequence[tuple[Bottleneck, float]]) -> Iterator[tuple[str, str]]:
    """Each bottleneck beside its usual share; of the largest, what to do. First of all, whether data is what is waited for."""
    waits = _waits(times)
    if waits is not None:
        style = "yellow" if waits >= LITTLE_WAIT else "green"
        yield (
            style,
            _words(
                f"{waits:.1%} of the training is waiting for data (15_data_wait): "
                + (
                    "quicker items make it faster"
                    if waits >= LITTLE_WAIT
                    else "the loader keeps up; quicker items gain no more than that"
                ),
                f"训练中有 {waits:.1%} 的时间在等待数据（15_data_wait）："
                + ("加快样本构造会有收益" if waits >= LITTLE_WAIT else "数据加载跟得上，加快样本构造最多只有这点收益"),
            ),
        )
    for number, (bottleneck, share) in enumerate(found):
        low, high = bottleneck.usual
        title = _words(bottleneck.title, bottleneck.title_zh)
        yield (
            "bold" if not number else "",
            _words(f"{title}: {share:.1%} (usually {low}-{high} %)", f"{title}：{share:.1%}（参考 {low}-{high}%）"),
        )
        if not number or share * 100 > high:
            yield "", f"  {_words(bottleneck.advice, bottleneck.advice_zh)}"
            for name in bottleneck.units:
                yield "cyan", f"  apply-opt diff {name}"


def _waits(times: Times) -> float | None:
    """The part of the training steps in which data is waited for."""
    wait, work = times.seconds([WAIT]), times.seconds(STEP)
    return wait / (wait + work) if any(stage.name == WAIT for stage in times.stages) and wait + work else None


def _document(times: Times, found: Sequence[tuple[Bottleneck, float]]) -> dict[str, Any]:
    return {
        "stages": [{**stage._asdict(), "mean_ms": stage.mean_ms} for stage in times.stages],
        "on_gpu": {name: {**stage._asdict(), "mean_ms": stage.mean_ms} for name, stage in times.on_gpu.items()},
        "epoch_seconds": list(times.laps),
        "waiting_for_data": _waits(times),
        "bottlenecks": [
            {"title": b.title, "share": share, "usual_percent": list(b.usual), "units": list(b.units)}
            for b, share in found
        ],
    }


def _write_trace(data: bytes, arguments: argparse.Namespace) -> int:
    """The trace alone, in a file of its own; how many calls it has."""
    try:
        events = json.loads(data).get("traceEvents")
    except ValueError:
        events = None
    if not events:
        raise ApplyOptError(
            f"{arguments.file} has no calls for a trace",
            "APPLY_OPT_TIMING_DIR=times APPLY_OPT_TIMING_EVENTS=1000 python imitate_episodes.py …",
        )
    files.replace(arguments.trace, json.dumps({"traceEvents": events}).encode(), arguments.trace + files.SCRATCH)
    return len(events)
