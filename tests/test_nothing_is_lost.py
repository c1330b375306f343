"""Whatever the user has typed is somewhere afterwards, and what is said of a change is so: in the order of how it once was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import LIGHT, REFERENCE, ROOT, TF32, THREADS, Ran, contents, git, patched

from apply_opt.io import files, ledger
from apply_opt.io.transaction import Change, commit
from apply_opt.model import merge

Run = Callable[..., Ran]
MARK = b"# two hours of my own work\n"
LOSSY = ("--allow", "lossy")
needs_shell = pytest.mark.skipif(os.name == "nt", reason="hooks are shell scripts")


def append(folder: Path, data: bytes = MARK) -> None:
    with open(folder / "tokenizer.py", "ab") as file:
        file.write(data)


def everywhere(folder: Path) -> bytes:
    return b"".join(data for data in contents(folder, ".git").values() if isinstance(data, bytes))


def states(run: Run, folder: Path) -> dict[str, str]:
    found = json.loads(run("status", "--json", cwd=folder).out)["optimizations"]
    return {name: one["state"] for name, one in found.items()}


def hook(folder: Path, name: str, text: str) -> None:
    path = folder / ".git" / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_an_edit_between_two_applies_is_put_aside(checkout: Path, run: Run) -> None:
    run(THREADS, cwd=checkout)
    append(checkout)
    run(TF32, *LOSSY, cwd=checkout)
    assert run("revert", "--from-backup", cwd=checkout).code == 0
    assert MARK in everywhere(checkout)
    assert (checkout / "tokenizer.py").read_bytes() == (REFERENCE / "tokenizer.py").read_bytes()


def test_without_edits_nothing_is_put_aside(checkout: Path, run: Run) -> None:
    run(THREADS, cwd=checkout)
    run(TF32, *LOSSY, cwd=checkout)
    assert run("revert", "--from-backup", cwd=checkout).code == 0
    assert not (checkout / ".apply-opt").exists()


@needs_shell
def test_an_edit_while_git_refuses_is_put_aside(git_checkout: Path, run: Run) -> None:
    hook(git_checkout, "pre-commit", "echo '# typed meanwhile' >> tokenizer.py; exit 1")
    ran = run(THREADS, "--commit", cwd=git_checkout)
    assert ran.code == 1
    assert "git did not commit" in ran.err
    assert ".apply-opt/rescued" in ran.err
    assert b"# typed meanwhile" in everywhere(git_checkout)
    assert git("status", "--porcelain", cwd=git_checkout) == ""


@needs_shell
def test_a_hook_that_removes_the_file(git_checkout: Path, run: Run) -> None:
    hook(git_checkout, "pre-commit", "rm tokenizer.py; exit 1")
    ran = run(THREADS, "--commit", cwd=git_checkout)
    assert ran.code == 1
    assert "git did not commit" in ran.err
    assert not (git_checkout / ".apply-opt").exists()


@needs_shell
def test_a_commit_that_git_made_stays(git_checkout: Path) -> None:
    """Interrupted in the hook that runs after the commit, and by a signal to us alone in the one before it."""
    for name, group in (("post-commit", True), ("pre-commit", False)):
        hook(git_checkout, name, "touch ../waiting; sleep 2")
        waiting = git_checkout.parent / "waiting"
        command = [sys.executable, "-m", "apply_opt", THREADS, "--commit"]
        process = subprocess.Popen(command, cwd=git_checkout, start_new_session=True, stderr=subprocess.PIPE)
        while not waiting.exists() and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT) if group else process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        waiting.unlink()
        assert git("log", "--format=%s", "-1", cwd=git_checkout).strip() == f"Apply {THREADS}"
        assert git("status", "--porcelain", cwd=git_checkout) == ""
        assert (git_checkout / ".apply-opt" / "ledger.json").exists()
        (git_checkout / ".git" / "hooks" / name).unlink()
        subprocess.run([sys.executable, "-m", "apply_opt", "revert", "--commit"], cwd=git_checkout, check=True)


def test_a_repository_with_longer_hashes(checkout: Path, run: Run) -> None:
    git("init", "--quiet", "--object-format=sha256", cwd=checkout)
    git("config", "user.name", "A User", cwd=checkout)
    git("config", "user.email", "user@example.org", cwd=checkout)
    git("add", "--all", cwd=checkout)
    git("commit", "--quiet", "--message", "x", cwd=checkout)
    ran = run(THREADS, "--commit", cwd=checkout)
    assert ran.code == 0, ran
    assert git("status", "--porcelain", cwd=checkout) == ""
    assert len(json.loads((checkout / ".apply-opt/ledger.json").read_bytes())["entries"][0]["head"]) == 64


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_what_git_is_told_to_overlook_is_not_committed(flag: str, git_checkout: Path, run: Run) -> None:
    git("update-index", flag, "tokenizer.py", cwd=git_checkout)
    append(git_checkout, b'API_KEY = "private"\n')
    before = contents(git_checkout, ".git")
    ran = run(THREADS, "--commit", cwd=git_checkout)
    assert ran.code == 3
    assert "changes that are not committed" in ran.err
    assert contents(git_checkout, ".git") == before


@needs_shell
def test_hooks_see_the_files_as_in_any_commit(git_checkout: Path, run: Run) -> None:
    hook(git_checkout, "pre-commit", "git diff --cached --name-only -- '*.py' > ../seen")
    assert run(THREADS, "--commit", cwd=git_checkout).code == 0
    assert (git_checkout.parent / "seen").read_text() == "tokenizer.py\n"


@pytest.mark.parametrize("name", [TF32, THREADS, LIGHT])
def test_line_endings_converted_since(name: str, checkout: Path, run: Run) -> None:
    path = checkout / "tokenizer.py"
    original = path.read_bytes()
    run(name, *LOSSY, *(("--set", "unchecked=true") if name == LIGHT else ()), cwd=checkout)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert states(run, checkout)[name] == "applied, and edited since"
    assert run("revert", "--all", cwd=checkout).code == 0
    assert path.read_bytes() == original.replace(b"\n", b"\r\n")


def test_converted_to_crlf_and_then_another_on_top(checkout: Path, run: Run) -> None:
    path = checkout / "tokenizer.py"
    original = path.read_bytes()
    run(THREADS, cwd=checkout)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert run(TF32, *LOSSY, cwd=checkout).code == 0
    assert run("revert", THREADS, cwd=checkout).code == 0
    assert run("revert", TF32, cwd=checkout).code == 0
    assert path.read_bytes() == original.replace(b"\n", b"\r\n")


def test_an_older_patch_that_was_adopted_is_not_taken_for_gone(checkout: Path, run: Run, tmp_path: Path) -> None:
    original = (checkout / "tokenizer.py").read_bytes()
    patched(checkout, (ROOT / "patches" / "tokenizer_light_model.patch").read_bytes())
    run(THREADS, cwd=checkout)
    assert run("adopt", cwd=checkout).code == 0
    exported = run("export", THREADS, cwd=checkout)
    assert patched(checkout, exported.raw, "-R").returncode == 0
    assert states(run, checkout)[LIGHT].startswith("applied")
    assert run("revert", "--all", cwd=checkout).code == 0
    assert (checkout / "tokenizer.py").read_bytes() == original


def test_another_version_checked_out_is_not_partly_applied(git_checkout: Path, run: Run) -> None:
    run(THREADS, cwd=git_checkout)
    git("checkout", "--quiet", "tokenizer.py", cwd=git_checkout)
    path = git_checkout / "tokenizer.py"
    path.write_bytes(path.read_bytes().replace(b"intra_op_num_threads = 1", b"intra_op_num_threads = 2"))
    git("commit", "--quiet", "--all", "--message", "another version", cwd=git_checkout)
    assert states(run, git_checkout)[THREADS] == "taken out by hand"
    assert run(THREADS, cwd=git_checkout).code == 0
    assert run("revert", cwd=git_checkout).code == 0
    assert git("status", "--porcelain", cwd=git_checkout) == ""


def test_edited_lines_are_no_less_edited_with_another_on_top(checkout: Path, run: Run) -> None:
    path = checkout / "tokenizer.py"
    run(THREADS, cwd=checkout)
    path.write_bytes(path.read_bytes().replace(b"= _ort_intra_op_threads(providers)", b"= 4"))
    assert states(run, checkout)[THREADS] == "partly applied"
    run(TF32, *LOSSY, cwd=checkout)
    assert states(run, checkout)[THREADS] == "partly applied"
    assert states(run, checkout)[TF32] == "applied"


@pytest.mark.parametrize("words", [(THREADS,), ("revert",)], ids=" ".join)
def test_an_edit_after_a_kill_before_the_rename(words: tuple[str, ...], checkout: Path, run: Run) -> None:
    if words == ("revert",):
        run(THREADS, cwd=checkout)
    code = (
        "import os, signal; from apply_opt.io import files; real = files.rename\n"
        "def rename(a, b): os.kill(os.getpid(), 9) if b.endswith('tokenizer.py') else real(a, b)\n"
        "files.rename = rename; from apply_opt.cli import main; main()"
    )
    subprocess.run([sys.executable, "-c", code, *words], cwd=checkout, check=False)
    path = checkout / "tokenizer.py"
    now = b"# x\n" + path.read_bytes()
    path.write_bytes(now)
    ran = run("status", cwd=checkout)
    assert ran.code == 0, ran
    assert path.read_bytes() == now
    assert states(run, checkout)[THREADS] == ("applied, and edited since" if words == ("revert",) else "not applied")


def test_a_save_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.py"
    path.write_bytes(b"before\n")
    real = files.write_through

    def save(name: str, data: bytes, like: str | None = None) -> None:
        real(name, data, like)
        if like == str(path):
            path.write_bytes(b"saved by an editor\n")

    monkeypatch.setattr(files, "write_through", save)
    with pytest.raises(Exception, match="was changed while apply-opt was at work"):
        commit(str(tmp_path), [Change("x.py", b"before\n", b"after\n")], ledger.Ledger(str(tmp_path), ()))
    assert path.read_bytes() == b"saved by an editor\n"


def test_many_equal_lines_take_no_time(checkout: Path, run: Run) -> None:
    path = checkout / "tokenizer.py"
    path.write_bytes(path.read_bytes() + b"TABLE = [\n" + b"    0,\n" * 24_000 + b"]\n")
    original = path.read_bytes()
    began = time.monotonic()
    run(THREADS, cwd=checkout)
    path.write_bytes(b"#\n" + path.read_bytes() + b"#\n")
    assert states(run, checkout)[THREADS] == "applied, and edited since"
    assert run("revert", cwd=checkout).code == 0
    assert path.read_bytes() == b"#\n" + original + b"#\n"
    assert time.monotonic() - began < 30


def test_opcodes_of_long_runs_are_still_a_way_from_one_to_the_other() -> None:
    old = [b"%d\n" % (n % 7) for n in range(4000)]
    new = [b"first\n", *old[:1000], b"x\n", *old[1500:], b"last\n"]
    rebuilt: list[bytes] = []
    for tag, a0, a1, b0, b1 in merge.opcodes(old, new):
        assert tag != "equal" or old[a0:a1] == new[b0:b1]
        rebuilt += new[b0:b1]
    assert rebuilt == new


def test_a_linked_exclude_file_stays_a_link(git_checkout: Path, run: Run) -> None:
    real = git_checkout.parent / "exclude"
    real.write_text("mine\n")
    link = git_checkout / ".git" / "info" / "exclude"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(real)
    run(THREADS, cwd=git_checkout)
    assert link.is_symlink()
    assert "/.apply-opt/" in real.read_text()
    run("revert", cwd=git_checkout)
    assert link.is_symlink()
    assert real.read_text() == "mine\n"


def test_an_empty_exclude_file_stays_one(git_checkout: Path, run: Run) -> None:
    exclude = git_checkout / ".git" / "info" / "exclude"
    exclude.parent.mkdir(exist_ok=True)
    exclude.write_bytes(b"")
    run(THREADS, cwd=git_checkout)
    run("revert", cwd=git_checkout)
    assert exclude.read_bytes() == b""


def test_a_folder_whose_name_has_two_lines(git_checkout: Path, run: Run) -> None:
    folder = git_checkout / "a\nb"
    folder.mkdir()
    (folder / "tokenizer.py").write_bytes((REFERENCE / "tokenizer.py").read_bytes())
    exclude = git_checkout / ".git" / "info" / "exclude"
    before = exclude.read_bytes() if exclude.exists() else None
    assert run(THREADS, cwd=folder).code == 0
    assert (exclude.read_bytes() if exclude.exists() else None) == before
    assert run("revert", cwd=folder).code == 0
    (git_checkout / "tokenizer.py").unlink()
    ran = run("export", THREADS, "--file", "a\nb/tokenizer.py", cwd=git_checkout)
    assert ran.code == 3
    assert "no patch can name" in ran.err


def test_what_was_patched_by_hand_beside_what_is_recorded(checkout: Path, run: Run) -> None:
    patched(checkout, (ROOT / "patches" / "tokenizer_light_model.patch").read_bytes())
    run(THREADS, cwd=checkout)
    assert states(run, checkout)[LIGHT] == "applied by hand"


def test_a_look_removes_nothing_that_is_not_ours(checkout: Path, run: Run) -> None:
    (checkout / ".apply-opt").mkdir()
    (checkout / ".apply-opt" / "notes.txt").write_text("mine")
    assert run("status", cwd=checkout).code == 0
    assert (checkout / ".apply-opt" / "notes.txt").read_text() == "mine"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("words", [("status",), ("export", THREADS), ("list", "--json")], ids=" ".join)
def test_output_that_cannot_be_written_is_no_bug(words: tuple[str, ...], checkout: Path) -> None:
    command = [sys.executable, "-m", "apply_opt", *words]
    with open("/dev/full", "w") as full:
        ran = subprocess.run(command, cwd=checkout, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 1, ran
    assert "No space left on device" in ran.stderr
    assert "Traceback" not in ran.stderr


@needs_shell
def test_output_that_is_closed_is_no_bug(checkout: Path) -> None:
    for words in ("status", f"export {THREADS}"):
        shell = f"{sys.executable} -m apply_opt {words} >&-"
        assert subprocess.run(shell, shell=True, cwd=checkout, check=False).returncode == 0
