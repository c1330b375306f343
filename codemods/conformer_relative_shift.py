"""Shift the scores of relative attention by a view: no copy of the largest tensor that attention has.

Each row of the scores by distance (B, H, T, N) has to move one column further than the row above it. Usual code adds a column,
folds the rows anew, and drops the first: a copy of (B, H, T, N + 1). The same elements lie in the memory of the original, each
row N - 1 further on than the last, so that a view reads them where they are (Z. Dai et al., "Transformer-XL", ACL 2019,
https://arxiv.org/abs/1901.02860, appendix B).
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, callee, first_line, last_line

from ._helpers import check_imported, has_helper, insert_above, meant, refuse_compiled
from ._lines import is_alone
from ._products import holds_product, in_loop, is_product, is_read_after, reads_after
from ._scopes import argument, calls, certain, methods, named, parameters_of, position

HELPER, SITE = "_shifted_rows", "shift"
HELPER_TEXT = '''
def _shifted_rows(scores):
    """Scores by distance (B, H, T, N) to scores by frame (B, H, T, N - T + 1): each row starts one column before the one above.

    The last row starts with the first column. Nothing is copied: in memory a row begins N - 1 behind where the last one did.
    With fewer columns than 2 T - 1 more of them may be wanted than that, and a trace has to hold for a single row, which would be
    another view; there the rows are folded over a column of zeros.
    """
    batch, heads, rows, columns = scores.shape
    if torch.jit.is_tracing() or not 0 < rows <= (columns + 1) // 2:
        padded = torch.nn.functional.pad(scores, (1, 0)).view(batch, heads, columns + 1, rows)
        return padded[:, :, 1:].view(batch, heads, rows, columns)
    if rows == 1:
        return scores
    flat = scores.reshape(batch, heads, rows * columns)[:, :, rows - 1 : -1]
    return flat.view(batch, heads, rows, columns - 1)[:, :, :, : columns - rows + 1]
'''


class Shift(NamedTuple):
    """A method that shifts: its class, itself, its statements behind the docstring, and what it is given."""

    cls: ast.ClassDef
    method: Function
    body: Sequence[ast.stmt]
    given: str


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``shift``: the body of the method that shifts the rows."""
    uses = calls(source, HELPER)
    if has_helper(source, HELPER, uses, 1):
        return [Site(SITE, uses[0].lineno, OURS)]
    return [Site(SITE, _shift(source).body[0].lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the class, asked by the method."""
    found = _shift(source)
    first, last = first_line(found.body[0]), last_line(found.body[-1])
    text = f"{source.indent(first)}return {HELPER}({found.given}){source.newline(first)}"
    return [insert_above(source, found.cls, HELPER_TEXT), Edit(first, last, text)]


def _shift(source: Source) -> Shift:
    classes = [n for n in source.nodes("pad") if isinstance(n, ast.ClassDef)]
    shifts = [s for cls in classes for m in methods(cls) if (s := _shifting(source, cls, m))]
    if not shifts:
        raise NoSite(
            f"{source.name}: no method shifts scores by a column of padding (pad, view, [:, :, 1:], view): "
            "there is nothing to be saved"
        )
    if len(shifts) > 1:
        lines = ", ".join(str(s.method.lineno) for s in shifts)
        raise Ambiguous(f"{source.name}: {len(shifts)} methods shift scores: lines {lines}")
    (found,) = shifts
    name = found.method.name
    refuse_compiled(source, found.method)
    others = [m for n in source.nodes(name) if isinstance(n, ast.ClassDef) for m in methods(n) if m.name == name]
    if len(others) > 1:
        lines = ", ".join(str(m.lineno) for m in others)
        raise Ambiguous(f"{source.name}: {len(others)} methods are called {name}: lines {lines}")
    if not all(is_alone(source, statement) for statement in found.body):
        raise Ambiguous(f"{source.name}:{found.method.lineno}: {name} has other code on its lines")
    check_imported(source, "torch")
    _check_callers(source, name)
    return found


def _shifting(source: Source, cls: ast.ClassDef, method: Function) -> Optional[Shift]:
    """The method as a shift, where that is all that it does."""
    names = [a.arg for a in (*method.args.posonlyargs, *method.args.args)]
    is_plain = not (method.args.kwonlyargs or method.args.vararg or method.args.kwarg or method.args.defaults)
    if len(names) != 2 or not is_plain or isinstance(method, ast.AsyncFunctionDef):
        return None
    has_words = isinstance(method.body[0], ast.Expr) and isinstance(method.body[0].value, ast.Constant)
    body = method.body[1:] if has_words else method.body
    result = _inlined(body, names[1])
    return Shift(cls, method, body, names[1]) if result is not None and _is_shift(source, result) else None


def _inlined(body: Sequence[ast.stmt], given: str) -> Optional[ast.expr]:
    """What straight code returns, as one expression of :data:`GIVEN` and :data:`SIZE`."""
    values: dict[str, ast.expr] = {given: ast.Name(GIVEN, ast.Load())}
    for statement in body[:-1]:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            return None
        target, value = statement.targets[0], _with_values(statement.value, values)
        if isinstance(target, ast.Name):
            values[target.id] = value
        elif isinstance(target, ast.Tuple) and ast.unparse(value) in SIZES and len(target.elts) == 4:
            if not all(isinstance(element, ast.Name) for element in target.elts):
                return None
            values |= {ast.unparse(e): ast.Name(SIZE[i], ast.Load()) for i, e in enumerate(target.elts)}
        else:
            return None
    last = body[-1] if body else None
    if not isinstance(last, ast.Return) or last.value is None:
        return None
    return _with_values(last.value, values)


GIVEN, SIZE = "§", ("§0", "§1", "§2", "§3")
"""What stands for what a method is given, and for its sizes: no names that code could have."""
SIZES = (f"{GIVEN}.size()", f"{GIVEN}.shape")


def _with_values(node: ast.expr, values: Mapping[str, ast.expr]) -> ast.expr:
    """A copy of ``node`` with the variables' values in their places."""
    copy = ast.parse(ast.unparse(node), mode="eval")
    return _Inline(values).visit(copy).body  # type: ignore[no-any-return]


class _Inline(ast.NodeTransformer):
    def __init__(self, values: Mapping[str, ast.expr]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.values.get(node.id, node)


def _is_shift(source: Source, result: ast.expr) -> bool:
    """Whether that is ``pad(x, (1, 0)).view(B, H, N + 1, T)[:, :, 1:].view(B, H, T, N)``, however it is written."""
    dropped = _viewed(result, ["{0}, {1}, {2}, {3}"])
    if not isinstance(dropped, ast.Subscript) or ast.unparse(dropped.slice).strip("()") not in FIRST_DROPPED:
        return False
    folded = _viewed(dropped.value, ["{0}, {1}, -1, {2}", "{0}, {1}, {3} + 1, {2}"])
    if not isinstance(folded, ast.Call) or meant(source, folded.func) != PAD:
        return False
    if any(k.arg not in PADDING for k in folded.keywords) or len(folded.args) > len(PADDING):
        return False
    given = {name: argument(folded, name, index) for index, name in enumerate(PADDING)}
    is_padded = given["input"] is not None and given["pad"] is not None
    return is_padded and all(value is None or ast.unparse(value) in PADDING[name] for name, value in given.items())


PAD = "torch.nn.functional.pad"
PADDING = {
    "input": (GIVEN,),
    "pad": ("(1, 0)", "[1, 0]"),
    "mode": ("'constant'",),
    "value": ("0", "0.0", "None"),
}
FIRST_DROPPED = (":, :, 1:", ":, :, 1:, :")


def _viewed(node: ast.expr, forms: Sequence[str]) -> Optional[ast.expr]:
    """What is viewed, or reshaped, in these sizes."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.keywords:
        return None
    texts = [ast.unparse(argument) for argument in node.args]
    for i, size in enumerate(SIZE):
        texts = [text.replace(f"{GIVEN}.size({i})", size).replace(f"{GIVEN}.shape[{i}]", size) for text in texts]
    is_view = callee(node) in ("view", "reshape") and ", ".join(texts).strip("()[]") in [
        form.format(*SIZE) for form in forms
    ]
    is_same = callee(node) == "view_as" and texts == [GIVEN] and "{0}, {1}, {2}, {3}" in forms
    return node.func.value if is_view or is_same else None


def _check_callers(source: Source, name: str) -> None:
    """Raise where a caller reads more columns than there are frames, or may keep what it hands over: ours is a view of that."""
    uses = [n for n in source.nodes(name) if isinstance(n, ast.Attribute) and n.attr == name]
    if not uses:
        raise NoSite(f"{source.name}: {name} is not used in this file")
    texts = [n for n in source.nodes(name) if isinstance(n, ast.Constant) and n.value == name]
    for other in [*texts, *(n for n in named(source, name) if isinstance(n, ast.Name))]:
        raise Ambiguous(f"{source.name}:{other.lineno}: {name} has another name there, and who calls it cannot be told")
    for use in uses:
        call = source.ancestors(use)[0]
        if not isinstance(call, ast.Call) or call.func is not use:
            raise Ambiguous(f"{source.name}:{use.lineno}: {name} is handed on, and who calls it cannot be told")
        if not _is_handed_over(source, call):
            raise Ambiguous(
                f"{source.name}:{use.lineno}: what {name} is given is not a matrix product that nobody else reads: a view may not do"
            )
        if not _is_cut(source, call, _operands(source, call)):
            raise Ambiguous(
                f"{source.name}:{use.lineno}: what {name} gives is not cut to the first columns ([:, :, :, :n]) before it is used"
            )


def _is_handed_over(source: Source, call: ast.Call) -> bool:
    """Whether the caller gives a new tensor away: a matrix product, or a variable that holds one and is not read again."""
    (given,) = call.args if len(call.args) == 1 and not call.keywords else (None,)
    if not isinstance(given, ast.Name):
        return given is not None and is_product(source, given)
    statement = source.statement(call)
    is_renewed = isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == given.id
    return holds_product(source, given) and (is_renewed or not is_read_after(source, given))


def _operands(source: Source, call: ast.Call) -> set[str]:
    """The variables in the product that is handed over: their sizes are not that of the scores by frame."""
    (given,) = call.args
    around, here = source.function(call) or source.tree, position(source.statement(call))
    own = [n for n in ast.walk(around) if isinstance(n, ast.Name) and n.id == ast.unparse(given)]
    products = [source.statement(n) for n in own if isinstance(n.ctx, ast.Store) and position(n) < here]
    return {n.id for node in (given, *products) for n in ast.walk(node) if isinstance(n, ast.Name)}


def _is_cut(source: Source, call: ast.Call, operands: Collection[str]) -> bool:
    """Whether only the first columns of what ``call`` gives are used, as many as something else than ``operands`` has."""
    if _first_columns(source, source.ancestors(call)[0], call, operands):
        return True
    statement, function = source.statement(call), source.function(call)
    targets = statement.targets if isinstance(statement, ast.Assign) and statement.value is call else []
    if len(targets) != 1 or not isinstance(targets[0], ast.Name) or function is None or in_loop(source, call):
        return False
    name = targets[0].id
    loads = reads_after(source, statement, name)
    cuts = [source.statement(n) for n in loads if _first_columns(source, source.ancestors(n)[0], n, operands)]
    renewed = [s for s in cuts if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == name]
    inside = all(function is source.function(n) for n in loads)
    sure = [
        n
        for n in loads
        if any(certain(source, statement, n) and source.statement(n) not in cuts for statement in renewed)
    ]
    rest = [n for n in loads if n not in sure]
    return inside and bool(cuts) and all(_first_columns(source, source.ancestors(n)[0], n, operands) for n in rest)


def _first_columns(source: Source, node: ast.AST, whole: ast.expr, operands: Collection[str]) -> bool:
    """Whether ``node`` is ``whole[:, :, :, :n]`` or ``whole[..., :n]``, with an ``n`` that counts from the front."""
    if not isinstance(node, ast.Subscript) or node.value is not whole or not isinstance(node.slice, ast.Tuple):
        return False
    *others, last = node.slice.elts
    if not (isinstance(last, ast.Slice) and last.lower is None and last.step is None and last.upper is not None):
        return False
    is_cut = ", ".join(map(ast.unparse, others)) in (":, :, :", "...")
    return is_cut and _is_a_number_of_frames(source, last.upper, operands)


def _is_a_number_of_frames(source: Source, number: ast.expr, operands: Collection[str]) -> bool:
    """Whether a number is a size of something else than ``operands``, or a variable that holds such sizes only."""
    function = source.function(number)
    if not isinstance(number, ast.Name) or function is None:
        return _is_a_size(number, operands)
    named = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == number.id]
    own = [n for n in named if not isinstance(n.ctx, ast.Load)]
    variadic = [a for a in (function.args.vararg, function.args.kwarg) if a]
    if any(parameter.arg == number.id for parameter in (*parameters_of(function), *variadic)):
        return False
    given = [source.statement(n) for n in own]
    return bool(given) and all(
        isinstance(s, ast.Assign) and (_is_a_size(s.value, operands) or _are_sizes(s, own)) for s in given
    )


def _is_a_size(node: ast.expr, operands: Collection[str]) -> bool:
    """``x.size(i)`` or ``x.shape[i]`` of something else than ``operands``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr == "size" and len(node.args) == 1 and ast.unparse(node.func.value) not in operands
    is_shape = isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "shape"
    return is_shape and ast.unparse(node.value.value) not in operands  # type: ignore[attr-defined]


def _are_sizes(statement: ast.Assign, own: Sequence[ast.Name]) -> bool:
    """Whether the variable is one of several that get a tensor's sizes: ``b, h, t, d = x.shape``."""
    (target, *others), value = statement.targets, statement.value
    is_all = isinstance(value, ast.Attribute) and value.attr == "shape"
    is_all = is_all or (isinstance(value, ast.Call) and callee(value) == "size" and not value.args)
    return is_all and not others and isinstance(target, ast.Tuple) and any(n in target.elts for n in own)
