"""Hand the encoder the samples of an utterance, and not a WAV file of them that is written to memory and read back.

FunASR's models take a one-dimensional tensor of samples as well
(https://github.com/modelscope/FunASR, ``prepare_data_iterator`` and ``load_audio_text_image_video``). A WAV file may hold
other samples than the tensor: ``torchaudio.save`` writes 32-bit floats or 16-bit integers, by its version and its backend,
``soundfile.write`` 16-bit integers. With ``quantize=auto`` the helper finds out from a file what becomes of the samples, and
gives the encoder the same ones; with ``none`` they are never rounded.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, NoSite, OtherValues
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, callee, first_line, last_line

from ._escapes import encoding_methods
from ._helpers import has_helper, insert_above
from ._lines import is_alone, without
from ._scopes import argument, bindings, calls, mentions, named, parameters_of, scope_of, targets_of
from ._step_audio_tokenizer import ENCODE, encoder_uses, tokenizer_class

HELPER = "_samples_or_wav"
HELPER_TEXT = '''
def _samples_or_wav(audio, write):
    """What the encoder is given for `audio`, float32 (1, samples): the samples that a WAV file by `write` has, or the file.

    A file of 32-bit floats has the samples as they are, one of 16 bits has them rounded. Which it is shows when a file is
    compared with its tensor. From then on the same samples go to the encoder without one. Until then the file itself
    does; so it does where the audio is no such tensor, or is louder, quieter or shorter than all that was compared, since
    a writer may treat that in another way.
    """
    import io

    import torch

    def as_they_are(audio):
        return audio, audio

    def to_the_nearest(audio):  # FFmpeg
        levels = (audio * 2**15).round().clamp(-(2**15), 2**15 - 1)
        return levels.to(torch.int16), levels / 2**15

    def downwards(audio):  # libsndfile: rounds to 32 bits, and drops 16 of them
        levels = ((audio * 2**31).round() / 2**16).floor().clamp(-(2**15), 2**15 - 1)
        return levels.to(torch.int16), levels / 2**15

    ways, known = (as_they_are, to_the_nearest, downwards), vars(_samples_or_wav)
    is_plain = isinstance(audio, torch.Tensor) and audio.dtype == torch.float32 and audio.device.type == "cpu"
    is_plain = is_plain and audio.dim() == 2 and len(audio) == 1 and not audio.requires_grad
    is_plain = is_plain and bool(audio.isfinite().all())
    length = audio.shape[-1] if is_plain else 0
    peak = float(audio.abs().max()) if length else 0.0
    seen = known.get("seen")  # the way, lowest and highest peak, least length; None: it is not always the same way
    if is_plain and seen and seen[1] <= peak <= seen[2] and length >= seen[3]:
        return ways[seen[0]](audio)[1].mean(dim=0)
    file = io.BytesIO()
    write(file)
    file.seek(0)
    if is_plain and length >= 1000 and audio.min() < -0.1 and audio.max() > 0.1:  # enough to tell them apart
        blocks = [way(audio)[0].numpy().tobytes() for way in ways]
        chunks = [b"data" + len(block).to_bytes(4, "little") + block for block in blocks]
        found = [number for number, chunk in enumerate(chunks) if file.getvalue().endswith(chunk)]
        if len(found) == 1 and "seen" not in known:
            known["seen"] = found[0], peak, peak, length
        elif seen:
            bounds = min(peak, seen[1]), max(peak, seen[2]), min(length, seen[3])
            known["seen"] = (*found, *bounds) if found == [seen[0]] else None
    return file
'''
WITHOUT = "{audio}.detach().cpu().float()[None].flatten(0, -2).mean(dim=0)"
"""The code of ``quantize=none``: mono, as a file is read."""
COMMENT = "# The encoder takes samples as well as a WAV file of them."
RATE = 16000
SAME_SAMPLES = {
    "cpu",
    "detach",
    "numpy",
    "squeeze",
    "unsqueeze",
    "float",
    "contiguous",
    "dim",
    "ndim",
    "T",
    "t",
    "shape",
}
WRITERS = {"save": 1, "write": 1, "write_wav": 1}
"""Functions that write audio to a file, their first argument; and which argument is the audio."""
PARTS = (
    *(ast.Name, ast.Attribute, ast.Call, ast.Constant, ast.IfExp, ast.Compare, ast.Subscript, ast.UnaryOp, ast.USub),
    *(ast.Gt, ast.Eq, ast.GtE, ast.expr_context),
)


class Wav(NamedTuple):
    """Where a WAV file is made in memory, written, rewound; what its samples come from."""

    method: Function
    made: ast.Assign
    written: ast.Expr
    rewound: ast.Expr
    audio: str


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``wav``: where the encoder's input is made."""
    tokenizer = tokenizer_class(source)
    there = has_helper(source, HELPER, calls(source, HELPER), tokenizer.lineno)
    ours = [*calls(source, HELPER), *_without_helper(source)]
    if ours:
        _check_values(source, ours[0].lineno, "auto" if there else "none", parameters)
        return [Site("wav", ours[0].lineno, OURS)]
    inputs = [(m, node) for m in encoding_methods(source) for node in _inputs(source, m)]
    if inputs and all(_is_tensor(source, method, node) for method, node in inputs):
        return [Site("wav", inputs[0][1].lineno, THEIRS, f"input={ast.unparse(inputs[0][1])}, which is no file")]
    return [Site("wav", _wav(source).made.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """One statement in place of that which writes the file; the helper above the class."""
    wav = _wav(source)
    name = ast.unparse(wav.made.targets[0])
    first, last = first_line(wav.written), last_line(wav.written)
    indent, newline = source.indent(first), source.newline(last)
    if parameters["quantize"] == "none":
        lines = [COMMENT, f"{name} = {WITHOUT.format(audio=wav.audio)}"]
    else:
        call = _with_file(source, wav, name)
        lines = [f"{name} = {HELPER}(", f"{source.indent_unit()}{wav.audio}, lambda file: {call}", ")"]
    tail = source.lines[last - 1].encode()[wav.written.end_col_offset or 0 :].decode()
    text = newline.join(indent + line for line in lines) + tail
    edits = [without(source, wav.made), Edit(first, last, text), without(source, wav.rewound)]
    if parameters["quantize"] == "none":
        return edits
    return [insert_above(source, tokenizer_class(source), HELPER_TEXT), *edits]


def _with_file(source: Source, wav: Wav, name: str) -> str:
    """The code of the call that writes, to ``file`` and not to ``name``."""
    call = wav.written.value
    assert isinstance(call, ast.Call)
    old = call.args[0]
    text = ast.get_source_segment(source.text, call)
    if text is None or call.lineno != call.end_lineno or not text.isascii():
        return ast.unparse(ast.Call(call.func, [ast.Name("file"), *call.args[1:]], call.keywords))
    start = old.col_offset - call.col_offset
    return text[:start] + "file" + text[start + len(name) :]


# What is there already


def _without_helper(source: Source) -> list[ast.expr]:
    """What we write with ``quantize=none``."""
    found = []
    for call in calls(source, "mean"):
        inner = call.func.value if isinstance(call.func, ast.Attribute) else call
        names = {n.id for n in ast.walk(inner) if isinstance(n, ast.Name)}
        if len(names) == 1 and ast.unparse(call) == WITHOUT.format(audio=next(iter(names))):
            above = source.lines[source.statement(call).lineno - 2].strip() if call.lineno > 1 else ""
            found += [call] if above == COMMENT else []
    return found  # type: ignore[return-value]


def _check_values(source: Source, line: int, there: str, parameters: Mapping[str, Value]) -> None:
    if parameters["quantize"] != there:
        raise OtherValues(
            f"{source.name}:{line} is applied with other values: quantize={there}",
            "take it out first: apply-opt revert tokenizer_direct_tensor, or by hand where it was put in by hand",
        )


# Where the file is made


def _inputs(source: Source, method: Function) -> list[ast.expr]:
    """What ``method`` hands the encoder as its input: the element, where it is a list of one."""
    found = []
    for use in encoder_uses(source, method):
        call = source.ancestors(use)[0]
        value = argument(call, "input", 0) if isinstance(call, ast.Call) and call.func is use else None
        if value is None:
            raise NoSite(f"{source.name}:{use.lineno}: what {ENCODE}() is given as its input is not to be seen")
        found.append(value.elts[0] if isinstance(value, ast.List) and len(value.elts) == 1 else value)
    return found


def _is_tensor(source: Source, method: Function, node: ast.expr) -> bool:
    """Whether ``node`` is audio that no file is made of: an argument of ``method``, or made of one by tensor operations."""
    files = {"BytesIO", "NamedTemporaryFile", "TemporaryFile", "mkstemp", "open", *WRITERS}
    if any(callee(n) in files for n in ast.walk(method) if isinstance(n, ast.Call)):
        return False
    given = {a.arg for a in parameters_of(method)[1:]}
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    values = [b.value for n in names for b in bindings(source, n, n) if b.value is not None]
    return any(isinstance(n, ast.Name) and n.id in given for v in (node, *values) for n in ast.walk(v))


def _wav(source: Source) -> Wav:
    """The three statements. Raises where there are others, or more of them."""
    found = [w for method in encoding_methods(source) for w in [_wav_in(source, method)]]
    if len(found) > 1:
        lines = ", ".join(str(w.made.lineno) for w in found)
        raise Ambiguous(f"{source.name}: WAV files are made in {len(found)} places: lines {lines}")
    return found[0]


def _wav_in(source: Source, method: Function) -> Wav:
    inputs = _inputs(source, method)
    name = inputs[0]
    line = f"{source.name}:{name.lineno}"
    if not isinstance(name, ast.Name) or any(ast.unparse(n) != name.id for n in inputs):
        raise NoSite(f"{line}: the encoder's input is not one variable: {ast.unparse(inputs[-1])}")
    statements = {
        source.statement(n): n for n in mentions(source, name) if scope_of(source, n) is method and n not in inputs
    }
    made = [s for s in statements if isinstance(s, ast.Assign) and _is_memory(s.value) and len(s.targets) == 1]
    written = [s for s in statements if isinstance(s, ast.Expr) and _writes(s.value, statements[s])]
    rewound = [s for s in statements if isinstance(s, ast.Expr) and _rewinds(s.value, statements[s])]
    if not (len(made) == len(written) == len(rewound) == 1 and len(statements) == 3):
        lines = ", ".join(str(s.lineno) for s in sorted(statements, key=lambda s: s.lineno)) or "none"
        raise NoSite(
            f"{line}: {name.id} is not simply a file in memory, written and rewound once (lines {lines} have to do with it)"
        )
    wav = Wav(method, made[0], written[0], rewound[0], "")
    _check_order(source, wav, inputs[0])
    return wav._replace(audio=_audio(source, method, written[0]))


def _is_memory(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and callee(value) == "BytesIO" and not value.args and not value.keywords


def _writes(value: ast.expr, name: ast.expr) -> bool:
    return isinstance(value, ast.Call) and callee(value) in WRITERS and value.args[:1] == [name]


def _rewinds(value: ast.expr, name: ast.expr) -> bool:
    """Whether it is ``name.seek(0)``."""
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.value is name):
        return False
    return value.func.attr == "seek" and [ast.unparse(a) for a in value.args] == ["0"] and not value.keywords


def _check_order(source: Source, wav: Wav, used: ast.expr) -> None:
    """Raise where the three do not stand in one block, one after the other, in front of the encoder."""
    around = [source.ancestors(s)[0] for s in (wav.made, wav.written, wav.rewound)]
    numbers = [wav.made.lineno, wav.written.lineno, wav.rewound.lineno, used.lineno]
    block_of_use = around[0] in source.ancestors(used)
    if len(set(around)) > 1 or numbers != sorted(set(numbers)) or not block_of_use:
        raise NoSite(f"{source.name}:{wav.made.lineno}: the file is not made, written and rewound in a row")
    for statement in (wav.made, wav.written, wav.rewound):
        if not is_alone(source, statement):
            raise NoSite(f"{source.name}:{statement.lineno}: there is other code on the line")


# What is written


def _audio(source: Source, method: Function, written: ast.Expr) -> str:
    """The argument of ``method`` whose samples are written as they are, 16,000 a second, as a WAV file."""
    call = written.value
    assert isinstance(call, ast.Call)
    where = f"{source.name}:{call.lineno}"
    formats = [k.value for k in call.keywords if k.arg == "format"]
    if not all(isinstance(f, ast.Constant) and str(f.value).lower() == "wav" for f in formats):
        raise NoSite(f"{where}: the file is of another format than WAV: {ast.unparse(formats[0])}")
    if not formats and callee(call) != "write_wav":
        raise NoSite(f"{where}: the file's format is not to be seen")
    rate = argument(call, "sample_rate", 2) or argument(call, "samplerate", 2)
    if rate is None or not _is_rate(source, rate):
        raise NoSite(f"{where}: the file's rate is not {RATE} for certain: the encoder would resample it")
    data = argument(call, "src", 1) or argument(call, "data", 1)
    names = _made_of(source, method, data) if data is not None else set()
    if len(names) != 1:
        raise NoSite(f"{where}: the file does not hold the samples of an argument of {method.name} as they are")
    return names.pop()


def _is_rate(source: Source, rate: ast.expr) -> bool:
    """Whether ``rate`` is the number, or a constant of it that gets its value in one place."""
    if isinstance(rate, ast.Constant):
        return rate.value == RATE
    found = bindings(source, rate, rate)
    value = found[0].value if len(found) == 1 else None
    name = getattr(rate, "attr", getattr(rate, "id", ""))
    stores = [n for n in named(source, name) if isinstance(getattr(n, "ctx", None), ast.Store)]
    return isinstance(value, ast.Constant) and value.value == RATE and len(stores) == 1


def _made_of(source: Source, method: Function, data: ast.expr) -> set[str]:
    """The arguments of ``method`` that ``data`` is made of; none where more is done than to hand their samples on."""
    given = {a.arg for a in parameters_of(method)[1:]}
    found: set[str] = set()
    for node in ast.walk(data):
        if not isinstance(node, PARTS) or (isinstance(node, ast.Attribute) and node.attr not in SAME_SAMPLES):
            return set()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            stores = [b for b in bindings(source, node, node) if b.statement is not method]
            if node.id in given and not stores:
                found.add(node.id)
                continue
            inner = _value(stores[0].statement) if len(stores) == 1 and node.id not in given else None
            names = _made_of(source, method, inner) if inner is not None else set()
            if not names:
                return set()
            found |= names
    return found


def _value(statement: ast.stmt) -> Optional[ast.expr]:
    return statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) and targets_of(statement) else None
