"""Run the language model with scaled dot product attention, while nothing in it trains.

It makes no matrix of all tokens by all tokens in memory, and skips what the causal mask leaves out
(https://pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html). It rounds differently, and where
dropout is on it may draw other random numbers: so plain attention stays while the language model trains.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from apply_opt.errors import Ambiguous, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._helpers import check_imported, insert_above, is_used, refuse_compiled
from ._language_models import (
    CHOOSES,
    IMPLEMENTATION,
    configured,
    reads_last_state,
    refuse_hooks,
    refuse_replaced,
    run_model,
)
from ._lines import all_respelled, text_of
from ._scopes import calls, named, position

HELPER, SITE = CHOOSES, "run"
HELPER_TEXT = f'''
def {HELPER}(model):
    """`model`, to be run next: with scaled dot product attention, or with plain attention (`eager`) while any part of it trains.

    The two round differently. Where dropout is on they may also draw other random numbers, so that training stays as it was. What has no
    such attention, or cannot be switched (other versions of transformers), is left as it is.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not getattr(model, "_supports_sdpa", False):
        return model
    wanted = "eager" if any(part.training for part in model.modules()) else "sdpa"
    is_other = {{model.config.{IMPLEMENTATION}, wanted}} == {{"eager", "sdpa"}}
    can_switch = getattr(model, "_can_set_attn_implementation", bool)
    if is_other and not model.config.output_attentions and can_switch():
        model.set_attn_implementation(wanted)
    return model
'''


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``run``: where a language model with plain attention is first run."""
    uses = calls(source, HELPER)
    if is_used(source, HELPER, uses):
        if not _plain(source):
            raise PartlyApplied(f"{source.name}:{uses[0].lineno}: no configuration asks for plain attention any more")
        return [Site(SITE, uses[0].lineno, OURS)]
    return [Site(SITE, _runs(source)[0].lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the class, given the model wherever that is run."""
    found = _runs(source)
    changes = {run_model(run): f"{HELPER}({text_of(source, run_model(run))})" for run in found}
    return [insert_above(source, found[0], HELPER_TEXT), *all_respelled(source, changes)]


def _plain(source: Source) -> list[ast.Attribute]:
    """The configurations' attributes that are set to plain attention, as ``timellm_outputs_off`` does."""
    found = []
    for node in named(source, IMPLEMENTATION):
        statement = source.statement(node)
        value = statement.value if isinstance(statement, ast.Assign) and node in statement.targets else None
        if isinstance(node, ast.Attribute) and isinstance(value, ast.Constant) and value.value == "eager":
            found.append(node)
    return found


def _runs(source: Source) -> list[ast.Call]:
    """Where models with plain attention are run. Raises where there are none, and where their attention may be read."""
    plain = _plain(source)
    if not plain:
        raise NoSite(f"{source.name}: no configuration of a language model asks for plain attention ({IMPLEMENTATION})")
    models = {model.name: model for node in plain for model in configured(source, node.value)}
    runs = sorted((run for model in models.values() for run in model.runs), key=position)
    if not runs:
        raise Ambiguous(f"{source.name}: the language model is not run in this file")
    refuse_hooks(source)
    refuse_replaced(source)
    for run in runs:
        if not reads_last_state(source, run):
            raise Ambiguous(f"{source.name}:{run.lineno}: more than the last hidden state may be read, also maps")
        if source.function(run) is None:
            raise Ambiguous(f"{source.name}:{run.lineno}: the language model is run in no function")
    refuse_compiled(source)
    check_imported(source, "torch")
    return runs
