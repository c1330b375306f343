"""The states of patches behind kept keys are those behind the prompts themselves; where that is not certain, nothing is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cases import constant

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
SPACE: dict[str, Any] = {"torch": torch}
exec(constant("timellm_prompt_kv", "HELPER_TEXT"), SPACE)
states_of_patches = SPACE["_states_of_patches"]
WIDTH, WORDS, PATCHES = 32, 300, 6
FAMILIES = ("GPT2", "Llama")
families = pytest.mark.parametrize("family", FAMILIES)


def built(family: str, dtype: Any = torch.float32, kind: str = "eager", **more: Any) -> Any:
    """A frozen language model with random weights, whose attention maps and hidden states are asked for where there are such."""
    torch.manual_seed(0)
    sizes = {"vocab_size": WORDS, "initializer_range": 0.2, "attn_implementation": kind, **more}
    if family == "GPT2":
        sizes |= {"n_embd": WIDTH, "n_layer": 3, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
    else:
        sizes |= {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = getattr(transformers, f"{family}Config")(**sizes)
    if kind == "eager":
        config.output_attentions = config.output_hidden_states = True
    model = getattr(transformers, f"{family}Model")(config).to(dtype).eval()
    for parameter in model.parameters():
        parameter.requires_grad = False
    return model


def prompts_of(name: str) -> Any:
    """Tokens (R, T) of prompts that start alike, or do not; the last are padded."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.randint(0, WORDS, (4, 17), generator=draw)
    if name in ("a common start", "padded"):
        rows[:, :9] = rows[0, :9]
    if name == "padded":
        rows[1, 12:] = rows[2, 10:] = rows[3, 9:] = 0
    return {"all the same": rows[:1].expand(4, -1), "one": rows[:1]}.get(name, rows)


KINDS_OF_PROMPTS = ("different", "a common start", "padded", "all the same", "one")


def parts(model: Any, tokens: Any, dtype: Any = None) -> tuple[Any, Any]:
    """Prompts and patches, of which the second have a gradient."""
    told = model.get_input_embeddings()(tokens)
    patches = torch.randn(len(tokens), PATCHES, WIDTH, generator=torch.Generator().manual_seed(2))
    return told, patches.to(dtype or told.dtype).requires_grad_()


@contextlib.contextmanager
def kept_keys() -> Iterator[list[int]]:
    """How many prompts' keys were kept, each time."""
    original, seen = SPACE["_keys_of_prompts"], []

    def noted(model: Any, prompts: Any, tokens: Any) -> Any:
        seen.append(len(prompts))
        return original(model, prompts, tokens)

    SPACE["_keys_of_prompts"] = noted
    try:
        yield seen
    finally:
        SPACE["_keys_of_prompts"] = original


def as_ever(model: Any, told: Any, patches: Any) -> Any:
    """The states as they are without the change."""
    return model(inputs_embeds=torch.cat([told, patches], dim=1)).last_hidden_state


def gradient(states: Any, patches: Any) -> Any:
    """Of something made of the last states."""
    last = states[:, -PATCHES:].float()
    (found,) = torch.autograd.grad(
        (last * torch.sin(torch.arange(last.numel()).view(last.shape))).sum(), patches, retain_graph=True
    )
    return found


@families
@pytest.mark.parametrize("kind", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", KINDS_OF_PROMPTS)
def test_the_same_states(family: str, kind: str, dtype: str, name: str) -> None:
    model, tokens = built(family, getattr(torch, dtype), kind), prompts_of(name)
    told, patches = parts(model, tokens)
    copies = [told.clone(), patches.detach().clone(), tokens.clone()]
    before, generator = as_ever(model, told, patches), torch.get_rng_state()
    for known in (tokens, None, tokens[:, 1:]):
        with kept_keys() as seen:
            after = states_of_patches(model, told, patches, known, PATCHES)
        assert seen == [len(tokens)]
        assert after.shape == (len(tokens), PATCHES, WIDTH)
        torch.testing.assert_close(after, before[:, -PATCHES:])
        torch.testing.assert_close(
            gradient(after, patches), gradient(before, patches), rtol=2e-2 if dtype == "bfloat16" else 1e-4, atol=1e-4
        )
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(a, b) for a, b in zip(copies, (told, patches, tokens)))


@families
def test_a_naive_version_is_found(family: str) -> None:
    """Patches that start again at position 0, or do not see the padding, are something else."""
    model, tokens = built(family), prompts_of("padded")
    told, patches = parts(model, tokens)
    before = as_ever(model, told, patches)[:, -PATCHES:]
    keys = SPACE["_keys_of_prompts"]
    start = torch.arange(PATCHES)[None]
    wrong = model(
        inputs_embeds=patches, past_key_values=keys(model, told, tokens), position_ids=start
    ).last_hidden_state
    assert (wrong - before).abs().max() > 0.01
    mask = torch.cat([tokens != 0, torch.ones(4, PATCHES, dtype=torch.bool)], dim=1).long()
    wrong = model(
        inputs_embeds=patches, past_key_values=keys(model, told, tokens), attention_mask=mask
    ).last_hidden_state
    assert (wrong - before).abs().max() > 0.01


@families
@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_types(family: str, kind: str) -> None:
    """The type of the result is that of both parts together, also under autocast."""
    model, tokens = built(family, kind=kind), prompts_of("a common start")
    told, patches = parts(model, tokens, torch.bfloat16)
    before, after = as_ever(model, told, patches), states_of_patches(model, told, patches, tokens, PATCHES)
    torch.testing.assert_close(after, before[:, -PATCHES:])
    with torch.autocast("cpu", torch.bfloat16):
        before, after = as_ever(model, told, patches), states_of_patches(model, told, patches, tokens, PATCHES)
    torch.testing.assert_close(after, before[:, -PATCHES:], rtol=2e-2, atol=2e-2)


@families
def test_fewer_positions_are_read_than_there_are_patches(family: str) -> None:
    model, tokens = built(family), prompts_of("different")
    told, patches = parts(model, tokens)
    after = states_of_patches(model, told, patches, tokens, 2)
    torch.testing.assert_close(after[:, -2:], as_ever(model, told, patches)[:, -2:])


# What it costs


def through(family: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """How many tokens go through the language model from now on, with gradients and without."""
    cls, seen = getattr(transformers, f"{family}Model"), {"with": [], "without": []}
    forward = cls.forward

    def noted(self: Any, *words: Any, **more: Any) -> Any:
        given = more["inputs_embeds"]
        seen["with" if torch.is_grad_enabled() and given.requires_grad else "without"].append(given.shape[:2].numel())
        return forward(self, *words, **more)

    monkeypatch.setattr(cls, "forward", noted)
    return seen


def last_block(model: Any) -> Any:
    return model.h[-1] if hasattr(model, "h") else model.layers[-1]


@families
@pytest.mark.parametrize("name", KINDS_OF_PROMPTS)
def test_the_last_layer_is_not_finished_for_prompts(family: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out of it there goes nowhere: it ends with the keys and values, but for what all prompts start with."""
    model, tokens = built(family), prompts_of(name)
    told, patches = parts(model, tokens)
    block, seen = last_block(model).mlp, []
    cls, forward = type(block), type(block).forward
    monkeypatch.setattr(
        cls, "forward", lambda s, x: (seen.append(x.shape[:2].numel()) if s is block else None, forward(s, x))[1]
    )
    rows = len(tokens)
    states_of_patches(model, told, patches, tokens, PATCHES)
    start = {"different": [rows], "one": [17], "all the same": [17]}.get(name, [9])
    assert seen == [*start, rows * PATCHES]


@families
def test_layers_in_another_order(family: str) -> None:
    """Where the last layer is not the one with the last number, all of them are run to their end."""
    model, tokens = built(family), prompts_of("padded")
    blocks = model.h if hasattr(model, "h") else model.layers
    blocks[0], blocks[2] = blocks[2], blocks[0]
    told, patches = parts(model, tokens)
    with kept_keys() as seen:
        after = states_of_patches(model, told, patches, tokens, PATCHES)
    assert seen == [4]
    torch.testing.assert_close(after, as_ever(model, told, patches)[:, -PATCHES:])


@families
def test_an_exception_in_a_layer_goes_on(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = built(family), prompts_of("padded")
    told, patches = parts(model, tokens)
    cls, calls = type(last_block(model)), []
    forward = cls.forward

    def broken(self: Any, *words: Any, **more: Any) -> Any:
        calls.append(self)
        if len(calls) > 3:  # the common start has been through all three
            raise OSError("broken")
        return forward(self, *words, **more)

    monkeypatch.setattr(cls, "forward", broken)
    with pytest.raises(OSError, match="broken"):
        states_of_patches(model, told, patches, tokens, PATCHES)


@families
def test_only_patches_have_gradients(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = built(family), prompts_of("a common start")
    told, patches = parts(model, tokens)
    seen = through(family, monkeypatch)
    states_of_patches(model, told, patches, tokens, PATCHES)
    assert seen == {"with": [4 * PATCHES], "without": [9, 4 * 8]}
    states_of_patches(model, told, patches, None, PATCHES)
    assert seen["without"][2:] == [4, 4 * 16]
    tokens = prompts_of("all the same")
    states_of_patches(model, *parts(model, tokens), tokens, PATCHES)
    assert seen["without"][4:] == [17]


@families
def test_less_is_kept_for_the_backward_pass(family: str) -> None:
    model, tokens = built(family), prompts_of("different")
    told, patches = parts(model, tokens)
    kept = []
    for run in (as_ever, lambda *given: states_of_patches(*given, tokens, PATCHES)):
        memories: dict[int, int] = {}
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

        def keep(tensor: Any, memories: dict[int, int] = memories, own: set[int] = own) -> Any:
            if tensor.untyped_storage().data_ptr() not in own:
                memories[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = run(model, told, patches)
        kept.append(sum(memories.values()))
        del result
    assert kept[1] < kept[0] / 2


class Waits(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
    """The tensors of which a number is brought to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.of: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "equal"):
            self.of.append(args[0].dtype)
        return function(*args, **(kwargs or {}))


@families
def test_the_host_waits_for_nothing(family: str) -> None:
    """The one number that is asked for is made of the tokens, which are on the host."""
    model, tokens = built(family), prompts_of("a common start")
    told, patches = parts(model, tokens)
    with Waits() as before:
        as_ever(model, told, patches)
    with Waits() as after:
        states_of_patches(model, told, patches, tokens, PATCHES)
    assert after.of == [*before.of, torch.int64]


def test_tokens_on_a_device_are_not_waited_for() -> None:
    model, tokens = built("GPT2"), prompts_of("a common start")
    told, patches = parts(model, tokens)
    with Waits() as seen:
        after = states_of_patches(model, told, patches, tokens.to("meta"), PATCHES)
    assert not seen.of
    torch.testing.assert_close(after, as_ever(model, told, patches)[:, -PATCHES:])


# Where nothing is kept


def no_change(model: Any) -> None:
    """Nothing."""


def train(model: Any) -> None:
    """Dropout is active."""
    model.train()


def train_a_part(model: Any) -> None:
    """One block's dropout is."""
    list(model.children())[-2].train()


def unfreeze(model: Any) -> None:
    """One bias or scale is trained."""
    list(model.parameters())[-1].requires_grad = True


def hook(model: Any) -> None:
    """Somebody looks at what a part makes."""
    list(model.modules())[-1].register_forward_hook(lambda *given: None)


def hook_ahead(model: Any) -> None:
    """Somebody looks at what the model gets."""
    model.register_forward_pre_hook(lambda *given: None)


def replace_forward(model: Any) -> None:
    """A part does something else."""
    part = list(model.modules())[-1]
    part.forward = lambda *given, own=part.forward, **more: own(*given, **more)


def subclass(model: Any) -> None:
    """Nobody knows what it does."""
    model.__class__ = type("Other", (type(model),), {})


def other_parameter(model: Any) -> None:
    """A weight that is something else."""
    part = next(p for p in model.modules() if hasattr(p, "weight") and p is not model.get_input_embeddings())
    part.weight = type("Packed", (torch.nn.Parameter,), {})(part.weight.data, requires_grad=False)


def setting(name: str, value: Any) -> Callable[[Any], None]:
    """With another configuration."""
    return lambda model: setattr(model.config, name, value)


def no_parameters(model: Any) -> None:
    """As in a replica: its weights are attributes."""
    for part in model.modules():
        part._parameters.clear()


NOT_RUN = ("a compiled part", "a replica")
CHANGES: dict[str, Callable[[Any], Any]] = {
    "dropout": train,
    "dropout in a part": train_a_part,
    "trained": unfreeze,
    "hook": hook,
    "hook ahead": hook_ahead,
    "another forward": replace_forward,
    "subclass": subclass,
    "packed": other_parameter,
    "a compiled part": lambda model: setattr(list(model.modules())[-2], "_compiled_call_impl", True),
    "a replica": no_parameters,
    "both ways": setting("is_causal", False),
    "part both ways": lambda model: [
        setattr(p, "is_causal", False) for p in model.modules() if hasattr(p, "is_causal")
    ],
    "positions": setting("max_position_embeddings", 17 + PATCHES - 1),
    "window": setting("sliding_window", 4),
    "dynamic": setting("rope_parameters", {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}),
    "an older word for it": setting("rope_parameters", {"type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}),
}


@families
@pytest.mark.parametrize("name", CHANGES)
def test_left_as_it_is(family: str, name: str) -> None:
    model, tokens = built(family, **({"attention_dropout": 0.1} if family == "Llama" else {})), prompts_of("padded")
    told, patches = parts(model, tokens)
    CHANGES[name](model)
    if name in NOT_RUN:
        assert not SPACE["_may_keep_keys"](model, told, patches, PATCHES)
        return
    with kept_keys() as seen:
        torch.manual_seed(3)
        after = states_of_patches(model, told, patches, tokens, PATCHES)
    assert not seen
    torch.manual_seed(3)
    assert torch.equal(after, as_ever(model, told, patches))


def test_as_it_was_it_would_be_kept() -> None:
    for family in FAMILIES:
        model = built(family, **({"attention_dropout": 0.1} if family == "Llama" else {}))
        assert SPACE["_may_keep_keys"](model, *parts(model, prompts_of("padded")), PATCHES)


def test_no_attention_of_ours() -> None:
    model = built("GPT2", kind="sdpa")
    told, patches = parts(model, prompts_of("one"))
    assert SPACE["_may_keep_keys"](model, told, patches, PATCHES)
    model.config._attn_implementation = "flex_attention"
    assert not SPACE["_may_keep_keys"](model, told, patches, PATCHES)


def test_gradients_to_the_prompts() -> None:
    model, tokens = built("GPT2"), prompts_of("one")
    told, patches = parts(model, tokens)
    told.requires_grad_()
    with kept_keys() as seen:
        states_of_patches(model, told, patches, tokens, PATCHES)
    assert not seen
    with kept_keys() as seen, torch.no_grad():
        states_of_patches(model, told, patches, tokens, PATCHES)
    assert seen


@families
def test_a_trained_part_is_no_matter_without_gradients(family: str) -> None:
    model, tokens = built(family), prompts_of("padded")
    unfreeze(model)
    told, patches = parts(model, tokens)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context, kept_keys() as seen:
            after = states_of_patches(model, told, patches, tokens, PATCHES)
            torch.testing.assert_close(after, as_ever(model, told, patches)[:, -PATCHES:])
        assert seen


def test_training_without_dropout() -> None:
    """LLaMA has none; with gradient checkpointing keys are not kept."""
    model, tokens = built("Llama").train(), prompts_of("padded")
    told, patches = parts(model, tokens)
    with kept_keys() as seen:
        after = states_of_patches(model, told, patches, tokens, PATCHES)
    assert seen
    torch.testing.assert_close(after, as_ever(model, told, patches)[:, -PATCHES:])
    model.gradient_checkpointing = True
    with kept_keys() as seen:
        states_of_patches(model, told, patches, tokens, PATCHES)
    assert not seen


@families
def test_hooks_where_nothing_runs(family: str) -> None:
    """Words were looked up before; and transformers has hooks of its own in newer versions."""
    model, tokens = built(family), prompts_of("padded")
    model.get_input_embeddings().register_forward_pre_hook(lambda *given: None)
    told, patches = parts(model, tokens)
    as_ever(model, told, patches)
    assert SPACE["_may_keep_keys"](model, told, patches, PATCHES)


def _hooked(words: Any) -> None:
    words.register_forward_hook(lambda layer, given, made: made + torch.randn_like(made))


def _replaced(words: Any) -> None:
    plain = words.forward
    words.forward = lambda tokens: plain(tokens) + torch.randn(*tokens.shape, WIDTH)


@families
@pytest.mark.parametrize("add", [_hooked, _replaced])
def test_noise_in_the_embeddings(family: str, add: Callable[[Any], None]) -> None:
    """Where something is added to what was looked up, the same tokens are not the same embeddings."""
    model, tokens = built(family), prompts_of("a common start")
    add(model.get_input_embeddings())
    told, patches = parts(model, tokens)
    with kept_keys() as seen:
        after = states_of_patches(model, told, patches, tokens, PATCHES)
    assert seen
    torch.testing.assert_close(after, as_ever(model, told, patches)[:, -PATCHES:])


@pytest.mark.parametrize("name", ["is_compiling", "is_tracing"])
def test_compiled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("GPT2")
    monkeypatch.setattr(torch.compiler if name == "is_compiling" else torch.jit, name, lambda: True)
    assert not SPACE["_may_keep_keys"](model, *parts(model, prompts_of("one")), PATCHES)


@pytest.mark.parametrize("count", [0, -1, PATCHES + 1])
def test_other_positions(count: int) -> None:
    model, tokens = built("GPT2"), prompts_of("padded")
    told, patches = parts(model, tokens)
    assert torch.equal(states_of_patches(model, told, patches, tokens, count), as_ever(model, told, patches))


def test_other_models() -> None:
    config = transformers.BertConfig(vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2)
    model, tokens = transformers.BertModel(config).eval(), prompts_of("padded")
    told, patches = parts(model, tokens)
    assert torch.equal(states_of_patches(model, told, patches, tokens, PATCHES), as_ever(model, told, patches))


BAD: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "rows": lambda told, patches: (told, patches[:2]),
    "width": lambda told, patches: (told, patches[..., :8]),
    "flat": lambda told, patches: (told[0], patches),
    "text": lambda told, patches: (told, "patches"),
    "device": lambda told, patches: (told.to("meta"), patches),
    "too long": lambda told, patches: (told.repeat(1, 4, 1), patches),
}


@pytest.mark.parametrize("name", BAD)
def test_the_same_exceptions(name: str) -> None:
    model = built("GPT2")
    told, patches = BAD[name](*parts(model, prompts_of("padded")))
    raised = []
    for run in (lambda: as_ever(model, told, patches), lambda: states_of_patches(model, told, patches, None, PATCHES)):
        with pytest.raises(Exception) as error:
            run()
        raised.append((error.type, str(error.value)))
    assert raised[0] == raised[1]


def test_no_prompts() -> None:
    model, tokens = built("GPT2"), torch.zeros(2, 0, dtype=torch.int64)
    told, patches = parts(model, tokens)
    assert torch.equal(states_of_patches(model, told, patches, tokens, PATCHES), as_ever(model, told, patches))


def test_switches_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = built("GPT2").train(), prompts_of("one")
    told, patches = parts(model, tokens)
    seen: list[Any] = []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, **more: seen.append(more) or forward(self, **more))
    states_of_patches(model, told, patches, tokens, PATCHES, output_attentions=False)
    assert [more["output_attentions"] for more in seen] == [False]
