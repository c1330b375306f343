"""Series on a common scale, and back (RevIN: T. Kim et al., "Reversible Instance Normalization", ICLR 2022)."""

import torch
from torch import nn


class Normalize(nn.Module):
    """Each series of (B, T, N) minus its mean, by its standard deviation; ``denorm`` is the way back for the same batch."""

    def __init__(self, num_features, eps=1e-5, affine=False):
        super().__init__()
        self.num_features, self.eps, self.affine = num_features, eps, affine

    def forward(self, x, mode):
        """``mode`` is ``norm`` or ``denorm``."""
        if mode == "denorm":
            return x * self.scale + self.middle
        self.middle = x.mean(1, keepdim=True).detach()
        self.scale = torch.sqrt(x.var(1, keepdim=True, unbiased=False) + self.eps).detach()
        return (x - self.middle) / self.scale
