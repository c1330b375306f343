"""``tokenizer_tf32``: which methods get the decorator, and where it would not be around what runs."""

from __future__ import annotations

import pytest
from cases import block, lands, line_of, numbers_of, plan, refuses, replaced, skips
from test_tokenizer_tf32 import AT_IMPORT, ENCODE, MARK, NAME, REST, above, marked, module, with_helper

from apply_opt.errors import Ambiguous, Conflict, PartlyApplied
from apply_opt.model.plan import ALREADY

BATCH = ENCODE.replace("get_vq02_code", "get_batch")
WARM = """
def {name}(self):
    self.funasr_model.infer_encoder(input=[[0.0] * 16000])
"""
WORKER = """
class Worker:
    def encode(self, audio):
        return self.model.infer_encoder(input=[audio], is_final=True)
"""
FAST = """
def _fast(self, audio):
    return self.funasr_model.infer_encoder(input=[audio])[0][0]["enc_out"]
"""


class TestWarmUps:
    """They run the encoder, but not for anybody."""

    @pytest.mark.parametrize("name", ["__init__", "warmup", "_warmup", "warm_up", "_warm_up_encoder", "load_models"])
    def test_never_alone(self, name: str) -> None:
        text = module(WARM.format(name=name), tail=WORKER)
        refuses(NAME, text, Ambiguous, line_of(text, "infer_encoder"), f"is only called in {name}, which prepares")

    @pytest.mark.parametrize("name", ["__init__", "warmup", "_warmup", "warm_up", "setup"])
    def test_left_out_beside_another(self, name: str) -> None:
        before = module(WARM.format(name=name) + ENCODE)
        lands(NAME, before, with_helper(marked(before)))

    def test_one_s_own_infer_encoder(self) -> None:
        own = "def infer_encoder(self, **words):\n    return self.funasr_model.infer_encoder(**words)\n"
        before = module(own + ENCODE.replace("self.funasr_model.infer", "self.infer"))
        lands(NAME, before, with_helper(marked(before)))

    def test_one_that_keeps_the_encoder_out_of_sight(self) -> None:
        init = "def __init__(self, model):\n    self.encode = wrap(model.infer_encoder)\n"
        text = module(init + ENCODE)
        refuses(NAME, text, Ambiguous, line_of(text, "wrap("), "handed on here")


class TestSeveral:
    def both(self) -> str:
        return with_helper(marked(marked(module(ENCODE + BATCH)), "def get_batch"))

    @pytest.mark.parametrize("precision", ["high", "medium"])
    def test_all_of_them(self, precision: str) -> None:
        before = module(ENCODE + BATCH)
        after = with_helper(marked(marked(before), "def get_batch"), precision)
        lands(NAME, before, after, precision=precision)

    def test_all_are_there(self) -> None:
        skips(NAME, self.both(), ALREADY, "already there")

    def test_only_one_is_there(self) -> None:
        text = replaced(self.both(), (f"    {MARK}\n    def get_batch", "    def get_batch"))
        one, two = (numbers_of(text, f"def {name}")[0] for name in ("get_vq02_code", "get_batch"))
        refuses(NAME, text, PartlyApplied, f"is on get_vq02_code (line {one}), not on get_batch (line {two})")

    def test_a_subclass_that_encodes_in_its_own_way(self) -> None:
        tail = "class Fast(StepAudioTokenizer):\n" + block(ENCODE.replace("is_final=True", "is_final=False"), 4)
        before = module(tail=tail)
        at = before.index("class Fast")
        lands(NAME, before, with_helper(marked(before[:at]) + marked(before[at:])))

    @pytest.mark.parametrize("head", ["async def", "def"])
    def test_one_of_them_runs_later(self, head: str) -> None:
        stream = BATCH.replace("def", head) if head != "def" else BATCH.replace("return result", "yield result")
        text = module(ENCODE + stream)
        refuses(NAME, text, Conflict, line_of(text, f"{head} get_batch"), "is a coroutine or generator")


class TestRivals:
    def test_a_batch_tokenizer_beside(self) -> None:
        tail = "class BatchTokenizer:\n" + block(BATCH, 4)
        before = module(tail=tail)
        lands(NAME, before, with_helper(marked(before)))
        lands(NAME, before, above(before, "class StepAudio", AT_IMPORT["high"]), scope="process")


class TestReplaced:
    @pytest.mark.parametrize(
        "line",
        [
            "StepAudioTokenizer.get_vq02_code = _fast",
            'setattr(StepAudioTokenizer, "get_vq02_code", _fast)',
            'mock.patch.object(StepAudioTokenizer, "get_vq02_code", _fast).start()',
            "del StepAudioTokenizer.get_vq02_code",
            "tokenizer.get_vq02_code = types.MethodType(_fast, tokenizer)",
        ],
    )
    def test_from_outside(self, line: str) -> None:
        text = module(tail=block(FAST) + f"\n\n\n{line}")
        refuses(NAME, text, Conflict, line_of(text, line), "get_vq02_code is replaced here")

    def test_in_the_class(self) -> None:
        text = module(ENCODE + "\nget_vq02_code = _fast\n")
        refuses(NAME, text, Conflict, line_of(text, "= _fast"), "get_vq02_code is replaced here")

    def test_on_the_object(self) -> None:
        text = module("def __init__(self):\n    self.get_vq02_code = self.client.encode\n" + ENCODE)
        refuses(NAME, text, Conflict, line_of(text, "self.client"), "get_vq02_code is replaced here")

    @pytest.mark.parametrize(
        "line",
        [
            "StepAudioTokenizer.get_vq02_code = timed(StepAudioTokenizer.get_vq02_code)",
            'setattr(StepAudioTokenizer, "get_vq06_code", _fast)',
            "code = StepAudioTokenizer.get_vq02_code",
            'print("get_vq02_code")',
        ],
    )
    def test_what_only_wraps_it(self, line: str) -> None:
        before = module(tail=line)
        lands(NAME, before, with_helper(marked(before)))


class TestProcess:
    """With ``scope=process`` it does not matter in which method, or when, the encoder runs."""

    @pytest.mark.parametrize(
        "encode",
        [
            ENCODE + BATCH,
            ENCODE.replace("def ", "async def "),
            "@torch.compile\n" + block(ENCODE),
            ENCODE + "\n" + ENCODE,
            WARM.format(name="__init__"),
            "def get_vq02_code(self, audio):\n    return self.pool.submit(self.funasr_model.infer_encoder, audio)",
        ],
    )
    def test_lands(self, encode: str) -> None:
        before = module(encode)
        lands(NAME, before, above(before, "class StepAudio", AT_IMPORT["high"]), scope="process")

    def test_its_sites_are_its_line(self) -> None:
        before = module()
        after = plan(NAME, before, scope="process").after.decode()
        again = plan(NAME, after, scope="process")
        assert {site.line for site in again.sites} == {numbers_of(after, "allow_tf32 = True")[0]}
        assert len({site.line for site in plan(NAME, before, scope="process").sites}) == 1

    def test_our_helper_is_there(self) -> None:
        text = with_helper(module())
        refuses(NAME, text, PartlyApplied, "setting (line", "encoder is not", scope="process")


def test_the_line_is_the_decorator_s() -> None:
    after = plan(NAME, module()).after.decode()
    lines = {site.name: site.line for site in plan(NAME, after).sites}
    assert lines == {"setting": numbers_of(after, "def _with")[0], "encoder": numbers_of(after, MARK)[0]}


@pytest.mark.parametrize(
    "decorator",
    ["@torch.compiler.disable", "@torch.jit.ignore", "@torch.jit.unused", "@no_compile", "@torch.compiler.disable()"],
)
def test_kept_from_the_compiler(decorator: str) -> None:
    before = module(decorator + "\n" + block(ENCODE))
    lands(NAME, before, with_helper(marked(before)))


@pytest.mark.parametrize(
    "decorator", ["@torch.compile(disable=DEBUG)", "@numba.njit", "@jit", "@torch.jit.script_method"]
)
def test_compiled(decorator: str) -> None:
    text = module(decorator + "\n" + block(ENCODE))
    refuses(NAME, text, Conflict, "is compiled")


CALL = "self.funasr_model.infer_encoder"
IN_TIME = {
    "annotated": f"encode: Callable = {CALL}\nreturn encode(audio)",
    "walrus": f"return (encode := {CALL})(audio), encode(audio)",
    "walrus in a condition": f"if encode := {CALL}:\n    return encode(audio)",
    "by a condition": f"encode = {CALL} if audio else {CALL}\nreturn encode(audio)",
    "either": f"encode = self.own or {CALL}\nreturn encode(audio)",
    "either, on the spot": f"return (self.own or {CALL})(audio)",
    "waited for": f"return self.pool.submit({CALL}, input=audio).result()",
    "a lambda that is waited for": f"return self.pool.submit(lambda: {CALL}(audio)).result()",
    "a lambda that is called": f"encode = lambda: {CALL}(audio)\nreturn encode()",
    "partial": f"encode = functools.partial({CALL}, is_final=True)\nreturn encode(audio)",
    "partial on the spot": f"return functools.partial({CALL}, is_final=True)(audio)",
    "without gradients": f"@torch.no_grad()\ndef encode():\n    return {CALL}(audio)\nreturn encode()",
    "a function that calls itself": f"def encode(n):\n    return encode(n - 1) if n else {CALL}(audio)\nreturn encode(2)",
}  # fmt: skip


@pytest.mark.parametrize("case", IN_TIME)
def test_done_when_it_returns(case: str) -> None:
    before = module("def get_vq02_code(self, audio):\n" + block(IN_TIME[case], 4))
    lands(NAME, before, with_helper(marked(before)))


def test_kept_on_the_object() -> None:
    init = "def __init__(self, model):\n    self.encode = model.infer_encoder\n"
    before = module(init + "\ndef get_vq02_code(self, audio):\n    return self.encode(input=[audio])\n")
    lands(NAME, before, with_helper(marked(before)))


LATE = {
    "not waited for": (f"return self.pool.submit({CALL}, audio)", "submit"),
    "not for long": (f"return self.pool.submit({CALL}, audio).result(timeout=1)", "submit"),
    "in a process": (f"self.pool = ProcessPoolExecutor()\nreturn self.pool.submit({CALL}, audio).result()", "submit"),
    "partial": (f"return functools.partial({CALL}, audio)", "partial"),
    "walrus": (f"use(encode := {CALL})", "use"),
    "walrus, later": (f"(encode := {CALL})\nuse(encode)", "use"),
    "either": (f"return self.own or {CALL}", "own"),
    "annotated": (f"encode: Callable = {CALL}\nreturn encode", "return"),
    "a lambda that is returned": (f"encode = lambda: {CALL}(audio)\nreturn encode", "return"),
    "a cached function": (f"@cached\ndef encode():\n    return {CALL}(audio)\nreturn encode()", "return self.funasr"),
}  # fmt: skip


@pytest.mark.parametrize("case", LATE)
def test_not_done_when_it_returns(case: str) -> None:
    body, line = LATE[case]
    text = module("def get_vq02_code(self, audio):\n" + block(body, 4), rest=REST)
    refuses(NAME, text, Ambiguous, line_of(text, line), "is handed on here")
