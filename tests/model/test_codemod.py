"""The rules for codemods: a result that breaks one is not written, whatever the codemod says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pytest

from apply_opt.errors import Ambiguous, InvalidResult, NoSite, Refused
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site, rewrite_file, survey
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

FILE = b'''"""A module."""

import os


class C:
    def f(self):
        x = 1
        return x

    def g(self):
        return 2


def far():
    pass
'''


class Fake(NamedTuple):
    """A codemod that finds ``x = 1`` (done: ``x = 2``) and makes ``edits``."""

    edits: Callable[[Source], list[Edit]]
    sites: Sequence[str] = ("x",)

    def find(self, source: Source, parameters: Mapping[str, Value]) -> list[Site]:
        if "x = 1" not in source.text and "x = 2" not in source.text:
            raise NoSite("no x")
        return [Site(name, 8, OURS if "x = 2" in source.text else TODO) for name in self.sites]

    def edit(self, source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
        return self.edits(source)


def good(source: Source) -> list[Edit]:
    return [Edit(8, 8, "        x = 2\n")]


def run(edits: Callable[[Source], list[Edit]], data: bytes = FILE, declared: Sequence[str] = ("x",)) -> bytes | None:
    return rewrite_file(Fake(edits), data, "x.py", declared, {}).data


def test_a_good_edit() -> None:
    rewrite = rewrite_file(Fake(good), FILE, "x.py", ["x"], {})
    assert rewrite.data == FILE.replace(b"x = 1", b"x = 2")
    assert rewrite.state == TODO
    again = rewrite_file(Fake(good), rewrite.data, "x.py", ["x"], {})
    assert (again.data, again.state) == (None, OURS)


def plus(*edits: Edit) -> Callable[[Source], list[Edit]]:
    """The good edit and others."""
    return lambda source: [*edits, *good(source)]


GOOD = {
    "something above the class": plus(Edit(6, 5, "def helper():\n    pass\n\n\n")),
    "two things at one place": plus(Edit(6, 5, "a = 1\n"), Edit(6, 5, "b = 1\n")),
    "a decorator": plus(Edit(11, 10, "    @ours\n")),
    "a method at the end": plus(Edit(13, 12, "\n    def h(self):\n        pass\n")),
    "the class's own line": plus(Edit(6, 6, "class D:\n")),
    "something at the end": plus(Edit(13, 12, "\n\ndef helper():\n    pass\n")),
    "something at the start": plus(Edit(1, 0, "# ours\n")),
    "a line taken out": plus(Edit(3, 3, "")),
    "the rest of the function": plus(Edit(9, 9, "        return x + 1\n")),
}


@pytest.mark.parametrize("edits", GOOD.values(), ids=GOOD.keys())
def test_good_edits(edits: Callable[[Source], list[Edit]]) -> None:
    result = run(edits)
    assert result is not None
    assert b"x = 2" in result


BAD = {
    "not Python": (plus(Edit(3, 3, "import (\n")), "the result is not a Python file: .*not valid Python"),
    "indented otherwise": (lambda s: [Edit(8, 8, "          x = 2\n")], "the result is not a Python file"),
    "joined with the next line": (
        lambda s: [Edit(8, 8, "        x = 2;")],
        "outside the edits changed|not a Python file",
    ),
    "a string that swallows what follows": (
        plus(Edit(3, 3, "'''\n"), Edit(11, 10, "'''\n")),
        "the syntax tree outside the edits changed|not a Python file",
    ),
    "a condition about what follows": (lambda s: [Edit(8, 8, "        x = 2\n        if x:\n    "), *[]], "."),
    "a method taken over by another class": (
        plus(Edit(11, 10, "class D:\n")),
        "the syntax tree outside the edits changed",
    ),
    "a method made a function": (
        plus(Edit(10, 10, "\n    if 0:\n        pass\n\nif 1:\n")),
        "the syntax tree outside the edits",
    ),
    "a function doubled": (plus(Edit(6, 5, "class C:\n    pass\n\n\n")), r"definitions doubled: \['.C'\]"),
    "a method doubled": (
        plus(Edit(11, 10, "    def g(self):\n        return 3\n\n")),
        r"definitions doubled: \['.C.g'\]",
    ),
    "a function that stands further down, out of sight": (
        plus(Edit(1, 0, "def far():\n    pass\n\n\n")),
        r"definitions doubled: \['.far'\]",
    ),
    "its own function twice": (
        plus(Edit(6, 5, "def h():\n    pass\n\n\ndef h():\n    pass\n\n\n")),
        r"doubled: \['.h'\]",
    ),
    "a letter that the encoding lacks": (lambda s: [Edit(8, 8, "        x = 2  # \ud800\n")], "does not fit"),
    "nothing at all": (lambda s: [], "planning again on the result is not a no-op"),
    "something else": (lambda s: [Edit(12, 12, "        return 3\n")], "planning again on the result is not a no-op"),
    "the site itself taken out": (lambda s: [Edit(8, 8, "        y = 1\n")], "no x"),
}


@pytest.mark.parametrize(("edits", "message"), BAD.values(), ids=BAD.keys())
def test_bad_edits(edits: Callable[[Source], list[Edit]], message: str) -> None:
    with pytest.raises(Refused) as raised:
        run(edits)
    assert re.search(message, raised.value.message)
    assert raised.value.exit_code == 3


def test_the_first_statement_taken_out_above_a_comment() -> None:
    """The comment is then between the block's header and its first statement, and belongs to neither."""
    data = FILE.replace(b"        x = 1\n", b"        y = 0\n        # why\n        x = 1\n")
    result = run(lambda source: [Edit(8, 8, ""), Edit(10, 10, "        x = 2\n")], data)
    assert result == data.replace(b"        y = 0\n", b"").replace(b"x = 1", b"x = 2")


def test_edits_that_overlap() -> None:
    data = b"# 1\n# 2\n# 3\n# 4\n" + FILE
    with pytest.raises(InvalidResult, match="bytes outside the edits changed"):
        run(lambda source: [Edit(1, 2, "# a\n"), Edit(2, 3, "# b\n# c\n"), Edit(12, 12, "        x = 2\n")], data)


@pytest.mark.parametrize(("declared", "found"), [(["x"], ["y"]), (["x"], []), (["x"], ["x", "x"]), (["x", "y"], ["x"])])
def test_exactly_the_declared_sites(declared: list[str], found: list[str]) -> None:
    with pytest.raises(InvalidResult, match="declared sites") as raised:
        survey(Fake(good, found), Source(FILE, "x.py"), declared, {})
    assert "please report it" in raised.value.next_step


def test_all_sites_in_one_state() -> None:
    class Half(Fake):
        def find(self, source: Source, parameters: Mapping[str, Value]) -> list[Site]:
            return [Site("a", 3, OURS), Site("b", 8, TODO), Site("c", 9, THEIRS)]

    with pytest.raises(Ambiguous, match=r"x.py is partly applied: a \(line 3\), c \(line 9\) is there, b is not"):
        survey(Half(good), Source(FILE, "x.py"), ["a", "b", "c"], {})


def test_what_the_author_has_done_is_left_alone() -> None:
    class Done(Fake):
        def find(self, source: Source, parameters: Mapping[str, Value]) -> list[Site]:
            return [Site("x", 8, THEIRS, "x = one")]

    rewrite = rewrite_file(Done(good), FILE, "x.py", ["x"], {})
    assert (rewrite.data, rewrite.state) == (None, THEIRS)
