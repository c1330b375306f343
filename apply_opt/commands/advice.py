"""What ``advise`` found, for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apply_opt.commands.words import language
from apply_opt.model.claims import BOTH, HOLDS, LESS, MORE, OTHER_INPUTS, SEE, UNKNOWN
from apply_opt.model.measurement import FASTER, INCONCLUSIVE, SLOWER

LITTLE = 0.05
"""A stage that takes less of a run is not worth anyone's time."""
Line = tuple[str, str]


def lines(document: Mapping[str, Any]) -> Iterator[Line]:
    """All of it: where the time goes, what pays, what to do, which claims hold."""
    given = ", ".join(f"{key}={value}" for key, value in document["options"].items()) or "the workload's own inputs"
    threads = f"{document['threads']} thread" + "s" * (document["threads"] != 1)
    yield (
        "bold",
        f"{document['target']}: where the time goes, as it is ({given}; {threads}; {document['machine']['cpu']})",
    )
    for case, seconds in document["seconds"].items():
        yield "", f"{case}: {seconds * 1000:.4g} ms"
        shares = document["shares"].get(case, {})
        for stage, (share, low, high) in sorted(shares.items(), key=lambda item: -item[1][0]):
            most = f"without it at most {1 / (1 - high):.2f}x" if high < 1 else "all of it, as far as can be told"
            little = ": not worth your time" * (high < LITTLE)
            yield "", f"  {stage:22} {share:6.1%}  ({_percent(low, high)})  {most}{little}"
    yield (
        "bold",
        f"what pays, each alone with what it needs, by the lower ends of the intervals ({document['level']:.0%} for all together)",
    )
    for unit in sorted(document["units"], key=lambda unit: -unit["low"]):
        style = {FASTER: "green", SLOWER: "red"}.get(unit["word"], "")
        yield style, f"  {unit['name']}  ({', '.join(unit['classes'])}{'; changes results' if unit['lossy'] else ''})"
        for case, verdict in unit["verdicts"].items():
            yield style, f"    {case}: {_gain(verdict)}"
    for name, reason in document["not_measured"].items():
        yield "dim", f"  {name}: {reason}"
    yield from _together_lines(document)
    yield from _claim_lines(document["claims"])


def _percent(low: float, high: float) -> str:
    return f"{low:.1%} to {high:.1%}"


def _gain(verdict: Mapping[str, Any]) -> str:
    estimate, low, high = verdict["speedup"]
    return f"{verdict['word']} {estimate:.3f}x ({low:.3f} to {high:.3f})"


def _together_lines(document: Mapping[str, Any]) -> Iterator[Line]:
    """What to do."""
    names, gains, left = document["advised"], document["together"], document["left"]
    words = [verdict["word"] for verdict in gains.values()]
    pays = FASTER in words and SLOWER not in words
    if names:
        yield "bold", f"together: {' '.join(names)}"
    for case, verdict in gains.items():
        low = verdict["speedup"][1]
        saved = f"; at least {60 * (1 - 1 / low):.0f} minutes of an hour" if verdict["word"] == FASTER else ""
        yield "green" if saved else "yellow", f"  {case}: {_gain(verdict)}{saved}"
    for name, added in document["adds"].items():
        what = "left out, nothing more is shown" if name in left else "adds"
        yield "dim", f"  {name}: {what}: {'; '.join(f'{case}: {_gain(verdict)}' for case, verdict in added.items())}"
    for name, reason in document["apart"].items():
        yield "dim", f"  without {name}: {reason}"
    for message in document["failed"].values():
        yield "red", f"  {message}"
    if not names:
        yield "bold", f"nothing is shown to pay for these inputs{_unsure(document['units'])}: leave it as it is"
    elif not pays:
        yield "yellow", "together they are not shown to pay: try the best of them alone"
    else:
        options = [f"--option {shlex.quote(f'{key}={value}')}" for key, value in document["options"].items()]
        lossy = ["--allow lossy"] * any(u["lossy"] for u in document["units"] if set(u["applies"]) <= set(names))
        usual = ", ".join(f"{key}={value}" for key, value in document["own_options"].items())
        besides = f" (with inputs of its own: {usual})" if usual else ""
        yield "bold", f"worth doing; this proves that results are the same{besides}, and applies it:"
        yield "bold", " ".join(["apply-opt", *names, *lossy, "--prove", *options, *document["place"]])


def _unsure(units: Sequence[Mapping[str, Any]]) -> str:
    """That more could be seen, where some could not be told from nothing."""
    is_unsure = any(unit["word"] == INCONCLUSIVE for unit in units)
    return " (what is inconclusive may: larger inputs, or more --blocks)" if is_unsure else ""


def _claim_lines(held: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    if held:
        yield "bold", "what is said about it, and what holds here"
    for claim in held:
        style = {HOLDS: "green", MORE: "yellow", LESS: "red", BOTH: "yellow", UNKNOWN: "yellow"}.get(
            claim["word"], "dim"
        )
        yield style, f"  {claim['says'] if language() == 'en' else claim['says_zh']}"
        yield style, f"    {claim['word']}{_evidence(claim)}"


def _evidence(claim: Mapping[str, Any]) -> str:
    if claim["word"] == SEE:
        return f" {claim['see']}"
    if claim["word"] == OTHER_INPUTS:
        return f": {claim['ask']}"
    found = [
        f"{case}: {_percent(low, high)}" if claim["stage"] else f"{case}: {low:.3f}x to {high:.3f}x"
        for case, (_, low, high) in claim["measured"].items()
    ]
    return "".join(f"; {text}" for text in found)
