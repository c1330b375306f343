"""``timellm_token_prefix_cache``: only where GPT-2's tokenizer is called for tokens alone, padded and cut to a length."""

from __future__ import annotations

import pytest
from cases import above, constant, lands, refuses, replaced, skips, with_class, with_tabs

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY

NAME = "timellm_token_prefix_cache"
HELPER = constant(NAME, "HELPER_TEXT")
TOP, CLASS, HEADER = (
    "import torch\nfrom transformers import GPT2Tokenizer",
    "class Model(torch.nn.Module):\n",
    "def forecast(self, x):",
)
CALL = 'self.tokenizer(prompt, return_tensors="pt", padding=True, truncation=True, max_length=2048).input_ids'
NEW = "_input_ids(self.tokenizer, prompt, 2048)"
BODY = f"""
prompt = [f"from {{low}}" for low in x]
prompt = {CALL}  # tokens
return self.llm_model.get_input_embeddings()(prompt.to(x.device))
"""


def module(body: str = BODY, top: str = TOP) -> str:
    """A model with this method."""
    return with_class(top, CLASS, {HEADER: body})


def changed(body: str = BODY.replace(CALL, NEW), top: str = TOP) -> str:
    """The same with the change in it."""
    return above(module(body, top), CLASS, HELPER)


@pytest.mark.parametrize(
    ("call", "new"),
    [
        (CALL, NEW),
        (CALL.replace(".input_ids", "['input_ids']"), NEW),
        (f"({CALL}).to(x.device)", f"({NEW}).to(x.device)"),
        (CALL.replace("self.tokenizer", "tokenizer"), NEW.replace("self.tokenizer", "tokenizer")),
        (CALL.replace("2048", "self.longest"), NEW.replace("2048", "self.longest")),
        (CALL.replace("(prompt", "(self.prompts(x)"), NEW.replace(" prompt", " self.prompts(x)")),
        (CALL.replace('"pt", padding=True', "'pt', padding=True"), NEW),
        (CALL.replace(", ", ",\n    ").replace(").input", ",\n).input"), NEW),
        (CALL.replace('return_tensors="pt", padding=True', 'padding=True, return_tensors="pt"'), NEW),
    ],
)
def test_lands(call: str, new: str) -> None:
    lands(NAME, module(replaced(BODY, (CALL, call))), changed(replaced(BODY, (CALL, new))))


@pytest.mark.parametrize("name", ["GPT2TokenizerFast", "GPT2Tokenizer as Words"])
def test_other_imports(name: str) -> None:
    top = f"import torch\nfrom transformers import {name}"
    lands(NAME, module(top=top), changed(top=top))
    top = "import torch\nimport transformers\n\nWORDS = transformers.GPT2Tokenizer"
    lands(NAME, module(top=top), changed(top=top))


def test_two_calls() -> None:
    body = BODY + f"more = {CALL}\n"
    lands(NAME, module(body), changed(body.replace(CALL, NEW)))


def test_line_endings_and_tabs() -> None:
    lands(NAME, with_tabs(module()), with_tabs(changed()))


@pytest.mark.parametrize(
    "call",
    [
        CALL.replace(".input_ids", ""),
        CALL.replace(".input_ids", ".attention_mask"),
        CALL.replace(".input_ids", "['attention_mask']"),
        CALL.replace("padding=True", "padding='max_length'"),
        CALL.replace("padding=True", "padding='longest_first'"),
        CALL.replace("truncation=True", "truncation='longest'"),
        CALL.replace("padding=True, ", ""),
        CALL.replace("truncation=True", "truncation=False"),
        CALL.replace("truncation=True", "truncation='only_first'"),
        CALL.replace(", max_length=2048", ""),
        CALL.replace('return_tensors="pt", ', ""),
        CALL.replace('"pt"', '"np"'),
        CALL.replace("2048)", "2048, add_special_tokens=False)"),
        CALL.replace("2048)", "2048, **self.more)"),
        CALL.replace("(prompt,", "(prompt, prompt,"),
        CALL.replace("(prompt,", "(*prompt,"),
        CALL.replace("(prompt,", "(text=prompt,"),
        CALL.replace("self.tokenizer(", "self.tokenizers[0]("),
        CALL.replace("self.tokenizer(", "self.tokenizer.pad("),
        CALL.replace("self.tokenizer(", "self.processor("),
    ],
)
def test_another_call(call: str) -> None:
    refuses(NAME, module(replaced(BODY, (CALL, call))), NoSite, "is not called for input_ids alone")


def test_the_mask_is_read_too() -> None:
    body = replaced(
        BODY, (f"prompt = {CALL}", f"words = {CALL[:-10]}\nmask = words.attention_mask\nprompt = words.input_ids")
    )
    refuses(NAME, module(body), NoSite, "is not called for input_ids alone")


def test_other_words_for_the_same() -> None:
    """Which tokenizer is made by AutoTokenizer, is seen when it is called."""
    call = CALL.replace("padding=True, truncation=True", "padding='longest', truncation='longest_first'")
    top = "import torch\nfrom transformers import AutoTokenizer"
    before = module(replaced(BODY, (CALL, call)), top=top)
    lands(NAME, before, above(replaced(before, (call, NEW)), CLASS, HELPER))


@pytest.mark.parametrize("name", ["LlamaTokenizer", "BertTokenizer"])
def test_another_tokenizer(name: str) -> None:
    top = f"import torch\nfrom transformers import {name}  # not GPT2Tokenizer"
    refuses(NAME, module(top=top), NoSite, "GPT2Tokenizer")


@pytest.mark.parametrize("top", ["import numpy as torch", "import torch as t", "from torch import nn"])
def test_torch_is_something_else(top: str) -> None:
    refuses(NAME, module(top=f"{top}\nfrom transformers import GPT2Tokenizer"), Ambiguous, "torch is not imported")


@pytest.mark.parametrize("name", ["_input_ids", "_ids_behind_start", "_end_of_start", "_splits_at_spaces"])
def test_a_name_that_is_taken(name: str) -> None:
    refuses(NAME, module(top=f"{TOP}\n\n{name} = 1"), Conflict, name)


@pytest.mark.parametrize("text", [HELPER.strip("\n"), NEW, *HELPER.strip("\n").split("\n\n\n")])
def test_half_of_it(text: str) -> None:
    refuses(NAME, replaced(changed(), (text, "None")), PartlyApplied)


def test_twice_defined() -> None:
    refuses(NAME, changed() + HELPER, PartlyApplied, "defined 2 times")


def test_already_there() -> None:
    skips(NAME, changed(), ALREADY)


def test_nothing_of_the_kind() -> None:
    refuses(NAME, "import torch\n", NoSite)
    refuses(NAME, "import torch\n\n\nTEXT = 'self.tokenizer(prompt).input_ids'  # GPT2Tokenizer\n", NoSite)
