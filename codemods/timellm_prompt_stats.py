"""Bring the numbers that prompts tell to the host once for the whole batch, not one by one.

A prompt is written for each series, in a loop that asks tensors for their row with ``.tolist()``, ``.item()`` or a comparison: five
times the host waits for the device, for each of them. One copy of all rows ahead of the loop does instead; what the loop then
reads are arrays, so that the loop, and the text that it writes, stay as they are.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeGuard, Union

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source, callee

from ._counting import without_bar
from ._helpers import check_imported, insert_above, is_used, refuse_compiled
from ._lines import above, starts_line
from ._products import in_loop
from ._sample_loop import check_unchanged
from ._scopes import calls, certain, is_asked, parameters_of, position

HELPER, SITE = "_on_host", "rows"
HELPER_TEXT = f'''
def {HELPER}(*tensors):
    """`tensors` (R, ...), whose rows are read one by one, as arrays on the host: with a single copy for all of them.

    The bits of their numbers are copied as whole numbers, so that none is rounded; the arrays have 64 bits, in which those of 16
    and 32 are the same. What is no tensor of real numbers, or on several devices, is left as it is.
    """
    if not all(torch.is_tensor(tensor) and tensor.dim() and not tensor.is_complex() for tensor in tensors):
        return tensors
    if len({{(tensor.device, len(tensor)) for tensor in tensors}}) > 1:
        return tensors
    rows = [tensor.detach().resolve_neg().unsqueeze(-1).flatten(1) for tensor in tensors]
    for i, row in enumerate(rows):
        if row.dtype == torch.float64:
            rows[i] = row.view(torch.int64)
        elif row.is_floating_point():
            rows[i] = row.float().view(torch.int32)
    together = torch.cat(rows, dim=1).cpu().numpy()
    arrays, first = [], 0
    for tensor, row in zip(tensors, rows):
        array = together[:, first : first + row.shape[1]]
        if tensor.dtype == torch.float64:
            array = array.view("float64")
        elif tensor.is_floating_point():
            array = array.astype("int32").view("float32").astype("float64")
        elif tensor.dtype == torch.bool:
            array = array.astype("bool")
        arrays.append(array.reshape(tensor.shape))
        first += row.shape[1]
    return arrays
'''
Loop = Union[ast.For, ast.ListComp, ast.GeneratorExp]
READS = ("tolist", "item")
EXACT = range(128)
"""What a row may be compared with: numbers that are the same in every type that a tensor can have."""


class Rows(NamedTuple):
    """A loop, and the variables whose rows it reads, in the order in which it first does."""

    loop: Loop
    names: Sequence[str]


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``rows``: the first loop that reads tensors row by row to write prompts."""
    uses = calls(source, HELPER)
    if is_used(source, HELPER, uses):
        return [Site(SITE, uses[0].lineno, OURS)]
    return [Site(SITE, _loops(source)[0].loop.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the first class or function with such a loop, and asked ahead of each loop."""
    found = _loops(source)
    edits = [insert_above(source, found[0].loop, HELPER_TEXT)]
    for rows in found:
        names = ", ".join(rows.names)
        edits.append(above(source, source.statement(rows.loop), f"{names} = {HELPER}({names})"))
    return edits


def _loops(source: Source) -> list[Rows]:
    """Every loop in which prompts are written from rows of tensors."""
    nodes = [n for n in source.nodes(*READS) if isinstance(n, (ast.For, ast.ListComp, ast.GeneratorExp))]
    found = [Rows(loop, names) for loop in nodes if _writes_text(loop) and (names := _read_rows(source, loop))]
    found = [rows for rows in found if len(rows.names) > 1]
    if not found:
        raise NoSite(
            f"{source.name}: no loop writes prompts from rows of tensors (.tolist(), .item()): there is nothing to be saved"
        )
    for rows in found:
        _check(source, rows)
    check_imported(source, "torch")
    return found


def _writes_text(loop: Loop) -> bool:
    nodes = list(ast.walk(loop))
    return any(
        isinstance(n, ast.JoinedStr) or (isinstance(n, ast.Call) and callee(n) in ("str", "format")) for n in nodes
    )


def _counters(source: Source, loop: Loop) -> set[str]:
    """The variables that count the rows: those of a ``range``, and the first of an ``enumerate``."""
    pairs = [(loop.target, loop.iter)] if isinstance(loop, ast.For) else [(g.target, g.iter) for g in loop.generators]
    found = set()
    for target, iterated in pairs:
        among = without_bar(source, iterated)
        kind = among.func.id if isinstance(among, ast.Call) and isinstance(among.func, ast.Name) else ""
        if kind == "enumerate" and isinstance(target, ast.Tuple):
            target = target.elts[0]
        elif kind != "range":
            continue
        found |= {target.id} if isinstance(target, ast.Name) else set()
    return found


def _read_rows(source: Source, loop: Loop) -> list[str]:
    """The variables of which a row is brought to the host, and those that are compared beside them."""
    brought: dict[str, None] = {}
    compared: dict[str, None] = {}
    for name, node in sorted(_rows(source, loop), key=lambda pair: position(pair[1])):
        kind = _kind(source, node)
        (brought if kind in READS else compared if kind else {})[name.id] = None
    return [*brought, *(name for name in compared if name not in brought)] if brought else []


def _rows(source: Source, loop: Loop) -> Iterator[tuple[ast.Name, ast.Subscript]]:
    """``name[b]`` and ``name[b, 0]`` for a variable that counts the rows."""
    counters = _counters(source, loop)
    for node in ast.walk(loop):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and isinstance(node.ctx, ast.Load):
            first, *rest = node.slice.elts if isinstance(node.slice, ast.Tuple) and node.slice.elts else [node.slice]
            is_row = isinstance(first, ast.Name) and first.id in counters and node.value.id not in counters
            if is_row and all(isinstance(other, ast.Constant) for other in rest):
                yield node.value, node


def _kind(source: Source, row: ast.Subscript) -> str:
    """What becomes of a row: ``tolist``, ``item`` or ``compared``; nothing, where it is used in another way."""
    node: ast.AST = row
    parent, *around = source.ancestors(row)
    while isinstance(parent, ast.Subscript) and parent.value is node and isinstance(parent.slice, ast.Constant):
        node, (parent, *around) = parent, around
    call = around[0]
    is_called = isinstance(call, ast.Call) and call.func is parent and not call.args and not call.keywords
    if isinstance(parent, ast.Attribute) and parent.attr in READS:
        return parent.attr if is_called else ""
    if isinstance(parent, ast.Compare) and len(parent.ops) == 1:
        (other,) = [side for side in (parent.left, *parent.comparators) if side is not node]
        is_number = isinstance(other, ast.Constant) and type(other.value) in (int, float) and other.value in EXACT
        return "compared" if is_number and is_asked(source, parent) else ""
    return ""


def _check(source: Source, rows: Rows) -> None:
    """Raise where one of the variables may be something else than rows for this loop."""
    loop, function = rows.loop, source.function(rows.loop)
    if function is None or not starts_line(source, source.statement(loop)):
        raise Ambiguous(f"{source.name}:{loop.lineno}: the loop is in no function, or shares its line")
    refuse_compiled(source, function)
    if in_loop(source, loop):
        raise Ambiguous(f"{source.name}:{loop.lineno}: the loop is in another one")
    end = (loop.end_lineno or 0, loop.end_col_offset or 0)
    inside = set(map(id, ast.walk(loop)))
    for name in rows.names:
        own = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name]
        good = {id(n) for n, row in _rows(source, loop) if n.id == name and _kind(source, row)}
        bad = [n for n in own if id(n) in inside and id(n) not in good]
        later = [n for n in own if position(n) >= end and isinstance(n.ctx, ast.Load)]
        if bad or later:
            line = (bad or later)[0].lineno
            raise Ambiguous(f"{source.name}:{line}: {name} is read there as a tensor, and not row by row")
        given = [source.statement(n) for n in own if isinstance(n.ctx, ast.Store)]
        is_given = any(certain(source, statement, loop) for statement in given)
        if not is_given and name not in [parameter.arg for parameter in parameters_of(function)]:
            raise Ambiguous(f"{source.name}:{loop.lineno}: where {name} comes from cannot be told")
    names = [n for n in ast.walk(function) if _is_one_of(n, rows.names)]
    if any(_is_declared(n) or source.function(n) is not function or _is_in_lambda(source, n) for n in names):
        raise Ambiguous(f"{source.name}:{loop.lineno}: the variables are those of another function, too")
    check_unchanged(source, loop)


def _is_in_lambda(source: Source, node: ast.AST) -> bool:
    return any(isinstance(n, ast.Lambda) for n in source.ancestors(node))


def _is_one_of(node: ast.AST, names: Sequence[str]) -> bool:
    return (isinstance(node, ast.Name) and node.id in names) or (_is_declared(node) and bool({*node.names} & {*names}))


def _is_declared(node: ast.AST) -> TypeGuard[Union[ast.Global, ast.Nonlocal]]:
    """Whether that says that variables are another function's, or the module's."""
    return isinstance(node, (ast.Global, ast.Nonlocal))
