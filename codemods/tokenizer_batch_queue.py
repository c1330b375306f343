"""Have concurrent calls of ``wav2token`` use the encoder and the ONNX model together, as batches.

A server calls ``wav2token`` from several threads; its locks let one of them in at a time. A decorator has the callers meet in
front of the models, by what :mod:`.tokenizer_offline_batch` has put in; a method ``wav2token_submit`` beside it gives a future.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Optional

from apply_opt.errors import Conflict, OtherValues, PartlyApplied
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source

from . import tokenizer_offline_batch
from ._escapes import check_stands
from ._helpers import insert_above, is_taken
from ._requests import DECORATOR, HELPER, HELPER_TEXT, METHOD_TEXT
from ._scopes import parameters_of
from ._step_audio_tokenizer import tokenizer_class
from ._tokenizing import below, own_methods, tokenizing

SITES = ("helper", "callers", "submit")


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites ``helper`` (our class and decorator), ``callers`` (the method with it) and ``submit`` (the other method)."""
    method = tokenizing(source).method
    helpers = _helpers(source)
    submit = _submit(source, method)
    marks = [d for d in method.decorator_list if isinstance(d, ast.Name) and d.id == DECORATOR]
    is_ours = submit is not None and any(isinstance(n, ast.Name) and n.id == HELPER for n in ast.walk(submit))
    if submit is not None and not (is_ours or helpers or marks):
        return [Site(name, submit.lineno, THEIRS, f"def {submit.name}") for name in SITES]
    if not (helpers or marks or is_ours):
        _check_free(source, method)
    if helpers:
        _check_values(source, helpers[0], parameters)
    found = {
        "helper": (helpers[0].lineno if helpers else tokenizer_class(source).lineno, bool(helpers)),
        "callers": (marks[0].lineno if marks else method.lineno, bool(marks)),
        "submit": (submit.lineno if submit is not None else method.lineno, is_ours),
    }
    return [Site(name, line, OURS if done else TODO) for name, (line, done) in found.items()]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helpers above the method's class, the decorator next to its ``def``, the other method below the one for batches."""
    method = tokenizing(source).method
    line = method.lineno
    mark = Edit(line, line - 1, f"{source.indent(line)}@{DECORATOR}{source.newline(line)}")
    submit = METHOD_TEXT.format(name=method.name, **parameters)
    helper = HELPER_TEXT.format(**parameters)
    above = tokenizer_offline_batch.batch_method(source, method) or method
    return [insert_above(source, method, helper), mark, below(source, above, submit)]


def _check_free(source: Source, method: Function) -> None:
    """Raise where a decorator has no place, or what we write stands for something else."""
    if is_taken(source, HELPER) or is_taken(source, DECORATOR):
        raise Conflict(f"{source.name} already uses the name {HELPER} or {DECORATOR} for something else")
    if any(site.state == THEIRS for site in tokenizer_offline_batch.find(source, {})):
        raise Conflict(f"{source.name} has a method for batches of its own: ours, which this needs, is not there")
    if method.args.kwarg is not None or any(argument.arg == "timeout" for argument in parameters_of(method)):
        raise Conflict(f"{source.name}:{method.lineno}: {method.name} has a parameter timeout of its own, or takes any")
    check_stands(source, method)


def _helpers(source: Source) -> list[ast.stmt]:
    """Our class and our decorator: both or none."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    found = [s for s in source.tree.body if isinstance(s, kinds) and s.name in (HELPER, DECORATOR)]
    if [s.name for s in found] not in ([], [HELPER, DECORATOR]):
        lines = ", ".join(f"{s.name} (line {s.lineno})" for s in found)
        raise PartlyApplied(
            f"{source.name} is partly applied, or twice: {lines}", "take out what is there, then apply again"
        )
    return found  # type: ignore[return-value]


def _submit(source: Source, method: Function) -> Optional[Function]:
    """The tokenizer's method that gives a future."""
    names = {f"{method.name}_submit", f"submit_{method.name}"}
    return next((m for name, m in own_methods(source, tokenizer_class(source)).items() if name in names), None)


def _check_values(source: Source, helper: ast.stmt, parameters: Mapping[str, Value]) -> None:
    """Raise where ``helper`` is the one for other values than the ``parameters``."""
    wanted, there = (
        {ast.unparse(n) for n in getattr(body, "body", []) if isinstance(n, ast.Assign)}
        for body in (ast.parse(HELPER_TEXT.format(**parameters)).body[0], helper)
    )
    if wanted != there:
        values = ", ".join(sorted(there - wanted))
        raise OtherValues(
            f"{source.name}:{helper.lineno} is applied with other values: {values}",
            "take it out first: apply-opt revert tokenizer_batch_queue, or by hand where it was put in by hand",
        )
