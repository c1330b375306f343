"""``tokenizer_vq02_batched``: an option for the calls that encode chunk by chunk, and the class that it names."""

from __future__ import annotations

import pytest
from cases import (
    FILE,
    above,
    block,
    constant,
    lands,
    line_of,
    lines_of,
    plan,
    reference,
    refuses,
    replaced,
    skips,
)

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, PLANNED

NAME = "tokenizer_vq02_batched"
HELPER = constant(NAME, "HELPER_TEXT")
OPTION = "**_AllChunksAtOnce.option(self.funasr_model)"

CALL = """self.funasr_model.infer_encoder(
        input=[audio],
        chunk_size=self.chunk_size,
        is_final=True,
        cache={},
    )"""
DONE = CALL.replace("cache={},\n", "cache={},\n        " + OPTION + ",\n")
REST = """
def get_vq06_code(self, audio):
    feats = whisper.log_mel_spectrogram(audio, n_mels=128)
    return self.ort_session.run(None, {"feats": feats})
"""


def method(call: str = CALL) -> str:
    """A method that encodes by ``call``."""
    return f'def get_vq02_code(self, audio):\n    result, _ = {call}\n    return result[0]["enc_out"]\n'


def module(
    encode: str = "",
    imports: str = "import torch",
    cls: str = "class StepAudioTokenizer:",
    rest: str = REST,
    tail: str = "",
) -> str:
    """A small tokenizer around the method that a case is about."""
    parts = [
        f"import whisper\n{block(imports)}\n\n",
        block(cls),
        block(encode or method(), 4) + "\n",
        block(rest, 4) + "\n",
    ]
    return "\n".join(parts) + ("\n\n" + block(tail) + "\n" if tail else "")


def applied(text: str, *changes: tuple[str, str], anchor: str = "class StepAudioTokenizer") -> str:
    """``text`` with our class above the tokenizer's, and its calls changed."""
    return above(replaced(text, *changes), anchor, HELPER)


def lands_on(before: str, after: str, **more: str) -> None:
    """The codemod adds the class, and makes the call ``after`` of the call ``before``."""
    text = module(method(before), **more)
    lands(NAME, text, above(module(method(after), **more), "class StepAudioTokenizer", HELPER))


class TestLeavesAlone:
    """Look-alikes, what is there already, and what cannot be told."""

    @pytest.mark.parametrize(
        "text",
        [
            '"""class StepAudioTokenizer calls infer_encoder(chunk_size=) and log_mel_spectrogram()."""\n',
            "# self.funasr_model.infer_encoder(input=[audio], chunk_size=[0, 4, 5])\n",
            'print("infer_encoder(", infer_encoder)\n',
            "class StepAudioTokenizer:\n    infer_encoder = None\n",
        ],
    )
    def test_text_that_reads_like_it(self, text: str) -> None:
        refuses(NAME, text, NoSite, "no class calls infer_encoder()")

    def test_a_function_without_a_class(self) -> None:
        text = "import whisper\n\n\ndef encode(model, audio):\n    return model.infer_encoder([audio], chunk_size=[0, 4, 5])\n"
        refuses(NAME, text, NoSite, "no class calls infer_encoder()", "line 5 is outside of any")

    @pytest.mark.parametrize("name", ["AutoModel", "FunASRTokenizerModel"])
    def test_the_wrapper_alone(self, name: str) -> None:
        text = f"""class {name}:
    def infer_encoder(self, input, input_len=None, **cfg):
        return self.model.infer_encoder(**input, **cfg)
"""
        refuses(NAME, text, NoSite, f"{name} (line 1) calls infer_encoder()", "nothing else shows")

    def test_the_wrapper_around_the_model(self) -> None:
        wrapper = """
        class FunASRModel:
            def infer_encoder(self, input, input_len=None, **cfg):
                return self.model.infer_encoder(input=input, input_len=input_len, **cfg)
        """
        text = module(tail=wrapper)
        lands(NAME, text, applied(text, ("    cache={},\n", "    cache={},\n            " + OPTION + ",\n")))

    def test_a_class_with_the_same_methods(self) -> None:
        other = """
        class Offline:
            def get_vq02_code(self, audio):
                return self.encoder.encode(audio, chunk_size=None)
        """
        text = module(tail=other)
        lands(NAME, text, applied(text, ("    cache={},\n", "    cache={},\n            " + OPTION + ",\n")))

    def test_an_encoder_without_chunks(self) -> None:
        text = module(method("self.funasr_model.infer_encoder(input=[audio], is_final=True)"))
        refuses(NAME, text, NoSite, "StepAudioTokenizer does not call infer_encoder() with a chunk_size")

    def test_a_warm_up_without_chunks_is_left_as_it_is(self) -> None:
        warm_up = "\n\ndef warm_up(self):\n    self.funasr_model.infer_encoder(input=[self.silence])\n"
        text = module(method() + warm_up)
        lands(NAME, text, above(module(method(DONE) + warm_up), "class StepAudioTokenizer", HELPER))

    def test_the_tokenizers_own_method(self) -> None:
        own = """
        def infer_encoder(self, audio, chunk_size):
            return self.funasr_model.infer_encoder(input=[audio], chunk_size=chunk_size)

        def get_vq02_code(self, audio):
            return self.infer_encoder(audio, chunk_size=self.chunk_size)
        """
        text = module(own, rest=REST)
        changed = ("chunk_size=chunk_size)", f"chunk_size=chunk_size, {OPTION})")
        lands(NAME, text, applied(text, changed))

    @pytest.mark.parametrize(
        "tail",
        [
            "_AllChunksAtOnce = None",
            "def _AllChunksAtOnce(model):\n    return {}",
            "from speedups import _AllChunksAtOnce",
            "def other(_AllChunksAtOnce):\n    pass",
        ],
    )
    def test_the_name_is_taken(self, tail: str) -> None:
        refuses(NAME, module(tail=tail), Conflict, "already uses the name _AllChunksAtOnce")

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            ("self.funasr_model.infer_encoder([audio], chunk_size=s, model=self.fast)", Conflict, "is given a model"),
            ("self.funasr_model.infer_encoder([audio], None, self.fast, chunk_size=s)", Ambiguous, "by position"),
            ("self.funasr_model.infer_encoder(*audio, chunk_size=s)", Ambiguous, "by position"),
            ("self.models[self.name].infer_encoder(input=[audio], chunk_size=s)", Ambiguous, "plain name"),
            ("self.load().infer_encoder(input=[audio], chunk_size=s)", Ambiguous, "plain name"),
            ("(self.fast or self.slow).infer_encoder(input=[audio], chunk_size=s)", Ambiguous, "plain name"),
            ("run(self.funasr_model.infer_encoder, audio, chunk_size=s)", Ambiguous, "handed on"),
            ("loop.run_in_executor(None, self.funasr_model.infer_encoder, audio)", Ambiguous, "handed on"),
            ("partial(self.run, self.funasr_model.infer_encoder, chunk_size=s)()", Ambiguous, "handed on"),
        ],
    )
    def test_not_sure(self, call: str, error: type[Ambiguous], words: str) -> None:
        text = module(method(call))
        refuses(NAME, text, error, line_of(text, call), words)

    @pytest.mark.parametrize(
        "before",
        [
            "infer = self.funasr_model.infer_encoder if fast else self.slow.infer_encoder",
            "infer = run = self.funasr_model.infer_encoder",
            "infer, run = self.funasr_model.infer_encoder, None",
            "infer = self.funasr_model.infer_encoder\n    infer = self.wrapped(infer)",
            "infer = self.funasr_model.infer_encoder\n    self.queue.put(infer)",
            "self.infer = self.funasr_model.infer_encoder",
        ],
    )
    def test_kept_under_a_name_that_may_be_another_function(self, before: str) -> None:
        encode = f"def get_vq02_code(self, audio):\n    {before}\n    return infer(input=[audio], chunk_size=self.chunk_size)\n"
        text = module(encode)
        refuses(NAME, text, Ambiguous, line_of(text, before.split("\n")[0]), "handed on")

    @pytest.mark.parametrize(
        "imports",
        [
            "torch = None",
            "import jax as torch",
            "from fakes import torch",
            "try:\n    import torch\nexcept ImportError:\n    torch = None",
        ],
    )
    def test_another_torch(self, imports: str) -> None:
        text = module(imports=imports)
        refuses(NAME, text, Conflict, "torch may be something else than PyTorch")

    def test_two_tokenizers(self) -> None:
        text = module(tail=module().split("\n\n\n", 1)[1].replace("class StepAudioTokenizer", "class OldTokenizer"))
        refuses(NAME, text, Ambiguous, "2 classes could be the tokenizer")


class TestAlreadyThere:
    """By us, in full or in part."""

    def test_in_full(self) -> None:
        done = plan(NAME, reference()).after.decode()
        skips(NAME, done, ALREADY, "already there")

    def test_moved_and_edited_by_hand(self) -> None:
        done = plan(NAME, module()).after.decode().replace("WINDOWS_AT_ONCE = 256", "WINDOWS_AT_ONCE = 64")
        skips(NAME, done, ALREADY, "already there")

    def test_the_class_alone(self) -> None:
        text = above(module(), "class StepAudioTokenizer", HELPER)
        refuses(NAME, text, PartlyApplied, "is partly applied: helper")

    def test_the_option_alone(self) -> None:
        refuses(NAME, module(method(DONE)), PartlyApplied, "is partly applied: encoder")

    def test_the_class_twice(self) -> None:
        text = above(
            above(module(method(DONE)), "class StepAudioTokenizer", HELPER), "class StepAudioTokenizer", HELPER
        )
        lines = lines_of(text, "class _AllChunksAtOnce")
        refuses(NAME, text, PartlyApplied, "defined more than once", lines)

    def test_one_of_two_calls(self) -> None:
        second = method().replace("get_vq02_code", "get_vq02_code_long")
        text = above(module(method(DONE) + "\n\n" + second), "class StepAudioTokenizer", HELPER)
        refuses(NAME, text, PartlyApplied, "calls infer_encoder() without _AllChunksAtOnce")

    def test_the_option_of_another_model(self) -> None:
        other = DONE.replace("option(self.funasr_model)", "option(self.other_model)")
        text = above(module(method(other)), "class StepAudioTokenizer", HELPER)
        refuses(NAME, text, PartlyApplied, "is partly applied: helper")


class TestLands:
    """On the forms that the call has in the reference and in forks."""

    def test_the_reference(self) -> None:
        before = "chunk_size=self.chunk_size, **look_back\n"
        after = before[:-1] + ",\n" + " " * 16 + OPTION + "\n"
        lands(NAME, reference(), applied(reference(), (before, after)))

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (CALL, DONE),
            (
                "self.funasr_model.infer_encoder(input=[audio], chunk_size=s)",
                f"self.funasr_model.infer_encoder(input=[audio], chunk_size=s, {OPTION})",
            ),
            (
                "self.funasr_model.infer_encoder(input=[audio], chunk_size=s, )",
                f"self.funasr_model.infer_encoder(input=[audio], chunk_size=s, {OPTION}, )",
            ),
            (
                "self.funasr_model.infer_encoder([audio], **self.options)",
                f"self.funasr_model.infer_encoder([audio], **self.options, {OPTION})",
            ),
            (
                "self.funasr_model.infer_encoder(\n        input=[audio],\n        chunk_size=s\n    )",
                f"self.funasr_model.infer_encoder(\n        input=[audio],\n        chunk_size=s,\n        {OPTION}\n    )",
            ),
            (
                "self.funasr_model.infer_encoder(\n        input=[audio], chunk_size=s)",
                f"self.funasr_model.infer_encoder(\n        input=[audio], chunk_size=s,\n        {OPTION})",
            ),
            (
                "self.funasr_model.infer_encoder(input=[audio],\n                      chunk_size=s)",
                f"self.funasr_model.infer_encoder(input=[audio],\n                      chunk_size=s,\n                      {OPTION})",
            ),
            (
                "self.funasr_model.infer_encoder(  # slow\n        input=[audio],  # one\n        chunk_size=s,  # frames\n    )",
                "self.funasr_model.infer_encoder(  # slow\n        input=[audio],  # one\n        chunk_size=s,  # frames\n"
                f"        {OPTION},\n    )",
            ),
            (
                "self.funasr_model.infer_encoder(\n        input=[audio],\n        chunk_size=s  # frames\n        # the end\n    )",
                "self.funasr_model.infer_encoder(\n        input=[audio],\n        chunk_size=s,  # frames\n"
                f"        {OPTION}\n        # the end\n    )",
            ),
        ],
    )
    def test_formatting(self, before: str, after: str) -> None:
        lands_on(before, after)

    @pytest.mark.parametrize(
        ("model", "code"),
        [
            ("model", "model"),
            ("self.models['funasr']", "self.models['funasr']"),
            ("type(self).model", None),
            ("self.engine.asr.model", "self.engine.asr.model"),
        ],
    )
    def test_the_models_name(self, model: str, code: str | None) -> None:
        call = f"{model}.infer_encoder(input=[audio], chunk_size=s)"
        if code is None:
            refuses(NAME, module(method(call)), Ambiguous, "plain name")
        else:
            lands_on(call, call[:-1] + f", **_AllChunksAtOnce.option({code}))")

    @pytest.mark.parametrize(
        "call",
        [
            "asyncio.to_thread(self.funasr_model.infer_encoder, input=[audio], chunk_size=s)",
            "functools.partial(self.funasr_model.infer_encoder, input=[audio], chunk_size=s)",
            "self.pool.submit(self.funasr_model.infer_encoder, [audio], chunk_size=s)",
        ],
    )
    def test_forwarded_with_its_arguments(self, call: str) -> None:
        lands_on(call, call[:-1] + f", {OPTION})")

    @pytest.mark.parametrize(
        "encode",
        [
            "infer = self.funasr_model.infer_encoder\n    return infer(input=[audio], chunk_size=s)",
            "def infer():\n        return self.funasr_model.infer_encoder(input=[audio], chunk_size=s)\n    return infer()",
            "return (lambda: self.funasr_model.infer_encoder(input=[audio], chunk_size=s))()",
            "with self.lock:\n        return self.funasr_model.infer_encoder(input=[audio], chunk_size=s)[0]",
            "return self.funasr_model.infer_encoder(input=[audio], chunk_size=s) if audio else []",
        ],
    )
    def test_wherever_the_call_stands(self, encode: str) -> None:
        text = module(f"def get_vq02_code(self, audio, s):\n    {encode}\n")
        lands(NAME, text, applied(text, ("chunk_size=s)", f"chunk_size=s, {OPTION})")))

    def test_two_calls_in_one_statement(self) -> None:
        one, two = (f"self.{name}.infer_encoder(input=[audio], chunk_size=s)" for name in ("fast", "slow"))
        done = [f"{call[:-1]}, **_AllChunksAtOnce.option({call.split('.infer')[0]}))" for call in (one, two)]
        lands_on(f"{one} if self.is_fast else {two}", f"{done[0]} if self.is_fast else {done[1]}")

    def test_two_methods_and_a_subclass(self) -> None:
        sub = """
        class Subclass(StepAudioTokenizer):
            def get_vq02_code(self, audio):
                return self.funasr_model.infer_encoder(input=[audio], chunk_size=[0, 8, 4])
        """
        text = module(tail=sub)
        changes = (
            ("    cache={},\n", "    cache={},\n            " + OPTION + ",\n"),
            ("[0, 8, 4])", f"[0, 8, 4], {OPTION})"),
        )
        lands(NAME, text, applied(text, *changes))

    def test_async(self) -> None:
        text = module(method(f"await {CALL}").replace("def ", "async def "))
        lands(NAME, text, applied(text, ("    cache={},\n", "    cache={},\n            " + OPTION + ",\n")))

    @pytest.mark.parametrize(
        "imports", ["import os", "import torch as th", "import os, torchaudio", "from torch import nn"]
    )
    def test_torch_is_imported_where_it_is_not(self, imports: str) -> None:
        text = module(imports=imports)
        helper = "import torch\n\n\n" + HELPER.strip("\n")
        after = replaced(text, ("    cache={},\n", "    cache={},\n            " + OPTION + ",\n"))
        lands(NAME, text, above(after, "class StepAudioTokenizer", helper))

    @pytest.mark.parametrize("imports", ["import torch.nn.functional", "import os, torch", "import torch as torch"])
    def test_torch_that_is_there(self, imports: str) -> None:
        lands_on(CALL, DONE, imports=imports)

    def test_line_endings(self) -> None:
        outcome = plan(NAME, reference().replace("\n", "\r\n"))
        assert outcome.kind == PLANNED, outcome.message
        assert outcome.after == plan(NAME, reference()).after.replace(b"\n", b"\r\n")

    def test_tabs(self) -> None:
        text = reference().replace("    ", "\t")
        outcome = plan(NAME, text)
        assert outcome.kind == PLANNED, outcome.message
        compile(outcome.after, FILE, "exec")
        added = set(outcome.after.decode().splitlines()) - set(text.splitlines())
        assert not [line for line in added if line.startswith(" ")]

    @pytest.mark.parametrize("place", range(4))
    def test_stacks_with_the_others(self, place: int) -> None:
        order = ["tokenizer_tf32", "tokenizer_ort_threads", "tokenizer_light_model"]
        order.insert(place, NAME)
        data = reference().encode()
        for name in order:
            outcome = plan(name, data)
            assert outcome.kind == PLANNED, (name, outcome.message)
            data = outcome.after
        assert [plan(name, data).kind for name in order] == [ALREADY] * 4
