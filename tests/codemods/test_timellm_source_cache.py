"""``timellm_source_cache``: only a linear layer that is given all words, which nothing but a weight can change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cases import above, constant, lands, plan, refuses, replaced, skips, with_class, with_tabs

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, PLANNED, REFUSED

NAME = "timellm_source_cache"
HELPER, METHOD = constant(NAME, "HELPER_TEXT"), constant(NAME, "METHOD_TEXT")
CLASS = "class Model(nn.Module):\n"
TOP = "import torch\nimport torch.nn as nn"
INIT = """
super().__init__()
self.word_embeddings = self.llm_model.get_input_embeddings().weight
self.mapping_layer = nn.Linear(self.word_embeddings.shape[0], 1000)
"""
CALL = "self.mapping_layer(self.word_embeddings.permute(1, 0))"
BODY = f"""
told = self.llm_model.get_input_embeddings()(x)
words = {CALL}.permute(1, 0)
return self.reprogramming_layer(told, words, words)
"""
TURNED = BODY.replace("words = ", "@\nwords = ").replace(CALL, "self.mapping_layer(turned)")
OURS = CALL.replace("layer(", "layer, ").replace("self.mapping", "_kept_words(self.mapping")


def module(body: str = BODY, init: str = INIT, top: str = TOP, cls: str = CLASS, more: str = "") -> str:
    """A model with this method."""
    return with_class(top, cls, {"def __init__(self):": init, "def forecast(self, x):": body}, more)


def changed(before: str, *changes: tuple[str, str], cls: str = CLASS) -> str:
    """The same with the change in it."""
    method = "\n" + "\n".join("    " + line if line else "" for line in METHOD.strip("\n").split("\n")) + "\n"
    return above(replaced(before, *changes) + method, cls, HELPER)


FORKS = [
    (INIT, BODY, (CALL, OURS)),
    (INIT, replaced(BODY, (CALL, CALL.replace("permute(1, 0)", "T"))), (".T)", ".T)")),
    (INIT, BODY.replace("permute(1, 0))", "transpose(0, 1))"), ("", "")),
    (INIT, BODY.replace("self.word_embeddings.permute(1, 0)", "self.word_embeddings.detach().t()"), ("", "")),
    (INIT.replace("mapping_layer", "to_prototypes"), BODY.replace("mapping_layer", "to_prototypes"), ("", "")),
    (INIT.replace("word_embeddings", "vocabulary"), BODY.replace("word_embeddings", "vocabulary"), ("", "")),
    (replaced(INIT, ("nn.Linear(self.word_embeddings.shape[0], 1000)", "nn.Linear(50257, 1000, bias=False).to(device)")), BODY, ("", "")),
    (replaced(INIT, (".weight", ".weight.clone().detach()")), BODY, ("", "")),
    (replaced(INIT, ("self.llm_model.get_input_embeddings().weight", "nn.Parameter(torch.randn(9, 4))")), BODY, ("", "")),
]  # fmt: skip


@pytest.mark.parametrize(("init", "body"), [fork[:2] for fork in FORKS])
def test_lands(init: str, body: str) -> None:
    before = module(body, init)
    call = next(line for line in body.split("\n") if line.startswith("words = "))
    layer, rest = call.removeprefix("words = ").split("(", 1)
    lands(NAME, before, changed(before, (call, f"words = _kept_words({layer}, {rest}")))


def test_by_way_of_a_variable() -> None:
    body = replaced(BODY, (f"words = {CALL}", "turned = self.word_embeddings.T\nwords = self.mapping_layer(turned)"))
    before = module(body)
    lands(NAME, before, changed(before, ("self.mapping_layer(turned)", "_kept_words(self.mapping_layer, turned)")))


def test_several_lines() -> None:
    body = replaced(BODY, (CALL, "self.mapping_layer(\n    self.word_embeddings.permute(1, 0)  # turned\n)"))
    before = module(body)
    old = "self.mapping_layer(\n            self.word_embeddings.permute(1, 0)  # turned\n        )"
    lands(NAME, before, changed(before, (old, OURS)))


def test_two_layers() -> None:
    second = CALL.replace("mapping_layer", "mapping_layer_trend")
    body = replaced(BODY, ("return", f"trend = {second}.permute(1, 0)\nreturn"))
    before = module(body, INIT + "self.mapping_layer_trend = nn.Linear(50257, 9)\n")
    theirs = OURS.replace("mapping_layer", "mapping_layer_trend")
    lands(NAME, before, changed(before, (f"words = {CALL}", f"words = {OURS}"), (second, theirs)))


def test_in_a_method_of_its_own_and_other_imports() -> None:
    before = with_class(
        "import torch\nfrom torch.nn import Linear, Module",
        "class Model(Module):\n",
        {"def __init__(self):": INIT.replace("nn.", ""), "def mixtures(self):": f"return {CALL}.T", "def forward(self, x):": "pass"},
    )  # fmt: skip
    method = "\n".join("    " + line if line else "" for line in METHOD.strip("\n").split("\n"))
    after = replaced(before, (f"        return {CALL}.T\n", f"        return {OURS}.T\n\n{method}\n"))
    lands(NAME, before, above(after, "class Model(Module):\n", HELPER))


def test_other_line_endings_and_tabs() -> None:
    before, after = module(), changed(module(), (CALL, OURS))
    lands(NAME, with_tabs(before), with_tabs(after))


def test_weakref_is_there_already() -> None:
    before = module(top=f"{TOP}\nimport weakref")
    lands(NAME, before, changed(before, (CALL, OURS)))


@pytest.mark.parametrize(
    "body",
    [
        "return x",
        BODY.replace("self.word_embeddings.permute", "x.permute"),
        BODY.replace("self.word_embeddings.permute", "self.select(x).permute"),
        BODY.replace("self.word_embeddings.permute", "self.word_embeddings[x].permute"),
        BODY.replace("self.word_embeddings.permute", "(self.word_embeddings + x).permute"),
        BODY.replace("self.word_embeddings.permute(1, 0)", "self.word_embeddings.to(x.dtype).permute(1, 0)"),
        BODY.replace("self.word_embeddings.permute(1, 0)", "self.word_embeddings.permute(1, 0).contiguous()"),
        BODY.replace("self.word_embeddings.permute(1, 0)", "*self.word_embeddings"),
        BODY.replace("self.word_embeddings.permute(1, 0)", "input=self.word_embeddings.permute(1, 0)"),
        BODY.replace("permute(1, 0))", "permute(1, 0), x)"),
        BODY.replace("self.word_embeddings.permute", "self.words[x].permute"),
        BODY.replace(CALL, "nn.functional.linear(self.word_embeddings.T, self.mapping_layer.weight)"),
        BODY.replace("self.mapping_layer(", "self.mapping["),
        f"# words = {CALL}\nreturn '{CALL}'",
        TURNED.replace("@", "turned = x\nif self.training:\n    turned = self.word_embeddings.T"),
        TURNED.replace("@", "turned = self.word_embeddings.T\nturned = turned + x"),
        TURNED.replace("@", "for turned in self.word_embeddings:\n    pass"),
    ],
)  # fmt: skip
def test_not_all_words_through_a_layer(body: str) -> None:
    body = body.replace("self.mapping[self.word_embeddings.permute(1, 0))", "self.mapping[self.word_embeddings]")
    refuses(NAME, module(body), NoSite, "no linear layer of self is given all words")


@pytest.mark.parametrize(
    "init",
    [
        INIT.replace("nn.Linear(", "MyLinear("),
        INIT.replace("nn.Linear(", "nn.Sequential("),
        INIT.replace("nn.Linear(", "nn.utils.weight_norm(nn.Linear("). replace("1000)", "1000))"),
        INIT.replace("nn.Linear(self.word_embeddings.shape[0], 1000)", "configs.mapping"),
        INIT + "if self.noisy:\n    self.mapping_layer = Noisy(9, 1000)\n",
        INIT.replace("self.llm_model.get_input_embeddings().weight", "[self.llm_model.get_input_embeddings().weight]"),
        INIT.replace("self.llm_model.get_input_embeddings().weight", "{'gpt2': 1}"),
        INIT.replace("self.llm_model.get_input_embeddings().weight", "configs.words"),
        INIT.replace("self.word_embeddings = self.llm_model.get_input_embeddings().weight\n", ""),
    ],
)  # fmt: skip
def test_not_a_layer_or_not_words(init: str) -> None:
    refuses(NAME, module(init=init), NoSite, "no linear layer of self is given all words")


def test_words_by_a_property() -> None:
    init = INIT.replace("self.word_embeddings = self.llm_model.get_input_embeddings().weight\n", "")
    more = "@property\ndef word_embeddings(self):\n    return self.llm_model.get_input_embeddings().weight"
    refuses(NAME, module(init=init, more=more), NoSite)


@pytest.mark.parametrize(
    "line",
    [
        "self.word_embeddings = self.llm_model.get_input_embeddings().weight",
        "self.word_embeddings = nn.Parameter(self.choose(x))",
        "self.mapping_layer = nn.Linear(9, x.shape[1])",
    ],
)
def test_others_in_each_pass(line: str) -> None:
    refuses(NAME, module(replaced(BODY, ("told = ", f"{line}\ntold = "))), Ambiguous, "where it may change")


FROZEN = """
def train(self, mode=True):
@    super().train(mode)
    self.llm_model.eval()
    return self
"""


@pytest.mark.parametrize("doc", ["", '    """The language model stays as it is."""\n', "    # frozen\n"])
@pytest.mark.parametrize("layout", [str, with_tabs])
def test_a_train_of_its_own(doc: str, layout: Callable[[str], str]) -> None:
    """What is kept is dropped there, ahead of all else."""
    before = module(more=FROZEN.replace("@", doc))
    drop = "    _drop_kept_words(self)\n    "
    after = replaced(before, (CALL, OURS), ("        super().train", f"    {drop}    super().train"))
    lands(NAME, layout(before), layout(above(after, CLASS, HELPER)))


@pytest.mark.parametrize(
    "more",
    [
        "def train(self, mode=True): return self",
        "@staticmethod\ndef train(mode=True):\n    return None",
        "@wrapped\ndef train(self, mode=True):\n    return self",
        "def train(self):\n    return self\ndef train(self, mode=True):\n    return self",
    ],
)
def test_a_train_of_its_own_that_cannot_be_changed(more: str) -> None:
    outcome = plan(NAME, module(more=more))
    words = ("Model has a method train of its own", "train shares its line")
    assert outcome.kind == REFUSED and any(text in outcome.message for text in words), outcome.message


def test_a_train_from_elsewhere() -> None:
    before = module(cls="class Model(Frozen, nn.Module):\n", top="from own import Frozen\n" + TOP)
    refuses(NAME, before, Ambiguous, "Frozen may have a method train of its own")
    for behind in ("nn.Module, ABC", "nn.Module, Generic[T]"):
        other = module(cls=f"class Model({behind}):\n", top=f"{TOP}\nfrom abc import ABC")
        assert plan(NAME, other).kind == PLANNED
    child = "\n\nclass Frozen:\n    def train(self, mode=True):\n        return self\n\n\nclass Child(Frozen, Model):\n    pass\n"
    refuses(NAME, module() + child, Conflict, "Frozen has a method train of its own")
    refuses(NAME, module() + "\n\nModel.train = other\n", Conflict, "a method train is replaced there")
    here = before.replace("from own import Frozen", "class Frozen:\n    pass")
    assert plan(NAME, here).kind == PLANNED


@pytest.mark.parametrize("more", ["if True:\n    def train(self):\n        pass", "train = other"])
def test_train_is_taken(more: str) -> None:
    refuses(NAME, module(more=more), Conflict, "Model has a method train of its own")


def test_train_is_taken_in_the_family() -> None:
    child = "\n\nclass Child(Model):\n    def train(self, mode=True):\n        return self\n"
    refuses(NAME, module() + child, Conflict, "Child has a method train of its own")
    base = "class Base(nn.Module):\n    def train(self, mode=True):\n        return self\n\n\n"
    before = module(cls="class Model(Base):\n").replace("class Model", base + "class Model")
    refuses(NAME, before, Conflict, "Base has a method train of its own")


@pytest.mark.parametrize("cls", ["class Model:\n", "class Model(Base):\n"])
def test_not_a_module(cls: str) -> None:
    refuses(NAME, module(cls=cls), Ambiguous, "whether Model is a torch.nn.Module")


@pytest.mark.parametrize("cls", ["class Model(pl.LightningModule):\n", "class Model(torch.nn.Module):\n"])
def test_kinds_of_modules(cls: str) -> None:
    before = module(cls=cls, top=f"{TOP}\nimport lightning as pl")
    lands(NAME, before, changed(before, (CALL, OURS), cls=cls))


def test_two_classes() -> None:
    second = module(top="").replace("Model", "Other")
    refuses(NAME, module() + second, Ambiguous, "2 classes")


def test_scripted() -> None:
    refuses(NAME, module() + "\n\nscripted = torch.jit.script(Model())\n", Conflict, "torch.jit.script")


def test_a_method_on_one_line() -> None:
    before = replaced(module(f"return {CALL}"), ("(self, x):\n        return", "(self, x): return"))
    lands(NAME, before, changed(before, (CALL, OURS)))


@pytest.mark.parametrize("top", ["import numpy as torch\nimport torch.nn as nn", "from torch import nn"])
def test_torch_is_something_else(top: str) -> None:
    refuses(NAME, module(top=top), Ambiguous, "torch is not imported")


@pytest.mark.parametrize("name", ["_kept_words", "_state_of_words", "_KEPT_WORDS", "weakref", "StorageWeakRef"])
def test_a_name_that_is_taken(name: str) -> None:
    refuses(NAME, module(top=f"{TOP}\n{name} = 1"), Conflict, name)


@pytest.mark.parametrize(
    ("old", "new"),
    [(OURS, CALL), ("def _kept_words(", "def other("), ("def train(", "def other(")],
)
def test_half_of_it(old: str, new: str) -> None:
    refuses(NAME, replaced(changed(module(), (CALL, OURS)), (old, new)), PartlyApplied)


def test_already_there() -> None:
    skips(NAME, changed(module(), (CALL, OURS)), ALREADY)


def test_nothing_of_the_kind() -> None:
    refuses(NAME, "import torch\n", NoSite)
