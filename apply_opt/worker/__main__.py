"""One process, one arm, one job: read the specification, load the workload from the checkout, do the job, write the result.

    python apply_opt/worker SPECIFICATION.json

The checkout's own modules are imported here, so this process holds nothing of apply-opt's on ``sys.path``, and everything of
ours is loaded before the checkout is put there: its modules may have any name. What the process reports of itself (the file
and hash of each changed module, and how often each of its lines ran) lets the parent tell which arm ran.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import traceback
from types import ModuleType
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
KEPT_LINES, KEPT_COLUMNS = 60, 500
MODULES = ("values", "canary", "counters", "observing", "timing", "graphs", "compiling", "jobs")
"""Each may import those before it as ``_apply_opt_NAME``."""


def load_file(path: str, name: str) -> ModuleType:
    """A module from a file, under ``name``, which may have others beside it: ``from . import other``."""
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[os.path.dirname(path)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Write ``{"ok": …}`` or ``{"error": …}`` to the result's path, under another name first."""
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != HERE]
    with open(sys.argv[1], encoding="utf-8") as file:
        specification: dict[str, Any] = json.load(file)
    sys.argv[:] = [specification["workload"]]
    _die_with_parent()
    if specification["cpus"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, specification["cpus"])
    try:
        result = {"ok": _do(specification)}
    except BaseException as error:  # also SystemExit and KeyboardInterrupt, which a workload may raise
        result = {"error": _said(error, specification)}
    path = specification["result"]
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(result, file)
    os.replace(path + ".new", path)
    return 0


def _do(specification: dict[str, Any]) -> Any:
    for name in MODULES:
        loaded = load_file(os.path.join(HERE, f"{name}.py"), f"_apply_opt_{name}")
    workload = load_file(specification["workload"], "_apply_opt_workload")
    if specification["job"] != "prepare":
        for name in getattr(workload, "LIBRARIES", ()):
            importlib.import_module(name)
    sys.path.insert(0, specification["checkout"])
    return loaded.run(specification, workload)


def _die_with_parent() -> None:
    """Where the system can (Linux), end this process when its parent goes away without a word."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL


def _said(error: BaseException, specification: dict[str, Any]) -> dict[str, Any]:
    """An exception, cut to a size that can be shown; and whether it is the workload's word on its options."""
    frames = traceback.extract_tb(error.__traceback__)
    is_own = bool(frames) and frames[-1].filename in (specification["workload"], os.path.join(HERE, "jobs.py"))
    try:
        message = str(error)
        lines = "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
    except Exception:
        message, lines = "(its message cannot be had)", [f"{frame.filename}:{frame.lineno}" for frame in frames]
    return {
        "type": type(error).__name__,
        "message": message[: 4 * KEPT_COLUMNS],
        "traceback": [line[:KEPT_COLUMNS] for line in lines[-KEPT_LINES:]],
        "missing": str(error.name or "") if isinstance(error, ModuleNotFoundError) else "",
        "is_usage": type(error) is ValueError and is_own and specification["job"] == "prepare",
    }


if __name__ == "__main__":
    sys.exit(main())
