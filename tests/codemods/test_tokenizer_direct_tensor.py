"""``tokenizer_direct_tensor``: no WAV file where the encoder can have the samples, and the same samples as before."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cases import above, block, constant, lands, line_of, plan, reference, refuses, replaced, skips, with_tabs

from apply_opt.errors import Ambiguous, Conflict, NoSite, OtherValues, PartlyApplied
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED

NAME = "tokenizer_direct_tensor"
HELPER = str(constant(NAME, "HELPER_TEXT"))
COMMENT = str(constant(NAME, "COMMENT"))
WAV = """
_tmp_wav = io.BytesIO()
torchaudio.save(_tmp_wav, audio, 16000, format="wav")
_tmp_wav.seek(0)
"""
DIRECT = """
_tmp_wav = _samples_or_wav(
    audio, lambda file: torchaudio.save(file, audio, 16000, format="wav")
)
"""
NEVER = f"""
{COMMENT}
_tmp_wav = audio.detach().cpu().float()[None].flatten(0, -2).mean(dim=0)
"""
ENCODE = """
with self.vq02_lock:
    results, cache = self.funasr_model.infer_encoder(input=[_tmp_wav], is_final=is_final)
    return self.dump_label(results[0]["enc_out"], self.kms)
"""


def module(wav: str = WAV, encode: str = ENCODE, more: str = "", cls: str = "", top: str = "") -> str:
    """A small tokenizer around the lines that a case is about."""
    return "\n".join(
        [
            f"import io\nimport torch\nimport torchaudio\nimport whisper\n{block(top)}\n\nclass StepAudioTokenizer:",
            block(cls or "KINDS = 2", 4),
            "",
            "    def get_vq02_code(self, audio, session_id=None, is_final=True):",
            block(wav, 8),
            "",
            block(encode, 8),
            *(["", block(more, 4)] if more else []),
            "",
            "    def get_vq06_code(self, audio):",
            "        return whisper.log_mel_spectrogram(audio)",
            "",
        ]
    )


def changed(before: str, after: str, text: str = "") -> str:
    result = replaced(text or module(before), (block(before, 8), block(after, 8)))
    return above(result, "class StepAudioTokenizer", HELPER)


def test_the_reference() -> None:
    before = """
    file = io.BytesIO()
    write_wav(file, audio.cpu().numpy(), self.SAMPLE_RATE)
    file.seek(0)
    """
    after = """
    file = _samples_or_wav(
        audio, lambda file: write_wav(file, audio.cpu().numpy(), self.SAMPLE_RATE)
    )
    """
    lands(NAME, reference(), changed(before, after, reference()))


class TestLands:
    def test_torchaudio(self) -> None:
        lands(NAME, module(), changed(WAV, DIRECT))

    def test_soundfile(self) -> None:
        before = """
        _tmp_wav = io.BytesIO()
        # soundfile writes to memory
        audio_np = audio.squeeze(0).cpu().numpy() if audio.dim() > 1 else audio.cpu().numpy()
        sf.write(_tmp_wav, audio_np, 16000, format='WAV')  # 16 bits
        _tmp_wav.seek(0)
        """
        after = """
        # soundfile writes to memory
        audio_np = audio.squeeze(0).cpu().numpy() if audio.dim() > 1 else audio.cpu().numpy()
        _tmp_wav = _samples_or_wav(
            audio, lambda file: sf.write(file, audio_np, 16000, format='WAV')
        )  # 16 bits
        """
        lands(NAME, module(before), changed(before, after))

    @pytest.mark.parametrize(
        ("write", "where"),
        [
            ("torchaudio.save(_tmp_wav, src=audio, sample_rate=16000, format='WAV')", {}),
            ("torchaudio.save(_tmp_wav, audio.detach().cpu(), self.RATE, format='wav')", {"cls": "RATE = 16000"}),
            ("ta.save(_tmp_wav, audio.cpu().float(), RATE, format='wav', encoding='PCM_S')", {"top": "RATE = 16000"}),
            ('torchaudio.save(\n    _tmp_wav, audio, 16000,\n    format="wav",\n)', {}),
        ],
    )
    def test_other_ways_to_write_it(self, write: str, where: dict[str, str]) -> None:
        before = f"_tmp_wav = io.BytesIO()\n{write}\n_tmp_wav.seek(0)"
        call = ast.unparse(ast.parse(write)).replace("_tmp_wav", "file")
        after = f"_tmp_wav = _samples_or_wav(\n    audio, lambda file: {call}\n)"
        lands(NAME, module(before, **where), changed(before, after, module(before, **where)))

    def test_only_the_samples(self) -> None:
        text = replaced(module(), (block(WAV, 8), block(NEVER, 8)))
        lands(NAME, module(), text, quantize="none")

    def test_tabs_and_crlf(self) -> None:
        text = with_tabs(module())
        outcome = plan(NAME, text.encode())
        assert outcome.kind == PLANNED, outcome.message
        after = outcome.after.decode()
        assert with_tabs(block(DIRECT, 8)) in after
        assert after.replace("\r\n", "").count("\n") == after.replace("\r\n", "").count("    ") == 0


class TestLeavesAlone:
    @pytest.mark.parametrize(
        ("quantize", "piece"), [("auto", "_samples_or_wav(\n            audio"), ("none", "audio.detach()")]
    )
    def test_our_own_work(self, quantize: str, piece: str) -> None:
        after = plan(NAME, module(), quantize=quantize).after.decode()
        assert piece in after
        skips(NAME, after, ALREADY, "already there", quantize=quantize)
        refuses(
            NAME,
            after,
            OtherValues,
            f"is applied with other values: quantize={quantize}",
            quantize={"auto": "none", "none": "auto"}[quantize],
        )

    @pytest.mark.parametrize(
        "wav",
        [
            "_tmp_wav = audio.squeeze(0)",
            "_tmp_wav = audio if is_final else audio[0]",
            "_tmp_wav = torch.as_tensor(audio).flatten()\n_tmp_wav = _tmp_wav.to('cuda')",
        ],
    )
    def test_a_tensor_already(self, wav: str) -> None:
        text = module(wav)
        skips(NAME, text, NOT_NEEDED, line_of(text, "infer_encoder"), "input=_tmp_wav, which is no file")

    @pytest.mark.parametrize(
        "wav",
        [
            WAV + "_tmp_wav.seek(0)",
            WAV.replace("_tmp_wav.seek(0)", "_tmp_wav.seek(44)"),
            WAV.replace("_tmp_wav.seek(0)\n", ""),
            WAV + "print(_tmp_wav.getvalue())",
            WAV.replace("io.BytesIO()", "io.BytesIO(b'')"),
            WAV.replace("io.BytesIO()", "open('x.wav', 'w+b')"),
            "try:\n" + block(WAV, 4) + "\nexcept Exception:\n    _tmp_wav = load()",
            "with tempfile.NamedTemporaryFile() as _tmp_wav:\n    torchaudio.save(_tmp_wav, audio, 16000, format='wav')",
            "_tmp_wav = make(audio)\nopen('x')",
        ],
    )
    def test_other_files(self, wav: str) -> None:
        refuses(NAME, module(wav), NoSite, "_tmp_wav is not simply a file in memory, written and rewound once")

    @pytest.mark.parametrize(
        "wav",
        [
            "if is_final:\n    _tmp_wav = io.BytesIO()\n" + "\n".join(WAV.strip().splitlines()[1:]),
            "_tmp_wav = io.BytesIO()\n_tmp_wav.seek(0)\ntorchaudio.save(_tmp_wav, audio, 16000, format='wav')",
        ],
    )
    def test_not_in_a_row(self, wav: str) -> None:
        refuses(NAME, module(wav), NoSite, "is not made, written and rewound in a row")

    @pytest.mark.parametrize(
        ("write", "why"),
        [
            ("torchaudio.save(_tmp_wav, audio, 16000, format='mp3')", "of another format than WAV: 'mp3'"),
            ("torchaudio.save(_tmp_wav, audio, 16000, format=self.format)", "of another format than WAV: self.format"),
            ("torchaudio.save(_tmp_wav, audio, 16000)", "format is not to be seen"),
            ("torchaudio.save(_tmp_wav, audio, 24000, format='wav')", "rate is not 16000 for certain"),
            ("torchaudio.save(_tmp_wav, audio, rate, format='wav')", "rate is not 16000 for certain"),
            ("torchaudio.save(_tmp_wav, audio, self.rate, format='wav')", "rate is not 16000 for certain"),
            ("torchaudio.save(_tmp_wav, audio * 2, 16000, format='wav')", "the samples of an argument"),
            ("torchaudio.save(_tmp_wav, audio.clamp(-1, 1), 16000, format='wav')", "the samples of an argument"),
            ("torchaudio.save(_tmp_wav, self.audio, 16000, format='wav')", "the samples of an argument"),
            ("torchaudio.save(_tmp_wav, fix(audio), 16000, format='wav')", "the samples of an argument"),
            ("torchaudio.save(_tmp_wav, other, 16000, format='wav')", "the samples of an argument"),
        ],
    )
    def test_what_a_tensor_would_not_be(self, write: str, why: str) -> None:
        text = module(
            f"_tmp_wav = io.BytesIO()\n{write}\n_tmp_wav.seek(0)",
            more="def f(self):\n    self.rate = 16000\n    self.rate = 8000",
        )
        refuses(NAME, text, NoSite, line_of(text, "torchaudio.save"), why)

    def test_an_argument_that_is_another_by_then(self) -> None:
        refuses(NAME, module("audio = audio * 2\n" + WAV.strip("\n")), NoSite, "the samples of an argument")

    @pytest.mark.parametrize("given", ["[_tmp_wav, other]", "(_tmp_wav)[0]", "[f(_tmp_wav)]"])
    def test_another_input(self, given: str) -> None:
        refuses(
            NAME, module(encode=ENCODE.replace("[_tmp_wav]", given)), NoSite, "the encoder's input is not one variable"
        )

    def test_an_input_out_of_sight(self) -> None:
        text = module(encode=ENCODE.replace("input=[_tmp_wav]", "**options"))
        refuses(NAME, text, NoSite, "what infer_encoder() is given as its input is not to be seen")

    def test_other_code_on_the_line(self) -> None:
        refuses(NAME, module("x = 1; " + WAV.strip("\n")), NoSite, "there is other code on the line")

    def test_two_methods(self) -> None:
        more = "def again(self, audio, is_final=True):\n" + block(WAV, 4) + "\n" + block(ENCODE, 4)
        refuses(NAME, module(more=more), Ambiguous, "WAV files are made in 2 places")

    def test_no_tokenizer(self) -> None:
        refuses(NAME, "import io\n", NoSite, "no class calls infer_encoder()")


class TestHalfDone:
    AFTER = plan(NAME, module()).after.decode()

    def test_only_the_function(self) -> None:
        text = above(module(), "class StepAudioTokenizer", HELPER)
        refuses(NAME, text, PartlyApplied, "_samples_or_wav is defined (line ", "but not used here")

    def test_only_the_use(self) -> None:
        refuses(
            NAME, self.AFTER.replace(HELPER.strip("\n"), ""), PartlyApplied, "_samples_or_wav is used but not defined"
        )

    def test_the_function_twice(self) -> None:
        refuses(
            NAME, above(self.AFTER, "class Step", HELPER), PartlyApplied, "_samples_or_wav is defined more than once"
        )

    def test_the_name_for_something_else(self) -> None:
        refuses(NAME, module(top="_samples_or_wav = 2"), Conflict, "already uses the name _samples_or_wav")


def test_samples_that_are_never_rounded_are_lossy(run: Callable[..., Any], checkout: Path) -> None:
    before = (checkout / "tokenizer.py").read_bytes()
    ran = run(NAME, "--set", "quantize=none", cwd=checkout)
    assert (ran.code, (checkout / "tokenizer.py").read_bytes()) == (3, before)
    assert "changes results (class lossy)" in ran.err
    assert f"apply-opt {NAME} --allow lossy --set quantize=none" in ran.err
    assert (
        run(NAME, "--set", "quantize=none", "--allow", "lossy", "--json", cwd=checkout).out.count('"class": "lossy"')
        == 1
    )
    assert COMMENT in (checkout / "tokenizer.py").read_text()
    assert run("revert", cwd=checkout).code == 0
    assert run(NAME, "--json", cwd=checkout).out.count('"class": "exact"') == 1
