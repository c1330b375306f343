"""Have oneDNN do the matrix products of the feed-forward modules on a CPU, in the place of MKL.

Half of a large Conformer encoder's inference are two linear layers in each feed-forward module. PyTorch gives these products to
MKL, which uses half of the vector width that AMD's processors have; oneDNN, which does PyTorch's convolutions, uses all of it
(https://docs.pytorch.org/docs/stable/backends.html#torch-backends-mkldnn). A linear layer is a convolution of one frame.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, callee, own_nodes

from ._helpers import check_imported, insert_above, is_used, refuse_compiled
from ._lines import all_respelled, text_of
from ._scopes import argument, calls, methods, position

HELPER, SITES = "_linear_by_onednn", ("expand", "contract")
HELPER_TEXT = f'''
def {HELPER}(layer, x):
    """`layer(x)` for frames (..., C) on a CPU, made by oneDNN: as a convolution of 1 x 1.

    To such a kernel a dilation means nothing, but it has PyTorch choose oneDNN with a single thread, too, for more than 20480
    elements (https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/native/Convolution.cpp). Elsewhere, and where something
    hooks into the layer, it is called as it is.
    """
    if torch.compiler.is_compiling():
        return layer(x)
    is_plain = type(layer) is nn.Linear and type(layer.weight) is nn.Parameter and "forward" not in vars(layer)
    if not is_plain or x.device.type != "cpu" or x.dtype != torch.float32 or x.shape[-1] != layer.in_features:
        return layer(x)
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    if hooks or x.numel() <= 20480 or torch.is_autocast_enabled("cpu"):
        return layer(x)
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return layer(x)
    frames = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    made = nn.functional.conv2d(frames, layer.weight[:, :, None, None], layer.bias, dilation=2)
    return made.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)
'''


class FeedForward(NamedTuple):
    """A class with a linear layer to another width and one back, the method that calls both, and where."""

    cls: ast.ClassDef
    method: Function
    expand: ast.Call
    contract: ast.Call


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites ``expand`` and ``contract``: where the two linear layers are called."""
    uses = calls(source, HELPER)
    if is_used(source, HELPER, uses, 2):
        return [Site(name, use.lineno, OURS) for name, use in zip(SITES, uses)]
    found = _feed_forward(source)
    check_imported(source, "torch", "nn")
    refuse_compiled(source, found.method)
    return [Site(name, call.lineno, TODO) for name, call in zip(SITES, (found.expand, found.contract))]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the class, called in the place of both layers."""
    found = _feed_forward(source)
    changes: dict[ast.expr, str] = {}
    for call in (found.expand, found.contract):
        (frames,) = call.args
        changes[call] = f"{HELPER}({text_of(source, call.func)}, {text_of(source, frames)})"
    return [insert_above(source, found.cls, HELPER_TEXT), *all_respelled(source, changes)]


def _feed_forward(source: Source) -> FeedForward:
    classes = [n for n in source.nodes("Linear") if isinstance(n, ast.ClassDef)]
    found = [f for cls in classes if (f := _as_feed_forward(source, cls))]
    if not found:
        raise NoSite(
            f"{source.name}: no class calls a linear layer to another width and one back once each, in a statement of its own"
        )
    if len(found) > 1:
        places = ", ".join(f"{f.cls.name} (line {f.cls.lineno})" for f in found)
        raise Ambiguous(f"{source.name}: several classes have a linear layer to another width and one back: {places}")
    return found[0]


def _as_feed_forward(source: Source, cls: ast.ClassDef) -> Optional[FeedForward]:
    layers = {name: widths for method in methods(cls) for name, widths in _linears(method)}
    widths = list(layers.values())
    if len(layers) != 2 or widths[0] != widths[1][::-1] or widths[0][0] == widths[0][1]:
        return None
    used = [[c for c in calls(source, name, cls) if ast.unparse(c.func) == f"self.{name}"] for name in layers]
    if not all(len(found) == 1 and len(found[0].args) == 1 and not found[0].keywords for found in used):
        return None
    first, last = sorted((found[0] for found in used), key=position)
    is_nested = first in source.ancestors(last) or last in source.ancestors(first)
    method = source.function(first)
    if is_nested or method is None or method is not source.function(last):
        return None
    return FeedForward(cls, method, first, last)


def _linears(method: Function) -> list[tuple[str, tuple[str, str]]]:
    """The attributes that are linear layers, and from what width to which."""
    found = []
    for node in own_nodes(method):
        if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.value, ast.Call):
            continue
        name, layer = ast.unparse(node.targets[0]), node.value
        if callee(layer) == "Linear" and name.startswith("self."):
            given = (argument(layer, "in_features", 0), argument(layer, "out_features", 1))
            widths = [ast.unparse(width) if width is not None else "" for width in given]
            found.append((name.removeprefix("self."), (widths[0], widths[1])))
    return found
