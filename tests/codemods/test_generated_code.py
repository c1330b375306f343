"""What the codemods write is run for real: the helpers on their own, and the tokenizer with them in it."""

from __future__ import annotations

import inspect
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cases import FILE, UPSTREAM_MODEL, constant, plan
from support import REFERENCE, copy

from apply_opt.model.plan import PLANNED

TF32, THREADS, LIGHT = "tokenizer_tf32", "tokenizer_ort_threads", "tokenizer_light_model"


class TestThreads:
    """``_ort_intra_op_threads``."""

    @pytest.fixture
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[Any], int]]:
        """A machine with ``cores`` in the affinity mask, some providers and some files; gives the helper on it."""
        onnxruntime = pytest.importorskip("onnxruntime")
        namespace: dict[str, Any] = {}
        exec(constant(THREADS, "HELPER_TEXT"), namespace)
        real_text = pathlib.Path.read_text

        def build(
            cores: int = 16, files: dict[str, str] | None = None, providers: tuple[str, ...] = ("CPUExecutionProvider",)
        ) -> Callable[[Any], int]:
            def read_text(path: pathlib.Path, *words: Any, **values: Any) -> str:
                name = path.as_posix()
                if not name.startswith("/sys/fs/cgroup"):
                    return real_text(path, *words, **values)
                if name not in (files or {}):
                    raise FileNotFoundError(name)
                return (files or {})[name]

            monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
            monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(providers))
            monkeypatch.setattr(pathlib.Path, "read_text", read_text)
            return namespace["_ort_intra_op_threads"]  # type: ignore[no-any-return]

        return build

    @pytest.mark.parametrize(
        ("available", "wanted", "threads"),
        [
            (["CPU"], None, 16),
            (["CPU"], ["CPU"], 16),
            (["CPU"], ["CUDA", "CPU"], 16),
            (["Azure", "CPU"], None, 16),
            (["Azure", "CPU"], ["Azure", "CPU"], 16),
            (["CUDA", "CPU"], None, 1),
            (["CUDA", "CPU"], ["CPU"], 16),
            (["CUDA", "CPU"], ["CUDA", "CPU"], 1),
            (["CUDA", "CPU"], ["CUDA"], 1),
            (["CUDA", "CPU"], [("CUDA", {"device_id": 0}), "CPU"], 1),
            (["CUDA", "CPU"], [("CPU", {})], 16),
            (["CUDA", "CPU"], (("CUDA", {}), ("CPU", {})), 1),
            (["Tensorrt", "CUDA", "CPU"], ["Tensorrt", "CPU"], 1),
            (["Dnnl", "CPU"], None, 16),
            (["CPU"], [], 16),
        ],
    )
    def test_providers(self, machine: Any, available: list[str], wanted: Any, threads: int) -> None:
        def full(provider: Any) -> Any:
            return provider + "ExecutionProvider" if isinstance(provider, str) else (full(provider[0]), provider[1])

        helper = machine(providers=tuple(map(full, available)))
        assert helper(wanted if wanted is None else type(wanted)(map(full, wanted))) == threads

    @pytest.mark.parametrize(
        ("files", "threads"),
        [
            ({}, 16),
            ({"cpu.max": "max 100000\n"}, 16),
            ({"cpu.max": "200000 100000\n"}, 2),
            ({"cpu.max": "250000 100000\n"}, 2),
            ({"cpu.max": "50000 100000\n"}, 1),
            ({"cpu.max": "6400000 100000\n"}, 16),
            ({"cpu.max": ""}, 16),
            ({"cpu.max": "nonsense"}, 16),
            ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
            ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
            ({"cpu/cpu.cfs_quota_us": "400000\n"}, 16),
            ({"cpu.max": "max 1", "cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ],
    )
    def test_container_quota(self, machine: Any, files: dict[str, str], threads: int) -> None:
        helper = machine(files={f"/sys/fs/cgroup/{name}": text for name, text in files.items()})
        assert helper(["CPUExecutionProvider"]) == threads

    def test_affinity(self, machine: Any) -> None:
        assert machine(cores=3)(None) == 3

    @pytest.mark.parametrize(("count", "threads"), [(6, 6), (None, 1)])
    def test_no_affinity_here(
        self, machine: Any, monkeypatch: pytest.MonkeyPatch, count: int | None, threads: int
    ) -> None:
        helper = machine()
        monkeypatch.delattr(os, "sched_getaffinity")
        monkeypatch.setattr(os, "cpu_count", lambda: count)
        assert helper(None) == threads

    def test_this_machine(self) -> None:
        onnxruntime = pytest.importorskip("onnxruntime")
        namespace: dict[str, Any] = {}
        exec(constant(THREADS, "HELPER_TEXT"), namespace)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = namespace["_ort_intra_op_threads"](["CPUExecutionProvider"])
        assert 1 <= options.intra_op_num_threads <= (os.cpu_count() or 1)


def precisions(torch: Any) -> list[Any]:
    """All that the process says about the precision of matrix products; the name of the error where asking raises."""
    backends = torch.backends
    found: list[Any] = []
    for question in (
        lambda: backends.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision,
        lambda: backends.fp32_precision,
        lambda: backends.cuda.matmul.fp32_precision,
        lambda: backends.mkldnn.matmul.fp32_precision,
        lambda: backends.cudnn.allow_tf32,
    ):
        try:
            found.append(question())
        except (RuntimeError, AttributeError) as error:
            found.append(type(error).__name__)
    return found


@pytest.mark.parametrize("precision", ["high", "medium"])
class TestMatmul:
    """``_with_tf32_matmul``."""

    @pytest.fixture
    def torch(self) -> Iterator[Any]:
        torch = pytest.importorskip("torch")
        yield torch
        torch.set_float32_matmul_precision("highest")
        for module in (torch.backends, torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)):
            if hasattr(module, "fp32_precision"):
                module.fp32_precision = "none"

    @pytest.fixture
    def decorate(self, precision: str, torch: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        namespace: dict[str, Any] = {}
        exec(constant(TF32, "HELPERS")[precision], namespace)
        return namespace["_with_tf32_matmul"]  # type: ignore[no-any-return]

    def test_on_inside_and_off_after(self, precision: str, torch: Any, decorate: Any) -> None:
        before = precisions(torch)
        inside = decorate(lambda: precisions(torch))()
        assert before[:2] == [False, "highest"]
        assert inside[:2] == [True, precision]
        assert precisions(torch) == before

    @pytest.mark.parametrize(
        "setting",
        [
            "torch.set_float32_matmul_precision('highest')",
            "torch.set_float32_matmul_precision('high')",
            "torch.set_float32_matmul_precision('medium')",
            "torch.backends.cuda.matmul.allow_tf32 = True",
            "torch.backends.cuda.matmul.allow_tf32 = False",
            "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
            "torch.backends.cuda.matmul.fp32_precision = 'ieee'",
            "torch.backends.fp32_precision = 'tf32'",
            "torch.backends.fp32_precision = 'ieee'",
            "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
        ],
    )
    def test_whatever_was_set_before_is_as_it_was(
        self, precision: str, torch: Any, decorate: Any, setting: str
    ) -> None:
        if "fp32_precision" in setting and not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
            pytest.skip("this torch has the older settings only")
        exec(setting, {"torch": torch})
        before = precisions(torch)
        inside = decorate(lambda: precisions(torch))()
        assert True in inside or "tf32" in inside
        assert precisions(torch) == before

    def test_older_torch(self, precision: str, torch: Any, decorate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        matmul = SimpleNamespace(allow_tf32=False)
        monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high" if matmul.allow_tf32 else "highest")
        monkeypatch.setattr(
            torch, "set_float32_matmul_precision", lambda name: setattr(matmul, "allow_tf32", name != "highest")
        )
        assert decorate(lambda: matmul.allow_tf32)() is True
        assert vars(matmul) == {"allow_tf32": False}
        matmul.allow_tf32 = True
        assert decorate(lambda: matmul.allow_tf32)() is True
        assert vars(matmul) == {"allow_tf32": True}

    def test_off_after_an_exception(self, precision: str, torch: Any, decorate: Any) -> None:
        @decorate
        def fail() -> None:
            raise KeyError("as in the encoder")

        before = precisions(torch)
        with pytest.raises(KeyError, match="as in the encoder"):
            fail()
        assert precisions(torch) == before

    def test_nested(self, precision: str, torch: Any, decorate: Any) -> None:
        @decorate
        def encode(depth: int) -> list[Any]:
            below = encode(depth - 1) if depth else []
            return [*below, precisions(torch)[0]]

        before = precisions(torch)
        assert encode(3) == [True] * 4
        assert precisions(torch) == before

    def test_calls_that_overlap_in_threads(self, precision: str, torch: Any, decorate: Any) -> None:
        entered, leave_first, seen = threading.Barrier(3), threading.Event(), []

        @decorate
        def encode(first: bool) -> None:
            entered.wait()
            if first:
                return
            leave_first.wait()
            seen.append(precisions(torch)[0])

        before = precisions(torch)
        threads = [threading.Thread(target=encode, args=(first,)) for first in (True, False)]
        for thread in threads:
            thread.start()
        entered.wait()
        threads[0].join()
        assert precisions(torch)[0] is True, "the second call still runs"
        leave_first.set()
        threads[1].join()
        assert seen == [True]
        assert precisions(torch) == before

    def test_many_threads(self, precision: str, torch: Any, decorate: Any) -> None:
        seen = []
        encode = decorate(lambda: seen.append(torch.backends.cuda.matmul.allow_tf32))
        before = precisions(torch)
        threads = [threading.Thread(target=lambda: [encode() for _ in range(50)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [True] * 400
        assert precisions(torch) == before

    def test_two_methods_that_overlap(self, precision: str, torch: Any, decorate: Any) -> None:
        """The one that comes second and leaves last gives back what was there before the first."""
        entered, leave = threading.Event(), threading.Event()
        seen = []

        def second() -> None:
            entered.set()
            leave.wait()
            seen.append(torch.backends.cuda.matmul.allow_tf32)

        before = precisions(torch)
        thread = threading.Thread(target=decorate(second))

        def first() -> None:
            thread.start()
            entered.wait()

        decorate(first)()
        leave.set()
        thread.join()
        assert seen == [True]
        assert precisions(torch) == before

    def test_torch_is_imported_on_the_first_call(self, precision: str) -> None:
        """A fork may import it late, or not at all where only the class is looked at."""
        code = f"{constant(TF32, 'HELPERS')[precision]}\n@_with_tf32_matmul\ndef encode(): pass"
        script = f"import sys\nsys.modules['torch'] = None\n{code}\ntry:\n    encode()\nexcept ImportError:\n    print('late')"
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
        assert ran.stdout == "late\n"

    def test_nothing_in_it_keeps_a_class_from_being_pickled(self, precision: str, decorate: Any) -> None:
        """By value, as is done with classes of ``__main__``: there is no lock yet."""
        cells = dict(zip(decorate(len).__code__.co_freevars, decorate(len).__closure__))
        assert sorted(cells) == ["encode", "shared", "threading"]
        assert cells["shared"].cell_contents == {}

    def test_is_still_the_method(self, precision: str, torch: Any, decorate: Any) -> None:
        def get_vq02_code(self: Any, audio: list[int], session_id: str | None = None, *, is_final: bool = True) -> Any:
            """The tokens."""
            return self, audio, session_id, is_final

        class Tokenizer:
            encode = decorate(get_vq02_code)
            static = staticmethod(decorate(lambda audio: audio))

        tokenizer = Tokenizer()
        assert tokenizer.encode([1], "a", is_final=False) == (tokenizer, [1], "a", False)
        assert Tokenizer.static(3) == 3
        assert inspect.signature(Tokenizer.encode) == inspect.signature(get_vq02_code)
        assert (Tokenizer.encode.__name__, Tokenizer.encode.__doc__) == ("get_vq02_code", "The tokens.")


RUN = """
import collections, importlib.util, json, sys
tree, workload, encoder_folder = sys.argv[1:]
sys.path.insert(0, tree)
specification = importlib.util.spec_from_file_location("workload", workload)
workload = importlib.util.module_from_spec(specification)
specification.loader.exec_module(workload)
ran = collections.Counter()
def count(frame, event, argument):
    if event == "call" and frame.f_code.co_filename.endswith("tokenizer.py"):
        ran[frame.f_code.co_name] += 1
sys.setprofile(count)
tokenizer = workload.load(tree, {"file": "tokenizer.py", "model": encoder_folder, "here": tree})
outputs = [workload.run(tokenizer, workload.inputs(case, 0)) for case in ("2 s", "1.3 s")]
sys.setprofile(None)
print(json.dumps([[[output[name] for name in ("speech_tokens", "vq02", "vq06")] for output in outputs], ran]))
"""


def workload(tree: Path, encoder_folder: Path) -> tuple[list[list[list[int]]], dict[str, int]]:
    """The tokens of two utterances, and how often each function of ``tokenizer.py`` ran, in a process of its own."""
    words = [tree, REFERENCE.parent / "workload.py", encoder_folder]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    ran = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, words)], capture_output=True, check=True, text=True, env=environment
    )
    tokens, calls = json.loads(ran.stdout.splitlines()[-1])
    return tokens, calls


@pytest.fixture(scope="module")
def original(encoder_folder: Path) -> list[list[list[int]]]:
    """The tokens of the reference tokenizer as it is."""
    tokens, ran = workload(REFERENCE, encoder_folder)
    assert all(stream for utterance in tokens for stream in utterance)
    assert all(len({token for utterance in tokens for token in utterance[kind]}) > 20 for kind in (1, 2))
    assert "_ort_intra_op_threads" not in ran
    return tokens


class TestEndToEnd:
    """The reference tokenizer gives the same tokens before and after, and the new lines run."""

    @pytest.mark.parametrize(
        ("changes", "runs"),
        [
            ({TF32: {}}, {"_with_tf32_matmul": 1, "call": 2}),
            ({TF32: {"scope": "process"}}, {}),
            ({THREADS: {}}, {"_ort_intra_op_threads": 1}),
            ({THREADS: {"intra_op": 4, "inter_op": 2, "execution_mode": "parallel"}}, {}),
            ({TF32: {}, THREADS: {}}, {"_with_tf32_matmul": 1, "call": 2, "_ort_intra_op_threads": 1}),
        ],
        ids=["tf32", "tf32 at import", "threads", "the tip's threads", "both"],
    )
    def test_same_tokens(
        self, original: Any, encoder_folder: Path, tmp_path: Path, changes: dict[str, Any], runs: dict[str, int]
    ) -> None:
        tree = copy(REFERENCE, tmp_path / "tree")
        for name, values in changes.items():
            outcome = plan(name, (tree / FILE).read_bytes(), **values)
            assert outcome.kind == PLANNED, outcome.message
            (tree / FILE).write_bytes(outcome.after)
        tokens, ran = workload(tree, encoder_folder)
        assert tokens == original
        assert {name: ran.get(name, 0) for name in runs} == runs

    def test_the_other_model_is_loaded(self, original: Any, encoder_folder: Path, tmp_path: Path) -> None:
        folder = tmp_path / "encoder"
        shutil.copytree(encoder_folder, folder)
        tree = copy(REFERENCE, tmp_path / "tree")
        outcome = plan(LIGHT, (tree / FILE).read_bytes())
        (tree / FILE).write_bytes(outcome.after)
        shutil.rmtree(folder / str(outcome.parameters["model_id"]))
        (folder / UPSTREAM_MODEL).rename(folder / str(outcome.parameters["model_id"]))
        assert workload(tree, folder)[0] == original
