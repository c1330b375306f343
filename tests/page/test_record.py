"""What a record has to have: whatever is missing, or is of another type, is an expected error that says what."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_records
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from apply_opt.errors import ApplyOptError
from apply_opt.model.measurement import FASTER, SLOWER
from apply_opt.page import facts
from apply_opt.page.facts import Code, Found, Pair, Report
from apply_opt.page.record import Bench, Record, Verify, parse

OPTIONAL = {"environment", "requests", "level", "memory", "load", "agreement", "head"}
"""What is not in every record, and what a page does without."""
UNREAD = {"format", "affinity", "quota", "changed_lines_ran", "by_operator"}
"""What a page does not need (changed_lines_ran: of a sample)."""


def facts_of(record: Record) -> None:
    """What a page says; raises where it cannot."""
    found = Found(record, "x.json", Code())
    pair = Pair(found, None) if isinstance(record, Verify) else Pair(None, found)
    assert facts.groups(Report([pair], {}, "en", "0"))[0].headline


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key of a document, however deep; of a list, the first item's."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(
    record: dict[str, Any], path: tuple[Any, ...], value: Any = None, *, remove: bool = False
) -> dict[str, Any]:
    """The record with something else at ``path``, or without it."""
    result = copy.deepcopy(record)
    parent: Any = result
    for key in path[:-1]:
        parent = parent[key]
    if remove:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return result


RECORDS = {"bench": made_records.bench(), "verify": made_records.verify()}
PLACES = [(kind, path) for kind, record in RECORDS.items() for path in places(record)]


@pytest.mark.parametrize("kind", RECORDS)
def test_a_whole_record(kind: str) -> None:
    record = parse(RECORDS[kind], "x.json")
    assert isinstance(record, {"bench": Bench, "verify": Verify}[kind])
    facts_of(record)
    assert parse(json.loads(json.dumps(RECORDS[kind])), "x.json") == record


@pytest.mark.parametrize("kind", RECORDS)
def test_without_a_field(kind: str) -> None:
    for name in RECORDS[kind]:
        data = changed(RECORDS[kind], (name,), remove=True)
        if name in OPTIONAL | UNREAD and (name, kind) != ("changed_lines_ran", "verify"):
            facts_of(parse(data, "x.json"))
            continue
        with pytest.raises(ApplyOptError, match=rf"x\.json is not a whole record: .*{name}") as caught:
            parse(data, "x.json")
        assert "apply-opt bench" in caught.value.next_step


def test_anything_at_any_place_is_a_record_or_an_expected_error() -> None:
    for kind, path in PLACES:
        data = [changed(RECORDS[kind], path, remove=True)]
        data += [changed(RECORDS[kind], path, value) for value in ODD]
        for each in data:
            try:
                record = parse(each, "x.json")
            except ApplyOptError as error:
                assert "x.json" in error.message and error.next_step
            else:
                facts_of(record)


ODD: list[Any] = [
    None,
    "",
    "x",
    -1,
    0,
    10**400,
    float("nan"),
    float("inf"),
    5e-324,
    1e300,
    [],
    {},
    [[]],
    {"": {}},
    True,
]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (("verdicts", "3 s"), "no verdict for the case 3 s"),
        (("counts", "after"), "no counts after for the case 3 s"),
        (("samples", 0, "cases", "0.6 s"), "a sample without the case 0.6 s"),
    ],
)
def test_what_a_case_lacks(path: tuple[Any, ...], why: str) -> None:
    with pytest.raises(ApplyOptError, match=why):
        parse(changed(made_records.bench(), path, remove=True), "x.json")


def test_samples_of_one_side_only() -> None:
    record = made_records.bench()
    record["samples"] = [sample for sample in record["samples"] if sample["side"] == "before"]
    with pytest.raises(ApplyOptError, match="no samples of both sides"):
        parse(record, "x.json")


def test_nested_too_deeply() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ApplyOptError, match="nested too deeply"):
        parse({**made_records.verify(), "more": deep}, "x.json")


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_steers_what_prints_it(text: str) -> None:
    record = parse(made_records.verify(why=text, target=text), "x.json")
    assert isinstance(record, Verify)
    record.why.encode()
    assert all(character.isprintable() or character.isspace() for character in record.why)
    assert not set("\x00\x1b\x7f\u202e\u2028") & set(record.why)


def test_what_cannot_be_seen_is_spelled_out() -> None:
    record = parse(made_records.verify(why="a\x1b[31m\u202eb\ud800 中文 \u00e9"), "x.json")
    assert isinstance(record, Verify)
    assert record.why == "a\\u001b[31m\\u202eb\\ud800 中文 é"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*/*.json")), ids=lambda path: path.name)
def test_the_projects_own_records(path: Path) -> None:
    """Each can be shown, names nobody's folders, and is linked and quoted on a page."""
    text = path.read_text()
    found = parse(json.loads(text), path.name)
    facts_of(found)
    assert not re.search(r"/(home|root|tmp|Users)/", text)
    assert isinstance(found, Bench)
    for language in ("README.md", "README.zh-CN.md"):
        pages = [page.read_text() for page in (ROOT / "patches").glob(f"*/{language}")]
        (page,) = [page for page in pages if path.name in page]
        for verdict in found.verdicts.values():
            estimate, low, _ = verdict.speedup
            quoted = {FASTER: math.floor(100 * low) / 100, SLOWER: round(estimate, 2)}.get(verdict.word)
            assert quoted is None or re.search(rf"{quoted:.2f} ?(x|倍)", page)
