"""The worker's own modules, loaded as a worker loads them: by file, under names of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from apply_opt.worker.__main__ import HERE, MODULES, load_file


@pytest.fixture(scope="session")
def worker() -> Iterator[SimpleNamespace]:
    """``values``, ``canary``, ``counters``, ``observing``, ``timing``, ``graphs``, ``compiling``, ``jobs``."""
    names = [f"_apply_opt_{name}" for name in MODULES]
    loaded = [load_file(os.path.join(HERE, f"{name}.py"), full) for name, full in zip(MODULES, names)]
    yield SimpleNamespace(**dict(zip(MODULES, loaded)))
    for full in names:
        del sys.modules[full]
