"""All files or none: a lock, a journal, and a rename for each file.

The ledger is the commit point. A run that is killed before the new ledger is in place is undone by the next command;
one that is killed after it is completed (only its scratch files are left, and they are removed).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from apply_opt.errors import ApplyOptError, Conflict, LedgerError
from apply_opt.io import files, git, ledger
from apply_opt.io.checkout import STATE_FOLDER, inside, sha256

LOCK_SECONDS = 10.0


class Change(NamedTuple):
    """``path`` (relative) goes from ``before`` to ``after``."""

    path: str
    before: bytes
    after: bytes


@contextlib.contextmanager
def locked(root: str) -> Iterator[None]:
    """Only one apply-opt at a time in a checkout; what a killed one left is put right first.

    Leaves no trace in a checkout to which nothing is applied.
    """
    import filelock

    lock = filelock.FileLock(ledger.folder(root, "lock"))
    try:
        _acquire(root, lock)
    except filelock.Timeout as error:
        raise ApplyOptError(
            f"another apply-opt is at work in {root} (waited {LOCK_SECONDS:.0f} s)", "try again when it is done"
        ) from error
    except OSError as error:
        raise ApplyOptError(f"{root} cannot be written to: {error.strerror}", f"check with: ls -ld {root}") from error
    try:
        recover(root)
        yield
    finally:
        _leave_no_trace(root)
        lock.release()


def _acquire(root: str, lock: object) -> None:
    for attempt in range(3):
        files.check_writable(ledger.folder(root))
        files.make_folder(ledger.folder(root))
        try:
            lock.acquire(timeout=LOCK_SECONDS)  # type: ignore[attr-defined]
            return
        except FileNotFoundError:  # the last holder removed the folder between our two steps
            if attempt == 2:
                raise


def commit(root: str, changes: Sequence[Change], new: ledger.Ledger, objects: Sequence[bytes] = ()) -> None:
    """Make ``changes`` and put ``new`` in the ledger's place: all of it, or nothing and an error."""
    for change in changes:
        path = inside(root, change.path)
        if files.read(path) != change.before:
            raise Conflict(f"{change.path} was changed while apply-opt was at work", "run the command again")
        files.check_writable(path)
    try:
        _write(root, changes, new, objects)
    except BaseException as error:
        recover(root)
        if isinstance(error, OSError):
            raise ApplyOptError(
                f"nothing was changed: {error.strerror} ({error.filename or root})",
                "make room or give access, then try again",
            ) from error
        raise


def _write(root: str, changes: Sequence[Change], new: ledger.Ledger, objects: Sequence[bytes]) -> None:
    git.exclude(root)
    for data in [*objects, *(c.before for c in changes), *(c.after for c in changes)]:
        _store(root, ledger.folder(root, "objects", sha256(data)), data)
    first = {path: ledger.content(root, new.chain(path)[0].before) for path in new.paths()}
    for path, data in first.items():
        _store(root, ledger.folder(root, "backup", *path.split("/")), data)
    document = ledger.dump(new)
    steps = [(inside(root, c.path), c) for c in changes]
    journal = {
        "ledger": sha256(document),
        "files": [{"path": c.path, "before": sha256(c.before), "after": sha256(c.after)} for c in changes],
    }
    files.replace(
        ledger.folder(root, "journal.json"), json.dumps(journal).encode(), _scratch(ledger.folder(root, "journal.json"))
    )
    for path, change in steps:
        files.write_through(_scratch(path), change.after, like=path)
    files.write_through(_scratch(ledger.folder(root, "ledger.json")), document)
    for path, _ in steps:
        files.rename(_scratch(path), path)
    files.rename(_scratch(ledger.folder(root, "ledger.json")), ledger.folder(root, "ledger.json"))
    files.remove(ledger.folder(root, "journal.json"))
    _collect(root, new)


def _store(root: str, path: str, data: bytes) -> None:
    if files.read(path) != data:
        files.make_folder(os.path.dirname(path))
        files.replace(path, data, _scratch(path))


def _scratch(path: str) -> str:
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.apply-opt-new")


def recover(root: str) -> None:
    """Undo what a killed run did to the files, or finish it where its ledger is already in place."""
    data = files.read(ledger.folder(root, "journal.json"))
    if data is None:
        return
    try:
        journal = json.loads(data)
        steps = [(inside(root, f["path"]), f["path"], f["before"], f["after"]) for f in journal["files"]]
        committed = sha256(files.read(ledger.folder(root, "ledger.json")) or b"") == journal["ledger"]
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            f"{STATE_FOLDER}/journal.json is damaged ({error})",
            "apply-opt revert --from-backup puts the original files back",
        ) from error
    for path, name, before, after in steps:
        if not committed:
            _undo(root, path, name, before, after)
        files.remove(_scratch(path))
    files.remove(_scratch(ledger.folder(root, "ledger.json")))
    files.remove(ledger.folder(root, "journal.json"))


def _undo(root: str, path: str, name: str, before: str, after: str) -> None:
    from apply_opt.model.merge import MergeConflict, three_way

    now = files.read(path)
    if now is None or sha256(now) == before:
        return
    old, new = ledger.content(root, before), ledger.content(root, after)
    try:
        files.replace(path, three_way(new, now, old), _scratch(path))
    except MergeConflict as error:
        raise Conflict(
            f"an interrupted run changed {name}, and you have edited the same lines since ({error})",
            f"the file as it was: {STATE_FOLDER}/objects/{before}; mend {name}, then remove {STATE_FOLDER}/journal.json",
        ) from error


def _collect(root: str, new: ledger.Ledger) -> None:
    """Remove the objects and backups that no entry needs any more. To fail here loses nothing."""
    keep = new.objects()
    backups = {ledger.folder(root, "backup", *path.split("/")) for path in new.paths()}
    with contextlib.suppress(OSError):
        for name in os.listdir(ledger.folder(root, "objects")):
            if name not in keep:
                files.remove(ledger.folder(root, "objects", name))
        for parent, _, names in os.walk(ledger.folder(root, "backup"), topdown=False):
            for name in names:
                if os.path.join(parent, name) not in backups:
                    files.remove(os.path.join(parent, name))
            files.remove_folder(parent)


def _leave_no_trace(root: str) -> None:
    """Remove the state folder, and its line in git's exclude file, where no entry is left (and nothing is unfinished)."""
    state = ledger.folder(root)
    if ledger.interrupted(root) or _has_entries(root) or os.path.isdir(os.path.join(state, "rescued")):
        return
    with contextlib.suppress(OSError):
        for parent, _, names in os.walk(state, topdown=False):
            for name in names:
                if not (parent == state and name == "lock"):
                    files.remove(os.path.join(parent, name))
            if parent != state:
                files.remove_folder(parent)
        git.include(root)
        files.remove(ledger.folder(root, "lock"))
        files.remove_folder(state)


def _has_entries(root: str) -> bool:
    try:
        return bool(ledger.load(root).entries)
    except LedgerError:
        return True


@contextlib.contextmanager
def restoring(root: str) -> Iterator[None]:
    """The lock, for a restore that trusts neither the journal nor the ledger; both are put aside at the end."""
    import filelock

    lock = filelock.FileLock(ledger.folder(root, "lock"))
    try:
        _acquire(root, lock)
    except filelock.Timeout as error:
        raise ApplyOptError(f"another apply-opt is at work in {root}", "try again when it is done") from error
    try:
        yield
        for name in ("journal.json", "ledger.json"):
            data = files.read(ledger.folder(root, name))
            if data is not None:
                put_aside(root, name, data)
                files.remove(ledger.folder(root, name))
        _collect(root, ledger.Ledger(root, ()))
        if not os.path.isdir(ledger.folder(root, "rescued")):
            _leave_no_trace(root)
    finally:
        lock.release()


def put_aside(root: str, name: str, data: bytes) -> None:
    """Keep ``data`` in ``.apply-opt/rescued/``, under its own name and its hash."""
    path = ledger.folder(root, "rescued", *f"{name}.{sha256(data)[:12]}".split("/"))
    _store(root, path, data)


def restore(path: str, data: bytes) -> None:
    """Put a file back, in one step."""
    files.replace(path, data, _scratch(path))
