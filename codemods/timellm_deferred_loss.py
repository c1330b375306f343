"""Bring the losses of an epoch to the host once, after it, not one by one.

The training loop asks each iteration's loss for its number, for the mean of the epoch that is printed later. Each time the host waits
until the device has done all that it was given (https://docs.pytorch.org/docs/stable/notes/cuda.html#asynchronous-execution). Tensors
are kept in the list instead, and become the same numbers where the mean is taken.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, Conflict, NoSite
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source, callee, own_nodes

from ._helpers import check_imported, insert_above, is_builtin, is_rebound, is_used, meant, refuse_compiled
from ._lines import all_respelled, text_of
from ._scopes import (
    FUNCTIONS,
    LOOPS,
    Binding,
    calls,
    certain,
    function_of,
    named,
    parameters_of,
    position,
    reaching,
    scope_of,
)

SITE, HELPER = "losses", "_numbers_of"
HELPER_TEXT = f'''
def {HELPER}(losses):
    """The numbers in `losses`, tensors of one number each: brought to the host all at once, where they are of one kind."""
    if len({{(loss.dtype, loss.device, loss.shape) for loss in losses}}) == 1:
        return torch.stack(losses).flatten().tolist()
    return [loss.item() for loss in losses]
'''
KEPT = ".detach().clone()"
FIGURES = tuple(f"numpy.{name}" for name in ("average", "mean", "median", "std", "var", "sum", "min", "max", "array"))
"""What may be made of the list: from numbers that are given in another list, they make the same."""
BUILTINS = ("sum", "min", "max", "sorted")
"""Python's own functions that do, too."""
LOOKS_ROUND = ("locals()", "vars()", "globals()")


class Losses(NamedTuple):
    """A list that is filled with losses as numbers, by ``appends``, and the places where these are ``read``."""

    name: str
    appends: Sequence[ast.Call]
    read: Sequence[ast.Name]


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``losses``: the first loss that is appended to a list."""
    uses = calls(source, HELPER)
    if is_used(source, HELPER, uses):
        return [Site(SITE, uses[0].lineno, OURS)]
    found = _all_losses(source)
    if found:
        return [Site(SITE, found[0].appends[0].lineno, TODO)]
    theirs = [call for call in _appends(source) if _is_tensor(call.args[0]) and _trains(source, call.args[0])]
    if theirs:
        return [Site(SITE, theirs[0].lineno, THEIRS, ast.unparse(theirs[0]))]
    raise NoSite(
        f"{source.name}: no list is filled with losses as numbers (LIST.append(LOSS.item())) in a loop that trains with them"
    )


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the first loop, tensors in the lists, and the helper asked where these are read."""
    found = _all_losses(source)
    changes: dict[ast.expr, str] = {}
    for losses in found:
        for call in losses.appends:
            loss = _asked(call.args[0])
            assert loss is not None
            changes[call.args[0]] = text_of(source, loss) + KEPT
        changes.update({name: f"{HELPER}({name.id})" for name in losses.read})
    first = min((losses.appends[0] for losses in found), key=position)
    return [insert_above(source, first, HELPER_TEXT), *all_respelled(source, changes)]


def _all_losses(source: Source) -> list[Losses]:
    """Every list that is filled with the numbers of losses from which gradients are computed."""
    found: dict[tuple[ast.AST, str], list[ast.Call]] = {}
    for call in _appends(source):
        loss, name = _asked(call.args[0]), call.func.value  # type: ignore[attr-defined]
        if loss is not None and isinstance(name, ast.Name) and _trains(source, loss):
            found.setdefault((scope_of(source, call), name.id), []).append(call)
    _check_others(source, [call for own in found.values() for call in own])
    losses = [_checked(source, name, sorted(own, key=position)) for (_, name), own in found.items()]
    if losses:
        check_imported(source, "torch")
        if is_rebound(source, "torch"):
            raise Ambiguous(f"{source.name}: torch means something else in some place")
    return losses


def _appends(source: Source) -> list[ast.Call]:
    """``LIST.append(VALUE)`` as a statement in a loop."""
    found = [call for call in calls(source, "append") if len(call.args) == 1 and not call.keywords]
    return [
        call
        for call in found
        if isinstance(call.func, ast.Attribute)
        and isinstance(source.ancestors(call)[0], ast.Expr)
        and _loop(source, call)
    ]


def _loop(source: Source, node: ast.AST) -> Optional[ast.stmt]:
    """The innermost loop that ``node`` is in, in its own function."""
    scope = scope_of(source, node)
    for parent in source.ancestors(node):
        if parent is scope:
            return None
        if isinstance(parent, LOOPS):
            return parent
    return None


def _asked(value: ast.expr) -> Optional[ast.Name]:
    """``loss`` of ``loss.item()``."""
    is_call = isinstance(value, ast.Call) and not value.args and not value.keywords and callee(value) == "item"
    asked = value.func.value if is_call and isinstance(value.func, ast.Attribute) else None  # type: ignore[attr-defined]
    return asked if isinstance(asked, ast.Name) else None


def _is_tensor(value: ast.expr) -> bool:
    """``loss.detach()``, with more behind it or not."""
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        if value.func.attr == "detach":
            return True
        if value.func.attr in ("item", "tolist", "numpy"):
            return False
        value = value.func.value
    return False


def _trains(source: Source, value: ast.expr) -> bool:
    """Whether gradients are computed from a variable of ``value``, in the loop where that is."""
    names = {n.id for n in ast.walk(value) if isinstance(n, ast.Name)}
    loop = _loop(source, value)
    return any(n.id in names for n in _differentiated(loop)) if loop else False


def _differentiated(loop: ast.stmt) -> Iterator[ast.Name]:
    """``loss`` of ``loss.backward()``, ``scaler.scale(loss).backward()`` and ``accelerator.backward(loss)``."""
    for node in ast.walk(loop):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "backward":
            value: ast.expr = node.args[0] if node.args else node.func.value
            if isinstance(value, ast.Call) and callee(value) == "scale" and len(value.args) == 1:
                value = value.args[0]
            if isinstance(value, ast.Name):
                yield value


def _check_others(source: Source, good: Sequence[ast.Call]) -> None:
    """Raise where a number of a loss goes into a list in another form."""
    for call in _appends(source):
        inner = [n for n in ast.walk(call.args[0]) if isinstance(n, ast.Call) and callee(n) == "item"]
        if call not in good and any(_trains(source, n.func) for n in inner):
            raise Ambiguous(f"{source.name}:{call.lineno}: more than the number of a loss is kept: {ast.unparse(call)}")


def _checked(source: Source, name: str, appends: Sequence[ast.Call]) -> Losses:
    """The list ``name``; raises where something else is done with it, or a loss may be no tensor."""
    scope = scope_of(source, appends[0])
    function = function_of(source, appends[0])
    if function is not None:
        refuse_compiled(source, function)
        if name in [parameter.arg for parameter in parameters_of(function)]:
            raise Ambiguous(f"{source.name}:{function.lineno}: {name} is given to {function.name}: others may read it")
    for node in own_nodes(scope):
        if (isinstance(node, ast.Call) and ast.unparse(node) in LOOKS_ROUND) or (
            isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec")
        ):
            raise Conflict(f"{source.name}:{node.lineno}: {ast.unparse(node)} may read any variable")
    for call in appends:
        _check_loss(source, call)
    read = _reads(source, name, scope, appends)
    if not read:
        raise NoSite(f"{source.name}:{appends[0].lineno}: no mean is taken of {name}: who reads it cannot be told")
    return Losses(name, appends, read)


def _reads(source: Source, name: str, scope: ast.AST, appends: Sequence[ast.Call]) -> list[ast.Name]:
    """Where the numbers of the list are read; raises where something else is done with it."""
    taken = {call.func.value for call in appends}  # type: ignore[attr-defined]
    read = []
    for node in named(source, name):
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            raise Ambiguous(f"{source.name}:{node.lineno}: {name} is a variable of several functions")
        if not isinstance(node, ast.Name) or not _is_seen(source, node, scope):
            continue
        if isinstance(node.ctx, ast.Load):
            is_list = _is_list(source, node)
            if is_list and node not in taken and not _is_counted(source, node):
                _check_read(source, node, appends)
                read.append(node)
        elif isinstance(node.ctx, ast.Del) or isinstance(source.statement(node), ast.AugAssign):
            raise Ambiguous(f"{source.name}:{node.lineno}: {name} is changed there in another way")
    for call in appends:
        if not _is_list(source, call.func.value):  # type: ignore[attr-defined]
            raise Ambiguous(f"{source.name}:{call.lineno}: what {name} is there cannot be told")
    return read


def _is_seen(source: Source, node: ast.Name, scope: ast.AST) -> bool:
    """Whether ``node`` is the variable of ``scope``; raises where it is, in a function inside."""
    own = scope_of(source, node)
    if own is scope and not any(isinstance(n, ast.Lambda) for n in source.ancestors(node)):
        return True
    if own is scope or scope is source.tree or scope in source.ancestors(own):
        names = [a.arg for a in parameters_of(own)] if isinstance(own, FUNCTIONS) else []
        stores = [n for n in own_nodes(own) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)]
        if own is scope or node.id not in [*names, *(n.id for n in stores)]:
            raise Ambiguous(f"{source.name}:{node.lineno}: {node.id} is read in a function there")
    return False


def _is_list(source: Source, node: ast.Name) -> bool:
    """Whether a variable is a list that began empty; raises where it may be that, or something else."""
    found = reaching(source, node, node)
    empty = [binding for binding in found if _is_empty_list(binding)]
    if empty and (len(empty) < len(found) or not any(certain(source, b.statement, node) for b in empty)):
        raise Ambiguous(f"{source.name}:{node.lineno}: {node.id} may be the list there, or something else")
    return bool(empty)


def _is_empty_list(binding: Binding) -> bool:
    given = binding.statement
    targets = (
        given.targets if isinstance(given, ast.Assign) else [given.target] if isinstance(given, ast.AnnAssign) else []
    )
    is_own = len(targets) == 1 and isinstance(targets[0], ast.Name)  # the list has no second name
    return is_own and binding.value is not None and ast.unparse(binding.value) in ("[]", "list()")


def _is_counted(source: Source, node: ast.Name) -> bool:
    """Whether only the length of the list is asked for."""
    parent = source.ancestors(node)[0]
    return isinstance(parent, ast.Call) and ast.unparse(parent) == f"len({node.id})" and is_builtin(source, "len")


def _check_read(source: Source, node: ast.Name, appends: Sequence[ast.Call]) -> None:
    """Raise where the list is read in the loop that fills it, or for something else than a figure of all of it."""
    where = f"{source.name}:{node.lineno}: {node.id}"
    call, around = source.ancestors(node)[0], source.ancestors(node)
    if any(_loop(source, append) in around for append in appends):
        raise Conflict(f"{where} is read in the loop that fills it: each number is needed there and then")
    if any(isinstance(n, ast.JoinedStr) for n in around):
        raise Ambiguous(f"{where} is read within a text: give the mean a name")
    name = meant(source, call.func) if isinstance(call, ast.Call) else ""
    is_figure = name in FIGURES or (name in BUILTINS and len(call.args) == 1 and is_builtin(source, name))  # type: ignore[attr-defined]
    if not isinstance(call, ast.Call) or call.args[:1] != [node] or not is_figure:
        raise Ambiguous(f"{where} is read for something else than a mean: {ast.unparse(source.statement(node))[:80]}")


def _check_loss(source: Source, append: ast.Call) -> None:
    """Raise where the value that is appended may be another one than that from which gradients are computed: no tensor, then."""
    loss, loop = _asked(append.args[0]), _loop(source, append)
    assert loss is not None and loop is not None
    here = {binding.statement for binding in reaching(source, loss, loss)}
    uses = [n for n in _differentiated(loop) if n.id == loss.id]
    known = {binding.statement for use in uses for binding in reaching(source, use, use)}
    if not here or not here <= known:
        raise Ambiguous(
            f"{source.name}:{append.lineno}: whether {loss.id} is the tensor that is trained with cannot be told"
        )
