"""All or nothing: at whatever step a run ends, the next command finds or makes a whole state."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faults
import pytest
from support import EVERYTHING, REFERENCE, ROOT, TF32, THREADS, Ran, call, commit_all, contents, git, snapshot

from apply_opt.errors import ApplyOptError, Conflict, LedgerError
from apply_opt.io import files, ledger, transaction
from apply_opt.io.transaction import Change
from apply_opt.model.digest import sha256

Run = Callable[..., Ran]
PLAIN = (REFERENCE / "tokenizer.py").read_bytes()
LOSSY = EVERYTHING[:2]
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# What is done before, and the run that is stopped.
RUNS: dict[str, tuple[list[list[str]], list[str]]] = {
    "apply": ([["GIT"]], [THREADS]),
    "apply another": ([[TF32, *LOSSY]], [THREADS]),
    "revert": ([["GIT"], [THREADS]], ["revert"]),
    "revert from below": ([[TF32, *LOSSY], [THREADS]], ["revert", TF32]),
    "revert all": ([[TF32, *LOSSY], [THREADS]], ["revert", "--all"]),
    "revert from backup": ([[TF32, *LOSSY], ["EDIT"], [THREADS], ["EDIT"]], ["revert", "--from-backup"]),
    "adopt": ([[THREADS], ["FORGET"]], ["adopt"]),
}


def prepare(folder: Path, steps: list[list[str]]) -> Path:
    """A folder with the tokenizer's file alone, so that copies of it are quick."""
    folder.mkdir()
    (folder / "tokenizer.py").write_bytes(PLAIN)
    (folder / "tokenizer.py").chmod(0o640)
    for words in steps:
        if words == ["EDIT"]:
            with open(folder / "tokenizer.py", "ab") as file:
                file.write(b"# the user's\n")
        elif words == ["FORGET"]:
            shutil.rmtree(folder / ".apply-opt")
        elif words == ["GIT"]:
            commit_all(folder)
            shutil.rmtree(folder / ".git" / "hooks")
        else:
            assert call(*words, cwd=folder).code == 0
    return folder


def state(folder: Path) -> dict[str, bytes | str | int]:
    """All that a folder holds, and the file's mode; but for the lock, time stamps, and contents that nothing refers to.

    Those are left where a run is killed before it has said what it is about to do. The next one removes them.
    """
    found: dict[str, bytes | str | int] = dict(contents(folder))
    found.pop(".apply-opt/lock", None)
    text = found.get(".apply-opt/ledger.json", b"")
    if text:
        document = json.loads(text)
        document.pop("check")
        for entry in document["entries"]:
            entry.pop("applied_at")
        text = found[".apply-opt/ledger.json"] = json.dumps(document)
    stray = [name for name in found if name.startswith(".apply-opt/objects/") and name[-64:] not in text]
    return {name: data for name, data in found.items() if name not in stray} | {
        "mode": (folder / "tokenizer.py").stat().st_mode
    }


EXCLUDE = ".git/info/exclude"


class Whole:
    """The state before the run and after it; every other is a half."""

    def __init__(self, tmp_path: Path, name: str) -> None:
        steps, self.words = RUNS[name]
        self.template = prepare(tmp_path / "template", steps)
        after = tmp_path / "after"
        shutil.copytree(self.template, after)
        assert call(*self.words, cwd=after).code == 0
        self.before, self.after = state(self.template), state(after)
        self.original = (
            PLAIN if "EDIT" not in str(steps) else (self.template / ".apply-opt/backup/tokenizer.py").read_bytes()
        )
        assert self.before != self.after

    def check(self, folder: Path, step: str) -> bool:
        """After the next ``status``, ``folder`` is in a whole state, from which it can be taken back. Gives whether the run counts."""
        looked = call("status", "--json", cwd=folder)
        assert looked.code == 0, (step, looked)
        now = state(folder)
        if "Ran(" in step:  # where git's list cannot be written, git shows our folder; that is all
            now |= {name: self.after[name] for name in now if name == EXCLUDE and now != self.before}
        if self.words[-1] == "--from-backup" and now not in (self.before, self.after):
            rescued = {name: data for name, data in now.items() if isinstance(name, str) and "rescued" in name}
            assert set(rescued) <= set(self.after), (step, sorted(rescued))
            now = {name: data for name, data in now.items() if name not in rescued}
            assert now in (self.before, self.before | {"tokenizer.py": self.original}), (step, sorted(now))
            return False
        assert now in (self.before, self.after), (step, sorted(now), looked.out)
        assert not [name for name in snapshot(folder) if name.endswith(".apply-opt-new")]
        assert not ledger.interrupted(str(folder)), step
        return now == self.after

    def check_way_back(self, folder: Path, step: str) -> None:
        """From where it is, the run can be made again, and everything taken out."""
        assert call(*self.words, cwd=folder).code in (0, 1, 3), step
        assert call("revert", "--all", cwd=folder).code == 0, step
        left = (folder / "tokenizer.py").read_bytes()
        assert left.replace(b"# the user's\n", b"") == PLAIN, step
        if (folder / ".git").exists():
            assert contents(folder / ".git") == contents(self.template / ".git") or "revert" in self.words
            assert git("status", "--porcelain", "--ignored", cwd=folder) == "", step


@pytest.fixture(params=RUNS)
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Whole:
    return Whole(tmp_path, request.param)


@pytest.fixture
def copies(whole: Whole, tmp_path: Path) -> Callable[[], Path]:
    """Fresh copies of the state before the run."""
    made: list[Path] = []

    def make() -> Path:
        made.append(tmp_path / "copies" / str(len(made)))
        shutil.copytree(whole.template, made[-1])
        return made[-1]

    return make


@forks
def test_killed_at_every_step(whole: Whole, tmp_path: Path) -> None:
    every = 3 if whole.words == ["adopt"] else 1  # each of its runs looks for all optimizations
    request = {"template": str(whole.template), "work": str(tmp_path / "work"), "words": whole.words, "every": every}
    (tmp_path / "work").mkdir()
    command = [sys.executable, str(ROOT / "tests" / "faults.py")]
    result = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, check=True, cwd=tmp_path)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) > 20 // every
    assert lines[-1]["step"] == "finished with 0"
    assert every > 1 or {line["step"] for line in lines} >= {"open", "write", "fsync", "replace", "unlink"}
    counted = [whole.check(Path(line["folder"]), f"{line['at']}: {line['step']}") for line in lines]
    assert counted == sorted(counted), "once the run counts, it counts at every later step too"
    assert not counted[0]
    assert counted[-1]
    for line in lines[:: max(1, len(lines) // 12)]:
        whole.check_way_back(Path(line["folder"]), str(line))


@pytest.mark.parametrize("whole", ["apply another", "revert all", "revert from backup", "apply"], indirect=True)
def test_interrupted_at_every_step(whole: Whole, copies: Callable[[], Path]) -> None:
    at, code = 0, 130
    while code != 0:
        at += 1
        folder = copies()
        with faults.watched(faults.once(at, KeyboardInterrupt())) as steps:
            code = call(*whole.words, cwd=folder).code
        assert code == (130 if steps.count >= at else 0), at
        done = whole.check(folder, str(at))
        if at % 9 == 0:
            whole.check_way_back(folder, str(at))
    assert done
    assert at > 20


@pytest.mark.parametrize("whole", ["apply another", "revert from below", "revert from backup", "revert"], indirect=True)
def test_an_error_at_every_step(whole: Whole, copies: Callable[[], Path]) -> None:
    """What it says is what has happened: done, or nothing was changed."""
    at = 0
    while True:
        at += 1
        folder = copies()
        with faults.watched(faults.once(at, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))) as steps:
            ran = call(*whole.words, cwd=folder)
        assert ran.code in (0, 1), (at, ran)
        if ran.code:
            assert "No space left on device" in ran.err, at
            assert len(ran.err.splitlines()) == 2, (at, ran.err)
            if "nothing was changed" in ran.err and whole.words[-1] != "--from-backup":
                assert {k: v for k, v in state(folder).items() if ".apply-opt" not in k} == {
                    k: v for k, v in whole.before.items() if ".apply-opt" not in k
                }
        assert whole.check(folder, f"{at}: {ran}") == (ran.code == 0)
        if steps.count < at:
            assert ran.code == 0
            assert at > 20
            return


@pytest.mark.parametrize("whole", ["apply", "revert all", "revert from backup"], indirect=True)
def test_a_disk_that_is_full_from_any_step_on(whole: Whole, copies: Callable[[], Path]) -> None:
    at = 0
    while True:
        at += 1
        folder = copies()
        with faults.watched(faults.full_disk(at)) as steps:
            ran = call(*whole.words, cwd=folder)
        assert ran.code in (0, 1), (at, ran)
        if ran.code:
            assert "No space left on device" in ran.err
            assert len(ran.err.splitlines()) == 2, (at, ran.err)
        done = whole.check(folder, f"{at}: {ran}")
        assert done or ran.code == 1
        if steps.count < at:
            assert done
            assert at > 20
            return


def test_no_step_outside_the_tree(whole: Whole, copies: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the checkout is written to, whatever ``TMPDIR`` and the home folder are."""
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setenv("HOME", "/nowhere")
    seen: list[str] = []
    real = os.open

    def open_(path: str, flags: int, *arguments: int, **named: int) -> int:
        if flags & faults.WRITING:
            seen.append(os.path.realpath(path))
        return real(path, flags, *arguments, **named)

    folder = copies()
    monkeypatch.setattr(os, "open", open_)
    assert call(*whole.words, cwd=folder).code == 0
    assert seen
    assert [path for path in seen if not path.startswith(f"{folder}/")] == []


# The user was there between the kill and the next command.


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A checkout in which an apply was killed after the file was written, and before the ledger was."""
    folder = prepare(tmp_path / "half", [])
    code = """
import os, signal, sys
from pathlib import Path
import faults
folder = Path(sys.argv[1])
def stop(count, name):
    if name == "replace" and b"_ort_intra" in (folder / "tokenizer.py").read_bytes():
        os.kill(os.getpid(), signal.SIGKILL)
with faults.watched(stop):
    faults.call("tokenizer_ort_threads", cwd=folder)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    result = subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, check=False)
    assert result.returncode == -signal.SIGKILL
    assert b"_ort_intra_op_threads" in (folder / "tokenizer.py").read_bytes()
    assert not (folder / ".apply-opt" / "ledger.json").exists()
    return folder


def test_edits_after_the_kill_stay(half: Path, run: Run) -> None:
    with open(half / "tokenizer.py", "ab") as file:
        file.write(b"# the user's\n")
    ran = run("status", cwd=half)
    assert ran.code == 0
    assert "an interrupted run was put right" in ran.out
    assert contents(half) == {"tokenizer.py": PLAIN + b"# the user's\n"}


def test_edits_of_the_same_lines_after_the_kill(half: Path, run: Run) -> None:
    path = half / "tokenizer.py"
    path.write_bytes(path.read_bytes().replace(b"    return cores\n", b"    return 1\n"))
    before = contents(half)
    for words in (("status",), (THREADS,), ("revert",)):
        ran = run(*words, cwd=half)
        assert ran.code == 3
        assert "an interrupted run changed tokenizer.py, and you have edited the same lines since" in ran.err
        assert ".apply-opt/objects/" in ran.err and "journal.json" in ran.err
        assert contents(half) == before
    path.write_bytes(PLAIN)
    assert run("status", cwd=half).code == 0
    assert contents(half) == {"tokenizer.py": PLAIN}


def test_the_file_deleted_after_the_kill(half: Path, run: Run) -> None:
    (half / "tokenizer.py").unlink()
    assert run("status", cwd=half).code == 3  # there is no target any more
    assert contents(half) == {}


@pytest.mark.parametrize("words", [("diff", THREADS), ("export", THREADS), ("list", "--json")])
def test_looking_does_not_mend(words: tuple[str, ...], half: Path, run: Run) -> None:
    before = snapshot(half)
    ran = run(*words, cwd=half)
    text = ran.out if words[0] == "list" else ran.err
    assert "another apply-opt is at work" in text and "or was interrupted there" in text
    assert ran.code == (0 if words[0] == "list" else 1)
    assert snapshot(half) == before


@pytest.mark.parametrize(
    "words", [("status",), (THREADS,), (TF32, "--allow", "lossy"), ("revert", "--all"), ("adopt",)]
)
def test_the_next_command_mends(words: tuple[str, ...], half: Path, run: Run) -> None:
    ran = run(*words, cwd=half)
    assert ran.code == (3 if words == ("adopt",) else 0)
    assert run("revert", "--all", cwd=half).code == 0
    assert contents(half) == {"tokenizer.py": PLAIN}


def test_a_journal_that_nobody_can_read(half: Path, run: Run) -> None:
    journal = half / ".apply-opt" / "journal.json"
    whole = journal.read_bytes()
    for data in (b"", b"[]", b"{}", whole[:-5], whole.replace(b'"path": "', b'"path": "../')):
        journal.write_bytes(data)
        before = contents(half)
        ran = run("status", cwd=half)
        assert ran.code in (1, 3)
        assert "damaged" in ran.err or "leads out of the checkout" in ran.err
        assert contents(half) == before
    journal.write_bytes(b"{}")
    assert run("revert", "--from-backup", cwd=half).code == 0
    assert (half / "tokenizer.py").read_bytes() == PLAIN


def test_lost_contents_after_the_kill(half: Path, run: Run) -> None:
    for path in (half / ".apply-opt" / "objects").iterdir():
        if path.name == sha256(PLAIN):
            path.unlink()
    before = contents(half)
    ran = run("status", cwd=half)
    assert ran.code == 1
    assert "is missing" in ran.err and "--from-backup" in ran.err
    assert contents(half) == before


# Two at once.

RACER = """
import sys
from pathlib import Path
from support import call
call("status", cwd=Path(sys.argv[1]))  # whatever is to be imported is
print("ready", flush=True)
for line in sys.stdin:
    folder, *words = line.split()
    ran = call(*words, cwd=Path(folder))
    print(ran.code, ran.out.replace("\\n", "|"), ran.err.replace("\\n", "|"), flush=True)
"""


@pytest.fixture(scope="module")
def racers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[subprocess.Popen[str]]]:
    """Three processes that wait for a line and then run at once."""
    folder = prepare(tmp_path_factory.mktemp("race") / "x", [])
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "APPLY_OPT_LANG": "en"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    command = [sys.executable, "-c", RACER, str(folder)]
    started = [subprocess.Popen(command, env=environment, **pipes) for _ in range(3)]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    yield started
    for process in started:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def race(racers: list[subprocess.Popen[str]], folder: Path, *words: str) -> list[str]:
    """The same words by all at once; what each has to say."""
    for process in racers:
        process.stdin.write(f"{folder} {words[racers.index(process) % len(words)]}\n")
    for process in racers:
        process.stdin.flush()
    return [process.stdout.readline() for process in racers]


def test_two_applies_at_once(racers: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    for n in range(12):
        folder = prepare(tmp_path / str(n), [])
        said = race(racers, folder, THREADS)
        assert [line[0] for line in said] == ["0", "0", "0"], said
        assert sum(" applied  " in line.replace("already applied", "") for line in said) == 1, said
        assert sum("already" in line for line in said) == 2, said
        assert (folder / "tokenizer.py").read_bytes().count(b"def _ort_intra_op_threads") == 1
        assert len(ledger.load(str(folder)).entries) == 1
        said = race(racers, folder, "revert --all")
        assert sum("is taken out" in line for line in said) == 1, said
        assert [line[0] for line in said] == ["0", "0", "0"], said
        assert contents(folder) == {"tokenizer.py": PLAIN}


def test_different_applies_and_looks_at_once(racers: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    for n in range(12):
        folder = prepare(tmp_path / str(n), [])
        said = race(racers, folder, THREADS, f"{TF32} --allow lossy", "status")
        assert [line[0] for line in said] == ["0", "0", "0"], said
        assert {entry.name for entry in ledger.load(str(folder)).entries} == {THREADS, TF32}
        said = race(racers, folder, f"revert {THREADS}", f"revert {TF32}", "status")
        assert [line[0] for line in said] == ["0", "0", "0"], said
        assert contents(folder) == {"tokenizer.py": PLAIN}


def test_somebody_was_quicker(checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the plan and the lock: what is there then is left as it is, and not written once more."""
    real, between = transaction.locked, {}

    @contextlib.contextmanager
    def locked(root: str) -> Iterator[bool]:
        monkeypatch.setattr(transaction, "locked", real)
        assert run(THREADS, cwd=checkout).code == 0
        between.update(snapshot(checkout, "lock"))
        with real(root) as recovered:
            yield recovered

    monkeypatch.setattr(transaction, "locked", locked)
    ran = run(THREADS, cwd=checkout)
    assert ran.code == 0
    assert "already applied" in ran.out
    assert snapshot(checkout, "lock") == between


def test_waits_for_another_and_gives_up(checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    monkeypatch.setattr(transaction, "LOCK_SECONDS", 0.05)
    (checkout / ".apply-opt").mkdir()
    with filelock.FileLock(checkout / ".apply-opt" / "lock"):
        before = contents(checkout)
        started = time.monotonic()
        ran = run(THREADS, cwd=checkout)
        assert time.monotonic() - started >= 0.05
        assert ran.code == 1
        assert f"another apply-opt is at work in {checkout}" in ran.err
        assert "try again when it is done" in ran.err
        assert contents(checkout) == before
    assert run(THREADS, cwd=checkout).code == 0


# The parts.


def test_a_file_that_changed_under_our_hands(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"new")
    with pytest.raises(Conflict, match="x was changed while apply-opt was at work"):
        transaction.commit(str(tmp_path), [Change("x", b"old", b"ours")], ledger.Ledger(str(tmp_path), ()))
    assert contents(tmp_path) == {"x": b"new"}


def entry_for(root: Path, *changes: Change) -> ledger.Ledger:
    records = tuple(ledger.FileRecord(c.path, sha256(c.before), sha256(c.after), sha256(b"p")) for c in changes)
    one = ledger.Entry("n", "t", {}, records, "c", "1", "now", None, "apply")
    return ledger.Ledger(str(root), (one,))


def test_several_files_or_none(tmp_path: Path) -> None:
    """The second cannot be written: the first is as it was."""
    changes = [Change("a/x", b"1", b"one"), Change("b/y", b"2", b"two")]
    for name, data in (("a/x", b"1"), ("b/y", b"2")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(data)
    root, new = str(tmp_path), entry_for(tmp_path, *changes)
    at = 0
    while True:
        at += 1
        with transaction.locked(root), faults.watched(faults.once(at, OSError(errno.EIO, "broken"))):
            try:
                transaction.commit(root, changes, new, [b"p"])
            except ApplyOptError as error:
                assert "nothing was changed: broken" in error.message
        files_now = {k: v for k, v in contents(tmp_path).items() if not k.startswith(".")}
        if ledger.load(root).entries:
            assert files_now == {"a/x": b"one", "b/y": b"two"}
            break
        assert files_now == {"a/x": b"1", "b/y": b"2"}
    assert at > 15


def test_an_undo_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"1")
    change = Change("x", b"1", b"one")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    with transaction.locked(str(tmp_path)):
        monkeypatch.setattr(transaction, "recover", fail)
        monkeypatch.setattr(files, "rename", fail)
        with pytest.raises(ApplyOptError, match="could be neither finished nor undone: broken") as raised:
            transaction.commit(str(tmp_path), [change], entry_for(tmp_path, change), [b"p"])
        assert "apply-opt status" in raised.value.next_step
        monkeypatch.undo()


def test_a_lock_that_cannot_be_made(checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is there and vanishes again and again, as when another command ends at that very moment."""
    import filelock

    def vanished(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(filelock.FileLock, "acquire", vanished)
    ran = run(THREADS, cwd=checkout)
    assert ran.code == 1
    assert "cannot be written to" in ran.err
    assert not (checkout / ".apply-opt").exists()


@pytest.mark.parametrize("step", ["make_folder", "check_writable"])
@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError])
def test_a_folder_that_vanishes_at_that_very_moment(
    checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch, step: str, error: type[OSError]
) -> None:
    """Another command has it removed between two looks; it is made again."""
    times, real = [error] * 5, getattr(files, step)

    def vanishing(path: str) -> None:
        if times and path.endswith(".apply-opt"):
            raise times.pop()(errno.ENOENT, "gone", path)
        real(path)

    monkeypatch.setattr(files, step, vanishing)
    assert run(THREADS, cwd=checkout).code == 0
    assert not times


def test_a_damaged_ledger_is_no_reason_to_clear_up(tmp_path: Path) -> None:
    folder = prepare(tmp_path / "x", [[THREADS]])
    (folder / ".apply-opt" / "ledger.json").write_bytes(b"{")
    before = state_but_ledger(folder)
    with transaction.locked(str(folder)):
        pass
    assert state_but_ledger(folder) == before
    with pytest.raises(LedgerError):
        ledger.load(str(folder))


def state_but_ledger(folder: Path) -> dict[str, bytes | str]:
    return {name: data for name, data in contents(folder).items() if not name.endswith(("ledger.json", "lock"))}
