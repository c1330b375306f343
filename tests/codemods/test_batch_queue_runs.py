"""The queue: many callers get the tokens they would get alone; who gives up, fails or ends costs the others nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import random
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from running import ALL, alone, imported, maker, said, tree_with

torch = pytest.importorskip("torch")
SOON = 20  # seconds that nothing here takes


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree_with(tmp_path_factory.mktemp("queue") / "tree", *ALL, max_batch=4, max_seconds=20, max_waiting=6)


@pytest.fixture(scope="module")
def module(tree: Path) -> Iterator[Any]:
    torch.set_num_threads(1)
    with imported(tree) as found:
        yield found


@pytest.fixture
def make(module: Any, encoder_folder: Path) -> Callable[[], Any]:
    return maker(module, encoder_folder)


@pytest.fixture
def tokenizer(make: Callable[[], Any]) -> Iterator[Any]:
    found, threads = make(), set(threading.enumerate())
    yield found
    for thread in set(threading.enumerate()) - threads:
        thread.join(SOON)
    assert set(threading.enumerate()) <= threads
    together = vars(found).get("_together")
    assert together is None or not (together.on_the_way or any(together.waiting.values()))


def speech(seconds: float, seed: int = 0) -> Any:
    import speech  # type: ignore[import-not-found]

    return speech.synthetic_speech(seconds, seed=seed)


class Gate:
    """The encoder, which waits until it is let through; ``encoded`` has the samples of the utterances of each batch."""

    def __init__(self, module: Any, patch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.encoded: list[list[int]] = []
        encode = module._AllChunksAtOnce.encode

        def encoding(model: Any, utterances: Any, *settings: Any) -> Any:
            self.encoded.append([len(samples) for samples in utterances])
            self.reached.set()
            assert self.open.wait(SOON)
            return encode(model, utterances, *settings)

        patch.setattr(module._AllChunksAtOnce, "encode", encoding)

    def lengths(self) -> list[int]:
        return sorted(length for batch in self.encoded for length in batch)


@pytest.fixture
def gate(module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    found = Gate(module, monkeypatch)
    yield found
    found.open.set()


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def sample(seconds: float, seed: int = 0) -> tuple[Any, int]:
    return speech(seconds, seed), 16000


class TestCallers:
    @pytest.mark.parametrize("seed", range(3))
    def test_sixteen_threads(self, tokenizer: Any, seed: int) -> None:
        """They come at any time, with anything; some of it is wrong."""
        chance = random.Random(seed)
        lengths = (0.0, 0.01, 0.03, 0.1, 0.4, 0.6, 1.0371, 2.5, 31.0 * (seed == 1))
        calls = [[(speech(chance.choice(lengths), seed=10 * i + n), 16000) for n in range(3)] for i in range(16)]
        for bad in [(None, 16000), (torch.zeros(1, 1600), None), (torch.zeros(2, 3, 4), 16000)]:
            calls[chance.randrange(16)].append(bad)
        expected = [[alone(tokenizer, *item) for item in own] for own in calls]
        pauses = [[chance.choice([0, 0, 0.001, 0.02]) for _ in own] for own in calls]

        def client(number: int) -> list[Any]:
            found = []
            for item, pause in zip(calls[number], pauses[number]):
                time.sleep(pause)
                try:
                    found.append(tokenizer.wav2token(*item))
                except Exception as error:
                    found.append(said(error))
            return found

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(client, range(16))) == expected

    def test_they_meet(self, tokenizer: Any, gate: Gate) -> None:
        with ThreadPoolExecutor(9) as pool:
            first = pool.submit(tokenizer.wav2token, *sample(1))
            assert gate.reached.wait(SOON)
            others = [pool.submit(tokenizer.wav2token, *sample(0.5 + n / 10, n)) for n in range(8)]
            wait_until(lambda: len(tokenizer._together.on_the_way) == 9)
            gate.open.set()
            found = [future.result() for future in (first, *others)]
        assert found == [alone(tokenizer, *sample(1)), *(alone(tokenizer, *sample(0.5 + n / 10, n)) for n in range(8))]
        assert [len(batch) for batch in gate.encoded][:3] == [1, 4, 4]

    def test_most_seconds_in_a_batch(self, tokenizer: Any, gate: Gate) -> None:
        with ThreadPoolExecutor(4) as pool:
            pool.submit(tokenizer.wav2token, *sample(1))
            assert gate.reached.wait(SOON)
            for n in range(3):
                pool.submit(tokenizer.wav2token, *sample(11, n), enable_trim=False)
            wait_until(lambda: len(tokenizer._together.on_the_way) == 4)
            gate.open.set()
        assert [len(batch) for batch in gate.encoded] == [1, 1, 1, 1]

    def test_one_alone_waits_for_nobody(self, tokenizer: Any, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def wait(*_: Any) -> None:
            raise AssertionError("waits")

        monkeypatch.setattr(module._Together, "_wait", wait)
        before = threading.active_count()
        assert tokenizer.wav2token(*sample(1)) == alone(tokenizer, *sample(1))
        assert tokenizer(speech(1), 16000) == tokenizer.merge_vq0206_to_token_str(*alone(tokenizer, *sample(1))[1:])
        assert threading.active_count() == before

    def test_parts_of_an_utterance_go_their_own_way(self, tokenizer: Any) -> None:
        parts = speech(3.0, seed=5)
        expected, stop = tokenizer.get_vq02_code(parts), threading.Event()

        def client(number: int) -> None:
            while not stop.is_set():
                tokenizer.wav2token(*sample(0.5, number))

        with ThreadPoolExecutor(3) as pool:
            clients = [pool.submit(client, number) for number in range(3)]
            found = []
            for start in range(0, 48000, 5000):
                piece = parts[:, start : start + 5000]
                found += tokenizer.get_vq02_code(piece, session_id="a", is_final=start + 5000 >= 48000)
            stop.set()
            for future in clients:
                future.result()
        assert found == expected

    def test_beside_a_batch(self, tokenizer: Any) -> None:
        items = [sample(0.4 + n / 9, n) for n in range(9)]
        expected = [alone(tokenizer, *item) for item in items]
        with ThreadPoolExecutor(4) as pool:
            batches = [pool.submit(tokenizer.wav2token_batch, items) for _ in range(2)]
            singles = list(pool.map(lambda item: tokenizer.wav2token(*item), items))
            assert [singles, *(future.result() for future in batches)] == [expected] * 3

    def test_calls_of_another_kind_are_not_computed_together(self, module: Any) -> None:
        """As of a model that has been loaded anew meanwhile, or of a caller in inference mode."""
        together, lock, limits = module._Together(), threading.Lock(), (2, 100, SOON)

        def ask(kind: str) -> Any:
            with lock:
                together.thread.has_utterance = True
                try:
                    return together._call(lock, kind, 7, 1.0, lambda values: [(kind, value) for value in values])
                finally:
                    together.leave(limits)

        together.expect(limits, 2)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(ask, "first")
            wait_until(lambda: together.waiting.get(id(lock)))
            assert pool.submit(ask, "second").result() == ("second", 7)
            assert first.result(SOON / 2) == ("first", 7)

    def test_an_error_of_the_model_is_its_own_caller_s(self, tokenizer: Any, module: Any, monkeypatch: Any) -> None:
        encode = module._AllChunksAtOnce.encode

        def encoding(self: Any, utterances: Any, *settings: Any) -> Any:
            if any(len(samples) == 8000 for samples in utterances):
                raise RuntimeError("half a second is too short")
            return encode(self, utterances, *settings)

        expected = [alone(tokenizer, *sample(s), enable_trim=False) for s in (1, 0.7)]
        monkeypatch.setattr(module._AllChunksAtOnce, "encode", encoding)

        def call(seconds: float) -> Any:
            return tokenizer.wav2token(*sample(seconds), enable_trim=False)

        with ThreadPoolExecutor(3) as pool:
            for _ in range(5):
                good, bad, other = (pool.submit(call, seconds) for seconds in (1, 0.5, 0.7))
                with pytest.raises(RuntimeError, match="too short"):
                    bad.result()
                assert [good.result(), other.result()] == expected

    def test_an_interrupt_in_the_thread_that_computes(self, tokenizer: Any, module: Any, monkeypatch: Any) -> None:
        """As by Ctrl-C: the others compute for themselves."""
        expected = [alone(tokenizer, *sample(0.6, number)) for number in range(3)]
        encode, interrupted = module._AllChunksAtOnce.encode, []

        def encoding(self: Any, utterances: Any, *settings: Any) -> Any:
            if len(utterances) > 1 and not interrupted:
                interrupted.append(len(utterances))
                raise KeyboardInterrupt
            return encode(self, utterances, *settings)

        monkeypatch.setattr(module._AllChunksAtOnce, "encode", encoding)
        found: dict[int, Any] = {}

        def client(number: int) -> None:
            try:
                found[number] = tokenizer.wav2token(*sample(0.6, number))
            except KeyboardInterrupt:
                found[number] = "interrupted"

        for _ in range(20):
            if interrupted:
                break
            threads = [threading.Thread(target=client, args=(number,)) for number in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(SOON)
        results = [found[number] for number in range(3)]
        assert results.count("interrupted") == 1
        assert all(a in (b, "interrupted") for a, b in zip(results, expected))


class TestRequests:
    def test_answers(self, tokenizer: Any) -> None:
        items = [sample(0.3 + n / 10, n) for n in range(6)]
        futures = [tokenizer.wav2token_submit(*item) for item in items]
        assert [future.result(SOON) for future in futures] == [alone(tokenizer, *item) for item in items]
        assert tokenizer.wav2token_submit(*items[0], enable_trim=False).result(SOON) == alone(
            tokenizer, *items[0], enable_trim=False
        )

    def test_exceptions(self, tokenizer: Any) -> None:
        for item in [(None, 16000), (torch.zeros(1, 160), None)]:
            assert said(tokenizer.wav2token_submit(*item).exception(SOON)) == alone(tokenizer, *item)
        with pytest.raises(TypeError):
            tokenizer.wav2token_submit(speech(1))

    def test_in_a_coroutine(self, tokenizer: Any) -> None:
        items = [sample(0.3 + n / 10, n) for n in range(5)]

        async def gather() -> Any:
            return await asyncio.gather(*(asyncio.wrap_future(tokenizer.wav2token_submit(*item)) for item in items))

        assert asyncio.run(gather()) == [alone(tokenizer, *item) for item in items]

    def test_one_that_is_cancelled_is_not_computed(self, tokenizer: Any, gate: Gate) -> None:
        """Also where it waits in front of the encoder already. One that the encoder has begun with cannot be cancelled."""
        begun = tokenizer.wav2token_submit(*sample(1), enable_trim=False)
        assert gate.reached.wait(SOON)
        kept, dropped = (tokenizer.wav2token_submit(*sample(s), enable_trim=False) for s in (0.7, 0.5))
        wait_until(lambda: len(tokenizer._together.on_the_way) == 3)
        assert dropped.cancel()
        assert not begun.cancel()
        gate.open.set()
        assert [f.result(SOON) for f in (begun, kept)] == [
            alone(tokenizer, *sample(s), enable_trim=False) for s in (1, 0.7)
        ]
        with pytest.raises(CancelledError):
            dropped.result(SOON)
        assert set(gate.lengths()) == {16000, 11200}

    def test_many_that_are_cancelled(self, tokenizer: Any) -> None:
        chance = random.Random(0)
        expected = {n: alone(tokenizer, *sample(0.3 + n / 20, n)) for n in range(20)}
        kept = {}
        for n in range(20):
            while n not in kept:
                try:
                    kept[n] = tokenizer.wav2token_submit(*sample(0.3 + n / 20, n))
                except queue.Full:
                    time.sleep(0.002)
            if chance.random() < 0.5:
                kept[chance.choice(list(kept))].cancel()
        for n, future in kept.items():
            try:
                assert future.result(SOON) == expected[n]
            except CancelledError:
                assert future.cancelled()

    def test_a_time_limit(self, tokenizer: Any, gate: Gate) -> None:
        begun = tokenizer.wav2token_submit(*sample(1), enable_trim=False)
        assert gate.reached.wait(SOON)
        start = time.monotonic()
        with pytest.raises(TimeoutError, match=r"no tokens after 0\.05 s"):
            tokenizer.wav2token(*sample(0.5), enable_trim=False, timeout=0.05)
        assert time.monotonic() - start < SOON / 2
        gate.open.set()
        assert begun.result(SOON) == alone(tokenizer, *sample(1), enable_trim=False)
        assert tokenizer.wav2token(*sample(0.7), timeout=SOON) == alone(tokenizer, *sample(0.7))
        assert 8000 not in gate.lengths()

    def test_an_error_is_not_a_time_limit(self, tokenizer: Any) -> None:
        tokenizer.preprocess_wav = lambda *_: (_ for _ in ()).throw(TimeoutError("of the checkout's own"))
        with pytest.raises(TimeoutError, match="of the checkout's own"):
            tokenizer.wav2token(*sample(0.5), timeout=SOON)

    def test_too_many(self, tokenizer: Any, gate: Gate) -> None:
        """Four are being answered and six wait; one that is cancelled makes room."""
        futures = [tokenizer.wav2token_submit(*sample(0.5)) for _ in range(4)]
        wait_until(lambda: not tokenizer._together.requests.waiting)
        futures += [tokenizer.wav2token_submit(*sample(0.5)) for _ in range(6)]
        with pytest.raises(queue.Full, match="6 requests wait already"):
            tokenizer.wav2token_submit(*sample(0.5))
        assert futures[7].cancel()
        futures.append(tokenizer.wav2token_submit(*sample(0.5)))
        with pytest.raises(queue.Full):
            tokenizer.wav2token_submit(*sample(0.5))
        gate.open.set()
        expected = alone(tokenizer, *sample(0.5))
        assert [f.result(SOON) for f in futures if not f.cancelled()] == [expected] * 10

    def test_the_end(self, tokenizer: Any, gate: Gate) -> None:
        """What has begun comes to its end, the rest is cancelled."""
        begun = tokenizer.wav2token_submit(*sample(1))
        assert gate.reached.wait(SOON)
        futures = [tokenizer.wav2token_submit(*sample(0.5)) for _ in range(8)]
        closing = threading.Thread(target=tokenizer._together.requests.close)
        closing.start()
        for future in futures:
            with pytest.raises(CancelledError):
                future.result(SOON)
        gate.open.set()
        closing.join(SOON)
        assert not closing.is_alive()
        assert len(gate.encoded) == 1
        assert begun.result(0) == alone(tokenizer, *sample(1))
        with pytest.raises(RuntimeError, match="the interpreter ends"):
            tokenizer.wav2token_submit(*sample(0.5))
        assert tokenizer.wav2token(*sample(0.5)) == alone(tokenizer, *sample(0.5))

    def test_the_tokenizer_goes_when_nobody_has_it(self, make: Callable[[], Any]) -> None:
        tokenizer = make()
        tokenizer.wav2token_submit(*sample(0.5)).result(SOON)
        requests, gone = tokenizer._together.requests, weakref.ref(tokenizer)
        wait_until(lambda: not requests.threads)
        gc.collect()
        gc.disable()
        try:
            del tokenizer
            assert gone() is None
        finally:
            gc.enable()
        assert requests.is_closed

    def test_the_answer_comes_also_when_nobody_has_the_tokenizer(self, make: Callable[[], Any]) -> None:
        future = make().wav2token_submit(*sample(0.5))
        assert future.result(SOON) == alone(make(), *sample(0.5))


LOAD = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore")
tree, folder = sys.argv[1:]
sys.path.insert(0, tree)
import torch
torch.set_num_threads(1)
from speech import synthetic_speech
from tokenizer import StepAudioTokenizer
assert threading.active_count() == 1
tokenizer = StepAudioTokenizer(folder)
expected = tokenizer.wav2token(synthetic_speech(0.5), 16000)
assert threading.active_count() == 1
"""
EXIT = """
futures = [tokenizer.wav2token_submit(synthetic_speech(20, seed=n), 16000) for n in range(10)]
while not any(future.running() for future in futures):
    time.sleep(0.001)
print("ends", flush=True)
"""
FORK = """
preprocess, arrived, go = tokenizer.preprocess_wav, [threading.Event() for _ in "12"], threading.Event()
def wait_on_the_way(*args, **options):
    arrived[0].set()
    assert go.wait(60)
    return preprocess(*args, **options)
def hold_the_lock():
    with tokenizer.vq02_lock:
        arrived[1].set()
        assert go.wait(60)
tokenizer.preprocess_wav = wait_on_the_way
sound, results = synthetic_speech(0.5), []
threads = [threading.Thread(target=lambda: results.append(tokenizer.wav2token(sound, 16000)))]
threads.append(threading.Thread(target=hold_the_lock))
for thread, event in zip(threads, arrived):
    thread.start()
    assert event.wait(60)
tokenizer.preprocess_wav = preprocess
child = os.fork()
if not child:
    torch.set_num_threads(1)  # makes PyTorch's own pool anew, which threads that start at once do not: "Invalid thread pool!"
    results.append(tokenizer.wav2token(sound, 16000))
    own = [threading.Thread(target=lambda: results.append(tokenizer.wav2token(sound, 16000))) for _ in "123"]
    for thread in own:
        thread.start()
    for thread in own:
        thread.join(20)
    results.append(tokenizer.wav2token_submit(sound, 16000).result(20))
    os._exit(0 if results == [expected] * 5 else 1)
code = os.waitpid(child, 0)[1]
go.set()
for thread in threads:
    thread.join()
results.append(tokenizer.wav2token_submit(sound, 16000).result(20))
print(code, results == [expected] * 2)
"""


class TestProcess:
    def run(self, script: str, tree: Path, folder: Path) -> str:
        command = [sys.executable, "-c", LOAD + script, str(tree), str(folder)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")
        return ran.stdout

    def test_the_interpreter_ends_while_requests_wait(self, tree: Path, encoder_folder: Path) -> None:
        assert self.run(EXIT, tree, encoder_folder) == "ends\n"

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_a_forked_child_waits_for_nobody(self, tree: Path, encoder_folder: Path) -> None:
        """In the parent one utterance is on the way, and one thread has a lock: these threads are not in the child."""
        assert self.run(FORK, tree, encoder_folder) == "0 True\n"
