"""``tokenizer_tf32``: around the one method that runs the encoder, and off again when it returns."""

from __future__ import annotations

import pytest
from cases import (
    UNITS,
    above,
    block,
    constant,
    lands,
    line_of,
    lines_of,
    numbers_of,
    plan,
    reference,
    refuses,
    replaced,
    skips,
    with_tabs,
)

from apply_opt.errors import Ambiguous, Conflict, NoSite, OtherValues, PartlyApplied, Refused
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED

NAME = "tokenizer_tf32"
HELPERS = constant(NAME, "HELPERS")
AT_IMPORT = constant(NAME, "AT_IMPORT")
MARK = "@_with_tf32_matmul"

ENCODE = """
def get_vq02_code(self, audio):
    result, _ = self.funasr_model.infer_encoder(input=[audio], is_final=True)
    return result[0]["enc_out"]
"""
REST = """
def get_vq06_code(self, audio):
    feats = whisper.log_mel_spectrogram(audio, n_mels=128)
    return self.ort_session.run(None, {"feats": feats})
"""


def module(
    encode: str = ENCODE,
    imports: str = "import torch",
    cls: str = "class StepAudioTokenizer:",
    rest: str = REST,
    tail: str = "",
) -> str:
    """A small tokenizer around the method that a case is about."""
    parts = [f"import whisper\n{block(imports)}\n\n", block(cls), block(encode, 4) + "\n", block(rest, 4) + "\n"]
    return "\n".join(parts) + ("\n\n" + block(tail) + "\n" if tail else "")


def with_helper(text: str, precision: str = "high", anchor: str = "class StepAudioTokenizer") -> str:
    return above(text, anchor, HELPERS[precision])


def marked(text: str, definition: str = "def get_vq02_code") -> str:
    """``text`` with our decorator above the line with ``definition``, indented like it."""
    (line,) = (line for line in text.split("\n") if definition in line)
    indent = line[: len(line) - len(line.lstrip())]
    return replaced(text, (line, f"{indent}{MARK}\n{line}"))


def test_the_reference() -> None:
    lands(NAME, reference(), with_helper(marked(reference())))


class TestLeavesAlone:
    """Look-alikes, and what is there already."""

    def test_the_wrapper_around_the_model(self) -> None:
        wrapper = """
        class FunASRModel:
            def infer_encoder(self, input, input_len=None, **cfg):
                return self.model.infer_encoder(input=input, input_len=input_len, **cfg)

            def generate(self, *args, **kwargs):
                return self.model.infer_encoder(*args, **kwargs)
        """
        lands(NAME, module(tail=wrapper), with_helper(marked(module(tail=wrapper))))

    @pytest.mark.parametrize("name", ["AutoModel", "FunASRTokenizerModel"])
    def test_the_wrapper_alone(self, name: str) -> None:
        text = f"""class {name}:
    def infer_encoder(self, input, input_len=None, **cfg):
        return self.model.infer_encoder(**input, **cfg)
"""
        refuses(NAME, text, NoSite, f"{name} (line 1) calls infer_encoder()", "nothing else shows")

    def test_a_class_with_the_same_methods(self) -> None:
        other = """
        class Offline:
            def get_vq02_code(self, audio):
                return self.encoder.encode(audio)

            def get_vq06_code(self, audio):
                return whisper.log_mel_spectrogram(audio)
        """
        text = module(tail=other)
        at = text.index("class Offline")
        lands(NAME, text, with_helper(marked(text[:at]) + text[at:]))

    @pytest.mark.parametrize(
        "text",
        [
            '"""class StepAudioTokenizer calls infer_encoder() and log_mel_spectrogram()."""\n',
            "# self.funasr_model.infer_encoder(input=[audio])\n",
            'print("infer_encoder(", infer_encoder)\n',
            "class StepAudioTokenizer:\n    infer_encoder = None\n\n    def log_mel_spectrogram(self):\n        'infer_encoder()'\n",
        ],
    )
    def test_text_that_reads_like_it(self, text: str) -> None:
        refuses(NAME, text, NoSite, "no class calls infer_encoder()")

    def test_a_function_without_a_class(self) -> None:
        text = "import whisper\n\n\ndef encode(model, audio):\n    return model.infer_encoder(input=[audio], is_final=True)\n"
        refuses(NAME, text, NoSite, "no class calls infer_encoder()", "line 5 is outside of any")

    @pytest.mark.parametrize(
        ("imports", "noted"),
        [
            (
                "import torch\ntorch.backends.cuda.matmul.allow_tf32 = True",
                "torch.backends.cuda.matmul.allow_tf32 = True",
            ),
            (
                "import torch as th\nth.backends.cuda.matmul.allow_tf32 = True",
                "th.backends.cuda.matmul.allow_tf32 = True",
            ),
            ("from torch.backends.cuda import matmul\nmatmul.allow_tf32 = True", "matmul.allow_tf32 = True"),
            ("from torch.backends import cuda\ncuda.matmul.allow_tf32 = True", "cuda.matmul.allow_tf32 = True"),
            ("import torch\nmm = torch.backends.cuda.matmul\nmm.allow_tf32 = True", "mm.allow_tf32 = True"),
            (
                "import torch\nif torch.cuda.is_available(): torch.backends.cuda.matmul.allow_tf32 = True",
                "allow_tf32 = True",
            ),
            ("import torch\ntorch.backends.cuda.matmul.allow_tf32: bool = True", "allow_tf32: bool = True"),
            (
                "import torch\ntorch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True",
                "allow_tf32 = True",
            ),
            ("import torch\nsetattr(torch.backends.cuda.matmul, 'allow_tf32', True)", "setattr("),
            ("import torch\ntorch.set_float32_matmul_precision('high')", "torch.set_float32_matmul_precision('high')"),
            ("import torch\ntorch.set_float32_matmul_precision(precision='medium')", "precision='medium'"),
            ("from torch import set_float32_matmul_precision as p\np('high')", "p('high')"),
            ("import torch\ntorch.backends.cuda.matmul.fp32_precision = 'tf32'", "fp32_precision = 'tf32'"),
            ("import torch\ntorch.backends.fp32_precision = 'tf32'", "torch.backends.fp32_precision = 'tf32'"),
            ("import torch\ntorch._C._set_cublas_allow_tf32(True)", "_set_cublas_allow_tf32(True)"),
            ("import os\nos.environ['NVIDIA_TF32_OVERRIDE'] = '1'", "NVIDIA_TF32_OVERRIDE"),
            (
                "import os\nos.environ.setdefault('TORCH_ALLOW_TF32_CUBLAS_OVERRIDE', '1')",
                "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
            ),
        ],
    )
    def test_done_by_hand(self, imports: str, noted: str) -> None:
        text = module(imports=imports)
        number = len(block(imports).split("\n")) + 1
        skips(NAME, text, NOT_NEEDED, f"tokenizer.py:{number} ", noted)

    def test_done_by_hand_in_the_method(self) -> None:
        text = module("""
        def get_vq02_code(self, audio):
            torch.backends.cuda.matmul.allow_tf32 = True
            try:
                return self.funasr_model.infer_encoder(input=[audio])
            finally:
                torch.backends.cuda.matmul.allow_tf32 = False
        """)
        skips(NAME, text, NOT_NEEDED, line_of(text, "allow_tf32 = True"))

    @pytest.mark.parametrize(
        "line",
        [
            "torch.backends.cudnn.allow_tf32 = True",
            "torch.backends.cudnn.allow_tf32 = False",
            "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
            "torch.backends.mkldnn.matmul.fp32_precision = 'ieee'",
            "cudnn = torch.backends.cudnn\ncudnn.allow_tf32 = True",
            "torch.backends.cuda.matmul.fp32_precision = 'none'",
            "torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False",
            "# torch.backends.cuda.matmul.allow_tf32 = True",
            "'torch.backends.cuda.matmul.allow_tf32 = True'",
            "allow_tf32 = True",
            "print(torch.backends.cuda.matmul.allow_tf32)",
        ],
    )
    def test_settings_of_something_else(self, line: str) -> None:
        before = module(imports="import torch\n" + line)
        lands(NAME, before, with_helper(marked(before)))

    @pytest.mark.parametrize("scope", ["encoder", "process"])
    @pytest.mark.parametrize("precision", ["high", "medium"])
    def test_our_own_work(self, scope: str, precision: str) -> None:
        values = {"scope": scope, "precision": precision}
        after = plan(NAME, reference(), **values).after.decode()
        skips(NAME, after, ALREADY, "already there (tokenizer.py:", **values)

    def test_our_own_work_edited_since(self) -> None:
        text = (
            with_helper(marked(module()))
            .replace("    lock, running", "    # Mine.\n    lock, running")
            .replace("10 of", "ten of")
        )
        skips(NAME, text, ALREADY)


class TestHalf:
    def test_helper_without_decorator(self) -> None:
        text = with_helper(module())
        refuses(
            NAME,
            text,
            PartlyApplied,
            "partly applied",
            f"setting (line {numbers_of(text, 'def _with')[0]}) is there, encoder is not",
        )

    def test_decorator_without_helper(self) -> None:
        text = marked(module())
        refuses(
            NAME,
            text,
            PartlyApplied,
            "partly applied",
            f"encoder (line {numbers_of(text, MARK)[0]}) is there, setting is not",
        )

    def test_decorator_on_another_method(self) -> None:
        text = with_helper(marked(module(), "def get_vq06_code"))
        refuses(NAME, text, PartlyApplied, "partly applied", "encoder is not")

    def test_decorator_twice(self) -> None:
        text = with_helper(module()).replace("    def get_vq02", f"    {MARK}\n    {MARK}\n    def get_vq02")
        refuses(NAME, text, Ambiguous, "more than once", lines_of(text, MARK))

    def test_helper_twice(self) -> None:
        text = with_helper(with_helper(marked(module())))
        refuses(NAME, text, Ambiguous, "more than once", lines_of(text, "def _with_tf32"))

    def test_statement_twice(self) -> None:
        statement = AT_IMPORT["high"].strip()
        text = module(imports=f"import torch\n{statement}\n\n{statement}")
        refuses(NAME, text, Ambiguous, "more than once", lines_of(text, "allow_tf32"), scope="process")

    def test_off_on_purpose(self) -> None:
        for line in (
            "torch.backends.cuda.matmul.allow_tf32 = False",
            "torch.set_float32_matmul_precision('highest')",
            "torch.set_float32_matmul_precision(precision='highest')",
            "torch.backends.cuda.matmul.fp32_precision = 'ieee'",
            "torch.backends.fp32_precision = 'ieee'",
            "setattr(torch.backends.cuda.matmul, 'allow_tf32', False)",
            "torch._C._set_cublas_allow_tf32(False)",
            "os.environ['NVIDIA_TF32_OVERRIDE'] = '0'",
        ):
            text = module(imports="import os, torch\n" + line)
            refuses(NAME, text, Conflict, "tokenizer.py:3 turns TF32 off on purpose", line)

    @pytest.mark.parametrize(
        ("there", "asked", "noted"),
        [
            ({}, {"precision": "medium"}, "scope=encoder precision=high"),
            ({"precision": "medium"}, {}, "scope=encoder precision=medium"),
            ({}, {"scope": "process"}, "scope=encoder precision=high"),
            ({"scope": "process"}, {}, "scope=process precision=high"),
            ({"scope": "process"}, {"scope": "process", "precision": "medium"}, "scope=process precision=high"),
        ],
    )
    def test_other_values_asked_for(self, there: dict[str, str], asked: dict[str, str], noted: str) -> None:
        text = plan(NAME, module(), **there).after.decode()
        refuses(NAME, text, OtherValues, "is applied with other values: " + noted, **asked)

    @pytest.mark.parametrize(
        "imports", ["def _with_tf32_matmul_(): pass\n_with_tf32_matmul = None", "from a import b as _with_tf32_matmul"]
    )
    def test_name_taken(self, imports: str) -> None:
        refuses(NAME, module(imports=imports), Conflict, "already uses the name _with_tf32_matmul")


# The method before; the decorator goes above the line with "def get_vq02_code".
METHODS = {
    "as upstream": ENCODE,
    "renamed": ENCODE.replace("get_vq02_code", "def_get_vq02_code"),
    "a comment above": "# Linguistic tokens." + ENCODE,
    "the model by another name": ENCODE.replace("self.funasr_model", "self.models['paraformer'].encoder"),
    "the model in a variable": """
        def get_vq02_code(self, audio):
            model = self.funasr_model
            with self.lock:
                result = model.infer_encoder(input=[audio])
            return result
        """,
    "one line": "def get_vq02_code(self, audio): return self.funasr_model.infer_encoder(input=[audio])",
    "keyword-only, annotated": ENCODE.replace("(self, audio)", "(self, audio: 'Tensor', *, is_final: bool = True) -> list[int]"),
    "arguments over several lines": ENCODE.replace("(self, audio)", "(\n    self,\n    audio,  # at 16 kHz\n)"),
    "called twice": """
        def get_vq02_code(self, audio):
            try:
                return self.funasr_model.infer_encoder(input=[audio])
            except RuntimeError:
                return self.funasr_model.infer_encoder(input=[audio.cpu()])
        """,
    "bound method in a variable": """
        def get_vq02_code(self, audio):
            encode = self.funasr_model.infer_encoder
            return [encode(input=[part]) for part in audio]
        """,
    "a nested function that is called": """
        def get_vq02_code(self, audio):
            def encode(part):
                return self.funasr_model.infer_encoder(input=[part])

            return [encode(part) for part in audio]
        """,
    "a walrus and a match statement": """
        def get_vq02_code(self, audio):
            match self.funasr_model.infer_encoder(input=[audio]):
                case [result, *_] if (frames := result["enc_out"]) is not None:
                    return frames
        """,
    "f-strings and strings that look like code": '''
        def get_vq02_code(self, audio):
            """Not this one:

            @_other
            def get_code(self):
                infer_encoder()
            """
            print(f"{self.funasr_model.infer_encoder.__name__!r:>{10}}" if audio is None else "}{")
            return self.funasr_model.infer_encoder(input=[audio])
        ''',
    "a string that leaves the indentation": 'def get_vq02_code(self, audio):\n    text = """\ndef get_vq02():\n"""\n'
    "    return self.funasr_model.infer_encoder(input=[audio])",
    "a comment at the margin": ENCODE.replace('    return result[0]["enc_out"]', '# so far\n    return result[0]["enc_out"]'),
    "a lambda that does something else": ENCODE.replace("return result", "key = lambda x: x\n    return result"),
    "warm-up in __init__": "def __init__(self, model):\n    model.infer_encoder(input=[[0.0] * 16000])\n\n" + block(ENCODE),
    "with a stub for type checkers": "if TYPE_CHECKING:\n    def encode(self, audio) -> str: ...\n"
    + ENCODE.replace("get_vq02_code(self, audio)", "encode(self, audio, *_)"),
    "with a signature for type checkers": "@typing.overload\ndef encode(self, audio: str) -> str: ...\n"
    + ENCODE.replace("get_vq02_code", "encode"),
}  # fmt: skip


@pytest.mark.parametrize("case", METHODS)
def test_lands_on_the_method(case: str) -> None:
    before = module(METHODS[case])
    definitions = {
        "renamed": "def def_get",
        "with a stub for type checkers": "def encode(self, audio, *_)",
        "with a signature for type checkers": "def encode(self, audio):",
    }
    definition = definitions.get(case, "def get_vq02_code")
    lands(NAME, before, with_helper(marked(before, definition)))


@pytest.mark.parametrize(
    "decorators",
    [
        "@torch.inference_mode()\n",
        "@torch.inference_mode()\n# no gradients\n",
        "@staticmethod\n",
        "@classmethod\n@torch.no_grad()\n",
        "@functools.lru_cache(maxsize=None)\n\n",
        "@(lambda f: f)\n",
    ],
)
def test_lands_inside_other_decorators(decorators: str) -> None:
    before = module(decorators + block(ENCODE))
    lands(NAME, before, with_helper(marked(before)))


CLASSES = {
    "renamed": ("class AudioCodec:", "class AudioCodec"),
    "with bases and a docstring": (
        'class StepAudioTokenizer(Base, metaclass=Meta):\n    """infer_encoder()."""\n',
        "class Step",
    ),
    "with a decorator": ("@dataclasses.dataclass(slots=True)\nclass StepAudioTokenizer:", "@dataclasses"),
    "with a comment": ("# The tokenizer.\n# Two kinds.\nclass StepAudioTokenizer:", "# The tokenizer."),
    "with class variables": ("class StepAudioTokenizer:\n    RATE: int = 16000\n    __slots__ = ()\n", "class Step"),
}


@pytest.mark.parametrize("case", CLASSES)
def test_lands_above_the_class(case: str) -> None:
    cls, anchor = CLASSES[case]
    before = module(cls=cls)
    lands(NAME, before, with_helper(marked(before), anchor=anchor))


class TestEmptyLines:
    """Two of them on both sides of what we put in; where there are more, they stay."""

    @pytest.mark.parametrize(("there", "after"), [(0, 2), (1, 2), (2, 2), (3, 3), (5, 5)])
    def test_above(self, there: int, after: int) -> None:
        start, end = module().split("\n\n\nclass")
        outcome = plan(NAME, start + "\n" + "\n" * there + "class" + end)
        helper = outcome.after.decode().split("def _with_tf32_matmul")[0]
        assert helper == start + "\n" + "\n" * after

    @pytest.mark.parametrize("ending", ["", "\n", "\n\n\n"])
    def test_the_end_of_the_file_stays_as_it_is(self, ending: str) -> None:
        for scope in ("encoder", "process"):
            outcome = plan(NAME, module().rstrip("\n") + ending, scope=scope)
            text = outcome.after.decode()
            assert text.endswith("feats})" + ending)
            assert "\n\n\n\n" not in text.rstrip("\n")

    def test_the_class_is_all_there_is(self) -> None:
        before = module(imports="")
        before = before[before.index("class") :]
        lands(NAME, before, HELPERS["high"].strip("\n") + "\n\n\n" + marked(before))

    def test_white_space_and_form_feeds_count_as_empty(self) -> None:
        before = module().replace("\n\n\nclass", "\n  \n\f\nclass")
        after = plan(NAME, before).after.decode()
        assert "torch\n  \n\f\ndef _with" in after


class TestShapes:
    def test_a_class_in_an_if(self) -> None:
        before = "import whisper\n\nif True:\n" + block(module(), 4) + "\n"
        lands(NAME, before, with_helper(marked(before), anchor="if True"))

    def test_a_class_in_a_function(self) -> None:
        before = "def build():\n" + block(module(), 4) + "\n    return StepAudioTokenizer\n"
        lands(NAME, before, with_helper(marked(before), anchor="def build"))

    def test_a_class_in_a_class(self) -> None:
        before = "import whisper\n\n\nclass Outer:\n" + block(module(imports=""), 4) + "\n"
        lands(NAME, before, with_helper(marked(before), anchor="class Outer"))

    def test_a_method_in_an_if(self) -> None:
        before = module("if FAST:\n" + block(ENCODE, 4))
        lands(NAME, before, with_helper(marked(before)))

    def test_the_other_tokens_in_another_class(self) -> None:
        before = module(cls="class LinguisticEncoder:", rest="", tail="class SemanticEncoder:\n" + block(REST, 4))
        lands(NAME, before, with_helper(marked(before), anchor="class Ling"))

    def test_a_subclass_that_calls_up(self) -> None:
        tail = """
        class Quiet(StepAudioTokenizer):
            def get_vq02_code(self, audio):
                return super().get_vq02_code(audio * 0.5)
        """
        before = module(tail=tail)
        at = before.index("class Quiet")
        lands(NAME, before, with_helper(marked(before[:at]) + before[at:]))

    def test_tabs_and_windows(self) -> None:
        before = with_tabs(module())
        outcome = plan(NAME, before)
        assert outcome.kind == PLANNED, outcome.message
        after = above(marked(module()).replace("    ", "\t"), "class Step", HELPERS["high"].replace("    ", "\t"))
        assert outcome.after.decode() == after.replace("\n", "\r\n")


REFUSES = {
    "coroutine": (ENCODE.replace("def ", "async def "), Conflict, "is a coroutine or generator", "def get_vq02"),
    "generator": (
        ENCODE.replace("return result", "yield result"),
        Conflict,
        "is a coroutine or generator",
        "def get_vq02",
    ),
    "generator expression": (
        "def get_vq02_code(self, audio):\n    return (self.funasr_model.infer_encoder(input=[a]) for a in audio)",
        Ambiguous,
        "is handed on here",
        "return (",
    ),
    "lambda": (
        "def get_vq02_code(self, audio):\n    return map(lambda a: self.funasr_model.infer_encoder(input=[a]), audio)",
        Ambiguous,
        "is handed on here",
        "lambda",
    ),
    "handed to a pool": (
        "def get_vq02_code(self, audio):\n    return self.pool.submit(self.funasr_model.infer_encoder, input=[audio])",
        Ambiguous,
        "is handed on here",
        "submit",
    ),
    "handed to a pool by another name": (
        "def get_vq02_code(self, audio):\n    encode = self.funasr_model.infer_encoder\n    return self.pool.submit(encode, audio)",
        Ambiguous,
        "is handed on here",
        "submit",
    ),
    "a nested function handed to a pool": (
        "def get_vq02_code(self, audio):\n    def encode():\n        return self.funasr_model.infer_encoder(input=[audio])\n"
        "    return self.pool.submit(encode)",
        Ambiguous,
        "is handed on here",
        "submit",
    ),
    "a nested coroutine": (
        "def get_vq02_code(self, audio):\n    async def encode():\n        return self.funasr_model.infer_encoder(input=[audio])\n"
        "    return encode()",
        Ambiguous,
        "is handed on here",
        "return self.funasr",
    ),
    "compiled": ("@torch.compile(fullgraph=True)\n" + block(ENCODE), Conflict, "is compiled", "def get_vq02"),
    "scripted": ("@torch.jit.export\n" + block(ENCODE), Conflict, "is compiled", "def get_vq02"),
}


@pytest.mark.parametrize("case", REFUSES)
def test_refuses_on_the_method(case: str) -> None:
    encode, error, words, line = REFUSES[case]
    text = module(encode)
    refuses(NAME, text, error, words, line_of(text, line))


class TestRefuses:
    @pytest.mark.parametrize("compiler", ["torch.compile", "torch.jit.script", "th.jit.trace"])
    def test_compiled_elsewhere(self, compiler: str) -> None:
        text = module(rest=f"def __init__(self):\n    self.encode = {compiler}(self.get_vq02_code)\n\n" + block(REST))
        refuses(NAME, text, Conflict, "is compiled", f"line {numbers_of(text, compiler)[0]}")

    def test_a_method_that_only_asks_is_none(self) -> None:
        before = module(ENCODE + "\n\ndef can_encode(self):\n    return self.funasr_model.infer_encoder is not None")
        lands(NAME, before, with_helper(marked(before)))

    def test_one_method_twice(self) -> None:
        text = module(ENCODE + "\n\ndef get_vq02_code(self, audio):\n    return []")
        refuses(NAME, text, Ambiguous, "get_vq02_code is defined 2 times", lines_of(text, "def get_vq02"))

    def test_one_method_or_the_other(self) -> None:
        text = module("if FAST:\n" + block(ENCODE, 4) + "\nelse:\n" + block(ENCODE, 4))
        refuses(NAME, text, Ambiguous, "get_vq02_code is defined 2 times", lines_of(text, "def get_vq02"))

    def test_two_tokenizers(self) -> None:
        text = module() + "\n\n" + module(cls="class Other:")
        one, two = (numbers_of(text, f"class {name}")[0] for name in ("Step", "Other"))
        refuses(NAME, text, Ambiguous, f"StepAudioTokenizer (line {one}), Other (line {two})")

    def test_the_class_twice(self) -> None:
        text = module() + "\n\nclass StepAudioTokenizer:\n    pass\n"
        refuses(NAME, text, Ambiguous, "2 classes could be the tokenizer")

    def test_in_the_class_s_body(self) -> None:
        text = module("encode = staticmethod(MODEL.infer_encoder)\ndef log(self):\n    pass")
        refuses(NAME, text, Ambiguous, line_of(text, "encode ="), "not called in a method of StepAudioTokenizer itself")

    def test_not_python(self) -> None:
        outcome = plan(NAME, module() + "def (:\n")
        assert type(outcome.error) is Refused
        assert "tokenizer.py:13 is not valid Python" in outcome.message

    @pytest.mark.parametrize(
        "line",
        [
            "torch.backends.cuda.matmul.allow_tf32, z = False, 1",
            "z, torch.backends.cuda.matmul.allow_tf32 = True, False",
            "[torch.backends.cuda.matmul.allow_tf32, z] = (0, 1)",
            "torch.backends.cuda.matmul.allow_tf32 = True\ntorch.backends.cuda.matmul.allow_tf32 = False",
        ],
    )
    def test_off_in_a_way_of_its_own(self, line: str) -> None:
        refuses(NAME, module(imports="import torch\n" + line), Conflict, "turns TF32 off on purpose", "allow_tf32")

    @pytest.mark.parametrize(
        "line",
        [
            "torch.backends.cuda.matmul.allow_tf32, z = flags()",
            "torch.backends.cuda.matmul.allow_tf32, *z = False, 1, 2",
            "(torch.backends.cuda.matmul.allow_tf32, y), z = (False, 1), 2",
            "torch.backends.cuda.matmul.allow_tf32 &= False",
            "for torch.backends.cuda.matmul.allow_tf32 in (True, False): pass",
            "z = [1 for torch.backends.cuda.matmul.allow_tf32 in (True, False)]",
            "with off() as torch.backends.cuda.matmul.allow_tf32: pass",
        ],
    )
    def test_a_setting_that_cannot_be_told(self, line: str) -> None:
        text = module(imports="import torch\n" + line)
        refuses(NAME, text, Ambiguous, "tokenizer.py:3: whether this allows TF32 cannot be told")

    def test_on_in_a_tuple(self) -> None:
        text = module(imports="import torch\ntorch.backends.cuda.matmul.allow_tf32, z = True, 1")
        skips(NAME, text, NOT_NEEDED, "tokenizer.py:3 ")

    def test_convolutions_in_a_tuple(self) -> None:
        before = module(imports="import torch\ntorch.backends.cudnn.allow_tf32, z = flags()")
        lands(NAME, before, with_helper(marked(before)))


class TestParameters:
    def test_medium(self) -> None:
        lands(NAME, module(), with_helper(marked(module()), "medium"), precision="medium")

    @pytest.mark.parametrize("precision", ["high", "medium"])
    def test_process(self, precision: str) -> None:
        lands(NAME, module(), above(module(), "class Step", AT_IMPORT[precision]), precision=precision, scope="process")

    @pytest.mark.parametrize(
        ("imports", "known"),
        [
            ("import torch", True),
            ("import os, torch", True),
            ("import torch.nn as nn", False),
            ("import torch.nn", True),
            ("import torch as th", False),
            ("from torch import nn", False),
            ("try:\n    import torch\nexcept ImportError:\n    raise", False),
            ("import json", False),
        ],
    )
    def test_process_brings_its_import(self, imports: str, known: bool) -> None:
        text = AT_IMPORT["high"] if known else "import torch\n\n" + AT_IMPORT["high"].strip()
        before = module(imports=imports)
        lands(NAME, before, above(before, "class Step", text), scope="process")

    def test_process_does_not_count_on_a_later_import(self) -> None:
        before = module(imports="import json", tail="import torch")
        text = "import torch\n\n" + AT_IMPORT["high"].strip()
        lands(NAME, before, above(before, "class Step", text), scope="process")

    @pytest.mark.parametrize(
        "line",
        [
            "torch = None",
            "del torch",
            "import json as torch",
            "from json import loads as torch",
            "from somewhere import torch",
            "def torch(): pass",
            "class torch: pass",
            "for torch in (): pass",
            "with open('a') as torch: pass",
            "try: pass\nexcept OSError as torch: pass",
            "if (torch := None): pass",
            "torch, x = None, 1",
            "try:\n    import torch\nexcept ImportError:\n    torch = None",
            "match []:\n    case torch: pass",
            "def drop():\n    global torch\n    torch = None",
        ],
    )
    def test_process_does_not_count_on_a_torch_that_is_another(self, line: str) -> None:
        text = module(imports="import torch\n" + line)
        refuses(NAME, text, Conflict, "torch may be something else", scope="process")
        lands(NAME, text, with_helper(marked(text)), scope="encoder")

    @pytest.mark.parametrize("tail", ["torch = None", "def f(torch):\n    torch = torch or 1", "del torch"])
    def test_process_does_not_mind_what_comes_later(self, tail: str) -> None:
        text = module(tail=tail)
        lands(NAME, text, above(text, "class Step", AT_IMPORT["high"]), scope="process")

    def test_the_manual_edit_is_what_process_does(self) -> None:
        statement = AT_IMPORT["high"].strip().splitlines()[1]
        assert statement in UNITS.optimizations[NAME].manual
