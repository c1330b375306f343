"""Checkouts to work on, and a way to type commands in them."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import two_files
from hypothesis import HealthCheck, settings
from support import REFERENCE, Ran, call, commit_all, copy, git
from toy import TOY_MARK, Toy, processes_of

from apply_opt.commands import proof_options
from apply_opt.io import catalog, targets
from apply_opt.model.effort import Effort

settings.register_profile(
    "apply-opt", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("apply-opt")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of the user's: no git configuration, no language, no colour, no records. And no waiting for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for name in ("LC_ALL", "LC_MESSAGES", "LANG", "EMAIL", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("APPLY_OPT_LANG", "en")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))


@pytest.fixture
def run() -> Callable[..., Ran]:
    """``run(*argv, cwd=folder)`` gives exit code, standard output and standard error of ``apply-opt ARGV…``."""
    return call


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The reference tree of the tokenizer in a plain folder."""
    return copy(REFERENCE, tmp_path / "checkout")


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a git repository. Only to be cloned."""
    folder = copy(REFERENCE, tmp_path_factory.mktemp("origin") / "checkout")
    commit_all(folder)
    return folder


@pytest.fixture
def git_checkout(origin: Path, tmp_path: Path) -> Path:
    """The same as a git clone."""
    folder = tmp_path / "clone"
    git("clone", "--quiet", str(origin), str(folder), cwd=tmp_path)
    git("config", "user.name", "A User", cwd=folder)
    git("config", "user.email", "user@example.org", cwd=folder)
    return folder


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_catalog: None) -> Iterator[Toy]:
    """A small target of the tests' own; whatever runs its code is to leave no process and no temporary file."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for name, path in {"TMPDIR": temporary, "XDG_CACHE_HOME": tmp_path / "c", "XDG_STATE_HOME": tmp_path / "s"}.items():
        monkeypatch.setenv(name, str(path))
    monkeypatch.setenv(TOY_MARK, str(tmp_path))
    found = Toy(tmp_path / "toy")
    monkeypatch.syspath_prepend(found.site)
    yield found
    assert processes_of(str(tmp_path)) == []
    assert list(temporary.iterdir()) == []


@pytest.fixture
def quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--quick`` is quicker still."""
    monkeypatch.setattr(proof_options, "QUICK", Effort(3, 2, 3, 0.0, 1.0))


@pytest.fixture
def fresh_catalog() -> Iterator[None]:
    """The catalog is read anew, in this test and after it."""
    catalog.load.cache_clear()
    yield
    catalog.load.cache_clear()


@pytest.fixture
def copy_pack(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of :mod:`two_files` is installed, and ``status`` looks for its target first; its folder."""
    site = tmp_path_factory.mktemp("site")
    folder = two_files.install(site)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(targets, "data_root", lambda: str(folder))
    catalog.load.cache_clear()
    yield folder
    catalog.load.cache_clear()
    for name in [n for n in sys.modules if n.startswith((f"{catalog.CODEMOD_PACKAGE}_", "copy_pack"))]:
        del sys.modules[name]
    importlib.invalidate_caches()
