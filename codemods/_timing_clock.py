"""The clock that ``_timing`` writes into a checkout, from the line below on. It runs on Python 3.8 and later, and needs nothing."""

from time import perf_counter_ns as _now
from time import sleep as _sleep
from time import strftime as _strftime


class _Stage:
    """A stage of the work, from `start` to `stop`; for one thread, and not for what calls itself."""

    __slots__ = ("began", "cells", "gpu", "launches", "limit", "name", "ns", "number", "phase", "seen", "within")

    def __init__(self, name, number, within, phase, launches):
        self.name, self.number, self.within, self.phase, self.launches = name, number, within, phase, launches
        self.began, self.gpu = 0, None

    def put(self, cells, seen):
        """Say where it adds up: calls by the number of bits of their nanoseconds, from 64 on their sum and the longest."""
        self.cells, self.seen, self.ns, self.limit = cells, seen, cells[64], -1

    def start(self):
        self.began = _now()

    def stop(self, value=None):
        """Gives `value` back, so that it can stand around what is returned."""
        took = _now() - self.began
        cells = self.cells
        self.ns = cells[64] = self.ns + took
        cells[took.bit_length()] += 1
        if took > self.limit:  # the longest so far, but where all of them are looked at
            self.limit = self.seen(self, took)
        return value

    def over(self, items):
        """`items`; the stage is the time that each of them takes to come."""
        self.start()
        for item in items:
            self.stop()
            yield item
            self.start()

    def __reduce__(self):  # what is sent elsewhere by value, as notebooks do, is not timed there
        return _NoStage, ()


class _NoStage:
    """A stage that is not timed; and in the place of a clock, one that times nothing."""

    def start(self):
        pass

    def stop(self, value=None):
        return value

    def over(self, items):
        return items

    def laps(self, items, steps=1):
        return items

    def stage(self, name, **others):
        return self


class _GpuStage(_Stage):
    """A stage that gives a GPU work: its own time is that of the launch, and CUDA events tell how long the GPU was at it."""

    __slots__ = ()

    def start(self):
        self.began = _now()
        self._try(self.gpu.start)

    def stop(self, value=None):
        self._try(self.gpu.stop)
        return _Stage.stop(self, value)

    def _try(self, function):
        try:
            function()
        except Exception:  # an older PyTorch, a GPU in trouble
            self.launches, self.__class__ = False, _Stage


class _Events:
    """Pairs of CUDA events, used again once it is known what lies between. Nobody waits for the GPU before `collect`."""

    MOST = 10000

    def __init__(self, cuda):
        self.cuda, self.first, self.pairs, self.free = cuda, None, [], []

    def start(self):
        is_wanted = len(self.pairs) < self.MOST and not self.cuda.is_current_stream_capturing()
        self.first = self._recorded() if is_wanted else None

    def stop(self):
        if self.first is not None:
            self.pairs.append((self.first, self._recorded()))

    def _recorded(self):
        event = self.free.pop() if self.free else self.cuda.Event(enable_timing=True)
        event.record()
        return event

    def collect(self):
        """Nanoseconds and calls since the last time; the GPU has to be done with them."""
        pairs, self.pairs = self.pairs, []
        self.free += [event for pair in pairs for event in pair]
        return int(sum(first.elapsed_time(last) for first, last in pairs) * 1e6), len(pairs)


class _Timing:
    """How long the stages of this program take, in all its processes.

    Each process adds up in a place of its own, in memory that they share. It locks the place, so that it is free again when
    the process ends, in whatever way; the next one adds to what is there. No call is lost.

    APPLY_OPT_TIMING=0 turns it off, APPLY_OPT_TIMING_LANGUAGE=en writes English, APPLY_OPT_TIMING_DIR=FOLDER keeps a JSON
    file there, and APPLY_OPT_TIMING_EVENTS=1000 the last 1000 calls of each process in it, for a trace viewer.
    """

    PLACES, STAGES, NAME = 64, 32, 64
    CELLS = 68  # of a stage: calls by length, ns, longest, ns and calls on a device
    HEAD = 1 + STAGES * NAME // 8  # processes without a place; names
    EVERY, MOST_EVENTS = 10, 10000
    TITLE = ("性能分析统计", "Stages of the work")
    WORDS = (
        ("环节名称", "总计", "调用", "次", "平均", "中位", "占比", "主进程", "子进程", "未计入的进程", "总耗时"),
        (
            "stage",
            "total",
            "calls",
            "x",
            "mean",
            "median",
            "share",
            "main",
            "workers",
            "processes not counted",
            "total",
        ),
    )
    PHASES = (("validation", ("验证耗时", "validation")), ("training", ("训练耗时", "training")))

    def __init__(self):
        import os

        self.stages, self.laps_done, self.has_laps, self.path = [], [], False, None
        self.tables, self.is_waiting = 0, True
        self.is_on = os.environ.get("APPLY_OPT_TIMING", "1").lower() not in ("0", "off", "no", "false")
        self.is_on = self.is_on and bool(self._safely(self._begin))

    def _begin(self):
        """What there is to be done where it is on."""
        import atexit
        import os

        events = os.environ.get("APPLY_OPT_TIMING_EVENTS", "")
        self.most = min(int(events), self.MOST_EVENTS) if events.isdecimal() else 0
        self.ring = self.STAGES * self.CELLS  # of a place: behind its stages
        self.length = self.ring + 1 + 3 * self.most
        self.size = 8 * (self.HEAD + self.PLACES * self.length)
        self._safely(self._share, self._alone)
        self._take_place()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._in_child)
        if self.is_first:
            atexit.register(self._at_exit)
        return True

    @staticmethod
    def _safely(function, instead=None):
        """Timing must not be what ends a training."""
        try:
            return function()
        except Exception:
            return instead() if instead else None

    # Memory

    def _share(self):
        """The memory: of this process, or of the one that started it, where it has not been inherited (spawn, forkserver)."""
        import os
        from multiprocessing import process

        is_child = process.parent_process() is not None or getattr(process.current_process(), "_inheriting", False)
        self.is_first = not is_child
        self._map(self._file_above(os.getppid()) if is_child else self._new_file(self._name(os.getpid())))

    def _map(self, file):
        import mmap

        self.cells = memoryview(mmap.mmap(file, self.size)).cast("q")
        self.file = file

    @staticmethod
    def _name(process):
        return "timing-{}-{}".format(__name__.replace("__mp_main__", "__main__"), process)

    def _file_above(self, process):
        """The file of the process that started this one, or of one further up: a fork server has none."""
        import os
        import tempfile

        if not hasattr(os, "memfd_create"):
            return os.open(os.path.join(tempfile.gettempdir(), self._name(process)), os.O_RDWR)
        while process:
            folder, wanted = f"/proc/{process}/fd", f"/memfd:{self._name(process)} "
            for path in (os.path.join(folder, file) for file in os.listdir(folder)):
                try:
                    if os.readlink(path).startswith(wanted):
                        return os.open(path, os.O_RDWR)
                except OSError:  # closed meanwhile
                    pass
            with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
                process = int(file.read().rpartition(")")[2].split()[1])
        raise FileNotFoundError("timing")

    def _new_file(self, name):
        """Memory that has a name, and goes with the last process that has it open; else a file, while this process runs."""
        import atexit
        import os
        import tempfile

        if hasattr(os, "memfd_create"):
            file = os.memfd_create(name)
        else:
            maker, path = os.getpid(), os.path.join(tempfile.gettempdir(), name)
            if os.path.lexists(path):  # of a process that was killed, and had this number
                os.remove(path)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            atexit.register(lambda: os.getpid() == maker and os.remove(path))
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, self.size)  # where there is no room, this fails; to write into a hole kills
        else:
            os.truncate(file, self.size)
        return file

    def _alone(self):
        """Memory of this process and those that it forks, where no file can be had."""
        import mmap

        self.file = -1
        self.cells = memoryview(mmap.mmap(-1, self.size)).cast("q")

    def _take_place(self):
        """A place that no living process has. A process without one counts for itself alone, and the table says so."""
        self.place = self._safely(self._free_place, lambda: 0 if self.is_first else None)
        self.cells[0] += self.place is None
        for stage in self.stages:
            self._put(stage)

    def _in_child(self):
        self.is_first = False
        for stage in self.stages:  # CUDA is its parent's
            stage.gpu, stage.__class__ = None, _Stage
        self._safely(self._take_place)

    def _free_place(self):
        import fcntl

        for place in range(self.PLACES):
            try:
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                return place
            except (BlockingIOError, PermissionError):
                pass
        return None

    def _of(self, place, number):
        """The cells of a stage in a place."""
        at = self.HEAD + place * self.length + number * self.CELLS
        return self.cells[at : at + self.CELLS]

    def _put(self, stage):
        from array import array

        if self.place is None:
            stage.put(array("q", bytes(8 * self.CELLS)), self._longest)
        else:
            stage.put(self._of(self.place, stage.number), self._keep if self.most else self._longest)

    # Stages

    def stage(self, name, within="", phase="", launches=False):
        """The stage called `name`, a part of the stage `within`, and of epochs' `phase`; one that `launches` work of a GPU."""
        number = self._safely(lambda: self._number(name)) if self.is_on else None
        if number is None:
            return _NoStage()
        stage = _Stage(name, number, within, phase, launches)
        self.stages.append(stage)
        self._put(stage)
        return stage

    def _names(self):
        text = bytes(self.cells[1 : self.HEAD])
        return [text[at : at + self.NAME].rstrip(b"\0").decode() for at in range(0, len(text), self.NAME)]

    def _number(self, name):
        """Its number in all processes; `ValueError` where there are too many stages."""
        names = self._names()
        if name in names:
            return names.index(name)
        number = names.index("")
        at = 8 + number * self.NAME
        self.cells.cast("B")[at : at + self.NAME] = name.encode()[: self.NAME].ljust(self.NAME, b"\0")
        return number

    @staticmethod
    def _longest(stage, took):
        stage.cells[65] = max(took, stage.cells[65])
        return stage.cells[65]

    def _keep(self, stage, took):
        """Write the call that has just ended into the ring of the last ones: process and stage, start, length."""
        import os

        stage.cells[65] = max(took, stage.cells[65])
        ring = self.HEAD + self.place * self.length + self.ring
        at = ring + 1 + 3 * (self.cells[ring] % self.most)
        self.cells[at] = os.getpid() * self.STAGES + stage.number
        self.cells[at + 1], self.cells[at + 2] = stage.began, took
        self.cells[ring] += 1
        return -1

    # Laps

    def laps(self, items, steps=1):
        """`items`, each of them an epoch, or `steps` of them together: after each, how long it took is written.

        After the first and every tenth, and at the end, the table is.
        """
        return self._laps(items, steps) if self.stages else items

    def _at_exit(self):
        """The table of a program without laps; `is_first` is not so in its children."""
        if self.is_first and not self.has_laps and any(stage.ns for stage in self.stages):
            self._tell(self._sums(), 1)

    def _laps(self, items, steps):
        self._safely(self._begin_laps)
        count = 0
        try:
            for count, item in enumerate(items, 1):
                yield item
                if count % steps == 0:
                    self._safely(lambda: self._end_lap(steps))
                    self.lap_began = _now()
        except GeneratorExit:  # left before its end; here perhaps, and not on other ranks
            self._safely(lambda: self._tell(self._sums(), 1))
            raise
        if len(self.laps_done) % self.EVERY != 1 or count % steps:
            self._safely(lambda: self._tell(*self._of_all_ranks(wait=10)))

    def _begin_laps(self):
        """A child that has laps is a training of its own, such as a rank that was spawned: it gets memory of its own."""
        import os

        if not self.is_first and not self.has_laps:
            self._map(self._new_file(self._name(os.getpid())))
            for stage in self.stages:
                stage.number = self._number(stage.name)
            self._take_place()
        self.has_laps, self.lap_began, self.before = True, _now(), self._sums()

    def _end_lap(self, steps):
        """Write how long a lap took."""
        self._safely(self._collect)
        number, after = len(self.laps_done), self._sums()
        lap = {"number": number, "seconds": (_now() - self.lap_began) / 1e9}
        name = f"Epoch {number}" if steps == 1 else f"Step {(number + 1) * steps}"
        lines = [f"\N{STOPWATCH}\N{VARIATION SELECTOR-16}  {name} {self._words()[-1]}: {lap['seconds']:.2f}s"]
        for phase, words in self.PHASES:
            names = [stage.name for stage in self.stages if stage.phase == phase]
            if names:
                lap[phase] = sum(after[name][64] - self.before[name][64] for name in names) / 1e9
                lines.append(f"    {words[self._is_english()]}: {lap[phase]:.2f}s")
        self.laps_done.append(lap)
        self.before = after
        if self._rank()[0] == 0:
            self._safely(lambda: self._print(lines))
        if number % self.EVERY == 0:
            self._tell(*self._of_all_ranks())

    def _collect(self):
        """Add up what a GPU has done, with one synchronisation. The first lap only finds out whether one is used."""
        import sys

        stages, cuda = [stage for stage in self.stages if stage.launches], sys.modules.get("torch.cuda")
        if stages and cuda and cuda.is_available() and cuda.is_initialized():
            cuda.synchronize()
            for stage in stages:
                if stage.gpu is None:
                    stage.gpu, stage.__class__ = _Events(cuda), _GpuStage
                took, calls = stage.gpu.collect()
                stage.cells[66] += took
                stage.cells[67] += calls

    def _sums(self):
        """For each stage the cells of all processes together, then calls of this one, and how many others have any."""
        sums = {}
        for number, name in enumerate(self._names()):
            if name:
                every = [self._of(place, number).tolist() for place in range(self.PLACES)]
                calls = [sum(cells[:64]) for cells in every]
                own = calls.pop(self.place or 0)
                sums[name] = [*self._added(every), own, sum(map(bool, calls))]
        return sums

    @staticmethod
    def _added(every):
        return [max(column) if i == 65 else sum(column) for i, column in enumerate(zip(*every))]

    @staticmethod
    def _rank():
        """This process's rank, and how many there are."""
        import os
        import sys

        ranks = sys.modules.get("torch.distributed")
        if ranks and ranks.is_available() and ranks.is_initialized():
            return ranks.get_rank(), ranks.get_world_size()
        rank = os.environ.get("RANK", "")
        return int(rank) if rank.isdigit() else 0, 1

    def _of_all_ranks(self, wait=2):
        """The sums of all ranks, and of how many: each leaves its own in the process group's store, and goes on.

        The first one waits some seconds for the others, until it has done so in vain. This is no collective: ranks that have
        fewer laps, or none, hold nobody up.
        """
        import json
        import sys

        (rank, ranks), own = self._rank(), self._sums()
        if ranks == 1:
            return own, 1
        store = sys.modules["torch.distributed"].distributed_c10d._get_default_store()
        self.tables += 1
        store.set(f"apply_opt_timing/{rank}", json.dumps([self.tables, own]))
        until = _now() + wait * 10**9 * self.is_waiting
        said = [self._said(store, other, until) for other in range(1, ranks if rank == 0 else 1)]
        every = [own, *(sums for _, sums in filter(None, said))]
        self.is_waiting = all(each and each[0] >= self.tables for each in said)
        names = dict.fromkeys(name for sums in every for name in sums)
        return {name: self._added([sums[name] for sums in every if name in sums]) for name in names}, len(every)

    def _said(self, store, rank, until):
        """The number of the last table of a rank, and its sums; nothing, where it has said nothing yet."""
        import json

        key = f"apply_opt_timing/{rank}"
        while True:
            said = json.loads(store.get(key)) if store.check([key]) else None
            if (said and said[0] >= self.tables) or _now() >= until:
                return said
            _sleep(0.05)

    # What is told

    @staticmethod
    def _is_english():
        """Where that is asked for, or the log cannot hold anything else."""
        import os
        import sys

        try:
            _Timing.TITLE[0].encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        except UnicodeError:
            return True
        return os.environ.get("APPLY_OPT_TIMING_LANGUAGE", "").lower().startswith("en")

    def _words(self):
        return self.WORDS[self._is_english()]

    @staticmethod
    def _print(lines):
        import sys

        text = "\n".join(lines) + "\n"
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()

    def _tell(self, sums, ranks):
        """The file, and the table; by one of the ranks."""
        if self._rank()[0] == 0:
            self._safely(lambda: self._write(sums, ranks))
            self._safely(lambda: self._print(self._table(sums, ranks)))

    def _own(self, sums):
        """Nanoseconds of each stage that none of its parts has."""
        within = {stage.name: stage.within for stage in self.stages}
        inside = {name: sum(sums[part][64] for part in sums if within.get(part) == name) for name in sums}
        return {name: max(0, cells[64] - inside[name]) for name, cells in sums.items()}

    def _table(self, sums, ranks):
        stage, total, calls, _, mean, median, share, main, workers, lost, _ = self._words()
        line, own = "=" * 60, self._own(sums)
        rows = []
        for name, cells in sorted(sums.items(), key=lambda item: -item[1][64]):
            count, who = sum(cells[:64]), [main] * bool(cells[68]) + [f"{cells[69]} {workers}"] * bool(cells[69])
            if count:
                middle, most = self._quantile(cells, 0.5), self._quantile(cells, 0.95)
                part = 100 * own[name] / (sum(own.values()) or 1)
                row = f"{self._row(name, cells[64], count)} | {median}: {middle:7.2f}ms | p95: {most:7.2f}ms"
                gpu = f" | GPU: {cells[66] / 1e9:.2f}s {cells[66] / cells[67] / 1e6:.2f}ms" if cells[67] else ""
                rows.append(f"{row} | {share}: {part:5.1f}% | {' + '.join(who)}{gpu}")
        head = " | ".join([f"{stage:40}", total, calls, mean, median, "p95", share])
        notes = [f"{lost}: {'?' if self.file < 0 else self.cells[0]}"] * bool(self.cells[0] or self.file < 0)
        every = self._rank()[1]
        notes += [f"ranks: {ranks}" if ranks == every else f"ranks: {ranks} / {every}"] * (every > 1)
        title = "\N{STOPWATCH}\N{VARIATION SELECTOR-16}  " + self.TITLE[self._is_english()]
        return [line, title, line, head, "-" * 60, *rows, line, *notes]

    def _row(self, name, ns, count):
        _, total, calls, times, mean, *_ = self._words()
        return f"{name:40} | {total}: {ns / 1e9:8.2f}s | {calls}: {count:6d}{times} | {mean}: {ns / count / 1e6:7.2f}ms"

    @staticmethod
    def _quantile(cells, part):
        """About how many milliseconds that part of the calls took at most: good to a factor of two."""
        left = part * sum(cells[:64])
        for bits, count in enumerate(cells[:64]):
            if count and count >= left:
                return min(2 ** (bits - 1 + left / count), cells[65]) / 1e6
            left -= count
        return 0.0

    def _write(self, sums, ranks):
        """The JSON file, which trace viewers (Perfetto, chrome://tracing) open, too."""
        import json
        import os

        folder = os.environ.get("APPLY_OPT_TIMING_DIR")
        if folder:
            os.makedirs(folder, exist_ok=True)
            name = _strftime(f"timing-%Y%m%d-%H%M%S-{os.getpid()}.json")
            self.path = self.path or os.path.join(folder, name)
            document = {"timing": 1, "ranks": ranks, "processes_not_counted": self.cells[0], "laps": self.laps_done}
            document["within"] = {stage.name: stage.within for stage in self.stages}
            document.update(stages=sums, traceEvents=self._trace())
            with open(self.path + ".part", "w", encoding="utf-8") as file:
                json.dump(document, file)
            os.replace(self.path + ".part", self.path)

    def _trace(self):
        """The last calls of each process of this rank as trace events; microseconds."""
        names, events = self._names(), []
        for place in range(self.PLACES if self.most else 0):
            ring = self.HEAD + place * self.length + self.ring
            for i in range(min(self.cells[ring], self.most)):
                where, began, took = self.cells[ring + 1 + 3 * i : ring + 4 + 3 * i].tolist()
                process, number = divmod(where, self.STAGES)
                event = {"name": names[number], "ph": "X", "pid": process, "tid": process}
                events.append(dict(event, ts=began / 1e3, dur=took / 1e3))
        return sorted(events, key=lambda event: event["ts"])


_timing = _Timing()
