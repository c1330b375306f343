"""Keep the GPU memory that the encoder used for its next call: take ``torch.cuda.empty_cache()`` out of ``infer_encoder``.

``AutoModel.infer_encoder`` ends each call by giving all unused cached blocks back to the driver, and the next call has to
ask the driver for them again. PyTorch's allocator keeps them so that neither is needed
(https://docs.pytorch.org/docs/stable/notes/cuda.html#memory-management); other processes cannot use them meanwhile
(https://docs.pytorch.org/docs/stable/generated/torch.cuda.empty_cache.html).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, bodies, callee, first_line, last_line, own_nodes

from ._scopes import bindings, called, methods, named, position

CLASS, METHOD = "AutoModel", "infer_encoder"
FREE = "empty_cache"
FULL = f"torch.cuda.{FREE}"
COMMENT = f"# No {FREE}(): it waits for the GPU, and the next call allocates anew."
QUESTIONS = {"is_available", "is_initialized", "is_built", "hasattr"}
DEPTH = 4  # names, one made of the other


class Found(NamedTuple):
    """A statement that frees the cache; ``condition`` says when, where that is the author's decision."""

    statement: ast.stmt
    condition: str


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``empty_cache``: the one statement by which every call of ``infer_encoder`` frees the cache."""
    method = _method(source)
    written = _comment(source, method)
    found = _frees(source, method)
    always = [f.statement for f in found if not f.condition]
    if len(always) > 1:
        lines = ", ".join(str(s.lineno) for s in always)
        raise Ambiguous(f"{source.name}: {METHOD}() frees the cache {len(always)} times: lines {lines}")
    if always and written:
        where = f"line {always[0].lineno}; the comment that it does not is on line {written}"
        raise PartlyApplied(
            f"{source.name} is partly applied: {METHOD}() frees the cache ({where})", "take one of them out"
        )
    if always:
        _removal(source, always[0])
        return [Site(FREE, always[0].lineno, TODO)]
    if written:
        return [Site(FREE, written, OURS)]
    if found:
        return [Site(FREE, found[0].statement.lineno, THEIRS, f"{FREE}() only {found[0].condition}")]
    _refuse_indirect(source, method)
    return [Site(FREE, method.lineno, THEIRS, f"no {FULL}() in {METHOD}()")]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """A comment in the place of the statement, and of the question about the GPU that it alone stands under."""
    (statement,) = (f.statement for f in _frees(source, _method(source)) if not f.condition)
    return [_removal(source, statement)]


def _method(source: Source) -> Function:
    classes = [n for n in named(source, CLASS) if isinstance(n, ast.ClassDef)]
    found = [m for cls in classes for m in methods(cls) if m.name == METHOD]
    if len(found) > 1:
        lines = ", ".join(str(m.lineno) for m in found)
        raise Ambiguous(f"{source.name}: {CLASS}.{METHOD}() is there {len(found)} times: lines {lines}")
    if not found:
        raise NoSite(f"{source.name}: no class {CLASS} has a method {METHOD}()")
    return found[0]


def _comment(source: Source, method: Function) -> Optional[int]:
    """The line of the comment that :func:`edit` writes, which may be the method's last."""
    for number, text in enumerate(source.lines[first_line(method) - 1 :], first_line(method)):
        if text.strip() == COMMENT:
            return number
        if number > last_line(method) and text.strip() and not text.lstrip().startswith("#"):
            break
    return None


# What frees the cache


def _frees(source: Source, method: Function) -> list[Found]:
    """What frees the cache in ``method``."""
    return [_found(source, method, use) for use in _uses(source, method)]


def _uses(source: Source, within: ast.AST) -> list[ast.expr]:
    """Where code takes ``torch.cuda.empty_cache``, by whatever name it has."""
    nodes = [n for n in ast.walk(within) if isinstance(n, (ast.Attribute, ast.Name))] if FREE in source.text else []
    found = [n for n in nodes if getattr(n, "attr", FREE) == FREE and _dotted(source, n) == FULL]
    return sorted(found, key=position)


def _dotted(source: Source, node: ast.expr, depth: int = DEPTH) -> str:
    """The name of a module's attribute in full; empty, where it is not certain to be one."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(source, node.value, depth)}.{node.attr}"
    if not isinstance(node, ast.Name) or not depth:
        return ""
    found = set()
    for binding in bindings(source, node, node):
        if isinstance(binding.statement, (ast.Import, ast.ImportFrom)):
            found.add(_imported(binding.statement, node.id))
        else:
            found.add(_dotted(source, binding.value, depth - 1) if binding.value else "")
    return found.pop() if len(found) == 1 else ""


def _imported(statement: ast.Import | ast.ImportFrom, name: str) -> str:
    """What an import makes ``name`` stand for."""
    for alias in statement.names:
        if (alias.asname or alias.name.partition(".")[0]) == name:
            if isinstance(statement, ast.ImportFrom):
                return f"{statement.module}.{alias.name}"
            return alias.name if alias.asname else name
    return ""


def _found(source: Source, method: Function, use: ast.expr) -> Found:
    """The statement that ``use`` makes. Raises where it is anything but a plain call in the method itself."""
    call, statement = source.ancestors(use)[:2]
    plain = isinstance(call, ast.Call) and call.func is use and isinstance(statement, ast.Expr)
    if not plain or not isinstance(statement, ast.stmt) or statement not in own_nodes(method):
        raise Ambiguous(f"{source.name}:{use.lineno}: {METHOD}() uses {FREE} in another way than by a plain call")
    return Found(statement, _condition(source, method, statement))


def _condition(source: Source, method: Function, statement: ast.stmt) -> str:
    """The author's condition for ``statement``: none, where all that is asked is whether there is such a device."""
    for parent in source.ancestors(statement):
        if parent is method:
            break
        if isinstance(parent, ast.If) and not _is_about_devices(parent.test):
            return f"where {ast.unparse(parent.test)}"
        if isinstance(parent, (ast.ExceptHandler, ast.match_case)):
            return "in one case of several"
    return ""


def _is_about_devices(test: ast.expr) -> bool:
    """Whether a condition asks nothing but what there is on this machine (``torch.cuda.is_available()``)."""
    if isinstance(test, ast.BoolOp):
        return all(_is_about_devices(value) for value in test.values)
    if isinstance(test, ast.UnaryOp):
        return _is_about_devices(test.operand)
    return isinstance(test, ast.Call) and callee(test) in QUESTIONS


def _refuse_indirect(source: Source, method: Function) -> None:
    """Raise where the method calls a function of this file that frees the cache."""
    for call in (n for n in own_nodes(method) if isinstance(n, ast.Call)):
        function = called(source, call)
        if function is not None and _uses(source, function):
            where = f"{METHOD}() frees the cache by {function.name}() (line {function.lineno})"
            raise NoSite(f"{source.name}:{call.lineno}: {where}, which may do more than that")


# Taking it out


def _removal(source: Source, node: ast.stmt) -> Edit:
    """The comment in the place of ``node``; of the condition around it too, where that would be left empty."""
    parent = source.ancestors(node)[0]
    block = next(b for b in bodies(parent) if node in b)
    others = [s for s in block if s is not node]
    if any(first_line(s) <= last_line(node) and last_line(s) >= first_line(node) for s in others):
        raise Ambiguous(f"{source.name}:{node.lineno}: {FREE}() shares its line with other statements")
    if others or (isinstance(node, ast.If) and _is_elif(source, node)):
        return _replaced(source, first_line(node), last_line(node))
    if isinstance(parent, ast.If) and _is_about_devices(parent.test):
        if not parent.orelse:
            return _removal(source, parent)
        if _is_elif(source, parent.orelse[0]):
            return _replaced(source, parent.lineno, last_line(parent), parent.orelse[0].lineno)
    raise Ambiguous(f"{source.name}:{node.lineno}: {FREE}() is all that there is in its block")


def _is_elif(source: Source, node: ast.stmt) -> bool:
    return source.lines[node.lineno - 1].lstrip().startswith("elif")


def _replaced(source: Source, first: int, last: int, rest: Optional[int] = None) -> Edit:
    """The comment for lines ``first`` to ``last``; from line ``rest`` on, an ``elif`` that now is the first question."""
    text = source.indent(first) + COMMENT + source.newline(first)
    if rest is not None:
        is_first = not source.lines[first - 1].lstrip().startswith("elif")
        head = source.lines[rest - 1]
        text += (head.replace("elif", "if", 1) if is_first else head) + "".join(source.lines[rest:last])
    return Edit(first, last, text)
