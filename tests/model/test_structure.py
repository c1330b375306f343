"""Undoing a change by its statements, where its lines are no longer there letter by letter."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from apply_opt.model.structure import undo

BEFORE = b'''import os


class Reader:
    """Reads."""

    @staticmethod
    def size(path, limit=10):
        return os.stat(path).st_size

    def read(self, path):
        """Read.

        It all.
        """
        options = {}
        options["threads"] = 1
        return open(path, **options)
'''
AFTER = b'''import os


def _threads(n):
    """How many.

    At most.
    """
    # ours
    return min(n, os.cpu_count())


class Reader:
    """Reads."""

    @staticmethod
    def size(path, limit=20):
        return os.stat(path).st_size

    @_ours
    def read(self, path):
        """Read.

        It all.
        """
        options = {}
        options["threads"] = _threads(1)
        return open(path, **options)
'''


def tabs(data: bytes) -> bytes:
    return re.sub(rb"(?m)^(?:    )+", lambda found: b"\t" * (len(found[0]) // 4), data)


LAYOUTS: dict[str, Callable[[bytes], bytes]] = {
    "tabs": tabs,
    "two spaces": lambda data: re.sub(rb"(?m)^ +", lambda found: b" " * (len(found[0]) // 2), data),
    "crlf": lambda data: data.replace(b"\n", b"\r\n"),
    "quotes": lambda data: data.replace(b'["threads"]', b"['threads']"),
    "spaces": lambda data: data.replace(b"(path", b"( path").replace(b"min(n", b"min( n"),
    "no final newline": lambda data: data.rstrip(b"\n"),
    "blank lines": lambda data: data.replace(b"\n\n\n", b"\n\n\n\n\n"),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_takes_out_what_was_put_in_and_puts_back_what_was_replaced(layout: Callable[[bytes], bytes]) -> None:
    result = undo(AFTER, layout(AFTER), BEFORE)
    assert result is not None
    assert re.sub(rb"\s+", b"", result) == re.sub(rb"\s+", b"", layout(BEFORE)).replace(b"['", b'["').replace(
        b"']", b'"]'
    )
    compile(result, "x.py", "exec")


def test_gives_the_very_lines_where_only_the_indentation_differs() -> None:
    assert undo(AFTER, tabs(AFTER), BEFORE) == tabs(BEFORE)


def test_the_users_statements_stay_where_they_are() -> None:
    def user(data: bytes) -> bytes:
        return (
            tabs(data)
            .replace(b'\t\toptions["thr', b'\t\toptions["x"] = 2\n\t\toptions["thr')
            .replace(b"import os\n", b"import os  # mine\n")
        )

    assert undo(AFTER, user(AFTER), BEFORE) == user(BEFORE)


UNCERTAIN: dict[str, Callable[[bytes], bytes]] = {
    "a statement of ours edited": lambda data: data.replace(b"_threads(1)", b"_threads(2)"),
    "our function edited": lambda data: data.replace(b"min(n", b"max(n"),
    "our function's docstring edited": lambda data: data.replace(b"How many", b"How few"),
    "our function gone": lambda data: data[: data.index(b"def _th")] + data[data.index(b"class") :],
    "our decorator gone": lambda data: data.replace(b"    @_ours\n", b""),
    "our decorator twice": lambda data: data.replace(b"    @_ours\n", b"    @_ours\n    @_ours\n"),
    "the method gone": lambda data: data[: data.index(b"    @_ours")],
    "the method twice": lambda data: data + data[data.index(b"    @_ours") :],
    "the class renamed": lambda data: data.replace(b"class Reader", b"class Writer"),
    "the head edited": lambda data: data.replace(b"limit=20", b"limit=30"),
    "our statement twice": lambda data: data.replace(
        b"        return open", b'        options["threads"] = _threads(1)\n        return open'
    ),
    "another statement on our line": lambda data: data.replace(b'options["thr', b'users = 1; options["thr'),
    "another statement behind ours": lambda data: data.replace(b"_threads(1)", b"_threads(1); users = 1"),
    "a comment of the user's between our lines": lambda data: data.replace(
        b"    # ours\n", b"    # ours\n    # theirs\n"
    ),
    "a comment of the user's on our line": lambda data: data.replace(b"_threads(1)", b"_threads(1)  # theirs"),
    "not Python any more": lambda data: data + b"(",
    "not to be decoded": lambda data: data + b"# \xff\n",
    "far too deep": lambda data: data + b"x = " + b"+".join([b"1"] * 2000) + b"\n",
}


@pytest.mark.parametrize("change", UNCERTAIN.values(), ids=UNCERTAIN.keys())
def test_leaves_it_where_it_is_not_certain(change: Callable[[bytes], bytes]) -> None:
    assert change(AFTER) != AFTER
    assert undo(AFTER, change(AFTER), BEFORE) is None


def test_nothing_to_undo_is_not_undone() -> None:
    assert undo(BEFORE, AFTER, BEFORE) is None


@pytest.mark.parametrize(
    "ours",
    [
        b"a = 1\nuser = 1\nc = 3\n",
        b"c = 3\na = 1\n",
        b"a = 1\nc = 3\na = 1\n",
        b"a = 1; c = 3\n",
        b"a = 1\n",
        b"c = 3\n",
    ],
)
def test_a_statement_that_was_only_taken_out_has_no_place_to_go(ours: bytes) -> None:
    assert undo(b"a = 1\nc = 3\n", ours, b"a = 1\nb = 2\nc = 3\n") is None


def test_a_statement_that_was_only_taken_out_goes_back_between_its_neighbours() -> None:
    before = b"class C:\n    a = 1\n    b = [\n        2,\n    ]\n    c = 3\n"
    after = b"class C:\n    a = 1\n    c = 3\n"
    ours = b"class C:\n\ta  = 1\n\n\t# the user's\n\tc = 3\n"
    assert undo(after, ours, before) == b"class C:\n\ta  = 1\n\tb = [\n\t    2,\n\t]\n\n\t# the user's\n\tc = 3\n"


COMMENTED = b"class C:\n    a = 1\n    # no b: see above\n    c = 3\n"
WITH_B = COMMENTED.replace(b"# no b: see above", b"b = 2")


@pytest.mark.parametrize("layout", [tabs, lambda data: data.replace(b" = ", b"  =  ")], ids=["tabs", "spaces"])
def test_a_comment_in_the_place_of_a_statement_goes_with_the_change(layout: Callable[[bytes], bytes]) -> None:
    assert undo(COMMENTED, layout(COMMENTED), WITH_B) == layout(WITH_B).replace(b"b  =  2", b"b = 2")


def test_a_comment_above_a_statement_goes_with_it() -> None:
    after = b"a = 1\n# why\nb = 2\nc = 3\n"
    assert undo(after, after.replace(b" =", b"  ="), b"a = 1\nc = 3\n") == b"a  = 1\nc  = 3\n"


def test_a_comment_that_the_user_took_out_is_not_missed() -> None:
    ours = b"class C:\n    a = 1\n\n    c = 3\n"
    assert undo(COMMENTED, ours, WITH_B) == b"class C:\n    a = 1\n    b = 2\n\n    c = 3\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"    a", b"    # no b: see above\n    a"),
        lambda data: data.replace(b"    # no b: see above\n", b"").replace(b"a = 1", b"a = 1  # no b: see above"),
    ],
    ids=["twice", "on another line"],
)
def test_a_comment_that_may_be_the_users_stays(change: Callable[[bytes], bytes]) -> None:
    assert undo(COMMENTED, tabs(change(COMMENTED)), WITH_B) is None


def test_the_users_comment_like_one_of_ours_stays() -> None:
    ours = tabs(AFTER).replace(b"\t\toptions = {}", b"\t\t# ours\n\t\toptions = {}")
    result = undo(AFTER, ours, BEFORE)
    assert result == tabs(BEFORE).replace(b"\t\toptions = {}", b"\t\t# ours\n\t\toptions = {}")


def test_lines_that_hang_to_the_left_are_not_indented_anew() -> None:
    before = b"class C:\n    x = f('''a\nb''')\n"
    after = b"class C:\n    x = 1\n"
    assert undo(after, b"class C:\n\tx = 1\n", before) is None
    assert undo(after, b"class  C:\n    x = 1\n", before) is None


def test_a_string_over_several_lines_keeps_what_it_says() -> None:
    before = b"class C:\n    x = f('''a\n    b''')\n"
    after = b"class C:\n    x = 1\n"
    assert undo(after, b"class C:\n\tx = 1\n", before) is None
    assert undo(after, b"class  C:\n    x = 1\n", before) == b"class  C:\n    x = f('''a\n    b''')\n"


def test_a_letter_that_the_users_encoding_does_not_have() -> None:
    before, after = "x = '分'\ny = 1\n".encode(), b"x = 2\ny = 1\n"
    assert undo(after, b"# coding: latin-1\nx = 2\ny = '\xe9'\n", before) is None
