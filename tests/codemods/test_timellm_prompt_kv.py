"""``timellm_prompt_kv``: only where the language model gets a prompt and patches, and the last positions alone are read."""

from __future__ import annotations

import pytest
from cases import above, block, constant, lands, refuses, replaced, skips, with_class, with_tabs
from language_models import REPLACED

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY

NAME = "timellm_prompt_kv"
HELPER = constant(NAME, "HELPER_TEXT")
TOP, CLASS, HEADER = (
    "import torch\nfrom transformers import GPT2Model",
    "class Model(torch.nn.Module):\n",
    "def forecast(self, x):",
)
BODY = """
prompt = self.tokenizer(self.prompts(x), return_tensors="pt", padding=True).input_ids
told = self.llm_model.get_input_embeddings()(prompt.to(x.device))  # of tokens
patches, n = self.patch_embedding(x)
patches = self.reprogramming_layer(patches, self.words)
both = torch.cat([told, patches], dim=1)
states = self.llm_model(inputs_embeds=both).last_hidden_state
states = states[:, :, :self.d_ff]
states = torch.reshape(states, (-1, n, states.shape[-2], states.shape[-1]))
states = states.permute(0, 1, 3, 2).contiguous()
return self.head(states[:, :, :, -self.patch_nums:])
"""
JOIN, CALL = "both = torch.cat([told, patches], dim=1)\n", "self.llm_model(inputs_embeds=both).last_hidden_state"
EMBED, TOKENS = "told = self.llm_model.get_input_embeddings()(prompt.to(x.device))", "prompt = self.tokenizer("
NEW = "_states_of_patches(self.llm_model, told, patches, prompt, self.patch_nums)"
RESHAPE = "states = torch.reshape(states, (-1, n, states.shape[-2], states.shape[-1]))"
PERMUTE, LAST = (
    "states = states.permute(0, 1, 3, 2).contiguous()",
    "return self.head(states[:, :, :, -self.patch_nums:])",
)
CUT = "states = states[:, :, :self.d_ff]"


def module(body: str = BODY, top: str = TOP, header: str = HEADER) -> str:
    """A model with this method."""
    return with_class(top, CLASS, {header: body})


def changed(body: str = BODY, new: str = NEW, top: str = TOP) -> str:
    """The same with the change in it, where the language model is called as in ``BODY``."""
    return above(module(replaced(body, (JOIN, ""), (CALL, new)), top), CLASS, HELPER)


def new(old: str, by: str) -> str:
    """The call of the helper with something else in it."""
    return replaced(NEW, (old, by))


def body(*changes: tuple[str, str]) -> str:
    """``BODY`` with these changes."""
    return replaced(BODY, *changes)


FORKS = [
    (BODY, NEW),
    (body((RESHAPE, RESHAPE.replace("torch.reshape(states, ", "states.reshape("))), NEW),
    (body((RESHAPE, "states = states.view(-1, n, states.size(1), states.size(2))")), NEW),
    (body((RESHAPE, "states = states.unflatten(0, (-1, n))")), NEW),
    (body((RESHAPE, f"rows = states.shape[0]\n{RESHAPE}")), NEW),
    (body((RESHAPE, f"if self.one:\n    {RESHAPE.replace('n,', '1,')}\nelse:\n    {RESHAPE}")), NEW),
    (body((RESHAPE, f"print(states.dtype, x.shape)\n{RESHAPE}")), NEW),
    (body((PERMUTE, "states = states.transpose(2, 3)")), NEW),
    (body((PERMUTE, "states = torch.transpose(states, -1, -2).float()")), NEW),
    (body((CUT, "states = states.to(torch.bfloat16)[..., :self.d_ff]")), NEW),
    (body((CUT, ""), (RESHAPE, ""), (PERMUTE, ""), (LAST, "return self.head(states[:, -self.patch_nums:, :self.d_ff])")), NEW),
    (body((LAST, "states = states[..., -self.patch_nums:]\nreturn self.head(states).mean(-1)")), NEW),
    (body((LAST, "return self.head(states[:, :, :, -12:])")), new("self.patch_nums", "12")),
    (body((LAST, "return self.head(states[:, :, :, -patches.shape[1]:])")), new("self.patch_nums", "patches.shape[1]")),
    (body((JOIN, "# as ever\n" + JOIN + "print('joined')\n")), NEW),
    (body(("inputs_embeds=both", "inputs_embeds=both, return_dict=True")), ""),
    (body((EMBED, EMBED.replace("prompt.to(x.device)", "self.tokens(x)"))), new("prompt", "None")),
    (body((EMBED, f"{EMBED}.to(x.dtype)")), NEW),
    (body((EMBED, f"{EMBED}\ntold = told.to(x.dtype)")), NEW),
    (body((EMBED, f"{EMBED}\nsize = told.shape, prompt.shape")), NEW),
    (body((EMBED, f"{EMBED}\nprompt = None")), new("prompt", "None")),
    (body((EMBED, f"{EMBED}\nprompt[0] = 0")), new("prompt", "None")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "call"), FORKS)
def test_lands(text: str, call: str) -> None:
    if call:
        lands(NAME, module(text), changed(text, call))
    else:
        before = text.replace(", return_dict=True", "")
        lands(NAME, module(text), changed(before))


@pytest.mark.parametrize(
    "join",
    [
        "both = torch.cat((told, patches), dim=1)\n",
        "both = torch.cat(tensors=[told, patches], dim=-2)\n",
        "both = torch.concat([told, patches], 1)\n",
        "both = torch.cat(\n    [told, patches],\n    axis=1,\n)\n",
    ],
)
def test_other_ways_to_join(join: str) -> None:
    lands(NAME, module(body((JOIN, join))), changed())


def test_joined_in_the_call() -> None:
    text = body((JOIN, ""), ("embeds=both", "embeds=torch.cat([told, patches.to(told.dtype)], dim=1)"))
    after = body((JOIN, ""), (CALL, new("patches,", "patches.to(told.dtype),")))
    lands(NAME, module(text), above(module(after), CLASS, HELPER))


def test_switches_are_handed_on() -> None:
    text = body(("=both)", "=both, output_attentions=False, use_cache=False)"))
    after = new("self.patch_nums", "self.patch_nums, output_attentions=False, use_cache=False")
    text_after = replaced(
        text, (JOIN, ""), (CALL.replace("=both", "=both, output_attentions=False, use_cache=False"), after)
    )
    lands(NAME, module(text), above(module(text_after), CLASS, HELPER))


def test_the_result_has_a_name() -> None:
    text = body((CALL, f"{CALL.removesuffix('.last_hidden_state')}\nstates = states.last_hidden_state"))
    refuses(NAME, module(text), NoSite)
    text = body(
        (f"states = {CALL}", "result = self.llm_model(inputs_embeds=both)\nstates = (result.last_hidden_state)")
    )
    after = body((JOIN, ""), (f"states = {CALL}", f"result = {NEW}\nstates = (result)"))
    lands(NAME, module(text), above(module(after), CLASS, HELPER))


def test_two_methods() -> None:
    headers = (HEADER, "def impute(self, x):")
    before = with_class(TOP, CLASS, dict.fromkeys(headers, BODY))
    after = with_class(TOP, CLASS, dict.fromkeys(headers, body((JOIN, ""), (CALL, NEW))))
    lands(NAME, before, above(after, CLASS, HELPER))


def test_other_names_line_endings_and_tabs() -> None:
    before, after = (with_tabs(text.replace("llm_model", "llama")) for text in (module(), changed()))
    lands(NAME, before, after)


@pytest.mark.parametrize(
    "text",
    [
        "return self.llm_model(inputs_embeds=x).last_hidden_state",
        body((".last_hidden_state", ".logits")),
        body((".last_hidden_state", ".hidden_states[-1]")),
        body((f"states = {CALL}", f"result = {CALL[:-18]}\nself.maps = result.attentions\nstates = result.last_hidden_state")),
        body((JOIN, "both = told + patches\n")),
        body((JOIN, f"{JOIN}both = self.drop(both)\n")),
        body((JOIN, JOIN.replace("dim=1", "dim=2"))),
        body((JOIN, JOIN.replace(", dim=1", ""))),
        body((JOIN, "both = torch.stack([told, patches], dim=1)\n")),
        body((JOIN, "both = torch.cat(parts, dim=1)\n")),
        body(("inputs_embeds=both", "both")),
    ],
)  # fmt: skip
def test_no_prompts_and_patches(text: str) -> None:
    refuses(NAME, module(text), NoSite, "no language model that reads from left to right")


def test_no_model_that_is_known_to_be_causal() -> None:
    refuses(NAME, module(top="import torch\nfrom transformers import BertModel"), NoSite, "GPT2Model")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (body((JOIN, JOIN.replace("[told", "[self.soft, told"))), "more than prompts and patches"),
        (body((JOIN, JOIN.replace("patches]", "patches, self.end]"))), "more than prompts and patches"),
        (body((JOIN, JOIN.replace("told, patches", "*told, patches"))), "more than prompts and patches"),
        (body((JOIN, JOIN.replace("told, patches", "patches, told"))), "is not, or not only"),
        (body((EMBED, f"{EMBED}\ntold = torch.cat([self.soft, told], dim=1)")), "is not, or not only"),
        (body((EMBED, f"{EMBED} + self.soft")), "is not, or not only"),
        (body((EMBED, f"{EMBED}\ntold = self.adapter(told)")), "is not, or not only"),
        (body((EMBED, f"{EMBED}\nif self.soft:\n    told = self.soft(told)")), "is not, or not only"),
        (body((EMBED, EMBED.replace("self.llm_model.get_input_embeddings()", "self.soft"))), "is not, or not only"),
        (body((EMBED, f"{EMBED}\ntold += self.soft")), "is not, or not only"),
        (body((EMBED, f"{EMBED}\ntold[:, 0] = self.soft")), "may be changed here"),
        (body((EMBED, f"{EMBED}\ntold.add_(self.soft)")), "may be changed here"),
        (body((EMBED, f"{EMBED.replace('told', 'raw')}\ntold = raw.detach()\nraw.mul_(2)")), "may be changed here"),
        (body((EMBED, f"{EMBED}\nself.mix(told)")), "may be changed here"),
        (body((JOIN, f"{JOIN}if self.x:\n    both = self.drop(both)\n")), "cannot be told"),
        (body((JOIN, f"{JOIN}print(both.shape)\n")), "used in other places"),
        (body((JOIN, f"{JOIN}patches = patches * 2\n")), "a part of both is used here"),
        (body((JOIN, f"{JOIN}del told\n")), "a part of both is used here"),
        (body((JOIN, f"if self.x:\n    {JOIN}else:\n    {JOIN}")), "cannot be told"),
        (body((JOIN, f"with self.x:\n    {JOIN}")), "under another condition"),
        (body((JOIN, f"n = 1; {JOIN}")), "beside something else"),
        (body((JOIN, f"{JOIN.replace('patches]', 'self.f(patches)]')}self.g()\n")), "made there"),
        (body(("=both)", "=both, attention_mask=self.mask(x))")), "gets attention_mask"),
        (body(("=both)", "=both, position_ids=self.order)")), "gets position_ids"),
        (body(("=both)", "=both, **self.more)")), "gets more arguments"),
        (body(("=both)", "=both, output_attentions=self.maps)")), "gets output_attentions"),
        (body(("=both)", "=both, return_dict=False)")), "gets return_dict"),
        (body(("self.llm_model(inputs", "self.models[0](inputs")), "no plain name"),
        (body(("self.llm_model(inputs", "self.llm_model(None, inputs")), "no plain name"),
    ],
)  # fmt: skip
def test_something_else_goes_in(text: str, words: str) -> None:
    refuses(NAME, module(text), Ambiguous, words)


@pytest.mark.parametrize(
    "text",
    [
        body((LAST, "return self.head(states)")),
        body((LAST, "return states")),
        body((LAST, "return self.head(states.mean(-1))")),
        body((LAST, "return self.head(states[:, :, :, :self.patch_nums])")),
        body((LAST, "return self.head(states[:, :, :, -self.patch_nums:-1])")),
        body((LAST, "return self.head(states[:, :, :, -self.patch_nums::2])")),
        body((LAST, "return self.head(states[:, :, :, self.patch_nums:])")),
        body((LAST, "return self.head(states[:, :, :, -1])")),
        body((LAST, "return self.head(states[:, :, -self.patch_nums:])")),
        body((LAST, "return self.head(states[:, :, :, -self.f():])")),
        body((LAST, f"{LAST.replace('return ', 'made = ')}\nreturn made, states")),
        body((LAST, f"{LAST.replace('return ', 'made = ')}\nreturn made + states[:, :, :, -1:]")),
        body((LAST, f"self.kept = states\n{LAST}")),
        body((LAST, f"print(states.shape)\n{LAST}")),
        body((LAST, f"length = states.shape[-1]\n{LAST}")),
        body((LAST, f"states += 1\n{LAST}")),
        body((LAST, f"states.add_(1)\n{LAST}")),
        body((LAST, f"states = self.norm(states)\n{LAST}")),
        body((LAST, f"states = self.dropout(states)\n{LAST}")),
        body((LAST, f"later = lambda: states\n{LAST}")),
        body((LAST, f"self.patch_nums = n\n{LAST}")),
        body((LAST, f"n = n + 1\n{LAST.replace('self.patch_nums', 'n')}")),
        body((CUT, f"{CUT}\nstates = states - states.mean(1, keepdim=True)")),
        body((CUT, f"{CUT}\nstates = states.flip(1)")),
        body((CUT, "states = states[:, 1:, :self.d_ff]")),
        body((CUT, "states = states[::2, :, None]")),
        body((CUT, f"if self.x:\n    states = self.pool(states)\n{CUT}")),
        body((RESHAPE, "states = torch.reshape(states, (-1, n * states.shape[-2], states.shape[-1]))")),
        body((RESHAPE, "states = torch.reshape(states, (n, -1, self.d_ff, states.shape[-1]))")),
        body((RESHAPE, "states = torch.reshape(states, (-1, n, states.shape[-1], states.shape[-2]))")),
        body((RESHAPE, "states = torch.reshape(states, (states.shape[1], n, states.shape[-2], states.shape[-1]))")),
        body((RESHAPE, "states = torch.reshape(states, (-1, n, x.shape[-2], x.shape[-1]))")),
        body((RESHAPE, f"x = x.reshape(-1, states.shape[1])\n{RESHAPE}")),
        body((PERMUTE, "states = states.permute(self.order)")),
        body((PERMUTE, "states = states.permute(0, 1, 2, 2)")),
        body((RESHAPE, "states = states.flatten(1)")),
    ],
)  # fmt: skip
def test_more_than_the_last_positions_are_read(text: str) -> None:
    refuses(NAME, module(text), Ambiguous)


@pytest.mark.parametrize("line", REPLACED)
def test_transformers_is_changed(line: str) -> None:
    text = module(top=f"{TOP}\nfrom transformers.models.gpt2 import modeling_gpt2\n{line}")
    refuses(NAME, text, Ambiguous, "of transformers' is replaced")


@pytest.mark.parametrize("word", ["for part in x:", "while x:"])
def test_in_a_loop(word: str) -> None:
    refuses(NAME, module(f"{word}\n{block(BODY, 4)}"), Ambiguous, "in a loop")


@pytest.mark.parametrize("decorator", ["@torch.compile", "@torch.inference_mode()", "@anything"])
def test_decorated(decorator: str) -> None:
    refuses(NAME, module().replace("    def", f"    {decorator}\n    def"), Conflict, "decorated")


@pytest.mark.parametrize("top", ["import numpy as torch", "import torch as t", "from torch import cat, nn"])
def test_torch_is_something_else(top: str) -> None:
    text = body((JOIN, JOIN.replace("torch.cat", "cat"))) if "cat" in top else body()
    error = NoSite if "numpy" in top else Ambiguous
    refuses(NAME, module(text, top=f"{top}\nfrom transformers import GPT2Model"), error, "torch")


@pytest.mark.parametrize("name", ["_states_of_patches", "_keys_of_prompts", "_may_keep_keys", "_is_frozen_and_plain"])
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
    refuses(NAME, "import torch\n\n\nTEXT = 'self.llm_model(inputs_embeds=both)'  # GPT2Model\n", NoSite)
