"""Bytes to lines and back: whatever a file looks like, only what an edit names changes."""

from __future__ import annotations

import ast
import codecs
import io
import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apply_opt.errors import Refused
from apply_opt.model.source import Edit, Source, bodies, first_line, own_nodes, same, split_lines

FILES = {
    "plain": b"a = 1\nb = 2\n",
    "empty": b"",
    "no final newline": b"a = 1\nb = 2",
    "crlf": b"a = 1\r\nb = 2\r\n",
    "cr only": b"a = 1\rb = 2\r",
    "mixed endings": b"a = 1\r\nb = 2\nc = 3\rd = 4",
    "bom": codecs.BOM_UTF8 + b"a = 1\nb = '\xc3\xa9'\n",
    "bom and cookie": codecs.BOM_UTF8 + b"# coding: utf-8\na = 1\n",
    "tabs": b"if 1:\n\ta = 1\n\tb = 2\n",
    "form feed": b"a = 1\n\x0c\nb = 2 \x0c\n\x0cc = 3\n",
    "line separators in strings": "a = '\x0b \x1c \x85 \u2028'\nb = 2\n".encode(),
    "utf-8 cookie": "# -*- coding: utf-8 -*-\na = 'é'\n".encode(),
    "latin-1 cookie": "# -*- coding: latin-1 -*-\na = 'é'\n".encode("latin-1"),
    "gbk cookie": "# coding=gbk\na = '分词器'\n".encode("gbk"),
    "cookie on the second line": "#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\na = '€'\n".encode("cp1252"),
    "escape that the interpreter warns of": b"a = '\\d'\nb = 1 is 1\n",
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
def test_gives_every_byte_back(data: bytes) -> None:
    source = Source(data)
    assert source.splice([]) == data
    assert "".join(source.lines) == source.text
    assert ast.dump(source.tree) == ast.dump(Source(source.splice([])).tree)


@pytest.mark.parametrize("data", [d for d in FILES.values() if d], ids=[k for k, d in FILES.items() if d])
def test_an_edit_changes_its_lines_and_no_other_byte(data: bytes) -> None:
    source = Source(data)
    count = len(source.lines)
    whole = source.splice([Edit(count, count, source.lines[-1].replace("2", "5"))])
    assert whole.startswith(source.bom + "".join(source.lines[:-1]).encode(source.encoding))
    inserted = source.splice([Edit(1, 0, "new = 1\n")])
    assert inserted == source.bom + b"new = 1\n" + data[len(source.bom) :]


def test_edits_do_not_move_each_other() -> None:
    source = Source(b"a\nb\nc\nd\n")
    assert source.splice([Edit(1, 1, "A\nA\n"), Edit(4, 4, ""), Edit(3, 2, "before c\n")]) == b"A\nA\nb\nbefore c\nc\n"


def test_what_is_inserted_at_one_place_keeps_its_order() -> None:
    assert Source(b"a\n").splice([Edit(1, 0, "1\n"), Edit(1, 0, "2\n")]) == b"1\n2\na\n"


@given(st.text(alphabet="ab\r\n\x0c\u2028\x1c ", max_size=20))
def test_lines_are_split_as_the_interpreter_does(text: str) -> None:
    lines = split_lines(text)
    assert "".join(lines) == text
    assert [re.sub(r"\r\n?", "\n", line) for line in lines] == list(io.StringIO(text, newline=None))


BROKEN = {
    "not utf-8": (b"a = '\xe9'\n", "cannot be decoded"),
    "not in the declared encoding": (b"# coding: ascii\na = '\xe9'\n", "cannot be decoded"),
    "bom against cookie": (codecs.BOM_UTF8 + b"# coding: latin-1\n", "cannot be decoded"),
    "no such encoding": (b"# coding: klingon\n", "cannot be decoded"),
    "not a text encoding": (b"# coding: rot13\n", "cannot be decoded"),
    "an encoding that refuses": (b"# coding: undefined\na = 1\n", "cannot be decoded"),
    "an encoding with its own idea of errors": (b"# coding: idna\na = '..'\n", "cannot be decoded: .*idna"),
    "an encoding that loses something": (b"# coding: utf-7\na = '+AGE-'\n", "does not round-trip"),
    "nul bytes": (b"a = 1\n\x00\n", "not valid Python"),
    "syntax error": (b"a = 1\nb = (\n", ":2 is not valid Python"),
    "too deep": (b"a = " + b"-" * 20_000 + b"1\n", "is nested too deeply"),
    "too many brackets": (b"a = " + b"(" * 400 + b")" * 400 + b"\n", "not valid Python"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_refuses_what_it_could_not_keep(data: bytes, message: str) -> None:
    with pytest.raises(Refused, match=message) as raised:
        Source(data, "x.py")
    assert "x.py" in raised.value.message
    assert raised.value.next_step


def test_refuses_an_edit_that_the_encoding_has_no_letters_for() -> None:
    source = Source("# coding: latin-1\na = 'é'\n".encode("latin-1"), "x.py")
    with pytest.raises(Refused, match="does not fit the file's encoding"):
        source.splice([Edit(2, 2, "a = '分'\n")])


@given(st.binary(max_size=60))
def test_any_bytes_are_kept_or_refused(data: bytes) -> None:
    try:
        source = Source(data)
    except Refused:
        return
    assert source.splice([]) == data


def test_says_nothing_about_the_style_of_the_users_code() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Source(b"a = '\\d'\nb = 1 is 1\n")
    assert not seen


@pytest.mark.parametrize(
    ("data", "line", "ending"),
    [
        (b"a\r\nb\n", 1, "\r\n"),
        (b"a\r\nb\n", 2, "\n"),
        (b"a\r\nb", 2, "\r\n"),
        (b"a", 1, "\n"),
        (b"", 1, "\n"),
        (b"a\rb\r", 2, "\r"),
    ],
)
def test_a_line_without_an_ending_has_the_files(data: bytes, line: int, ending: str) -> None:
    assert Source(data).newline(line) == ending


@pytest.mark.parametrize(
    ("data", "unit"),
    [
        (b"x = 1\n", "    "),
        (b"if 1:\n\tx = 1\n", "\t"),
        (b"if 1: x = 1\nif 2:\n  x = 1\n", "  "),
        (b"try:\n   x = 1\nexcept E:\n   x = 2\n", "   "),
        (b"match x:\n  case 1:\n    y = 1\nif x:\n  y = 1\n", "  "),
    ],
)
def test_indents_as_the_file_does(data: bytes, unit: str) -> None:
    assert Source(data).indent_unit() == unit


def test_the_first_line_of_a_function_is_its_decorators() -> None:
    (function,) = Source(b"@a\n@b(\n1)\ndef f():\n    pass\n").tree.body
    assert first_line(function) == 1


def test_bodies_are_all_blocks_of_a_statement() -> None:
    tree = ast.parse("try:\n    a\nexcept E:\n    b\nelse:\n    c\nfinally:\n    d\nmatch x:\n    case 1:\n        e\n")
    assert [ast.unparse(block[0]) for node in tree.body for block in bodies(node)] == ["a", "c", "d", "b", "e"]


def test_own_nodes_leave_out_what_inner_functions_hold() -> None:
    tree = ast.parse("def f(x=one):\n    two\n    def g():\n        three\n    lambda: four\n")
    assert {n.id for n in own_nodes(tree.body[0]) if isinstance(n, ast.Name)} == {"one", "two"}


def test_the_same_code_is_the_same_however_it_is_laid_out() -> None:
    one, two = (ast.parse(text, mode="eval").body for text in ("a.b( 'x',)", 'a.b("x")'))
    assert same(one, two)
    assert not same(one, ast.parse("a.c('x')", mode="eval").body)
