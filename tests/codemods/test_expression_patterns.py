"""Patterns: Python with blanks."""

from __future__ import annotations

import ast
import importlib
from typing import Any

import pytest
from cases import codemod

codemod("act_timing_items")
found: Any = importlib.import_module("apply_opt_codemods._expression_patterns")


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("_", "a.b(c)", True),
        ("f(...)", "f()", True),
        ("f(...)", "f(1, *rest, key=2)", True),
        ("f(...)", "g.f(1)", False),
        ("_.f(_)", "g.h.f(1)", True),
        ("_.f(_)", "g.f(1, 2)", False),
        ("_.f(_)", "g.f(key=2)", False),
        ("f(1)", "f(True)", False),
        ("f(1)", "f(1.0)", False),
        ("_['a'][_]", "x['a'][1:2]", True),
        ("_['a'][_]", "x['a']", False),
        ("_['a'][_]", 'x["a"][()]', True),
        ("_[f'/a/{_}'][_]", "root[f'/a/{name}'][0]", True),
        ("_[f'/a/{_}'][_]", "root[f'/b/{name}'][0]", False),
        ("_[f'/a/{_}'][_]", "root['/a/name'][0]", False),
        ("_[f'{_}/{_}']", "root[f'{A}/{b}']", True),
        ("a.b", "a.c", False),
    ],
)
def test_fits(pattern: str, text: str, fits: bool) -> None:
    node = ast.parse(text, mode="eval").body
    assert found.is_like(node, found.patterns([pattern])) is fits
    assert found.is_like(node, found.patterns(["never", pattern])) is fits


def test_where_it_is_stored_to() -> None:
    (target,) = ast.parse("x['a'] = 1").body[0].targets  # type: ignore[attr-defined]
    assert found.is_like(target, found.patterns(["_['a']"]))


def test_found() -> None:
    tree = ast.parse("a = f(g(1), f(2))")
    assert [ast.unparse(n) for n in found.found(ast.walk(tree), found.patterns(["f(...)"]))] == [
        "f(g(1), f(2))",
        "f(2)",
    ]
    assert found.written(found.patterns(["f(...)", "_.g"])) == "f(...) or _.g"


def test_not_an_expression() -> None:
    with pytest.raises(SyntaxError):
        found.patterns(["a = 1"])
