"""Long runs say how far they are: a bar where somebody looks, lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from apply_opt.commands import progress

rich = pytest.importorskip("rich")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


def test_lines_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One at the beginning, one where some time has gone by, none at the end: what follows says that."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    with progress.progress(4) as advance:
        for now in (5.0, 16.0, 20.0, 90.0):
            clock.now = now
            advance()
    out, err = capsys.readouterr()
    assert out == "" and err == "4 processes are run, one after the other\n2 of 4 processes, 16 s\n"


def test_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.waiting("minutes, not seconds"):
        pass
    assert capsys.readouterr() == ("", "minutes, not seconds\n")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def isatty(self: Any) -> bool:
        return True

    monkeypatch.setattr(type(sys.stderr), "isatty", isatty, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress(2) as advance:
        advance()
        advance()
    err = capsys.readouterr().err
    assert "2/2" in err and "one after the other" not in err
    with progress.waiting("minutes"):
        pass
    assert "minutes" in capsys.readouterr().err
