"""``apply-opt diff NAME…``: what apply would change. Writes nothing, not even a time stamp."""

from __future__ import annotations

import argparse

from apply_opt.commands import Result, add_checkout_arguments
from apply_opt.commands.outcomes import WORDS, files_document, outcome_document, outcome_lines
from apply_opt.commands.planning import add_plan_arguments, locate, plan_for
from apply_opt.model import patch
from apply_opt.model.plan import PLANNED

HELP = "show what apply would change, as a unified diff; writes nothing"
EPILOG = """examples:
  apply-opt diff tokenizer_quick
  apply-opt diff tokenizer_quick --allow lossy
  apply-opt diff tokenizer_ort_threads --set intra_op=4"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_plan_arguments(parser)
    add_checkout_arguments(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Plan and show."""
    plan = plan_for(arguments, *locate(arguments), shown=arguments.names)
    text = b"".join(patch.make(before, after, path) for path, (before, after) in plan.files.items())
    lines = [(_style(line), line) for line in text.decode("utf-8", "replace").splitlines()]
    if lines:
        lines.append(("", ""))
    lines += outcome_lines(plan.outcomes, {**WORDS, PLANNED: "would be applied"})
    document = {
        "checkout": plan.checkout.root,
        "file": plan.checkout.file,
        "files": files_document(plan.changed()),
        "diff": text.decode("utf-8", "replace"),
        "outcomes": [outcome_document(o) for o in plan.outcomes],
    }
    failed = not plan.of_kind(PLANNED) and [o for o in plan.outcomes if o.error is not None]
    return Result(lines, document, code=3 if failed else 0)


def _style(line: str) -> str:
    if line.startswith(("--- ", "+++ ")):
        return "bold"
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
