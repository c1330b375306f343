"""Load another FunASR model: change the default of ``funasr_model_id``.

The published tip swaps the streaming Paraformer-large for Paraformer-base. The tokens that come out are indices into a
codebook that was fitted to the large model's features, so another model only fits if it is a streaming encoder of the
same width, and even then its tokens mean something else. :func:`preflight` looks at the model folder and says so.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from apply_opt.errors import Ambiguous, NoSite, Refused
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.fragment import replace
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source, callee

from ._scopes import FUNCTIONS, PARAMETER, bindings, called, callers, default_of, methods, named, parameters_of, passed
from ._step_audio_tokenizer import encoder_uses, tokenizer_class

UPSTREAM = "dengcunqin/speech_paraformer-large_asr_nat-zh-cantonese-en-16k-vocab8501-online"
OPTION = "funasr_model_id"
CODEBOOK = "linguistic_tokenizer.npy"
SPEECH_TOKENIZER = "speech_tokenizer_v1.onnx"


FAMILY = "paraformer"
NAMES = ("funasr_model", "funasr_model_id", "funasr_model_path")  # the encoder's, whoever is told them
DEPTH = 6  # names, one made of the other
MODEL_ID = re.compile(r"[\w.-]+/[\w.-]*paraformer[\w.-]*", re.IGNORECASE)
CARRIES = (ast.Call, ast.keyword, ast.arguments, ast.BinOp, ast.BoolOp, ast.IfExp, ast.NamedExpr, ast.Await)
CONFIGURES = {"add_argument", "add_option", "setdefault", "__init__"}


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``model_id``: the one string in the code that chooses the FunASR model."""
    node = _model_id(source, parameters)
    return [Site("model_id", node.lineno, OURS if node.value == parameters["model_id"] else TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The other model's name, in the quotes that stand there."""
    node = _model_id(source, parameters)
    literal = _literal(source, node, str(parameters["model_id"]))
    return [replace(source, source.statement(node), {node: literal})]


def _literal(source: Source, node: ast.Constant, value: str) -> str:
    """``value`` as a string literal, like the one that stands there if that is plain enough."""
    there = source.lines[node.lineno - 1].encode()[node.col_offset :].decode()
    quotes = re.match(r"""[rRuU]?('''|\"\"\"|'|\")""", there)
    plain = quotes is not None and not set(value) & set("\\\"'")
    return f"{quotes[1]}{value}{quotes[1]}" if quotes and plain else repr(value)


def _model_id(source: Source, parameters: Mapping[str, Value]) -> ast.Constant:
    """The string that chooses the model: upstream's, ours or one of the same family; else the parameter's default."""
    wanted = str(parameters["model_id"])
    strings = [n for n in source.nodes(FAMILY, *_words(wanted)) if isinstance(n, ast.Constant)]
    named = [n for n in strings if n.value in (UPSTREAM, wanted) or MODEL_ID.fullmatch(_text(n))]
    chosen = [n for n in named if _chooses(source, n) and (n.value in (UPSTREAM, wanted) or _is_encoder_s(source, n))]
    if not named:
        chosen = list(_defaults(tokenizer_class(source)))
    if len(chosen) > 1:
        lines = ", ".join(str(node.lineno) for node in chosen)
        raise Ambiguous(f"{source.name}: the FunASR model is named in {len(chosen)} places: lines {lines}")
    if not chosen:
        raise _no_site(source, named or [n for n in strings if FAMILY in _text(n).lower()])
    return chosen[0]


def _text(node: ast.Constant) -> str:
    return node.value if isinstance(node.value, str) else ""


def _words(model_id: str) -> list[str]:
    """What has to be in the text of a statement that has ``model_id`` as a string, however it is escaped."""
    return sorted(set(re.findall(r"[A-Za-z0-9]+", model_id)), key=len)[-1:]


def _no_site(source: Source, near: Sequence[ast.Constant]) -> NoSite:
    if near:
        return NoSite(
            f"{source.name}:{near[0].lineno} names a FunASR model, but not as the one value that decides which is loaded"
        )
    return NoSite(f"{source.name}: no string in the code names the FunASR model (nor a default of {OPTION})")


def _chooses(source: Source, node: ast.Constant) -> bool:
    """Whether ``node`` is a value that the program goes on with: not one that is compared, listed, logged or left alone."""
    child: ast.AST = node
    in_call = False
    for parent in source.ancestors(node):
        if isinstance(parent, ast.stmt):
            return _statement_chooses(source, parent, child, node, in_call)
        if isinstance(parent, ast.Dict):
            key = parent.keys[parent.values.index(child)] if child in parent.values else None
            if not (isinstance(key, ast.Constant) and "model" in str(key.value).lower()):
                return False
        elif not isinstance(parent, CARRIES) or (isinstance(parent, ast.IfExp) and child is parent.test):
            return False
        in_call = in_call or isinstance(parent, ast.Call)
        child = parent
    return False


def _statement_chooses(source: Source, statement: ast.stmt, part: ast.AST, node: ast.Constant, in_call: bool) -> bool:
    if isinstance(statement, FUNCTIONS):
        own = _held_by(statement, node)
        return any(isinstance(n, ast.Name) and n.id in own for s in statement.body for n in ast.walk(s))
    if isinstance(statement, ast.Expr):
        call = part if isinstance(part, ast.Call) else None
        return call is not None and (callee(call) in CONFIGURES or called(source, call) is not None)
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        return in_call or any(_is_read(source, name) for name in _held_by(statement, node))
    return isinstance(statement, (ast.Return, ast.With))


def _held_by(statement: ast.stmt, node: ast.Constant) -> list[str]:
    """The names (of variables, attributes, parameters) that get the value of ``node``, or what is made of it."""
    if isinstance(statement, FUNCTIONS):
        return [a.arg for a in parameters_of(statement) if default_of(statement, a.arg) is node]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [
        t.attr if isinstance(t, ast.Attribute) else t.id for t in targets if isinstance(t, (ast.Attribute, ast.Name))
    ]


def _is_encoder_s(source: Source, node: ast.Constant) -> bool:
    """Whether a model of the same family is the encoder's: by a name that is only its own, or because it gets there."""
    around = source.ancestors(node)
    keywords = [n.arg or "" for n in around if isinstance(n, ast.keyword)]
    holders = [name for n in around if isinstance(n, ast.stmt) for name in _held_by(n, node)]
    if any(name.lower() in NAMES for name in (*keywords, *holders)):
        return True
    return any(_comes_from(source, use.value, node, DEPTH) for use in encoder_uses(source))


def _comes_from(source: Source, value: Optional[ast.AST], node: ast.Constant, depth: int) -> bool:
    """Whether ``value`` may be made of ``node``: a name's values are followed, ``depth`` of them one after the other."""
    if value is node or not isinstance(value, (ast.expr, ast.keyword)):
        return value is node
    if isinstance(value, (ast.Name, ast.Attribute)):
        return depth > 0 and any(_comes_from(source, v, node, depth - 1) for v in _values_of(source, value))
    children = list(ast.iter_child_nodes(value))
    if isinstance(value, ast.Dict):
        pairs = zip(value.keys, value.values)
        children = [v for k, v in pairs if isinstance(k, ast.Constant) and k.value in ("model", *NAMES)]
    return any(_comes_from(source, child, node, depth) for child in children)


def _values_of(source: Source, expression: ast.expr) -> Iterator[Optional[ast.expr]]:
    """What the file assigns to ``expression``, or passes for it where it is a parameter."""
    for binding in bindings(source, expression, expression):
        function = binding.statement
        if binding.kind == PARAMETER and isinstance(expression, ast.Name) and isinstance(function, FUNCTIONS):
            yield default_of(function, expression.id)
            yield from (passed(source, function, expression.id, call) for call in callers(source, function))
        else:
            yield binding.value


def _is_read(source: Source, name: str) -> bool:
    """Whether the program reads the variable or attribute ``name``; where it says what it is, another file may."""
    loads = [n for n in named(source, name) if isinstance(getattr(n, "ctx", None), ast.Load)]
    return "funasr" in name.lower() or any(name in (getattr(n, "id", ""), getattr(n, "attr", "")) for n in loads)


def _defaults(tokenizer: ast.ClassDef) -> Iterator[ast.Constant]:
    for function in methods(tokenizer):
        default: Optional[ast.expr] = default_of(function, OPTION)
        if isinstance(default, ast.Constant) and isinstance(default.value, str):
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
        encoder, model_class, width = config["encoder"], config["model"], config["encoder_conf"]["output_size"]
        if not isinstance(encoder, str) or not isinstance(model_class, str) or type(width) is not int:
            raise ValueError("encoder and model have to be names, and output_size a whole number")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise Refused(f"{path} is not a FunASR configuration: {why}", "download the model again") from error
    return encoder, model_class, width


def _npy_shape(path: str) -> tuple[int, int]:
    """The shape of a two-dimensional .npy array, from its header alone (so that numpy need not be installed).

    The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error}", "download the codebook again") from error
    match = re.search(rb"'shape': \((\d+), (\d+)\)", head) if head.startswith(b"\x93NUMPY") else None
    if match is None:
        raise Refused(f"{path} is not a two-dimensional .npy array", "download the codebook again")
    return int(match[1]), int(match[2])
