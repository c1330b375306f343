"""Times of stages: out of logs that people keep, and out of the clock's own file."""

from __future__ import annotations

import importlib.util
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from apply_opt.errors import ApplyOptError
from apply_opt.model.stage_times import Times, parse, quantile_ms

GUIDE = """
Epoch 0
============================================================
⏱️  性能分析统计
============================================================
环节名称                                  | 总计:    XXXs | 调用:  XXX次 | 平均: XXXms
------------------------------------------------------------
03_read_images_total                     | 总计:  1200.50s | 调用:  83430次 | 平均:  14.39ms
03b_image_decode                         | 总计:  1100.30s | 调用: 333720次 | 平均:   3.30ms
20_train_forward_pass                    | 总计:   850.20s | 调用:  20857次 | 平均:  40.75ms
21_backward                              | 总计:   650.40s | 调用:  20857次 | 平均:  31.18ms
============================================================
"""


def read(text: str) -> Times:
    return parse(text.encode(), "profile.log")


def test_a_table_as_the_published_guide_has_it() -> None:
    """It says neither shares nor processes: a stage's parts are told by their numbers."""
    times = read(GUIDE)
    assert [stage.name for stage in times.stages][:2] == ["03_read_images_total", "03b_image_decode"]
    whole = 100.2 + 1100.3 + 850.2 + 650.4
    shares = {stage.name[:3]: round(stage.share, 6) for stage in times.stages}
    assert shares == {
        "03_": round(100.2 / whole, 6),
        "03b": round(1100.3 / whole, 6),
        "20_": round(850.2 / whole, 6),
        "21_": round(650.4 / whole, 6),
    }
    assert times.stages[0].calls == 83430
    assert times.stages[0].mean_ms == pytest.approx(14.39, abs=0.005)
    assert times.stages[0].median_ms is None


def test_epochs_are_those_that_the_table_counts() -> None:
    """Of a log of two runs those of the second, up to its last table."""
    first = f"Epoch 0 总耗时: 1.00s\nEpoch 1 总耗时: 2.00s\n{GUIDE}"
    second = f"Epoch 0 总耗时: 3.00s\n{GUIDE}\nEpoch 1 总耗时: 4.00s\n{GUIDE}\nEpoch 2 总耗时: 5.00s\n"
    assert read(first).laps == [1.0, 2.0]
    assert read(first + second).laps == [3.0, 4.0]


def test_calls_too_short_for_the_hundredths_of_a_total() -> None:
    """Their mean is in the log, to be read there."""
    row = "04_read_actions                          | 总计:     0.00s | 调用:     17次 | 平均:    0.26ms"
    (stage,) = read(GUIDE.replace("03_read_images_total                     |", f"{row}\n|")).stages[-1:]
    assert (stage.name, stage.mean_ms) == ("04_read_actions", 0.26)


def clock(events: int = 0) -> Any:
    spec = importlib.util.spec_from_file_location("_clock_of_this_test", ROOT / "codemods/_timing_clock.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module._timing


@pytest.mark.parametrize("language", ["", "en"])
def test_log_and_file_of_the_clock_say_the_same(
    language: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APPLY_OPT_TIMING_LANGUAGE", language)
    monkeypatch.setenv("APPLY_OPT_TIMING_DIR", str(tmp_path))
    timing = clock()
    whole, part = timing.stage("03_whole"), timing.stage("03a_part", within="03_whole")
    for _ in timing.laps(range(2)):
        whole.start()
        part.start()
        time.sleep(0.03)
        part.stop()
        time.sleep(0.02)
        whole.stop()
    timing.stages.clear()
    log = read(capsys.readouterr().out.replace("\n", "\r\n"))
    (file,) = tmp_path.glob("*.json")
    kept = parse(file.read_bytes(), file.name)
    assert [s.name for s in log.stages] == [s.name for s in kept.stages] == ["03_whole", "03a_part"]
    for said, written in zip(log.stages, kept.stages):
        assert said.seconds == pytest.approx(written.seconds, abs=0.006)
        assert said.share == pytest.approx(written.share, abs=0.0006)
        assert said.calls == written.calls == 2
        assert said.median_ms == pytest.approx(written.median_ms, abs=0.006)
    assert sum(stage.share for stage in kept.stages) == pytest.approx(1)
    assert len(log.laps) == len(kept.laps) == 2
    assert log.laps == pytest.approx(kept.laps, abs=0.006)


def test_the_last_table_counts() -> None:
    assert read(GUIDE + GUIDE.replace("650.40s", "999.40s")).seconds(["21_backward"]) == 999.4


def test_time_on_a_gpu() -> None:
    """Where it is longer than the launch, it is the stage's."""
    row = (
        "23_on_the_gpu                            | 总计:   850.20s | 调用:  20857次 | 平均:  40.75ms | 中位:   30.00ms"
        " | p95:   50.00ms | 占比:  40.0% | 主进程 | GPU: 900.00s 43.15ms\n"
    )
    times = read(GUIDE.replace("21_backward", row + "21_backward"))
    (stage,) = [stage for stage in times.stages if stage.name == "23_on_the_gpu"]
    assert (stage.gpu_seconds, stage.where) == (900, "主进程")
    assert times.seconds(["23_on_the_gpu", "21_backward"]) == 900 + 650.4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Epoch 0\nTrain loss: 1",
        "{}",
        "[]",
        '{"timing": 2}',
        "性能分析统计\n",
        GUIDE.partition("03_read")[0],
        "\x00\xff",
    ],
)
def test_no_table(text: str) -> None:
    with pytest.raises(ApplyOptError, match="no table of stages"):
        parse(text.encode("utf-8", "replace"), "x.log")


@pytest.mark.parametrize(
    "document",
    [
        {"timing": 1},
        {"timing": 1, "stages": {"a": [1] * 10}, "within": {}, "laps": []},
        {"timing": 1, "stages": [], "within": {}, "laps": []},
        {"timing": 1, "stages": {"a": [0] * 64 + [1, 1, 0, 0, 1, 0]}, "within": {}, "laps": [3]},
        *(
            {"timing": 1, "stages": {"a": [3] * 64 + [value, 1, 0, 0, 1, 0]}, "within": {}, "laps": []}
            for value in (-1, 2**63, 10**400, 1.5, float("inf"), float("nan"), "1", None)
        ),
        *(
            {"timing": 1, "stages": {"a": [3] * 70}, "within": {}, "laps": [{"seconds": value}]}
            for value in (-1.0, 1e300, float("inf"), float("nan"), "1", None)
        ),
        {"timing": 1, "stages": {"\x1b[31m": [3] * 70}, "within": {}, "laps": []},
    ],
)
def test_a_damaged_file(document: dict[str, Any]) -> None:
    with pytest.raises(ApplyOptError, match="damaged"):
        parse(json.dumps(document).encode(), "x.json")


@given(
    st.binary(max_size=400) | st.text(max_size=400).map(lambda text: (GUIDE[:250] + text).encode("utf-8", "replace"))
)
def test_whatever_a_log_holds(data: bytes) -> None:
    """It is read, or refused."""
    try:
        times = parse(data, "x.log")
    except ApplyOptError:
        return
    assert all(0 <= stage.share <= 1.001 for stage in times.stages)


@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=50), st.sampled_from([0.5, 0.95]))
def test_quantiles_are_good_to_a_factor_of_two(lengths: list[int], part: float) -> None:
    counts = [0] * 64
    for length in lengths:
        counts[length.bit_length()] += 1
    need = part * len(lengths)
    true = sorted(lengths)[max(0, -(-int(need * 1000) // 1000) - 1)] / 1e6
    assert true / 2.0001 <= quantile_ms(counts, part) <= true * 2.0001
