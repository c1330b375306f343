"""Stop a run at each step that it changes the file system with: by an exception, or by killing the process.

As a program (``python faults.py < request``) it kills one child after the other, each a step later, until one gets through.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support import call

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
NEEDS_SPACE = ("open", "write", "mkdir", "fsync")


class Steps:
    """Counts the steps; ``stop`` is called with the name of each, before it is done (a write is half done)."""

    def __init__(self, stop: Callable[[int, str], None]) -> None:
        self.stop = stop
        self.count = 0

    def step(self, name: str) -> None:
        self.count += 1
        self.stop(self.count, name)


class HalfWritten:
    """A file whose ``write`` is a step, and stops in its middle."""

    def __init__(self, file: Any, steps: Steps) -> None:
        self.file, self.steps = file, steps

    def __enter__(self) -> HalfWritten:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        self.steps.step("write")
        self.file.write(data[len(data) // 2 :])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@contextlib.contextmanager
def watched(stop: Callable[[int, str], None]) -> Iterator[Steps]:
    """Every call of :mod:`os` that changes the file system is a step."""
    steps = Steps(stop)
    names = (
        "replace",
        "rename",
        "unlink",
        "remove",
        "mkdir",
        "rmdir",
        "fsync",
        "chmod",
        "chown",
        "link",
        "symlink",
        "truncate",
    )
    real = {name: getattr(os, name) for name in (*names, "open", "fdopen")}

    def stepping(name: str) -> Callable[..., Any]:
        def function(*arguments: Any, **named: Any) -> Any:
            steps.step(name)
            return real[name](*arguments, **named)

        return function

    def open_(path: str, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & WRITING:
            steps.step("open")
        return real["open"](path, flags, *arguments, **named)

    def fdopen(descriptor: int, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        file = real["fdopen"](descriptor, mode, *arguments, **named)
        return HalfWritten(file, steps) if "w" in mode else file

    try:
        for name in names:
            setattr(os, name, stepping(name))
        os.open, os.fdopen = open_, fdopen
        yield steps
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def never(count: int, name: str) -> None:
    """Stop nowhere."""


def once(at: int, error: BaseException) -> Callable[[int, str], None]:
    """``error`` at step ``at``."""

    def stop(count: int, name: str) -> None:
        if count == at:
            raise error

    return stop


def full_disk(since: int) -> Callable[[int, str], None]:
    """From step ``since`` on, nothing that takes space can be done."""

    def stop(count: int, name: str) -> None:
        if count >= since and name in NEEDS_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return stop


def in_child(function: Callable[[], int]) -> tuple[int, int]:
    """Run ``function`` in a forked process; gives the signal that ended it, and its exit code."""
    child = os.fork()
    if child == 0:
        code = 99
        with contextlib.suppress(BaseException):
            code = function()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return (os.WTERMSIG(status), -1) if os.WIFSIGNALED(status) else (0, os.WEXITSTATUS(status))


def kill_at_each_step(template: Path, work: Path, words: list[str], every: int) -> Iterator[tuple[int, str, Path]]:
    """Run ``words`` in a copy of ``template``, killed at each step, or ``every`` so many. Gives the step, its name and the folder."""
    shutil.copytree(template, work / "warm", symlinks=True)
    call(*words, cwd=work / "warm")  # what is to be imported is
    at = 0
    while True:
        at += every
        folder = work / str(at)
        shutil.copytree(template, folder, symlinks=True)
        note = work / f"{at}.step"

        def stop(count: int, name: str, at: int = at, note: Path = note) -> None:
            if count == at:
                note.write_text(name)
                os.kill(os.getpid(), signal.SIGKILL)

        def child(folder: Path = folder, stop: Callable[[int, str], None] = stop) -> int:
            with watched(stop):
                return call(*words, cwd=folder).code

        ended_by, code = in_child(child)
        yield at, note.read_text() if ended_by else f"finished with {code}", folder
        if not ended_by:
            return


def main() -> None:
    """Kill, then look: one JSON line for each step."""
    os.fsync = lambda descriptor: None
    request = json.loads(sys.stdin.read())
    template, work = Path(request["template"]), Path(request["work"])
    for at, name, folder in kill_at_each_step(template, work, request["words"], request["every"]):
        line = {"at": at, "step": name, "folder": str(folder)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
