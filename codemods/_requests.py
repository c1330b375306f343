"""What ``tokenizer_batch_queue`` writes: calls of ``wav2token`` that meet, and requests that a caller need not wait for.

The requests are :class:`concurrent.futures.Future` (https://docs.python.org/3/library/concurrent.futures.html). Not an executor
of that module: it would have to answer all that wait before the interpreter can end.
"""

DECORATOR, HELPER = "_meets_others", "_Requests"
HELPER_TEXT = '''
class _Requests:
    """Requests for tokens. Threads answer them in their order, and are there only while there are any.

    A request can be cancelled until a model begins with it.
    """

    LIMITS = {max_batch}, {max_seconds}, {wait_ms} / 1000  # in a batch: utterances, seconds of audio, wait for the next
    MOST_WAITING = {max_waiting}

    def __init__(self, together):
        import collections
        import os
        import threading

        self.together = together
        self.process = os.getpid()
        self.mutex = threading.RLock()  # for what follows
        self.waiting = collections.deque()
        self.answering = set()
        self.threads = set()
        self.is_closed = False

    @classmethod
    def of(cls, tokenizer):
        """Those of `tokenizer`: they end when it does, or the interpreter."""
        import weakref

        together = _Together.of(tokenizer)
        with together.mutex:
            if not hasattr(together, "requests"):
                together.requests = cls(together)
                weakref.finalize(tokenizer, together.requests.close)
            return together.requests

    def submit(self, function):
        """A concurrent.futures.Future of what `function` returns. Raises queue.Full where too many wait already."""
        import concurrent.futures
        import queue
        import threading

        future, function = concurrent.futures.Future(), self.together.as_here(function)
        with self.mutex:
            if self.is_closed:
                raise RuntimeError("there is nobody to answer any more: the interpreter ends")
            if len(self.waiting) >= self.MOST_WAITING:
                wanted = [request for request in self.waiting if not request[0].cancelled()]
                self.waiting.clear()
                self.waiting.extend(wanted)
            if len(self.waiting) >= self.MOST_WAITING:
                raise queue.Full(f"{{len(self.waiting)}} requests wait already")
            if len(self.threads) < self.LIMITS[0]:
                thread = threading.Thread(target=self._work, name="wav2token", daemon=True)
                thread.start()
                self.threads.add(thread)
            self.waiting.append((future, function))
        return future

    def result(self, function, seconds):
        """What `function` returns; TimeoutError where that is not there after so many seconds."""
        import concurrent.futures

        future = self.submit(function)
        try:
            if concurrent.futures.wait([future], seconds).not_done:
                raise TimeoutError(f"no tokens after {{seconds}} s")
            return future.result()
        finally:
            future.cancel()

    def _work(self):
        """Answer requests until none is left."""
        import threading

        while True:
            with self.mutex:
                if not self.waiting:
                    self.threads.discard(threading.current_thread())
                    return
                future, function = self.waiting.popleft()
                self.answering.add(future)
            self._answer(future, function)
            with self.mutex:
                self.answering.discard(future)
            del future, function  # they keep the tokenizer

    def _answer(self, future, function):
        import concurrent.futures
        import contextlib

        begun = []

        def begin():
            """From now on it is too late to cancel."""
            if not begun:
                begun.append(future.set_running_or_notify_cancel())
            if not begun[0]:
                raise concurrent.futures.CancelledError

        self.together.thread.begin = begin
        result = error = None
        try:
            if not future.cancelled():
                result = function()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(concurrent.futures.CancelledError):
            begin()
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    def close(self, seconds=10):
        """Cancel what no model has begun with, and wait for the rest, but not for long."""
        import os
        import threading
        import time

        if os.getpid() != self.process:  # a forked child has none of the threads
            return
        with self.mutex:
            self.is_closed = True
            futures = [*(future for future, _ in self.waiting), *self.answering]
            threads = self.threads - {{threading.current_thread()}}
        for future in futures:
            future.cancel()
        end = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(0, end - time.monotonic()))


def _meets_others(wav2token):
    """Calls of `wav2token` at the same time, each in a thread, use the tokenizer's models together: see _Together.

    A caller that is alone waits for nobody. timeout: after so many seconds TimeoutError is raised, and if no model has
    begun with the utterance, none will.
    """
    import functools

    @functools.wraps(wav2token)
    def call(self, *args, timeout=None, **options):
        if timeout is not None:
            return _Requests.of(self).result(functools.partial(call, self, *args, **options), timeout)
        together = _Together.of(self)
        if getattr(together.thread, "has_utterance", False):  # who made this thread has told the others
            return wav2token(self, *args, **options)
        together.expect(_Requests.LIMITS)
        together.thread.has_utterance = True
        try:
            return wav2token(self, *args, **options)
        finally:
            together.thread.has_utterance = False
            together.leave(_Requests.LIMITS)

    return call
'''
METHOD_TEXT = '''
def {name}_submit(self, audio, sample_rate, **options):
    """As `{name}`, but gives a concurrent.futures.Future of the tokens, for a caller that does not wait.

    It can be cancelled until a model begins with it. In a coroutine: `await asyncio.wrap_future(...)`. Raises queue.Full
    where {max_waiting} requests wait already.
    """
    import functools

    return _Requests.of(self).submit(functools.partial(self.{name}, audio, sample_rate, **options))
'''
