"""What a measurement says: for each case its verdict, its plots, and its figures before and after."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.model.measurement import AFTER, BEFORE, COMPARED, FASTER, INCONCLUSIVE, NO_DIFFERENCE, SLOWER
from apply_opt.page import numbers, plot
from apply_opt.page.plot import MOST_DOTS, Ratios, Raw
from apply_opt.page.record import Bench, Verdict
from apply_opt.page.words import Say, word

TONES = {FASTER: "good", SLOWER: "bad"}


class Row(NamedTuple):
    """One figure, before and after.

    ``widths`` are bars in per cent of the longest, where bars are to be drawn; ``is_name``: it is called so in the program.
    """

    name: str
    before: str
    after: str
    change: str
    widths: tuple[float, float] | None = None
    is_name: bool = False


class Rows(NamedTuple):
    """Figures that belong together."""

    title: str
    rows: Sequence[Row]


class Case(NamedTuple):
    """One input. ``gain`` is what may be quoted."""

    name: str
    tone: str
    verdict: str
    gain: str
    evidence: str
    ratio_description: str
    raw: Raw
    raw_description: str
    figures: Sequence[Rows]


class Gain(NamedTuple):
    """All inputs."""

    headline: str
    tone: str
    ratios: Ratios
    ratio_help: str
    cases: Sequence[Case]
    memory: Sequence[Row]
    thinned: str


def facts(record: Bench, say: Say) -> Gain:
    """What is to be said of a measurement."""
    words = [record.verdicts[case].word for case in record.cases]
    cases = [_case(record, case, say) for case in record.cases]
    return Gain(
        _headline(record, words, say),
        "bad" if SLOWER in words else "good" if set(words) == {FASTER} else "unsure",
        plot.ratios(record, numbers.mark_ratio),
        say("ratio help", level=_level(record)),
        cases,
        list(_memory(record, say)),
        say("thinned", count=MOST_DOTS) if any(case.raw.is_thinned for case in cases) else "",
    )


def _headline(record: Bench, words: Sequence[str], say: Say) -> str:
    total = len(words)
    slower, faster = words.count(SLOWER), words.count(FASTER)
    if faster == total:
        return say("faster, all", low=numbers.ratio_down(min(v.speedup[1] for v in _verdicts(record))))
    parts = [say("slower, some", count=slower, total=total)] if slower else []
    parts += [say("faster, some", count=faster, total=total)] if faster else []
    if words.count(NO_DIFFERENCE) == total:
        parts = [say("no difference, all")]
    return say("list").join(parts) or say("no conclusion")


def _verdicts(record: Bench) -> list[Verdict]:
    return [record.verdicts[case] for case in record.cases]


def _level(record: Bench) -> str:
    return f"{numbers.digits(100 * record.level, 4)}\N{NO-BREAK SPACE}%"


def _case(record: Bench, case: str, say: Say) -> Case:
    verdict = record.verdicts[case]
    estimate, low, high = map(numbers.ratio, verdict.speedup)
    values = {"estimate": estimate, "low": low, "high": high, "noise": numbers.ratio(verdict.noise), "case": case}
    evidence = say("interval", level=_level(record), **values) + say("gap") + say("noise", **values)
    if verdict.word == INCONCLUSIVE:
        evidence += say("gap") + say("smallest", smallest=numbers.ratio(verdict.smallest))
    return Case(
        case,
        TONES.get(verdict.word, "unsure"),
        word(say, verdict.word),
        _quotable(verdict, say),
        evidence,
        say("ratio description", count=len(plot.block_ratios(record, case)), **values),
        plot.raw(record, case, numbers.mark_seconds),
        _raw_description(record, case, say),
        list(_figures(record, case, say)),
    )


def _quotable(verdict: Verdict, say: Say) -> str:
    """The lower end for a gain; no gain where none is shown."""
    if verdict.word == FASTER:
        return say("gain faster", low=numbers.ratio_down(verdict.speedup[1]))
    if verdict.word == INCONCLUSIVE:
        return say("gain inconclusive")
    return say("gain other", estimate=numbers.ratio(verdict.speedup[0]))


def _raw_description(record: Bench, case: str, say: Say) -> str:
    values: dict[str, str] = {}
    for side in (BEFORE, AFTER):
        medians = record.of_side(case, side)
        values |= {f"{side}_low": numbers.seconds(min(medians)), f"{side}_high": numbers.seconds(max(medians))}
    return say("raw description", **values)


def _figures(record: Bench, case: str, say: Say) -> Iterator[Rows]:
    before, after = (statistics.median(record.of_side(case, side)) for side in (BEFORE, AFTER))
    rows = [Row(say("median time"), numbers.seconds(before), numbers.seconds(after), numbers.change(before, after))]
    rows.append(_rate(say("per minute"), 60 * record.requests.get(case, 1), before, after))
    if case in record.amounts:
        amount, unit = record.amounts[case]
        rows.append(_rate(say("per second", unit=unit), amount, before, after))
    yield Rows(say("time group"), rows)
    stages = list(_stages(*(record.stages.get(side, {}).get(case, {}) for side in (BEFORE, AFTER))))
    if stages:
        yield Rows(say("stage group"), stages)
    one, other = (record.counts[side][case] for side in (BEFORE, AFTER))
    counts = ((name, getattr(one, name), getattr(other, name)) for name in ("operators", "synchronisations"))
    rows = [_count(say(name), before, after) for name, before, after in counts]
    kept = (one.kept_for_backward, other.kept_for_backward)
    if any(kept):
        rows.append(Row(say("kept for backward"), numbers.size(kept[0]), numbers.size(kept[1]), numbers.change(*kept)))
    yield Rows(say("count group"), rows)


def _rate(name: str, amount: float, before: float, after: float) -> Row:
    before, after = amount / before, amount / after
    return Row(name, numbers.digits(before), numbers.digits(after), numbers.change(before, after))


def _stages(before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[Row]:
    """The stages of both sides; a stage that one side does not have takes no time there."""
    longest = max([*before.values(), *after.values()], default=0.0) or 1.0
    for name in {**before, **after}:
        one, other = before.get(name, 0.0), after.get(name, 0.0)
        widths = (round(100 * one / longest, 1), round(100 * other / longest, 1))
        yield Row(name, numbers.seconds(one), numbers.seconds(other), numbers.change(one, other), widths, True)


def _count(name: str, before: Optional[int], after: Optional[int]) -> Row:
    """What was not counted is a dash."""
    if before is None or after is None:
        one, other = ("\N{EN DASH}" if value is None else numbers.count(value) for value in (before, after))
        return Row(name, one, other, "")
    return Row(name, numbers.count(before), numbers.count(after), numbers.change(before, after))


def _memory(record: Bench, say: Say) -> Iterator[Row]:
    samples = [sample for sample in record.samples if sample.kind == COMPARED]
    for place in dict.fromkeys(place for sample in samples for place in sample.memory):
        sides = [[s.memory[place] for s in samples if s.side == side and place in s.memory] for side in (BEFORE, AFTER)]
        if all(sides):
            before, after = (int(statistics.median(values)) for values in sides)
            name = say("memory of", place=place)
            yield Row(name, numbers.size(before), numbers.size(after), numbers.change(before, after))
