"""``apply-opt doctor``: what this machine offers."""

from __future__ import annotations

import argparse
from typing import Any

from apply_opt import __version__
from apply_opt.commands import Result, add_json_argument
from apply_opt.io import machine

HELP = "what this machine offers: Python, cores, C++ compiler, torch, CUDA, TF32, ONNX Runtime providers"
EPILOG = """examples:
  apply-opt doctor
  apply-opt doctor --json > machine.json"""
Line = tuple[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Look at everything; nothing that is missing is an error."""
    document = {
        "apply_opt": __version__,
        "python": machine.python(),
        "cores": machine.cores(),
        **machine.programs(),
        "compiler": machine.compiler(),
        **machine.libraries(),
    }
    python, cores = document["python"], document["cores"]
    lines: list[Line] = [
        ("", f"apply-opt    {__version__}, Python {python['version']}, {python['system']}"),
        ("", f"cores        {cores['usable']} usable{_why(cores)}"),
        *(_program(name, document[name]) for name in ("git", "patch")),
        _program("compiler", document["compiler"]),
        *_torch(document["torch"]),
        *_onnxruntime(document["onnxruntime"]),
    ]
    return Result(lines, document)


def _why(cores: dict[str, Any]) -> str:
    limit = f", container limit {cores['quota']:g}" if cores["quota"] else ""
    return f" of {cores['present']} (affinity {cores['affinity']}{limit})"


def _program(name: str, version: str | None) -> Line:
    return ("", f"{name:13}{version}") if version else ("yellow", f"{name:13}not found")


def _torch(found: dict[str, Any] | None) -> list[Line]:
    if found is None:
        return [
            (
                "dim",
                "torch        not installed; applying and reverting do not need it (it comes with the extra `bench`)",
            )
        ]
    if "error" in found:
        return [("red", f"torch        cannot be imported: {found['error']}")]
    cards = ", ".join(found["cards"]) or "no card"
    tf32 = found["tf32"]
    return [
        (
            "",
            f"torch        {found['version']}, CUDA {found['cuda'] or 'not built in'}, {cards}, {found['threads']} threads",
        ),
        (
            "",
            f"TF32         matmul {tf32['matmul']}, cuDNN {tf32['cudnn']}, precision {tf32['float32_matmul_precision']}",
        ),
    ]


def _onnxruntime(found: dict[str, Any] | None) -> list[Line]:
    if found is None:
        return [
            (
                "dim",
                "onnxruntime  not installed; applying and reverting do not need it (pip install 'apply-opt[bench]')",
            )
        ]
    if "error" in found:
        return [("red", f"onnxruntime  cannot be imported: {found['error']}")]
    lines = [("", f"onnxruntime  {found['version']}, providers {', '.join(found['providers'])}")]
    if "CUDAExecutionProvider" not in found["providers"]:
        lines.append(("dim", "             no CUDA provider: a session that asks for it runs on the CPU"))
    return lines
