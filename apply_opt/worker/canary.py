"""Which lines of a checkout's files ran, counted with :func:`sys.settrace` while the counting is on."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from types import FrameType
from typing import Any, Optional


class Canary:
    """Counts how often each line of ``files`` (absolute paths) runs, in every thread that starts while it is on.

    It is on while the target is loaded and while it is observed, and off while anything is timed: a thread that was
    started under it, such as one of a pool, stops being traced with the first call that it makes afterwards.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self.files = {os.path.realpath(path) for path in files}
        self.counts: Counter[tuple[str, int]] = Counter()
        self.is_on = False
        self._known: dict[str, Optional[str]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Canary:
        self.is_on = True
        self._before = sys.gettrace(), threading.gettrace()
        threading.settrace(self._trace)
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exception: object) -> None:
        self.is_on = False
        sys.settrace(self._before[0])
        threading.settrace(self._before[1])

    def lines(self) -> dict[str, dict[int, int]]:
        """For each file, how often each of its lines ran."""
        found: dict[str, dict[int, int]] = {path: {} for path in self.files}
        for (path, line), count in sorted(self.counts.items()):
            found[path][line] = count
        return found

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not self.is_on:
            sys.settrace(None)
            return None
        name = frame.f_code.co_filename
        if name not in self._known:
            path = os.path.realpath(name)
            self._known[name] = path if path in self.files else None
        path_or_none = self._known[name]
        if path_or_none is None:
            return None

        def local(frame: FrameType, event: str, argument: Any) -> Any:
            if not self.is_on:
                sys.settrace(None)
                return None
            if event == "line":
                with self._lock:
                    self.counts[path_or_none, frame.f_lineno] += 1
            return local

        return local
