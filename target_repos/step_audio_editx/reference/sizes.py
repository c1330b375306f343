"""The sizes that models are built in; the full one is that of the published models."""

from typing import NamedTuple


class Transformer(NamedTuple):
    """Layers, their width, and their attention heads."""

    layers: int
    width: int
    heads: int


ENCODERS = {  # of the vq02 tokenizer: SANM layers
    "tiny": {"output_size": 64, "attention_heads": 4, "linear_units": 128, "num_blocks": 4},
    "small": {"output_size": 256, "attention_heads": 4, "linear_units": 1024, "num_blocks": 12},
    "full": {"output_size": 512, "attention_heads": 4, "linear_units": 2048, "num_blocks": 50},
}
TRANSFORMERS = {  # of the vq06 tokenizer
    "tiny": Transformer(1, 64, 2),
    "small": Transformer(2, 256, 4),
    "full": Transformer(6, 1280, 20),
}
