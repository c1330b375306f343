"""What git is asked, and what happens where there is none or it is broken."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import commit_all, contents, git, snapshot

from apply_opt.errors import ApplyOptError, Conflict
from apply_opt.io import git as ours


def test_no_git(checkout: Path) -> None:
    root = str(checkout)
    assert ours.head(root) is None
    assert ours.dirty(root, ["tokenizer.py"]) == []
    with pytest.raises(ApplyOptError, match="is not in a git repository") as raised:
        ours.commit(root, ["tokenizer.py"], "x")
    assert raised.value.next_step == "leave --commit out"
    with pytest.raises(ApplyOptError, match="is not in a git repository with a commit"):
        ours.check_clean(root, ["tokenizer.py"])


def empty_folder(folder: Path) -> None:
    (folder / ".git").mkdir()


def file_to_nowhere(folder: Path) -> None:
    (folder / ".git").write_text("gitdir: /nowhere/at/all\n")


def no_commit(folder: Path) -> None:
    git("init", "--quiet", cwd=folder)


def bare(folder: Path) -> None:
    git("init", "--quiet", "--bare", ".git", cwd=folder)


def broken_configuration(folder: Path) -> None:
    commit_all(folder)
    (folder / ".git" / "config").write_text("no section\n")


def broken_head(folder: Path) -> None:
    commit_all(folder)
    (folder / ".git" / "HEAD").write_text("nonsense\n")


def broken_branch(folder: Path) -> None:
    commit_all(folder)
    (folder / ".git" / "refs" / "heads" / "main").write_text("zzz\n")


BROKEN = [empty_folder, file_to_nowhere, no_commit, bare, broken_configuration, broken_head, broken_branch]


@pytest.mark.parametrize("spoil", BROKEN)
def test_broken_git_is_no_git(spoil: Callable[[Path], None], checkout: Path) -> None:
    spoil(checkout)
    before = snapshot(checkout)
    assert ours.head(str(checkout)) is None or "configuration" in spoil.__name__
    with pytest.raises(ApplyOptError):
        ours.check_clean(str(checkout), ["tokenizer.py"])
    assert snapshot(checkout) == before


@pytest.mark.parametrize("spoil", BROKEN)
def test_broken_git_does_not_stop_an_apply(
    spoil: Callable[[Path], None], checkout: Path, run: Callable[..., object]
) -> None:
    spoil(checkout)
    before = contents(checkout / ".git")
    assert run("tokenizer_ort_threads", cwd=checkout).code == 0
    assert run("revert", cwd=checkout).code == 0
    assert contents(checkout / ".git") == before


def test_the_commit_that_is_checked_out(git_checkout: Path) -> None:
    head = git("rev-parse", "HEAD", cwd=git_checkout).strip()
    assert ours.head(str(git_checkout)) == head
    assert ours.head(str(git_checkout / "funasr_detach")) == head
    git("checkout", "--quiet", "--detach", cwd=git_checkout)
    assert ours.head(str(git_checkout)) == head


def test_what_is_not_committed(git_checkout: Path) -> None:
    root, names = str(git_checkout), ["tokenizer.py", "utils.py", "new.py", "[x].py"]
    assert ours.dirty(root, names) == []
    (git_checkout / "utils.py").write_text("")
    (git_checkout / "new.py").write_text("")
    (git_checkout / "x.py").write_text("")
    before = snapshot(git_checkout)
    assert ours.dirty(root, names) == ["utils.py", "new.py"]
    assert snapshot(git_checkout) == before
    with pytest.raises(Conflict, match=r"utils.py, new.py has changes that are not committed"):
        ours.check_clean(root, names)


def test_a_look_does_not_refresh_the_index(git_checkout: Path) -> None:
    """As ``git status`` would: the time stamps of all files have changed."""
    for path in git_checkout.glob("*.py"):
        os.utime(path, (1, 1))
    before = snapshot(git_checkout / ".git")
    assert ours.dirty(str(git_checkout), ["tokenizer.py"]) == []
    assert snapshot(git_checkout / ".git") == before


def test_commits_only_what_is_named(git_checkout: Path) -> None:
    for name in ("tokenizer.py", "utils.py", "mel.py"):
        (git_checkout / name).write_text("# new\n")
    git("add", "utils.py", cwd=git_checkout)
    ours.commit(str(git_checkout), ["tokenizer.py"], "subject\n\nbody\n")
    commit = ours.head(str(git_checkout))
    assert git("log", "-1", "--format=%H %s|%b", cwd=git_checkout).strip() == f"{commit} subject|body"
    assert git("status", "--porcelain", cwd=git_checkout) == " M mel.py\nM  utils.py\n"


def test_says_why_git_did_not_commit(git_checkout: Path) -> None:
    with pytest.raises(ApplyOptError, match=r"(?s)git did not commit: .*nothing to commit") as raised:
        ours.commit(str(git_checkout), ["tokenizer.py"], "x")
    assert raised.value.next_step == "mend that, or leave --commit out"


def test_git_itself_is_missing(git_checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ApplyOptError, match="git does not answer"):
        ours.dirty(str(git_checkout), ["tokenizer.py"])
    with pytest.raises(ApplyOptError, match="git did not commit: "):
        ours.commit(str(git_checkout), ["tokenizer.py"], "x")


def test_this_repository_is_meant_also_in_a_hook_of_another(
    git_checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "x").write_text("")
    commit_all(other)
    before = snapshot(other)
    (git_checkout / "tokenizer.py").write_text("# new\n")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    assert ours.dirty(str(git_checkout), ["tokenizer.py"]) == ["tokenizer.py"]
    ours.commit(str(git_checkout), ["tokenizer.py"], "x")
    commit = ours.head(str(git_checkout))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name)
    assert git("rev-parse", "HEAD", cwd=git_checkout).strip() == commit
    assert git("status", "--porcelain", cwd=git_checkout) == ""
    assert snapshot(other) == before


def test_references_in_gits_newer_store(git_checkout: Path) -> None:
    """There HEAD names no branch that a file would tell of; git is asked."""
    expected = git("rev-parse", "HEAD", cwd=git_checkout).strip()
    (git_checkout / ".git" / "reftable").mkdir()
    refs = git_checkout / ".git" / "refs" / "heads" / "main"
    git("pack-refs", "--all", cwd=git_checkout)
    assert not refs.exists()
    assert ours.head(str(git_checkout)) == expected
    (git_checkout / ".git" / "packed-refs").unlink()
    assert ours.head(str(git_checkout)) is None


def test_a_folder_whose_name_is_a_pattern(git_checkout: Path) -> None:
    folder = git_checkout / "a[b]*"
    (folder / ".apply-opt").mkdir(parents=True)
    (folder / ".apply-opt" / "x").write_text("")
    ours.exclude(str(folder))
    assert git("status", "--porcelain", cwd=git_checkout) == ""
    (git_checkout / "ab").mkdir()
    (git_checkout / "ab" / ".apply-opt").write_text("somebody else's")
    assert git("status", "--porcelain", cwd=git_checkout) == "?? ab/\n"
    ours.include(str(folder))
    assert "apply-opt" not in (git_checkout / ".git" / "info" / "exclude").read_text()
