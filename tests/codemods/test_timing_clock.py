"""The clock that timings write: what it adds up is exact, whatever becomes of the processes, and it never ends a training."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import replaced
from support import ROOT

CLOCK = ROOT / "codemods/_timing_clock.py"
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory without a file")
DATA = """
class Items:
    def __len__(self):
        return 6

    def __getitem__(self, index):
        _item.start()
        _part.start()
        value = float(index)
        _part.stop()
        return _item.stop(value)
"""
STAGES = '_item = _timing.stage("00_TOTAL_item")\n_part = _timing.stage("01_part", within="00_TOTAL_item")\n'


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, with a clock of its own."""
    spec = importlib.util.spec_from_file_location("_clock_under_test", CLOCK)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    module._timing.stages.clear()  # so that nothing is told at the end


def run(folder: Path, script: str, data: str = DATA, places: int = 64, **environment: str) -> str:
    """What a program with a timed data set says."""
    text = replaced(
        CLOCK.read_text(encoding="utf-8"), ("PLACES, STAGES, NAME = 64,", f"PLACES, STAGES, NAME = {places},")
    )
    (folder / "data.py").write_text(f"{data}\n{text}\n{STAGES}", encoding="utf-8")
    (folder / "train.py").write_text(textwrap.dedent(script), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("APPLY_OPT_", "COV_", "RANK"))}
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=folder,
        env={**kept, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def document(folder: Path) -> dict[str, Any]:
    """The JSON file that it left."""
    (file,) = (folder / "out").glob("*.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def calls(folder: Path) -> dict[str, int]:
    return {name: sum(cells[:64]) for name, cells in document(folder)["stages"].items()}


LOADERS = """
    import sys, torch
    import data
    if __name__ == "__main__":
        method, workers, persistent = sys.argv[1:] or ("{method}", "{workers}", "{persistent}")
        items = data.Items()
        options = {{"num_workers": int(workers)}}
        if int(workers):
            options.update(multiprocessing_context=method, persistent_workers=persistent == "yes")
        loader = torch.utils.data.DataLoader(items, batch_size=2, **options)
        for epoch in data._timing.laps(range(2)):
            for batch in loader:
                pass
"""


@LINUX
@pytest.mark.parametrize(
    ("method", "workers", "persistent"),
    [
        ("fork", 0, "no"),
        ("fork", 1, "no"),
        ("fork", 2, "no"),
        ("fork", 2, "yes"),
        ("spawn", 1, "no"),
        ("spawn", 2, "yes"),
        ("forkserver", 1, "yes"),
        ("forkserver", 2, "no"),
    ],
)
def test_no_call_is_lost(tmp_path: Path, method: str, workers: int, persistent: str) -> None:
    """However the loader's workers are started, and whether they stay."""
    pytest.importorskip("torch")
    script = LOADERS.format(method=method, workers=workers, persistent=persistent)
    said = run(tmp_path, script, APPLY_OPT_TIMING_DIR="out")
    assert calls(tmp_path) == {"00_TOTAL_item": 12, "01_part": 12}
    rows = [line for line in said.splitlines() if line.startswith("00_TOTAL_item")]
    assert len(rows) == 2  # after the first epoch, and at the end
    assert "调用:     12次" in rows[-1]
    assert ("子进程" in rows[-1]) == bool(workers)
    assert ("主进程" in rows[-1]) != bool(workers)


KILLED = """
    import multiprocessing, os, signal
    import data

    def work(channel, kill):
        for index in range(5):
            data.Items()[index]
        channel.send(True)
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)

    if __name__ == "__main__":
        context = multiprocessing.get_context("{method}")
        for epoch in data._timing.laps(range(2)):
            for kill in (True, False, True):
                mine, theirs = context.Pipe()
                child = context.Process(target=work, args=(theirs, kill))
                child.start(), mine.recv(), child.join()
                assert child.exitcode == (-9 if kill else 0)
"""


@LINUX
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_that_is_killed(tmp_path: Path, method: str) -> None:
    """What it has done stays, and its place is free for the next."""
    said = run(tmp_path, KILLED.format(method=method), APPLY_OPT_TIMING_DIR="out")
    assert calls(tmp_path) == {"00_TOTAL_item": 30, "01_part": 30}
    assert "1 子进程" in said
    assert document(tmp_path)["processes_not_counted"] == 0


MANY = """
    import os, time
    import data
    for epoch in data._timing.laps(range(1)):
        read, write = os.pipe()
        children = []
        for _ in range(4):
            child = os.fork()
            if not child:
                data.Items()[0]
                os.write(write, b"x")
                time.sleep(60)
            children.append(child)
            os.read(read, 1)
    for child in children:
        os.kill(child, 9)
"""


@LINUX
def test_more_workers_than_places(tmp_path: Path) -> None:
    """Those without one are told of, and go on working."""
    said = run(tmp_path, MANY, places=3, APPLY_OPT_TIMING_DIR="out")
    assert calls(tmp_path) == {"00_TOTAL_item": 2, "01_part": 2}  # of the main process's place, and two more
    assert document(tmp_path)["processes_not_counted"] == 2
    assert "未计入的进程: 2" in said


FAILS = {
    "no room": "os.posix_fallocate = lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device'))",
    "no locks": "import fcntl\nfcntl.lockf = lambda *_: (_ for _ in ()).throw(OSError(38, 'Function not implemented'))",
    "no memory file": "import tempfile\ndel os.memfd_create\ntempfile.tempdir = '/proc/nowhere'",
    "no fcntl": "sys.modules['fcntl'] = None",
}


@LINUX
@pytest.mark.parametrize("what", FAILS)
def test_what_the_machine_does_not_have(tmp_path: Path, what: str) -> None:
    """Then the main process is counted, and the table says how many are not."""
    script = """
        import data, os
        for epoch in data._timing.laps(range(1)):
            data.Items()[0]
            if not os.fork():
                data.Items()[0]
                os._exit(0)
            os.wait()
        print("trained")
    """
    said = run(tmp_path, script, f"import os, sys\n{FAILS[what]}\n{DATA}", APPLY_OPT_TIMING_DIR="out")
    assert said.endswith("trained\n")
    assert calls(tmp_path) == {"00_TOTAL_item": 1, "01_part": 1}
    assert "未计入的进程: 1" in said or (what in ("no room", "no memory file") and "未计入的进程: ?" in said)


@LINUX
def test_a_file_where_there_is_no_memory_file(tmp_path: Path) -> None:
    """It can be found by spawned workers, and is gone in the end."""
    script = KILLED.format(method="spawn")
    run(tmp_path, script, f"import os\ndel os.memfd_create\n{DATA}", APPLY_OPT_TIMING_DIR="out", TMPDIR=str(tmp_path))
    assert calls(tmp_path) == {"00_TOTAL_item": 30, "01_part": 30}
    assert not list(tmp_path.glob("timing-*"))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    script = "import data\nfor epoch in data._timing.laps(range(1)):\n    data.Items()[0]\nprint('trained')"
    said = run(tmp_path, script, APPLY_OPT_TIMING_DIR="out")
    assert "性能分析统计" in said
    assert said.endswith("trained\n")


def test_output_that_cannot_say_it(tmp_path: Path) -> None:
    """A log in ASCII, or a closed one, is no reason to fail."""
    script = "import data, sys\nfor epoch in data._timing.laps(range(2)):\n    data.Items()[0]\n    {}\nopen('trained', 'a').write('x')"
    assert "00_TOTAL_item" in run(tmp_path, script.format("pass"), PYTHONIOENCODING="ascii")
    assert "Epoch 1" not in run(tmp_path, script.format("sys.stdout.close() if epoch else None"))
    assert (tmp_path / "trained").read_text() == "xx"


def test_two_trainings_in_one_folder(tmp_path: Path) -> None:
    """One that is started from another has times, and a file, of its own."""
    script = """
        import data, subprocess, sys
        for epoch in data._timing.laps(range(1)):
            data.Items()[0]
            if len(sys.argv) == 1:
                subprocess.run([sys.executable, "train.py", "inner"], check=True)
                data.Items()[1]
    """
    run(tmp_path, script, APPLY_OPT_TIMING_DIR="out")
    files = [json.loads(file.read_text(encoding="utf-8")) for file in (tmp_path / "out").glob("*.json")]
    assert sorted(sum(file["stages"]["00_TOTAL_item"][:64]) for file in files) == [1, 2]


def test_off(tmp_path: Path) -> None:
    """Nothing is said, kept, or put around anything."""
    script = """
        import data, os
        assert type(data._item).__name__ == "_NoStage"
        epochs = range(2)
        assert data._timing.laps(epochs) is epochs and data._item.over(epochs) is epochs and data._item.stop(7) == 7
        data.Items()[0]
        assert not hasattr(data._timing, "file")
    """
    for off in ("0", "false", "OFF"):
        assert run(tmp_path, script, APPLY_OPT_TIMING=off, APPLY_OPT_TIMING_DIR="out") == ""
    assert not (tmp_path / "out").exists()


def test_the_commands_of_the_page(tmp_path: Path) -> None:
    """What is looked for in the log with grep is there, once for each epoch; the table after the first, the tenth, the last."""
    script = """
        import data
        validation, training = (data._timing.stage(phase, phase=phase) for phase in ("validation", "training"))
        for epoch in data._timing.laps(range(12)):
            for phase in (validation, training):
                phase.start(), phase.stop()
            data.Items()[0]
    """
    (tmp_path / "profile.log").write_text(run(tmp_path, script), encoding="utf-8")

    def grep(*arguments: str) -> list[str]:
        return subprocess.run(
            ["grep", *arguments, "profile.log"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=True
        ).stdout.splitlines()

    assert len(grep("Epoch.*总耗时")) == 12
    assert len(grep("耗时:")) == 36
    tables = grep("-A", "20", "性能分析统计")
    assert sum("性能分析统计" in line for line in tables) == 3
    assert sum("00_TOTAL_item" in line and "平均:" in line for line in tables) == 3


def test_english(tmp_path: Path) -> None:
    script = "import data\nfor epoch in data._timing.laps(range(1)):\n    data.Items()[0]"
    said = run(tmp_path, script, APPLY_OPT_TIMING_LANGUAGE="en")
    assert "Epoch 0 total:" in said
    assert "calls:      1x" in said
    assert said.replace("\N{STOPWATCH}\N{VARIATION SELECTOR-16}", "").isascii()


def test_a_program_without_laps(tmp_path: Path) -> None:
    """It has its table at its end, once, whatever it forks."""
    said = run(tmp_path, "import data, os\ndata.Items()[0]\nif os.fork():\n    os.wait()\n    print('trained')")
    assert said.startswith("trained\n")
    assert said.count("性能分析统计") == 1


def test_a_training_that_stops_early(tmp_path: Path) -> None:
    script = """
        import data
        for epoch in data._timing.laps(range(50)):
            data.Items()[0]
            if epoch == 3:
                break
        print("trained")
    """
    said = run(tmp_path, script)
    assert said.count("Epoch") == 3  # the fourth did not come to its end
    assert said.count("性能分析统计") == 2
    assert "调用:      4次" in said.rpartition("性能分析统计")[2]
    assert said.endswith("trained\n")


def test_steps_in_place_of_epochs(tmp_path: Path) -> None:
    script = "import data\nfor step in data._timing.laps(range(8), steps=3):\n    data.Items()[0]"
    said = run(tmp_path, script)
    assert [line.split()[1:3] for line in said.splitlines() if "Step" in line] == [["Step", "3"], ["Step", "6"]]
    assert "调用:      8次" in said.rpartition("性能分析统计")[2]


RANKS = """
    import os, subprocess, sys
    import torch.distributed as ranks
    import data

    def train(rank):
        ranks.init_process_group("gloo", init_method="file://" + os.path.abspath("store"), rank=rank, world_size=2)
        for epoch in data._timing.laps(range(2)):
            for index in range(3 + rank):
                data.Items()[index]
        ranks.destroy_process_group()

    if __name__ == "__main__":
        if len(sys.argv) > 1:
            train(int(sys.argv[1]))
        else:
            children = [subprocess.Popen([sys.executable, sys.argv[0], str(rank)]) for rank in range(2)]
            assert [child.wait() for child in children] == [0, 0]
"""


def test_ranks(tmp_path: Path) -> None:
    """One of them tells of all."""
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available():
        pytest.skip("PyTorch without torch.distributed")
    said = run(tmp_path, RANKS, APPLY_OPT_TIMING_DIR="out")
    assert said.count("性能分析统计") == 2
    assert said.count("总耗时") == 2
    assert "ranks: 2" in said
    assert "调用:     14次" in said
    assert document(tmp_path)["ranks"] == 2


ALONE = RANKS.replace(
    "for epoch in data._timing.laps(range(2)):", "for epoch in data._timing.laps(range(2 - rank)) if rank == 0 else ():"
)


def test_ranks_that_have_no_laps(tmp_path: Path) -> None:
    """Nobody waits for them for long, and they for nobody."""
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available():
        pytest.skip("PyTorch without torch.distributed")
    said = run(tmp_path, ALONE)
    assert "ranks: 1 / 2" in said
    assert "调用:      6次" in said


SPAWNED = """
    import multiprocessing
    import data

    def train(count):
        for epoch in data._timing.laps(range(1)):
            for index in range(count):
                data.Items()[index]

    if __name__ == "__main__":
        data.Items()[0]
        for count in (5, 7):
            child = multiprocessing.get_context("{method}").Process(target=train, args=(count,))
            child.start(), child.join()
"""


@LINUX
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_trainings_in_children(tmp_path: Path, method: str) -> None:
    """Each is one of its own, as ranks are that one process starts."""
    said = run(tmp_path, SPAWNED.format(method=method))
    assert [
        line.split("调用:")[1].split("次")[0].strip() for line in said.splitlines() if line.startswith("01_part")
    ] == ["5", "7", "1"]


def test_a_gpu_in_trouble(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is not timed any more, and no reason to fail."""
    cuda = Cuda()
    monkeypatch.setitem(sys.modules, "torch.cuda", cuda)
    stage = clock._timing.stage("20_forward", launches=True)
    for lap in clock._timing.laps(range(3)):
        stage.start(), stage.stop()
        if lap == 0:
            monkeypatch.setattr(cuda, "is_current_stream_capturing", lambda: 1 / 0)
    assert sum(clock._timing._sums()["20_forward"][:64]) == 3
    assert type(stage) is clock._Stage


def test_what_is_sent_by_value(clock: Any) -> None:
    """As notebooks send functions: it is not timed there."""
    import copy

    assert type(copy.deepcopy(clock._timing.stage("a"))) is clock._NoStage


@pytest.mark.parametrize("value", ["-5", "1e3", "²", "10" * 20, "x"])
def test_events_that_are_no_number(tmp_path: Path, value: str) -> None:
    script = "import data\nfor epoch in data._timing.laps(range(1)):\n    data.Items()[0]"
    assert "调用:      1次" in run(tmp_path, script, APPLY_OPT_TIMING_EVENTS=value)


def test_json_and_a_trace(tmp_path: Path) -> None:
    """The last calls of each process, one within the other, as trace viewers want them."""
    pytest.importorskip("torch")
    script = LOADERS.format(method="fork", workers=2, persistent="yes")
    run(tmp_path, script, APPLY_OPT_TIMING_DIR="out", APPLY_OPT_TIMING_EVENTS="4")
    found = document(tmp_path)
    assert found["within"] == {"00_TOTAL_item": "", "01_part": "00_TOTAL_item"}
    assert [lap["number"] for lap in found["laps"]] == [0, 1]
    events = found["traceEvents"]
    assert len(events) == 8
    assert len({event["pid"] for event in events}) == 2
    assert {event["name"] for event in events} == {"00_TOTAL_item", "01_part"}
    for event in events:
        assert set(event) == {"name", "ph", "ts", "dur", "pid", "tid"}
        if event["name"] == "01_part":
            around = [e for e in events if e["pid"] == event["pid"] and e["ts"] <= event["ts"] and e is not event]
            assert not around or around[-1]["ts"] + around[-1]["dur"] >= event["ts"]


def test_what_a_loop_waits_for(clock: Any) -> None:
    """The time in which an item comes, and not that in which it is worked on; an iterator's errors are its own."""
    stage = clock._timing.stage("15_wait")

    def items() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.02)
            yield number
        raise OSError("no more")

    seen = []
    with pytest.raises(OSError, match="no more"):
        for item in stage.over(items()):
            seen.append(item)
            time.sleep(0.05)
    assert seen == [0, 1, 2]
    cells = clock._timing._sums()["15_wait"]
    assert sum(cells[:64]) == 3
    assert 0.06 <= cells[64] / 1e9 < 0.15


def test_own_time_is_that_of_no_part(clock: Any) -> None:
    outer, inner = clock._timing.stage("outer"), clock._timing.stage("inner", within="outer")
    outer.start()
    time.sleep(0.01)
    inner.start()
    time.sleep(0.03)
    inner.stop()
    outer.stop()
    sums = clock._timing._sums()
    own = clock._timing._own(sums)
    assert own["outer"] + own["inner"] == sums["outer"][64]
    assert own["outer"] < own["inner"]


def test_an_error_within_a_stage(clock: Any) -> None:
    """It is not counted, and the next call is as long as it is."""
    stage = clock._timing.stage("fails")
    stage.start()
    time.sleep(0.02)
    stage.start()
    stage.stop()
    cells = clock._timing._sums()["fails"]
    assert sum(cells[:64]) == 1
    assert cells[64] < 0.02e9


@pytest.mark.parametrize("lengths", [[1000] * 100, [1000] * 94 + [10**6] * 6, [3, 5, 9, 17]])
def test_quantiles_are_good_to_a_factor_of_two(clock: Any, lengths: list[int]) -> None:
    cells = [0] * 70
    for length in lengths:
        cells[length.bit_length()] += 1
    cells[65] = max(lengths)
    assert clock._timing._quantile(cells, 0.95) <= max(lengths) / 1e6
    for part in (0.5, 0.95):
        true = sorted(lengths)[int(part * len(lengths) - 0.5)] / 1e6
        assert true / 2 <= clock._timing._quantile(cells, part) <= true * 2


def test_names_and_numbers(clock: Any) -> None:
    """A name has one number; more stages than there is room for are not timed."""
    stages = [clock._timing.stage(f"{number:02}_é") for number in range(clock._Timing.STAGES)]
    assert [stage.number for stage in stages] == list(range(clock._Timing.STAGES))
    assert clock._timing.stage("03_é").number == 3
    assert type(clock._timing.stage("one too many")) is clock._NoStage


class Cuda:
    """Stands for ``torch.cuda``: each event is a millisecond after the one before."""

    def __init__(self) -> None:
        self.now, self.made, self.waited = 0, 0, 0

    def Event(self, enable_timing: bool) -> Any:
        self.made += 1
        return Event(self)

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def is_current_stream_capturing(self) -> bool:
        return False

    def synchronize(self) -> None:
        self.waited += 1


class Event:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.at = cuda, 0

    def record(self) -> None:
        self.cuda.now += 1
        self.at = self.cuda.now

    def elapsed_time(self, other: Event) -> float:
        return float(other.at - self.at)


def test_a_gpu(clock: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From the second lap on its events are told apart from the launch; it is waited for once a lap; events are used again."""
    cuda = Cuda()
    monkeypatch.setitem(sys.modules, "torch.cuda", cuda)
    stage, other = clock._timing.stage("20_forward", launches=True), clock._timing.stage("host")
    for _ in clock._timing.laps(range(4)):
        for _ in range(5):
            stage.start(), stage.stop(), other.start(), other.stop()
    sums = clock._timing._sums()
    assert sum(sums["20_forward"][:64]) == 20
    assert sums["20_forward"][66:68] == [15 * 10**6, 15]
    assert (cuda.waited, cuda.made) == (4, 10)
    assert type(other) is clock._Stage
    assert "| GPU: 0.01s 1.00ms" in capsys.readouterr().out.rpartition("性能分析统计")[2]
    clock._timing._in_child()
    assert type(stage) is clock._Stage


def test_what_a_stage_costs(clock: Any) -> None:
    """Beside the two looks at the clock that it is: six of them at most, where a machine is quiet for one of many tries."""
    stage, now = clock._timing.stage("costs"), time.perf_counter_ns

    def looks() -> int:
        began = now()
        for _ in range(2000):
            now()
        return now() - began

    def stages() -> int:
        began = now()
        for _ in range(2000):
            stage.start()
            stage.stop()
        return now() - began

    ratios = [stages() / looks() for _ in range(60)]
    traced = sys.gettrace() is not None or "coverage" in sys.modules
    if traced:
        pytest.skip("a tracer makes calls slow")
    assert statistics.median(ratios) <= 7
    assert min(ratios) <= 6
