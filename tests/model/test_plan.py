"""Planning in memory: several changes on one parse, and each for itself where the sum does not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

import pytest

from apply_opt.errors import InvalidResult, NoSite
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Parameter, Value
from apply_opt.model.plan import (
    ALREADY,
    NOT_NEEDED,
    PLANNED,
    REFUSED,
    Planner,
    check_known,
    is_default,
    known,
    plan_one,
    warnings_of,
)
from apply_opt.model.source import Edit, Source
from apply_opt.model.target import Revision
from apply_opt.model.unit import Optimization, parse_optimization

FILE = b"import os\n\na = 1\nb = 1\n\n\nclass C:\n    c = 1\n"


class Sets:
    """A codemod that turns ``NAME = 1`` into ``NAME = 2`` and puts ``extra`` above the class."""

    def __init__(self, name: str, extra: str = "", to: str = "2") -> None:
        self.name, self.extra, self.to = name, extra, to

    def find(self, source: Source, parameters: Mapping[str, Value]) -> list[Site]:
        for number, line in enumerate(source.lines, 1):
            for value, state in (("1", TODO), ("2", OURS), ("3", THEIRS)):
                if line.strip() == f"{self.name} = {value}":
                    return [Site("site", number, state, "its own" if state == THEIRS else "")]
        raise NoSite(f"{source.name}: no {self.name}", "look closer")

    def edit(self, source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
        line = sites[0].line
        edits = [Edit(line, line, source.lines[line - 1].replace("1", self.to))]
        above = next(number for number, text in enumerate(source.lines, 1) if text.startswith("class"))
        return [*edits, Edit(above, above - 1, self.extra)] if self.extra else edits


def unit(name: str) -> Optimization:
    table = {"title": name, "target": "t", "safety": "exact", "sites": ["site"], "manual": f"\nset {name} = 2\n"}
    return parse_optimization(name, "", "", table)


A, B, C = unit("a"), unit("b"), unit("c")


@pytest.mark.parametrize("careful", [False, True])
def test_each_sees_what_the_one_before_it_made(careful: bool) -> None:
    planner = Planner(FILE, "x.py", careful)
    outcomes = [
        planner.plan(A, Sets("a", "def one(): pass\n"), {}),
        planner.plan(B, Sets("b", "def two(): pass\n"), {}),
        planner.plan(A, Sets("a", "def one(): pass\n"), {}) if careful else planner.plan(C, Sets("c"), {}),
    ]
    planner.finish()
    assert [o.kind for o in outcomes] == [PLANNED, PLANNED, ALREADY if careful else PLANNED]
    assert outcomes[0].before == FILE
    assert outcomes[1].before == outcomes[0].after != FILE
    assert planner.data == FILE.replace(b"a = 1", b"a = 2").replace(b"b = 1", b"b = 2").replace(
        b"c = 1", b"c = 1" if careful else b"c = 2"
    ).replace(b"class", b"def one(): pass\ndef two(): pass\nclass")


def test_edits_of_the_same_lines_are_made_one_after_the_other() -> None:
    """The second looks for its site in what the first made."""

    class Whole(Sets):
        def edit(self, source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
            lines = "".join(source.lines[2:4]).replace(f"{self.name} = 1", f"{self.name} = 2")
            return [Edit(3, 4, lines)]

    planner = Planner(FILE, "x.py")
    outcomes = [planner.plan(unit(name), Whole(name), {}) for name in "ab"]
    planner.finish()
    assert outcomes[1].after == planner.data == FILE.replace(b"a = 1\nb = 1", b"a = 2\nb = 2")


def test_to_look_is_not_to_take() -> None:
    planner = Planner(FILE, "x.py")
    assert planner.plan(A, Sets("a"), {}, take=False).kind == PLANNED
    planner.finish()
    assert planner.data == FILE


def test_the_one_at_fault_is_found_and_the_others_are_kept() -> None:
    """The sum fails; one by one, only the culprit does, and the next does not build on what it would have made."""
    bad = Sets("b", to="5")  # not what it looks for itself
    hasty = Planner(FILE, "x.py")
    for name, codemod in (("a", Sets("a")), ("b", bad), ("c", Sets("c"))):
        assert hasty.plan(unit(name), codemod, {}).kind == PLANNED
    with pytest.raises(NoSite):
        hasty.finish()
    careful = Planner(FILE, "x.py", careful=True)
    outcomes = [
        careful.plan(unit(name), codemod, {}) for name, codemod in (("a", Sets("a")), ("b", bad), ("c", Sets("c")))
    ]
    assert [o.kind for o in outcomes] == [PLANNED, REFUSED, PLANNED]
    assert careful.data == outcomes[2].after == FILE.replace(b"a = 1", b"a = 2").replace(b"c = 1", b"c = 2")


def test_a_sum_that_doubles_something_is_found() -> None:
    planner = Planner(FILE, "x.py")
    for name in "ab":
        assert planner.plan(unit(name), Sets(name, "def helper(): pass\n"), {}).kind == PLANNED
    with pytest.raises(InvalidResult, match="doubled"):
        planner.finish()


def test_a_sum_that_is_at_fault_before_the_end_is_found_too() -> None:
    planner = Planner(FILE, "x.py")
    planner.plan(A, Sets("a", to="5"), {})
    assert planner.plan(A, Sets("a"), {}).kind == REFUSED  # it would have to be made on top, and the sum so far is bad
    with pytest.raises(NoSite):
        planner.finish()


def test_refusals_say_what_to_do_by_hand() -> None:
    outcome = plan_one(unit("z"), Sets("z"), FILE, "x.py", {})
    assert (outcome.kind, outcome.message, outcome.next_step) == (
        REFUSED,
        "x.py: no z",
        "look closer\nby hand:\nset z = 2",
    )
    assert isinstance(outcome.error, NoSite)
    assert outcome.name == "z"


def test_a_file_that_is_none() -> None:
    outcome = plan_one(A, Sets("a"), b"a = (\n", "x.py", {})
    assert outcome.kind == REFUSED
    assert "x.py:1 is not valid Python" in outcome.message


def test_a_codemod_that_goes_too_deep() -> None:
    class Deep(Sets):
        def find(self, source: Source, parameters: Mapping[str, Value]) -> list[Site]:
            return self.find(source, parameters)

    outcome = plan_one(A, Deep("a"), FILE, "x.py", {})
    assert outcome.kind == REFUSED
    assert outcome.message.startswith("x.py is nested too deeply: ")


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [("2", ALREADY, "already there (x.py:3)"), ("3", NOT_NEEDED, "x.py:3 already has its own")],
)
def test_what_is_there_already(value: str, kind: str, message: str) -> None:
    data = FILE.replace(b"a = 1", b"a = " + value.encode())
    outcome = plan_one(A, Sets("a"), data, "x.py", {})
    assert (outcome.kind, outcome.message) == (kind, message)


PARAMETERS = (Parameter("n", "int", "auto", choices=("auto",)), Parameter("on", "bool", False))
WARNED = A._replace(parameters=PARAMETERS, warnings={"n": "any number", "n=3": "three", "on=true": "on"})


@pytest.mark.parametrize(
    ("values", "warnings"),
    [
        ({"n": "auto", "on": False}, []),
        ({"n": 2, "on": False}, ["n=2: any number"]),
        ({"n": 3, "on": True}, ["n=3: any number", "n=3: three", "on=true: on"]),
    ],
)
def test_warns_of_values(values: dict[str, Value], warnings: list[str]) -> None:
    assert warnings_of(WARNED, values) == warnings
    assert is_default(WARNED, values) == (not warnings)
    assert plan_one(WARNED, Sets("a"), FILE, "x.py", values).warnings == warnings


def test_a_known_file_has_a_known_result() -> None:
    after = FILE.replace(b"a = 1", b"a = 2")
    digests = {"a": sha256(after).hexdigest(), "a+b": "0" * 64}
    revision = Revision("them/it", ["1"], "x.py", sha256(FILE).hexdigest(), digests)
    assert known([revision], FILE) is revision
    assert known([revision], after) is None
    check_known(revision, ["a"], after)
    check_known(revision, ["b"], after)  # nothing is known of it
    check_known(None, ["a"], FILE)
    for names, data in ((["a"], FILE), (["a", "b"], after)):
        with pytest.raises(InvalidResult, match=r"them/it x\.py: the result is not the recorded one"):
            check_known(revision, names, data)
