"""ACT's reference tree with optimizations in it, and episodes that are made up for it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from cases import UNITS, plan

from apply_opt.model.plan import PLANNED
from apply_opt.worker.__main__ import load_file

TARGET = Path(UNITS.targets["act"].folder)
REFERENCE = (TARGET / "reference/utils.py").read_text(encoding="utf-8")
TRAINING = (TARGET / "reference/imitate_episodes.py").read_text(encoding="utf-8")


def text_with(name: str, text: str = REFERENCE, **values: object) -> str:
    """A file with the optimization ``name`` in it."""
    outcome = plan(name, text, **values)
    assert outcome.kind == PLANNED, outcome.message
    return outcome.after.decode()


def module_of(text: str, folder: Path, name: str) -> Any:
    """The module that ``text`` is, from a file of that name; the caller takes it out of ``sys.modules`` where it matters."""
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


def make_episodes(folder: Path, **values: Any) -> Path:
    """Episodes in a folder; see the function of the workload's that makes them."""
    load_file(str(TARGET / "episodes.py"), "_act_episodes").make_episodes(str(folder), **values)
    return folder
