"""A small subsampling as NeMo has it, in pieces that a test can replace; and what it is to become."""

from __future__ import annotations

from cases import block

APPLY = """
def apply_channel_mask(tensor, mask):
    return tensor * mask.unsqueeze(1)
"""
LOOP = """
for layer in self:
    x = apply_channel_mask(x, mask)
    x = layer(x)
    if hasattr(layer, "stride") and layer.stride != (1, 1):
        lengths = (lengths - 1) // layer.stride[0] + 1
        mask = self._create_mask(x, lengths)
"""
NUMBERED = LOOP.replace("for layer in self", "for i, layer in enumerate(self)")
END = "x = apply_channel_mask(x, mask)"
USE = """
class ConvSubsampling(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.conv = MaskedConvSequential(*layers)
"""
TOP = "import torch\nfrom torch import nn"
MORE = """
def _create_mask(self, tensor, lengths):
    inside = torch.arange(tensor.shape[2])[None] < lengths[:, None]
    return inside[:, :, None].expand(-1, -1, tensor.shape[3]).to(tensor.dtype)
"""
CLASS = "class MaskedConvSequential(nn.Sequential):\n"


def module(
    loop: str = LOOP,
    end: str = END,
    apply: str = APPLY,
    use: str = USE,
    top: str = TOP,
    more: str = MORE,
    cls: str = CLASS,
) -> str:
    """A module with these lines in the loop through the layers, behind it, around it."""
    return "\n".join(
        [
            block(top),
            "",
            "",
            *([block(apply), "", ""] if apply else []),
            cls.rstrip("\n"),
            "    def forward(self, x, lengths):",
            "        x = x.unsqueeze(1)",
            "        mask = self._create_mask(x, lengths)",
            block(loop, 8),
            block(end, 8),
            "        return x, lengths",
            "",
            block(more, 4),
            "",
            "",
            block(use),
            "",
        ]
    )
