"""How the outcomes of a plan are said: to people, a line each, and to scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apply_opt.errors import NoSite
from apply_opt.model.digest import sha256
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
        detail = outcome.message or _where(outcome)
        word = "no site" if isinstance(outcome.error, NoSite) else words[outcome.kind]
        lines.append((STYLES[outcome.kind], f"{outcome.name:{width}}  {word:16}  {detail}"))
        lines += [("dim", f"{'':{width}}  {text}") for text in outcome.notes]
        lines += [("yellow", f"{'':{width}}  warning: {text}") for text in outcome.warnings]
        if outcome.kind in (LEFT_OUT, REFUSED) and outcome.next_step:
            lines += [("dim", f"{'':{width}}  {text}") for text in outcome.next_step.splitlines()]
    return lines


def _where(outcome: Outcome) -> str:
    """The lines; for another file than the target's main one, also which it is."""
    found = sorted({site.line for site in outcome.sites})
    lines = f"line{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}"
    return f"{outcome.file}: {lines}" if outcome.optimization.part else lines


def files_document(files: Mapping[str, tuple[bytes, bytes]]) -> dict[str, dict[str, str]]:
    """Files before and after, for scripts."""
    return {path: {"before": sha256(before), "after": sha256(after)} for path, (before, after) in files.items()}


def outcome_document(outcome: Outcome, done: bool = False) -> dict[str, object]:
    """An outcome for scripts; with ``done``, what was planned has been applied."""
    return {
        "name": outcome.name,
        "outcome": "applied" if done and outcome.kind == PLANNED else outcome.kind,
        "class": outcome.optimization.safety_for(outcome.parameters),
        "parameters": dict(outcome.parameters),
        "file": outcome.file or None,
        "sites": [site._asdict() for site in outcome.sites],
        "message": outcome.message,
        "next_step": outcome.next_step,
        "warnings": list(outcome.warnings),
        "notes": list(outcome.notes),
    }
