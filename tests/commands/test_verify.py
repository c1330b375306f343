"""``verify``: what passes, what fails, and what cannot be told, on a small target whose processes start in a moment."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Ran, complaints, snapshot, traces
from toy import FILE, NAME, NEW, OLD, SOURCE, Toy

from apply_opt.commands import proof, verify
from apply_opt.io import arms, catalog, records
from apply_opt.io.workers import WorkerFailed

Run = Callable[..., Ran]


def verified(run: Run, toy: Toy, *words: object, name: str = NAME) -> dict[str, Any]:
    """The record that ``verify`` prints."""
    ran = run("verify", name, "--json", *words, cwd=toy.tree)
    document: dict[str, Any] = json.loads(ran.out)
    assert complaints(ran.err) == ""
    assert ran.code == document.get("exit_code", 0 if document["verdict"] in ("parity", "lossy") else 4), ran.out
    return document


def change(toy: Toy, new: str, old: str = OLD, safety: str = "exact") -> None:
    toy.optimization(NAME, old, new, safety)


# What changed code may do where nobody looks: it holds a result, a lock, or something for all of the process.
EACH = "[v * self.scale + self.offset for v in values]"
LASTING = {
    "a buffer that is given again": f"""
        kept = vars(self).setdefault('kept', [])
        kept[:] = {EACH}
        return kept
    """,
    "a lock that an exception leaves held": f"""
        lock = vars(self).setdefault('lock', __import__('threading').Lock())
        lock.acquire(timeout=0.05) or 1 / 0
        found = {EACH}
        lock.release()
        return found
    """,
    "more of an earlier input": f"""
        kept = vars(self).setdefault('kept', [])
        kept[: len(values)] = values
        return {EACH} + (kept[7:8] if len(values) == 7 else [])
    """,
    "the order of a set": f"""
        words = set('abcdefgh') | set(map(str, {EACH}))
        return [float(v) for v in words if v[0] not in 'abcdefgh']
    """,
    "the environment": f"""
        __import__('os').environ['TOY'] = 'changed'
        return {EACH}
    """,
    "a built-in": f"""
        __import__('builtins').round = int
        return {EACH}
    """,
    "the recursion limit": f"""
        __import__('sys').setrecursionlimit(12345)
        return {EACH}
    """,
    "a refused input that is taken": f"""
        values = values or []
        return {EACH}
    """,
}


@pytest.mark.parametrize("what", LASTING)
def test_what_lasts_longer_than_a_run(toy: Toy, run: Run, what: str) -> None:
    old = f"        return {EACH}\n"
    toy.source(SOURCE[: SOURCE.index("        scale =")] + old + SOURCE[SOURCE.index("\n\ndef other") :])
    toy.workload(
        """
        def run(subject, inputs):
            return {"all": subject.total(inputs["values"])}
        def bad_inputs():
            return {"text": {"values": ["x", None]}, "nothing": {"values": None}}
        """
    )
    change(toy, LASTING[what].strip("\n").rstrip(" "), old)
    assert verified(run, toy)["verdict"] == "parity failed"


class TestPasses:
    """The same results."""

    def test_record(self, toy: Toy, run: Run) -> None:
        found = verified(run, toy)
        assert (found["verdict"], found["class"], found["why"]) == ("parity", "exact", "")
        assert found["differences"] == []
        assert found["observations"] > 30
        assert found["changed_lines_ran"] == 9, "three seeds of two cases, a bad input, and each case again"
        assert found["wrong_variants_caught"] == ["off by one"]
        assert (found["cases"], found["seeds"]) == (["8", "7"], [0, 1, 2])
        assert found["agreement"] == {"same": 8, "total": 8, "error": 0.0}
        assert OLD.strip() in found["patch"] and NEW.strip() in found["patch"]
        assert found["options"] == {}

    def test_for_people(self, toy: Toy, run: Run) -> None:
        ran = run("verify", NAME, cwd=toy.tree)
        assert ran.code == 0
        assert "parity  toy_change  (class exact)" in ran.out
        assert "wrong variants caught: 1" in ran.out

    def test_is_kept(self, toy: Toy, run: Run, tmp_path: Path) -> None:
        run("verify", NAME, "--output", tmp_path / "own.json", cwd=toy.tree)
        (path,) = records.paths(os.path.realpath(toy.tree))
        kept = records.read(path)
        assert kept == records.read(str(tmp_path / "own.json"))
        assert str(tmp_path) not in json.dumps(kept), "whose it is, and where, is nobody's business"

    def test_checkout_is_only_read(self, toy: Toy, run: Run) -> None:
        before = snapshot(toy.tree)
        verified(run, toy)
        assert snapshot(toy.tree) == before

    def test_outputs_without_names(self, toy: Toy, run: Run) -> None:
        toy.workload("def run(subject, inputs): return [subject.total(inputs['values'])]\n")
        assert verified(run, toy)["verdict"] == "parity"

    def test_what_is_applied(self, toy: Toy, run: Run) -> None:
        assert run(NAME, cwd=toy.tree).code == 0
        before = snapshot(toy.tree)
        found = verified(run, toy)
        assert (found["verdict"], found["changed_lines_ran"]) == ("parity", 9)
        assert snapshot(toy.tree) == before

    def test_nothing_to_compare(self, toy: Toy, run: Run) -> None:
        toy.source(SOURCE.replace(OLD, NEW))
        ran = run("verify", NAME, cwd=toy.tree)
        assert ran.code == 3
        assert "nothing to compare" in ran.err

    def test_options_reach_the_workload(self, toy: Toy, run: Run) -> None:
        found = verified(run, toy, "--option", "size=3,4,6")
        assert (found["cases"], found["options"]) == (["3", "4", "6"], {"size": "3,4,6"})

    def test_options_may_stand_first(self, toy: Toy, run: Run) -> None:
        ran = run("--threads", "1", "--option", "size=3,4", "verify", NAME, cwd=toy.tree)
        assert ran.code == 0, ran.err


class TestFails:
    """Other results."""

    @pytest.mark.parametrize(
        ("new", "differs"),
        [
            ("        scale = self.scale + 1e-15\n", "output total"),
            ("        scale = self.scale; values[0] *= 2\n", "input values"),
            ("        scale = self.scale; random.random()\n", "generator python"),
            ("        scale, values = self.scale, [1] if values == 'x' else values\n", "bad input | text | exception"),
            ("        scale = self.scale; values = list(values)\n        raise OSError('x')\n", "exception"),
            ("        return str(sum(value * 2 for value in values))\n", "kind of output total"),
            ("        return float('nan')\n", "output total"),
            ("        return None\n", "output total"),
            ("        return {}\n", "output total"),
            ("        sys.exit(0)\n", "exception"),
        ],
    )
    def test_names_what_differs(self, toy: Toy, run: Run, new: str, differs: str) -> None:
        toy.source(SOURCE.replace("import random", "import random, sys"))
        toy.workload("def bad_inputs():\n    return {'nothing': {'values': []}, 'text': {'values': 'x'}}\n")
        change(toy, new)
        found = verified(run, toy)
        assert found["verdict"] == "parity failed"
        assert any(differs in difference["name"] for difference in found["differences"])

    def test_an_output_is_missing(self, toy: Toy, run: Run) -> None:
        toy.source(SOURCE.replace("return result + self.offset", "return {'a': result + self.offset, 'b': 1}"))
        change(toy, "        return {'a': sum(value * self.scale for value in values) + self.offset}\n")
        found = verified(run, toy)
        assert ("8 | seed 0 | output total.b", "missing after") in [tuple(d.values()) for d in found["differences"]]

    def test_for_people(self, toy: Toy, run: Run) -> None:
        change(toy, "        scale = self.scale + 1\n")
        ran = run("verify", NAME, cwd=toy.tree)
        assert ran.code == 4
        assert "parity failed" in ran.out and "8 | seed 0 | output total" in ran.out

    @pytest.mark.parametrize(("safety", "verdict"), [("exact", "parity failed"), ("tolerance", "parity")])
    def test_rounding(self, toy: Toy, run: Run, safety: str, verdict: str) -> None:
        change(toy, "        scale = self.scale * (1 + 1e-12)\n", safety=safety)
        assert verified(run, toy)["verdict"] == verdict

    def test_right_once_and_wrong_the_next_time(self, toy: Toy, run: Run, tmp_path: Path) -> None:
        start, end = SOURCE.index("import random\n"), SOURCE.index(OLD) + len(OLD)
        count = f"with open({str(tmp_path / 'seen')!r}, 'a') as file:\n    SEEN = file.tell()\n    file.write('x')\n"
        new = SOURCE[start:end].replace("LIMIT", count + "LIMIT").replace(OLD, "        scale = self.scale + SEEN\n")
        change(toy, new, SOURCE[start:end])
        assert verified(run, toy)["verdict"] == "parity failed"


class TestLossy:
    """Results change; what is not promised is told in figures."""

    def test_figures(self, toy: Toy, run: Run) -> None:
        change(toy, "        scale = self.scale + 1\n", safety="lossy")
        found = verified(run, toy, "--allow", "lossy")
        assert found["verdict"] == "lossy"
        assert found["agreement"]["same"] == 0
        assert run("verify", NAME, cwd=toy.tree).code == 3, "not without --allow"

    @pytest.mark.parametrize(
        "new",
        [
            "        return float('nan')\n",
            "        raise ValueError\n",
            "        return object()\n",
            "        return {}\n",
        ],
    )
    def test_may_not_break(self, toy: Toy, run: Run, new: str) -> None:
        change(toy, new, safety="lossy")
        assert verified(run, toy, "--allow", "lossy")["verdict"] == "parity failed"


class TestUnverifiable:
    """Nothing can be said: that is no pass."""

    @pytest.mark.parametrize(
        ("workload", "why"),
        [
            ("WRONG = {}", "no wrong variant"),
            ("WRONG = {'nothing': lambda subject: None}", "the wrong variant `nothing` was not found"),
            ("WRONG = {'of another version': lambda subject: False}", "none of the wrong variants is one"),
            (
                "def run(subject, inputs): import os; subject.total(inputs['values']); return {'x': os.getpid()}",
                "itself",
            ),
            ("def run(subject, inputs): subject.total(inputs['values']); return {'x': float('nan')}", "NaN"),
            ("def run(subject, inputs): subject.total(inputs['values']); return {'x': [1.0, -1e999]}", "infinity"),
            ("def run(subject, inputs): subject.total(inputs['values']); return {'x': subject}", "objects"),
            ("def run(subject, inputs): subject.total(inputs['values']); return {}", "gives no outputs"),
            ("def run(subject, inputs): subject.total(inputs['values']); raise SystemExit(0)", "fails"),
            ("def cases(options): return ['7']", "one shape of input only"),
            ("def cases(options): return ['8', '4']", "odd size"),
            (
                "def cases(options): return ['7', '7.']\ndef inputs(case, seed): return {'values': [seed] * 7}",
                "one shape",
            ),
        ],
    )
    def test_says_why(self, toy: Toy, run: Run, workload: str, why: str) -> None:
        toy.workload(workload)
        found = verified(run, toy)
        assert found["verdict"] == "unverifiable"
        assert why in found["why"]

    def test_unseeded_randomness_of_a_thread(self, toy: Toy, run: Run) -> None:
        toy.source(SOURCE.replace("import random", "import random, os").replace(
            "return result + self.offset", "return result + self.offset + int.from_bytes(os.urandom(4), 'big')"
        ))  # fmt: skip
        found = verified(run, toy)
        assert (found["verdict"], found["why"]) == ("unverifiable", "the unchanged program does not agree with itself")

    def test_wrong_variant_that_fails_shows_nothing(self, toy: Toy, run: Run) -> None:
        """To see a crash takes no look at the results."""
        toy.workload("def _gone(subject): subject.total = None\nWRONG = {'gone': _gone}")
        found = verified(run, toy)
        assert (found["verdict"], "`gone` was not found" in found["why"]) == ("unverifiable", True)

    def test_inference_only_where_nothing_is_trained(self, toy: Toy, run: Run) -> None:
        change(toy, NEW, safety="inference_only")
        found = verified(run, toy)
        assert (found["verdict"], "trains nothing" in found["why"]) == ("unverifiable", True)

    def test_wrong_variant_that_cannot_be_planted(self, toy: Toy, run: Run) -> None:
        """Its mistake never was there to be found."""
        toy.workload("def _gone(subject): subject.nothing.at_all = None\nWRONG = {'gone': _gone}")
        found = verified(run, toy)
        assert (found["verdict"], found["reason"]) == ("failed to run", "crashed")

    @pytest.mark.parametrize("words", [("--option", "size=8"), ("--option", "size=8,4")])
    def test_options_that_leave_too_little(self, toy: Toy, run: Run, words: tuple[str, ...]) -> None:
        assert verified(run, toy, *words)["verdict"] == "unverifiable"


class TestVoid:
    """An arm ran other code than it should have, or not the code in question."""

    @pytest.mark.parametrize(
        ("old", "new", "why"),
        [
            ("    return LIMIT\n", "    return LIMIT + 0\n", "none of the lines that toy_change changes ran"),
            ("def other():\n    return LIMIT\n", "def other(a=1):\n    return LIMIT + 0\n", "none of the lines"),
            (OLD, "        # as it was\n" + OLD, "no line that can run"),
            (OLD, OLD + "\n", "no line that can run"),
            ('    """Adds up."""\n', '    """Adds all up."""\n', "no line that can run"),
            ("def other():\n", "def other():\n    global LIMIT\n", "no line that can run"),
        ],
    )  # fmt: skip
    def test_changed_lines(self, toy: Toy, run: Run, old: str, new: str, why: str) -> None:
        change(toy, new, old)
        found = verified(run, toy)
        assert (found["verdict"], found["reason"]) == ("void", "void")
        assert why in found["message"]

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("LIMIT = 100\n", "LIMIT = 50 + 50\n"),
            ("import random\n", "import random  # at import\nimport math\n"),
            ("    def total(self, values):\n", "    def total(self, values, more=1):\n"),
            ("        self.offset = 0\n", "        self.offset = (\n            0\n        )\n"),
            ("        result = sum(value * scale for value in values)\n", "        result = sum(map(\n            scale.__mul__,\n"
             "            values,\n        ))\n"),
        ],
    )  # fmt: skip
    def test_lines_that_run_when_they_should(self, toy: Toy, run: Run, old: str, new: str) -> None:
        toy.workload("WRONG = {'off': lambda subject: setattr(subject, 'offset', 1)}\ndef bad_inputs(): return {}")
        change(toy, new, old)
        found = verified(run, toy)
        assert found["verdict"] in ("parity", "parity failed"), found

    def test_lines_that_are_only_taken_away(self, toy: Toy, run: Run) -> None:
        toy.source(SOURCE.replace(OLD, "        checked = len(list(values))\n" + OLD))
        change(toy, OLD, "        checked = len(list(values))\n" + OLD)
        toy.workload("def bad_inputs(): return {}")
        assert verified(run, toy)["verdict"] == "parity"

    def test_lines_that_are_only_taken_away_and_never_ran(self, toy: Toy, run: Run) -> None:
        toy.source(SOURCE.replace("    return LIMIT", "    unused = 1\n    return LIMIT"))
        change(toy, "    return LIMIT\n", "    unused = 1\n    return LIMIT\n")
        assert verified(run, toy)["verdict"] == "void"

    def test_lines_in_threads(self, toy: Toy, run: Run) -> None:
        body = """
        import concurrent.futures
        def load(folder, options):
            import toy
            subject = toy.Toy()
            subject.pool = concurrent.futures.ThreadPoolExecutor(2)
            list(subject.pool.map(len, ["", ""]))
            return subject
        def run(subject, inputs):
            return {"total": subject.pool.submit(subject.total, inputs["values"]).result()}
        """
        toy.workload(body)
        found = verified(run, toy)
        assert (found["verdict"], found["changed_lines_ran"]) == ("parity", 9)

    def test_lines_that_ran_only_before_the_runs_that_count(self, toy: Toy, run: Run) -> None:
        """A warm-up is no proof; where the program is loaded, it is another matter."""
        toy.workload("def run(subject, inputs):\n    return {'total': sum(inputs['values']) + subject.offset}")
        assert verified(run, toy)["verdict"] == "void"

    def test_one_of_several_optimizations(self, toy: Toy, run: Run) -> None:
        toy.optimization("toy_other", "    return LIMIT\n", "    return LIMIT + 0\n")
        ran = run("verify", NAME, "toy_other", "--json", cwd=toy.tree)
        assert ran.code == 4
        assert "none of the lines that toy_other changes ran (toy.py, after: 22)" in json.loads(ran.out)["message"]
        assert run(NAME, "toy_other", cwd=toy.tree).code == 0
        ran = run("verify", NAME, "toy_other", "--json", cwd=toy.tree)
        assert "none of the lines that toy_other changes ran (toy.py, after: 22)" in json.loads(ran.out)["message"]
        assert verified(run, toy)["verdict"] == "parity"

    @pytest.mark.parametrize(
        "load",
        [
            "import sys; sys.path.insert(0, {elsewhere!r}); import toy",
            "import os, sys; os.chdir({elsewhere!r}); sys.path[0] = ''; import toy",
            "import runpy, types; toy = types.SimpleNamespace(**runpy.run_path({elsewhere!r} + '/toy.py'))",
            "import sys; sys.path.insert(0, {elsewhere!r}); import toy; toy.__file__ = sys.path[1] + '/toy.py'",
            "import sys; import toy as own; sys.modules.pop('toy'); sys.path.insert(0, {elsewhere!r}); import toy; "
            "sys.modules['own'] = own",
        ],
    )
    def test_module_from_elsewhere(self, toy: Toy, run: Run, tmp_path: Path, load: str) -> None:
        """The same module installed, or on another path: it is not the copy that runs."""
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / FILE).write_text(SOURCE)
        statement = load.format(elsewhere=str(elsewhere))
        toy.workload(f"def load(folder, options):\n    {statement}\n    return toy.Toy()")
        assert verified(run, toy)["verdict"] == "void"

    def test_absolute_link_to_the_checkout_itself(self, toy: Toy, run: Run) -> None:
        (toy.tree / "real").mkdir()
        (toy.tree / FILE).rename(toy.tree / "real" / FILE)
        (toy.tree / "package").symlink_to(toy.tree / "real")
        toy.workload("def load(folder, options):\n    from package import toy\n    return toy.Toy()")
        assert verified(run, toy)["verdict"] == "parity", "the copy's link leads to the copy"

    @pytest.mark.parametrize("command", ["verify", "bench"])
    def test_arms_that_were_swapped(self, toy: Toy, run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
        @contextlib.contextmanager
        def swapped(*of: Any) -> Iterator[tuple[Any, Any]]:
            with copies(*of) as (one, other):
                yield other, one

        copies = arms.copies
        monkeypatch.setattr(arms, "copies", swapped)
        ran = run(command, NAME, cwd=toy.tree)
        assert ran.code == (4 if command == "verify" else 5)
        assert "ran another version of toy.py" in ran.out + ran.err

    @pytest.mark.parametrize(
        ("more", "words", "verdict"),
        [
            ("", (), "parity"),
            ('runs = ["Toy.twice"]', (), "void"),
            ('runs = ["Toy.twice"]\nworkload = {size = "10,11"}', (), "parity"),
            ('runs = ["Toy.twice"]\nworkload = {size = "10,11"}', ("--option", "size=3,4"), "void"),
            ('runs = ["Toy.thrice"]\nworkload = {size = "10,11"}', (), "void"),
        ],
    )
    def test_a_function_that_has_to_run(
        self, toy: Toy, run: Run, more: str, words: tuple[str, ...], verdict: str
    ) -> None:
        """Without it, all went the original's way; with an option it does run, unless the user gives another."""
        change(toy, "        scale = self.scale if not values or len(values) < 9 else self.twice()\n")
        toy.source(SOURCE.replace("def other", "    def twice(self):\n        return 2\n\n\ndef other"))
        manifest = toy.pack / "patches" / NAME / "optimization.toml"
        manifest.write_text(f"{manifest.read_text()}{more}\n")
        found = verified(run, toy, *words)
        assert found["verdict"] == verdict
        assert verdict == "parity" or "of toy_change did not run" in found["message"]

    def test_bench_says_so_too(self, toy: Toy, run: Run) -> None:
        change(toy, "    return LIMIT + 0\n", "    return LIMIT\n")
        ran = run("bench", NAME, "--quick", "--json", cwd=toy.tree)
        assert (ran.code, json.loads(ran.out)["verdict"]) == (5, "void")


class TestFailsToRun:
    """A workload that does not do its work: a verdict, and the exit code of the command."""

    @pytest.mark.parametrize(("command", "code"), [("verify", 4), ("bench", 5)])
    @pytest.mark.parametrize(
        ("workload", "reason"),
        [
            ("def prepare(folder, options): raise OSError(28, 'No space left on device')", "crashed"),
            ("def load(folder, options): __import__('os')._exit(0)", "vanished"),
            ("def load(folder, options): __import__('time').sleep(60)", "hung"),
            ("LIBRARIES = ('torch_of_nobody',)", "missing"),
            ("def load(folder, options): open('x', 'w'); import toy; return toy.Toy()", "wrote"),
        ],
    )
    def test_verdict(self, toy: Toy, run: Run, command: str, code: int, workload: str, reason: str) -> None:
        toy.workload(workload)
        ran = run(command, NAME, "--json", "--timeout", "1.5", cwd=toy.tree)
        document = json.loads(ran.out)
        assert (ran.code, document["verdict"], document["reason"]) == (code, "failed to run", reason)
        assert document["exit_code"] == code
        for_people = run(command, NAME, "--timeout", "1.5", cwd=toy.tree)
        assert for_people.code == code
        assert f"failed to run: {reason}: " in for_people.out

    def test_result_is_kept_from_nobody(self, toy: Toy, run: Run) -> None:
        toy.workload("def load(folder, options):\n    print('before the end')\n    raise OSError('the cause')")
        ran = run("verify", NAME, cwd=toy.tree)
        assert "failed to run: crashed: OSError: the cause" in ran.out
        assert "in load" in ran.out

    def test_error_of_the_workers_has_the_exit_code(self) -> None:
        assert WorkerFailed("x", "y").exit_code == proof.Void("x").exit_code == 4


class TestUsage:
    """Words that mean nothing: exit code 2, before anything has run."""

    @pytest.mark.parametrize("command", ["verify", "bench"])
    @pytest.mark.parametrize(
        "words",
        [
            ("--threads", "0"), ("--threads", "-1"), ("--threads", "x"), ("--threads", "1.5"), ("--timeout", "0"),
            ("--timeout", "-1"), ("--timeout", "nan"), ("--timeout", "inf"), ("--memory", "0"), ("--memory", "-2"),
            ("--memory", "nan"), ("--option", "x"), ("--option", "=x"), ("--option", "size=1,3", "--option", "size=1"),
            ("--option", "sise=3"), ("--option", "size=big"), ("--option", "file=x"), ("--option", "here=x"), ("--nothing",),
            ("--output", "nowhere/at/all.json"), ("--output", "."), (),
        ],
        ids=" ".join,
    )  # fmt: skip
    def test_is_said(self, toy: Toy, run: Run, command: str, words: tuple[str, ...]) -> None:
        ran = run(command, *([NAME] if words else []), *words, "--json", cwd=toy.tree)
        assert (ran.code, json.loads(ran.out)["error"]["kind"]) == (2, "usage"), ran.out
        assert traces(toy.tree) == []

    @pytest.mark.parametrize(
        "words",
        [
            ("--min-speedup", "0"),
            ("--min-speedup", "x"),
            ("--quick", "--rigorous"),
            ("--seed", "x"),
            ("--min-speedup", "inf"),
        ],
        ids=" ".join,
    )
    def test_is_said_by_bench(self, toy: Toy, run: Run, words: tuple[str, ...]) -> None:
        assert run("bench", NAME, *words, cwd=toy.tree).code == 2

    def test_nearest_option_is_named(self, toy: Toy, run: Run) -> None:
        ran = run("verify", NAME, "--option", "sise=3", cwd=toy.tree)
        assert "there is no option called sise; did you mean size? there are: size" in ran.err

    @pytest.mark.parametrize("command", ["verify", "bench"])
    def test_help_has_examples(self, toy: Toy, run: Run, command: str) -> None:
        ran = run(command, "--help", cwd=toy.tree)
        assert ran.code == 0
        assert "examples:" in ran.out and f"apply-opt {command} " in ran.out and "exit code" in ran.out.lower()

    def test_target_without_a_workload(self, toy: Toy, run: Run) -> None:
        (toy.pack / "target_repos" / "toy_target" / "workload.py").unlink()
        ran = run("verify", NAME, cwd=toy.tree)
        assert ran.code == 1
        assert "has no workload" in ran.err


@pytest.mark.parametrize("command", ["verify", "bench"])
@pytest.mark.parametrize("name", ["psutil", "platformdirs", "scipy", "rich"])
def test_without_the_extra(toy: Toy, command: str, name: str) -> None:
    """As after ``pip install apply-opt``: help works, and what is missing is said with how to get it."""
    code = f"import sys; sys.modules[{name!r}] = None; from apply_opt.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(toy.site), *sys.path])}

    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", code, *words]
        return subprocess.run(line, cwd=toy.tree, env=environment, capture_output=True, text=True, check=False)

    assert ran(command, "--help").returncode == 0
    found = ran(command, NAME, "--json")
    error = json.loads(found.stdout)["error"]
    assert (found.returncode, error["kind"]) == (1, "missing"), found
    assert name in error["message"] and "pip install 'apply-opt[proof]'" in error["next_step"]


class TestTrained:
    """A real ``torch`` module with a loss, through processes: this variant passes a look at its outputs."""

    SOURCE = (
        SOURCE
        + """

import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x):
        hidden = self.layer(x)
        return torch.exp(hidden) * 2
"""
    )
    WORKLOAD = """
    LIBRARIES = ("torch",)
    def load(folder, options):
        import toy
        return toy.Net()
    def inputs(case, seed):
        import torch
        return {"x": torch.randn(int(case), 4, generator=torch.Generator().manual_seed(seed))}
    def run(subject, inputs):
        return {"y": subject(inputs["x"])}
    def module(subject):
        return subject
    def loss(outputs):
        return outputs["y"].sum()
    def bad_inputs():
        return {"nothing": {"x": None}}
    def _detached(subject):
        subject.forward = lambda x, f=subject.forward: f(x).detach().requires_grad_()
    WRONG = {"no gradient": _detached}
    """

    def test_gradients(self, toy: Toy, run: Run) -> None:
        pytest.importorskip("torch")
        toy.source(self.SOURCE)
        toy.workload(self.WORKLOAD)
        change(toy, "        return torch.exp(hidden).mul_(2)\n", "        return torch.exp(hidden) * 2\n")
        found = verified(run, toy)
        assert (found["verdict"], found["wrong_variants_caught"]) == ("parity failed", ["no gradient"])
        names = {difference["name"].rpartition(" | ")[2] for difference in found["differences"]}
        assert names == {"training exception"} | _gradients()


def _gradients() -> set[str]:
    both = ("layer.weight", "layer.bias")
    values = [f"gradient {name}" for name in both] + [f"parameter {n} after {k} steps" for n in both for k in (1, 5)]
    return {*values, *(f"kind of {name}" for name in values)}


def test_weakest_promise_counts(toy: Toy, run: Run) -> None:
    toy.optimization("toy_other", "LIMIT = 100\n", "LIMIT = 99 + 1\n", "tolerance")
    ran = run("verify", NAME, "toy_other", "--json", cwd=toy.tree)
    assert json.loads(ran.out)["class"] == "tolerance"
    assert list(verify.RANK) == ["instrument", "exact", "inference_only", "tolerance", "lossy"]


def test_what_is_not_run_says_which_options_run_it() -> None:
    """Of each optimization that has some; else where to look."""
    device = catalog.load().optimizations["act_uint8_device"]
    error = proof.never_imported(["train.py"], [device])
    assert error.next_step.startswith("act_uint8_device is run by --option part=training; or name the file")
    assert proof.never_imported(["train.py"]).next_step.startswith("other options: --option KEY=VALUE")
