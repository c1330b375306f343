"""A target that pip has installed: a copy is changed, and nothing of pip's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Ran, contents, snapshot
from toy import NAME, NEW, OLD, SOURCE, Toy

Run = Callable[..., Ran]
FILE = "toy_package/toy.py"


@pytest.fixture(params=["site-packages", "dist-packages"])
def site(request: pytest.FixtureRequest, toy: Toy, tmp_path: Path) -> Path:
    """The toy as a package among others, of which one is too large to copy for nothing."""
    folder = tmp_path / "env" / str(request.param)
    for name in ("toy_package", "toy_package/__pycache__", "other"):
        (folder / name).mkdir(parents=True)
    (folder / FILE).write_text(SOURCE)
    (folder / "toy_package" / "__pycache__" / "toy.pyc").write_bytes(b"old")
    (folder / "other" / "large.py").write_text("LARGE = 1\n")
    target = toy.pack / "target_repos" / "toy_target" / "target.toml"
    target.write_text(target.read_text().replace('["toy.py"]', f'["{FILE}"]'))
    toy.workload(
        """
        def load(folder, options):
            import os, sys
            assert not os.path.exists(os.path.join(sys.path[0], "other")), "what is not changed is not copied"
            from toy_package import toy
            return toy.Toy()
        """
    )
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Where the user is."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def test_a_copy_is_changed(site: Path, here: Path, run: Run) -> None:
    before = snapshot(site)
    ran = run(NAME, "--repo", site, cwd=here)
    assert ran.code == 0, ran.err
    copy = here / "toy_package-apply-opt"
    assert f"export PYTHONPATH={copy}" in ran.out and f"--repo {copy}" in ran.out
    assert NEW in (copy / FILE).read_text()
    assert sorted(contents(copy, ".apply-opt")) == [FILE]
    assert snapshot(site) == before
    assert run("revert", NAME, "--repo", copy, cwd=here).code == 0
    assert contents(copy) == {FILE: SOURCE.encode()}


def test_the_copy_that_is_there_is_used(site: Path, here: Path, run: Run) -> None:
    assert run(NAME, "--repo", site / "toy_package", "--json", cwd=here).code == 0
    ran = run(NAME, "--repo", site, "--json", cwd=here)
    document = json.loads(ran.out)
    assert [o["outcome"] for o in document["outcomes"]] == ["already"]
    assert document["copy_of"] == str(site)


def test_in_place(site: Path, here: Path, run: Run) -> None:
    assert run(NAME, "--repo", site, "--in-place", cwd=here).code == 0
    assert NEW in (site / FILE).read_text()
    assert list(here.iterdir()) == []
    assert run("revert", "--repo", site, cwd=here).code == 0
    assert (site / FILE).read_text() == SOURCE
    assert not (site / ".apply-opt").exists()


def test_a_refusal_leaves_no_copy(site: Path, here: Path, run: Run) -> None:
    (site / FILE).write_text(SOURCE.replace(OLD, ""))
    assert run(NAME, "--repo", site, cwd=here).code == 3
    assert list(here.iterdir()) == []


def test_something_else_is_in_its_place(site: Path, here: Path, run: Run) -> None:
    (here / "toy_package-apply-opt").write_text("mine")
    ran = run(NAME, "--repo", site, cwd=here)
    assert (ran.code, "is no copy of the package" in ran.err) == (3, True)
    assert (here / "toy_package-apply-opt").read_text() == "mine"


def test_no_room(site: Path, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copytree", full)
    ran = run(NAME, "--repo", site, cwd=here)
    assert (ran.code, "No space left" in ran.err) == (3, True)
    assert list(here.iterdir()) == []


def test_proven_first(site: Path, here: Path, run: Run, quicker: None) -> None:
    """Copies of the package alone are run."""
    before = snapshot(site)
    ran = run("verify", NAME, "--repo", site, cwd=here)
    assert ran.code == 0, ran.out + ran.err
    assert snapshot(site) == before
