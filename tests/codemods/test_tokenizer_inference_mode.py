"""``tokenizer_inference_mode``: a decorator where only plain numbers come out, and nowhere else."""

from __future__ import annotations

import pytest
from cases import block, constant, lands, line_of, plan, reference, refuses, replaced, skips, with_tabs

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED

NAME = "tokenizer_inference_mode"
LINE = f"    @torch.inference_mode()  {constant(NAME, 'COMMENT')}\n"
DEF = "    def get_vq02_code(self, audio, session_id=None):\n"
ENCODE = """
results, cache = self.funasr_model.infer_encoder(input=[audio], cache=self.sessions.get(session_id, {}))
self.sessions[session_id] = cache
return self.dump_label(results[0]["enc_out"], self.kms)
"""
LABEL = """
def dump_label(self, samples, mean):
    return self.nearest(samples[0], mean)

def nearest(self, samples, means):
    return torch.cdist(samples, means).argmin(dim=1).cpu().numpy().tolist()
"""


def module(encode: str = ENCODE, more: str = LABEL, top: str = "import torch", above: str = "", cls: str = "") -> str:
    """A small tokenizer around the lines that a case is about."""
    return "\n".join(
        [
            f"import whisper\n{block(top)}\n\nclass StepAudioTokenizer:",
            block(cls or "RATE = 16000", 4),
            "",
            "    def __init__(self):",
            "        self.sessions = {}",
            "",
            *([block(above, 4)] if above else []),
            DEF.rstrip("\n"),
            block(encode, 8),
            "",
            block(more, 4),
            "",
            "    def get_vq06_code(self, audio):",
            "        return whisper.log_mel_spectrogram(audio)",
            "",
        ]
    )


def test_the_reference() -> None:
    method = "    def get_vq02_code(self, audio, session_id=None, is_final=True):\n"
    lands(NAME, reference(), replaced(reference(), (method, LINE + method)))


class TestLands:
    @pytest.mark.parametrize(
        "above", ["", "@torch.no_grad()", "@timed\n@torch.no_grad()", "@_with_tf32_matmul", "# about\n@timed\n# more"]
    )
    def test_next_to_the_def(self, above: str) -> None:
        lands(NAME, module(above=above), replaced(module(above=above), (DEF, LINE + DEF)))

    @pytest.mark.parametrize(
        "encode",
        [
            "with torch.no_grad():\n" + block(ENCODE, 4),
            "with self.lock, torch.no_grad():\n" + block(ENCODE, 4),
            "import time\nself.last = time.time()" + ENCODE,
            "for result in self.funasr_model.infer_encoder(input=[audio])[0]:\n"
            "    codes = self.dump_label(result['enc_out'], self.kms)\nreturn codes",
            "r, _ = self.funasr_model.infer_encoder(input=[audio])\nreturn [int(x) for x in r[0]['enc_out']]",
            "r, _ = self.funasr_model.infer_encoder(input=[audio])\nreturn r[0]['enc_out'].argmin(1).tolist()",
            "r, _ = self.funasr_model.infer_encoder(input=[audio])\nreturn len(r), r[0]['enc_out'].shape",
        ],
    )
    def test_plain_numbers_come_out(self, encode: str) -> None:
        lands(NAME, module(encode), replaced(module(encode), (DEF, LINE + DEF)))

    def test_without_an_import_of_torch(self) -> None:
        outcome = plan(NAME, module(top="from torch import nn"))
        assert outcome.kind == PLANNED, outcome.message
        assert "import torch\n\n\nclass StepAudioTokenizer" in outcome.after.decode()
        assert plan(NAME, outcome.after).kind == ALREADY

    def test_each_method_that_encodes(self) -> None:
        more = LABEL + "\ndef again(self, audio):" + block(ENCODE.replace("session_id", "None"), 4).join(["\n", "\n"])
        after = plan(NAME, module(more=more)).after.decode()
        assert after.count(LINE) == 2

    def test_tabs_and_crlf(self) -> None:
        text = with_tabs(module())
        line = with_tabs(LINE)
        method = with_tabs(DEF)
        outcome = plan(NAME, text.encode())
        assert outcome.after.decode() == replaced(text, (method, line + method)), outcome.message


class TestLeavesAlone:
    def test_our_own_work(self) -> None:
        after = plan(NAME, module()).after.decode()
        skips(NAME, after, ALREADY, line_of(after, "@torch.inference_mode"))

    @pytest.mark.parametrize(
        "above",
        [
            "@torch.inference_mode()",
            "@torch.inference_mode",
            "@inference_mode(True)",
            "@torch.inference_mode(mode=True)",
        ],
    )
    def test_the_author_s_decorator(self, above: str) -> None:
        text = module(above=above)
        skips(NAME, text, NOT_NEEDED, line_of(text, "inference_mode"), above.removeprefix("@"))

    def test_the_author_s_block(self) -> None:
        text = module("with self.lock, torch.inference_mode():\n" + block(ENCODE, 4))
        skips(NAME, text, NOT_NEEDED, line_of(text, "inference_mode"), "with self.lock")

    @pytest.mark.parametrize(
        "encode",
        [
            "with torch.inference_mode(False):\n" + block(ENCODE, 4),
            "torch.set_grad_enabled(True)" + ENCODE,
            "with torch.enable_grad():\n" + block(ENCODE, 4),
            "audio.requires_grad_()" + ENCODE,
            "mode = torch.inference_mode\n" + ENCODE,
        ],
    )
    def test_a_method_with_gradients_of_its_own(self, encode: str) -> None:
        refuses(NAME, module(encode), Conflict, "sets the gradient mode itself")

    @pytest.mark.parametrize(
        ("above", "error"),
        [("@torch.compile", Conflict), ("@torch.jit.script_method", Conflict)],
    )
    def test_a_compiled_method(self, above: str, error: type[Conflict]) -> None:
        refuses(NAME, module(above=above), error, "is compiled")

    def test_a_generator(self) -> None:
        encode = "r, _ = self.funasr_model.infer_encoder(input=[audio])\nyield r[0]['enc_out'].tolist()"
        refuses(NAME, module(encode), Conflict, "is a coroutine or generator")

    def test_handed_on(self) -> None:
        refuses(NAME, module("return self.run(self.funasr_model.infer_encoder)"), Ambiguous, "is handed on here")

    def test_no_tokenizer(self) -> None:
        refuses(NAME, "import torch\n# infer_encoder\n", NoSite, "no class calls infer_encoder()")

    def test_torch_is_something_else(self) -> None:
        refuses(NAME, module(cls="torch = None"), Conflict, "torch may be something else than PyTorch")
        refuses(NAME, module(top="import torch\nimport fake as torch"), Conflict, "torch may be something else")


class TestTensorsThatComeOut:
    RESULT = "results, cache = self.funasr_model.infer_encoder(input=[audio])\n"

    @pytest.mark.parametrize(
        "tail",
        [
            "return results",
            "return results[0]['enc_out']",
            "return results[0]['enc_out'].cpu()",
            "return [r['enc_out'] for r in results]",
            "out = []\nfor r in results:\n    out.append(r)\nreturn out",
            "out = {}\nout['x'] = results\nreturn out",
            "a, *b = results\nreturn b",
            "return (x := results)",
            "return results if audio else []",
            "return self.dump_label(results, self.kms), cache",
            "return project(results[0]['enc_out'])",
            "return self.keep(results)",
        ],
    )
    def test_are_returned(self, tail: str) -> None:
        text = module(self.RESULT + tail, LABEL + "\ndef keep(self, x):\n    return x")
        refuses(NAME, text, Conflict, line_of(text, tail.splitlines()[-1]), "get_vq02_code returns a tensor")

    def test_straight(self) -> None:
        refuses(NAME, module("return self.funasr_model.infer_encoder(input=[audio])"), Conflict, "returns a tensor")

    @pytest.mark.parametrize(
        "other",
        [
            "def last(self):\n    return self.kept",
            "def last(self):\n    self.kept[0] += 1",
            "def last(self):\n    f(self.kept)",
        ],
    )
    @pytest.mark.parametrize("store", ["self.kept = results", "self.kept['x'] = cache", "self.kept.append(results)"])
    def test_are_kept_for_others(self, store: str, other: str) -> None:
        text = module(self.RESULT + store + "\nreturn 1", LABEL + "\n" + other)
        refuses(NAME, text, Conflict, line_of(text, other.splitlines()[-1].strip()), "keeps tensors in, is used")

    @pytest.mark.parametrize(
        "other",
        [
            "self.kept = {}",
            "self.kept = dict()",
            "self.kept: dict = {}",
            "self.kept.clear()",
            "del self.kept['x']",
            "print(len(self.kept))",
            "if self.kept:\n        pass",
        ],
    )
    def test_that_others_only_drop(self, other: str) -> None:
        text = module(self.RESULT + "self.kept['x'] = cache\nreturn 1", LABEL + f"\ndef reset(self):\n    {other}")
        assert plan(NAME, text).kind == PLANNED, plan(NAME, text).message

    @pytest.mark.parametrize(
        "line",
        [
            "self.load()",
            "self.funasr_model.model = self.funasr_model.model.cuda()",
            "self.funasr_model = make()",
            "if not self.m:\n    self.load()",
        ],
    )
    def test_a_model_that_is_loaded_or_moved_there(self, line: str) -> None:
        text = module(f"{line}{ENCODE}", LABEL + "\ndef load(self):\n    self.m = AutoModel()")
        refuses(NAME, text, Conflict, "would run in inference mode, and what it makes stay in it")


class TestHalfDone:
    def test_on_one_of_two(self) -> None:
        more = LABEL + "\ndef again(self, audio):" + block(ENCODE.replace("session_id", "None"), 4).join(["\n", "\n"])
        after = plan(NAME, module(more=more)).after.decode()
        text = after.replace(LINE, "", 1)
        refuses(NAME, text, PartlyApplied, "inference_mode is on again (line", "not on get_vq02_code (line")

    def test_the_author_s_on_one_of_two(self) -> None:
        more = LABEL + "\n@torch.inference_mode()\ndef again(self, audio):"
        more += block(ENCODE.replace("session_id", "None"), 4).join(["\n", "\n"])
        lands(NAME, module(more=more), replaced(module(more=more), (DEF, LINE + DEF)))
