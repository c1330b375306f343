"""Let CUDA matrix products use TF32 while the FunASR encoder runs.

Sets ``torch.backends.cuda.matmul.allow_tf32``: products of float32 matrices then keep 10 of 23 mantissa bits, which
Ampere and later cards compute several times faster
(https://pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices).

The setting is the process's. With ``scope=encoder`` it is on only inside the method that calls ``infer_encoder``; with
``scope=process`` it is set once at import, as the published tip has it, and reaches the language model and the
vocoder too. ``torch.backends.cudnn.allow_tf32`` is on by default and is not touched.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from apply_opt.errors import Ambiguous, Conflict, OtherValues, PartlyApplied
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source

from ._decorators import decorated
from ._escapes import encoding_methods
from ._helpers import helpers, insert_above, is_taken
from ._scopes import named
from ._step_audio_tokenizer import tokenizer_class
from ._torch_name import check_torch, imports_torch
from ._torch_settings import decision

DECORATOR = "_with_tf32_matmul"
HELPERS = {
    "high": '''
def _with_tf32_matmul(encode):
    """Let CUDA matrix products use TF32 while `encode` runs, and give the setting back afterwards.

    TF32 keeps 10 of float32's 23 mantissa bits. The setting is the whole process's: scoped like this, a language
    model or a vocoder beside the tokenizer keeps full float32. Calls may overlap between threads and methods.
    """
    import functools
    import threading

    shared = vars(_with_tf32_matmul)

    @functools.wraps(encode)
    def call(*args, **kwargs):
        import torch

        matmul = torch.backends.cuda.matmul
        with shared.setdefault("lock", threading.Lock()):
            if not shared.get("running"):
                # Not allow_tf32: reading it raises once anybody has set the newer fp32_precision.
                before = matmul.fp32_precision if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
                if before not in ("tf32", True):
                    matmul.allow_tf32 = True
                shared.update(before=before, running=0)
            shared["running"] += 1
        try:
            return encode(*args, **kwargs)
        finally:
            with shared["lock"]:
                shared["running"] -= 1
                before = shared["before"]
                if shared["running"] == 0 and before not in ("tf32", True):
                    matmul.allow_tf32 = False
                    if before is not False:
                        matmul.fp32_precision = before

    return call
''',
    "medium": '''
def _with_tf32_matmul(encode):
    """Let matrix products use TF32 or bfloat16 while `encode` runs, and give the setting back afterwards.

    The setting is the whole process's: scoped like this, a language model or a vocoder beside the tokenizer keeps
    full float32. Calls may overlap between threads and methods.
    """
    import functools
    import threading

    shared = vars(_with_tf32_matmul)

    @functools.wraps(encode)
    def call(*args, **kwargs):
        import torch

        with shared.setdefault("lock", threading.Lock()):
            if not shared.get("running"):
                try:
                    before = torch.get_float32_matmul_precision()
                except RuntimeError:  # somebody has set the newer fp32_precision, which is kept too
                    before = "highest"
                modules = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
                kept = [(module, module.fp32_precision) for module in modules if hasattr(module, "fp32_precision")]
                torch.set_float32_matmul_precision("medium")
                shared.update(before=before, kept=kept, running=0)
            shared["running"] += 1
        try:
            return encode(*args, **kwargs)
        finally:
            with shared["lock"]:
                shared["running"] -= 1
                if shared["running"] == 0:
                    torch.set_float32_matmul_precision(shared["before"])
                    for module, precision in shared["kept"]:
                        module.fp32_precision = precision

    return call
''',
}
AT_IMPORT = {
    "high": """
# CUDA matrix products of this whole process may use TF32: 10 of float32's 23 mantissa bits.
torch.backends.cuda.matmul.allow_tf32 = True
""",
    "medium": """
# Matrix products of this whole process may use TF32 or bfloat16 instead of float32.
torch.set_float32_matmul_precision("medium")
""",
}


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites ``setting`` (the helper, or the statement at import) and ``encoder`` (the methods that encode)."""
    tokenizer, is_process = tokenizer_class(source), parameters["scope"] == "process"
    methods = [] if is_process and not named(source, DECORATOR) else encoding_methods(source)
    ours = _scoped_to_encoder(source, methods, parameters) or _at_import(source, parameters)
    if ours:
        return ours
    theirs = decision(source)
    if theirs is not None:
        return [Site(name, theirs.line, THEIRS, theirs.text) for name in ("setting", "encoder")]
    if is_process:
        check_torch(source, source.top_level(tokenizer), "use scope=encoder, which imports it for itself")
    if is_taken(source, DECORATOR):
        raise Conflict(f"{source.name} already uses the name {DECORATOR} for something else")
    line = methods[0].lineno if methods else tokenizer.lineno
    return [Site("setting", tokenizer.lineno, TODO), Site("encoder", line, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the tokenizer's class and a decorator on its methods; or one statement above the class."""
    place, precision = tokenizer_class(source), str(parameters["precision"])
    if parameters["scope"] == "process":
        text = AT_IMPORT[precision].strip("\n")
        if not imports_torch(source, source.top_level(place)):
            text = "import torch\n\n" + text
        return [insert_above(source, place, text)]
    marked = [decorated(source, method, DECORATOR) for method in encoding_methods(source)]
    return [insert_above(source, place, HELPERS[precision]), *marked]


def _scoped_to_encoder(source: Source, methods: Sequence[Function], parameters: Mapping[str, Value]) -> list[Site]:
    """The sites as we leave them with ``scope=encoder``, or half of them; none where there is neither."""
    ours = helpers(source, DECORATOR)
    marks = [_marks(method) for method in methods]
    for lines in ([s.lineno for s in ours], *([m.lineno for m in found] for found in marks)):
        if len(lines) > 1:
            raise Ambiguous(
                f"{source.name}: {DECORATOR} is there more than once: lines {', '.join(map(str, lines))}",
                "take one of them out by hand",
            )
    if not ours and not any(marks):
        return []
    if any(marks) and not all(marks):
        raise _not_on_all(source, methods)
    if ours and any(marks):
        _check_values(source, ours[0], parameters)
    line = marks[0][0].lineno if any(marks) else methods[0].lineno
    return [
        Site("setting", ours[0].lineno if ours else line, OURS if ours else TODO),
        Site("encoder", line, OURS if any(marks) else TODO),
    ]


def _marks(method: Function) -> list[ast.Name]:
    return [d for d in method.decorator_list if isinstance(d, ast.Name) and d.id == DECORATOR]


def _not_on_all(source: Source, methods: Sequence[Function]) -> PartlyApplied:
    places = [
        ", ".join(f"{m.name} (line {m.lineno})" for m in methods if bool(_marks(m)) is marked)
        for marked in (True, False)
    ]
    return PartlyApplied(
        f"{source.name} is partly applied: {DECORATOR} is on {places[0]}, not on {places[1]}",
        f"put the line @{DECORATOR} above the others too, or take out what is there, then apply again",
    )


def _check_values(source: Source, helper: ast.FunctionDef, parameters: Mapping[str, Value]) -> None:
    """Raise where ``helper`` is the one for other values than the ``parameters``."""
    asked = "precision=" + str(parameters["precision"]) if parameters["scope"] == "encoder" else "scope=process"
    written = {f"precision={name}": ast.dump(ast.parse(text).body[0]) for name, text in HELPERS.items()}
    there = next((name for name, dump in written.items() if dump == ast.dump(helper)), asked)
    if there != asked:
        raise _other_values(source, helper.lineno, f"scope=encoder {there}")


def _at_import(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites as we leave them with ``scope=process``: the statement, with our comment above it."""
    found = []
    for statement in source.tree.body:
        above = source.lines[statement.lineno - 2].strip() if statement.lineno > 1 else ""
        for precision, text in AT_IMPORT.items():
            comment, code = text.strip().splitlines()
            if above == comment and ast.unparse(statement) == ast.unparse(ast.parse(code)):
                found.append((statement.lineno, precision))
    if len(found) > 1:
        lines = ", ".join(str(line) for line, _ in found)
        raise Ambiguous(f"{source.name}: TF32 is allowed more than once: lines {lines}", "take one of them out by hand")
    for line, precision in found:
        if parameters["scope"] != "process" or parameters["precision"] != precision:
            raise _other_values(source, line, f"scope=process precision={precision}")
        return [Site(name, line, OURS) for name in ("setting", "encoder")]
    return []


def _other_values(source: Source, line: int, values: str) -> OtherValues:
    return OtherValues(
        f"{source.name}:{line} is applied with other values: {values}",
        "take it out first: apply-opt revert tokenizer_tf32, or by hand where it was put in by hand",
    )
