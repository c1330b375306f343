"""Records of ``verify`` and ``bench``: kept with the user's state, one file each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apply_opt.errors import ApplyOptError, UsageError
from apply_opt.io import extras, machine, records


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's state folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def record(second: int, **more: Any) -> records.Record:
    return {"format": 1, "kind": "bench", "date": f"2026-01-01T00:00:{second:02}+00:00", **more}


def test_oldest_first_and_each_checkout_has_its_own() -> None:
    for second in (3, 1, 2):
        records.keep("/one", record(second))
    records.keep("/other", record(4))
    assert [r["date"][17:19] for r in map(records.read, records.paths("/one"))] == ["01", "02", "03"]
    assert len(records.paths("/other")) == 1
    assert records.paths("/none") == []


def test_two_of_one_second() -> None:
    paths = {records.keep("/one", record(1, seed=seed)) for seed in (1, 2)}
    assert len(paths) == len(records.paths("/one")) == 2


def test_also_in_another_file(tmp_path: Path) -> None:
    paths = records.keep_both("/one", record(1), str(tmp_path / "own.json"))
    assert paths[1:] == [str(tmp_path / "own.json")]
    assert [records.read(path) for path in paths] == [record(1)] * 2
    assert len(records.keep_both("/one", record(2), None)) == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 2, "kind": "bench"}', '{"format": 1, "kind": "x"}']
)
def test_what_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ApplyOptError, match=r"is not a record|has the record format 2"):
        records.read(str(tmp_path / "x.json"))
    with pytest.raises(ApplyOptError, match="there is no record"):
        records.read(str(tmp_path / "y.json"))


def test_place_is_looked_at_before_the_work(tmp_path: Path, state: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere" / "x.json"):
        with pytest.raises(UsageError, match="no file can be written there"):
            records.check_output(str(path))
    records.check_output(str(tmp_path / "new.json"))
    records.check_output(None)
    state.write_text("a file")
    with pytest.raises(ApplyOptError, match="no record can be kept in") as error:
        records.ready("/one")
    assert "XDG_STATE_HOME" in error.value.next_step


def test_what_an_extra_brings() -> None:
    extras.need("json", "os")
    with pytest.raises(extras.Missing, match="this needs nobody and nothing, not installed here") as error:
        extras.need("json", "nobody", "nothing")
    assert "apply-opt[proof]" in error.value.next_step
    assert [extras.extra_of(name) for name in ("torch.nn", "whisper", "json")] == ["bench", "targets", ""]


@pytest.mark.parametrize(
    ("files", "least"),
    [
        ({}, None),
        ({"memory.max": "max\n", "memory.current": "5\n"}, None),
        ({"memory.max": "1000\n", "memory.current": "400\n"}, 600),
        ({"memory.max": "1000\n", "memory.current": "1400\n"}, 0),
        ({"memory/memory.limit_in_bytes": "1000\n", "memory/memory.usage_in_bytes": "1\n"}, 999),
        ({"memory.max": "1000\n"}, None),
        ({"memory.max": "nonsense", "memory.current": "5"}, None),
    ],
)
def test_memory_of_a_container(files: dict[str, str], least: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: str, pipe: bool = False) -> bytes | None:
        text = files.get(path.removeprefix("/sys/fs/cgroup/"))
        return None if text is None else text.encode()

    monkeypatch.setattr(machine.files, "read", read)
    found = machine.free_memory()
    assert found > 2**20 if least is None else found == least


def test_is_json(tmp_path: Path) -> None:
    path = records.keep("/one", record(1, name="\u4e2d"))
    assert json.loads(Path(path).read_text("utf-8"))["name"] == "\u4e2d"


def test_what_steers_memory_and_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """No names of folders, and nothing that is somebody's own."""
    for name in machine.environment():
        monkeypatch.delenv(name)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1000")
    monkeypatch.setenv("MKL_DYNAMIC", "FALSE")
    monkeypatch.setenv("MALLOC_TRACE", "/home/somebody/trace")
    monkeypatch.setenv("AUTHOR", "somebody")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # a run has its own
    monkeypatch.setenv("LD_PRELOAD", "/home/somebody/libjemalloc.so.2:libm.so.6")
    expected = {"MALLOC_TOP_PAD_": "1000", "MKL_DYNAMIC": "FALSE", "LD_PRELOAD": "libjemalloc.so.2 libm.so.6"}
    assert machine.environment() == expected
