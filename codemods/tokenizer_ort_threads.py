"""Give ONNX Runtime's session the threads that this machine has for it.

``intra_op_num_threads`` is how many threads share one operator on the CPU; nodes that run on a GPU do not use them.
``inter_op_num_threads`` and ``ORT_PARALLEL`` run whole operators side by side, which a chain-shaped model has none of
(https://onnxruntime.ai/docs/performance/tune-performance/threading.html).

``auto`` writes a helper that decides where the program runs: 1 where a GPU provider takes the work, else the cores that
the process may use (its affinity mask, capped by the container's CPU quota). Sequential execution is ONNX Runtime's
default and is written only where the checkout has it otherwise.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional, Union

from apply_opt.errors import Ambiguous, Conflict, OtherValues, PartlyApplied
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.fragment import replace
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source, callee, first_line, last_line, same

from ._helpers import helpers, insert_above, is_taken
from ._lines import ends_line, starts_line
from ._onnx_options import speech_tokenizer_options
from ._onnx_providers import can_repeat
from ._onnx_uses import Options
from ._scopes import (
    FUNCTIONS,
    PARAMETER,
    bindings,
    callers,
    default_of,
    imported_as,
    is_number,
    named,
    parts,
    position,
    scope_of,
    targets_of,
    together,
    unconditional,
)

HELPER = "_ort_intra_op_threads"
HELPER_TEXT = '''
def _ort_intra_op_threads(providers):
    """Number of threads for ONNX Runtime's CPU kernels in a session with `providers` (None: all there are).

    One, where a GPU takes the work. Else the cores that this process may use: its affinity
    mask, capped by the container's CPU quota (cgroup v2, then v1).
    """
    import os
    import pathlib

    import onnxruntime

    available = onnxruntime.get_available_providers()
    wanted = available if providers is None else providers
    names = [provider if isinstance(provider, str) else provider[0] for provider in wanted]
    gpus = ("CUDA", "Tensorrt", "NvTensorRT", "ROCM", "MIGraphX", "Dml", "CoreML", "CANN")
    if any(name.startswith(gpus) for name in names if name in available):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in (
        ["/sys/fs/cgroup/cpu.max"],
        ["/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"],
    ):
        try:
            quota, period = " ".join(pathlib.Path(name).read_text() for name in files).split()
            if int(quota) > 0:
                cores = min(cores, max(1, int(quota) // int(period)))
        except (OSError, ValueError):  # not there, or no limit ("max")
            pass
    return cores
'''
INTRA, INTER, MODE = "intra_op_num_threads", "inter_op_num_threads", "execution_mode"
CONSTRUCTORS = ("__init__", "__post_init__", "__new__")
Assignment = Union[ast.Assign, ast.AnnAssign]


class Setting(NamedTuple):
    """One option: its name, the statement that sets it (if any), and the code for its value if that is to change.

    Where it is not to change, there may be ``more`` statements: an author's policy by branches.
    """

    name: str
    statement: Optional[Assignment]
    wanted: Optional[str]
    more: Sequence[Assignment] = ()


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``session_options``: the options of the session that runs the speech tokenizer."""
    options = speech_tokenizer_options(source)
    intra, *_ = settings = _settings(source, options, parameters)
    line = (intra.statement or options.made).lineno
    is_ours = _calls_helper(intra.statement)
    _check_whole(source, line, is_ours)
    if is_ours and parameters["intra_op"] != "auto":
        raise OtherValues(
            f"{source.name}:{line} is applied with other values: intra_op=auto",
            "take it out first: apply-opt revert tokenizer_ort_threads, or by hand where it was put in by hand",
        )
    if any(setting.wanted for setting in settings):
        if is_taken(source, HELPER) and not is_ours:
            raise Conflict(f"{source.name} already uses the name {HELPER} for something else")
        return [Site("session_options", line, TODO)]
    return [Site("session_options", line, OURS if is_ours else THEIRS, "" if is_ours else _note(source, settings))]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The options' new values where they stand; those that are not there, next to them; the helper above the class."""
    options = speech_tokenizer_options(source)
    settings = _settings(source, options, parameters)
    edits = _in_place(source, settings)
    fresh = [s for s in settings if s.wanted and (s.statement is None or _is_shared(s))]
    edits += [_without(source, s) for s in fresh if s.statement is not None]
    if fresh:
        place = _place(source, options, settings[0].statement, is_alone=not edits)
        code = [f"{place.name}.{s.name} = {s.wanted}" for s in fresh]
        if any(s.name == MODE and str(s.wanted).startswith("ExecutionMode.") for s in fresh):
            code = _import_of_mode(source, place.statement) + code
        edits.append(_inserted(source, place, code))
    if any(HELPER in str(s.wanted) for s in settings):
        touched = [options.made, *(s.statement for s in settings if s.statement is not None)]
        edits.append(insert_above(source, min(touched, key=position), HELPER_TEXT))
    return edits


def _note(source: Source, settings: Sequence[Setting]) -> str:
    """What stands there; where the number is a parameter's default, also that, and how to have another one written."""
    there = [s for setting in settings for s in (setting.statement, *setting.more) if s is not None]
    value = settings[0].statement.value if settings[0].statement is not None else None
    text = "; ".join(map(ast.unparse, there))
    for binding in bindings(source, value, value) if isinstance(value, ast.Name) else ():
        if binding.kind == PARAMETER and isinstance(binding.statement, FUNCTIONS) and isinstance(value, ast.Name):
            default = default_of(binding.statement, value.id)
            said = f"is {ast.unparse(default)} by default" if default is not None else "is a parameter"
            return f"{text} ({value.id} {said}; --set intra_op=N writes a number)"
    return text


def _check_whole(source: Source, line: int, is_ours: bool) -> None:
    """Raise where what we write is there by half, or twice."""
    ours = helpers(source, HELPER)
    if len(ours) > 1:
        lines = ", ".join(str(f.lineno) for f in ours)
        raise PartlyApplied(
            f"{source.name}: {HELPER} is defined more than once: lines {lines}", "take one of them out by hand"
        )
    if bool(ours) != is_ours:
        half = f"defined (line {ours[0].lineno}) but not used here" if ours else "used but not defined"
        raise PartlyApplied(
            f"{source.name}:{line} is partly applied: {HELPER} is {half}",
            "take the half that is there out by hand, then apply again",
        )


def _calls_helper(statement: Optional[Assignment]) -> bool:
    return statement is not None and isinstance(statement.value, ast.Call) and callee(statement.value) == HELPER


# What is set, and what should be


def _settings(source: Source, options: Options, parameters: Mapping[str, Value]) -> list[Setting]:
    """The three options, ``intra_op_num_threads`` first: where they are set, and what they should be."""
    strict = {INTRA: True, INTER: parameters["inter_op"] != "auto", MODE: True}
    found = [_statements(source, options, name, is_strict) for name, is_strict in strict.items()]
    own_policy = _is_policy(source, options, found[0]) and parameters["intra_op"] == "auto"
    intra = _representative(found[0]) if own_policy else _only(source, options, INTRA, found[0])
    wanted_intra: Optional[str] = str(parameters["intra_op"])
    if wanted_intra == "auto":
        wanted_intra = None if own_policy else f"{HELPER}({_providers(source, options, intra)})"
    wanted_inter = None if parameters["inter_op"] == "auto" else str(parameters["inter_op"])
    inter = _only(source, options, INTER, found[1]) if wanted_inter else _representative(found[1])
    choice = str(parameters["execution_mode"])
    may_leave = choice == "auto" and (
        len(found[2]) > 1 or any(not _is_always_run(source, options, s) for s in found[2])
    )
    mode = _representative(found[2]) if may_leave else _only(source, options, MODE, found[2])
    return [
        Setting(INTRA, intra, _unless_there(intra, wanted_intra), [s for s in found[0] if s is not intra]),
        Setting(INTER, inter, _unless_there(inter, wanted_inter)),
        Setting(MODE, mode, None if may_leave else _wanted_mode(source, options, mode, choice)),
    ]


def _unless_there(statement: Optional[Assignment], wanted: Optional[str]) -> Optional[str]:
    value = statement.value if statement is not None else None
    if value is None or wanted is None or ast.unparse(value) == wanted:
        return wanted if value is None else None
    return None if _calls_helper(statement) and _gpus(value) == _gpus(ast.parse(wanted, mode="eval").body) else wanted


def _gpus(call: ast.expr) -> Union[str, set[str]]:
    """What our function is asked about: of providers that are written out, the names, without options and the CPU."""
    if any(isinstance(n, (ast.Name, ast.Attribute)) for a in getattr(call, "args", ()) for n in ast.walk(a)):
        return ast.unparse(call)
    words = [n.value for n in ast.walk(call) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return {word for word in words if word.endswith("ExecutionProvider")} - {"CPUExecutionProvider"} or ast.unparse(
        call
    )


def _wanted_mode(source: Source, options: Options, mode: Optional[Assignment], choice: str) -> Optional[str]:
    """The code for the execution mode: sequential is ONNX Runtime's default, and stays unwritten unless it is asked for."""
    there = ast.unparse(mode.value) if mode is not None and mode.value is not None else ""
    if choice == "auto" and not there.endswith("ORT_PARALLEL"):
        return None
    member = "ORT_PARALLEL" if choice == "parallel" else "ORT_SEQUENTIAL"
    if there.endswith(member):
        return None
    prefix = there.rpartition(".")[0] if there.endswith(("ORT_PARALLEL", "ORT_SEQUENTIAL")) else ""
    return f"{prefix or _mode(source, options)}.{member}"


def _mode(source: Source, options: Options) -> str:
    """How this file spells ONNX Runtime's ``ExecutionMode`` where the options are set."""
    names = imported_as(source, "SessionOptions")
    made = next(n for n in ast.walk(options.made) if isinstance(n, ast.Call) and callee(n) in names)
    at = options.use.statement if options.use else options.made
    if isinstance(made.func, ast.Attribute):
        root = made.func.value
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and bindings(source, root, at):
            return f"{ast.unparse(made.func.value)}.ExecutionMode"
    return "ExecutionMode"


def _import_of_mode(source: Source, at: ast.stmt) -> list[str]:
    used = [
        n for n in named(source, "ExecutionMode") if isinstance(n, ast.Name)
    ]  # by `from onnxruntime import *`, perhaps
    return [] if used or bindings(source, ast.Name("ExecutionMode"), at) else ["from onnxruntime import ExecutionMode"]


def _statements(source: Source, options: Options, name: str, is_strict: bool) -> list[Assignment]:
    """The statements that set an option. Raises, if it ``is_strict``, where one is not a plain assignment."""
    found: list[Assignment] = []
    for node in [*_named_on_the_way(source, options), *options.appearances(source)]:
        parent = source.ancestors(node)[0]
        if isinstance(parent, ast.Call) and callee(parent) == "setattr":
            _check_setattr(source, parent, name)
        if not (isinstance(parent, ast.Attribute) and parent.attr == name and isinstance(parent.ctx, ast.Store)):
            continue
        statement = source.statement(parent)
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        plain = targets == [parent] or (name == INTRA and _is_chain(source, statement, targets, parent))
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and plain and statement.value is not None:
            found.append(statement)
        elif is_strict:
            raise Ambiguous(f"{source.name}:{statement.lineno} sets {name} together with something else")
    return found


def _named_on_the_way(source: Source, options: Options) -> list[ast.expr]:
    """The object of ``(options := SessionOptions()).name = …``."""
    found = [n for t in targets_of(options.made) for n in ast.walk(t) if isinstance(n, ast.NamedExpr)]
    return [n for n in found if any(same(n.target, name.expression) for name in options.names)]


def _is_chain(source: Source, statement: ast.stmt, targets: Sequence[object], target: ast.Attribute) -> bool:
    """Whether ``a.x = b.y = 1`` gives a plain number to attributes of names, on one line, with room for another below."""
    if not isinstance(statement, ast.Assign) or target not in targets or not is_number(source, statement.value):
        return False
    simple = all(isinstance(t, ast.Attribute) and isinstance(t.value, ast.Name) for t in targets)
    once = [getattr(t, "attr", "") for t in targets].count(target.attr) == 1
    whole_line = statement.lineno == last_line(statement) and starts_line(source, statement)
    return simple and once and whole_line and _has_room_after(source, statement)


def _only(source: Source, options: Options, name: str, found: Sequence[Assignment]) -> Optional[Assignment]:
    """The one statement of ``found``, to be changed. Raises where there are more, or where it may not be run."""
    if len(found) > 1:
        lines = ", ".join(str(s.lineno) for s in found)
        raise Ambiguous(f"{source.name}: {name} is set in {len(found)} places: lines {lines}")
    for statement in found:
        if not _is_always_run(source, options, statement):
            raise Ambiguous(f"{source.name}:{statement.lineno} sets {name} under a condition only")
    return found[0] if found else None


def _representative(found: Sequence[Assignment]) -> Optional[Assignment]:
    return next((s for s in found if _calls_helper(s)), found[0] if found else None)


# What the author has thought about


def _is_policy(source: Source, options: Options, found: Sequence[Assignment]) -> bool:
    """Whether the number of threads is more than a number: computed, or one or another by a condition."""
    branches = [s for s in found if _is_branch(source, s) and not _is_always_run(source, options, s)]
    return bool(branches) or (len(found) == 1 and not is_number(source, _value(found[0])))


def _is_branch(source: Source, statement: ast.stmt) -> bool:
    scope = scope_of(source, statement)
    around = [n for n in source.ancestors(statement) if scope_of(source, n) is scope and n is not scope]
    return any(isinstance(n, (ast.If, ast.Match)) for n in around)


def _check_setattr(source: Source, call: ast.Call, name: str) -> None:
    attribute = call.args[1] if len(call.args) == 3 else None
    if not isinstance(attribute, ast.Constant) or attribute.value == name:
        raise Conflict(
            f"{source.name}:{call.lineno} sets options by their names ({ast.unparse(call)})", "change it there by hand"
        )


def _is_always_run(source: Source, options: Options, statement: ast.stmt) -> bool:
    """Whether ``statement`` runs whenever the options are made, or used, in its function; else whenever its function does."""
    scope = scope_of(source, statement)
    ends = [end for name in options.names if name.scope is scope for end in (name.since, name.until) if end is not None]
    if ends:
        return any(together(source, statement, end) for end in ends)
    is_run = not isinstance(scope, FUNCTIONS) or scope.name in CONSTRUCTORS or bool(callers(source, scope))
    return is_run and unconditional(source, statement)


# The session's providers


def _providers(source: Source, options: Options, statement: Optional[Assignment]) -> str:
    """Code for the session's providers; ``None`` where they cannot be said here too: the helper then asks what there is."""
    use = options.use
    if use is None or use.providers is None:
        return "None"
    place = statement or _place(source, options, None).statement
    return ast.unparse(use.providers) if can_repeat(source, use, place) else "None"


# Where it is written


class Place(NamedTuple):
    """Before which line and how far indented a statement goes, next to which other, and what the options are called there."""

    line: int
    indent: str
    statement: ast.stmt
    name: str
    column: Optional[int] = None
    """Where it goes into the line (in UTF-8), and not in front of it."""


def _in_place(source: Source, settings: Sequence[Setting]) -> list[Edit]:
    """The statements with their new values; those on one line in one edit."""
    due = [s for s in settings if s.wanted and s.statement is not None and not _is_shared(s)]
    lines: dict[int, list[Setting]] = {}
    for setting in due:
        assert setting.statement is not None
        lines.setdefault(setting.statement.lineno, []).append(setting)
    return [
        replace(source, group[0].statement, {_value(s.statement): str(s.wanted) for s in group if s.statement})
        for group in lines.values()
        if group[0].statement is not None
    ]


def _is_shared(setting: Setting) -> bool:
    """Whether the option's statement sets something else with it (``a.x = b.y = 1``)."""
    return setting.statement is not None and len(targets_of(setting.statement)) > 1


def _without(source: Source, setting: Setting) -> Edit:
    """The statement, all on one line, without the option: ``b.y = 1``."""
    assert isinstance(setting.statement, ast.Assign)
    ends = [*setting.statement.targets, setting.statement.value]
    at = next(i for i, t in enumerate(ends) if isinstance(t, ast.Attribute) and t.attr == setting.name)
    number = setting.statement.lineno
    line = source.lines[number - 1].encode()
    text = line[: ends[at].col_offset] + line[ends[at + 1].col_offset :]
    return Edit(number, number, text.decode())


def _inserted(source: Source, place: Place, code: Sequence[str]) -> Edit:
    """``code`` in front of the place's line, or within it."""
    newline = source.newline(place.line - 1)
    if place.column is None:
        return Edit(place.line, place.line - 1, "".join(place.indent + line + newline for line in code))
    line = source.lines[place.line - 1].encode()
    text = "".join(part + "; " for part in code)
    return Edit(place.line, place.line, line[: place.column].decode() + text + line[place.column :].decode())


def _value(statement: Assignment) -> ast.expr:
    assert statement.value is not None
    return statement.value


def _place(source: Source, options: Options, anchor: Optional[Assignment], is_alone: bool = True) -> Place:
    """The place for a new statement: after ``anchor``, else before the options are used, else after they are made.

    Where there is no room, and nothing else is edited (``is_alone``), it goes between two statements on a line.
    """
    if anchor is not None and _has_room_after(source, anchor):
        target = next(t for t in targets_of(anchor) if isinstance(t, ast.Attribute) and t.attr == INTRA)
        return _after(source, anchor, ast.unparse(target.value))
    use, made = options.use, options.made
    if use is not None and starts_line(source, use.statement):
        line = first_line(use.statement)
        return Place(line, source.indent(line), use.statement, ast.unparse(use.name))
    if isinstance(made, (ast.Assign, ast.AnnAssign)) and _has_room_after(source, made):
        return _after(source, made, ast.unparse(options.names[0].expression))
    if use is not None and is_alone and _is_after_another(source, use.statement):
        return Place(use.statement.lineno, "", use.statement, ast.unparse(use.name), use.statement.col_offset)
    raise Ambiguous(
        f"{source.name}:{(use.statement if use else made).lineno}: there is other code on the line, "
        "next to which nothing can be put"
    )


def _after(source: Source, statement: ast.stmt, name: str) -> Place:
    line = last_line(statement) + 1
    if line > len(source.lines) and not source.lines[-1].endswith(("\n", "\r")):
        raise Ambiguous(f"{source.name}:{statement.lineno}: the file ends here without an end of line")
    return Place(line, source.indent(first_line(statement)), statement, name)


def _has_room_after(source: Source, statement: ast.stmt) -> bool:
    """Whether a line below ``statement`` comes right after it, and in the same block."""
    on_line = [s for s in _neighbours(source, statement) if isinstance(s, ast.stmt) and s.lineno == statement.lineno]
    return starts_line(source, min(on_line, key=position)) and ends_line(source, statement)


def _is_after_another(source: Source, statement: ast.stmt) -> bool:
    """Whether a statement of the same block ends on the line that ``statement`` starts on: there is a ``;`` between."""
    block = _neighbours(source, statement)
    above = block[: block.index(statement)]
    return bool(above) and isinstance(above[-1], ast.stmt) and last_line(above[-1]) == statement.lineno


def _neighbours(source: Source, statement: ast.stmt) -> list[ast.AST]:
    """The block that ``statement`` is in."""
    around = [*source.ancestors(statement), source.tree][0]
    return next(block for _, block in parts(around) if statement in block)
