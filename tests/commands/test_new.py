"""``new``: a source tree with one more optimization, whose test fails until it is written; or nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT, Ran, contents

Run = Callable[..., Ran]
WORDS = ("new", "tokenizer_warm_up", "--target", "step_audio_editx")
WRITTEN = (
    "codemods/tokenizer_warm_up.py",
    "patches/tokenizer_warm_up/README.md",
    "patches/tokenizer_warm_up/README.zh-CN.md",
    "patches/tokenizer_warm_up/optimization.toml",
    "tests/codemods/test_tokenizer_warm_up.py",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the parts of the source tree that units live in."""
    folder = tmp_path / "tree"
    for name in ("codemods", "patches", "target_repos", "apply_opt"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "tests" / "codemods").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("part", ["", "auto_model"])
def test_writes_a_unit_with_a_failing_test(part: str, tree: Path, run: Run) -> None:
    before = contents(tree)
    ran = run(*WORDS, "--class", "tolerance", *(["--part", part] if part else []), cwd=tree)
    assert ran.code == 0, ran
    after = contents(tree)
    assert sorted(set(after) - set(before)) == sorted(WRITTEN)
    assert {name: after[name] for name in before} == before
    assert b'safety = "tolerance"' in after["patches/tokenizer_warm_up/optimization.toml"]
    assert (b'part = "auto_model"\n' in after["patches/tokenizer_warm_up/optimization.toml"]) == bool(part)
    if importlib.util.find_spec("ruff"):
        modules = [name for name in WRITTEN if name.endswith(".py")]
        for check in (["check"], ["format", "--check"]):
            subprocess.run([sys.executable, "-m", "ruff", *check, *modules], cwd=tree, check=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", WRITTEN[-1]]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    tested = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert tested.returncode == 1, tested.stdout
    assert "tokenizer_warm_up is not written yet" in tested.stdout
    assert "2 failed, 2 passed" in tested.stdout


def test_not_over_another(tree: Path, run: Run) -> None:
    assert run(*WORDS, cwd=tree).code == 0
    before = contents(tree)
    ran = run(*WORDS, cwd=tree)
    assert ran.code == 1
    assert "is already there" in ran.err
    assert contents(tree) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("new", "Warm-Up", "--target", "step_audio_editx"), "is not a name"),
        (("new", "../warm_up", "--target", "step_audio_editx"), "is not a name"),
        (("new", "warm_up", "--target", "nothing"), "there is no target called nothing"),
        ((*WORDS, "--class", "fast"), "invalid choice: 'fast'"),
        ((*WORDS, "--root", "codemods"), "is not a source tree"),
        (("new", "warm_up"), "--target"),
        ((*WORDS, "--part", "nothing"), "step_audio_editx has no part called nothing"),
    ],
)
def test_wrong_words(words: tuple[str, ...], message: str, tree: Path, run: Run) -> None:
    before = contents(tree)
    ran = run(*words, cwd=tree)
    assert ran.code == 2
    assert message in ran.err
    assert contents(tree) == before


def test_a_full_disk(tree: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from apply_opt.io import files

    before, real, calls = contents(tree), files.write_through, []

    def full(path: str, *rest: object) -> None:
        calls.append(path)
        if len(calls) == 4:
            raise OSError(28, "No space left on device", path)
        real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "write_through", full)
    ran = run(*WORDS, cwd=tree)
    assert ran.code == 1
    assert "nothing was written: No space left on device" in ran.err
    assert contents(tree) == before
    assert not (tree / "patches" / "tokenizer_warm_up").exists()
