"""Do not read the joints' velocities of an item, which nobody looks at.

ACT's data set reads ``/observations/qvel`` of the moment that it has drawn, and does nothing with it. To look the data set up in the file
is what can say that there is none; to read from it is what takes time.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source

from ._episodes import leaves
from ._helpers import refuse_compiled
from ._lines import is_alone, respelled, text_of
from ._scopes import methods

SITE, PATH = "read", "observations/qvel"


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``read``: the velocities that are read, or only looked up."""
    found, ours = _reads(source), [n for n in _assigned(source) if _is_velocities(n.value)]
    if ours and not found:
        return [Site(SITE, ours[0].lineno, OURS)]
    return [Site(SITE, _one(source, found).lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The data set looked up in the file, and nothing read from it."""
    statement = _one(source, _reads(source))
    assert isinstance(statement.value, ast.Subscript)
    return [respelled(source, statement, {statement.value: text_of(source, statement.value.value)})]


def _items(source: Source) -> list[Function]:
    """The methods that make an item of a data set."""
    return [
        m
        for c in source.nodes("__getitem__")
        if isinstance(c, ast.ClassDef)
        for m in methods(c)
        if m.name == "__getitem__"
    ]


def _is_velocities(node: ast.expr) -> bool:
    """``file["/observations/qvel"]``."""
    is_item = (
        isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and isinstance(node.slice, ast.Constant)
    )
    return is_item and str(node.slice.value).strip("/") == PATH  # type: ignore[attr-defined]


def _assigned(source: Source) -> list[ast.Assign]:
    """The assignments in methods that make items."""
    return [n for method in _items(source) for n in ast.walk(method) if isinstance(n, ast.Assign)]


def _reads(source: Source) -> list[ast.Assign]:
    """Those of what is read of the velocities."""
    return [n for n in _assigned(source) if isinstance(n.value, ast.Subscript) and _is_velocities(n.value.value)]


def _one(source: Source, found: Sequence[ast.Assign]) -> ast.Assign:
    """The only read, of which nobody uses what comes out. Raises where there is none, or more may be done with it."""
    if not found:
        raise NoSite(f"{source.name}: no item of a data set reads {PATH}")
    if len(found) > 1:
        raise Ambiguous(
            f"{source.name}: {PATH} is read in {len(found)} places: lines {', '.join(str(n.lineno) for n in found)}"
        )
    (statement,) = found
    line, function = f"{source.name}:{statement.lineno}", source.function(statement)
    target = statement.targets[0]
    if function is None or len(statement.targets) > 1 or not isinstance(target, ast.Name):
        raise Ambiguous(f"{line}: what is read goes to more than a variable")
    uses = [
        n
        for n in ast.walk(function)
        if n is not target and target.id in (getattr(n, "id", ""), *getattr(n, "names", ()))
    ]
    if uses:
        raise NoSite(f"{line}: {target.id} is used, at line {getattr(uses[0], 'lineno', 0)}")
    assert isinstance(statement.value, ast.Subscript)
    if any(isinstance(n, (ast.Call, ast.NamedExpr, ast.Await)) for n in ast.walk(statement.value.slice)):
        raise Ambiguous(f"{line}: which moment is read is worked out there, which may do more")
    refuse_compiled(source, function)
    tries = [n for n in source.ancestors(statement) if isinstance(n, ast.Try)]
    if not all(leaves(handler) for block in tries for handler in block.handlers):
        raise Ambiguous(f"{line}: what the read may raise is handled there, and the item goes on")
    if not is_alone(source, statement):
        raise Ambiguous(f"{line}: the read shares its line with something else")
    return statement
