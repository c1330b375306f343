"""``apply-opt report``: one page of what was compared and measured, from the records that ``verify`` and ``bench`` keep."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from apply_opt import __version__
from apply_opt.commands import Result, add_checkout_arguments, state
from apply_opt.commands.planning import find_checkout, members
from apply_opt.commands.words import language
from apply_opt.errors import ApplyOptError, Refused, UsageError
from apply_opt.io import catalog, extras, files, ledger, records
from apply_opt.io.checkout import inside, ledger_root
from apply_opt.model.digest import sha256

if TYPE_CHECKING:
    from apply_opt.page.facts import Applied, Code, Found, Group, Pair, Report
    from apply_opt.page.record import Record

HELP = "one HTML page of what was compared and measured: verdicts, plots, conditions, the change, how to do it again"
EPILOG = """examples:
  apply-opt report                                       the newest records of this checkout, as report.html
  apply-opt report tokenizer_quick --output quick.html   those of these optimizations alone
  apply-opt report --record one.json --record two.json   these records, wherever they were made
  apply-opt report --markdown > block.md                 for a pull request

The page needs nothing else and fetches nothing. With --markdown or --json it is only written where --output says so."""
PAGE = "report.html"
STYLES = {"good": "green", "bad": "red", "unsure": "yellow"}


class Material(NamedTuple):
    """The records with their paths, and why others were left out."""

    records: Sequence[tuple[Record, str]]
    left_out: Sequence[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("names", metavar="NAME", nargs="*", help="an optimization or a bundle (default: all)")
    parser.add_argument(
        "--record",
        metavar="FILE",
        action="append",
        default=[],
        help="a record, in place of this checkout's newest; may be repeated",
    )
    parser.add_argument("--output", metavar="FILE", help=f"where to write the page (default: {PAGE})")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown block for a pull request")
    parser.add_argument("--lang", choices=("en", "zh"), help="the page's language (default: as titles are)")
    add_checkout_arguments(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Collect, make, write."""
    extras.need("jinja2", "markupsafe", "msgspec", "platformdirs")
    if arguments.json and arguments.markdown:
        raise UsageError("--json and --markdown both print what they make", "give one of them")
    report = _report(arguments)
    from apply_opt.page import document, facts, html, markdown

    groups = facts.groups(report)
    path = arguments.output or ("" if arguments.json or arguments.markdown else PAGE)
    if path:
        _write(path, html.page(report, groups), html.GENERATOR)
    lines = [line for group in groups for line in _lines(group)]
    lines += [("yellow", f"left out: {why}") for why in report.left_out]
    lines += [("", f"page: {path}")] if path else []
    text = markdown.block(report, groups) if arguments.markdown else ""
    return Result(lines, {**document.document(report, groups), "page": path or None}, raw=text.encode())


def _lines(group: Group) -> Iterator[tuple[str, str]]:
    yield STYLES[group.tone], f"{', '.join(group.names)}: {group.headline}"
    for tone, text in group.notes:
        yield "red" if tone == "bad" else "dim", f"  {text}"


def _report(arguments: argparse.Namespace) -> Report:
    """What the page is to be made from. Raises :class:`ApplyOptError` where there is nothing."""
    from apply_opt.page.facts import Report

    units = catalog.load()
    wanted = {optimization.name for optimization in members(units, arguments.names)}
    root = _root(units, arguments)
    found = _given(arguments.record) if arguments.record else _kept(root)
    chosen = [(record, path) for record, path in found.records if not wanted or wanted.issuperset(record.optimizations)]
    if not chosen:
        raise _nothing(arguments, found.left_out)
    return Report(
        _pairs([_held_against(root, record, path) for record, path in chosen]),
        units.optimizations,
        arguments.lang or ("en" if language() == "en" else "zh"),
        __version__,
        _applied(root),
        found.left_out,
        os.path.expanduser("~"),
    )


def _root(units: catalog.Catalog, arguments: argparse.Namespace) -> str:
    """The checkout; none where records are named that may be of another one."""
    try:
        return ledger_root(arguments.repo) or find_checkout(units, [], arguments.repo, arguments.file).root
    except Refused:
        if arguments.record and arguments.repo == "." and not arguments.file:
            return ""
        raise


def _given(paths: Sequence[str]) -> Material:
    from apply_opt.page.record import parse

    return Material([(parse(records.read(path), path), path) for path in dict.fromkeys(paths)], ())


def _kept(root: str) -> Material:
    """All records of a checkout, oldest first. One that cannot be read does not keep the others from being shown."""
    from apply_opt.page.record import parse

    found, left_out = [], []
    for path in records.paths(root):
        try:
            found.append((parse(records.read(path), path), path))
        except ApplyOptError as error:
            left_out.append(error.message)
    return Material(found, left_out)


def _nothing(arguments: argparse.Namespace, left_out: Sequence[str]) -> ApplyOptError:
    names = " ".join(arguments.names)
    where = "among these" if arguments.record else "of this checkout"
    why = "".join(f"\n  left out: {text}" for text in left_out)
    step = f"apply-opt verify {names or 'NAME'}\napply-opt bench {names or 'NAME'}"
    step += "" if names else "\nNAME: apply-opt list shows them"
    return ApplyOptError(f"there is no record{f' for {names}' if names else ''} {where}{why}", step)


def _pairs(found: Sequence[Found]) -> list[Pair]:
    """The newest records of each set of optimizations with these parameters, the newest set first."""
    from apply_opt.page.facts import Pair
    from apply_opt.page.record import Verify

    sets: dict[str, Pair] = {}
    for each in sorted(found, key=lambda each: each.record.date):
        key = repr(sorted((name, sorted(values.items())) for name, values in each.record.optimizations.items()))
        pair = sets.pop(key, Pair(None, None))
        if isinstance(each.record, Verify) and pair.verify and _tells_nothing_new(each.record, pair.verify.record):
            each = pair.verify
        sets[key] = pair._replace(**{"verify" if isinstance(each.record, Verify) else "bench": each})
    return list(reversed(sets.values()))


def _tells_nothing_new(record: Record, older: Record) -> bool:
    """Whether a comparison could not be made, of code for which an older one was."""
    from apply_opt.commands.verify import UNVERIFIABLE

    words = [getattr(each, "verdict", UNVERIFIABLE) for each in (record, older)]
    return words[0] == UNVERIFIABLE != words[1] and record.sha256 == older.sha256


def _held_against(root: str, record: Record, path: str) -> Found:
    from apply_opt.page.facts import Code, Found

    return Found(record, path, _code(root, record) if root else Code())


def _code(root: str, record: Record) -> Code:
    """Whether the files are as one of the record's sides had them."""
    from apply_opt.page.facts import AS_AFTER, AS_BEFORE, OTHER, UNKNOWN, Code

    now: dict[str, str] = {}
    for path in record.sha256:
        try:
            data = files.read(inside(root, path))
        except ApplyOptError:  # no path of a checkout
            return Code(UNKNOWN)
        now[path] = "" if data is None else sha256(data)
    for side, name in enumerate((AS_BEFORE, AS_AFTER)):
        if all(hashes[side] == now[path] for path, hashes in record.sha256.items()):
            return Code(name)
    changed = tuple(path for path, hashes in record.sha256.items() if now[path] not in hashes)
    return Code(OTHER, changed or tuple(record.sha256))


def _applied(root: str) -> list[Applied] | None:
    from apply_opt.page.facts import Applied

    if not root:
        return None
    record = ledger.load(root)
    now = state.contents(record)
    return [Applied(e.name, state.entry_state(record, e, now), str(e.applied_at)) for e in record.entries]


def _write(path: str, text: str, generator: str) -> None:
    """Write the page, over another page of ours only."""
    there = files.read(path)
    if there is not None and f'content="{generator} '.encode() not in there[:2000]:
        raise ApplyOptError(f"{path} is there, and is not a page of apply-opt report", "another name: --output FILE")
    path = os.path.abspath(path)
    files.replace(path, text.encode(), path + files.SCRATCH)
