"""Imports point down: ``cli`` -> ``commands`` -> ``io`` -> ``page`` -> ``model`` -> ``errors``, and never back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

LAYERS = ("worker", "errors", "model", "page", "io", "commands", "cli", "__main__")
PACKAGE = ROOT / "apply_opt"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "units" not in path.parts)


def layer(name: str) -> int:
    """How high ``apply_opt.NAME…`` stands; the package itself (its version) is below all."""
    parts = name.split(".")
    return LAYERS.index(parts[1]) if len(parts) > 1 else -1


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of ours that are imported anywhere in ``tree``, also late and also only for their types."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            yield node.module or ""
            if node.module == "apply_opt":
                yield from (f"apply_opt.{alias.name}" for alias in node.names if not alias.name.startswith("__"))


def ours(path: Path) -> list[str]:
    return [name for name in imported(ast.parse(path.read_text("utf-8"))) if name.split(".")[0] == "apply_opt"]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    own = layer(name_of(path))
    assert [name for name in ours(path) if layer(name) > own] == []


def test_every_module_has_a_layer() -> None:
    assert len(MODULES) > 25
    assert {name_of(path).split(".")[1] for path in MODULES if name_of(path) != "apply_opt"} == set(LAYERS)


def test_codemods_rest_on_the_model_alone() -> None:
    paths = sorted((ROOT / "codemods").glob("*.py"))
    assert paths
    for path in paths:
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, path
                node.level, node.module = 0, "codemods"
        found = [name for name in imported(tree) if name.split(".")[0] == "apply_opt"]
        assert [name for name in found if layer(name) > LAYERS.index("model")] == [], path


def test_only_one_module_changes_files_and_only_one_asks_git() -> None:
    changing = {
        "replace",
        "rename",
        "unlink",
        "remove",
        "mkdir",
        "makedirs",
        "rmdir",
        "chmod",
        "chown",
        "rmtree",
        "fsync",
    }
    for path in MODULES:
        tree = ast.parse(path.read_text("utf-8"))
        calls = {
            node.func.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in ("os", "shutil")
        }
        if name_of(path) not in ("apply_opt.io.files", "apply_opt.commands.new", "apply_opt.worker.__main__"):
            assert not calls & changing, path
        heads = {name.split(".")[0] for name in imported(tree)}
        assert ("git" in heads) == (name_of(path) == "apply_opt.io.git"), path
