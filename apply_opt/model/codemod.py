"""What a codemod is, and the rules that every codemod's result must pass.

A codemod is a module with two functions, both pure:

``find(source, parameters) -> list[Site]``
    looks for the declared sites with :mod:`ast` alone. Raises :class:`~apply_opt.errors.NoSite`,
    :class:`~apply_opt.errors.Ambiguous` or :class:`~apply_opt.errors.Conflict` where it is not sure.
``edit(source, parameters, sites) -> list[Edit]``
    the new lines for sites that are ``TODO``.

A third, ``preflight(folder, parameters) -> list[str]``, is for optimizations that need something outside the checkout:
it gives what it found, or raises :class:`~apply_opt.errors.Refused`.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from apply_opt.errors import Ambiguous, ApplyOptError, Refused
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source, bodies, first_line, last_line, split_lines

TODO = "todo"
"""The site is there and the change is not."""
OURS = "ours"
"""The site holds what this codemod writes."""
THEIRS = "theirs"
"""The checkout's author has done it in their own way."""


class Site(NamedTuple):
    """One place, as found: its declared name, its line, its state, and (for ``THEIRS``) what stands there."""

    name: str
    line: int
    state: str
    note: str = ""


class Codemod(Protocol):
    """The module behind an optimization."""

    def find(self, source: Source, parameters: Mapping[str, Value]) -> list[Site]: ...

    def edit(self, source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]: ...


class Rewrite(NamedTuple):
    """What a codemod makes of a file. ``data`` is ``None`` where nothing is to be done."""

    sites: Sequence[Site]
    data: bytes | None

    @property
    def state(self) -> str:
        """The state that all sites share."""
        return self.sites[0].state


class InvalidResult(Refused):
    """A codemod's result breaks a rule, so it is not written. With a known fork in hand that is a bug of the codemod."""

    kind = "invalid_result"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the change did not pass its own check ({why}); nothing was written",
            "please report it with the file; until then make the edit by hand: apply-opt show NAME",
        )


def survey(codemod: Codemod, source: Source, declared: Sequence[str], parameters: Mapping[str, Value]) -> list[Site]:
    """The sites in ``source``: exactly the ``declared`` ones and all in one state, else an error."""
    sites = codemod.find(source, parameters)
    if sorted(site.name for site in sites) != sorted(declared):
        raise InvalidResult(f"declared sites {list(declared)}, found {[site.name for site in sites]}")
    if len({site.state for site in sites}) > 1:
        done = ", ".join(f"{s.name} (line {s.line})" for s in sites if s.state != TODO)
        missing = ", ".join(s.name for s in sites if s.state == TODO)
        raise Ambiguous(
            f"{source.name} is partly applied: {done} is there, {missing} is not",
            "take the half that is there out by hand (git diff, git checkout), then apply again",
        )
    return sites


def rewrite_file(
    codemod: Codemod, data: bytes, name: str, declared: Sequence[str], parameters: Mapping[str, Value]
) -> Rewrite:
    """Bytes in, bytes out: the codemod's result, validated."""
    source = Source(data, name)
    sites = survey(codemod, source, declared, parameters)
    if sites[0].state != TODO:
        return Rewrite(sites, None)
    edits = sorted(codemod.edit(source, parameters, sites))
    result = source.splice(edits)
    _validate(codemod, source, edits, result, declared, parameters)
    return Rewrite(sites, result)


def _validate(
    codemod: Codemod,
    source: Source,
    edits: Sequence[Edit],
    result: bytes,
    declared: Sequence[str],
    parameters: Mapping[str, Value],
) -> None:
    try:
        after = Source(result, source.name)
    except ApplyOptError as error:
        raise InvalidResult(f"the result is not a Python file: {error}") from error
    new_ranges, shift = [], 0
    for edit in edits:
        count = len(split_lines(edit.text))
        new_ranges.append((edit.first + shift, edit.first + shift + count - 1))
        shift += count - (edit.last - edit.first + 1)
    back = [
        Edit(first, last, "".join(source.lines[edit.first - 1 : edit.last]))
        for edit, (first, last) in zip(edits, new_ranges)
    ]
    if after.splice(back) != source.data:
        raise InvalidResult("bytes outside the edits changed")
    old_ranges = [(edit.first, edit.last) for edit in edits]
    if _untouched(source.tree, old_ranges) != _untouched(after.tree, new_ranges):
        raise InvalidResult("the syntax tree outside the edits changed")
    doubled = {key for key, count in _definitions(after.tree).items() if count > 1}
    if any(_definitions(source.tree)[key] < _definitions(after.tree)[key] for key in doubled):
        raise InvalidResult(f"definitions doubled: {sorted(doubled)}")
    if any(site.state == TODO for site in survey(codemod, after, declared, parameters)):
        raise InvalidResult("planning again on the result is not a no-op")


def _untouched(tree: ast.Module, ranges: Sequence[tuple[int, int]]) -> list[str]:
    """What the tree says on the lines that no range holds, piece by piece, in order and with its depth."""
    return [
        text
        for first, last, text in _pieces(tree, 0)
        if not any(r_first <= last and r_last >= first for r_first, r_last in ranges)
    ]


def _pieces(node: ast.AST, depth: int) -> Iterator[tuple[int, int, str]]:
    """First line, last line and dump of each simple statement, decorator and block header below ``node``."""
    for body in bodies(node):
        for statement in body:
            inner = [first_line(block[0]) for block in bodies(statement)]
            for decorator in getattr(statement, "decorator_list", ()):
                yield decorator.lineno, decorator.end_lineno or 0, f"{depth} @{ast.dump(decorator)}"
            header_end = max(statement.lineno, min(inner) - 1) if inner else last_line(statement)
            yield statement.lineno, header_end, f"{depth} {_header(statement)}"
            yield from _pieces(statement, depth + 1)


def _header(statement: ast.stmt) -> str:
    """``statement`` without its decorators and without the statements inside it."""
    parts = [type(statement).__name__]
    for name, value in ast.iter_fields(statement):
        values = value if isinstance(value, list) else [value]
        if name == "decorator_list" or any(isinstance(v, ast.stmt) for v in values):
            continue
        for v in values:
            outer = [c for c in ast.iter_child_nodes(v) if not isinstance(c, ast.stmt)] if hasattr(v, "body") else [v]
            parts += [f"{name}={ast.dump(c) if isinstance(c, ast.AST) else c!r}" for c in outer]
    return " ".join(parts)


def _definitions(tree: ast.AST, scope: str = "") -> Counter[str]:
    found: Counter[str] = Counter()
    for body in bodies(tree):
        for statement in body:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                name = f"{scope}.{statement.name}"
                found[name] += 1
                found += _definitions(statement, name)
            else:
                found += _definitions(statement, scope)
    return found
