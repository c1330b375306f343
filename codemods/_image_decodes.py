"""Where images in colour are decoded with OpenCV."""

from __future__ import annotations

import ast

from apply_opt.model.source import Source

from ._helpers import meant
from ._scopes import calls_of, has_star, position


def decodes(source: Source, helper: str) -> list[ast.Call]:
    """``cv2.imdecode(DATA, 1)``, outside the function ``helper``, which calls it too; in order."""
    every = [call for call in calls_of(source, "imdecode") if meant(source, call.func) == "cv2.imdecode"]
    return sorted((call for call in every if _is_plain(source, call, helper)), key=position)


def _is_plain(source: Source, call: ast.Call, helper: str) -> bool:
    """Whether an image in colour is asked for, and nothing else."""
    function = source.function(call)
    if len(call.args) != 2 or call.keywords or has_star(call) or (function is not None and function.name == helper):
        return False
    flag = call.args[1]
    return (isinstance(flag, ast.Constant) and flag.value == 1) or meant(source, flag) == "cv2.IMREAD_COLOR"
