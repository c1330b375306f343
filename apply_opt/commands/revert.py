"""``apply-opt revert [NAME…]``: take optimizations out again, whatever was edited since and in any order."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Optional

from apply_opt import __version__
from apply_opt.commands import Result, add_checkout_arguments, state
from apply_opt.commands.writing import write
from apply_opt.errors import ApplyOptError, Conflict, LedgerError, NotRecognised, UsageError
from apply_opt.io import catalog, checkout, files, git, ledger, transaction
from apply_opt.io.checkout import STATE_FOLDER, inside
from apply_opt.io.ledger import Ledger
from apply_opt.model.digest import sha256

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
        raise UsageError("names and --all or --from-backup do not go together", "apply-opt revert --help")
    if arguments.from_backup and (arguments.all or arguments.commit):
        raise UsageError(
            "--from-backup goes alone: it restores every recorded file and merges nothing",
            "apply-opt revert --from-backup, then commit with git",
        )
    root = _root(arguments)
    if root is None:
        return _nothing(os.path.realpath(arguments.repo), _names(Ledger("", ()), arguments))
    if arguments.from_backup:
        return _from_backup(root)
    with transaction.locked(root):
        record = ledger.load(root)
        names = _names(record, arguments)
        if not record.entries:
            return _nothing(root, names)
        before = state.contents(record)
        rest = _without(record, names, before)
        changes = [
            transaction.Change(p, before[p] or b"", after) for p, after in rest.files.items() if before[p] != after
        ]
        message = f"Revert {', '.join(names)}\n\nTaken out by apply-opt {__version__}.\n" if arguments.commit else None
        if message is not None:
            git.check_clean(root, [c.path for c in changes])
        commit = write(changes, record, rest.ledger, rest.objects, message)
    return _result(root, names, rest.ledger, changes, commit)


def _without(record: Ledger, names: Sequence[str], now: state.Contents) -> state.Rest:
    """What is left without ``names``; where others stand on their lines, the error says which of these can go in again."""
    try:
        return state.without(record, names, now)
    except state.OnTop as error:
        known = catalog.load().optimizations
        out = [*error.over, *names]
        order = [entry.name for entry in record.entries if entry.name in error.over]
        keep = [n for n in order if n not in known or not {*out}.difference(order).intersection(known[n].requires)]
        error.next_step = f"apply-opt revert {' '.join(dict.fromkeys(out))}"
        error.next_step += f", and then what you want to keep: apply-opt {' '.join(keep)}" if keep else ""
        raise


def _root(arguments: argparse.Namespace) -> Optional[str]:
    """The folder with the ledger: above the one that was named, or below it, in the one checkout that is there."""
    root = checkout.ledger_root(arguments.repo)
    if root is None:
        try:
            root = checkout.find(arguments.repo, catalog.load().targets.values(), arguments.file).root
        except NotRecognised:
            return None
    return root if os.path.isdir(ledger.folder(root)) else None


def _nothing(root: str, names: Sequence[str]) -> Result:
    document: dict[str, object] = {
        "checkout": root,
        "reverted": list(names),
        "still_applied": [],
        "files": {},
        "commit": None,
    }
    lines = [("", "nothing is applied here"), ("dim", "what was put in by hand: apply-opt status")]
    return Result(lines, document)


def _names(record: Ledger, arguments: argparse.Namespace) -> list[str]:
    applied = [entry.name for entry in record.entries]
    if arguments.all:
        return applied
    if not arguments.names:
        return applied[-1:]
    names: list[str] = []
    for name in arguments.names:
        found = [n for n in _meant(name, applied) if n in applied]
        if not found:
            raise ApplyOptError(
                f"{name} is not applied here: {', '.join(applied) or 'nothing'} is",
                "apply-opt status (a change put in with patch is taken over with: apply-opt adopt)",
            )
        names += found
    return list(dict.fromkeys(names))


def _meant(name: str, applied: Sequence[str]) -> list[str]:
    """What ``name`` stands for. Raises :class:`UsageError` for a name that neither the ledger nor the catalog knows."""
    if name in applied:
        return [name]
    units = catalog.load()
    return [optimization.name for optimization in units.members(units.unit(name))]


def _from_backup(root: str) -> Result:
    """The recorded files, even where the ledger is damaged; what stood there, and was not made by us, is kept beside."""
    restored = []
    with transaction.locked(root, recovering=False):
        record = _trusted(root)
        for name, data in _originals(root, record):
            path = inside(root, name)
            now = files.read(path)
            if now == data:
                continue
            if now is not None:
                files.check_writable(path)
                if not _is_ours(record, name, data, now):
                    transaction.put_aside(root, name, now)
            transaction.restore(path, data)
            restored.append(name)
        transaction.forget(root, keep=record is None)
    lines = [("green", f"{name} is as it was before the first apply") for name in restored] or [
        ("", "the files already are as in the backup")
    ]
    if os.path.isdir(ledger.folder(root, "rescued")):
        lines.append(("dim", f"what stood there is in {STATE_FOLDER}/rescued"))
    return Result(lines, {"checkout": root, "restored": restored})


def _is_ours(record: Optional[Ledger], name: str, original: bytes, now: bytes) -> bool:
    """Whether ``now`` is the original with our changes and nothing of anybody else's."""
    chain = record.chain(name) if record else []
    state = sha256(original)
    for file in chain:
        if file.before != state:
            return False
        state = file.after
        if sha256(now) == state:
            return True
    return False


def _trusted(root: str) -> Optional[Ledger]:
    try:
        return ledger.load(root)
    except LedgerError:
        return None


def _originals(root: str, record: Optional[Ledger]) -> list[tuple[str, bytes]]:
    """The backed-up files. Raises :class:`LedgerError` where there is none, or where one is not what was backed up."""
    names = ledger.backups(root)
    if not names:
        raise LedgerError(
            f"there is no backup in {root}/{STATE_FOLDER}", "git checkout, if the checkout is a git clone"
        )
    known = [name for name in names if record is None or not record.entries or record.chain(name)]
    found = [(name, files.read(ledger.folder(root, "backup", *name.split("/"))) or b"") for name in known]
    for name, data in found:
        if record and record.chain(name) and sha256(data) != record.chain(name)[0].before:
            raise LedgerError(
                f"{STATE_FOLDER}/backup/{name} was changed: it is not the original file",
                "apply-opt revert --all, or git checkout, if the checkout is a git clone",
            )
    return found


def _with_those_on_top(record: Ledger, names: Sequence[str]) -> list[str]:
    """``names``, and what has to come out with them."""
    found = list(names)
    while True:
        try:
            state.without(record, found, state.contents(record))
        except state.OnTop as error:
            more = list(dict.fromkeys([*error.over, *found]))
            if len(more) > len(found):
                found = more
                continue
        except Conflict:  # it says so when it is tried
            pass
        return found


def _result(
    root: str, names: Sequence[str], rest: Ledger, changes: Sequence[transaction.Change], commit: str | None
) -> Result:
    left = [entry.name for entry in rest.entries]
    lines = [("green", f"{name} is taken out" + (f", commit {commit[:10]}" if commit else "")) for name in names]
    if not changes:
        lines.append(("dim", "the files did not change: it had been taken out by hand"))
    lines.append(
        ("", f"still applied: {', '.join(left)}" if left else "nothing that apply-opt knows of is applied any more")
    )
    known = catalog.load().optimizations
    needed = {name: [n for n in known[name].requires if n in names] for name in left if name in known}
    broken = [name for name, missing in needed.items() if missing]
    lines += [("red", f"{name} does not work without {', '.join(needed[name])}") for name in broken]
    lines += [("", f"take it out too: apply-opt revert {' '.join(_with_those_on_top(rest, broken))}")] if broken else []
    document = {
        "checkout": root,
        "reverted": list(names),
        "still_applied": left,
        "broken": broken,
        "files": {c.path: {"before": sha256(c.before), "after": sha256(c.after)} for c in changes},
        "commit": commit,
    }
    return Result(lines, document)
