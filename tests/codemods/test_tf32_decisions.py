"""``tokenizer_tf32``: what the author has decided about TF32, and what only reads like a decision."""

from __future__ import annotations

import pytest
from cases import block, lands, line_of, refuses, skips
from test_tokenizer_tf32 import ENCODE, NAME, marked, module, with_helper

from apply_opt.errors import Conflict
from apply_opt.model.plan import NOT_NEEDED

ON = "torch.backends.cuda.matmul.allow_tf32 = True"
INIT = "def __init__(self):\n"


def top(lines: str) -> str:
    return "import os, torch\n" + block(lines)


@pytest.mark.parametrize(
    "lines",
    [
        'TF32 = os.environ.get("NVIDIA_TF32_OVERRIDE")',
        'print("TF32:", os.environ.get("NVIDIA_TF32_OVERRIDE", "0"))',
        'TF32 = os.environ["NVIDIA_TF32_OVERRIDE"]',
        'REPORT = ["CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE"]',
        'os.environ.pop("NVIDIA_TF32_OVERRIDE", None)',
        'NAMES = {"NVIDIA_TF32_OVERRIDE": "0"}',
        'child = os.environ.copy()\nchild["NVIDIA_TF32_OVERRIDE"] = "0"',
        'child = dict(os.environ)\nchild.update(NVIDIA_TF32_OVERRIDE="0")',
        f"ENABLE = False\nif ENABLE:\n    {ON}",
        f"SAFE = True\nif not SAFE:\n    {ON}\nelse:\n    pass",
        f"if True:\n    pass\nelse:\n    {ON}",
    ],
)
def test_says_nothing(lines: str) -> None:
    before = module(imports=top(lines))
    lands(NAME, before, with_helper(marked(before)))


@pytest.mark.parametrize(
    "lines",
    [
        "USE_TF32 = False\ntorch.backends.cuda.matmul.allow_tf32 = USE_TF32",
        "FULL = True\ntorch.backends.cuda.matmul.allow_tf32 = not FULL",
        'P = "highest"\ntorch.set_float32_matmul_precision(P)',
        'os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")',
        'os.putenv("NVIDIA_TF32_OVERRIDE", "0")',
        'os.environ.update({"NVIDIA_TF32_OVERRIDE": "0"})',
        'os.environ.update(NVIDIA_TF32_OVERRIDE="0")',
        'OFF = "0"\nos.environ["NVIDIA_TF32_OVERRIDE"] = OFF',
        'KEY = "NVIDIA_TF32_OVERRIDE"\nos.environ[KEY] = "0"',
        'from os import environ, putenv\nenviron["NVIDIA_TF32_OVERRIDE"] = "0"',
        'from os import putenv\nputenv("NVIDIA_TF32_OVERRIDE", "0")',
    ],
)
def test_off(lines: str) -> None:
    text = module(imports=top(lines))
    refuses(NAME, text, Conflict, "turns TF32 off on purpose", line_of(text, lines.splitlines()[-1]))


@pytest.mark.parametrize(
    "lines",
    [
        "USE_TF32 = True\ntorch.backends.cuda.matmul.allow_tf32 = USE_TF32",
        'USE_TF32 = os.environ.get("TF32") == "1"\ntorch.backends.cuda.matmul.allow_tf32 = USE_TF32',
        'P = "high"\ntorch.set_float32_matmul_precision(P)',
        'os.environ.update({"NVIDIA_TF32_OVERRIDE": "1"})',
        "def allow():\n    " + ON + "\nallow()",
        "def allow():\n    " + ON + "\ndef start():\n    allow()\nstart()",
        f'if os.environ.get("TF32"):\n    {ON}',
    ],
)
def test_on(lines: str) -> None:
    text = module(imports=top(lines))
    skips(NAME, text, NOT_NEEDED, "already has")


@pytest.mark.parametrize(
    "encode",
    [
        INIT + "    " + ON,
        INIT + "    self.allow()\ndef allow(self):\n    " + ON,
        INIT + f"    {ON}\n    torch.backends.cudnn.allow_tf32 = False",
    ],
)
def test_on_in_init(encode: str) -> None:
    text = module(encode + "\n" + ENCODE)
    skips(NAME, text, NOT_NEEDED, line_of(text, ON))


def test_on_by_a_decorator_or_a_context_of_one_s_own() -> None:
    manager = f"""
    def tf32():
        before = torch.backends.cuda.matmul.allow_tf32
        {ON}
        yield
        torch.backends.cuda.matmul.allow_tf32 = before
    """
    inside = ENCODE.replace("    result, _", "    with tf32():\n        result, _")
    skips(NAME, module(inside, imports=top("@contextmanager\n" + block(manager))), NOT_NEEDED, ON)
    wrapper = block(
        f"def tf32(encode):\n    def call(*args):\n        {ON}\n        return encode(*args)\n    return call"
    )
    skips(NAME, module("@tf32\n" + block(ENCODE), imports=top(wrapper)), NOT_NEEDED, ON)


OTHERS = f"""
class Vocoder:
    def __call__(self, x):
        before = torch.backends.cuda.matmul.allow_tf32
        {ON}
        try:
            return x
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
"""


@pytest.mark.parametrize(
    "tail",
    [
        OTHERS,
        f"def benchmark():\n    {ON}",
        f"def allow():\n    {ON}\ndef other():\n    allow()",
        f'def main():\n    {ON}\nif __name__ == "__main__":\n    main()',
        f'if __name__ == "__main__":\n    {ON}',
        f"def allow():\n    {ON}\n    allow()",
        f"def allow():\n    {ON}\nif False:\n    allow()",
    ],
)
def test_on_somewhere_else(tail: str) -> None:
    text = module(tail=tail)
    for scope in ("encoder", "process"):
        refuses(NAME, text, Conflict, line_of(text, ON), "not for certain when the encoder runs", scope=scope)


def test_on_while_the_model_is_loaded() -> None:
    body = f"    before = torch.backends.cuda.matmul.allow_tf32\n    {ON}\n    load()\n    "
    text = module(INIT + body + "torch.backends.cuda.matmul.allow_tf32 = before\n" + ENCODE)
    refuses(NAME, text, Conflict, line_of(text, ON), "not for certain when the encoder runs")


def test_on_at_import_and_off_in_init() -> None:
    text = module(INIT + "    torch.set_float32_matmul_precision('highest')\n" + ENCODE, imports=top(ON))
    refuses(NAME, text, Conflict, line_of(text, "highest"), "turns TF32 off on purpose")
