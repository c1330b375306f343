"""The reference tokenizer with optimizations in it, imported into this process."""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import FILE, plan
from support import REFERENCE, copy

from apply_opt.model.plan import PLANNED

VQ02, BATCH, QUEUE = ALL = ("tokenizer_vq02_batched", "tokenizer_offline_batch", "tokenizer_batch_queue")


def tree_with(folder: Path, *names: str, **values: object) -> Path:
    """A copy of the reference tree, with the optimizations ``names`` put in one after the other."""
    tree = copy(REFERENCE, folder)
    data = (tree / FILE).read_bytes()
    for name in names:
        outcome = plan(name, data, **(values if name == names[-1] else {}))
        assert outcome.kind == PLANNED, outcome.message
        data = outcome.after
    (tree / FILE).write_bytes(data)
    return tree


@contextlib.contextmanager
def imported(tree: Path) -> Iterator[Any]:
    """The tree's tokenizer module. Its modules are gone afterwards, and its threads have to be."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tree))
        yield importlib.import_module("tokenizer")
    for name in set(sys.modules) - before:
        if str(tree) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def maker(module: Any, encoder_folder: Path) -> Callable[[], Any]:
    """``make()`` gives a new tokenizer."""

    def make() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ONNX Runtime warns that there is no GPU
            return module.StepAudioTokenizer(encoder_folder)

    return make


def alone(tokenizer: Any, audio: Any, rate: Any = 16000, **options: Any) -> Any:
    """What the method that was there before gives, or raises."""
    wav2token = getattr(type(tokenizer).wav2token, "__wrapped__", type(tokenizer).wav2token)
    try:
        return wav2token(tokenizer, audio, rate, **options)
    except Exception as error:
        return said(error)


def said(result: Any) -> Any:
    """An exception as its type and words, to be compared; other results as they are."""
    return f"{type(result).__name__}: {result}" if isinstance(result, Exception) else result
