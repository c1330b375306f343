"""Machines that are not quiet, made up: how long one process after the other takes on them.

A noise model gives the logarithm of the time of each of so many processes, in the order in which they run, for a program
that takes the same time each time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from apply_opt.model.measurement import AFTER, BEFORE, Block, Verdict, judge, schedule, shuffled

Noise = Callable[[random.Random, int], list[float]]


def normal(generator: random.Random, count: int, deviation: float = 0.01) -> list[float]:
    """Independent, 1 %."""
    return [generator.gauss(0, deviation) for _ in range(count)]


def drift(generator: random.Random, count: int) -> list[float]:
    """A machine that warms up: 20 % slower at the end, evenly."""
    return [0.2 * i / count + noise for i, noise in enumerate(normal(generator, count))]


def throttled(generator: random.Random, count: int) -> list[float]:
    """From some moment on 15 % slower."""
    since = generator.randrange(count)
    return [0.15 * (i >= since) + noise for i, noise in enumerate(normal(generator, count))]


def waves(generator: random.Random, count: int) -> list[float]:
    """Another program that comes and goes, every so many processes."""
    period, phase = generator.uniform(2, 20), generator.uniform(0, 7)
    return [0.05 * math.sin(phase + 6.28 * i / period) + noise for i, noise in enumerate(normal(generator, count))]


def autocorrelated(generator: random.Random, count: int) -> list[float]:
    """Each process much like the one before it (AR(1), 0.9)."""
    value, values = generator.gauss(0, 0.02), []
    for _ in range(count):
        value = 0.9 * value + generator.gauss(0, 0.02 * math.sqrt(1 - 0.81))
        values.append(value)
    return values


def wandering(generator: random.Random, count: int) -> list[float]:
    """A random walk."""
    value, values = 0.0, []
    for noise in normal(generator, count):
        value += noise
        values.append(value)
    return values


def heavy(generator: random.Random, count: int) -> list[float]:
    """Student's t with two degrees of freedom: no finite variance."""
    return [0.01 * generator.gauss(0, 1) / math.sqrt(generator.expovariate(1.0)) for _ in range(count)]


def spikes(generator: random.Random, count: int) -> list[float]:
    """Now and then one that takes up to twice as long."""
    return [noise + (generator.random() < 0.1) * generator.uniform(0, 0.7) for noise in normal(generator, count)]


NOISES: Sequence[Noise] = (normal, drift, throttled, waves, autocorrelated, wandering, heavy, spikes)


def measured(
    noise: Noise, blocks: int, same: int, seed: int, slowdown: float = 0.0, level: float = 0.95
) -> tuple[Verdict, list[Block]]:
    """What ``bench`` would say of a change that makes the program slower by ``slowdown``, on such a machine."""
    generator = random.Random(seed)
    orders = [(True, order) for order in schedule(blocks, seed)] + [
        (False, order) for order in schedule(same, seed + 1)
    ]
    orders = shuffled(orders, seed)
    times = iter(noise(generator, 4 * len(orders)))
    compared, against_itself = [], []
    for is_compared, order in orders:
        found: dict[str, list[float]] = {BEFORE: [], AFTER: []}
        for side in order:
            effect = math.log(1 + slowdown) if is_compared and side == AFTER else 0.0
            found[side].append(math.exp(next(times) + effect))
        block = Block((found[BEFORE][0], found[BEFORE][1]), (found[AFTER][0], found[AFTER][1]))
        (compared if is_compared else against_itself).append(block)
    return judge(compared, against_itself, level), compared
