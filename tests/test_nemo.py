"""The whole round on NeMo itself: wheels of ``nemo_toolkit``, as the package index has them, unpacked.

Each is fetched once, with the sha256 that it must have, and kept in pytest's cache. Nothing that NeMo needs is installed: the
workload loads the encoder's own modules, and torch is enough for these.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Ran, contents, copy

from apply_opt.io import catalog
from apply_opt.model.digest import sha256

Run = Callable[..., Ran]
WHEELS = {
    "2.4.0": "5706c34dd96c6e53b711f435f8f933b70c3325ba6094e6ce5a89d899cee89882",
    "2.5.3": "17fb705e002cb38c753c0d0804d66b8cec4d0d86f878ba8a41049bcd9c7ae7d6",
    "2.7.3": "8cbeb10263d71262c47cd4797c4cdb2603d2d2f4b7f03c77c8062e268fb80ecb",
    "3.0.0": "f1d8238e35909464cf426e5792af3113a7060de419f194b83bedd81cbe909394",
}
TARGET = catalog.load(packs=False).targets["nemo_conformer"]
BUNDLE = "conformer_fast"
REST = (
    "conformer_skip_full_batch",
    "conformer_stride_flags",
    "conformer_expand_masks",
    "conformer_channels_last",
    "conformer_feed_forward_onednn",
)
masked = pytest.mark.parametrize("version", ["2.5.3", "2.7.3", "3.0.0"])


@pytest.fixture(scope="session")
def unpacked(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """``unpacked(version)`` is a folder with what the wheel holds of NeMo's speech recognition. Not to be written to."""
    kept = request.config.cache.mkdir("nemo_toolkit")  # type: ignore[union-attr]

    def get(version: str) -> Path:
        folder = Path(kept) / version
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=kept) as scratch:
                _fetch(version, Path(scratch))
                os.rename(Path(scratch) / "tree", folder)
        return folder

    return get


def _fetch(version: str, scratch: Path) -> None:
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"nemo_toolkit=={version} --hash=sha256:{WHEELS[version]}\n")
    words = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    command = [
        sys.executable,
        "-m",
        "pip",
        *words,
        "--require-hashes",
        "--requirement",
        str(wanted),
        "--dest",
        str(scratch),
    ]
    subprocess.run(command, check=True)
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(("nemo/collections/asr/", "nemo_toolkit-"))]
        archive.extractall(scratch / "tree", names)


@pytest.fixture
def tree(unpacked: Callable[[str], Path], version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return copy(unpacked(version), tmp_path / "tree")


def known(version: str) -> dict[str, Any]:
    """What is on record of the version, by path."""
    own = [r for r in TARGET.revisions if r.repository == "nemo_toolkit" and version in r.commits]
    return {revision.path: revision for revision in own}


@masked
def test_in_and_out_again(tree: Path, version: str, run: Run) -> None:
    before, revisions, units = contents(tree), known(version), catalog.load(packs=False)
    assert {path: sha256((tree / path).read_bytes()) for path in revisions} == {
        p: r.sha256 for p, r in revisions.items()
    }
    ran = run(BUNDLE, cwd=tree)
    assert ran.code == 0, ran.err
    parts = {path: [n for n in units.bundles[BUNDLE].optimizations if n in r.names()] for path, r in revisions.items()}
    expected = {path: r.after["+".join(parts[path])] for path, r in revisions.items() if parts[path]}
    assert len(expected) == 2
    assert {path: sha256((tree / path).read_bytes()) for path in expected} == expected
    ran = run("conformer_channel_split", cwd=tree)
    assert (ran.code, "already has code that splits by channels" in ran.out) == (0, True), ran.out + ran.err
    assert run(*REST, cwd=tree).code == 0
    changed = {
        name for name, data in contents(tree).items() if before.get(name) != data and not name.startswith(".apply-opt")
    }
    assert changed == {*revisions}
    found = json.loads(run("status", "--json", cwd=tree).out)["optimizations"]
    assert {name for name, entry in found.items() if entry["state"] == "applied"} == {
        *units.bundles[BUNDLE].optimizations,
        *REST,
    }
    assert run("revert", "--all", cwd=tree).code == 0
    assert contents(tree) == before


@pytest.mark.parametrize("version", ["2.4.0"])
def test_without_masks_there_is_nothing_to_save(tree: Path, run: Run) -> None:
    before = contents(tree)
    ran = run("conformer_masks", cwd=tree)
    assert (ran.code, "NeMo does from 2.5.0 on" in ran.err) == (3, True), ran.err
    assert contents(tree) == before
    ran = run(BUNDLE, cwd=tree)  # its attention is that of later versions
    assert (ran.code, "NeMo does from 2.5.0 on" in ran.out) == (0, True), ran.out + ran.err
    assert run("revert", "--all", cwd=tree).code == 0
    assert contents(tree) == before


@pytest.mark.parametrize("version", ["3.0.0"])  # the other two have the same files of each other, and the same lines
def test_same_bits(tree: Path, run: Run) -> None:
    """Outputs, gradients, parameters after steps; and what is published, masks in place, is found to be wrong."""
    pytest.importorskip("torch")
    options = [f"--option={option}" for option in ("size=tiny", "part=subsampling", "mode=training", "frames=64")]
    ran = run("verify", BUNDLE, "--json", *options, cwd=tree)
    assert ran.code == 0, ran.out + ran.err
    record = json.loads(ran.out)
    assert record["verdict"] == "parity"
    assert "masks in place, as published" in record["wrong_variants_caught"]


@pytest.mark.parametrize("version", ["3.0.0"])
def test_what_is_applied_can_be_told_apart(tree: Path, run: Run) -> None:
    """For verify and bench of what is there: each unit's own part, also where one stands on lines of another."""
    from types import SimpleNamespace

    from apply_opt.commands import planning
    from apply_opt.io import ledger

    assert run(BUNDLE, cwd=tree).code == 0
    plan: Any = SimpleNamespace(ledger=ledger.load(str(tree)))
    steps = planning.steps_out(plan, catalog.load(packs=False).bundles[BUNDLE].optimizations)
    assert [name for name, _, _ in steps] == [*catalog.load(packs=False).bundles[BUNDLE].optimizations]
    for path in {path for _, path, _ in steps}:
        texts = [pair for _, where, pair in steps if where == path]
        assert sha256(texts[0][0]) == known("3.0.0")[path].sha256
        assert texts[-1][1] == (tree / path).read_bytes()
        assert all(one[1] == other[0] for one, other in itertools.pairwise(texts))
