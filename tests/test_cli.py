"""The command line itself: words to commands, results to text or JSON, errors to exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import EVERYTHING, QUICK, TF32, THREADS, Ran, process

from apply_opt import __version__, cli
from apply_opt.errors import ApplyOptError, Conflict, LedgerError, NotRecognised, Refused, UsageError

Run = Callable[..., Ran]


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",), ("help",)])
def test_overview(words: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    ran = run(*words, cwd=tmp_path)
    assert ran.code == 0
    assert all(f"\n  {name} " in ran.out for name in cli.COMMANDS)
    assert "usage: apply-opt NAME" in ran.out


def test_version(run: Run, tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path) == (0, f"apply-opt {__version__}\n", "")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name: str, run: Run, tmp_path: Path) -> None:
    ran = run(name, "--help", cwd=tmp_path)
    assert ran.code == 0
    assert ran.out.startswith(f"usage: apply-opt {name} ")
    assert f"apply-opt {name}" in ran.out or f"apply-opt {QUICK[0]}" in ran.out
    assert ran.err == ""


@pytest.mark.parametrize(
    "words",
    [
        ("apply", THREADS),
        (THREADS,),
        ("--repo", ".", THREADS),
        ("--set", "intra_op=auto", THREADS),
        ("--allow", "lossy", "--json", THREADS),
        ("--repo", "status/..", "apply", THREADS),
    ],
)
def test_a_name_alone_is_applied(words: tuple[str, ...], checkout: Path, run: Run) -> None:
    (checkout / "status").mkdir()
    assert run(*words, cwd=checkout).code == 0
    assert b"_ort_intra_op_threads" in (checkout / "tokenizer.py").read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ("--json",),
        ("--repo", "."),
        ("apply",),
        ("status", "--nonsense"),
        ("status", "x"),
        (THREADS, "--allow", "x"),
        ("show",),
    ],
)
def test_wrong_usage(words: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    assert run(*words, cwd=tmp_path).code == 2


def test_a_command_that_is_not_one_is_a_name(run: Run, tmp_path: Path) -> None:
    ran = run("tokenizer_qick", cwd=tmp_path)
    assert ran.code == 2
    assert "there is no optimization or bundle called tokenizer_qick" in ran.err
    ran = run("stauts", cwd=tmp_path)
    assert ran.code == 2
    assert "there is no command called stauts\n  did you mean: apply-opt status\n" in ran.err


@pytest.mark.parametrize(
    "option",
    ["--repo", "--set", "--option", "--threads", "--blocks", "--record", "--output", "--lang", "--stage", "--backend"],
)
def test_the_value_of_an_option_is_not_the_command(option: str) -> None:
    assert cli._command([option, "report", "bench", "x"]) == ("bench", [option, "report", "x"])


def test_a_library_of_the_package_itself_that_is_not_there(
    run: Run, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libcst", None)
    ran = run("apply", THREADS, cwd=checkout)
    assert (ran.code, ran.err) == (1, "apply-opt: libcst is not installed\n  pip install apply-opt\n")


# One JSON object, and nothing else, whatever happens.

JSON: list[tuple[tuple[str, ...], int]] = [
    (("list",), 0),
    (("show", TF32), 0),
    (("show", "nothing"), 2),
    (("diff", "tokenizer_quick"), 0),
    (("diff", "nothing"), 2),
    (("apply", "tokenizer_quick"), 0),
    (("apply", TF32), 3),
    (("apply", THREADS, "--set", "x=1"), 2),
    ((THREADS,), 0),
    (("revert", "--all"), 0),
    (("revert", "nothing"), 2),
    (("revert", TF32), 1),
    (("revert", TF32, "--all"), 2),
    (("status",), 0),
    (("adopt",), 3),
    (("adopt", "--patch", "nothing"), 2),
    (("export", THREADS), 0),
    (("export", TF32), 3),
    (("report",), 1),
    (("report", "nothing"), 2),
    (("report", "--record", "nothing"), 1),
    (("report", "--lang", "fr"), 2),
    (("doctor",), 0),
    ((THREADS, "--commit"), 1),
    (("status", "--repo", "nowhere"), 3),
    (("list", "--repo", "nowhere"), 3),
]


@pytest.mark.parametrize(
    ("words", "code"), JSON, ids=lambda value: " ".join(value) if isinstance(value, tuple) else None
)
def test_json_is_one_object(words: tuple[str, ...], code: int, checkout: Path, run: Run) -> None:
    ran = run(*words, "--json", cwd=checkout)
    assert ran.code == code, ran
    assert ran.err == ""
    document = json.loads(ran.out)
    assert isinstance(document, dict)
    assert ("error" in document) == (code != 0)
    if code:
        assert document["error"]["exit_code"] == code
        assert document["error"]["message"]
        assert document["error"]["next_step"]
        assert set(document["error"]) == {"kind", "message", "next_step", "exit_code"}


# Errors to exit codes.


def test_each_kind_of_error_has_its_code() -> None:
    assert (ApplyOptError("x").exit_code, UsageError("x").exit_code, Refused("x").exit_code) == (1, 2, 3)
    assert LedgerError("x").exit_code == 1
    assert {kind("x").exit_code for kind in (NotRecognised, Conflict)} == {3}
    kinds = [kind("x").kind for kind in (ApplyOptError, UsageError, Refused, NotRecognised, Conflict, LedgerError)]
    assert len(set(kinds)) == len(kinds)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """``status`` raises what it is given."""

    def fail(error: BaseException) -> None:
        def run(_: object) -> None:
            raise error

        monkeypatch.setattr("apply_opt.commands.status.run", run)

    return fail


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ApplyOptError("cause", "one\ntwo"), 1, "apply-opt: cause\n  one\n  two\n"),
        (Refused("cause"), 3, "apply-opt: cause\n"),
        (KeyboardInterrupt(), 130, "apply-opt: interrupted; nothing is left half-done\n  apply-opt status\n"),
        (RecursionError("deep"), 1, "apply-opt: this is nested too deeply for Python: deep\n"),
    ],
)
def test_expected_errors(
    error: BaseException, code: int, text: str, failing: Callable[[BaseException], None], run: Run, tmp_path: Path
) -> None:
    failing(error)
    ran = run("status", cwd=tmp_path)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith(text)
    document = json.loads(run("status", "--json", cwd=tmp_path).out)
    assert document["error"]["message"] in text


def test_a_bug_is_called_one(failing: Callable[[BaseException], None], run: Run, tmp_path: Path) -> None:
    failing(ZeroDivisionError("oops"))
    ran = run("status", cwd=tmp_path)
    assert ran.code == 70
    assert "Traceback" in ran.err
    assert f"this is a bug in apply-opt {__version__}: ZeroDivisionError('oops')" in ran.err
    assert "please report it" in ran.err
    assert json.loads(run("status", "--json", cwd=tmp_path).out)["error"]["exit_code"] == 70


def test_a_reader_that_has_enough(checkout: Path) -> None:
    """``apply-opt diff … | head -1`` is no error, and says none."""
    command = (
        f"{sys.executable} -m apply_opt diff tokenizer_quick {' '.join(EVERYTHING)} | head -1; exit ${{PIPESTATUS[0]}}"
    )
    for _ in range(3):
        result = subprocess.run(["bash", "-c", command], cwd=checkout, capture_output=True, check=False)
        assert result.stdout == b"--- a/tokenizer.py\n"
        assert result.stderr == b""
        assert result.returncode == 0


def test_as_a_module(checkout: Path) -> None:
    assert process("--version", cwd=checkout).stdout.decode() == f"apply-opt {__version__}\n"
    assert process("tokenizer_tf23", cwd=checkout).returncode == 2


def test_output_that_the_terminal_cannot_show(checkout: Path) -> None:
    """A page in Chinese on a terminal that knows ASCII alone is no bug of ours."""
    ran = process("list", cwd=checkout, PYTHONIOENCODING="ascii", APPLY_OPT_LANG="zh")
    assert ran.returncode == 0, ran.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert cli.paint("x", "red", Terminal()) == "\x1b[31mx\x1b[0m"
    assert cli.paint("x", "", Terminal()) == "x"
    assert cli.paint("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli.paint("x", "red", Terminal()) == "x"


def test_where_the_current_folder_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    code = f"import os, sys; os.chdir({str(folder)!r}); os.rmdir({str(folder)!r}); import apply_opt.__main__"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code, "status"], capture_output=True, env=environment, check=False)
    assert result.returncode == 3, result.stderr
    assert b". is not a folder" in result.stderr
