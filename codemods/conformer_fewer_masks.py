"""Mask a convolutional subsampling where it matters: 4 times instead of 9 (``dw_striding``, factor 8).

The frames behind the end of an utterance are set to zero before every layer, and once more at the end. Only a convolution
over time carries a frame into its neighbours; one with kernel and stride 1 takes each frame by itself, and ReLU leaves
zeros as they are. So the input has to be masked, and what each stage gives, just before its activation: the activation's
result is then both masked and what autograd keeps, once instead of twice.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from apply_opt.errors import Ambiguous
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._helpers import check_imported, has_helper, insert_above
from ._lines import above
from ._masked_conv import Masked, masked_convolutions, only_where
from ._scopes import calls

HELPER = "_layers_to_mask"
HELPER_TEXT = '''
def _layers_to_mask(layers):
    """Before which of `layers` the frames behind the end of an utterance have to be set to zero; len(layers): at the end.

    Only a convolution over time carries such frames into an utterance. One with kernel and stride 1 takes every frame by
    itself, and an activation with f(0) = 0 leaves zeros as they are; so the mask goes in front of the activation. Where
    there are other layers, or hooks that may look at what is between them, it goes everywhere.
    """
    activations = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh)
    everywhere = set(range(len(layers) + 1))
    if nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks:
        return everywhere
    found, place = {0}, 0  # place: where zeros are to be put back, once they are needed
    for i, layer in enumerate(layers):
        hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
        if hooks or "forward" in vars(layer):
            return everywhere
        if isinstance(layer, nn.Conv2d):
            is_plain = type(layer).forward is nn.Conv2d.forward
            if not is_plain or layer.kernel_size[0] > 1 or layer.stride[0] > 1 or layer.padding[0] != 0:
                found.add(place)
            place = i + 1
        elif not any(type(layer).forward is activation.forward for activation in activations):
            return everywhere
    return found | {place}
'''
NAME = "masked"


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites ``layers`` and ``end``: where the frames are masked before each layer, and behind the last."""
    uses = calls(source, HELPER)
    if has_helper(source, HELPER, uses, 1):
        return [Site(name, uses[0].lineno, OURS) for name in ("layers", "end")]
    found = masked_convolutions(source)
    _check_names(source, found)
    return [Site("layers", found.before.node.lineno, TODO), Site("end", found.at_end.node.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the class, asked before the loop; both masks only where it says so."""
    found = masked_convolutions(source)
    own = found.forward.args.args[0].arg
    number, header = _numbered(source, found)
    return [
        insert_above(source, found.cls, HELPER_TEXT),
        above(source, found.loop, f"{NAME} = {HELPER}({own})"),
        *header,
        only_where(source, found.before, f"{number} in {NAME}"),
        only_where(source, found.at_end, f"len({own}) in {NAME}"),
    ]


def _check_names(source: Source, found: Masked) -> None:
    """Raise where our variable has another meaning, or ``nn`` is not there."""
    taken = {n.id for n in ast.walk(found.forward) if isinstance(n, ast.Name)}
    if NAME in taken:
        raise Ambiguous(f"{source.name}:{found.forward.lineno}: forward has a variable called {NAME} already")
    check_imported(source, "nn")
    loop = found.loop
    if not loop.lineno == loop.target.lineno == loop.iter.end_lineno or not source.lines[
        loop.lineno - 1
    ].lstrip().startswith("for"):
        raise Ambiguous(f"{source.name}:{loop.lineno}: the loop's first line is more than one")


def _numbered(source: Source, found: Masked) -> tuple[str, list[Edit]]:
    """The variable with the layer's number, and the loop's header where it had none."""
    loop = found.loop
    if isinstance(loop.target, ast.Tuple):
        return ast.unparse(loop.target.elts[0]), []
    taken = {n.id for n in ast.walk(found.forward) if isinstance(n, ast.Name)}
    number = next(name for name in ("i", "index", "number", "layer_number") if name not in taken)
    line = source.lines[loop.lineno - 1].encode()
    pair, layers = f"{number}, {found.layer}", f"enumerate({ast.unparse(loop.iter)})"
    between = line[loop.target.end_col_offset : loop.iter.col_offset].decode()
    text = line[: loop.target.col_offset].decode() + pair + between + layers + line[loop.iter.end_col_offset :].decode()
    return number, [Edit(loop.lineno, loop.lineno, text)]
