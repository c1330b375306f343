"""The form of a function, whatever its variables and messages are called: to recognise code that is computed in another way elsewhere.

Two functions of one form do the same with every input for which neither raises. What is left out: docstrings, annotations, names of
variables, messages of exceptions, what only turns one exception into another, checks that only raise for what is no number, empty or a
single number, and other values for what is empty; values that nobody reads, contexts without gradients. What can be said in several
ways is said in one (:mod:`_spellings`); a variable that is read once is what it stands for, and steps are put together.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import itertools
import re
from collections.abc import Collection, Sequence
from typing import TypeGuard, TypeVar

from apply_opt.model.source import Function, callee

from ._spellings import Spelling, is_without_gradients

SIZES = (
    ("numel", ast.Eq, "0"),
    ("len", ast.Eq, "0"),
    ("dim", ast.NotEq, "3"),
    ("len", ast.NotEq, "self.level + 1"),
)
SINGLE = re.compile(r"\w+\.shape\[-1\] < 2")
EMPTY, FULL = re.compile(r"(\w+)\.numel\(\) == 0"), re.compile(r"0 < (\w+)\.numel\(\)")
OPPOSITE = {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
BLOCKS = ("body", "orelse", "finalbody")
CHANGING = (
    "append",
    "extend",
    "insert",
    "update",
    "add",
    "pop",
    "popitem",
    "setdefault",
    "clear",
    "remove",
    "discard",
    "sort",
    "reverse",
)
"""Methods that change a list, a dictionary or a set."""


OWN = "ǃ"
"""A letter, which no name here begins with."""
Value = TypeVar("Value", ast.expr, list[ast.stmt])
ITERATORS = ("iter", "next", "zip", "map", "filter", "reversed", "enumerate")


def form(function: Function) -> str:
    """A digest of the form of ``function``: equal for functions of one form."""
    made = copy.deepcopy(function)
    made.name, made.returns, made.decorator_list = "", None, []
    for argument in ast.walk(made.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    made = _Plain().visit(_OwnVariables(made).visit(Spelling().visit(made)))
    while any(step(made) for step in (_drop_unread, _put_in, _follow, _choose, _comprehend)):
        pass
    _rename(made)
    return hashlib.sha256(ast.unparse(made).encode()).hexdigest()[:16]


class _OwnVariables(ast.NodeTransformer):
    """Gives the variables of comprehensions, and those that only one loop has to do with, names of their own."""

    def __init__(self, function: ast.AST) -> None:
        self.function, self.number = function, itertools.count()

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            targets = [part.target for part in node.generators]
            self._rename(node, {name for target in targets for name in _names(target)}, node.generators[0].iter)
        if isinstance(node, ast.For):
            self._rename(node, {name for name in _names(node.target) if self._is_own(node, name)}, node.iter)
        return node

    def _rename(self, node: ast.AST, own: set[str], outside: ast.AST) -> None:
        number, others = next(self.number), {id(n) for n in ast.walk(outside)}
        for name in ast.walk(node):
            if isinstance(name, ast.Name) and name.id in own and id(name) not in others:
                name.id = f"{OWN}{number}{OWN}{name.id}"

    def _is_own(self, loop: ast.For, name: str) -> bool:
        """Whether all else that is called so belongs to another loop that gives it a value first; and it is no parameter."""
        loops = [n for n in ast.walk(self.function) if isinstance(n, ast.For) and name in _names(n.target)]
        inside = {id(n) for one in loops for part in (one.target, *one.body) for n in ast.walk(part)}
        nested = [one for one in loops if one is not loop and any(n is one for n in ast.walk(loop))]
        every = [n for n in ast.walk(self.function) if isinstance(n, ast.Name) and n.id == name]
        arguments = {n.arg for n in ast.walk(self.function) if isinstance(n, ast.arg)}
        return not nested and name not in arguments and all(id(n) in inside for n in every)


class _Plain(ast.NodeTransformer):
    """Takes out what makes no difference to a result."""

    def __init__(self) -> None:
        self.is_caught = False
        """Whether exceptions are caught here, so that what raises one decides on what comes next."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if node.value is None:
            return node
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_Assign(self, node: ast.Assign) -> ast.stmt | list[ast.stmt]:
        """``a = x`` and ``b = y`` for ``a, b = x, y``, where that is the same."""
        self.generic_visit(node)
        target, value = node.targets[0], node.value
        if len(node.targets) > 1 or not isinstance(target, ast.Tuple) or not isinstance(value, ast.Tuple):
            return node
        names = [part.id for part in target.elts if isinstance(part, ast.Name)]
        if len(names) != len(value.elts) or len(names) != len(target.elts) or {*names} & _names(value):
            return node
        return [ast.copy_location(ast.Assign([t], v), node) for t, v in zip(target.elts, value.elts)]

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """The value for what is not empty."""
        self.generic_visit(node)
        return _not_empty(node) or node

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.copy_location(ast.Raise(kind, None), node)

    def visit_If(self, node: ast.If) -> ast.stmt | list[ast.stmt] | None:
        self.generic_visit(node)
        full, other = _filled(node.test, node.body, node.orelse)
        if full and all(_only_name(s) and isinstance(s.value, ast.Constant) for s in other):  # type: ignore[attr-defined]
            return list(full)
        is_plain = _only_raises(node.body) and not node.orelse and not self.is_caught
        return None if is_plain and _is_check(node.test) else node

    def visit_Assert(self, node: ast.Assert) -> ast.stmt | None:
        return None if not self.is_caught and _is_check(_negated(node.test)) else node

    def visit_With(self, node: ast.With) -> ast.stmt | list[ast.stmt]:
        self.generic_visit(node)
        return node.body if is_without_gradients(node) else node

    def visit_Try(self, node: ast.Try) -> ast.stmt | list[ast.stmt]:
        is_plain = (
            not node.orelse and not node.finalbody and all(_only_raises(handler.body) for handler in node.handlers)
        )
        before, self.is_caught = self.is_caught, self.is_caught or not is_plain
        self.generic_visit(node)
        self.is_caught = before
        return node.body if is_plain else node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.ExceptHandler:
        """``except Exception`` for ``except`` and ``except Exception as e``, where nobody reads that."""
        self.generic_visit(node)
        node.type = node.type or ast.Name("Exception", ast.Load())
        if node.name not in {name for statement in node.body for name in _names(statement)}:
            node.name = None
        return node

    @staticmethod
    def _is_own(loop: ast.For) -> bool:
        """Whether a loop goes through a variable, or its numbers too, and gives none but its own variables a value."""
        among = loop.iter.args[0] if _is_call(loop.iter, "enumerate") else loop.iter
        targets = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        return isinstance(among, ast.Name) and len(names) == len(targets) and all(n.startswith(OWN) for n in names)

    def visit_For(self, node: ast.For) -> ast.For | None:
        """``for i, x in enumerate(xs)`` without the number, where only messages had it; nothing, where it did nothing else."""
        self.generic_visit(node)
        if not node.body and not node.orelse and self._is_own(node):
            return None
        pair, among = node.target, node.iter
        if isinstance(pair, ast.Tuple) and isinstance(among, ast.Call) and ast.unparse(among.func) == "enumerate":
            counter, *others = pair.elts
            read = {n.id for s in node.body for n in ast.walk(s) if isinstance(n, ast.Name)}
            if (
                isinstance(counter, ast.Name)
                and counter.id.startswith(OWN)
                and counter.id not in read
                and len(others) == len(among.args) == 1
            ):
                node.target, node.iter = others[0], among.args[0]
        return node


def _only_raises(body: Sequence[ast.stmt]) -> bool:
    return len(body) == 1 and isinstance(body[0], ast.Raise)


def _negated(test: ast.expr) -> ast.expr:
    """What is true where ``test`` is not, for what checks are made of."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    if isinstance(test, ast.BoolOp):
        other = ast.Or() if isinstance(test.op, ast.And) else ast.And()
        return ast.BoolOp(other, [_negated(value) for value in test.values])
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and type(test.ops[0]) in OPPOSITE:
        return ast.Compare(test.left, [OPPOSITE[type(test.ops[0])]()], test.comparators)
    return ast.UnaryOp(ast.Not(), test)


def _is_check(test: ast.expr) -> bool:
    """Whether that is true only of what has NaN or infinity in it, is empty, no tensor, or has another number of dimensions."""
    if isinstance(test, ast.BoolOp):
        counted = {ast.unparse(n.args[0]) for n in ast.walk(test) if _is_call(n, "len")}
        return all(_is_empty(value, counted) or _is_check(value) for value in test.values)
    if isinstance(test, ast.UnaryOp):
        return _is_call(test.operand, "is_tensor") or (_is_call(test.operand, "all") and _is_finite(test.operand))
    if _is_call(test, "any") or _is_call(test, "bool") or _is_call(test, "item"):
        return _is_check(_asked(test))
    if isinstance(test, ast.Call):
        return callee(test) in ("isnan", "isinf") and isinstance(_asked(test), ast.Name)
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.Call) and len(test.ops) == 1:
        asked = callee(test.left), type(test.ops[0]), ast.unparse(test.comparators[0])
        return asked in SIZES and isinstance(_asked(test.left), ast.Name)
    return bool(SINGLE.fullmatch(ast.unparse(test)))


def _filled(test: ast.expr, yes: Value, no: Value) -> tuple[Value | None, Value]:
    """Of ``yes`` and ``no`` what is for a tensor with something in it, where ``test`` asks for that and it is read there; the other."""
    text = ast.unparse(test)
    is_empty = EMPTY.fullmatch(text)
    found = is_empty or FULL.fullmatch(text)
    full, other = (no, yes) if is_empty else (yes, no)
    parts = full if isinstance(full, list) else [full]
    return (full, other) if found and found[1] in {name for part in parts for name in _names(part)} else (None, other)


def _not_empty(choice: ast.IfExp) -> ast.expr | None:
    """What it is for a tensor with something in it, where it asks for that, and is a constant for others."""
    full, other = _filled(choice.test, choice.body, choice.orelse)
    return full if full and isinstance(other, ast.Constant) else None


def _is_finite(every: ast.Call) -> bool:
    """``torch.isfinite(x)`` in ``torch.isfinite(x).all()``."""
    asked = _asked(every)
    return isinstance(asked, ast.Call) and callee(asked) == "isfinite" and isinstance(_asked(asked), ast.Name)


def _is_call(node: ast.AST, name: str) -> TypeGuard[ast.Call]:
    return (
        isinstance(node, ast.Call) and callee(node) == name and bool(node.args or isinstance(node.func, ast.Attribute))
    )


def _is_empty(test: ast.expr, counted: Collection[str]) -> bool:
    """``not bands``, beside a check of ``len(bands)``."""
    is_not = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and isinstance(test.operand, ast.Name)
    return is_not and ast.unparse(test.operand) in counted  # type: ignore[attr-defined]


def _asked(call: ast.Call) -> ast.expr:
    """``x`` of ``torch.isnan(x)`` and ``x.isnan()``."""
    return call.args[0] if call.args else getattr(call.func, "value", call)


def _blocks(function: ast.AST) -> list[list[ast.stmt]]:
    """Every list of statements in ``function``, the outermost first."""
    found = [getattr(node, name, None) for node in ast.walk(function) for name in BLOCKS]
    return [block for block in found if isinstance(block, list)]


def _drop_unread(function: ast.AST) -> bool:
    """Take out assignments of plain attributes to variables that nobody reads; whether there were any."""
    read = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    dropped = False
    for block in _blocks(function):
        for statement in [s for s in block if _is_unread(s, read)]:
            block.remove(statement)
            dropped = True
    return dropped


def _is_unread(statement: ast.stmt, read: set[str]) -> bool:
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return False
    target = statement.targets[0]
    is_plain = isinstance(statement.value, (ast.Name, ast.Attribute, ast.Constant)) and not any(
        isinstance(n, (ast.Call, ast.NamedExpr, ast.Subscript)) for n in ast.walk(statement.value)
    )
    return isinstance(target, ast.Name) and target.id not in read and is_plain


def _put_in(function: ast.AST) -> bool:
    """Have one variable's value where it is read, if that is once, later in its block, and the same there; whether there was one.

    Nothing in these functions has an effect but on their own variables; where one may, nothing is moved.
    """
    names = [n for n in ast.walk(function) if isinstance(n, ast.Name)]
    if any(map(_has_effect, ast.walk(function))):
        return False
    for block in _blocks(function):
        for number, statement in enumerate(block):
            name = _only_name(statement)
            own = [n for n in names if n.id == name]
            if not name or len(own) != 2:
                continue
            read = next((n for n in own if isinstance(n.ctx, ast.Load)), None)
            later = [n for n, other in enumerate(block) if n > number and any(node is read for node in ast.walk(other))]
            value = statement.value  # type: ignore[attr-defined]
            if read and later and _may_move(value) and not _names(value) & _changed(block[number + 1 : later[0] + 1]):
                _Instead(read, value).visit(block[later[0]])
                block.remove(statement)
                return True
    return False


def _follow(function: ast.AST) -> bool:
    """Have ``x = f(g(y))`` in the place of ``x = g(y)`` and ``x = f(x)`` below it; whether there was one."""
    for block in _blocks(function):
        for first, second in itertools.pairwise(block):
            name = _only_name(first)
            if name and name == _only_name(second):
                reads = [
                    n
                    for n in ast.walk(second)
                    if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load)
                ]
                if len(reads) == 1 and _may_move(first.value) and not any(map(_has_effect, ast.walk(first))):  # type: ignore[attr-defined]
                    _Instead(reads[0], first.value).visit(second)  # type: ignore[attr-defined]
                    block.remove(first)
                    return True
    return False


def _choose(function: ast.AST) -> bool:
    """Have ``x = a if test else b`` in the place of two branches that do nothing else; whether there was one."""
    for block in _blocks(function):
        for number, statement in enumerate(block):
            if isinstance(statement, ast.If) and len(statement.body) == len(statement.orelse) == 1:
                name = _only_name(statement.body[0])
                if name and name == _only_name(statement.orelse[0]):
                    (yes,), (no,) = statement.body, statement.orelse
                    made = ast.IfExp(statement.test, yes.value, no.value)  # type: ignore[attr-defined]
                    target = ast.Name(name, ast.Store())
                    block[number] = ast.copy_location(ast.Assign([target], _not_empty(made) or made), statement)
                    return True
    return False


def _only_name(statement: ast.stmt) -> str:
    """The variable of ``name = value``."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return ""


def _has_effect(node: ast.AST) -> bool:
    """Whether more may happen there than that a variable of the function's gets a value, or a list of its own an entry."""
    if isinstance(node, (ast.Attribute, ast.Subscript)):
        is_in_place = isinstance(node, ast.Attribute) and node.attr.endswith("_") and not node.attr.endswith("__")
        return is_in_place or not isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.Call) and callee(node) in CHANGING:
        return not (isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name))
    hidden = (ast.AugAssign, ast.NamedExpr, ast.Lambda, ast.Global, ast.Nonlocal, ast.Delete, ast.While, ast.Match)
    return isinstance(node, (*hidden, ast.Yield, ast.YieldFrom, ast.Await))


def _may_move(value: ast.expr) -> bool:
    """Whether it is the same later, and however often it is asked for: no iterator, and nothing that changes a list."""
    calls = [callee(n) for n in ast.walk(value) if isinstance(n, ast.Call)]
    return not isinstance(value, ast.GeneratorExp) and not {*calls} & {*CHANGING, *ITERATORS}


def _names(value: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(value) if isinstance(n, ast.Name)}


def _changed(statements: Sequence[ast.stmt]) -> set[str]:
    """The variables that get another value there, and the lists that change."""
    nodes = [node for statement in statements for node in ast.walk(statement)]
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    calls = [n.func for n in nodes if isinstance(n, ast.Call) and callee(n) in CHANGING]
    return stored | {name for call in calls for name in _names(call)}


class _Instead(ast.NodeTransformer):
    """``value`` in the place of ``read``."""

    def __init__(self, read: ast.Name, value: ast.expr) -> None:
        self.read, self.value = read, value

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.value if node is self.read else node


def _comprehend(function: ast.AST) -> bool:
    """Have a list that a loop does nothing but fill made in one expression; whether there was one."""
    for block in _blocks(function):
        for made, loop in itertools.pairwise(block):
            name, value = _only_name(made), _appended(loop)
            is_empty = isinstance(made, ast.Assign) and ast.unparse(made.value) == "[]"
            if name and is_empty and value and ast.unparse(value[0]) == name and name not in _names(value[1]):
                made.value = value[1]  # type: ignore[attr-defined]
                block.remove(loop)
                return True
    return False


def _appended(loop: ast.stmt) -> tuple[ast.expr, ast.ListComp] | None:
    """Of a loop that does nothing but append to it: the list, and what it gets."""
    if not isinstance(loop, ast.For) or loop.orelse or len(loop.body) != 1:
        return None
    call = loop.body[0].value if isinstance(loop.body[0], ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.func.attr != "append":
        return None
    part = ast.comprehension(loop.target, loop.iter, [], 0)
    return (call.func.value, ast.ListComp(call.args[0], [part])) if len(call.args) == 1 else None


def _rename(function: ast.AST) -> None:
    """Number the variables of ``function`` in the order in which they appear."""
    own = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    own |= {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)}
    own |= {n.name for n in ast.walk(function) if isinstance(n, ast.ExceptHandler) and n.name}
    numbers: dict[str, str] = {}

    def renamed(name: str) -> str:
        return numbers.setdefault(name, f"v{len(numbers)}") if name in own else name

    for node in _in_order(function):
        if isinstance(node, ast.arg):
            node.arg = renamed(node.arg)
        elif isinstance(node, ast.Name):
            node.id = renamed(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            node.name = renamed(node.name)


def _in_order(node: ast.AST) -> list[ast.AST]:
    """``node`` and what is in it, depth first."""
    return [node, *(inner for child in ast.iter_child_nodes(node) for inner in _in_order(child))]
