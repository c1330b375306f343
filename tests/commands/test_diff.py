"""``diff``: what apply would do, to look at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import EVERYTHING, LIGHT, REFERENCE, TF32, THREADS, Ran, snapshot

Run = Callable[..., Ran]
PLAIN = (REFERENCE / "tokenizer.py").read_bytes()


def test_shows_the_change_and_what_would_land(checkout: Path, run: Run) -> None:
    before = snapshot(checkout)
    ran = run("diff", "tokenizer_quick", cwd=checkout)
    assert ran.code == 0
    assert ran.out.startswith("--- a/tokenizer.py\n+++ b/tokenizer.py\n@@ ")
    assert "\n+def _ort_intra_op_threads(providers):\n" in ran.out
    assert "\n-        session_option.intra_op_num_threads = 1\n" in ran.out
    assert f"{THREADS}  would be applied" in ran.out
    assert "changes results (class lossy)" in ran.out
    assert snapshot(checkout) == before


def test_is_what_apply_then_does(checkout: Path, run: Run) -> None:
    document = json.loads(run("diff", "tokenizer_quick", *EVERYTHING, "--json", cwd=checkout).out)
    assert [o["outcome"] for o in document["outcomes"]] == ["planned"] * 3
    added = [line[1:] for line in document["diff"].splitlines() if line.startswith("+") and not line.startswith("+++")]
    run("tokenizer_quick", *EVERYTHING, cwd=checkout)
    now = (checkout / "tokenizer.py").read_text().splitlines()
    assert all(line in now for line in added)
    assert len(now) - len(PLAIN.splitlines()) == len(added) - 2


def test_nothing_would_change(checkout: Path, run: Run) -> None:
    run(THREADS, cwd=checkout)
    ran = run("diff", THREADS, cwd=checkout)
    assert ran.code == 0
    assert "@@" not in ran.out
    assert "already applied" in ran.out


@pytest.mark.parametrize(
    ("words", "code"),
    [((THREADS,), 3), (("tokenizer_quick", *EVERYTHING), 0), ((TF32,), 0), ((LIGHT, "--allow", "lossy"), 0)],
)
def test_where_something_has_no_site(words: tuple[str, ...], code: int, checkout: Path, run: Run) -> None:
    (checkout / "tokenizer.py").write_bytes(PLAIN.replace(b"onnxruntime.InferenceSession", b"onnxruntime.Other"))
    before = snapshot(checkout)
    ran = run("diff", *words, cwd=checkout)
    assert ran.code == code
    if THREADS in words:
        assert "no site" in ran.out
        assert "by hand:" in ran.out
    assert snapshot(checkout) == before


def test_a_file_in_another_encoding_can_be_looked_at(checkout: Path, run: Run) -> None:
    data = PLAIN.replace(b"        session_option.intra", "        # é\n        session_option.intra".encode("latin-1"))
    (checkout / "tokenizer.py").write_bytes(b"# coding: latin-1\n" + data)
    ran = run("diff", THREADS, cwd=checkout)
    assert ran.code == 0
    assert "\n         # \ufffd\n" in ran.out
    assert run("diff", THREADS, "--json", cwd=checkout).code == 0


def test_wrong_words(checkout: Path, run: Run) -> None:
    assert run("diff", "tokenizer_tf23", cwd=checkout).code == 2
    assert run("diff", cwd=checkout).code == 2
