"""What the tests of scripts share: a script in this process, and workers that only pretend to run."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pretended
import pytest
from support import ROOT, Ran, working_in

from apply_opt.io import workers

Try = Callable[..., Ran]


def load(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def module(request: pytest.FixtureRequest) -> ModuleType:
    """The script that the test module names in ``SCRIPT``."""
    return load(request.module.SCRIPT.stem)


@pytest.fixture
def attempt(module: ModuleType) -> Try:
    """``attempt(*argv, cwd=folder)``: the script in this process."""

    def found(*argv: object, cwd: Path) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        with working_in(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = module.main([str(word) for word in argv])
        return Ran(code, out.getvalue(), err.getvalue())

    return found


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, workers.Setting]]:
    """The jobs that workers were asked for; nothing of the checkout is run."""
    asked = []

    def run(arm: workers.Arm, setting: workers.Setting, job: str, **more: Any) -> dict[str, Any]:
        asked.append((job, setting))
        return pretended.run(arm, setting, job, **more)

    monkeypatch.setattr(workers, "run", run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return asked
