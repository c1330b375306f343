"""How the outcomes of a plan are said: to people, a line each, and to scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apply_opt.model.plan import ALREADY, LEFT_OUT, NOT_NEEDED, PLANNED, REFUSED, Outcome

WORDS = {
    PLANNED: "applied",
    ALREADY: "already applied",
    NOT_NEEDED: "not needed",
    LEFT_OUT: "left out",
    REFUSED: "refused",
}
STYLES = {PLANNED: "green", ALREADY: "green", NOT_NEEDED: "cyan", LEFT_OUT: "yellow", REFUSED: "red"}


def outcome_lines(outcomes: Sequence[Outcome], words: Mapping[str, str] = WORDS) -> list[tuple[str, str]]:
    """One outcome a line, with what to do next below those that did not land."""
    width = max(len(o.name) for o in outcomes)
    lines = []
    for outcome in outcomes:
        found = sorted({site.line for site in outcome.sites})
        detail = outcome.message or f"line{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}"
        lines.append((STYLES[outcome.kind], f"{outcome.name:{width}}  {words[outcome.kind]:16}  {detail}"))
        lines += [("dim", f"{'':{width}}  {text}") for text in outcome.notes]
        lines += [("yellow", f"{'':{width}}  warning: {text}") for text in outcome.warnings]
        if outcome.kind in (LEFT_OUT, REFUSED) and outcome.next_step:
            lines += [("dim", f"{'':{width}}  {text}") for text in outcome.next_step.splitlines()]
    return lines


def outcome_document(outcome: Outcome, done: bool = False) -> dict[str, object]:
    """An outcome for scripts; with ``done``, what was planned has been applied."""
    return {
        "name": outcome.name,
        "outcome": "applied" if done and outcome.kind == PLANNED else outcome.kind,
        "class": outcome.optimization.safety,
        "parameters": dict(outcome.parameters),
        "sites": [site._asdict() for site in outcome.sites],
        "message": outcome.message,
        "next_step": outcome.next_step,
        "warnings": list(outcome.warnings),
        "notes": list(outcome.notes),
    }
