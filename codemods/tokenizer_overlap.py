"""Run the two tokenizers of an utterance side by side: ONNX Runtime (vq06) in a thread of its own, the encoder (vq02) here.

ONNX Runtime lets go of Python's global lock while it runs, and neither kind of tokens needs the other. What PyTorch keeps
for each thread is taken along, as ``parallel_apply`` does it
(https://github.com/pytorch/pytorch/blob/main/torch/nn/parallel/parallel_apply.py).

It is done only where the file shows that the two cannot get in each other's way: :mod:`_shared_state`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, Conflict, NoSite
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.fragment import replace
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, bodies, callee

from ._escapes import encoding_methods
from ._helpers import has_helper, insert_above
from ._lines import is_alone, line_of, without
from ._onnx_session import feeding_methods
from ._scopes import FUNCTIONS, called, calls, family, function_of, methods
from ._shared_state import in_the_way, reaches
from ._step_audio_tokenizer import tokenizer_class

HELPER = "_side_by_side"
HELPER_TEXT = '''
def _side_by_side(first, second):
    """What `first()` and `second()` return; `second` runs in a thread of its own while `first` runs here.

    As if one ran after the other: both see the caller's context variables, gradient and inference mode, CUDA device and
    stream, an exception of `first` comes before one of `second` (which has run all the same), and neither runs any more
    when this returns or raises.
    """
    import concurrent.futures
    import contextlib
    import contextvars
    import os
    import threading

    import torch

    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1:  # they would only take turns
        return first(), second()
    # Autocast and a default device hold for one thread only, too. They are rare here: then one after the other.
    product = torch.ones(1, 1) @ torch.ones(1, 1)
    if torch.is_autocast_enabled() or product.dtype != torch.float32 or product.device.type != "cpu":
        return first(), second()
    modes = [torch.inference_mode(torch.is_inference_mode_enabled()), torch.set_grad_enabled(torch.is_grad_enabled())]
    if torch.cuda.is_initialized():
        modes.append(torch.cuda.stream(torch.cuda.current_stream()))
    pending = concurrent.futures.Future()

    def run():
        try:
            with contextlib.ExitStack() as stack:
                for mode in modes:
                    stack.enter_context(mode)
                result = second()
            pending.set_result(result)
        except BaseException as error:
            pending.set_exception(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    try:
        thread.start()
    except RuntimeError:  # there is no thread to be had, or the interpreter is shutting down
        return first(), second()
    try:
        return first(), pending.result()
    finally:
        thread.join()
'''
PLAIN = (ast.Name, ast.Constant, ast.Attribute, ast.keyword, ast.expr_context)
QUIET = {
    "int",
    "float",
    "str",
    "list",
    "tuple",
    "len",
    "range",
    "enumerate",
    "zip",
    "min",
    "max",
    "sum",
    "round",
    "abs",
}
SIMPLE = (
    *(ast.Assign, ast.Name, ast.Constant, ast.Call, ast.ListComp, ast.comprehension, ast.BinOp, ast.operator),
    *(ast.List, ast.Tuple, ast.expr_context),
)


class Pair(NamedTuple):
    """The calls for the two kinds of tokens, and the statements that keep what they give: one, or two in a row."""

    first: ast.Call
    second: ast.Call
    statements: Sequence[ast.Assign]


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``codes``: where one kind of tokens is made after the other."""
    tokenizer = tokenizer_class(source)
    if has_helper(source, HELPER, calls(source, HELPER), tokenizer.lineno):
        return [Site("codes", calls(source, HELPER)[0].lineno, OURS)]
    kinds = _kinds(source, tokenizer)
    place = _handed_on(source, kinds)
    if place is not None:
        return [Site("codes", place.lineno, THEIRS, ast.unparse(source.statement(place)).splitlines()[0])]
    return [Site("codes", _pair(source, tokenizer, kinds).first.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The two calls handed to our function, in place of the first; the helper above the class."""
    tokenizer = tokenizer_class(source)
    pair = _pair(source, tokenizer, _kinds(source, tokenizer))
    place = pair.statements[0]
    inner = source.indent(place.lineno) + source.indent_unit()
    both = "".join(f"\n{inner}lambda: {line_of(source, call)}," for call in (pair.first, pair.second))
    changes: dict[ast.expr, str] = {place.value: f"{HELPER}({both}\n{source.indent(place.lineno)})"}
    edits = []
    if len(pair.statements) == 2:
        changes[place.targets[0]] = ", ".join(ast.unparse(s.targets[0]) for s in pair.statements)
        edits.append(without(source, pair.statements[1]))
    return [insert_above(source, tokenizer, HELPER_TEXT), replace(source, place, changes), *edits]


# Which methods make the two kinds


class Kinds(NamedTuple):
    """The methods that come to make vq02 tokens, and no others; those for vq06 tokens; those that do both."""

    vq02: Sequence[Function]
    vq06: Sequence[Function]
    both: Sequence[Function]


def _kinds(source: Source, tokenizer: ast.ClassDef) -> Kinds:
    encoding, feeding = encoding_methods(source), feeding_methods(source, tokenizer)
    own = [m for cls in family(source, tokenizer) for m in methods(cls)]
    reached = {method: reaches(source, tokenizer, method) for method in own}
    vq02 = [m for m in own if any(e in reached[m] for e in encoding)]
    vq06 = [m for m in own if any(f in reached[m] for f in feeding)]
    both = [m for m in vq02 if m in vq06]
    return Kinds([m for m in vq02 if m not in both], [m for m in vq06 if m not in both], both)


def _handed_on(source: Source, kinds: Kinds) -> Optional[ast.Attribute]:
    """Where one of the methods is not called but handed on, as to a pool of threads: the author's own way."""
    names = {m.name for m in (*kinds.vq02, *kinds.vq06)}
    nodes = [node for method in kinds.both for node in ast.walk(method) if isinstance(node, ast.Attribute)]
    for node in (node for node in nodes if node.attr in names):
        parent = source.ancestors(node)[0]
        if not (isinstance(parent, ast.Call) and parent.func is node):
            return node
    return None


def _pair(source: Source, tokenizer: ast.ClassDef, kinds: Kinds) -> Pair:
    """The two calls. Raises where they are not there once, in a row, or could get in each other's way."""
    found = []
    for method in kinds.both:
        own = [n for n in ast.walk(method) if isinstance(n, ast.Call)]
        first = [call for call in own if called(source, call) in kinds.vq02]
        second = [call for call in own if called(source, call) in kinds.vq06]
        if first or second:
            found.append((method, first, second))
    if not found:
        raise NoSite(f"{source.name}: no method of {tokenizer.name} makes both kinds of tokens")
    if len(found) > 1 or len(found[0][1]) != 1 or len(found[0][2]) != 1:
        nodes = sorted(call.lineno for _, first, second in found for call in (*first, *second))
        raise Ambiguous(f"{source.name}: tokens are made in several places: lines {', '.join(map(str, nodes))}")
    method, (one,), (two,) = found[0]
    pair = _in_a_row(source, method, one, two)
    _check_arguments(source, pair)
    (vq02,) = (m for m in kinds.vq02 if m is called(source, one))
    (vq06,) = (m for m in kinds.vq06 if m is called(source, two))
    why = in_the_way(source, tokenizer, vq02, vq06)
    if why is not None:
        raise Conflict(f"{source.name}: {vq02.name} and {vq06.name} cannot run at the same time: {why}")
    return pair


def _in_a_row(source: Source, method: Function, one: ast.Call, two: ast.Call) -> Pair:
    """The two calls as one statement after the other, or as the two halves of one."""
    where = f"{source.name}:{one.lineno}: the vq02 and vq06 tokens"
    statements = [source.statement(call) for call in (one, two)]
    inside = all(function_of(source, call) is method and not _is_later(source, call) for call in (one, two))
    first, second = statements
    if inside and isinstance(first, ast.Assign) and first is second:
        if isinstance(first.value, ast.Tuple) and first.value.elts == [one, two] and is_alone(source, first):
            return Pair(one, two, [first])
    elif inside and isinstance(first, ast.Assign) and isinstance(second, ast.Assign):
        kept = [s.targets[0] for s in (first, second) if len(s.targets) == 1 and isinstance(s.targets[0], ast.Name)]
        if len(kept) == 2 and first.value is one and second.value is two:
            _check_between(source, first, second)
            return Pair(one, two, [first, second])
    raise NoSite(f"{where} are not simply kept in variables, one kind after the other")


def _is_later(source: Source, node: ast.AST) -> bool:
    """Whether ``node`` is in a function within a method, and may run at another time."""
    around = source.ancestors(node)
    functions = [n for n in around if isinstance(n, (*FUNCTIONS, ast.Lambda, ast.GeneratorExp))]
    return len(functions) != 1


def _check_between(source: Source, first: ast.Assign, second: ast.Assign) -> None:
    """Raise where something else stands between, whose place in the order may matter."""
    parent = source.ancestors(first)[0]
    block = next(block for block in bodies(parent) if first in block)
    if second not in block or block.index(second) < block.index(first):
        raise NoSite(f"{source.name}:{second.lineno}: the vq06 tokens are not made after the vq02 tokens, in one block")
    for one in (first, second):
        if not is_alone(source, one):
            raise NoSite(f"{source.name}:{one.lineno}: there is other code on the line")
    between = block[block.index(first) + 1 : block.index(second)]
    late = _stored(second)
    for other in between:
        loads = {n.id for n in ast.walk(other) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        if not _is_quiet(other) or (loads | _stored(other)) & late:
            text = ast.unparse(other).splitlines()[0]
            raise NoSite(f"{source.name}:{other.lineno} stands between the two kinds of tokens: {text}")
    given = {n.id for n in ast.walk(second.value) if isinstance(n, ast.Name)}
    for statement in (first, *between):
        if _stored(statement) & given:
            raise NoSite(
                f"{source.name}:{second.lineno}: the vq06 tokens are made of what line {statement.lineno} gives"
            )


def _stored(statement: ast.stmt) -> set[str]:
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _is_quiet(statement: ast.stmt) -> bool:
    """Whether ``statement`` only gives variables values, made by plain functions of variables."""
    if not isinstance(statement, ast.Assign) or not all(isinstance(t, ast.Name) for t in statement.targets):
        return False
    quiet = all(
        callee(n) in QUIET and isinstance(n.func, ast.Name) for n in ast.walk(statement) if isinstance(n, ast.Call)
    )
    return quiet and all(isinstance(n, SIMPLE) for n in ast.walk(statement))


def _check_arguments(source: Source, pair: Pair) -> None:
    """Raise where what a call is given is more than variables: it would be computed at another time."""
    for call in (pair.first, pair.second):
        given = [*call.args, *call.keywords]
        if not all(isinstance(n, PLAIN) for value in given for n in ast.walk(value)):
            raise NoSite(f"{source.name}:{call.lineno}: what {callee(call)} is given is computed in the call")
