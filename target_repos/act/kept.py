"""What a run keeps of the batches that it went through, to be compared."""

LARGE = 2**20


def kept(part):
    """A tensor (…, H, W), or of a large one every fifth row and seventh column: holding epochs of them costs more than loading them."""
    return part[..., ::5, ::7].clone() if part.numel() > LARGE else part
