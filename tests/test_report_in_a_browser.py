"""The page of ``apply-opt report`` in a real browser: narrow and wide, light and dark, both languages."""

from __future__ import annotations

import json
from pathlib import Path

import browser
import made_records
import pytest
from support import call

from apply_opt.model.effort import DEFAULT
from apply_opt.model.parity import Difference

PHONE, DESK = WIDTHS = (360, 1440)
FOUND = browser.find()
LONG = "a_name_" * 30
OTHER = {"tokenizer_tf32": {"precision": "medium"}, LONG: {"model_id": "owner/" + "x" * 200}}

pytestmark = pytest.mark.skipif(
    FOUND is None, reason=f"no browser is installed: none of {', '.join(browser.CHROMIUM + browser.FIREFOX)} is on PATH"
)


def page(folder: Path, language: str) -> str:
    """A page with all that there can be: a gain, a loss, differences, long names."""
    found = {
        "gain": made_records.bench(2.9, DEFAULT, 0.02, 80),
        "parity": made_records.verify(),
        "loss": made_records.bench(0.8, noise=0.05, optimizations=OTHER, options={LONG: LONG}),
        "failed": made_records.verify("parity failed", [Difference(LONG, LONG)] * 30, why=LONG, optimizations=OTHER),
    }
    for name, record in found.items():
        (folder / f"{name}.json").write_text(json.dumps(record))
    words = [word for name in found for word in ("--record", f"{name}.json")]
    ran = call("report", *words, "--lang", language, "--output", "page.html", cwd=folder)
    assert ran.code == 0, ran
    return (folder / "page.html").read_text("utf-8")


@pytest.fixture(scope="module", params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def seen(scheme: str, tmp_path_factory: pytest.TempPathFactory) -> browser.Seen:
    """The English page to one who likes it light, the Chinese one to one who likes it dark."""
    folder = tmp_path_factory.mktemp("page")
    assert FOUND is not None
    return browser.look(FOUND, page(folder, {"light": "en", "dark": "zh"}[scheme]), scheme, WIDTHS, folder)


def test_there_is_nothing_to_complain_of(seen: browser.Seen) -> None:
    assert list(seen.complaints) == []
    assert [found.get("error") for found in seen.at.values()] == [None, None]
    assert [found["fetched"] for found in seen.at.values()] == [[], []]


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits(seen: browser.Seen, width: int) -> None:
    found = seen.at[width]
    assert width - 20 <= found["width"] <= width  # less the scroll bar, where there is one
    assert found["needs"] <= found["width"]
    assert (found["outside"], found["cut"], found["touching"]) == ([], [], [])


@pytest.mark.parametrize("width", WIDTHS)
def test_it_can_be_read(seen: browser.Seen, scheme: str, width: int) -> None:
    assert seen.at[width]["faint"] == []
    colour = sum(int(part) for part in seen.at[width]["background"].strip("rgb()").split(","))
    assert (colour > 600) if scheme == "light" else (colour < 150)


def test_the_text_is_there(seen: browser.Seen, scheme: str) -> None:
    texts = {
        "light": ("at least 2.", "same results", "requests per minute", "results are not what its class promises"),
        "dark": ("速度至少为原来的 2.", "结果相同", "每分钟请求数", "结果不符合其类别的承诺"),
    }
    for width in WIDTHS:
        assert seen.at[width]["language"] == {"light": "en", "dark": "zh-CN"}[scheme]
        for text in (*texts[scheme], "+2 & <2>", "tokenizer_tf32", "apply-opt bench", "encode"):
            assert text in seen.at[width]["text"], text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_plots_have_a_size(seen: browser.Seen, width: int) -> None:
    plots = seen.at[width]["plots"]
    assert len(plots) == 4
    for plot in plots:
        assert plot["width"] > 250
        assert len(plot["dots"]) == 4 and min(plot["dots"]) > 0.4 * plot["width"]


def test_what_does_not_fit_is_noticed(tmp_path: Path) -> None:
    bad = """<!doctype html><html lang="en"><title>x</title><body style="margin: 0; background: #fff">
        <p style="width: 700px; color: #bbb">pale</p><script>console.error("a complaint")</script>"""
    assert FOUND is not None
    seen = browser.look(FOUND, bad, "light", WIDTHS, tmp_path)
    assert seen.at[PHONE]["needs"] == 700 and seen.at[DESK]["needs"] <= DESK
    assert [text[:7] for text in seen.at[PHONE]["outside"]] == ["P.: pal"]
    assert [text[:7] for text in seen.at[DESK]["faint"]] == ["P.: pal"]
    assert any("a complaint" in line for line in seen.complaints)
