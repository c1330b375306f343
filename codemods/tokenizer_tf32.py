"""Let CUDA matrix products use TF32 while the FunASR encoder runs.

Sets ``torch.backends.cuda.matmul.allow_tf32``: products of float32 matrices then keep 10 of 23 mantissa bits, which
Ampere and later cards compute several times faster
(https://pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices).

The setting is the process's. With ``scope=encoder`` it is on only inside the method that calls ``infer_encoder``; with
``scope=process`` it is set once at import, as the published tip has it, and reaches the language model and the
vocoder too. ``torch.backends.cudnn.allow_tf32`` is on by default and is not touched.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional, Union

from apply_opt.errors import Ambiguous, Conflict
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.fragment import rewrite
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, callee, own_nodes

from ._scopes import (
    FUNCTIONS,
    argument,
    bindings,
    calls,
    calls_of,
    check_defined_once,
    mentions,
    methods,
    position,
    reaching,
    scope_of,
    targets_of,
)
from ._step_audio_tokenizer import ENCODE, encoder_uses, helpers, insert_above, is_taken, tokenizer_class

if TYPE_CHECKING:
    import libcst as cst

DECORATOR = "_with_tf32_matmul"
HELPERS = {
    "high": '''
def _with_tf32_matmul(encode):
    """Let CUDA matrix products use TF32 while `encode` runs, and give the setting back afterwards.

    TF32 keeps 10 of float32's 23 mantissa bits. The setting is the whole process's: scoped like this, a language
    model or a vocoder beside the tokenizer keeps full float32. Calls may overlap between threads.
    """
    import functools
    import threading

    import torch

    matmul = torch.backends.cuda.matmul
    lock, running, before = threading.Lock(), 0, None

    @functools.wraps(encode)
    def call(*args, **kwargs):
        nonlocal running, before
        with lock:
            if running == 0:
                # Not allow_tf32: reading it raises once anybody has set the newer fp32_precision.
                before = matmul.fp32_precision if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
                if before not in ("tf32", True):
                    matmul.allow_tf32 = True
            running += 1
        try:
            return encode(*args, **kwargs)
        finally:
            with lock:
                running -= 1
                if running == 0 and before not in ("tf32", True):
                    matmul.allow_tf32 = False
                    if before is not False:
                        matmul.fp32_precision = before

    return call
''',
    "medium": '''
def _with_tf32_matmul(encode):
    """Let matrix products use TF32 or bfloat16 while `encode` runs, and give the setting back afterwards.

    The setting is the whole process's: scoped like this, a language model or a vocoder beside the tokenizer keeps
    full float32. Calls may overlap between threads.
    """
    import functools
    import threading

    import torch

    modules = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    matmuls = [module for module in modules if hasattr(module, "fp32_precision")]
    lock, running, before, precisions = threading.Lock(), 0, "highest", []

    @functools.wraps(encode)
    def call(*args, **kwargs):
        nonlocal running, before, precisions
        with lock:
            if running == 0:
                try:
                    before = torch.get_float32_matmul_precision()
                except RuntimeError:  # somebody has set the newer fp32_precision, which is kept too
                    before = "highest"
                precisions = [matmul.fp32_precision for matmul in matmuls]
                torch.set_float32_matmul_precision("medium")
            running += 1
        try:
            return encode(*args, **kwargs)
        finally:
            with lock:
                running -= 1
                if running == 0:
                    torch.set_float32_matmul_precision(before)
                    for matmul, precision in zip(matmuls, precisions):
                        matmul.fp32_precision = precision

    return call
''',
}
AT_IMPORT = {
    "high": """
# CUDA matrix products of this whole process may use TF32: 10 of float32's 23 mantissa bits.
torch.backends.cuda.matmul.allow_tf32 = True
""",
    "medium": """
# Matrix products of this whole process may use TF32 or bfloat16 instead of float32.
torch.set_float32_matmul_precision("medium")
""",
}


OFF = {"allow_tf32": (False, 0), "fp32_precision": ("ieee",), "precision": ("highest",)}
OVERRIDES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")


class Setting(NamedTuple):
    """A statement by which the checkout's author decides about TF32 in matrix products; ``at_import`` if it is no function's."""

    line: int
    allows: bool
    text: str
    at_import: bool


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites ``setting`` (the helper, or the statement at import) and ``encoder`` (the method that encodes)."""
    method = _encoder_method(source)
    ours = _scoped_to_encoder(source, method, parameters) or _at_import(source, method, parameters)
    if ours:
        return ours
    settings = sorted(_settings(source))
    for setting in settings:
        if not setting.allows and (setting is settings[0] or setting.at_import):
            raise Conflict(
                f"{source.name}:{setting.line} turns TF32 off on purpose: {setting.text}",
                "take that line out first, if you do not want it",
            )
    if settings:
        line, _, text, _ = settings[0]
        return [Site(name, line, THEIRS, text) for name in ("setting", "encoder")]
    if parameters["scope"] == "process":
        _check_torch(source, source.top_level(tokenizer_class(source)))
    if is_taken(source, DECORATOR):
        raise Conflict(f"{source.name} already uses the name {DECORATOR} for something else")
    return [Site("setting", tokenizer_class(source).lineno, TODO), Site("encoder", method.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the tokenizer's class and a decorator on its method; or one statement above the class."""
    place, precision = tokenizer_class(source), str(parameters["precision"])
    if parameters["scope"] == "process":
        text = AT_IMPORT[precision].strip("\n")
        if not _imports_torch(source, source.top_level(place)):
            text = "import torch\n\n" + text
        return [insert_above(source, place, text)]
    return [insert_above(source, place, HELPERS[precision]), rewrite(source, _encoder_method(source), _decorate())]


def _decorate() -> cst.CSTTransformer:
    import libcst as cst

    class Decorate(cst.CSTTransformer):
        """Our decorator goes next to the ``def``, inside any other, so that it wraps a plain function."""

        depth = 0

        def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
            self.depth += 1

        def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
            self.depth -= 1
            if self.depth:
                return updated_node
            ours = cst.Decorator(cst.Name(DECORATOR), leading_lines=updated_node.lines_after_decorators)
            return updated_node.with_changes(decorators=[*updated_node.decorators, ours], lines_after_decorators=())

    return Decorate()


def _scoped_to_encoder(source: Source, method: Function, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites as we leave them with ``scope=encoder``, or half of them; none where there is neither."""
    ours = helpers(source, DECORATOR)
    marks = [d for d in method.decorator_list if isinstance(d, ast.Name) and d.id == DECORATOR]
    for found in (ours, marks):
        if len(found) > 1:
            lines = ", ".join(str(node.lineno) for node in found)
            raise Ambiguous(
                f"{source.name}: {DECORATOR} is there more than once: lines {lines}", "take one of them out by hand"
            )
    if not ours and not marks:
        return []
    if ours and marks:
        asked = "precision=" + str(parameters["precision"]) if parameters["scope"] == "encoder" else "scope=process"
        written = {f"precision={name}": ast.dump(ast.parse(text).body[0]) for name, text in HELPERS.items()}
        there = next((name for name, dump in written.items() if dump == ast.dump(ours[0])), asked)
        if there != asked:
            raise _other_values(source, ours[0].lineno, f"scope=encoder {there}")
    return [
        Site("setting", ours[0].lineno if ours else method.lineno, OURS if ours else TODO),
        Site("encoder", method.lineno, OURS if marks else TODO),
    ]


def _at_import(source: Source, method: Function, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites as we leave them with ``scope=process``: the statement, with our comment above it."""
    found = []
    for statement in source.tree.body:
        above = source.lines[statement.lineno - 2].strip() if statement.lineno > 1 else ""
        for precision, text in AT_IMPORT.items():
            comment, code = text.strip().splitlines()
            if above == comment and ast.unparse(statement) == ast.unparse(ast.parse(code)):
                found.append((statement.lineno, precision))
    if len(found) > 1:
        lines = ", ".join(str(line) for line, _ in found)
        raise Ambiguous(f"{source.name}: TF32 is allowed more than once: lines {lines}", "take one of them out by hand")
    for line, precision in found:
        if parameters["scope"] != "process" or parameters["precision"] != precision:
            raise _other_values(source, line, f"scope=process precision={precision}")
        return [Site("setting", line, OURS), Site("encoder", method.lineno, OURS)]
    return []


def _other_values(source: Source, line: int, values: str) -> Conflict:
    return Conflict(
        f"{source.name}:{line} is applied with other values: {values}",
        "take it out first: apply-opt revert tokenizer_tf32, or by hand where it was put in by hand",
    )


# The method that encodes


def _encoder_method(source: Source) -> Function:
    """The one method of the tokenizer that runs the encoder, and is done with it when it returns."""
    tokenizer = tokenizer_class(source)
    found: dict[Function, list[ast.Attribute]] = {}
    for use in encoder_uses(source, tokenizer):
        method = next((n for n in reversed(source.ancestors(use)) if n in methods(tokenizer)), None)
        if not isinstance(method, FUNCTIONS):
            raise Ambiguous(
                f"{source.name}:{use.lineno}: {ENCODE}() is not called in a method of {tokenizer.name} itself"
            )
        found.setdefault(method, []).append(use)
    chosen = [m for m in found if m.name != "__init__"] or list(found)  # __init__ only warms up, if another encodes
    if len(chosen) > 1:
        lines = ", ".join(f"{m.name} (line {m.lineno})" for m in chosen)
        raise Ambiguous(f"{source.name}: {ENCODE}() is called in {len(chosen)} methods: {lines}")
    method = chosen[0]
    check_defined_once(source, method)
    _check_runs_inside(source, method, found[method])
    return method


def _check_runs_inside(source: Source, method: Function, uses: Sequence[ast.Attribute]) -> None:
    """Raise where the encoder may run when ``method`` has returned, or where a decorator cannot stand."""
    where = f"{source.name}:{method.lineno}: {method.name}"
    if _runs_later(method):
        raise Conflict(f"{where} is a coroutine or generator: it runs after it returns")
    compiled = [d for d in method.decorator_list if any(word in ast.unparse(d) for word in ("jit.", "compile"))]
    if compiled:
        raise Conflict(
            f"{where} is compiled (line {compiled[0].lineno}): the compiler would have to read our decorator"
        )
    for name in ("compile", "script", "trace"):
        for call in calls(source, name):
            if any(getattr(n, "attr", getattr(n, "id", "")) == method.name for n in ast.walk(call)):
                raise Conflict(
                    f"{where} is compiled (line {call.lineno}): the compiler would have to read our decorator"
                )
    for use in uses:
        later = _handed_on(source, method, use)
        if later is not None:
            raise Ambiguous(
                f"{source.name}:{later.lineno}: {ENCODE} is handed on here, and may run when {method.name} has returned"
            )


def _handed_on(source: Source, method: Function, use: ast.expr) -> Optional[ast.expr]:
    """The place in ``method`` from which ``use`` may be called at another time; ``None`` where it is called there and then."""
    around = source.ancestors(use)
    for node in around[: around.index(method)]:
        if isinstance(node, (ast.Lambda, ast.GeneratorExp)):
            return node
        if isinstance(node, FUNCTIONS):
            if _runs_later(node) or node.decorator_list:
                return use
            name = ast.Name(node.name)
            return next((late for m in _uses_of(source, method, name) if (late := _handed_on(source, method, m))), None)
    if isinstance(around[0], ast.Call) and around[0].func is use:
        return None
    assigned = around[0]
    if isinstance(assigned, ast.Assign) and isinstance(assigned.targets[0], ast.Name) and len(assigned.targets) == 1:
        again = _uses_of(source, method, assigned.targets[0])
        return next((late for m in again if (late := _handed_on(source, method, m))), None)
    return use


def _uses_of(source: Source, method: Function, name: ast.expr) -> list[ast.expr]:
    found = [n for n in mentions(source, name) if method in source.ancestors(n)]
    return [n for n in found if isinstance(getattr(n, "ctx", None), ast.Load)]


def _runs_later(function: Function) -> bool:
    yields = any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in own_nodes(function))
    return isinstance(function, ast.AsyncFunctionDef) or yields


# What the author decided


def _settings(source: Source) -> Iterator[Setting]:
    """The statements that set the precision of float32 matrix products, or of TF32 as a whole."""
    for node in source.nodes("allow_tf32", "fp32_precision"):
        if isinstance(node, ast.Attribute) and node.attr in OFF and isinstance(node.ctx, ast.Store):
            if "cudnn" not in _origin(source, node.value) and "mkldnn" not in _origin(source, node.value):
                yield from _setting(source, node, node.value, node.attr, _assigned(source, node))
        elif isinstance(node, ast.Call) and callee(node) == "setattr" and len(node.args) == 3:
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
            if name in OFF:
                yield from _setting(source, node, node.args[0], str(name), node.args[2])
    for name in ("set_float32_matmul_precision", "_set_cublas_allow_tf32"):
        for call in calls_of(source, name):
            value = argument(call, "precision", 0)
            yield _said(source, call, not _is_off(value, "precision", "allow_tf32"), ast.unparse(call))
    for node in source.nodes(*OVERRIDES):
        statement = source.statement(node)
        if isinstance(node, ast.Constant) and node.value in OVERRIDES and isinstance(statement, (ast.Assign, ast.Expr)):
            is_zero = any(isinstance(n, ast.Constant) and n.value in ("0", 0) for n in ast.walk(statement.value))
            yield _said(source, statement, not is_zero, ast.unparse(statement))


def _setting(
    source: Source, node: ast.expr, module: ast.expr, name: str, value: Optional[ast.expr]
) -> Iterator[Setting]:
    """The setting of ``module.name``, unless it is about convolutions or other devices, or takes a setting back."""
    origin = _origin(source, module)
    if "cudnn" in origin or "mkldnn" in origin or (isinstance(value, ast.Constant) and value.value == "none"):
        return
    yield _said(source, node, not _is_off(value, name), ast.unparse(source.statement(node)))


def _said(source: Source, node: Union[ast.expr, ast.stmt], allows: bool, text: str) -> Setting:
    return Setting(node.lineno, allows, text, isinstance(scope_of(source, node), ast.Module))


def _assigned(source: Source, target: ast.Attribute) -> ast.expr:
    """What is assigned to ``target``: also as one of several, ``a, b = 1, 2``. Raises where that cannot be told."""
    statement, parent = source.statement(target), source.ancestors(target)[0]
    if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
        value = statement.value
        if parent is statement:
            return value
        lists = (ast.Tuple, ast.List)
        if isinstance(parent, lists) and isinstance(value, lists) and parent in targets_of(statement):
            parts = [*parent.elts, *value.elts]
            if len(parent.elts) == len(value.elts) and not any(isinstance(p, ast.Starred) for p in parts):
                return value.elts[parent.elts.index(target)]
    raise Ambiguous(
        f"{source.name}:{target.lineno}: whether this allows TF32 cannot be told: {ast.unparse(statement).splitlines()[0]}",
        "set it by a plain assignment, or take it out",
    )


def _is_off(value: Optional[ast.expr], *names: str) -> bool:
    return isinstance(value, ast.Constant) and any(value.value in OFF[name] for name in names)


def _origin(source: Source, module: ast.expr) -> str:
    """``module`` spelled out as far as this file tells, where it has a name of its own here."""
    root = module
    while isinstance(root, ast.Attribute):
        root = root.value
    text = ast.unparse(module)
    for binding in reaching(source, root, module) if isinstance(root, ast.Name) else ():
        if binding.value is not None:
            text += " " + ast.unparse(binding.value)
        elif isinstance(binding.statement, (ast.Import, ast.ImportFrom)):
            text += " " + ast.unparse(binding.statement)
    return text


def _imports_torch(source: Source, place: ast.stmt) -> bool:
    """Whether the module has ``torch`` by the time ``place`` runs."""
    above = source.tree.body[: source.tree.body.index(place)]
    return any(_is_torch(a) for s in above if isinstance(s, ast.Import) for a in s.names)


def _is_torch(alias: ast.alias) -> bool:
    """Whether an ``import`` makes ``torch`` the name of PyTorch."""
    return alias.asname == alias.name == "torch" if alias.asname else alias.name.partition(".")[0] == "torch"


def _check_torch(source: Source, place: ast.stmt) -> None:
    """Raise where ``torch`` may be something else than PyTorch in front of ``place``."""
    for binding in bindings(source, ast.Name("torch"), place):
        statement = binding.statement
        own = isinstance(statement, ast.Import) and all(
            _is_torch(a) for a in statement.names if (a.asname or a.name.partition(".")[0]) == "torch"
        )
        within = scope_of(source, statement)
        if not own and (not isinstance(within, ast.Module) or position(statement) < position(place)):
            raise Conflict(
                f"{source.name}:{statement.lineno}: torch may be something else than PyTorch from here on",
                "use scope=encoder, which imports it for itself",
            )
