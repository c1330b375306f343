"""Being told to stop: Ctrl-C, a terminal that closes, ``kill``. What was begun is cleared away first, once and whole."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Optional

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class _Stop:
    """The handler: the first signal raises :class:`KeyboardInterrupt`, those after it find it on its way out."""

    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}
        self.holds = 0
        self.is_wanted = False

    def __call__(self, number: int, frame: Optional[FrameType]) -> None:
        for other in self.kept:
            signal.signal(other, signal.SIG_IGN)
        self.is_wanted = True
        if not self.holds:
            raise KeyboardInterrupt


_current: Optional[_Stop] = None


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """In here each of these signals unwinds the program, as Ctrl-C does. One that the caller ignores (``nohup``) stays so.

    After one has come they stay ignored, for the program is on its way out and the next would kill it there.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    stop = _current = _Stop()
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            stop.kept[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        _current = None
        for number, handler in stop.kept.items():
            signal.signal(number, signal.SIG_IGN if stop.is_wanted else handler)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A signal that comes in here is heeded at its end."""
    stop = _current
    if stop is None:
        yield
        return
    stop.holds += 1
    was_wanted = stop.is_wanted
    try:
        yield
    finally:
        stop.holds -= 1
    if stop.is_wanted and not was_wanted and not stop.holds:
        raise KeyboardInterrupt


@contextlib.contextmanager
def scratch(prefix: str) -> Iterator[str]:
    """A folder of our own that is gone afterwards; its path without links."""
    folder: Optional[tempfile.TemporaryDirectory[str]] = None
    try:
        with held():
            folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
        yield os.path.realpath(folder.name)
    finally:
        if folder is not None:
            with held():
                folder.cleanup()
