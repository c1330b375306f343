"""``list`` and ``show``: what there is, and what this checkout makes of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import LIGHT, QUICK, REFERENCE, ROOT, TF32, THREADS, Ran, snapshot

Run = Callable[..., Ran]
PLAIN = (REFERENCE / "tokenizer.py").read_bytes()


def states(run: Run, folder: Path) -> dict[str, str | None]:
    document = json.loads(run("list", "--json", cwd=folder).out)
    return {row["name"]: row["state"] for row in document["optimizations"] if row["name"] in QUICK}


def test_in_a_checkout(checkout: Path, run: Run) -> None:
    ran = run("list", cwd=checkout)
    assert ran.code == 0
    assert ran.out.startswith(f"{checkout}  (step_audio_editx, tokenizer.py)\n")
    assert re.search(rf"(?m)^{THREADS} +exact +applicable +\S", ran.out)
    assert re.search(rf"(?m)^{TF32} +lossy +applicable +\S", ran.out)
    assert f"apply-opt {TF32} --allow lossy" in ran.out
    assert "bundles:\n" in ran.out and "\ntokenizer_fast" in ran.out and "\ntokenizer_quick  " in ran.out
    assert states(run, checkout) == dict.fromkeys(QUICK, "applicable")


def test_states(checkout: Path, run: Run) -> None:
    run(THREADS, cwd=checkout)
    assert states(run, checkout) == {TF32: "applicable", THREADS: "applied", LIGHT: "applicable"}
    run("revert", cwd=checkout)
    line = b"        session_option.intra_op_num_threads = 1\n"
    (checkout / "tokenizer.py").write_bytes(PLAIN.replace(line, line.replace(b"= 1", b"= os.cpu_count()")))
    assert states(run, checkout)[THREADS] == "not needed"
    (checkout / "tokenizer.py").write_bytes(PLAIN.replace(b"onnxruntime.InferenceSession", b"onnxruntime.Other"))
    assert states(run, checkout)[THREADS] == "no site"
    assert "no onnxruntime.InferenceSession" in run("list", cwd=checkout).out


def test_elsewhere(run: Run, tmp_path: Path) -> None:
    ran = run("list", cwd=tmp_path)
    assert ran.code == 0
    assert "is not a checkout of" in ran.out
    assert all(name in ran.out for name in QUICK)
    assert states(run, tmp_path) == dict.fromkeys(QUICK)


def test_of_other_targets(checkout: Path, run: Run) -> None:
    """They are not in the way of what can be had here."""
    ran, every = run("list", cwd=checkout), run("list", "--all", cwd=checkout)
    names = [row["name"] for row in json.loads(run("list", "--json", cwd=checkout).out)["optimizations"]]
    others = [name for name in names if not name.startswith("tokenizer_")]
    assert others and not any(name in ran.out for name in others) and all(name in every.out for name in names)
    assert re.search(r"(?m)^\d+ more for other targets: apply-opt list --all$", ran.out)
    assert "for other targets" not in every.out


def test_what_does_not_go_together(run: Run, tmp_path: Path) -> None:
    tree = shutil.copytree(ROOT / "target_repos" / "time_llm" / "reference", tmp_path / "tree")
    document = json.loads(run("list", "--json", cwd=tree).out)
    notes = {row["name"]: row["note"] for row in document["optimizations"]}
    assert notes["dwt_batch_prompts"] == "together with dwt_batch_features\nnot together with dwt_feature_cache"
    assert notes["dwt_feature_cache"] == "not together with dwt_batch_prompts"
    assert notes["dwt_amp"] == "apply-opt dwt_amp --allow lossy\nnot together with dwt_batch_features"


def test_with_a_damaged_ledger(checkout: Path, run: Run) -> None:
    run(THREADS, cwd=checkout)
    (checkout / ".apply-opt" / "ledger.json").write_bytes(b"{")
    before = snapshot(checkout)
    ran = run("list", cwd=checkout)
    assert ran.code == 0
    assert "ledger.json is damaged or cut off" in ran.out
    assert states(run, checkout) == dict.fromkeys(QUICK, "unknown")
    assert snapshot(checkout) == before


@pytest.mark.parametrize("name", QUICK)
def test_show(name: str, run: Run, tmp_path: Path) -> None:
    ran = run("show", name, cwd=tmp_path)
    assert ran.code == 0
    assert ran.out.startswith(f"{name}: ")
    assert "target step_audio_editx, class " in ran.out
    assert "--set " in ran.out
    document = json.loads(run("show", name, "--json", cwd=tmp_path).out)
    assert document["sites"]
    assert document["manual"]
    assert document["page"] in ran.out
    assert {"name", "type", "default", "choices"} <= set(document["parameters"][0])


def test_show_a_bundle(run: Run, tmp_path: Path) -> None:
    assert f"applies: {', '.join(QUICK)}" in run("show", "tokenizer_quick", cwd=tmp_path).out
    assert json.loads(run("show", "tokenizer_quick", "--json", cwd=tmp_path).out)["optimizations"] == list(QUICK)


def test_show_what_is_not_there(run: Run, tmp_path: Path) -> None:
    ran = run("show", "tokenizer_tf23", cwd=tmp_path)
    assert ran.code == 2
    assert "did you mean tokenizer_tf32?" in ran.err


@pytest.mark.parametrize("name", ["APPLY_OPT_LANG", "LC_ALL", "LC_MESSAGES", "LANG"])
def test_in_the_readers_language(name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    english = run("show", TF32, cwd=tmp_path).out
    monkeypatch.delenv("APPLY_OPT_LANG")
    assert run("show", TF32, cwd=tmp_path).out == english
    monkeypatch.setenv(name, "zh_CN.UTF-8")
    chinese = run("show", TF32, cwd=tmp_path).out
    assert re.search("[一-鿿]", chinese.splitlines()[0])
    assert chinese != english
    assert "组合" in run("list", cwd=tmp_path).out
    monkeypatch.setenv(name, "de_DE.UTF-8")
    assert run("show", TF32, cwd=tmp_path).out == english
