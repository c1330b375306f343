"""The options of whatever runs a workload: what to run, within which limits, for how long. Imports nothing that is slow."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

from apply_opt.model.effort import DEFAULT, LEAST_BLOCKS, QUICK, RIGOROUS, Effort

Number = TypeVar("Number", int, float)


def add_proof_arguments(parser: argparse.ArgumentParser, threads: int | None = 1) -> None:
    """The options that say what to run, and within which limits. ``threads`` without a number are all usable ones."""
    group = parser.add_argument_group("what is run")
    every = "all usable cores" if threads is None else str(threads)
    group.add_argument("--option", metavar="KEY=VALUE", action="append", default=[], help="an option of the workload")
    group.add_argument(
        "--threads", type=above(0, int), default=threads, metavar="N", help=f"for torch and its like (default: {every})"
    )
    group.add_argument(
        "--cores",
        type=above(0, int),
        metavar="N",
        help="for a process, which is held to the first N (default: all usable cores)",
    )
    group.add_argument(
        "--timeout", type=above(0.0, float), default=900.0, metavar="SECONDS", help="for one process (default: 900)"
    )
    group.add_argument(
        "--memory", type=above(0.0, float), metavar="GIB", help="for one process (default: 80 %% of what is free)"
    )


def add_target_argument(parser: argparse.ArgumentParser) -> None:
    """The target, for commands that are about a checkout's program and not about an optimization."""
    parser.add_argument("target", metavar="TARGET", nargs="?", help="what the checkout is of (default: recognised)")


def add_effort_arguments(parser: argparse.ArgumentParser, block: str = "blocks of 4 processes") -> None:
    """The options that say how long to measure; ``block`` says what a block is."""
    group = parser.add_argument_group("how long is measured")
    preset = group.add_mutually_exclusive_group()
    preset.add_argument("--quick", action="store_true", help=f"{QUICK.blocks} {block}: a first look")
    preset.add_argument(
        "--rigorous", action="store_true", help=f"{RIGOROUS.blocks} {block.split()[0]}, longer processes"
    )
    group.add_argument(
        "--blocks",
        type=above(LEAST_BLOCKS - 1, int),
        metavar="N",
        help=f"{block}, in place of the preset's",
    )
    group.add_argument("--seed", type=int, help="of the order of the samples (default: another one each time)")


def effort_of(arguments: argparse.Namespace) -> Effort:
    """How long to measure."""
    preset = QUICK if arguments.quick else RIGOROUS if arguments.rigorous else DEFAULT
    return preset._replace(blocks=arguments.blocks or preset.blocks)


def above(limit: Number, kind: Callable[[str], Number]) -> Callable[[str], Number]:
    """A number above ``limit``, for argparse."""

    def number(text: str) -> Number:
        value = kind(text)
        if not limit < value < math.inf:
            raise ValueError
        return value

    number.__name__ = f"number above {limit:g}"
    return number
