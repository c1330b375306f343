"""A convolution that sees no frame to come."""

from torch import nn
from torch.nn import functional


class CausalConv2D(nn.Conv2d):
    """A square convolution over (B, C, T, F) padded in front by what its kernel reaches back, and behind by its stride."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=None, groups=1):
        if padding is not None:
            raise ValueError("a causal convolution pads by itself: padding is to be None")
        super().__init__(in_channels, out_channels, kernel_size, stride, groups=groups)
        self._left_padding, self._right_padding = kernel_size - 1, stride - 1

    def forward(self, x):
        sides = (self._left_padding, self._right_padding)
        return super().forward(functional.pad(x, sides * 2))
