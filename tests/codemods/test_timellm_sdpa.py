"""``timellm_sdpa``: on top of ``timellm_outputs_off``, and never while something of the language model trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cases import above, constant, lands, plan, refuses, replaced, skips, with_class, with_tabs
from language_models import KINDS, NOT_REPLACED, REPLACED, run_as_module, saved
from support import ROOT

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, PLANNED

NAME, HELPER = "timellm_sdpa", constant("timellm_sdpa", "HELPER_TEXT")
TOP = "from transformers import GPT2Config, GPT2Model\nimport torch"
CLASS = "class Model(torch.nn.Module):\n"
EAGER = 'self.gpt2_config._attn_implementation = "eager"'
INIT = f"""
super().__init__()
self.gpt2_config = GPT2Config.from_pretrained('gpt2')
self.gpt2_config.output_attentions = False
{EAGER}
self.llm_model = GPT2Model.from_pretrained('gpt2', config=self.gpt2_config)
"""
RUN = "self.llm_model(inputs_embeds=told)"
OURS = "_with_fast_attention(self.llm_model)(inputs_embeds=told)"
BODY = f"""
told = self.llm_model.get_input_embeddings()(x)
return {RUN}.last_hidden_state
"""


def module(init: str = INIT, body: str = BODY, top: str = TOP) -> str:
    """A model with this method."""
    return with_class(top, CLASS, {"def __init__(self):": init, "def forecast(self, x):": body})


def changed(before: str, *changes: tuple[str, str]) -> str:
    """The same with the change in it."""
    return above(replaced(before, *changes or ((RUN, OURS),)), CLASS, HELPER)


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        replaced(BODY, ("return ", "made = "), (".last_hidden_state", "\nreturn made.last_hidden_state")),
        replaced(BODY, (".last_hidden_state", "[0]")),
    ],
)
def test_lands(body: str) -> None:
    lands(NAME, module(body=body), changed(module(body=body)))


def test_renamed_and_over_several_lines() -> None:
    body = replaced(BODY, (RUN, "self.llm_model(\n    inputs_embeds=told,  # (rows, tokens, width)\n)"))
    before = module(INIT, body).replace("llm_model", "gpt2")
    lands(NAME, before, changed(before, ("return self.gpt2(", "return _with_fast_attention(self.gpt2)(")))


def test_two_runs() -> None:
    body = replaced(BODY, ("return ", "first = self.llm_model(inputs_embeds=x)[0]\nreturn "))
    before = module(body=body)
    ours = ("self.llm_model(inputs_embeds=x)", "_with_fast_attention(self.llm_model)(inputs_embeds=x)")
    lands(NAME, before, changed(before, (RUN, OURS), ours))


def test_other_line_endings_and_tabs() -> None:
    lands(NAME, with_tabs(module()), with_tabs(changed(module())))


@pytest.mark.parametrize("init", [replaced(INIT, (EAGER, "")), replaced(INIT, (EAGER, EAGER.replace("eager", "sdpa")))])
def test_attention_is_not_plain(init: str) -> None:
    refuses(NAME, module(init), NoSite, "asks for plain attention")


@pytest.mark.parametrize(
    "last",
    [
        f"return {RUN}",
        f"return {RUN}.attentions",
        f"return {RUN}[-1]",
        "return self.llm_model(inputs_embeds=told, output_attentions=True)[0]",
    ],
)
def test_maps_may_be_read(last: str) -> None:
    refuses(NAME, module(body=replaced(BODY, (f"return {RUN}.last_hidden_state", last))), Ambiguous, "also maps")


@pytest.mark.parametrize(
    "line",
    [
        "self.llm_model.h[-1].attn.register_forward_hook(self.keep)",
        "for b in self.blocks():\n    b.register_forward_hook(f)",
    ],
)
def test_maps_are_looked_at(line: str) -> None:
    refuses(NAME, module(INIT + line + "\n"), Ambiguous, "maybe maps of attention")


def test_another_layer_is_looked_at() -> None:
    """One that is made there; an attribute may be a part of the model, too."""
    before = module(INIT + "self.head = torch.nn.Linear(3, 4)\nself.head.register_forward_hook(self.keep)\n")
    lands(NAME, before, changed(before))
    part = "self.attn = self.llm_model.h[0].attn\nself.attn.register_forward_hook(self.keep)\n"
    for lines in (part, "register_forward_hook(self.head, self.keep)\n", "self.other.register_forward_hook(f)\n"):
        refuses(NAME, module(INIT + lines), Ambiguous, "maybe maps of attention")


@pytest.mark.parametrize("line", REPLACED)
def test_transformers_is_changed(line: str) -> None:
    before = module(top=f"{TOP}\nfrom transformers.models.gpt2 import modeling_gpt2\n{line}")
    refuses(NAME, before, Ambiguous, "of transformers' is replaced")


@pytest.mark.parametrize("line", NOT_REPLACED)
def test_something_else_is_changed(line: str) -> None:
    before = module(top=f"{TOP}\n{line}")
    lands(NAME, before, changed(before))


@pytest.mark.parametrize("line", ["self.head = Head(self.llm_model)", "self.configs = [self.gpt2_config]"])
def test_somebody_else_has_it(line: str) -> None:
    refuses(NAME, module(INIT + line + "\n"), Ambiguous)


def test_not_run_here() -> None:
    refuses(NAME, module(body="return x"), Ambiguous, "is not run in this file")


def test_scripted_or_other_names() -> None:
    refuses(NAME, module() + "\n\nscripted = torch.jit.script(Model())\n", Conflict, "torch.jit.script")
    refuses(NAME, module(top=f"{TOP}\n_with_fast_attention = 1"), Conflict, "_with_fast_attention")
    refuses(NAME, module(top=TOP.replace("import torch", "import numpy as torch")), Ambiguous, "torch is not imported")


@pytest.mark.parametrize(
    ("old", "new"), [(OURS, RUN), ("def _with_fast_attention(", "def other("), (EAGER, EAGER.replace("eager", "sdpa"))]
)
def test_half_of_it(old: str, new: str) -> None:
    refuses(NAME, replaced(changed(module()), (old, new)), PartlyApplied)


def test_already_there_and_nothing_of_the_kind() -> None:
    skips(NAME, changed(module()), ALREADY)
    refuses(NAME, "import torch\n", NoSite)


# What it comes to


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> list[Any]:
    """A model before and after."""
    before = saved(request.param, tmp_path, module())
    return [run_as_module(text).Model() for text in (before, plan(NAME, before).after.decode())]


def run(model: Any) -> list[Any]:
    """What a pass gives: result, gradient, generator; and how attention was computed."""
    import torch

    torch.manual_seed(4)
    weight = model.llm_model.get_input_embeddings().weight
    made = model.forecast(torch.arange(26).view(2, 13))
    (gradient,) = torch.autograd.grad(made.square().sum(), weight)
    return [made.detach(), gradient, torch.get_rng_state(), model.llm_model.config._attn_implementation]


def test_in_evaluation(pair: list[Any]) -> None:
    import torch

    before, after = (run(model.eval()) for model in pair)
    assert [before[3], after[3]] == ["eager", "sdpa"]
    torch.testing.assert_close(before[0], after[0])
    torch.testing.assert_close(before[1], after[1], rtol=1e-3, atol=1e-3)
    assert torch.equal(before[2], after[2]), "no random numbers are drawn"
    assert pair[1].llm_model.config.output_attentions is False


def test_in_training_nothing_is_different(pair: list[Any]) -> None:
    """Also after an evaluation, and where a single layer of it trains."""
    import torch

    for model in pair:
        run(model.eval())
    assert pair[1].llm_model.config._attn_implementation == "sdpa"
    for model in pair:
        list(model.llm_model.modules())[-1].train()
    for step in range(2):
        before, after = (run(model) for model in pair)
        assert [before[3], after[3]] == ["eager", "eager"]
        assert all(torch.equal(a, b) for a, b in zip(before[:3], after[:3]))
        for model in pair:
            model.train(step == 0)


def test_maps_that_are_wanted(pair: list[Any]) -> None:
    """Somebody asks for them later."""
    after = pair[1].eval()
    after.llm_model.config.output_attentions = True
    run(after)
    assert after.llm_model.config._attn_implementation == "eager"


def test_what_cannot_be_switched(pair: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    after = pair[1].eval()
    space: dict[str, Any] = {"torch": __import__("torch")}
    exec(HELPER, space)
    other = space["torch"].nn.Linear(2, 2)
    assert space["_with_fast_attention"](other) is other
    after.llm_model.config._attn_implementation_internal = "flex_attention"
    assert space["_with_fast_attention"](after.llm_model).config._attn_implementation == "flex_attention"
    after.llm_model.config._attn_implementation_internal = "eager"
    monkeypatch.setattr(type(after.llm_model), "_can_set_attn_implementation", classmethod(lambda cls: False))
    assert run(after)[3] == "eager"


def test_a_model_without_such_attention() -> None:
    """As Mamba, with which a fork of Time-LLM works."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    space: dict[str, Any] = {"torch": torch}
    exec(HELPER, space)
    config = transformers.MambaConfig(vocab_size=31, hidden_size=16, num_hidden_layers=1, state_size=4)
    model = transformers.MambaModel(config).eval()
    model.config._attn_implementation = "eager"
    with pytest.raises(ValueError, match="does not support"):
        model.set_attn_implementation("sdpa")
    assert space["_with_fast_attention"](model) is model
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 0, 1)])
def test_beside_kept_keys(order: tuple[int, ...]) -> None:
    """In every order in which they can be put in: the model that keeps the keys of prompts is that with the fast attention."""
    names = ("timellm_outputs_off", NAME, "timellm_prompt_kv")
    text = (ROOT / "target_repos" / "time_llm" / "reference" / "models" / "TimeLLM.py").read_text(encoding="utf-8")
    for name in (names[i] for i in order):
        outcome = plan(name, text)
        assert outcome.kind == PLANNED, outcome.message
        text = outcome.after.decode()
    assert "= _states_of_patches(_with_fast_attention(self.llm_model), told, patches, tokens, self.patch_nums)" in text
    for name in names:
        assert plan(name, text).kind == ALREADY
