"""``tokenizer_ort_fallback``: the CPU named beside CUDA, and a check below the session."""

from __future__ import annotations

import pytest
from cases import (
    above,
    block,
    constant,
    lands,
    line_of,
    onnx_module,
    plan,
    reference,
    refuses,
    replaced,
    skips,
    with_tabs,
)

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED

NAME = "tokenizer_ort_fallback"
BOTH = '"CUDAExecutionProvider", "CPUExecutionProvider"'
SESSION = 'self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", options, {})'
CHECK = "_warn_without_cuda(self.ort_session, {})"


def helper(warn: str = "logging.getLogger(__name__).warning") -> str:
    imports = "    import logging\n\n" if warn.startswith("logging.") else ""
    text = str(constant(NAME, "HELPER_TEXT")).replace("{imports}", imports + "    import onnxruntime")
    return text.replace("{warn}", warn).replace("{message}", str(constant(NAME, "MESSAGE")))


def build(code: str) -> str:
    return f"options = onnxruntime.SessionOptions()\nproviders = {code}\n{SESSION.format('providers')}"


def built(code: str) -> str:
    return f"{build(code)}\n{CHECK.format('providers')}"


def changed(text: str, warn: str = "logging.getLogger(__name__).warning") -> str:
    return above(text, "class StepAudioTokenizer", helper(warn))


def test_the_reference() -> None:
    before = '        providers = ["CUDAExecutionProvider"]\n'
    end = "sess_options=session_option, providers=providers\n        )\n"
    after = replaced(
        reference(),
        (before, f"        providers = [{BOTH}]\n"),
        (end, end + "        _warn_without_cuda(self.ort_session, providers)\n"),
    )
    lands(NAME, reference(), changed(after))


LISTS = {
    '["CUDAExecutionProvider"]': f"[{BOTH}]",
    "['CUDAExecutionProvider']": "['CUDAExecutionProvider', 'CPUExecutionProvider']",
    '["CUDAExecutionProvider",]': f"[{BOTH}]",
    '("CUDAExecutionProvider",)': f"({BOTH})",
    '"CUDAExecutionProvider",': BOTH,
    '["TensorrtExecutionProvider", "CUDAExecutionProvider"]': f'["TensorrtExecutionProvider", {BOTH}]',
    '[("CUDAExecutionProvider", {"device_id": 1})]': (
        '[("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]'
    ),
    '[\n    "CUDAExecutionProvider",\n]': '[\n    "CUDAExecutionProvider",\n    "CPUExecutionProvider",\n]',
    '[\n    "CUDAExecutionProvider",  # gpu, first\n]': (
        '[\n    "CUDAExecutionProvider",  # gpu, first\n    "CPUExecutionProvider",\n]'
    ),
    '[\n    "CUDAExecutionProvider"  # gpu\n]': '[\n    "CUDAExecutionProvider",  # gpu\n    "CPUExecutionProvider",\n]',
    '["TensorrtExecutionProvider",\n "CUDAExecutionProvider"]': (
        '["TensorrtExecutionProvider",\n "CUDAExecutionProvider", "CPUExecutionProvider"]'
    ),
    '[\n    ("CUDAExecutionProvider")\n]': '[\n    ("CUDAExecutionProvider"),\n    "CPUExecutionProvider",\n]',
    '[\n    (\n        "CUDAExecutionProvider"  # odd\n    )\n]': "['CUDAExecutionProvider', 'CPUExecutionProvider']",
    '[("CUDAExecutionProvider")]': '[("CUDAExecutionProvider"), "CPUExecutionProvider"]',
    '["CUDAExecutionProvider"] if path else ["CPUExecutionProvider"]': f'[{BOTH}] if path else ["CPUExecutionProvider"]',
    f"[{BOTH}]": f"[{BOTH}]",
}


class TestLands:
    @pytest.mark.parametrize("code", LISTS)
    def test_in_a_list(self, code: str) -> None:
        lands(NAME, onnx_module(build(code)), changed(onnx_module(built(LISTS[code]))))

    def test_a_list_that_is_added_to(self) -> None:
        code = '[]\nif path:\n    providers.append("CUDAExecutionProvider")\nproviders.append("CPUExecutionProvider")'
        lands(NAME, onnx_module(build(code)), changed(onnx_module(built(code))))

    def test_in_the_call(self) -> None:
        cuda = '["CUDAExecutionProvider"]'
        before = f"options = None\n{SESSION.format(f'providers={cuda}')}"
        after = f"options = None\n{SESSION.format(f'providers=[{BOTH}]')}\n{CHECK.format(cuda)}"
        lands(NAME, onnx_module(before), changed(onnx_module(after)))

    def test_in_an_attribute(self) -> None:
        before = f'self.p = ["CUDAExecutionProvider"]\noptions = None\n{SESSION.format("providers=self.p")}'
        after = f"self.p = [{BOTH}]\noptions = None\n{SESSION.format('providers=self.p')}\n{CHECK.format('self.p')}"
        lands(NAME, onnx_module(before), changed(onnx_module(after)))

    @pytest.mark.parametrize(
        ("top", "warn"),
        [
            ("import logging\n\nlogger = logging.getLogger(__name__)", "logger.warning"),
            ("from logging import getLogger\n\nLOG = getLogger('x')", "LOG.warning"),
            ("import warnings", "warnings.warn"),
            ("import logging", "logging.getLogger(__name__).warning"),
            ("import warnings as w", "logging.getLogger(__name__).warning"),
            ("", "logging.getLogger(__name__).warning"),
        ],
    )
    def test_says_it_as_the_file_does(self, top: str, warn: str) -> None:
        before, after = (
            onnx_module(text, top=top) for text in (build('["CUDAExecutionProvider"]'), built(f"[{BOTH}]"))
        )
        lands(NAME, before, changed(after, warn))

    def test_a_logger_that_is_made_further_down(self) -> None:
        text = onnx_module(build('["CUDAExecutionProvider"]')) + "\n\nlogger = logging.getLogger()\n"
        assert "logger.warning" not in plan(NAME, text).after.decode()

    def test_a_session_that_is_built_above_the_class(self) -> None:
        before = (
            'import onnxruntime\n\nsession = onnxruntime.InferenceSession("speech_tokenizer_v1.onnx", providers='
            '["CUDAExecutionProvider"])\n\n\n' + onnx_module("self.ort_session = session")
        )
        outcome = plan(NAME, before)
        assert outcome.kind == PLANNED, outcome.message
        after = outcome.after.decode()
        assert (
            after.index("def _warn_without_cuda")
            < after.index("session = onnx")
            < after.rindex("_warn_without_cuda(session")
        )

    def test_tabs_and_crlf(self) -> None:
        text = with_tabs(onnx_module(build('["CUDAExecutionProvider"]')))
        after = plan(NAME, text.encode()).after.decode()
        assert f"providers = [{BOTH}]\r\n" in after
        assert "\r\n\t\t_warn_without_cuda(self.ort_session, providers)\r\n" in after
        assert after.replace("\r\n", "").count("\n") == after.replace("\r\n", "").count("    ") == 0


class TestLeavesAlone:
    def test_our_own_work(self) -> None:
        after = plan(NAME, onnx_module(build('["CUDAExecutionProvider"]'))).after.decode()
        skips(NAME, after, ALREADY, line_of(after, "_warn_without_cuda(self"))

    def test_the_author_s_check(self) -> None:
        text = onnx_module(build('["CUDAExecutionProvider"]') + "\nprint(self.ort_session.get_providers())")
        skips(NAME, text, NOT_NEEDED, line_of(text, "get_providers"))

    @pytest.mark.parametrize("code", ['["CPUExecutionProvider"]', "path", "[name]"])
    def test_no_cuda_provider_is_named(self, code: str) -> None:
        refuses(NAME, onnx_module(build(code)), NoSite, "no CUDA provider is named")

    def test_no_fallback_is_wanted(self) -> None:
        line = 'options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")\n'
        text = onnx_module(build('["CUDAExecutionProvider"]').replace("providers =", line + "providers ="))
        refuses(NAME, text, Conflict, line_of(text, "disable_cpu"), "wants no fallback to the CPU")

    @pytest.mark.parametrize(
        "session",
        [
            "self.ort_session = wrap(onnxruntime.InferenceSession(path + 'speech_tokenizer_v1.onnx', providers=p))",
            "self.ort_session = self.b = onnxruntime.InferenceSession(path + 'speech_tokenizer_v1.onnx', providers=p)",
            "self.ort_session = onnxruntime.InferenceSession(path + 'speech_tokenizer_v1.onnx', providers=p); x = 1",
            "self.ort_session = onnxruntime.InferenceSession(path + 'speech_tokenizer_v1.onnx', providers=p) if p else None",
        ],
    )
    def test_a_session_that_is_not_simply_kept(self, session: str) -> None:
        text = onnx_module(f'p = ["CUDAExecutionProvider"]\n{session}')
        refuses(NAME, text, NoSite, "the session is not simply kept in a variable")

    def test_a_function_that_returns_it(self) -> None:
        more = "def build(self, p):\n    return onnxruntime.InferenceSession('speech_tokenizer_v1.onnx', providers=p)"
        text = onnx_module('self.ort_session = self.build(["CUDAExecutionProvider"])', more=more)
        refuses(NAME, text, NoSite, "the session is not simply kept in a variable")

    def test_providers_that_are_computed_in_the_call(self) -> None:
        code = 'list(["CUDAExecutionProvider"])'
        text = onnx_module(f"options = None\n{SESSION.format('providers=' + code)}")
        refuses(NAME, text, NoSite, "the session's providers are computed in the call: list(")

    def test_two_sessions(self) -> None:
        again = SESSION.format("providers")
        first = block(build('["CUDAExecutionProvider"]'), 4)
        text = onnx_module(f"try:\n{first}\nexcept Exception:\n    {again}")
        refuses(NAME, text, Ambiguous, "the speech tokenizer's session is built in several places")

    def test_a_list_that_is_used_for_more(self) -> None:
        text = onnx_module(build('["CUDAExecutionProvider"]') + "\nself.vocoder = load(providers)")
        refuses(NAME, text, Ambiguous, line_of(text, "vocoder"), "the session's providers are used here too")

    def test_no_session(self) -> None:
        refuses(NAME, onnx_module("pass"), NoSite, "no onnxruntime.InferenceSession for the speech tokenizer")


class TestHalfDone:
    BEFORE = onnx_module(build('["CUDAExecutionProvider"]'))
    AFTER = plan(NAME, BEFORE).after.decode()

    def test_only_the_function(self) -> None:
        refuses(NAME, changed(self.BEFORE), PartlyApplied, "_warn_without_cuda is defined (line ", "but not used here")

    def test_only_the_use(self) -> None:
        text = self.AFTER.replace(helper().strip("\n"), "")
        refuses(NAME, text, PartlyApplied, "_warn_without_cuda is used but not defined")

    def test_twice(self) -> None:
        refuses(NAME, changed(self.AFTER), PartlyApplied, "_warn_without_cuda is defined more than once")

    def test_the_name_for_something_else(self) -> None:
        text = self.BEFORE + "\n\n_warn_without_cuda = 1\n"
        refuses(NAME, text, Conflict, "already uses the name _warn_without_cuda")
