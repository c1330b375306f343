"""``apply-opt report``: which records, held against which code, and what is written and printed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_records
import pytest
from support import THREADS, Ran

from apply_opt.io import records
from apply_opt.model import parity
from apply_opt.model.digest import sha256
from apply_opt.model.effort import RIGOROUS

Run = Callable[..., Ran]
TF32 = {"tokenizer_tf32": {"precision": "high", "scope": "encoder"}}


def keep(checkout: Path, *found: dict[str, Any]) -> list[str]:
    return [records.keep(os.path.realpath(checkout), record) for record in found]


def with_code(checkout: Path, run: Run, *found: dict[str, Any]) -> list[dict[str, Any]]:
    """The records as if they were of this checkout's code, which stays as it is."""
    path = checkout / "tokenizer.py"
    before = path.read_bytes()
    assert run(THREADS, cwd=checkout).code == 0
    after = path.read_bytes()
    assert run("revert", "--all", cwd=checkout).code == 0
    assert path.read_bytes() == before
    return [{**record, "sha256": {"tokenizer.py": [sha256(before), sha256(after)]}} for record in found]


def test_nothing_yet(checkout: Path, run: Run) -> None:
    ran = run("report", cwd=checkout)
    assert ran.code == 1
    assert "there is no record of this checkout" in ran.err
    assert "apply-opt verify NAME\n  apply-opt bench NAME" in ran.err
    ran = run("report", THREADS, cwd=checkout)
    assert f"no record for {THREADS} of this checkout\n  apply-opt verify {THREADS}\n" in ran.err
    assert not (checkout / "report.html").exists()


def test_not_a_checkout(run: Run, tmp_path: Path) -> None:
    assert run("report", cwd=tmp_path).code == 3


def test_the_page_is_written_and_the_conclusion_printed(checkout: Path, run: Run) -> None:
    keep(checkout, *with_code(checkout, run, made_records.verify(), made_records.bench(1.5)))
    ran = run("report", cwd=checkout)
    assert (ran.code, ran.err) == (0, "")
    assert f"{THREADS}: at least 1.4" in ran.out and "as fast; same results" in ran.out
    assert "page: report.html" in ran.out
    page = (checkout / "report.html").read_text("utf-8")
    assert page.startswith("<!doctype html>") and page.endswith("</html>")
    for text in (
        "at least 1.4",
        "same results",
        "The code now is as it was measured, without the change.",
        "A processor",
    ):
        assert text in page
    assert "+2 &amp; &lt;2&gt;" in page and "apply-opt bench tokenizer_ort_threads" in page
    assert "<2>" not in page


def test_a_long_measurement_is_a_small_page(checkout: Path, run: Run) -> None:
    keep(checkout, made_records.verify(), made_records.bench(1.5, RIGOROUS, timings=400))
    assert run("report", cwd=checkout).code == 0
    assert (checkout / "report.html").stat().st_size < 300_000


def test_written_over_a_page_of_ours_only(checkout: Path, run: Run) -> None:
    keep(checkout, made_records.verify())
    path = checkout / "report.html"
    path.write_text("mine")
    ran = run("report", cwd=checkout)
    assert ran.code == 1
    assert "report.html is there, and is not a page of apply-opt report\n  another name: --output FILE" in ran.err
    assert path.read_text() == "mine"
    for _ in range(2):
        assert run("report", "--output", "other.html", cwd=checkout).code == 0
    (checkout / "folder.html").mkdir()
    assert run("report", "--output", "folder.html", cwd=checkout).code == 1
    assert run("report", "--output", "nowhere/x.html", cwd=checkout).code == 1


def test_the_code_with_the_change_and_without_it_and_another(checkout: Path, run: Run) -> None:
    keep(checkout, *with_code(checkout, run, made_records.verify(), made_records.bench()))

    def said() -> tuple[str, str, str]:
        (found,) = json.loads(run("report", "--json", cwd=checkout).out)["sets"]
        assert found["verify"]["code"] == found["bench"]["code"]
        return found["bench"]["code"]["state"], found["notes"][0], found["bench"]["code"]["changed"]

    assert said() == ("before", "The code now is as it was measured, without the change.", [])
    assert run(THREADS, cwd=checkout).code == 0
    assert said() == ("after", "The code now is as it was measured, with the change.", [])
    path = checkout / "tokenizer.py"
    path.write_bytes(path.read_bytes() + b"# mine\n")
    state, note, changed = said()
    assert (state, changed) == ("other", ["tokenizer.py"])
    assert note.startswith("Older than the code: tokenizer.py is not as it was when this was recorded (comparison, ")
    ran = run("report", cwd=checkout)
    assert "Older than the code" in ran.out and "Do it again: apply-opt bench tokenizer_ort_threads --quick" in ran.out
    path.rename(checkout / "moved.py")
    assert said()[0] == "other"


def test_a_comparison_of_other_code_than_was_measured(checkout: Path, run: Run) -> None:
    (verify,) = with_code(checkout, run, made_records.verify())
    keep(checkout, verify, made_records.bench())
    (found,) = json.loads(run("report", "--json", cwd=checkout).out)["sets"]
    assert found["notes"][0] == "Results were compared for one version of the code, and speed was measured for another."
    assert found["verify"]["code"]["state"] == "before" and found["bench"]["code"]["state"] == "other"


def test_the_newest_of_each_set(checkout: Path, run: Run) -> None:
    dates = [f"2026-11-2{day}T09:00:00+00:00" for day in range(4)]
    other = {THREADS: {"intra_op": 3}}
    keep(
        checkout,
        made_records.verify("parity", date=dates[0]),
        made_records.verify("parity failed", [parity.Difference("x", "y")], date=dates[2]),
        made_records.verify("parity", date=dates[1]),
        made_records.bench(1.5, date=dates[0]),
        made_records.bench(0.5, date=dates[1], optimizations=other),
        made_records.verify("lossy", date=dates[3], optimizations=TF32),
    )
    sets = json.loads(run("report", "--json", cwd=checkout).out)["sets"]
    assert [found["optimizations"] for found in sets] == [TF32, {THREADS: {"intra_op": "auto"}}, other]
    assert [found["verify"] and found["verify"]["verdict"] for found in sets] == ["lossy", "parity failed", None]
    assert [bool(found["bench"]) for found in sets] == [False, True, True]
    assert sets[1]["conclusion"].startswith("results are not what its class promises; at least 1.4")
    assert sets[2]["conclusion"] == "slower in 2 of 2 inputs; results were not compared"
    assert sets[0]["conclusion"] == (
        "speed was not measured; results may change: here 99.80 % of the discrete outputs are the same"
    )
    assert "Next: apply-opt bench tokenizer_tf32 --allow lossy" in sets[0]["notes"]


def test_names_say_which(checkout: Path, run: Run) -> None:
    keep(checkout, made_records.verify(), made_records.verify("lossy", optimizations=TF32))

    def sets(*words: str) -> list[list[str]]:
        document = json.loads(run("report", *words, "--json", cwd=checkout).out)
        return [sorted(found["optimizations"]) for found in document["sets"]]

    assert sets("tokenizer_tf32") == [["tokenizer_tf32"]]
    assert sorted(sets("tokenizer_quick")) == sorted(sets()) == [[THREADS], ["tokenizer_tf32"]]
    assert run("report", "tokenizer_light_model", cwd=checkout).code == 1
    ran = run("report", "tokenizer_tf33", cwd=checkout)
    assert ran.code == 2 and "did you mean tokenizer_tf32?" in ran.err


def test_what_is_applied_is_told(checkout: Path, run: Run) -> None:
    keep(checkout, made_records.verify())
    assert json.loads(run("report", "--json", cwd=checkout).out)["applied"] == []
    run(THREADS, cwd=checkout)
    (applied,) = json.loads(run("report", "--json", cwd=checkout).out)["applied"]
    assert (applied["name"], applied["state"]) == (THREADS, "applied")
    run("report", cwd=checkout)
    assert "In this checkout now" in (checkout / "report.html").read_text("utf-8")


# Records that are named


def test_records_from_anywhere(run: Run, tmp_path: Path) -> None:
    for name, record in (("a", made_records.verify()), ("b", made_records.bench())):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    words = ("report", "--record", "a.json", "--record", "b.json", "--record", "a.json")
    ran = run(*words, cwd=tmp_path)
    assert ran.code == 0, ran
    assert "Not held against any checkout (comparison, measurement)" in ran.out
    document = json.loads(run(*words, "--json", cwd=tmp_path).out)
    assert document["applied"] is None and document["page"] is None
    assert document["sets"][0]["bench"]["record"] == "b.json"
    assert run(*words, "--repo", "nowhere", cwd=tmp_path).code == 3


def test_the_newest_is_shown_in_whatever_order_they_are_named(run: Run, tmp_path: Path) -> None:
    for name, day, verdict in (("new", 2, "parity failed"), ("old", 1, "parity")):
        record = made_records.verify(verdict, date=f"2026-11-2{day}T09:00:00+00:00")
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    for order in (("new", "old"), ("old", "new")):
        words = [word for name in order for word in ("--record", f"{name}.json")]
        (found,) = json.loads(run("report", *words, "--json", cwd=tmp_path).out)["sets"]
        assert found["verify"]["record"] == "new.json"


def test_a_path_that_leads_out_is_not_followed(checkout: Path, run: Run) -> None:
    (checkout.parent / "secret").write_text("x")
    record = made_records.verify(sha256={"../secret": [sha256(b"x"), ""]})
    (checkout / "a.json").write_text(json.dumps(record))
    document = json.loads(run("report", "--record", "a.json", "--json", cwd=checkout).out)
    assert document["sets"][0]["verify"]["code"] == {"state": "unknown", "changed": []}


BAD = {
    "truncated": json.dumps(made_records.bench())[:-200],
    "empty": "",
    "another document": json.dumps({"kind": "bench"}),
    "a list": "[1]",
    "not text": "\udcff\udcfe",
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_is_no_record(text: str, checkout: Path, run: Run) -> None:
    (checkout / "x.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    ran = run("report", "--record", "x.json", cwd=checkout)
    assert ran.code == 1
    assert ran.err.startswith("apply-opt: x.json is not a record of apply-opt verify or bench")
    assert "Traceback" not in ran.err


def test_a_record_of_another_format(checkout: Path, run: Run) -> None:
    (checkout / "x.json").write_text(json.dumps(made_records.verify(format=2)))
    ran = run("report", "--record", "x.json", cwd=checkout)
    assert ran.code == 1
    assert "x.json has the record format 2; this apply-opt reads 1" in ran.err


def test_a_record_with_something_missing(checkout: Path, run: Run) -> None:
    record = made_records.bench()
    del record["verdicts"]["3 s"]["speedup"]
    (checkout / "x.json").write_text(json.dumps(record))
    ran = run("report", "--record", "x.json", cwd=checkout)
    assert ran.code == 1
    assert "x.json is not a whole record" in ran.err and "speedup" in ran.err
    assert "make it again: apply-opt verify, apply-opt bench" in ran.err


def test_a_bad_file_among_the_kept_is_left_out_and_told(checkout: Path, run: Run) -> None:
    (path,) = keep(checkout, made_records.verify())
    Path(path).with_name("x.json").write_text(BAD["truncated"])
    ran = run("report", cwd=checkout)
    assert ran.code == 0
    assert (
        "left out: " in ran.out and "x.json is not a record of apply-opt verify or bench, or not all of one" in ran.out
    )
    assert "Left out: " in (checkout / "report.html").read_text("utf-8")
    Path(path).unlink()
    ran = run("report", cwd=checkout)
    assert ran.code == 1 and "left out: " in ran.err


# What is printed


def test_json_has_the_figures(checkout: Path, run: Run) -> None:
    keep(checkout, made_records.bench(2.0))
    ran = run("report", "--json", cwd=checkout)
    assert not (checkout / "report.html").exists()
    (found,) = json.loads(ran.out)["sets"]
    case = found["bench"]["cases"]["3 s"]
    assert case["verdict"] == "faster" and 1.9 < case["speedup"]["low"] < case["speedup"]["estimate"] < 2.1
    assert case["before"]["requests_per_minute"] == 60 / case["before"]["median_seconds"]
    assert case["after"]["amount_per_second"] == {"value": 3 / case["after"]["median_seconds"], "unit": "s of audio"}
    assert (case["before"]["operators"], case["after"]["operators"]) == (1763, 1200)
    document = json.loads(run("report", "--json", "--output", "x.html", cwd=checkout).out)
    assert document["page"] == "x.html" and (checkout / "x.html").exists()


def test_markdown_is_printed_alone(checkout: Path, run: Run) -> None:
    keep(checkout, made_records.verify(), made_records.bench(2.0))
    ran = run("report", "--markdown", cwd=checkout)
    assert ran.code == 0
    assert ran.out.startswith("### `tokenizer_ort_threads`: at least 1.9")
    assert "| 3 s | faster | **at least 1.9" in ran.out
    assert "```diff\n--- a/tokenizer.py" in ran.out
    assert "same results" in ran.err  # for people, beside what is piped
    assert not (checkout / "report.html").exists()
    assert run("report", "--markdown", "--json", cwd=checkout).code == 2


@pytest.mark.parametrize(("words", "variable"), [(("--lang", "zh"), "en"), ((), "zh_CN.UTF-8")])
def test_in_chinese(
    words: tuple[str, ...], variable: str, checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(checkout, made_records.verify(), made_records.bench(2.0))
    monkeypatch.setenv("APPLY_OPT_LANG", variable)
    assert run("report", *words, cwd=checkout).code == 0
    page = (checkout / "report.html").read_text("utf-8")
    assert '<html lang="zh-CN">' in page
    for text in ("结果相同", "速度至少为原来的", "每分钟请求数", "如何复现", "更快", "ONNX Runtime 线程数"):
        assert text in page
    assert run("report", "--lang", "en", cwd=checkout).code == 0
    assert "requests per minute" in (checkout / "report.html").read_text("utf-8")


def test_no_gain_is_said_where_none_was_shown(checkout: Path, run: Run) -> None:
    record = made_records.bench(1.1, noise=0.3)
    assert {verdict["word"] for verdict in record["verdicts"].values()} == {"inconclusive"}
    keep(checkout, record)
    out = run("report", "--markdown", cwd=checkout).out
    assert "no gain in speed was shown" in out and "**not shown**" in out
    assert "at least" not in out.split("<details>")[0]


@pytest.mark.parametrize(
    "claim",
    [{"speedup": (900.0, 800.0, 1000.0)}, {"word": "slower"}, {"speedup": (1.0, 1.0, 1.0), "word": "no difference"}],
)
def test_a_verdict_that_its_samples_do_not_give(checkout: Path, run: Run, claim: dict[str, Any]) -> None:
    record = made_records.bench(1.5)
    record["verdicts"]["3 s"].update(claim)
    keep(checkout, record)
    ran = run("report", cwd=checkout)
    assert "the verdict for the case 3 s is not what its samples give" in ran.out + ran.err
    assert "800" not in ran.out


@pytest.mark.parametrize(
    "record",
    [
        made_records.verify(observations=0),
        made_records.verify(changed_lines_ran=0),
        made_records.verify("lossy", changed_lines_ran=0),
        made_records.verify(differences=[parity.Difference("output", "another")]),
    ],
)
def test_a_comparison_that_cannot_have_passed(checkout: Path, run: Run, record: dict[str, Any]) -> None:
    keep(checkout, record)
    ran = run("report", cwd=checkout)
    assert "is not a whole record: the verdict" in ran.out + ran.err
    assert "same results" not in ran.out


@pytest.mark.parametrize("same", [True, False], ids=["the same code", "other code"])
def test_a_comparison_that_could_not_be_made_hides_none_that_was(checkout: Path, run: Run, same: bool) -> None:
    keep(checkout, made_records.verify(date="2026-11-21T09:00:00+00:00"))
    other = {} if same else {"sha256": {"tokenizer.py": ["0" * 64, "1" * 64]}}
    keep(checkout, made_records.verify("unverifiable", date="2026-11-21T10:00:00+00:00", why="one shape", **other))
    assert ("could not be told" in run("report", cwd=checkout).out) is not same


@pytest.mark.parametrize(
    ("cases", "options", "said"),
    [
        (["3 s", "0.6 s", "1.03706 s"], {}, False),
        (["3 s", "0.6 s"], {}, False),
        (["3 s", "1.03706 s"], {}, True),
        (["3 s", "0.6 s"], {"size": "full"}, True),
    ],
    ids=["more was compared", "the same", "something was not compared", "another model"],
)
def test_what_was_compared_is_all_that_was_measured(
    checkout: Path, run: Run, cases: list[str], options: dict[str, str], said: bool
) -> None:
    keep(checkout, made_records.verify(cases=cases, options=options))
    keep(checkout, made_records.bench())
    assert ("under other conditions" in run("report", cwd=checkout).out) is said


def test_the_users_folder_is_not_shown(checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("USERPROFILE", "/home/somebody")
    keep(checkout, made_records.verify(options={"model": "/home/somebody/model"}))
    assert run("report", cwd=checkout).code == 0
    page = (checkout / "report.html").read_text("utf-8")
    assert "somebody" not in page and "model=~/model" in page


# What it needs


@pytest.mark.parametrize("library", ["jinja2", "msgspec", "platformdirs"])
def test_a_library_that_is_not_installed(
    library: str, checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(checkout, made_records.verify())
    for name in [name for name in sys.modules if name.startswith("apply_opt.page")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    ran = run("report", cwd=checkout)
    assert ran.code == 1 and ran.out == ""
    assert ran.err.startswith("apply-opt: ") and library in ran.err and "not installed" in ran.err
    assert "\n  pip install 'apply-opt[proof]'" in ran.err


def test_what_is_missing_for_another_reason_is_a_bug(checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apply_opt.commands.report", None)
    assert run("report", cwd=checkout).code == 70


def test_looking_imports_nothing_heavy() -> None:
    import subprocess

    code = "import sys, apply_opt.commands.report; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"jinja2", "msgspec", "scipy", "numpy", "torch", "libcst", "platformdirs"}
