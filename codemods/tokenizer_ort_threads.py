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
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional

from apply_opt.errors import Ambiguous, Conflict, NoSite
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.fragment import rewrite
from apply_opt.model.parameters import Value
from apply_opt.model.source import (
    Edit,
    Source,
    callee,
    first_line,
    last_line,
    own_nodes,
    same,
)

from ._step_audio_tokenizer import helper, insert_above, is_taken, tokenizer_class

if TYPE_CHECKING:
    import libcst as cst

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
OPTIONS = {"intra_op": "intra_op_num_threads", "inter_op": "inter_op_num_threads", "execution_mode": "execution_mode"}
SPEECH_TOKENIZER = re.compile(r"speech_tokenizer\w*\.onnx")
_PURE = (ast.expr_context, ast.operator, ast.boolop, ast.unaryop, ast.cmpop, ast.Name, ast.Attribute, ast.Constant)
_PURE_OF_PURE = (
    ast.List,
    ast.Tuple,
    ast.Dict,
    ast.IfExp,
    ast.Compare,
    ast.BoolOp,
    ast.UnaryOp,
    ast.BinOp,
    ast.Subscript,
)


class Session(NamedTuple):
    """The session that runs the speech tokenizer.

    ``made`` is the statement that makes its options, ``options`` the variable that holds them, ``scope`` the function
    (or module) where that is; ``use`` is the statement there that hands them on, if any; ``providers`` as the session has them.
    """

    made: ast.stmt
    options: ast.expr
    scope: ast.AST
    use: Optional[ast.stmt]
    providers: Optional[ast.expr]


class Setting(NamedTuple):
    """One option: its attribute's name, the statement that sets it (if any), and the code for the value it should have."""

    name: str
    statement: Optional[ast.Assign]
    wanted: Optional[str]

    def is_due(self) -> bool:
        """Whether the option has to be changed."""
        return self.wanted is not None and (self.statement is None or ast.unparse(self.statement.value) != self.wanted)


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``session_options``: the options of the session that runs the speech tokenizer."""
    session = _session(source)
    intra, *others = settings = _settings(source, session, parameters)
    current, line = intra.statement, (intra.statement or session.made).lineno
    has_helper = helper(source, HELPER) is not None
    has_use = current is not None and isinstance(current.value, ast.Call) and callee(current.value) == HELPER
    if has_helper != has_use:
        raise Ambiguous(
            f"{source.name}:{line} is partly applied: {HELPER} is {'defined but not used' if has_helper else 'used but not defined'}",
            "take the half that is there out by hand, then apply again",
        )
    if has_use and parameters["intra_op"] == "auto" and not any(s.is_due() for s in others):
        return [Site("session_options", line, OURS)]
    if current is not None and not has_use:
        own_policy = parameters["intra_op"] == "auto" and not isinstance(current.value, ast.Constant)
        if own_policy or not any(s.is_due() for s in settings):
            return [Site("session_options", line, THEIRS, ast.unparse(current))]
    if not has_helper and is_taken(source, HELPER):
        raise Conflict(f"{source.name} already uses the name {HELPER} for something else")
    return [Site("session_options", line, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The options' new values where they stand; those that are not there, next to them; the helper above the class."""
    session = _session(source)
    settings = _settings(source, session, parameters)
    edits = [edit for setting in settings for edit in _in_place(source, session, setting)]
    fresh = [s for s in settings if s.is_due() and s.statement is None]
    anchor = settings[0].statement
    if fresh:
        line, indent = _place(source, session, anchor)
        code = [f"{ast.unparse(session.options)}.{s.name} = {s.wanted}" for s in fresh]
        if any("ExecutionMode" in text and _mode(source, session) == "ExecutionMode" for text in code):
            code = _import_of_mode(source) + code
        newline = source.newline(line - 1)
        edits.append(Edit(line, line - 1, "".join(indent + text + newline for text in code)))
    if parameters["intra_op"] == "auto" and helper(source, HELPER) is None:
        edits.append(insert_above(source, session.made, HELPER_TEXT))
    return edits


def _in_place(source: Source, session: Session, setting: Setting) -> list[Edit]:
    """The statement with its new value; further down, where its old place is above the value's own ingredients."""
    statement = setting.statement
    if statement is None or not setting.is_due():
        return []
    edit = rewrite(source, statement, _assign(setting.name, str(setting.wanted)))
    providers = session.providers
    if providers is None or setting.name != OPTIONS["intra_op"] or _bound(session, providers, statement):
        return [edit]
    line, indent = _place(source, session, None)
    alone = source.indent(statement.lineno) == indent and _stands_alone(source, statement)
    if not alone or edit.first != first_line(statement) or edit.last != last_line(statement):
        raise Ambiguous(f"{source.name}:{statement.lineno}: the providers are only known further down, at line {line}")
    return [Edit(edit.first, edit.last, ""), Edit(line, line - 1, edit.text)]


def _assign(name: str, value: str) -> cst.CSTTransformer:
    import libcst as cst

    class Assign(cst.CSTTransformer):
        def leave_Assign(self, original_node: cst.Assign, updated_node: cst.Assign) -> cst.Assign:
            target = updated_node.targets[0].target
            if isinstance(target, cst.Attribute) and target.attr.value == name:
                return updated_node.with_changes(value=cst.parse_expression(value))
            return updated_node

    return Assign()


def _place(source: Source, session: Session, anchor: Optional[ast.stmt]) -> tuple[int, str]:
    """Before which line, and how far indented, a new statement goes: after ``anchor``, before the use, or after the making."""
    after = anchor or (None if session.use else session.made)
    statement = after or session.use
    assert statement is not None
    line = last_line(statement) + 1 if after else first_line(statement)
    if not _stands_alone(source, statement) or (
        line > len(source.lines) and not source.lines[-1].endswith(("\n", "\r"))
    ):
        raise Ambiguous(
            f"{source.name}:{statement.lineno}: there is other code on the line, next to which nothing can be put"
        )
    return line, source.indent(statement.lineno)


def _stands_alone(source: Source, statement: ast.stmt) -> bool:
    start, end = source.lines[statement.lineno - 1], source.lines[last_line(statement) - 1]
    after = end.encode()[statement.end_col_offset or 0 :].decode().strip()
    return (
        start[: statement.col_offset].strip() == ""
        and (after == "" or after.startswith("#"))
        and not start.lstrip().startswith("elif")
    )


def _settings(source: Source, session: Session, parameters: Mapping[str, Value]) -> list[Setting]:
    """The three options, ``intra_op`` first: where they are set, and what they should be."""
    stands = {key: _statement(source, session, name) for key, name in OPTIONS.items()}
    wanted: dict[str, Optional[str]] = {
        "intra_op": str(parameters["intra_op"]),
        "inter_op": str(parameters["inter_op"]),
    }
    if parameters["intra_op"] == "auto":
        wanted["intra_op"] = f"{HELPER}({_providers(source, session)})"
    if parameters["inter_op"] == "auto":
        wanted["inter_op"] = None
    mode = stands["execution_mode"]
    parallel = mode is not None and ast.unparse(mode.value).endswith("ORT_PARALLEL")
    choice = str(parameters["execution_mode"])
    if choice != "auto" or parallel:
        prefix = ast.unparse(mode.value).rpartition(".")[0] if parallel and mode else _mode(source, session)
        wanted["execution_mode"] = f"{prefix}.ORT_{'PARALLEL' if choice == 'parallel' else 'SEQUENTIAL'}"
    return [Setting(name, stands[key], wanted.get(key)) for key, name in OPTIONS.items()]


def _statement(source: Source, session: Session, name: str) -> Optional[ast.Assign]:
    """The one statement that sets an option. Raises where there are more, or where it is not a plain assignment."""
    found = []
    for node in own_nodes(session.scope):
        if isinstance(node, (ast.Constant, ast.keyword)) and name in (
            getattr(node, "value", 0),
            getattr(node, "arg", 0),
        ):
            raise Conflict(
                f"{source.name}:{getattr(node, 'lineno', '?')} sets {name} by its name", "change it there by hand"
            )
        if not (isinstance(node, ast.Attribute) and node.attr == name and same(node.value, session.options)):
            continue
        statement = source.statement(node)
        last = session.use.lineno if session.use else statement.lineno
        if isinstance(node.ctx, ast.Store) and session.made.lineno < statement.lineno <= last:
            if not isinstance(statement, ast.Assign) or statement.targets != [node]:
                raise Ambiguous(f"{source.name}:{node.lineno} sets {name} together with something else")
            found.append(statement)
    if len(found) > 1:
        lines = ", ".join(str(s.lineno) for s in found)
        raise Ambiguous(f"{source.name}: {name} is set in {len(found)} places: lines {lines}")
    return found[0] if found else None


def _mode(source: Source, session: Session) -> str:
    """How this file spells ONNX Runtime's ``ExecutionMode``."""
    made = session.made.value if isinstance(session.made, (ast.Assign, ast.AnnAssign)) else None
    function = made.func if isinstance(made, ast.Call) else None
    return f"{ast.unparse(function.value)}.ExecutionMode" if isinstance(function, ast.Attribute) else "ExecutionMode"


def _import_of_mode(source: Source) -> list[str]:
    imported = [a.asname or a.name for s in source.tree.body if isinstance(s, ast.ImportFrom) for a in s.names]
    return [] if "ExecutionMode" in imported else ["from onnxruntime import ExecutionMode"]


def _providers(source: Source, session: Session) -> str:
    """Code for the session's providers, ``None`` where it cannot be said twice (a call) or is not known in this scope."""
    providers = session.providers
    return ast.unparse(providers) if providers is not None and _is_pure(providers) else "None"


def _is_pure(expression: ast.expr) -> bool:
    return all(isinstance(node, _PURE + _PURE_OF_PURE) for node in ast.walk(expression))


def _bound(session: Session, expression: ast.expr, statement: ast.stmt) -> bool:
    """Whether everything in ``expression`` has its value by the time ``statement`` runs."""
    parts = [n for n in ast.walk(expression) if isinstance(n, (ast.Name, ast.Attribute))]
    stores = [
        n for n in own_nodes(session.scope) if isinstance(n, (ast.Name, ast.Attribute)) and isinstance(n.ctx, ast.Store)
    ]
    return all(store.lineno < statement.lineno for store in stores for part in parts if same(store, part))


def _session(source: Source) -> Session:
    """The session of the speech tokenizer, and not of a speaker or vocoder model in the same file."""
    tokenizer = tokenizer_class(source)
    sessions = source.calls("InferenceSession")
    ours = [call for call in sessions if _runs_speech_tokenizer(source, tokenizer, call, len(sessions) == 1)]
    if not ours:
        raise NoSite(f"{source.name}: no onnxruntime.InferenceSession for the speech tokenizer")
    found: dict[int, Session] = {}
    for call in ours:
        session = _with_options(source, call)
        found.setdefault(session.made.lineno, session)
    if len(found) > 1:
        raise Ambiguous(
            f"{source.name}: the speech tokenizer's session is built with options from lines {sorted(found)}"
        )
    return next(iter(found.values()))


def _with_options(source: Source, call: ast.Call) -> Session:
    """The session that ``call`` builds, its options followed to where they are made."""
    passed = _argument(call, "sess_options", 1)
    if passed is None:
        raise NoSite(f"{source.name}:{call.lineno}: the session is built without SessionOptions")
    scope = source.function(call) or source.tree
    use = source.statement(call)
    providers = _argument(call, "providers", 2)
    made = [s for s in _makings(scope) if same(_target(s), passed) and s.lineno < use.lineno]
    if made:
        return Session(made[-1], _target(made[-1]), scope, use, providers)
    makers = [call for call in ast.walk(_resolve(source, scope, passed)) if isinstance(call, ast.Call)]
    for function in dict.fromkeys(source.function(c) for c in source.calls("SessionOptions")):
        if function is None:
            continue
        elsewhere = [s for s in _makings(function) if same(_target(s), passed)]
        if elsewhere and isinstance(passed, ast.Attribute):
            return Session(elsewhere[-1], _target(elsewhere[-1]), function, None, None)
        if any(callee(maker) == function.name for maker in makers):
            returned = {ast.unparse(n.value): n for n in own_nodes(function) if isinstance(n, ast.Return) and n.value}
            for statement in _makings(function):
                if ast.unparse(_target(statement)) in returned:
                    return Session(
                        statement, _target(statement), function, returned[ast.unparse(_target(statement))], None
                    )
    raise NoSite(
        f"{source.name}:{call.lineno}: where {ast.unparse(passed)} is made (SessionOptions()) could not be found"
    )


def _makings(scope: ast.AST) -> list[ast.stmt]:
    """The statements in ``scope`` that are ``x = SessionOptions()``, in order."""
    found = [
        node
        for node in own_nodes(scope)
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        and isinstance(node.value, ast.Call)
        and callee(node.value) == "SessionOptions"
        and (isinstance(node, ast.AnnAssign) or len(node.targets) == 1)
    ]
    return sorted(found, key=lambda node: node.lineno)


def _target(statement: ast.stmt) -> ast.expr:
    assert isinstance(statement, (ast.Assign, ast.AnnAssign))
    return statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]


def _argument(call: ast.Call, name: str, position: int) -> Optional[ast.expr]:
    by_name = [k.value for k in call.keywords if k.arg == name]
    return by_name[0] if by_name else (call.args[position] if len(call.args) > position else None)


def _runs_speech_tokenizer(source: Source, tokenizer: ast.ClassDef, call: ast.Call, only: bool) -> bool:
    path = _argument(call, "path_or_bytes", 0)
    scope = source.function(call) or source.tree
    models = [text for text in _strings(source, scope, path) if text.endswith(".onnx")] if path else []
    if models:
        return any(SPEECH_TOKENIZER.search(text) for text in models)
    run = {
        n.value.attr
        for n in ast.walk(tokenizer)
        if isinstance(n, ast.Attribute) and n.attr == "run" and isinstance(n.value, ast.Attribute)
    }
    if run & set(_attributes(source, call)):
        return True
    return only and any(node is call for node in ast.walk(tokenizer))


def _attributes(source: Source, call: ast.Call) -> Iterator[str]:
    """The attributes that the result of ``call`` ends up in, by way of at most one function."""
    statement = source.statement(call)
    function = source.function(call)
    for target in getattr(statement, "targets", [getattr(statement, "target", None)]):
        if isinstance(target, ast.Attribute):
            yield target.attr
    if function is not None and any(isinstance(n, ast.Return) and n.value for n in own_nodes(function)):
        for outer in source.calls(function.name):
            for target in getattr(source.statement(outer), "targets", ()):
                if isinstance(target, ast.Attribute):
                    yield target.attr


def _strings(source: Source, scope: ast.AST, expression: ast.expr, depth: int = 4) -> Iterator[str]:
    """The strings in ``expression``, its variables followed to what was assigned to them."""
    for node in ast.walk(_resolve(source, scope, expression)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, (ast.Name, ast.Attribute)) and depth and node is not expression:
            yield from _strings(source, scope, node, depth - 1)


def _resolve(source: Source, scope: ast.AST, expression: ast.expr) -> ast.AST:
    """What was last assigned to a variable (in ``scope``, else anywhere in the file); else ``expression`` itself."""
    name = expression.attr if isinstance(expression, ast.Attribute) else getattr(expression, "id", "")
    if name:
        for nodes in (own_nodes(scope), source.nodes(name)):
            assigned = [n for n in nodes if isinstance(n, ast.Assign)]
            values = [n.value for n in assigned if any(_is_name(t, name) and same(t, expression) for t in n.targets)]
            if values:
                return values[-1]
    return expression


def _is_name(node: ast.AST, name: str) -> bool:
    return name in (getattr(node, "id", ""), getattr(node, "attr", ""))
