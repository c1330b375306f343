"""Whether ``torch`` is PyTorch where code is to be put."""

from __future__ import annotations

import ast

from apply_opt.errors import Conflict
from apply_opt.model.source import Source

from ._scopes import bindings, position, scope_of


def imports_torch(source: Source, place: ast.stmt) -> bool:
    """Whether the module has ``torch`` by the time ``place`` runs."""
    above = source.tree.body[: source.tree.body.index(place)]
    return any(_is_torch(a) for s in above if isinstance(s, ast.Import) for a in s.names)


def check_torch(source: Source, place: ast.stmt, next_step: str) -> None:
    """Raise where ``torch`` may be something else than PyTorch in front of ``place``."""
    for binding in bindings(source, ast.Name("torch"), place):
        statement = binding.statement
        own = isinstance(statement, ast.Import) and all(
            _is_torch(a) for a in statement.names if (a.asname or a.name.partition(".")[0]) == "torch"
        )
        within = scope_of(source, statement)
        if not own and (not isinstance(within, ast.Module) or position(statement) < position(place)):
            raise Conflict(
                f"{source.name}:{statement.lineno}: torch may be something else than PyTorch from here on", next_step
            )


def _is_torch(alias: ast.alias) -> bool:
    """Whether an ``import`` makes ``torch`` the name of PyTorch."""
    return alias.asname == alias.name == "torch" if alias.asname else alias.name.partition(".")[0] == "torch"
