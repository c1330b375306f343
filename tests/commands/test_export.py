"""``export``: a patch that others can use, and that says what it is."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import EVERYTHING, LIGHT, QUICK, REFERENCE, TF32, THREADS, Ran, copy, git, patched, snapshot

from apply_opt.model.digest import sha256
from apply_opt.model.patch import headers

Run = Callable[..., Ran]
PLAIN = (REFERENCE / "tokenizer.py").read_bytes()
ALL = ("tokenizer_quick", *EVERYTHING)

SHAPES = {
    "as it is": PLAIN,
    "crlf": PLAIN.replace(b"\n", b"\r\n"),
    "no final newline": PLAIN.rstrip(b"\n"),
    "latin-1": b"# coding: latin-1\n# \xe9\n" + PLAIN.replace(b"funasr_model_id=", b"funasr_model_id="),
    "gbk beside the edit": PLAIN.replace(
        b"        model_source=", "        # 分词器\n        model_source=".encode("gbk")
    ),
    "form feed": PLAIN.replace(b"\n    def get", b"\n\x0c\n    def get"),
}
SHAPES["gbk beside the edit"] = b"# coding: gbk\n" + SHAPES["gbk beside the edit"]


@pytest.mark.skipif(not shutil.which("patch"), reason="no GNU patch")
@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES.keys())
def test_does_what_apply_does(data: bytes, git_checkout: Path, run: Run, tmp_path: Path) -> None:
    """By GNU patch and by git, in and out, byte for byte."""
    (git_checkout / "tokenizer.py").write_bytes(data)
    exported = run("export", *ALL, cwd=git_checkout)
    assert exported.code == 0
    (tmp_path / "x.patch").write_bytes(exported.raw)
    assert run(*ALL, cwd=git_checkout).code == 0
    after = (git_checkout / "tokenizer.py").read_bytes()
    assert run("revert", "--all", cwd=git_checkout).code == 0
    for into, out in (
        (
            lambda: patched(git_checkout, exported.raw, "--binary"),
            lambda: patched(git_checkout, exported.raw, "-R", "--binary"),
        ),
        (
            lambda: git("apply", str(tmp_path / "x.patch"), cwd=git_checkout),
            lambda: git("apply", "-R", str(tmp_path / "x.patch"), cwd=git_checkout),
        ),
    ):
        into()
        assert (git_checkout / "tokenizer.py").read_bytes() == after
        out()
        assert (git_checkout / "tokenizer.py").read_bytes() == data


def test_says_what_it_is(git_checkout: Path, run: Run) -> None:
    ran = run("export", THREADS, TF32, "--allow", "lossy", "--set", "intra_op=3", cwd=git_checkout)
    fields = headers(ran.raw)
    assert fields["X-Apply-Opt"] == f"{THREADS} {TF32}"
    assert fields["X-Apply-Opt-Set"] == f"{THREADS}.intra_op=3"
    assert fields["X-Sha256-Before"] == sha256(PLAIN)
    assert fields["Forwarded"] == "not-needed"
    assert git("rev-parse", "HEAD", cwd=git_checkout).strip() in fields["Origin"]
    assert fields["Description"].count(";") >= 1
    run(THREADS, TF32, "--allow", "lossy", "--set", "intra_op=3", cwd=git_checkout)
    assert fields["X-Sha256-After"] == sha256((git_checkout / "tokenizer.py").read_bytes())


def test_without_git_and_with_defaults(checkout: Path, run: Run) -> None:
    fields = headers(run("export", THREADS, cwd=checkout).raw)
    assert fields["Origin"].endswith("for step_audio_editx")
    assert "X-Apply-Opt-Set" not in fields


def test_in_a_folder_with_spaces(run: Run, tmp_path: Path) -> None:
    folder = copy(REFERENCE, tmp_path / "all" / "my tokenizer")
    (tmp_path / "all" / ".git").mkdir()
    ran = run("export", THREADS, "--repo", tmp_path / "all", cwd=tmp_path)
    assert b"+++ b/my tokenizer/tokenizer.py\t\n" in ran.raw
    assert patched(tmp_path / "all", ran.raw).returncode == 0
    assert b"_ort_intra_op_threads" in (folder / "tokenizer.py").read_bytes()


def test_only_the_patch_is_on_standard_output(checkout: Path, run: Run) -> None:
    ran = run("export", "tokenizer_quick", cwd=checkout)
    assert ran.code == 0
    assert headers(ran.raw)["X-Apply-Opt"] == THREADS
    assert ran.out.endswith("\n")
    assert TF32 not in ran.out
    assert TF32 in ran.err, "what is not in it is said beside it"


@pytest.mark.parametrize(
    ("before", "words", "message"),
    [
        ((), (TF32,), "changes results (class lossy)"),
        ((), (LIGHT, "--allow", "lossy"), "has to be checked first"),
    ],
)
def test_nothing_to_export(
    before: tuple[str, ...], words: tuple[str, ...], message: str, checkout: Path, run: Run
) -> None:
    if before:
        run(*before, cwd=checkout)
    state = snapshot(checkout)
    ran = run("export", *words, cwd=checkout)
    assert ran.code == 3
    assert message in ran.err
    assert ran.out == ""
    assert snapshot(checkout) == state


def test_what_is_on_top_of_what_is_applied(checkout: Path, run: Run) -> None:
    run(THREADS, cwd=checkout)
    ran = run("export", "tokenizer_quick", *EVERYTHING, cwd=checkout)
    assert ran.code == 0
    assert headers(ran.raw)["X-Apply-Opt"] == f"{QUICK[0]} {QUICK[2]}"


def test_as_json(checkout: Path, run: Run) -> None:
    document = json.loads(run("export", THREADS, "--json", cwd=checkout).out)
    assert document["patch"] == run("export", THREADS, cwd=checkout).out
    assert document["checkout"] == str(checkout)


def test_what_is_applied_already(checkout: Path, run: Run, tmp_path: Path) -> None:
    """The patch is the one that takes it out, with the values that it was applied with."""
    original = (checkout / "tokenizer.py").read_bytes()
    run(THREADS, "--set", "intra_op=3", cwd=checkout)
    ran = run("export", THREADS, cwd=checkout)
    assert ran.code == 0, ran
    assert headers(ran.raw)["X-Apply-Opt-Set"] == f"{THREADS}.intra_op=3"
    (tmp_path / "x.patch").write_bytes(ran.raw)
    subprocess.run(["patch", "-R", "-p1", "-i", tmp_path / "x.patch"], cwd=checkout, check=True)
    assert (checkout / "tokenizer.py").read_bytes() == original
