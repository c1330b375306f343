"""The command line: finds the command, runs it, says what it has to say, and turns every error into its exit code.

Exit codes: 0 done, 1 an expected failure, 2 wrong usage, 3 refused (nothing was written), 4 parity failed, 5 slower or
inconclusive where a gain was demanded, 70 a bug, 130 interrupted.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, Optional, TextIO

from apply_opt import __version__
from apply_opt.commands import Result
from apply_opt.errors import ApplyOptError, UsageError

COMMANDS = {
    "list": "every optimization, and what this checkout makes of it",
    "show": "what an optimization changes, why, when not, and what was measured",
    "diff": "what apply would change, as a diff; writes nothing",
    "apply": "put optimizations in (`apply-opt NAME` is short for it)",
    "revert": "take them out again; your own edits stay",
    "status": "what is applied here",
    "adopt": "take over what was put in with `patch -p1`, so that it can be reverted",
    "export": "a patch for this checkout, for `patch -p1` and `git apply`",
    "verify": "run the target with and without it, and compare what comes out",
    "bench": "measure the target with and without it, with a verdict",
    "advise": "where the target's time goes, which optimizations pay here, and which claims hold",
    "compile-check": "what torch.compile would do for the target, and whether it pays",
    "tune": "find the fastest values of its parameters on this machine, by measuring",
    "timing": "show where a timed program's time went, and what holds it up",
    "report": "one page of what was compared and measured",
    "doctor": "what this machine offers",
    "new": "start a new optimization",
}
TAKE_VALUES = frozenset(
    {"--repo", "--file", "--set", "--allow", "--preflight", "--patch", "--target", "--class", "--root", "--output"}
    | {
        "--option",
        "--threads",
        "--timeout",
        "--memory",
        "--seed",
        "--min-speedup",
        "--values",
        "--record",
        "--lang",
        "--blocks",
        "--stage",
        "--backend",
        "--trace",
    }
)
"""Options that are followed by a word of their own, wherever in the line they stand."""
STYLES = {"green": "32", "yellow": "33", "red": "31", "cyan": "36", "dim": "2", "bold": "1"}
MODULES = {"list": "listing", "compile-check": "compile_check"}
"""What is not called as its command is: that would hide a builtin, or be no name."""
EXTRAS = {
    **dict.fromkeys(("filelock", "git", "libcst", "unidiff", "yaml"), ""),
    **dict.fromkeys(("jinja2", "markupsafe", "msgspec", "platformdirs", "psutil", "rich", "scipy"), "proof"),
    **dict.fromkeys(("numpy", "onnxruntime", "torch"), "bench"),
}
"""What brings a library: the package itself, or one of its extras, for those that only some commands need."""
BUG, INTERRUPTED = 70, 130


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command line. The one place where expected errors are caught."""
    words = list(sys.argv[1:] if argv is None else argv)
    if sys.stdout is None or sys.stderr is None:  # closed by the caller (`>&-`)
        nowhere = open(os.devnull, "w")  # noqa: SIM115, for as long as the process lives
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character gets its code, not a crash
            stream.reconfigure(errors="backslashreplace")
    if argv is None:
        gc.disable()  # a process this short never gets its memory back in time; a third of a plan would be collections
    as_json = "--json" in words
    try:
        return _run(words)
    except ApplyOptError as error:
        _say_error(error.message, error.next_step, error.kind, error.exit_code, as_json)
        return error.exit_code
    except KeyboardInterrupt:
        _say_error("interrupted; nothing is left half-done", "apply-opt status", "interrupted", INTERRUPTED, as_json)
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # the system's word on a file that no command could foresee
        if error.filename is None:  # nor can what is still to be written be
            as_json = False
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _say_error(
            f"{error.filename or 'the output'}: {error.strerror or error}", "apply-opt status", "error", 1, as_json
        )
        return 1
    except RecursionError as error:
        step = "make the edit by hand: apply-opt show NAME"
        _say_error(f"this is nested too deeply for Python: {error}", step, "error", 1, as_json)
        return 1
    except Exception as error:  # a bug of ours: say all that helps to find it
        import traceback

        traceback.print_exc()
        _say_error(
            f"this is a bug in apply-opt {__version__}: {error!r}",
            "please report it with the lines above",
            "bug",
            BUG,
            as_json,
        )
        return BUG


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"apply-opt {__version__}")
        return 0
    try:
        return _run_command(*_command(words))
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        name = f"'apply-opt[{extra}]'" if extra else "apply-opt"
        raise ApplyOptError(f"{error.name} is not installed", f"pip install {name}") from error


def _run_command(name: str, rest: Sequence[str]) -> int:
    module = importlib.import_module(f"apply_opt.commands.{MODULES.get(name, name)}")
    parser = _Parser(
        prog=f"apply-opt {name}",
        description=module.HELP,
        epilog=module.EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    arguments = parser.parse_args(rest)
    return _say(module.run(arguments), getattr(arguments, "json", False))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as every other error is said, with the next thing to type."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"{self.prog} --help")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal; argparse would find that out with shutil, whose import `status` would notice."""

    def __init__(self, prog: str) -> None:
        try:
            columns = os.get_terminal_size().columns
        except OSError:
            columns = 100
        super().__init__(prog, width=max(40, min(columns, 120) - 2))


def _command(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command and its words. The first word that is not an option decides; if no command is called so, it is a NAME."""
    index = 0
    while index < len(words) and words[index].startswith("-"):
        index += 2 if words[index] in TAKE_VALUES else 1
    if index >= len(words):
        raise UsageError(f"{' '.join(words)}: no command and no NAME", "apply-opt --help")
    if words[index] in COMMANDS:
        return words[index], [*words[:index], *words[index + 1 :]]
    if "_" not in words[index]:  # names of optimizations have one
        import difflib

        close = difflib.get_close_matches(words[index], COMMANDS, 1, 0.75)
        if close:
            raise UsageError(f"there is no command called {words[index]}", f"did you mean: apply-opt {close[0]}")
    return "apply", words


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    commands = "\n".join(f"  {name:{width}}{text}" for name, text in COMMANDS.items())
    return f"""apply-opt {__version__}: put known performance optimizations into a checkout of model code, and take them out again

usage: apply-opt NAME [NAME…] [--allow lossy] [--set key=value]
       apply-opt COMMAND …

commands:
{commands}

in a checkout, for example:
  apply-opt list
  apply-opt diff tokenizer_quick
  apply-opt tokenizer_quick
  apply-opt status
  apply-opt revert

apply-opt COMMAND --help says more."""


def _say(result: Result, as_json: bool) -> int:
    if as_json:
        import json

        print(json.dumps(result.document, ensure_ascii=False, indent=2))
    elif result.raw:
        _print(result, sys.stderr)
        sys.stdout.flush()
        sys.stdout.buffer.write(result.raw)
        sys.stdout.buffer.flush()
    else:
        _print(result, sys.stdout)
    sys.stdout.flush()
    return result.code


def _print(result: Result, stream: TextIO) -> None:
    for style, text in result.lines:
        print(paint(text, style, stream), file=stream)


def _say_error(message: str, next_step: str, kind: str, code: int, as_json: bool) -> None:
    if as_json:
        import json

        document: dict[str, Any] = {
            "error": {"kind": kind, "message": message, "next_step": next_step, "exit_code": code}
        }
        print(json.dumps(document, ensure_ascii=False, indent=2))
        return
    print(paint(f"apply-opt: {message}", "red", sys.stderr), file=sys.stderr)
    for line in next_step.splitlines():
        print(f"  {line}", file=sys.stderr)


def paint(text: str, style: str, stream: TextIO) -> str:
    """``text`` in colour, on a terminal only (and not where NO_COLOR is set: https://no-color.org)."""
    if style not in STYLES or os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m"
