"""The calls of stages that a timing writes: ``_t02.start()``, ``_t02.stop()``, ``return _t02.stop(item)``, ``_t15.over(batches)``."""

from __future__ import annotations

import ast
import re
from typing import Optional

VARIABLE = re.compile(r"_t\w+")


def is_hook(statement: ast.stmt) -> bool:
    """Whether it starts or stops a stage and does nothing else: ``_t02.start()``."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and not call.args and _method(call) in ("start", "stop")


def is_timed(call: ast.Call) -> bool:
    """Whether it gives what it is given, and times how long that takes to come: ``_t15.over(batches)``."""
    return _method(call) == "over"


def untimed(value: Optional[ast.expr]) -> Optional[ast.expr]:
    """What a stage's end hands on: ``item`` of ``_t02.stop(item)``; anything else as it is."""
    is_end = isinstance(value, ast.Call) and len(value.args) == 1 and _method(value) == "stop"
    return value.args[0] if is_end else value  # type: ignore[union-attr]


def _method(call: ast.Call) -> str:
    """Which method of a stage is called; none where it is no stage's."""
    stage = call.func.value if isinstance(call.func, ast.Attribute) else None
    is_stage = isinstance(stage, ast.Name) and bool(VARIABLE.fullmatch(stage.id))
    return call.func.attr if is_stage else ""  # type: ignore[attr-defined]
