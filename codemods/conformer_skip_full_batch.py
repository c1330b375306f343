"""Mask nothing where every utterance fills the batch.

A product with ones changes nothing, and reads and writes the largest tensors that the encoder has. Whether the mask hides any
frame is asked of the mask, which has no channels. The answer has to be on the host: on a GPU it would have to be waited for,
and where code is captured for other lengths it must not be built in. There the masks stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._helpers import check_imported, insert_above, is_used
from ._masked_conv import FULL_HELPER, mask_of, masked_convolutions, only_where
from ._scopes import calls

HELPER_TEXT = f'''
def {FULL_HELPER}(mask, tensor):
    """Whether `mask` has zeros. Only asked on the CPU: elsewhere it would be waited for, and captured code is for all lengths."""
    if mask.device.type != "cpu" or mask.dtype != tensor.dtype:
        return True
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return True
    return not bool(mask.all())
'''


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites ``layers`` and ``end``: what masks the frames before a layer, and behind the last."""
    uses = calls(source, FULL_HELPER)
    if is_used(source, FULL_HELPER, uses, 2):
        return [Site(name, use.lineno, OURS) for name, use in zip(("layers", "end"), uses)]
    check_imported(source, "torch")
    found = masked_convolutions(source)
    for masking in (found.before, found.at_end):
        mask_of(source, found.cls, masking)
    return [Site("layers", found.before.node.lineno, TODO), Site("end", found.at_end.node.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the class; both masks only where it says that they hide something."""
    found = masked_convolutions(source)
    edits = [insert_above(source, found.cls, HELPER_TEXT)]
    for masking in (found.before, found.at_end):
        condition = f"{FULL_HELPER}({mask_of(source, found.cls, masking)}, {masking.frames.id})"
        edits.append(only_where(source, masking, condition))
    return edits
