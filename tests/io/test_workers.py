"""The processes that run a target's code: whatever they do, there is a result or a reason, and nothing of them is left."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from toy import FILE, SOURCE, Toy, processes_of

from apply_opt.errors import UsageError
from apply_opt.io import arms, workers
from apply_opt.io.workers import Limits, WorkerFailed

MIB = 2**20
ONLY_POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and forks")


def fails(toy: Toy, workload: str, limits: Limits = Limits(20.0), job: str = "observe") -> WorkerFailed:  # noqa: B008
    toy.workload(workload)
    with pytest.raises(WorkerFailed) as failed:
        toy.worker(job, limits)
    assert failed.value.exit_code == 4
    return failed.value


def outputs(toy: Toy, workload: str) -> Any:
    """What ``run`` gives for the first case and seed."""
    toy.workload(workload)
    values = toy.worker(cases=["8"], limits=Limits(20.0))["values"]
    return {name.partition(" | output ")[2]: value for name, value in values.items() if " | output " in name}


def test_does_its_job(toy: Toy) -> None:
    result = toy.worker()
    assert result["values"]["8 | seed 0 | exception"] == "none"
    assert result["values"]["8 | seed 0 | output total"] > 0
    assert result["sizes"] == {"8": [8], "7": [7]}
    assert result["identity"][FILE]["modules"] == ["toy"]


class TestFailures:
    """Each has a reason of one word."""

    @pytest.mark.parametrize("where", ["load(folder, options)", "run(subject, inputs)"])
    def test_hangs(self, toy: Toy, where: str) -> None:
        began = time.monotonic()
        failed = fails(toy, f"def {where}:\n    import time\n    time.sleep(60)", Limits(0.7))
        assert (failed.reason, failed.message) == ("hung", "the workload did not end within 0.7 s")
        assert time.monotonic() - began < 10

    def test_hangs_on_its_way_out(self, toy: Toy) -> None:
        body = """
        def load(folder, options):
            import threading, time, toy
            threading.Thread(target=time.sleep, args=(60,)).start()
            return toy.Toy()
        """
        assert fails(toy, body, Limits(2.0)).reason == "hung"

    def test_grows(self, toy: Toy) -> None:
        body = """
        def run(subject, inputs):
            held = []
            while True:
                held.append(bytearray(b"x" * 2**22))
        """
        failed = fails(toy, body, Limits(20.0, 200 * MIB))
        assert failed.reason == "memory"
        assert failed.message.endswith("the limit is 200 MiB")

    def test_grows_with_what_it_started(self, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workers, "COUNT_SECONDS", 0.2)
        body = """
        def run(subject, inputs):
            import subprocess, sys, time
            code = "import time; held = b'x' * (90 << 20); time.sleep(60)"
            for _ in range(3):
                subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
            time.sleep(60)
        """
        assert fails(toy, body, Limits(20.0, 200 * MIB)).reason == "memory"

    @pytest.mark.parametrize(
        ("statement", "message"),
        [
            ("os._exit(0)", "the workload ended and gave no result"),
            ("os._exit(7)", "the workload ended with code 7"),
            ("__import__('atexit').register(os._exit, 3)", "the workload ended with code 3"),
            ("os.kill(os.getpid(), 11)", "the workload ended with the signal SIGSEGV"),
            ("os.kill(os.getpid(), 9)", "the workload ended with the signal SIGKILL"),
            ("__import__('ctypes').string_at(0)", "the workload ended with the signal SIGSEGV"),
        ],
    )
    @ONLY_POSIX
    def test_goes_away(self, toy: Toy, statement: str, message: str) -> None:
        failed = fails(toy, f"def run(subject, inputs):\n    import os\n    {statement}\n    return {{'x': 1}}")
        assert (failed.reason, failed.message) == ("vanished", message)

    def test_says_where_it_crashed(self, toy: Toy) -> None:
        failed = fails(toy, "def run(subject, inputs):\n    import ctypes\n    ctypes.string_at(0)")
        assert any("in run" in line for line in failed.output)

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            ("SystemExit(0)", "SystemExit: 0"),
            ("KeyboardInterrupt()", "KeyboardInterrupt: "),
            ("GeneratorExit()", "GeneratorExit: "),
            ("OSError(28, 'No space left on device')", "OSError: [Errno 28] No space left on device"),
            ("UnicodeError('\\udcff')", "UnicodeError: \udcff"),
            ("type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()", "Odd: (its message cannot be had)"),
        ],
    )
    def test_raises(self, toy: Toy, error: str, message: str) -> None:
        failed = fails(toy, f"def load(folder, options):\n    raise {error}")
        assert (failed.reason, failed.message) == ("crashed", message)

    def test_raises_without_end(self, toy: Toy) -> None:
        failed = fails(toy, "def load(folder, options):\n    raise ValueError('x' * 10**7 + '\\n' * 10**6)")
        assert failed.reason == "crashed"
        assert len(failed.message) < 5000
        assert sum(map(len, failed.output)) < 100_000

    @pytest.mark.parametrize(
        ("module", "step"),
        [
            ("torch.nn.nothing", "apply-opt[bench]"),
            ("librosa", "apply-opt[targets]"),
            ("cv2", "pip install opencv-python-headless"),
            ("a_module_of_nobodys", "install what brings the module a_module_of_nobodys"),
        ],
    )
    @pytest.mark.parametrize("where", ["load(folder, options)", "run(subject, inputs)"])
    def test_needs_what_is_not_installed(self, toy: Toy, module: str, step: str, where: str) -> None:
        failed = fails(toy, f"def {where}:\n    raise ModuleNotFoundError('No module named x', name={module!r})")
        assert failed.reason == "missing"
        assert step in failed.next_step.splitlines()[-1]

    def test_library_is_not_installed(self, toy: Toy) -> None:
        assert fails(toy, "LIBRARIES = ('a_module_of_nobodys',)").reason == "missing"

    def test_no_workload_at_all(self, toy: Toy) -> None:
        assert fails(toy, "def f(:").message.startswith("SyntaxError")
        assert fails(toy, "del load").message.startswith("AttributeError")

    def test_option_that_the_workload_refuses(self, toy: Toy) -> None:
        with pytest.raises(UsageError, match="size is numbers with commas between, not big"):
            workers.run(toy.arm(), toy.setting(size="big"), "prepare")
        with pytest.raises(UsageError, match="no option called sise; did you mean size"):
            workers.run(toy.arm(), toy.setting(sise="8"), "prepare")

    def test_error_that_is_not_about_options(self, toy: Toy) -> None:
        toy.workload("def prepare(folder, options):\n    import json\n    json.loads('{')")
        with pytest.raises(WorkerFailed, match="JSONDecodeError"):
            workers.run(toy.arm(), toy.setting(), "prepare")


class TestWritten:
    """A worker leaves the copies and what was prepared as they were, else its successor would find another program."""

    @pytest.mark.parametrize(
        ("statement", "name"),
        [
            ("open('log.txt', 'a').write('x')", "log.txt"),
            ("open('toy.py', 'a').write('x')", "toy.py"),
            ("__import__('os').remove('toy.py')", "toy.py"),
            ("__import__('os').mkdir('out')", "out"),
            ("open(load.folder + '/model', 'w').write('x')", "model"),
        ],
    )
    def test_into_what_is_read_again(self, toy: Toy, statement: str, name: str) -> None:
        body = f"""
        def load(folder, options):
            import toy
            load.folder = folder
            return toy.Toy()

        def bad_inputs():
            {statement}
            return {{}}
        """
        failed = fails(toy, body)
        assert failed.reason == "wrote" or (name == "toy.py" and failed.reason == "crashed")
        assert name in failed.message

    def test_byte_code_and_temporary_files_do_not_count(self, toy: Toy) -> None:
        body = """
        def run(subject, inputs):
            import os, py_compile, tempfile
            py_compile.compile("toy.py")
            return {"temporary": tempfile.mkdtemp(), "folder": os.environ["TMPDIR"]}
        """
        found = outputs(toy, body)
        assert found["temporary"].startswith(found["folder"])
        assert not os.path.exists(found["folder"])


class TestPrinting:
    """However much is printed, its end is kept and no more."""

    @pytest.mark.parametrize("text", ["'x' * 2**20", "'x' * 99 + chr(10)", "chr(10) * 2**16"])
    def test_megabytes(self, toy: Toy, text: str) -> None:
        body = f"""
        def run(subject, inputs):
            for _ in range(20):
                print({text}, end="")
            raise SystemExit
        def load(folder, options):
            run(None, None)
        """
        failed = fails(toy, body)
        assert failed.reason == "crashed"

    def test_end_is_shown_where_there_is_no_result(self, toy: Toy) -> None:
        body = """
        def load(folder, options):
            import os
            os.write(1, b"begin" + b"x" * 5_000_000 + b"\\nlast words \\xff")
            os._exit(1)
        """
        failed = fails(toy, body)
        assert failed.output[-1] == "last words \N{REPLACEMENT CHARACTER}"
        assert sum(map(len, failed.output)) < 200_000

    def test_no_more_than_the_end_is_held(self) -> None:
        """Nothing of a line without an end piles up in the parent."""

        class Stream(io.RawIOBase):
            left = 500

            def read1(self, size: int) -> bytes:
                self.left -= 1
                return b"x" * 65536 if self.left > 0 else b""

        output: deque[str] = deque(maxlen=workers.KEPT_LINES)
        tracemalloc.start()
        workers._read(Stream(), output)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert output == deque(["x" * workers.KEPT_COLUMNS])
        assert peak < 2**20

    def test_does_not_hold_a_result_up(self, toy: Toy) -> None:
        body = "def run(subject, inputs):\n    print('x' * 2**22)\n    return {'x': 1}"
        assert outputs(toy, body) == {"x": 1}


@ONLY_POSIX
class TestLeftBehind:
    """The fixture looks for processes and files when a test is over; these start some."""

    @pytest.mark.parametrize(
        "start",
        [
            "subprocess.Popen(['sleep', '60'])",
            "subprocess.Popen(['sleep', '60'], stdin=-3, stdout=-3, stderr=-3)",
            "subprocess.Popen(['setsid', 'sleep', '60'])",
            "subprocess.Popen(['sleep', '60'], start_new_session=True)",
            "subprocess.Popen(['sleep', '60'], env={'PATH': os.environ['PATH'], 'APPLY_OPT_TEST': os.environ['APPLY_OPT_TEST']})",
            "os.fork() or time.sleep(60)",
            "os.fork() or (os.setsid(), os.fork() and os._exit(0), time.sleep(60))",
            "subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)'])",
            "[subprocess.Popen(['sh', '-c', 'while :; do sleep 0.05 & wait; done']) for _ in range(3)]",
        ],
    )
    @pytest.mark.parametrize("end", ["return {'x': 1}", "os._exit(1)", "time.sleep(60)"])
    def test_process(self, toy: Toy, start: str, end: str) -> None:
        body = f"""
        import os, subprocess, sys, time
        def run(subject, inputs):
            {start}
            {end}
        """
        toy.workload(body)
        began = time.monotonic()
        if "return" in end:
            toy.worker(cases=["8"], seeds=[0])
        else:
            with pytest.raises(WorkerFailed):
                toy.worker(limits=Limits(1.0), cases=["8"], seeds=[0])
        assert time.monotonic() - began < 8

    def test_one_at_a_time_and_each_of_its_own(self, toy: Toy) -> None:
        body = """
        def run(subject, inputs):
            import os, time
            return {"process": os.getpid(), "began": time.monotonic()}
        """
        found = [outputs(toy, body) for _ in range(3)]
        assert len({one["process"] for one in found}) == 3


class TestSurroundings:
    """What of the user's reaches a worker."""

    def test_no_python_variable_does(self, toy: Toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("random", "json", "statistics", "usercustomize", "sitecustomize"):
            (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the user')")
        (tmp_path / "cache").mkdir()
        given = {
            "PYTHONPATH": str(tmp_path),
            "PYTHONSTARTUP": str(tmp_path / "json.py"),
            "PYTHONOPTIMIZE": "2",
            "PYTHONWARNINGS": "error",
            "PYTHONSAFEPATH": "1",
            "PYTHONPYCACHEPREFIX": str(tmp_path / "cache"),
            "PYTHONINSPECT": "1",
            "PYTHONHASHSEED": "7",
            "PYTHONNOUSERSITE": "1",
            "PythonUnbuffered": "1",
        }
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        body = """
        def run(subject, inputs):
            import os, sys
            own = {k: v for k, v in os.environ.items() if k.upper().startswith("PYTHON")}
            return {"own": own, "optimize": sys.flags.optimize, "prefix": str(sys.pycache_prefix), "path": sys.path}
        """
        found = outputs(toy, body)
        assert {name.partition(".")[2] for name in found if name.startswith("own.")} == {
            "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONFAULTHANDLER",
        }  # fmt: skip
        assert (found["own.PYTHONHASHSEED"], found["optimize"], found["prefix"]) == ("0", 0, "None")
        assert found["path"][0] == "CHECKOUT"
        assert str(tmp_path) not in found["path"]

    def test_nothing_of_ours_is_on_the_path(self, toy: Toy) -> None:
        body = "def run(subject, inputs):\n    import sys\n    return {'path': sys.path, 'argv': sys.argv}"
        found = outputs(toy, body)
        assert not [path for path in found["path"] if "apply_opt" in path]
        assert found["argv"] == [str(toy.pack / "target_repos" / "toy_target" / "workload.py")]

    def test_virtual_environment_does(self, toy: Toy) -> None:
        body = "def run(subject, inputs):\n    import sys, psutil\n    return {'prefix': sys.prefix, 'of': psutil.__file__}"
        assert outputs(toy, body) == {"prefix": sys.prefix, "of": psutil.__file__}

    def test_threads_and_cores(self, toy: Toy) -> None:
        body = """
        def run(subject, inputs):
            import os
            cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
            return {"threads": os.environ["OMP_NUM_THREADS"] + os.environ["VECLIB_MAXIMUM_THREADS"], "cores": cores}
        """
        toy.workload(body)
        core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        setting = toy.setting()._replace(threads=3, cpus=[core])
        values = workers.run(toy.arm(), setting, "observe", cases=["8"])["values"]
        assert values["8 | seed 0 | output threads"] == "33"
        assert values["8 | seed 0 | output cores"] == [core]

    def test_modules_of_the_checkout_have_any_name(self, toy: Toy) -> None:
        ours = [path.stem for path in (Path(workers.__file__).parent.parent / "worker").glob("*.py")]
        names = [
            "random",
            "json",
            "statistics",
            "copy",
            "typing",
            "hashlib",
            "traceback",
            "contextlib",
            "difflib",
            "enum",
        ]
        names += ["platform", "functools", "dataclasses", "threading", "math", "time", "itertools", "importlib", *ours]
        for name in {*names, "apply_opt", "conftest"} - {"__init__", "__main__"}:
            toy.source("raise SystemExit('a module of the checkout')", f"{name}.py")
        assert toy.worker()["values"]["8 | seed 0 | exception"] == "none"

    def test_what_the_checkout_spawns_finds_the_checkout(self, toy: Toy) -> None:
        toy.source(SOURCE + "\n\ndef double(value):\n    return 2 * value\n")
        body = """
        def run(subject, inputs):
            import multiprocessing
            import toy
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                return {"doubled": pool.map(toy.double, [1, 2])}
        """
        toy.workload(body)
        values = toy.worker(cases=["8"])["values"]
        assert values["8 | seed 0 | output doubled"] == [2, 4]

    def test_stale_byte_code_is_not_used(self, toy: Toy) -> None:
        """Byte code whose size and second of change fit another source: Python itself would take it."""
        path = toy.tree / FILE
        path.write_text(SOURCE.replace("self.scale = 2", "self.scale = 9"))
        subprocess.run([sys.executable, "-m", "py_compile", path], check=True, cwd=toy.tree, env=clean())
        stamp = path.stat()
        path.write_text(SOURCE)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert path.stat().st_size == stamp.st_size
        code = "import toy; print(toy.Toy().scale)"
        ran = subprocess.run([sys.executable, "-c", code], cwd=toy.tree, capture_output=True, env=clean(), check=True)
        assert ran.stdout.strip() == b"9", "the trap does not work"
        toy.workload("def run(subject, inputs):\n    return {'scale': subject.scale}")
        with arms.copies(str(toy.tree), {FILE: SOURCE.encode()}, {FILE: b"x = 1\n"}) as (arm, _):
            values = workers.run(arm, toy.setting(), "observe", cases=["8"])["values"]
        assert values["8 | seed 0 | output scale"] == 2


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


class TestResults:
    """A result that a worker left, and that nobody can read."""

    @pytest.mark.parametrize(
        "text",
        [
            "", "{", '{"ok": {"values"', "null", "[]", "7", "{}", '{"ok": null}', '{"ok": [1]}', '{"error": {}}',
            '{"ok": {"values": {}, "tensors": 1}}', '{"ok": {"values": [], "tensors": 1}}', '{"error": 1}', "\x00\xff",
        ],
    )  # fmt: skip
    def test_garbled(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "result.json"
        path.write_text(text, encoding="latin-1")
        (tmp_path / "result.json.pt").write_bytes(b"PK garbled")
        with pytest.raises(WorkerFailed) as failed:
            workers._result(str(path), ["what was printed"])
        assert failed.value.reason == "unreadable"
        assert "what was printed" in failed.value.next_step

    def test_cut_off(self, toy: Toy) -> None:
        """As by a full disk: the name is right, the end is missing."""
        body = """
        def load(folder, options):
            import os
            frames = __import__("sys")._current_frames()
            frame = list(frames.values())[0]
            while "specification" not in frame.f_locals:
                frame = frame.f_back
            with open(frame.f_locals["specification"]["result"], "w") as file:
                file.write('{"ok": {"values": {')
            os._exit(0)
        """
        assert fails(toy, body).reason == "unreadable"


INTERRUPTED = """
import os, subprocess, time
def load(folder, options):
    subprocess.Popen(["sleep", "60"], start_new_session=True)
    subprocess.Popen(["sleep", "60"])
    open(os.environ["APPLY_OPT_TEST"] + "/started", "w").close()
    time.sleep(60)
"""


@ONLY_POSIX
class TestInterrupted:
    """A real ``apply-opt``, which is told to stop while the workload runs."""

    @pytest.fixture(autouse=True)
    def as_from_a_terminal(self) -> Iterator[None]:
        """Under nohup SIGHUP is ignored, in the background of a script SIGINT, here and in what is started here."""
        before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGINT)}
        yield
        for number, handler in before.items():
            signal.signal(number, handler)

    def start(self, toy: Toy, tmp_path: Path, command: str) -> subprocess.Popen[bytes]:
        toy.workload(INTERRUPTED)
        words = [sys.executable, "-m", "apply_opt", command, "toy_change", "--json"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(toy.site), *sys.path])}
        pipe = subprocess.PIPE
        process = subprocess.Popen(words, cwd=toy.tree, env=environment, stdout=pipe, stderr=pipe)
        deadline = time.monotonic() + 20
        while not (tmp_path / "started").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.02)
        return process

    @pytest.mark.parametrize("command", ["verify", "bench"])
    @pytest.mark.parametrize(
        "signals", [["SIGINT"], ["SIGTERM"], ["SIGHUP"], ["SIGINT", "SIGINT", "SIGTERM", "SIGINT"]]
    )
    def test_takes_everything_with_it(self, toy: Toy, tmp_path: Path, command: str, signals: list[str]) -> None:
        process = self.start(toy, tmp_path, command)
        for name in signals:
            process.send_signal(getattr(signal, name))
            time.sleep(0.02)
        while len(signals) > 1 and process.poll() is None:  # somebody who leans on Ctrl-C
            process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 130, err
        assert json.loads(out)["error"]["kind"] == "interrupted"
        assert processes_of(str(tmp_path)) == []
        assert list((tmp_path / "temporary").iterdir()) == []
        assert not list((tmp_path / "c").rglob("*.part"))

    @pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell a child")
    def test_killed_outright(self, toy: Toy, tmp_path: Path) -> None:
        """Then nobody is left to clear away; the worker itself ends, at least, and its core is free."""
        process = self.start(toy, tmp_path, "verify")
        process.kill()
        process.communicate(timeout=20)
        deadline = time.monotonic() + 10
        while any("specification.json" in text for text in processes_of(str(tmp_path))):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for text in processes_of(str(tmp_path)):
            os.kill(int(text.split()[0]), signal.SIGKILL)
        for folder in (tmp_path / "temporary").iterdir():
            subprocess.run(["rm", "-r", folder], check=True)
        time.sleep(0.1)
