"""What a comparison says: the verdict, and what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from apply_opt.model.parity import SHOWN
from apply_opt.page import numbers
from apply_opt.page.record import Agreement, Difference, Verify
from apply_opt.page.words import Say, word

HEADLINES = {
    "parity": ("good", "same results"),
    "lossy": ("unsure", "lossy results"),
    "parity failed": ("bad", "failed results"),
}


class Parity(NamedTuple):
    """The verdict, lines of figures, and what differs (the first, and how many more)."""

    headline: str
    tone: str
    verdict: str
    safety: str
    rows: Sequence[tuple[str, str]]
    differences: Sequence[Difference]
    more: int


def facts(record: Verify, say: Say) -> Parity:
    """What is to be said of a comparison."""
    tone, key = HEADLINES.get(record.verdict, ("bad", "unverifiable results"))
    share = _share(record.agreement)
    return Parity(
        say("lossy share", share=share) if key == "lossy results" and share else say(key),
        tone,
        word(say, record.verdict),
        record.safety,
        list(_rows(record, say)),
        record.differences[:SHOWN],
        max(0, len(record.differences) - SHOWN),
    )


def _share(found: Optional[Agreement]) -> str:
    """The share of discrete outputs that are the same; nothing, where there are none."""
    return numbers.share(min(found.same, found.total), found.total) if found and found.total else ""


def _rows(record: Verify, say: Say) -> Iterator[tuple[str, str]]:
    yield say("verdict"), word(say, record.verdict)
    if record.why:
        yield say("why"), record.why
    yield say("class"), record.safety
    promise = word(say, record.safety, "promise ")
    if promise:
        yield say("promise"), promise
    counted = {"count": numbers.count(record.observations), "cases": len(record.cases), "seeds": len(record.seeds)}
    yield say("observations"), say("observed", **counted)
    yield say("differences"), numbers.count(len(record.differences))
    found = record.agreement
    share = _share(found)
    if found and share:
        yield say("discrete"), say("of", part=numbers.count(found.same), whole=numbers.count(found.total), share=share)
    if found:
        yield say("error"), f"{found.error:.3g}"
    yield say("lines ran"), numbers.count(record.changed_lines_ran)
    caught = "; ".join(record.wrong_variants_caught) or say("none")
    yield say("wrong caught"), caught
