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

from apply_opt.errors import Ambiguous, Conflict, PartlyApplied
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.fragment import replace
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source, callee, first_line, last_line

from ._onnx_options import speech_tokenizer_options
from ._onnx_providers import can_repeat
from ._onnx_uses import Options
from ._scopes import (
    FUNCTIONS,
    bindings,
    callers,
    imported_as,
    named,
    parts,
    position,
    scope_of,
    targets_of,
    together,
    unconditional,
)
from ._step_audio_tokenizer import helpers, insert_above, is_taken

HELPER = "_ort_intra_op_threads"
HELPER_TEXT = '''
def _ort_intra_op_threads(providers):
    """Number of threads for ONNX Runtime's CPU kernels in a session with `providers` (None: all there are).

    One, where a GPU takes the work. Else the cores that this process may use: its affinity
    mask, capped by the container's CPU quota (cgroup v2, then v1).
    """
    import os

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
            quota, period = " ".join(open(name).read() for name in files).split()
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
    """One option: its name, the statement that sets it (if any), and the code for its value if that is to change."""

    name: str
    statement: Optional[Assignment]
    wanted: Optional[str]


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``session_options``: the options of the session that runs the speech tokenizer."""
    options = speech_tokenizer_options(source)
    intra, *others = settings = _settings(source, options, parameters)
    line = (intra.statement or options.made).lineno
    is_ours = _calls_helper(intra.statement)
    _check_whole(source, line, is_ours)
    if is_ours and parameters["intra_op"] != "auto":
        raise Conflict(
            f"{source.name}:{line} is applied with other values: intra_op=auto",
            "take it out first: apply-opt revert tokenizer_ort_threads, or by hand where it was put in by hand",
        )
    if any(setting.wanted for setting in settings):
        if is_taken(source, HELPER) and not is_ours:
            raise Conflict(f"{source.name} already uses the name {HELPER} for something else")
        return [Site("session_options", line, TODO)]
    there = [ast.unparse(s.statement) for s in (intra, *others) if s.statement is not None]
    return [Site("session_options", line, OURS if is_ours else THEIRS, "" if is_ours else "; ".join(there))]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The options' new values where they stand; those that are not there, next to them; the helper above the class."""
    options = speech_tokenizer_options(source)
    settings = _settings(source, options, parameters)
    edits = _in_place(source, settings)
    fresh = [s for s in settings if s.wanted and s.statement is None]
    if fresh:
        place = _place(source, options, settings[0].statement)
        code = [f"{place.name}.{s.name} = {s.wanted}" for s in fresh]
        if any(s.name == MODE and str(s.wanted).startswith("ExecutionMode.") for s in fresh):
            code = _import_of_mode(source, place.statement) + code
        newline = source.newline(place.line - 1)
        text = "".join(place.indent + line + newline for line in code)
        edits.append(Edit(place.line, place.line - 1, text))
    if any(HELPER in str(s.wanted) for s in settings):
        touched = [options.made, *(s.statement for s in settings if s.statement is not None)]
        edits.append(insert_above(source, min(touched, key=position), HELPER_TEXT))
    return edits


def _check_whole(source: Source, line: int, is_ours: bool) -> None:
    """Raise where what we write is there by half, or twice."""
    ours = helpers(source, HELPER)
    if len(ours) > 1:
        lines = ", ".join(str(f.lineno) for f in ours)
        raise Ambiguous(
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
    intra, inter, mode = (_statement(source, options, name, parameters) for name in (INTRA, INTER, MODE))
    wanted_intra: Optional[str] = str(parameters["intra_op"])
    if wanted_intra == "auto":
        own_policy = intra is not None and not isinstance(intra.value, ast.Constant)
        wanted_intra = None if own_policy else f"{HELPER}({_providers(source, options, intra)})"
    wanted_inter = None if parameters["inter_op"] == "auto" else str(parameters["inter_op"])
    return [
        Setting(INTRA, intra, _unless_there(intra, wanted_intra)),
        Setting(INTER, inter, _unless_there(inter, wanted_inter)),
        Setting(MODE, mode, _wanted_mode(source, options, mode, str(parameters["execution_mode"]))),
    ]


def _unless_there(statement: Optional[Assignment], wanted: Optional[str]) -> Optional[str]:
    there = statement is not None and statement.value is not None and ast.unparse(statement.value) == wanted
    return None if there else wanted


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


def _statement(source: Source, options: Options, name: str, parameters: Mapping[str, Value]) -> Optional[Assignment]:
    """The one statement that sets an option. Raises where there are more, or where it is not a plain assignment."""
    found: list[Assignment] = []
    for node in options.appearances(source):
        parent = source.ancestors(node)[0]
        if isinstance(parent, ast.Call) and callee(parent) == "setattr":
            _check_setattr(source, parent, name)
        if not (isinstance(parent, ast.Attribute) and parent.attr == name and isinstance(parent.ctx, ast.Store)):
            continue
        statement = source.statement(parent)
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or targets != [parent] or statement.value is None:
            raise Ambiguous(f"{source.name}:{statement.lineno} sets {name} together with something else")
        found.append(statement)
    if len(found) > 1:
        lines = ", ".join(str(s.lineno) for s in found)
        raise Ambiguous(f"{source.name}: {name} is set in {len(found)} places: lines {lines}")
    for statement in found:
        keeps = name == INTRA and parameters["intra_op"] == "auto" and not isinstance(statement.value, ast.Constant)
        if not keeps and not _is_always_run(source, options, statement):
            raise Ambiguous(f"{source.name}:{statement.lineno} sets {name} under a condition only")
    return found[0] if found else None


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


def _in_place(source: Source, settings: Sequence[Setting]) -> list[Edit]:
    """The statements with their new values; those on one line in one edit."""
    due = [s for s in settings if s.wanted and s.statement is not None]
    lines: dict[int, list[Setting]] = {}
    for setting in due:
        assert setting.statement is not None
        lines.setdefault(setting.statement.lineno, []).append(setting)
    return [
        replace(source, group[0].statement, {_value(s.statement): str(s.wanted) for s in group if s.statement})
        for group in lines.values()
        if group[0].statement is not None
    ]


def _value(statement: Assignment) -> ast.expr:
    assert statement.value is not None
    return statement.value


def _place(source: Source, options: Options, anchor: Optional[Assignment]) -> Place:
    """The place for a new statement: after ``anchor``, else before the options are used, else after they are made."""
    if anchor is not None and _has_room_after(source, anchor):
        (target,) = targets_of(anchor)
        assert isinstance(target, ast.Attribute)
        return _after(source, anchor, ast.unparse(target.value))
    use, made = options.use, options.made
    if use is not None and _starts_line(source, use.statement):
        line = first_line(use.statement)
        return Place(line, source.indent(line), use.statement, ast.unparse(use.name))
    if isinstance(made, (ast.Assign, ast.AnnAssign)) and _has_room_after(source, made):
        return _after(source, made, ast.unparse(options.names[0].expression))
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
    return _starts_line(source, min(on_line, key=position)) and _ends_line(source, statement)


def _neighbours(source: Source, statement: ast.stmt) -> list[ast.AST]:
    """The block that ``statement`` is in."""
    around = [*source.ancestors(statement), source.tree][0]
    return next(block for _, block in parts(around) if statement in block)


def _starts_line(source: Source, statement: ast.stmt) -> bool:
    """Whether nothing is in front of ``statement`` on its first line, and that does not continue another one."""
    line = source.lines[first_line(statement) - 1]
    if first_line(statement) > 1 and source.lines[first_line(statement) - 2].rstrip("\r\n").endswith("\\"):
        return False
    return not line.encode()[: statement.col_offset].strip() and not line.lstrip().startswith("elif")


def _ends_line(source: Source, statement: ast.stmt) -> bool:
    """Whether nothing but a comment follows ``statement`` on its last line."""
    rest = source.lines[last_line(statement) - 1].encode()[statement.end_col_offset or 0 :].strip()
    return rest in (b"", b";") or rest.startswith(b"#")
