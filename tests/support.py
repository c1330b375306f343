"""What the engine's tests share: where things are, what a folder holds, and a shorter way to call other programs."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from apply_opt.cli import main

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "target_repos" / "step_audio_editx" / "reference"
ENCODER = ROOT / "target_repos" / "nemo_conformer" / "reference"
TF32, THREADS, LIGHT = QUICK = ("tokenizer_tf32", "tokenizer_ort_threads", "tokenizer_light_model")
EVERYTHING = ("--allow", "lossy", "--set", "unchecked=true")
"""What makes ``tokenizer_quick`` put in all three."""


class Ran(NamedTuple):
    """What a command line gave. ``out`` keeps bytes that are not UTF-8 as surrogates."""

    code: int
    out: str
    err: str

    @property
    def raw(self) -> bytes:
        """Standard output as it was written."""
        return self.out.encode("utf-8", "surrogateescape")


def call(*argv: object, cwd: Path) -> Ran:
    """``apply-opt ARGV…`` in ``cwd``, in this process."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape", newline="")
    err = io.StringIO()
    with working_in(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in argv])
        except SystemExit as stop:  # argparse
            code = stop.code if isinstance(stop.code, int) else 1
    out.flush()
    return Ran(code, out.buffer.getvalue().decode("utf-8", "surrogateescape"), err.getvalue())  # type: ignore[attr-defined]


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The current folder is ``folder``."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def process(*argv: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """``apply-opt ARGV…`` in ``cwd``, in a process of its own."""
    command = [sys.executable, "-m", "apply_opt", *map(str, argv)]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, check=False)


def copy(source: Path, folder: Path) -> Path:
    """A copy of a tree, without what Python left in it."""
    shutil.copytree(source, folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def git(*words: str, cwd: Path, check: bool = True) -> str:
    """``git WORDS…``, which is not to touch the index just to look."""
    environment = {
        **os.environ,
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    result = subprocess.run(["git", *words], cwd=cwd, env=environment, capture_output=True, check=check)
    return result.stdout.decode()


def commit_all(folder: Path) -> None:
    """A git repository in ``folder`` with one commit of all that is there."""
    git("init", "--quiet", "--initial-branch=main", cwd=folder)
    git("config", "user.name", "A User", cwd=folder)
    git("config", "user.email", "user@example.org", cwd=folder)
    git("add", "--all", cwd=folder)
    git("commit", "--quiet", "--message", "as it was", cwd=folder)


def patched(folder: Path, data: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    """``patch -p1 WORDS… < data``."""
    command = ["patch", "-p1", "--no-backup-if-mismatch", *words]
    return subprocess.run(command, cwd=folder, input=data, capture_output=True, check=False)


def contents(folder: Path, *without: str) -> dict[str, bytes | str]:
    """The bytes of every file below ``folder`` (a link's target), but for those in folders called ``without``."""
    return {name: data for name, (_, _, data) in snapshot(folder, *without).items() if data is not None}


def snapshot(folder: Path, *without: str) -> dict[str, tuple[int, int, bytes | str | None]]:
    """Mode, time stamp (ns) and bytes of everything below ``folder``, and of itself."""
    found: dict[str, tuple[int, int, bytes | str | None]] = {}
    paths = [folder]
    while paths:
        path = paths.pop()
        status = path.lstat()
        data: bytes | str | None = None
        if path.is_symlink():
            data = os.readlink(path)
        elif path.is_dir():
            paths += [item for item in path.iterdir() if item.name not in without]
        else:
            data = path.read_bytes()
        found[path.relative_to(folder).as_posix()] = (status.st_mode, status.st_mtime_ns, data)
    return found


def traces(folder: Path) -> list[str]:
    """Whatever of apply-opt is left in ``folder``."""
    return [name for name in snapshot(folder) if ".apply-opt" in name]


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Files below ``folder``."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def complaints(err: str) -> str:
    """What there is on standard error besides how far a long run is."""
    return "".join(line for line in err.splitlines(keepends=True) if not re.match(r"\d+ (of \d+ )?processes\b", line))
