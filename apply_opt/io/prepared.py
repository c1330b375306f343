"""What workloads build once (models, data) and find again: a cache, which may be removed at any time.

A folder is built under another name and renamed when it is whole, behind a lock that the system lets go of when its holder
dies: one that was interrupted is never used, and two that start together build once. Each state of a checkout has its own,
which can be half a gigabyte: those that were not used for a day go, but for the last :data:`KEPT`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any, Optional

from apply_opt.errors import ApplyOptError
from apply_opt.io import extras, files, interrupt, workers
from apply_opt.io.workers import Arm, Setting

SAID, PART, LOCK, USED = "prepared.json", ".part", ".lock", ".used"
KEPT, UNUSED = 4, 86400.0
"""How many folders of a target stay however old they are, and the seconds for which one must not have been used to go."""
KEYS = {"cases", "compared", "wrong", "amounts", "requests", "has_referee"}


def folder(target: str, key: str) -> str:
    """Where a workload of ``target`` finds what it built for ``key``."""
    extras.need("platformdirs")
    import platformdirs

    return os.path.join(platformdirs.user_cache_dir("apply-opt", appauthor=False), target, key[:16])


def prepare(setting: Setting, arm: Arm) -> dict[str, Any]:
    """Have the workload build ``setting.folder``, if it is not there; what it says of itself."""
    import filelock

    try:
        files.make_folder(os.path.dirname(setting.folder))
        with filelock.FileLock(setting.folder + LOCK, timeout=setting.limits.seconds):
            said = _said(setting.folder) or _build(setting, arm)
            files.replace(setting.folder + USED, b"", setting.folder + USED + files.SCRATCH)
        with contextlib.suppress(OSError):  # what is left over is no reason to fail
            _tidy(os.path.dirname(setting.folder), setting.folder)
        return said
    except filelock.Timeout:
        message = f"another apply-opt has been preparing {setting.folder} for {setting.limits.seconds:g} s"
        raise ApplyOptError(message, "wait for it, or give it more time: --timeout SECONDS") from None
    except OSError as error:
        place = error.filename or setting.folder
        message = f"nothing can be prepared in {os.path.dirname(setting.folder)}: {place}: {error.strerror or error}"
        raise ApplyOptError(message, "make room or name another folder: export XDG_CACHE_HOME=FOLDER") from error


def _said(path: str) -> Optional[dict[str, Any]]:
    data = files.read(os.path.join(path, SAID))
    try:
        said = json.loads(data or b"")
    except ValueError:
        return None
    return said if isinstance(said, dict) and set(said) >= KEYS else None


def _tidy(parent: str, used: str) -> None:
    """Remove what nobody uses any more. One that another apply-opt is about to use is locked, and stays."""
    import filelock

    paths = [os.path.join(parent, name) for name in os.listdir(parent)]
    others = [path for path in paths if path != used and os.path.isfile(os.path.join(path, SAID))]
    for path in sorted(others, key=_last_used)[: -(KEPT - 1)]:
        with contextlib.suppress(filelock.Timeout), filelock.FileLock(path + LOCK, timeout=0):
            if time.time() - _last_used(path) > UNUSED:  # nobody has come for it meanwhile
                files.remove_tree(path)
                files.remove(path + USED)


def _last_used(path: str) -> float:
    """When a folder was last asked for, or else built; a file beside it says so, since a run looks at all that is in it."""
    with contextlib.suppress(OSError):
        return os.stat(path + USED).st_mtime
    return os.stat(os.path.join(path, SAID)).st_mtime


def _build(setting: Setting, arm: Arm) -> dict[str, Any]:
    part = setting.folder + PART
    try:
        for path in (part, setting.folder):
            files.remove_tree(path)
        files.make_folder(part)
        said = workers.run(arm, setting._replace(folder=part), "prepare")
        files.replace(os.path.join(part, SAID), json.dumps(said).encode(), os.path.join(part, SAID + files.SCRATCH))
        files.rename(part, setting.folder)
    finally:
        with interrupt.held():
            files.remove_tree(part)
    return said
