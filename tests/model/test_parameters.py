"""Parameters from words, and words from parameters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apply_opt.errors import UsageError
from apply_opt.model.parameters import Parameter, Value, parse_parameter, resolve, spelled

THREADS = Parameter("threads", "int", "auto", choices=("auto",), minimum=1)
MODE = Parameter("mode", "choice", "a", choices=("a", "b"))
SWITCH = Parameter("switch", "bool", False)
NAME = Parameter("name", "str", "x")
EVERY = (THREADS, MODE, SWITCH, NAME)

GOOD: list[tuple[Parameter, str, Value]] = [
    (THREADS, "1", 1),
    (THREADS, "007", 7),
    (THREADS, "999999999", 999_999_999),
    (THREADS, "auto", "auto"),
    (MODE, "b", "b"),
    (SWITCH, "true", True),
    (SWITCH, "False", False),
    (NAME, "a/b c", "a/b c"),
    (NAME, "分词器", "分词器"),
    (NAME, "=", "="),
]
BAD = [
    (THREADS, ("0", "-1", "+1", "1.0", "1e3", "１", "²", "", " 1", "Auto", "9" * 10, "9" * 5000)),
    (MODE, ("c", "A", "", "a,b")),
    (SWITCH, ("1", "yes", "", "truee")),
    (NAME, ("", "  ", "a\nb", "\x00", "\x1b[31m", "\udcff")),
]


@pytest.mark.parametrize(("parameter", "text", "value"), GOOD)
def test_takes(parameter: Parameter, text: str, value: Value) -> None:
    parsed = parameter.parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(("parameter", "text"), [(parameter, text) for parameter, texts in BAD for text in texts])
def test_does_not_take(parameter: Parameter, text: str) -> None:
    with pytest.raises(UsageError, match=f"{parameter.name} takes ") as raised:
        parameter.parse(text)
    assert raised.value.next_step == f"--set {parameter.name}={spelled(parameter.default)}"


@given(st.sampled_from(EVERY), st.text(max_size=12))
def test_any_text_is_a_value_of_the_type_or_an_error(parameter: Parameter, text: str) -> None:
    try:
        value = parameter.parse(text)
    except UsageError:
        return
    kinds = {"int": (int, str), "bool": (bool,), "str": (str,), "choice": (str,)}
    assert isinstance(value, kinds[parameter.type])
    assert not isinstance(value, str) or value == text


def test_says_what_it_admits() -> None:
    assert [p.admits() for p in EVERY] == [
        "a whole number from 1 or auto",
        "a or b",
        "true or false",
        "a text without control characters",
    ]


def test_what_is_not_given_has_its_default() -> None:
    assert resolve(EVERY, {}, "x") == {"threads": "auto", "mode": "a", "switch": False, "name": "x"}
    assert resolve(EVERY, {"threads": "2", "switch": "true"}, "x") == {
        "threads": 2,
        "mode": "a",
        "switch": True,
        "name": "x",
    }


@pytest.mark.parametrize(
    ("parameters", "key", "step"),
    [
        (EVERY, "thread", "did you mean threads? what can be set: threads, mode, switch, name (apply-opt show NAME)"),
        (EVERY, "qqq", "what can be set: threads, mode, switch, name (apply-opt show NAME)"),
        ((), "a", "what can be set: nothing (apply-opt show NAME)"),
    ],
)
def test_a_name_that_is_not_there(parameters: tuple[Parameter, ...], key: str, step: str) -> None:
    with pytest.raises(UsageError, match=f"x has no parameter called {key}") as raised:
        resolve(parameters, {key: "1"}, "x")
    assert raised.value.next_step == step


def test_from_a_manifest() -> None:
    table = {"type": "int", "default": 2, "choices": ["auto"], "minimum": 1, "help": "h", "help_zh": "z"}
    assert parse_parameter("n", table) == Parameter("n", "int", 2, "h", "z", ("auto",), 1)
    assert parse_parameter("n", {"type": "bool", "default": True}) == Parameter("n", "bool", True)
    for missing in ("type", "default"):
        with pytest.raises(KeyError, match=missing):
            parse_parameter("n", {key: value for key, value in table.items() if key != missing})
