"""Calls of PyTorch's DataLoader: what they are given, and how one is given one more argument.

https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.DataLoader
"""

from __future__ import annotations

import ast
from typing import Optional

from apply_opt.errors import Ambiguous
from apply_opt.model.source import Source, callee

from ._lines import text_of
from ._scopes import bindings, named

LOADERS = ("torch.utils.data.DataLoader", "torch.utils.data.dataloader.DataLoader")
ARGUMENTS = ("dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "num_workers", "collate_fn")


def arguments(source: Source, call: ast.Call) -> dict[str, ast.expr]:
    """What a loader is given, by name; also by ``**options`` where these are written out. Raises where that cannot be seen."""
    where = f"{source.name}:{call.lineno}: some of the loader's arguments are not to be seen"
    if any(isinstance(value, ast.Starred) for value in call.args):
        raise Ambiguous(where)
    found = dict(zip(ARGUMENTS, call.args))
    for keyword in call.keywords:
        if keyword.arg is None:
            options = _written_out(source, keyword.value)
            if options is None:
                raise Ambiguous(where)
            found |= options
        else:
            found[keyword.arg] = keyword.value
    return found


def _written_out(source: Source, options: ast.expr) -> Optional[dict[str, ast.expr]]:
    """The contents of a dictionary that is written out, and only ever used for ``**options``."""
    if isinstance(options, ast.Name):
        found = bindings(source, options, options)
        value = found[0].value if len(found) == 1 else None
        users = [source.ancestors(use)[0] for use in uses(source, options)]
        if value is None or not all(isinstance(user, ast.keyword) and user.arg is None for user in users):
            return None
        options = value
    if isinstance(options, ast.Call) and callee(options) == "dict" and not options.args:
        return None if any(k.arg is None for k in options.keywords) else {str(k.arg): k.value for k in options.keywords}
    if isinstance(options, ast.Dict) and all(isinstance(key, ast.Constant) for key in options.keys):
        return {str(key.value): value for key, value in zip(options.keys, options.values)}  # type: ignore[union-attr]
    return None


def uses(source: Source, target: ast.Name) -> list[ast.Name]:
    """Where a variable is read: in its function, or everywhere, where it is one of the file's."""
    function = source.function(target)
    reads = [n for n in named(source, target.id) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    return [n for n in reads if function is None or function in source.ancestors(n)]


def one_more(source: Source, call: ast.Call, argument: str) -> tuple[ast.expr, str]:
    """What is written in another way for one more ``argument``: the call, or its last argument where comments are between."""
    more, whole = f"{_gap(source, call)}{argument}", text_of(source, call)
    if "#" in whole:
        last = call.keywords[-1].value if call.keywords else call.args[-1]
        return last, f"{text_of(source, last)},{more}"
    inner = whole[:-1].rstrip()
    has_comma = inner.endswith(",")
    return call, f"{inner}{'' if has_comma else ','}{more}{',' if has_comma else ''}{whole[len(inner) :]}"


def _gap(source: Source, call: ast.Call) -> str:
    """What stands in front of one more argument: a new line, where the last one has a line of its own."""
    last = call.keywords[-1] if call.keywords else call.args[-1]
    before = source.lines[last.lineno - 1].encode()[: last.col_offset].decode()
    return " " if before.strip() else source.newline(last.lineno) + before
