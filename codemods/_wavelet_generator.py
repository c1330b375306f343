"""Where a model makes its wavelet prompt generator, and with which settings."""

from __future__ import annotations

import ast

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.codemod import THEIRS, TODO, Site
from apply_opt.model.source import Edit, Source

from ._lines import respelled
from ._sample_loop import WRITER
from ._scopes import calls, targets_of

SITE = "generator"


def setting(source: Source, keyword: str) -> ast.expr:
    """What the generator is given for ``keyword``, where the model makes it."""
    call = _made(source)
    found = [k.value for k in call.keywords if k.arg == keyword]
    if not found:
        raise Ambiguous(f"{source.name}:{call.lineno}: {ast.unparse(call.func)} is not given {keyword}=")
    return found[0]


def site(source: Source, keyword: str, text: str) -> Site:
    """The site ``generator``: done by somebody where ``text`` is given for ``keyword`` already."""
    value = setting(source, keyword)
    is_done = ast.dump(value) == ast.dump(ast.parse(text, mode="eval").body)
    return Site(SITE, value.lineno, THEIRS, f"{keyword}={text}") if is_done else Site(SITE, value.lineno, TODO)


def given(source: Source, keyword: str, text: str) -> Edit:
    """``text`` for ``keyword``."""
    value = setting(source, keyword)
    return respelled(source, source.statement(value), {value: text})


def _made(source: Source) -> ast.Call:
    writers = [call.func.value for call in calls(source, WRITER) if isinstance(call.func, ast.Attribute)]
    names = {ast.unparse(writer) for writer in writers if isinstance(writer, ast.Attribute)}
    statements = [
        n
        for n in source.nodes(*(name.rpartition(".")[2] for name in names))
        if isinstance(n, (ast.Assign, ast.AnnAssign)) and n.value
    ]
    found = [
        node
        for statement in statements
        if ast.unparse(targets_of(statement)[0]) in names
        for node in ast.walk(statement)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and not any(k.arg is None for k in node.keywords)
    ]
    if not found:
        raise NoSite(f"{source.name}: no generator of prompts from wavelets is made ({WRITER})")
    if len(found) > 1:
        lines = ", ".join(str(call.lineno) for call in found)
        raise Ambiguous(f"{source.name}: generators of prompts are made in {len(found)} places: lines {lines}")
    return found[0]
