"""How long ``bench`` measures."""

from __future__ import annotations

from typing import NamedTuple


class Effort(NamedTuple):
    """Blocks, A/A blocks, and for each process: repetitions and seconds at least, seconds at most (but three repetitions)."""

    blocks: int
    same: int
    iterations: int
    seconds: float
    limit: float


QUICK, DEFAULT, RIGOROUS = Effort(3, 2, 5, 0.5, 5.0), Effort(6, 3, 30, 2.0, 20.0), Effort(12, 6, 30, 4.0, 60.0)
LEAST_BLOCKS = 2
"""Fewer have no interval."""
