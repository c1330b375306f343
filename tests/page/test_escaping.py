"""Whatever a record says stays text: in the page, in the Markdown block, and in what is typed."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import made_records
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from apply_opt.model.parity import Difference
from apply_opt.page import facts, html, markdown
from apply_opt.page.facts import Code, Found, Group, Pair, Report
from apply_opt.page.record import parse

VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = [
    "</title></style></script><script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>' onload='x",
    "{{ 7 * 7 }}{% include 'x' %}",
    "]]>--><!--",
    "| a | b |\n\n# head\n",
    "`` ` ``` `````\n~~~\n",
    "``` <b>x</b> ```",
    "a ` <b>x</b> ` b",
    "[x](http://example.org) ![y](z) <http://example.org> www.example.org @someone #1",
    "&lt;b&gt; &#60;i&#62;",
    "\\`x\\|",
    "</details><details open>",
    "\x00\x1b]0;x\x07\u202e\ud800",
    " ",
    "",
    "{count}%s%(x)s",
]
TEXT = st.text(st.characters(exclude_categories=())) | st.sampled_from(HOSTILE)


def records(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A comparison and a measurement that say ``text`` wherever they can say anything."""
    machine = {**made_records.header("x")["machine"], "python": text, "system": text, "cpu": text}
    both = {
        "apply_opt": text,
        "optimizations": {f"n{text}": {f"k{text}": text}},
        "target": text,
        "head": f"h{text}",
        "sha256": {text: [text, text]},
        "patch": f" {text}".replace("\n", " "),
        "options": {f"o{text}": text},
        "machine": machine,
        "environment": {f"e{text}": text},
    }
    why = {"why": f"w{text}", "class": f"c{text}", "wrong_variants_caught": [text]}
    verify = made_records.verify(f"v{text}", [Difference(text, text)], **both, **why)
    bench = made_records.bench(**both, versions={f"p{text}": text})
    names = {case: f"{number}{text}" for number, case in enumerate(bench["cases"])}
    bench["cases"] = list(names.values())
    for place in ("amounts", "verdicts"):
        bench[place] = {names[case]: value for case, value in bench[place].items()}
    for place in ("counts", "stages"):
        bench[place] = {side: {names[c]: v for c, v in found.items()} for side, found in bench[place].items()}
    for side in bench["stages"].values():
        for case in side:
            side[case] = {f"s{text}": 1.0}
    for case in bench["cases"]:
        bench["amounts"][case][1] = text
        bench["verdicts"][case]["word"] = f"x{text}"
    for sample in bench["samples"]:
        sample["cases"] = {names[case]: value for case, value in sample["cases"].items()}
        sample["memory"] = {f"m{text}": 1}
    return verify, bench


def made(text: str, language: str = "en") -> tuple[Report, list[Group]]:
    verify, bench = (Found(parse(record, "x.json"), f"{text}.json", Code("other", (text,))) for record in records(text))
    report = Report([Pair(verify, bench)], {}, language, "0", [facts.Applied(text, text, text)], [f"l{text}"])
    return report, facts.groups(report)


class Skeleton(HTMLParser):
    """The tags of a page with the names of their attributes, and its text; complains of tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.plots: list[set[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.ids += [str(value) for name, value in attrs if name == "id"]
        if tag == "svg" and "svg" not in self.open:
            self.plots.append({name for name, _ in attrs})
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def skeleton(page: str) -> Skeleton:
    found = Skeleton()
    found.feed(page)
    found.close()
    assert found.open == []
    return found


@pytest.fixture(scope="module")
def plain() -> Skeleton:
    return skeleton(html.page(*made("x")))


def test_ids_are_unique_and_what_is_named_by_id_is_there(plain: Skeleton) -> None:
    assert len(plain.ids) == len(set(plain.ids)) > 10


def test_nothing_is_fetched_and_nothing_runs() -> None:
    page = html.page(*made("x"))
    tags = {tag for tag, _ in skeleton(page).tags}
    assert not tags & {"script", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "use", "image"}
    assert not [name for _, names in skeleton(page).tags for name in names if name.startswith("on")]
    assert "url(" not in page and "@import" not in page and "http:" not in page and "https:" not in page
    assert "default-src 'none'" in page


def test_plots_are_named_and_tables_have_headers() -> None:
    page = html.page(*made("x"))
    assert all({"aria-hidden", "aria-label", "aria-labelledby"} & names for names in skeleton(page).plots)
    assert all("scope" in names for tag, names in skeleton(page).tags if tag == "th")
    assert page.count("<title ") == page.count("<desc ") == 2


@given(TEXT)
@example(HOSTILE[0])
@example(HOSTILE[1])
def test_no_text_becomes_markup_of_the_page(plain: Skeleton, text: str) -> None:
    found = skeleton(html.page(*made(text)))
    assert found.tags == plain.tags
    assert found.ids == plain.ids


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.strip() and text.isprintable()])
def test_the_text_is_there_as_it_was_written(text: str) -> None:
    found = skeleton(html.page(*made(text)))
    words = "\n".join(found.text)
    for prefix in ("n", "w", "v", "c", "x", "s", "m", "l", "h"):
        assert f"{prefix}{text}" in words, prefix


def blocks(text: str) -> tuple[list[str], list[str]]:
    """The kinds of blocks of a Markdown text; the kinds of what is in its lines, but for text and code."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    inner = [child.type for token in tokens for child in token.children or ()]
    return [token.type for token in tokens], [
        kind for kind in inner if kind not in ("text", "code_inline", "softbreak")
    ]


@given(TEXT)
@example(HOSTILE[4])
@example(HOSTILE[5])
@example(HOSTILE[6])
def test_no_text_becomes_markup_of_the_block(text: str) -> None:
    assert blocks(markdown.block(*made(text))) == blocks(markdown.block(*made("x")))


def test_the_check_of_the_block_can_fail() -> None:
    assert blocks("a | b\n-|-\n1 | <b>2</b>") != blocks("a | b\n-|-\n1 | 2")
    assert blocks("- a\n- [b](c)") != blocks("- a\n- b")


@given(TEXT)
def test_what_is_not_in_a_code_span_has_nothing_that_a_site_makes_a_link_of(text: str) -> None:
    span = markdown.inline(text)
    assert span.startswith("`") or not set(span) & set("@#<>[]&*_~|\\/`!$\n")
    assert span.startswith("`") or "www." not in span


def test_a_patch_stays_in_its_fence() -> None:
    lines = list(markdown.fenced("```\n ````\n<b>", "diff"))
    assert lines == ["`````diff", "```", " ````", "<b>", "`````"]
    assert blocks("\n".join(lines)) == (["fence"], [])


def test_the_lines_of_a_patch() -> None:
    lines = [facts._line(text) for text in ("--- a/x", "+++ b/x", "@@ -1 +1 @@", "-a", "+b", " c", "")]
    assert [line.kind for line in lines] == ["file", "file", "hunk", "remove", "add", "", ""]
