"""A model that makes a wavelet prompt generator: what the tests of its settings share."""

from __future__ import annotations

from cases import replaced

MODEL = """\
from layers.DWTPromptGenerator import DWTPromptGenerator


class Model:
    def __init__(self, configs):
        self.seq_len = configs.seq_len
        self.generator = None
        if configs.use_dwt_prompt:
            self.generator = DWTPromptGenerator(
                wavelet=configs.wavelet,  # by its name
                level=configs.level,
                compression_level='balanced'
            )

    def forecast(self, x):
        return self.generator.build_prompt_text(self.generator(x), {})
"""


def model(*changes: tuple[str, str]) -> str:
    """The model with these changes."""
    return replaced(MODEL, *changes)
