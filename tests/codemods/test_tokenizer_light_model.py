"""``tokenizer_light_model``: the one string that chooses the FunASR model."""

from __future__ import annotations

import pytest
from cases import UNITS, UPSTREAM_MODEL, block, lands, line_of, lines_of, plan, reference, refuses, replaced, skips

from apply_opt.errors import Ambiguous, NoSite, Refused
from apply_opt.model.plan import ALREADY, PLANNED

NAME = "tokenizer_light_model"
OLD = UPSTREAM_MODEL
NEW = str(UNITS.optimizations[NAME].parameters[0].default)
OTHER = "iic/speech_paraformer-large_asr_nat-en-16k-common-vocab10020-online"


def module(init: str, parameters: str = "self, encoder_path", top: str = "", tail: str = "", cls: str = "") -> str:
    """A small tokenizer around the lines that a case is about."""
    parts = [
        f"import os\n\nfrom funasr_detach import AutoModel\n\n{block(top)}\n\nclass StepAudioTokenizer:",
        *([block(cls, 4) + "\n"] if cls else []),
        f"    def __init__({parameters}):",
        block(init, 8),
        "",
        "    def get_vq02_code(self, audio):",
        "        return self.funasr_model.infer_encoder(input=[audio], is_final=True)",
        "",
    ]
    return "\n".join(parts) + ("\n\n" + block(tail) + "\n" if tail else "")


LOAD = "self.funasr_model = AutoModel(model=funasr_model_id)"


def test_the_reference() -> None:
    lands(NAME, reference(), replaced(reference(), (OLD, NEW)))


class TestLeavesAlone:
    @pytest.mark.parametrize(
        "line",
        [
            f"# {OLD}",
            f'"""{OLD}"""',
            f'print("loading {OLD}")',
            f'print("{OLD}")',
            f'logger.info("model %s", "{OLD}")',
            f'assert encoder_path != "{OLD}"',
            f'if encoder_path == "{OLD}":\n    pass',
            f'raise ValueError("{OLD}")',
            f'text = f"{{encoder_path}}/{OLD}"',
            f'known = ["{OLD}", "{OTHER}"]',
            f'known = {{"{OLD}": 1}}',
            f'size = SIZES["{OLD}"]',
            f'download("{OLD}")',
            f'unused = "{OLD}"',
        ],
    )
    @pytest.mark.parametrize("default", [OLD, OTHER])
    def test_text_that_does_not_choose(self, line: str, default: str) -> None:
        before = module(f"{LOAD}\n{line}", f'self, encoder_path, funasr_model_id="{default}"')
        head, _, rest = before.partition(default)
        lands(NAME, before, head + NEW + rest)

    @pytest.mark.parametrize(
        "line", [f'print("{OLD}")', f'known = ["{OLD}"]', f'x = encoder_path == "{OLD}"', f'unused = "{OLD}"']
    )
    def test_only_text_that_does_not_choose(self, line: str) -> None:
        text = module(line)
        refuses(NAME, text, NoSite, line_of(text, OLD), "not as the one value that decides")

    @pytest.mark.parametrize(
        "line",
        [
            f'self.funasr_model = AutoModel(model=f"{{encoder_path}}/{OLD}")',
            f'self.funasr_model = AutoModel(model=encoder_path + "/{OLD}")',
            'self.funasr_model = AutoModel(model=os.path.join("dengcunqin", "speech_paraformer-large"))',
        ],
    )
    def test_only_a_part_of_a_text(self, line: str) -> None:
        text = module(line)
        refuses(NAME, text, NoSite, line_of(text, "AutoModel(model"), "names a FunASR model")

    def test_no_name_at_all(self) -> None:
        refuses(
            NAME,
            module("self.funasr_model = load(encoder_path)"),
            NoSite,
            "no string in the code names the FunASR model",
        )

    def test_no_tokenizer_at_all(self) -> None:
        refuses(NAME, "import os\n", NoSite, "no class calls infer_encoder()")

    def test_our_own_work(self) -> None:
        after = plan(NAME, reference()).after.decode()
        skips(NAME, after, ALREADY, line_of(after, NEW))

    @pytest.mark.parametrize("extra", [f'self.other = AutoModel(model="{OLD}")', f'x = load("{NEW}")\nuse(x)'])
    def test_two_models(self, extra: str) -> None:
        text = module(f"{LOAD}\n{extra}", f'self, encoder_path, funasr_model_id="{OLD}"')
        refuses(NAME, text, Ambiguous, "is named in 2 places", lines_of(text, "paraformer"))

    def test_a_model_of_the_family_for_something_else(self) -> None:
        line = f'self.recognizer = AutoModel(model="{OTHER}")'
        before = module(f"{LOAD}\n{line}", f'self, encoder_path, funasr_model_id="{OLD}"')
        lands(NAME, before, replaced(before, (OLD, NEW)))
        refuses(NAME, module(line), NoSite, "not as the one value that decides")

    def test_two_tokenizers_with_a_default(self) -> None:
        text = module(LOAD, 'self, encoder_path, funasr_model_id="mine"')
        refuses(NAME, text + "\n\n" + text.replace("Step", "Other"), Ambiguous, "2 classes could be the tokenizer")


LANDS = {
    "keyword-only": (LOAD, f'self, encoder_path, *, funasr_model_id: str = "{OLD}"'),
    "positional-only": (LOAD, f'self, encoder_path, funasr_model_id="{OLD}", /'),
    "renamed": ("self.funasr_model = AutoModel(model=name)", f'self, encoder_path, name="{OLD}"'),
    "single quotes": (LOAD, f"self, encoder_path, funasr_model_id='{OLD}'"),
    "triple quotes": (LOAD, f'self, encoder_path, funasr_model_id="""{OLD}"""'),
    "a variable": (f'funasr_model_id = "{OLD}"  # the online one\n{LOAD}', "self, encoder_path"),
    "annotated variable": (f'funasr_model_id: str = "{OLD}"\n{LOAD}', "self, encoder_path"),
    "joined to a path": (
        f'path = os.path.join(encoder_path, "{OLD}")\nself.funasr_model = AutoModel(path)',
        "self, encoder_path",
    ),
    "joined by a slash": (f'self.funasr_model = AutoModel(encoder_path / "{OLD}")', "self, encoder_path"),
    "in the call": (f'self.funasr_model = AutoModel(model="{OLD}", model_revision="main")', "self, encoder_path"),
    "after an or": (
        f'self.funasr_model = AutoModel(model=funasr_model_id or "{OLD}")',
        "self, encoder_path, funasr_model_id=None",
    ),
    "by a condition": (
        f'name = "{OLD}" if encoder_path else encoder_path\nself.funasr_model = AutoModel(name)',
        "self, encoder_path",
    ),
    "from the environment": (f'funasr_model_id = os.environ.get("FUNASR", "{OLD}")\n{LOAD}', "self, encoder_path"),
    "walrus": (f'self.funasr_model = AutoModel(model=(name := "{OLD}"))', "self, encoder_path"),
    "in a dictionary": (
        f'config = {{"model": "{OLD}"}}\nself.funasr_model = AutoModel(**config)',
        "self, encoder_path",
    ),
    "on an attribute": (f'self.name = "{OLD}"\nself.funasr_model = AutoModel(model=self.name)', "self, encoder_path"),
    "two statements on the line": (f'x = 1; funasr_model_id = "{OLD}"; y = 2\n{LOAD}', "self, encoder_path"),
    "text like it on the line": (f'funasr_model_id = "{OLD}"; print("a {OLD}")\n{LOAD}', "self, encoder_path"),
    "another release, by the model whose encoder is used": (
        f'self.funasr_model = AutoModel(model="{OTHER}")',
        "self, encoder_path",
    ),
    "another release, in a variable": (f'name = "{OTHER}"\nself.funasr_model = AutoModel(name)', "self, encoder_path"),
    "another release": (LOAD, f'self, encoder_path, funasr_model_id="{OTHER}"'),
}


@pytest.mark.parametrize("case", LANDS)
def test_lands(case: str) -> None:
    init, parameters = LANDS[case]
    before = module(init, parameters)
    old = OTHER if OTHER in before else OLD
    lands(NAME, before, before.replace(old, NEW, 1))


class TestElsewhere:
    def test_a_constant_of_the_module(self) -> None:
        before = module("self.funasr_model = AutoModel(model=MODEL)", top=f'MODEL = "{OLD}"\n\n')
        lands(NAME, before, replaced(before, (OLD, NEW)))

    def test_a_constant_of_the_class(self) -> None:
        before = module("self.funasr_model = AutoModel(model=self.MODEL)", cls=f"MODEL = '{OLD}'")
        lands(NAME, before, replaced(before, (OLD, NEW)))

    def test_a_field_that_another_file_reads(self) -> None:
        before = module(
            "self.funasr_model = load()", top=f'@dataclass\nclass Config:\n    funasr_model_id: str = "{OLD}"\n\n'
        )
        lands(NAME, before, replaced(before, (OLD, NEW)))

    def test_a_function_of_the_module(self) -> None:
        before = module(
            "self.funasr_model = load()", top=f'def load(name="{OLD}"):\n    return AutoModel(model=name)\n\n'
        )
        lands(NAME, before, replaced(before, (OLD, NEW)))

    def test_a_command_line_option(self) -> None:
        before = module(
            LOAD,
            "self, encoder_path, funasr_model_id",
            tail=f"""
        def main(parser):
            parser.add_argument("--model", default="{OLD}", help="such as {OLD}")
        """,
        )
        lands(NAME, before, before.replace(OLD, NEW, 1))

    def test_a_text_in_pieces(self) -> None:
        head, tail = OLD[:30], OLD[30:]
        before = module(
            LOAD, f'self, encoder_path, funasr_model_id=(\n        "{head}"  # the model\n        "{tail}"\n    )'
        )
        after = module(LOAD, f'self, encoder_path, funasr_model_id=(\n        "{NEW}"\n    )')
        lands(NAME, before, after)

    def test_any_default_of_the_parameter_by_its_name(self) -> None:
        init = f'if funasr_model_id == "mine/model":\n    pass\n{LOAD}'
        before = module(init, 'self, encoder_path, funasr_model_id="mine/model"')
        lands(NAME, before, before.replace("mine/model", NEW, 1))


class TestParameters:
    @pytest.mark.parametrize(
        ("model_id", "literal"),
        [
            ("iic/speech_paraformer-online", '"iic/speech_paraformer-online"'),
            ("a b/c", '"a b/c"'),
            ("模型/在线", '"模型/在线"'),
            ("it's", '"it\'s"'),
            ('the "one"', "'the \"one\"'"),
            ("back\\slash\\new", r"'back\\slash\\new'"),
            ("{braces} %s", '"{braces} %s"'),
            ("\\", r"'\\'"),
        ],
    )
    def test_any_name(self, model_id: str, literal: str) -> None:
        lands(NAME, reference(), replaced(reference(), (f'"{OLD}"', literal)), model_id=model_id)

    def test_a_name_that_the_encoding_has_not(self) -> None:
        data = b"# -*- coding: latin-1 -*-\n# \xe9\n" + reference().encode()
        outcome = plan(NAME, data, model_id="模型")
        assert isinstance(outcome.error, Refused)
        assert "does not fit the file's encoding (iso-8859-1)" in outcome.message
        assert plan(NAME, data, model_id="modèle").after == data.replace(OLD.encode(), "modèle".encode("latin-1"))

    def test_the_model_that_is_there(self) -> None:
        skips(NAME, reference(), ALREADY, line_of(reference(), OLD), model_id=OLD)

    def test_one_model_after_the_other(self) -> None:
        once = plan(NAME, reference(), model_id="a/paraformer-1")
        assert once.kind == PLANNED
        lands(NAME, once.after.decode(), replaced(reference(), (OLD, "b/paraformer-2")), model_id="b/paraformer-2")


class TestWhoseModel:
    """A model of the same family beside the encoder's is left alone, whatever it is called."""

    ASR = "iic/speech_paraformer-large_asr_nat-zh-cn-16k-common-vocab8404-pytorch"

    @pytest.mark.parametrize(
        ("init", "parameters"),
        [
            ('self.funasr_asr_model = AutoModel(model="{}")', "self, encoder_path, funasr_model_id"),
            ("self.asr = AutoModel(model=funasr_asr_id)", 'self, funasr_model_id, funasr_asr_id="{}"'),
            ('name = "{}"\nself.funasr_asr = AutoModel(model=name)', "self, encoder_path, funasr_model_id"),
            ('self.models = dict(funasr_asr="{}")', "self, encoder_path, funasr_model_id"),
        ],
    )
    def test_another_s(self, init: str, parameters: str) -> None:
        text = module(f"{LOAD}\n{init}".format(self.ASR), parameters.format(self.ASR))
        refuses(NAME, text, NoSite, line_of(text, self.ASR), "not as the one value that decides")

    @pytest.mark.parametrize(
        ("init", "parameters"),
        [
            ("self.funasr_model = AutoModel(paraformer)", 'self, encoder_path, paraformer="{}"'),
            (
                'name = "{}"\npath = os.path.join(encoder_path, name)\nself.funasr_model = AutoModel(path)',
                "self, encoder_path",
            ),
            ('self.name = "{}"\nself.funasr_model = AutoModel(self.name)', "self, encoder_path"),
            ('config = {{"model": "{}"}}\nself.funasr_model = AutoModel(**config)', "self, encoder_path"),
        ],
    )
    def test_the_encoder_s_by_any_name(self, init: str, parameters: str) -> None:
        before = module(init.format(OTHER), parameters.format(OTHER))
        lands(NAME, before, replaced(before, (OTHER, NEW)))

    def test_passed_to_a_method(self) -> None:
        before = module(f'self.load("{OTHER}")').replace(
            "    def get_vq02",
            "    def load(self, name):\n        self.funasr_model = AutoModel(name)\n\n    def get_vq02",
        )
        lands(NAME, before, replaced(before, (OTHER, NEW)))

    def test_the_same_name_in_another_function(self) -> None:
        tail = f'def transcribe():\n    name = "{self.ASR}"\n    return AutoModel(name)'
        text = module("self.funasr_model = AutoModel(name)", "self, name", tail=tail)
        refuses(NAME, text, NoSite, line_of(text, self.ASR), "not as the one value that decides")
