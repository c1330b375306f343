"""The one owner of the processes that run a target's code: one at a time, with a limit for everything.

A worker that crashes, hangs, grows without end or goes away without a word is a :class:`WorkerFailed` with the end of what
it printed; whatever it started goes with it, and so do its temporary files.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple, Optional

from apply_opt.errors import ApplyOptError, UsageError
from apply_opt.io import extras, files, interrupt

LOOK_SECONDS, COUNT_SECONDS = 0.1, 1.0
END_ROUNDS, CLEAR_ROUNDS = 50, 2
KEPT_LINES, KEPT_COLUMNS, SHOWN_LINES = 60, 2000, 20
MARK = "APPLY_OPT_WORKER"
"""An environment variable that a worker and all that it starts have: its value finds them."""


class WorkerFailed(ApplyOptError):
    """A worker gave no result. ``reason`` is one word for scripts; ``output`` the end of what was printed."""

    kind = "worker"
    exit_code = 4

    def __init__(self, reason: str, message: str, output: Sequence[str] = (), step: str = "") -> None:
        super().__init__(message, "\n".join([*output[-SHOWN_LINES:], *([step] if step else [])]))
        self.reason = reason
        self.output = list(output)


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
    hash_seed: int = 0


def run(arm: Arm, setting: Setting, job: str, **more: Any) -> dict[str, Any]:
    """Do ``job`` in a fresh process.

    Raises :class:`WorkerFailed`, and :class:`~apply_opt.errors.UsageError` for an option that the workload does not take.
    """
    with interrupt.scratch("apply-opt-") as scratch:
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
        kept = [arm.checkout] if job == "prepare" else [arm.checkout, setting.folder]
        before = [files.census(folder) for folder in kept]
        output = _process([sys.executable, _worker(), path], arm, setting)
        found = _result(result, output)
        _check_unwritten(kept, before)
        return found


def _worker() -> str:
    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "worker")


def environment(threads: int, temporary: str, mark: str, hash_seed: int = 0) -> dict[str, str]:
    """The user's, but nothing that changes how Python runs; no thread pool is larger than asked for.

    No byte code is written or read beside the copies, which are new, and temporary files are where they are cleared away.
    """
    pools = ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "NUMEXPR_NUM", "VECLIB_MAXIMUM")
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("PYTHON")}
    own = {f"{name}_THREADS": str(threads) for name in pools} | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), temporary)
    python = {"DONTWRITEBYTECODE": "1", "HASHSEED": str(hash_seed), "IOENCODING": "utf-8", "FAULTHANDLER": "1"}
    return {**kept, **own, MARK: mark, **{f"PYTHON{name}": value for name, value in python.items()}}


def _result(path: str, output: Sequence[str]) -> dict[str, Any]:
    """What a worker wrote. It ran code that may do anything, so nothing is taken for granted."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        if "error" in document:
            raise _failed(document["error"])
        found: dict[str, Any] = dict(document["ok"])
        if found.get("tensors"):
            import torch

            found["values"] |= torch.load(path + ".pt", weights_only=True)
        return found
    except ApplyOptError:
        raise
    except FileNotFoundError:
        raise WorkerFailed("vanished", "the workload ended and gave no result", output) from None
    except Exception as error:  # whatever a broken file makes of the readers
        text = f"the workload's result cannot be read: {type(error).__name__}: {error}"
        raise WorkerFailed("unreadable", text[:KEPT_COLUMNS], output) from None


def _failed(error: Mapping[str, Any]) -> ApplyOptError:
    text = f"{error['type']}: {error['message']}"
    if error["is_usage"]:
        return UsageError(f"the workload refuses its options: {error['message']}", "--option KEY=VALUE")
    if error["missing"]:
        extra = extras.extra_of(error["missing"])
        package = extras.package_of(error["missing"])
        known = f"pip install {package}" if package else f"install what brings the module {error['missing']}"
        step = extras.how_to_get(extra) if extra else known
        return WorkerFailed("missing", text, error["traceback"], step)
    return WorkerFailed("crashed", text, error["traceback"])


def _check_unwritten(folders: Sequence[str], before: Sequence[Mapping[str, object]]) -> None:
    """Every run has to find what the one before it found."""
    for folder, kept in zip(folders, before):
        now = files.census(folder)
        names = sorted(name for name in {*kept, *now} if kept.get(name) != now.get(name))
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            step = "have it write to a temporary folder (the workload's load() may change to one)"
            raise WorkerFailed("wrote", f"the workload wrote to files that its next run will read: {shown}", (), step)


def _process(command: Sequence[str], arm: Arm, setting: Setting) -> Sequence[str]:
    """Run ``command`` to its end; what it printed last. Raises :class:`WorkerFailed`; nothing of it runs on afterwards."""
    output: deque[str] = deque(maxlen=KEPT_LINES)
    mark, temporary = secrets.token_hex(8), tempfile.mkdtemp(dir=os.path.dirname(command[-1]))
    process: Optional[subprocess.Popen[bytes]] = None
    reader: Optional[threading.Thread] = None
    try:
        with interrupt.held():
            process = subprocess.Popen(
                command,
                cwd=arm.checkout,
                env=environment(setting.threads, temporary, mark, setting.hash_seed),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            assert process.stdout is not None
            reader = threading.Thread(target=_read, args=(process.stdout, output), daemon=True)
            reader.start()
        _wait(process, mark, setting.limits)
    except WorkerFailed as failed:
        with interrupt.held():
            _end(process, mark, reader)
        raise WorkerFailed(failed.reason, failed.message, list(output), failed.next_step) from None
    finally:
        with interrupt.held():
            _end(process, mark, reader)
    if process.returncode:
        raise WorkerFailed("vanished", f"the workload ended with {_words(process.returncode)}", list(output))
    return list(output)


def _words(code: int) -> str:
    """An exit code; a signal by its name."""
    with contextlib.suppress(ValueError):
        return f"code {code}" if code > 0 else f"the signal {signal.Signals(-code).name}"
    return f"the signal {-code}"


def _read(stream: IO[bytes], output: deque[str]) -> None:
    """Keep the end of what is printed, however much it is and however long its lines are."""
    rest = b""
    with stream:
        while data := stream.read1(65536):  # type: ignore[attr-defined]
            lines = (rest + data).split(b"\n")
            rest = lines.pop()[-KEPT_COLUMNS:]
            output.extend(line[-KEPT_COLUMNS:].decode("utf-8", "replace") for line in lines[-KEPT_LINES:])
    if rest:
        output.append(rest.decode("utf-8", "replace"))


def _wait(process: subprocess.Popen[bytes], mark: str, limits: Limits) -> None:
    """Until it ends. Its own memory is looked at often, that of all that it started, which costs more, now and then."""
    began = counted = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_SECONDS)
            return
        now = time.monotonic()
        if now - began > limits.seconds:
            message = f"the workload did not end within {limits.seconds:g} s"
            raise WorkerFailed("hung", message, (), "give it more time: --timeout SECONDS")
        if limits.memory:
            everything = now - counted > COUNT_SECONDS
            counted = now if everything else counted
            held = _memory(_started(process.pid, mark) if everything else _those([process.pid]))
            if held > limits.memory:
                limit = f"the limit is {limits.memory >> 20} MiB"
                message = f"the workload held {held >> 20} MiB; {limit}"
                raise WorkerFailed(
                    "memory", message, (), "give it more: --memory GIB; or a smaller input: --option KEY=VALUE"
                )


def _memory(processes: Sequence[Any]) -> int:
    """Bytes that they hold."""
    import psutil

    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def _those(pids: Sequence[int]) -> list[Any]:
    import psutil

    found = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            found.append(psutil.Process(pid))
    return found


def _started(pid: int, mark: str, is_over: bool = False) -> list[Any]:
    """A worker and all that it started: its descendants, its session, and whatever else carries its mark (daemons).

    Of one that is over the system may have given the number to somebody else.
    """
    import psutil

    found = {process.pid: process for process in _those([] if is_over else [pid])}
    for process in list(found.values()):
        with contextlib.suppress(psutil.Error):
            found |= {child.pid: child for child in process.children(recursive=True)}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in found and _is_of(process, pid, mark):
                found[process.pid] = process
    return list(found.values())


def _is_of(process: Any, pid: int, mark: str) -> bool:
    if process.pid == os.getpid():
        return False
    if hasattr(os, "getsid") and os.getsid(process.pid) == pid:
        return True
    return bool(process.environ().get(MARK) == mark)


def _end(process: Optional[subprocess.Popen[bytes]], mark: str, reader: Optional[threading.Thread]) -> None:
    """Whatever happened, the process is gone afterwards, and so is all that it has started. May be called again."""
    import psutil

    if process is None:
        return
    clear = 0
    for _ in range(END_ROUNDS):  # what starts another and goes, while we look, is found in the next round
        started = [p for p in _started(process.pid, mark, process.returncode is not None) if _is_alive(p)]
        clear = 0 if started else clear + 1
        if clear == CLEAR_ROUNDS:
            break
        for other in started:
            with contextlib.suppress(psutil.Error):
                other.kill()
        _wait_for(started, process)
    process.wait()
    if reader is not None:
        reader.join(5)


def _wait_for(ended: Sequence[Any], process: subprocess.Popen[bytes]) -> None:
    """Until they are gone, for a while; one whose parent never asks for its end (a zombie) is."""
    deadline = time.monotonic() + 1
    while any(map(_is_alive, ended)) and time.monotonic() < deadline:
        process.poll()
        time.sleep(0.005)


def _is_alive(process: Any) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
