"""What Dynamo makes of a program: the graphs that it hands to a backend, and the places where it has to stop (graph breaks).

Breaks come from two sources, since in no version of torch one of them has all: ``torch._dynamo.utils.graph_break_reasons``, where
a graph ends and the function goes on in another one; and the log ``graph_breaks``
(https://docs.pytorch.org/docs/stable/logging.html), also where the function is left to Python (a break in a loop or in ``try``).
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from time import perf_counter
from types import FrameType
from typing import Any, NamedTuple, Optional

LOG = ".__graph_breaks"
PLACE = re.compile(r"in user code at (.+):(\d+)\n(?:Graph Break )?Reason: (.*)", re.DOTALL)
FRAME = re.compile(r'^ *File "(.+)", line (\d+), in ', re.MULTILINE)
STACK = re.compile(r"^User code traceback:|^Traceback ", re.MULTILINE)
EXPLANATION = re.compile(r"^ *Explanation: (.+)", re.MULTILINE)
NO_REASON = re.compile(r"generic_jump|step_unsupported")
"""What graph_break_reasons says where only the log says why."""
BRANCH = "a branch that depends on a tensor's values"
RESUME = "what follows cannot be gone on with after a break (in try, with)"
Place = tuple[str, int]


class Note(NamedTuple):
    """What was said of one break: where, the frames that led there (outermost first), and why."""

    place: Place
    stack: Sequence[Place]
    reason: str


def note_of(record: logging.LogRecord) -> Optional[Note]:
    """A line of the log; ``None`` for one that names no place."""
    text = record.getMessage()
    named = PLACE.search(text)
    stack = [(name, int(line)) for name, line in FRAME.findall(text[text.index("\n") :] if "\n" in text else "")]
    if named:
        return Note((named[1], int(named[2])), stack, reason_of(STACK.split(named[3])[0]))
    error = record.exc_info[1] if record.exc_info else None
    return Note(stack[-1], stack, reason_of(str(error or ""))) if stack else None


def reason_of(text: str) -> str:
    """Why, in one line: what Dynamo calls it, and its explanation. What only says that it is the end of a graph is left out."""
    parts = [part.strip() for part in text.split("\n\n") if part.strip()]
    first = next((part for part in parts if not part.splitlines()[0].endswith(":")), "")
    explained = EXPLANATION.search(first)
    name = first.splitlines()[0] if first else ""
    return f"{name}: {explained[1]}" if explained else name


class CompilerFailed(BaseException):
    """Not caught by a program that catches its own errors."""


class Watch:
    """Counts what is compiled while it is on. ``backend`` is to be given to :func:`torch.compile`.

    ``roots`` are the folders whose files are named from there, by what to put before the name; the first is the user's own.
    After ``budget`` seconds no further graph is compiled.
    """

    def __init__(self, backend: str, roots: Mapping[str, str], budget: float = math.inf) -> None:
        import torch._dynamo

        self.graphs = self.again = self.operators = 0
        self.roots = {os.path.join(os.path.realpath(root), ""): name for root, name in roots.items()}
        self._compile = torch._dynamo.lookup_backend(backend)
        self._notes: list[Note] = []
        self._budget, self._began = budget, perf_counter()
        self._start = len(_reasons())

    def __enter__(self) -> Watch:
        self._handler = _Handler(self._notes)
        names = [name for name in logging.root.manager.loggerDict if name.endswith(LOG)]
        self._loggers = [logging.getLogger(name) for name in names]
        self._before = [(logger.level, logger.propagate) for logger in self._loggers]
        for logger in self._loggers:
            logger.addHandler(self._handler)
            logger.setLevel(logging.DEBUG)
            logger.propagate = False
        return self

    def __exit__(self, *exception: object) -> None:
        for logger, (level, propagate) in zip(self._loggers, self._before):
            logger.removeHandler(self._handler)
            logger.setLevel(level)
            logger.propagate = propagate

    def backend(self, graph: Any, inputs: Any) -> Any:
        """Compile one graph. Raises :class:`CompilerFailed` when the time is over."""
        if self.left() < 0:
            raise CompilerFailed(
                f"no end within {self._budget:g} s, {self.graphs} graphs so far; --timeout SECONDS for more"
            )
        self.graphs += 1
        self.again += _is_again()
        self.operators += sum(node.op.startswith("call_") for node in graph.graph.nodes)
        return self._compile(graph, inputs)

    def left(self) -> float:
        """Seconds."""
        return self._budget - (perf_counter() - self._began)

    def breaks(self) -> list[dict[str, Any]]:
        """Each place: its line, the last line of the user's own that led there, why, and how often. In the order of the program."""
        times: Counter[Place] = Counter()
        said: dict[Place, Note] = {}
        for reason in _reasons()[self._start :]:
            stack = [(frame.filename, frame.lineno) for frame in reason.user_stack]
            if stack:
                times[stack[-1]] += 1
                said.setdefault(stack[-1], Note(stack[-1], stack, _plain(reason.reason)))
        listed = set(times)
        for note in self._notes:
            times[note.place] += note.place not in listed
            known = said.setdefault(note.place, note)
            better = note.reason or known.reason
            said[note.place] = known._replace(reason=better, stack=max(known.stack, note.stack, key=len))
        return [self._told(said[place], count) for place, count in times.items()]

    def _told(self, note: Note, times: int) -> dict[str, Any]:
        own = [place for place in (*note.stack, note.place) if self._is_own(place[0])]
        return {
            "place": self.name(note.place),
            "from": self.name(own[-1]) if own else "",
            "reason": note.reason,
            "times": times,
        }

    def _is_own(self, path: str) -> bool:
        return os.path.realpath(path).startswith(next(iter(self.roots)))

    def name(self, place: Place) -> str:
        """``file:line``, the file from the checkout's root or the folder of the libraries on; no path of this machine."""
        path = os.path.realpath(place[0])
        for root, name in self.roots.items():
            if path.startswith(root):
                return f"{name}{path[len(root) :].replace(os.sep, '/')}:{place[1]}"
        return f"{os.path.basename(path)}:{place[1]}"


class _Handler(logging.Handler):
    def __init__(self, notes: list[Note]) -> None:
        super().__init__()
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        note = note_of(record)
        if note:
            self.notes.append(note._replace(stack=[*_running(), *note.stack]))


def _running() -> list[Place]:
    """The lines of all that runs now, outermost first: Dynamo's stacks begin with the function that it looks at."""
    found: list[Place] = []
    frame: Optional[FrameType] = sys._getframe()
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return found[::-1]


def _plain(reason: str) -> str:
    if NO_REASON.match(reason):
        return BRANCH if reason.startswith("generic_jump") else RESUME
    return reason_of(reason)


def _reasons() -> Sequence[Any]:
    utils = sys.modules["torch._dynamo"].utils
    found: Sequence[Any] = getattr(utils, "graph_break_reasons", ())
    return found


def _is_again() -> bool:
    """Whether the function that is being compiled was compiled before (its second part is how often)."""
    import torch._guards

    current: Any = getattr(torch._guards.CompileContext, "current_compile_id", lambda: None)()
    return bool(getattr(current, "frame_compile_id", 0))
