"""Read only as many actions of an episode as the policy looks at.

ACT's data set reads all actions from a moment to the end of the episode, and pads them to the episode's length; its policy then cuts them
to the ``num_queries`` that it predicts (https://arxiv.org/abs/2304.13705, action chunking).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, own_nodes

from ._episodes import item_methods
from ._helpers import insert_above, is_builtin, meant, refuse_compiled, refuse_taken
from ._lines import all_respelled, text_of
from ._scopes import class_of, named

SITES, MOST, PATH = ("read", "padded", "mask"), "_MOST_ACTIONS", "action"
TEXT = """
MOST = CHUNK  # actions of an item, or fewer: as many as the policy predicts (num_queries, --chunk_size), or more
"""


class Places(NamedTuple):
    """Where actions are read (the slices' values), and the two arrays that are filled with them and with what is padding."""

    reads: Sequence[ast.Subscript]
    padded: ast.Call
    mask: ast.Call


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites ``read``, where actions are read to the end, ``padded`` and ``mask``, where arrays as long as the episode are made."""
    uses = [n for n in named(source, MOST) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    made = [s for s in source.tree.body if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == MOST]
    if len(made) == 1 and len(uses) >= len(SITES) and not _reads(source):
        return [Site(name, node.lineno, OURS) for name, node in zip(SITES, (uses[0], *uses[-2:]))]
    if uses or made:
        raise PartlyApplied(
            f"{source.name}:{getattr([*uses, *made][0], 'lineno', 1)} is partly applied: {MOST} is set {len(made)} times "
            f"and used {len(uses)} times",
            "take the part that is there out by hand, then apply again",
        )
    refuse_taken(source, MOST)
    found = _places(source)
    return [Site(name, node.lineno, TODO) for name, node in zip(SITES, (found.reads[0], found.padded, found.mask))]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The number above the class, an end for each read, and both arrays cut to it."""
    found = _places(source)
    changes: dict[ast.expr, str] = {call: f"{text_of(source, call)}[:{MOST}]" for call in (found.padded, found.mask)}
    for read in found.reads:
        start = _start(read)
        assert start is not None
        text = text_of(source, start)
        changes[read.slice] = f"{text}:{text} + {MOST}"
    text = TEXT.replace("MOST", MOST).replace("CHUNK", str(parameters["chunk"]))
    return [insert_above(source, class_of(source, found.padded) or found.padded, text), *all_respelled(source, changes)]


def _start(read: ast.Subscript) -> Optional[ast.expr]:
    """``first`` of ``root["/action"][first:]``."""
    cut = read.slice
    return cut.lower if isinstance(cut, ast.Slice) and cut.upper is None and cut.step is None else None


def _reads(source: Source) -> list[ast.Subscript]:
    """``root["/action"][first:]`` in methods that make items."""
    nodes = [n for method in item_methods(source) for n in ast.walk(method) if isinstance(n, ast.Subscript)]
    return [n for n in nodes if _start(n) is not None and _is_actions(n.value)]


def _is_actions(node: ast.expr) -> bool:
    """``root["/action"]``."""
    key = node.slice if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) else None
    return isinstance(key, ast.Constant) and str(key.value).strip("/") == PATH


def _places(source: Source) -> Places:
    """What is to be changed. Raises where there is none of it, or where all actions may be needed."""
    reads = _reads(source)
    if not reads:
        raise NoSite(
            f"{source.name}: no item of a data set reads all actions from a moment on (root['/action'][moment:])"
        )
    functions = {source.function(read) for read in reads}
    function = source.function(reads[0])
    if len(functions) > 1 or function is None:
        lines = ", ".join(str(read.lineno) for read in reads)
        raise Ambiguous(f"{source.name}: actions are read in {len(functions)} methods: lines {lines}")
    refuse_compiled(source, function)
    variable = _variable(source, reads, function)
    for read in reads:
        _check_start(source, read)
    filled = _filled(source, function, variable)
    return Places(
        reads, _zeros(source, function, filled, "actions"), _zeros(source, function, _mask(source, function), "padding")
    )


def _variable(source: Source, reads: Sequence[ast.Subscript], function: Function) -> str:
    """The variable that gets what is read, and nothing else."""
    (name, *others) = {_given_to(source, read) for read in reads}
    own = [n for n in own_nodes(function) if isinstance(n, ast.Name) and n.id == name]
    if name is None or others or len([n for n in own if not isinstance(n.ctx, ast.Load)]) != len(reads):
        raise Ambiguous(f"{source.name}:{reads[0].lineno}: the actions that are read go to more than one variable")
    return name


def _given_to(source: Source, read: ast.expr) -> Optional[str]:
    """The variable that gets what is read, as it is."""
    statement = source.ancestors(read)[0]
    target = statement.targets[0] if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None
    return target.id if isinstance(target, ast.Name) else None


def _check_start(source: Source, read: ast.Subscript) -> None:
    """Raise where working out the start twice is not the same as once."""
    start = _start(read)
    assert start is not None
    for node in ast.walk(start):
        is_plain = isinstance(node, ast.Call) and meant(source, node.func) in ("max", "min", "int")
        if isinstance(node, ast.Call) and not (is_plain and is_builtin(source, ast.unparse(node.func))):
            raise Ambiguous(
                f"{source.name}:{read.lineno}: where actions start is worked out by {ast.unparse(node)[:60]}"
            )
        if isinstance(node, (ast.NamedExpr, ast.Await, ast.USub)) or _may_be_negative(source, node, start):
            raise Ambiguous(f"{source.name}:{read.lineno}: where actions start may be counted from the end")


def _may_be_negative(source: Source, node: ast.AST, start: ast.expr) -> bool:
    """Whether a difference is taken, and not in ``max(0, …)``."""
    around = source.ancestors(node) if node is not start else []
    calls = [n for n in (around[: around.index(start) + 1] if around else []) if isinstance(n, ast.Call)]
    is_bounded = any(ast.unparse(call.func) == "max" and "0" in map(ast.unparse, call.args) for call in calls)
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and not is_bounded


def _filled(source: Source, function: Function, variable: str) -> str:
    """The array whose first rows become the actions. Raises where these are used for something else."""
    arrays = set()
    for node in (n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == variable):
        parent, *around = source.ancestors(node)
        if not isinstance(node.ctx, ast.Load) or _is_length(source, node, parent, around):
            continue
        target = parent.targets[0] if isinstance(parent, ast.Assign) and parent.value is node else None
        if not isinstance(target, ast.Subscript) or not _is_head(target):
            what = ast.unparse(source.statement(node)).splitlines()[0][:80]
            raise Ambiguous(f"{source.name}:{node.lineno}: all actions may be needed: {what}")
        arrays.add(ast.unparse(target.value))
    if len(arrays) != 1:
        raise Ambiguous(f"{source.name}:{function.lineno}: the actions fill {len(arrays)} arrays")
    return arrays.pop()


def _is_length(source: Source, node: ast.Name, parent: ast.AST, around: Sequence[ast.AST]) -> bool:
    """``len(actions)`` or ``actions.shape[0]``."""
    if isinstance(parent, ast.Call):
        return ast.unparse(parent) == f"len({node.id})" and is_builtin(source, "len")
    return isinstance(parent, ast.Attribute) and ast.unparse(around[0]) == f"{node.id}.shape[0]"


def _is_head(target: ast.Subscript) -> bool:
    """``array[:count]``."""
    cut = target.slice
    return isinstance(cut, ast.Slice) and cut.lower is None and cut.step is None and isinstance(target.value, ast.Name)


def _mask(source: Source, function: Function) -> str:
    """The array of which the last entries become 1."""
    found = set()
    for node in (n for n in ast.walk(function) if isinstance(n, ast.Assign) and len(n.targets) == 1):
        (target,) = node.targets
        is_one = isinstance(node.value, ast.Constant) and node.value.value in (1, True)
        if (
            is_one
            and isinstance(target, ast.Subscript)
            and isinstance(target.value, ast.Name)
            and _start(target) is not None
        ):
            found.add(target.value.id)
    if len(found) != 1:
        raise NoSite(
            f"{source.name}:{function.lineno}: {len(found)} arrays say which actions are padding (is_pad[count:] = 1)"
        )
    return found.pop()


def _zeros(source: Source, function: Function, name: str, of: str) -> ast.Call:
    """What makes the array, of zeros. Raises where it is made otherwise, or used for more than to be filled and made a tensor."""
    made = []
    for node in (n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name):
        parent = source.ancestors(node)[0]
        if isinstance(node.ctx, ast.Store) and isinstance(parent, ast.Assign) and isinstance(parent.value, ast.Call):
            made.append(parent.value)
        elif isinstance(node.ctx, ast.Store) or not _is_fill_or_tensor(source, node, parent):
            what = ast.unparse(source.statement(node)).splitlines()[0][:80]
            raise Ambiguous(f"{source.name}:{node.lineno}: all of the array of {of} may be needed: {what}")
    zeros = [call for call in made if meant(source, call.func) == "numpy.zeros"]
    others = [call for call in made if call not in zeros and not _is_tensor(source, call)]
    if len(zeros) != 1 or others:
        raise Ambiguous(f"{source.name}:{function.lineno}: the array of {of} ({name}) is not made once, by numpy.zeros")
    return zeros[0]


def _is_fill_or_tensor(source: Source, node: ast.Name, parent: ast.AST) -> bool:
    """``array[…] = …`` or ``torch.from_numpy(array)``."""
    is_filled = isinstance(parent, ast.Subscript) and isinstance(parent.ctx, ast.Store) and parent.value is node
    call = parent if isinstance(parent, ast.Call) and node in parent.args else None
    if call is None and isinstance(parent, ast.Attribute):  # array = torch.from_numpy(array).bool(): a tensor by then
        return False
    return (
        is_filled
        or (call is not None and meant(source, call.func) in TENSORS)
        or isinstance(parent, (ast.Return, ast.Tuple))
    )


TENSORS = ("torch.from_numpy", "torch.as_tensor", "torch.tensor")


def _is_tensor(source: Source, call: ast.Call) -> bool:
    """``torch.from_numpy(…)``, with a conversion behind it or not."""
    inner: ast.expr = call
    while (
        isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and isinstance(inner.func.value, ast.Call)
    ):
        inner = inner.func.value
    return isinstance(inner, ast.Call) and meant(source, inner.func) in TENSORS
