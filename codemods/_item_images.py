"""The images of a data set's items, which are divided by 255 there: where that is, and what becomes of it.

A division is known by its divisor. It has to be all that is left to be done: what it gives is an element of the tuple that
``__getitem__`` gives, and nothing else. Raises where that cannot be told.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Set
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, Conflict, NoSite
from apply_opt.model.source import Function, Source, callee, own_nodes

from ._episodes import leaves
from ._helpers import meant
from ._scopes import class_of, family, methods, named, position
from ._stage_calls import untimed

CHANNELS = {"einsum", "permute", "rearrange", "transpose", "moveaxis", "movedim", "swapaxes"}
FLOATS = {"float", "double", "half", "bfloat16", "type", "type_as", "astype", "to", "FloatTensor", "numpy"}
FRESH = {"stack", "concatenate", "cat", "array", "copy", "clone", "tensor", "vstack", "hstack"}
"""Calls that make new memory."""


class Images(NamedTuple):
    """The division, what is divided (``is_float``: as floats), and which element of an item it is."""

    cls: ast.ClassDef
    method: Function
    division: ast.expr
    divided: ast.expr
    is_float: bool
    place: int


def images_of_items(source: Source) -> Images:
    """The only division of images in a method that makes items."""
    found = [(method, *pair) for method in _items(source) for pair in _divisions(source, method)]
    if not found:
        raise NoSite(f"{source.name}: no item of a data set has images that are divided by 255")
    if len(found) > 1:
        lines = ", ".join(str(division.lineno) for _, division, _ in found)
        raise Ambiguous(f"{source.name}: items are divided by 255 in {len(found)} places: lines {lines}")
    ((method, division, divided),) = found
    cls = class_of(source, division)
    assert cls is not None
    plain = _without_float(divided)
    _check_stored(source, method, division, plain)
    _check_one_type(source, method, division, plain)
    place = _place(source, method, division)
    _check_fresh(source, method, division, plain)
    return Images(cls, method, division, plain, plain is not divided, place)


def _items(source: Source) -> list[Function]:
    classes = [n for n in source.nodes("__getitem__") if isinstance(n, ast.ClassDef)]
    return [method for cls in classes for method in methods(cls) if method.name == "__getitem__"]


def _divisions(source: Source, method: Function) -> Iterator[tuple[ast.expr, ast.expr]]:
    """The divisions by 255 in ``method``, each with what is divided."""
    for node in ast.walk(method):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and _is_255(node.right):
            yield node, node.left
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div) and _is_255(node.value):
            raise Ambiguous(f"{source.name}:{node.lineno}: the images are divided in place")
        elif isinstance(node, ast.Call) and callee(node) in ("div", "true_divide", "divide", "div_"):
            yield from _called(source, node)


def _called(source: Source, call: ast.Call) -> Iterator[tuple[ast.expr, ast.expr]]:
    """``x.div(255)`` and ``torch.div(x, 255)``."""
    if not call.args or not _is_255(call.args[-1]):
        return
    is_of_torch = isinstance(call.func, ast.Attribute) and meant(source, call.func).startswith("torch.")
    divided = call.args[0] if len(call.args) == 2 else getattr(call.func, "value", None)
    if call.keywords or callee(call) == "div_" or (len(call.args) == 2) is not is_of_torch or divided is None:
        raise Ambiguous(f"{source.name}:{call.lineno}: what is divided there, and how, cannot be told")
    yield call, divided


def _is_255(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value == 255


def _without_float(node: ast.expr) -> ast.expr:
    """What becomes float32 there: ``x`` for ``x.float()``."""
    is_float = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "float"
    return node.func.value if is_float and not node.args and not node.keywords else node  # type: ignore[attr-defined]


def _check_stored(source: Source, method: Function, division: ast.expr, divided: ast.expr) -> None:
    """Raise where what is divided may be floats or no tensor, or where no channels were moved."""
    where = f"{source.name}:{division.lineno}"
    values = [divided, *_values(method, division, {n.id for n in ast.walk(divided) if isinstance(n, ast.Name)})]
    made = {callee(n): n for value in values for n in ast.walk(value) if isinstance(n, ast.Call)}
    floats = sorted(FLOATS & made.keys())
    if floats:
        raise Ambiguous(
            f"{source.name}:{made[floats[0]].lineno}: whether images are uint8 after {floats[0]} cannot be told"
        )
    if not any(meant(source, call.func).startswith("torch.") for call in made.values()):
        raise Ambiguous(f"{where}: whether tensors are divided cannot be told")
    if not CHANNELS & made.keys():
        raise Ambiguous(f"{where}: whether images have their channels first cannot be told")
    if any(isinstance(n, (ast.NamedExpr, ast.Await, ast.Yield)) for n in ast.walk(division)):
        raise Ambiguous(f"{where}: more is done in the division than to divide")


def _check_one_type(source: Source, method: Function, division: ast.expr, divided: ast.expr) -> None:
    """Raise where some items' images may be floats, and others' not: so far the division made all of one type."""
    names = {n.id for n in ast.walk(divided) if isinstance(n, ast.Name)}
    for value in [divided, *_values(method, division, names)]:
        for node in (n for n in ast.walk(value) if isinstance(n, ast.BinOp)):
            is_index = any(
                isinstance(outer, (ast.Subscript, ast.Dict, ast.JoinedStr)) for outer in source.ancestors(node)
            )
            if not is_index and _is_conditional(source, node, division):
                raise Ambiguous(
                    f"{source.name}:{node.lineno}: whether all items' images are of one type cannot be told"
                )


def _is_conditional(source: Source, node: ast.expr, division: ast.expr) -> bool:
    """Whether ``node`` may not have run where ``division`` runs."""
    others = [outer for outer in source.ancestors(node) if outer not in source.ancestors(division)]
    return any(isinstance(n, (ast.If, ast.IfExp, ast.For, ast.While, ast.Try, ast.Match, ast.BoolOp)) for n in others)


def _check_fresh(source: Source, method: Function, division: ast.expr, divided: ast.expr) -> None:
    """Raise where the memory of what is divided may be used again: so far the division made new memory of it."""
    where, names = f"{source.name}:{division.lineno}", {n.id for n in ast.walk(divided) if isinstance(n, ast.Name)}
    if not _is_fresh(divided, _own_methods(source, division)):
        made = _made_of(source, method, division, names)
        if made is None:
            raise Ambiguous(f"{where}: whether the images' memory is used again cannot be told")
        names = made
    _check_not_kept(source, method, division, names)
    statement = source.statement(division)
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    own = set(ast.walk(statement))
    for node in (n for n in ast.walk(method) if isinstance(n, ast.Name) and n not in own):
        if node.id in names - {getattr(target, "id", "")} and position(node) > position(division):
            raise Ambiguous(f"{source.name}:{node.lineno}: the images' memory, {node.id}, is used after the division")


def _check_not_kept(source: Source, method: Function, division: ast.expr, names: Set[str]) -> None:
    """Raise where a method of the class is handed the images' memory, or where they are bound other than by an assignment."""
    own, where = _own_methods(source, division), source.name
    for call in (n for n in ast.walk(method) if isinstance(n, ast.Call) and position(n) < position(division)):
        if _is_own(call.func, own) and any(_names(given) & names for given in call.args):
            raise Ambiguous(f"{where}:{call.lineno}: whether the images' memory is kept there cannot be told")
    targets = [target for n in ast.walk(method) if isinstance(n, ast.Assign) for target in n.targets]
    assigned = {n for target in targets for n in ast.walk(target)}
    for bound in (n for n in ast.walk(method) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)):
        if bound.id in names and bound not in assigned:
            raise Ambiguous(f"{where}:{bound.lineno}: whether the images' memory is used again cannot be told")


def _made_of(source: Source, method: Function, division: ast.expr, names: set[str]) -> Optional[set[str]]:
    """``names`` with the variables that share their memory, back to where it is made; ``None`` where that cannot be told."""
    own = _own_methods(source, division)
    shared, assigned = set(names), [n for n in ast.walk(method) if isinstance(n, ast.Assign)]
    above = [n for n in assigned if position(n) < position(division)]
    for statement in sorted(above, key=position, reverse=True):
        stored = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        if any(isinstance(target, ast.Attribute) for target in statement.targets) and _names(statement.value) & shared:
            return None
        if not shared.intersection(stored):
            shared.update(stored if _names(statement.value) & shared else ())  # another name of it
            continue
        if _is_fresh(statement.value, own) and not _is_conditional(source, statement.value, division):
            return shared
        if _may_be_kept(statement.value, own):
            return None
        shared |= _names(statement.value)
    return None


def _names(value: ast.expr) -> set[str]:
    """The variables that ``value`` is, or is a view of: not functions that are called, nor indices, nor the data set."""
    others: set[ast.AST] = {n.func for n in ast.walk(value) if isinstance(n, ast.Call)}
    for indexed in (n for n in ast.walk(value) if isinstance(n, ast.Subscript)):
        others |= set(ast.walk(indexed.slice))
    loaded = [n for n in ast.walk(value) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    return {n.id for n in loaded if n not in others} - {"torch", "np", "self"}


def _own_methods(source: Source, node: ast.expr) -> set[str]:
    """The methods of the class, which may keep what they are given."""
    cls = class_of(source, node)
    return {method.name for member in (family(source, cls) if cls else ()) for method in methods(member)}


def _is_fresh(value: Optional[ast.expr], own: Set[str]) -> bool:
    """Whether it is memory that a call of `FRESH` makes, or what a function, no method of `own`, gives of that: a view, maybe."""
    value = untimed(value)
    if isinstance(value, (ast.Subscript, ast.Attribute)):
        return _is_fresh(value.value, own)
    if not isinstance(value, ast.Call) or _is_own(value.func, own):
        return False
    if callee(value) in FRESH:
        return len(value.args) < 3 and not any(keyword.arg in ("out", "copy", None) for keyword in value.keywords)
    operands = [*value.args, *([value.func.value] if isinstance(value.func, ast.Attribute) else [])]
    return not _has_out(value) and any(_is_fresh(operand, own) for operand in operands)


def _has_out(call: ast.Call) -> bool:
    return any(keyword.arg in ("out", None) for keyword in call.keywords)


def _may_be_kept(value: ast.expr, own: Set[str]) -> bool:
    """Whether it has to do with an attribute of the data set, is handed to its methods, or is written to memory that is there."""
    calls = [n for n in ast.walk(value) if isinstance(n, ast.Call)]
    called = {n.func for n in calls}
    is_state = any(_is_own(n) and n not in called for n in ast.walk(value))
    return is_state or any(map(_has_out, calls)) or any(_is_own(n.func, own) and n.args for n in calls)


def _is_own(node: ast.AST, names: Optional[Set[str]] = None) -> bool:
    """``self.name``, of these names where there are any."""
    is_own = isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self"
    return is_own and (names is None or node.attr in names)  # type: ignore[attr-defined]


def _values(method: Function, division: ast.expr, names: set[str]) -> list[ast.expr]:
    """What is assigned, above ``division``, to variables of ``names`` and to those that their values are made of."""
    found: list[ast.expr] = []
    above = [n for n in ast.walk(method) if isinstance(n, ast.Assign) and position(n) < position(division)]
    for statement in sorted(above, key=position, reverse=True):
        if _stored(statement) & names and division not in ast.walk(statement):
            found.append(statement.value)
            names |= {n.id for n in ast.walk(statement.value) if isinstance(n, ast.Name)}
    return found


def _stored(statement: ast.Assign) -> set[str]:
    """The variables that an assignment gives another value, or another element."""
    parts = [n for target in statement.targets for n in (target.elts if isinstance(target, ast.Tuple) else [target])]
    bases = [part.value if isinstance(part, ast.Subscript) else part for part in parts]
    return {base.id for base in bases if isinstance(base, ast.Name)}


def _place(source: Source, method: Function, division: ast.expr) -> int:
    """Which element of the item the images are."""
    where, returned = f"{source.name}:{division.lineno}", _returned(source, method)
    if division in returned.elts:
        return returned.elts.index(division)
    statement = source.statement(division)
    target = statement.targets[0] if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None
    if not isinstance(statement, ast.Assign) or statement.value is not division or not isinstance(target, ast.Name):
        raise Ambiguous(f"{where}: what is divided by 255 goes to more than a variable")
    _check_certain(source, method, statement)
    own = set(ast.walk(division))
    after = [
        n
        for n in ast.walk(method)
        if isinstance(n, (ast.Name, ast.ExceptHandler, ast.Global, ast.Nonlocal))
        and target.id in (getattr(n, "id", ""), getattr(n, "name", ""), *getattr(n, "names", ()))
        and position(n) > position(division)
        and n not in own
    ]
    if len(after) != 1 or after[0] not in returned.elts:
        line = after[0].lineno if after else division.lineno
        raise Ambiguous(f"{source.name}:{line}: {target.id} is not only an element of the item after it was divided")
    return returned.elts.index(after[0])


def _returned(source: Source, method: Function) -> ast.Tuple:
    """The tuple that an item is, in the one place where ``method`` gives one."""
    returns = [n for n in own_nodes(method) if isinstance(n, (ast.Return, ast.Yield, ast.YieldFrom))]
    value = untimed(returns[0].value) if len(returns) == 1 else None
    if not isinstance(value, ast.Tuple) or any(isinstance(part, ast.Starred) for part in value.elts):
        raise Ambiguous(f"{source.name}:{method.lineno}: an item is not given as a tuple in one place")
    return value


def _check_certain(source: Source, method: Function, statement: ast.stmt) -> None:
    """Raise where ``statement`` may not have run, or be run again, when an item is given."""
    inner: ast.AST = statement
    for outer in source.ancestors(statement):
        if outer is method:
            return
        is_tried = isinstance(outer, ast.Try) and inner in outer.body and all(map(leaves, outer.handlers))
        if not (is_tried or isinstance(outer, ast.With)):
            break
        inner = outer
    raise Ambiguous(f"{source.name}:{statement.lineno}: the images may not be divided there, or more than once")


def check_items_unread(source: Source, images: Images) -> None:
    """Raise where the file reads items of the data set by itself, or makes another class of it."""
    cls = images.cls
    for node in source.nodes(cls.name, "__getitem__", "__getitems__"):
        line = f"{source.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ClassDef) and any(cls.name in ast.unparse(base) for base in node.bases):
            raise Conflict(f"{line}: {node.name} is made of {cls.name}, and may read its items")
        if isinstance(node, ast.Attribute) and node.attr == "__getitem__" and not _is_harmless(source, node, cls):
            raise Conflict(f"{line}: an item is read by __getitem__")
        if isinstance(node, ast.FunctionDef) and node.name == "__getitems__" and class_of(source, node) is cls:
            raise Conflict(f"{line}: items are read several at a time")
    for member in family(source, cls):
        for node in (n for name in _selves(member) for n in named(source, name) if member in source.ancestors(n)):
            read = source.ancestors(node)[0]
            if isinstance(read, ast.Subscript) and read.value is node and not _is_dropped(source, read):
                raise Conflict(f"{source.name}:{read.lineno}: an item is read by {ast.unparse(read)}")


def _selves(cls: ast.ClassDef) -> set[str]:
    return {a.arg for method in methods(cls) for a in [*method.args.posonlyargs, *method.args.args][:1]}


def _is_harmless(source: Source, read: ast.Attribute, cls: ast.ClassDef) -> bool:
    """Whether nobody looks at it, or it is ``super().__getitem__`` of a class that is made of other classes than the data set."""
    own = class_of(source, read)
    is_super = isinstance(read.value, ast.Call) and callee(read.value) == "super"
    is_others = is_super and own is not None and bool(own.bases) and own not in family(source, cls)
    return is_others or _is_dropped(source, read)


def _is_dropped(source: Source, node: ast.expr) -> bool:
    """Whether nobody looks at the item that is read: ``self.__getitem__(0)`` as a statement."""
    statement = source.statement(node)
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value is node or (isinstance(value, ast.Call) and value.func is node)
