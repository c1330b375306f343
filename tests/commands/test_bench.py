"""``bench``: what a record holds, what is said of it, and when it fails."""

from __future__ import annotations

import copy
import itertools
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Ran, snapshot
from toy import NAME, OLD, SOURCE, Toy

from apply_opt.commands import bench, proof_options
from apply_opt.commands.proof_options import DEFAULT, RIGOROUS, Effort
from apply_opt.model import measurement

Run = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("quicker")
SLEEPY = SOURCE.replace(OLD, "        __import__('time').sleep(0.004)\n" + OLD)


def measured(run: Run, toy: Toy, *words: object) -> dict[str, Any]:
    """The record."""
    ran = run("bench", NAME, "--quick", "--json", "--seed", "1", *words, cwd=toy.tree)
    assert ran.code in (0, 5), ran.err
    document: dict[str, Any] = json.loads(ran.out)
    return document


def test_record(toy: Toy, run: Run) -> None:
    """It holds everything that the verdict rests on."""
    record = measured(run, toy, "--cores", 1)
    _has_all_samples(record)
    assert all(sample["changed_lines_ran"] > 0 for sample in record["samples"])
    for case, verdict in record["verdicts"].items():
        found = bench._judged(record["samples"], case, record["level"])
        assert found._asdict() == {**verdict, "speedup": tuple(verdict["speedup"])}
    assert record["optimizations"] == {NAME: {}}
    assert record["effort"] == {"blocks": 3, "same": 2, "iterations": 3, "seconds": 0.0, "limit": 1.0}
    assert (record["seed"], record["threads"], record["cpus"]) == (1, 1, 1)
    assert [len(digest) for digest in record["sha256"]["toy.py"]] == [64, 64]
    assert set(record["machine"]) == {"python", "system", "cpu", "cores", "load"}
    assert record["versions"]["python"]
    assert record["counts"]["before"]["8"]["operators"] == 0


def _has_all_samples(record: dict[str, Any]) -> None:
    samples = record["samples"]
    assert len(samples) == 20
    kinds = {(sample["kind"], sample["side"]) for sample in samples}
    assert kinds == set(itertools.product((measurement.COMPARED, measurement.SAME), ("before", "after")))
    for block in range(5):
        sides = [sample["side"] for sample in samples if sample["block"] == block]
        assert sides in (["before", "after", "after", "before"], ["after", "before", "before", "after"])
    for sample in samples:
        assert set(sample["cases"]) == {"8", "7"}
        assert sample["memory"]["process"] > 2**20
        for case in sample["cases"].values():
            assert len(case["times"]) >= 3
            assert case["median"] == statistics.median(case["times"])


def test_order_is_drawn_anew_and_can_be_asked_for(toy: Toy, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof_options, "QUICK", Effort(2, 3, 1, 0.0, 0.1))
    found = [measured(run, toy)["samples"] for _ in range(2)]
    one, other = ([sample["kind"] + sample["side"] for sample in samples] for samples in found)
    assert one == other
    ran = run("bench", NAME, "--quick", "--json", cwd=toy.tree)
    assert json.loads(ran.out)["seed"] != 1


def test_results_that_are_left_out_once_nobody_looks(toy: Toy, run: Run) -> None:
    toy.source(SLEEPY)
    cheat = "        if __import__('sys').gettrace() is None: return 0.0\n" + OLD
    toy.optimization(NAME, SLEEPY[SLEEPY.index("        __import__") : SLEEPY.index(OLD) + len(OLD)], cheat, "exact")
    ran = run("bench", NAME, "--quick", "--json", cwd=toy.tree)
    assert (ran.code, json.loads(ran.out)["verdict"]) == (5, "void")
    assert "give other outputs after many runs" in ran.out


def test_loading_is_told(toy: Toy, run: Run) -> None:
    toy.source(
        SOURCE.replace("        self.offset = 0\n", "        self.offset = 0\n        __import__('time').sleep(0.05)\n")
    )
    record = measured(run, toy)
    assert all(sample["load"] > 0.05 and sample["unsteady"] == [] for sample in record["samples"])
    assert "loading: 0." in run("bench", NAME, "--quick", cwd=toy.tree).out


def test_faster_is_seen(toy: Toy, run: Run) -> None:
    toy.source(SLEEPY)
    toy.optimization(NAME, OLD, OLD.replace("self.scale", "self.scale + 0"))
    toy.optimization(
        "toy_fast", "        __import__('time').sleep(0.004)\n", "        __import__('time').sleep(0.001)\n"
    )
    toy.workload("def bad_inputs(): return {}\ndef stages(subject): return {'total': (subject, 'total')}")
    ran = run("bench", "toy_fast", "--quick", "--json", "--min-speedup", "1.5", cwd=toy.tree)
    record = json.loads(ran.out)
    assert ran.code == 0, record["verdicts"]
    for verdict in record["verdicts"].values():
        assert verdict["word"] == "faster"
        assert 1.5 < verdict["speedup"][1] < verdict["speedup"][0] < 6
    assert record["stages"]["before"]["8"]["total"] > 0.004 > record["stages"]["after"]["8"]["total"] > 0.001
    assert run("bench", "toy_fast", "--quick", "--min-speedup", "30", cwd=toy.tree).code == 5


def test_checkout_is_only_read(toy: Toy, run: Run) -> None:
    before = snapshot(toy.tree)
    measured(run, toy)
    assert snapshot(toy.tree) == before


def test_a_result_that_is_remembered_is_no_gain(toy: Toy, run: Run) -> None:
    """Each repetition brings inputs of its own."""
    toy.source(SLEEPY.replace("random", "functools, random", 1))
    remembering = (
        "        if tuple(values) in (known := vars(self).setdefault('known', {})): return known[tuple(values)]\n"
    )
    remembering += "        __import__('time').sleep(0.004); known[tuple(values)] = sum(values) * 2\n"
    toy.optimization("toy_memory", "        __import__('time').sleep(0.004)\n", remembering)
    toy.workload("def bad_inputs(): return {}")
    ran = run("bench", "toy_memory", "--quick", "--json", cwd=toy.tree)
    assert max(verdict["speedup"][0] for verdict in json.loads(ran.out)["verdicts"].values()) < 1.5


class TestWords:
    """What is said of a record."""

    @pytest.fixture
    def record(self) -> dict[str, Any]:
        counts = {"operators": 10, "synchronisations": 2}
        verdict = {"word": "faster", "speedup": [1.5, 1.4, 1.6], "noise": 1.01, "smallest": 1.02}
        sample = {"kind": "before/after", "memory": {"process": 2**20}}
        return {
            "optimizations": {"toy": {}},
            "threads": 2,
            "level": 0.95,
            "cases": ["3 s"],
            "verdicts": {"3 s": verdict},
            "counts": {"before": {"3 s": counts}, "after": {"3 s": {**counts, "operators": 5}}},
            "stages": {"before": {"3 s": {"encode": 0.002}}, "after": {"3 s": {"encode": 0.001}}},
            "samples": [{**sample, "side": "before"}, {**sample, "side": "after", "memory": {"process": 3 * 2**20}}],
        }

    def said(self, record: dict[str, Any], **changes: Any) -> str:
        return "\n".join(text for _, text in bench.summary({**record, **changes}))

    def test_gain_is_the_lower_bound(self, record: dict[str, Any]) -> None:
        said = self.said(record)
        assert "faster        at least 1.400x  (1.500x, 95 % interval 1.400 to 1.600" in said
        assert "the same code against itself: up to 1.010x" in said

    def test_figures_that_hold_everywhere(self, record: dict[str, Any]) -> None:
        said = self.said(record)
        assert "operators 10 -> 5; synchronisations 2 -> 2" in said
        assert "encode: 2 -> 1 ms" in said
        assert "peak memory (process): 1.0 -> 3.0 MiB" in said

    def test_what_is_kept_for_the_backward_pass(self, record: dict[str, Any]) -> None:
        """Where anything is."""
        assert "backward" not in self.said(record)
        sides = {"before": 3 * 2**20, "after": 2**20}
        counts = {
            side: {"3 s": {**record["counts"][side]["3 s"], "kept_for_backward": size}} for side, size in sides.items()
        }
        assert "kept for the backward pass 3.0 -> 1.0 MiB" in self.said(record, counts=counts)

    def test_counts_that_were_refused(self, record: dict[str, Any]) -> None:
        counts = copy.deepcopy(record["counts"])
        counts["after"]["3 s"] = {"operators": None, "synchronisations": None, "refused": "threads"}
        assert "were not counted: threads" in self.said(record, counts=counts)

    def test_inconclusive_says_what_could_have_been_seen(self, record: dict[str, Any]) -> None:
        verdict = {"word": "inconclusive", "speedup": [1.0, 0.9, 1.1], "noise": 1.05, "smallest": 1.2}
        said = self.said(record, verdicts={"3 s": verdict})
        assert "the smallest effect that could have been seen: 1.200x" in said

    @pytest.mark.parametrize(
        ("words", "wanted", "reached"),
        [
            (["faster"], 1.4, True),
            (["faster"], 1.41, False),
            (["faster", "faster"], 1.4, True),
            (["faster", "inconclusive"], 1.4, False),
            (["slower"], None, True),
            (["no difference"], 0.5, False),
        ],
    )
    def test_speedup_that_was_asked_for(self, words: list[str], wanted: float | None, reached: bool) -> None:
        verdicts = {str(i): {"word": word, "speedup": [1.5, 1.4, 1.6]} for i, word in enumerate(words)}
        assert bench.is_reached({"verdicts": verdicts}, wanted) is reached


def test_presets_keep_the_promise() -> None:
    """Of the design: six blocks, at least 30 repetitions and 2 seconds."""
    assert DEFAULT.blocks == 6
    for effort in (DEFAULT, RIGOROUS):
        assert effort.iterations >= 30 and effort.seconds >= 2 and effort.same >= 3
        assert effort.limit > effort.seconds


def test_one_process_after_the_other(toy: Toy, run: Run, tmp_path: Path) -> None:
    """No two at the same time, and none twice."""
    log = tmp_path / "log.txt"
    body = f"""
    import atexit, os, time
    def load(folder, options):
        import toy
        began = time.monotonic()
        def end():
            with open({str(log)!r}, "a") as file:
                file.write(f"{{os.getpid()}} {{began}} {{time.monotonic()}}\\n")
        atexit.register(end)
        return toy.Toy()
    """
    toy.workload(body)
    measured(run, toy)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len({process for process, _, _ in lines}) == len(lines) == 22
    spans = sorted((float(began), float(ended)) for _, began, ended in lines)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(spans))
