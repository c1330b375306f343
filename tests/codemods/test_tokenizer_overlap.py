"""``tokenizer_overlap``: the two kinds of tokens side by side, and only where they cannot get in each other's way."""

from __future__ import annotations

import pytest
from cases import above, block, constant, lands, line_of, lines_of, plan, reference, refuses, replaced, skips, with_tabs

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED

NAME = "tokenizer_overlap"
HELPER = str(constant(NAME, "HELPER_TEXT"))
ROW = """
vq02_ori = self.get_vq02_code(audio)
vq02 = [int(x) + 65536 for x in vq02_ori]
vq06_ori = self.get_vq06_code(audio)
vq06 = [int(x) + 65536 + 1024 for x in vq06_ori]
return vq02, vq06
"""
ENCODE = """
with self.vq02_lock:
    results, cache = self.funasr_model.infer_encoder(input=[audio], cache=self.sessions.get(session_id, {}))
    self.sessions[session_id] = cache
    return self.dump_label(results[0]["enc_out"], self.kms)
"""
RUN = """
with self.vq06_lock:
    feats = whisper.log_mel_spectrogram(audio, n_mels=128)
    return self.ort_session.run(None, {"feats": feats.numpy()})[0].tolist()
"""


def module(row: str = ROW, encode: str = ENCODE, run: str = RUN, more: str = "", top: str = "") -> str:
    """A small tokenizer around the lines that a case is about."""
    return "\n".join(
        [
            f"import torch\nimport whisper\n{block(top)}\n\nclass StepAudioTokenizer:",
            "    def wav2token(self, audio, rate):",
            block(row, 8),
            "",
            "    def get_vq02_code(self, audio, session_id=None):",
            block(encode, 8),
            "",
            "    def get_vq06_code(self, audio):",
            block(run, 8),
            "",
            "    def dump_label(self, samples, mean):",
            "        return torch.cdist(samples[0], mean).argmin(dim=1).tolist()",
            *(["", block(more, 4)] if more else []),
            "",
        ]
    )


def call(first: str, second: str, indent: int = 8) -> str:
    """How the two are handed to our function."""
    inner = " " * (indent + 4)
    return f"_side_by_side(\n{inner}lambda: {first},\n{inner}lambda: {second},\n{' ' * indent})"


BOTH = call("self.get_vq02_code(audio)", "self.get_vq06_code(audio)")


def changed(text: str, *changes: tuple[str, str]) -> str:
    return above(replaced(text, *changes), "class StepAudioTokenizer", HELPER)


def test_the_reference() -> None:
    pair = "self.get_vq02_code(audio), self.get_vq06_code(audio)"
    lands(NAME, reference(), changed(reference(), (pair, BOTH)))


class TestLands:
    def test_one_after_the_other(self) -> None:
        lands(
            NAME,
            module(),
            changed(
                module(),
                ("vq02_ori = self.get_vq02_code(audio)", f"vq02_ori, vq06_ori = {BOTH}"),
                ("        vq06_ori = self.get_vq06_code(audio)\n", ""),
            ),
        )

    def test_comments_stay(self) -> None:
        row = "a = self.get_vq02_code(audio)  # slow\n# and\nb = self.get_vq06_code(audio)  # quick\nreturn a, b"
        lands(
            NAME,
            module(row),
            changed(
                module(row),
                ("a = self.get_vq02_code(audio)  # slow", f"a, b = {BOTH}  # slow"),
                ("b = self.get_vq06_code(audio)  # quick", "# quick"),
            ),
        )

    def test_tabs_and_crlf(self) -> None:
        text = with_tabs(module())
        outcome = plan(NAME, text.encode())
        assert outcome.kind == PLANNED, outcome.message
        after = outcome.after.decode()
        both = with_tabs(BOTH)
        assert f"\t\tvq02_ori, vq06_ori = {both}\r\n" in after
        assert after.replace("\r\n", "").count("\n") == after.replace("\r\n", "").count("    ") == 0
        assert plan(NAME, outcome.after).kind == ALREADY

    def test_other_names_and_arguments(self) -> None:
        row = """
        print("tokens")
        first = self.semantic(audio, session_id=None)
        second = self.acoustic(audio)
        return first, second
        """
        text = module(row).replace("get_vq02_code", "semantic").replace("get_vq06_code", "acoustic")
        both = call("self.semantic(audio, session_id=None)", "self.acoustic(audio)")
        lands(
            NAME,
            text,
            changed(
                text,
                ("first = self.semantic(audio, session_id=None)", f"first, second = {both}"),
                ("        second = self.acoustic(audio)\n", ""),
            ),
        )

    def test_in_a_branch(self) -> None:
        row = "if rate:\n    a = self.get_vq02_code(audio)\n    b = self.get_vq06_code(audio)\n    return a, b"
        inner = call("self.get_vq02_code(audio)", "self.get_vq06_code(audio)", 12)
        lands(
            NAME,
            module(row),
            changed(
                module(row),
                ("a = self.get_vq02_code(audio)", f"a, b = {inner}"),
                ("            b = self.get_vq06_code(audio)\n", ""),
            ),
        )

    def test_attributes_that_both_only_read(self) -> None:
        encode = ENCODE + "# 02\nself.logger.info(self.rate)\n"
        text = module(encode=encode, run="self.logger.info('go')\nrate = self.rate\n" + RUN.strip("\n"))
        assert plan(NAME, text).kind == PLANNED

    @pytest.mark.parametrize(
        "line",
        [
            "rate = self.rate",
            "rate = float(self.rate)",
            "audio = audio[: self.rate]",
            "path = os.path.join(self.path, 'x')",
            "audio = audio.to(self.device)",
            "audio = audio + torch.randn_like(audio)",
        ],
    )
    def test_what_one_or_both_may_do(self, line: str) -> None:
        init = "def __init__(self, rate):\n    self.rate = rate\n    self.device = torch.device('cpu')\n    self.path = 'a'"
        both = {} if "randn" in line else {"run": f"{line}\n{RUN.strip()}"}
        assert plan(NAME, module(encode=f"{line}\n{ENCODE.strip()}", more=init, **both)).kind == PLANNED

    def test_values_of_the_context(self) -> None:
        """They go along to the thread."""
        text = module(run="rate = REQUEST.get()\n" + RUN.strip(), top="REQUEST = contextvars.ContextVar('request')")
        assert plan(NAME, text).kind == PLANNED


class TestLeavesAlone:
    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("audio = audio + torch.randn_like(audio)", "both draw random numbers"),
            ("audio = audio + HERE.offset", "HERE (line "),
            ("name = threading.current_thread().name", "threading.current_thread (line "),
            ("save(self.path, audio)", "both use self.path"),
            ("q = self.scratch[:, :9]\nnp.copyto(q, audio)", "both use self.scratch"),
            ("q = self.scratch\nq[:, :9] = audio", "both use self.scratch"),
            ("q = self.scratch\nq.copy_(audio)", "both use self.scratch"),
            ("torch.add(audio, 1, out=self.scratch)", "both use self.scratch"),
            ("audio = self.mix(into=self.scratch)", "both use self.scratch"),
        ],
    )
    def test_what_would_not_be_the_same_side_by_side(self, line: str, reason: str) -> None:
        text = module(encode=f"{line}\n{ENCODE.strip()}", run=f"{line}\n{RUN.strip()}", top="HERE = threading.local()")
        refuses(NAME, text, Conflict, "cannot run at the same time", reason)

    def test_our_own_work(self) -> None:
        after = plan(NAME, module()).after.decode()
        skips(NAME, after, ALREADY, line_of(after, "vq02_ori, vq06_ori ="))

    @pytest.mark.parametrize(
        "row",
        [
            "with ThreadPoolExecutor() as pool:\n    b = pool.submit(self.get_vq06_code, audio)\n"
            "    return self.get_vq02_code(audio), b.result()",
            "thread = Thread(target=self.get_vq06_code, args=(audio,))\nthread.start()\n"
            "return self.get_vq02_code(audio), self.get_vq06_code(audio)",
        ],
    )
    def test_the_author_s_own_threads(self, row: str) -> None:
        text = module(row)
        skips(NAME, text, NOT_NEEDED, line_of(text, "self.get_vq06_code, a"))

    @pytest.mark.parametrize(
        "row",
        [
            "return self.get_vq02_code(audio), self.get_vq06_code(audio)",
            "a = list(self.get_vq02_code(audio))\nb = self.get_vq06_code(audio)\nreturn a, b",
            "self.a = self.get_vq02_code(audio)\nself.b = self.get_vq06_code(audio)",
            "a = b = self.get_vq02_code(audio)\nb = self.get_vq06_code(audio)",
            "a = [self.get_vq02_code(x) for x in audio]\nb = self.get_vq06_code(audio)",
            "f = lambda: self.get_vq02_code(audio)\nb = self.get_vq06_code(audio)",
            "a, b = self.get_vq06_code(audio), self.get_vq02_code(audio)",
        ],
    )
    def test_other_forms(self, row: str) -> None:
        refuses(NAME, module(row), NoSite, "are not simply kept in variables")

    @pytest.mark.parametrize(
        "row",
        [
            "b = self.get_vq06_code(audio)\na = self.get_vq02_code(audio)\nreturn a, b",
            "if rate:\n    a = self.get_vq02_code(audio)\nb = self.get_vq06_code(audio)",
            "if rate:\n    a = self.get_vq02_code(audio)\nelse:\n    b = self.get_vq06_code(audio)",
        ],
    )
    def test_not_in_one_block_in_this_order(self, row: str) -> None:
        refuses(NAME, module(row), NoSite, "not made after the vq02 tokens, in one block")

    @pytest.mark.parametrize(
        "between",
        [
            "start = time.time()",
            "print(a)",
            "audio = audio / 2",
            "self.a = a",
            "if not a:\n    return [], []",
            "c = b",
            "b = 1",
            "c = audio.squeeze_()",
            "for x in a:\n    pass",
        ],
    )
    def test_something_between(self, between: str) -> None:
        text = module(f"b = 0\na = self.get_vq02_code(audio)\n{between}\nb = self.get_vq06_code(audio)\nreturn a, b")
        outcome = plan(NAME, text)
        assert type(outcome.error) is NoSite, outcome.message
        assert "stands between the two kinds" in outcome.message or "are made of what line" in outcome.message

    def test_the_one_made_of_the_other(self) -> None:
        text = module("a = self.get_vq02_code(audio)\nb = self.get_vq06_code(a)\nreturn a, b")
        refuses(NAME, text, NoSite, "the vq06 tokens are made of what line 7 gives")

    def test_an_argument_that_is_computed_in_the_call(self) -> None:
        text = module("a = self.get_vq02_code(audio)\nb = self.get_vq06_code(audio.clone())\nreturn a, b")
        refuses(NAME, text, NoSite, line_of(text, "clone"), "is computed in the call")

    def test_other_code_on_the_line(self) -> None:
        text = module("x = 1; a = self.get_vq02_code(audio)\nb = self.get_vq06_code(audio)\nreturn a, b")
        refuses(NAME, text, NoSite, "there is other code on the line")

    def test_a_class_without_the_other_kind(self) -> None:
        text = module("return self.get_vq02_code(audio)")
        refuses(NAME, text, NoSite, "no method of StepAudioTokenizer makes both kinds of tokens")

    def test_two_places(self) -> None:
        text = module(more="def again(self, audio):" + ROW.replace("\n", "\n    "))
        refuses(NAME, text, Ambiguous, "tokens are made in several places", lines_of(text, "_code(audio)")[:10])

    def test_twice_in_one_place(self) -> None:
        text = module(ROW.replace("return", "vq06_ori = self.get_vq06_code(audio)\nreturn"))
        refuses(NAME, text, Ambiguous, "tokens are made in several places")

    def test_no_tokenizer(self) -> None:
        refuses(NAME, "import os\n", NoSite, "no class calls infer_encoder()")


class TestGetInEachOthersWay:
    """What one of the two changes, the other may not so much as look at."""

    LOAD = "def load(self):\n    self.funasr_model = self.ort_session = make()"

    @pytest.mark.parametrize(
        ("encode", "run", "more", "name"),
        [
            ("self.load()\n", "self.load()\n", LOAD, "funasr_model"),
            ("if self.funasr_model is None:\n    self.load()\n", "self.load()\n", LOAD, "funasr_model"),
            ("", "self.load()\n", LOAD, "funasr_model"),
            ("self.count += 1\n", "print(self.count)\n", "", "count"),
            ("self.last = audio\n", "print(self.last)\n", "", "last"),
            ("self.state['x'] = 1\n", "x = self.state['x']\n", "", "state"),
            ("self.state.x.y = 1\n", "x = self.state.x\n", "", "state"),
            ("del self.state\n", "x = self.state\n", "", "state"),
            ("self.cache.clear()\n", "x = self.cache\n", "", "cache"),
            ("print(self.pool.next())\n", "print(self.pool.next())\n", "", "pool"),
            ("with self.lock:\n    pass\n", "with self.lock:\n    pass\n", "", "lock"),
            ("StepAudioTokenizer.count = 1\n", "print(self.count)\n", "", "count"),
            ("x = self.model\n", "x = self.model\n", "@property\ndef model(self):\n    self.m = 1\n    return 1", "m"),
        ],
    )
    def test_an_attribute(self, encode: str, run: str, more: str, name: str) -> None:
        text = module(encode=encode + ENCODE.strip("\n"), run=run + RUN.strip("\n"), more=more)
        refuses(NAME, text, Conflict, "cannot run at the same time", f"both use self.{name} (line ")

    def test_a_global_variable(self) -> None:
        text = module(encode="global count\ncount = 1\n" + ENCODE.strip("\n"), run="print(count)\n" + RUN.strip("\n"))
        refuses(NAME, text, Conflict, "both use the global variable count")

    @pytest.mark.parametrize(
        "line",
        [
            "audio /= 2",
            "audio[:, 0] = 0",
            "audio.clamp_(-1, 1)",
            "part = audio[0]\npart += 1",
            "torch.abs(audio, out=audio)",
        ],
    )
    @pytest.mark.parametrize("kind", ["encode", "run"])
    def test_an_argument_that_is_changed(self, line: str, kind: str) -> None:
        text = module(**{kind: f"{line}\n" + {"encode": ENCODE, "run": RUN}[kind].strip("\n")})
        refuses(NAME, text, Conflict, "may change what get_vq0", "is given")


class TestHalfDone:
    AFTER = plan(NAME, module()).after.decode()

    def test_only_the_function(self) -> None:
        text = above(module(), "class StepAudioTokenizer", HELPER)
        refuses(NAME, text, PartlyApplied, "_side_by_side is defined (line 5) but not used here")

    def test_only_the_use(self) -> None:
        text = self.AFTER.replace(HELPER.strip("\n"), "")
        refuses(NAME, text, PartlyApplied, "_side_by_side is used but not defined")

    def test_the_function_twice(self) -> None:
        text = above(self.AFTER, "class StepAudioTokenizer", HELPER)
        refuses(NAME, text, PartlyApplied, "_side_by_side is defined more than once")

    def test_the_use_twice(self) -> None:
        text = self.AFTER.replace("        return vq02, vq06\n", "        return _side_by_side(len, len)\n")
        refuses(NAME, text, PartlyApplied, "_side_by_side is used more than once")

    def test_the_name_for_something_else(self) -> None:
        refuses(
            NAME, module(top="_side_by_side = 2"), Conflict, "already uses the name _side_by_side for something else"
        )
