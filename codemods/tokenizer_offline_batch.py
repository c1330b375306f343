"""Tokenize many utterances in one call: a method ``wav2token_batch`` beside ``wav2token``.

FunASR's ``infer_encoder`` takes one utterance at a time, and so does the tokenizer. The method runs ``wav2token`` for each
utterance in a thread of its own; where these come to a model, they meet, and the model computes for all (:mod:`._together`).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Optional

from apply_opt.errors import Conflict, PartlyApplied
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source

from ._helpers import insert_above, is_taken
from ._step_audio_tokenizer import tokenizer_class
from ._together import CALL, HELPER, HELPER_TEXT, METHOD_TEXT
from ._tokenizing import below, own_methods, tokenizing


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites ``helper`` (our two classes) and ``batch`` (the method)."""
    found = tokenizing(source)
    classes = [s for s in source.tree.body if isinstance(s, ast.ClassDef) and s.name in (HELPER, CALL)]
    if len(classes) not in (0, 2) or len({c.name for c in classes}) != len(classes):
        lines = ", ".join(f"{c.name} (line {c.lineno})" for c in classes)
        raise PartlyApplied(
            f"{source.name} is partly applied, or twice: {lines}", "take out what is there, then apply again"
        )
    batch = batch_method(source, found.method)
    is_ours = batch is not None and any(isinstance(n, ast.Name) and n.id == HELPER for n in ast.walk(batch))
    if batch is not None and not is_ours and not classes:
        return [Site(name, batch.lineno, THEIRS, f"def {batch.name}") for name in ("helper", "batch")]
    if not classes and not is_ours and (is_taken(source, HELPER) or is_taken(source, CALL)):
        raise Conflict(f"{source.name} already uses the name {HELPER} or {CALL} for something else")
    top = classes[0].lineno if classes else tokenizer_class(source).lineno
    line = batch.lineno if batch is not None else found.method.lineno
    return [Site("helper", top, OURS if classes else TODO), Site("batch", line, OURS if is_ours else TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The classes above the tokenizer's, and the method below the one for a single utterance."""
    found = tokenizing(source)
    names = {name: getattr(found, name) for name in ("model", "model_lock", "session", "session_lock")}
    text = HELPER_TEXT
    for name, attribute in names.items():
        text = text.replace(f"{{{name}}}", attribute)
    method = METHOD_TEXT.format(name=found.method.name)
    return [insert_above(source, tokenizer_class(source), text), below(source, found.method, method)]


def batch_method(source: Source, method: Function) -> Optional[Function]:
    """The tokenizer's method that does for several utterances what ``method`` does for one."""
    names = {f"{method.name}_batch", f"batch_{method.name}", f"{method.name}s"}
    return next((m for name, m in own_methods(source, tokenizer_class(source)).items() if name in names), None)
