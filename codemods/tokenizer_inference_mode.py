"""Run the FunASR encoder and the codebook look-up in PyTorch's inference mode.

The encoder runs under ``no_grad``, the look-up under nothing. Inference mode also leaves out what autograd would need later
of every tensor: version counters and view tracking
(https://pytorch.org/docs/stable/generated/torch.autograd.grad_mode.inference_mode.html). The kernels are the same, and so
are the results. Tensors that are made in it must not get out; :mod:`_tensor_escapes` looks for that.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Optional

from apply_opt.errors import Conflict, PartlyApplied
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, callee

from ._decorators import decorated
from ._escapes import encoding_methods
from ._helpers import insert_above
from ._step_audio_tokenizer import encoder_uses, tokenizer_class
from ._tensor_escapes import escape, made_inside
from ._torch_name import check_torch, imports_torch

MODE = "inference_mode"
DECORATOR = f"torch.{MODE}()"
COMMENT = "# what comes out are plain lists; the tensors in sessions are used in here alone"
WITH_GRADIENTS = {"enable_grad", "set_grad_enabled", "requires_grad_", "backward"}


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``encoder``: the methods that run the encoder."""
    methods = encoding_methods(source)
    modes = {method: _mode(source, method) for method in methods}
    ours = [method for method, mode in modes.items() if mode is not None and _is_ours(source, mode)]
    open_ = [method for method, mode in modes.items() if mode is None]
    if ours and open_:
        raise PartlyApplied(
            f"{source.name} is partly applied: {MODE} is on {_places(ours)}, not on {_places(open_)}",
            f"put @{DECORATOR} above the others too, or take out what is there, then apply again",
        )
    if not open_:
        first = modes[methods[0]]
        assert first is not None
        note = ast.unparse(source.statement(first) if not ours else first).splitlines()[0]
        return [Site("encoder", first.lineno, OURS if ours else THEIRS, "" if ours else note)]
    for method in open_:
        _check(source, method, methods)
    return [Site("encoder", open_[0].lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """A decorator on each method; above the class an import, where there is none."""
    methods = [m for m in encoding_methods(source) if _mode(source, m) is None]
    edits = [decorated(source, method, DECORATOR, COMMENT) for method in methods]
    place = min((source.top_level(method) for method in methods), key=lambda statement: statement.lineno)
    return (
        edits
        if imports_torch(source, place)
        else [insert_above(source, tokenizer_class(source), "import torch"), *edits]
    )


def _places(methods: Sequence[Function]) -> str:
    return ", ".join(f"{m.name} (line {m.lineno})" for m in methods)


def _is_ours(source: Source, mode: ast.expr) -> bool:
    """Whether it is the decorator that we write: with our comment behind it."""
    return source.lines[mode.lineno - 1].rstrip().endswith(COMMENT)


def _mode(source: Source, method: Function) -> Optional[ast.expr]:
    """What puts ``method``, or every use of the encoder in it, into inference mode."""
    for decorator in method.decorator_list:
        if _is_mode(decorator):
            return decorator
    found = []
    for use in encoder_uses(source, method):
        blocks = [n for n in source.ancestors(use) if isinstance(n, (ast.With, ast.AsyncWith))]
        inside = [item.context_expr for block in blocks for item in block.items if _is_mode(item.context_expr)]
        if not inside:
            return None
        found.append(inside[0])
    return found[0] if found else None


def _is_mode(node: ast.expr) -> bool:
    """Whether ``node`` is ``inference_mode``, ``inference_mode()`` or ``inference_mode(True)``."""
    if isinstance(node, ast.Call):
        given = [*node.args, *(k.value for k in node.keywords)]
        return callee(node) == MODE and all(isinstance(n, ast.Constant) and n.value is True for n in given)
    return getattr(node, "attr", getattr(node, "id", "")) == MODE


def _check(source: Source, method: Function, methods: Sequence[Function]) -> None:
    """Raise where ``method`` needs gradients, or lets tensors out, or ``torch`` is something else there."""
    for node in ast.walk(method):
        word = getattr(node, "attr", getattr(node, "id", ""))
        if word in WITH_GRADIENTS or (word == MODE and not _is_entered(source, node)):
            text = ast.unparse(source.statement(node)).splitlines()[0]
            raise Conflict(
                f"{source.name}:{getattr(node, 'lineno', method.lineno)} sets the gradient mode itself: {text}"
            )
    found = escape(source, method, methods)
    if found is not None:
        line, how = found
        raise Conflict(
            f"{source.name}:{line}: {how}, and may be used where gradients are on",
            "hand out numbers (tolist()), or put the inference mode around what uses the tensor too",
        )
    made = made_inside(source, tokenizer_class(source), method)
    if made is not None:
        text = ast.unparse(made).splitlines()[0]
        raise Conflict(f"{source.name}:{made.lineno}: {text} would run in inference mode, and what it makes stay in it")
    check_torch(source, method, "import PyTorch as torch, at the top")


def _is_entered(source: Source, node: ast.AST) -> bool:
    """Whether ``node`` belongs to an inference mode that is on, around a part of the method."""
    call, item = source.ancestors(node)[:2]
    return isinstance(call, ast.Call) and _is_mode(call) and isinstance(item, ast.withitem)
