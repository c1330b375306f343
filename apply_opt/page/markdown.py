"""The Markdown block for a pull request. Whatever comes from records stands in code spans and fences, where nothing is markup."""

from __future__ import annotations

import re
from collections.abc import Iterator

from apply_opt.page.facts import Group, Report
from apply_opt.page.gain import Gain
from apply_opt.page.parity import Parity
from apply_opt.page.words import Say, speaker

HARMLESS = re.compile(r"(?:[^\W_]|[ \xa0,;:()%×−+-]|\.(?=[\d ]|$))+")
"""What no dialect of Markdown makes anything of, within a line: no emphasis, tag, entity, link, mention or reference."""


def block(report: Report, groups: list[Group]) -> str:
    """A section for each set."""
    say = speaker(report.language)
    lines = [line for group in groups for line in _group(group, say)]
    return "\n".join(lines).rstrip() + "\n"


def inline(text: str) -> str:
    """``text`` as it is where it can be nothing but text, else as a code span."""
    return text if HARMLESS.fullmatch(text) else code(text)


def code(text: str) -> str:
    """``text`` as a code span, in a table too; see https://github.github.com/gfm/#code-spans and #tables-extension-."""
    flat = " ".join(text.split()) or "-"
    fence = "`" * (max((len(run) for run in re.findall("`+", flat)), default=0) + 1)
    room = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{room}{flat}{room}{fence}".replace("|", "\\|")


def fenced(text: str, kind: str) -> Iterator[str]:
    """``text`` as a block of code."""
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    yield from (fence + kind, *text.splitlines(), fence)


def _group(group: Group, say: Say) -> Iterator[str]:
    names = say("list").join(map(code, group.names))
    yield from (f"### {say('headline', names=names, text=group.headline)}", "")
    if group.gain:
        yield from _gain(group.gain, say)
    if group.parity:
        yield from _parity(group.parity, say)
    for tone, text in group.notes:
        yield f"- {'⚠️ ' if tone == 'bad' else ''}{inline(text)}"
    yield ""
    if group.gain:
        yield from _folded(
            say("figures"), [*_figures(group.gain, say), "", say("derived") + say("gap") + say("counts hold")]
        )
    yield from _folded(say("conditions"), [f"- {c.name}: {inline(c.measured or c.compared)}" for c in group.conditions])
    yield from _folded(say("patch"), fenced("\n".join(line.text for line in group.patch), "diff"))
    yield from _folded(say("reproduce"), fenced("\n".join(group.commands), "sh"))


def _gain(gain: Gain, say: Say) -> Iterator[str]:
    yield from _row(say("input"), say("verdict"), say("speed"), f"{say('before')} → {say('after')}")
    yield from _row("---", "---", "---", "---:")
    for case in gain.cases:
        median = case.figures[0].rows[0]
        yield from _row(
            inline(case.name), inline(case.verdict), f"**{case.gain}**", f"{median.before} → {median.after}"
        )
    yield from ("", *(f"- {inline(case.name)}: {case.evidence}" for case in gain.cases), "")


def _figures(gain: Gain, say: Say) -> Iterator[str]:
    yield from _row(say("input"), say("figure"), say("before"), say("after"), say("change"))
    yield from _row("---", "---", "---:", "---:", "---:")
    for case in gain.cases:
        for row in (row for part in case.figures for row in part.rows):
            yield from _row(inline(case.name), inline(row.name), row.before, row.after, row.change)
    for row in gain.memory:
        yield from _row("", inline(row.name), row.before, row.after, row.change)


def _row(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


def _parity(parity: Parity, say: Say) -> Iterator[str]:
    yield from (f"- {name}: {inline(value)}" for name, value in parity.rows)
    yield from (f"  - {inline(difference.name)}: {inline(difference.how)}" for difference in parity.differences)
    if parity.more:
        yield f"  - {say('more', count=parity.more)}"


def _folded(title: str, lines: Iterator[str] | list[str]) -> Iterator[str]:
    yield from (f"<details><summary>{title}</summary>", "", *lines, "", "</details>", "")
