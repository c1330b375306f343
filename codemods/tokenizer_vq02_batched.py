"""Encode all chunks of an utterance at once, layer by layer: an option for the call of ``infer_encoder``.

The streaming encoder takes 240 ms of audio after the other through all its layers, about 126 passes for 30 s. A layer needs
nothing of a deeper one, so the passes can be turned round: layer by layer, each with all chunks as one batch. The class that
does so (:mod:`._all_chunks_at_once`) is a model around the model, and ``infer_encoder`` has an argument for that.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Union

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.fragment import change
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source, callee

from ._all_chunks_at_once import HELPER, HELPER_TEXT
from ._helpers import insert_above, is_taken
from ._scopes import FUNCTIONS, bindings, class_of, family, named, owners
from ._step_audio_tokenizer import ENCODE, encoder_uses, tokenizer_class
from ._torch_name import check_torch, imports_torch

if TYPE_CHECKING:
    import libcst as cst

    Space = Union[cst.SimpleWhitespace, cst.ParenthesizedWhitespace]

CHUNK_SIZE, MODEL, OPTION = "chunk_size", "model", "option"
FORWARDS = {"partial", "to_thread", "submit"}
"""What calls its first argument with the keywords that it gets."""


class Encoding(NamedTuple):
    """A call that runs the encoder chunk by chunk, and the code for the model that it is called on."""

    call: ast.Call
    funasr_model: str

    @property
    def code(self) -> str:
        """What is added to the arguments, after two stars."""
        return f"{HELPER}.{OPTION}({self.funasr_model})"

    @property
    def is_ours(self) -> bool:
        """Whether it is there."""
        return any(k.arg is None and ast.unparse(k.value) == self.code for k in self.call.keywords)


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The sites ``helper`` (our class) and ``encoder`` (the calls that encode chunk by chunk)."""
    tokenizer, calls = tokenizer_class(source), _encodings(source)
    ours = [s for s in source.tree.body if isinstance(s, ast.ClassDef) and s.name == HELPER]
    done = [e.call.lineno for e in calls if e.is_ours]
    if len(ours) > 1:
        lines = ", ".join(str(s.lineno) for s in ours)
        raise PartlyApplied(f"{source.name}: {HELPER} is defined more than once: lines {lines}", "take one out by hand")
    if done and len(done) < len(calls):
        missing = ", ".join(str(e.call.lineno) for e in calls if not e.is_ours)
        raise PartlyApplied(
            f"{source.name}:{done[0]} is partly applied: line {missing} calls {ENCODE}() without {HELPER}",
            "take what is there out by hand, then apply again",
        )
    if not ours and not done:
        _check_free(source, tokenizer)
    line = calls[0].call.lineno
    return [
        Site("helper", ours[0].lineno if ours else tokenizer.lineno, OURS if ours else TODO),
        Site("encoder", line, OURS if done else TODO),
    ]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """Our class above the tokenizer's, and the option in each of the calls."""
    tokenizer, text = tokenizer_class(source), HELPER_TEXT
    if not imports_torch(source, source.top_level(tokenizer)):
        text = "import torch\n\n\n" + text.strip("\n")
    by_statement: dict[ast.stmt, list[Encoding]] = {}
    for encoding in _encodings(source):
        by_statement.setdefault(source.statement(encoding.call), []).append(encoding)
    edits = [
        change(source, statement, {e.call: _Append(e.code) for e in encodings})
        for statement, encodings in by_statement.items()
    ]
    return [insert_above(source, tokenizer, text), *edits]


def _check_free(source: Source, tokenizer: ast.ClassDef) -> None:
    if is_taken(source, HELPER):
        raise Conflict(f"{source.name} already uses the name {HELPER} for something else")
    check_torch(source, source.top_level(tokenizer), f"import it above the class {tokenizer.name}, under its own name")


# The calls


def _encodings(source: Source) -> list[Encoding]:
    """The calls of the tokenizer, and of its subclasses here, that encode chunk by chunk. At least one."""
    tokenizer = tokenizer_class(source)
    uses = [use for use in encoder_uses(source) if _is_in_family(source, use, tokenizer)]
    found = [e for use in uses if not _is_own_method(source, use) for e in _encodings_by(source, use)]
    streaming = [e for e in found if {k.arg for k in e.call.keywords} & {CHUNK_SIZE, None}]
    if not streaming:
        raise NoSite(f"{source.name}: {tokenizer.name} does not call {ENCODE}() with a {CHUNK_SIZE}")
    for encoding in streaming:
        _check_open(source, encoding)
    return streaming


def _is_in_family(source: Source, use: ast.AST, tokenizer: ast.ClassDef) -> bool:
    cls = class_of(source, use)
    return cls is not None and cls.name != HELPER and tokenizer in family(source, cls)


def _is_own_method(source: Source, use: ast.Attribute) -> bool:
    """Whether ``use`` is of a method that the file itself has, around the model's."""
    defined = [n for n in named(source, ENCODE) if isinstance(n, FUNCTIONS)]
    return any(class_of(source, n) in owners(source, use) for n in defined)


def _encodings_by(source: Source, use: ast.Attribute) -> list[Encoding]:
    """The calls that ``use`` is for."""
    value: ast.expr = use.value
    while isinstance(value, ast.Attribute) or (
        isinstance(value, ast.Subscript) and isinstance(value.slice, ast.Constant)
    ):
        value = value.value
    if not isinstance(value, ast.Name):
        raise Ambiguous(f"{source.name}:{use.lineno}: {ENCODE}() is not called on a plain name, to be written twice")
    return [Encoding(call, ast.unparse(use.value)) for call in _calls_by(source, use)]


def _calls_by(source: Source, use: ast.Attribute) -> list[ast.Call]:
    """The call of ``use``; where it gets a short name first, the calls of that in the same function."""
    parent = source.ancestors(use)[0]
    if isinstance(parent, ast.Call) and (parent.func is use or _is_forwarded(parent, use)):
        return [parent]
    targets = parent.targets if isinstance(parent, ast.Assign) else []
    name = targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else ""
    reads = [n for n in named(source, name) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    own = [n for n in reads if any(b.statement is parent for b in bindings(source, n, n))]
    around = [source.ancestors(n)[0] for n in own]
    calls = [c for n, c in zip(own, around) if isinstance(c, ast.Call) and (c.func is n or _is_forwarded(c, n))]
    if not own or len(calls) < len(own) or any(len(bindings(source, n, n)) > 1 for n in own):
        raise Ambiguous(f"{source.name}:{use.lineno}: {ENCODE} is handed on here, so that no argument can be added")
    return calls


def _is_forwarded(call: ast.Call, function: ast.expr) -> bool:
    return function in call.args[:1] and callee(call) in FORWARDS


def _check_open(source: Source, encoding: Encoding) -> None:
    """Raise where the call may say by itself which model is to run."""
    call = encoding.call
    direct = callee(call) not in FORWARDS
    if any(k.arg == MODEL for k in call.keywords):
        raise Conflict(f"{source.name}:{call.lineno}: {ENCODE}() is given a {MODEL} already")
    if any(isinstance(a, ast.Starred) for a in call.args) or len(call.args) > (2 if direct else 3):
        raise Ambiguous(f"{source.name}:{call.lineno}: {ENCODE}() is given arguments by position, perhaps a {MODEL}")


class _Append:
    """Adds ``**code`` to the arguments of a call: on a line of its own where they stand on lines below the call's."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __call__(self, call: cst.Call) -> cst.Call:
        import libcst as cst

        last = call.args[-1]
        comma = last.comma if isinstance(last.comma, cst.Comma) else None
        between, end = _gap(call), comma.whitespace_after if comma else last.whitespace_after_arg
        if isinstance(between, cst.ParenthesizedWhitespace) and isinstance(end, cst.ParenthesizedWhitespace):
            between = between.with_changes(first_line=end.first_line)  # a comment there is the last argument's
            end = end.with_changes(first_line=_bare(end.first_line))
        added = cst.Arg(cst.parse_expression(self.code), star="**")
        if comma:
            added = added.with_changes(comma=comma.with_changes(whitespace_after=end))
        else:
            added = added.with_changes(whitespace_after_arg=end)
        nothing = cst.SimpleWhitespace("")
        last = last.with_changes(comma=cst.Comma(whitespace_after=between), whitespace_after_arg=nothing)
        return call.with_changes(args=[*call.args[:-1], last, added])


def _gap(call: cst.Call) -> Space:
    """What to put between the last argument and one more: a line break, where there is one in front of an argument."""
    import libcst as cst

    commas = [arg.comma for arg in call.args[:-1]]
    spaces = [call.whitespace_before_args, *(c.whitespace_after for c in commas if isinstance(c, cst.Comma))]
    breaks = [space for space in spaces if isinstance(space, cst.ParenthesizedWhitespace)]
    if not breaks:
        return cst.SimpleWhitespace(" ")
    return breaks[0].with_changes(first_line=_bare(breaks[0].first_line), empty_lines=())


def _bare(line: cst.TrailingWhitespace) -> cst.TrailingWhitespace:
    """The end of a line, without a comment."""
    import libcst as cst

    return line.with_changes(comment=None, whitespace=cst.SimpleWhitespace(""))
