"""Train and evaluate on the device that there is, not on CUDA alone.

ACT's training script brings policy and batches to the GPU with ``.cuda()``, which raises where there is none. ``.to`` of CUDA's current
device is the same: https://docs.pytorch.org/docs/stable/generated/torch.Tensor.cuda.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apply_opt.model.codemod import Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._to_device import edits, find_sites


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``device``: the first ``.cuda()``."""
    return find_sites(source)


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helpers, and all ``.cuda()`` and ``torch.load`` in other words."""
    return edits(source)
