"""Taking one change out of a stack: the order does not matter, and the user's edits survive."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apply_opt.model.merge import MergeConflict
from apply_opt.model.stack import Link, take_out

COUNT = 8
Inserts = dict[int, list[bytes]]
"""Lines to put in front of the line with that number."""


def sheet(*layers: Inserts) -> bytes:
    """``COUNT`` lines that are all different, with the layers' lines put in."""
    result: list[bytes] = []
    for n in range(COUNT + 1):
        for layer in layers:
            result += layer.get(n, [])
        result += [b"line %d\n" % n] * (n < COUNT)
    return b"".join(result)


def layer(who: str) -> st.SearchStrategy[Inserts]:
    sizes = st.dictionaries(st.integers(0, COUNT), st.integers(1, 3), min_size=1, max_size=3)
    return sizes.map(lambda found: {n: [f"{who} {n}.{i}\n".encode() for i in range(size)] for n, size in found.items()})


LAYERS = st.tuples(layer("a"), layer("b"), layer("c"))


def chain_of(layers: tuple[Inserts, ...]) -> list[Link]:
    """One change for each layer, each made on top of those before it."""
    return [(sheet(*layers[:n]), sheet(*layers[: n + 1])) for n in range(len(layers))]


@settings(max_examples=60)
@given(LAYERS, st.one_of(st.just({}), layer("user")))
def test_any_order_leaves_what_the_others_and_the_user_made(layers: tuple[Inserts, ...], user: Inserts) -> None:
    for order in itertools.permutations(range(3)):
        chain, left, now = chain_of(layers), [0, 1, 2], sheet(*layers, user)
        for which in order:
            chain, now = take_out(chain, left.index(which), now)
            left.remove(which)
            assert now == sheet(*(layers[n] for n in left), user)
            assert chain == chain_of(tuple(layers[n] for n in left))


@given(LAYERS, layer("user"), st.integers(0, 2))
def test_edits_made_in_between_are_not_ours_to_take(layers: tuple[Inserts, ...], user: Inserts, which: int) -> None:
    """The user edited the file after the first change, and before the others were made."""
    first, second, third = layers
    chain = [
        (sheet(), sheet(first)),
        (sheet(first, user), sheet(first, user, second)),
        (sheet(first, user, second), sheet(first, user, second, third)),
    ]
    _, now = take_out(chain, which, chain[-1][1])
    kept = [found for n, found in enumerate((first, second, third)) if n != which]
    expected = sheet(first, user, second, third)
    for line in (line for found in ([first, second, third][which],) for lines in found.values() for line in lines):
        expected = expected.replace(line, b"", 1)
    assert now == expected
    assert all(line in now for found in (*kept, user) for lines in found.values() for line in lines)


def test_what_a_later_change_built_on_is_not_taken_out_from_under_it() -> None:
    chain = [(b"a\nz\n", b"a\nours\nz\n"), (b"a\nours\nz\n", b"a\nours, and theirs\nz\n")]
    with pytest.raises(MergeConflict):
        take_out(chain, 0, chain[1][1])
    assert take_out(chain, 1, chain[1][1]) == ([chain[0]], chain[0][1])


def test_a_formatter_between_two_changes() -> None:
    """Where the lines are not there any more, the statements are."""
    before = b"class C:\n    def f(self):\n        x = 'a'\n        return x\n"
    after = before.replace(b"        return", b"        y = 'b'\n        return")
    formatted = after.replace(b"        ", b"\t\t").replace(b"    ", b"\t").replace(b"'", b'"')
    chain = [(before, after), (formatted, formatted + b"\nz = 1\n")]
    rest, now = take_out(chain, 0, formatted + b"\nz = 1\n")
    assert now == b'class C:\n\tdef f(self):\n\t\tx = "a"\n\t\treturn x\n\nz = 1\n'
    assert rest == [(now.replace(b"\nz = 1\n", b""), now)]
