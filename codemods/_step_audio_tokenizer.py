"""What the tokenizer's codemods share: which class is the tokenizer, and helpers placed in front of it.

Forks rename and move nearly everything. What they keep is what the class is for: it feeds audio to a FunASR encoder
(``….infer_encoder(…)``) and log-mel frames to an ONNX session.
"""

from __future__ import annotations

import ast

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.source import Edit, Function, Source, calls, classes, first_line, functions, own_nodes, top_level


def tokenizer_class(source: Source) -> ast.ClassDef:
    """The class that encodes audio with FunASR, and not the wrapper around the FunASR model that some forks hold too."""
    encoding = [c for c in classes(source.tree) if any(calls(c, "infer_encoder"))]
    whole = [c for c in encoding if any(calls(c, "log_mel_spectrogram")) or "Tokenizer" in c.name]
    found = whole or encoding
    if not found:
        raise NoSite(f"{source.name}: no class calls infer_encoder()")
    if len(found) > 1:
        places = ", ".join(f"{c.name} (line {c.lineno})" for c in found)
        raise Ambiguous(f"{source.name}: {len(found)} classes could be the tokenizer: {places}")
    return found[0]


def function_of(source: Source, node: ast.AST) -> Function | None:
    """The innermost function that ``node`` belongs to."""
    return next((f for f in functions(source.tree) if any(own is node for own in own_nodes(f))), None)


def statement_of(source: Source, node: ast.AST) -> ast.stmt:
    """The innermost statement that holds ``node``."""
    holding = [s for s in ast.walk(source.tree) if isinstance(s, ast.stmt) and any(n is node for n in ast.walk(s))]
    return min(holding, key=lambda s: sum(1 for _ in ast.walk(s)))


def helper(source: Source, name: str) -> ast.FunctionDef | None:
    """The module-level function called ``name``."""
    return next((s for s in source.tree.body if isinstance(s, ast.FunctionDef) and s.name == name), None)


def names_taken(source: Source) -> set[str]:
    """Every name that the module's code uses anywhere."""
    taken = {n.id for n in ast.walk(source.tree) if isinstance(n, ast.Name)}
    taken |= {
        n.name for n in ast.walk(source.tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))
    }
    return taken


def insert_above(source: Source, node: ast.AST, text: str) -> Edit:
    """``text`` (four-space indents, ``\\n``) as a module-level block above the top-level statement that holds ``node``.

    Comments that stand directly on that statement stay with it.
    """
    line = first_line(top_level(source.tree, node))
    while line > 1 and source.lines[line - 2].startswith("#"):
        line -= 1
    newline, unit = source.newline(line), source.indent_unit()
    return Edit(line, line - 1, (reindent(text, unit) + "\n\n\n").replace("\n", newline))


def reindent(text: str, unit: str) -> str:
    """``text`` with ``unit`` for each four spaces at the start of a line."""
    lines = []
    for line in text.strip("\n").split("\n"):
        body = line.lstrip(" ")
        lines.append(unit * ((len(line) - len(body)) // 4) + body)
    return "\n".join(lines)
