"""Bring the statistics that wavelet prompts tell to the host once for the whole batch.

A prompt tells the mean of the variables' minima, maxima and medians, and the lags of the first variable. The loop over samples waits
for the device for each of them. One copy ahead of the loop does instead.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._counting import Counting, counting
from ._helpers import check_imported, insert_above, is_used, refuse_compiled, refuse_taken
from ._lines import above, all_respelled, starts_line
from ._products import in_loop
from ._sample_loop import WRITER, check_given, check_plain, check_unchanged, given_once
from ._scopes import calls, position

HELPER, SITE = "_of_samples", "statistics"
HELPER_TEXT = f'''
def {HELPER}(n_vars, averaged, first):
    """For each sample of `n_vars` rows: the mean of each tensor of `averaged` (rows, 1), the first row of each of `first` (rows, K).

    All of them as lists, with a single copy to the host, in float64, which holds each of these numbers.
    """

    def means(x):
        is_plain = x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous() and x.shape[1] == 1
        if is_plain and len(x) % n_vars == 0:
            return x.reshape(-1, n_vars).mean(dim=1, keepdim=True)
        return torch.stack([part.mean() for part in x.split(n_vars)])[:, None]

    every = [*averaged, *first]
    kinds = [(type(x), len(x), getattr(x, "device", None), getattr(x, "ndim", 0)) for x in every]
    if kinds != kinds[:1] * len(kinds) or kinds[0][0] is not torch.Tensor or kinds[0][3] != 2:
        samples = range(len(every[0]) // n_vars)
        means = [[x[b * n_vars : (b + 1) * n_vars].mean().item() for b in samples] for x in averaged]
        return means, [[x[b * n_vars].tolist() for b in samples] for x in first]
    if not len(every[0]):
        return [[] for _ in averaged], [[] for _ in first]
    columns = [*map(means, averaged), *(x[::n_vars] for x in first)]
    together = torch.cat([column.double() for column in columns], dim=1).cpu()
    found = [
        part.to(column.dtype).tolist()
        for part, column in zip(together.split([column.shape[1] for column in columns], dim=1), columns)
    ]
    return [[mean for (mean,) in rows] for rows in found[: len(averaged)]], found[len(averaged) :]
'''
READS = ("item", "tolist")
SIZE = re.compile(r"\w+\.(shape\[-?\d\]|size\(-?\d\))")


class Read(NamedTuple):
    """What the loop reads of a tensor: the mean over a sample's rows, or the first of them."""

    node: ast.Call
    name: str
    is_mean: bool


class Statistics(NamedTuple):
    """A loop over samples, the variable that counts them, the one that holds how many rows a sample has, and what is read."""

    loop: ast.For
    number: str
    rows: str
    reads: Sequence[Read]


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``statistics``: the first number that is read."""
    uses = calls(source, HELPER)
    if is_used(source, HELPER, uses, 1):
        return [Site(SITE, uses[0].lineno, OURS)]
    return [Site(SITE, _statistics(source).reads[0].node.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the class, asked ahead of the loop; in the loop its results."""
    found = _statistics(source)
    averaged = list(dict.fromkeys(read.name for read in found.reads if read.is_mean))
    first = list(dict.fromkeys(read.name for read in found.reads if not read.is_mean))
    results = f"{_listed([_named(n, True) for n in averaged])}, {_listed([_named(n, False) for n in first])}"
    call = f"{results} = {HELPER}({found.rows}, {_listed(averaged)}, {_listed(first)})"
    changes: dict[ast.expr, str] = {r.node: f"{_named(r.name, r.is_mean)}[{found.number}]" for r in found.reads}
    return [
        insert_above(source, found.loop, HELPER_TEXT),
        above(source, found.loop, call),
        *all_respelled(source, changes),
    ]


def _named(name: str, is_mean: bool) -> str:
    return f"mean_{name}" if is_mean else f"first_{name}"


def _listed(names: Sequence[str]) -> str:
    return f"[{', '.join(names)}]"


def _statistics(source: Source) -> Statistics:
    loops = [n for n in source.nodes(WRITER) if isinstance(n, ast.For) and calls(source, WRITER, n)]
    found = [statistics for loop in loops if (statistics := _in_loop(source, loop))]
    if not found:
        raise NoSite(
            f"{source.name}: no loop over samples reads means and first rows of tensors, to write prompts ({WRITER})"
        )
    if len(found) > 1:
        lines = ", ".join(str(statistics.loop.lineno) for statistics in found)
        raise Ambiguous(f"{source.name}: {len(found)} loops do: lines {lines}")
    _check(source, found[0])
    return found[0]


def _in_loop(source: Source, loop: ast.For) -> Optional[Statistics]:
    counted = counting(source, loop)
    if not counted:
        return None
    for rows in _sizes(source, loop, counted):
        reads = [read for node in _calls_in(loop) if (read := _read(loop, node, counted.number, rows))]
        if len(reads) > 1:
            return Statistics(loop, counted.number, rows, reads)
    return None


def _calls_in(loop: ast.For) -> list[ast.Call]:
    """The calls without arguments of what brings a tensor to the host, in order."""
    found = [n for n in ast.walk(loop) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    plain = [n for n in found if n.func.attr in READS and not n.args and not n.keywords]  # type: ignore[attr-defined]
    return sorted(plain, key=position)


def _sizes(source: Source, loop: ast.For, counted: Counting) -> list[str]:
    """The variables that get their values from the shape of a tensor, beside the number of samples that ``loop`` counts to."""
    function = source.function(loop)
    text = ast.unparse(counted.stop) if counted.stop else ""
    is_length = counted.among is not None or re.fullmatch(r"len\(\w+\)|\w+\.(shape\[0\]|size\(0\))", text)
    found = []
    for node in ast.walk(function) if function else ():
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        if isinstance(target, ast.Name) and isinstance(node, ast.Assign) and SIZE.fullmatch(ast.unparse(node.value)):
            found.append(target.id)
        if isinstance(target, ast.Tuple) and isinstance(node, ast.Assign):
            first, *others = [ast.unparse(part) for part in target.elts]
            is_shape = ast.unparse(node.value).endswith((".shape", ".size()"))
            found += others if is_shape and (is_length or first == text) else []
    return found


def _read(loop: ast.For, node: ast.Call, number: str, rows: str) -> Optional[Read]:
    """``x[b * N : (b + 1) * N].mean().item()`` or ``x[b * N].tolist()``, under whatever names."""
    inner = node.func.value if isinstance(node.func, ast.Attribute) else node
    is_mean = isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr == "mean"
    if is_mean and isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
        if inner.args or inner.keywords or ast.unparse(node).endswith("tolist()"):
            return None
        inner = inner.func.value
    if not isinstance(inner, ast.Subscript) or not isinstance(inner.value, ast.Name):
        return None
    index = _resolved(loop, inner.slice)
    first = (f"{number} * {rows}", f"{rows} * {number}")
    last = (f"({number} + 1) * {rows}", f"{rows} * ({number} + 1)", *(f"{start} + {rows}" for start in first))
    if is_mean:
        of_sample = {f"{a}:{b}" for a in first for b in last} | {f"slice({a}, {b})" for a in first for b in last}
        return Read(node, inner.value.id, True) if index in of_sample else None
    return Read(node, inner.value.id, False) if index in first and ast.unparse(node).endswith("tolist()") else None


def _resolved(loop: ast.For, index: ast.expr) -> str:
    """``index`` with what its variables stand for: those that get their value once, in a statement of ``loop``'s own."""
    if isinstance(index, ast.Slice) and index.lower and index.upper and not index.step:
        return f"{_resolved(loop, index.lower)}:{_resolved(loop, index.upper)}"
    return ast.unparse(_Resolved(loop).visit(copy.deepcopy(index)))


class _Resolved(ast.NodeTransformer):
    """What the variables of ``loop`` stand for in the place of them: those that get their value once, in a statement of its own."""

    def __init__(self, loop: ast.For) -> None:
        self.loop = loop

    def visit_Name(self, node: ast.Name) -> ast.expr:
        given = given_once(self.loop, node.id)
        is_before = given is not None and position(given) < position(node)
        return self.visit(copy.deepcopy(given)) if given is not None and is_before else node


def _check(source: Source, found: Statistics) -> None:
    """Raise where the tensors or sizes may be others ahead of the loop."""
    loop, function = found.loop, source.function(found.loop)
    if function is None or not starts_line(source, loop) or in_loop(source, loop):
        raise Ambiguous(f"{source.name}:{loop.lineno}: the loop is in no function, in another loop, or shares its line")
    refuse_compiled(source, function)
    check_imported(source, "torch")
    refuse_taken(source, *{_named(read.name, read.is_mean) for read in found.reads})
    names = {read.name for read in found.reads}
    reads = {id(n) for read in found.reads for n in ast.walk(read.node)}
    for node in ast.walk(loop):
        if isinstance(node, ast.Name) and node.id in names and isinstance(node.ctx, ast.Load) and id(node) not in reads:
            raise Ambiguous(f"{source.name}:{node.lineno}: {node.id} is used for something else in the loop, too")
    check_plain(source, loop)
    changing = {found.number, found.rows, *names}
    for node in ast.walk(loop):
        is_store = isinstance(node, ast.Name) and node.id in changing and not isinstance(node.ctx, ast.Load)
        if is_store and node not in ast.walk(loop.target):
            raise Ambiguous(f"{source.name}:{loop.lineno}: {ast.unparse(node)} changes in the loop")
    check_unchanged(source, loop)
    for name in (found.rows, *sorted(names)):
        check_given(source, loop, name)
    first = [read.name for read in found.reads if not read.is_mean]
    for name in (name for name in first if first.count(name) > 1):
        raise Ambiguous(f"{source.name}:{loop.lineno}: {name} is read in several places: each has a list of its own")
