"""Loops that count: from 0 on, whatever shows how far they are."""

from __future__ import annotations

import ast
from typing import NamedTuple, Optional

from apply_opt.model.source import Source

from ._helpers import meant

BARS = ("tqdm.tqdm", "tqdm.auto.tqdm", "tqdm.std.tqdm", "tqdm.notebook.tqdm", "tqdm.autonotebook.tqdm")

RANGES = ("tqdm.trange", "tqdm.auto.trange", "tqdm.std.trange", "tqdm.notebook.trange")


class Counting(NamedTuple):
    """The variable that counts from 0; up to what (``range``), or what it goes through, and the variable for that (``enumerate``)."""

    number: str
    stop: Optional[ast.expr] = None
    among: Optional[ast.expr] = None
    item: str = ""


def counting(source: Source, loop: ast.For) -> Optional[Counting]:
    """How ``for b in range(B)`` or ``for b, sample in enumerate(samples)`` counts; nothing, where it is another loop."""
    among = without_bar(source, loop.iter)
    if not isinstance(among, ast.Call) or not isinstance(among.func, ast.Name) or among.keywords:
        return None
    kind, given, target = among.func.id, among.args, loop.target
    if kind == "range" and isinstance(target, ast.Name):
        texts = [ast.unparse(argument) for argument in given]
        is_plain = len(given) == 1 or (texts[0] == "0" and texts[2:] in ([], ["1"]))
        return Counting(target.id, stop=given[len(given) > 1]) if is_plain else None
    if kind == "enumerate" and len(given) == 1 and isinstance(target, ast.Tuple) and len(target.elts) == 2:
        number, item = target.elts
        if isinstance(number, ast.Name):
            name = item.id if isinstance(item, ast.Name) else ""
            return Counting(number.id, among=without_bar(source, given[0]), item=name)
    return None


def without_bar(source: Source, among: ast.expr) -> ast.expr:
    """What a loop goes through, without tqdm's progress bar around it."""
    if isinstance(among, ast.Call) and meant(source, among.func) in BARS and len(among.args) == 1:
        return among.args[0]
    if isinstance(among, ast.Call) and meant(source, among.func) in RANGES:
        return ast.copy_location(ast.Call(ast.Name("range", ast.Load()), among.args, []), among)
    return among
