"""Load another FunASR model: change the default of ``funasr_model_id``.

The note this came from swaps the streaming Paraformer-large for Paraformer-base. The tokens that come out are indices
into a codebook that was fitted to the large model's features, so another model only fits if it is a streaming encoder of
the same width, and even then its tokens mean something else. :func:`preflight` looks at the model folder and says so.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from apply_opt.errors import Ambiguous, Conflict, NoSite, Refused
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.fragment import rewrite
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._step_audio_tokenizer import tokenizer_class

if TYPE_CHECKING:
    import libcst as cst

UPSTREAM = "dengcunqin/speech_paraformer-large_asr_nat-zh-cantonese-en-16k-vocab8501-online"
PARAMETER = "funasr_model_id"
CODEBOOK = "linguistic_tokenizer.npy"
SPEECH_TOKENIZER = "speech_tokenizer_v1.onnx"


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``model_id``: the one string in the code that names the FunASR model."""
    found = _model_ids(source, parameters)
    if not found:
        raise NoSite(f"{source.name}: no string in the code names the FunASR model (nor a default of {PARAMETER})")
    if len(found) > 1:
        lines = ", ".join(str(node.lineno) for node in found)
        raise Ambiguous(f"{source.name}: the FunASR model is named in {len(found)} places: lines {lines}")
    state = OURS if found[0].value == parameters["model_id"] else TODO
    return [Site("model_id", found[0].lineno, state)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The other model's name, in the quotes that stand there."""
    node = _model_ids(source, parameters)[0]
    return [rewrite(source, source.statement(node), _replace(str(node.value), str(parameters["model_id"])))]


def _replace(old: str, new: str) -> cst.CSTTransformer:
    import libcst as cst

    class Replace(cst.CSTTransformer):
        def leave_SimpleString(
            self, original_node: cst.SimpleString, updated_node: cst.SimpleString
        ) -> cst.BaseExpression:
            if updated_node.evaluated_value != old or "\n" in updated_node.value:
                return updated_node
            plain = f"{updated_node.quote}{new}{updated_node.quote}"
            return updated_node.with_changes(value=repr(new) if set(new) & set("\\\"'") else plain)

    return Replace()


def _model_ids(source: Source, parameters: Mapping[str, Value]) -> list[ast.Constant]:
    """Upstream's name or ours wherever the code (no docstring) has it; else the default of the tokenizer's parameter."""
    words = (UPSTREAM.split("/")[-1], str(parameters["model_id"]).split("/")[-1])
    strings = [n for n in source.nodes(*words) if isinstance(n, ast.Constant)]
    strings = [n for n in strings if not isinstance(source.ancestors(n)[0], ast.Expr)]
    named = [n for n in strings if n.value in (UPSTREAM, parameters["model_id"])]
    return named or list(_defaults(tokenizer_class(source)))


def _defaults(tokenizer: ast.ClassDef) -> Iterator[ast.Constant]:
    for function in (s for s in tokenizer.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"):
        arguments = function.args
        positional = [*arguments.posonlyargs, *arguments.args]
        pairs = [
            *zip(reversed(positional), reversed(arguments.defaults)),
            *zip(arguments.kwonlyargs, arguments.kw_defaults),
        ]
        for argument, default in pairs:
            if argument.arg == PARAMETER and isinstance(default, ast.Constant) and isinstance(default.value, str):
                yield default


def preflight(folder: str, parameters: Mapping[str, Value]) -> list[str]:
    """What was found in ``folder`` (the tokenizer's encoder folder). Raises :class:`Refused` where the model cannot fit."""
    model = os.path.join(folder, *str(parameters["model_id"]).split("/"))
    for path, what in (
        (model, "the model's folder"),
        (os.path.join(model, "config.yaml"), "the model's configuration"),
        (os.path.join(model, "model.pt"), "the model's weights"),
        (os.path.join(folder, CODEBOOK), "the k-means codebook"),
        (os.path.join(folder, SPEECH_TOKENIZER), "the ONNX speech tokenizer"),
    ):
        if not os.path.exists(path):
            raise Refused(
                f"{what} is missing: {path}",
                "download it there; without it the tokenizer's fallback looks in the working directory and fails to load",
            )
    encoder, model_class, width = _configuration(os.path.join(model, "config.yaml"))
    if "Chunk" not in encoder or "Streaming" not in model_class:
        raise Refused(
            f"{parameters['model_id']} is not a streaming model ({model_class} with {encoder}): it has no infer_encoder",
            "choose a streaming (online) Paraformer: --set model_id=…",
        )
    rows, columns = _npy_shape(os.path.join(folder, CODEBOOK))
    if width != columns:
        raise Refused(
            f"the model's features are {width} wide and the codebook's are {columns}: no token could be looked up",
            f"choose a model of width {columns}: --set model_id=…",
        )
    return [
        f"{model_class} with {encoder}, {width} wide; codebook {rows} x {columns}",
        "it will run; whether its tokens mean anything to a language model trained on the other model's is not checked",
    ]


def _configuration(path: str) -> tuple[str, str, int]:
    """Encoder class, model class and output width from a FunASR ``config.yaml``."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            config = yaml.safe_load(file)
        return str(config["encoder"]), str(config["model"]), int(config["encoder_conf"]["output_size"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise Refused(f"{path} is not a FunASR configuration: {error}", "download the model again") from error


def _npy_shape(path: str) -> tuple[int, int]:
    """The shape of a two-dimensional .npy array, from its header alone (so that numpy need not be installed).

    The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    with open(path, "rb") as file:
        head = file.read(4096)
    match = re.search(rb"'shape': \((\d+), (\d+)\)", head) if head.startswith(b"\x93NUMPY") else None
    if match is None:
        raise Conflict(f"{path} is not a two-dimensional .npy array", "download the codebook again")
    return int(match[1]), int(match[2])
