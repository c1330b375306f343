"""The wheel: everything that is needed is in it, nothing else lands in the user's environment, and it works from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree") / "apply-opt"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".*", "__pycache__", "benchmarks"))
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(tree)], check=True, capture_output=True
    )
    (found,) = out.glob("*.whl")
    return found


def test_holds_the_package_and_its_units_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"apply_opt"}
    for name in (
        "codemods/tokenizer_tf32.py",
        "patches/tokenizer_quick/bundle.toml",
        "patches/tokenizer_quick_optimize.patch",
        "target_repos/step_audio_editx/target.toml",
        "target_repos/step_audio_editx/reference/tokenizer.py",
    ):
        assert f"apply_opt/units/{name}" in names
    assert "apply_opt/py.typed" in names
    templates = {f"apply_opt/page/templates/{path.name}" for path in (ROOT / "apply_opt/page/templates").iterdir()}
    assert len(templates) > 3 and templates <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".onnx", ".pt"))]


def test_works_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    site, tree = tmp_path / "site", tmp_path / "tree"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    shutil.copytree(ROOT / "target_repos" / "step_audio_editx" / "reference", tree)
    before = (tree / "tokenizer.py").read_bytes()
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}

    def run(*words: str) -> str:
        code = "import sys, apply_opt.cli; print(apply_opt.__file__); sys.exit(apply_opt.cli.main())"
        command = [sys.executable, "-c", code, *words]
        result = subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True, env=environment)
        assert result.stdout.startswith(str(site))
        return result.stdout

    assert "tokenizer_quick" in run("list")
    assert "TF32" in run("show", "tokenizer_tf32")
    run("tokenizer_quick", "--allow", "lossy")
    assert (tree / "tokenizer.py").read_bytes() != before
    run("revert", "--all")
    assert (tree / "tokenizer.py").read_bytes() == before


def test_base_install_needs_no_extra(tmp_path: Path) -> None:
    """Whatever only verifies and measures needs is not there: nothing else asks for it."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "target_repos" / "step_audio_editx" / "reference", tree)
    before = (tree / "tokenizer.py").read_bytes()
    extras = ["platformdirs", "psutil", "rich", "scipy", "numpy", "onnx", "onnxruntime", "torch"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({extras!r})); from apply_opt.cli import main; sys.exit(main())"
    )
    name = "tokenizer_ort_threads"
    for words in (
        ["list"], ["show", name], ["diff", name], ["export", name], ["status"], [name], ["status"], ["revert", "--all"],
        ["doctor"], ["verify", "--help"], ["bench", "--help"], ["tune", "--help"], ["apply", "--help"],
    ):  # fmt: skip
        ran = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=tree, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, (words, ran.stdout, ran.stderr)
    assert (tree / "tokenizer.py").read_bytes() == before
