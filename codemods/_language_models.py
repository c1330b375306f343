"""Language models of transformers that a class holds: their configurations, and what is read of their results."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Union

from apply_opt.errors import Ambiguous, Conflict
from apply_opt.model.source import Source, callee

from ._scopes import REPLACES, bindings, calls, mentions, named, position, reaching, targets_of

FLAGS = ("output_attentions", "output_hidden_states")
IMPLEMENTATION = "_attn_implementation"
CHOOSES, REUSES = "_with_fast_attention", "_states_of_patches"
"""The functions of ``timellm_sdpa``, which gives back the model that it gets, and of ``timellm_prompt_kv``, which runs it."""
ASKS = "_may_keep_keys"
"""The function of ``timellm_prompt_kv`` that asks how attention is computed."""
HARMLESS = {
    "get_input_embeddings",
    "parameters",
    "named_parameters",
    "modules",
    "named_modules",
    "children",
    "state_dict",
    "load_state_dict",
    "train",
    "eval",
    "to",
    "float",
    "half",
    "bfloat16",
    "cuda",
    "cpu",
    "requires_grad_",
    "resize_token_embeddings",
    "gradient_checkpointing_enable",
}
"""Methods of a model that do not run it."""


class LanguageModel(NamedTuple):
    """An attribute that holds models made by ``from_pretrained``, the calls that make them, and those that run it."""

    name: str
    made: Sequence[ast.Call]
    runs: Sequence[ast.Call]


def configured(source: Source, config: ast.expr) -> list[LanguageModel]:
    """The models that are made with ``config=config``. Raises where something else is done with it than setting attributes."""
    found: dict[str, ast.Attribute] = {}
    for use in mentions(source, config):
        parent, *around = source.ancestors(use)
        is_set = isinstance(parent, ast.Attribute) and (isinstance(parent.ctx, ast.Store) or parent.attr not in FLAGS)
        if is_set or not isinstance(getattr(use, "ctx", None), ast.Load):
            continue
        call = around[0] if isinstance(parent, ast.keyword) and parent.arg == "config" else None
        statement = source.statement(use)
        targets = targets_of(statement)
        is_made = (
            isinstance(call, ast.Call) and callee(call) == "from_pretrained" and getattr(statement, "value", 0) is call
        )
        if not is_made or len(targets) != 1 or not isinstance(targets[0], ast.Attribute):
            raise Ambiguous(f"{source.name}:{use.lineno}: what {ast.unparse(config)} is used for there cannot be told")
        found[ast.unparse(targets[0])] = targets[0]
    return [_model(source, attribute) for attribute in found.values()]


def _model(source: Source, attribute: ast.Attribute) -> LanguageModel:
    """Raises where the model is given to somebody else, who may run it."""
    name, runs = ast.unparse(attribute), []
    values = [b.value for b in bindings(source, attribute, attribute) if not b.is_empty()]
    for value in values:
        if not isinstance(value, ast.Call) or callee(value) != "from_pretrained":
            raise Ambiguous(f"{source.name}: {name} is not always a model by from_pretrained")
    for use in (n for n in mentions(source, attribute) if isinstance(getattr(n, "ctx", None), ast.Load)):
        parent, *around = source.ancestors(use)
        if isinstance(parent, ast.Call) and run_model(parent) is use:
            runs.append(parent)
        elif not isinstance(parent, ast.Attribute) or not _is_harmless(parent, around[0]):
            raise Ambiguous(f"{source.name}:{use.lineno}: what is done with {name} there cannot be told")
    return LanguageModel(name, [value for value in values if isinstance(value, ast.Call)], sorted(runs, key=position))


def _is_harmless(attribute: ast.Attribute, around: ast.AST) -> bool:
    """Whether a method that does not run the model is called, or an attribute read or set."""
    if isinstance(around, ast.Call) and around.func is attribute:
        return attribute.attr in HARMLESS
    return attribute.attr not in ("forward", "__call__", "generate")


def run_model(run: ast.Call) -> ast.expr:
    """The model that is run there."""
    return run.args[0] if ast.unparse(run.func) == REUSES and run.args else run.func


def refuse_hooks(source: Source) -> None:
    """Raise where somebody may look at what a part of the model gives: attention that makes no maps gives none."""
    for call in calls(source, "register_forward_hook"):
        holder = call.func.value if isinstance(call.func, ast.Attribute) else call.func
        made = [b.value for b in bindings(source, holder, call) if not b.is_empty()]
        if not made or not all(isinstance(v, ast.Call) and callee(v) != "from_pretrained" for v in made):
            what = ast.unparse(holder)
            raise Ambiguous(
                f"{source.name}:{call.lineno}: what {what} gives is looked at there, maybe maps of attention"
            )


def refuse_replaced(source: Source) -> None:
    """Raise where something of transformers' is replaced for the whole process: what it computes is not known then."""
    for name in _from_transformers(source):
        for node in (n for n in named(source, name) if isinstance(n, ast.Name)):
            inner: ast.AST = node
            parent, *around = source.ancestors(node)
            while isinstance(parent, (ast.Attribute, ast.Subscript)) and parent.value is inner:
                inner, (parent, *around) = parent, around
            if not isinstance(getattr(inner, "ctx", ast.Load()), ast.Load) or _replaces(parent, inner):
                raise Ambiguous(f"{source.name}:{node.lineno}: something of transformers' is replaced there")


def _replaces(call: ast.AST, node: ast.AST) -> bool:
    """Whether ``call`` gives ``node`` another attribute, or is a registry's ``register``."""
    if not isinstance(call, ast.Call):
        return False
    return (callee(call) in REPLACES and node in call.args[:1]) or (callee(call) == "register" and call.func is node)


def _from_transformers(source: Source) -> Iterator[str]:
    """The names by which the file knows transformers, its modules and what it has from there."""
    for node in source.nodes("transformers"):
        if (
            isinstance(node, ast.ImportFrom)
            and node.level == 0
            and (node.module or "").partition(".")[0] == "transformers"
        ):
            yield from (alias.asname or alias.name for alias in node.names)
        if isinstance(node, ast.Import):
            own = [alias for alias in node.names if alias.name.partition(".")[0] == "transformers"]
            yield from (alias.asname or "transformers" for alias in own)


def reads_last_state(source: Source, run: ast.Call) -> bool:
    """Whether nothing is read of what the model gives but its last hidden state, at once or by way of a variable."""
    if run_model(run) is not run.func:
        return True
    if any(keyword.arg is None or keyword.arg.startswith(("output_", "return_")) for keyword in run.keywords):
        return False
    parent = source.ancestors(run)[0]
    if not isinstance(parent, ast.Assign):
        return _takes_last_state(source, run)
    if len(parent.targets) != 1 or not isinstance(parent.targets[0], ast.Name):
        return False
    name = parent.targets[0].id
    function = source.function(run)
    own = [n for n in ast.walk(function or source.tree) if isinstance(n, ast.Name) and n.id == name]
    reads = [
        n for n in own if isinstance(n.ctx, ast.Load) and any(b.statement is parent for b in reaching(source, n, n))
    ]
    return all(_takes_last_state(source, n) for n in reads)


def _takes_last_state(source: Source, node: ast.expr) -> bool:
    parent = source.ancestors(node)[0]
    if isinstance(parent, ast.Attribute):
        return parent.attr == "last_hidden_state"
    is_item = isinstance(parent, ast.Subscript) and parent.value is node and isinstance(parent.slice, ast.Constant)
    return is_item and parent.slice.value in ("last_hidden_state", 0) and parent.slice.value is not False  # type: ignore[attr-defined]


def check_implementation(source: Source) -> None:
    """Raise where the author chooses how attention is computed."""
    for word in (IMPLEMENTATION, "attn_implementation", "set_attn_implementation"):
        for node in source.nodes(word):
            function = source.function(node)
            if function is not None and function.name == ASKS:
                continue
            is_text = isinstance(node, ast.Constant) and node.value == word
            if is_text or word in (getattr(node, "attr", ""), getattr(node, "arg", "")):
                line = getattr(node, "lineno", 0)
                raise Conflict(f"{source.name}:{line}: how attention is computed is chosen there")


def flag_stores(source: Source) -> Iterator[tuple[ast.Assign, ast.Attribute]]:
    """Every assignment of one of the ``FLAGS`` to a configuration, with its target."""
    nodes = [n for flag in FLAGS for n in named(source, flag)]
    for node in sorted(nodes, key=position):
        statement: Union[ast.stmt, None] = source.statement(node) if isinstance(node, ast.Attribute) else None
        if isinstance(node, ast.Attribute) and isinstance(statement, ast.Assign) and node in statement.targets:
            yield statement, node
