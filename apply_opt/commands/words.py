"""The reader's language, for titles and pages (messages are in English)."""

from __future__ import annotations

import os

from apply_opt.io.catalog import Unit


def language() -> str:
    """``zh-CN`` where APPLY_OPT_LANG or the locale says Chinese, else ``en``."""
    for name in ("APPLY_OPT_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return "zh-CN" if value.lower().startswith("zh") else "en"
    return "en"


def title(unit: Unit) -> str:
    """A unit's title in the reader's language."""
    return unit.title if language() == "en" else unit.title_zh
