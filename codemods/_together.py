"""What ``tokenizer_offline_batch`` writes: a place where threads meet to use the tokenizer's two models together.

The tokenizer's own methods run as they are, each utterance in a thread of its own. Only what they ask of a model is done for
several at once: ``infer_encoder``, whose ``_AllChunksAtOnce`` takes a list, and ONNX Runtime's ``run``, with utterances of
different lengths padded and ``feats_length`` saying how long each is, as S3Tokenizer does it
(https://github.com/xingchensong/S3Tokenizer).
"""

HELPER, CALL = "_Together", "_ModelCall"
HELPER_TEXT = '''
class _ModelCall:
    """What a thread asks of a model, and waits with for others that ask the same of it."""

    def __init__(self, kind, value, seconds, thread):
        import threading

        self.kind, self.value, self.seconds = kind, value, seconds
        self.has_utterance = getattr(thread, "has_utterance", False)
        self.begin = getattr(thread, "begin", None)  # to be called first; raises where nobody wants the result any more
        self.woken, self.is_timed = threading.Event(), False
        self.is_over, self.results, self.error = False, [], None


class _Together:
    """Where threads that tokenize an utterance each meet, to use the tokenizer's two models together.

    The tokenizer's methods call a model for one utterance, and hold the model's lock. Here such a call waits for those of
    the other threads that are on the way, and lets go of the lock meanwhile, so that they can come in too (as
    threading.Condition does). Then one of the threads has the model compute for all. All else is as it is for one.
    """

    def __init__(self):
        import os
        import weakref

        self._begin(locks=[])
        this = weakref.ref(self)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=lambda: this() and this()._begin(this().locks))

    def _begin(self, locks):
        """No utterance is on the way: at first, and in a forked child, which has none of the threads that were here."""
        import threading

        vars(self).clear()
        self.locks = locks
        for lock in locks:
            lock._at_fork_reinit()
        self.mutex = threading.Lock()  # for the next two
        self.on_the_way = []  # for each utterance: most utterances, most seconds of audio, seconds to wait for the next
        self.waiting = {}  # the calls that wait for others, by the lock that they need
        self.thread = threading.local()  # what a thread is at

    @classmethod
    def of(cls, tokenizer):
        """The one of `tokenizer`. From now on its models' calls come here."""
        import functools
        import weakref

        together = vars(tokenizer).get("_together") or vars(tokenizer).setdefault("_together", cls())
        for model, lock, name, call in (
            (tokenizer.{model}, tokenizer.{model_lock}, "infer_encoder", together._infer_encoder),
            (tokenizer.{session}, tokenizer.{session_lock}, "run", together._run),
        ):
            if model is not None and getattr(model, "_together", None) is not together:
                setattr(model, name, functools.partial(call, weakref.ref(model), lock))
                model._together = together
                together.locks.append(lock)
        return together

    # The threads

    def expect(self, limits, count=1):
        """`count` utterances are on the way; `leave` follows for each of them."""
        with self.mutex:
            self.on_the_way += [limits] * count

    def leave(self, limits):
        """An utterance is done, so that nobody is to wait for it."""
        with self.mutex:
            self.on_the_way.remove(limits)
            for calls in self.waiting.values():
                if calls and self._is_complete(calls):
                    calls[0].woken.set()

    def run_all(self, functions, limits):
        """(result, None) or (None, exception) of each of `functions`, which run side by side, each in a thread."""
        from concurrent.futures import ThreadPoolExecutor

        left = []

        def run(function):
            self.thread.has_utterance = True
            try:
                return function(), None
            except Exception as error:
                return None, error
            finally:
                self.thread.has_utterance = False
                left.append(self.leave(limits))

        self.expect(limits, len(functions))
        try:
            if len(functions) == 1:
                return [run(functions[0])]
            with ThreadPoolExecutor(len(functions)) as pool:
                return list(pool.map(run, map(self.as_here, functions)))
        finally:
            for _ in functions[len(left) :]:  # there was no thread to be had
                self.leave(limits)

    @staticmethod
    def as_here(function):
        """`function`, for another thread to call, in the context and the modes of PyTorch that this thread is in."""
        import contextlib
        import contextvars

        import torch

        context = contextvars.copy_context()
        inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

        def call():
            with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
                with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                    return context.run(function)

        return call

    @staticmethod
    def in_batches(items, max_items, max_seconds):
        """The numbers of `items`, (audio, sample_rate), in batches of about the same length, the longest first."""
        import torch

        def seconds(number):
            try:
                audio, sample_rate = items[number]
                return audio.shape[-1] / sample_rate
            except Exception:  # whoever tokenizes it will see what is wrong with it
                return 0

        # Autocast and a default device hold for one thread only.
        product = torch.ones(1, 1) @ torch.ones(1, 1)
        if torch.is_autocast_enabled() or product.dtype != torch.float32 or product.device.type != "cpu":
            max_items = 1
        batches, total = [], 0
        for number in sorted(range(len(items)), key=seconds, reverse=True):
            total += seconds(number)
            if not batches or len(batches[-1]) == max_items or total > max_seconds:
                batches.append([])
                total = seconds(number)
            batches[-1].append(number)
        return batches

    # A model's call

    def _call(self, lock, kind, value, seconds, compute):
        """The one result of `compute([value])`. Calls of the same `kind` are computed together."""
        if not self.on_the_way:
            return compute([value])[0]
        call, is_late = _ModelCall(kind, value, seconds, self.thread), False
        with self.mutex:
            calls = self.waiting.setdefault(id(lock), [])
            calls.append(call)
        try:
            while not call.is_over:
                batch = self._next_batch(calls, call.kind, is_late)
                if batch:
                    self._compute(batch, compute)
                else:
                    is_late = self._wait(calls, call, lock)
        finally:
            with self.mutex:
                if call in calls:  # an interrupt
                    calls.remove(call)
                if calls and not calls[0].is_timed:
                    calls[0].woken.set()
        if call.error:
            raise call.error
        return call.results[0] if call.results else compute([value])[0]

    def _limits(self):
        return [max(values) for values in zip((1, 0, 0), *self.on_the_way)]

    def _is_complete(self, calls):
        """Whether nobody else will come to `calls`, or no more would fit."""
        most, most_seconds, _ = self._limits()
        if len(calls) >= most or sum(call.seconds for call in calls) >= most_seconds:
            return True
        waiting = sum(call.has_utterance for others in self.waiting.values() for call in others)
        return max(len(calls), waiting) >= len(self.on_the_way)

    def _next_batch(self, calls, kind, is_late):
        """The calls of this kind to compute now, taken from `calls`; none, where others are to be waited for."""
        with self.mutex:
            if not calls or not (is_late or self._is_complete(calls)):
                return []
            most, most_seconds, _ = self._limits()
            batch, seconds = [], 0
            for call in [call for call in calls if call.kind == kind]:
                seconds += call.seconds
                if not batch or (len(batch) < most and seconds <= most_seconds):
                    batch.append(call)
            calls[:] = [call for call in calls if call not in batch]
            return batch

    def _wait(self, calls, call, lock):
        """Let others have the lock until woken. The first one looks at the time: gives whether nobody came in time."""
        with self.mutex:
            call.is_timed, come = calls[:1] == [call], len(calls)
            seconds = self._limits()[2] if call.is_timed else None
        lock.release()
        try:
            is_woken = call.woken.wait(seconds)
        finally:
            lock.acquire()
        call.woken.clear()
        return not is_woken and len(calls) == come

    @staticmethod
    def _compute(batch, compute):
        """Have a model compute for a batch of calls. Where that fails, each computes its own, and has its own error."""
        wanted = []
        try:
            for call in batch:
                try:
                    if call.begin:
                        call.begin()
                    wanted.append(call)
                except Exception as error:
                    call.error = error
            results = compute([call.value for call in wanted]) if wanted else []
            for call, result in zip(wanted, results):
                call.results.append(result)
        except Exception as error:
            if len(wanted) == 1:
                wanted[0].error = error
        finally:
            for call in batch:
                call.is_over = True
                call.woken.set()

    # The two models

    def _infer_encoder(self, funasr_model, lock, /, *args, **kwargs):
        """As the model's own. An `_AllChunksAtOnce` that it is given encodes for several threads."""
        import functools
        import weakref

        funasr_model, encoder = funasr_model(), kwargs.get("model")
        if hasattr(encoder, "encode"):
            encoder.encode = functools.partial(self._encode, weakref.ref(encoder), lock)
        return type(funasr_model).infer_encoder(funasr_model, *args, **kwargs)

    def _encode(self, encoder, lock, utterances, *settings):
        """As the encoder's own, for one utterance (samples,)."""
        import torch

        encoder = encoder()

        def compute(utterances):
            return type(encoder).encode(encoder, utterances, *settings)

        if len(utterances) != 1:
            return compute(utterances)
        stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None
        kind = id(encoder.model), id(settings[0]), str(settings[1:]), torch.is_inference_mode_enabled(), stream
        return [self._call(lock, kind, utterances[0], len(utterances[0]) / settings[0].fs, compute)]

    def _run(self, session, lock, /, output_names, input_feed, run_options=None):
        """As the session's own, for the log-mel frames (1, n_mels, frames) of an utterance, and how many they are (1,)."""
        session = session()

        def run(feed):
            return type(session).run(session, output_names, feed, run_options)

        shapes = [getattr(array, "shape", ()) for array in input_feed.values()]
        is_one = len(shapes) == 2 and len(shapes[0]) == 3 and shapes[0][0] == 1 and shapes[1] == (1,)
        is_fixed = any(isinstance(value.shape[0], int) for value in session.get_inputs() if value.shape)
        if run_options or not is_one or is_fixed:
            return run(input_feed)
        (frames, _), inputs = input_feed.values(), tuple(input_feed)

        def compute(utterances):
            return self._run_all(session, run, inputs, utterances)

        return self._call(lock, (id(session), str(output_names), inputs), frames, frames.shape[2] / 100, compute)

    def _run_all(self, session, run, inputs, utterances):
        """What `run` gives for each utterance. Those of about the same length run as one, with zeros behind the shorter."""
        rest = sorted(range(len(utterances)), key=lambda i: utterances[i].shape[2])
        outputs = {}
        while rest:
            longest = 1.25 * utterances[rest[0]].shape[2] + 50
            group = [i for i in rest if utterances[i].shape[2] <= longest]
            rest = rest[len(group) :]
            outputs.update(zip(group, self._run_similar(session, run, inputs, [utterances[i] for i in group])))
        return [outputs[i] for i in range(len(utterances))]

    def _run_similar(self, session, run, inputs, utterances):
        """As `_run_all`, for one group. The first one shows whether the model leaves out what is behind an utterance."""
        import numpy

        lengths = numpy.array([utterance.shape[2] for utterance in utterances], dtype=numpy.int32)
        is_right = getattr(session, "_is_batch_right", None)
        alone = []
        if len(utterances) == 1 or not is_right:
            alone = [run(dict(zip(inputs, (utterance, lengths[i : i + 1])))) for i, utterance in enumerate(utterances)]
        if len(utterances) == 1 or is_right is False:
            return alone
        padded = numpy.zeros((len(utterances), utterances[0].shape[1], lengths.max()), dtype=numpy.float32)
        for row, utterance in zip(padded, utterances):
            row[:, : utterance.shape[2]] = utterance[0]
        try:
            (codes,) = run(dict(zip(inputs, (padded, lengths))))
        except Exception:
            if is_right:
                raise
            codes = []
        outputs = [[row[None, : -(-length // 4)]] for row, length in zip(codes, lengths)]  # a code for four frames
        is_same = len(outputs) == len(alone) and all(numpy.array_equal(a[0], b[0]) for a, b in zip(alone, outputs))
        if alone and (not is_same or lengths.min() < lengths.max()):
            session._is_batch_right = is_same
        return alone or outputs
'''
METHOD_TEXT = '''
def {name}_batch(self, items, max_items=16, max_seconds=120, errors="raise", **options):
    """Tokenize utterances: what `{name}` gives for each of `items`, (audio, sample_rate), in their order.

    Utterances of about the same length go through the models together, at most `max_items` with at most `max_seconds`
    of audio at a time; the tokens are the same as one by one.
    errors: "raise" the first exception and stop, or "return" exceptions in the place of tokens.
    options: further arguments of `{name}`, for all.
    """
    if errors not in ("raise", "return") or max_items < 1:
        raise ValueError(f"errors={{errors!r}} (raise or return), max_items={{max_items}} (at least 1)")
    items, results = list(items), {{}}
    for numbers in _Together.in_batches(items, max_items, max_seconds):
        calls = [lambda item=items[number]: self.{name}(*item, **options) for number in numbers]
        found = _Together.of(self).run_all(calls, (max_items, max_seconds, 1.0))
        for number, (result, error) in sorted(zip(numbers, found), key=lambda pair: pair[0]):
            if error and errors == "raise":
                raise error
            results[number] = error or result
    return [results[number] for number in range(len(items))]
'''
