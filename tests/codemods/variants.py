"""Made-up forks of the reference tokenizer, each with its true sites marked.

A variant is made in two steps. First the reference's syntax tree is drifted: things are renamed, moved, wrapped, added. The
nodes that the optimizations are about carry a mark (:data:`MARK`) from the start, which moves with them. Then the tree is
written out in some layout: another indentation, comments, line endings, an encoding. The layout never changes the tree, so
the marks are found again in the text by walking both trees side by side. The codemods have no part in any of this.
"""

from __future__ import annotations

import ast
import io
import itertools
import random
import re
import tokenize
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cases import UPSTREAM_MODEL, reference

MARK = "_marks"
CLASS, ENCODER, MODEL = "class", "encoder", "model"
INTRA, MADE, SESSION = "intra", "made", "session"


class Variant(NamedTuple):
    """A file, its tree, the marked nodes in that, and by which steps it came to be."""

    data: bytes
    text: str
    tree: ast.Module
    marks: dict[str, list[ast.AST]]
    steps: list[str]


class Fork:
    """A tree on its way from the reference to a variant."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.tree = marked_reference()
        self.steps: list[str] = []
        self.cls: ast.ClassDef = one(self.tree, CLASS)  # type: ignore[assignment]

    def function(self, name: str) -> ast.FunctionDef:
        """A method of the tokenizer."""
        return next(n for n in self.cls.body if isinstance(n, ast.FunctionDef) and n.name == name)

    def block_of(self, node: ast.AST) -> list[ast.stmt]:
        """The list of statements that ``node`` is in."""
        return next(block for parent in ast.walk(self.tree) for block in blocks(parent) if node in block)

    def rename(self, old: str, new: str, within: ast.AST | None = None) -> None:
        """Another name for a variable, attribute, function, class or parameter."""
        for node in ast.walk(within or self.tree):
            for field in ("id", "attr", "name", "arg"):
                if getattr(node, field, None) == old and not isinstance(node, ast.alias):
                    setattr(node, field, new)

    def is_plain(self) -> bool:
        """Whether the session is still built in ``__init__``, in a row of statements."""
        made, session = one(self.tree, MADE), one(self.tree, SESSION)
        body = self.function("__init__").body
        return made in body and session in body


def marked_reference() -> ast.Module:
    """The reference's tree, with marks."""
    tree = ast.parse(reference())
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            add(node, CLASS)
        elif isinstance(node, ast.FunctionDef) and node.name == "get_vq02_code":
            add(node, ENCODER)
        elif isinstance(node, ast.Constant) and node.value == UPSTREAM_MODEL:
            add(node, MODEL)
        elif isinstance(node, ast.Assign):
            text = ast.unparse(node)
            for mark, start in (
                (INTRA, "session_option.intra"),
                (MADE, "session_option ="),
                (SESSION, "self.ort_session"),
            ):
                if text.startswith(start):
                    add(node, mark)
    return tree


def shorten(fork: Fork) -> None:
    """Some methods that the optimizations have nothing to do with, and some docstrings, are not there."""
    kept = ("__init__", "get_vq02_code", "get_vq06_code", "wav2token")
    for function in [n for n in fork.cls.body if isinstance(n, ast.FunctionDef)]:
        if function.name not in kept and fork.random.random() < 0.7:
            fork.cls.body.remove(function)
        elif fork.random.random() < 0.5 and isinstance(function.body[0], ast.Expr):
            del function.body[0]


def add(node: ast.AST, mark: str) -> ast.AST:
    """Mark ``node``."""
    setattr(node, MARK, {*getattr(node, MARK, ()), mark})
    return node


def marked(tree: ast.AST, mark: str) -> list[ast.AST]:
    """The nodes with ``mark``."""
    return [node for node in ast.walk(tree) if MARK in node.__dict__ and mark in node.__dict__[MARK]]


def one(tree: ast.AST, mark: str) -> ast.AST:
    """The first node with ``mark``."""
    return marked(tree, mark)[0]


def blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The lists of statements right in ``node``."""
    for _, value in ast.iter_fields(node):
        if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            yield value


def code(text: str) -> list[ast.stmt]:
    """``text`` as statements."""
    return ast.parse(text).body


def assignment(target: str | ast.expr, value: ast.expr) -> ast.Assign:
    """``target = value``."""
    return ast.Assign([ast.Name(target, ast.Store()) if isinstance(target, str) else target], value, lineno=0)


def expression(text: str) -> ast.expr:
    """``text`` as an expression."""
    return ast.parse(text, mode="eval").body


# Drift: changes after which the optimizations still belong where the marks are.


def rename_class(fork: Fork) -> None:
    fork.rename("StepAudioTokenizer", fork.random.choice(["AudioTokenizer", "SpeechCodec", "Tokenizer_v2", "分词器"]))


def rename_methods(fork: Fork) -> None:
    fork.rename("get_vq02_code", fork.random.choice(["encode_linguistic", "_vq02", "get_code"]))
    fork.rename("get_vq06_code", fork.random.choice(["encode_semantic", "_vq06", "get_other_code"]))


def rename_variables(fork: Fork) -> None:
    fork.rename("session_option", fork.random.choice(["so", "opts", "sess_options", "self_options"]))
    fork.rename("repo_path", fork.random.choice(["root", "folder", "path"]))


def rename_attributes(fork: Fork) -> None:
    fork.rename("ort_session", fork.random.choice(["_session", "vq06_model", "onnx"]))
    fork.rename("funasr_model", fork.random.choice(["encoder", "_paraformer", "model"]))


def rename_self(fork: Fork) -> None:
    for method in (n for n in fork.cls.body if isinstance(n, ast.FunctionDef)):
        fork.rename("self", "this", method)


def alias_module(fork: Fork) -> None:
    name = fork.random.choice(["ort", "rt"])
    for node in ast.walk(fork.tree):
        if isinstance(node, ast.alias) and node.name == "onnxruntime":
            node.asname = name
        elif isinstance(node, ast.Name) and node.id == "onnxruntime":
            node.id = name


def import_names(fork: Fork) -> None:
    aliases = {
        n: n if fork.random.random() < 0.5 else f"{n}_"
        for n in ("InferenceSession", "SessionOptions", "GraphOptimizationLevel")
    }

    class Bare(ast.NodeTransformer):
        def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
            self.generic_visit(node)
            if (
                isinstance(node.value, ast.Name)
                and node.value.id in ("onnxruntime", "ort", "rt")
                and node.attr in aliases
            ):
                return ast.copy_location(ast.Name(aliases[node.attr], node.ctx), node)
            return node

    Bare().visit(fork.tree)
    names = ", ".join(f"{n} as {a}" if a != n else n for n, a in aliases.items())
    fork.tree.body[1:1] = code(f"from onnxruntime import {names}")


def import_late(fork: Fork) -> None:
    for statement in fork.tree.body:
        if isinstance(statement, ast.Import) and statement.names[0].name == "torch":
            statement.names[0].asname = "th"
    for node in ast.walk(fork.tree):
        if isinstance(node, ast.Name) and node.id == "torch":
            node.id = "th"


def drop_intra(fork: Fork) -> None:
    for statement in marked(fork.tree, INTRA):
        block = fork.block_of(statement)
        if len(block) > 1:
            block.remove(statement)  # type: ignore[arg-type]


def other_number(fork: Fork) -> None:
    for statement in marked(fork.tree, INTRA):
        statement.value = ast.Constant(fork.random.choice([0, 2, 4, 8]))  # type: ignore[attr-defined]


def positional(fork: Fork) -> None:
    for statement in marked(fork.tree, SESSION):
        call = next(n for n in ast.walk(statement) if isinstance(n, ast.Call) and n.keywords)
        count = fork.random.choice([1, 2])
        call.args += [keyword.value for keyword in call.keywords[:count]]
        call.keywords = call.keywords[count:]


def other_providers(fork: Fork) -> None:
    texts = [
        "['CPUExecutionProvider']",
        "onnxruntime_providers()",
        "[('CUDAExecutionProvider', {'device_id': 0}), 'CPUExecutionProvider']",
        "['CUDAExecutionProvider'] if torch.cuda.is_available() else ['CPUExecutionProvider']",
    ]
    for node in ast.walk(fork.tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "providers":
            node.value = expression(fork.random.choice(texts))


def providers_in_place(fork: Fork) -> None:
    found = [n for n in ast.walk(fork.tree) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "providers"]
    if len(found) == 1 and fork.is_plain():
        for statement in marked(fork.tree, SESSION):
            for node in ast.walk(statement):
                if isinstance(node, ast.Call):
                    node.args = [found[0].value if ast.unparse(a) == "providers" else a for a in node.args]
                    for keyword in node.keywords:
                        if ast.unparse(keyword.value) == "providers":
                            keyword.value = found[0].value
        fork.block_of(found[0]).remove(found[0])


def providers_later(fork: Fork) -> None:
    found = [n for n in ast.walk(fork.tree) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "providers"]
    if found and fork.is_plain():
        body = fork.function("__init__").body
        body.remove(found[0])
        body.insert(body.index(one(fork.tree, SESSION)), found[0])  # type: ignore[arg-type]


def other_path(fork: Fork) -> None:
    if not fork.is_plain():
        return
    session = one(fork.tree, SESSION)
    call = next(n for n in ast.walk(session) if isinstance(n, ast.Call) and n.args and "join" in ast.unparse(n.args[0]))
    path = call.args[0]
    root = ast.unparse(path.args[0])  # type: ignore[attr-defined]
    choice = fork.random.choice(["variable", "f-string", "sum", "slash"])
    if choice == "variable":
        body = fork.function("__init__").body
        body.insert(body.index(session), assignment("model_file", path))  # type: ignore[arg-type]
        call.args[0] = expression("model_file")
    else:
        texts = {"f-string": f"f'{{{root}}}/speech_tokenizer_v1.onnx'", "sum": f"{root} + '/speech_tokenizer_v1.onnx'"}
        call.args[0] = expression(texts.get(choice, f"str(pathlib.Path({root}) / 'speech_tokenizer_v1.onnx')"))


def more_options(fork: Fork) -> None:
    made = one(fork.tree, MADE)
    name = ast.unparse(made.targets[0] if isinstance(made, ast.Assign) else made.target)  # type: ignore[attr-defined]
    block = fork.block_of(made)
    lines = [
        f"{name}.log_severity_level = 3",
        f"{name}.enable_mem_pattern = False",
        f"{name}.add_session_config_entry('a', 'b')",
    ]
    block[block.index(made) + 1 : block.index(made) + 1] = code("\n".join(fork.random.sample(lines, 2)))  # type: ignore[arg-type]


def annotate(fork: Fork) -> None:
    made = one(fork.tree, MADE)
    if isinstance(made, ast.Assign) and len(made.targets) == 1:
        block = fork.block_of(made)
        annotated = ast.AnnAssign(
            made.targets[0], expression("'SessionOptions'"), made.value, int(isinstance(made.targets[0], ast.Name))
        )
        add(annotated, MADE)
        block[block.index(made)] = annotated
    method = one(fork.tree, ENCODER)
    method.returns = expression("list[int]")  # type: ignore[attr-defined]


def options_kept(fork: Fork) -> None:
    """The options are an attribute."""
    made, init = one(fork.tree, MADE), fork.function("__init__")
    if not isinstance(made, ast.Assign) or not fork.is_plain():
        return
    name, owner = ast.unparse(made.targets[0]), init.args.args[0].arg

    class Keep(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return ast.Attribute(ast.Name(owner, ast.Load()), "session_options", node.ctx) if node.id == name else node

    Keep().visit(init)


def session_lines(fork: Fork) -> list[ast.stmt]:
    """The statements of ``__init__`` from the first to the last that are about the session."""
    body = fork.function("__init__").body
    marks = [body.index(n) for m in (MADE, SESSION) for n in marked(fork.tree, m) if n in body]  # type: ignore[arg-type]
    providers = [i for i, s in enumerate(body) if ast.unparse(s).startswith("providers")]
    return body[min(marks + providers) : max(marks) + 1]


def own_method(fork: Fork) -> None:
    if not fork.is_plain():
        return
    body, lines = fork.function("__init__").body, session_lines(fork)
    root = next(
        (
            n.id
            for s in body
            for n in ast.walk(s)
            if isinstance(n, ast.Name) and n.id in ("repo_path", "root", "folder", "path")
        ),
        "",
    )
    at = body.index(lines[0])
    del body[at : at + len(lines)]
    owner = fork.function("__init__").args.args[0].arg
    body[at:at] = code(f"{owner}._load_onnx({root})")
    method = code(f"def _load_onnx({owner}, {root}):\n    pass")[0]
    method.body = lines  # type: ignore[attr-defined]
    fork.cls.body.insert(fork.random.randrange(2, len(fork.cls.body)), method)


def returning_function(fork: Fork) -> None:
    """The session comes from a function of the module, or a static method, that returns it."""
    if not fork.is_plain() or len(marked(fork.tree, SESSION)) > 1:
        return
    init = fork.function("__init__")
    body, lines, session = init.body, session_lines(fork), one(fork.tree, SESSION)
    if init.args.args[0].arg in {n.id for s in lines[:-1] for n in ast.walk(s) if isinstance(n, ast.Name)}:
        return
    roots = {"repo_path", "root", "folder", "path"}
    root = next(n.id for n in ast.walk(session) if isinstance(n, ast.Name) and n.id in roots | {"model_file"})
    if root == "model_file":
        return
    at = body.index(lines[0])
    del body[at : at + len(lines)]
    target, value = session.targets[0], session.value  # type: ignore[attr-defined]
    last = ast.Return(value)
    setattr(last, MARK, {SESSION})
    static = fork.random.random() < 0.5
    name = f"{ast.unparse(target).split('.')[0]}.make_session" if static else "make_session"
    body[at:at] = [assignment(target, expression(f"{name}({root})"))]
    function = code(f"def make_session({root}):\n    pass")[0]
    function.body = [*lines[:-1], last]  # type: ignore[attr-defined]
    if static:
        function.decorator_list = [expression("staticmethod")]  # type: ignore[attr-defined]
        fork.cls.body.append(function)
    else:
        fork.tree.body.insert(fork.tree.body.index(top_level(fork.tree, fork.cls)), function)


def options_function(fork: Fork) -> None:
    """The options come from a function that returns them."""
    made = one(fork.tree, MADE)
    if not fork.is_plain() or not isinstance(made, ast.Assign) or not isinstance(made.targets[0], ast.Name):
        return
    name = made.targets[0].id
    body = fork.function("__init__").body
    at, end = body.index(made), body.index(one(fork.tree, SESSION))  # type: ignore[arg-type]
    own = [s for s in body[at:end] if ast.unparse(s).startswith((f"{name} =", f"{name}."))]
    for statement in own[1:]:
        body.remove(statement)
    body[at] = assignment(name, expression("make_options()"))
    function = code("def make_options():\n    pass")[0]
    function.body = [*own, ast.Return(ast.Name(name, ast.Load()))]  # type: ignore[attr-defined]
    fork.tree.body.insert(fork.tree.body.index(top_level(fork.tree, fork.cls)), function)


def wrap_session(fork: Fork) -> None:
    if not fork.is_plain():
        return
    body, lines = fork.function("__init__").body, session_lines(fork)
    at = body.index(lines[0])
    del body[at : at + len(lines)]
    header = fork.random.choice(
        [
            "with self.loading():",
            "if encoder_path:",
            "try:",
            "with open('a') as a, open('b') as b:",
            "for _ in range(1):",
        ]
    )
    tail = "\nexcept OSError as error:\n    raise ValueError('no model') from error" if header == "try:" else ""
    wrapper = code(f"{header}\n    pass{tail}")[0]
    wrapper.body = lines  # type: ignore[attr-defined]
    body.insert(at, wrapper)


def fall_back(fork: Fork) -> None:
    """On the GPU if that works, else on the CPU, with the same options."""
    sessions = marked(fork.tree, SESSION)
    if len(sessions) > 1 or not isinstance(sessions[0], ast.Assign):
        return
    block = fork.block_of(sessions[0])
    again = code(ast.unparse(sessions[0]))[0]
    add(again, SESSION)
    for node in ast.walk(again):
        if isinstance(node, ast.keyword) and node.arg == "providers":
            node.value = expression("['CPUExecutionProvider']")
    wrapper = code("try:\n    pass\nexcept Exception:\n    pass")[0]
    block[block.index(sessions[0])] = wrapper
    wrapper.body, wrapper.handlers[0].body = [sessions[0]], [again]  # type: ignore[attr-defined]


def more_statements(fork: Fork) -> None:
    lines = [
        "logger.info('here')",
        "started = time.perf_counter()",
        "assert encoder_path is not None",
        "pass",
        "unused: int = 3",
        "del_me = [x for x in ()]",
    ]
    functions = [n for n in ast.walk(fork.tree) if isinstance(n, ast.FunctionDef)]
    for _ in range(fork.random.randrange(2, 8)):
        body = fork.random.choice(functions).body
        start = int(isinstance(body[0], ast.Expr) and len(body) > 1)
        body.insert(fork.random.randrange(start, len(body)), code(fork.random.choice(lines))[0])


def more_code(fork: Fork) -> None:
    texts = [
        "def helper(x, *args, y=1, **kwargs):\n    return x",
        "class Timer:\n    def __enter__(self):\n        return self\n\n    def run(self):\n        return 1",
        "LOCK = threading.Lock()",
        "@functools.lru_cache(maxsize=None)\ndef cached(a):\n    match a:\n        case [x, *rest]:\n            return (y := x)\n"
        "        case _:\n            return f'{a!r:>{10}}'",
        "async def serve(q):\n    async with q as item:\n        yield item",
        "if __name__ == '__main__':\n    print('tokens')",
    ]
    for text in fork.random.sample(texts, fork.random.randrange(1, 4)):
        fork.tree.body.insert(fork.random.randrange(12, len(fork.tree.body) + 1), code(text)[0])


def wrap_class(fork: Fork) -> None:
    cls = fork.cls
    if cls not in fork.tree.body:
        return
    header = fork.random.choice(["if True:", "try:", "def build():", "class Outer:", "with context():"])
    tail = {"try:": "\nfinally:\n    pass", "def build():": f"\n    return {cls.name}"}.get(header, "")
    wrapper = code(f"{header}\n    pass{tail}")[0]
    fork.tree.body[fork.tree.body.index(cls)] = wrapper
    wrapper.body[0] = cls  # type: ignore[attr-defined]


def decorate(fork: Fork) -> None:
    texts = ["torch.inference_mode()", "torch.no_grad()", "timed", "functools.wraps(print)"]
    method = one(fork.tree, ENCODER)
    method.decorator_list += [expression(t) for t in fork.random.sample(texts, fork.random.randrange(1, 3))]  # type: ignore[attr-defined]
    if fork.random.random() < 0.5:
        fork.cls.decorator_list.append(expression("registered('tokenizer')"))


def keyword_only(fork: Fork) -> None:
    arguments = fork.function("__init__").args
    if arguments.defaults:
        count = len(arguments.defaults)
        arguments.kwonlyargs, arguments.kw_defaults = arguments.args[-count:], list(arguments.defaults)
        arguments.args, arguments.defaults = arguments.args[:-count], []


def model_elsewhere(fork: Fork) -> None:
    arguments, constant = fork.function("__init__").args, one(fork.tree, MODEL)
    if constant not in arguments.defaults + [d for d in arguments.kw_defaults if d]:
        return
    where = fork.random.choice(["module", "class", "local", "renamed"])
    if where == "renamed":
        return fork.rename("funasr_model_id", "asr_model")
    new = {"module": "FUNASR_MODEL", "class": None, "local": "None"}[where] or f"{fork.cls.name}.FUNASR_MODEL"
    if where == "class":
        if fork.cls not in fork.tree.body:
            return
        new = "FUNASR_MODEL"
    for values in (arguments.defaults, arguments.kw_defaults):
        values[:] = [expression(new) if v is constant else v for v in values]
    assigned = assignment("FUNASR_MODEL", constant)  # type: ignore[arg-type]
    if where == "module":
        fork.tree.body.insert(fork.tree.body.index(top_level(fork.tree, fork.cls)), assigned)
    elif where == "class":
        fork.cls.body.insert(1, assigned)
    else:
        name = next(
            a.arg for a in [*arguments.args, *arguments.kwonlyargs] if a.arg in ("funasr_model_id", "asr_model")
        )
        either = ast.BoolOp(ast.Or(), [ast.Name(name, ast.Load()), constant])  # type: ignore[list-item]
        fork.function("__init__").body[1:1] = [assignment(name, either)]
    return None


def subclass(fork: Fork) -> None:
    if fork.cls in fork.tree.body:
        text = f"class Quiet({fork.cls.name}):\n    def wav2token(self, audio, rate):\n        return super().wav2token(audio / 2, rate)"
        fork.tree.body += code(text)


def base_class(fork: Fork) -> None:
    """The other kind of tokens moves to a base class."""
    moved = [n for n in fork.cls.body if isinstance(n, ast.FunctionDef) and "log_mel" in ast.unparse(n)]
    if fork.cls in fork.tree.body and "Tokenizer" in fork.cls.name and moved:
        base = code("class Semantic:\n    pass")[0]
        base.body = moved  # type: ignore[attr-defined]
        for method in moved:
            fork.cls.body.remove(method)
        fork.cls.bases.append(expression("Semantic"))
        fork.tree.body.insert(fork.tree.body.index(fork.cls), base)


def shuffle_methods(fork: Fork) -> None:
    found = [n for n in fork.cls.body if isinstance(n, ast.FunctionDef)]
    rest = [n for n in fork.cls.body if n not in found]
    fork.random.shuffle(found)
    fork.cls.body[:] = rest + found


def encode_inside(fork: Fork) -> None:
    """The call of the encoder goes into a function that is called on the spot, or gets a short name first."""
    method = one(fork.tree, ENCODER)
    call = next(
        (n for n in ast.walk(method) if isinstance(n, ast.Call) and ast.unparse(n.func).endswith(".infer_encoder")),
        None,
    )
    if call is None or any(isinstance(n, ast.FunctionDef) and n is not method for n in ast.walk(method)):
        return
    start = int(isinstance(method.body[0], ast.Expr))  # type: ignore[attr-defined]
    if fork.random.random() < 0.5:
        method.body[start:start] = code(f"infer = {ast.unparse(call.func)}")  # type: ignore[attr-defined]
    else:
        method.body[start:start] = code(f"def infer(**values):\n    return {ast.unparse(call.func)}(**values)")  # type: ignore[attr-defined]
    call.func = ast.Name("infer", ast.Load())


def top_level(tree: ast.Module, node: ast.AST) -> ast.stmt:
    """The statement of the module that holds ``node``."""
    return next(s for s in tree.body if any(n is node for n in ast.walk(s)))


DRIFT: list[Callable[[Fork], None]] = [
    rename_class, rename_methods, rename_variables, rename_attributes, rename_self, alias_module, import_names, import_late,
    drop_intra, other_number, positional, other_providers, providers_in_place, providers_later, other_path, more_options,
    annotate, options_kept, own_method, returning_function, options_function, wrap_session, fall_back, more_statements,
    more_code, wrap_class, decorate, keyword_only, model_elsewhere, subclass, base_class, shuffle_methods,
    encode_inside,
]  # fmt: skip


# Decoys: code that reads like a site and is none.


def decoy_session(fork: Fork) -> None:
    own = fork.random.choice(["campplus.onnx", "silero_vad.onnx", "flow.onnx"])
    text = "spk_options = onnxruntime.SessionOptions()\nspk_options.intra_op_num_threads = 1\n"
    text += f"self.spk = onnxruntime.InferenceSession('{own}', sess_options=spk_options)"
    body = fork.function("__init__").body
    at = fork.random.choice([1, len(body)])
    body[at:at] = code(text)


def decoy_frontend(fork: Fork) -> None:
    text = """
class CosyFrontEnd:
    def __init__(self, campplus_model, speech_tokenizer_model):
        session_option = onnxruntime.SessionOptions()
        session_option.intra_op_num_threads = 1
        self.campplus_session = onnxruntime.InferenceSession(campplus_model, sess_options=session_option)
        self.ort_session = onnxruntime.InferenceSession('speech_tokenizer_v1.onnx', sess_options=session_option)

    def get_vq02_code(self, audio):
        return self.frontend.encode(audio)

    def get_vq06_code(self, audio):
        return self.ort_session.run(None, {'feats': whisper.log_mel_spectrogram(audio)})
"""
    fork.tree.body.insert(fork.random.choice([12, len(fork.tree.body)]), code(text)[0])


def decoy_wrapper(fork: Fork) -> None:
    text = """
class FunASRModel:
    def infer_encoder(self, input, **config):
        return self.model.infer_encoder(input, **config)

    def generate(self, *args, **kwargs):
        return self.model.infer_encoder(*args, **kwargs)
"""
    fork.tree.body.insert(fork.random.choice([12, len(fork.tree.body)]), code(text)[0])


def decoy_text(fork: Fork) -> None:
    texts = [
        f"KNOWN_MODELS = ['{UPSTREAM_MODEL}', 'damo/speech_paraformer-base']",
        f"print('{UPSTREAM_MODEL}')",
        f"EXAMPLE = '''\\nsession_option.intra_op_num_threads = 4\\nfunasr_model_id='{UPSTREAM_MODEL}'\\n'''",
        "torch.backends.cudnn.allow_tf32 = True",
        "'torch.backends.cuda.matmul.allow_tf32 = True'",
        f"if os.environ.get('MODEL') == '{UPSTREAM_MODEL}':\n    pass",
    ]
    for text in fork.random.sample(texts, 2):
        fork.tree.body.insert(fork.random.choice([12, len(fork.tree.body)]), code(text)[0])


def decoy_options(fork: Fork) -> None:
    text = "def benchmark():\n    session_option = onnxruntime.SessionOptions()\n    session_option.intra_op_num_threads = 8\n"
    text += "    session = onnxruntime.InferenceSession('speech_tokenizer_v1.onnx', session_option)\n    session.run(None, {})"
    fork.tree.body.insert(fork.random.choice([12, len(fork.tree.body)]), code(text)[0])


def second_tokenizer(fork: Fork) -> None:
    copy = ast.parse(ast.unparse(fork.cls).replace(fork.cls.name, fork.cls.name + "Old")).body[0]
    fork.tree.body.append(copy)


def shared_options(fork: Fork) -> None:
    body, session = fork.function("__init__").body, one(fork.tree, SESSION)
    if fork.is_plain():
        made = one(fork.tree, MADE)
        name = ast.unparse(made.targets[0] if isinstance(made, ast.Assign) else made.target)  # type: ignore[attr-defined]
        text = f"self.spk = onnxruntime.InferenceSession('campplus.onnx', sess_options={name})"
        body[body.index(session) + 1 : 0] = code(text)  # type: ignore[arg-type]


def conditional_setting(fork: Fork) -> None:
    for statement in marked(fork.tree, INTRA):
        block = fork.block_of(statement)
        wrapper = code("if torch.cuda.is_available():\n    pass")[0]
        block[block.index(statement)] = wrapper  # type: ignore[arg-type]
        wrapper.body = [statement]  # type: ignore[attr-defined]


def set_twice(fork: Fork) -> None:
    for statement in marked(fork.tree, INTRA):
        block = fork.block_of(statement)
        block[block.index(statement) : 0] = code(ast.unparse(statement))  # type: ignore[arg-type]


def two_encoders(fork: Fork) -> None:
    method = one(fork.tree, ENCODER)
    copy = ast.parse(ast.unparse(method)).body[0]
    copy.name += "_batch"  # type: ignore[attr-defined]
    fork.block_of(method).append(add(copy, ENCODER))  # type: ignore[arg-type]


def site_gone(fork: Fork) -> None:
    """One of the marked places is not there any more."""
    mark = fork.random.choice([ENCODER, MADE, SESSION])
    for statement in marked(fork.tree, mark):
        block = fork.block_of(statement)
        block[block.index(statement)] = ast.Pass()  # type: ignore[arg-type]


def code_gone(fork: Fork) -> None:
    """Any statements are gone."""
    for _ in range(fork.random.randrange(1, 6)):
        found = [b for n in ast.walk(fork.tree) for b in blocks(n) if len(b) > 1]
        block = fork.random.choice(found)
        statement = fork.random.choice(block)
        if not any(mark in getattr(n, MARK, ()) for n in ast.walk(statement) for mark in (CLASS, MODEL)):
            block.remove(statement)


# In this order: a change may count on the marks, which the last two take away.
DECOYS: list[Callable[[Fork], None]] = [
    decoy_session, decoy_frontend, decoy_wrapper, decoy_text, decoy_options, second_tokenizer, shared_options,
    conditional_setting, set_twice, two_encoders, code_gone, site_gone,
]  # fmt: skip


# Layout: other text for the same tree.


def lay_out(fork: Fork, keep: bool = False) -> tuple[str, list[str]]:
    """The tree as text: as the reference has it (``keep``, for a tree without drift) or written anew, then changed at random."""
    chance, steps = fork.random, []
    text = reference() if keep else ast.unparse(fork.tree) + "\n"
    tree = ast.dump(ast.parse(text))
    for change in (double_quotes, wrap_lines, join_statements, add_comments, add_blank_lines, indent):
        if chance.random() < 0.4:
            changed = change(text, chance)
            if changed != text:
                assert ast.dump(ast.parse(changed)) == tree, change.__name__
                text = changed
                steps.append(change.__name__)
    return text, steps


def tokens(text: str) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO(text).readline))


def lines_of(text: str) -> list[str]:
    """The lines with their ends; a form feed does not end one."""
    return re.findall(r"[^\n]*\n|[^\n]+\Z", text)


def edited(text: str, edits: list[tuple[tuple[int, int], tuple[int, int], str]]) -> str:
    """``text`` with spans of tokens replaced."""
    lines = lines_of(text)
    for (row, start), (end_row, end), new in sorted(edits, reverse=True):
        assert row == end_row
        lines[row - 1] = lines[row - 1][:start] + new + lines[row - 1][end:]
    return "".join(lines)


def double_quotes(text: str, chance: random.Random) -> str:
    """As black has strings."""
    found = [t for t in tokens(text) if t.type == tokenize.STRING and t.string[0] == "'" and t.string[:3] != "'''"]
    plain = [t for t in found if '"' not in t.string and "\\" not in t.string]
    return edited(text, [(t.start, t.end, '"' + t.string[1:-1] + '"') for t in plain])


def wrap_lines(text: str, chance: random.Random) -> str:
    """Line ends after some commas in brackets."""
    depth, edits, in_string = 0, [], 0
    for token in tokens(text):
        name = tokenize.tok_name[token.type]
        in_string += (name == "FSTRING_START") - (name == "FSTRING_END")
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
            if token.string == "," and depth and not in_string and chance.random() < 0.2:
                edits.append((token.start, token.end, chance.choice([",\n        ", ",  # and\n    "])))
    return edited(text, edits)


def statement_lines(text: str) -> Iterator[tuple[int, ast.stmt]]:
    """The first line of each statement that has its first line to itself."""
    lines = lines_of(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt):
            row = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            start = lines[row - 1]
            if start[: len(start) - len(start.lstrip())] == start[: node.col_offset]:
                yield row, node


def join_statements(text: str, chance: random.Random) -> str:
    """Some neighbours on one line, with a semicolon."""
    lines = lines_of(text)
    simple = {row: node for row, node in statement_lines(text) if not hasattr(node, "body") and node.end_lineno == row}
    for row in sorted(simple, reverse=True):
        after = simple.get(row + 1)
        bare = len(lines[row - 1].encode().rstrip()) == simple[row].end_col_offset
        if after is not None and bare and after.col_offset == simple[row].col_offset and chance.random() < 0.1:
            lines[row - 1 : row + 1] = [lines[row - 1].rstrip() + "; " + lines[row].lstrip()]
            simple.pop(row, None)
    return "".join(lines)


REMARKS = [
    "# session_option.intra_op_num_threads = 4",
    "# TODO: self.funasr_model.infer_encoder(input=[audio])",
    f'# funasr_model_id = "{UPSTREAM_MODEL}"',
    "# @_with_tf32_matmul",
    "# noqa",
]


def add_comments(text: str, chance: random.Random) -> str:
    """Comments above statements and behind them, some that read like code."""
    lines = lines_of(text)
    for row, _ in sorted(set(statement_lines(text)), key=lambda pair: -pair[0]):
        if chance.random() < 0.1:
            indentation = lines[row - 1][: len(lines[row - 1]) - len(lines[row - 1].lstrip())]
            lines.insert(row - 1, chance.choice([indentation, indentation, ""]) + chance.choice(REMARKS) + "\n")
    return "".join(lines)


def add_blank_lines(text: str, chance: random.Random) -> str:
    """Empty lines, some with blanks in them."""
    lines = lines_of(text)
    for row in sorted({row for row, _ in statement_lines(text)}, reverse=True):
        if chance.random() < 0.1:
            lines.insert(row - 1, chance.choice(["\n", "\n\n", "   \n", "\f\n"]))
    return "".join(lines)


def indent(text: str, chance: random.Random) -> str:
    """Another unit of indentation; what is inside strings stays."""
    unit = chance.choice(["\t", "  ", "   ", "        "])
    inside = {row for t in tokens(text) if t.type == tokenize.STRING for row in range(t.start[0] + 1, t.end[0] + 1)}
    lines = []
    for row, line in enumerate(lines_of(text), 1):
        body = line.lstrip(" ")
        steps = (len(line) - len(body)) // 4
        lines.append(line if row in inside else unit * steps + body)
    return "".join(lines)


ENCODINGS = {
    "utf-8": ("", "utf-8"),
    "bom": ("", "utf-8-sig"),
    "utf-8, Chinese": ("# 分词器\n", "utf-8"),
    "latin-1": ("# -*- coding: latin-1 -*-\n# Modèle de parole, 16 kHz, é\n", "latin-1"),
    "gbk": ("#!/usr/bin/env python\n# vim: set fileencoding=gbk :\n# 语音分词器\n", "gbk"),
    "docstring": ('"""The tokenizer."""\n', "utf-8"),
}


def encode(fork: Fork, text: str) -> tuple[bytes, str, list[str]]:
    """The text in some encoding, with some line ending; the text that has been encoded."""
    chance, steps = fork.random, []
    name = chance.choice(list(ENCODINGS)) if chance.random() < 0.5 else "utf-8"
    head, encoding = ENCODINGS[name]
    if not text.isascii() and encoding == "latin-1":
        head, encoding = "", "utf-8"
    text = head + text
    if chance.random() < 0.2:
        text = text.rstrip("\n")
        steps.append("no end of line")
    if chance.random() < 0.3:
        text = text.replace("\n", "\r\n")
        steps.append("CRLF")
    return text.encode(encoding), text, [name, *steps]


def variant(seed: int, drift: int = 4, decoys: int = 0) -> Variant:
    """The variant number ``seed`` with about so many changes of each kind."""
    fork = Fork(seed)
    keep = drift + decoys > 0 and fork.random.random() < 0.1 and not decoys
    changes = [] if keep else fork.random.sample(DRIFT, fork.random.randrange(1, 2 * drift) if drift else 0)
    if decoys:
        chosen = fork.random.sample(DECOYS, fork.random.randrange(1, 2 * decoys))
        changes += sorted(chosen, key=DECOYS.index)
    return grown(fork, changes, keep)


def grown(fork: Fork, changes: list[Callable[[Fork], None]], keep: bool = False) -> Variant:
    """The variant that comes of ``fork`` by ``changes`` and a layout."""
    if {code_gone, site_gone} & {*changes}:  # a copy would be the site then
        changes = [change for change in changes if change not in (second_tokenizer, two_encoders, set_twice)]
    for change in changes if keep else [shorten, *changes]:
        change(fork)
        fork.steps.append(change.__name__)
    body, layout = lay_out(fork, keep)
    data, text, encoding = encode(fork, body)
    tree = ast.parse(text.replace("\r\n", "\n"))
    marks = transferred(fork.tree, tree)
    return Variant(data, text, tree, marks, [*fork.steps, *layout, *encoding])


def transferred(old: ast.Module, new: ast.Module) -> dict[str, list[ast.AST]]:
    """The marks of ``old`` on the same nodes of ``new``, which may have a docstring on top."""
    rest = ast.Module(new.body[len(new.body) - len(old.body) :], [])
    found: dict[str, list[ast.AST]] = {}
    for before, after in itertools.zip_longest(walk(old), walk(rest)):
        assert type(before) is type(after)
        for mark in getattr(before, MARK, ()):
            found.setdefault(mark, []).append(after)
    return found


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below ``node``, depth first; also those that a tree has twice."""
    yield node
    for child in ast.iter_child_nodes(node):
        yield from walk(child)
