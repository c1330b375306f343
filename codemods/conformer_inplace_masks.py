"""Mask in place what a convolution has just made: no second tensor of that size is written.

To multiply in place is only safe where nobody else has the tensor. A convolution keeps its input for autograd, not its
result; an activation keeps its result, and the frames that come in are the caller's. So the frames behind a convolution are
masked in place, all others as before. The published advice, ``tensor.mul_(mask.unsqueeze(1))`` everywhere, breaks training
("a variable needed for gradient computation has been modified") and overwrites the caller's features.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from apply_opt.errors import Conflict, PartlyApplied
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._helpers import has_helper, insert_above
from ._masked_conv import IN_PLACE_HELPER, in_place_where, is_in_place, mask_of, masked_convolutions

HELPER_TEXT = f'''
def {IN_PLACE_HELPER}(layers, i, tensor, mask):
    """Whether `tensor`, the frames before layer `i`, was made by a convolution just now, so that nobody else has it.

    Autograd keeps what a convolution gets, not what it gives. A mask of another type would make another type of the product.
    """
    if i == 0 or tensor.dtype != mask.dtype:
        return False
    layer = layers[i - 1]
    if type(layer).forward is not nn.Conv2d.forward or "forward" in vars(layer):
        return False
    if nn.modules.module._global_forward_hooks:
        return False
    return not (layer._forward_hooks or layer._backward_hooks or layer._backward_pre_hooks)
'''


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites ``layers`` and ``end``: what masks the frames before a layer, and behind the last."""
    found = masked_convolutions(source)
    places = {"layers": found.before, "end": found.at_end}
    for masking in places.values():
        mask_of(source, found.cls, masking)
    done = [masking.node for masking in places.values() if is_in_place(source, masking)]
    if len(done) == 1:
        raise PartlyApplied(
            f"{source.name}:{done[0].lineno} is partly applied: one of two masks is made in place",
            "take it out by hand, then apply again",
        )
    state = OURS if has_helper(source, IN_PLACE_HELPER, done[:1], found.loop.lineno) else TODO
    return [Site(name, masking.node.lineno, state) for name, masking in places.items()]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the class; both places ask whether the frames are nobody else's."""
    found = masked_convolutions(source)
    own = found.forward.args.args[0].arg
    if not isinstance(found.loop.target, ast.Tuple):
        raise Conflict(
            f"{source.name}:{found.loop.lineno}: conformer_fewer_masks, which numbers the layers, is not there"
        )
    edits = [insert_above(source, found.cls, HELPER_TEXT)]
    for masking, number in ((found.before, ast.unparse(found.loop.target.elts[0])), (found.at_end, f"len({own})")):
        asked = f"{IN_PLACE_HELPER}({own}, {number}, {masking.frames.id}, {mask_of(source, found.cls, masking)})"
        edits.append(in_place_where(source, found.cls, masking, asked))
    return edits
