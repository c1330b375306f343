"""A record of ``verify`` or ``bench`` with its types. A record is a file that anybody may have written, so that every part
of it is checked, and nothing in its texts can hide: what is not to be seen in print is spelled out.

Checked with msgspec: https://jcristharif.com/msgspec/
"""

from __future__ import annotations

import datetime
import math
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Optional, Union

import msgspec
from msgspec import Meta

from apply_opt.errors import ApplyOptError
from apply_opt.model import measurement
from apply_opt.model.measurement import AFTER, BEFORE, COMPARED, LEVEL

Text = str
Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=1e-12, le=1e12)]
Share = Annotated[float, Meta(ge=0, le=1e12)]
Ratio = Annotated[float, Meta(ge=1e-9, le=1e9)]
Side = Literal["before", "after"]


class Cores(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's, and those that the process might use."""

    present: Count
    usable: Count


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What it was run on."""

    python: Text
    system: Text
    cpu: Text
    cores: Cores
    load: Optional[Share] = None


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What every record begins with."""

    apply_opt: Text
    date: Annotated[datetime.datetime, Meta(tz=True)]
    optimizations: Annotated[dict[str, dict[str, Union[str, int, bool]]], Meta(min_length=1)]
    target: Text
    head: Optional[Text] = None
    sha256: dict[str, tuple[str, str]]
    patch: Text
    options: dict[str, Text]
    threads: Count
    cpus: Count
    machine: Machine
    environment: dict[Text, Text] = {}
    cases: Annotated[list[str], Meta(min_length=1)]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One observation that does not agree."""

    name: Text
    how: Text


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Of the discrete outputs, how many are the same; of the tensors, the largest error."""

    same: Count
    total: Count
    error: Share


class Verify(Header, tag="verify", frozen=True, kw_only=True):
    """What ``verify`` found."""

    safety: Text = msgspec.field(name="class")
    seeds: list[int]
    verdict: Text
    why: Text
    differences: list[Difference]
    agreement: Optional[Agreement] = None
    observations: Count
    changed_lines_ran: Count
    wrong_variants_caught: list[Text]


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How long it was measured."""

    blocks: Count
    same: Count
    iterations: Count
    seconds: Share
    limit: Share


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Of one case in one process."""

    times: Annotated[list[Seconds], Meta(min_length=1)]
    median: Seconds


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One process."""

    block: Count
    kind: Text
    side: Side
    cases: dict[str, Timings]
    memory: dict[str, Count] = {}


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Of one run."""

    operators: Optional[Count]
    synchronisations: Optional[Count]
    kept_for_backward: Count = 0
    refused: Text = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """For one case; ``speedup`` is the estimate and the ends of its interval."""

    word: Text
    speedup: tuple[Ratio, Ratio, Ratio]
    noise: Ratio
    smallest: Ratio


class Bench(Header, tag="bench", frozen=True, kw_only=True):
    """What ``bench`` found."""

    seed: int
    effort: Effort
    level: Annotated[float, Meta(gt=0, lt=1)] = LEVEL
    versions: dict[str, Text]
    amounts: dict[str, tuple[Seconds, Text]]
    requests: dict[str, Count] = {}
    counts: dict[str, dict[str, Counts]]
    stages: dict[str, dict[str, dict[str, Share]]]
    verdicts: dict[str, Verdict]
    samples: list[Sample]

    def of_case(self, case: str) -> list[measurement.Sample]:
        """What the case's verdict is made from."""
        return [measurement.Sample(s.kind, s.block, s.side, s.cases[case].median) for s in self.samples]

    def of_side(self, case: str, side: str) -> list[float]:
        """The medians of the processes that ``side`` is judged by."""
        return [s.cases[case].median for s in self.samples if s.kind == COMPARED and s.side == side]


Record = Union[Bench, Verify]


def parse(data: Mapping[str, Any], path: str) -> Record:
    """A record from what its file ``path`` holds. Raises :class:`ApplyOptError` where something is missing or of another type."""
    try:
        record: Record = msgspec.convert(_plain(data), Record)
        why = next(_gaps(record), "") if isinstance(record, Bench) else _contradiction(record)
    except msgspec.ValidationError as error:
        why = str(error)
    except RecursionError:
        why = "it is nested too deeply"
    if why:
        raise ApplyOptError(f"{path} is not a whole record: {why}", "make it again: apply-opt verify, apply-opt bench")
    return record


def _gaps(record: Bench) -> Iterator[str]:
    """What a case lacks."""
    for case in record.cases:
        if case not in record.verdicts:
            yield f"no verdict for the case {case}"
        for side in (BEFORE, AFTER):
            if case not in record.counts.get(side, {}):
                yield f"no counts {side} for the case {case}"
        if any(case not in sample.cases for sample in record.samples):
            yield f"a sample without the case {case}"
        elif not all(record.of_side(case, side) for side in (BEFORE, AFTER)):
            yield f"no samples of both sides for the case {case}"
        elif not _is_of_the_samples(record, case):
            yield f"the verdict for the case {case} is not what its samples give"


def _is_of_the_samples(record: Bench, case: str) -> bool:
    """Whether a verdict is the one that comes of the samples: whoever edits a record can claim what they like."""
    given = record.verdicts[case]
    try:
        found = measurement.judge_samples(record.of_case(case), record.level)
    except (ValueError, ArithmeticError, LookupError):
        return False
    is_known = given.word in measurement.WORDS  # a later version may have others
    same = all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(found.speedup, given.speedup))
    return same and (found.word == given.word or not is_known)


def _contradiction(record: Verify) -> str:
    """What in a comparison that passed does not go together with that."""
    if record.verdict in ("parity", "lossy") and not (record.observations and record.changed_lines_ran):
        return f"the verdict {record.verdict}, and nothing that was observed"
    return "the verdict parity, and differences" if record.verdict == "parity" and record.differences else ""


def _plain(value: Any) -> Any:
    """``value`` with every text in it as it can be printed."""
    if isinstance(value, str):
        return "".join(map(_visible, value)) if not value.isascii() or not value.isprintable() else value
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _visible(character: str) -> str:
    """A character; its number, where it does nothing but steer (control, direction, half a pair) or is none."""
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"):
        return character
    return f"\\u{ord(character):04x}"
