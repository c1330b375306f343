"""The whole round on upstream's own tree. It is not part of this project, so these tests run where a clone is at hand:

    APPLY_OPT_UPSTREAM=~/Step-Audio-EditX scripts/test -k upstream

The clone is copied; nothing is written to it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from apply_opt.cli import main
from apply_opt.model.digest import sha256

CLONE = os.environ.get("APPLY_OPT_UPSTREAM", "")
ROOT = Path(__file__).resolve().parent.parent
COMMITS = ("17731c5", "aacb90a")
PART = "funasr_detach/auto/auto_model.py"

pytestmark = pytest.mark.skipif(not CLONE, reason="APPLY_OPT_UPSTREAM names no clone of stepfun-ai/Step-Audio-EditX")


@pytest.fixture(params=COMMITS)
def tree(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "Step-Audio-EditX"
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", CLONE, str(folder)], check=True)
    subprocess.run(
        ["git", "checkout", "--quiet", request.param, "--", "tokenizer.py", "utils.py", PART], cwd=folder, check=True
    )
    subprocess.run(["git", "reset", "--quiet", "--soft", request.param], cwd=folder, check=True)
    monkeypatch.chdir(folder)
    return folder


def git_status(tree: Path) -> str:
    return subprocess.run(
        ["git", "status", "--porcelain", "--", "tokenizer.py"], cwd=tree, check=True, capture_output=True, text=True
    ).stdout


def test_apply_and_revert_leave_nothing(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["list"], ["diff", "tokenizer_quick"], ["tokenizer_quick", "--allow", "lossy"], ["status"]):
        assert main(words) == 0
    assert git_status(tree) == " M tokenizer.py\n"
    assert main(["revert", "--all"]) == 0
    assert git_status(tree) == ""
    assert not (tree / ".apply-opt").exists()


def test_two_files(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer_ort_threads", "tokenizer_no_empty_cache"]) == 0
    assert main(["status"]) == 0
    assert "(step_audio_editx, tokenizer.py, funasr_detach/auto/auto_model.py)" in capsys.readouterr().out
    changed = subprocess.run(["git", "diff", "--name-only"], cwd=tree, check=True, capture_output=True, text=True)
    assert {"tokenizer.py", PART} <= set(changed.stdout.split())
    assert main(["revert", "tokenizer_ort_threads"]) == 0
    assert main(["revert", "--all"]) == 0
    subprocess.run(["git", "diff", "--exit-code", "--", "tokenizer.py", PART], cwd=tree, check=True)
    assert not (tree / ".apply-opt").exists()


def test_an_edit_by_hand_is_all_that_is_left(tree: Path) -> None:
    assert main(["tokenizer_quick", "--allow", "lossy"]) == 0
    path = tree / "tokenizer.py"
    lines = path.read_text().splitlines(keepends=True)
    site = next(i for i, line in enumerate(lines) if "intra_op_num_threads" in line)
    lines.insert(site - 2, "        print('two lines from a site')\n")
    path.write_text("".join(lines))
    assert main(["revert", "--all"]) == 0
    diff = subprocess.run(
        ["git", "diff", "-U0", "HEAD", "--", "tokenizer.py"], cwd=tree, check=True, capture_output=True, text=True
    )
    changed = [line for line in diff.stdout.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert changed == ["+        print('two lines from a site')"]


@pytest.mark.parametrize("command", [["patch", "-p1"], ["git", "apply"]], ids=lambda c: c[0])
def test_patched_by_hand_then_adopted(tree: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "patches" / "tokenizer_quick_optimize.patch").read_bytes()
    subprocess.run(command, cwd=tree, input=text, check=True, stdout=subprocess.DEVNULL)
    assert main(["status"]) == 0
    assert capsys.readouterr().out.count("applied by hand") == 2
    assert main(["adopt"]) == 0
    assert main(["revert", "--all"]) == 0
    assert git_status(tree) == ""


def test_apply_gives_what_the_patch_gives(tree: Path) -> None:
    assert main(["tokenizer_quick", "--allow", "lossy"]) == 0
    ours = sha256((tree / "tokenizer.py").read_bytes())
    text = (ROOT / "patches" / "tokenizer_quick_optimize.patch").read_bytes()
    subprocess.run(["patch", "-R", "-p1"], cwd=tree, input=text, check=True, stdout=subprocess.DEVNULL)
    assert git_status(tree) == ""
    subprocess.run(["patch", "-p1"], cwd=tree, input=text, check=True, stdout=subprocess.DEVNULL)
    assert sha256((tree / "tokenizer.py").read_bytes()) == ours
