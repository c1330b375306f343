"""What the page says, in English and Chinese. Texts of records (names, reasons) stay as they are."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[..., str]
LANGUAGES = ("en", "zh")
WORDS = {"faster", "slower", "no difference", "inconclusive", "parity", "lossy", "parity failed", "unverifiable"}
WORDS |= {"instrument", "exact", "tolerance", "inference_only"}
"""Those of a record that have a text."""
TEXTS: dict[str, tuple[str, str]] = {
    # The whole page
    "page title": ("What was measured", "测量结果"),
    "conclusion": ("Conclusion", "结论"),
    "sets": ("{count} sets of optimizations", "{count} 组优化"),
    "made": ("Made by apply-opt {version} from its records. Nothing in this page is loaded from elsewhere.",
             "由 apply-opt {version} 根据其记录生成。本页不从别处加载任何内容。"),
    "skip": ("To the conclusion", "跳到结论"),
    # Conclusions
    "headline": ("{names}: {text}", "{names}：{text}"),
    "join": ("{one}; {other}", "{one}；{other}"),
    "gap": (" ", ""),
    "list": (", ", "、"),
    "same results": ("same results", "结果相同"),
    "lossy results": ("results may change (class lossy)", "结果可能改变（lossy 类别）"),
    "lossy share": ("results may change: here {share} of the discrete outputs are the same",
                    "结果可能改变：此处离散输出有 {share} 相同"),
    "failed results": ("results are not what its class promises", "结果不符合其类别的承诺"),
    "unverifiable results": ("whether results are the same could not be told", "无法判断结果是否相同"),
    "unverified": ("results were not compared", "未比较结果"),
    "unmeasured": ("speed was not measured", "未测量速度"),
    "faster, all": ("at least {low} as fast", "速度至少为原来的 {low}"),
    "faster, some": ("faster in {count} of {total} inputs", "{total} 种输入中有 {count} 种更快"),
    "slower, some": ("slower in {count} of {total} inputs", "{total} 种输入中有 {count} 种更慢"),
    "no difference, all": ("no difference in speed", "速度无差别"),
    "no conclusion": ("no gain in speed was shown", "未能证明速度有提升"),
    # Verdicts
    "faster": ("faster", "更快"),
    "slower": ("slower", "更慢"),
    "no difference": ("no difference", "无差别"),
    "inconclusive": ("inconclusive", "无法判断"),
    "parity": ("parity", "结果一致"),
    "lossy": ("lossy", "结果可能改变"),
    "parity failed": ("parity failed", "结果不一致"),
    "unverifiable": ("unverifiable", "无法验证"),
    "gain faster": ("at least {low}", "至少 {low}"),
    "gain other": ("{estimate}", "{estimate}"),
    "gain inconclusive": ("not shown", "未证明"),
    "interval": ("{estimate}, {level} interval {low} to {high}.", "{estimate}，{level} 置信区间 {low} 到 {high}。"),
    "noise": ("The same code against itself: up to {noise}.", "同一代码与自身相比：最多 {noise}。"),
    "smallest": ("The smallest speed-up that could have been seen: {smallest}.", "能够看出的最小加速：{smallest}。"),
    # Parts of a set
    "speed": ("Speed", "速度"),
    "parity part": ("Results", "结果"),
    "input": ("input", "输入"),
    "figures": ("Figures", "数值"),
    "case": ("Input: {case}", "输入：{case}"),
    "conditions": ("Conditions", "条件"),
    "patch": ("The change", "改动"),
    "patch of": ("The change as a patch", "补丁形式的改动"),
    "reproduce": ("How to do it again", "如何复现"),
    "applied part": ("In this checkout now", "此检出的当前状态"),
    "left out": ("Left out", "未包含"),
    # Plots
    "ratio plot": ("How many times as fast after the change, for each input", "改动后速度是原来的多少倍（按输入）"),
    "ratio help": (
        "Dots: blocks of four processes. Bar: the {level} interval. Shaded: what the same code gives against itself.",
        "点：每组四个进程。横条：{level} 置信区间。阴影：同一代码与自身相比的范围。"),
    "ratio description": (
        "{case}: {estimate}, interval {low} to {high}, from {count} blocks; the same code against itself up to {noise}.",
        "{case}：{estimate}，区间 {low} 到 {high}，共 {count} 组；同一代码与自身相比最多 {noise}。"),
    "slower side": ("slower", "更慢"),
    "faster side": ("faster", "更快"),
    "raw plot": ("Every process in the order in which it ran: {case}", "所有进程，按运行顺序：{case}"),
    "raw description": (
        "Time for one run, logarithmic. Medians of the processes: before from {before_low} to {before_high}, "
        "after from {after_low} to {after_high}.",
        "单次运行时间，对数坐标。各进程中位数：改动前 {before_low} 到 {before_high}，改动后 {after_low} 到 {after_high}。"),
    "raw help": (
        "Dots: timings. Bars: the median of each process. Shaded: the same code against itself.",
        "点：各次计时。横条：每个进程的中位数。阴影：同一代码与自身相比。"),
    "thinned": (
        "Of each process, {count} timings are drawn, evenly by rank, with the fastest and the slowest.",
        "每个进程画出 {count} 次计时，按名次均匀选取，包括最快和最慢的一次。"),
    "before": ("before", "改动前"),
    "after": ("after", "改动后"),
    "change": ("change", "变化"),
    "figure": ("figure", "数值"),
    # Figures
    "time group": ("Time", "时间"),
    "median time": ("one run (median)", "单次运行（中位数）"),
    "per minute": ("requests per minute", "每分钟请求数"),
    "per second": ("{unit} per second", "每秒 {unit}"),
    "stage group": ("Stages", "各阶段"),
    "count group": ("Counts of one run", "单次运行的计数"),
    "operators": ("operators", "算子数"),
    "synchronisations": ("host syncs", "主机同步次数"),
    "kept for backward": ("kept for the backward pass", "为反向传播保存"),
    "counts hold": ("Counts hold from machine to machine; times do not.", "计数不随机器而变；时间会变。"),
    "peak memory": ("Peak memory", "内存峰值"),
    "memory of": ("{place} (median of the processes)", "{place}（各进程的中位数）"),
    "derived": (
        "Figures are medians, one request after the other. A change that the verdict does not bear out means nothing; "
        "the gain to quote is the lower end of the interval.",
        "数值为中位数，请求逐个处理。结论不支持的变化没有意义；可引用的提升是区间下界。"),
    # Parity
    "class": ("class", "类别"),
    "promise": ("promise", "承诺"),
    "verdict": ("verdict", "结论"),
    "why": ("reason", "原因"),
    "observations": ("values compared", "比较的数值"),
    "observed": ("{count} ({cases} inputs, {seeds} seeds)", "{count}（{cases} 种输入，{seeds} 个随机种子）"),
    "differences": ("values that differ", "不同的数值"),
    "discrete": ("discrete outputs the same", "相同的离散输出"),
    "of": ("{part} of {whole} ({share})", "{part} / {whole}（{share}）"),
    "error": ("largest relative error of a tensor", "张量的最大相对误差"),
    "lines ran": ("times that changed lines ran", "改动的行执行次数"),
    "wrong caught": ("wrong variants caught", "识破的错误变体"),
    "none": ("none", "无"),
    "more": ("and {count} more", "另有 {count} 个"),
    "value": ("value", "数值"),
    "how": ("how it differs", "差别"),
    "promise instrument": ("observes only", "只观察"),
    "promise exact": ("the same results, bit for bit", "结果逐位相同"),
    "promise tolerance": ("the same up to rounding; discrete results identical", "仅有舍入差异；离散结果相同"),
    "promise inference_only": ("exact or tolerance, with gradients off", "exact 或 tolerance，且不求梯度"),
    "promise lossy": ("results may change", "结果可能改变"),
    # Conditions
    "date": ("when", "时间"),
    "environment": ("environment variables", "环境变量"),
    "machine": ("processor", "处理器"),
    "system": ("system", "系统"),
    "cores": ("cores", "核数"),
    "cores of": ("{usable} usable of {present}; {pinned} used", "共 {present}，可用 {usable}，使用 {pinned}"),
    "load": ("load when it began", "开始时的负载"),
    "versions": ("versions", "版本"),
    "threads": ("threads", "线程数"),
    "options": ("options of the workload", "工作负载选项"),
    "settings": ("parameters", "参数"),
    "effort": ("how long", "测量量"),
    "effort of": (
        "{blocks} blocks of 4 processes, {same} of the same code against itself; for each process and input "
        "{iterations} runs and {seconds} s, or as many runs as {limit} s hold, at least 3",
        "{blocks} 组，每组 4 个进程；另有 {same} 组同一代码与自身相比；每个进程、每种输入 "
        "{iterations} 次、{seconds} 秒，或 {limit} 秒之内的次数（至少 3 次）"),
    "seed": ("seed of the order", "顺序的随机种子"),
    "head": ("commit of the checkout", "检出的提交"),
    "record": ("record", "记录"),
    "compared": ("comparison", "比较"),
    "measured": ("measurement", "测量"),
    # The code now
    "code before": ("The code now is as it was measured, without the change.", "当前代码与测量时相同，未应用此改动。"),
    "code after": ("The code now is as it was measured, with the change.", "当前代码与测量时相同，已应用此改动。"),
    "code other": (
        "Older than the code: {files} is not as it was when this was recorded ({what}).",
        "记录比代码旧：{files} 与记录时不同（{what}）。"),
    "code unknown": (
        "Not held against any checkout ({what}): whether the code is still the one that was recorded is not known.",
        "未与任何检出对照（{what}）：不知道代码是否仍与记录时相同。"),
    "different code": (
        "Results were compared for one version of the code, and speed was measured for another.",
        "比较结果与测量速度用的不是同一版本的代码。"),
    "different conditions": (
        "Results were compared under other conditions ({compared}) than speed was measured under ({measured}).",
        "比较结果时的条件（{compared}）与测量速度时（{measured}）不同。"),
    "again": ("Do it again: {command}", "重新运行：{command}"),
    "next": ("Next: {command}", "下一步：{command}"),
    "name": ("optimization", "优化"),
    "state": ("state", "状态"),
    "since": ("since", "时间"),
    "nothing applied": ("Nothing is applied.", "未应用任何优化。"),
}  # fmt: skip


def speaker(language: str) -> Say:
    """What gives a text in ``language``, with its places filled in."""
    index = LANGUAGES.index(language)

    def say(key: str, **values: object) -> str:
        return TEXTS[key][index].format(**values)

    return say


def word(say: Say, text: str, prefix: str = "") -> str:
    """A word of a record in the page's language; as it is, where it is none of ours."""
    is_known = text in WORDS and prefix + text in TEXTS
    return say(prefix + text) if is_known else "" if prefix else text
