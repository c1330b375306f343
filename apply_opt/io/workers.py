"""The one owner of the processes that run a target's code: one at a time, with a limit for everything.

A worker that crashes, hangs, grows without end or goes away without a word is a :class:`WorkerFailed` with the end of what
it printed; whatever it started goes with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple, Optional

from apply_opt.errors import ApplyOptError

LOOK_SECONDS = 0.1
KEPT_LINES = 60


class WorkerFailed(ApplyOptError):
    """A worker gave no result. ``reason`` is one word for scripts; ``output`` the end of what was printed."""

    kind = "worker"

    def __init__(self, reason: str, message: str, output: Sequence[str] = ()) -> None:
        super().__init__(message, "\n".join(output[-20:]))
        self.reason = reason
        self.output = output


class Arm(NamedTuple):
    """A copy of the checkout to run from, and the files in it (relative) that differ between the arms."""

    checkout: str
    files: Sequence[str]


class Limits(NamedTuple):
    """What one worker may take: seconds, and bytes of memory with all that it started."""

    seconds: float = 900.0
    memory: Optional[int] = None


class Setting(NamedTuple):
    """What all workers of a measurement share."""

    workload: str
    folder: str
    options: Mapping[str, Any]
    threads: int = 1
    cpus: Sequence[int] = ()
    limits: Limits = Limits()


def run(arm: Arm, setting: Setting, job: str, **more: Any) -> dict[str, Any]:
    """Do ``job`` in a fresh process. Raises :class:`WorkerFailed`."""
    with tempfile.TemporaryDirectory(prefix="apply-opt-") as scratch:
        result = os.path.join(scratch, "result.json")
        specification = {
            "job": job,
            "checkout": arm.checkout,
            "files": [os.path.join(arm.checkout, name) for name in arm.files],
            "workload": setting.workload,
            "folder": setting.folder,
            "options": dict(setting.options),
            "threads": setting.threads,
            "cpus": list(setting.cpus),
            "wrong": None,
            "double": False,
            "cases": [],
            "seeds": [0],
            "result": result,
            **more,
        }
        path = os.path.join(scratch, "specification.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(specification, file)
        code, output = _process([sys.executable, _worker(), path], arm.checkout, setting)
        return _result(result, code, output)


def _worker() -> str:
    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "worker")


def environment(threads: int) -> dict[str, str]:
    """No byte code is written or read beside the copies, which are new; no thread pool is larger than asked for."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    own = {name: str(threads) for name in names}
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSTARTUP")}
    return {**kept, **own, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "PYTHONIOENCODING": "utf-8"}


def _result(path: str, code: int, output: Sequence[str]) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError):
        raise WorkerFailed("vanished", f"the workload ended with code {code} and gave no result", output) from None
    if "error" in document:
        error = document["error"]
        raise WorkerFailed("crashed", f"{error['type']}: {error['message']}", error["traceback"])
    found: dict[str, Any] = document["ok"]
    if "values" in found:
        import torch

        found["values"] = torch.load(found["values"], weights_only=True)
    return found


def _process(command: Sequence[str], folder: str, setting: Setting) -> tuple[int, Sequence[str]]:
    output: deque[str] = deque(maxlen=KEPT_LINES)
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(setting.threads),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    with _ended(process):
        assert process.stdout is not None
        reader = threading.Thread(target=_read, args=(process.stdout, output), daemon=True)
        reader.start()
        _wait(process, setting.limits, output)
    reader.join(5)
    return process.returncode, list(output)


def _read(stream: IO[bytes], output: deque[str]) -> None:
    """Keep the end of what is printed, however much it is and however long its lines are."""
    rest = b""
    while data := stream.read1(65536):  # type: ignore[attr-defined]
        lines = (rest + data).split(b"\n")
        rest = lines.pop()[-2000:]
        output.extend(line[-2000:].decode("utf-8", "replace") for line in lines)
    if rest:
        output.append(rest.decode("utf-8", "replace"))


def _wait(process: subprocess.Popen[bytes], limits: Limits, output: Sequence[str]) -> None:
    began = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_SECONDS)
            return
        if time.monotonic() - began > limits.seconds:
            raise WorkerFailed("hung", f"the workload did not end within {limits.seconds:g} s", list(output))
        held = _memory(process.pid) if limits.memory else 0
        if limits.memory and held > limits.memory:
            raise WorkerFailed(
                "memory", f"the workload held {held >> 20} MiB; the limit is {limits.memory >> 20} MiB", list(output)
            )


def _memory(pid: int) -> int:
    """Bytes that a process and all that it started hold."""
    import psutil

    total = 0
    for process in _family(pid):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def _family(pid: int) -> list[Any]:
    import psutil

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens, the process is gone afterwards, and so is all that it has started."""
    import psutil

    started: list[Any] = []
    try:
        yield
    finally:
        started = _family(process.pid)
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(process.pid, 9)
        for other in started:
            with contextlib.suppress(psutil.Error):
                other.kill()
        process.wait()
