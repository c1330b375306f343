"""What the tokenizer's codemods share: which class is the tokenizer, and helpers placed in front of it.

Forks rename and move nearly everything. What they keep is what the class is for: it feeds audio to a FunASR encoder
(``….infer_encoder(…)``) and log-mel frames to an ONNX session.
"""

from __future__ import annotations

import ast

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.source import Edit, Source, first_line


def tokenizer_class(source: Source) -> ast.ClassDef:
    """The class that encodes audio with FunASR, and not the wrapper around the FunASR model that some forks hold too."""
    encoding = list(dict.fromkeys(filter(None, (_class_of(source, c) for c in source.calls("infer_encoder")))))
    log_mel = source.calls("log_mel_spectrogram")
    whole = [c for c in encoding if "Tokenizer" in c.name or any(c in source.ancestors(call) for call in log_mel)]
    found = whole or encoding
    if not found:
        raise NoSite(f"{source.name}: no class calls infer_encoder()")
    if len(found) > 1:
        places = ", ".join(f"{c.name} (line {c.lineno})" for c in found)
        raise Ambiguous(f"{source.name}: {len(found)} classes could be the tokenizer: {places}")
    return found[0]


def _class_of(source: Source, node: ast.AST) -> ast.ClassDef | None:
    return next((n for n in source.ancestors(node) if isinstance(n, ast.ClassDef)), None)


def helper(source: Source, name: str) -> ast.FunctionDef | None:
    """The module-level function called ``name``."""
    return next((s for s in source.tree.body if isinstance(s, ast.FunctionDef) and s.name == name), None)


def is_taken(source: Source, name: str) -> bool:
    """Whether the code uses ``name`` for a variable, function or class anywhere."""
    return any(name in (getattr(n, "id", ""), getattr(n, "name", "")) for n in source.nodes(name))


def insert_above(source: Source, node: ast.AST, text: str) -> Edit:
    """``text`` (four-space indents, ``\\n``) as a module-level block above the top-level statement that holds ``node``.

    Comments that stand directly on that statement stay with it.
    """
    line = first_line(source.top_level(node))
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
