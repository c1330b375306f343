"""The statistics of a before/after measurement: the order of the samples, the interval of the ratio, the verdict.

One sample is one process, summed up by the median of its timings. Four samples make a block: before, after, after, before
(ABBA), or the other way round (BAAB), so that a machine that drifts evenly through a block favours neither. What is
averaged is the logarithm of before/after, one number for each block; the blocks are taken to be independent, and the
interval is Student's t (W. S. Gosset, "The Probable Error of a Mean", Biometrika 6, 1908).
"""

from __future__ import annotations

import functools
import math
import random
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

BEFORE, AFTER = "before", "after"
FASTER, SLOWER, NO_DIFFERENCE, INCONCLUSIVE = "faster", "slower", "no difference", "inconclusive"
WORDS = (FASTER, SLOWER, NO_DIFFERENCE, INCONCLUSIVE)
COMPARED, SAME = "before/after", "before/before"
"""The kinds of blocks: both sides, and the same code against itself."""
LEVEL = 0.95
EQUAL = 0.01
"""A change that cannot be told from none, and of which the whole interval is within this share, counts as none."""


class Block(NamedTuple):
    """The samples of one block in seconds, in the order that they were taken in for each side."""

    before: Sequence[float]
    after: Sequence[float]

    def log_ratio(self) -> float:
        """The logarithm of how many times as fast ``after`` is."""
        return statistics.fmean(map(math.log, self.before)) - statistics.fmean(map(math.log, self.after))


class Sample(NamedTuple):
    """One process: the kind of its block and the block's number, its side, and the seconds of a run in it."""

    kind: str
    block: int
    side: str
    seconds: float


def blocks_of(samples: Iterable[Sample], kind: str) -> list[Block]:
    """The blocks of one kind that have both sides, in order."""
    found: dict[int, dict[str, list[float]]] = {}
    for sample in samples:
        if sample.kind == kind:
            found.setdefault(sample.block, {BEFORE: [], AFTER: []})[sample.side].append(sample.seconds)
    return [Block(sides[BEFORE], sides[AFTER]) for sides in found.values() if sides[BEFORE] and sides[AFTER]]


class Interval(NamedTuple):
    """How many times as fast, or how large a share: the estimate, and the ends of its confidence interval."""

    estimate: float
    low: float
    high: float


class Verdict(NamedTuple):
    """What can be said.

    ``noise`` is the largest ratio that the same code against itself would give with this many blocks; ``smallest`` the
    smallest speed-up that would have been seen, most of the time.
    """

    word: str
    speedup: Interval
    noise: float
    smallest: float


def schedule(blocks: int, seed: int) -> list[tuple[str, str, str, str]]:
    """The order of the samples in each block: as many ABBA as BAAB (or one more), shuffled."""
    orders = [(BEFORE, AFTER, AFTER, BEFORE), (AFTER, BEFORE, BEFORE, AFTER)]
    generator = random.Random(seed)
    generator.shuffle(orders)
    result = [orders[i % 2] for i in range(blocks)]
    generator.shuffle(result)
    return result


Item = TypeVar("Item")


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    """``items`` in random order."""
    return random.Random(seed).sample(list(items), len(items))


def speedup(blocks: Sequence[Block], level: float = LEVEL) -> Interval:
    """The interval of before/after over ``blocks`` (at least two)."""
    logs = [block.log_ratio() for block in blocks]
    half = _half_width(logs, level)
    middle = statistics.fmean(logs)
    return Interval(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def mean(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The interval of the mean of ``values`` (at least two), one for each process."""
    middle, half = statistics.fmean(values), _half_width(values, level)
    return Interval(middle, middle - half, middle + half)


def _half_width(logs: Sequence[float], level: float) -> float:
    if len(logs) < 2:
        raise ValueError("an interval needs at least two blocks")
    return _quantile(len(logs) - 1, level) * statistics.stdev(logs) / math.sqrt(len(logs))


@functools.cache
def _quantile(freedom: int, level: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, freedom))


def noise_floor(same: Sequence[Block], blocks: int, level: float = LEVEL) -> float:
    """The half-width (of the logarithm) that an interval of ``blocks`` blocks would have here if nothing had changed.

    Measured on A/A blocks, whose expected ratio is known to be 1, so that none of their freedom goes into a mean.
    """
    if not same:
        return 0.0
    deviation = math.sqrt(statistics.fmean(block.log_ratio() ** 2 for block in same))
    return _quantile(len(same), level) * deviation / math.sqrt(blocks)


def against(
    rounds: Sequence[Mapping[str, float]], control: Sequence[str], level: float = LEVEL, names: Collection[str] = ()
) -> dict[str, Verdict]:
    """How many times as fast each of ``names`` is as the program under the names in ``control``, which is the same one every time.

    A round has the seconds of all programs, each run once, in random order: a randomised complete block design (R. A. Fisher,
    "The Design of Experiments", 1935). What a round and a program do to the logarithm is taken out; what is left is the noise of
    all programs together, known well from a few rounds already. Without ``names`` all others are held against it. ``level`` holds
    for all intervals together (C. E. Bonferroni, 1936), where programs are about as noisy as each other. The interval of one that is
    noisier is never narrower than Student's t over its own ratios gives, at ``level`` for it alone: with many such, more of them are
    wrong. Raises :class:`ValueError` where there is one round only.
    """
    if len(rounds) < 2:
        raise ValueError("an interval needs at least two rounds")
    programs = list(rounds[0])
    others = [name for name in programs if name not in control and (name in names or not names)]
    logs = [{name: math.log(found[name]) for name in programs} for found in rounds]
    gains = {name: [statistics.fmean(one[c] for c in control) - one[name] for one in logs] for name in others}
    quantile = _quantile((len(rounds) - 1) * (len(programs) - 1), 1 - (1 - level) / max(1, len(others)))
    pooled = quantile * _noise(logs) * math.sqrt((1 + 1 / len(control)) / len(rounds))
    return {name: _verdict(statistics.fmean(own), max(pooled, _half_width(own, level))) for name, own in gains.items()}


def _noise(logs: Sequence[Mapping[str, float]]) -> float:
    """The standard deviation of what neither the round nor the program explains."""
    rounds = [statistics.fmean(one.values()) for one in logs]
    programs = {name: statistics.fmean(one[name] for one in logs) for name in logs[0]}
    whole = statistics.fmean(rounds)
    left = [one[name] - row - programs[name] + whole for one, row in zip(logs, rounds) for name in one]
    return math.sqrt(sum(value**2 for value in left) / ((len(rounds) - 1) * (len(programs) - 1)))


def _verdict(gain: float, half: float) -> Verdict:
    """What can be said of a logarithm of before/after, and half the width of its interval."""
    found = Interval(math.exp(gain), math.exp(gain - half), math.exp(gain + half))
    if found.low > 1 or found.high < 1:
        word = FASTER if found.low > 1 else SLOWER
    else:
        word = NO_DIFFERENCE if max(found.high, 1 / found.low) <= 1 + EQUAL else INCONCLUSIVE
    return Verdict(word, found, math.exp(half), math.exp(2 * half))


def judge_samples(samples: Sequence[Sample], level: float = LEVEL) -> Verdict:
    """The verdict over samples of both kinds of blocks. Raises :class:`ValueError` where there are too few."""
    return judge(blocks_of(samples, COMPARED), blocks_of(samples, SAME), level)


def judge(blocks: Sequence[Block], same: Sequence[Block] = (), level: float = LEVEL) -> Verdict:
    """The verdict over ``blocks``; ``same`` are blocks in which both sides were the same code (A/A).

    An effect has to stand clear of 1 by its own interval, and of what the same code does against itself.
    """
    found = speedup(blocks, level)
    effect = abs(math.log(found.estimate))
    floor = noise_floor(same, len(blocks), level)
    smallest = math.exp(max(floor, 2 * _half_width([block.log_ratio() for block in blocks], level)))
    if found.low > 1 and effect > floor:
        word = FASTER
    elif found.high < 1 and effect > floor:
        word = SLOWER
    elif max(found.high, 1 / found.low) <= 1 + EQUAL:
        word = NO_DIFFERENCE
    else:
        word = INCONCLUSIVE
    return Verdict(word, found, math.exp(floor), smallest)
