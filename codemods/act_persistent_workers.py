"""Keep the worker processes of data loaders from one epoch to the next.

A DataLoader ends its workers with each epoch and starts them anew for the next (``persistent_workers``,
https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.DataLoader). Workers that stay go on with their random numbers, where
new ones would get a seed, and the training's process draws none for them: from the second epoch on, others are drawn.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._helpers import meant
from ._lines import all_respelled
from ._loader_calls import LOADERS, arguments, one_more
from ._scopes import PARAMETER, bindings, class_named

SITE, OPTION = "loaders", "persistent_workers"


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``loaders``: the first one, of loaders that all have workers, which end with each epoch."""
    found = _loaders(source)
    given = [arguments(source, call).get(OPTION) for call in found]
    if all(value is not None and _is(value, True) for value in given):
        return [Site(SITE, found[0].lineno, OURS)]
    for call, value in zip(found, given):
        if value is not None and not _is(value, True):
            raise Conflict(f"{source.name}:{call.lineno}: {OPTION} is {ast.unparse(value)} there, on purpose")
    if any(given):
        raise PartlyApplied(
            f"{source.name}:{found[0].lineno} is partly applied: {OPTION} is set for some of the loaders only",
            "set it for all of them, or for none",
        )
    for call in found:
        _check(source, call)
    return [Site(SITE, found[0].lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """One more argument for each loader."""
    return all_respelled(source, dict(one_more(source, call, f"{OPTION}=True") for call in _loaders(source)))


def _loaders(source: Source) -> list[ast.Call]:
    """The data loaders of the file."""
    calls = [n for n in source.nodes("Loader") if isinstance(n, ast.Call)]
    found = [call for call in calls if _is_loader(source, call.func)]
    if not found:
        raise NoSite(f"{source.name}: there is no torch.utils.data.DataLoader")
    return sorted(found, key=lambda call: call.lineno)


def _is_loader(source: Source, function: ast.expr) -> bool:
    """``DataLoader``, or a class of this file that is one."""
    cls = class_named(source, function.id) if isinstance(function, ast.Name) else None
    return meant(source, function) in LOADERS or (
        cls is not None and any(meant(source, base) in LOADERS for base in cls.bases)
    )


def _check(source: Source, call: ast.Call) -> None:
    """Raise where a loader may have no workers, or no epochs."""
    where, given = f"{source.name}:{call.lineno}", arguments(source, call)
    sampler = given.get("batch_sampler")
    if sampler is not None and not _is(sampler, None):
        raise NoSite(
            f"{where}: a batch_sampler of the file's own may have no end, so that workers are started once as it is"
        )
    workers = given.get("num_workers")
    if workers is None or _is(workers, 0):
        raise NoSite(f"{where}: the loader has no workers that could stay")
    if not all(isinstance(n, ast.Constant) and type(n.value) is int and n.value > 0 for n in _values(source, workers)):
        raise Ambiguous(f"{where}: num_workers ({ast.unparse(workers)}) may be 0, with which {OPTION} is an error")


def _values(source: Source, node: ast.expr) -> list[ast.expr]:
    """The values that ``node`` may have: its own, or those that a variable gets."""
    found = bindings(source, node, node) if isinstance(node, ast.Name) else []
    values = [b.value for b in found if b.kind != PARAMETER and b.value is not None]
    return values if found and len(values) == len(found) else [node]


def _is(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is type(value) and node.value == value
