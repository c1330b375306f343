"""The steps that change the file system: each is whole or has not happened, and nothing more changes than it says."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from support import snapshot

from apply_opt.errors import ApplyOptError, Refused
from apply_opt.io import files

as_root = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")


def test_reads_bytes_and_none_where_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\r\n\x00\xff")
    assert files.read(str(tmp_path / "x")) == b"\r\n\x00\xff"
    assert files.read(str(tmp_path / "y")) is None
    assert files.read(str(tmp_path / "no" / "y")) is None


@pytest.mark.parametrize("name", [".", "x/y", "loop"])
def test_what_cannot_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ApplyOptError, match="cannot be read: ") as raised:
        files.read(str(tmp_path / name))
    assert raised.value.next_step.startswith("check with: ls -ld ")


def test_replaces_a_file_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(0o705)
    (tmp_path / "new").write_bytes(b"left by a killed run")
    files.replace(str(path), b"new", str(tmp_path / "new"))
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o705
    assert os.listdir(tmp_path) == ["x"]


@as_root
def test_keeps_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    os.chown(path, 4321, 1234)
    files.replace(str(path), b"new", str(tmp_path / "new"))
    assert (path.stat().st_uid, path.stat().st_gid) == (4321, 1234)


def test_another_owner_that_cannot_be_kept_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "chown", refuse)
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(0o640)
    files.replace(str(path), b"new", str(tmp_path / "new"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="no extended attributes here")
def test_keeps_extended_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    seen = {"user.one": b"1", "user.two": b"2"}
    copied: dict[str, bytes] = {}

    def set_one(where: str, name: str, value: bytes) -> None:
        if name == "user.one":
            raise OSError(errno.ENOTSUP, "not here")
        copied[name] = value

    monkeypatch.setattr(os, "listxattr", lambda _: list(seen))
    monkeypatch.setattr(os, "getxattr", lambda _, name: seen[name])
    monkeypatch.setattr(os, "setxattr", set_one)
    files.replace(str(path), b"new", str(tmp_path / "new"))
    assert copied == {"user.two": b"2"}


def test_a_private_file_is_never_public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for the moment between its making and its renaming."""
    path, new = tmp_path / "x", tmp_path / "new"
    path.write_bytes(b"old")
    path.chmod(0o600)
    modes = []
    monkeypatch.setattr(os, "chown", lambda *_: modes.append(stat.S_IMODE(new.stat().st_mode)))
    files.write_through(str(new), b"secret", like=str(path))
    assert modes == [0o600]


def test_does_not_write_where_something_is(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"kept")
    (tmp_path / "link").symlink_to("target")
    for name in ("target", "link"):
        with pytest.raises(FileExistsError):
            files.write_through(str(tmp_path / name), b"new")
    assert (tmp_path / "target").read_bytes() == b"kept"


def test_everything_is_on_the_disk_when_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before its name, the name before the next step."""
    steps = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        steps.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        real_fsync(descriptor)

    def replace(source: str, path: str) -> None:
        steps.append("rename")
        real_replace(source, path)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    files.replace(str(tmp_path / "x"), b"new", str(tmp_path / "new"))
    files.remove(str(tmp_path / "x"))
    files.make_folder(str(tmp_path / "folder"))
    assert steps == ["fsync file", "rename", "fsync folder", "fsync folder", "fsync folder"]


def test_folders_come_with_their_parents_and_go_when_empty(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for _ in range(2):
        files.make_folder(str(folder))
    (folder / "x").write_bytes(b"")
    files.remove_folder(str(folder))
    assert (folder / "x").exists()
    for name in ("x", "x"):
        files.remove(str(folder / name))
    for _ in range(2):
        files.remove_folder(str(folder))
    assert not folder.exists()


def test_removes_a_tree_and_nothing_behind_its_links(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "x").write_bytes(b"kept")
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("tree", "link", "missing"):
        files.remove_tree(str(tmp_path / name))
    assert sorted(snapshot(tmp_path)) == [".", "kept", "kept/x"]


@pytest.mark.parametrize(("path", "word"), [("x", "file"), (".", "folder")])
def test_read_only_is_said_also_to_root(path: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    files.check_writable(str(tmp_path / "x"))
    files.check_writable(str(tmp_path / "not there yet"))
    (tmp_path / path).chmod(0o500)
    with pytest.raises(Refused, match=f"the {word} {tmp_path}.* is read-only") as raised:
        files.check_writable(str(tmp_path / "x"))
    assert raised.value.next_step.startswith("chmod u+w ")


def test_walks_plain_files_only(tmp_path: Path) -> None:
    for name in ("b/x.py", "b/skipped/x.py", "a.py", "inner/.git/x.py", "inner/x.py", ".git/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "link.py").symlink_to("a.py")
    (tmp_path / "linked").symlink_to("b")
    os.mkfifo(tmp_path / "fifo.py")
    found = [
        os.path.relpath(entry.path, tmp_path) for entry in files.walk(str(tmp_path), frozenset({"skipped", ".git"}))
    ]
    assert found == ["a.py", "b/x.py"]


def test_walks_on_where_a_folder_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "a.py").write_bytes(b"")
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("secret"):
            raise PermissionError
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert [entry.name for entry in files.walk(str(tmp_path), frozenset())] == ["a.py"]
