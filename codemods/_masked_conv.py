"""Where an encoder's convolutional subsampling sets the frames behind the end of each utterance to zero, layer by layer.

That is ``MaskedConvSequential`` in NeMo 2.5 and later (``parts/submodules/subsampling.py``) and in ports of it: a Sequential
whose ``forward`` goes through its layers, multiplies by a mask before each, and once more at the end. Forks rename all of
it; what is looked for is that loop.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from typing import NamedTuple, Optional, Union

from apply_opt.errors import Ambiguous, Conflict, NoSite
from apply_opt.model.source import Edit, Function, Source, callee, first_line, last_line, own_nodes

from ._helpers import helpers, insert_above, is_rebound, refuse_compiled
from ._lines import is_alone, respelled, text_of
from ._products import is_later, writes
from ._scopes import calls, family, methods, named, position

SEQUENTIAL = "Sequential"
ONLY_WHERE, FULL_HELPER, IN_PLACE_HELPER = "masked", "_hides_frames", "_is_new"
"""What our own conditions around these places ask: ``i in masked``, ``_hides_frames(…)``, and ``_is_new(…)``, under which it is
done in place, and else as before. Each is a statement, or within an expression where the masking is in one."""
CHANNELS_LAST_HELPER, IN_PIECES_HELPER = "_channels_last", "_in_pieces"
"""What our own changes call in the place of a layer: ``_channels_last(layer, x)`` for ``layer(x)``."""
IN_PLACE = {"mul_", "masked_fill_"}


class Masked(NamedTuple):
    """The class, its ``forward``, the loop through the layers, and the two expressions that mask.

    ``frames`` is the variable that holds the frames, ``layer`` the one that holds each layer, ``call`` where that is called.
    """

    cls: ast.ClassDef
    forward: Function
    loop: ast.For
    layer: str
    frames: str
    call: ast.Call
    before: Masking
    at_end: Masking


class Masking(NamedTuple):
    """An expression that gives the frames with zeros behind each end: a call, or a product.

    ``whole`` is that and what our own changes have put around it: in place or not, only where it is needed. ``factor`` is
    what the frames are multiplied by: the mask, as the place has it.
    """

    node: Union[ast.Call, ast.BinOp]
    frames: ast.Name
    factor: ast.expr
    whole: ast.expr


@functools.lru_cache(maxsize=8)
def masked_convolutions(source: Source) -> Masked:
    """The class that masks between its layers. Raises where there is none, several, or one that does more than that."""
    classes = [n for n in source.nodes(SEQUENTIAL) if isinstance(n, ast.ClassDef) and _loops(n)]
    if not classes:
        raise NoSite(
            f"{source.name}: no Sequential goes through its layers and masks before each (NeMo does from 2.5.0 on): "
            "there is nothing to be saved"
        )
    if len(classes) > 1:
        places = ", ".join(f"{c.name} (line {c.lineno})" for c in classes)
        raise Ambiguous(f"{source.name}: several classes go through their layers: {places}")
    (cls,) = classes
    forward, loop = _loops(cls)[0]
    _check_is_used(source, cls)
    _check_plain(source, cls, forward)
    return _masked(source, cls, forward, loop)


def _loops(cls: ast.ClassDef) -> list[tuple[Function, ast.For]]:
    """The loops through the layers in the ``forward`` of a Sequential."""
    if not any(SEQUENTIAL in (getattr(base, "attr", ""), getattr(base, "id", "")) for base in cls.bases):
        return []
    forwards = [m for m in methods(cls) if m.name == "forward" and m.args.args]
    return [(m, n) for m in forwards for n in own_nodes(m) if isinstance(n, ast.For) and _layers_of(m, n)]


def _layers_of(forward: Function, loop: ast.For) -> Optional[str]:
    """The variable that holds each of the object's layers in turn, in a loop through them."""
    own, target = forward.args.args[0].arg, loop.target
    is_numbered = (
        isinstance(loop.iter, ast.Call) and ast.unparse(loop.iter.func) == "enumerate" and len(loop.iter.args) == 1
    )
    is_numbered = is_numbered and not loop.iter.keywords  # type: ignore[attr-defined]
    layers = loop.iter.args[0] if is_numbered else loop.iter  # type: ignore[attr-defined]
    if is_numbered:
        is_pair = isinstance(target, ast.Tuple) and len(target.elts) == 2
        target = target.elts[1] if is_pair else target  # type: ignore[attr-defined]
    whole = ast.unparse(layers) in (
        own,
        f"{own}._modules.values()",
    )  # children() leaves a layer out that is there twice
    return target.id if whole and isinstance(target, ast.Name) else None


def _check_is_used(source: Source, cls: ast.ClassDef) -> None:
    """Raise where the file never uses the class, or has two of its name."""
    uses = [n for n in named(source, cls.name) if n is not cls]
    twins = [n for n in uses if isinstance(n, ast.ClassDef) and n.name == cls.name]
    if twins:
        raise Ambiguous(f"{source.name}: two classes are called {cls.name}: lines {cls.lineno} and {twins[0].lineno}")
    if not uses:
        raise NoSite(
            f"{source.name}:{cls.lineno}: {cls.name} is not used in this file: the convolutions run without masks here, "
            "and a change of it would gain nothing"
        )


def _check_plain(source: Source, cls: ast.ClassDef, forward: Function) -> None:
    """Raise where ``forward`` is compiled or scripted, or replaced by a class that derives from this one."""
    refuse_compiled(source, forward)
    if is_rebound(source, "enumerate"):
        raise Ambiguous(f"{source.name}: enumerate is something else here")
    for other in (n for n in source.nodes(cls.name) if isinstance(n, ast.ClassDef) and n is not cls):
        own = [m for m in methods(other) if m.name in {method.name for method in methods(cls)}]
        if cls in family(source, other) and own:
            raise Ambiguous(f"{source.name}:{own[0].lineno}: {other.name} has its own {own[0].name} for {cls.name}")


def _masked(source: Source, cls: ast.ClassDef, forward: Function, loop: ast.For) -> Masked:
    layer = _layers_of(forward, loop)
    assert layer is not None
    found = [n for n in ast.walk(loop) if isinstance(n, ast.Call) and _called(n) == layer]
    where = f"{source.name}:{loop.lineno}"
    if len(found) != 1 or len(found[0].args) != 1 + _is_through_ours(found[0]) or found[0].keywords:
        raise Ambiguous(f"{where}: the layers are not called once each, with the frames alone")
    (call,) = found
    statement = source.statement(call)
    argument = call.args[-1]
    inside = [m for m in _maskings(source, cls, loop) if m.whole is argument or _is_assigned(source, m)]
    if len(inside) != 1:
        raise NoSite(f"{where}: the frames are not masked once before each layer")
    (before,) = inside
    frames = before.frames.id
    block = _block(source, before)
    is_first = {block, statement} <= {*loop.body} and loop.body.index(block) <= loop.body.index(statement)
    if not is_first or not _is_to(statement, frames) or statement.value is not call:  # type: ignore[attr-defined]
        raise Ambiguous(f"{where}: the frames are not simply masked, and then handed to the layer")
    if not (before.whole is argument or (isinstance(argument, ast.Name) and argument.id == frames)):
        raise Ambiguous(f"{where}: the layer gets something else than {frames}")
    at_end = _end(source, cls, forward, loop, frames)
    masked = Masked(cls, forward, loop, layer, frames, call, before, at_end)
    _check_loop(source, masked)
    _check_frames(source, masked, statement)
    _check_mask(source, masked)
    _check_behind(source, masked)
    return masked


def _check_loop(source: Source, found: Masked) -> None:
    """Raise where the loop leaves layers out, or counts in another way than from the first to the last."""
    counted = {n.id for n in ast.walk(found.loop.target) if isinstance(n, ast.Name)}
    for node in (n for statement in found.loop.body for n in ast.walk(statement)):
        is_given = isinstance(node, ast.Name) and node.id in counted and not isinstance(node.ctx, ast.Load)
        if is_given or isinstance(node, (ast.Continue, ast.Break, ast.Return)):
            raise Ambiguous(f"{source.name}:{node.lineno}: the loop does not simply go through the layers")  # type: ignore[attr-defined]


def _check_mask(source: Source, found: Masked) -> None:
    """Raise where the mask may hold something else than 0 and 1: to mask twice would not be the same as once."""
    names = {ast.unparse(_without_axis(m.factor) or m.factor) for m in (found.before, found.at_end)}
    for statement in (n for n in own_nodes(found.forward) if isinstance(n, ast.Assign)):
        if not any(_is_to(statement, name) for name in names):
            continue
        function = _function(source, found.cls, statement.value) if isinstance(statement.value, ast.Call) else None
        for node in [n for root in (statement.value, function) if root is not None for n in ast.walk(root)]:
            around = source.ancestors(node)
            is_number = any(isinstance(n, (ast.Compare, ast.Subscript)) or _is_range(n) for n in around)
            if isinstance(node, ast.BinOp) and isinstance(node.op, ARITHMETIC) and not is_number:
                raise Ambiguous(f"{source.name}:{node.lineno}: the mask may hold something else than 0 and 1")


ARITHMETIC = (ast.Mult, ast.Div, ast.Add, ast.Sub, ast.Pow)


def _is_range(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and callee(node) in ("arange", "range")


def _received(source: Source, cls: ast.ClassDef) -> Iterator[tuple[Function, str, tuple[int, int]]]:
    """The variables that get what an object of the class gives, with their function, and where."""
    for use in calls(source, cls.name):
        statement = source.statement(use)
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        for call in (c for t in targets if isinstance(t, ast.Attribute) for c in calls(source, t.attr)):
            function, where = source.function(call), source.statement(call)
            names = [n.id for n in ast.walk(where) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)]
            if function is not None and names:
                yield function, names[0], position(where)


def _check_behind(source: Source, found: Masked) -> None:
    """Raise where what comes out is written to: without the last mask it may be what a layer has kept for its gradient."""
    inside = [(found.forward, found.frames, position(found.at_end.node)), *_received(source, found.cls)]
    for function, name, start in inside:
        own = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name and position(n) > start]
        for node in own:
            parent = source.ancestors(node)[0]
            is_augmented = isinstance(parent, ast.AugAssign) and parent.target is node
            is_method = isinstance(parent, ast.Attribute) and writes(parent.attr)
            if is_augmented or (is_method and parent is not found.at_end.node):
                raise Ambiguous(f"{source.name}:{node.lineno}: what comes out of the convolutions is written to")


def _called(call: ast.Call) -> str:
    """The variable that is called, by itself or by what our changes put there."""
    called = call.args[0] if _is_through_ours(call) and call.args else call.func
    return called.id if isinstance(called, ast.Name) else ""


def _is_through_ours(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id in (CHANNELS_LAST_HELPER, IN_PIECES_HELPER)


def _end(source: Source, cls: ast.ClassDef, forward: Function, loop: ast.For, frames: str) -> Masking:
    """What masks behind the loop."""
    after = forward.body[forward.body.index(loop) + 1 :] if loop in forward.body else []
    found = [m for s in after for m in _maskings(source, cls, s) if m.frames.id == frames]
    if len(found) != 1 or _block(source, found[0]) not in after:
        raise NoSite(f"{source.name}:{loop.lineno}: the frames are not masked once more behind the loop")
    return found[0]


def _maskings(source: Source, cls: ast.ClassDef, within: ast.AST) -> list[Masking]:
    """The expressions in ``within`` that mask a variable."""
    found = []
    for node in ast.walk(within):
        if isinstance(node, ast.Call) and len(node.args) >= 2 and isinstance(node.args[0], ast.Name):
            function = _function(source, cls, node)
            if function is not None and _multiplies(source, cls, function):
                found.append(Masking(node, node.args[0], node.args[1], _whole(source, node)))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            sides = [side for side in (node.left, node.right) if isinstance(side, ast.Name)]
            rest = [side for side in (node.left, node.right) if "mask" in ast.unparse(side)]
            is_mask = bool(rest) and isinstance(_without_axis(rest[0]) or rest[0], ast.Name)
            if len(sides) == 1 and is_mask and sides[0] not in rest:
                found.append(Masking(node, sides[0], rest[0], _whole(source, node)))
    return found


def _whole(source: Source, node: ast.expr) -> ast.expr:
    """``node``, and our own choices around it."""
    while True:
        parent = source.ancestors(node)[0]
        if not isinstance(parent, ast.IfExp) or not _is_ours(parent.test):
            return node
        if node is not (parent.orelse if _asks_in_place(parent.test) else parent.body):
            return node
        node = parent


def _is_ours(test: ast.expr) -> bool:
    """Whether that is a condition of ours."""
    is_asked = isinstance(test, ast.Call) and callee(test) in (FULL_HELPER, IN_PLACE_HELPER)
    return is_asked or ast.unparse(test).endswith(f" in {ONLY_WHERE}")


def _asks_in_place(test: ast.expr) -> bool:
    return isinstance(test, ast.Call) and callee(test) == IN_PLACE_HELPER


def is_in_place(source: Source, masking: Masking) -> bool:
    """Whether a condition of ours around it has it done in place."""
    top = _block(source, masking)
    tests = [n.test for n in ast.walk(top) if isinstance(n, (ast.If, ast.IfExp))]
    return any(_asks_in_place(test) for test in tests)


def _function(source: Source, cls: ast.ClassDef, call: ast.Call) -> Optional[Function]:
    """The function of this file, or method of ``cls``, that is called."""
    if isinstance(call.func, ast.Name):
        found = [f for f in helpers(source, call.func.id) if not is_rebound(source, f.name)]
    elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        found = [m for m in methods(cls) if m.name == call.func.attr and isinstance(m, ast.FunctionDef)]
    else:
        found = []
    return found[0] if len(found) == 1 and not found[0].decorator_list else None


def _multiplies(source: Source, cls: ast.ClassDef, function: Function) -> bool:
    """Whether ``function`` gives its first argument times its second. Raises where it does so in place."""
    own = [a.arg for a in function.args.args]
    tensor = own[1] if own and function in methods(cls) and own[0] == "self" else own[0] if own else ""
    if len(own) < 2:
        return False
    for node in ast.walk(function):
        is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if is_method and callee(node) in IN_PLACE and ast.unparse(node.func.value) == tensor:  # type: ignore[arg-type, attr-defined]
            raise Conflict(
                f"{source.name}:{node.lineno}: {function.name} masks in place, which overwrites the caller's frames and what "  # type: ignore[attr-defined]
                "autograd has kept",
                f"let {function.name} give a new tensor ({tensor} * …), then apply again",
            )
    return _product(function, tensor) is not None


def _product(function: Function, tensor: str) -> Optional[ast.BinOp]:
    """The only product with ``tensor`` in ``function``, where that is what it gives."""
    products = [
        n
        for n in ast.walk(function)
        if isinstance(n, ast.BinOp)
        and isinstance(n.op, ast.Mult)
        and tensor in (ast.unparse(n.left), ast.unparse(n.right))
    ]
    results = [n for n in own_nodes(function) if isinstance(n, ast.Return)]
    if len(products) != 1 or len(results) != 1 or results[0].value is None or _is_changed(function, tensor, 0):
        return None
    named_result = isinstance(results[0].value, ast.Name) and results[0].value.id
    kept = [s for s in function.body if _is_to(s, named_result or "") and s.value is products[0]]  # type: ignore[attr-defined]
    if kept and _is_changed(function, named_result or "", 1):
        return None
    return products[0] if results[0].value is products[0] or kept else None


def _is_changed(function: Function, name: str, times: int) -> bool:
    """Whether a variable is given a value more than so many ``times``, or written to in place."""
    own = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name]
    is_in_place = any(writes(n.attr) for n in ast.walk(function) if isinstance(n, ast.Attribute) and n.value in own)
    return is_in_place or sum(not isinstance(n.ctx, ast.Load) for n in own) > times


def mask_of(source: Source, cls: ast.ClassDef, masking: Masking) -> str:
    """The mask (B, T, F) that the frames (B, C, T, F) are multiplied by once it has an axis for the channels: a variable's name.

    Raises :class:`NoSite` where the factor is something else.
    """
    mask: Optional[ast.expr] = None
    if isinstance(masking.node, ast.BinOp):
        mask = _without_axis(masking.factor)
    else:
        function = _function(source, cls, masking.node)
        assert function is not None
        tensor, name = [a.arg for a in function.args.args if a.arg != "self"][:2]
        product = _product(function, tensor)
        assert product is not None
        factor = product.right if ast.unparse(product.left) == tensor else product.left
        given = [s.value for s in function.body if isinstance(factor, ast.Name) and _is_to(s, factor.id)]  # type: ignore[attr-defined]
        inner = _without_axis(given[0] if len(given) == 1 else factor)
        mask = masking.factor if isinstance(inner, ast.Name) and inner.id == name else None
    if not isinstance(mask, ast.Name):
        line = masking.node.lineno
        raise NoSite(
            f"{source.name}:{line}: the frames are not multiplied by a mask (B, T, F) with an axis for the channels"
        )
    return mask.id


def _without_axis(factor: ast.expr) -> Optional[ast.expr]:
    """What ``unsqueeze(1)`` or ``[:, None]`` is asked of; shapes and types that it is expanded or converted to are left out."""
    while isinstance(factor, ast.Call) and isinstance(factor.func, ast.Attribute) and factor.func.attr in EXPANDS:
        factor = factor.func.value
    if isinstance(factor, ast.Subscript):
        return factor.value if ast.unparse(factor.slice).strip("()") in AXIS else None
    is_axis = isinstance(factor, ast.Call) and callee(factor) == "unsqueeze" and isinstance(factor.func, ast.Attribute)
    given = [ast.unparse(a) for a in (*factor.args, *(k.value for k in factor.keywords))] if is_axis else []  # type: ignore[attr-defined]
    return factor.func.value if given == ["1"] else None  # type: ignore[attr-defined]


EXPANDS = {"expand", "expand_as", "to", "type_as"}
AXIS = (":, None", ":, None, ...", ":, None, :, :")


def _is_assigned(source: Source, masking: Masking) -> bool:
    """Whether it is all of an assignment to the variable that it masks."""
    statement = source.statement(masking.node)
    return _is_to(statement, masking.frames.id) and statement.value is masking.whole  # type: ignore[attr-defined]


def _block(source: Source, masking: Masking) -> ast.stmt:
    """The statement that masks, or ours that says when it does."""
    statement = source.statement(masking.node)
    while True:
        parent = source.ancestors(statement)[0]
        if not isinstance(parent, ast.If) or not _is_ours(parent.test):
            return statement
        if [statement] != (parent.orelse if _asks_in_place(parent.test) else parent.body):
            return statement
        statement = parent


def call_through(source: Source, helper: str, text: str) -> list[Edit]:
    """The function ``helper``, written as ``text``, above the class, and called in the place of the layers."""
    found = masked_convolutions(source)
    called: dict[ast.expr, str] = {found.call: f"{helper}({found.layer}, {text_of(source, found.call.args[-1])})"}
    return [insert_above(source, found.cls, text), respelled(source, source.statement(found.call), called)]


def calls_layers(source: Source) -> Masked:
    """Like :func:`masked_convolutions`; raises :class:`Conflict` where another change of ours calls the layers already."""
    found = masked_convolutions(source)
    if _is_through_ours(found.call):
        raise Conflict(f"{source.name}:{found.call.lineno}: the layers are called by {callee(found.call)} already")
    return found


def only_where(source: Source, masking: Masking, condition: str) -> Edit:
    """The masking under a condition: as a block where it is an assignment of its own, else within its expression."""
    if stands_alone(source, masking):
        return _under(source, _block(source, masking), f"if {condition}:", "")
    return _chosen(source, masking.whole, f"{{}} if {condition} else {masking.frames.id}")


def in_place_where(source: Source, cls: ast.ClassDef, masking: Masking, condition: str) -> Edit:
    """The masking in place under a condition, and else as it was."""
    in_place = f"{masking.frames.id}.mul_({mask_of(source, cls, masking)}.unsqueeze(1))"
    if stands_alone(source, masking):
        return _under(source, source.statement(masking.node), f"if {condition}:", in_place)
    return _chosen(source, masking.node, f"{in_place} if {condition} else {{}}")


def stands_alone(source: Source, masking: Masking) -> bool:
    """Whether the masking is an assignment that has its lines to itself."""
    return _is_assigned(source, masking) and is_alone(source, source.statement(masking.node))


def _under(source: Source, statement: ast.stmt, header: str, instead: str) -> Edit:
    """``statement`` under ``header``; with ``instead`` that stands there, and the statement under its ``else``."""
    first, last = first_line(statement), last_line(statement)
    indent, unit, newline = source.indent(first), source.indent_unit(), source.newline(first)
    lines = [unit + line if line.strip() else line for line in source.lines[first - 1 : last]]
    other = f"{indent}{unit}{instead}{newline}{indent}else:{newline}" if instead else ""
    return Edit(first, last, f"{indent}{header}{newline}{other}" + "".join(lines))


def _chosen(source: Source, node: ast.expr, form: str) -> Edit:
    """``node`` in its place in ``form``."""
    text = text_of(source, node)
    text = f"({text})" if isinstance(node, ast.IfExp) else text
    return respelled(source, source.statement(node), {node: f"({form.format(text)})"})


def _is_to(statement: ast.stmt, name: str) -> bool:
    """Whether ``statement`` gives the variable ``name`` a value, and nothing else."""
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return len(targets) == 1 and isinstance(targets[0], ast.Name) and targets[0].id == name


SHAPE = {"shape", "dtype", "device", "size", "ndim", "dim", "new_zeros", "new_ones", "type"}


def _check_frames(source: Source, found: Masked, call: ast.stmt) -> None:
    """Raise where the frames are stored or read elsewhere in the loop, except for their shape, type and device."""
    known = {*ast.walk(_block(source, found.before)), *ast.walk(call), *ast.walk(_block(source, found.at_end))}
    start, end = position(found.loop), position(found.at_end.node)
    for node in ast.walk(found.forward):
        if not isinstance(node, ast.Name) or node.id != found.frames or node in known:
            continue
        is_own = source.function(node) is found.forward and not is_later(source, node)
        if is_own and not start <= position(node) <= end:
            continue
        parent = source.ancestors(node)[0]
        is_shape = isinstance(parent, ast.Attribute) and parent.attr in SHAPE
        is_passed = isinstance(parent, ast.Call) and _looks_at_shape(source, found.cls, parent, node)
        if not (is_shape or is_passed):
            text = ast.unparse(source.statement(node)).splitlines()[0]
            raise Ambiguous(f"{source.name}:{node.lineno}: the frames are used between the layers: {text}")


def _looks_at_shape(source: Source, cls: ast.ClassDef, call: ast.Call, node: ast.Name) -> bool:
    """Whether what is called asks ``node`` for its shape, type and device alone."""
    function = _function(source, cls, call)
    if function is None or node not in call.args:
        return False
    names = [a.arg for a in function.args.args]
    names = names[1:] if function in methods(cls) and names[:1] == ["self"] else names
    name = names[call.args.index(node)] if call.args.index(node) < len(names) else ""
    uses = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name]
    parents = [source.ancestors(n)[0] for n in uses]
    return bool(name) and all(isinstance(p, ast.Attribute) and p.attr in SHAPE for p in parents)
