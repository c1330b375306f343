"""Where the records of ``verify`` and ``bench`` are kept: with the user's own state, so that a checkout stays as it is.

One folder for each checkout, one JSON file for each record.
"""

from __future__ import annotations

import json
import os
from typing import Any

from apply_opt.errors import ApplyOptError, UsageError
from apply_opt.io import extras, files
from apply_opt.model.digest import sha256

Record = dict[str, Any]
FORMAT = 1
"""Of the records; goes up when a reader of the old ones would misread the new ones."""


def folder(root: str) -> str:
    """Where the records of the checkout ``root`` are."""
    extras.need("platformdirs")
    import platformdirs

    state = platformdirs.user_state_dir("apply-opt", appauthor=False)
    return os.path.join(state, "records", sha256(os.fsencode(root))[:16])


def keep(root: str, record: Record) -> str:
    """Write a record among those of its checkout, and give its path."""
    parent = ready(root)
    date = record["date"].replace(":", "").replace("-", "")
    path = os.path.join(parent, f"{date}-{record['kind']}-{sha256(json.dumps(record).encode())[:8]}.json")
    write(path, record)
    return path


def ready(root: str) -> str:
    """Where the records of a checkout go; made, so that it is known to be possible before anything has taken its time."""
    parent = folder(root)
    try:
        files.make_folder(parent)
    except OSError as error:
        message = f"no record can be kept in {parent}: {error.strerror or error}"
        raise ApplyOptError(message, "export XDG_STATE_HOME=FOLDER") from error
    return parent


def keep_both(root: str, record: Record, output: str | None) -> list[str]:
    """Write a record among those of its checkout and, where that is asked for, to another file."""
    paths = [keep(root, record)]
    if output:
        write(output, record)
        paths.append(output)
    return paths


def check_output(path: str | None) -> None:
    """Raise :class:`UsageError`, before anything has taken its time, for a file that could not be written in the end."""
    if path and (os.path.isdir(path) or not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK)):
        raise UsageError(f"--output {path}: no file can be written there", f"check with: {files.look(path)}")


def write(path: str, record: Record) -> None:
    """Write a record as a file."""
    path = os.path.abspath(path)
    files.replace(path, (json.dumps(record, indent=1) + "\n").encode(), path + files.SCRATCH)


def paths(root: str) -> list[str]:
    """Where the records of a checkout are, oldest first."""
    parent = folder(root)
    names = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
    return [os.path.join(parent, name) for name in names if name.endswith(".json")]


def read(path: str) -> Record:
    """One record. Raises :class:`ApplyOptError` for what is none, or is one of another apply-opt."""
    data = files.read(path)
    if data is None:
        raise ApplyOptError(f"there is no record {path}", "apply-opt bench NAME --output FILE makes one")
    try:
        record = json.loads(data)
        is_ours = record["kind"] in ("bench", "verify") and isinstance(record["format"], int)
    except (ValueError, KeyError, TypeError, RecursionError):
        is_ours = False
    if not is_ours:
        step = f"look at it: {files.look(path)}"
        raise ApplyOptError(f"{path} is not a record of apply-opt verify or bench, or not all of one", step)
    if record["format"] != FORMAT:
        why = f"{path} has the record format {record['format']}; this apply-opt reads {FORMAT}"
        raise ApplyOptError(why, "make the record again, or take the apply-opt that made it")
    return dict(record)
