"""Make the attention's padding mask (B, T, T) without a copy for each row: ``expand`` in the place of ``repeat``.

``_create_masks`` repeats the padding mask (B, 1, T) once for each frame, and combines it with its own transpose. A view that
repeats nothing in memory combines to the same (https://docs.pytorch.org/docs/stable/generated/torch.Tensor.expand.html).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, callee, own_nodes

from ._lines import respelled, text_of
from ._products import is_later
from ._scopes import methods

METHOD, SITE = "_create_masks", "padding"
VIEWS = {"transpose", "permute", "to"}
READS = {"logical_and", "logical_or", "bitwise_and", "size", "shape", "device", "dtype", "dim", "ndim"}


class Repeated(NamedTuple):
    """``x.unsqueeze(1).repeat(1, n, 1)`` or the same with ``expand``; ``rows`` is ``n``, as the place has it."""

    call: ast.Call
    rows: str


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``padding``: where the padding mask gets a row for each frame."""
    found = {id(r.call): (m, r) for m in _methods(source) for r in _repeated(m)}
    if len(found) > 1:
        lines = ", ".join(str(r.call.lineno) for _, r in found.values())
        raise Ambiguous(f"{source.name}: {METHOD}() makes rows of a mask {len(found)} times: lines {lines}")
    if not found:
        raise NoSite(f"{source.name}: no {METHOD}() repeats a mask for each frame (x.unsqueeze(1).repeat(1, n, 1))")
    ((method, repeated),) = found.values()
    if callee(repeated.call) == "repeat":
        _check_only_read(source, method, repeated)
        return [Site(SITE, repeated.call.lineno, TODO)]
    is_ours = ast.unparse(repeated.call).endswith(f".expand(-1, {repeated.rows}, -1)")
    return [
        Site(SITE, repeated.call.lineno, OURS if is_ours else THEIRS, "" if is_ours else "the mask is expanded already")
    ]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """A view in the place of the copies."""
    ((call, rows),) = [r for m in _methods(source) for r in _repeated(m)]
    assert isinstance(call.func, ast.Attribute)
    text = text_of(source, call.func.value)
    return [respelled(source, source.statement(call), {call: f"{text}.expand(-1, {rows}, -1)"})]


def _methods(source: Source) -> list[Function]:
    classes = [n for n in ast.walk(source.tree) if isinstance(n, ast.ClassDef)]
    return [m for cls in classes for m in methods(cls) if m.name == METHOD]


def _repeated(method: Function) -> list[Repeated]:
    found = []
    for node in own_nodes(method):
        if isinstance(node, ast.Call) and callee(node) in ("repeat", "expand") and isinstance(node.func, ast.Attribute):
            rows = _rows(node)
            if rows and _has_axis(node.func.value):
                found.append(Repeated(node, rows))
    return found


def _rows(call: ast.Call) -> Optional[str]:
    """The number of rows: of three sizes the middle one, where the others stay as they are."""
    sizes = call.args[0].elts if len(call.args) == 1 and isinstance(call.args[0], (ast.List, ast.Tuple)) else call.args
    texts = [ast.unparse(size) for size in sizes]
    same = ("1",) if callee(call) == "repeat" else ("-1", "1")
    return texts[1] if len(texts) == 3 and not call.keywords and texts[0] in same and texts[2] in same else None


def _has_axis(node: ast.expr) -> bool:
    """Whether it has one row: ``x.unsqueeze(1)`` or ``x[:, None]``."""
    text = ast.unparse(node)
    return text.endswith((".unsqueeze(1)", ".unsqueeze(dim=1)", "[:, None]", "[:, None, :]"))


def _check_only_read(source: Source, method: Function, repeated: Repeated) -> None:
    """Raise where what is repeated may be written to: a view has one memory for all its rows."""
    statement = source.statement(repeated.call)
    target = _target(statement) if getattr(statement, "value", None) is repeated.call else None
    name = target.id if target else ""
    own = [n for n in own_nodes(method) if isinstance(n, ast.Name) and n.id == name and not _is_given(source, n)]
    if not name and not _is_read(source, repeated.call):
        raise Ambiguous(f"{source.name}:{repeated.call.lineno}: what becomes of the repeated mask cannot be told")
    nested = [
        n for n in ast.walk(method) if isinstance(n, ast.Name) and n.id == name and source.function(n) is not method
    ]
    for use in [*own, *nested]:
        if use in nested or is_later(source, use) or not _is_read(source, use):
            raise Ambiguous(f"{source.name}:{use.lineno}: the repeated mask is used there, and may be written to")


def _target(statement: ast.AST) -> Optional[ast.Name]:
    """The one variable that an assignment gives a value."""
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return targets[0] if len(targets) == 1 and isinstance(targets[0], ast.Name) else None


def _is_given(source: Source, name: ast.Name) -> bool:
    """Whether ``name`` stands there to get another value."""
    return name is _target(source.ancestors(name)[0])


def _is_read(source: Source, node: ast.AST) -> bool:
    """Whether ``node`` is given to an operation that makes something new of it."""
    parent = source.ancestors(node)[0]
    if isinstance(parent, (ast.BinOp, ast.UnaryOp, ast.Compare)):
        return True
    if isinstance(parent, ast.Attribute):
        return parent.attr in READS or (parent.attr in VIEWS and _is_read(source, source.ancestors(parent)[0]))
    return isinstance(parent, ast.Call) and callee(parent) in READS
