"""Have the data loader make tensors of a batch's arrays without finding out what each of them is.

A DataLoader without ``collate_fn`` uses ``default_collate``: ``torch.as_tensor`` for each array of each sample, then ``torch.stack``
(https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.default_collate). ``torch.as_tensor`` takes anything, and asks what it
got; ``torch.from_numpy`` takes arrays only, gives the same tensor, and is done in a fraction of the time.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from apply_opt.errors import Ambiguous, Conflict, NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._helpers import insert_above, is_used, meant
from ._lines import all_respelled
from ._loader_calls import LOADERS, one_more
from ._scopes import argument, calls_of, has_star, named, reaching

SITE, HELPER = "loader", "_batch_of_arrays"
HELPER_TEXT = f'''
def {HELPER}(samples):
    """What `default_collate` makes of `samples`, sooner where each of them is a tuple of arrays.

    It would call torch.as_tensor for each array, which finds out what it got and where it goes; torch.from_numpy gives the same
    tensor at once. What else there is goes to default_collate as it is, and so does all where tensors are made on another device.
    """
    import torch
    from torch.utils.data import default_collate

    tensors = samples
    if all(type(sample) is tuple for sample in samples) and torch.empty(0).is_cpu:
        try:
            tensors = [tuple(map(torch.from_numpy, sample)) for sample in samples]
        except (TypeError, ValueError):  # no array, or one that cannot be a tensor
            pass
    return default_collate(tensors)
'''
COLLATE, PLACE, MAP = "collate_fn", 6, "default_collate_fn_map"


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``loader``: the first data loader that makes batches by default_collate."""
    uses = [n for n in named(source, HELPER) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    if is_used(source, HELPER, uses):
        return [Site(SITE, uses[0].lineno, OURS)]
    return [Site(SITE, _loaders(source)[0].lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the first loader, and one more argument for each."""
    found = _loaders(source)
    changes = dict(one_more(source, call, f"{COLLATE}={HELPER}") for call in found)
    return [insert_above(source, found[0], HELPER_TEXT), *all_respelled(source, changes)]


def _loaders(source: Source) -> list[ast.Call]:
    """The data loaders that make batches by default_collate."""
    every = [call for call in calls_of(source, "DataLoader") if meant(source, call.func) in LOADERS]
    found = [call for call in every if not has_star(call) and not _has_own(call)]
    if not every:
        raise NoSite(f"{source.name}: there is no torch.utils.data.DataLoader")
    for call in every:
        if has_star(call):
            raise Ambiguous(f"{source.name}:{call.lineno}: some of the loader's arguments are not to be seen")
    if not found:
        raise NoSite(f"{source.name}:{every[0].lineno}: the loader has a {COLLATE} of its own")
    if named(source, MAP):
        line = getattr(named(source, MAP)[0], "lineno", 1)
        raise Conflict(f"{source.name}:{line}: what default_collate does is changed ({MAP})")
    for call in found:
        _check(source, call)
    return found


def _has_own(call: ast.Call) -> bool:
    return argument(call, COLLATE, PLACE) is not None


def _check(source: Source, call: ast.Call) -> None:
    """Raise where samples may come one by one, which default_collate does not see."""
    where = f"{source.name}:{call.lineno}"
    size = argument(call, "batch_size", 1)
    if size is not None and argument(call, "batch_sampler", 4) is None:
        values = [b.value for b in reaching(source, size, size)] if isinstance(size, ast.Name) else []
        for value in [size, *filter(None, values)]:
            if any(isinstance(n, ast.Constant) and n.value is None for n in ast.walk(value)):
                raise Ambiguous(f"{where}: without a batch size ({ast.unparse(value)}) a loader makes no batches")
    if not call.args and not call.keywords:
        raise Ambiguous(f"{where}: a loader of nothing")
