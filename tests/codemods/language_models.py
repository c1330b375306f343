"""Tiny language models of transformers, and programs that run them: what the tests of their settings share."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

KINDS = ("GPT2", "Llama", "Bert")
SIZES = {
    "vocab_size": 31,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
}
REPLACED = (
    "modeling_gpt2.create_causal_mask = lambda *given, **more: None",
    "setattr(modeling_gpt2.GPT2Attention, 'forward', other)",
    "GPT2Model.forward = other",
    "modeling_gpt2.ALL_ATTENTION_FUNCTIONS['sdpa'] = other",
    "from transformers import AttentionInterface\nAttentionInterface.register('sdpa', other)",
    "mock.patch.object(modeling_gpt2.GPT2Model, 'forward', other)",
)
"""Lines that change what transformers computes, for the whole process."""
NOT_REPLACED = (
    "import transformers\ntorch.backends.cudnn.benchmark = True",
    "from .transformers import Encoder\nEncoder.depth = 3",
    "from layers.transformers import Encoder\nEncoder.depth = 3",
    "import transformers\nprint(transformers.setattr())",
)
"""Lines that look like that."""


def saved(kind: str, folder: Path, text: str) -> str:
    """The program ``text`` of a GPT-2 called ``gpt2``, for a model of ``kind`` with random weights that is saved in ``folder``."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**SIZES)).save_pretrained(folder)
    return text.replace("GPT2", kind).replace("'gpt2'", repr(str(folder)))


def run_as_module(text: str) -> Any:
    """The module that ``text`` is."""
    made = types.ModuleType("made")
    exec(text, vars(made))
    return made
