"""Numbers, axes, plots, and the commands that give a record again."""

from __future__ import annotations

import itertools
import math
import re
import shlex
import statistics

import made_records
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apply_opt.io import catalog
from apply_opt.model.effort import DEFAULT, QUICK, RIGOROUS
from apply_opt.page import axis, gain, numbers, plot, reproduce, words
from apply_opt.page.record import Bench, Verify, parse

POSITIVE = st.floats(1e-9, 1e9)


def bench(**more: object) -> Bench:
    record = parse(made_records.bench(**more), "x.json")  # type: ignore[arg-type]
    assert isinstance(record, Bench)
    return record


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04669, "46.69 ms"), (1.0, "1 s"), (75.5, "75.5 s"), (0.00031411, "314.1 µs"), (1e-9, "0.001 µs"), (0, "0 s"), (7200, "7,200 s")],
)  # fmt: skip
def test_seconds(value: float, text: str) -> None:
    assert numbers.seconds(value) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [(2, 1, "−50.0 %"), (1, 3, "+200 %"), (5, 5, "0 %"), (0, 0, "0 %"), (0, 5, ""), (1e6, 1e6 + 1, "0 %")],
)
def test_change(before: float, after: float, text: str) -> None:
    assert numbers.change(before, after) == text


@given(POSITIVE)
def test_a_gain_is_never_rounded_up(value: float) -> None:
    assert float(numbers.ratio_down(value).rstrip("×")) <= value


@pytest.mark.parametrize(("part", "text"), [(99_999, "99.99 %"), (100_000, "100.00 %"), (0, "0.00 %")])
def test_a_share_is_all_only_where_it_is_all(part: int, text: str) -> None:
    assert numbers.share(part, 100_000) == text


@given(st.lists(POSITIVE, min_size=1))
def test_an_axis_holds_its_values_and_has_marks(values: list[float]) -> None:
    scale = axis.around(values)
    assert all(0 < scale.share(value) < 1 for value in values)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= axis.MOST_TICKS
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    texts = [numbers.mark_ratio(tick) for tick in ticks]
    assert len(set(texts)) == len(texts)
    for tick, text in zip(ticks, texts):
        assert math.isclose(float(text.rstrip("×").replace(",", "")), tick, rel_tol=1e-6)


def test_the_blocks_of_the_plot_are_those_of_the_verdict() -> None:
    record = bench(factor=1.7)
    for case in record.cases:
        mean = math.exp(statistics.fmean(map(math.log, plot.block_ratios(record, case))))
        assert math.isclose(mean, record.verdicts[case].speedup[0])


def test_the_interval_and_the_noise_are_where_they_belong() -> None:
    found = plot.ratios(bench(factor=1.7), numbers.mark_ratio)
    for row in found.rows.values():
        assert found.one < row.low < row.estimate < row.high < 100
        assert row.noise[0] < found.one < row.noise[1]
        assert len(row.blocks) == QUICK.blocks
    assert [tick.text for tick in found.ticks if tick.at == found.one] == ["1×"]


def test_every_process_is_drawn() -> None:
    record = bench(effort=DEFAULT, timings=7)
    found = plot.raw(record, "3 s", numbers.mark_seconds)
    dots = {side: path.count("M") for side, path in found.dots.items()}
    assert dots == {"before": 7 * (12 + 12), "after": 7 * 12}
    assert {side: path.count("M") for side, path in found.medians.items()} == {"before": 24, "after": 12}
    assert not found.is_thinned
    assert sum(column.is_same for column in found.columns) == DEFAULT.same
    assert math.isclose(sum(column.width for column in found.columns), 100, abs_tol=0.5)
    for one, other in itertools.pairwise(found.columns):
        assert math.isclose(one.at + one.width, other.at, abs_tol=0.02)


def test_what_is_faster_is_lower() -> None:
    found = plot.raw(bench(factor=3.0), "3 s", numbers.mark_seconds)
    down = {side: [int(y) for y in re.findall(r"M\d+ (\d+)", path)] for side, path in found.medians.items()}
    assert max(down["before"]) < min(down["after"])  # from the top
    assert [tick.at for tick in found.ticks] == sorted((tick.at for tick in found.ticks), reverse=True)


def test_thousands_of_timings_stay_a_small_plot_with_the_slowest_in_it() -> None:
    record = bench(timings=4000)
    sample = record.samples[0].cases["3 s"]
    chosen = plot._chosen(sample.times)
    assert len(chosen) == plot.MOST_DOTS
    assert {sample.times.index(max(sample.times)), sample.times.index(min(sample.times))} <= set(chosen)
    found = plot.raw(record, "3 s", numbers.mark_seconds)
    assert found.is_thinned
    assert sum(map(len, found.dots.values())) < 40_000


# Commands


def command(kind: str, record: dict[str, object], home: str = "/home/someone") -> list[str]:
    return shlex.split(reproduce.command(kind, parse(record, "x.json"), catalog.load().optimizations, home))


@pytest.mark.parametrize(
    ("effort", "words"),
    [
        (QUICK, ["--quick"]),
        (DEFAULT, []),
        (RIGOROUS, ["--rigorous"]),
        (QUICK._replace(blocks=5), ["--quick", "--blocks", "5"]),
        (DEFAULT._replace(blocks=2), ["--blocks", "2"]),
        (QUICK._replace(seconds=0.125), []),
    ],
)
def test_the_effort_is_named(effort: object, words: list[str]) -> None:
    record = made_records.bench(effort=QUICK, **{})
    record["effort"] = effort._asdict()  # type: ignore[attr-defined]
    assert command("bench", record) == ["apply-opt", "bench", "tokenizer_ort_threads", *words]
    assert command("verify", record) == ["apply-opt", "verify", "tokenizer_ort_threads"]


def test_only_what_is_not_at_its_default_is_set() -> None:
    settings = {"tokenizer_tf32": {"precision": "medium", "scope": "encoder"}, "other_one": {"deep": True}}
    record = made_records.verify(optimizations=settings, threads=2, options={"size": "small", "a b": "$(x)"})
    words = "apply-opt verify tokenizer_tf32 other_one --set tokenizer_tf32.precision=medium --set other_one.deep=true"
    expected = [*words.split(), "--allow", "lossy", "--option", "size=small", "--option", "a b=$(x)", "--threads", "2"]
    assert command("verify", record) == expected


def test_what_steers_memory_is_set_again() -> None:
    record = made_records.verify(environment={"MALLOC_TOP_PAD_": "1 2", "$(x)": ""})
    assert command("verify", record)[:5] == ["env", "MALLOC_TOP_PAD_=1 2", "$(x)=", "apply-opt", "verify"]


def test_a_model_that_was_looked_at_has_to_be_looked_at_again() -> None:
    settings = {"tokenizer_light_model": {"model_id": "owner/model", "unchecked": False}}
    assert command("verify", made_records.verify(optimizations=settings))[-2:] == ["--preflight", "DIR"]
    settings["tokenizer_light_model"]["unchecked"] = True
    assert "--preflight" not in command("verify", made_records.verify(optimizations=settings))


def test_a_value_that_makes_it_lossy_is_allowed_by_name() -> None:
    known = catalog.load().optimizations["tokenizer_ort_threads"]._replace(safety_with={"intra_op=3": "lossy"})
    for value, ends in ((3, True), (2, False)):
        record = parse(made_records.verify(optimizations={known.name: {"intra_op": value}}), "x.json")
        text = reproduce.command("verify", record, {known.name: known}, "")
        assert text.endswith(" --allow lossy") == ends


def test_the_users_folder_is_not_named() -> None:
    record = parse(made_records.verify(options={"model": "/home/some one/a b"}), "x.json")
    text = reproduce.command("verify", record, {}, "/home/some one")
    assert "some" not in text
    assert text.endswith("""--option model="$HOME"'/a b'""")


# Words


def test_every_text_is_there_in_both_languages_with_the_same_places() -> None:
    for key, (english, chinese) in words.TEXTS.items():
        places = [sorted(re.findall(r"{(\w+)}", text)) for text in (english, chinese)]
        assert places[0] == places[1], key
        assert english.isascii() or set(re.sub(r"[ -~]", "", english)) <= set("×"), key
    assert any(re.search("[\u4e00-\u9fff]", chinese) for _, chinese in words.TEXTS.values())


def test_a_word_of_a_record_is_never_one_of_the_pages_own() -> None:
    say = words.speaker("zh")
    assert words.word(say, "faster") == "更快"
    for odd in ("observed", "headline", "{x}", "promise exact"):
        assert words.word(say, odd) == odd
    assert words.word(say, "exact", "promise ") == "结果逐位相同"
    assert words.word(say, "faster", "promise ") == ""


def test_a_verify_record_has_its_class() -> None:
    record = parse(made_records.verify(**{"class": "tolerance"}), "x.json")
    assert isinstance(record, Verify) and record.safety == "tolerance"


@pytest.mark.parametrize(
    ("before", "after", "shown"), [(96 * 2**20, 48 * 2**20, ("96 MiB", "48 MiB", "−50.0 %")), (0, 0, None)]
)
def test_what_is_kept_for_the_backward_pass(before: int, after: int, shown: tuple[str, ...] | None) -> None:
    """It is a row where anything is kept."""
    made = made_records.bench()["counts"]
    sides = {"before": before, "after": after}
    counts = {
        side: {case: {**made[side][case], "kept_for_backward": sides[side]} for case in made[side]} for side in sides
    }
    record = bench(counts=counts)
    rows = [row for part in gain._figures(record, record.cases[0], words.speaker("en")) for row in part.rows]
    found = [row[1:4] for row in rows if row.name == "kept for the backward pass"]
    assert found == ([shown] if shown else [])
