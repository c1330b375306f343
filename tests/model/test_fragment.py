"""A few lines by way of LibCST: what it does not touch keeps every byte, and what it cannot read is refused."""

from __future__ import annotations

import ast

import libcst as cst
import pytest

from apply_opt.errors import Refused
from apply_opt.model.fragment import replace, rewrite
from apply_opt.model.source import Edit, Source


class Rename(cst.CSTTransformer):
    """``old`` becomes ``new``."""

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.Name:
        return updated_node.with_changes(value="new") if updated_node.value == "old" else updated_node


def statement(source: Source, line: int) -> ast.stmt:
    """The innermost statement that starts on ``line``."""
    return [n for n in ast.walk(source.tree) if isinstance(n, ast.stmt) and n.lineno == line][-1]


KEPT = {
    "at the left": (b"a = 1\nold = 2  # old\nb = 3\n", 2),
    "indented": (b"class C:\n    def f(self):\n        old( 'x',y )\n        return 1\n", 3),
    "with tabs": (b"class C:\n\tdef f(self):\n\t\told = 1\n", 3),
    "crlf": (b"if 1:\r\n    old = 1\r\n    b = 2\r\n", 2),
    "mixed endings": (b"if 1:\n    old = 1\r\n    b = 2\n", 2),
    "no final newline": (b"if 1:\n    old = 1", 2),
    "form feed above": (b"a = 1\n\x0c\nold = 1\n", 3),
    "form feed and indent": (b"if 1:\n\x0c    old = 1\n", 2),
    "several lines": (b"if 1:\n    f(a,\n  old,\n    )\n", 2),
    "letters of two columns": ("if 1:\n    f('分', old)\n".encode(), 2),
    "decorated": (b"class C:\n    @old\n    def f(self):\n        pass\n", 3),
    "latin-1": ("# coding: latin-1\nold = 'é'\n".encode("latin-1"), 2),
}


@pytest.mark.parametrize(("data", "line"), KEPT.values(), ids=KEPT.keys())
def test_only_what_the_transformer_changes_changes(data: bytes, line: int) -> None:
    source = Source(data)
    edit = rewrite(source, statement(source, line), Rename())
    code, hash_, comment = data.partition(b"#") if line == 2 and data.startswith(b"a = 1") else (data, b"", b"")
    assert source.splice([edit]) == code.replace(b"old", b"new") + hash_ + comment
    assert (edit.first, edit.last) == (edit.first, edit.first), "an edit is as short as it can be"


def test_an_edit_is_as_short_as_it_can_be() -> None:
    source = Source(b"def f():\n    a\n    b\n    old\n    c\n")
    assert rewrite(source, source.tree.body[0], Rename()) == Edit(4, 4, "    new\n")


def test_lines_that_are_only_put_in() -> None:
    class Decorate(cst.CSTTransformer):
        def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
            return updated_node.with_changes(decorators=[cst.Decorator(cst.Name("ours"))])

    source = Source(b"class C:\n\tdef f(self):\n\t\tpass\n")
    edit = rewrite(source, statement(source, 2), Decorate())
    assert edit == Edit(2, 1, "\t@ours\n")
    assert source.splice([edit]) == b"class C:\n\t@ours\n\tdef f(self):\n\t\tpass\n"


def test_nothing_to_rewrite_is_an_error() -> None:
    source = Source(b"a = 1\n", "x.py")
    with pytest.raises(Refused, match=r"x.py:1: nothing there could be rewritten"):
        rewrite(source, source.tree.body[0], Rename())


@pytest.mark.parametrize("data", [b"if 1:\r    old = 1\r", b"a = 1\n\x0cold = 1\n"])
def test_lines_that_are_not_given_back(data: bytes) -> None:
    source = Source(data, "x.py")
    with pytest.raises(Refused, match=r"x.py:2: LibCST does not give these lines back unchanged"):
        rewrite(source, statement(source, 2), Rename())


def test_lines_that_cannot_be_read_alone() -> None:
    source = Source(b"if 1: pass\nelse: old = 1\n", "x.py")
    with pytest.raises(Refused, match=r"x.py:2: LibCST cannot read these lines"):
        rewrite(source, statement(source, 2), Rename())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"    x = (a, a, a)  # a", b"    x = (a, B(1), a)  # a"),
        ("    x = ('分', a, a)  # a".encode(), "    x = ('分', a, B(1))  # a".encode()),
        (b"    x = [a, ( a ), a]", b"    x = [a, ( B(1) ), a]"),
        (b"    x = {\n  a:\n a, a: 1}", b"    x = {\n  a:\n B(1), a: 1}"),
        (b"\tx = a, a", b"\tx = a, B(1)"),
    ],
)
def test_one_expression_of_several_that_read_alike(line: bytes, expected: bytes) -> None:
    source = Source(b"if 1:\n" + line + b"\n")
    names = [n for n in ast.walk(source.tree) if isinstance(n, ast.Name) and n.id == "a"]
    second = sorted(names, key=lambda n: (n.lineno, n.col_offset))[1]
    edit = replace(source, statement(source, 2), {second: "B(1)"})
    assert source.splice([edit]) == b"if 1:\n" + expected + b"\n"


def test_an_expression_that_is_not_there() -> None:
    source, other = Source(b"x = a\n", "x.py"), Source(b"x = 1; a\n")
    name = next(n for n in ast.walk(source.tree) if isinstance(n, ast.Name) and n.id == "a")
    stray = next(n for n in ast.walk(other.tree) if isinstance(n, ast.Name) and n.id == "a")
    with pytest.raises(Refused, match=r"x.py:1: LibCST reads this line differently"):
        replace(source, source.tree.body[0], {name: "b", stray: "c"})


@pytest.mark.parametrize("unit", ["    ", "\t"])
def test_code_of_several_lines_stands_as_it_is_written(unit: str) -> None:
    source = Source(f"class C:\n{unit}def f(self):\n{unit * 2}x = 1  # one\n".encode())
    assign = statement(source, 3)
    assert isinstance(assign, ast.Assign)
    code = f"call(\n{unit * 3}1,\n{unit * 2})"
    assert replace(source, assign, {assign.value: code}).text == f"{unit * 2}x = {code}  # one\n"


def test_a_tuple_keeps_its_parentheses() -> None:
    source = Source(b"x = [a, (b)]\n")
    assign = source.tree.body[0]
    assert isinstance(assign, ast.Assign) and isinstance(assign.value, ast.List)
    first, second = assign.value.elts
    assert replace(source, assign, {first: "(a, 1)", second: "(b, 2)"}).text == "x = [(a, 1), ((b, 2))]\n"
    assert replace(source, assign, {assign.targets[0]: "x, y"}).text == "x, y = [a, (b)]\n"
