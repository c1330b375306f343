"""How far something long is, on standard error: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

EVERY = 15.0
"""Seconds from one line to the next, at least."""


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """What is yielded is to be called after each of ``total`` processes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console, total)
        return
    columns = (TextColumn("processes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def _lines(console: Console, total: int) -> Callable[[], None]:
    """Says what is to come; what it gives says how far it is."""
    started = told = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal done, told
        done, now = done + 1, time.monotonic()
        if now - told >= EVERY and done < total:
            told = now
            console.print(f"{done} of {total} processes, {now - started:.0f} s", highlight=False)

    console.print(f"{total} processes are run, one after the other", highlight=False)
    return advance


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """A sign of life with ``text`` beside it on a terminal, elsewhere ``text`` alone."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(text, highlight=False)
    with console.status(text) if console.is_terminal else contextlib.nullcontext():
        yield
