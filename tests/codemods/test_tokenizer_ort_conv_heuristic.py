"""``tokenizer_ort_conv_heuristic``: an option of the CUDA provider, for the speech tokenizer's session and no other."""

from __future__ import annotations

import pytest
from cases import constant, lands, line_of, onnx_module, plan, reference, refuses, replaced, skips, with_tabs

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, PLANNED

NAME = "tokenizer_ort_conv_heuristic"
COMMENT = str(constant(NAME, "COMMENT"))
OPTION = '"cudnn_conv_algo_search": "HEURISTIC"'
CUDA = f'("CUDAExecutionProvider", {{{OPTION}}})'
BUILD = """
options = onnxruntime.SessionOptions()
self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", options, providers=providers)
"""


def with_list(code: str) -> str:
    return f"providers = {code}\n{BUILD.strip()}"


def test_the_reference() -> None:
    line = '        providers = ["CUDAExecutionProvider"]\n'
    lands(NAME, reference(), replaced(reference(), (line, f"        {COMMENT}\n        providers = [{CUDA}]\n")))


LISTS = {
    '["CUDAExecutionProvider"]': f"[{CUDA}]",
    "['CUDAExecutionProvider', 'CPUExecutionProvider']": (
        f"[('CUDAExecutionProvider', {{{OPTION}}}), 'CPUExecutionProvider']"
    ),
    '("TensorrtExecutionProvider", "CUDAExecutionProvider",)': f'("TensorrtExecutionProvider", {CUDA},)',
    '["CUDAExecutionProvider"] if path else ["CPUExecutionProvider"]': f'[{CUDA}] if path else ["CPUExecutionProvider"]',
    'list(["CUDAExecutionProvider"])': f"list([{CUDA}])",
    'None or ["CUDAExecutionProvider"]': f"None or [{CUDA}]",
    '["CUDAExecutionProvider"] + ["CPUExecutionProvider"]': f'[{CUDA}] + ["CPUExecutionProvider"]',
    '[("CUDAExecutionProvider", {})]': f'[("CUDAExecutionProvider", {{{OPTION}}})]',
    '[("CUDAExecutionProvider", {"device_id": 1})]': f'[("CUDAExecutionProvider", {{{OPTION}, "device_id": 1}})]',
    '[(("CUDAExecutionProvider"), { "device_id": 1, })]': f'[(("CUDAExecutionProvider"), {{{OPTION}, "device_id": 1, }})]',
    '[  # two\n    "CUDAExecutionProvider",  # first\n    "CPUExecutionProvider",\n]': (
        f'[  # two\n    {CUDA},  # first\n    "CPUExecutionProvider",\n]'
    ),
    '[(\n    "CUDAExecutionProvider",\n    {\n        "device_id": 1,  # the second\n    },\n)]': (
        f'[(\n    "CUDAExecutionProvider",\n    {{\n        {OPTION},\n        "device_id": 1,  # the second\n    }},\n)]'
    ),
}


class TestLands:
    @pytest.mark.parametrize("code", LISTS)
    def test_in_a_list(self, code: str) -> None:
        after = with_list(LISTS[code])
        lands(NAME, onnx_module(with_list(code)), onnx_module(f"{COMMENT}\n{after}"))

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ('p = []\np.append("CUDAExecutionProvider")', f"p = []\n{COMMENT}\np.append({CUDA})"),
            ('p = []\np.insert(0, "CUDAExecutionProvider")', f"p = []\n{COMMENT}\np.insert(0, {CUDA})"),
            ('p = []\np += ["CUDAExecutionProvider"]', f"p = []\n{COMMENT}\np += [{CUDA}]"),
            ('p = []\np.extend(["CUDAExecutionProvider"])', f"p = []\n{COMMENT}\np.extend([{CUDA}])"),
            (
                'if path:\n    p = ["CPUExecutionProvider"]\nelse:\n    p = ["CUDAExecutionProvider"]',
                f'if path:\n    p = ["CPUExecutionProvider"]\nelse:\n    {COMMENT}\n    p = [{CUDA}]',
            ),
            (
                'o = {"device_id": 1}\np = [("CUDAExecutionProvider", o)]',
                f'{COMMENT}\no = {{{OPTION}, "device_id": 1}}\np = [("CUDAExecutionProvider", o)]',
            ),
            ('self.p = ["CUDAExecutionProvider"]\np = self.p', f"{COMMENT}\nself.p = [{CUDA}]\np = self.p"),
            ('x = 1; p = ["CUDAExecutionProvider"]', f"x = 1; p = [{CUDA}]"),
        ],
    )
    def test_in_a_variable(self, before: str, after: str) -> None:
        build = BUILD.strip().replace("=providers", "=p")
        lands(NAME, onnx_module(f"{before}\n{build}"), onnx_module(f"{after}\n{build}"))

    def test_in_the_call(self) -> None:
        build = BUILD.strip().replace("providers=providers", 'providers=["CUDAExecutionProvider"]')
        after = build.replace('"CUDAExecutionProvider"', CUDA).replace("\nself", f"\n{COMMENT}\nself")
        lands(NAME, onnx_module(build), onnx_module(after))

    def test_in_a_default(self) -> None:
        before = onnx_module(BUILD, 'self, path, providers=("CUDAExecutionProvider",)')
        lands(NAME, before, replaced(before, ('"CUDAExecutionProvider"', CUDA)))

    def test_in_a_constant_of_the_module(self) -> None:
        before = onnx_module(BUILD.replace("=providers", "=PROVIDERS"), top='PROVIDERS = ["CUDAExecutionProvider"]')
        after = replaced(before, ('PROVIDERS = ["CUDAExecutionProvider"]', f"{COMMENT}\nPROVIDERS = [{CUDA}]"))
        lands(NAME, before, after)

    def test_two_sessions_of_the_tokenizer(self) -> None:
        again = BUILD.strip().splitlines()[1].replace("=providers", '=["CUDAExecutionProvider"]')
        before = onnx_module(with_list('["CUDAExecutionProvider"]') + f"\nif path:\n    {again}")
        outcome = plan(NAME, before)
        assert outcome.after.decode().count(OPTION) == 2
        assert plan(NAME, outcome.after).kind == ALREADY

    def test_tabs_and_crlf(self) -> None:
        text = with_tabs(onnx_module(with_list('["CUDAExecutionProvider"]')))
        after = plan(NAME, text.encode()).after.decode()
        assert f"\t\t{COMMENT}\r\n\t\tproviders = [{CUDA}]\r\n" in after
        assert after.replace("\r\n", "").count("\n") == 0


class TestLeavesAlone:
    def test_our_own_work(self) -> None:
        after = plan(NAME, onnx_module(with_list('["CUDAExecutionProvider"]'))).after.decode()
        skips(NAME, after, ALREADY, line_of(after, OPTION))

    @pytest.mark.parametrize("value", ["EXHAUSTIVE", "DEFAULT"])
    def test_another_value_on_purpose(self, value: str) -> None:
        text = onnx_module(with_list(f'[("CUDAExecutionProvider", {{"cudnn_conv_algo_search": "{value}"}})]'))
        refuses(NAME, text, Conflict, line_of(text, value), f"sets cudnn_conv_algo_search on purpose: '{value}'")

    @pytest.mark.parametrize(
        "line",
        [
            'o = {}\no["cudnn_conv_algo_search"] = "DEFAULT"',
            'o = dict(cudnn_conv_algo_search="DEFAULT")',
            'other = {"cudnn_conv_algo_search": "DEFAULT"}',
        ],
    )
    def test_the_option_in_another_place(self, line: str) -> None:
        text = onnx_module(f"{line}\n" + with_list('["CUDAExecutionProvider"]'))
        refuses(NAME, text, Conflict, line_of(text, "algo_search"), "has to do with cudnn_conv_algo_search too")

    @pytest.mark.parametrize("options", ["make()", "{**more}", "self.cuda_options"])
    def test_options_that_are_made_elsewhere(self, options: str) -> None:
        text = onnx_module(with_list(f'[("CUDAExecutionProvider", {options})]'))
        refuses(NAME, text, Ambiguous, "the CUDA provider's options are not written out")

    def test_options_that_others_have_too(self) -> None:
        text = onnx_module("o = {}\nprint(o)\n" + with_list('[("CUDAExecutionProvider", o)]'))
        refuses(NAME, text, Ambiguous, "the CUDA provider's options are not written out: o")

    def test_options_in_a_list_of_their_own(self) -> None:
        build = BUILD.replace("=providers)", "=providers, provider_options=[{}])")
        text = onnx_module('providers = ["CUDAExecutionProvider"]\n' + build.strip())
        refuses(NAME, text, Conflict, "the provider's options are handed over separately")

    @pytest.mark.parametrize(
        "use",
        [
            'if "CUDAExecutionProvider" in providers:\n    pass',
            "other = onnxruntime.InferenceSession('vocoder.onnx', providers=providers)",
            "self.kept = providers",
            "use(providers)",
            "first = providers[0]",
            "for p in providers:\n    print(p)",
        ],
    )
    def test_a_list_that_is_used_for_more(self, use: str) -> None:
        text = onnx_module(with_list('["CUDAExecutionProvider"]') + f"\n{use}")
        refuses(NAME, text, Ambiguous, "the session's providers are used here too")

    @pytest.mark.parametrize(
        "use",
        [
            "print(providers)",
            "logger.info('%s', providers)",
            "if not providers:\n    pass",
            "n = len(providers)",
            "print(f'{providers}')",
        ],
    )
    def test_a_list_that_is_only_looked_at(self, use: str) -> None:
        assert plan(NAME, onnx_module(with_list('["CUDAExecutionProvider"]') + f"\n{use}")).kind == PLANNED

    def test_a_variable_of_that_name_elsewhere(self) -> None:
        more = "def other(self, providers):\n    return [p for p in providers if p]"
        assert plan(NAME, onnx_module(with_list('["CUDAExecutionProvider"]'), more=more)).kind == PLANNED

    @pytest.mark.parametrize(
        "code", ['["CPUExecutionProvider"]', "path", "onnxruntime.get_available_providers()", "[name]"]
    )
    def test_no_cuda_provider_is_named(self, code: str) -> None:
        refuses(NAME, onnx_module(with_list(code)), NoSite, "no CUDA provider is named")

    def test_a_session_without_providers(self) -> None:
        text = onnx_module(BUILD.replace(", providers=providers", ""))
        refuses(NAME, text, NoSite, "the speech tokenizer's session is not given any providers")
        text = onnx_module(BUILD.replace("options, providers=providers", "**options"))
        refuses(NAME, text, NoSite, "is handed over in a container (* or **)")

    def test_another_model_s_session(self) -> None:
        text = onnx_module(
            with_list('["CUDAExecutionProvider"]').replace("speech_tokenizer_v1", "campplus").replace("ort_", "spk_")
        )
        refuses(NAME, text, NoSite, "no onnxruntime.InferenceSession for the speech tokenizer")

    def test_a_function_that_builds_others_too(self) -> None:
        more = "def build(self, path, p=('CUDAExecutionProvider',)):\n    return onnxruntime.InferenceSession(path, providers=p)"
        init = (
            'self.ort_session = self.build(path + "/speech_tokenizer_v1.onnx")\nself.spk = self.build("campplus.onnx")'
        )
        refuses(NAME, onnx_module(init, more=more), Ambiguous, "build() builds other sessions too")

    def test_half_of_it(self) -> None:
        code = f'[{CUDA}] if path else ["CUDAExecutionProvider"]'
        refuses(
            NAME, onnx_module(with_list(code)), PartlyApplied, "cudnn_conv_algo_search is set on line 7, not on line 7"
        )
