"""All files or none, where a run changes two: at whatever step it ends, the next command finds or makes a whole state."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import faults
import pytest
from support import ROOT, Ran, call, contents, write
from two_files import BOTH, FLUSH, MAIN, PLAIN, READ, WRITE, WRITER, changed, tree

Run = Callable[..., Ran]
FAST = {MAIN: changed(MAIN, READ), WRITER: changed(WRITER, WRITE)}
ALL = {**FAST, WRITER: changed(WRITER, WRITE, FLUSH)}
MARK = b"# the user's\n"
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# What is applied before, the run that is stopped, and the files before it and after it.
RUNS = {
    "apply": ([], [BOTH], PLAIN, FAST),
    "apply on top": ([READ], [FLUSH, WRITE], {**PLAIN, MAIN: FAST[MAIN]}, ALL),
    "revert": ([BOTH, FLUSH], ["revert", "--all"], ALL, PLAIN),
    "revert from below": ([BOTH, FLUSH], ["revert", BOTH], ALL, {**PLAIN, WRITER: changed(WRITER, FLUSH)}),
}


class Whole:
    """A checkout before a run, and what may be in it afterwards."""

    def __init__(self, name: str, folder: Path) -> None:
        names, self.words, self.before, self.after = RUNS[name]
        self.template = tree(folder / "template")
        if names:
            assert call(*names, cwd=self.template).code == 0
        assert files(self.template) == self.before

    def check(self, folder: Path, step: str) -> bool:
        """After the next ``status``, all files are as before or all are as after. Gives which; and that there is a way back."""
        looked = call("status", "--json", cwd=folder)
        assert looked.code == 0, (step, looked)
        now = files(folder)
        assert now in (self.before, self.after), (step, now)
        found = json.loads(looked.out)["optimizations"].values()
        assert {one["state"] for one in found} <= {"applied", "not applied"}, step
        assert call("revert", "--all", cwd=folder).code == 0, step
        assert contents(folder) == PLAIN, step
        return now == self.after


def files(folder: Path) -> dict[str, bytes | str]:
    return contents(folder, ".apply-opt")


@pytest.fixture(params=RUNS)
def whole(request: pytest.FixtureRequest, copy_pack: Path, tmp_path: Path) -> Whole:
    return Whole(request.param, tmp_path)


@forks
def test_killed_at_every_step(whole: Whole, copy_pack: Path, tmp_path: Path) -> None:
    request = {"template": str(whole.template), "work": str(tmp_path / "work"), "words": whole.words, "every": 1}
    (tmp_path / "work").mkdir()
    command = [sys.executable, str(ROOT / "tests" / "faults.py")]
    path = os.pathsep.join([str(copy_pack.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    data = json.dumps(request).encode()
    result = subprocess.run(command, input=data, capture_output=True, check=True, cwd=tmp_path, env=environment)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines[-1]["step"] == "finished with 0"
    halves = [line for line in lines if files(Path(line["folder"])) not in (whole.before, whole.after)]
    assert halves, "at some step only one file is written"
    counted = [whole.check(Path(line["folder"]), f"{line['at']}: {line['step']}") for line in lines]
    assert counted == sorted(counted), "once the run counts, it counts at every later step too"
    assert (counted[0], counted[-1]) == (False, True)


@pytest.mark.parametrize("whole", ["apply", "revert"], indirect=True)
def test_an_error_at_every_step(whole: Whole, tmp_path: Path) -> None:
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        shutil.copytree(whole.template, folder)
        with faults.watched(faults.once(at, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))) as steps:
            code = call(*whole.words, cwd=folder).code
        assert code in (0, 1), at
        assert whole.check(folder, str(at)) == (code == 0), at
        if steps.count < at:
            assert at > 20
            return


@pytest.mark.parametrize("path", [MAIN, WRITER])
def test_an_editor_saves_one_of_them_meanwhile(
    path: str, copy_pack: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before the files take their places: what was typed stays, and neither file is changed."""
    from apply_opt.io import files as operations

    folder = tree(tmp_path / "copying")
    real = operations.write_through

    def write_through(name: str, data: bytes, like: str | None = None) -> None:
        real(name, data, like)
        if name.endswith(".ledger.json.apply-opt-new"):
            write(folder, {path: PLAIN[path] + MARK})

    monkeypatch.setattr(operations, "write_through", write_through)
    ran = run(BOTH, cwd=folder)
    assert ran.code == 3
    assert f"{path} was changed while apply-opt was at work" in ran.err
    assert contents(folder) == {**PLAIN, path: PLAIN[path] + MARK}


def test_one_of_them_is_read_only(copy_pack: Path, tmp_path: Path, run: Run) -> None:
    folder = tree(tmp_path / "copying")
    (folder / WRITER).chmod(0o444)
    ran = run(BOTH, cwd=folder)
    assert ran.code == 3
    assert f"the file {folder / WRITER} is read-only" in ran.err
    assert contents(folder) == PLAIN
    assert run(READ, cwd=folder).code == 0
