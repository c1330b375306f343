"""``timellm_outputs_off``: only where nothing but the last hidden state is read, and attention is computed as before."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
from cases import lands, plan, refuses, replaced, skips, with_class, with_tabs
from language_models import KINDS, run_as_module, saved

from apply_opt.errors import Ambiguous, Conflict, NoSite
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED

NAME = "timellm_outputs_off"
TOP = "from transformers import GPT2Config, GPT2Model\nimport torch"
CLASS = "class Model(torch.nn.Module):\n"
INIT = """
super().__init__()
self.gpt2_config = GPT2Config.from_pretrained('gpt2')
self.gpt2_config.num_hidden_layers = layers
self.gpt2_config.output_attentions = True
self.gpt2_config.output_hidden_states = True
self.llm_model = GPT2Model.from_pretrained('gpt2', config=self.gpt2_config)
for parameter in self.llm_model.parameters():
    parameter.requires_grad = False
"""
BODY = """
told = self.llm_model.get_input_embeddings()(x)
return self.llm_model(inputs_embeds=told).last_hidden_state
"""
MAPS, STATES = "self.gpt2_config.output_attentions = True", "self.gpt2_config.output_hidden_states = True"
RUN = "self.llm_model(inputs_embeds=told).last_hidden_state"


def module(init: str = INIT, body: str = BODY, more: str = "") -> str:
    """A model with this method."""
    return with_class(TOP, CLASS, {"def __init__(self, layers):": init, "def forecast(self, x):": body}, more)


def eager(config: str = "self.gpt2_config", indent: int = 8) -> str:
    """The line that asks for plain attention."""
    return f'\n{" " * indent}{config}._attn_implementation = "eager"  # which the maps had brought along'


def changed(before: str, indent: int = 8) -> str:
    """The same with the change in it."""
    maps = MAPS.replace("True", "False") + eager(indent=indent)
    return replaced(before, (MAPS, maps), (STATES, STATES.replace("True", "False")))


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        replaced(BODY, (".last_hidden_state", "[0]")),
        replaced(BODY, (".last_hidden_state", "['last_hidden_state']")),
        replaced(BODY, (f"return {RUN}", "made = self.llm_model(inputs_embeds=told)\nreturn made.last_hidden_state[:, :3]")),
        replaced(BODY, (f"return {RUN}", "made = self.llm_model(inputs_embeds=told)\nmade = made.last_hidden_state\nreturn made[1]")),
        replaced(BODY, (f"return {RUN}", "made = self.llm_model(inputs_embeds=told)[0]\nhidden_states = made[1]\nreturn hidden_states")),
        BODY + "print(self.llm_model.config.n_embd, self.gpt2_config.n_layer)\nself.llm_model.eval()\n",
    ],
)  # fmt: skip
def test_lands(body: str) -> None:
    lands(NAME, module(body=body), changed(module(body=body)))


def test_several_configurations_and_fallbacks() -> None:
    again = "self.llm_model = GPT2Model.from_pretrained('gpt2', config=self.gpt2_config)"
    init = replaced(INIT, (again, f"try:\n    {again}\nexcept EnvironmentError:\n    {again}"))
    other = init.replace("gpt2_config", "bert_config").replace("GPT2", "Bert").replace("super().__init__()\n", "")
    before = module(init + other)
    after = changed(before)
    for line in (MAPS, STATES):
        line = line.replace("gpt2_config", "bert_config")
        end = eager("self.bert_config") if "attentions" in line else ""
        after = replaced(after, (line, line.replace("True", "False") + end))
    lands(NAME, before, after)


def test_in_a_branch_with_a_comment() -> None:
    init = replaced(INIT, (MAPS, f"if layers:\n    {MAPS}  # why not"))
    after = replaced(
        module(init), (f"{MAPS}  # why not", f"{MAPS.replace('True', 'False')}  # why not{eager(indent=12)}")
    )
    lands(NAME, module(init), replaced(after, (STATES, STATES.replace("True", "False"))))


def test_at_once() -> None:
    init = replaced(INIT, (f"{MAPS}\n", ""), (STATES, f"{MAPS.replace('True', '')}{STATES}"))
    before = module(init)
    lands(NAME, before, replaced(before, (STATES, STATES.replace("True", "False") + eager())))


def test_a_local_configuration() -> None:
    before = module(INIT.replace("self.gpt2_config", "config"))
    after = replaced(before, ("config.output_attentions = True", "config.output_attentions = False" + eager("config")))
    lands(NAME, before, replaced(after, ("hidden_states = True", "hidden_states = False")))


def test_states_alone() -> None:
    before = module(replaced(INIT, (MAPS, "")))
    after = replaced(before, (STATES, STATES.replace("True", "False")))
    outcome = plan(NAME, before)
    assert outcome.kind == PLANNED and outcome.after.decode() == after, "attention was chosen by transformers, and is"
    skips(NAME, after, NOT_NEEDED)


def test_other_line_endings_and_tabs() -> None:
    lands(NAME, with_tabs(module()), with_tabs(changed(module())))


@pytest.mark.parametrize(
    "last",
    [
        "return self.llm_model(inputs_embeds=told)",
        "return self.llm_model(inputs_embeds=told)[1]",
        "return self.llm_model(inputs_embeds=told)[-1]",
        "return self.llm_model(inputs_embeds=told)[False]",
        "return self.llm_model(inputs_embeds=told)[:1]",
        "return self.llm_model(inputs_embeds=told)['past_key_values']",
        "return self.llm_model(inputs_embeds=told).pooler_output",
        "return self.llm_model(inputs_embeds=told, output_attentions=True).last_hidden_state",
        "return self.llm_model(inputs_embeds=told, return_dict=False)[0]",
        "return self.llm_model(inputs_embeds=told, **self.options).last_hidden_state",
        "made = self.llm_model(inputs_embeds=told)\nself.kept = made\nreturn made.last_hidden_state",
        "made = self.llm_model(inputs_embeds=told)\nlast, *rest = made\nreturn last",
        "made, = [self.llm_model(inputs_embeds=told)]\nreturn made.last_hidden_state",
        "return [state for state in self.llm_model(inputs_embeds=told)][0]",
        "return self.head(self.llm_model(inputs_embeds=told))",
    ],
)
def test_more_is_read(last: str) -> None:
    refuses(NAME, module(body=replaced(BODY, (f"return {RUN}", last))), Conflict, "more than the last hidden state")


@pytest.mark.parametrize(
    "body",
    [
        replaced(BODY, (".last_hidden_state", ".hidden_states[-1]")),
        BODY + "return self.other(x).attentions\n",
        BODY + "return x['hidden_states']\n",
        BODY + "return x.to_tuple()\n",
        BODY + "return self.gpt2_config.output_attentions\n",
    ],
)
def test_read_elsewhere(body: str) -> None:
    text = module(body=body)
    outcome = plan(NAME, text)
    assert type(outcome.error) in (Conflict, Ambiguous), outcome.message


@pytest.mark.parametrize(
    "line",
    [
        "self.head = Head(self.llm_model)",
        "self.llm_model = get_peft_model(self.llm_model, lora)",
        "made = self.llm_model.generate(x)",
        "made = self.llm_model.forward(inputs_embeds=x)",
        "run = self.llm_model.forward",
        "self.llm_model = Custom(layers)",
        "self.models = [self.llm_model]",
        "other = GPT2Model(self.gpt2_config)",
        "self.configs = {'gpt2': self.gpt2_config}",
        "self.llm_model = GPT2LMHeadModel.from_pretrained('gpt2', config=self.gpt2_config).transformer",
    ],
)
def test_somebody_else_has_it(line: str) -> None:
    refuses(NAME, module(INIT + line + "\n"), Ambiguous)


def test_nobody_runs_it_here() -> None:
    refuses(NAME, module(body="return self.llm_model.get_input_embeddings()(x)"), Ambiguous, "is not run in this file")
    refuses(NAME, module(replaced(INIT, ("config=self.gpt2_config", ""))), Ambiguous, "no language model is made")


@pytest.mark.parametrize(
    "change",
    [
        ("'gpt2', config", "'gpt2', attn_implementation='sdpa', config"),
        ("'gpt2', config", "'gpt2', **{'attn_implementation': 'sdpa'}, config"),
        (STATES, f"{STATES}\nself.gpt2_config._attn_implementation = 'flash_attention_2'"),
        (STATES, f"{STATES}\nself.llm_model.set_attn_implementation('sdpa')"),
    ],
)
def test_attention_is_chosen(change: tuple[str, str]) -> None:
    outcome = plan(NAME, module(replaced(INIT, change)))
    assert type(outcome.error) in (Conflict, Ambiguous), outcome.message


@pytest.mark.parametrize(
    "change",
    [
        (MAPS, "self.gpt2_config.output_attentions = layers > 2"),
        (MAPS, "self.gpt2_config.output_attentions = 1"),
        (MAPS, "self.gpt2_config.output_attentions = self.maps = True"),
        (MAPS, f"{MAPS}; layers = 3"),
        (MAPS, MAPS.replace("True", "False")),
    ],
)
def test_not_certain(change: tuple[str, str]) -> None:
    refuses(NAME, module(replaced(INIT, change)), Ambiguous)


@pytest.mark.parametrize("text", ["import torch\n", "TEXT = 'self.config.output_attentions = True'  # so\n"])
def test_nothing_of_the_kind(text: str) -> None:
    refuses(NAME, text, NoSite)


def test_off_already() -> None:
    skips(NAME, changed(module()), ALREADY)
    skips(NAME, changed(module()).replace(eager(), ""), NOT_NEEDED)


# What it comes to


@pytest.fixture(params=KINDS)
def space(request: pytest.FixtureRequest, tmp_path: Path) -> types.SimpleNamespace:
    """A model before, after, and after by half: without the line that keeps the attention."""
    before = saved(request.param, tmp_path, module())
    texts = {"before": before, "after": plan(NAME, before).after.decode()}
    texts["naive"] = texts["after"].replace(eager(), "")
    return types.SimpleNamespace(**{name: run_as_module(text).Model(2) for name, text in texts.items()})


@pytest.mark.parametrize("training", [False, True])
def test_same_bits(space: types.SimpleNamespace, training: bool) -> None:
    import torch

    def run(model: Any) -> list[Any]:
        torch.manual_seed(4)
        model.train(training)
        weight = model.llm_model.get_input_embeddings().weight.requires_grad_()
        made = model.forecast(torch.arange(24).view(2, 12))
        (gradient,) = torch.autograd.grad(made.square().sum(), weight)
        return [made, gradient, torch.get_rng_state()]

    assert all(torch.equal(a, b) for a, b in zip(run(space.before), run(space.after), strict=True))
    assert [m.llm_model.config._attn_implementation for m in (space.before, space.after)] == ["eager"] * 2
    assert space.naive.llm_model.config._attn_implementation != "eager", "the line is needed"


def test_nothing_is_collected(space: types.SimpleNamespace) -> None:
    import torch

    given = torch.zeros(1, 5, 16)
    before, after = (model.llm_model(inputs_embeds=given) for model in (space.before, space.after))
    assert len(before.attentions) == 2 and len(before.hidden_states) == 3
    assert after.attentions is None and after.hidden_states is None
