"""Which positions of a language model's states are read: they are followed to the places where only the last of them are taken.

The states have an axis of rows, one of positions and one of features. What moves or splits other axes leaves the positions apart;
anything else that is done with them may bring them together, and is refused.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Optional

from apply_opt.errors import Ambiguous
from apply_opt.model.source import Source

from ._helpers import meant
from ._scopes import Binding, bindings, certain, named, position, reaching

CASTS = ("contiguous", "float", "double", "half", "bfloat16", "to", "type", "clone", "detach")
RESHAPES, SWAPS, FACTS = ("reshape", "view"), ("transpose", "swapaxes"), ("dtype", "device", "ndim", "requires_grad")
ROWS, POSITIONS, FEATURES = "rows", "positions", "features"
Axes = Sequence[str]


def uncast(node: ast.expr) -> ast.expr:
    """What is behind ``.to(…)``, ``.contiguous()`` and the like."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CASTS:
        node = node.func.value
    return node


def only_value(source: Source, name: ast.Name) -> Optional[Binding]:
    """The assignment that certainly gives a variable the value that it has there."""
    found = reaching(source, name, name)
    is_sure = len(found) == 1 and found[0].value is not None and certain(source, found[0].statement, name)
    return found[0] if is_sure else None


def has_same_value(source: Source, name: ast.Name, at: ast.AST) -> bool:
    """Whether a variable has at ``at`` the value that it has where it is read."""
    here, there = ({id(b.statement) for b in reaching(source, name, node)} for node in (name, at))
    return here == there


class LastPositions:
    """That of ``states`` (rows, positions, features) only the last ``count`` positions are read. Raises where that is not certain."""

    def __init__(self, source: Source, states: ast.expr) -> None:
        self.source, self.start = source, states
        self.counts: list[ast.expr] = []
        self._follow(states, (ROWS, POSITIONS, FEATURES))
        if len({ast.unparse(count) for count in self.counts}) != 1:
            raise self._unclear(states, "not only the last positions of the states are read, or not always as many")
        self.count = self.counts[0]

    def _unclear(self, node: ast.expr, what: str) -> Ambiguous:
        return Ambiguous(f"{self.source.name}:{node.lineno}: {what}")

    def _follow(self, node: ast.expr, axes: Axes) -> None:
        """See what becomes of ``node``, which has ``axes``."""
        parent, *around = self.source.ancestors(node)
        if isinstance(parent, ast.Attribute):
            call = around[0]
            if isinstance(call, ast.Call) and call.func is parent and parent.attr != "size":
                self._follow(call, self._moved(call, parent.attr, call.args, axes))
            elif parent.attr not in FACTS:
                self._check_size(node, axes)
        elif isinstance(parent, ast.Subscript) and parent.value is node:
            self._cut(parent, axes)
        elif isinstance(parent, ast.Call) and parent.args[:1] == [node] and self._is_function(parent):
            self._follow(parent, self._moved(parent, meant(self.source, parent.func)[6:], parent.args[1:], axes))
        elif isinstance(parent, ast.Assign) and len(parent.targets) == 1 and isinstance(parent.targets[0], ast.Name):
            self._follow_variable(parent, parent.targets[0], axes)
        else:
            raise self._unclear(node, "what becomes of the states of all positions cannot be told")

    def _is_function(self, call: ast.Call) -> bool:
        return meant(self.source, call.func) in [f"torch.{name}" for name in ("reshape", "permute", *SWAPS)]

    def _follow_variable(self, statement: ast.Assign, target: ast.Name, axes: Axes) -> None:
        function = self.source.function(statement)
        own = [n for n in ast.walk(function or self.source.tree) if isinstance(n, ast.Name) and n.id == target.id]
        kinds = {b.kind for b in bindings(self.source, target, statement)}
        if any(self.source.function(n) is not function for n in own) or kinds - {"", "parameter"}:
            raise self._unclear(target, f"{target.id} is another function's, too, or is written to in another way")
        for name in own:
            reached = [b.statement for b in reaching(self.source, name, name)]
            is_later = isinstance(name.ctx, ast.Load) and position(name) > position(target)
            if is_later and statement in reached and not self._is_replaced(statement, name):
                self._follow(name, axes)

    def _is_replaced(self, statement: ast.stmt, name: ast.Name) -> bool:
        """Whether both arms of an ``if`` between the two give the variable another value."""
        for n in ast.walk(self.source.function(statement) or self.source.tree):
            if isinstance(n, ast.If) and position(statement) < position(n) and certain(self.source, n, name):
                is_before = (n.end_lineno or 0) < name.lineno
                if is_before and all(any(_assigns(s, name.id) for s in arm) for arm in (n.body, n.orelse)):
                    return True
        return False

    # Sizes

    def _check_size(self, node: ast.expr, axes: Axes) -> None:
        """Raise where the number of positions is asked for, but to keep the axis in a reshape of the very same."""
        size = self._size(node)
        if size is None:
            raise self._unclear(node, "what becomes of the states of all positions cannot be told")
        if axes[size[1]] != POSITIONS:
            return
        around = self.source.ancestors(size[0])
        call = around[1] if isinstance(around[0], (ast.Tuple, ast.List)) else around[0]
        subject = self._reshaped(call)
        if subject is None or not isinstance(node, ast.Name) or ast.unparse(subject) != node.id:
            raise self._unclear(node, "the number of all positions is read")

    def _size(self, node: ast.expr) -> Optional[tuple[ast.expr, int]]:
        """``node.shape[i]`` or ``node.size(i)``, and ``i``."""
        parent, around = self.source.ancestors(node)[:2]
        if not isinstance(parent, ast.Attribute) or parent.attr not in ("shape", "size"):
            return None
        if isinstance(around, ast.Subscript) and around.value is parent and parent.attr == "shape":
            index = _numbers([around.slice])
        elif isinstance(around, ast.Call) and parent.attr == "size" and not around.keywords:
            index = _numbers(around.args)
        else:
            return None
        return (around, index[0]) if index and len(index) == 1 and -3 <= index[0] < 3 else None

    def _reshaped(self, call: ast.AST) -> Optional[ast.expr]:
        """What is reshaped by ``call``."""
        if isinstance(call, ast.Call) and meant(self.source, call.func) == "torch.reshape" and call.args:
            return call.args[0]
        is_method = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in RESHAPES
        return call.func.value if is_method else None  # type: ignore[attr-defined]

    # What is done with the axes

    def _moved(self, call: ast.Call, name: str, arguments: Sequence[ast.expr], axes: Axes) -> Axes:
        """The axes of the result of ``call``."""
        if name in CASTS:
            return axes
        if len(arguments) == 1 and isinstance(arguments[0], (ast.Tuple, ast.List)):
            arguments = arguments[0].elts
        numbers = None if call.keywords else _numbers(arguments)
        if name == "permute" and numbers and sorted(n % len(axes) for n in numbers) == list(range(len(axes))):
            return [axes[n] for n in numbers]
        if name in SWAPS and numbers and len(numbers) == 2 and all(-len(axes) <= n < len(axes) for n in numbers):
            moved = list(axes)
            moved[numbers[0]], moved[numbers[1]] = moved[numbers[1]], moved[numbers[0]]
            return moved
        if name == "unflatten" and not call.keywords and len(arguments) == 2 and axes[0] == ROWS:
            sizes = arguments[1]
            if ast.unparse(arguments[0]) == "0" and isinstance(sizes, (ast.Tuple, ast.List)):
                return [ROWS] * len(sizes.elts) + list(axes[1:])
        if name in RESHAPES and not call.keywords and self._keeps_last(call, arguments, axes):
            return [ROWS] * (len(arguments) - 2) + list(axes[-2:])
        raise self._unclear(call, f"what .{name}() makes of the states of all positions cannot be told")

    def _keeps_last(self, call: ast.Call, sizes: Sequence[ast.expr], axes: Axes) -> bool:
        """Whether a reshape splits or joins rows only: the sizes of positions and features are the last, as they were."""
        subject = self._reshaped(call)
        if not isinstance(subject, ast.Name) or len(axes) < 3 or ROWS in axes[-2:] or len(sizes) < 3:
            return False
        for size, index in zip(sizes[-2:], (-2, -1)):
            texts = [
                f"{subject.id}.{form.format(i)}"
                for form in ("shape[{}]", "size({})")
                for i in (index, len(axes) + index)
            ]
            if ast.unparse(size) not in texts:
                return False
        return not any(isinstance(n, ast.Name) and n.id == subject.id for size in sizes[:-2] for n in ast.walk(size))

    def _cut(self, node: ast.Subscript, axes: Axes) -> None:
        """Follow a slice; where it takes the last positions alone, keep how many."""
        parts = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        dots = [i for i, part in enumerate(parts) if isinstance(part, ast.Constant) and part.value is Ellipsis]
        if len(dots) == 1:
            parts[dots[0] : dots[0] + 1] = [ast.Slice()] * (len(axes) - len(parts) + 1)
        if len(parts) > len(axes):
            raise self._unclear(node, "what is taken of the states cannot be told")
        count = None
        for part, axis in zip(parts, axes):
            if not isinstance(part, ast.Slice) or part.step is not None:
                raise self._unclear(node, "what is taken of the states cannot be told")
            if axis == POSITIONS and (part.lower or part.upper):
                count = self._count(node, part)
        if count is None:
            self._follow(node, axes)
        else:
            self.counts.append(count)

    def _count(self, node: ast.Subscript, part: ast.Slice) -> ast.expr:
        """``n`` of ``-n:``, where it has that value at the language model's call, too."""
        lower = part.lower
        if part.upper is not None or not isinstance(lower, ast.UnaryOp) or not isinstance(lower.op, ast.USub):
            raise self._unclear(node, "other positions than the last are read")
        count = lower.operand
        for n in ast.walk(count):
            if isinstance(n, ast.Name) and not has_same_value(self.source, n, self.start):
                raise self._unclear(node, f"{n.id} has another value than at the language model's call")
            if isinstance(n, ast.Attribute) and self._is_stored(n):
                raise self._unclear(node, f"{ast.unparse(n)} may have another value than at the language model's call")
            if not isinstance(n, (ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.expr_context)):
                raise self._unclear(node, f"what {ast.unparse(count)} is at the language model's call cannot be told")
        return count

    def _is_stored(self, attribute: ast.Attribute) -> bool:
        """Whether the function itself gives such an attribute a value."""
        function = self.source.function(self.start)
        same = [n for n in named(self.source, attribute.attr) if isinstance(n, ast.Attribute)]
        return any(self.source.function(n) is function and not isinstance(n.ctx, ast.Load) for n in same)


def _assigns(statement: ast.stmt, name: str) -> bool:
    return isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == [name]


def _numbers(nodes: Sequence[ast.expr]) -> Optional[list[int]]:
    """The whole numbers that are written out."""
    try:
        values = [ast.literal_eval(node) for node in nodes]
    except ValueError:
        return None
    return values if all(type(value) is int for value in values) else None
