#!/usr/bin/env python3
"""Try the tokenizer's quick optimizations on a checkout, with your own model and recording: are the results the same, is it
faster, by how much? Works on copies; nothing in the checkout is changed.

在一个检出上试用分词器的快速优化，可用你自己的模型和录音：结果是否相同、是否更快、快多少？只在副本上运行，检出不会被改动。

    python scripts/quick_optimize.py --repo ~/Step-Audio-EditX
    python scripts/quick_optimize.py --encoder-path DIR --test-audio FILE --benchmark-runs 6
    python scripts/quick_optimize.py --test-lightweight --encoder-path DIR

A front to `apply-opt diff`, `verify` and `bench`, which do the work. Exit codes are theirs: 0 done, 1 an expected failure,
2 wrong usage, 3 refused (the light model does not fit), 4 results are not as promised, 5 a measurement failed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)  # this clone's own apply_opt, whatever is installed

from apply_opt import __version__, cli  # noqa: E402
from apply_opt.commands.words import language  # noqa: E402

if TYPE_CHECKING:
    from apply_opt.page.facts import Group

BUNDLE, LIGHT = "tokenizer_quick", "tokenizer_light_model"
LEAST_RUNS, SHOWN = 2, 15
TEXTS = {
    "plan": ("What is tried (on copies):", "试用的改动（在副本上）："),
    "planned": ("would be applied", "将应用"),
    "already": ("is applied already", "已应用"),
    "not_needed": ("not needed", "不需要"),
    "left_out": ("left out", "未包含"),
    "refused": ("refused", "被拒绝"),
    "built": (
        "No --encoder-path: a small model with random weights is built; its times are not those of your model.",
        "未指定 --encoder-path：将生成随机权重的小模型，其耗时不代表你的模型。"),
    "synthetic": ("No --test-audio: synthetic speech of three lengths.", "未指定 --test-audio：使用三种长度的合成语音。"),
    "verify": ("Comparing the results …", "正在比较结果……"),
    "bench": ("Measuring, one process at a time …", "正在测量，每次一个进程……"),
    "conclusion": ("Conclusion: {text}", "结论：{text}"),
    "next": ("Next:", "下一步："),
    "not light": (
        "The light model was not tried: see above for what is missing.",
        "未试用轻量模型：缺少什么见上文。"),
    "no light": (
        "--test-lightweight needs --encoder-path: another model is tried only after a look at its folder",
        "--test-lightweight 需要 --encoder-path：只有检查过模型目录才会试用另一个模型"),
    "no folder": ("--encoder-path {path} is not a folder", "--encoder-path {path} 不是目录"),
    "the folder": (
        "DIR: what the tokenizer gets as encoder_path; linguistic_tokenizer.npy and the models are in it",
        "DIR：分词器的 encoder_path 参数；其中有 linguistic_tokenizer.npy 和各个模型"),
    "no audio": ("--test-audio {path} is not a file", "--test-audio {path} 不是文件"),
    "the audio": ("FILE: a recording (WAV) of 3 s or more", "FILE：3 秒以上的录音（WAV）"),
    "few runs": (
        "--benchmark-runs {count}: there is no interval of fewer than {least}",
        "--benchmark-runs {count}：少于 {least} 时无法得出区间"),
    "missing": ("not installed: {names}", "尚未安装：{names}"),
    "own needs": (
        "the checkout's own dependencies have to be installed too: pip install -r requirements.txt",
        "检出自身的依赖也需要安装：pip install -r requirements.txt"),
}  # fmt: skip
Say = Callable[..., str]


class Stop(Exception):
    """No further: why, what to type, and the exit code."""

    def __init__(self, text: str, steps: Sequence[str], code: int) -> None:
        super().__init__(text)
        self.text, self.steps, self.code = text, steps, code


def main(argv: Sequence[str] | None = None) -> int:
    """Try, and say what was found."""
    arguments = parser().parse_args(argv)
    chosen = arguments.lang or ("en" if language() == "en" else "zh")

    def say(key: str, **values: object) -> str:
        return TEXTS[key][chosen == "zh"].format(**values)

    try:
        check(arguments, say)
        return run(arguments, chosen, say)
    except Stop as stop:
        print(f"quick_optimize: {stop.text}", *(f"  {step}" for step in stop.steps), sep="\n", file=sys.stderr)
        return stop.code


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(
        prog="quick_optimize.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    add("--repo", metavar="DIR", default=".", help="the checkout (default: here) / 检出目录（默认当前目录）")
    add("--encoder-path", metavar="DIR", help="your model: the tokenizer's encoder_path / 你的模型目录")
    add("--test-audio", metavar="FILE", help="your recording, 3 s or more / 你的录音，3 秒以上")
    add("--benchmark-runs", metavar="N", type=int, default=3, help="blocks of four processes (default: 3) / 测量组数")
    add(
        "--test-lightweight",
        action="store_true",
        help="also what changes results: TF32, and another model if it fits / 也试用会改变结果的：TF32 和轻量模型",
    )
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="as of apply-opt: model_id=OWNER/MODEL / 参数")
    add("--lang", choices=("zh", "en"), help="(default: as the system's / 默认随系统)")
    return result


def check(arguments: argparse.Namespace, say: Say) -> None:
    """What would fail only after a while. Raises :class:`Stop`."""
    script = "python scripts/quick_optimize.py"
    path, audio = arguments.encoder_path, arguments.test_audio
    if arguments.test_lightweight and not path:
        raise Stop(say("no light"), [f"{script} --test-lightweight --encoder-path DIR", say("the folder")], 2)
    if path and not os.path.isdir(path):
        raise Stop(say("no folder", path=path), [f"{script} --encoder-path DIR", say("the folder")], 2)
    if audio and not os.path.isfile(audio):
        raise Stop(say("no audio", path=audio), [f"{script} --test-audio FILE", say("the audio")], 2)
    if arguments.benchmark_runs < LEAST_RUNS:
        text = say("few runs", count=arguments.benchmark_runs, least=LEAST_RUNS)
        raise Stop(text, [f"{script} --benchmark-runs {LEAST_RUNS}"], 2)
    missing = [name for name in cli.EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        extra = "bench" if "bench" in {cli.EXTRAS[name] for name in missing} else "proof"
        raise Stop(say("missing", names=", ".join(missing)), [f"pip install {shlex.quote(f'{ROOT}[{extra}]')}"], 1)


def run(arguments: argparse.Namespace, chosen: str, say: Say) -> int:
    """Plan, compare, measure, conclude."""
    target, workload = target_words(arguments), workload_words(arguments)
    is_light = show_plan(call(["diff", BUNDLE, *target], say)[1], say)
    for given, key in ((arguments.encoder_path, "built"), (arguments.test_audio, "synthetic")):
        if not given:
            print(say(key))
    print(say("verify"), flush=True)
    code, verified = call(["verify", BUNDLE, *target, *workload], say)
    measured = None
    if code == 0:
        print(say("bench"), flush=True)
        effort = ["--quick", "--blocks", str(arguments.benchmark_runs)]
        code, measured = call(["bench", BUNDLE, *target, *workload, *effort], say)
    group = conclude(verified, measured, chosen)
    show(group, say)
    lacks_light = arguments.test_lightweight and not is_light
    if lacks_light:
        print(say("not light"))
    print(say("next"), *(f"  {step}" for step in next_steps(arguments, group, target)), sep="\n")
    return code or (3 if lacks_light else 0)


def repo_words(arguments: argparse.Namespace) -> list[str]:
    """Which checkout, where it is not here."""
    return ["--repo", arguments.repo] if arguments.repo != "." else []


def target_words(arguments: argparse.Namespace) -> list[str]:
    """Which checkout; and what may be tried on it, where it changes results."""
    words = [*repo_words(arguments), *(word for setting in arguments.set for word in ("--set", setting))]
    return [*words, "--allow", "lossy", "--preflight", arguments.encoder_path] if arguments.test_lightweight else words


def workload_words(arguments: argparse.Namespace) -> list[str]:
    """What is run, on the cores that there are."""
    from apply_opt.io import machine

    given = {"model": arguments.encoder_path, "audio": arguments.test_audio}
    options = [f"{key}={os.path.abspath(value)}" for key, value in given.items() if value]
    words = [word for option in options for word in ("--option", option)]
    return [*words, "--threads", str(machine.cores()["usable"])]


def call(words: Sequence[str], say: Say) -> tuple[int, dict[str, Any]]:
    """``apply-opt WORDS…``: its exit code, and what it found. Raises :class:`Stop` where it found nothing."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = cli.main([*words, "--json"])
    document: dict[str, Any] = json.loads(out.getvalue())
    if "error" in document:
        error = document["error"]
        raise Stop(error["message"], error["next_step"].splitlines(), code)
    if "reason" in document:
        raise Stop(document["message"], [*document["output"][-SHOWN:], say("own needs")], code)
    return code, document


def show_plan(document: dict[str, Any], say: Say) -> bool:
    """Print what is tried and what is not; whether the light model is tried."""
    print(say("plan"))
    tried = False
    for outcome in document["outcomes"]:
        is_in = outcome["outcome"] in ("planned", "already")
        tried |= is_in and outcome["name"] == LIGHT
        detail = "" if is_in else f": {outcome['message']}"
        print(f"  {outcome['name']}  {say(outcome['outcome'])}{detail}")
        lines = outcome["notes"] if is_in else outcome["next_step"].splitlines()
        print(*(f"      {line}" for line in lines), sep="\n", end="\n" if lines else "")
    return tried


def conclude(verified: dict[str, Any], measured: dict[str, Any] | None, chosen: str) -> Group:
    """What the two records say, in words."""
    from apply_opt.io import catalog
    from apply_opt.page import facts, record

    def found(document: dict[str, Any]) -> facts.Found:
        return facts.Found(record.parse(document, "-"), "-", facts.Code(facts.AS_BEFORE))

    pair = facts.Pair(found(verified), found(measured) if measured else None)
    report = facts.Report([pair], catalog.load().optimizations, chosen, __version__)
    return facts.groups(report)[0]


def show(group: Group, say: Say) -> None:
    """The conclusion; for each input, the verdict and the figures before and after."""
    print("", say("conclusion", text=group.headline), f"  {', '.join(group.names)}", sep="\n")
    for name, value in group.parity.rows if group.parity else ():
        print(f"  {name}: {value}")
    for difference in group.parity.differences if group.parity else ():
        print(f"    {difference.name}: {difference.how}")
    for case in group.gain.cases if group.gain else ():
        print("", f"  {case.name}: {case.verdict}, {case.gain}  ({case.evidence})", sep="\n")
        for row in (row for part in case.figures for row in part.rows):
            print(f"    {row.name}: {row.before} → {row.after}")
    print()


def next_steps(arguments: argparse.Namespace, group: Group, target: Sequence[str]) -> Iterator[str]:
    """What to type: what was shown to be good is put in, what was not clear is measured longer; and the page."""
    if group.parity and group.parity.tone != "bad" and group.gain and group.gain.tone == "good":
        yield shlex.join(["apply-opt", BUNDLE, *target])
    elif group.gain and group.gain.tone == "unsure":
        words = ["--benchmark-runs", str(2 * arguments.benchmark_runs), *repo_words(arguments)]
        words += ["--test-lightweight"] if arguments.test_lightweight else []
        for option, value in (("--encoder-path", arguments.encoder_path), ("--test-audio", arguments.test_audio)):
            words += [option, value] if value else []
        words += [word for setting in arguments.set for word in ("--set", setting)]
        yield shlex.join(["python", "scripts/quick_optimize.py", *words])
    yield shlex.join(["apply-opt", "report", *repo_words(arguments)])


if __name__ == "__main__":
    sys.exit(main())
