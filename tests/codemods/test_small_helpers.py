"""The functions that ``overlap``, ``direct_tensor`` and ``ort_fallback`` write, run for real on their own."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import constant, plan
from support import REFERENCE

from apply_opt.model.plan import PLANNED

OVERLAP, DIRECT, FALLBACK = "tokenizer_overlap", "tokenizer_direct_tensor", "tokenizer_ort_fallback"
CONV = "tokenizer_ort_conv_heuristic"
torch: Any = pytest.importorskip("torch")


def helper(name: str) -> Any:
    """A unit's function, as it stands in a file."""
    namespace: dict[str, Any] = {}
    exec(constant(name, "HELPER_TEXT"), namespace)
    return namespace[constant(name, "HELPER")]


class TestSideBySide:
    @pytest.fixture
    def both(self) -> Iterator[Callable[..., Any]]:
        """The function; no thread may be left when the test is over."""
        before = threading.active_count()
        yield helper(OVERLAP)
        assert threading.active_count() == before

    def test_at_the_same_time_and_the_first_one_here(self, both: Any) -> None:
        meet = threading.Barrier(2, timeout=10)

        def where() -> threading.Thread:
            meet.wait()
            return threading.current_thread()

        first, second = both(where, where)
        assert first is threading.current_thread()
        assert second is not first

    def test_context_variables_of_the_caller(self, both: Any) -> None:
        import contextvars

        variable: contextvars.ContextVar[int] = contextvars.ContextVar("request")
        variable.set(7)
        assert both(variable.get, variable.get) == (7, 7)

    def test_the_error_of_the_first_comes_first_and_the_second_is_over_by_then(self, both: Any) -> None:
        done = []

        def first() -> None:
            raise KeyError("first")

        def second() -> None:
            time.sleep(0.05)
            done.append(1)
            raise ValueError("second")

        with pytest.raises(KeyError, match="first") as raised:
            both(first, second)
        assert done == [1]
        assert raised.value.__context__ is raised.value.__cause__ is None

    @pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), SystemExit(3), KeyboardInterrupt()])
    def test_an_error_of_the_second_is_the_very_one(self, both: Any, error: BaseException) -> None:
        calls = []

        def second() -> None:
            raise error

        with pytest.raises(type(error)) as raised:
            both(lambda: calls.append(1), second)
        assert raised.value is error
        assert calls == [1]

    def test_an_interrupt_waits_for_the_second(self, both: Any) -> None:
        done = []

        def first() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            both(first, lambda: (time.sleep(0.05), done.append(1)))
        assert done == [1]

    @pytest.mark.parametrize(
        "mode",
        [
            contextlib.nullcontext(),
            torch.no_grad(),
            torch.inference_mode(),
            torch.inference_mode(False),
            torch.set_grad_enabled(True),
        ],
        ids=["as it is", "no_grad", "inference_mode", "not inference_mode", "gradients"],
    )
    @pytest.mark.parametrize("inner", [contextlib.nullcontext(), torch.enable_grad(), torch.no_grad()])
    def test_the_modes_of_the_caller(self, both: Any, mode: Any, inner: Any) -> None:
        def modes() -> tuple[bool, bool, bool]:
            made = torch.ones(1)
            return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), made.is_inference()

        with mode, inner:
            expected = modes()
            assert both(modes, modes) == (expected, expected)
            assert modes() == expected
        assert modes() == (True, False, False)

    @pytest.mark.parametrize("mode", ["autocast", "device", "default device"])
    def test_one_after_the_other_where_more_is_in_force(self, both: Any, mode: str) -> None:
        with contextlib.ExitStack() as stack:
            if mode == "autocast":
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            elif mode == "device":
                stack.enter_context(torch.device("meta"))
            else:
                torch.set_default_device("meta")
                stack.callback(torch.set_default_device, None)
            kinds = both(lambda: torch.ones(1, 1) @ torch.ones(1, 1), lambda: torch.ones(1, 1) @ torch.ones(1, 1))
            threads = both(threading.current_thread, threading.current_thread)
        assert threads == (threading.current_thread(),) * 2
        assert (kinds[0].dtype, kinds[0].device) == (kinds[1].dtype, kinds[1].device) != (torch.float32, "cpu")

    def test_the_stream_of_the_caller(self, both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        entered = []

        @contextlib.contextmanager
        def stream(wanted: str) -> Iterator[None]:
            entered.append((wanted, threading.current_thread()))
            yield
            entered.append("left")

        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: f"that of {threading.current_thread().name}")
        monkeypatch.setattr(torch.cuda, "stream", stream)
        _, thread = both(lambda: 1, threading.current_thread)
        assert entered == [(f"that of {threading.current_thread().name}", thread), "left"]

    def test_no_thread_to_be_had(self, both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def start(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        calls: list[int] = []
        assert both(lambda: calls.append(1), lambda: calls.append(2)) == (None, None)
        assert calls == [1, 2]

    def test_calls_that_overlap_and_calls_within_calls(self, both: Any) -> None:
        results = []

        def call(n: int) -> None:
            results.append(both(lambda: n, lambda: both(lambda: n + 1, lambda: n + 2)))

        threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [(n, (n + 1, n + 2)) for n in range(8)]

    @pytest.mark.parametrize(
        ("tail", "out"),
        [
            ("import atexit\natexit.register(lambda: print(_side_by_side(lambda: 1, lambda: 2)))", "(1, 2)\n"),
            (
                "import threading\nt = threading.Thread(target=lambda: print(_side_by_side(len.__name__.upper, int)))\nt.start()",
                "('LEN', 0)\n",
            ),
            (
                "import os\n_side_by_side(int, int)\npid = os.fork()\nprint(_side_by_side(lambda: 1, lambda: 2), flush=True)\n"
                "if pid:\n    raise SystemExit(os.waitpid(pid, 0)[1])",
                "(1, 2)\n(1, 2)\n",
            ),
        ],
        ids=["at exit", "from a thread while the main one ends", "after a fork"],
    )
    def test_at_odd_times(self, tail: str, out: str) -> None:
        if "fork" in tail and not hasattr(os, "fork"):
            pytest.skip("no fork here")
        script = f"{constant(OVERLAP, 'HELPER_TEXT')}\nimport torch\n{tail}"
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=120
        )
        assert (ran.returncode, ran.stdout.replace("\n", "")) == (0, out.replace("\n", "")), ran.stderr

    def test_nothing_is_imported_before_the_first_call(self) -> None:
        script = f"import sys\nsys.modules['torch'] = None\n{constant(OVERLAP, 'HELPER_TEXT')}\nprint('defined')"
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
        assert ran.stdout == "defined\n"


def wav(samples: bytes, tag: int, bits: int) -> bytes:
    """A WAV file of 16 kHz, mono."""
    head = b"fmt \x10\0\0\0" + bytes([tag, 0, 1, 0]) + (16000).to_bytes(4, "little")
    head += (16000 * bits // 8).to_bytes(4, "little") + bytes([bits // 8, 0, bits, 0])
    body = b"WAVE" + head + b"data" + len(samples).to_bytes(4, "little") + samples
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def as_float(x: Any) -> bytes:
    return wav(x.astype("<f4").tobytes(), 3, 32)


def nearest(x: Any) -> bytes:
    return wav(np.clip(np.rint(x * np.float32(32768)), -32768, 32767).astype("<i2").tobytes(), 1, 16)


def downwards(x: Any) -> bytes:
    """As libsndfile: clipped and rounded to 32 bits, of which the upper 16 are kept."""
    whole = np.clip(np.rint(x.astype(np.float64) * 2**31), -(2**31), 2**31 - 1).astype(np.int64)
    return wav((whole >> 16).astype("<i2").tobytes(), 1, 16)


def to_zero(x: Any) -> bytes:
    return wav(np.clip(x * np.float32(32767), -32768, 32767).astype("<i2").tobytes(), 1, 16)


def dithered(x: Any) -> bytes:
    noise = np.random.default_rng(0).uniform(-1, 1, len(x))
    return wav(np.clip(np.rint(x * 32768 + noise), -32768, 32767).astype("<i2").tobytes(), 1, 16)


def read(file: io.BytesIO) -> Any:
    """The samples of a WAV file, as the encoder's loader has them."""
    sys.path.insert(0, str(REFERENCE))
    try:
        import wav_io
    finally:
        sys.path.remove(str(REFERENCE))
    audio, rate = wav_io.read_wav(file)
    assert rate == 16000
    return torch.from_numpy(audio).mean(0)


SPEECH = np.random.default_rng(1).uniform(-0.9, 0.9, 4000).astype(np.float32)
EDGES = np.array(
    [0, -0.0, 1, -1, 1.5, -1.5, 0.99998, 1e-9, -1e-9, 0.4e-9, -0.3e-9, np.inf, -np.inf]
    + [sign * (n + part) / 32768 for sign in (1, -1) for n in (0, 1, 2, 77, 32766) for part in (0, 0.25, 0.5, 0.75)],
    dtype=np.float32,
)


class TestSamplesOrWav:
    @pytest.fixture
    def give(self) -> Callable[..., Any]:
        """What the encoder is given for some audio, with a writer; and whether a file was written."""
        function = helper(DIRECT)

        def give(audio: Any, writer: Callable[[Any], bytes]) -> tuple[Any, bool]:
            written = []

            def write(file: io.BytesIO) -> None:
                array = audio.detach().numpy() if isinstance(audio, torch.Tensor) else np.asarray(audio)
                file.write(writer(array.reshape(-1)))
                written.append(1)

            return function(audio, write), bool(written)

        return give

    def mono(self, array: Any) -> Any:
        return torch.from_numpy(np.array(array, dtype=np.float32)[None])

    @pytest.mark.parametrize("writer", [as_float, nearest, downwards])
    def test_the_very_samples_of_the_file_and_no_file_after_the_first(self, give: Any, writer: Any) -> None:
        first, written = give(self.mono(SPEECH), writer)
        assert written
        assert torch.equal(read(first), read(io.BytesIO(writer(SPEECH))))
        edges = np.resize(EDGES[np.isfinite(EDGES)], 1000)
        for array in (SPEECH * 1.7, SPEECH * 0.2, SPEECH[:1000]):
            assert give(self.mono(array), writer)[1], "louder, quieter or shorter than all so far"
        for array in (SPEECH, SPEECH * 0.3, edges, np.rint(SPEECH * 32768) / 32768):
            audio = self.mono(array)
            samples, written = give(audio, writer)
            assert not written
            expected = read(io.BytesIO(writer(array.astype(np.float32))))
            assert torch.equal(samples, expected)
            assert torch.equal(torch.signbit(samples), torch.signbit(expected))
            assert (samples.dtype, samples.dim(), samples.is_contiguous()) == (torch.float32, 1, True)
            assert torch.equal(audio, self.mono(array))

    @pytest.mark.parametrize(
        ("writer", "odd"),
        [
            (lambda x: as_float(x / max(1, abs(x).max())), SPEECH * 3),
            (lambda x: as_float(np.pad(x, (0, max(0, 3000 - len(x))))), SPEECH[:2000]),
            (lambda x: as_float(x / (10 * abs(x).max() if abs(x).max() < 0.5 else 1)), SPEECH * 0.3),
        ],
        ids=["no louder than 1", "no shorter than 3000", "another scale where it is quiet"],
    )
    def test_a_writer_that_looks_at_the_audio(self, give: Any, writer: Any, odd: Any) -> None:
        """What one file showed holds for audio like it; once it does not, for none."""
        assert give(self.mono(SPEECH), writer)[1]
        assert not give(self.mono(SPEECH), writer)[1]
        file, written = give(self.mono(odd), writer)
        assert written and file.getvalue() == writer(odd)
        assert give(self.mono(SPEECH), writer)[1]

    @pytest.mark.parametrize(
        "writer",
        [
            lambda x: as_float(np.pad(x, (50, 0))),
            to_zero,
            dithered,
            lambda x: as_float(x * 2),
            lambda x: as_float(x)[:-2],
        ],
    )
    def test_a_file_for_ever_where_the_way_is_unknown(self, give: Any, writer: Any) -> None:
        for _ in range(3):
            file, written = give(self.mono(SPEECH), writer)
            assert written
            assert file.getvalue() == writer(SPEECH)
            assert file.tell() == 0

    @pytest.mark.parametrize(
        "array",
        [np.zeros(4000), SPEECH * 0.05, SPEECH[:900], abs(SPEECH), np.rint(SPEECH * 32768) / 32768],
        ids=["silence", "quiet", "short", "one-sided", "of 16 bits itself"],
    )
    @pytest.mark.parametrize("writer", [nearest, downwards])
    def test_nothing_is_learnt_from_what_does_not_tell(self, give: Any, writer: Any, array: Any) -> None:
        assert give(self.mono(array), writer)[1]
        assert give(self.mono(SPEECH), writer)[1], "nothing was learnt from the first"
        assert not give(self.mono(SPEECH), writer)[1]

    @pytest.mark.parametrize(
        "audio",
        [
            torch.from_numpy(SPEECH)[None].double(),
            torch.from_numpy(SPEECH),
            torch.from_numpy(SPEECH).reshape(2, -1),
            torch.from_numpy(SPEECH)[None].requires_grad_(),
            torch.from_numpy((SPEECH * 3000).astype(np.int16))[None],
            torch.from_numpy(EDGES)[None],
            torch.full((1, 2000), float("nan")),
            SPEECH[None],
        ],
        ids=["float64", "one dimension", "stereo", "with a gradient", "int16", "not finite", "nan", "no tensor"],
    )
    def test_a_file_for_what_is_no_plain_audio(self, give: Any, audio: Any) -> None:
        assert give(self.mono(SPEECH), as_float)[1]
        assert not give(self.mono(SPEECH), as_float)[1]
        file, written = give(audio, lambda x: b"RIFF")
        assert written
        assert file.read() == b"RIFF"

    def test_an_error_of_the_writer_is_the_error(self, give: Any) -> None:
        def fail(x: Any) -> bytes:
            raise OSError("no space")

        with pytest.raises(OSError, match="no space"):
            give(self.mono(SPEECH), fail)

    def test_soundfile(self, give: Any) -> None:
        soundfile: Any = pytest.importorskip("soundfile")

        def writer(x: Any) -> bytes:
            file = io.BytesIO()
            soundfile.write(file, x, 16000, format="WAV")
            return file.getvalue()

        for array in (SPEECH, EDGES[np.isfinite(EDGES)], SPEECH * 0.001):
            assert writer(array) == downwards(array)


class TestWarnWithoutCuda:
    CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

    @pytest.fixture
    def warn(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        onnxruntime = pytest.importorskip("onnxruntime")
        outcome = plan(FALLBACK, (REFERENCE / "tokenizer.py").read_bytes())
        assert outcome.kind == PLANNED
        code = outcome.after.decode()
        start = code.index("def _warn_without_cuda")
        namespace: dict[str, Any] = {"__name__": "tokenizer"}
        exec(code[start : code.index("\n\n\n", start)], namespace)

        def warn(providers: Any, has: list[str], available: list[str]) -> None:
            monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
            session = type("Session", (), {"get_providers": lambda self: has})()
            namespace["_warn_without_cuda"](session, providers)

        return warn

    @pytest.mark.parametrize("options", [False, True])
    @pytest.mark.parametrize(
        ("available", "why"),
        [([CUDA, CPU], "its libraries could not be loaded"), ([CPU], "this installation of ONNX Runtime has no CUDA")],
    )
    def test_says_why(self, warn: Any, caplog: Any, options: bool, available: list[str], why: str) -> None:
        warn([(self.CUDA, {"device_id": 0}) if options else self.CUDA, self.CPU], [self.CPU], available)
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("tokenizer", logging.WARNING)
        assert record.getMessage().startswith("the speech tokenizer runs on the CPU, slowly, and not on CUDA: ")
        assert why in record.getMessage()

    @pytest.mark.parametrize(
        ("providers", "has"),
        [([CUDA, CPU], [CUDA, CPU]), ([CPU], [CPU]), ([], [CPU]), (("CoreMLExecutionProvider",), [CPU])],
    )
    def test_says_nothing_where_all_is_as_it_was_asked_for(
        self, warn: Any, caplog: Any, providers: Any, has: Any
    ) -> None:
        warn(providers, has, [self.CUDA, self.CPU])
        assert not caplog.records
