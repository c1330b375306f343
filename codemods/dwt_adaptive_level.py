"""Decompose short series into fewer bands than long ones before they are put into words.

The rule is the one that was published with the generator: two levels below 200 steps, three below 500, else four.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from apply_opt.errors import Ambiguous
from apply_opt.model.codemod import Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._scopes import certain
from ._wavelet_generator import given, setting, site

RULE = "2 if self.seq_len < 200 else 3 if self.seq_len < 500 else 4"


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``generator``: the level that it is given."""
    found = site(source, "level", RULE)
    _check(source)
    return [found]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The level by the number of steps that the model is made for."""
    return [given(source, "level", RULE)]


def _check(source: Source) -> None:
    """Raise where the model does not know yet how many steps its series have."""
    value = setting(source, "level")
    nodes = [n for n in ast.walk(source.function(value) or value) if isinstance(n, ast.Attribute)]
    stores = [n for n in nodes if ast.unparse(n) == "self.seq_len" and not isinstance(n.ctx, ast.Load)]
    if not any(certain(source, source.statement(node), value) for node in stores):
        raise Ambiguous(f"{source.name}:{value.lineno}: self.seq_len has no value yet where the generator is made")
