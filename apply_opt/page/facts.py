"""From records to what a page says of them, all of it in words: the page and the Markdown block only arrange it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.model.parameters import spelled
from apply_opt.model.unit import Optimization
from apply_opt.page import gain, numbers, parity, reproduce
from apply_opt.page.gain import Gain
from apply_opt.page.parity import Parity
from apply_opt.page.record import Bench, Header, Record, Verify
from apply_opt.page.words import Say, speaker

AS_BEFORE, AS_AFTER, OTHER, UNKNOWN = "before", "after", "other", "unknown"
"""What the code now is, held against a record: as it was without the change, as it was with it, neither, not known."""
NOTES = {OTHER: "bad", UNKNOWN: "unsure"}
EFFORT = ("blocks", "same", "iterations", "seconds", "limit")


class Code(NamedTuple):
    """The code now, held against a record; ``files`` are those that are not as they were."""

    state: str = UNKNOWN
    files: tuple[str, ...] = ()


class Found(NamedTuple):
    """A record, where it lies, and what it says of the code now."""

    record: Record
    path: str
    code: Code


class Pair(NamedTuple):
    """The records of one set of optimizations: of their comparison and of their measurement, as far as there are any."""

    verify: Optional[Found]
    bench: Optional[Found]

    def found(self) -> list[Found]:
        """Those that there are, the comparison first."""
        return [found for found in (self.verify, self.bench) if found is not None]

    def header(self) -> Header:
        """What both begin with, from the newer."""
        return max((found.record for found in self.found()), key=lambda record: record.date)


class Applied(NamedTuple):
    """One optimization that is in the checkout now."""

    name: str
    state: str
    since: str


class Report(NamedTuple):
    """All that a page is made from. ``home`` is the user's folder, which is not to be shown."""

    pairs: Sequence[Pair]
    optimizations: Mapping[str, Optimization]
    language: str
    version: str
    applied: Optional[Sequence[Applied]] = None
    left_out: Sequence[str] = ()
    home: str = ""


class Condition(NamedTuple):
    """One line of the conditions: of the comparison, and of the measurement."""

    name: str
    compared: str
    measured: str


class Line(NamedTuple):
    """One line of a patch, and what it is: ``add``, ``remove``, ``hunk``, ``file`` or nothing."""

    kind: str
    text: str


class Group(NamedTuple):
    """One set of optimizations. ``tone`` says how its headline is meant: good, bad, unsure."""

    names: Sequence[str]
    titles: Sequence[str]
    headline: str
    tone: str
    notes: Sequence[tuple[str, str]]
    parity: Optional[Parity]
    gain: Optional[Gain]
    conditions: Sequence[Condition]
    patch: Sequence[Line]
    commands: Sequence[str]


def groups(report: Report) -> list[Group]:
    """What is to be said, set by set."""
    say = speaker(report.language)
    return [_group(report, pair, say) for pair in report.pairs]


def _group(report: Report, pair: Pair, say: Say) -> Group:
    found = parity.facts(pair.verify.record, say) if pair.verify and isinstance(pair.verify.record, Verify) else None
    measured = gain.facts(pair.bench.record, say) if pair.bench and isinstance(pair.bench.record, Bench) else None
    header, notes = pair.header(), list(_notes(report, pair, say))
    known = [report.optimizations[name] for name in header.optimizations if name in report.optimizations]
    return Group(
        list(header.optimizations),
        [o.title if report.language == "en" else o.title_zh for o in known],
        headline(found, measured, say),
        _tone(found, measured, notes),
        notes,
        found,
        measured,
        list(_conditions(pair, say, report.home)),
        [_line(text) for text in header.patch.splitlines()],
        reproduce.commands([f.record for f in pair.found()], report.optimizations, report.home),
    )


def headline(found: Optional[Parity], measured: Optional[Gain], say: Say) -> str:
    """Both conclusions; a comparison that failed comes first."""
    speed = measured.headline if measured else say("unmeasured")
    results = found.headline if found else say("unverified")
    first = (results, speed) if found and found.tone == "bad" else (speed, results)
    return say("join", one=first[0], other=first[1])


def _tone(found: Optional[Parity], measured: Optional[Gain], notes: Sequence[tuple[str, str]]) -> str:
    """The worst of both; unsure at best, where one is missing or something is wrong with the records."""
    tones = [part.tone if part else "unsure" for part in (found, measured)]
    tones += ["unsure" for tone, _ in notes if tone == "bad"]
    return next((tone for tone in ("bad", "unsure") if tone in tones), "good")


def _ran_otherwise(record: Header, other: Header, is_measured: bool) -> str:
    """What was run, and on what, in which ``record`` differs from ``other``; of cases, those that were only measured."""
    found = [f"{key}={value}" for key, value in sorted(record.options.items()) if other.options.get(key) != value]
    found += [case for case in record.cases if is_measured and case not in other.cases]
    machines = zip((record.machine.cpu, record.machine.system), (other.machine.cpu, other.machine.system))
    return "; ".join([*found, *(one for one, another in machines if one != another)])


def _covers(compared: Header, measured: Header) -> bool:
    """Whether a comparison was of all that was measured, on the same machine; it may be of more."""
    alike = [(record.options, record.machine.cpu, record.machine.system) for record in (compared, measured)]
    return alike[0] == alike[1] and {*measured.cases} <= {*compared.cases}


def _notes(report: Report, pair: Pair, say: Say) -> Iterator[tuple[str, str]]:
    """What the reader has to know of the records themselves, each with its tone."""
    both = pair.found()
    if len(both) == 2 and both[0].record.sha256 != both[1].record.sha256:
        yield "bad", say("different code")
    if len(both) == 2 and not _covers(both[0].record, both[1].record):
        compared, measured = (found.record for found in both)
        one, other = _ran_otherwise(compared, measured, False), _ran_otherwise(measured, compared, True)
        yield "unsure", say("different conditions", compared=one or say("none"), measured=other or say("none"))
    for code in dict.fromkeys(found.code for found in both):
        kinds = [say("compared" if found is pair.verify else "measured") for found in both if found.code == code]
        files, what = say("list").join(code.files), say("list").join(kinds)
        yield NOTES.get(code.state, "good"), say(f"code {code.state}", files=files, what=what)
    for kind, there in (("verify", pair.verify), ("bench", pair.bench)):
        if there is None or there.code.state == OTHER:
            text = reproduce.command(kind, (there or pair.found()[0]).record, report.optimizations, report.home)
            yield "unsure", say("next" if there is None else "again", command=text)


def _conditions(pair: Pair, say: Say, home: str) -> Iterator[Condition]:
    """The lines that at least one of the records has something for."""
    columns = [dict(_circumstances(found, say, home)) if found else {} for found in (pair.verify, pair.bench)]
    for name in {**columns[0], **columns[1]}:
        yield Condition(name, columns[0].get(name, ""), columns[1].get(name, ""))


def _circumstances(found: Found, say: Say, home: str) -> Iterator[tuple[str, str]]:
    record, cores = found.record, found.record.machine.cores
    yield say("date"), f"{record.date:%Y-%m-%d %H:%M} {record.date.tzname() or ''}".strip()
    yield say("machine"), record.machine.cpu
    yield say("system"), f"{record.machine.system}, Python {record.machine.python}"
    yield say("cores"), say("cores of", usable=cores.usable, present=cores.present, pinned=record.cpus)
    yield say("threads"), str(record.threads)
    if record.machine.load is not None:
        yield say("load"), f"{record.machine.load:.2f}"
    if record.environment:
        yield say("environment"), say("list").join(f"{name}={value}" for name, value in record.environment.items())
    yield say("settings"), _settings(record, say)
    options = [f"{key}={_at_home(value, home)}" for key, value in record.options.items()]
    yield say("options"), say("list").join(options) or say("none")
    if isinstance(record, Bench):
        yield say("versions"), say("list").join(f"{name} {value}" for name, value in record.versions.items())
        yield say("effort"), say("effort of", **{name: _plain(getattr(record.effort, name)) for name in EFFORT})
        yield say("seed"), str(record.seed)
    if record.head:
        yield say("head"), record.head
    yield say("record"), found.path.replace("\\", "/").rpartition("/")[2]


def _plain(value: float) -> str:
    return numbers.digits(value)


def _settings(record: Header, say: Say) -> str:
    values = [
        f"{key}={spelled(value)}" for settings in record.optimizations.values() for key, value in settings.items()
    ]
    return say("list").join(values) or say("none")


def _at_home(text: str, home: str) -> str:
    """A path below the user's folder, without its name."""
    is_below = home and (text == home or text.startswith((home + "/", home + "\\")))
    return "~" + text[len(home) :] if is_below else text


def _line(text: str) -> Line:
    kinds = (("+++", "file"), ("---", "file"), ("@@", "hunk"), ("+", "add"), ("-", "remove"))
    return Line(next((kind for start, kind in kinds if text.startswith(start)), ""), text)
