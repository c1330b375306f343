"""What the author of a file has decided about TF32 in matrix products.

The ways to say it: https://pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices. A
statement is only a decision where it runs before the encoder does; where that cannot be told, :func:`decision` raises.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, Conflict
from apply_opt.model.source import Function, Source, callee, own_nodes

from ._scopes import FUNCTIONS, PARAMETER, argument, callers, calls_of, family, mentions, methods, reaching, targets_of
from ._step_audio_tokenizer import encoder_uses, tokenizer_class

OFF = {"allow_tf32": (False, 0), "fp32_precision": ("ieee",), "precision": ("highest",), "environment": ("0", 0)}
OVERRIDES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")


class Setting(NamedTuple):
    """A statement about TF32 in matrix products: ``is_on`` is ``None`` where it depends on something else.

    ``function`` is the outermost function that it is in, ``None`` where it runs at import, or (``in_script``) only where
    the file is run by itself.
    """

    line: int
    is_on: Optional[bool]
    text: str
    function: Optional[Function]
    in_script: bool


def decision(source: Source) -> Optional[Setting]:
    """The setting by which the author has allowed TF32; ``None`` where nothing is said. Raises where TF32 is off."""
    settings = sorted(_settings(source), key=lambda s: s.line)
    starts = _starts(source)
    for setting in settings:
        runs = setting is settings[0] or (not setting.in_script and _runs(source, setting.function, starts))
        if setting.is_on is False and runs and not _before(setting, settings):
            raise Conflict(
                f"{source.name}:{setting.line} turns TF32 off on purpose: {setting.text}",
                "take that line out first, if you do not want it",
            )
    running = [s for s in settings if s.is_on is not False and _stays(source, s, settings, starts)]
    if settings and not running:
        raise Conflict(
            f"{source.name}:{settings[0].line} sets TF32, but not for certain when the encoder runs: {settings[0].text}",
            "take that line out first, or set it at import",
        )
    return running[0] if running else None


# When a setting runs


def _starts(source: Source) -> list[Function]:
    """The functions that run before the encoder does, or around it: ``__init__`` and what uses the encoder."""
    own = [m for cls in family(source, tokenizer_class(source)) for m in methods(cls)]
    using = {n for use in encoder_uses(source) for n in source.ancestors(use)}
    return [m for m in own if m.name in ("__init__", "__post_init__") or m in using]


def _stays(source: Source, setting: Setting, settings: Sequence[Setting], starts: Sequence[Function]) -> bool:
    """Whether ``setting`` runs before the encoder does, and is not taken back until then."""
    function = setting.function
    if setting.in_script or not _runs(source, function, starts):
        return False
    if setting.is_on is None and _before(setting, settings):
        return False
    later = [s for s in settings if s.function is function and s.line > setting.line and s.is_on is not True]
    if function is None or not later:
        return True
    encodes = any(function in source.ancestors(use) for use in encoder_uses(source))
    return encodes or not _is_plain(function)


def _before(setting: Setting, settings: Sequence[Setting]) -> list[Setting]:
    """Those that allow TF32 in the same function before ``setting``, which then takes that back."""
    own = [s for s in settings if s.function is setting.function is not None]
    return [s for s in own if s.line < setting.line and s.is_on is not False]


def _is_plain(function: Function) -> bool:
    """Whether ``function`` is neither a context manager's generator nor a decorator, in which something runs in between."""
    return not any(isinstance(n, (ast.Yield, ast.YieldFrom, *FUNCTIONS)) for n in own_nodes(function))


def _runs(
    source: Source, function: Optional[Function], starts: Sequence[Function], seen: tuple[Function, ...] = ()
) -> bool:
    """Whether ``function`` is one of ``starts``, or called by one, or at import, or a decorator of one."""
    if function is None or function in starts:
        return True
    if any(_name(d) == function.name for start in starts for d in start.decorator_list):
        return True
    if function in seen:
        return False
    alive = [call for call in callers(source, function) if not _is_dead(source, call)]
    around = [_outermost(source, call) for call in alive if not _is_in_script(source, call)]
    return any(_runs(source, f, starts, (*seen, function)) for f in around)


def _name(decorator: ast.expr) -> str:
    func = decorator.func if isinstance(decorator, ast.Call) else decorator
    return str(getattr(func, "attr", getattr(func, "id", "")))


def _outermost(source: Source, node: ast.AST) -> Optional[Function]:
    around = [n for n in source.ancestors(node) if isinstance(n, FUNCTIONS)]
    return around[-1] if around else None


def _is_dead(source: Source, node: ast.AST) -> bool:
    """Whether ``node`` never runs, because a condition around it is a constant."""
    child = node
    for parent in source.ancestors(node):
        if isinstance(parent, ast.If):
            value = _constant(source, parent.test)
            if value is not None and (child in parent.body if not value.value else child in parent.orelse):
                return True
        child = parent
    return False


def _is_in_script(source: Source, node: ast.AST) -> bool:
    """Whether ``node`` only runs where the file is run by itself."""
    tests = [n.test for n in source.ancestors(node) if isinstance(n, ast.If)]
    return source.function(node) is None and any("__name__" in ast.unparse(test) for test in tests)


def _constant(source: Source, value: Optional[ast.expr]) -> Optional[ast.Constant]:
    """``value`` where it is a constant, or a name that only ever has one."""
    if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not):
        inner = _constant(source, value.operand)
        return None if inner is None else ast.Constant(not inner.value)
    if isinstance(value, ast.Name):
        found = reaching(source, value, value)
        value = found[0].value if len(found) == 1 and found[0].kind != PARAMETER else None
    return value if isinstance(value, ast.Constant) else None


# What is set


def _settings(source: Source) -> Iterator[Setting]:
    """The statements that set the precision of float32 matrix products, or of TF32 as a whole, and may run."""
    for node, name, value in (*_of_modules(source), *_by_calls(source), *_in_environment(source)):
        if not _is_dead(source, node):
            known = _constant(source, value)
            is_on = None if known is None else known.value not in OFF[name]
            text = ast.unparse(source.statement(node) if not isinstance(node, ast.Call) else node)
            place = _outermost(source, node), _is_in_script(source, node)
            yield Setting(node.lineno, is_on, text.splitlines()[0], *place)


Place = tuple[ast.expr, str, Optional[ast.expr]]


def _of_modules(source: Source) -> Iterator[Place]:
    """``….allow_tf32 = …``, also by ``setattr``; not those about convolutions or other devices, nor what gives a setting up."""
    for node in source.nodes("allow_tf32", "fp32_precision"):
        if isinstance(node, ast.Attribute) and node.attr in OFF and isinstance(node.ctx, ast.Store):
            if not _is_others(source, node.value):
                value = _assigned(source, node)
                if not _gives_up(value):
                    yield node, node.attr, value
        elif isinstance(node, ast.Call) and callee(node) == "setattr" and len(node.args) == 3:
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
            if name in OFF and not _is_others(source, node.args[0]) and not _gives_up(node.args[2]):
                yield node, str(name), node.args[2]


def _by_calls(source: Source) -> Iterator[Place]:
    for function, name in (("set_float32_matmul_precision", "precision"), ("_set_cublas_allow_tf32", "allow_tf32")):
        for call in calls_of(source, function):
            yield call, name, argument(call, "precision", 0)


def _in_environment(source: Source) -> Iterator[Place]:
    """Where one of ``OVERRIDES`` is put into the environment; reading it, or a list of names, says nothing."""
    for node in source.nodes(*OVERRIDES):
        if isinstance(node, ast.keyword) and node.arg in OVERRIDES:
            call = source.ancestors(node)[0]
            if isinstance(call, ast.Call) and callee(call) == "update" and _is_environment(source, call):
                yield node.value, "environment", node.value
        elif isinstance(node, ast.Constant) and node.value in OVERRIDES:
            for key in (node, *_names_of(source, node)):
                if (value := _stored(source, key)) is not None:
                    yield key, "environment", value


def _names_of(source: Source, node: ast.Constant) -> list[ast.expr]:
    """Where the constant ``node`` is used by a name."""
    targets = targets_of(source.statement(node))
    return [n for t in targets if isinstance(t, ast.Name) for n in mentions(source, t)]


def _stored(source: Source, key: ast.expr) -> Optional[ast.expr]:
    """What is stored under ``key`` in the environment."""
    parent, around = [*source.ancestors(key), None][:2]
    value, target = None, parent
    if isinstance(parent, ast.Subscript) and parent.slice is key and isinstance(parent.ctx, ast.Store):
        statement = source.statement(parent)
        value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
    elif isinstance(parent, ast.Call) and callee(parent) in ("setdefault", "putenv") and parent.args[0] is key:
        value = argument(parent, "value", 1)
    elif isinstance(parent, ast.Dict) and isinstance(around, ast.Call) and callee(around) == "update":
        value, target = parent.values[parent.keys.index(key)] if key in parent.keys else None, around
    return value if isinstance(target, ast.expr) and _is_environment(source, target) else None


def _is_environment(source: Source, node: ast.expr) -> bool:
    """Whether ``node``, a subscript or a method's call, is about the process's environment itself, and not a copy."""
    base = node.func if isinstance(node, ast.Call) else node
    if isinstance(base, ast.Name):
        return base.id == "putenv"
    text = _origin(source, base.value) if isinstance(base, (ast.Attribute, ast.Subscript)) else ""
    is_own = "environ" in text or (isinstance(base, ast.Attribute) and base.attr == "putenv")
    return is_own and not any(word in text for word in ("copy", "dict(", "{"))


def _is_others(source: Source, module: ast.expr) -> bool:
    """Whether ``module`` is about convolutions, or about the CPU."""
    origin = _origin(source, module)
    return "cudnn" in origin or "mkldnn" in origin


def _gives_up(value: Optional[ast.expr]) -> bool:
    return isinstance(value, ast.Constant) and value.value == "none"


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
