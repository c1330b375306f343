"""``tokenizer_ort_threads``: the options of the speech tokenizer's session, and of no other."""

from __future__ import annotations

import ast

import pytest
from cases import (
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
)

from apply_opt.errors import Ambiguous, Conflict, NoSite, OtherValues, PartlyApplied, Refused
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED

NAME = "tokenizer_ort_threads"
HELPER = constant(NAME, "HELPER_TEXT")
CALL = "_ort_intra_op_threads"
NOTE = {"intra_op": 4, "inter_op": 2, "execution_mode": "parallel"}
"""The values of the published tip."""

INIT = """
providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
session_option = onnxruntime.SessionOptions()
session_option.intra_op_num_threads = 1
self.ort_session = onnxruntime.InferenceSession(
    os.path.join(path, "speech_tokenizer_v1.onnx"), sess_options=session_option, providers=providers
)
"""
RUN = "return self.ort_session.run(None, {'feats': feats})"


def module(
    init: str = INIT,
    imports: str = "import onnxruntime",
    methods: str = "",
    run: str = RUN,
    functions: str = "",
    parameters: str = "self, path, funasr_model",
    tail: str = "",
) -> str:
    """A small tokenizer around the lines that a case is about."""
    parts = [
        f"import os\n\nimport whisper\n{block(imports)}\n",
        *([block(functions) + "\n\n"] if functions else []),
        f"class StepAudioTokenizer:\n    def __init__({parameters}):\n        self.funasr_model = funasr_model",
        block(init, 8) + "\n",
        *([block(methods, 4) + "\n"] if methods else []),
        "    def get_vq02_code(self, audio):",
        "        return self.funasr_model.infer_encoder(input=[audio], is_final=True)\n",
        "    def get_vq06_code(self, audio):",
        "        feats = whisper.log_mel_spectrogram(audio, n_mels=128)",
        block(run, 8) + "\n",
    ]
    text = "\n".join(parts)
    return text + ("\n\n" + block(tail) + "\n" if tail else "")


def with_helper(text: str, anchor: str = "class StepAudioTokenizer") -> str:
    return above(text, anchor, HELPER)


def test_the_reference() -> None:
    before = reference()
    after = replaced(before, ("num_threads = 1", f"num_threads = {CALL}(providers)"))
    lands(NAME, before, with_helper(after))


class TestLeavesAlone:
    """Look-alikes, and what is there already."""

    def test_other_models_sessions_in_other_classes(self) -> None:
        frontend = """
        class CosyVoiceFrontEnd:
            def __init__(self, campplus_model, speech_tokenizer_model):
                option = onnxruntime.SessionOptions()
                option.intra_op_num_threads = 1
                self.campplus_session = onnxruntime.InferenceSession(campplus_model, sess_options=option)
                self.speech_tokenizer_session = onnxruntime.InferenceSession("speech_tokenizer_v1.onnx", sess_options=option)

            def _extract_speech_token(self, speech):
                feat = whisper.log_mel_spectrogram(speech, n_mels=128)
                return self.speech_tokenizer_session.run(None, {"feats": feat})
        """
        before = module(tail=frontend)
        mine = "session_option.intra_op_num_threads = 1"
        lands(
            NAME,
            before,
            with_helper(replaced(before, (mine, f"session_option.intra_op_num_threads = {CALL}(providers)"))),
        )

    def test_a_file_with_only_another_class_s_sessions(self) -> None:
        text = module(
            init="self.ort_session = None",
            functions="""
        class FrontEnd:
            def __init__(self):
                option = onnxruntime.SessionOptions()
                option.intra_op_num_threads = 1
                self.session = onnxruntime.InferenceSession("speech_tokenizer_v1.onnx", option)

            def extract(self, feats):
                return self.session.run(None, feats)
        """,
        )
        refuses(NAME, text, NoSite, "no onnxruntime.InferenceSession for the speech tokenizer", "line 10")

    @pytest.mark.parametrize(
        "line",
        [
            "# session_option.intra_op_num_threads = 4",
            '"session_option.intra_op_num_threads = 4"',
            'print("session_option.intra_op_num_threads = 4")',
            '"""\nsession_option = onnxruntime.SessionOptions()\nsession_option.intra_op_num_threads = 4\n"""',
            'text = f"session_option.intra_op_num_threads = {path}"',
            "other = onnxruntime.SessionOptions()\nother.intra_op_num_threads = 3",
            "self.pool.intra_op_num_threads = 3",
        ],
    )
    def test_text_and_other_objects_that_read_like_it(self, line: str) -> None:
        before = module(INIT + line)
        ours = "session_option.intra_op_num_threads = "
        lands(NAME, before, with_helper(replaced(before, (ours + "1\n", f"{ours}{CALL}(providers)\n"))))

    def test_a_module_without_the_tokenizer(self) -> None:
        refuses(NAME, "import onnxruntime\n", NoSite, "no class calls infer_encoder()")

    @pytest.mark.parametrize(
        "policy",
        [
            "os.cpu_count()",
            "threads",
            "int(os.environ.get('ORT_THREADS', '4'))",
            "self.threads or 2",
            "len(os.sched_getaffinity(0))",
        ],
    )
    def test_a_policy_of_the_author_s(self, policy: str) -> None:
        text = module(
            INIT.replace("num_threads = 1", f"num_threads = {policy}"), parameters="self, path, funasr_model, threads=4"
        )
        skips(
            NAME,
            text,
            NOT_NEEDED,
            line_of(text, "= " + policy),
            "intra_op_num_threads = " + ast.unparse(ast.parse(policy)),
        )

    def test_a_policy_under_a_condition(self) -> None:
        text = module(
            INIT.replace("session_option.intra_op", "if threads:\n    session_option.intra_op").replace(
                "= 1\n", "= threads\n"
            ),
            parameters="self, path, funasr_model, threads=4",
        )
        skips(NAME, text, NOT_NEEDED, line_of(text, "= threads"))

    @pytest.mark.parametrize(
        ("line", "note"),
        [
            ("if path:\n    {0} = 1\nelse:\n    {0} = 4", "{0} = 1; {0} = 4"),
            ("if not path:\n    {0} = 4", "{0} = 4"),
            ("if path: {0} = 1", "{0} = 1"),
            ("{0} = 1\nif path:\n    {0} = os.cpu_count()", "{0} = 1; {0} = os.cpu_count()"),
            ("match path:\n    case 'a':\n        {0} = 1\n    case _:\n        {0} = 4", "{0} = 1; {0} = 4"),
        ],
    )
    def test_a_policy_by_branches(self, line: str, note: str) -> None:
        option = "session_option.intra_op_num_threads"
        text = module(INIT.replace(option + " = 1", line.format(option)))
        skips(NAME, text, NOT_NEEDED, note.format(option))
        refuses(NAME, text, Ambiguous, "intra_op_num_threads", intra_op=4)

    def test_our_own_work_with_a_branch_since(self) -> None:
        after = plan(NAME, module()).after.decode()
        line = f"session_option.intra_op_num_threads = {CALL}(providers)\n"
        text = replaced(after, (line, f"{line}        if path:\n            session_option.intra_op_num_threads = 4\n"))
        skips(NAME, text, ALREADY)

    def test_a_parameter_is_said_to_be_one(self) -> None:
        text = module(INIT.replace("= 1", "= threads"), parameters="self, path, funasr_model, threads=1")
        skips(NAME, text, NOT_NEEDED, "= threads (threads is 1 by default; --set intra_op=N writes a number)")
        text = module(INIT.replace("= 1", "= threads"), parameters="self, path, funasr_model, threads")
        skips(NAME, text, NOT_NEEDED, "= threads (threads is a parameter; --set intra_op=N writes a number)")

    @pytest.mark.parametrize(
        "field",
        [
            "@dataclasses.dataclass\nclass StepAudioTokenizer:\n    threads: int = 1\n",
            "class StepAudioTokenizer(BaseModel):\n    threads: int = 1\n",
            "class StepAudioTokenizer:\n    threads = 1\n\n    def faster(self):\n        self.threads = 4\n",
            "class StepAudioTokenizer:\n    threads = 1\n    threads *= 2\n",
            "class StepAudioTokenizer:\n    threads = threads\n",
        ],
    )
    def test_an_attribute_that_may_have_another_value(self, field: str) -> None:
        text = replaced(module(INIT.replace("= 1", "= self.threads")), ("class StepAudioTokenizer:\n", field))
        skips(NAME, text, NOT_NEEDED, "= self.threads")

    def test_our_own_work(self) -> None:
        after = plan(NAME, reference()).after.decode()
        skips(NAME, after, ALREADY, line_of(after, f"= {CALL}(providers)"))

    def test_our_own_work_with_the_providers_edited_since(self) -> None:
        after = plan(NAME, reference()).after.decode().replace(f"= {CALL}(providers)", f"= {CALL}(self.providers)")
        skips(NAME, after, ALREADY)

    def test_fixed_values_that_are_there(self) -> None:
        init = INIT.replace("num_threads = 1", "num_threads = 4\nsession_option.inter_op_num_threads = 2")
        text = module(init + "\n", methods="").replace(
            "self.ort_session = onnx",
            "session_option.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL\n        self.ort_session = onnx",
        )
        skips(NAME, text, NOT_NEEDED, "intra_op_num_threads = 4", "inter_op_num_threads = 2", "ORT_PARALLEL", **NOTE)


class TestHalf:
    def test_helper_without_its_use(self) -> None:
        text = with_helper(module())
        refuses(
            NAME,
            text,
            PartlyApplied,
            "partly applied",
            "defined (line 7) but not used",
            line_of(text, "num_threads = 1"),
        )

    def test_use_without_its_helper(self) -> None:
        text = module(INIT.replace("= 1", f"= {CALL}(providers)"))
        refuses(NAME, text, PartlyApplied, "partly applied", "used but not defined", line_of(text, CALL))

    def test_helper_twice(self) -> None:
        text = with_helper(with_helper(module(INIT.replace("= 1", f"= {CALL}(providers)"))))
        refuses(NAME, text, PartlyApplied, "defined more than once", lines_of(text, f"def {CALL}"))

    def test_setting_twice(self) -> None:
        text = with_helper(module(INIT.replace("= 1", f"= {CALL}(providers)\nsession_option.intra_op_num_threads = 1")))
        refuses(
            NAME, text, Ambiguous, "intra_op_num_threads is set in 2 places", lines_of(text, ".intra_op_num_threads =")
        )

    def test_other_values_asked_for(self) -> None:
        text = with_helper(module(INIT.replace("= 1", f"= {CALL}(providers)")))
        refuses(
            NAME, text, OtherValues, "applied with other values: intra_op=auto", line_of(text, f"= {CALL}"), intra_op=4
        )

    def test_name_taken(self) -> None:
        refuses(NAME, module(functions=f"{CALL} = 4"), Conflict, f"already uses the name {CALL}")
        refuses(
            NAME,
            module(imports=f"import onnxruntime\nfrom perf import f as {CALL}"),
            Conflict,
            f"already uses the name {CALL}",
        )


OWN = """so = onnxruntime.SessionOptions()
so.intra_op_num_threads = 1
self.ort_session = onnxruntime.InferenceSession({}, so)
"""
OTHER = """other = onnxruntime.SessionOptions()
other.intra_op_num_threads = 2
self.other = onnxruntime.InferenceSession({}, other)
"""

# What stands in __init__ -> what stands there afterwards. The helper goes above the class.
LANDS = {
    "as upstream": (INIT, INIT.replace("= 1", f"= {CALL}(providers)")),
    "no intra_op yet": (
        INIT.replace("session_option.intra_op_num_threads = 1\n", ""),
        INIT.replace(
            "session_option.intra_op_num_threads = 1\n", f"session_option.intra_op_num_threads = {CALL}(providers)\n"
        ),
    ),
    "four threads, a comment on the line": (
        INIT.replace("= 1", "= 4  # as in the tip"),
        INIT.replace("= 1", f"= {CALL}(providers)  # as in the tip"),
    ),
    "comments between": (
        INIT.replace("session_option.intra", "# one thread\n\n# really\nsession_option.intra"),
        INIT.replace("session_option.intra", "# one thread\n\n# really\nsession_option.intra").replace(
            "= 1", f"= {CALL}(providers)"
        ),
    ),
    "no spaces around the sign": (
        INIT.replace("threads = 1", "threads=1"),
        INIT.replace("threads = 1", f"threads={CALL}(providers)"),
    ),
    "in parentheses": (INIT.replace("= 1", "= (1)"), INIT.replace("= 1", f"= ({CALL}(providers))")),
    "continued line": (INIT.replace("= 1", "= \\\n    1"), INIT.replace("= 1", f"= \\\n    {CALL}(providers)")),
    "two statements on the line": (
        INIT.replace("= 1", "= 1; session_option.log_severity_level = 3"),
        INIT.replace("= 1", f"= {CALL}(providers); session_option.log_severity_level = 3"),
    ),
    "other options on the line": (
        INIT.replace(
            "session_option.intra",
            "other = onnxruntime.SessionOptions(); other.intra_op_num_threads = 1; session_option.intra",
        ),
        INIT.replace(
            "session_option.intra_op_num_threads = 1",
            "other = onnxruntime.SessionOptions(); other.intra_op_num_threads = 1; "
            f"session_option.intra_op_num_threads = {CALL}(providers)",
        ),
    ),
    "everything on one line": (
        'providers = ["CPUExecutionProvider"]\n'
        "o = onnxruntime.SessionOptions(); o.intra_op_num_threads = 1; "
        'self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", o, providers)',
        'providers = ["CPUExecutionProvider"]\n'
        f"o = onnxruntime.SessionOptions(); o.intra_op_num_threads = {CALL}(providers); "
        'self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", o, providers)',
    ),
    "renamed, positional": (
        """
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 1
        self.vq06 = onnxruntime.InferenceSession(f"{path}/speech_tokenizer_v1.onnx", so, ["CPUExecutionProvider"])
        """,
        f"""
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = {CALL}(["CPUExecutionProvider"])
        self.vq06 = onnxruntime.InferenceSession(f"{{path}}/speech_tokenizer_v1.onnx", so, ["CPUExecutionProvider"])
        """.replace('(["CPUExecutionProvider"])\n', "(['CPUExecutionProvider'])\n", 1),
    ),
    "no providers": (
        """
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 1
        self.vq06 = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so)
        """,
        f"""
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = {CALL}(None)
        self.vq06 = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so)
        """,
    ),
    "providers with options": (
        INIT.replace(
            "providers=providers", 'providers=[("CUDAExecutionProvider", {"device_id": 0}), "CPUExecutionProvider"]'
        ),
        INIT.replace(
            "providers=providers", 'providers=[("CUDAExecutionProvider", {"device_id": 0}), "CPUExecutionProvider"]'
        ).replace("= 1", f"= {CALL}([('CUDAExecutionProvider', {{'device_id': 0}}), 'CPUExecutionProvider'])"),
    ),
    "providers by a condition": (
        INIT.replace(
            "providers=providers", 'providers=["CUDAExecutionProvider"] if self.cuda else ["CPUExecutionProvider"]'
        ),
        INIT.replace(
            "providers=providers", 'providers=["CUDAExecutionProvider"] if self.cuda else ["CPUExecutionProvider"]'
        ).replace("= 1", f"= {CALL}(['CUDAExecutionProvider'] if self.cuda else ['CPUExecutionProvider'])"),
    ),
    "providers spread out": (
        INIT.replace("providers=providers", 'providers=[*providers, "CPUExecutionProvider"]'),
        INIT.replace("providers=providers", 'providers=[*providers, "CPUExecutionProvider"]').replace(
            "= 1", f"= {CALL}(None)"
        ),
    ),
    "providers by a call": (
        INIT.replace("providers=providers", "providers=onnxruntime.get_available_providers()"),
        INIT.replace("providers=providers", "providers=onnxruntime.get_available_providers()").replace(
            "= 1", f"= {CALL}(None)"
        ),
    ),
    "providers from a call, in a variable": (
        INIT.replace('["CUDAExecutionProvider", "CPUExecutionProvider"]', "self.pick_providers()"),
        INIT.replace('["CUDAExecutionProvider", "CPUExecutionProvider"]', "self.pick_providers()").replace(
            "= 1", f"= {CALL}(providers)"
        ),
    ),
    "providers in a walrus": (
        INIT.replace("providers=providers", 'providers=(wanted := ["CPUExecutionProvider"])'),
        INIT.replace("providers=providers", 'providers=(wanted := ["CPUExecutionProvider"])').replace(
            "= 1", f"= {CALL}(None)"
        ),
    ),
    "providers only later": (
        """
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 1  # one
        so.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self.ort_session = onnxruntime.InferenceSession(
            path + "/speech_tokenizer_v1.onnx", so, providers=providers
        )
        """,
        f"""
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = {CALL}(None)  # one
        so.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self.ort_session = onnxruntime.InferenceSession(
            path + "/speech_tokenizer_v1.onnx", so, providers=providers
        )
        """,
    ),
    "providers completed later": (
        INIT.replace("self.ort", 'if path:\n    providers.append("CPUExecutionProvider")\nself.ort', 1),
        INIT.replace("= 1", f"= {CALL}(None)").replace(
            "self.ort", 'if path:\n    providers.append("CPUExecutionProvider")\nself.ort', 1
        ),
    ),
    "providers only later, no room to go there": (
        INIT.replace("= 1\n", '= 1; providers[0] = "CPUExecutionProvider"\n'),
        INIT.replace("= 1\n", f'= {CALL}(None); providers[0] = "CPUExecutionProvider"\n'),
    ),
    "annotated": (
        INIT.replace("session_option =", "session_option: onnxruntime.SessionOptions =").replace(
            "threads = 1", "threads: int = 1"
        ),
        INIT.replace("session_option =", "session_option: onnxruntime.SessionOptions =").replace(
            "threads = 1", f"threads: int = {CALL}(providers)"
        ),
    ),
    "walrus": (
        INIT.replace(
            "session_option = onnxruntime.SessionOptions()",
            "if (session_option := onnxruntime.SessionOptions()):\n    pass",
        ),
        INIT.replace(
            "session_option = onnxruntime.SessionOptions()",
            "if (session_option := onnxruntime.SessionOptions()):\n    pass",
        ).replace("= 1", f"= {CALL}(providers)"),
    ),
    "by another name, providers only later": (
        """
        options = onnxruntime.SessionOptions()
        if path:
            so = options
        providers = ["CPUExecutionProvider"]
        self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, providers)
        """,
        f"""
        options = onnxruntime.SessionOptions()
        if path:
            options.intra_op_num_threads = {CALL}(None)
            so = options
        providers = ["CPUExecutionProvider"]
        self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, providers)
        """,
    ),
    "kept under two names": (
        INIT.replace("session_option =", "self.options = session_option =").replace(
            "session_option.intra", "self.options.intra"
        ),
        INIT.replace("session_option =", "self.options = session_option =")
        .replace("session_option.intra", "self.options.intra")
        .replace("= 1", f"= {CALL}(providers)"),
    ),
    "kept as an attribute too": (
        INIT.replace("self.ort", "self.options = session_option\nself.ort", 1),
        INIT.replace("self.ort", "self.options = session_option\nself.ort", 1).replace("= 1", f"= {CALL}(providers)"),
    ),
    "by another name, not set yet": (
        """
        options = onnxruntime.SessionOptions()
        so = options
        self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, None)
        """,
        f"""
        options = onnxruntime.SessionOptions()
        so = options
        so.intra_op_num_threads = {CALL}(None)
        self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, None)
        """,
    ),
    "under a condition as a whole": (
        "if path:\n" + block(INIT, 4),
        "if path:\n" + block(INIT, 4).replace("= 1", f"= {CALL}(providers)"),
    ),
    "in a with block": (
        "with self.lock, open(path):\n" + block(INIT, 4),
        "with self.lock, open(path):\n" + block(INIT, 4).replace("= 1", f"= {CALL}(providers)"),
    ),
    "set in a with block": (
        INIT.replace("session_option.intra", "with self.lock:\n    session_option.intra"),
        INIT.replace("session_option.intra", "with self.lock:\n    session_option.intra").replace(
            "= 1", f"= {CALL}(providers)"
        ),
    ),
    "in a match statement": (
        "match path:\n    case '':\n        self.ort_session = None\n    case _:\n" + block(INIT, 8),
        "match path:\n    case '':\n        self.ort_session = None\n    case _:\n"
        + block(INIT, 8).replace("= 1", f"= {CALL}(providers)"),
    ),
    "CUDA, else CPU, with the same options": (
        """
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 1
        model = os.path.join(path, "speech_tokenizer_v1.onnx")
        try:
            self.ort_session = onnxruntime.InferenceSession(model, so, providers=["CUDAExecutionProvider"])
        except Exception:
            self.ort_session = onnxruntime.InferenceSession(model, so, providers=["CPUExecutionProvider"])
        """,
        f"""
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = {CALL}(['CUDAExecutionProvider'])
        model = os.path.join(path, "speech_tokenizer_v1.onnx")
        try:
            self.ort_session = onnxruntime.InferenceSession(model, so, providers=["CUDAExecutionProvider"])
        except Exception:
            self.ort_session = onnxruntime.InferenceSession(model, so, providers=["CPUExecutionProvider"])
        """,
    ),
    "CUDA, else CPU, options in the try": (
        """
        model = path + "/speech_tokenizer_v1.onnx"
        try:
            so = onnxruntime.SessionOptions()
            self.ort_session = onnxruntime.InferenceSession(model, so, ["CUDAExecutionProvider"])
        except RuntimeError:
            self.ort_session = onnxruntime.InferenceSession(model, so, ["CPUExecutionProvider"])
        """,
        f"""
        model = path + "/speech_tokenizer_v1.onnx"
        try:
            so = onnxruntime.SessionOptions()
            so.intra_op_num_threads = {CALL}(['CUDAExecutionProvider'])
            self.ort_session = onnxruntime.InferenceSession(model, so, ["CUDAExecutionProvider"])
        except RuntimeError:
            self.ort_session = onnxruntime.InferenceSession(model, so, ["CPUExecutionProvider"])
        """,
    ),
    "CUDA or CPU, not set yet": (
        """
        so = onnxruntime.SessionOptions()
        if self.cuda:
            self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, ["CUDAExecutionProvider"])
        else:
            self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, ["CPUExecutionProvider"])
        """,
        f"""
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = {CALL}(None)
        if self.cuda:
            self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, ["CUDAExecutionProvider"])
        else:
            self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, ["CPUExecutionProvider"])
        """,
    ),
    "one provider list after the other": (
        """
        so = onnxruntime.SessionOptions()
        for providers in (["CUDAExecutionProvider"], ["CPUExecutionProvider"]):
            try:
                self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, providers)
            except RuntimeError:
                continue
        """,
        f"""
        so = onnxruntime.SessionOptions()
        for providers in (["CUDAExecutionProvider"], ["CPUExecutionProvider"]):
            try:
                so.intra_op_num_threads = {CALL}(providers)
                self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, providers)
            except RuntimeError:
                continue
        """,
    ),
    "one-line if around the session": (
        """
        so = onnxruntime.SessionOptions()
        if path: self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so)
        """,
        f"""
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = {CALL}(None)
        if path: self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so)
        """,
    ),
    "one-line if around the session, providers only later": (
        """
        so = onnxruntime.SessionOptions()
        providers = ["CPUExecutionProvider"]
        if path: self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, providers)
        """,
        f"""
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = {CALL}(None)
        providers = ["CPUExecutionProvider"]
        if path: self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, providers)
        """,
    ),
    "one-line if around the session, providers known before": (
        """
        providers = ["CPUExecutionProvider"]
        so = onnxruntime.SessionOptions()
        if path: self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, providers)
        """,
        f"""
        providers = ["CPUExecutionProvider"]
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = {CALL}(providers)
        if path: self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, providers)
        """,
    ),
    "not set yet, other statements on the lines": (
        """
        x = 1; so = onnxruntime.SessionOptions()
        self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so); y = 2
        """,
        f"""
        x = 1; so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = {CALL}(None)
        self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so); y = 2
        """,
    ),
    "not set yet, other statements in front on the lines": (
        """
        x = 1; so = onnxruntime.SessionOptions()
        y = 2; self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so)
        """,
        f"""
        x = 1; so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = {CALL}(None)
        y = 2; self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so)
        """,
    ),
    "the variable used for another session before": (
        """
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 2
        self.campplus = onnxruntime.InferenceSession(path + "/campplus.onnx", so)
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 1
        self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so)
        """,
        f"""
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 2
        self.campplus = onnxruntime.InferenceSession(path + "/campplus.onnx", so)
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = {CALL}(None)
        self.ort_session = onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so)
        """,
    ),
    "the variable used for another session after": (
        """
        model = path + "/speech_tokenizer_v1.onnx"
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 1
        self.ort_session = onnxruntime.InferenceSession(model, so)
        model = path + "/campplus.onnx"
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 2
        self.campplus = onnxruntime.InferenceSession(model, so)
        """,
        f"""
        model = path + "/speech_tokenizer_v1.onnx"
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = {CALL}(None)
        self.ort_session = onnxruntime.InferenceSession(model, so)
        model = path + "/campplus.onnx"
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 2
        self.campplus = onnxruntime.InferenceSession(model, so)
        """,
    ),
    "the model's file by another name": (
        """
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 1
        vad = onnxruntime.SessionOptions()
        vad.intra_op_num_threads = 1
        self.vad = onnxruntime.InferenceSession(path + "/silero_vad.onnx", vad)
        self.ort_session = onnxruntime.InferenceSession(path + "/vq06.onnx", so)
        """,
        f"""
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = {CALL}(None)
        vad = onnxruntime.SessionOptions()
        vad.intra_op_num_threads = 1
        self.vad = onnxruntime.InferenceSession(path + "/silero_vad.onnx", vad)
        self.ort_session = onnxruntime.InferenceSession(path + "/vq06.onnx", so)
        """,
    ),
    "the model's path from elsewhere": (
        """
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, sess_options=so)
        self.ort_session = session
        """,
        f"""
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = {CALL}(None)
        session = onnxruntime.InferenceSession(path, sess_options=so)
        self.ort_session = session
        """,
    ),
    "set by setattr, another option": (
        INIT.replace("self.ort", 'setattr(session_option, "log_severity_level", 3)\nself.ort', 1),
        INIT.replace("self.ort", 'setattr(session_option, "log_severity_level", 3)\nself.ort', 1).replace(
            "= 1", f"= {CALL}(providers)"
        ),
    ),
    "printed, and asked for": (
        INIT.replace("self.ort", "if session_option is not None:\n    print(session_option)\nself.ort", 1),
        INIT.replace("self.ort", "if session_option is not None:\n    print(session_option)\nself.ort", 1).replace(
            "= 1", f"= {CALL}(providers)"
        ),
    ),
    "set again when it has no effect any more": (
        INIT + "session_option.intra_op_num_threads = 3\n",
        INIT.replace("= 1", f"= {CALL}(providers)") + "session_option.intra_op_num_threads = 3\n",
    ),
    "set together with the other number": (
        INIT.replace("= 1\n", "= session_option.inter_op_num_threads = 1  # one\n"),
        INIT.replace(
            "session_option.intra_op_num_threads = 1\n",
            "session_option.inter_op_num_threads = 1  # one\n"
            f"session_option.intra_op_num_threads = {CALL}(providers)\n",
        ),
    ),
    "set together with the other number, the other way round": (
        INIT.replace("session_option.intra", "session_option.inter_op_num_threads = session_option.intra"),
        INIT.replace(
            "session_option.intra_op_num_threads = 1\n",
            f"session_option.inter_op_num_threads = 1\nsession_option.intra_op_num_threads = {CALL}(providers)\n",
        ),
    ),
    "made and set at once": (
        INIT.replace(
            "session_option = onnxruntime.SessionOptions()\nsession_option.intra",
            "(session_option := onnxruntime.SessionOptions()).intra",
        ),
        INIT.replace(
            "session_option = onnxruntime.SessionOptions()\nsession_option.intra",
            "(session_option := onnxruntime.SessionOptions()).intra",
        ).replace("= 1", f"= {CALL}(providers)"),
    ),
    "a number with a sign": (
        INIT.replace("= 1", "= -1"),
        INIT.replace("= 1", f"= {CALL}(providers)"),
    ),
    "a product of numbers": (
        INIT.replace("= 1", "= 2 * 2"),
        INIT.replace("= 1", f"= {CALL}(providers)"),
    ),
    "a number by a name": (
        "THREADS = 1\n" + INIT.replace("= 1", "= THREADS"),
        "THREADS = 1\n" + INIT.replace("= 1", f"= {CALL}(providers)"),
    ),
    "everything on one line, not set yet": (
        "so = onnxruntime.SessionOptions(); "
        "self.ort_session = onnxruntime.InferenceSession(path + '/speech_tokenizer_v1.onnx', so)  # über",
        f"so = onnxruntime.SessionOptions(); so.intra_op_num_threads = {CALL}(None); "
        "self.ort_session = onnxruntime.InferenceSession(path + '/speech_tokenizer_v1.onnx', so)  # über",
    ),
    "the mode under a condition": (
        INIT.replace(
            "self.ort",
            "if path:\n    session_option.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL\nself.ort",
            1,
        ),
        INIT.replace(
            "self.ort",
            "if path:\n    session_option.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL\nself.ort",
            1,
        ).replace("= 1", f"= {CALL}(providers)"),
    ),
    "the other number set twice": (
        INIT.replace("= 1\n", "= 1\n" + 2 * "session_option.inter_op_num_threads = 1\n"),
        INIT.replace("= 1\n", f"= {CALL}(providers)\n" + 2 * "session_option.inter_op_num_threads = 1\n"),
    ),
    "another model's path made of ours, by its folder": (
        f"model = path + '/speech_tokenizer_v1.onnx'\n{OWN.format('model')}"
        + OTHER.format("os.path.join(os.path.dirname(model), 'campplus.onnx')"),
        f"model = path + '/speech_tokenizer_v1.onnx'\n{OWN.format('model').replace('= 1', f'= {CALL}(None)')}"
        + OTHER.format("os.path.join(os.path.dirname(model), 'campplus.onnx')"),
    ),
    "another model's path made of ours, by its name": (
        f"model = path + '/speech_tokenizer_v1.onnx'\n{OWN.format('model')}"
        + OTHER.format("str(pathlib.Path(model).with_name('campplus.onnx'))"),
        f"model = path + '/speech_tokenizer_v1.onnx'\n{OWN.format('model').replace('= 1', f'= {CALL}(None)')}"
        + OTHER.format("str(pathlib.Path(model).with_name('campplus.onnx'))"),
    ),
    "another model's path made of ours, by its text": (
        f"model = path + '/speech_tokenizer_v1.onnx'\n{OWN.format('model')}"
        + OTHER.format("model.replace('speech_tokenizer_v1', 'campplus')"),
        f"model = path + '/speech_tokenizer_v1.onnx'\n{OWN.format('model').replace('= 1', f'= {CALL}(None)')}"
        + OTHER.format("model.replace('speech_tokenizer_v1', 'campplus')"),
    ),
    "our path made of another's": (
        "model = path + '/campplus.onnx'\n" + OWN.format("pathlib.Path(model).parent / 'speech_tokenizer_v1.onnx'"),
        "model = path + '/campplus.onnx'\n"
        + OWN.format("pathlib.Path(model).parent / 'speech_tokenizer_v1.onnx'").replace("= 1", f"= {CALL}(None)"),
    ),
    "paths in a dictionary": (
        "paths = {'spk': path + '/campplus.onnx', 'tok': '%s/speech_tokenizer_v1.onnx' % path}\n"
        + OWN.format("paths['tok']"),
        "paths = {'spk': path + '/campplus.onnx', 'tok': '%s/speech_tokenizer_v1.onnx' % path}\n"
        + OWN.format("paths['tok']").replace("= 1", f"= {CALL}(None)"),
    ),
    "an unspecific file name, the only session": (
        OWN.format("path + '/model_quant.onnx'"),
        OWN.format("path + '/model_quant.onnx'").replace("= 1", f"= {CALL}(None)"),
    ),
    "parallel execution": (
        INIT.replace("= 1\n", "= 1\nsession_option.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL\n"),
        INIT.replace(
            "= 1\n", f"= {CALL}(providers)\nsession_option.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL\n"
        ),
    ),
    "parallel execution on the same line": (
        INIT.replace("= 1\n", "= 1; session_option.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL\n"),
        INIT.replace(
            "= 1\n", f"= {CALL}(providers); session_option.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL\n"
        ),
    ),
}


@pytest.mark.parametrize("case", LANDS)
def test_lands_in_init(case: str) -> None:
    before, after = LANDS[case]
    lands(NAME, module(before), with_helper(module(after)))


SESSION = 'onnxruntime.InferenceSession(path + "/speech_tokenizer_v1.onnx", so, providers=["CPUExecutionProvider"])'
CPU = "['CPUExecutionProvider']"

# The session or its options made elsewhere: before, then the changes, then what stands below the helper.
ELSEWHERE = {
    "another method": (
        module("self.ort_session = self._load(path)", methods=f"""
        def _load(self, path):
            so = onnxruntime.SessionOptions()
            so.intra_op_num_threads = 1
            return {SESSION}
        """),
        [("so.intra_op_num_threads = 1", f"so.intra_op_num_threads = {CALL}({CPU})")],
        "class StepAudioTokenizer",
    ),
    "a lazy property": (
        module("self.path = path; self._session = None", run="return self.session.run(None, feats)", methods="""
        @property
        def session(self):
            if self._session is None:
                so = onnxruntime.SessionOptions()
                self._session = onnxruntime.InferenceSession(self.path, sess_options=so)
            return self._session
        """),
        [("            self._session = onnx", f"            so.intra_op_num_threads = {CALL}(None)\n            self._session = onnx")],
        "class StepAudioTokenizer",
    ),
    "a lazy loader in the method that runs it": (
        module("self.path = path; self._session = None", run="""
        if self._session is None:
            so = onnxruntime.SessionOptions()
            so.intra_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(self.path, sess_options=so)
        return self._session.run(None, feats)
        """),
        [("threads = 1", f"threads = {CALL}(None)")],
        "class StepAudioTokenizer",
    ),
    "a function of the module": (
        module("self.ort_session = load_session(path)", functions=f"""
        def load_session(path):
            so = onnxruntime.SessionOptions()
            so.intra_op_num_threads = 1
            return {SESSION}
        """),
        [("so.intra_op_num_threads = 1", f"so.intra_op_num_threads = {CALL}({CPU})")],
        "def load_session",
    ),
    "a function that gets the model's name": (
        module('self.ort_session = load_session(path, "speech_tokenizer_v1.onnx")', functions="""
        def load_session(path, name, providers=None):
            so = onnxruntime.SessionOptions()
            so.intra_op_num_threads = 1
            return onnxruntime.InferenceSession(os.path.join(path, name), so, providers=providers)
        """),
        [("threads = 1", f"threads = {CALL}(providers)")],
        "def load_session",
    ),
    "a function that gets the options, which another session has of its own": (
        module("""
        mine = onnxruntime.SessionOptions()
        mine.intra_op_num_threads = 1
        other = onnxruntime.SessionOptions()
        other.intra_op_num_threads = 2
        self.ort_session = load_session(path + "/speech_tokenizer_v1.onnx", mine, ["CPUExecutionProvider"])
        self.campplus = load_session(path + "/campplus.onnx", other, ["CPUExecutionProvider"])
        """, functions="""
        def load_session(path, options, providers):
            return onnxruntime.InferenceSession(path, options, providers)
        """),
        [("mine.intra_op_num_threads = 1", f"mine.intra_op_num_threads = {CALL}({CPU})")],
        "class StepAudioTokenizer",
    ),
    "a function that gets the options, another one's variable has the name": (
        module(
            """
        mine = onnxruntime.SessionOptions()
        mine.intra_op_num_threads = 1
        self.ort_session = load_session(path + "/speech_tokenizer_v1.onnx", mine)
        """,
            functions="""
        def load_session(path, options):
            return onnxruntime.InferenceSession(path, options)


        def another():
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 2
            return tuned(options)
        """,
        ),
        [("mine.intra_op_num_threads = 1", f"mine.intra_op_num_threads = {CALL}(None)")],
        "class StepAudioTokenizer",
    ),
    "options from a function": (
        module(f"so = session_options()\nself.ort_session = {SESSION}", functions="""
        def session_options():
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            return options
        """),
        [("threads = 1", f"threads = {CALL}({CPU})")],
        "def session_options",
    ),
    "options from a function, not set yet": (
        module(f"so = session_options()\nself.ort_session = {SESSION}", functions="""
        def session_options():
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            return options
        """),
        [("        self.ort_session = ", f"        so.intra_op_num_threads = {CALL}({CPU})\n        self.ort_session = ")],
        "def session_options",
    ),
    "options from a function, set by who asked": (
        module(f"so = session_options()\nso.intra_op_num_threads = 1\nself.ort_session = {SESSION}", functions="""
        def session_options():
            options = onnxruntime.SessionOptions()
            return options
        """),
        [("threads = 1", f"threads = {CALL}({CPU})")],
        "def session_options",
    ),
    "options from a method, in the call": (
        module('self.ort_session = onnxruntime.InferenceSession("speech_tokenizer_v1.onnx", self._options())', methods="""
        @staticmethod
        def _options():
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            return options
        """),
        [("threads = 1", f"threads = {CALL}(None)")],
        "class StepAudioTokenizer",
    ),
    "options from a property": (
        module('self.ort_session = onnxruntime.InferenceSession("speech_tokenizer_v1.onnx", self.options)', methods="""
        @property
        def options(self):
            options = onnxruntime.SessionOptions()
            return options
        """),
        [("        return options", f"        options.intra_op_num_threads = {CALL}(None)\n        return options")],
        "class StepAudioTokenizer",
    ),
    "options kept by another method": (
        module('self._prepare()\nself.ort_session = onnxruntime.InferenceSession("speech_tokenizer_v1.onnx", self.so)', methods="""
        def _prepare(self):
            self.so = onnxruntime.SessionOptions()
            self.so.intra_op_num_threads = 1
        """),
        [("threads = 1", f"threads = {CALL}(None)")],
        "class StepAudioTokenizer",
    ),
    "options kept by another method, not set yet": (
        module('self._prepare()\nself.ort_session = onnxruntime.InferenceSession("speech_tokenizer_v1.onnx", self.so)', methods="""
        def _prepare(self):
            self.so = onnxruntime.SessionOptions()
            self.so.log_severity_level = 3
        """),
        [("        self.so.log", f"        self.so.intra_op_num_threads = {CALL}(None)\n        self.so.log")],
        "class StepAudioTokenizer",
    ),
    "options of another class have the same name": (
        module(
            'self.so = onnxruntime.SessionOptions()\nself.so.intra_op_num_threads = 1\n'
            'self.ort_session = onnxruntime.InferenceSession("speech_tokenizer_v1.onnx", self.so)',
            tail="""
            class Speaker:
                def __init__(self):
                    self.so = onnxruntime.SessionOptions()
                    self.so.intra_op_num_threads = 2
                    self.session = onnxruntime.InferenceSession("campplus.onnx", self.so)
            """,
        ),
        [("threads = 1", f"threads = {CALL}(None)")],
        "class StepAudioTokenizer",
    ),
    "options of the module": (
        module(f"self.ort_session = {SESSION}", functions="""
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 1
        """),
        [("threads = 1", f"threads = {CALL}(None)")],
        "so = onnx",
    ),
    "options of the class": (
        module("self.ort_session = onnxruntime.InferenceSession('speech_tokenizer_v1.onnx', self.SO)").replace(
            "Tokenizer:\n", "Tokenizer:\n    SO = onnxruntime.SessionOptions()\n    SO.intra_op_num_threads = 1\n\n"
        ),
        [("threads = 1", f"threads = {CALL}(None)")],
        "class StepAudioTokenizer",
    ),
    "session of the class": (
        module("pass").replace(
            "Tokenizer:\n",
            "Tokenizer:\n    so = onnxruntime.SessionOptions()\n    so.intra_op_num_threads = 1\n"
            "    ort_session = onnxruntime.InferenceSession('speech_tokenizer_v1.onnx', so)\n\n",
        ),
        [("threads = 1", f"threads = {CALL}(None)")],
        "class StepAudioTokenizer",
    ),
    "session handed in": (
        module(
            "self.ort_session = session", parameters="self, session, funasr_model",
            functions=f"""
            def load(path):
                so = onnxruntime.SessionOptions()
                so.intra_op_num_threads = 1
                session = {SESSION}
                return path, session
            """,
        ),
        [("threads = 1", f"threads = {CALL}({CPU})")],
        "def load",
    ),
    "session kept by the class": (
        module("self.load(path)", methods="""
        @classmethod
        def load(cls, path):
            so = onnxruntime.SessionOptions()
            so.intra_op_num_threads = 1
            cls.ort_session = onnxruntime.InferenceSession(path, so)
        """),
        [("threads = 1", f"threads = {CALL}(None)")],
        "class StepAudioTokenizer",
    ),
    "sessions in a dictionary": (
        module(
            'so = onnxruntime.SessionOptions()\nself.models = {}\n'
            'self.models["vq06"] = onnxruntime.InferenceSession(path, so)',
            run='return self.models["vq06"].run(None, feats)',
        ),
        [("        self.models[", f"        so.intra_op_num_threads = {CALL}(None)\n        self.models[")],
        "class StepAudioTokenizer",
    ),
    "a nested function": (
        module(f"""
        def load():
            so = onnxruntime.SessionOptions()
            so.intra_op_num_threads = 1
            return {SESSION}
        self.ort_session = load()
        """),
        [("threads = 1", f"threads = {CALL}({CPU})")],
        "class StepAudioTokenizer",
    ),
    "options outside a nested function": (
        module(f"""
        so = onnxruntime.SessionOptions()
        def load():
            return {SESSION}
        self.ort_session = load()
        """),
        [("SessionOptions()\n", f"SessionOptions()\n        so.intra_op_num_threads = {CALL}(None)\n")],
        "class StepAudioTokenizer",
    ),
    "a lambda": (
        module(f"""
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 1
        load = lambda: {SESSION}
        self.ort_session = load()
        """),
        [("threads = 1", f"threads = {CALL}({CPU})")],
        "class StepAudioTokenizer",
    ),
    "a base class": (
        module("pass").replace("class StepAudioTokenizer:", f"""class Base:
    def load(self, path):
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 1
        self.ort_session = {SESSION}


class StepAudioTokenizer(Base):"""),
        [("threads = 1", f"threads = {CALL}({CPU})")],
        "class Base",
    ),
    "a class in an if": (
        "import onnxruntime, whisper\n\nif True:\n" + block(module(imports="import onnxruntime"), 4) + "\n",
        [("threads = 1", f"threads = {CALL}(providers)")],
        "if True",
    ),
    "a class in a function": (
        "def build():\n" + block(module(), 4) + "\n    return StepAudioTokenizer\n",
        [("threads = 1", f"threads = {CALL}(providers)")],
        "def build",
    ),
    "a dataclass": (
        replaced(
            module(),
            ("class Step", "@dataclasses.dataclass\nclass Step"),
            (
                "    def __init__(self, path, funasr_model):\n        self.funasr_model = funasr_model",
                "    path: str\n\n    def __post_init__(self):\n        path = self.path",
            ),
        ),
        [("threads = 1", f"threads = {CALL}(providers)")],
        "@dataclasses",
    ),
    "keyword-only parameters and a decorator": (
        replaced(module(), ("    def __init__(self, path,", "    @timed('load')\n    def __init__(self, *, path: str,")),
        [("threads = 1", f"threads = {CALL}(providers)")],
        "class StepAudioTokenizer",
    ),
    "an async loader": (
        module("self.path = path", methods=f"""
        async def load(self, path):
            so = onnxruntime.SessionOptions()
            so.intra_op_num_threads = 1
            self.ort_session = {SESSION}
        """),
        [("threads = 1", f"threads = {CALL}({CPU})")],
        "class StepAudioTokenizer",
    ),
    "module by another name": (
        module(INIT.replace("onnxruntime.", "ort."), imports="import onnxruntime as ort"),
        [("threads = 1", f"threads = {CALL}(providers)")],
        "class StepAudioTokenizer",
    ),
    "names imported": (
        module(INIT.replace("onnxruntime.", ""), imports="from onnxruntime import InferenceSession, SessionOptions"),
        [("threads = 1", f"threads = {CALL}(providers)")],
        "class StepAudioTokenizer",
    ),
    "names imported under others": (
        module(
            INIT.replace("onnxruntime.SessionOptions", "Opts").replace("onnxruntime.InferenceSession", "Session"),
            imports="from onnxruntime import InferenceSession as Session\nfrom onnxruntime import SessionOptions as Opts",
        ),
        [("threads = 1", f"threads = {CALL}(providers)")],
        "class StepAudioTokenizer",
    ),
    "a class by another name": (
        module(
            INIT.replace("onnxruntime.InferenceSession", "Session").replace("onnxruntime.SessionOptions", "Opts"),
            imports="import onnxruntime\nSession = onnxruntime.InferenceSession\nOpts = onnxruntime.SessionOptions",
        ),
        [("threads = 1", f"threads = {CALL}(providers)")],
        "class StepAudioTokenizer",
    ),
    "a number of the module": (
        module(INIT.replace("= 1", "= THREADS"), functions="THREADS = 1"),
        [("threads = THREADS", f"threads = {CALL}(providers)")],
        "class StepAudioTokenizer",
    ),
    "a number of the class": (
        replaced(module(INIT.replace("= 1", "= self.THREADS")), ("Tokenizer:\n", "Tokenizer:\n    THREADS = 1\n\n")),
        [("threads = self.THREADS", f"threads = {CALL}(providers)")],
        "class StepAudioTokenizer",
    ),
    "options set by a method that gets them": (
        module(f"so = onnxruntime.SessionOptions()\nself._configure(so)\nself.ort_session = {SESSION}", methods="""
        @staticmethod
        def _configure(options):
            options.log_severity_level = 3
            options.intra_op_num_threads = 1
        """),
        [("threads = 1", f"threads = {CALL}({CPU})")],
        "class StepAudioTokenizer",
    ),
    "options handed to a method that sets something else, for another session too": (
        module(
            f"so = onnxruntime.SessionOptions()\nself._configure(so)\nself.ort_session = {SESSION}\n"
            "other = onnxruntime.SessionOptions()\nself._configure(other)\n"
            "self.other = onnxruntime.InferenceSession('campplus.onnx', other)",
            methods="def _configure(self, options):\n    options.log_severity_level = 3",
        ),
        [("        self.ort_session = ", f"        so.intra_op_num_threads = {CALL}({CPU})\n        self.ort_session = ")],
        "class StepAudioTokenizer",
    ),
    "a class of its own that runs it": (
        module("self.vq06 = Model(path + '/speech_tokenizer_v1.onnx')", run="return self.vq06(feats)", functions="""
        class Model:
            def __init__(self, path):
                so = onnxruntime.SessionOptions()
                so.intra_op_num_threads = 1
                self.session = onnxruntime.InferenceSession(path, so)

            def __call__(self, feats):
                return self.session.run(None, feats)
        """),
        [("threads = 1", f"threads = {CALL}(None)")],
        "class Model",
    ),
    "a class of its own for the other kind of tokens": (
        replaced(
            module("self.semantic = Semantic(path + '/speech_tokenizer_v1.onnx')"),
            ("    def get_vq06_code", "    def wav2token(self, audio):\n        return self.semantic.get_vq06_code(audio)\n\n\n"
             "class Semantic:\n    def __init__(self, path):\n        so = onnxruntime.SessionOptions()\n"
             "        so.intra_op_num_threads = 1\n"
             "        self.ort_session = onnxruntime.InferenceSession(path, so)\n\n    def get_vq06_code"),
        ),
        [("threads = 1", f"threads = {CALL}(None)")],
        "class Semantic",
    ),
    "session of the module": (
        module("pass", run="return SESSION.run(None, feats)", functions="""
        so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 1
        SESSION = onnxruntime.InferenceSession(os.environ["MODEL"], so)
        """),
        [("threads = 1", f"threads = {CALL}(None)")],
        "so = onnx",
    ),
    "session of a function's, by the model's name": (
        module("self.ort_session = first()", functions=f"""
        def second(path="models"):
            so = onnxruntime.SessionOptions()
            so.intra_op_num_threads = 1
            return [{SESSION}]


        def first():
            return second()[0]
        """),
        [("threads = 1", f"threads = {CALL}({CPU})")],
        "def second",
    ),
    "imported in the method": (
        module("import onnxruntime as rt\n" + INIT.replace("onnxruntime.", "rt."), imports="import json"),
        [("threads = 1", f"threads = {CALL}(providers)")],
        "class StepAudioTokenizer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ELSEWHERE)
def test_lands_elsewhere(case: str) -> None:
    before, changes, anchor = ELSEWHERE[case]
    lands(NAME, before, with_helper(replaced(before, *changes), anchor))


# __init__, the error, and what the message names: the line with this text.
REFUSES = {
    "no room after a condition": (
        "if path: so = onnxruntime.SessionOptions()\n"
        "if path: self.ort_session = onnxruntime.InferenceSession('speech_tokenizer_v1.onnx', so)",
        Ambiguous,
        "there is other code on the line",
        "SessionOptions()",
    ),
    "no session": ("self.ort_session = None", NoSite, "no onnxruntime.InferenceSession for the speech tokenizer", None),
    "only another model's session": (
        "so = onnxruntime.SessionOptions()\nself.vad = onnxruntime.InferenceSession(path + '/silero_vad.onnx', so)",
        NoSite,
        "not shown to be its own",
        None,
    ),
    "session without options": (
        "self.ort_session = onnxruntime.InferenceSession(path + '/speech_tokenizer_v1.onnx', providers=None)",
        NoSite,
        "built without SessionOptions",
        "InferenceSession",
    ),
    "options are None": (
        "self.ort_session = onnxruntime.InferenceSession(path + '/speech_tokenizer_v1.onnx', None)",
        NoSite,
        "built without SessionOptions",
        "InferenceSession",
    ),
    "arguments in a container": (
        "kwargs = dict(sess_options=onnxruntime.SessionOptions())\n"
        "self.ort_session = onnxruntime.InferenceSession(path + '/speech_tokenizer_v1.onnx', **kwargs)",
        NoSite,
        "handed over in a container",
        "**kwargs",
    ),
    "options made in the call": (
        "self.ort_session = onnxruntime.InferenceSession(path + '/speech_tokenizer_v1.onnx', onnxruntime.SessionOptions())",
        NoSite,
        "out of reach",
        "InferenceSession",
    ),
    "options made in the call, by a walrus": (
        "self.ort_session = onnxruntime.InferenceSession('speech_tokenizer_v1.onnx', (so := onnxruntime.SessionOptions()))",
        NoSite,
        "out of reach",
        "InferenceSession",
    ),
    "options from another file": (
        "so = make_options()\nself.ort_session = onnxruntime.InferenceSession(path + '/speech_tokenizer_v1.onnx', so)",
        NoSite,
        "where make_options() is made",
        "make_options",
    ),
    "options from a loop": (
        "for so in path:\n    self.ort_session = onnxruntime.InferenceSession('speech_tokenizer_v1.onnx', so)",
        NoSite,
        "where so is made",
        "InferenceSession",
    ),
    "options by a condition": (
        "if path:\n    so = onnxruntime.SessionOptions()\nelse:\n    so = onnxruntime.SessionOptions()\n"
        "self.ort_session = onnxruntime.InferenceSession('speech_tokenizer_v1.onnx', so)",
        Ambiguous,
        "so may come from several places: lines",
        None,
    ),
    "set in a loop over names": (
        "so = onnxruntime.SessionOptions()\nfor key, value in OPTIONS.items():\n    setattr(so, key, value)\n"
        "self.ort_session = onnxruntime.InferenceSession('speech_tokenizer_v1.onnx', so)",
        Conflict,
        "sets options by their names",
        "setattr",
    ),
    "set by its name": (
        INIT.replace("session_option.intra_op_num_threads = 1", 'setattr(session_option, "intra_op_num_threads", 1)'),
        Conflict,
        "sets options by their names",
        "setattr",
    ),
    "set twice": (
        INIT.replace("= 1\n", "= 1\nsession_option.intra_op_num_threads = 2\n"),
        Ambiguous,
        "intra_op_num_threads is set in 2 places: lines",
        None,
    ),
    "set in a loop": (
        INIT.replace("session_option.intra", "for _ in path:\n    session_option.intra"),
        Ambiguous,
        "under a condition only",
        "threads = 1",
    ),
    "set in an except": (
        INIT.replace("session_option.intra", "try:\n    pass\nexcept Exception:\n    session_option.intra"),
        Ambiguous,
        "under a condition only",
        "threads = 1",
    ),
    "set together with something else": (
        INIT.replace("= 1\n", "= self.threads[0] = 1\n"),
        Ambiguous,
        "together with something else",
        "= 1",
    ),
    "set for two sessions at once": (
        INIT.replace(
            "session_option.intra_op_num_threads = 1\n",
            "other = onnxruntime.SessionOptions()\n"
            "other.intra_op_num_threads = session_option.intra_op_num_threads = 1\n",
        ),
        Ambiguous,
        "together with something else",
        "= 1",
    ),
    "set in a tuple": (
        INIT.replace("session_option.intra_op_num_threads = 1", "session_option.intra_op_num_threads, x = 1, 2"),
        Ambiguous,
        "together with something else",
        "= 1, 2",
    ),
    "added to": (
        INIT.replace("= 1\n", "+= 1\n"),
        Ambiguous,
        "together with something else",
        "+= 1",
    ),
    "handed to other code": (
        INIT.replace("self.ort", "tune(session_option)\nself.ort", 1),
        Ambiguous,
        "tune() gets the options too",
        "tune(",
    ),
    "handed to other code by name": (
        INIT.replace("self.ort", "self.tuner.tune(options=session_option)\nself.ort", 1),
        Ambiguous,
        "self.tuner.tune() gets the options too",
        "tune(",
    ),
    "kept in something else here": (
        INIT.replace("self.ort", "self.every = [session_option]\nself.ort", 1),
        Ambiguous,
        "kept in something else here",
        "self.every",
    ),
    "shared with another model": (
        INIT + 'self.campplus = onnxruntime.InferenceSession(path + "/campplus.onnx", sess_options=session_option)\n',
        Ambiguous,
        "are for another session too (line",
        "SessionOptions()",
    ),
    "one session for several models": (
        "so = onnxruntime.SessionOptions()\nmodel = 'speech_tokenizer_v1.onnx' if path else 'campplus.onnx'\n"
        "self.ort_session = onnxruntime.InferenceSession(model, so)",
        Ambiguous,
        "builds sessions for several models",
        "InferenceSession",
    ),
    "two sessions with different options": (
        "a = onnxruntime.SessionOptions()\nb = onnxruntime.SessionOptions()\n"
        "if path:\n    self.ort_session = onnxruntime.InferenceSession('speech_tokenizer_v1.onnx', a)\n"
        "else:\n    self.ort_session = onnxruntime.InferenceSession('speech_tokenizer_v1.onnx', b)",
        Ambiguous,
        "options from several lines: 9, 10",
        None,
    ),
}


@pytest.mark.parametrize("case", REFUSES)
def test_refuses_in_init(case: str) -> None:
    init, error, words, line = REFUSES[case]
    text = module(init)
    refuses(NAME, text, error, words, *([line_of(text, line)] if line else []))


class TestRefusesElsewhere:
    @pytest.mark.parametrize("path", ["path", "path + '/model.onnx'"])
    @pytest.mark.parametrize("name", ["vad", "spk_session", "speaker", "campplus", "f0", "punc", "flow"])
    def test_another_model_run_on_the_same_audio(self, name: str, path: str) -> None:
        run = f"self.{name}.run(None, audio)\nreturn self.engine(feats)"
        text = module(OWN.format(path).replace("ort_session", name), run=run)
        refuses(NAME, text, NoSite, "not shown to be its own")
        text = module(OWN.format(path.replace("path", name)), run=RUN, parameters=f"self, {name}, funasr_model")
        refuses(NAME, text, NoSite, "not shown to be its own")

    def test_a_session_from_elsewhere_run_beside_it(self) -> None:
        init = OWN.format("path").replace("ort_session", "gate") + "self.ort_session = other.load(path)"
        text = module(init, run="self.gate.run(None, audio)\n" + RUN)
        refuses(NAME, text, NoSite, "not shown to be its own")

    def test_a_session_run_by_who_makes_no_log_mel_frames(self) -> None:
        init = OWN.format("path").replace("ort_session", "gate") + "self.ort_session = other.load(path)"
        methods = "def wav2token(self, audio):\n    self.gate.run(None, audio)\n    return self.get_vq06_code(audio)"
        refuses(NAME, module(init, methods=methods), NoSite, "not shown to be its own")

    def test_an_unspecific_file_name_beside_another_session(self) -> None:
        text = module(OWN.format("path + '/model.onnx'") + OTHER.format("path + '/campplus.onnx'"))
        refuses(NAME, text, NoSite, "not shown to be its own")

    @pytest.mark.parametrize(
        "path",
        [
            "model.replace('speech_tokenizer_v1', 'campplus')",
            "re.sub('speech.*', 'campplus.onnx', model)",
            "pathlib.Path(model).with_name('campplus.onnx')",
            "pathlib.Path(model).with_stem(name)",
            "pathlib.Path(model).parent / 'campplus.onnx'",
            "os.path.join(os.path.dirname(model), name)",
        ],
    )
    def test_another_model_beside_a_session_from_elsewhere(self, path: str) -> None:
        model = "model = path + '/speech_tokenizer_v1.onnx'\nself.ort_session = other.load(model)\n"
        text = module(model + OTHER.format(path), methods="def more(self):\n    return self.other.run(None, {})")
        refuses(NAME, text, NoSite, "not shown to be its own")

    @pytest.mark.parametrize(
        "beside",
        [
            f"def export(path):\n    so = onnxruntime.SessionOptions()\n    return {SESSION}",
            f"def other(path):\n    so = onnxruntime.SessionOptions()\n    return {SESSION}\n\n\nKEPT = other('models')",
            "class Exporter:\n    def __init__(self, path):\n        so = onnxruntime.SessionOptions()\n"
            f"        self.ort_session = {SESSION}",
            "class Exporter:\n    def __init__(self, path):\n        self.ort_session = load(path)\n\n\n"
            f"def load(path):\n    so = onnxruntime.SessionOptions()\n    return {SESSION}",
        ],
    )
    def test_a_session_that_the_tokenizer_has_nothing_to_do_with(self, beside: str) -> None:
        text = module("self.ort_session = utils.load(path)", tail=beside)
        refuses(NAME, text, NoSite, "not shown to be its own")

    def test_another_class_s_session_though_the_tokenizer_builds_it(self) -> None:
        text = module("self.front = FrontEnd(path + '/speech_tokenizer_v1.onnx')\nself.ort_session = utils.load(path)", tail="""
        class FrontEnd:
            def __init__(self, path):
                so = onnxruntime.SessionOptions()
                self.session = onnxruntime.InferenceSession(path, so)

            def extract(self, feats):
                return self.session.run(None, feats)
        """)  # fmt: skip
        refuses(NAME, text, NoSite, "not shown to be its own")

    @pytest.mark.parametrize(
        ("init", "method"),
        [
            ("if path: self._configure(so)", "options.intra_op_num_threads = 1"),
            ("self._configure(so)", "options = onnxruntime.SessionOptions()\n    options.intra_op_num_threads = 1"),
            ("self._configure(*[so])", "options.intra_op_num_threads = 1"),
            ("self._configure(so)", "self.every = [options]"),
        ],
    )
    def test_options_handed_to_a_method_that_may_not_set_them(self, init: str, method: str) -> None:
        text = module(
            f"so = onnxruntime.SessionOptions()\n{init}\nself.ort_session = {SESSION}",
            methods=f"def _configure(self, options):\n    {method}",
        )
        refuses(NAME, text, Ambiguous)

    def test_options_set_by_a_method_for_another_session_too(self) -> None:
        text = module(
            f"so = onnxruntime.SessionOptions()\nself._configure(so)\nself.ort_session = {SESSION}\n"
            "other = onnxruntime.SessionOptions()\nself._configure(other)\n"
            "self.other = onnxruntime.InferenceSession('campplus.onnx', other)",
            methods="def _configure(self, options):\n    options.intra_op_num_threads = 1",
        )
        refuses(NAME, text, Ambiguous, "_configure() is called here for something else too", line_of(text, "(other)"))

    def test_builder_shared_with_another_model(self) -> None:
        text = module(
            'self.ort_session = load_session("speech_tokenizer_v1.onnx")\nself.campplus = load_session("campplus.onnx")',
            functions="""
            def load_session(path):
                so = onnxruntime.SessionOptions()
                so.intra_op_num_threads = 1
                return onnxruntime.InferenceSession(path, sess_options=so)
            """,
        )
        refuses(NAME, text, Ambiguous, "are for another session too", line_of(text, "SessionOptions()"))

    def test_options_function_shared_with_another_model(self) -> None:
        text = module(
            'self.ort_session = onnxruntime.InferenceSession("speech_tokenizer_v1.onnx", make())\n'
            'self.campplus = onnxruntime.InferenceSession("campplus.onnx", make())',
            functions="""
            def make():
                so = onnxruntime.SessionOptions()
                return so
            """,
        )
        refuses(NAME, text, Ambiguous, "are for another session too", line_of(text, "SessionOptions()"))

    def test_options_function_called_for_who_knows_what(self) -> None:
        text = module(
            'self.ort_session = onnxruntime.InferenceSession("speech_tokenizer_v1.onnx", make())\nself.vad = Vad(make())',
            functions="""
            def make():
                so = onnxruntime.SessionOptions()
                return so
            """,
        )
        refuses(NAME, text, Ambiguous, "make() is called here for something else too", line_of(text, "Vad("))

    def test_builder_that_sets_what_it_gets_for_another_model_too(self) -> None:
        text = module(
            """
            mine = onnxruntime.SessionOptions()
            other = onnxruntime.SessionOptions()
            self.ort_session = load_session("speech_tokenizer_v1.onnx", mine)
            self.campplus = load_session("campplus.onnx", other)
            """,
            functions="""
            def load_session(path, options):
                options.intra_op_num_threads = 1
                return onnxruntime.InferenceSession(path, options)
            """,
        )
        refuses(
            NAME, text, Ambiguous, "load_session() is called here for something else too", line_of(text, "campplus")
        )

    @pytest.mark.parametrize("indent", [0, 4])
    def test_options_set_in_a_function_that_nobody_calls(self, indent: int) -> None:
        text = module(
            "self.so = onnxruntime.SessionOptions()\n"
            "self.ort_session = onnxruntime.InferenceSession('speech_tokenizer_v1.onnx', self.so)",
            methods="def later(self):\n    self.so.intra_op_num_threads = 1",
        )
        if indent:
            text = module(INIT.replace("session_option.intra", "def later():\n    session_option.intra"))
        refuses(NAME, text, Ambiguous, line_of(text, "threads = 1"), "under a condition only")

    def test_a_method_defined_twice(self) -> None:
        text = module(
            "self.load(path)", methods=f"def load(self, path):\n{block(INIT, 4)}\n\ndef load(self, path):\n    pass"
        )
        refuses(NAME, text, Ambiguous, "load is defined 2 times", lines_of(text, "def load("))

    def test_a_benchmark_s_own_session(self) -> None:
        text = module(
            "self.ort_session = None",
            tail="""
        def benchmark():
            so = onnxruntime.SessionOptions()
            session = onnxruntime.InferenceSession("speech_tokenizer_v1.onnx", so)
            for _ in range(10):
                session.run(None, {})
        """,
        )
        refuses(NAME, text, NoSite, "no onnxruntime.InferenceSession for the speech tokenizer")

    @pytest.mark.parametrize("owner", ["self", "StepAudioTokenizer", "type(self)"])
    def test_options_of_the_class_set_again(self, owner: str) -> None:
        text = module(
            f"{owner}.SO.intra_op_num_threads = 2\n"
            "self.ort_session = onnxruntime.InferenceSession('speech_tokenizer_v1.onnx', self.SO)"
        ).replace(
            "Tokenizer:\n", "Tokenizer:\n    SO = onnxruntime.SessionOptions()\n    SO.intra_op_num_threads = 1\n\n"
        )
        refuses(
            NAME, text, Ambiguous, "intra_op_num_threads is set in 2 places", lines_of(text, ".intra_op_num_threads =")
        )

    def test_options_set_in_two_methods(self) -> None:
        text = module(
            "self._prepare()\nself.so.intra_op_num_threads = 2\n"
            'self.ort_session = onnxruntime.InferenceSession("speech_tokenizer_v1.onnx", self.so)',
            methods="""
            def _prepare(self):
                self.so = onnxruntime.SessionOptions()
                self.so.intra_op_num_threads = 1
            """,
        )
        refuses(
            NAME, text, Ambiguous, "intra_op_num_threads is set in 2 places", lines_of(text, ".intra_op_num_threads =")
        )

    def test_a_subclass_that_sets_them_again(self) -> None:
        text = module(
            "self.so = onnxruntime.SessionOptions()\nself.so.intra_op_num_threads = 1\n"
            'self.ort_session = onnxruntime.InferenceSession("speech_tokenizer_v1.onnx", self.so)',
            tail="""
            class Faster(StepAudioTokenizer):
                def again(self):
                    self.so.intra_op_num_threads = 8
            """,
        )
        refuses(
            NAME, text, Ambiguous, "intra_op_num_threads is set in 2 places", lines_of(text, ".intra_op_num_threads =")
        )

    def test_two_tokenizers(self) -> None:
        text = module() + "\n\n" + module().replace("StepAudioTokenizer", "OtherTokenizer")
        lines = [numbers_of(text, "class " + name)[0] for name in ("Step", "Other")]
        words = "2 classes could be the tokenizer: StepAudioTokenizer (line {}), OtherTokenizer (line {})"
        refuses(NAME, text, Ambiguous, words.format(*lines))


class TestParameters:
    def test_the_note_s_values_are_exactly_three_settings(self) -> None:
        after = replaced(
            module(),
            (
                "        session_option.intra_op_num_threads = 1\n",
                "        session_option.intra_op_num_threads = 4\n"
                "        session_option.inter_op_num_threads = 2\n"
                "        session_option.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL\n",
            ),
        )
        lands(NAME, module(), after, **NOTE)

    def test_the_note_s_values_where_nothing_was_set(self) -> None:
        before = replaced(module(), ("        session_option.intra_op_num_threads = 1\n", ""))
        after = replaced(
            before,
            (
                "        self.ort_session = ",
                "        session_option.intra_op_num_threads = 4\n"
                "        session_option.inter_op_num_threads = 2\n"
                "        session_option.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL\n"
                "        self.ort_session = ",
            ),
        )
        lands(NAME, before, after, **NOTE)

    def test_fixed_number_over_the_author_s_policy(self) -> None:
        before = replaced(module(), ("= 1\n", "= os.cpu_count()\n"))
        lands(NAME, before, replaced(module(), ("= 1\n", "= 4\n")), intra_op=4)

    def test_sequential_is_written_where_it_is_asked_for(self) -> None:
        after = replaced(
            module(),
            (
                "threads = 1\n",
                f"threads = {CALL}(providers)\n"
                "        session_option.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL\n",
            ),
        )
        lands(NAME, module(), with_helper(after), execution_mode="sequential")

    @pytest.mark.parametrize("mode", ["auto", "sequential"])
    def test_sequential_in_place_of_parallel_beside_a_policy(self, mode: str) -> None:
        before = replaced(
            module(),
            (
                "= 1\n",
                "= os.cpu_count()\n        session_option.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL\n",
            ),
        )
        lands(NAME, before, replaced(before, ("ORT_PARALLEL", "ORT_SEQUENTIAL")), execution_mode=mode)

    @pytest.mark.parametrize(
        ("imports", "added", "spelled"),
        [
            ("from onnxruntime import InferenceSession, SessionOptions", True, "ExecutionMode"),
            ("from onnxruntime import InferenceSession, SessionOptions, ExecutionMode", False, "ExecutionMode"),
        ],
    )
    def test_the_mode_s_name_is_imported_where_it_is_not(self, imports: str, added: bool, spelled: str) -> None:
        before = module(INIT.replace("onnxruntime.", ""), imports=imports)
        line = "        from onnxruntime import ExecutionMode\n" if added else ""
        lands(
            NAME,
            before,
            replaced(
                before,
                (
                    "threads = 1\n",
                    f"threads = 4\n{line}        session_option.execution_mode = {spelled}.ORT_PARALLEL\n",
                ),
            ),
            intra_op=4,
            execution_mode="parallel",
        )

    def test_the_mode_s_module_is_not_known_everywhere(self) -> None:
        before = module(
            "so = self._options()\nself.ort_session = InferenceSession('speech_tokenizer_v1.onnx', so)",
            imports="from onnxruntime import InferenceSession",
            methods="""
            def _options(self):
                import onnxruntime as rt

                so = rt.SessionOptions()
                return so
            """,
        )
        after = replaced(
            before,
            (
                "        self.ort_session",
                "        from onnxruntime import ExecutionMode\n        so.intra_op_num_threads = 4\n"
                "        so.execution_mode = ExecutionMode.ORT_PARALLEL\n        self.ort_session",
            ),
        )
        lands(NAME, before, after, intra_op=4, execution_mode="parallel")

    def test_values_beside_our_own_work(self) -> None:
        once = plan(NAME, module())
        after = replaced(
            once.after.decode(),
            (f"= {CALL}(providers)\n", f"= {CALL}(providers)\n        session_option.inter_op_num_threads = 2\n"),
        )
        lands(NAME, once.after.decode(), after, inter_op=2)


class TestFormats:
    def test_line_endings_of_windows(self) -> None:
        after = with_helper(replaced(module(), ("= 1\n", f"= {CALL}(providers)\n")))
        outcome = plan(NAME, module().replace("\n", "\r\n"))
        assert outcome.kind == PLANNED, outcome.message
        assert outcome.after.decode() == after.replace("\n", "\r\n")

    def test_line_endings_that_libcst_does_not_know(self) -> None:
        refuses(NAME, module().replace("\n", "\r"), Refused, "tokenizer.py:11", "LibCST")

    @pytest.mark.parametrize("unit", ["\t", "  ", "        "])
    def test_indentation(self, unit: str) -> None:
        def indented(text: str) -> str:
            return "\n".join(unit * ((len(s) - len(s.lstrip())) // 4) + s.lstrip() for s in text.split("\n"))

        before = module()
        after = replaced(before, ("= 1\n", f"= {CALL}(providers)\n"))
        lands(NAME, indented(before), above(indented(after), "class StepAudioTokenizer", indented(HELPER)))

    def test_no_end_of_line_at_the_end(self) -> None:
        before = module().rstrip("\n")
        lands(NAME, before, with_helper(replaced(before, ("= 1\n", f"= {CALL}(providers)\n"))))

    def test_nothing_between_import_and_class(self) -> None:
        before = module().replace("onnxruntime\n\nclass", "onnxruntime\nclass")
        after = replaced(module(), ("= 1\n", f"= {CALL}(providers)\n")).replace(
            "onnxruntime\n\nclass", f"onnxruntime\n\n\n{HELPER.strip()}\n\n\nclass"
        )
        lands(NAME, before, after)

    def test_a_comment_stays_with_the_class(self) -> None:
        before = module().replace("\nclass", "\n# The tokenizer.\nclass")
        after = replaced(before, ("= 1\n", f"= {CALL}(providers)\n"))
        lands(NAME, before, with_helper(after, "# The tokenizer."))

    def test_nothing_goes_above_the_file_s_own_comments(self) -> None:
        text = module()
        body = text[text.index("class Step") :]
        before = "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n" + replaced(
            body,
            ("self.funasr_model = funasr_model", "import os, whisper, onnxruntime; self.funasr_model = funasr_model"),
        )
        after = replaced(
            before, ("= 1\n", f"= {CALL}(providers)\n"), ("class Step", f"\n\n{HELPER.strip()}\n\n\nclass Step")
        )
        lands(NAME, before, after)

    def test_a_string_that_ends_where_the_next_statement_starts(self) -> None:
        before = module(
            f"self.ort_session = {SESSION}",
            functions='''
        """
        # class StepAudioTokenizer:
        """; so = onnxruntime.SessionOptions()
        so.intra_op_num_threads = 1
        ''',
        )
        after = replaced(before, ("threads = 1", f"threads = {CALL}(None)"))
        lands(NAME, before, with_helper(after, '"""\n# class'))
