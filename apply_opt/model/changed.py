"""Which statements a change touches, so that it can be told whether they ran.

A line is not enough: a changed line may be a comment, or the middle of a statement whose code belongs to its first line.
So a changed line stands for the smallest statement that it is part of (of one with a body, its header), and that ran if any
of its lines did. What has no code (comments, docstrings, declarations) counts for nothing. Lines with code are those of
:meth:`codeobject.co_lines` (https://peps.python.org/pep-0626/).
"""

from __future__ import annotations

import ast
import tokenize
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from io import BytesIO
from types import CodeType
from typing import NamedTuple, Optional, Union

from apply_opt.model.merge import opcodes, split

EMPTY = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
Node = Union[ast.stmt, ast.ExceptHandler]


class Statement(NamedTuple):
    """The lines of one statement that have code, and whether it is in a function: else it runs when its module is imported."""

    lines: tuple[int, ...]
    is_in_function: bool

    def count(self, ran: Mapping[int, int]) -> int:
        """How often it ran, given how often each line did."""
        return max((ran.get(line, 0) for line in self.lines), default=0)


class Share(NamedTuple):
    """What one optimization changes: the statements that it takes away, and those that it brings."""

    name: str
    before: Sequence[Statement]
    after: Sequence[Statement]

    def telling(self) -> tuple[int, Sequence[Statement]]:
        """The side (0 before, 1 after) and the statements of which one at least has to run, to say that it was exercised.

        New statements, if there are any; of these, those in functions: others run whenever the file is imported.
        """
        side, all_of_them = (1, self.after) if self.after else (0, self.before)
        return side, [s for s in all_of_them if s.is_in_function] or all_of_them


def share(name: str, old: bytes, new: bytes, before: bytes, after: bytes) -> Share:
    """The share of an optimization that makes ``new`` of ``old``, in a change that makes ``after`` of ``before``."""
    gone, came = changed_lines(old, new)
    return Share(name, statements(before, carried(gone, old, before)), statements(after, carried(came, new, after)))


def changed_lines(old: bytes, new: bytes) -> tuple[list[int], list[int]]:
    """The lines (from 1) of each that the other does not have."""
    codes = [code for code in opcodes(split(old), split(new)) if code[0] != "equal"]
    gone = [line + 1 for _, a0, a1, _, _ in codes for line in range(a0, a1)]
    return gone, [line + 1 for _, _, _, b0, b1 in codes for line in range(b0, b1)]


def bodies(data: bytes, names: Collection[str]) -> dict[str, list[Statement]]:
    """The statements in the functions of these names (``Class.method``, ``function``); none for one that is not there."""
    found: dict[str, list[Statement]] = {}
    for name, node in _functions(ast.parse(data), "") if names else ():
        if name in names:
            lines = range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1)
            found[name] = statements(data, lines)
    return {name: found.get(name, []) for name in names}


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Union[ast.FunctionDef, ast.AsyncFunctionDef]]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if not isinstance(child, ast.ClassDef):
                yield prefix + child.name, child
            yield from _functions(child, f"{prefix}{child.name}.")
        else:
            yield from _functions(child, prefix)


def carried(lines: Collection[int], old: bytes, new: bytes) -> list[int]:
    """Where lines of ``old`` stand in ``new``; those that are not there any more are left out."""
    place: dict[int, int] = {}
    for tag, a0, a1, b0, _ in opcodes(split(old), split(new)):
        if tag == "equal":
            place |= {line + 1: line + 1 + b0 - a0 for line in range(a0, a1)}
    return [place[line] for line in lines if line in place]


def statements(data: bytes, lines: Collection[int]) -> list[Statement]:
    """The statements with code that ``lines`` of ``data`` are part of, each once, in order."""
    if not lines:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checkout's author's business
        code = compile(data, "<checkout>", "exec", dont_inherit=True, optimize=0)
        coded, written = _lines_with_code(code), _lines_with_tokens(data)
        spans = list(_spans(ast.parse(data), False))
    found: dict[tuple[int, int], Statement] = {}
    for line in sorted(set(lines) & written):
        span = _smallest(spans, line)
        if span is None:
            continue
        first, last, is_in_function = span
        own = tuple(number for number in range(first, last + 1) if number in coded)
        if own:
            found[first, last] = Statement(own, is_in_function)
    return list(found.values())


Span = tuple[int, int, bool]


def _smallest(spans: Sequence[Span], line: int) -> Optional[Span]:
    around = [span for span in spans if span[0] <= line <= span[1]]
    return min(around, key=lambda span: span[1] - span[0], default=None)


def _spans(node: ast.AST, is_in_function: bool) -> Iterator[Span]:
    """First and last line of every statement below ``node``; of one with a body, of its header."""
    for child in ast.iter_child_nodes(node):
        inside = is_in_function
        if isinstance(child, (ast.stmt, ast.ExceptHandler)) and not _is_text(child):
            first, last = _header(child)
            yield first, last, is_in_function
            inside = is_in_function or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        yield from _spans(child, inside)


def _header(node: Node) -> tuple[int, int]:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)])
    body = getattr(node, "body", None) or getattr(node, "cases", None)
    if not body:
        return first, node.end_lineno or node.lineno
    start = body[0].pattern if isinstance(body[0], ast.match_case) else body[0]
    inner = min([start.lineno, *(d.lineno for d in getattr(start, "decorator_list", []))])
    return first, max(first, inner - 1) if inner > node.lineno else node.lineno


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _lines_with_code(code: CodeType) -> set[int]:
    found = {line for _, _, line in code.co_lines() if line}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _lines_with_code(constant)
    return found


def _lines_with_tokens(data: bytes) -> set[int]:
    found: set[int] = set()
    for token in tokenize.tokenize(BytesIO(data).readline):
        if token.type not in EMPTY and token.type != tokenize.ENCODING:
            found |= set(range(token.start[0], token.end[0] + 1))
    return found
