"""Let prompts through the language model once and without gradients; only the patches of the series follow with them.

The language model gets the embeddings of a prompt and behind them the patches of a series, and only its states of the patches are
read. Where attention is causal, a prompt is the same whatever follows, and nothing in it is trained. So its keys and values can be
kept (https://huggingface.co/docs/transformers/kv_cache), and the patches go through the model behind them.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, callee

from ._helpers import are_used, check_imported, insert_above, meant, refuse_compiled
from ._language_models import CHOOSES, REUSES, refuse_replaced
from ._lines import all_respelled, block_of, is_alone, line_of, without
from ._positions import LastPositions, has_same_value, only_value, uncast
from ._products import in_loop, is_size
from ._scopes import argument, calls, position, reaching

HELPER, SITE = REUSES, "states"
HELPER_TEXT = f'''
def {HELPER}(language_model, prompts, patches, tokens, count, **options):
    """The last hidden states (R, P, D) of `patches` (R, P, D) behind `prompts` (R, T, D), the embeddings of `tokens` (R, T).

    What is causal does not look ahead, and nothing in a prompt is trained: the keys and values of the prompts are computed first,
    without gradients, and only the patches go through the language model with them. Where it is not certain that this comes to
    the same, or more positions are to be read (`count`) than patches have, it gets both at once; then the states of both come out.
    """
    if not _may_keep_keys(language_model, prompts, patches, count):
        return language_model(inputs_embeds=torch.cat([prompts, patches], dim=1), **options).last_hidden_state
    kind = torch.result_type(prompts, patches)
    told = _keys_of_prompts(language_model, prompts.to(kind), tokens)
    quiet = {{"output_attentions": False, "output_hidden_states": False}}
    return language_model(
        inputs_embeds=patches.to(kind), past_key_values=told, use_cache=True, **quiet
    ).last_hidden_state


@torch.no_grad()
def _keys_of_prompts(language_model, prompts, tokens):
    """The keys and values of `prompts` (R, T, D); of what all start with, by `tokens` (R, T) on the host, from one of them."""
    shared, told, words = 0, None, language_model.get_input_embeddings()
    is_on_host = torch.is_tensor(tokens) and tokens.device.type == "cpu" and tokens.shape == prompts.shape[:2]
    is_plain = type(words) is torch.nn.Embedding and "forward" not in vars(words)
    if is_on_host and is_plain and not words._forward_hooks and not words._forward_pre_hooks:  # else there may be noise
        shared = int((tokens == tokens[:1]).all(dim=0).cumprod(dim=0).sum())
    first = prompts[:1, :shared] if shared else prompts[:, :1]
    for part in (first, prompts[:, first.shape[1] :]):
        if not part.shape[1]:
            continue
        told = _with_keys_of(language_model, part, told)
        if len(part) == len(prompts):
            continue
        if isinstance(told, tuple):  # transformers before it had a class for that
            told = tuple(tuple(kept.expand(len(prompts), -1, -1, -1) for kept in layer) for layer in told)
        else:
            told.batch_repeat_interleave(len(prompts))
    return told


def _with_keys_of(language_model, part, told):
    """`told` with the keys and values of `part` (R, T, D), too.

    Nobody asks for what the last layer would do with them: as soon as it has given them away, this ends, if that can be told.
    """
    options = {{"output_attentions": False, "output_hidden_states": False, "use_cache": True}}
    every = [getattr(module, "layer_idx", None) for module in language_model.modules()]
    layers = [layer for layer in every if layer is not None]
    if not layers or layers != sorted(layers) or not callable(getattr(told, "update", None)):
        return language_model(inputs_embeds=part, past_key_values=told, **options).past_key_values

    class Enough(Exception):
        pass

    def update(keys, values, layer, *more, **others):
        made = type(told).update(told, keys, values, layer, *more, **others)
        if layer == layers[-1]:
            raise Enough
        return made

    told.update = update
    try:
        return language_model(inputs_embeds=part, past_key_values=told, **options).past_key_values
    except Enough:
        return told
    finally:
        del told.update


def _may_keep_keys(language_model, prompts, patches, count):
    """Whether `language_model` makes the last `count` states out of `patches` and the keys and values of `prompts`, too.

    It has to be causal, and as transformers has it; the position of a token has to count from the start, and to be all that
    tells a token's embedding there from the same elsewhere.
    """
    from transformers import GPT2Model, LlamaModel

    if type(language_model) not in (GPT2Model, LlamaModel) or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if not type(prompts) is type(patches) is torch.Tensor or not prompts.dim() == patches.dim() == 3:
        return False
    is_pair = prompts.shape[::2] == patches.shape[::2] and prompts.device == patches.device
    if not is_pair or 0 in prompts.shape or not 0 < count <= patches.shape[1]:
        return False
    config = language_model.config
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {{}}
    if rope.get("rope_type", rope.get("type", "default")) not in ("default", "linear", "llama3"):
        return False
    if prompts.shape[1] + patches.shape[1] > config.max_position_embeddings or not getattr(config, "is_causal", True):
        return False
    windows = ("add_cross_attention", "sliding_window", "attention_chunk_size", "layer_types")
    if any(getattr(config, name, None) for name in windows) or not getattr(config, "return_dict", True):
        return False
    kinds = ("eager", "sdpa", "flash_attention_2")
    return getattr(config, "_attn_implementation", "eager") in kinds and _is_frozen_and_plain(language_model, prompts)


def _is_frozen_and_plain(language_model, prompts):
    """Whether nothing in `language_model` is trained, is made at random, or may be something else than transformers has there."""
    if torch.nn.modules.module._has_any_global_hook():
        return False
    words = language_model.get_input_embeddings()  # these have been looked up already
    parts = [part for part in language_model.modules() if part is not words]
    if any(part.training for part in parts):
        names = ("p", "attention_dropout", "gradient_checkpointing")
        if any(getattr(part, name, False) for part in parts for name in names):
            return False
    for part in parts:
        hooks = [*part._forward_pre_hooks.values(), *part._backward_hooks.values(), *part._backward_pre_hooks.values()]
        hooks += part._forward_hooks.values()
        if any(getattr(hook, "__module__", "") != "transformers.utils.output_capturing" for hook in hooks):
            return False
        is_replaced = getattr(part.forward, "__func__", None) is not type(part).forward
        if is_replaced or vars(part).get("_compiled_call_impl") or getattr(part, "is_causal", True) is not True:
            return False
    own = list(language_model.parameters())  # none in what DataParallel makes of it
    is_usual = [type(p) is torch.nn.Parameter and p.element_size() > 1 and p.device == prompts.device for p in own]
    if not own or not all(is_usual):
        return False
    return not torch.is_grad_enabled() or not (prompts.requires_grad or any(p.requires_grad for p in own))
'''
OTHERS = ("_keys_of_prompts", "_with_keys_of", "_may_keep_keys", "_is_frozen_and_plain")
CONCATENATIONS = ("torch.cat", "torch.concat", "torch.concatenate")
CAUSAL = ("GPT2Model", "LlamaModel", "AutoModel")
SWITCHES = ("output_attentions", "output_hidden_states", "use_cache")
STATES = "last_hidden_state"


class Joined(NamedTuple):
    """A language model's call with prompts and patches one behind the other."""

    function: Function
    call: ast.Call
    states: ast.Attribute
    statement: Optional[ast.Assign]
    """The assignment that puts them together, where it is not in the call itself."""
    prompts: ast.expr
    patches: ast.expr


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``states``: the language model's call."""
    uses = calls(source, HELPER)
    if are_used(source, HELPER, OTHERS, uses):
        return [Site(SITE, uses[0].lineno, OURS)]
    return [Site(SITE, _all_joined(source)[0].call.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the first class or function with such a call, and called in its place."""
    found = _all_joined(source)
    edits = [insert_above(source, found[0].call, HELPER_TEXT)]
    changes: dict[ast.expr, str] = {}
    for joined in found:
        edits += [without(source, joined.statement)] if joined.statement else []
        whole = joined.states if joined.states.value is joined.call else joined.call
        changes[whole] = _new_call(source, joined)
        if whole is joined.call:
            changes[joined.states] = ast.unparse(joined.states.value)
    return [*edits, *all_respelled(source, changes)]


def _new_call(source: Source, joined: Joined) -> str:
    count = LastPositions(source, joined.states).count
    given = [joined.call.func, joined.prompts, joined.patches]
    words = [*(line_of(source, node) for node in given), _tokens(source, joined), line_of(source, count)]
    words += [f"{k.arg}={ast.unparse(k.value)}" for k in joined.call.keywords if k.arg in SWITCHES]
    return f"{HELPER}({', '.join(words)})"


def _all_joined(source: Source) -> list[Joined]:
    """Every call of a language model with prompts and patches, of whose states only those of patches are read."""
    given = [n for n in source.nodes("inputs_embeds") if isinstance(n, ast.Call) and argument(n, "inputs_embeds", 99)]
    found = [joined for call in given if (joined := _joined(source, call))]
    if not found or not source.mentioning(*CAUSAL):
        raise NoSite(
            f"{source.name}: no language model that reads from left to right ({', '.join(CAUSAL)}) is called with "
            "inputs_embeds=torch.cat([prompts, patches], dim=1) for its last hidden state"
        )
    for joined in found:
        _check(source, joined)
    refuse_replaced(source)
    check_imported(source, "torch")
    return found


def _joined(source: Source, call: ast.Call) -> Optional[Joined]:
    """The parts of what the language model gets; nothing, where that is not put together, or its last states are not read."""
    whole = argument(call, "inputs_embeds", 99)
    function, states = source.function(call), _states(source, call)
    if function is None or states is None or whole is None:
        return None
    statement = None
    if isinstance(whole, ast.Name):
        binding = only_value(source, whole)
        if binding is None and any(_is_concatenation(source, b.value) for b in reaching(source, whole, whole)):
            raise Ambiguous(f"{source.name}:{call.lineno}: what {whole.id} holds there cannot be told")
        if binding is None or not isinstance(binding.statement, ast.Assign):
            return None
        statement, whole = binding.statement, binding.statement.value
    if not isinstance(whole, ast.Call) or not _is_concatenation(source, whole):
        return None
    parts, axis = argument(whole, "tensors", 0), argument(whole, "dim", 1) or argument(whole, "axis", 99)
    if not isinstance(parts, (ast.List, ast.Tuple)) or axis is None or ast.unparse(axis) not in ("1", "-2"):
        return None
    if len(parts.elts) != 2 or any(isinstance(part, ast.Starred) for part in parts.elts):
        raise Ambiguous(f"{source.name}:{whole.lineno}: the language model gets more than prompts and patches")
    return Joined(function, call, states, statement, *parts.elts)


def _is_concatenation(source: Source, node: Optional[ast.expr]) -> bool:
    return isinstance(node, ast.Call) and meant(source, node.func) in CONCATENATIONS


def _states(source: Source, call: ast.Call) -> Optional[ast.Attribute]:
    """Where ``last_hidden_state`` is read of the result, if nothing else is."""
    parent = source.ancestors(call)[0]
    if isinstance(parent, ast.Attribute):
        return parent if parent.attr == STATES else None
    if not isinstance(parent, ast.Assign) or not isinstance(parent.targets[0], ast.Name) or len(parent.targets) > 1:
        return None
    own = [n for n in _names(source.function(call), parent.targets[0].id) if n is not parent.targets[0]]
    reads = [source.ancestors(n)[0] for n in own]
    if len(own) == 1 and isinstance(reads[0], ast.Attribute) and reads[0].attr == STATES:
        binding = only_value(source, own[0])
        return reads[0] if binding and binding.statement is parent else None
    return None


def _names(function: Optional[Function], name: str) -> list[ast.Name]:
    return [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name] if function else []


# What has to hold


def _check(source: Source, joined: Joined) -> None:
    """Raise where it is not certain that prompts and patches are all, and that only patches' states are read."""
    line = f"{source.name}:{joined.call.lineno}"
    refuse_compiled(source, joined.function)
    if in_loop(source, joined.call) or isinstance(joined.function, ast.AsyncFunctionDef):
        raise Ambiguous(f"{line}: the language model is called in a loop, or later")
    model = joined.call.func
    if isinstance(model, ast.Call) and ast.unparse(model.func) == CHOOSES and len(model.args) == 1:
        model = model.args[0]
    if not ast.unparse(model).replace(".", "").isidentifier() or joined.call.args:
        raise Ambiguous(f"{line}: what is called there is no plain name")
    for keyword in joined.call.keywords:
        is_switch = keyword.arg in SWITCHES and isinstance(keyword.value, ast.Constant)
        is_usual = keyword.arg == "return_dict" and ast.unparse(keyword.value) == "True"
        if keyword.arg != "inputs_embeds" and not is_switch and not is_usual:
            raise Ambiguous(f"{line}: the language model gets {keyword.arg or 'more arguments'}, too")
    _check_statement(source, joined)
    _check_prompts(source, joined)
    LastPositions(source, joined.states)


def _check_statement(source: Source, joined: Joined) -> None:
    """Raise where the parts cannot be put together at the call itself."""
    statement, at = joined.statement, source.statement(joined.call)
    if statement is None:
        return
    line, block = f"{source.name}:{statement.lineno}", block_of(source, at)
    name = ast.unparse(statement.targets[0])
    if len(_names(joined.function, name)) != 2 or len(statement.targets) > 1:
        raise Ambiguous(f"{line}: {name} is used in other places, too")
    if statement not in block or not is_alone(source, statement):
        raise Ambiguous(f"{line}: {name} is put together under another condition, or beside something else")
    parts = (joined.prompts, joined.patches)
    used = {n.id for part in parts for n in ast.walk(part) if isinstance(n, ast.Name)}
    for between in block[block.index(statement) + 1 : block.index(at)]:
        if not all(isinstance(uncast(part), ast.Name) for part in parts):
            raise Ambiguous(f"{line}: a part of {name} is made there, and this is done before it is used")
        if any(isinstance(n, ast.Name) and n.id in used - {"self"} for n in ast.walk(between)):
            raise Ambiguous(f"{source.name}:{between.lineno}: a part of {name} is used here, before {name} is")


def _check_prompts(source: Source, joined: Joined) -> None:
    """Raise where the first part is not the embeddings of tokens, and nothing else."""
    looked_up, names = _looked_up(source, joined)
    if looked_up is None:
        raise Ambiguous(
            f"{source.name}:{joined.prompts.lineno}: {ast.unparse(joined.prompts)} is not, or not only, what "
            "get_input_embeddings() has for the tokens of prompts"
        )
    for use in (use for name in names for use in _names(joined.function, name)):
        is_between = position(looked_up) < position(use) < position(joined.call) and isinstance(use.ctx, ast.Load)
        if is_between and not _is_harmless(source, joined, use):
            raise Ambiguous(f"{source.name}:{use.lineno}: {use.id} may be changed here")


def _is_harmless(source: Source, joined: Joined, use: ast.Name) -> bool:
    """Whether the prompts are only asked for their size there, cast, or put together with the patches."""
    statement = source.statement(use)
    is_cast = isinstance(statement, ast.Assign) and uncast(statement.value) is use
    return is_size(source, use) or is_cast or joined.prompts in source.ancestors(use) or use is joined.prompts


def _looked_up(source: Source, joined: Joined) -> tuple[Optional[ast.Call], list[str]]:
    """The call that gives the prompts' embeddings, and the variables that they go through."""
    node, names = uncast(joined.prompts), []
    while isinstance(node, ast.Name):
        names.append(node.id)
        binding = only_value(source, node)
        if binding is None or not isinstance(binding.statement, ast.Assign):
            return None, names
        node = uncast(binding.statement.value)
    if not isinstance(node, ast.Call) or len(node.args) != 1 or node.keywords:
        return None, names
    is_embedding = isinstance(node.func, ast.Call) and callee(node.func) == "get_input_embeddings"
    return (node if is_embedding else None), names


def _tokens(source: Source, joined: Joined) -> str:
    """The variable with the prompts' tokens, where it still has them at the call."""
    looked_up, _ = _looked_up(source, joined)
    tokens = uncast(looked_up.args[0]) if looked_up else None
    if not isinstance(tokens, ast.Name) or not has_same_value(source, tokens, joined.call):
        return "None"
    uses = [n for n in _names(joined.function, tokens.id) if position(tokens) < position(n) < position(joined.call)]
    return tokens.id if all(is_size(source, n) for n in uses) else "None"
