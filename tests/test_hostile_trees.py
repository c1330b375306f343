"""A checkout may be a stranger's, with a state folder in it: no command writes what the tree does not own, or hangs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import EVERYTHING, REFERENCE, TF32, THREADS, Ran, contents, process

from apply_opt.errors import Refused
from apply_opt.io import checkout as checkouts

Run = Callable[..., Ran]
COMMANDS = (("status",), (THREADS,), ("revert",), ("revert", "--from-backup"), ("adopt",), ("list",), ("diff", THREADS))
GITS = (".git/config", ".GIT/config", "sub/.git/hooks/pre-commit", ".git./config", ".git::$INDEX_ALLOCATION/config")


def put(root: Path, name: str, data: bytes) -> str:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def plant(root: Path, name: str) -> None:
    """A journal that would write ``name``, with its contents."""
    evil = b"[core]\n\tfsmonitor = touch pwned\n"
    now = (root / name).read_bytes() if (root / name).is_file() else b""
    hashes = [hashlib.sha256(data).hexdigest() for data in (evil, now)]
    for data, digest in zip((evil, now), hashes):
        put(root, f".apply-opt/objects/{digest}", data)
    steps = [{"path": name, "before": hashes[0], "after": hashes[1]}]
    put(root, ".apply-opt/journal.json", json.dumps({"ledger": "0" * 64, "files": steps}).encode())
    put(root, f".apply-opt/backup/{name}", evil)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("name", [*GITS, ".apply-opt/ledger.json", "../outside.py", "/tmp/outside.py", "", "a\0b"])
def test_a_journal_for_what_is_gits(name: str, words: tuple[str, ...], git_checkout: Path, run: Run) -> None:
    steps = [{"path": name, "before": "0" * 64, "after": "1" * 64}]
    put(git_checkout, ".apply-opt/journal.json", json.dumps({"ledger": "0" * 64, "files": steps}).encode())
    before = contents(git_checkout, ".apply-opt")
    ran = run(*words, cwd=git_checkout)
    assert ran.code in (0, 1, 3), ran
    assert contents(git_checkout, ".apply-opt") == before


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("name", GITS[:3])
def test_contents_for_what_is_gits(name: str, words: tuple[str, ...], git_checkout: Path, run: Run) -> None:
    plant(git_checkout, name)
    before = contents(git_checkout, ".apply-opt")
    ran = run(*words, cwd=git_checkout)
    assert ran.code in (0, 1, 3), ran
    assert contents(git_checkout, ".apply-opt") == before


def test_a_backup_that_no_entry_knows(checkout: Path, run: Run) -> None:
    run(THREADS, cwd=checkout)
    put(checkout, ".apply-opt/backup/other.py", b"evil")
    assert run("revert", "--from-backup", cwd=checkout).code == 0
    assert not (checkout / "other.py").exists()


@pytest.mark.parametrize(
    "entry",
    [
        {"files": [{"path": "tokenizer.py", "before": 5, "after": 5, "patch": 5}]},
        {"files": [{"path": 5, "before": "0" * 64, "after": "0" * 64, "patch": "0" * 64}]},
        {"files": [{"path": ".git/config", "before": "0" * 64, "after": "0" * 64, "patch": "0" * 64}]},
        {"files": []},
        {"files": 5},
        {"name": []},
        {"name": None},
        {"parameters": 5},
        {"head": 5},
        {"applied_at": {}},
    ],
    ids=str,
)
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_ledger_of_the_wrong_types(
    words: tuple[str, ...], entry: dict[str, object], checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apply_opt.io import ledger

    run(THREADS, cwd=checkout)
    path = checkout / ".apply-opt/ledger.json"
    document = json.loads(path.read_bytes())
    document["entries"][0].update(entry)
    document["check"] = ledger._check(document["entries"])
    path.write_text(json.dumps(document))
    before = contents(checkout, ".apply-opt")
    ran = run(*words, cwd=checkout)
    assert ran.code in (0, 1), ran
    assert ran.code == 0 or ".apply-opt" in ran.err
    if words != ("revert", "--from-backup"):
        assert contents(checkout, ".apply-opt") == before


@pytest.mark.parametrize("step", [{"after": 5}, {"before": None}, {"after": "../../x"}, None], ids=str)
def test_a_journal_of_the_wrong_types(step: object, checkout: Path, run: Run) -> None:
    good = {"path": "tokenizer.py", "before": "0" * 64, "after": "1" * 64}
    steps = [{**good, **step} if isinstance(step, dict) else step]
    put(checkout, ".apply-opt/journal.json", json.dumps({"ledger": "0" * 64, "files": steps}).encode())
    ran = run("status", cwd=checkout)
    assert ran.code == 1, ran
    assert "journal.json is damaged" in ran.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("name", ["tokenizer.py", ".apply-opt/ledger.json", ".apply-opt/journal.json"])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_pipe_keeps_nobody_waiting(words: tuple[str, ...], name: str, checkout: Path) -> None:
    (checkout / name).unlink(missing_ok=True)
    (checkout / name).parent.mkdir(exist_ok=True)
    os.mkfifo(checkout / name)
    command = [sys.executable, "-m", "apply_opt", *words]
    result = subprocess.run(command, cwd=checkout, capture_output=True, timeout=60, check=False)
    assert result.returncode in (0, 1, 3), result


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no endless device")
def test_a_patch_without_end(checkout: Path, run: Run) -> None:
    ran = run("adopt", "--patch", "/dev/zero", cwd=checkout)
    assert ran.code == 1
    assert "larger than" in ran.err


def test_a_patch_that_is_too_large(checkout: Path, run: Run, tmp_path: Path) -> None:
    with open(tmp_path / "big.patch", "wb") as file:
        file.truncate(10**10)
    ran = run("adopt", "--patch", tmp_path / "big.patch", cwd=checkout)
    assert ran.code == 1
    assert "larger than" in ran.err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to give files away")
def test_a_state_folder_of_somebody_else_above_ours(tmp_path: Path, checkout: Path, run: Run) -> None:
    """As in /tmp, where everybody may put one."""
    state = tmp_path / ".apply-opt"
    state.mkdir()
    os.chown(state, 12345, -1)
    ran = run("status", cwd=checkout)
    assert ran.code == 3
    assert "belongs to another user" in ran.err
    os.chown(tmp_path, 12345, -1)  # the owner of the tree may have one in it
    assert run("status", cwd=checkout).code != 3


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("tokenizer.py", True),
        ("src/a b/.hidden.py", True),
        (".gitignore", True),
        ("x.git/y.py", True),
        ("..", False),
        ("a/../b", False),
        ("a//b", False),
        ("a\\..\\b", False),
        (".Git\\config", False),
        ("git~1/config", False),
        ("a/.apply-opt/ledger.json", False),
        ("", False),
        (None, False),
        ("a\0", False),
        ("/etc/passwd", False),
    ],
)
def test_plain_names(name: object, plain: bool) -> None:
    assert checkouts.is_plain(name) is plain


def test_a_link_to_what_is_gits(git_checkout: Path) -> None:
    (git_checkout / "link.py").symlink_to(".git/config")
    with pytest.raises(Refused):
        checkouts.inside(str(git_checkout), "link.py")


def test_lost_contents_are_said(checkout: Path, run: Run) -> None:
    run(THREADS, TF32, "--allow", "lossy", cwd=checkout)
    for item in (checkout / ".apply-opt/objects").iterdir():
        item.unlink()
    ran = run("status", cwd=checkout)
    assert "are lost: put the files back with apply-opt revert --from-backup" in ran.out
    assert json.loads(run("status", "--json", cwd=checkout).out)["lost_objects"] > 0
    original = process("revert", "--from-backup", cwd=checkout)
    assert original.returncode == 0


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_a_name_that_is_not_text(tmp_path: Path, run: Run) -> None:
    """A folder whose name is no UTF-8: put in, exported, taken out."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    (folder / "sub\udcff").mkdir(parents=True)
    path = folder / "sub\udcff" / "moved.py"
    path.write_bytes((REFERENCE / "tokenizer.py").read_bytes())
    before = path.read_bytes()
    exported = run("export", THREADS, cwd=folder)
    assert exported.code == 0, exported
    assert run(THREADS, cwd=folder).code == 0
    after = path.read_bytes()
    assert run("status", "--json", cwd=folder).code == 0
    assert run("revert", cwd=folder).code == 0
    assert path.read_bytes() == before
    (tmp_path / "x.patch").write_bytes(exported.raw)
    subprocess.run(["patch", "-p1", "-i", tmp_path / "x.patch"], cwd=folder, check=True)
    assert path.read_bytes() == after
    adopted = run("adopt", "--patch", tmp_path / "x.patch", cwd=folder)
    assert adopted.code == 0, adopted
    assert run("revert", cwd=folder).code == 0
    assert path.read_bytes() == before


def test_a_value_that_is_not_text(checkout: Path, run: Run) -> None:
    before = contents(checkout)
    ran = run("tokenizer_light_model", *EVERYTHING, "--set", "model_id=\udcff", cwd=checkout)
    assert ran.code in (2, 3), ran
    assert contents(checkout) == before
