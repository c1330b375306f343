"""``status``: what it finds in a tree, however it got there; and that it stays quick and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import EVERYTHING, LIGHT, QUICK, REFERENCE, TF32, THREADS, Ran, patched, snapshot

from apply_opt.io import catalog, targets
from apply_opt.model.digest import sha256
from apply_opt.model.target import Revision

Run = Callable[..., Ran]
PLAIN = (REFERENCE / "tokenizer.py").read_bytes()


def found(run: Run, folder: Path) -> dict[str, str]:
    document = json.loads(run("status", "--json", cwd=folder).out)
    return {name: one["state"] for name, one in document["optimizations"].items() if name in QUICK}


def test_pristine(checkout: Path, run: Run) -> None:
    ran = run("status", cwd=checkout)
    assert ran.code == 0
    assert ran.out.startswith(
        f"{checkout}  (step_audio_editx, tokenizer.py)\npristine: nothing of apply-opt is recorded or recognised here\n"
    )
    assert found(run, checkout) == dict.fromkeys(QUICK, "not applied")


def test_applied(checkout: Path, run: Run) -> None:
    run(THREADS, "--set", "intra_op=3", cwd=checkout)
    ran = run("status", cwd=checkout)
    assert "pristine" not in ran.out
    assert "applied" in ran.out and "intra_op=3" in ran.out
    document = json.loads(run("status", "--json", cwd=checkout).out)
    assert document["pristine"] is False
    assert document["recovered"] is False
    assert document["optimizations"][THREADS]["state"] == "applied"


def test_edited_since(checkout: Path, run: Run) -> None:
    run(THREADS, cwd=checkout)
    path = checkout / "tokenizer.py"
    path.write_bytes(b"# mine\n" + path.read_bytes())
    assert found(run, checkout) == {THREADS: "applied, and edited since", TF32: "not applied", LIGHT: "not applied"}
    path.write_bytes(path.read_bytes().replace(b"    return cores\n", b"    return 1\n"))
    assert found(run, checkout)[THREADS] == "partly applied"


def test_by_hand(checkout: Path, run: Run) -> None:
    """Without a ledger, as after a clone of a tree in which somebody else applied."""
    run("tokenizer_quick", *EVERYTHING, cwd=checkout)
    data = (checkout / "tokenizer.py").read_bytes()
    run("revert", "--all", cwd=checkout)
    (checkout / "tokenizer.py").write_bytes(data)
    ran = run("status", cwd=checkout)
    assert found(run, checkout) == dict.fromkeys(QUICK, "applied by hand")
    assert "take it over, so that it can be reverted: apply-opt adopt" in ran.out
    half = data.replace(b"    @_with_tf32_matmul\n", b"")
    (checkout / "tokenizer.py").write_bytes(half)
    assert found(run, checkout)[TF32] == "partly applied"


def test_not_needed(checkout: Path, run: Run) -> None:
    line = b"        session_option.intra_op_num_threads = 1\n"
    (checkout / "tokenizer.py").write_bytes(PLAIN.replace(line, line.replace(b"= 1", b"= os.cpu_count()")))
    ran = run("status", cwd=checkout)
    assert found(run, checkout)[THREADS] == "not needed"
    assert "os.cpu_count()" in ran.out
    assert "pristine" in ran.out


@pytest.mark.parametrize(
    ("data", "state"),
    [
        (PLAIN.replace(b"onnxruntime.InferenceSession", b"onnxruntime.Other"), "no site"),
        (
            PLAIN + PLAIN[PLAIN.index(b"class Step") :].replace(b"class StepAudioTokenizer", b"class SecondTokenizer"),
            "cannot be told",
        ),
        (PLAIN + b"(", "cannot be told"),
    ],
    ids=["no session", "two classes", "no Python"],
)
def test_no_site(data: bytes, state: str, checkout: Path, run: Run) -> None:
    (checkout / "tokenizer.py").write_bytes(data)
    before = snapshot(checkout)
    assert run("status", cwd=checkout).code == 0
    assert found(run, checkout)[THREADS] == state
    assert snapshot(checkout) == before


def test_too_deep_for_python(checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def survey(*arguments: object) -> object:
        return survey(*arguments)

    monkeypatch.setattr("apply_opt.model.codemod.survey", survey)
    assert found(run, checkout) == dict.fromkeys(QUICK, "cannot be told")
    assert "pristine" not in run("status", cwd=checkout).out
    assert "tokenizer.py is nested too deeply: " in run("status", cwd=checkout).out


def test_no_target(run: Run, tmp_path: Path) -> None:
    ran = run("status", cwd=tmp_path)
    assert ran.code == 3
    assert "is not a checkout of " in ran.err and "step_audio_editx" in ran.err


def test_what_is_applied_is_said_also_where_the_target_is_gone(checkout: Path, run: Run) -> None:
    run(THREADS, cwd=checkout)
    (checkout / "tokenizer.py").unlink()
    ran = run("status", "--json", cwd=checkout)
    assert ran.code == 0
    document = json.loads(ran.out)
    assert document["target"] == "step_audio_editx"
    assert document["checkout"] == str(checkout)
    assert document["optimizations"][THREADS]["state"] == "taken out by hand"
    assert run("status", cwd=checkout).out.startswith(f"{checkout}  (step_audio_editx, tokenizer.py)\n")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes, dict[str, bytes]], None]:
    """Say that a file is known upstream, with what optimizations make of it."""

    def know(before: bytes, after: dict[str, bytes]) -> None:
        digests = {name: sha256(data) for name, data in after.items()}
        revision = Revision("them/theirs", ["1"], "tokenizer.py", sha256(before), digests)
        real = targets.load_targets

        def load(root: str) -> dict[str, object]:
            return {name: target._replace(revisions=(revision,)) for name, target in real(root).items()}

        monkeypatch.setattr(targets, "load_targets", load)
        monkeypatch.setattr(catalog, "load_targets", load)
        catalog.load.cache_clear()

    return know


def test_a_known_file_is_known_by_its_hash(
    known: Callable[[bytes, dict[str, bytes]], None], checkout: Path, run: Run, fresh_catalog: None
) -> None:
    run(THREADS, cwd=checkout)
    after = (checkout / "tokenizer.py").read_bytes()
    run("revert", cwd=checkout)
    known(PLAIN, {THREADS: after, f"{TF32}+{LIGHT}": b"both"})
    assert found(run, checkout) == dict.fromkeys(QUICK, "not applied")
    (checkout / "tokenizer.py").write_bytes(after)
    document = json.loads(run("status", "--json", cwd=checkout).out)
    assert {name: document["optimizations"][name] for name in QUICK} == {
        LIGHT: {"state": "not applied", "note": ""},
        THREADS: {"state": "applied by hand", "note": "as on them/theirs"},
        TF32: {"state": "not applied", "note": ""},
    }


def test_a_known_file_has_to_give_the_known_result(
    known: Callable[[bytes, dict[str, bytes]], None], checkout: Path, run: Run, fresh_catalog: None
) -> None:
    """The recorded hash is held against the result, on the user's machine."""
    run(THREADS, cwd=checkout)
    after = (checkout / "tokenizer.py").read_bytes()
    run("revert", cwd=checkout)
    known(PLAIN, {THREADS: after + b"\n", TF32: b""})
    before = snapshot(checkout)
    ran = run(THREADS, cwd=checkout)
    assert ran.code == 3
    assert "them/theirs tokenizer.py: the result is not the recorded one" in ran.err
    assert snapshot(checkout) == before
    assert run(THREADS, "--set", "intra_op=3", cwd=checkout).code == 0  # nothing is recorded of other values
    assert run("revert", cwd=checkout).code == 0
    known(PLAIN, {THREADS: after})
    assert run(THREADS, cwd=checkout).code == 0


def test_a_known_result_is_also_that_of_a_stack(
    known: Callable[[bytes, dict[str, bytes]], None], checkout: Path, run: Run, fresh_catalog: None
) -> None:
    run(TF32, "--allow", "lossy", cwd=checkout)
    known(PLAIN, {f"{TF32}+{THREADS}": b"something else"})
    assert run(THREADS, cwd=checkout).code == 3
    with open(checkout / "tokenizer.py", "ab") as file:
        file.write(b"# mine\n")
    assert run(THREADS, cwd=checkout).code == 0  # the file is not the known one any more


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("words", [("status",), ("status", "--json")])
def test_is_quick(applied: bool, words: tuple[str, ...], git_checkout: Path, run: Run) -> None:
    """What takes long to import is not."""
    if applied:
        run("tokenizer_quick", *EVERYTHING, cwd=git_checkout)
    code = "import sys; from apply_opt.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    result = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=git_checkout, capture_output=True, text=True, check=True
    )
    heavy = {"libcst", "git", "torch", "rich", "numpy", "filelock", "unidiff", "yaml", "hypothesis"}
    assert not heavy.intersection(result.stderr.split())
    assert "apply_opt.commands.status" in result.stderr.split()


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize(
    "command",
    [("status",), ("list",), ("diff", "tokenizer_quick"), ("export", TF32, "--allow", "lossy"), ("show", TF32)],
)
@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_looking_changes_nothing(
    applied: bool, command: tuple[str, ...], json_too: tuple[str, ...], git_checkout: Path, run: Run
) -> None:
    """Not a byte, not a mode, not a time stamp, not in .git either; also where all files are older than git's index says."""
    if applied:
        run(THREADS, cwd=git_checkout)
    (git_checkout / "utils.py").touch()
    before = snapshot(git_checkout)
    for folder in (git_checkout, git_checkout / "funasr_detach"):
        assert run(*command, *json_too, cwd=folder).code == 0
    assert snapshot(git_checkout) == before


def test_put_in_by_hand_with_other_values(checkout: Path, run: Run) -> None:
    exported = run("export", TF32, "--allow", "lossy", "--set", "scope=process", cwd=checkout).raw
    patched(checkout, exported)
    assert found(run, checkout)[TF32] == "applied by hand"
    assert "pristine" not in run("status", cwd=checkout).out


def test_our_function_doubled_is_not_pristine(checkout: Path, run: Run) -> None:
    run(THREADS, cwd=checkout)
    path = checkout / "tokenizer.py"
    data = path.read_bytes()
    start, end = data.index(b"def _ort_intra_op_threads"), data.index(b"class StepAudioTokenizer")
    (checkout / ".apply-opt").rename(checkout.parent / "away")
    path.write_bytes(data[:end] + data[start:end] + data[end:])
    assert found(run, checkout)[THREADS] == "partly applied"
