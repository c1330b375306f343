"""What the tokenizer's codemods share: which class is the tokenizer, and where it uses the encoder.

Forks rename and move nearly everything. What they keep is what the class is for: it feeds audio to a FunASR encoder
(``….infer_encoder(…)``) and log-mel frames to an ONNX session.
"""

from __future__ import annotations

import ast
import functools

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.source import Source

from ._scopes import calls, calls_of, class_of, methods, named

ENCODE = "infer_encoder"
LOG_MEL = "log_mel_spectrogram"
STREAMING = {"chunk_size", "encoder_chunk_look_back", "decoder_chunk_look_back", "is_final"}
RESULT = "enc_out"
QUESTIONS = (ast.Attribute, ast.Compare, ast.UnaryOp, ast.If, ast.While, ast.FormattedValue, ast.Assert)


def encoder_uses(source: Source, within: ast.AST | None = None) -> list[ast.Attribute]:
    """Where the code takes a model's ``infer_encoder``, to call it or to hand it on; not where it only asks about it."""
    nodes = [n for n in named(source, ENCODE) if isinstance(n, ast.Attribute) and n.attr == ENCODE]
    taken = [n for n in nodes if not _is_asked(source, n)]
    return [n for n in taken if within is None or within in source.ancestors(n)]


def _is_asked(source: Source, node: ast.expr) -> bool:
    """Whether the code only asks about the value of ``node``, by itself or as one of several conditions."""
    parent = source.ancestors(node)[0]
    if isinstance(parent, ast.BoolOp):
        return _is_asked(source, parent)
    return isinstance(parent, QUESTIONS) or (isinstance(parent, ast.IfExp) and parent.test is node)


@functools.lru_cache(maxsize=8)
def tokenizer_class(source: Source) -> ast.ClassDef:
    """The class that encodes audio with FunASR, and not the wrapper around the FunASR model that some forks hold too."""
    uses = encoder_uses(source)
    encoding = list(dict.fromkeys(cls for use in uses if (cls := class_of(source, use)) is not None))
    if not encoding:
        place = f" (line {uses[0].lineno} is outside of any)" if uses else ""
        raise NoSite(f"{source.name}: no class calls {ENCODE}(){place}")
    signs = (_has_log_mel, _is_called_so, _streams)  # the best one first
    found = next(filter(None, ([c for c in encoding if sign(source, c)] for sign in signs)), [])
    if not found:
        places = ", ".join(f"{c.name} (line {c.lineno})" for c in encoding)
        raise NoSite(f"{source.name}: {places} calls {ENCODE}(), but nothing else shows that it is the tokenizer")
    same_name = [n for n in named(source, found[0].name) if isinstance(n, ast.ClassDef) and n.name == found[0].name]
    if len(found) > 1 or len(same_name) > 1:
        rivals = found if len(found) > 1 else same_name
        places = ", ".join(f"{c.name} (line {c.lineno})" for c in rivals)
        raise Ambiguous(f"{source.name}: {len(rivals)} classes could be the tokenizer: {places}")
    return found[0]


def _has_log_mel(source: Source, cls: ast.ClassDef) -> bool:
    """Whether ``cls`` also makes the log-mel frames for the other kind of tokens."""
    return any(class_of(source, call) is cls for call in calls_of(source, LOG_MEL))


def _is_called_so(source: Source, cls: ast.ClassDef) -> bool:
    """Whether ``cls`` is at least called a tokenizer."""
    return "Tokenizer" in cls.name and not _wraps(cls)


def _streams(source: Source, cls: ast.ClassDef) -> bool:
    """Whether ``cls`` chooses how audio is cut into chunks, or reads the result: a wrapper only passes both on."""
    if _wraps(cls):
        return False
    chosen = {k.arg for call in calls(source, ENCODE, cls) for k in call.keywords}
    nodes = [n for n in source.nodes(RESULT) if isinstance(n, ast.Constant) and n.value == RESULT]
    return bool(chosen & STREAMING) or any(class_of(source, n) is cls for n in nodes)


def _wraps(cls: ast.ClassDef) -> bool:
    return any(method.name == ENCODE for method in methods(cls))
