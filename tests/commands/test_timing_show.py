"""``apply-opt timing show``: a table, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import call

ROW = "{:40} | 总计: {:8.2f}s | 调用: {:6d}次 | 平均: {:7.2f}ms"


def log(tmp_path: Path, **seconds: float) -> str:
    """A log with these stages, a thousand calls of each."""
    names = {name.removeprefix("s"): value for name, value in seconds.items()}
    rows = "\n".join(ROW.format(name, value, 1000, value) for name, value in names.items())
    text = f"Epoch 0 总耗时: 3.50s\n{'=' * 60}\n⏱️  性能分析统计\n{'=' * 60}\n环节名称\n{'-' * 60}\n{rows}\n{'=' * 60}\n"
    path = tmp_path / "profile.log"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_what_holds_it_up(tmp_path: Path) -> None:
    """The largest first, beside its usual share; and whether anybody waits for it."""
    path = log(
        tmp_path,
        s03b_image_decode=60,
        s20_train_forward_pass=20,
        s21_backward=15,
        s22_optimizer_step=5,
        s15_data_wait=30,
    )
    ran = call("timing", "show", path, cwd=tmp_path)
    assert ran.code == 0
    assert "42.9% of the training is waiting for data" in ran.out
    lines = ran.out.splitlines()
    first = next(number for number, line in enumerate(lines) if "(usually" in line)
    assert lines[first].startswith("decoding images: 46.2% (usually 40-50 %)")
    assert "lru_cache" in lines[first + 1]
    assert "1 epoch (or group of steps), 3.50 s" in ran.out


def test_processes_in_the_readers_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the log's is."""
    path = Path(log(tmp_path, s21_backward=15))
    more = "次 | 平均: 15.00ms | 中位: 13.00ms | p95: 17.00ms | 占比: 100.0% | 主进程 + 2 子进程"
    path.write_text(
        path.read_text(encoding="utf-8").replace("次 | 平均: 15000.00ms", more).replace("次 | 平均:   15.00ms", more),
        encoding="utf-8",
    )
    assert "p95 ~17  main + 2 workers" in call("timing", "show", str(path), cwd=tmp_path).out
    monkeypatch.setenv("APPLY_OPT_LANG", "zh")
    assert "主进程 + 2 子进程" in call("timing", "show", str(path), cwd=tmp_path).out


def test_nobody_waits(tmp_path: Path) -> None:
    """Workers that take long beside a loader that keeps up are no reason to do anything."""
    path = log(
        tmp_path,
        s03b_image_decode=600,
        s20_train_forward_pass=20,
        s21_backward=15,
        s22_optimizer_step=5,
        s15_data_wait=0.2,
    )
    ran = call("timing", "show", path, cwd=tmp_path)
    assert "0.5% of the training is waiting for data (15_data_wait): the loader keeps up" in ran.out
    assert "decoding images: 93.7% (usually 40-50 %); nobody waits for it" in ran.out
    assert "lru_cache" not in ran.out


def test_in_chinese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLY_OPT_LANG", "zh")
    ran = call(
        "timing", "show", log(tmp_path, s21_backward=15, s20_train_forward_pass=5, s15_data_wait=1), cwd=tmp_path
    )
    assert "反向传播：71.4%（参考 15-25%）" in ran.out
    assert "个周期" in ran.out


def test_json(tmp_path: Path) -> None:
    ran = call("timing", "show", log(tmp_path, s21_backward=15, s15_data_wait=5), "--json", cwd=tmp_path)
    document = json.loads(ran.out)
    assert document["stages"][0] | {"share": 0.75} == document["stages"][0]
    assert document["bottlenecks"] == [
        {"title": "backward pass", "share": 0.75, "usual_percent": [15, 25], "units": []}
    ]
    assert document["waiting_for_data"] == 0.25
    assert document["epoch_seconds"] == [3.5]


def test_other_programs(tmp_path: Path) -> None:
    """Stages of which no advice is known."""
    ran = call("timing", "show", log(tmp_path, s07_language_model=15, s03_tokenizer=5), cwd=tmp_path)
    assert ran.code == 0
    assert "75.0%" in ran.out
    assert "usually" not in ran.out


def test_a_trace(tmp_path: Path) -> None:
    """Of its own; without one it is said how to get one."""
    events = [{"name": "a", "ph": "X", "ts": 1, "dur": 2, "pid": 3, "tid": 3}]
    cells = [*[0] * 10, 1, *[0] * 53, 1000, 1000, 0, 0, 1, 0]
    document = {"timing": 1, "stages": {"a": cells}, "within": {"a": ""}, "laps": [], "traceEvents": events}
    (tmp_path / "t.json").write_text(json.dumps(document))
    out = tmp_path / "trace.json"
    assert call("timing", "show", str(tmp_path / "t.json"), "--trace", str(out), cwd=tmp_path).code == 0
    assert json.loads(out.read_text()) == {"traceEvents": events}
    (tmp_path / "copy.json").write_text(json.dumps(document))
    ran = call("timing", "show", tmp_path / "copy.json", "--trace", tmp_path / "copy.json", cwd=tmp_path)
    assert ran.code == 1
    assert json.loads((tmp_path / "copy.json").read_text()) == document
    ran = call("timing", "show", log(tmp_path, s21_backward=1), "--trace", str(tmp_path / "other.json"), cwd=tmp_path)
    assert ran.code == 1
    assert "APPLY_OPT_TIMING_EVENTS" in ran.err
    assert not (tmp_path / "other.json").exists()


@pytest.mark.parametrize("text", [None, "Train loss: 1"])
def test_nothing_to_show(text: str | None, tmp_path: Path) -> None:
    if text:
        (tmp_path / "x.log").write_text(text)
    ran = call("timing", "show", str(tmp_path / "x.log"), cwd=tmp_path)
    assert ran.code == 1
    assert "x.log" in ran.err
    assert ran.err.count("\n") >= 2
