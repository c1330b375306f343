"""The form of a function, whatever its variables and messages are called: to recognise code that is computed in another way elsewhere.

Two functions of one form do the same with every input for which neither raises. What is left out: docstrings, annotations, names of
variables, messages of exceptions, what only turns one exception into another, checks that only raise for what is no number or empty,
and values that nobody reads.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Collection, Sequence
from typing import TypeGuard

from apply_opt.model.source import Function, callee

SIZES = (
    ("numel", ast.Eq, "0"),
    ("len", ast.Eq, "0"),
    ("dim", ast.NotEq, "3"),
    ("len", ast.NotEq, "self.level + 1"),
)
BLOCKS = ("body", "orelse", "finalbody")


def form(function: Function) -> str:
    """A digest of the form of ``function``: equal for functions of one form."""
    made = copy.deepcopy(function)
    made.name, made.returns, made.decorator_list = "", None, []
    for argument in ast.walk(made.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    made = _Plain().visit(made)
    while _drop_unread(made):
        pass
    _rename(made)
    return hashlib.sha256(ast.unparse(made).encode()).hexdigest()[:16]


class _Plain(ast.NodeTransformer):
    """Takes out what makes no difference to a result."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if node.value is None:
            return node
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.copy_location(ast.Raise(kind, None), node)

    def visit_If(self, node: ast.If) -> ast.stmt | None:
        self.generic_visit(node)
        return None if _only_raises(node.body) and not node.orelse and _is_check(node.test) else node

    def visit_Try(self, node: ast.Try) -> ast.stmt | list[ast.stmt]:
        self.generic_visit(node)
        is_bare = not node.orelse and not node.finalbody
        return node.body if is_bare and all(_only_raises(handler.body) for handler in node.handlers) else node

    @staticmethod
    def _is_own(loop: ast.For) -> bool:
        """Whether a loop goes through a variable, or its numbers too, and gives nothing else its value."""
        among = loop.iter.args[0] if _is_call(loop.iter, "enumerate") else loop.iter
        targets = {n.id for n in ast.walk(loop.target) if isinstance(n, ast.Name)}
        return isinstance(among, ast.Name) and among.id not in targets

    def visit_For(self, node: ast.For) -> ast.For | None:
        """``for i, x in enumerate(xs)`` without the number, where only messages had it; nothing, where it did nothing else."""
        self.generic_visit(node)
        if not node.body and not node.orelse and self._is_own(node):
            return None
        pair, among = node.target, node.iter
        if isinstance(pair, ast.Tuple) and isinstance(among, ast.Call) and ast.unparse(among.func) == "enumerate":
            counter, *others = pair.elts
            read = {n.id for s in node.body for n in ast.walk(s) if isinstance(n, ast.Name)}
            if isinstance(counter, ast.Name) and counter.id not in read and len(others) == len(among.args) == 1:
                node.target, node.iter = others[0], among.args[0]
        return node


def _only_raises(body: Sequence[ast.stmt]) -> bool:
    return len(body) == 1 and isinstance(body[0], ast.Raise)


def _is_check(test: ast.expr) -> bool:
    """Whether that is true only of what has NaN or infinity in it, is empty, no tensor, or has another number of dimensions."""
    if isinstance(test, ast.BoolOp):
        counted = {ast.unparse(n.args[0]) for n in ast.walk(test) if _is_call(n, "len")}
        return all(_is_empty(value, counted) or _is_check(value) for value in test.values)
    if isinstance(test, ast.UnaryOp):
        return _is_call(test.operand, "is_tensor")
    if _is_call(test, "any"):
        return _is_check(_asked(test))
    if isinstance(test, ast.Call):
        return callee(test) in ("isnan", "isinf") and isinstance(_asked(test), ast.Name)
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.Call) and len(test.ops) == 1:
        asked = callee(test.left), type(test.ops[0]), ast.unparse(test.comparators[0])
        return asked in SIZES and isinstance(_asked(test.left), ast.Name)
    return False


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


def _drop_unread(function: ast.AST) -> bool:
    """Take out assignments of plain attributes to variables that nobody reads; whether there were any."""
    read = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    dropped = False
    for node in ast.walk(function):
        for block in (getattr(node, name, None) for name in BLOCKS):
            unread = [s for s in block if _is_unread(s, read)] if isinstance(block, list) else []
            for statement in unread:
                block.remove(statement)  # type: ignore[union-attr]
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
