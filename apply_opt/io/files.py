"""The only place that changes the file system. Every step is one function here, so that tests can stop at each one."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Optional

from apply_opt.errors import ApplyOptError, Refused

MAX_SIZE = 64 * 2**20
SCRATCH = ".apply-opt-new"
"""How the name of a file ends that is about to take the place of another."""


def read(path: str, pipe: bool = False) -> Optional[bytes]:
    """The bytes of a regular file, ``None`` where there is none. With ``pipe``, of anything that comes to an end.

    Raises :class:`ApplyOptError` for what is larger than a source file ever is, and for what is no regular file: in a
    checkout, a pipe would keep us waiting.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | (0 if pipe else getattr(os, "O_NONBLOCK", 0))
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            status = os.fstat(file.fileno())
            is_file = stat.S_ISREG(status.st_mode)
            is_large = is_file and status.st_size > MAX_SIZE
            if is_file and not is_large:
                return file.read()
            if pipe and not is_large:
                data = file.read(MAX_SIZE + 1)
                if len(data) <= MAX_SIZE:
                    return data
        what = f"larger than {MAX_SIZE >> 20} MiB" if is_large or pipe else "not a regular file"
        raise ApplyOptError(f"{path} cannot be read: it is {what}", f"check with: {look(path)}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = getattr(error, "strerror", None) or error
        raise ApplyOptError(f"{path} cannot be read: {reason}", f"check with: {look(path)}") from error


def look(path: str) -> str:
    """What to type to see what ``path`` is, and who may do what with it."""
    return f"dir /q {path}" if os.name == "nt" else f"ls -ld {path}"


def write_through(path: str, data: bytes, like: Optional[str] = None) -> None:
    """A new file with ``data`` that is on the disk when this returns; mode, owner and attributes as of ``like``."""
    has_like = like is not None and os.path.exists(like)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o600 if has_like else 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        if like is not None and has_like:
            _copy_ownership(like, path)
        os.fsync(file.fileno())


def _copy_ownership(source: str, path: str) -> None:
    status = os.stat(source)
    if hasattr(os, "chown"):
        with contextlib.suppress(PermissionError):  # another's file in our folder: ours from now on, as in an editor
            os.chown(path, status.st_uid, status.st_gid)
    os.chmod(path, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source) if hasattr(os, "listxattr") else ():
        with contextlib.suppress(OSError):  # not every file system and not every attribute lets itself be copied
            os.setxattr(path, name, os.getxattr(source, name))


def rename(source: str, path: str) -> None:
    """``source`` takes the place of ``path``, at once and durably."""
    os.replace(source, path)
    sync_folder(os.path.dirname(path))


def remove(path: str) -> None:
    """Remove a file, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    sync_folder(os.path.dirname(path))


def make_folder(path: str) -> None:
    """Make a folder and its parents."""
    if not os.path.isdir(path):
        os.makedirs(path, exist_ok=True)
        sync_folder(os.path.dirname(path))


def remove_folder(path: str) -> None:
    """Remove an empty folder; one that is not empty, or not there, is left alone."""
    try:
        os.rmdir(path)
    except OSError:
        return


def remove_tree(path: str) -> None:
    """Remove a file, or a folder with all that is in it; no link is followed, and what cannot be removed stays."""
    if os.path.isdir(path) and not os.path.islink(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    else:
        remove(path)


def copy_tree(source: str, path: str, skip: frozenset[str]) -> None:
    """Copy a folder to ``path``, in a new folder of its own, links as they are: all of it but ``skip``, or nothing."""
    import shutil
    import tempfile

    folder, name = os.path.split(path)
    scratch = tempfile.mkdtemp(prefix=".apply-opt-", dir=os.path.dirname(folder))
    try:
        whole = os.path.join(scratch, "whole")
        shutil.copytree(source, os.path.join(whole, name), symlinks=True, ignore=shutil.ignore_patterns(*skip))
        os.rename(whole, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def replace(path: str, data: bytes, temporary: str) -> None:
    """Write ``data`` to ``path`` by way of ``temporary``, a name in the same folder."""
    remove(temporary)
    try:
        write_through(temporary, data, like=path)
        rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(temporary)
        raise


def sync_folder(path: str) -> None:
    """Make the names in a folder durable, where the system has a call for it (Windows has none)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(path: str) -> None:
    """Raise :class:`Refused` where ``path`` or its folder is read-only (also for root, whom the kernel lets pass)."""
    folder = os.path.dirname(path)
    for item, what in ((path, "file"), (folder, "folder")):
        try:
            is_writable = os.stat(item).st_mode & 0o222 and os.access(item, os.W_OK)
        except OSError:  # not there
            continue
        if not is_writable and os.path.exists(item):  # it may have been removed meanwhile
            step = f"attrib -r {item}" if os.name == "nt" else f"chmod u+w {item}"
            raise Refused(f"the {what} {item} is read-only", step)


def walk(root: str, skip: frozenset[str]) -> Iterator[os.DirEntry[str]]:
    """The regular files below ``root``, no link followed, no folder named in ``skip`` and no other repository entered."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            continue
        if folder != root and any(entry.name == ".git" for entry in entries):
            continue
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                yield entry
            elif entry.is_dir(follow_symlinks=False) and entry.name not in skip:
                folders.append(entry.path)


def census(root: str) -> dict[str, tuple[int, ...]]:
    """What stands for the state of everything below ``root``, but for byte code: sizes and times, of links' targets too."""
    found: dict[str, tuple[int, ...]] = {}
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as listing:
            for entry in listing:
                name = os.path.relpath(entry.path, root)
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != "__pycache__":
                        found[name] = ()
                        folders.append(entry.path)
                    continue
                try:
                    status = os.stat(entry.path)
                except OSError:  # a link that leads nowhere
                    status = entry.stat(follow_symlinks=False)
                found[name] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return found
