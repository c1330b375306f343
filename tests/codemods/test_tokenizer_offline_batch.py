"""``tokenizer_offline_batch``: a method for many utterances, only where the file shows the models, their locks and no more."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cases import FILE, above, block, constant, lands, line_of, plan, reference, refuses, replaced, skips
from variants import (
    Fork,
    base_class,
    decoy_frontend,
    decoy_text,
    decoy_wrapper,
    grown,
    more_code,
    rename_attributes,
    rename_class,
    rename_methods,
    rename_self,
    shuffle_methods,
)

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED

NAME, VQ02 = "tokenizer_offline_batch", "tokenizer_vq02_batched"
CLASS = "class StepAudioTokenizer"


@dataclasses.dataclass
class Tokenizer:
    """A small tokenizer around the lines that a case is about."""

    locks: str = "self.a = threading.Lock()\nself.b = threading.Lock()"
    whole: str = "return self.get_vq02_code(audio), self.get_vq06_code(audio)"
    encode: str = "with self.a:\n    return self.model.infer_encoder(input=[audio], chunk_size=[0, 4, 5])[0]"
    run: str = "with self.b:\n    return self.session.run(None, {'x': whisper.log_mel_spectrogram(audio)})[0]"
    define: str = "def wav2token(self, audio, rate):"
    more: str = ""
    top: str = "import threading"

    def __str__(self) -> str:
        init = "        self.model, self.session = load(AutoModel), load(InferenceSession)\n"
        code = [
            f"import torch\nimport whisper\n{block(self.top)}\n\n\n{CLASS}:\n    def __init__(self):",
            init + block(self.locks, 8) + "\n",
            block(self.define, 4) + "\n" + block(self.whole, 8) + "\n",
            "    def get_vq02_code(self, audio):\n" + block(self.encode, 8) + "\n",
            "    def get_vq06_code(self, audio):\n" + block(self.run, 8),
            *(["\n" + block(self.more, 4)] if self.more else []),
        ]
        return "\n".join(code) + "\n"


def helper(model: str = "model", model_lock: str = "a", session: str = "session", session_lock: str = "b") -> str:
    text = str(constant(NAME, "HELPER_TEXT")).replace("{model}", model).replace("{model_lock}", model_lock)
    return text.replace("{session}", session).replace("{session_lock}", session_lock)


def method(name: str = "wav2token") -> str:
    """What goes below the method, an empty line and itself."""
    return "\n" + block(str(constant(NAME, "METHOD_TEXT")).format(name=name), 4) + "\n"


def changed(text: str, last: str = Tokenizer.whole, cls: str = CLASS, name: str = "wav2token", **names: str) -> str:
    """``text`` with our classes above the tokenizer, and the method below the line that ends with ``last``."""
    return above(replaced(text, (last + "\n", last + "\n" + method(name))), cls, helper(**names))


OURS = plan(NAME, str(Tokenizer())).after.decode()
REFERENCE = {"model": "funasr_model", "model_lock": "vq02_lock", "session": "ort_session", "session_lock": "vq06_lock"}


def test_the_reference() -> None:
    """Its locks are given in a row: ``a, b = Lock(), Lock()``."""
    lands(NAME, reference(), changed(reference(), "self.interleave(vq02, vq06)], vq02, vq06", **REFERENCE))


class TestLands:
    def test_a_small_one(self) -> None:
        lands(NAME, str(Tokenizer()), changed(str(Tokenizer())))

    def test_other_names(self) -> None:
        pairs = {"wav2token": "tokens", "get_vq02_code": "first", "get_vq06_code": "second", "self.model": "self.asr"}
        pairs |= {"self.session": "self._onnx", "self.a": "self._one", "self.b": "self._two"}
        text = re.sub("|".join(map(re.escape, pairs)), lambda found: pairs[found[0]], str(Tokenizer()))
        text = text.replace("StepAudioTokenizer", "Codec")
        last = "return self.first(audio), self.second(audio)"
        names = {"model": "asr", "model_lock": "_one", "session": "_onnx", "session_lock": "_two"}
        lands(NAME, text, changed(text, last, "class Codec", "tokens", **names))

    def test_tabs_and_crlf(self) -> None:
        def other(text: str) -> str:
            return re.sub("(?m)^(    )+", lambda found: "\t" * (len(found[0]) // 4), text).replace("\n", "\r\n")

        outcome = plan(NAME, other(str(Tokenizer())).encode())
        assert outcome.kind == PLANNED, outcome.message
        assert outcome.after.decode() == other(changed(str(Tokenizer())))
        assert plan(NAME, outcome.after).kind == ALREADY

    def test_at_the_end_of_a_file_without_an_end_of_line(self) -> None:
        text = str(Tokenizer())
        lines = text.splitlines(keepends=True)
        at = next(i for i, line in enumerate(lines) if "def wav2token" in line)
        moved = "".join([*lines[:at], *lines[at + 3 :], "\n", *lines[at : at + 2]]).rstrip("\n")
        after = above(moved + "\n" + method().rstrip("\n"), CLASS, helper())
        lands(NAME, moved, after)

    @pytest.mark.parametrize(
        ("locks", "top"),
        [
            ("self.a, self.b = threading.Lock(), threading.RLock()", "import threading"),
            ("self.a: threading.Lock = threading.Lock()\nself.b = threading.Lock()", "import threading"),
            ("self.a = self.b = threading.Lock()", "import threading"),
            ("self.a, self.b = th.Lock(), th.Lock()", "import threading as th"),
            ("self.a, self.b = Lock(), Lock()", "from threading import Lock"),
            ("self.a, self.b = L(), R()", "from threading import Event, Lock as L, RLock as R"),
        ],
    )
    def test_locks(self, locks: str, top: str) -> None:
        text = str(Tokenizer(locks=locks, top=top))
        lands(NAME, text, changed(text))

    def test_a_lock_of_the_class(self) -> None:
        text = str(Tokenizer("self.b = threading.Lock()", more="a = threading.Lock()"))
        lands(NAME, text, changed(text))

    def test_a_lock_for_both(self) -> None:
        text = str(Tokenizer(run=Tokenizer.run.replace("self.b", "self.a")))
        lands(NAME, text, changed(text, session_lock="a"))

    @pytest.mark.parametrize(
        "encode",
        [
            "with self.a, torch.no_grad():\n    return self.model.infer_encoder(input=[audio])[0]",
            "with torch.no_grad():\n    with self.a:\n        self.n = 1\n        return self.model.infer_encoder(input=[audio])",
            "model = self.model\nwith self.a:\n    return model.infer_encoder(input=[audio])",
            "with self.a:\n    self.load()\n    return self.model.infer_encoder(input=[audio])",
            "with self.clock.measure(), self.a:\n    return self.model.infer_encoder(input=[audio])",
        ],
    )
    def test_around_the_model(self, encode: str) -> None:
        text = str(Tokenizer(encode=encode, more="def load(self):\n    self.kms = 1"))
        lands(NAME, text, changed(text))

    @pytest.mark.parametrize(
        "define",
        [
            "@timed\ndef wav2token(self, audio, rate, enable_trim=True, *, energy_norm=True):",
            "def wav2token(self, audio, rate, /, **options) -> tuple:",
        ],
    )
    def test_the_method_s_own_form(self, define: str) -> None:
        text = str(Tokenizer(define=define))
        lands(NAME, text, changed(text))

    def test_callers_beside_it(self) -> None:
        more = "def __call__(self, audio, rate):\n    return str(self.wav2token(audio, rate))\n\n"
        more += "def several(self, items):\n    return [self.wav2token(*item) for item in items]"
        text = str(Tokenizer(more=more))
        lands(NAME, text, changed(text))

    def test_a_subclass(self) -> None:
        text = f"{Tokenizer()}\n\nclass Quiet(StepAudioTokenizer):\n    def wav2token(self, audio, rate):\n"
        text += "        return super().wav2token(audio / 2, rate)\n"
        lands(NAME, text, changed(text))

    def test_a_method_of_a_base(self) -> None:
        lines = str(Tokenizer()).splitlines(keepends=True)
        at = next(i for i, line in enumerate(lines) if "def wav2token" in line)
        base = "".join(["class Base:\n", *lines[at : at + 2], "\n\n"])
        text = above("".join([*lines[:at], *lines[at + 3 :]]), CLASS, base).replace(CLASS, CLASS + "(Base)")
        lands(NAME, text, changed(text))

    @pytest.mark.parametrize("seed", range(8))
    def test_made_up_forks(self, seed: int) -> None:
        drift = [rename_class, rename_methods, rename_attributes, rename_self, base_class, more_code, shuffle_methods]
        fork = Fork(seed)
        fork.random.shuffle(drift)
        found = grown(fork, [*drift[:4], decoy_frontend, decoy_wrapper, decoy_text])
        outcome = plan(NAME, found.data)
        assert outcome.kind == PLANNED, (outcome.message, found.steps)
        tree = ast.parse(outcome.after)
        tree.body = [s for s in tree.body if getattr(s, "name", "") not in ("_ModelCall", "_Together")]
        holders = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and names(n) & {"wav2token_batch"}]
        assert len(holders) == 1
        place = [getattr(s, "name", "") for s in holders[0].body].index("wav2token_batch")
        assert getattr(holders[0].body[place - 1], "name", "") == "wav2token"
        del holders[0].body[place]
        assert ast.dump(tree) == ast.dump(found.tree)
        assert plan(NAME, outcome.after).kind == ALREADY


def names(cls: ast.ClassDef) -> set[str]:
    return {getattr(s, "name", "") for s in cls.body}


class TestLeavesAlone:
    def test_our_own_work(self) -> None:
        skips(NAME, OURS, ALREADY, line_of(OURS, "class _ModelCall"))

    @pytest.mark.parametrize("name", ["wav2token_batch", "batch_wav2token", "wav2tokens"])
    @pytest.mark.parametrize("start", ["def", "async def"])
    def test_the_author_s_own(self, name: str, start: str) -> None:
        text = str(
            Tokenizer(more=f"{start} {name}(self, items):\n    return [self.wav2token(*item) for item in items]")
        )
        skips(NAME, text, NOT_NEEDED, line_of(text, name), f"def {name}")

    @pytest.mark.parametrize("name", ["_Together", "_ModelCall"])
    @pytest.mark.parametrize("top", ["{} = None", "def {}():\n    pass", "from x import {}"])
    def test_a_name_that_is_taken(self, name: str, top: str) -> None:
        text = str(Tokenizer(top="import threading\n" + top.format(name)))
        refuses(NAME, text, Conflict, "already uses the name _Together or _ModelCall for something else")

    def test_no_tokenizer(self) -> None:
        refuses(NAME, "import os\n# infer_encoder\n", NoSite, "no class calls infer_encoder()")

    def test_only_one_kind_of_tokens(self) -> None:
        text = str(Tokenizer(whole="return self.get_vq02_code(audio)"))
        refuses(NAME, text, NoSite, "no method of StepAudioTokenizer makes both kinds of tokens")

    def test_two_that_make_both(self) -> None:
        text = str(Tokenizer(more="def again(self, audio, rate):\n    " + Tokenizer.whole))
        refuses(NAME, text, Ambiguous, "wav2token (line", "again (line", "make both kinds of tokens")

    def test_defined_twice(self) -> None:
        text = str(Tokenizer(more=Tokenizer.define + "\n    " + Tokenizer.whole))
        refuses(NAME, text, Ambiguous, "wav2token is defined 2 times")

    @pytest.mark.parametrize(
        "change",
        [
            {"define": "async def wav2token(self, audio, rate):"},
            {"whole": "yield self.get_vq02_code(audio), self.get_vq06_code(audio)"},
            {"define": "@staticmethod\ndef wav2token(self, audio, rate):"},
            {"define": "@classmethod\ndef wav2token(self, audio, rate):"},
            {"define": "@contextlib.contextmanager\ndef wav2token(self, audio, rate):"},
            {"define": "@property\ndef wav2token(self):"},
            {"define": "def wav2token(self, item):"},
            {"define": "def wav2token(self, audio, *, rate):"},
        ],
    )
    def test_another_kind_of_method(self, change: dict[str, str]) -> None:
        text = str(Tokenizer(**change))
        refuses(NAME, text, NoSite, "wav2token (line", "is no plain method that takes audio and its rate")

    def test_an_encoder_that_runs_later(self) -> None:
        text = str(Tokenizer(encode=Tokenizer.encode.replace("return", "yield")))
        refuses(NAME, text, Conflict, "get_vq02_code is a coroutine or generator")


class TestModelsAndLocks:
    @pytest.mark.parametrize(
        "encode",
        [
            "return self.model.infer_encoder(input=[audio])",
            "with self.a:\n    pass\nreturn self.model.infer_encoder(input=[audio])",
            "with self.a, self.b:\n    return self.model.infer_encoder(input=[audio])",
            "with self.a:\n    with self.b:\n        return self.model.infer_encoder(input=[audio])",
            "with LOCK, self.a:\n    return self.model.infer_encoder(input=[audio])",
            "with self.lock_for(audio), self.a:\n    return self.model.infer_encoder(input=[audio])",
            "with LOCK:\n    return self.model.infer_encoder(input=[audio])",
            "with self.other:\n    return self.model.infer_encoder(input=[audio])",
            "self.a.acquire()\nreturn self.model.infer_encoder(input=[audio])",
            "with self.a:\n    return self.models.asr.infer_encoder(input=[audio])",
            "with self.a:\n    return self.__model.infer_encoder(input=[audio])",
            "with self.a:\n    return load(AutoModel).infer_encoder(input=[audio])",
            "with self.a:\n    run = lambda: self.model.infer_encoder(input=[audio])\nreturn run()",
            "with self.a:\n    run = self.model.infer_encoder\nreturn run(input=[audio])",
        ],
    )
    def test_the_encoder_under_no_lock_of_its_own(self, encode: str) -> None:
        text = str(Tokenizer(encode=encode))
        refuses(NAME, text, NoSite, line_of(text, ".infer_encoder"), "the encoder is not an attribute of the tokenizer")

    @pytest.mark.parametrize(
        "run",
        [
            "return self.session.run(None, {'x': whisper.log_mel_spectrogram(audio)})",
            "session = load(audio)\nwith self.b:\n    return session.run(None, {'x': whisper.log_mel_spectrogram(audio)})",
            "x = whisper.log_mel_spectrogram(audio)\nwith self.b:\n    return (self.session.run(None, {'x': y}) for y in x)",
        ],
    )
    def test_the_session_under_no_lock_of_its_own(self, run: str) -> None:
        text = str(Tokenizer(run=run))
        refuses(NAME, text, NoSite, line_of(text, ".run("), "the ONNX session is not an attribute of the tokenizer")

    def test_a_session_that_another_method_runs(self) -> None:
        run = "with self.b:\n    return self.ask({'x': whisper.log_mel_spectrogram(audio)})"
        text = str(Tokenizer(run=run, more="def ask(self, feed):\n    return self.session.run(None, feed)[0]"))
        refuses(NAME, text, NoSite, "the ONNX session is not an attribute of the tokenizer")

    @pytest.mark.parametrize(
        ("locks", "top"),
        [
            ("self.a = self.b = None", "import threading"),
            ("self.a, self.b = make_locks()", "import threading"),
            ("self.a = self.b = LOCK", "import threading\nLOCK = threading.Lock()"),
            ("self.a, self.b = threading.Semaphore(2), threading.Semaphore(2)", "import threading"),
            ("self.a, self.b = multiprocessing.Lock(), multiprocessing.Lock()", "import multiprocessing"),
            ("self.a, self.b = Lock(), Lock()", "from multiprocessing import Lock"),
            ("self.a, self.b = Lock(), Lock()", "from filelock import *"),
            ("self.a = self.b = threading.Lock()\nself.a = contextlib.nullcontext()", "import threading"),
            ("pass", "import threading"),
        ],
    )
    def test_other_locks(self, locks: str, top: str) -> None:
        refuses(NAME, str(Tokenizer(locks=locks, top=top)), NoSite, "that is called under one lock of its own")

    def test_several_ways(self) -> None:
        encode = Tokenizer.encode + "\nwith self.b:\n    return self.model.infer_encoder(input=[audio])"
        refuses(NAME, str(Tokenizer(encode=encode)), Ambiguous, "the encoder is called in several ways")


class TestSideBySide:
    """Where one thread of ours would keep the others out, or be in their way."""

    @pytest.mark.parametrize(
        "whole",
        [
            "with self.c:\n    " + Tokenizer.whole,
            "with LOCK:\n    " + Tokenizer.whole,
            "with self.lock():\n    " + Tokenizer.whole,
            "with self.c:\n    x = self.inner(audio)\nreturn x, self.get_vq06_code(audio)",
        ],
    )
    def test_a_lock_around_both(self, whole: str) -> None:
        more = "def inner(self, audio):\n    return self.get_vq02_code(audio)"
        text = str(Tokenizer(whole=whole, more=more))
        refuses(NAME, text, Conflict, "is held here, so that others cannot come to the models")

    def test_a_decorator_that_locks(self) -> None:
        text = str(Tokenizer(define="@synchronized\n" + Tokenizer.define))
        refuses(NAME, text, Conflict, line_of(text, Tokenizer.whole), "synchronized is held here")

    @pytest.mark.parametrize("line", ["SCRATCH[:, :9] = audio", "SCRATCH[0].copy_(audio)", "SCRATCH.append(audio)"])
    def test_a_variable_of_the_module_that_changes(self, line: str) -> None:
        text = "SCRATCH = make()\n" + str(Tokenizer(whole=f"{line}\n{Tokenizer.whole}"))
        refuses(NAME, text, Conflict, "SCRATCH", "is changed while no lock is held")
        text = "SCRATCH = make()\n" + str(Tokenizer(whole=f"SCRATCH = []\n{line}\n{Tokenizer.whole}"))
        assert plan(NAME, text).kind == PLANNED, "it is another one"

    def test_a_lock_by_acquire(self) -> None:
        encode = f"self.slots.acquire()\n{Tokenizer.encode}"
        refuses(NAME, str(Tokenizer(encode=encode)), Conflict, "self.slots.acquire() may hold others back")

    def test_what_every_thread_has_its_own_of(self) -> None:
        text = "HERE = threading.local()\n" + str(Tokenizer(run=f"audio = HERE.gain * audio\n{Tokenizer.run}"))
        refuses(NAME, text, Conflict, "HERE is another one in another thread")

    @pytest.mark.parametrize(
        ("line", "name"),
        [
            ("self.calls += 1", "calls"),
            ("self.last = audio", "last"),
            ("self.cache[rate] = audio", "cache"),
            ("del self.cache[rate]", "cache"),
            ("self.order.remove(rate)", "order"),
            ("self.cache[rate].append(audio)", "cache"),
            ("self.model.model = self.model.model.to('cuda')", "model"),
            ("for self.i in audio:\n    pass", "i"),
            ("self.load()", "model"),
            ("self.wav.seek(0)", "wav"),
            ("self.wav.write(audio)", "wav"),
            ("scratch = self.scratch[:9]\nscratch.copy_(audio)", "scratch"),
            ("scratch = self.scratch\nscratch[:9] = audio", "scratch"),
            ("np.copyto(self.scratch, audio)", "scratch"),
        ],
    )
    def test_what_changes_outside_of_a_lock(self, line: str, name: str) -> None:
        text = str(Tokenizer(whole=f"{line}\n{Tokenizer.whole}", more="def load(self):\n    self.model = 1"))
        refuses(NAME, text, Conflict, f"self.{name} is changed while no lock is held", "wav2token is not for several")

    @pytest.mark.parametrize(
        "line",
        [
            "with self.c:\n    self.calls += 1",
            "with self.c:\n    self.load()",
            "self.logger.info(self.calls)",
            "rate = self.session.get_inputs()[0].name",
            "x = self.cache[rate].copy()",
        ],
    )
    def test_what_is_no_such_change(self, line: str) -> None:
        text = str(Tokenizer(whole=f"{line}\n{Tokenizer.whole}", more="def load(self):\n    self.model = 1"))
        lands(NAME, text, changed(text))


class TestHalfDone:
    def test_only_the_method(self) -> None:
        text = OURS.replace(helper().strip("\n"), "")
        refuses(NAME, text, PartlyApplied, "batch (line", "is there, helper is not")

    def test_only_the_classes(self) -> None:
        text = above(str(Tokenizer()), CLASS, helper())
        refuses(NAME, text, PartlyApplied, "helper (line 6) is there, batch is not")

    def test_the_classes_beside_the_author_s_method(self) -> None:
        text = str(Tokenizer(more="def wav2token_batch(self, items):\n    return [self.wav2token(*i) for i in items]"))
        refuses(NAME, above(text, CLASS, helper()), PartlyApplied, "batch is not")

    def test_one_of_the_classes(self) -> None:
        first = helper().index("class _Together")
        for half in (helper()[:first], helper()[first:]):
            text = OURS.replace(helper().strip("\n"), half.strip("\n"))
            refuses(NAME, text, PartlyApplied, "is partly applied, or twice: _")

    def test_twice(self) -> None:
        refuses(NAME, above(OURS, CLASS, helper()), PartlyApplied, "_Together (line", "is partly applied, or twice")


def test_in_and_out_by_the_command_line(run: Callable[..., Any], checkout: Path) -> None:
    path = checkout / FILE
    before = path.read_bytes()
    missing = run(NAME, cwd=checkout)
    assert (missing.code, path.read_bytes()) == (3, before)
    assert f"apply-opt {VQ02}" in missing.err
    assert run(VQ02, cwd=checkout).code == 0
    between = path.read_bytes()
    assert run(NAME, cwd=checkout).code == 0
    assert plan(NAME, path.read_bytes()).kind == ALREADY
    assert run("revert", NAME, cwd=checkout).code == 0
    assert path.read_bytes() == between
    assert run(NAME, cwd=checkout).code == 0
    assert f"{NAME} does not work without {VQ02}" in run("revert", VQ02, cwd=checkout).out
    assert run("revert", NAME, cwd=checkout).code == 0
    assert path.read_bytes() == before
