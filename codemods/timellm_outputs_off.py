"""Have the language model not collect attention maps and hidden states of all its layers, where nobody reads them.

With ``output_attentions`` transformers computes attention by plain operators (``eager``), since other implementations have no maps
(https://huggingface.co/docs/transformers/main_classes/output). Without it, it would choose another one, which rounds differently: so
``eager`` is asked for by name.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from apply_opt.errors import Ambiguous, Conflict, NoSite
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._language_models import FLAGS, IMPLEMENTATION, check_implementation, configured, flag_stores, reads_last_state
from ._lines import below, is_alone, respelled
from ._scopes import named

SITE = "outputs"
READS = ("attentions", "hidden_states", "cross_attentions", "to_tuple")


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``outputs``: the first configuration that asks for more than the last hidden state."""
    stores = list(flag_stores(source))
    if not stores:
        raise NoSite(f"{source.name}: no configuration of a language model asks for {' or '.join(FLAGS)}")
    values = [statement.value for statement, _ in stores]
    if all(isinstance(value, ast.Constant) and value.value is False for value in values):
        is_ours = any(_is_eager(source, statement, target) for statement, target in stores)
        return [Site(SITE, stores[0][0].lineno, OURS if is_ours else THEIRS, ast.unparse(stores[0][0]))]
    _check(source, stores)
    return [Site(SITE, stores[0][0].lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """``False`` for ``True``, and plain attention by name where maps were asked for."""
    edits = []
    for statement in dict.fromkeys(statement for statement, _ in flag_stores(source)):
        edits.append(respelled(source, statement, {statement.value: "False"}))
        for target in statement.targets:
            if isinstance(target, ast.Attribute) and target.attr == FLAGS[0]:
                line = f'{ast.unparse(target.value)}.{IMPLEMENTATION} = "eager"  # which the maps had brought along'
                edits.append(below(source, statement, line))
    return edits


def _is_eager(source: Source, statement: ast.Assign, target: ast.Attribute) -> bool:
    """Whether plain attention is asked for, of the same configuration."""
    wanted = f"{ast.unparse(target.value)}.{IMPLEMENTATION} = 'eager'"
    nodes = [n for n in named(source, IMPLEMENTATION) if isinstance(n, ast.Attribute)]
    return any(ast.unparse(source.statement(n)) == wanted for n in nodes)


def _check(source: Source, stores: Sequence[tuple[ast.Assign, ast.Attribute]]) -> None:
    """Raise where something may read what would not be there any more."""
    for statement, target in stores:
        where, text = f"{source.name}:{statement.lineno}", ast.unparse(statement)
        if not isinstance(statement.value, ast.Constant) or statement.value.value is not True:
            raise Ambiguous(f"{where}: not every configuration asks for these: {text}")
        if not all(isinstance(t, ast.Attribute) and t.attr in FLAGS for t in statement.targets):
            raise Ambiguous(f"{where}: the value is given to others, too: {text}")
        if not is_alone(source, statement):
            raise Ambiguous(f"{where}: the statement shares its line")
        _check_models(source, target.value)
    check_implementation(source)
    for node in (n for word in (*READS, *FLAGS) for n in source.nodes(word)):
        is_name = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in (*READS, *FLAGS)
        is_key = isinstance(node, ast.Constant) and node.value in READS
        if is_name or is_key:
            raise Conflict(f"{source.name}:{node.lineno}: {ast.unparse(node)} is read there")  # type: ignore[attr-defined]


def _check_models(source: Source, config: ast.expr) -> None:
    models = configured(source, config)
    if not models:
        raise Ambiguous(f"{source.name}: no language model is made with config={ast.unparse(config)}")
    for model in models:
        if not model.runs:
            raise Ambiguous(
                f"{source.name}: {model.name} is not run in this file: who reads what it gives cannot be told"
            )
        for run in model.runs:
            if not reads_last_state(source, run):
                raise Conflict(
                    f"{source.name}:{run.lineno}: more than the last hidden state of {model.name} may be read"
                )
