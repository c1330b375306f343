"""Series to patches."""

from torch import nn


class PatchEmbedding(nn.Module):
    """(B, N, T) to (B * N, patches, width), and N: a patch is ``patch_len`` steps, ``stride`` on from the last one."""

    def __init__(self, d_model, patch_len, stride, dropout):
        super().__init__()
        self.patch_len, self.stride = patch_len, stride
        self.padding_patch_layer = nn.ReplicationPad1d((0, stride))
        self.value_embedding = nn.Linear(patch_len, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        """The patches of every series."""
        patches = self.padding_patch_layer(x).unfold(-1, self.patch_len, self.stride)
        embedded = self.value_embedding(patches.flatten(0, 1).to(self.value_embedding.weight.dtype))
        return self.dropout(embedded), x.shape[1]
