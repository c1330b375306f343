"""``tokenizer_no_empty_cache``: the one statement by which every call of ``AutoModel.infer_encoder`` frees the cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cases import block, codemod, constant, lands, line_of, lines_of, plan, refuses, replaced, skips
from support import REFERENCE, Ran, contents, git

from apply_opt.errors import Ambiguous, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED
from apply_opt.model.source import Source

Run = Callable[..., Ran]
NAME = "tokenizer_no_empty_cache"
PATH = "funasr_detach/auto/auto_model.py"
PLAIN = (REFERENCE / PATH).read_text(encoding="utf-8")
CALL = "torch.cuda.empty_cache()"
COMMENT = constant(NAME, "COMMENT")


def module(body: str, top: str = "import torch", tail: str = "", cls: str = "AutoModel") -> str:
    """A small file around the lines that a case is about; another method frees the cache too."""
    parts = [
        block(top),
        f"\n\nclass {cls}:",
        "    def inference(self, input):",
        f"        {CALL}",
        "        return self.model(input)\n",
        "    def infer_encoder(self, input, is_last=True):",
        "        results = self.model(input)",
        block(body, 8),
        "        return results",
    ]
    return "\n".join(parts) + "\n" + ("\n\n" + block(tail) + "\n" if tail else "")


def test_the_reference() -> None:
    lands(NAME, PLAIN, replaced(PLAIN, (f"        {CALL}\n", f"        {COMMENT}\n")))


class TestLeavesAlone:
    def test_the_same_method_of_another_class(self) -> None:
        refuses(
            NAME, module(CALL, cls="ParaformerStreaming"), NoSite, "no class AutoModel has a method infer_encoder()"
        )

    def test_another_method(self) -> None:
        text = module(CALL).replace("infer_encoder", "encode")
        refuses(NAME, text, NoSite, "no class AutoModel has a method infer_encoder()")

    def test_a_function_outside(self) -> None:
        text = f"import torch\n\n\ndef infer_encoder(input):\n    {CALL}\n\n\nclass AutoModel:\n    pass\n"
        refuses(NAME, text, NoSite, "no class AutoModel has a method infer_encoder()")

    @pytest.mark.parametrize(
        "body",
        [
            "pass",
            f"# {CALL}",
            f'print("{CALL}")',
            "torch.mps.empty_cache()",
            "self.empty_cache()",
            "self.cuda.empty_cache()",
            "pool.cuda.empty_cache()",
            "input.empty_cache()",
            "torch.cuda.synchronize()",
        ],
    )
    def test_nothing_to_take_out(self, body: str) -> None:
        text = module(body)
        where = line_of(text, "def infer_encoder")
        skips(NAME, text, NOT_NEEDED, f"{where} already has no {CALL} in infer_encoder()")

    def test_another_module_of_the_same_name(self) -> None:
        skips(NAME, module("cuda.empty_cache()", "from accelerator import cuda"), NOT_NEEDED)
        skips(NAME, module(CALL, "from stubs import torch"), NOT_NEEDED)
        skips(NAME, module(CALL, "torch = object()"), NOT_NEEDED)
        skips(NAME, module(CALL).replace("self, input, is_last", "self, input, torch, is_last"), NOT_NEEDED)

    def test_our_own_work(self) -> None:
        after = plan(NAME, PLAIN).after.decode()
        skips(NAME, after, ALREADY, line_of(after, COMMENT))

    @pytest.mark.parametrize(
        ("body", "when"),
        [
            (f"if self.low_memory:\n    {CALL}", "where self.low_memory"),
            (f"if is_last and torch.cuda.is_available():\n    {CALL}", "where is_last and torch.cuda.is_available()"),
            (f"if torch.cuda.is_available():\n    if is_last:\n        {CALL}", "where is_last"),
            (f"try:\n    check()\nexcept RuntimeError:\n    {CALL}", "in one case of several"),
            (f"match input:\n    case None:\n        {CALL}", "in one case of several"),
            (f"if self.low_memory:\n    {CALL}\nelif is_last:\n    {CALL}", "where self.low_memory"),
        ],
    )
    def test_the_author_has_said_when(self, body: str, when: str) -> None:
        text = module(body)
        skips(NAME, text, NOT_NEEDED, f"already has empty_cache() only {when}")

    def test_twice(self) -> None:
        text = module(f"{CALL}\ntorch.cuda.synchronize()\n{CALL}  # again")
        found = lines_of(text, CALL).split(", ", 1)[1]
        refuses(NAME, text, Ambiguous, f"frees the cache 2 times: lines {found}")

    def test_half_done(self) -> None:
        text = module(f"{COMMENT}\n{CALL}")
        refuses(
            NAME, text, PartlyApplied, "infer_encoder() frees the cache (line ", "the comment that it does not is on"
        )

    @pytest.mark.parametrize(
        "body",
        [
            f"def clear():\n    {CALL}\nclear()",
            "clear = lambda: torch.cuda.empty_cache()\nclear()",
            "atexit.register(torch.cuda.empty_cache)",
            f"nothing = {CALL}",
            f"results = results, {CALL}",
            f"assert {CALL} is None",
            "clear = torch.cuda.empty_cache\nclear()",
        ],
    )
    def test_in_another_way_than_by_a_plain_call(self, body: str) -> None:
        refuses(NAME, module(body), Ambiguous, "infer_encoder() uses empty_cache in another way than by a plain call")

    @pytest.mark.parametrize("body", [f"gc.collect(); {CALL}", f"{CALL}; gc.collect()"])
    def test_on_one_line_with_others(self, body: str) -> None:
        text = module(body)
        refuses(NAME, text, Ambiguous, f"{line_of(text, 'gc')}: empty_cache() shares its line")

    @pytest.mark.parametrize(
        "body",
        [
            f"with torch.cuda.device(0):\n    {CALL}",
            f"try:\n    {CALL}\nexcept RuntimeError:\n    pass",
            f"try:\n    check()\nfinally:\n    {CALL}",
            f"for part in input:\n    {CALL}",
            f"if torch.backends.mps.is_available():\n    torch.mps.empty_cache()\nelse:\n    {CALL}",
            f"if torch.cuda.is_available():\n    {CALL}\nelse:\n    gc.collect()",
            f"if torch.cuda.is_available():\n    {CALL}\nelse:\n    if is_last:\n        gc.collect()",
        ],
    )
    def test_all_that_there_is_in_its_block(self, body: str) -> None:
        refuses(NAME, module(body), Ambiguous, "empty_cache() is all that there is in its block")
        with pytest.raises(Ambiguous):  # `status` only looks
            codemod(NAME).find(Source(module(body).encode()), {})

    @pytest.mark.parametrize("helper", ["free_memory()", "self.inference(input)"])
    def test_by_another_function(self, helper: str) -> None:
        tail = f"def free_memory():\n    {CALL}\n    gc.collect()"
        text = module(helper, tail=tail)
        name = helper.partition("(")[0].rpartition(".")[2]
        refuses(NAME, text, NoSite, f"{line_of(text, helper)}: infer_encoder() frees the cache by {name}()")

    def test_two_classes_or_methods(self) -> None:
        text = module(CALL)
        refuses(NAME, text + "\n\n" + text, Ambiguous, "AutoModel.infer_encoder() is there 2 times")
        method = text[text.index("    def infer_encoder") :]
        refuses(NAME, text + "\n" + method, Ambiguous, "AutoModel.infer_encoder() is there 2 times")


LANDS = {
    "plain": (CALL, COMMENT),
    "with a comment": (f"{CALL}  # less memory", COMMENT),
    "over lines": ("torch.cuda.empty_cache(\n)", COMMENT),
    "below the question": (f"if torch.cuda.is_available():\n    {CALL}", COMMENT),
    "on its line": (f"if torch.cuda.is_available(): {CALL}", COMMENT),
    "below two questions": (
        f'if hasattr(torch, "cuda") and torch.cuda.is_available():\n    if torch.cuda.is_initialized():\n        {CALL}',
        COMMENT,
    ),
    "below a question, with others": (
        f"if torch.cuda.is_available():\n    torch.cuda.synchronize()\n    {CALL}",
        f"if torch.cuda.is_available():\n    torch.cuda.synchronize()\n    {COMMENT}",
    ),
    "in front of another device's": (
        f"if torch.cuda.is_available():\n    {CALL}\nelif torch.backends.mps.is_available():\n    torch.mps.empty_cache()",
        f"{COMMENT}\nif torch.backends.mps.is_available():\n    torch.mps.empty_cache()",
    ),
    "behind another device's": (
        f"if torch.mps.is_available():\n    torch.mps.empty_cache()\nelif torch.cuda.is_available():\n    {CALL}",
        f"if torch.mps.is_available():\n    torch.mps.empty_cache()\n{COMMENT}",
    ),
    "between other devices'": (
        f"if a.is_available():\n    a.b()\nelif torch.cuda.is_available():\n    {CALL}\nelif c.is_available():\n    c.d()\n"
        "else:\n    e()",
        f"if a.is_available():\n    a.b()\n{COMMENT}\nelif c.is_available():\n    c.d()\nelse:\n    e()",
    ),
    "after each part": (
        f"for part in input:\n    use(part)\n    {CALL}",
        f"for part in input:\n    use(part)\n    {COMMENT}",
    ),
    "at the end, whatever happens": (
        f"try:\n    check()\nfinally:\n    gc.collect()\n    {CALL}",
        f"try:\n    check()\nfinally:\n    gc.collect()\n    {COMMENT}",
    ),
    "beside one under a condition": (
        f"if self.low_memory:\n    {CALL}\n{CALL}",
        f"if self.low_memory:\n    {CALL}\n{COMMENT}",
    ),
}
IMPORTS = {
    "the module": ("import torch.cuda", CALL),
    "the module by another name": ("import torch as t", "t.cuda.empty_cache()"),
    "the submodule by another name": ("import torch.cuda as c", "c.empty_cache()"),
    "the submodule": ("from torch import cuda", "cuda.empty_cache()"),
    "the function": ("from torch.cuda import empty_cache", "empty_cache()"),
    "the function by another name": ("from torch.cuda import empty_cache as free", "free()"),
    "a variable": ("import torch\ncuda = torch.cuda", "cuda.empty_cache()"),
    "a variable for the function": ("import torch\nfree = torch.cuda.empty_cache", "free()"),
    "where it can": ("try:\n    import torch\nexcept ImportError:\n    import torch", CALL),
}


@pytest.mark.parametrize(("before", "after"), LANDS.values(), ids=LANDS.keys())
def test_lands(before: str, after: str) -> None:
    lands(NAME, module(before), module(after))


@pytest.mark.parametrize(("top", "call"), IMPORTS.values(), ids=IMPORTS.keys())
def test_lands_however_it_is_imported(top: str, call: str) -> None:
    lands(NAME, module(call, top), module(COMMENT, top))


def test_lands_with_an_import_in_the_method() -> None:
    lands(NAME, module(f"import torch\n{CALL}", ""), module(f"import torch\n{COMMENT}", ""))


def test_lands_where_it_is_the_last_statement() -> None:
    def last(line: str) -> str:
        return module(f"try:\n    return results\nfinally:\n    gc.collect()\n    {line}").removesuffix(
            "        return results\n"
        )

    lands(NAME, last(CALL), last(COMMENT))
    skips(NAME, last(COMMENT) + "\n# more\n\n\ndef other():\n    pass\n", ALREADY)


@pytest.mark.parametrize(
    "form",
    [
        lambda text: text.replace("    ", "\t"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("    def infer", "    async def infer"),
        lambda text: text.replace("    def infer", "    @torch.no_grad()\n    def infer"),
        lambda text: "\ufeff" + text,
    ],
    ids=["tabs", "CRLF", "async", "decorated", "BOM"],
)
def test_lands_in_any_form(form: Callable[[str], str]) -> None:
    outcome = plan(NAME, form(module(CALL)).encode())
    assert outcome.kind == PLANNED, outcome.message
    assert outcome.after.decode() == form(module(COMMENT))


def test_what_the_method_gives_and_does() -> None:
    """The same results; the cache is freed by the other method only."""
    counts = {}
    for text in (module(CALL), plan(NAME, module(CALL)).after.decode()):
        freed: list[None] = []
        names: dict[str, Any] = {}
        exec(compile(text.replace("import torch\n", "", 1), "auto_model.py", "exec"), names)
        names["torch"] = SimpleNamespace(cuda=SimpleNamespace(empty_cache=lambda freed=freed: freed.append(None)))
        model = names["AutoModel"]()
        model.model = lambda value: value + 1
        assert [model.infer_encoder(n) for n in (1, 2, 3)] == [2, 3, 4]
        counts[text] = len(freed)
        model.inference(1)
        assert len(freed) == counts[text] + 1
    assert list(counts.values()) == [3, 0]


# In a checkout


def test_put_in_and_taken_out(git_checkout: Path, run: Run) -> None:
    ran = run(NAME, "--commit", cwd=git_checkout)
    assert ran.code == 0, ran
    assert git("show", "--name-only", "--format=", cwd=git_checkout).split() == [PATH]
    assert (git_checkout / PATH).read_text() == plan(NAME, PLAIN).after.decode()
    assert run("revert", "--commit", cwd=git_checkout).code == 0
    assert contents(git_checkout, ".git") == contents(REFERENCE, "__pycache__")


def test_taken_out_after_a_formatter(checkout: Path, run: Run) -> None:
    assert run(NAME, cwd=checkout).code == 0
    path = checkout / PATH
    path.write_text(path.read_text().replace("    ", "\t"))
    assert (
        json.loads(run("status", "--json", cwd=checkout).out)["optimizations"][NAME]["state"]
        == "applied, and edited since"
    )
    assert run("revert", cwd=checkout).code == 0
    assert path.read_text() == PLAIN.replace("    ", "\t")


def test_together_with_the_tokenizers(checkout: Path, run: Run) -> None:
    assert run("tokenizer_ort_threads", NAME, cwd=checkout).code == 0
    found = json.loads(run("status", "--json", cwd=checkout).out)
    assert found["files"] == ["tokenizer.py", PATH]
    assert {n: s["state"] for n, s in found["optimizations"].items() if s["state"] != "not applied"} == {
        "tokenizer_ort_threads": "applied",
        NAME: "applied",
    }
    assert run("revert", "tokenizer_ort_threads", cwd=checkout).code == 0
    assert run("revert", "--all", cwd=checkout).code == 0
    assert contents(checkout) == contents(REFERENCE, "__pycache__")


def test_a_checkout_without_that_file(checkout: Path, run: Run) -> None:
    (checkout / PATH).unlink()
    ran = run(NAME, cwd=checkout)
    assert ran.code == 3
    assert "does not hold the part auto_model of step_audio_editx" in ran.err
    assert "AutoModel.infer_encoder: take out the line torch.cuda.empty_cache()" in ran.err
