"""``wav2token_batch``: the same tokens as one by one, whatever the utterances; and what goes wrong stays with its own."""

from __future__ import annotations

import contextvars
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import BATCH, VQ02, alone, imported, maker, said, tree_with

torch = pytest.importorskip("torch")
numpy = pytest.importorskip("numpy")
SECONDS = (0.0, 0.01, 0.029, 0.03, 0.055, 0.1, 0.3, 0.6, 1.0, 1.0371, 1.28, 2.5, 3.0)


@pytest.fixture(scope="module")
def module(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    torch.set_num_threads(1)
    with imported(tree_with(tmp_path_factory.mktemp("batch") / "tree", VQ02, BATCH)) as found:
        yield found


@pytest.fixture
def make(module: Any, encoder_folder: Path) -> Callable[[], Any]:
    return maker(module, encoder_folder)


@pytest.fixture
def tokenizer(make: Callable[[], Any]) -> Iterator[Any]:
    found, threads = make(), threading.active_count()
    yield found
    assert threading.active_count() == threads
    together = vars(found).get("_together")
    assert together is None or (together.on_the_way, [*map(len, together.waiting.values())]) in (
        ([], []),
        ([], [0]),
        ([], [0, 0]),
    )


def speech(seconds: float, seed: int = 0) -> Any:
    import speech  # type: ignore[import-not-found]

    return speech.synthetic_speech(seconds, seed=seed)


def sizes(tokenizer: Any, module: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """From now on: of each batch that goes to a model, the seconds of audio of each utterance."""
    seen: dict[str, list[Any]] = {"vq02": [], "vq06": []}
    encode, run = module._AllChunksAtOnce.encode, type(tokenizer.ort_session).run

    def encoding(self: Any, utterances: Any, *settings: Any) -> Any:
        seen["vq02"].append([len(samples) / 16000 for samples in utterances])
        return encode(self, utterances, *settings)

    def running(self: Any, names: Any, feed: Any, *options: Any) -> Any:
        seen["vq06"].append([int(frames) / 100 for frames in list(feed.values())[1]])
        return run(self, names, feed, *options)

    monkeypatch.setattr(module._AllChunksAtOnce, "encode", encoding)
    monkeypatch.setattr(type(tokenizer.ort_session), "run", running)
    return seen


class TestSameTokens:
    @pytest.mark.parametrize("seed", range(6))
    def test_any_utterances(self, tokenizer: Any, seed: int) -> None:
        chance = random.Random(seed)
        items = []
        for number in range(chance.randrange(1, 14)):
            audio = speech(chance.choice(SECONDS) * chance.choice([1, 1, 0.913]), seed=number)
            audio = chance.choice(
                [audio, audio, audio, audio * 0, audio.repeat(2, 1), audio.double(), audio.short(), "audio"]
            )
            rate = chance.choice([16000, 16000, 16000, 24000, 8000])
            items.append((audio, rate))
        items += items[:2]
        options = {"enable_trim": chance.random() < 0.5, "energy_norm": chance.random() < 0.8}
        expected = [alone(tokenizer, *item, **options) for item in items]
        found = tokenizer.wav2token_batch(
            items, chance.choice([2, 5, 16]), chance.choice([1, 5, 120]), "return", **options
        )
        assert [said(result) for result in found] == expected

    def test_many_lengths(self, tokenizer: Any) -> None:
        items = [(speech(0.3 + n / 37, seed=n), 16000) for n in range(60)]
        assert tokenizer.wav2token_batch(items) == [alone(tokenizer, *item) for item in items]
        assert tokenizer.ort_session._is_batch_right is True

    def test_more_than_thirty_seconds(self, tokenizer: Any) -> None:
        """The second piece of 30.01 s is too short for a token."""
        lengths = [30.0, 30.01, 30.05, 1.0, 35.0, 61.0]
        items = [(speech(1.0, seed=n).repeat(1, 62)[:, : round(16000 * s)], 16000) for n, s in enumerate(lengths)]
        expected = [alone(tokenizer, *item, enable_trim=False) for item in items]
        assert tokenizer.wav2token_batch(items, enable_trim=False) == expected

    def test_no_utterance_and_one(self, tokenizer: Any) -> None:
        item = speech(1.0), 16000
        assert tokenizer.wav2token_batch([]) == []
        assert tokenizer.wav2token_batch([item]) == [alone(tokenizer, *item)]

    def test_anything_that_gives_items(self, tokenizer: Any) -> None:
        items = [[speech(0.5, seed=n), 16000] for n in range(3)]
        assert tokenizer.wav2token_batch(iter(items)) == [alone(tokenizer, *item) for item in items]

    def test_the_other_method_is_as_it_was(self, tokenizer: Any) -> None:
        """Also beside a session of the streaming kind."""
        whole, parts = speech(2.0), speech(1.5, seed=1)
        before = tokenizer.get_vq02_code(parts)
        first = tokenizer.get_vq02_code(parts[:, :9000], session_id="a", is_final=False)
        tokenizer.wav2token_batch([(whole, 16000)] * 3)
        assert first + tokenizer.get_vq02_code(parts[:, 9000:], session_id="a") == before
        assert tokenizer.wav2token(whole, 16000) == tokenizer.wav2token_batch([(whole, 16000)])[0]


class TestBatches:
    def test_limits(self, tokenizer: Any, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = sizes(tokenizer, module, monkeypatch)
        tokenizer.ort_session._is_batch_right = True
        items = [(speech(seconds, seed=n), 16000) for n, seconds in enumerate([1, 3, 2, 1, 8, 1, 1, 2, 1])]
        tokenizer.wav2token_batch(items, max_items=3, max_seconds=5.5, enable_trim=False)
        assert sorted(map(sorted, seen["vq02"])) == [[1, 1, 1], [1, 1, 2], [2, 3], [8]]
        assert sorted(map(sorted, seen["vq06"])) == [[1, 1], [1, 1, 1], [2], [2, 3], [8]]

    def test_one_batch_each(self, tokenizer: Any, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = sizes(tokenizer, module, monkeypatch)
        tokenizer.ort_session._is_batch_right = True
        tokenizer.wav2token_batch([(speech(1 + n / 50, seed=n), 16000) for n in range(12)])
        assert [len(batch) for batch in seen["vq02"]] == [12]
        assert [len(batch) for batch in seen["vq06"]] == [12]

    def test_the_short_are_not_padded_to_the_length_of_the_long(
        self, tokenizer: Any, module: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = sizes(tokenizer, module, monkeypatch)
        tokenizer.ort_session._is_batch_right = True
        tokenizer.wav2token_batch(
            [(speech(s, seed=n), 16000) for n, s in enumerate([9, 1, 9.2, 1.1])], enable_trim=False
        )
        assert sorted(map(sorted, seen["vq06"])) == [[1, 1.1], [9, 9.2]]

    @pytest.mark.parametrize("arguments", [{"errors": "ignore"}, {"max_items": 0}])
    def test_wrong_arguments(self, tokenizer: Any, arguments: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(arguments))):
            tokenizer.wav2token_batch([], **arguments)


class TestErrors:
    BAD = ((None, 16000), (1, 2, 3, 4, 5, 6), 7, (torch.zeros(1, 16000), None), (torch.zeros(1, 16000), 0))

    def test_come_in_the_place_of_tokens(self, tokenizer: Any) -> None:
        good = [(speech(0.7, seed=n), 16000) for n in range(4)]
        items = [good[0], *self.BAD[:3], *good[1:], *self.BAD[3:]]
        found = tokenizer.wav2token_batch(items, errors="return")
        for item, result in zip(items, found):
            if any(item is bad for bad in self.BAD):
                assert isinstance(result, Exception)
                assert not isinstance(item, tuple) or len(item) != 2 or said(result) == alone(tokenizer, *item)
            else:
                assert result == alone(tokenizer, *item)

    def test_or_stop_it(self, tokenizer: Any) -> None:
        items = [(speech(0.7), 16000), (None, 16000), (speech(0.7), 16000), (torch.zeros(1, 1600), None)]
        with pytest.raises(AttributeError, match="NoneType"):
            tokenizer.wav2token_batch(items)

    def test_a_batch_that_fails_is_computed_one_by_one(
        self, tokenizer: Any, module: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when memory does for one and not for several; what fails by itself fails for itself only."""
        encode = module._AllChunksAtOnce.encode

        def encoding(self: Any, utterances: Any, *settings: Any) -> Any:
            if len(utterances) > 1 or len(utterances[0]) == 12000:
                raise MemoryError(f"{len(utterances)} utterances")
            return encode(self, utterances, *settings)

        items = [(speech(seconds, seed=n), 16000) for n, seconds in enumerate([0.5, 0.75, 1.0])]
        expected = [alone(tokenizer, *item, enable_trim=False) for item in items]
        monkeypatch.setattr(module._AllChunksAtOnce, "encode", encoding)
        found = tokenizer.wav2token_batch(items, errors="return", enable_trim=False)
        assert [found[0], said(found[1]), found[2]] == [expected[0], "MemoryError: 1 utterances", expected[2]]


class Session:
    """An ONNX session of another kind."""

    def __init__(self, session: Any, shape: Any = "B", leaks: bool = False) -> None:
        self.session, self.shape, self.leaks = session, shape, leaks
        self.sizes: list[int] = []

    def get_inputs(self) -> Any:
        inputs = self.session.get_inputs()
        return [type("Input", (), {"name": i.name, "shape": [self.shape, *i.shape[1:]]}) for i in inputs]

    def run(self, names: Any, feed: Any, options: Any = None) -> Any:
        (frames, feats), (length, lengths) = feed.items()
        self.sizes.append(len(feats))
        if self.leaks == "fails" and len(feats) > 1:
            raise RuntimeError("Reshape: a batch of one")
        if self.leaks:
            lengths = numpy.full_like(lengths, feats.shape[2])
            feats = feats + 1e-3 * numpy.arange(feats.shape[2], dtype=numpy.float32)[::-1]
        return self.session.run(names, {frames: feats, length: lengths}, options)


class TestModels:
    @pytest.fixture
    def items(self) -> list[Any]:
        return [(speech(1 + n / 10, seed=n), 16000) for n in range(5)]

    def test_a_fixed_batch_dimension(self, tokenizer: Any, items: list[Any]) -> None:
        expected = tokenizer.wav2token_batch(items)
        tokenizer.ort_session = Session(tokenizer.ort_session, shape=1)
        assert tokenizer.wav2token_batch(items) == expected
        assert tokenizer.ort_session.sizes == [1] * 5

    @pytest.mark.parametrize("leaks", [True, "fails"])
    def test_a_model_that_does_not_leave_padding_out(self, tokenizer: Any, items: list[Any], leaks: Any) -> None:
        """It shows in the first batch, whose tokens are those that the utterances have alone."""
        tokenizer.ort_session = Session(tokenizer.ort_session, leaks=leaks)
        expected = [alone(tokenizer, *item) for item in items]
        tokenizer.ort_session.sizes.clear()
        assert tokenizer.wav2token_batch(items) == expected
        assert sorted(tokenizer.ort_session.sizes) == [1] * 5 + [5]
        assert tokenizer.wav2token_batch(items) == expected
        assert sorted(tokenizer.ort_session.sizes) == [1] * 10 + [5]

    def test_batches_of_one_length_prove_nothing(self, tokenizer: Any) -> None:
        tokenizer.ort_session = Session(tokenizer.ort_session, leaks=True)
        items = [(speech(1, seed=n), 16000) for n in range(3)]
        tokenizer.wav2token_batch(items, enable_trim=False)
        assert not hasattr(tokenizer.ort_session, "_is_batch_right")

    def test_a_session_that_takes_something_else(self, tokenizer: Any) -> None:
        seen = []

        class Other(Session):
            def run(self, names: Any, feed: Any, options: Any = None) -> Any:
                seen.append((names, sorted(feed), options))
                return ["tokens"]

        tokenizer.ort_session = Other(tokenizer.ort_session)
        tokenizer.wav2token_batch([(None, 0)], errors="return")
        feed = {"audio": numpy.zeros((2, 5), numpy.float32)}
        assert tokenizer.ort_session.run(None, feed, run_options="x") == ["tokens"]
        assert tokenizer.ort_session.run(output_names=["codes"], input_feed=feed) == ["tokens"]
        assert seen == [(None, ["audio"], "x"), (["codes"], ["audio"], None)]

    def test_models_that_come_later_or_anew(self, make: Callable[[], Any], items: list[Any]) -> None:
        tokenizer, other = make(), make()
        expected = tokenizer.wav2token_batch(items)
        tokenizer.ort_session, tokenizer.funasr_model = other.ort_session, other.funasr_model
        assert tokenizer.wav2token_batch(items) == expected
        assert vars(tokenizer.ort_session)["_together"] is tokenizer._together
        tokenizer.funasr_model = None
        with pytest.raises(AttributeError, match="infer_encoder"):
            tokenizer.wav2token_batch(items)

    def test_without_all_chunks_at_once(
        self, tokenizer: Any, module: Any, items: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = tokenizer.wav2token_batch(items)
        monkeypatch.setattr(module._AllChunksAtOnce, "option", lambda model: {})
        assert tokenizer.wav2token_batch(items) == expected

    def test_they_are_not_kept(self, make: Callable[[], Any], items: list[Any]) -> None:
        """A model that the tokenizer lets go of is gone at once: its memory may be a GPU's."""
        import gc
        import weakref

        tokenizer = make()
        tokenizer.wav2token_batch(items)
        gc.collect()
        gc.disable()
        try:
            tokenizer.wav2token_batch(items)
            gone = [weakref.ref(tokenizer.ort_session), weakref.ref(tokenizer.funasr_model.model)]
            tokenizer.ort_session = tokenizer.funasr_model = None
            assert [reference() for reference in gone] == [None, None]
        finally:
            gc.enable()


class TestThreads:
    def test_modes_are_those_of_the_caller(self, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        seen, word = [], contextvars.ContextVar("word", default="")
        preprocess = tokenizer.preprocess_wav

        def preprocessing(*arguments: Any) -> Any:
            seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled(), word.get()))
            return preprocess(*arguments)

        tokenizer.preprocess_wav = preprocessing
        word.set("of the caller")
        items = [(speech(0.5, seed=n), 16000) for n in range(3)]
        tokenizer.wav2token_batch(items)
        with torch.no_grad():
            tokenizer.wav2token_batch(items)
        with torch.inference_mode():
            tokenizer.wav2token_batch(items)
        assert {mode[2] for mode in seen} == {"of the caller"}
        assert [mode[:2] for mode in seen] == [(True, False)] * 3 + [(False, False)] * 3 + [(False, True)] * 3

    def test_autocast_stays_in_this_thread(self, tokenizer: Any) -> None:
        seen = set()
        preprocess = tokenizer.preprocess_wav
        tokenizer.preprocess_wav = lambda *arguments: seen.add(threading.get_ident()) or preprocess(*arguments)
        with torch.autocast("cpu", torch.bfloat16):
            tokenizer.wav2token_batch([(speech(0.5, seed=n), 16000) for n in range(3)], errors="return")
        assert seen == {threading.get_ident()}

    def test_no_thread_to_be_had(self, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def start(self: Any) -> None:
            raise RuntimeError("can't start new thread")

        items = [(speech(0.5, seed=n), 16000) for n in range(3)]
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(RuntimeError, match="can't start"):
                tokenizer.wav2token_batch(items)
        assert tokenizer.wav2token_batch(items) == [alone(tokenizer, *item) for item in items]

    def test_two_at_the_same_time(self, tokenizer: Any) -> None:
        from concurrent.futures import ThreadPoolExecutor

        lists = [[(speech(0.4 + n / 7, seed=n), 16000) for n in range(start, start + 6)] for start in (0, 3, 6)]
        expected = [[alone(tokenizer, *item) for item in items] for items in lists]
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(tokenizer.wav2token_batch, lists)) == expected

    def test_warnings_are_as_they_are_one_by_one(self, tokenizer: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tokenizer.wav2token_batch([(speech(0.5, seed=n), 16000) for n in range(3)])
