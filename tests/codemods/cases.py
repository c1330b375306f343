"""What the tests of codemods share: plan one on a text, and say exactly what has to come out of it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from support import REFERENCE

from apply_opt.errors import Refused
from apply_opt.io import catalog
from apply_opt.model.codemod import Codemod
from apply_opt.model.parameters import resolve
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED, REFUSED, Outcome, plan_one

UNITS = catalog.load(packs=False)
FILE = "tokenizer.py"
UPSTREAM_MODEL = "dengcunqin/speech_paraformer-large_asr_nat-zh-cantonese-en-16k-vocab8501-online"


def reference() -> str:
    """The reference tree's tokenizer."""
    return (REFERENCE / FILE).read_text(encoding="utf-8")


def codemod(name: str) -> Codemod:
    """The module behind the optimization ``name``."""
    return catalog.codemod(UNITS.optimizations[name])


def plan(name: str, data: str | bytes, **values: object) -> Outcome:
    """The outcome of the optimization ``name`` on a file."""
    optimization = UNITS.optimizations[name]
    given = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in values.items()}
    raw = data.encode() if isinstance(data, str) else data
    return plan_one(optimization, codemod(name), raw, FILE, resolve(optimization.parameters, given, name))


def lands(name: str, before: str, after: str, **values: object) -> None:
    """``name`` makes ``after`` of ``before``, which is Python, and nothing more of that."""
    outcome = plan(name, before, **values)
    assert outcome.kind == PLANNED, outcome.message
    assert outcome.after.decode() == after
    compile(after, FILE, "exec")
    again = plan(name, after, **values)
    assert again.kind in (ALREADY, NOT_NEEDED), again.message


def refuses(name: str, text: str, error: type[Refused], *words: str, **values: object) -> None:
    """``name`` does nothing with ``text``, for a reason of the class ``error`` that has ``words`` in it."""
    compile(text, FILE, "exec")
    outcome = plan(name, text, **values)
    assert outcome.kind == REFUSED, outcome.after.decode()
    assert type(outcome.error) is error, repr(outcome.error)
    for word in words:
        assert word in outcome.message
    assert UNITS.optimizations[name].manual.strip().splitlines()[0] in outcome.next_step


def skips(name: str, text: str, kind: str, *words: str, **values: object) -> None:
    """``name`` finds ``text`` as it should be: by its own doing (``ALREADY``) or the author's (``NOT_NEEDED``)."""
    compile(text, FILE, "exec")
    outcome = plan(name, text, **values)
    assert outcome.kind == kind, outcome.message
    for word in words:
        assert word in outcome.message


def line_of(text: str, fragment: str) -> str:
    """``tokenizer.py:N``, where the first line with ``fragment`` is the N-th."""
    return f"{FILE}:{numbers_of(text, fragment)[0]}"


def lines_of(text: str, *fragments: str) -> str:
    """``lines N, M``: where the lines with ``fragments`` are."""
    return "lines " + ", ".join(str(n) for fragment in fragments for n in numbers_of(text, fragment))


def numbers_of(text: str, fragment: str) -> list[int]:
    """The numbers of the lines that have ``fragment`` in them."""
    found = [i for i, line in enumerate(text.splitlines(), 1) if fragment in line]
    assert found, fragment
    return found


def block(text: str, indent: int = 0) -> str:
    """``text`` from a triple-quoted string, at another indentation."""
    return textwrap.indent(textwrap.dedent(text).strip("\n"), " " * indent)


def with_class(top: str, cls: str, methods: Mapping[str, str], more: str = "") -> str:
    """A module that starts with ``top``, and whose class, by its header, has these methods, by theirs."""
    bodies = [f"    {header}\n{block(body, 8)}\n" for header, body in methods.items()]
    return "\n".join([top, "", "", cls.rstrip("\n"), *bodies, *([block(more, 4), ""] if more else [])])


def replaced(text: str, *changes: tuple[str, str]) -> str:
    """``text`` with each first of a pair, which has to stand there once, as the second."""
    for old, new in changes:
        assert text.count(old) == 1, (text.count(old), old)
        text = text.replace(old, new)
    return text


def with_tabs(text: str) -> str:
    """``text`` with tabs, and the line endings of another system."""
    return text.replace("    ", "\t").replace("\n", "\r\n")


def above(text: str, anchor: str, helper: str) -> str:
    """``text`` with ``helper`` between two empty lines and two, in front of the line that starts with ``anchor``."""
    at = 0 if text.startswith(anchor) else text.index("\n" + anchor) + 1
    empty = len(text[:at]) - len(text[:at].rstrip("\n")) - 1
    gap = "\n" * max(0, 2 - empty) if text[:at].strip() else ""
    return text[:at] + gap + helper.strip("\n") + "\n\n\n" + text[at:]


def constant(name: str, attribute: str) -> Any:
    """A constant of a codemod's module."""
    return getattr(codemod(name), attribute)


def onnx_module(init: str, parameters: str = "self, path", more: str = "", top: str = "") -> str:
    """A small tokenizer with these lines in ``__init__``, where the ONNX session is built."""
    return "\n".join(
        [
            f"import onnxruntime\nimport whisper\n{block(top)}\n\nclass StepAudioTokenizer:",
            f"    def __init__({parameters}):",
            block(init, 8),
            "",
            "    def get_vq02_code(self, audio):",
            "        return self.funasr_model.infer_encoder(input=[audio], is_final=True)",
            "",
            "    def get_vq06_code(self, audio):",
            "        return self.ort_session.run(None, {'x': whisper.log_mel_spectrogram(audio)})",
            *(["", block(more, 4)] if more else []),
            "",
        ]
    )
