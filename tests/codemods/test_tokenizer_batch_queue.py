"""``tokenizer_batch_queue``: the decorator on the method that callers call, and one for those that do not wait."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cases import FILE, above, block, constant, lands, line_of, plan, reference, refuses, replaced, skips
from running import BATCH, VQ02
from test_tokenizer_offline_batch import CLASS, Tokenizer
from variants import Fork, base_class, decoy_frontend, grown, rename_attributes, rename_self, shuffle_methods

from apply_opt.errors import Ambiguous, Conflict, NoSite, OtherValues, PartlyApplied
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED

NAME = "tokenizer_batch_queue"
VALUES = {"max_batch": 16, "max_seconds": 120, "wait_ms": 5, "max_waiting": 256}
MARK = "    @_meets_others\n"


def helper(**values: int) -> str:
    return str(constant(NAME, "HELPER_TEXT")).format(**VALUES | values)


def submit(name: str = "wav2token", **values: int) -> str:
    """What goes below the method, an empty line and itself."""
    return "\n" + block(str(constant(NAME, "METHOD_TEXT")).format(name=name, **VALUES | values), 4) + "\n"


def changed(text: str, define: str = Tokenizer.define, last: str = Tokenizer.whole, **values: int) -> str:
    """``text`` with all three parts."""
    first = f"    {define}\n"
    text = replaced(text, (first, MARK + first), (last + "\n", last + "\n" + submit(**values)))
    return above(text, CLASS, helper(**values))


def with_batches(text: str) -> str:
    outcome = plan(BATCH, text)
    assert outcome.kind == PLANNED, outcome.message
    return outcome.after.decode()


SMALL = with_batches(str(Tokenizer()))
OURS = plan(NAME, SMALL).after.decode()
LAST = "return [results[number] for number in range(len(items))]"  # of the method for batches


class TestLands:
    def test_the_reference(self) -> None:
        text = with_batches(reference())
        define = "def wav2token(self, audio, sample_rate, enable_trim=True, energy_norm=True):"
        lands(NAME, text, changed(text, define, LAST))

    def test_below_the_method_for_batches(self) -> None:
        lands(NAME, SMALL, changed(SMALL, last=LAST))
        assert OURS.index("def wav2token(") < OURS.index("def wav2token_batch(") < OURS.index("def wav2token_submit(")

    def test_before_the_other_parts(self) -> None:
        """In one run, all look at the file as it was."""
        lands(NAME, str(Tokenizer()), changed(str(Tokenizer())))

    def test_values(self) -> None:
        values = {"max_batch": 4, "max_seconds": 30, "wait_ms": 0, "max_waiting": 1}
        after = changed(SMALL, last=LAST, **values)
        lands(NAME, SMALL, after, **values)
        assert "LIMITS = 4, 30, 0 / 1000" in after

    def test_tabs_and_crlf(self) -> None:
        def other(text: str) -> str:
            return re.sub("(?m)^(    )+", lambda found: "\t" * (len(found[0]) // 4), text).replace("\n", "\r\n")

        outcome = plan(NAME, other(SMALL).encode())
        assert outcome.kind == PLANNED, outcome.message
        assert outcome.after.decode() == other(OURS)
        assert plan(NAME, outcome.after).kind == ALREADY

    @pytest.mark.parametrize("over", ["@timed", "@timed\n@torch.no_grad()", "# about\n@timed\n# more"])
    def test_next_to_the_def(self, over: str) -> None:
        text = with_batches(str(Tokenizer(define=f"{over}\n{Tokenizer.define}")))
        lands(NAME, text, changed(text, last=LAST))

    def test_other_names(self) -> None:
        text = SMALL.replace("wav2token", "tokens").replace("self.a", "self.one")
        define = Tokenizer.define.replace("wav2token", "tokens")
        after = changed(text, define, LAST).replace(submit(), submit("tokens"))
        lands(NAME, text, after)

    def test_a_method_of_a_base_above(self) -> None:
        """The decorator is there when the base's body runs."""
        lines = str(Tokenizer()).splitlines(keepends=True)
        at = next(i for i, line in enumerate(lines) if "def wav2token" in line)
        base = "".join(["class Base:\n", *lines[at : at + 2], "\n\n"])
        text = above("".join([*lines[:at], *lines[at + 3 :]]), CLASS, base).replace(CLASS, CLASS + "(Base)")
        after = plan(NAME, text).after.decode()
        assert after.index("def _meets_others") < after.index("class Base") < after.index("@_meets_others")
        assert plan(NAME, after).kind == ALREADY

    @pytest.mark.parametrize("seed", range(4))
    def test_made_up_forks(self, seed: int) -> None:
        found = grown(Fork(seed), [shuffle_methods, rename_attributes, rename_self, base_class, decoy_frontend])
        outcome = plan(NAME, found.data)
        assert outcome.kind == PLANNED, (outcome.message, found.steps)
        tree = ast.parse(outcome.after)
        tree.body = [s for s in tree.body if getattr(s, "name", "") not in ("_Requests", "_meets_others")]
        methods = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.decorator_list]
        (decorated,) = (m for m in methods if ast.unparse(m.decorator_list[-1]) == "_meets_others")
        assert decorated.name == "wav2token"
        decorated.decorator_list.pop()
        for cls in (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)):
            cls.body = [s for s in cls.body if getattr(s, "name", "") != "wav2token_submit"]
        assert ast.dump(tree) == ast.dump(found.tree)


class TestLeavesAlone:
    def test_our_own_work(self) -> None:
        skips(NAME, OURS, ALREADY, line_of(OURS, "class _Requests"))

    @pytest.mark.parametrize("name", ["wav2token_submit", "submit_wav2token"])
    @pytest.mark.parametrize("start", ["def", "async def"])
    def test_the_author_s_own(self, name: str, start: str) -> None:
        more = f"{start} {name}(self, audio, rate):\n    return self.pool.submit(self.wav2token, audio, rate)"
        text = with_batches(str(Tokenizer(more=more)))
        skips(NAME, text, NOT_NEEDED, line_of(text, f"{name}(self"), f"def {name}")

    def test_the_author_s_own_batches(self) -> None:
        """Ours are not there then, and without them this does not work."""
        text = str(Tokenizer(more="def wav2token_batch(self, items):\n    return [self.wav2token(*i) for i in items]"))
        refuses(NAME, text, Conflict, "has a method for batches of its own")

    @pytest.mark.parametrize("name", ["_Requests", "_meets_others"])
    @pytest.mark.parametrize("top", ["{} = None", "from x import {}", "def f({}):\n    pass"])
    def test_a_name_that_is_taken(self, name: str, top: str) -> None:
        text = with_batches(str(Tokenizer(top="import threading\n" + top.format(name))))
        refuses(NAME, text, Conflict, "already uses the name _Requests or _meets_others for something else")

    @pytest.mark.parametrize("parameters", ["timeout=None", "*, timeout", "**more"])
    def test_a_time_limit_of_its_own(self, parameters: str) -> None:
        text = with_batches(str(Tokenizer(define=f"def wav2token(self, audio, rate, {parameters}):")))
        refuses(NAME, text, Conflict, line_of(text, "def wav2token("), "has a parameter timeout of its own")

    @pytest.mark.parametrize("over", ["@torch.compile", "@torch.jit.script_method"])
    def test_a_compiled_method(self, over: str) -> None:
        text = with_batches(str(Tokenizer(define=f"{over}\n{Tokenizer.define}")))
        refuses(NAME, text, Conflict, "wav2token is compiled")

    def test_a_method_that_is_replaced(self) -> None:
        text = SMALL + "\n\nStepAudioTokenizer.wav2token = None\n"
        refuses(NAME, text, Conflict, "wav2token is replaced here")

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"define": "async def wav2token(self, audio, rate):"}, NoSite),
            ({"define": "@staticmethod\ndef wav2token(self, audio, rate):"}, NoSite),
            ({"whole": "yield self.get_vq02_code(audio), self.get_vq06_code(audio)"}, NoSite),
            ({"whole": "return self.get_vq06_code(audio)"}, NoSite),
            ({"encode": "return self.model.infer_encoder(input=[audio])"}, NoSite),
            ({"whole": "self.calls += 1\n" + Tokenizer.whole}, Conflict),
            ({"more": "def again(self, audio, rate):\n    " + Tokenizer.whole}, Ambiguous),
        ],
    )
    def test_where_batches_have_no_place(self, change: dict[str, str], error: type[Any]) -> None:
        text = str(Tokenizer(**change))
        refuses(NAME, text, error, plan(BATCH, text).message)

    def test_no_tokenizer(self) -> None:
        refuses(NAME, "import os\n# infer_encoder\n", NoSite, "no class calls infer_encoder()")


class TestOtherValues:
    @pytest.mark.parametrize("name", VALUES)
    def test_each(self, name: str) -> None:
        text = plan(NAME, SMALL, **{name: 7}).after.decode()
        line = "MOST_WAITING = 7" if name == "max_waiting" else "LIMITS = "
        refuses(NAME, text, OtherValues, line_of(text, "class _Requests"), "is applied with other values", line)
        skips(NAME, text, ALREADY, **{name: 7})
        refuses(NAME, OURS, OtherValues, "is applied with other values", **{name: 7})

    def test_another_layout_is_the_same(self) -> None:
        text = replaced(OURS, ("LIMITS = 16, 120, 5 / 1000", "LIMITS = (16,  120, 5/1000)"))
        skips(NAME, text, ALREADY)


class TestHalfDone:
    def test_without_the_helpers(self) -> None:
        refuses(NAME, OURS.replace(helper().strip("\n"), ""), PartlyApplied, "callers (line", "helper is not")

    def test_without_the_decorator(self) -> None:
        refuses(NAME, replaced(OURS, (MARK, "")), PartlyApplied, "helper (line", "callers is not")

    def test_without_the_other_method(self) -> None:
        refuses(NAME, replaced(OURS, (submit(), "")), PartlyApplied, "helper (line", "submit is not")

    def test_beside_the_author_s_method(self) -> None:
        more = "def wav2token_submit(self, audio, rate):\n    return pool.submit(self.wav2token, audio, rate)"
        text = above(str(Tokenizer(more=more)), CLASS, helper())
        refuses(NAME, text, PartlyApplied, "helper (line 6) is there, callers, submit is not")

    def test_one_of_the_helpers(self) -> None:
        first = helper().index("def _meets_others")
        for half in (helper()[:first], helper()[first:]):
            text = OURS.replace(helper().strip("\n"), half.strip("\n"))
            refuses(NAME, text, PartlyApplied, "is partly applied, or twice: _")

    def test_twice(self) -> None:
        refuses(NAME, above(OURS, CLASS, helper()), PartlyApplied, "_Requests (line", "is partly applied, or twice")


def test_in_and_out_by_the_command_line(run: Callable[..., Any], checkout: Path) -> None:
    path = checkout / FILE
    before = path.read_bytes()
    missing = run(VQ02, NAME, "--strict", cwd=checkout)
    assert (missing.code, path.read_bytes()) == (3, before)
    assert f"needs {BATCH}" in missing.err
    assert run(VQ02, BATCH, cwd=checkout).code == 0
    between = path.read_bytes()
    assert run(NAME, "--set", "max_batch=4", cwd=checkout).code == 0
    one_by_one = path.read_bytes()
    assert plan(NAME, one_by_one, max_batch=4).kind == ALREADY
    assert run("revert", NAME, cwd=checkout).code == 0
    assert path.read_bytes() == between
    assert run("revert", "--all", cwd=checkout).code == 0
    assert path.read_bytes() == before
    assert run(VQ02, BATCH, NAME, "--set", "max_batch=4", cwd=checkout).code == 0
    assert path.read_bytes() == one_by_one
    assert run("revert", NAME, BATCH, VQ02, cwd=checkout).code == 0
    assert path.read_bytes() == before


def test_beside_the_author_s_batches_by_the_command_line(run: Callable[..., Any], checkout: Path) -> None:
    """What it needs counts as there, but is the author's."""
    path = checkout / FILE
    own = "    def wav2token_batch(self, items):\n        return [self.wav2token(*item) for item in items]\n"
    path.write_text(replaced(path.read_text(), ("    def kmean_cluster(", own + "\n    def kmean_cluster(")))
    run(VQ02, BATCH, NAME, cwd=checkout)
    assert "_Requests" not in path.read_text()
