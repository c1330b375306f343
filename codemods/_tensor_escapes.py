"""Whether a method lets tensors out that the encoder made, or only plain numbers made of them.

A tensor that is made in inference mode stays one: outside of it, it cannot be changed in place nor be part of what autograd
records (https://pytorch.org/docs/stable/notes/autograd.html#inference-mode). The values are followed by the names of
variables, without regard to order; what an unknown function makes of a tensor counts as one.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from typing import Optional

from apply_opt.model.source import Function, Source, callee, own_nodes

from ._onnx_files import DEPTH
from ._scopes import FUNCTIONS, called, mentions, owners, parameters_of, passed, targets_of
from ._shared_state import reaches
from ._step_audio_tokenizer import encoder_uses

NUMBERS = {"tolist", "numpy", "item", "int", "float", "bool", "str", "len", "range", "round", "print", "format"}
FACTS = {"shape", "ndim", "dtype", "device"}
GROWS = {"append", "extend", "insert", "add", "update", "setdefault"}
LOOPS = (ast.For, ast.AsyncFor, ast.comprehension)
PLAIN = NUMBERS | {
    "dict",
    "list",
    "set",
    "tuple",
    "sorted",
    "items",
    "keys",
    "values",
    "time",
    "monotonic",
    "perf_counter",
}
EMPTY = (ast.Dict, ast.List, ast.Set, ast.Tuple, ast.Constant)


class Flow:
    """Which variables of a function hold tensors, given the calls and parameters that they come from."""

    def __init__(self, source: Source, function: Function, seeds: Collection[ast.AST], depth: int = DEPTH) -> None:
        self.source, self.seeds, self.depth = source, seeds, depth
        self.nodes = list(own_nodes(function))
        self.names = {seed.arg for seed in seeds if isinstance(seed, ast.arg)}
        before = -1
        while len(self.names) > before:
            before = len(self.names)
            for node in self.nodes:
                self.names |= {n.id for t in self._targets(node) for n in ast.walk(t) if isinstance(n, ast.Name)}

    def _targets(self, node: ast.AST) -> Iterator[ast.expr]:
        """What ``node`` stores a tensor in."""
        if isinstance(node, LOOPS):
            yield from [node.target] if self.holds(node.iter) else []
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            yield from targets_of(node) if node.value is not None and self.holds(node.value) else []
        elif isinstance(node, (ast.AugAssign, ast.NamedExpr)):
            yield from [node.target] if self.holds(node.value) else []
        elif isinstance(node, ast.withitem):
            yield from [node.optional_vars] if node.optional_vars and self.holds(node.context_expr) else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and callee(node) in GROWS:
            values = [*node.args, *(k.value for k in node.keywords)]
            yield from [node.func.value] if any(map(self.holds, values)) else []

    def holds(self, value: ast.AST) -> bool:
        """Whether ``value`` is, or contains, a tensor."""
        if value in self.seeds or (isinstance(value, ast.Name) and value.id in self.names):
            return True
        if isinstance(value, (ast.Compare, *FUNCTIONS)) or (isinstance(value, ast.Attribute) and value.attr in FACTS):
            return False
        if isinstance(value, ast.Subscript):
            return self.holds(value.value)
        if isinstance(value, ast.IfExp):
            return self.holds(value.body) or self.holds(value.orelse)
        if isinstance(value, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
            return self.holds(value.elt)
        if isinstance(value, ast.Call):
            return self._gives(value)
        return any(self.holds(child) for child in ast.iter_child_nodes(value))

    def _gives(self, call: ast.Call) -> bool:
        if callee(call) in NUMBERS:
            return False
        function = called(self.source, call)
        if function is None or not self.depth:
            return any(self.holds(child) for child in ast.iter_child_nodes(call))
        given = {a for a in parameters_of(function) if self._is_given(function, a, call)}
        inner = Flow(self.source, function, given | set(self.seeds), self.depth - 1)
        return inner.out() is not None

    def _is_given(self, function: Function, parameter: ast.arg, call: ast.Call) -> bool:
        value = passed(self.source, function, parameter.arg, call)
        return value is not None and self.holds(value)

    def out(self) -> Optional[ast.AST]:
        """Where the function returns a tensor."""
        ends = [n for n in self.nodes if isinstance(n, (ast.Return, ast.Yield, ast.YieldFrom)) and n.value is not None]
        return next((n for n in ends if n.value is not None and self.holds(n.value)), None)

    def kept(self) -> list[ast.expr]:
        """The attributes that a tensor is stored in, or below."""
        roots = [_root(target) for node in self.nodes for target in self._targets(node)]
        return [root for root in roots if isinstance(root, ast.Attribute)]


def _root(target: ast.expr) -> ast.expr:
    """``self.x`` of ``self.x[i].y[j]``."""
    node = target
    while isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.value, ast.Name):
        node = node.value
    return node.value if isinstance(node, ast.Subscript) else node


def escape(source: Source, method: Function, inside: Collection[Function]) -> Optional[tuple[int, str]]:
    """The line on which ``method`` lets a tensor of the encoder out, and how; ``None`` where there is none.

    What is kept on the object is still inside where only the methods ``inside`` use it.
    """
    seeds = [call for use in encoder_uses(source, method) if isinstance(call := source.ancestors(use)[0], ast.Call)]
    flow = Flow(source, method, seeds)
    out = flow.out()
    if out is not None:
        return getattr(out, "lineno", method.lineno), f"{method.name} returns a tensor"
    for attribute in flow.kept():
        for node in mentions(source, attribute):
            around = source.ancestors(node)
            if not any(m in around for m in inside) and not _is_harmless(source, node):
                return node.lineno, f"{ast.unparse(attribute)}, which {method.name} keeps tensors in, is used"
    return None


def made_inside(source: Source, cls: ast.ClassDef, method: Function) -> Optional[ast.stmt]:
    """Where ``method``, or what it runs, gives the object a new attribute (a model that is loaded late, or moved)."""
    for function in reaches(source, cls, method):
        for node in own_nodes(function):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                kept = [r for t in targets_of(node) if isinstance(t, ast.Attribute) and _is_own(source, r := _root(t))]
                if kept and any(isinstance(n, ast.Call) and callee(n) not in PLAIN for n in ast.walk(node.value)):
                    return node
    return None


def _is_own(source: Source, node: ast.expr) -> bool:
    """Whether ``node`` is an attribute of the object, or of its class."""
    return isinstance(node, ast.Attribute) and bool(owners(source, node))


def _is_harmless(source: Source, node: ast.expr) -> bool:
    """Whether ``node`` is only emptied, or asked how much it holds."""
    parent = source.ancestors(node)[0]
    if isinstance(parent, (ast.Assign, ast.AnnAssign)):
        return node in targets_of(parent) and (parent.value is None or _is_empty(parent.value))
    if isinstance(parent, ast.Attribute):
        return parent.attr in ("clear", "pop", "keys") and isinstance(source.statement(node), (ast.Expr, ast.For))
    if isinstance(parent, ast.Subscript):
        return isinstance(parent.ctx, ast.Del)
    return isinstance(parent, (ast.Compare, ast.If, ast.UnaryOp)) or (
        isinstance(parent, ast.Call) and callee(parent) in ("len", "bool", "list", "sorted")
    )


def _is_empty(value: ast.expr) -> bool:
    plain = isinstance(value, ast.Call) and callee(value) in ("dict", "list", "OrderedDict", "defaultdict")
    return plain or (isinstance(value, EMPTY) and not list(ast.iter_child_nodes(value)))
