"""Where the records of ``verify`` and ``bench`` are kept: with the user's own state, so that a checkout stays as it is.

One folder for each checkout, one JSON file for each record.
"""

from __future__ import annotations

import json
import os
from typing import Any

from apply_opt.errors import ApplyOptError
from apply_opt.io import files
from apply_opt.model.digest import sha256

Record = dict[str, Any]


def folder(root: str) -> str:
    """Where the records of the checkout ``root`` are."""
    import platformdirs

    state = platformdirs.user_state_dir("apply-opt", appauthor=False)
    return os.path.join(state, "records", sha256(os.fsencode(root))[:16])


def keep(root: str, record: Record) -> str:
    """Write a record among those of its checkout, and give its path."""
    parent = folder(root)
    files.make_folder(parent)
    date = record["date"].replace(":", "").replace("-", "")
    path = os.path.join(parent, f"{date}-{record['kind']}-{sha256(json.dumps(record).encode())[:8]}.json")
    write(path, record)
    return path


def write(path: str, record: Record) -> None:
    """Write a record as a file."""
    files.replace(path, (json.dumps(record, indent=1) + "\n").encode(), path + files.SCRATCH)


def kept(root: str) -> list[Record]:
    """The records of a checkout, oldest first."""
    parent = folder(root)
    names = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
    return [read(os.path.join(parent, name)) for name in names if name.endswith(".json")]


def read(path: str) -> Record:
    """One record. Raises :class:`ApplyOptError` for what is none."""
    data = files.read(path)
    if data is None:
        raise ApplyOptError(f"there is no record {path}", "apply-opt bench NAME --output FILE makes one")
    try:
        record = json.loads(data)
        if record["format"] == 1 and record["kind"] in ("bench", "verify"):
            return dict(record)
    except (ValueError, KeyError, TypeError):
        pass
    raise ApplyOptError(f"{path} is not a record of apply-opt verify or bench", f"look at it: {files.look(path)}")
