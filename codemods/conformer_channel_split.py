"""Convolve in pieces what is too large for one call: where a port lacks the fallback that NeMo has for that.

PyTorch's convolutions may refuse tensors of more than 2**31 elements (https://github.com/pytorch/pytorch/issues/80020). NeMo
splits the batch, and where that is not enough, the channels, but without the masks; some ports do only the first, or neither. Here
each layer is split by itself, between its masks: over time, which every kind of convolution can be.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Optional

from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source, callee

from ._helpers import check_imported, has_helper, refuse_taken
from ._masked_conv import IN_PIECES_HELPER, Masked, call_through, calls_layers, masked_convolutions
from ._scopes import calls, methods, named

SITE, LIMIT = "layers", "_MOST_ELEMENTS"
HELPER_TEXT = f'''
{LIMIT} = {{most}}  # of a piece that is convolved at once, but for its edges


def {IN_PIECES_HELPER}(layer, x):
    """`layer(x)`; a convolution of frames (B, C, T, F) that is too large for one call is made in pieces, one after the other.

    A piece is some of the frames that come out, of all utterances, made from those frames that they depend on.
    """
    is_plain = type(layer) is nn.Conv2d and type(layer.weight) is nn.Parameter and "forward" not in vars(layer)
    if not is_plain or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return layer(x)
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or layer.dilation != (1, 1):
        return layer(x)
    (width, height), (step, skip), (before, margin) = layer.kernel_size, layer.stride, layer.padding
    batch, channels, frames, features = x.shape
    made = (frames + 2 * before - width) // step + 1
    outputs = layer.out_channels * made * ((features + 2 * margin - height) // skip + 1)
    pieces = -(-batch * max(channels * frames * features, outputs) // {LIMIT})
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    if pieces <= 1 or hooks or before >= width:
        return layer(x)
    found, length = [], max(1, made // pieces)
    for first in range(0, made, length):
        start = first * step - before
        end = (min(first + length, made) - 1) * step - before + width
        piece = nn.functional.pad(x[:, :, max(start, 0) : end], (0, 0, max(-start, 0), max(end - frames, 0)))
        sizes = (layer.stride, (0, margin), layer.dilation, layer.groups)
        found.append(nn.functional.conv2d(piece, layer.weight, layer.bias, *sizes))
    return torch.cat(found, dim=2)
'''


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``layers``: where each layer is called."""
    uses = calls(source, IN_PIECES_HELPER)
    if has_helper(source, IN_PIECES_HELPER, uses, 1):
        return [Site(SITE, uses[0].lineno, OURS)]
    refuse_taken(source, LIMIT)
    theirs = _splitting(source, masked_convolutions(source))
    if theirs:
        return [Site(SITE, theirs.lineno, THEIRS, "code that splits by channels what is too large")]
    found = calls_layers(source)
    check_imported(source, "torch", "nn")
    return [Site(SITE, found.call.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the class, called in the place of the layer."""
    return call_through(source, IN_PIECES_HELPER, HELPER_TEXT.replace("{most}", str(parameters["most"])))


def _splitting(source: Source, found: Masked) -> Optional[ast.Call]:
    """Where a class that has the layers splits something by channels, in its first axis behind the batch."""
    tops = {source.top_level(node) for node in named(source, found.cls.name)}
    owners = [top for top in tops if isinstance(top, ast.ClassDef) and top is not found.cls]
    for node in (n for owner in owners for method in methods(owner) for n in ast.walk(method)):
        if isinstance(node, ast.Call) and callee(node) in ("split", "chunk", "tensor_split"):
            given = [*node.args[-1:], *(k.value for k in node.keywords if k.arg == "dim")]
            is_function = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "torch"
            axis = ast.unparse(given[-1]) if len(node.args) + len(node.keywords) > 1 + is_function else ""
            if axis == "1":
                return node
    return None
