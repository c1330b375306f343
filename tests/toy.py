"""A small target made up for the tests of what runs code: a pack whose processes import nothing that is slow.

``Toy(folder)`` makes a checkout, and a pack with the optimization ``toy_change``, which replaces some lines of the
checkout's ``toy.py``. Both are built from texts, so that a test says in a line what is special about its own.
"""

from __future__ import annotations

import contextlib
import os
import textwrap
from pathlib import Path
from typing import Any

import psutil

from apply_opt.io import workers
from apply_opt.io.workers import Arm, Limits, Setting

TOY_MARK = "APPLY_OPT_TEST"
NAME, TARGET, FILE = "toy_change", "toy_target", "toy.py"
LIMITS = Limits(20.0)
SOURCE = '''\
"""A program that adds numbers up."""
import random

LIMIT = 100


class Toy:
    """Adds up."""

    def __init__(self):
        self.scale = 2
        self.offset = 0

    def total(self, values):
        """The scaled sum."""
        scale = self.scale
        result = sum(value * scale for value in values)
        return result + self.offset


def other():
    return LIMIT
'''
OLD, NEW = "        scale = self.scale\n", "        (scale) = self.scale\n"
WORKLOAD = '''\
"""Runs the toy."""
import random

OPTIONS = {"size": "how many numbers"}


def prepare(folder, options):
    with open(folder + "/made", "w") as file:
        file.write("made")


def cases(options):
    size = options.get("size", "8,7")
    if not all(word.isdigit() for word in size.split(",")):
        raise ValueError(f"size is numbers with commas between, not {size}")
    return size.split(",")


def load(folder, options):
    import toy
    return toy.Toy()


def inputs(case, seed):
    return {"values": [random.Random(seed).random() for _ in range(int(case))]}


def run(subject, inputs):
    return {"total": subject.total(inputs["values"])}


def bad_inputs():
    return {"nothing": {"values": None}}


def _off(subject):
    subject.offset = 1


WRONG = {"off by one": _off}
'''
CODEMOD = '''\
"""Replaces lines."""
from apply_opt.errors import NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.source import Edit

OLD, NEW = {old!r}, {new!r}


def find(source, parameters):
    text = source.data.decode()
    for place, state in sorted([(OLD, TODO), (NEW, OURS)], key=lambda item: -len(item[0])):
        if place in text:
            return [Site("place", text[: text.index(place)].count("\\n") + 1, state)]
    raise NoSite("there is no such place")


def edit(source, parameters, sites):
    return [Edit(sites[0].line, sites[0].line + OLD.count("\\n") - 1, NEW)]
'''
OPTIMIZATION = """\
title = "A change of the toy"
target = "{target}"
safety = "{safety}"
sites = ["place"]
manual = "by hand"
"""
TARGET_TOML = """\
title = "The toy"
upstream = ["nobody/toy"]
licence = "Apache-2.0"

[recognise]
files = ["toy.py"]
markers = ["class Toy"]
"""


def processes_of(mark: str) -> list[str]:
    """The processes that a test started, but for itself, and that run still."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(TOY_MARK) == mark:
                found.append(f"{process.pid} {process.cmdline()}")
    return found


class Toy:
    """A pack, and a checkout for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = folder / "site"
        """To be put on ``sys.path``, so that the pack is found."""
        self.pack = self.site / "toy_pack"
        self.tree = folder / "tree"
        self.tree.mkdir(parents=True)
        self.source(SOURCE)
        self.workload()
        self.optimization(NAME, OLD, NEW)
        self._write(self.pack / "target_repos" / TARGET / "target.toml", TARGET_TOML)
        self._write(self.pack / "__init__.py", "")
        information = self.site / "toy_pack-1.0.dist-info"
        self._write(information / "METADATA", "Metadata-Version: 2.1\nName: toy-pack\nVersion: 1.0\n")
        self._write(information / "entry_points.txt", "[apply_opt.packs]\ntoy = toy_pack\n")

    def source(self, text: str, name: str = FILE) -> Path:
        """A file of the checkout."""
        return self._write(self.tree / name, text)

    def workload(self, more: str = "") -> Path:
        """The target's workload: the usual one, and what ``more`` defines in place of its functions."""
        text = f"{WORKLOAD}\n\n{textwrap.dedent(more)}"
        return self._write(self.pack / "target_repos" / TARGET / "workload.py", text)

    def optimization(self, name: str, old: str, new: str, safety: str = "exact") -> None:
        """An optimization that replaces the lines ``old`` by ``new``."""
        self._write(self.pack / "codemods" / f"{name}.py", CODEMOD.format(old=old, new=new))
        text = OPTIMIZATION.format(target=TARGET, safety=safety)
        self._write(self.pack / "patches" / name / "optimization.toml", text)

    def arm(self) -> Arm:
        """The checkout itself as an arm, for a single worker."""
        return Arm(str(self.tree), [FILE])

    def setting(self, limits: Limits = LIMITS, **options: str) -> Setting:
        """What a single worker needs."""
        folder = self.folder / "prepared"
        folder.mkdir(exist_ok=True)
        workload = self.pack / "target_repos" / TARGET / "workload.py"
        options = {"file": FILE, "here": str(self.folder), **options}
        return Setting(str(workload), str(folder), options, limits=limits)

    def worker(self, job: str = "observe", limits: Limits = LIMITS, **more: Any) -> dict[str, Any]:
        """One job in a process of its own."""
        return workers.run(self.arm(), self.setting(limits), job, **{"cases": ["8", "7"], **more})

    def _write(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path
