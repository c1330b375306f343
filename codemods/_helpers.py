"""Functions and classes that codemods write above a top-level statement: whether one is there already, and where it goes."""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Optional, Union

from apply_opt.errors import Ambiguous, Conflict, PartlyApplied
from apply_opt.model.source import Edit, Function, Source, callee, first_line, last_line

from ._scopes import calls, named

TAKE_ONE_OUT = "take one of them out by hand"


def helpers(source: Source, name: str) -> list[ast.FunctionDef]:
    """The module-level functions called ``name``."""
    return [s for s in source.tree.body if isinstance(s, ast.FunctionDef) and s.name == name]


def has_helper(source: Source, name: str, uses: Sequence[ast.AST], else_at: int) -> bool:
    """Whether our function ``name`` is there, and used; ``uses`` are the places where it should be.

    Raises where it is there twice or by half, and where the name stands for something else.
    """
    ours, lines = helpers(source, name), sorted({getattr(use, "lineno", 0) for use in uses})
    if len(ours) > 1:
        where = ", ".join(str(function.lineno) for function in ours)
        raise PartlyApplied(f"{source.name}: {name} is defined more than once: lines {where}", TAKE_ONE_OUT)
    if len(lines) > 1:
        where = ", ".join(map(str, lines))
        raise PartlyApplied(f"{source.name}: {name} is used more than once: lines {where}", TAKE_ONE_OUT)
    if bool(ours) != bool(lines):
        half = f"defined (line {ours[0].lineno}) but not used here" if ours else "used but not defined"
        raise PartlyApplied(
            f"{source.name}:{lines[0] if lines else else_at} is partly applied: {name} is {half}",
            "take the half that is there out by hand, then apply again",
        )
    if not ours:
        refuse_taken(source, name)
    return bool(ours)


def is_used(source: Source, name: str, uses: Sequence[ast.AST], times: Optional[int] = None) -> bool:
    """Whether our function ``name`` is there once, and used as often as it should be: ``times``, or any number of times.

    Raises where it is there by half, and where the name stands for something else.
    """
    ours = helpers(source, name)
    if (len(ours), len(uses)) == (1, max(1, len(uses)) if times is None else times):
        return True
    if ours or uses:
        line = getattr([*uses, *ours][0], "lineno", 1)
        raise PartlyApplied(
            f"{source.name}:{line} is partly applied: {name} is defined {len(ours)} times and used {len(uses)} times",
            "take the part that is there out by hand, then apply again",
        )
    refuse_taken(source, name)
    return False


def are_used(source: Source, name: str, others: Sequence[str], uses: Sequence[ast.AST]) -> bool:
    """Whether our function ``name`` is there once, and used, and with it each of the ``others``, functions and classes, that it calls.

    Raises where they are there by half, and where a name stands for something else.
    """
    if not is_used(source, name, uses):
        refuse_taken(source, *others)
        return False
    for other in others:
        count = sum(isinstance(s, (ast.FunctionDef, ast.ClassDef)) and s.name == other for s in source.tree.body)
        if count != 1:
            raise PartlyApplied(
                f"{source.name}:{getattr(uses[0], 'lineno', 1)} is partly applied: {other} is defined {count} times",
                "take the part that is there out by hand, then apply again",
            )
    return True


def refuse_taken(source: Source, *names: str) -> None:
    """Raise :class:`Conflict` where the code uses one of ``names`` already."""
    for name in names:
        if is_taken(source, name):
            raise Conflict(f"{source.name} already uses the name {name} for something else")


def is_taken(source: Source, name: str) -> bool:
    """Whether the code uses ``name`` for a variable, parameter, function, class or import anywhere."""
    return any(not isinstance(node, (ast.Attribute, ast.keyword, ast.Call)) for node in named(source, name))


def refuse_compiled(source: Source, *functions: Function) -> None:
    """Raise :class:`Conflict` where one of ``functions``, or a model, may be compiled, or reads its variables by their names."""
    for function in functions:
        if any(ast.unparse(decorator) != "torch.no_grad()" for decorator in function.decorator_list):
            raise Conflict(f"{source.name}:{function.lineno}: {function.name} is decorated: it may be compiled")
        for node in (n for n in ast.walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)):
            if callee(node) in ("locals", "vars", "eval", "exec"):
                raise Conflict(
                    f"{source.name}:{node.lineno}: {callee(node)}() may read any variable of {function.name}"
                )
    for node in calls(source, "script"):
        if ast.unparse(node.func).endswith("jit.script"):
            raise Conflict(f"{source.name}:{node.lineno}: the code is compiled with torch.jit.script")


def check_imported(source: Source, *names: str) -> None:
    """Raise :class:`Ambiguous` where the module does not import ``torch``, or ``torch.nn`` as ``nn``: what our functions use."""
    bound = _imported(source)
    for name in names:
        if bound.get(name) != MODULES[name]:
            what = f"{name} is not imported" if name == MODULES[name] else f"{MODULES[name]} is not imported as {name}"
            raise Ambiguous(f"{source.name}: {what}")


def check_imported_above(source: Source, call: ast.Call) -> None:
    """Raise :class:`Ambiguous` where what is called does not come from an import of the module's, above: what a class of ours needs."""
    base = ast.unparse(call.func).partition(".")[0]
    above = [s for s in source.tree.body if isinstance(s, (ast.Import, ast.ImportFrom)) and s.lineno < call.lineno]
    if base not in {(alias.asname or alias.name).partition(".")[0] for s in above for alias in s.names}:
        raise Ambiguous(f"{source.name}:{call.lineno}: {base} is not imported above")


MODULES = {"torch": "torch", "nn": "torch.nn", "np": "numpy", "ptwt": "ptwt"}
"""What modules are usually called, and the modules."""


def check_free(source: Source, *names: str) -> None:
    """Raise :class:`Ambiguous` where one of ``names`` is not what a module or a builtin is usually called (:data:`MODULES`)."""
    for name in names:
        imported, usual = _imported(source).get(name), MODULES.get(name)
        if is_rebound(source, name) or helpers(source, name) or imported not in (None, usual):
            raise Ambiguous(f"{source.name}: {name} means something else in some place")
        if usual and not imported and any(isinstance(node, ast.Name) for node in named(source, name)):
            raise Ambiguous(f"{source.name}: {name} is not imported for the whole file")


def is_builtin(source: Source, name: str) -> bool:
    """Whether nothing in the file gives a builtin's ``name`` another meaning."""
    return not is_rebound(source, name) and not helpers(source, name) and name not in _imported(source)


def imports(source: Source, *names: str) -> str:
    """The imports of those modules that ``source`` does not call as is usual (:data:`MODULES`); see :func:`check_free`."""
    missing = [name for name in names if _imported(source).get(name) != MODULES[name]]
    return "".join(
        f"import {MODULES[name]}" + (f" as {name}\n" if name != MODULES[name] else "\n") for name in missing
    ) + ("\n" if missing else "")


def with_usual_names(source: Source, function: Function) -> Function:
    """A copy of ``function`` that calls modules as is usual (:data:`MODULES`): ``ptwt.wavedec`` for an imported ``wavedec``."""
    return _UsualNames(source).visit(copy.deepcopy(function))  # type: ignore[no-any-return]


class _UsualNames(ast.NodeTransformer):
    def __init__(self, source: Source) -> None:
        self.source = source

    def visit_Name(self, node: ast.Name) -> ast.expr:
        meaning = _imported(self.source).get(node.id, "")
        if is_rebound(self.source, node.id):
            return node
        for name, module in sorted(MODULES.items(), key=lambda item: -len(item[1])):
            if (meaning + ".").startswith(module + "."):
                usual = ast.parse(name + meaning.removeprefix(module), mode="eval").body
                return ast.copy_location(usual, node)
        return node


def meant(source: Source, node: ast.expr) -> str:
    """What a dotted name stands for, by the imports: ``torch.nn.functional.pad`` for ``F.pad``. Else as it is written."""
    first, dot, rest = ast.unparse(node).partition(".")
    return (first if is_rebound(source, first) else _imported(source).get(first, first)) + dot + rest


def is_rebound(source: Source, name: str) -> bool:
    """Whether something else than the top of the file gives ``name`` a meaning: another import, a definition, a variable."""
    own = _imported(source).get(name)
    defined = [n for n in helpers(source, name) if own is None]
    for node in named(source, name):
        if isinstance(node, ast.Name):
            is_other = not isinstance(node.ctx, ast.Load)
        elif isinstance(node, ast.alias):
            bound = dict(_bound(source.statement(node)))  # type: ignore[arg-type]
            is_other = name in bound and bound[name] != own
        else:
            is_other = not isinstance(node, (ast.Attribute, ast.keyword, ast.Call)) and node not in defined[:1]
        if is_other:
            return True
    return False


def refuse_other_imports(source: Source, text: str) -> None:
    """Raise :class:`Conflict` where a name that ``text``, which is to be written, imports means something else in the file."""
    for statement in ast.parse(text).body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            for name, meaning in _bound(statement):
                if is_rebound(source, name) or _imported(source).get(name, meaning) != meaning:
                    raise Conflict(f"{source.name} already uses the name {name} for something else")


@functools.lru_cache(maxsize=8)
def _imported(source: Source) -> dict[str, str]:
    """The names that the module's imports give a meaning, and which."""
    imports = (s for s in source.tree.body if isinstance(s, (ast.Import, ast.ImportFrom)))
    return {name: meaning for statement in imports for name, meaning in _bound(statement)}


def _bound(statement: Union[ast.Import, ast.ImportFrom]) -> Iterator[tuple[str, str]]:
    """The names that an import gives a meaning, and which."""
    for alias in statement.names:
        if isinstance(statement, ast.ImportFrom):
            yield alias.asname or alias.name, "." * statement.level + f"{statement.module or ''}.{alias.name}"
        elif alias.asname:
            yield alias.asname, alias.name
        else:
            yield (alias.name.partition(".")[0],) * 2


def insert_above(source: Source, node: ast.AST, text: str) -> Edit:
    """``text`` (four-space indents, ``\\n``) as a module-level block above the top-level statement that holds ``node``.

    Comments that stand directly on that statement stay with it, except at the top of the file, where they are the file's.
    """
    statement = source.top_level(node)
    index = source.tree.body.index(statement)
    line, above = first_line(statement), source.tree.body[:index]
    while above and last_line(above[-1]) >= line:  # `x = 1; y = 2`
        line = first_line(above.pop())
    floor = last_line(above[-1]) + 1 if above else line
    while line > floor and source.lines[line - 2].startswith("#"):
        line -= 1
    newline, unit = source.newline(line), source.indent_unit()
    return Edit(line, line - 1, (_gap(source, line) + reindent(text, unit) + "\n\n\n").replace("\n", newline))


def _gap(source: Source, line: int) -> str:
    """What makes the empty lines above ``line`` two, where there is anything above them."""
    written = [text for text in source.lines[: line - 1] if text.strip()]
    empty = next((n for n, text in enumerate(reversed(source.lines[: line - 1])) if text.strip()), 0)
    return "\n" * max(0, 2 - empty) if written else ""


def reindent(text: str, unit: str) -> str:
    """``text`` with ``unit`` for each four spaces at the start of a line."""
    lines = []
    for line in text.strip("\n").split("\n"):
        body = line.lstrip(" ")
        lines.append(unit * ((len(line) - len(body)) // 4) + body)
    return "\n".join(lines)
