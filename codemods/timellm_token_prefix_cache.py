"""Tokenize what all prompts of a batch start with once, and of each prompt only the rest.

GPT-2's tokenizer splits a text into words first, from left to right, and looks no further than one character ahead
(https://github.com/openai/gpt-2/blob/master/src/encoder.py). A space behind a letter, digit or sign always begins the next word: there
a text can be cut, and the tokens of both parts are those of the whole.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source, callee

from ._helpers import are_used, check_imported, insert_above
from ._lines import all_respelled, line_of
from ._scopes import argument, calls, has_star, named, position

HELPER, SITE = "_input_ids", "tokens"
OTHERS = ("_ids_behind_start", "_end_of_start", "_splits_at_spaces")
HELPER_TEXT = rf'''
def {HELPER}(tokenizer, prompts, max_length):
    """The tokens (R, T) of `prompts`, cut to `max_length` and padded; what all of them start with is tokenized once.

    Only by GPT-2's tokenizer as transformers has it, and where that is less work. Any other is called as ever.
    """
    at = _end_of_start(prompts) if _splits_at_spaces(tokenizer) else 0
    ids = _ids_behind_start(tokenizer, prompts, at, max_length) if at else None
    if ids is None:
        ids = tokenizer(prompts, return_tensors="pt", padding=True, truncation=True, max_length=max_length).input_ids
    return ids


def _ids_behind_start(tokenizer, prompts, at, max_length):
    """The tokens (R, T) of `prompts`, which are the same up to the letter `at`; nothing, where the parts do not fit together."""
    texts = [prompts[0], *(prompt[at:] for prompt in prompts)]
    first, *ends = tokenizer(texts, padding=False, truncation=False, verbose=False).input_ids
    start = first[: len(first) - len(ends[0])]
    if start + ends[0] != first or type(max_length) is not int or max_length < 1:
        return None
    if max(len(start) + len(end) for end in ends) > max_length and tokenizer.num_special_tokens_to_add():
        return None  # a token at the end stays there
    rows = [(start + end)[:max_length] for end in ends]
    length = max(map(len, rows))
    return torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows])


def _end_of_start(prompts):
    """Where the last word begins that all `prompts` have at the same place; 0 where there is none, or too little before it.

    A space behind a letter, digit or sign of ASCII begins a word, whatever comes before and after them.
    """
    if type(prompts) is not list or len(prompts) < 2 or any(type(prompt) is not str for prompt in prompts):
        return 0
    one, other = min(prompts), max(prompts)  # in order of their letters: all others start with what these share
    differ = (i for i, (letter, another) in enumerate(zip(one, other)) if letter != another)
    shared = next(differ, min(len(one), len(other)))
    at = next((i for i in range(shared - 1, 0, -1) if one[i] == " " and "!" <= one[i - 1] <= "~"), 0)
    return at if at * len(prompts) > len(prompts[0]) else 0


def _splits_at_spaces(tokenizer):
    """Whether `tokenizer` splits texts into words as GPT-2 does, and pads and cuts them on the right.

    A token that somebody has added is looked for before that: none may have a space in it, or take those beside it.
    """
    from transformers import GPT2Tokenizer, GPT2TokenizerFast

    if type(tokenizer) not in (GPT2Tokenizer, GPT2TokenizerFast) or tokenizer.pad_token_id is None:
        return False
    if tokenizer.padding_side != "right" or tokenizer.truncation_side != "right":
        return False
    added = getattr(tokenizer, "added_tokens_decoder", None)
    if not added or any(token.lstrip or token.rstrip for token in added.values()):
        return False
    if any("".join(token.content.split()) != token.content for token in added.values()):
        return False
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        words = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
        return tokenizer.pat.pattern == words
    if backend.normalizer is not None or type(backend.model).__name__ != "BPE" or backend.model.dropout:
        return False
    rules = backend.pre_tokenizer.__getstate__() if backend.pre_tokenizer is not None else b""
    return b'"type":"ByteLevel"' in rules and b'"use_regex":true' in rules and b'"Sequence"' not in rules
'''
OPTIONS = {"return_tensors": ("'pt'",), "padding": ("True", "'longest'"), "truncation": ("True", "'longest_first'")}
"""What the tokenizer has to be told, in each way to say it."""
TOKENIZERS = ("GPT2Tokenizer", "GPT2TokenizerFast", "AutoTokenizer")


class Tokenizing(NamedTuple):
    """A call of a tokenizer with several texts, and the expression that takes the tokens out of its result."""

    call: ast.Call
    ids: ast.expr
    max_length: ast.expr


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``tokens``: the tokenizer's call."""
    uses = calls(source, HELPER)
    if are_used(source, HELPER, OTHERS, uses):
        return [Site(SITE, uses[0].lineno, OURS)]
    return [Site(SITE, _all(source)[0].call.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the first class or function that tokenizes prompts, and called in the place of the tokenizer."""
    found = _all(source)
    changes: dict[ast.expr, str] = {}
    for tokenizing in found:
        words = [tokenizing.call.func, tokenizing.call.args[0], tokenizing.max_length]
        changes[tokenizing.ids] = f"{HELPER}({', '.join(line_of(source, word) for word in words)})"
    return [insert_above(source, found[0].call, HELPER_TEXT), *all_respelled(source, changes)]


def _all(source: Source) -> list[Tokenizing]:
    """Every call of which nothing but the tokens is read, padded and cut to a length, in order."""
    given = [n for n in source.nodes("input_ids") if isinstance(n, ast.Call)]
    found = sorted((t for call in given if (t := _tokenizing(source, call))), key=lambda t: position(t.call))
    has_tokenizer = any(
        isinstance(n, (ast.Name, ast.Attribute, ast.alias)) for t in TOKENIZERS for n in named(source, t)
    )
    if not found or not has_tokenizer:
        raise NoSite(
            f"{source.name}: GPT-2's tokenizer ({', '.join(TOKENIZERS)}) is not called for input_ids alone, with "
            'return_tensors="pt", padding=True, truncation=True and max_length'
        )
    check_imported(source, "torch")
    return found


def _tokenizing(source: Source, call: ast.Call) -> Optional[Tokenizing]:
    ids, max_length = source.ancestors(call)[0], argument(call, "max_length", 99)
    is_plain = (
        isinstance(call.func, (ast.Name, ast.Attribute)) and ast.unparse(call.func).replace(".", "").isidentifier()
    )
    options = {k.arg: ast.unparse(k.value) for k in call.keywords if k.arg != "max_length"}
    is_usual = options.keys() == OPTIONS.keys() and all(value in OPTIONS[str(name)] for name, value in options.items())
    if not is_plain or len(call.args) != 1 or has_star(call) or max_length is None or not is_usual:
        return None
    if "tokenizer" not in callee(call).lower():
        return None
    is_attribute = isinstance(ids, ast.Attribute) and ids.attr == "input_ids"
    is_item = isinstance(ids, ast.Subscript) and ids.value is call and ast.unparse(ids.slice) == "'input_ids'"
    is_read = (is_attribute or is_item) and isinstance(ids.ctx, ast.Load)  # type: ignore[attr-defined]
    return Tokenizing(call, ids, max_length) if is_read else None  # type: ignore[arg-type]
