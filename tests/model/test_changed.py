"""Which statements a change touches."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apply_opt.model.changed import Statement, carried, changed_lines, share, statements

PROGRAM = textwrap.dedent(
    '''\
    """A module."""
    import os

    LIMITS = (
        1,  # the first
        2,
    )


    @staticmethod
    def first(a, b=3,
              c=4):
        """A function.

        With a second line.
        """
        # a comment
        global LIMITS
        value: int
        if a:
            b = call(
                a,
                # within
                key=1,
            )
        elif c: b = 2
        else:

            b = 3
        try:
            pass
        except (
            ValueError,
        ):
            raise
        finally:
            del c
        with open(a) as f, \\
             open(b) as g:
            pass
        match b:
            case 1:
                b = 4
            case _: b = 5
        return """a
    text"""


    class Second:
        """A class."""
        size = 3
        def method(self):
            return lambda x: (
                x)
    '''
).encode()
LINES = PROGRAM.decode().split("\n")


def touched(*fragments: str) -> list[Statement]:
    """The statements that the first lines with these fragments are part of."""
    return statements(PROGRAM, [next(n for n, text in enumerate(LINES, 1) if part in text) for part in fragments])


@pytest.mark.parametrize(
    "fragment",
    [
        "A module.",
        "A class.",
        "A function.",
        "With a second line",
        "a comment",
        "global",
        "value: int",
        "else:",
        "finally:",
    ],
)
def test_has_no_code(fragment: str) -> None:
    assert touched(fragment) == []


def test_blank_lines_have_no_code() -> None:
    assert statements(PROGRAM, [n for n, text in enumerate(LINES, 1) if not text.strip()]) == []


def test_comment_within_a_statement_has_no_code() -> None:
    assert touched("# within") == []


@pytest.mark.parametrize(
    ("fragment", "first", "is_in_function"),
    [
        ("import os", "import os", False),
        ("    2,", "LIMITS = (", False),
        ("@staticmethod", "@staticmethod", False),
        ("c=4", "@staticmethod", False),
        ("if a:", "if a:", True),
        ("key=1", "b = call(", True),
        ("elif c", "elif c", True),
        ("b = 3", "b = 3", True),
        ("    try:", "    try:", True),
        ("ValueError", "except (", True),
        ("raise", "raise", True),
        ("del c", "del c", True),
        ("open(b)", "with open(a)", True),
        ("match b", "match b", True),
        ("b = 4", "b = 4", True),
        ("b = 5", "b = 5", True),
        ('text"""', 'return """a', True),
        ("class Second", "class Second", False),
        ("size = 3", "size = 3", False),
        ("def method", "def method", False),
        ("x)", "return lambda", True),
    ],
)
def test_line_stands_for_its_statement(fragment: str, first: str, is_in_function: bool) -> None:
    (found,) = touched(fragment)
    assert found.is_in_function == is_in_function
    start = next(n for n, text in enumerate(LINES, 1) if first in text)
    assert min(found.lines) >= start
    assert found == touched(first)[0]


def test_each_statement_once() -> None:
    assert len(touched("b = call(", "key=1", "            a,")) == 1


def test_how_often_it_ran() -> None:
    assert Statement((3, 4), True).count({3: 2, 4: 7, 5: 9}) == 7
    assert Statement((3, 4), True).count({5: 9}) == 0


def test_changed_lines() -> None:
    assert changed_lines(b"a\nb\nc\n", b"a\nx\ny\nc\nd\n") == ([2], [2, 3, 5])
    assert changed_lines(b"a\nb\n", b"a\n") == ([2], [])


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abcd"), max_size=8))
def test_carried_lines_are_the_same_lines(old: list[str], new: list[str]) -> None:
    texts = ["".join(f"{line}\n" for line in lines).encode() for lines in (old, new)]
    for number in range(1, len(old) + 1):
        for place in carried([number], *texts):
            assert new[place - 1] == old[number - 1]


class TestShare:
    """What each of several optimizations brings."""

    BEFORE = b"import os\n\ndef f():\n    a = 1\n    b = 2\n    return a + b\n"
    MIDDLE = BEFORE.replace(b"a = 1", b"a = 10")
    AFTER = MIDDLE.replace(b"import os\n", b"import os\nimport sys\n").replace(b"b = 2", b"b = 20")

    def test_is_its_own(self) -> None:
        first = share("first", self.BEFORE, self.MIDDLE, self.BEFORE, self.AFTER)
        second = share("second", self.MIDDLE, self.AFTER, self.BEFORE, self.AFTER)
        assert first.after == [Statement((5,), True)]
        assert first.before == [Statement((4,), True)]
        assert second.after == [Statement((2,), False), Statement((6,), True)]
        assert second.before == [Statement((5,), True)]

    def test_what_tells_is_in_functions_where_there_are_any(self) -> None:
        second = share("second", self.MIDDLE, self.AFTER, self.BEFORE, self.AFTER)
        assert second.telling() == (1, [Statement((6,), True)])
        imports = share("imports", b"x = 1\n", b"x = 1\ny = 2\n", b"x = 1\n", b"x = 1\ny = 2\n")
        assert imports.telling() == (1, [Statement((2,), False)])

    def test_what_is_only_taken_away_tells_before(self) -> None:
        after = self.BEFORE.replace(b"    a = 1\n", b"")
        assert share("less", self.BEFORE, after, self.BEFORE, after).telling() == (0, [Statement((4,), True)])

    def test_nothing_tells_where_there_are_only_comments(self) -> None:
        after = self.BEFORE.replace(b"import os\n", b"import os  # for nothing\n# at all\n")
        changed = share("words", self.BEFORE, after, self.BEFORE, after)
        assert [s.lines for s in changed.after] == [(1,)], "the line has code, as it had before"
        after = self.BEFORE + b"# the end\n"
        assert share("words", self.BEFORE, after, self.BEFORE, after).telling()[1] == []
