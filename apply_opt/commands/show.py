"""``apply-opt show NAME``: an optimization's page, its class and its parameters."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from apply_opt.commands import Result, add_json_argument
from apply_opt.commands.words import language, title
from apply_opt.io import catalog
from apply_opt.model.parameters import spelled
from apply_opt.model.target import Target
from apply_opt.model.unit import Bundle, Optimization

HELP = "what an optimization changes, why, when not to use it, its parameters, and what was measured"
EPILOG = """examples:
  apply-opt show tokenizer_ort_threads
  APPLY_OPT_LANG=zh apply-opt show tokenizer_quick"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("name", metavar="NAME", help="an optimization or a bundle")
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Show."""
    units = catalog.load()
    unit = units.unit(arguments.name)
    page = catalog.page(unit, language())
    target = units.targets[unit.target]
    facts = _facts(unit)
    document = {"name": unit.name, "title": title(unit), "target": unit.target, "page": page, **facts}
    if arguments.json:
        return Result([], document)
    return Result([*_head(unit, target), *_styled(page)], document)


def _facts(unit: Optimization | Bundle) -> dict[str, object]:
    if isinstance(unit, Bundle):
        return {"optimizations": list(unit.optimizations)}
    parameters = [{**p._asdict(), "choices": list(p.choices)} for p in unit.parameters]
    about = {"class": unit.safety, "part": unit.part or None, "sites": list(unit.sites)}
    return {**about, "parameters": parameters, "manual": unit.manual.strip()}


def _head(unit: Optimization | Bundle, target: Target) -> list[tuple[str, str]]:
    lines = [("bold", f"{unit.name}: {title(unit)}")]
    if isinstance(unit, Bundle):
        return [*lines, ("", f"applies: {', '.join(unit.optimizations)}"), ("", "")]
    place = f", in {target.part(unit.part).files[0]} (part {unit.part})" if unit.part else ""
    lines.append(("", f"target {unit.target}, class {unit.safety}{place}"))
    width = max((len(p.name) for p in unit.parameters), default=0)
    for p in unit.parameters:
        text = p.help_zh if language() != "en" and p.help_zh else p.help
        lines.append(("", f"  --set {p.name:{width}}  {p.admits()} (default {spelled(p.default)})"))
        lines.append(("dim", f"        {'':{width}}  {text}"))
    return [*lines, ("", "")]


def _styled(page: str) -> Iterator[tuple[str, str]]:
    """The page as it is, since its commands are there to be copied; its headings stand out on a terminal."""
    is_code = False
    for line in page.splitlines():
        is_code ^= line.startswith("```")
        yield "bold" if line.startswith("#") and not is_code else "", line
