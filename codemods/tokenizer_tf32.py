"""Let CUDA matrix products use TF32 while the FunASR encoder runs.

Sets ``torch.backends.cuda.matmul.allow_tf32``: products of float32 matrices then keep 10 of 23 mantissa bits, which
Ampere and later cards compute several times faster
(https://pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices).

The setting is the process's. With ``scope=encoder`` it is on only inside the method that calls ``infer_encoder``; with
``scope=process`` it is set once at import, as the note this came from has it, and reaches the language model and the
vocoder too. ``torch.backends.cudnn.allow_tf32`` is on by default and is not touched.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from apply_opt.errors import Ambiguous, Conflict
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.fragment import rewrite
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, own_nodes

from ._step_audio_tokenizer import helper, insert_above, is_taken, tokenizer_class

if TYPE_CHECKING:
    import libcst as cst

DECORATOR = "_with_tf32_matmul"
HELPERS = {
    "high": '''
def _with_tf32_matmul(encode):
    """Let CUDA matrix products use TF32 while `encode` runs, and give the setting back afterwards.

    TF32 keeps 10 of float32's 23 mantissa bits. The setting is the whole process's: scoped like this, a language
    model or a vocoder beside the tokenizer keeps full float32. Calls may overlap between threads.
    """
    import functools
    import threading

    import torch

    matmul = torch.backends.cuda.matmul
    lock, running, before = threading.Lock(), 0, False

    @functools.wraps(encode)
    def call(*args, **kwargs):
        nonlocal running, before
        with lock:
            if running == 0:
                # Not allow_tf32: reading it raises once anybody has set the newer fp32_precision.
                before = matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
                matmul.allow_tf32 = True
            running += 1
        try:
            return encode(*args, **kwargs)
        finally:
            with lock:
                running -= 1
                if running == 0:
                    matmul.allow_tf32 = before

    return call
''',
    "medium": '''
def _with_tf32_matmul(encode):
    """Let matrix products use TF32 or bfloat16 while `encode` runs, and give the setting back afterwards.

    The setting is the whole process's: scoped like this, a language model or a vocoder beside the tokenizer keeps
    full float32. Calls may overlap between threads.
    """
    import functools
    import threading

    import torch

    lock, running, before = threading.Lock(), 0, "highest"

    @functools.wraps(encode)
    def call(*args, **kwargs):
        nonlocal running, before
        with lock:
            if running == 0:
                before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("medium")
            running += 1
        try:
            return encode(*args, **kwargs)
        finally:
            with lock:
                running -= 1
                if running == 0:
                    torch.set_float32_matmul_precision(before)

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
    """The sites ``setting`` (the helper, or the statement at import) and ``encoder`` (the method that encodes)."""
    method = _encoder_method(source)
    ours = helper(source, DECORATOR)
    decorated = any(isinstance(d, ast.Name) and d.id == DECORATOR for d in method.decorator_list)
    if ours or decorated:
        return [
            Site("setting", ours.lineno if ours else method.lineno, OURS if ours else TODO),
            Site("encoder", method.lineno, OURS if decorated else TODO),
        ]
    for line, allowed, text in sorted(_settings(source)):
        if not allowed:
            raise Conflict(
                f"{source.name}:{line} turns TF32 off on purpose: {text}",
                "take that line out first, if you do not want it",
            )
        state = OURS if text in AT_IMPORT[str(parameters["precision"])] and _is_ours(source, line) else THEIRS
        return [Site("setting", line, state, text), Site("encoder", method.lineno, state, text)]
    if is_taken(source, DECORATOR):
        raise Conflict(f"{source.name} already uses the name {DECORATOR} for something else")
    return [Site("setting", tokenizer_class(source).lineno, TODO), Site("encoder", method.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the tokenizer's class and a decorator on its method; or one statement above the class."""
    place, precision = tokenizer_class(source), str(parameters["precision"])
    if parameters["scope"] == "process":
        text = AT_IMPORT[precision].strip("\n")
        if not _imports_torch(source):
            text = "import torch\n\n" + text
        return [insert_above(source, place, text)]
    return [insert_above(source, place, HELPERS[precision]), rewrite(source, _encoder_method(source), _decorate())]


def _decorate() -> cst.CSTTransformer:
    import libcst as cst

    class Decorate(cst.CSTTransformer):
        """Our decorator goes next to the ``def``, inside any other, so that it wraps a plain function."""

        depth = 0

        def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
            self.depth += 1

        def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
            self.depth -= 1
            if self.depth:
                return updated_node
            ours = cst.Decorator(cst.Name(DECORATOR), leading_lines=updated_node.lines_after_decorators)
            return updated_node.with_changes(decorators=[*updated_node.decorators, ours], lines_after_decorators=())

    return Decorate()


def _encoder_method(source: Source) -> Function:
    tokenizer = tokenizer_class(source)
    calling = [source.function(call) for call in source.calls("infer_encoder", within=tokenizer)]
    found = [function for function in dict.fromkeys(calling) if function is not None]
    if len(found) > 1:
        lines = ", ".join(f"{f.name} (line {f.lineno})" for f in found)
        raise Ambiguous(f"{source.name}: infer_encoder() is called in {len(found)} methods: {lines}")
    if not found or found[0] not in tokenizer.body:
        raise Ambiguous(f"{source.name}: infer_encoder() is not called in a method of {tokenizer.name} itself")
    if isinstance(found[0], ast.AsyncFunctionDef) or any(
        isinstance(n, (ast.Yield, ast.YieldFrom)) for n in own_nodes(found[0])
    ):
        raise Conflict(
            f"{source.name}:{found[0].lineno}: {found[0].name} is a coroutine or generator: it runs after it returns"
        )
    return found[0]


def _settings(source: Source) -> Iterator[tuple[int, bool, str]]:
    """Line, whether it allows TF32, and text of each statement that sets the precision of float32 matrix products."""
    for node in source.nodes("allow_tf32", "fp32_precision"):
        if isinstance(node, ast.Assign):
            for target in map(ast.unparse, node.targets):
                value = node.value.value if isinstance(node.value, ast.Constant) else None
                if target.endswith("matmul.allow_tf32"):
                    yield node.lineno, value is not False, ast.unparse(node)
                elif target.endswith("fp32_precision") and "cudnn" not in target and "mkldnn" not in target:
                    yield node.lineno, value != "ieee", ast.unparse(node)
    for call in source.calls("set_float32_matmul_precision"):
        value = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
        yield call.lineno, value != "highest", ast.unparse(call)


def _is_ours(source: Source, line: int) -> bool:
    return line > 1 and any(source.lines[line - 2].strip() in text.splitlines() for text in AT_IMPORT.values())


def _imports_torch(source: Source) -> bool:
    names = [a for s in source.tree.body if isinstance(s, ast.Import) for a in s.names]
    return any((a.asname or a.name) == "torch" for a in names)
