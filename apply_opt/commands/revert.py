"""``apply-opt revert [NAME…]``: take optimizations out again, whatever was edited since and in any order."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from apply_opt import __version__
from apply_opt.commands import GONE, Result, add_checkout_arguments, state
from apply_opt.errors import ApplyOptError, Conflict, LedgerError, UsageError
from apply_opt.io import catalog, checkout, files, git, ledger, transaction
from apply_opt.io.checkout import STATE_FOLDER, inside, sha256
from apply_opt.io.ledger import FileRecord, Ledger
from apply_opt.model import patch
from apply_opt.model.merge import MergeConflict
from apply_opt.model.source import split_lines
from apply_opt.model.stack import take_out

HELP = "take optimizations out again; your own edits stay"
EPILOG = """examples:
  apply-opt revert                        the last one that was applied
  apply-opt revert tokenizer_tf32         one, also from the middle
  apply-opt revert tokenizer_quick        what is applied of a bundle
  apply-opt revert --all
  apply-opt revert --from-backup          the files as they were before the first apply, byte for byte
                                          (the files of now are kept in .apply-opt/rescued)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("names", metavar="NAME", nargs="*", help="what to take out (default: the last one applied)")
    parser.add_argument("--all", action="store_true", help="everything that apply-opt has put in")
    parser.add_argument(
        "--from-backup", action="store_true", help="restore the recorded files without merging anything"
    )
    parser.add_argument("--commit", action="store_true", help="commit the change with git")
    add_checkout_arguments(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Revert."""
    if arguments.names and (arguments.all or arguments.from_backup):
        raise UsageError("names and --all or --from-backup do not go together")
    root = checkout.ledger_root(arguments.repo)
    if root is None:
        return Result([("", "nothing is applied here")], {"checkout": os.path.realpath(arguments.repo), "reverted": []})
    if arguments.from_backup:
        return _from_backup(root)
    with transaction.locked(root):
        record = ledger.load(root)
        names = _names(record, arguments)
        before = state.contents(record)
        after, rest = _without(record, names, before)
        changes = [transaction.Change(p, b, after[p]) for p, b in before.items() if b is not None and b != after[p]]
        if arguments.commit:
            _check_clean(root, [c.path for c in changes])
        transaction.commit(root, changes, rest[0], rest[1])
        commit = (
            _commit(root, [c.path for c in changes], names, record, changes) if arguments.commit and changes else None
        )
    return _result(root, names, rest[0], changes, commit)


def _names(record: Ledger, arguments: argparse.Namespace) -> list[str]:
    applied = [entry.name for entry in record.entries]
    if arguments.all:
        return applied
    if not arguments.names:
        return applied[-1:]
    bundles = catalog.load().bundles
    names: list[str] = []
    for name in arguments.names:
        found = [n for n in (bundles[name].optimizations if name in bundles else [name]) if n in applied]
        if not found:
            raise ApplyOptError(
                f"{name} is not applied here", f"applied: {', '.join(applied) or 'nothing'} (apply-opt status)"
            )
        names += found
    return names


def _without(
    record: Ledger, names: Sequence[str], now: dict[str, bytes | None]
) -> tuple[dict[str, bytes], tuple[Ledger, list[bytes]]]:
    """The files and the ledger without ``names``; with the objects that the new ledger needs."""
    result, objects = {}, []
    entries = list(record.entries)
    for path, data in now.items():
        if data is None:
            raise Conflict(
                f"{path} is not there any more", "put it back (git checkout), or: apply-opt revert --from-backup"
            )
        links = [(e.name, f) for e in entries for f in e.files if f.path == path]
        chain = [(ledger.content(record.root, f.before), ledger.content(record.root, f.after)) for _, f in links]
        left = [name for name, _ in links]
        for name in [n for n in reversed(left) if n in names]:
            index = left.index(name)
            if state.entry_state(record, next(e for e in record.entries if e.name == name), now) == GONE:
                chain, data = _forget(chain, index, data)
            else:
                chain, data = _take_out(chain, index, data, path, name)
            left.pop(index)
        result[path] = data
        for name, (before, after) in zip(left, chain):
            text = patch.make(before, after, path)
            objects += [before, after, text]
            entries = [
                _with_file(e, FileRecord(path, sha256(before), sha256(after), sha256(text)), name) for e in entries
            ]
    kept = Ledger(record.root, tuple(e for e in entries if e.name not in names))
    return result, (Ledger(record.root, tuple(_live(record, kept, result))), objects)


def _live(record: Ledger, kept: Ledger, after: dict[str, bytes]) -> list[ledger.Entry]:
    """The entries that still say something; those whose change was taken out by hand are dropped."""
    now = state.contents(record)
    stands = {e.name for e in record.entries if state.entry_state(record, e, now) != GONE}
    return [entry for entry in kept.entries if entry.name in stands]


def _with_file(entry: ledger.Entry, file: FileRecord, name: str) -> ledger.Entry:
    if entry.name != name:
        return entry
    return entry._replace(files=tuple(file if f.path == file.path else f for f in entry.files))


def _forget(chain: list[tuple[bytes, bytes]], index: int, data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """A change that is not in the file any more is only dropped from the record."""
    try:
        return take_out(chain, index, chain[-1][1])[0], data
    except MergeConflict:
        return chain[:index] + chain[index + 1 :], data


def _take_out(
    chain: list[tuple[bytes, bytes]], index: int, data: bytes, path: str, name: str
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    try:
        return take_out(chain, index, data)
    except MergeConflict as conflict:
        lines = split_lines(data.decode("utf-8", "replace"))
        shown = "".join(f"\n  {n:5}  {lines[n - 1].rstrip()}" for n in conflict.lines[:20] if n <= len(lines))
        raise Conflict(
            f"{path}: lines of {name} have been edited since, so it is not clear what to put back. Nothing was changed. About here:{shown}",
            "undo your edit there and run this again; or put the whole file back as it was: apply-opt revert --from-backup "
            f"(your version is kept in {STATE_FOLDER}/rescued)",
        ) from conflict


def _check_clean(root: str, paths: Sequence[str]) -> None:
    dirty = git.dirty(root, paths)
    if dirty:
        raise Conflict(
            f"{', '.join(dirty)} has changes that are not committed: they would go into the commit",
            "commit them, or leave --commit out",
        )


def _commit(
    root: str, paths: Sequence[str], names: Sequence[str], record: Ledger, changes: Sequence[transaction.Change]
) -> str:
    try:
        return git.commit(root, paths, f"Revert {', '.join(names)}\n\nTaken out by apply-opt {__version__}.\n")
    except ApplyOptError:
        objects = [ledger.content(root, name) for name in record.objects()]
        transaction.commit(root, [transaction.Change(c.path, c.after, c.before) for c in changes], record, objects)
        raise


def _from_backup(root: str) -> Result:
    """The recorded files, even where the ledger is damaged; what stood there is kept beside."""
    backup = ledger.folder(root, "backup")
    names = sorted(
        os.path.relpath(os.path.join(parent, name), backup).replace(os.sep, "/")
        for parent, _, found in os.walk(backup)
        for name in found
        if not name.endswith(".apply-opt-new")
    )
    if not names:
        raise LedgerError(
            f"there is no backup in {root}/{STATE_FOLDER}", "git checkout, if the checkout is a git clone"
        )
    restored = []
    with transaction.restoring(root):
        for name in names:
            data, path = files.read(os.path.join(backup, *name.split("/"))), inside(root, name)
            now = files.read(path)
            assert data is not None
            if now != data:
                files.make_folder(os.path.dirname(path))
                if now is not None:
                    files.check_writable(path)
                    transaction.put_aside(root, name, now)
                transaction.restore(path, data)
                restored.append(name)
    lines = [("green", f"{name} is as it was before the first apply") for name in restored] or [
        ("", "the files already are as in the backup")
    ]
    if restored:
        lines.append(("dim", f"what stood there is in {STATE_FOLDER}/rescued"))
    return Result(lines, {"checkout": root, "restored": restored})


def _result(
    root: str, names: Sequence[str], rest: Ledger, changes: Sequence[transaction.Change], commit: str | None
) -> Result:
    left = [entry.name for entry in rest.entries]
    lines = [("green", f"{name} is taken out") for name in names]
    if not changes:
        lines.append(("dim", "the files did not change: it had been taken out by hand"))
    lines.append(("", f"still applied: {', '.join(left)}" if left else "nothing is applied any more"))
    document = {
        "checkout": root,
        "reverted": list(names),
        "still_applied": left,
        "files": {c.path: {"before": sha256(c.before), "after": sha256(c.after)} for c in changes},
        "commit": commit,
    }
    return Result(lines, document)
