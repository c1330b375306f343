"""Ask the wavelet prompt generator about the whole batch, ahead of the loop that writes a prompt for each sample.

The loop stays as it is, and so does its call of the generator: for a sample of which nothing was found out beforehand.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source, callee

from ._counting import Counting, counting
from ._helpers import insert_above, is_used, refuse_compiled, refuse_taken
from ._lines import above, all_respelled, starts_line, text_of
from ._products import in_loop
from ._sample_loop import WRITER, check_given, check_plain, check_unchanged, given_once, own_statements, stores
from ._scopes import calls, has_star, is_asked, position, targets_of
from .dwt_batch_features import NUMBERS

HELPER, FOUND, SITE = "_features_of_each", "batch_features", "samples"
SAME = ("contiguous", "clone", "detach")
"""Methods of a tensor that give the same numbers."""
HELPER_TEXT = f'''
def {HELPER}(generator, samples):
    """What `generator` finds out about all of `samples` (B, N, T) at once, by their numbers; nothing, where it cannot."""
    look = getattr(generator, "features_of_each", None)
    return look(samples) if look else {{}}
'''


class Asked(NamedTuple):
    """A loop over samples, the call of a generator in it, and the variables for the samples' number and for all of them."""

    loop: ast.For
    call: ast.Call
    number: str
    samples: str


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``samples``: the call of the generator for one sample."""
    uses = calls(source, HELPER)
    if is_used(source, HELPER, uses, 1):
        return [Site(SITE, uses[0].lineno, OURS)]
    return [Site(SITE, _asked(source).call.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """All samples ahead of the loop; and in it what was found of one of them, or else the call as it was."""
    found = _asked(source)
    generator = ast.unparse(found.call.func)
    return [
        insert_above(source, found.loop, HELPER_TEXT),
        above(source, found.loop, f"{FOUND} = {HELPER}({generator}, {found.samples})"),
        *all_respelled(source, {found.call: f"{FOUND}.get({found.number}) or {text_of(source, found.call)}"}),
    ]


def _asked(source: Source) -> Asked:
    loops = [n for n in source.nodes(WRITER) if isinstance(n, ast.For)]
    found = [asked for loop in loops for asked in _in_loop(source, loop)]
    if not found:
        raise NoSite(
            f"{source.name}: no loop asks a generator about one sample after the other, to write prompts ({WRITER})"
        )
    if len(found) > 1:
        lines = ", ".join(str(asked.call.lineno) for asked in found)
        raise Ambiguous(f"{source.name}: a generator is asked in {len(found)} places: lines {lines}")
    _check(source, found[0])
    return found[0]


def _in_loop(source: Source, loop: ast.For) -> list[Asked]:
    """The calls ``self.generator(samples[b : b + 1])`` that are all of a statement of ``loop``'s own."""
    writers = {
        ast.unparse(call.func.value) for call in calls(source, WRITER, loop) if isinstance(call.func, ast.Attribute)
    }
    found = []
    for statement in own_statements(loop):
        call = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
        if (
            isinstance(call, ast.Call)
            and ast.unparse(call.func) in writers
            and re.fullmatch(r"self\.\w+", ast.unparse(call.func))
            and len(call.args) + len(call.keywords) == 1
            and not has_star(call)
        ):
            (sample,) = [*call.args, *(keyword.value for keyword in call.keywords)]
            counted = counting(source, loop)
            samples = _samples(loop, counted, sample) if counted else ""
            if not counted or not samples:
                raise Ambiguous(
                    f"{source.name}:{call.lineno}: whether that asks about one sample of the batch cannot be told"
                )
            found.append(Asked(loop, call, counted.number, samples))
    return found


def _samples(loop: ast.For, counted: Counting, sample: ast.expr) -> str:
    """The variable of which ``sample`` is one row, as a batch of one; nothing, where it is something else."""
    if isinstance(sample, ast.Name):
        given = given_once(loop, sample.id)
        if not given or position(given) > position(sample):
            return ""
        is_name = any(isinstance(n, ast.Name) and n.id == sample.id for n in ast.walk(given))
        return "" if is_name else _samples(loop, counted, given)
    if isinstance(sample, ast.Call) and isinstance(sample.func, ast.Attribute) and not sample.keywords:
        name, arguments = sample.func.attr, [ast.unparse(a) for a in sample.args]
        if name in SAME and not arguments:
            return _samples(loop, counted, sample.func.value)
        return _row(loop, counted, sample.func.value) if (name, arguments) == ("unsqueeze", ["0"]) else ""
    if not isinstance(sample, ast.Subscript):
        return ""
    first, *rest = sample.slice.elts if isinstance(sample.slice, ast.Tuple) and sample.slice.elts else [sample.slice]
    if any(ast.unparse(other) != ":" for other in rest):
        return ""
    if isinstance(first, ast.Constant) and first.value is None:
        return _row(loop, counted, sample.value)
    is_one = isinstance(sample.value, ast.Name) and ast.unparse(first) in (
        f"{counted.number}:{counted.number} + 1",
        f"{counted.number}:1 + {counted.number}",
    )
    return ast.unparse(sample.value) if is_one else ""


def _row(loop: ast.For, counted: Counting, row: ast.expr) -> str:
    """The variable of which ``row`` is ``samples[number]``, under whatever name."""
    if isinstance(row, ast.Call) and isinstance(row.func, ast.Attribute) and row.func.attr in SAME and not row.args:
        return _row(loop, counted, row.func.value)
    given = given_once(loop, row.id) if isinstance(row, ast.Name) else None
    if given and position(given) < position(row) and isinstance(given, ast.Subscript):
        return _row(loop, counted, given)
    if isinstance(row, ast.Subscript) and isinstance(row.value, ast.Name):
        return row.value.id if ast.unparse(row.slice) == counted.number else ""
    is_item = isinstance(row, ast.Name) and row.id == counted.item and len(stores(loop, row.id)) == 1
    return counted.among.id if is_item and isinstance(counted.among, ast.Name) else ""


def _check(source: Source, found: Asked) -> None:
    """Raise where the samples may be others when the generator is asked about them ahead of the loop."""
    loop, function = found.loop, source.function(found.loop)
    if function is None or not starts_line(source, loop):
        raise Ambiguous(f"{source.name}:{loop.lineno}: the loop is in no function, or shares its line")
    refuse_compiled(source, function)
    refuse_taken(source, FOUND)
    if in_loop(source, loop):
        raise Ambiguous(f"{source.name}:{loop.lineno}: the loop is in another one")
    if stores(loop, found.samples) or len(stores(loop, found.number)) > 1:
        raise Ambiguous(f"{source.name}:{loop.lineno}: {found.samples} or {found.number} changes in the loop")
    check_given(source, loop, found.samples)
    _check_uses(source, found)
    check_unchanged(source, loop, ast.unparse(found.call.func))


def _check_uses(source: Source, found: Asked) -> None:
    """Raise where samples, generator or features are used, or may be changed, by anything else than is known."""
    check_plain(source, found.loop)
    _check_sample(source, found)
    _check_generator(source, found)
    _check_numbers(source, found)


def _check_sample(source: Source, found: Asked) -> None:
    """Raise where something else in the loop has to do with the samples."""
    loop, aliases = found.loop, _names_of_sample(found.loop, found)
    for node in ast.walk(loop):
        if isinstance(node, ast.Name) and node.id in {found.samples, *aliases} and isinstance(node.ctx, ast.Load):
            statement = source.statement(node)
            is_on_the_way = any(ast.unparse(target) in aliases for target in targets_of(statement))
            if (
                statement is not source.statement(found.call)
                and not is_on_the_way
                and loop.iter not in source.ancestors(node)
            ):
                raise Ambiguous(f"{source.name}:{node.lineno}: {node.id} is used for something else, too")


def _check_generator(source: Source, found: Asked) -> None:
    """Raise where more is done with the generator than to ask it, and to have it write."""
    generator = ast.unparse(found.call.func)
    for node in ast.walk(source.function(found.loop) or found.loop):
        is_generator = isinstance(node, ast.Attribute) and ast.unparse(node) == generator
        if is_generator and node is not found.call.func and not _writes(source, node) and not _is_tested(source, node):
            raise Ambiguous(f"{source.name}:{getattr(node, 'lineno', 0)}: something else is done with {generator}")


def _check_numbers(source: Source, found: Asked) -> None:
    """Raise where numbers of the features may be read: they may differ in the last digit."""
    features = {ast.unparse(target) for target in targets_of(source.statement(found.call))}
    for node in ast.walk(found.loop):
        seen: ast.expr | None = None
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("self."):
            seen = node.value
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("items", "values")
        ):
            seen = node.func.value
        if seen is not None and ast.unparse(seen) in features:
            line = f"{source.name}:{getattr(node, 'lineno', 0)}"
            raise Ambiguous(f"{line}: numbers of the features may be read there: they may differ in the last digit")
    for node in source.nodes(*NUMBERS, "compile"):
        is_read = isinstance(node, ast.Constant) and node.value in NUMBERS
        if is_read or (isinstance(node, ast.Call) and callee(node) == "compile"):
            line = f"{source.name}:{getattr(node, 'lineno', 0)}"
            raise Ambiguous(
                f"{line}: numbers of the features are read there, or a model is compiled: they may differ in the last digit"
            )


def _names_of_sample(loop: ast.For, found: Asked) -> set[str]:
    """The variables that stand for the sample: on the way from all samples to the call."""
    names: set[str] = {ast.unparse(loop.target.elts[1])} if isinstance(loop.target, ast.Tuple) else set()
    asked: list[ast.AST] = [*found.call.args, *(keyword.value for keyword in found.call.keywords)]
    for node in asked:
        for name in (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id != found.samples):
            given = given_once(loop, name)
            if given and name not in names:
                names.add(name)
                asked.append(given)
    return names


def _writes(source: Source, node: ast.AST) -> bool:
    """Whether only the prompt is written there."""
    parent, *around = source.ancestors(node)
    is_writer = isinstance(parent, ast.Attribute) and parent.attr == WRITER
    return is_writer and isinstance(around[0], ast.Call) and around[0].func is parent


def _is_tested(source: Source, node: ast.AST) -> bool:
    """Whether only the truth of it matters there, or whether it is ``None``."""
    parent = source.ancestors(node)[0]
    if isinstance(parent, ast.Compare):
        return all(isinstance(c, ast.Constant) and c.value is None for c in parent.comparators)
    return is_asked(source, node)
