"""Optimizations that need or exclude one another: what is said of them, before and after they are applied."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ENCODER as REFERENCE
from support import Ran, commit_all, copy, snapshot

Run = Callable[..., Ran]
SUBSAMPLING = "nemo/collections/asr/parts/submodules/subsampling.py"
ENCODER = "nemo/collections/asr/modules/conformer_encoder.py"
LOWER, UPPER, BESIDE, BUNDLE = (
    "conformer_fewer_masks",
    "conformer_inplace_masks",
    "conformer_skip_full_batch",
    "conformer_masks",
)
LAST, SPLIT, EXPAND = "conformer_channels_last", "conformer_channel_split", "conformer_expand_masks"


@pytest.fixture()
def encoder(tmp_path: Path) -> Path:
    """A copy of the reference encoder."""
    return copy(REFERENCE, tmp_path / "encoder")


def rows(run: Run, folder: Path, kind: str) -> dict[str, tuple[str, str]]:
    """State and note of each optimization, or bundle."""
    document = json.loads(run("list", "--json", cwd=folder).out)
    return {row["name"]: (row["state"], row["note"]) for row in document[kind]}


def without_masks(folder: Path) -> None:
    """The subsampling as it was before there was a class that masks."""
    path = folder / SUBSAMPLING
    path.write_bytes(path.read_bytes().replace(b"for layer in self:", b"for layer in list(self):"))


def test_list_says_what_lands_together(encoder: Path, run: Run) -> None:
    assert rows(run, encoder, "optimizations")[UPPER] == ("applicable", f"together with {LOWER}")
    assert rows(run, encoder, "bundles")[BUNDLE] == ("applicable", "")
    run(LOWER, cwd=encoder)
    assert rows(run, encoder, "optimizations")[UPPER] == ("applicable", "")
    run(UPPER, cwd=encoder)
    assert rows(run, encoder, "optimizations")[UPPER][0] == "applied"
    assert rows(run, encoder, "bundles")[BUNDLE] == ("applied", "")


def test_what_is_needed_is_not_named_where_there_is_nothing_to_change(encoder: Path, run: Run) -> None:
    """``needs X`` would send the reader to an optimization that does not land either."""
    without_masks(encoder)
    states = rows(run, encoder, "optimizations")
    assert states[LOWER][0] == states[UPPER][0] == "no site"
    assert rows(run, encoder, "bundles")[BUNDLE][0] == "no site"
    state, note = rows(run, encoder, "bundles")["conformer_fast"]
    assert (state, note) == ("applicable", f"without {LOWER}: no site, {UPPER}: no site")
    ran = run(UPPER, cwd=encoder)
    assert (ran.code, "needs" in ran.err) == (3, False)


def test_needed(encoder: Path, run: Run) -> None:
    before = snapshot(encoder)
    ran = run(UPPER, cwd=encoder)
    assert ran.code == 3
    assert f"{UPPER}: needs {LOWER}\n  apply-opt {LOWER}" in ran.err
    assert snapshot(encoder) == before


def test_excluded_only_where_it_would_land(encoder: Path, run: Run) -> None:
    run(LAST, cwd=encoder)
    ran = run(SPLIT, cwd=encoder)
    assert (ran.code, f"does not go together with {LAST}" in ran.err) == (3, True)
    path = encoder / SUBSAMPLING
    path.write_bytes(path.read_bytes() + b"\n    def in_two(self, x):\n        return x.split(2, dim=1)\n")
    ran = run(SPLIT, cwd=encoder)
    assert (ran.code, "by channels" in ran.out) == (0, True), ran.err


def test_the_lower_one_comes_off_with_what_needs_it(encoder: Path, run: Run) -> None:
    """To apply again what needs it would be refused, so that is not proposed; what only stands on its lines is."""
    original = snapshot(encoder)
    for name in (LOWER, UPPER):
        run(name, cwd=encoder)
    ran = run("revert", LOWER, cwd=encoder)
    assert ran.code == 3
    assert f"{UPPER} was put on top of lines of {LOWER}. Nothing was changed" in ran.err
    assert ran.err.rstrip().endswith(f"apply-opt revert {UPPER} {LOWER}")
    assert run("revert", UPPER, LOWER, cwd=encoder).code == 0
    left = snapshot(encoder, ".apply-opt")
    assert {k: v[2] for k, v in left.items()} == {k: v[2] for k, v in original.items()}


def test_what_the_last_commit_has_is_its_authors(encoder: Path, run: Run) -> None:
    """A change without a name of its own looks as if it had been put in by hand: there is nothing to go back to."""
    run(EXPAND, cwd=encoder)
    data = (encoder / ENCODER).read_bytes()
    run("revert", "--all", cwd=encoder)
    line = b"both & both.transpose(1, 2)\n"
    assert data.count(line) == 1
    (encoder / ENCODER).write_bytes(data.replace(line, line.replace(b"\n", b"  # square\n")))  # as in no patch of ours
    commit_all(encoder)
    before = snapshot(encoder, ".git")
    ran = run("adopt", cwd=encoder)
    assert ran.code == 3
    assert f"{EXPAND} ({ENCODER}): git's last commit has it already, so there is nothing to go back to" in ran.err
    assert snapshot(encoder, ".git") == before


def test_what_is_new_is_taken_over_beside_what_the_author_has(encoder: Path, run: Run) -> None:
    run(EXPAND, cwd=encoder)
    expanded = (encoder / ENCODER).read_bytes()
    run(LOWER, cwd=encoder)
    changed = (encoder / SUBSAMPLING).read_bytes()
    run("revert", "--all", cwd=encoder)
    (encoder / ENCODER).write_bytes(expanded)
    commit_all(encoder)
    (encoder / SUBSAMPLING).write_bytes(changed)
    assert f"{LOWER} is taken over" in run("adopt", cwd=encoder).out


def test_what_was_put_in_by_hand_counts(encoder: Path, run: Run) -> None:
    """Not in the ledger, but there: to ask for it once more would end in a circle."""
    run(LOWER, cwd=encoder)
    data = (encoder / SUBSAMPLING).read_bytes()
    run("revert", "--all", cwd=encoder)
    (encoder / SUBSAMPLING).write_bytes(data)
    assert rows(run, encoder, "optimizations")[UPPER] == ("applicable", "")
    assert run(UPPER, cwd=encoder).code == 0


def test_a_bundle_says_what_of_it_is_refused(encoder: Path, run: Run) -> None:
    run(SPLIT, cwd=encoder)
    run("conformer_max", cwd=encoder)
    assert rows(run, encoder, "bundles")["conformer_max"] == ("applied", f"without {LAST}: refused")


def test_next_steps_of_a_revert_can_be_taken(encoder: Path, run: Run) -> None:
    for name in (BESIDE, LAST, LOWER, "conformer_stride_flags", UPPER):
        assert run(name, cwd=encoder).code == 0
    before = (encoder / SUBSAMPLING).read_bytes()
    ran = run("revert", BESIDE, cwd=encoder)
    assert ran.code == 3
    out, back = ran.err.strip().rpartition("apply-opt revert ")[2].split(", and then what you want to keep: apply-opt ")
    assert run("revert", *out.split(), cwd=encoder).code == 0
    assert run(*back.split(), cwd=encoder).code == 0
    assert (encoder / SUBSAMPLING).read_bytes() != before
    assert rows(run, encoder, "optimizations")[BESIDE][0] == "applicable"
    assert {rows(run, encoder, "optimizations")[name][0] for name in back.split()} == {"applied"}


def test_next_steps_name_all_that_was_asked_for(encoder: Path, run: Run) -> None:
    original = snapshot(encoder)
    run("conformer_max", cwd=encoder)
    run(BESIDE, cwd=encoder)
    ran = run("revert", "conformer_max", cwd=encoder)
    assert ran.code == 3
    out = ran.err.strip().rpartition("apply-opt revert ")[2].partition(",")[0]
    assert run("revert", *out.split(), cwd=encoder).code == 0
    assert rows(run, encoder, "bundles")["conformer_max"] == ("applicable", "")
    run("revert", "--all", cwd=encoder)
    assert {k: v[2] for k, v in snapshot(encoder, ".apply-opt").items()} == {k: v[2] for k, v in original.items()}


def test_lines_are_those_of_the_result(encoder: Path, run: Run) -> None:
    """Also of what was planned first: what came later moved it."""
    found = json.loads(run("conformer_max", "--json", cwd=encoder).out)["outcomes"]
    lines = (encoder / SUBSAMPLING).read_text().splitlines()
    (first,) = (outcome for outcome in found if outcome["name"] == LOWER)
    assert {lines[site["line"] - 1].strip() for site in first["sites"]} == {"masked = _layers_to_mask(self)"}
