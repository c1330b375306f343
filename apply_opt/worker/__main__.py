"""One process, one arm, one job: read the specification, load the workload from the checkout, do the job, write the result.

    python apply_opt/worker SPECIFICATION.json

The checkout's own modules are imported here, so this process holds nothing of apply-opt's on ``sys.path``. What it reports
of itself (the file and hash of each changed module, and how often each of its lines ran) lets the parent tell which arm ran.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: a checkout may have modules of the same names

import importlib.util
import json
import os
import traceback
from types import ModuleType
from typing import Any


def load_file(path: str, name: str) -> ModuleType:
    """A module from a file, under ``name``."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Write ``{"ok": …}`` or ``{"error": …}`` to the result's path, under another name first."""
    with open(sys.argv[1], encoding="utf-8") as file:
        specification: dict[str, Any] = json.load(file)
    if specification["cpus"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, specification["cpus"])
    sys.path.insert(0, specification["checkout"])
    jobs = load_file(os.path.join(os.path.dirname(os.path.abspath(__file__)), "jobs.py"), "_apply_opt_jobs")
    try:
        result = {"ok": jobs.run(specification, load_file)}
    except Exception as error:
        lines = traceback.format_exc().splitlines()
        result = {"error": {"type": type(error).__name__, "message": str(error)[:2000], "traceback": lines[-60:]}}
    path = specification["result"]
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(result, file)
    os.replace(path + ".new", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
