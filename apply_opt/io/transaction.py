"""All files or none: a lock, a journal, and a rename for each file.

The ledger is the commit point. A run that is killed before the new ledger is in place is undone by the next command;
one that is killed after it is completed. The journal says which: it is written before the first change that can be seen
and goes as the last thing, so where there is none, ledger, backups and files agree.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import ApplyOptError, Conflict, LedgerError, Refused
from apply_opt.io import files, git, ledger
from apply_opt.io.checkout import STATE_FOLDER, inside
from apply_opt.model.digest import sha256
from apply_opt.model.merge import ABSENT, MergeConflict, presence, three_way

ATTEMPTS = 10
LOCK_SECONDS = 10.0


class Change(NamedTuple):
    """``path`` (relative) goes from ``before`` to ``after``."""

    path: str
    before: bytes
    after: bytes


@contextlib.contextmanager
def locked(root: str, recovering: bool = True) -> Iterator[bool]:
    """Only one apply-opt at a time in a checkout; what a killed one left is put right first. Gives whether there was any.

    Leaves no trace in a checkout to which nothing is applied.
    """
    import filelock

    lock = filelock.FileLock(ledger.folder(root, "lock"))
    try:
        with contextlib.ExitStack() as at_the_end:
            at_the_end.callback(files.remove_folder, ledger.folder(root))
            at_the_end.callback(lock.release)
            _acquire(root, lock)
            at_the_end.callback(_leave_no_trace, root)
            yield recovering and recover(root)
    except filelock.Timeout as error:
        raise ApplyOptError(
            f"another apply-opt is at work in {root} (waited {LOCK_SECONDS:.0f} s)", "try again when it is done"
        ) from error
    except OSError as error:
        raise ApplyOptError(
            f"{error.filename or root} cannot be written to: {error.strerror}",
            f"check with: {files.look(root)}; and whether there is room on the disk",
        ) from error


def _acquire(root: str, lock: object) -> None:
    for attempt in range(ATTEMPTS):
        try:
            _check_links(ledger.folder(root))
            files.check_writable(ledger.folder(root))
            files.make_folder(ledger.folder(root))
            lock.acquire(timeout=LOCK_SECONDS)  # type: ignore[attr-defined]
            return
        except (FileNotFoundError, FileExistsError):  # the last holder removed the folder between our steps
            if attempt == ATTEMPTS - 1:
                raise


def _check_links(state: str) -> None:
    """A link in the state folder is not ours: what is behind it would be written to, and cleared away in the end."""
    found = [os.path.join(parent, name) for parent, *names in os.walk(state) for name in (*names[0], *names[1])]
    link = next(filter(os.path.islink, [state, *found]), None)
    if link is not None:
        raise Refused(f"{link} is a link, and apply-opt makes none there", "look where it leads, then remove it")


def commit(root: str, changes: Sequence[Change], new: ledger.Ledger, objects: Sequence[bytes] = ()) -> None:
    """Make ``changes`` and put ``new`` in the ledger's place: all of it, or nothing and an error."""
    for change in changes:
        path = inside(root, change.path)
        if files.read(path) != change.before:
            raise Conflict(f"{change.path} was changed while apply-opt was at work", "run the command again")
        files.check_writable(path)
    document = ledger.dump(new) if new.entries else b""
    try:
        _write(root, changes, new, document, objects)
    except BaseException as error:
        _take_back(root, error)
        if not isinstance(error, OSError):
            raise
        if _ledger(root) != sha256(document):
            raise ApplyOptError(
                f"nothing was changed: {error.strerror} ({error.filename or root})",
                "make room or give access, then try again",
            ) from error
    with contextlib.suppress(OSError):  # the change is made; what cannot be cleared up now, the next command does
        recover(root)


def _take_back(root: str, cause: BaseException) -> None:
    try:
        recover(root)
    except OSError as error:
        raise ApplyOptError(
            f"this run could be neither finished nor undone: {error.strerror} ({error.filename or root})",
            "make room or give access, then: apply-opt status (it puts right what is half-done)",
        ) from cause


def _write(root: str, changes: Sequence[Change], new: ledger.Ledger, document: bytes, objects: Sequence[bytes]) -> None:
    git.exclude(root)
    for data in [*objects, *(c.before for c in changes), *(c.after for c in changes)]:
        _store(ledger.folder(root, "objects", sha256(data)), data)
    steps = [{"path": c.path, "before": sha256(c.before), "after": sha256(c.after)} for c in changes]
    journal = json.dumps({"ledger": sha256(document), "files": steps}).encode()
    _store(ledger.folder(root, "journal.json"), journal)
    for path in new.paths():
        original = ledger.content(root, new.chain(path)[0].before)
        _store(ledger.folder(root, "backup", *path.split("/")), original)
    pending: list[tuple[str, bytes, Optional[bytes]]] = [(inside(root, c.path), c.after, c.before) for c in changes]
    if document:
        pending.append((ledger.folder(root, "ledger.json"), document, None))
    for path, data, _ in pending:
        files.remove(ledger.scratch(path))
        files.write_through(ledger.scratch(path), data, like=path)
    for path, _, before in pending:
        if before is not None and files.read(path) != before:  # saved by an editor just now
            raise Conflict(f"{path} was changed while apply-opt was at work", "run the command again")
        files.rename(ledger.scratch(path), path)
    if not document:
        files.remove(ledger.folder(root, "ledger.json"))


def _store(path: str, data: bytes) -> None:
    if files.read(path) != data:
        files.make_folder(os.path.dirname(path))
        files.replace(path, data, ledger.scratch(path))


def _ledger(root: str) -> str:
    """The hash of the ledger's file as it is; of nothing, where there is none."""
    return sha256(files.read(ledger.folder(root, "ledger.json")) or b"")


def recover(root: str) -> bool:
    """Undo what a killed run did to the files, or finish it where its ledger is in place. Gives whether there was one."""
    if not ledger.unfinished(root):
        return False
    data = files.read(ledger.folder(root, "journal.json"))
    if data is not None:
        try:
            journal = json.loads(data)
            steps = [ledger.checked(f["path"], f["before"], f["after"]) for f in journal["files"]]
            committed = _ledger(root) == journal["ledger"]
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerError(
                f"{STATE_FOLDER}/journal.json is damaged ({error})",
                "apply-opt revert --from-backup puts the original files back",
            ) from error
        for name, (before, after) in steps:
            if not committed:
                _undo(root, name, before, after)
            files.remove(ledger.scratch(inside(root, name)))
    _clear(root)
    files.remove(ledger.folder(root, "journal.json"))
    return True


def _undo(root: str, name: str, before: str, after: str) -> None:
    path = inside(root, name)
    now = files.read(path)
    if now is None or sha256(now) == before or not os.path.exists(ledger.folder(root, "objects", after)):
        return  # nothing was done yet, or it has been undone already
    old, new = ledger.content(root, before), ledger.content(root, after)
    if presence(old, new, now) == ABSENT:
        return  # killed before its rename, and the file has been edited since
    try:
        files.replace(path, three_way(new, now, old), ledger.scratch(path))
    except MergeConflict as error:
        raise Conflict(
            f"an interrupted run changed {name}, and you have edited the same lines since ({error})",
            f"the file as it was: {STATE_FOLDER}/objects/{before}; mend {name}, then remove {STATE_FOLDER}/journal.json",
        ) from error


def _clear(root: str) -> None:
    """Remove scratch files, and the objects and backups that no entry needs any more."""
    for path in list(ledger.scratches(root)):
        files.remove(path)
    try:
        record = ledger.load(root)
    except LedgerError:
        return
    keep, paths = record.objects(), set(record.paths())
    stray = [ledger.folder(root, "backup", *name.split("/")) for name in ledger.backups(root) if name not in paths]
    if os.path.isdir(ledger.folder(root, "objects")):
        names = os.listdir(ledger.folder(root, "objects"))
        stray += [ledger.folder(root, "objects", name) for name in names if name not in keep]
    for path in stray:
        files.remove(path)
    for parent, *_ in os.walk(ledger.folder(root, "backup"), topdown=False):
        files.remove_folder(parent)


def _leave_no_trace(root: str) -> None:
    """Remove the state folder where no entry is left and nothing is unfinished; only what was rescued stays."""
    if ledger.unfinished(root) or _has_entries(root):
        return
    state = ledger.folder(root)
    with contextlib.suppress(OSError):
        for name in ("backup", "journal.json", "ledger.json", "objects"):  # and nothing that somebody else put there
            files.remove_tree(os.path.join(state, name))
        if not os.path.isdir(ledger.folder(root, "rescued")):
            git.include(root)
        files.remove(os.path.join(state, "lock"))
        files.remove_folder(state)


def _has_entries(root: str) -> bool:
    try:
        return bool(ledger.load(root).entries)
    except ApplyOptError:
        return True


def forget(root: str, keep: bool) -> None:
    """Empty the ledger, whatever is left of it and of a journal. With ``keep``, both are put aside first."""
    for name in ("journal.json", "ledger.json"):
        data = files.read(ledger.folder(root, name))
        if data is not None and keep:
            put_aside(root, name, data)
    files.remove(ledger.folder(root, "journal.json"))
    commit(root, [], ledger.Ledger(root, ()))


def put_aside(root: str, name: str, data: bytes) -> None:
    """Keep ``data`` in ``.apply-opt/rescued/``, under its own name and its hash."""
    git.exclude(root)
    _store(ledger.folder(root, "rescued", *f"{name}.{sha256(data)[:12]}".split("/")), data)


def restore(path: str, data: bytes) -> None:
    """Put a file back, in one step."""
    files.make_folder(os.path.dirname(path))
    files.replace(path, data, ledger.scratch(path))
