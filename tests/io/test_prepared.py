"""What workloads build once: whole or not at all, by one at a time, and never out of date."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import filelock
import pytest
from support import contents
from toy import NAME, SOURCE, Toy

from apply_opt.commands import proof
from apply_opt.errors import ApplyOptError
from apply_opt.io import files, prepared
from apply_opt.io.workers import Limits, Setting, WorkerFailed

COUNTING = """
import os
def prepare(folder, options):
    with open({log!r}, "a") as file:
        file.write("built\\n")
    with open(folder + "/model", "w") as file:
        file.write("half")
    {between}
    with open(folder + "/model", "w") as file:
        file.write("whole")
"""


class Cache:
    """A cache, and how often something was built for it."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy
        self.log = toy.folder / "built.txt"
        self.folder = toy.folder / "cache" / "target" / "key"
        self.workload("pass")

    def workload(self, between: str) -> None:
        self.toy.workload(COUNTING.format(log=str(self.log), between=between))

    def setting(self, seconds: float = 20.0) -> Setting:
        return self.toy.setting(Limits(seconds))._replace(folder=str(self.folder))

    def prepare(self, seconds: float = 20.0) -> dict[str, Any]:
        return prepared.prepare(self.setting(seconds), self.toy.arm())

    def built(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def is_whole(self) -> bool:
        return (self.folder / "model").read_text() == "whole" and not self.parts()

    def parts(self) -> list[str]:
        return [path.name for path in self.folder.parent.glob("*.part")]


@pytest.fixture
def cache(toy: Toy) -> Cache:
    return Cache(toy)


def test_builds_once(cache: Cache) -> None:
    first, second = cache.prepare(), cache.prepare()
    assert first == second
    assert first["cases"] == ["8", "7"] and first["wrong"] == ["off by one"] and first["has_referee"] is False
    assert cache.built() == 1 and cache.is_whole()


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        ("raise OSError(28, 'No space left on device')", "crashed"),
        ("os._exit(0)", "vanished"),
        ("os.kill(os.getpid(), 9)", "vanished"),
        ("__import__('time').sleep(60)", "hung"),
    ],
)
def test_interrupted(cache: Cache, between: str, reason: str) -> None:
    cache.workload(between)
    with pytest.raises(WorkerFailed) as failed:
        cache.prepare(1.0)
    assert failed.value.reason == reason
    assert not cache.folder.exists() and cache.parts() == []
    cache.workload("pass")
    cache.prepare()
    assert cache.built() == 2 and cache.is_whole()


@pytest.mark.parametrize("said", [None, "", "{", "[]", "{}", '{"cases": ["8"]}', "\xff"])
def test_half_written_folder_is_not_used(cache: Cache, said: str | None) -> None:
    """As an older version, or a machine that lost power, may have left it."""
    part = cache.folder.parent / "key.part"
    for folder in (cache.folder, part):
        folder.mkdir(parents=True)
        (folder / "model").write_text("half")
        (folder / "junk").mkdir()
    if said is not None:
        (cache.folder / prepared.SAID).write_text(said, encoding="latin-1")
    cache.prepare()
    assert cache.built() == 1 and cache.is_whole()
    assert sorted(contents(cache.folder)) == ["model", prepared.SAID]


def test_lock_of_one_that_died(cache: Cache) -> None:
    """The file stays, the lock does not."""
    cache.folder.parent.mkdir(parents=True)
    code = "import filelock, os, sys; filelock.FileLock(sys.argv[1]).acquire(); os._exit(9)"
    path = str(cache.folder) + prepared.LOCK
    subprocess.run([sys.executable, "-c", code, path], check=False)
    assert os.path.exists(path)
    cache.prepare()
    assert cache.built() == 1


def test_lock_that_is_held(cache: Cache) -> None:
    cache.folder.parent.mkdir(parents=True)
    with (
        filelock.FileLock(str(cache.folder) + prepared.LOCK),
        pytest.raises(ApplyOptError, match=r"another apply-opt has been preparing .* for 0.2 s"),
    ):
        cache.prepare(0.2)


def test_two_at_once_build_once(cache: Cache, tmp_path: Path) -> None:
    cache.workload("__import__('time').sleep(0.5)")
    setting = json.dumps([*cache.setting()[:3], cache.toy.arm().checkout])
    code = """
import json, sys
from apply_opt.io import prepared
from apply_opt.io.workers import Arm, Setting
workload, folder, options, checkout = json.loads(sys.argv[1])
print(json.dumps(prepared.prepare(Setting(workload, folder, options), Arm(checkout, ["toy.py"]))))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", code, setting]
    running = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE) for _ in range(3)]
    said = {process.communicate(timeout=30)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(said) == 1 and cache.built() == 1 and cache.is_whole()


def stamp(folder: Path, days: float) -> None:
    """As if it had last been used so long ago."""
    used = time.time() - days * prepared.UNUSED
    mark = Path(str(folder) + prepared.USED)
    mark.touch()
    os.utime(mark, (used, used))


class TestOldOnes:
    """What nobody has used for a day goes; a few stay however old they are."""

    @pytest.fixture
    def old(self, cache: Cache) -> list[Path]:
        """Six folders, the last the oldest."""
        found = [cache.folder.parent / f"old{number}" for number in range(6)]
        for days, folder in enumerate(found, start=2):
            folder.mkdir(parents=True)
            (folder / "model").write_text("whole")
            (folder / prepared.SAID).write_text("{}")
            stamp(folder, days)
        return found

    def test_go(self, cache: Cache, old: list[Path]) -> None:
        cache.prepare()
        assert [folder.exists() for folder in old] == [True] * 3 + [False] * 3
        assert cache.is_whole()

    def test_one_that_is_used_again(self, cache: Cache, old: list[Path]) -> None:
        """It is found, not built, and is the newest from then on."""
        cache.prepare()
        stamp(cache.folder, 9)
        before = files.census(str(cache.folder))
        cache.prepare()
        assert cache.built() == 1
        assert files.census(str(cache.folder)) == before, "another run may be looking"
        cache.folder = cache.folder.parent / "another"
        cache.prepare()
        assert (cache.folder.parent / "key").exists()

    def test_not_one_that_another_is_about_to_use(self, cache: Cache, old: list[Path]) -> None:
        with filelock.FileLock(str(old[5]) + prepared.LOCK):
            cache.prepare()
        assert [folder.exists() for folder in old] == [True, True, True, False, False, True]

    def test_not_one_that_was_used_while_others_went(
        self, cache: Cache, old: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = files.remove_tree

        def remove(path: str) -> None:
            real(path)
            if path == str(old[5]):
                stamp(old[4], 0)

        monkeypatch.setattr(files, "remove_tree", remove)
        cache.prepare()
        assert [folder.exists() for folder in old] == [True, True, True, False, True, False]

    def test_what_cannot_go_is_no_matter(self, cache: Cache, old: list[Path]) -> None:
        Path(str(old[5]) + prepared.LOCK).mkdir()
        cache.prepare()
        assert cache.is_whole()

    def test_none_of_today(self, cache: Cache, old: list[Path]) -> None:
        for folder in old:
            stamp(folder, 0)
        cache.prepare()
        assert all(folder.exists() for folder in old)


def test_folder_that_cannot_be_written(cache: Cache) -> None:
    (cache.toy.folder / "cache").write_text("a file")
    with pytest.raises(ApplyOptError, match="nothing can be prepared in") as error:
        cache.prepare()
    assert "XDG_CACHE_HOME" in error.value.next_step
    assert cache.built() == 0


def test_disk_is_full(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, data: bytes, like: str | None = None) -> None:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(files, "write_through", full)
    with pytest.raises(ApplyOptError, match="No space left on device"):
        cache.prepare()
    assert not cache.folder.exists() and cache.parts() == []


class TestKey:
    """What is built is found again only for what it was built from."""

    def keys(self, toy: Toy, run: Any, *words: str) -> set[str]:
        ran = run("verify", NAME, "--json", *words, cwd=toy.tree)
        assert ran.code == 0, ran.out
        return {path.name for path in Path(os.environ["XDG_CACHE_HOME"]).rglob("*") if (path / "made").exists()}

    def test_same(self, toy: Toy, run: Any) -> None:
        assert len(self.keys(toy, run) | self.keys(toy, run)) == 1

    def test_other_folder_that_it_is_typed_in(self, toy: Toy, run: Any) -> None:
        (toy.tree / "inner").mkdir()
        self.keys(toy, run)
        ran = run("verify", NAME, "--json", cwd=toy.tree / "inner")
        assert ran.code == 0, ran.out
        assert len(self.keys(toy, run)) == 1

    @pytest.mark.parametrize("what", ["options", "changed file", "another file", "workload", "versions"])
    def test_another(self, toy: Toy, run: Any, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
        before = self.keys(toy, run)
        if what == "changed file":
            toy.source(SOURCE + "# more\n")
        elif what == "another file":
            toy.source("x = 1\n", "model.py")
        elif what == "workload":
            toy.workload("# more")
        elif what == "versions":
            monkeypatch.setattr(proof, "_installed", lambda: ["torch 99"])
        after = self.keys(toy, run, *(["--option", "size=4,3"] if what == "options" else []))
        assert len(after) == 2 and after > before
