"""The copies that are run: complete, independent of the checkout, without byte code."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import contents, snapshot

from apply_opt.errors import ApplyOptError
from apply_opt.io import arms

FILE = "package/module.py"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "package" / "__pycache__").mkdir(parents=True)
    (folder / FILE).write_bytes(b"before\n")
    (folder / "data.txt").write_bytes(b"data\n")
    (folder / "package" / "__pycache__" / "module.cpython-311.pyc").write_bytes(b"stale")
    (folder / "package" / "sourceless.pyc").write_bytes(b"stale")
    for name in (".git", ".venv", ".apply-opt"):
        (folder / name).mkdir()
        (folder / name / "inside").write_text("x")
    return folder


@pytest.fixture
def copies(tree: Path) -> Iterator[Any]:
    """``copies()`` gives the paths of both."""
    with contextlib.ExitStack() as entered:

        def enter() -> tuple[Path, Path]:
            one, two = entered.enter_context(arms.copies(str(tree), {FILE: b"one\n"}, {FILE: b"two\n"}))
            return Path(one.checkout), Path(two.checkout)

        yield enter


def test_hold_everything_but_caches(tree: Path, copies: Any) -> None:
    one, two = copies()
    assert contents(one) == {FILE: b"one\n", "data.txt": b"data\n"}
    assert contents(two) == {FILE: b"two\n", "data.txt": b"data\n"}


def test_paths_are_of_one_length(copies: Any) -> None:
    one, two = copies()
    assert len(str(one)) == len(str(two))
    assert one == one.resolve()


def test_are_gone_afterwards_and_the_checkout_is_as_it_was(tree: Path) -> None:
    before = snapshot(tree)
    with arms.copies(str(tree), {FILE: b"one\n"}, {FILE: b"two\n"}) as (one, _):
        Path(one.checkout, "data.txt").write_text("changed")
        Path(one.checkout, "package").chmod(0o500)
    assert not os.path.exists(one.checkout)
    assert snapshot(tree) == before


def test_modes(tree: Path, copies: Any) -> None:
    (tree / "data.txt").chmod(0o755)
    (tree / FILE).chmod(0o444)
    one, _ = copies()
    assert (one / "data.txt").stat().st_mode & 0o777 == 0o755
    assert (one / FILE).read_bytes() == b"one\n"


class TestLinks:
    """Links stay links."""

    def test_within(self, tree: Path, copies: Any) -> None:
        (tree / "link").symlink_to("data.txt")
        (tree / "folder").symlink_to("package")
        one, _ = copies()
        assert os.readlink(one / "link") == "data.txt"
        assert (one / "folder" / "module.py").read_bytes() == b"one\n", "leads to the copy"

    def test_relative_out_of_the_checkout(self, tree: Path, copies: Any) -> None:
        (tree.parent / "weights").mkdir()
        (tree.parent / "weights" / "model").write_text("weights")
        (tree / "package" / "weights").symlink_to("../../weights")
        one, _ = copies()
        assert (one / "package" / "weights" / "model").read_text() == "weights"
        assert (one / "package" / "weights").is_symlink()

    def test_absolute_dangling_and_circular(self, tree: Path, copies: Any) -> None:
        (tree / "absolute").symlink_to(tree / "data.txt")
        (tree / "nowhere").symlink_to("missing")
        (tree / "self").symlink_to("self")
        one, _ = copies()
        assert os.readlink(one / "absolute") == str(one / "data.txt"), "what the program writes there is not the user's"
        assert os.readlink(one / "nowhere") == "missing"
        assert (one / "self").is_symlink()

    def test_large_files_are_linked_and_smaller_ones_are_not(
        self, tree: Path, copies: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(arms, "LINKED_SIZE", 100)
        (tree / "model.bin").write_bytes(b"x" * 100)
        (tree / "log.txt").write_bytes(b"x" * 99)
        one, _ = copies()
        assert os.readlink(one / "model.bin") == str(tree / "model.bin")
        assert not (one / "log.txt").is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_what_is_no_file_is_left_out(tree: Path, copies: Any) -> None:
    os.mkfifo(tree / "pipe")
    one, _ = copies()
    assert not (one / "pipe").exists()


def test_no_room(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device", target)

    monkeypatch.setattr(arms, "shutil", SimpleNamespace(**{**vars(arms.shutil), "copy": full}))
    with (
        pytest.raises(ApplyOptError, match=r"cannot be copied.*No space left"),
        arms.copies(str(tree), {FILE: b"one\n"}, {FILE: b"two\n"}),
    ):
        pass
