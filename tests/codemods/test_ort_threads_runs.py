"""What ``tokenizer_ort_threads`` makes of nasty forks is run beside the fork itself, with a stand-in for ONNX Runtime.

The same sessions have to be built with the same providers, and the same exceptions raised. Only the threads of the speech
tokenizer's session may differ: not those of any other.
"""

from __future__ import annotations

import ast
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from cases import plan
from test_tokenizer_ort_threads import CALL, NAME, module

from apply_opt.model.plan import PLANNED, REFUSED

CPU = "['CPUExecutionProvider']"
MINE = "path + '/speech_tokenizer_v1.onnx'"


class Options(SimpleNamespace):
    """``SessionOptions``."""

    intra_op_num_threads = 0

    def add_session_config_entry(self, key: str, value: str) -> None:
        """As there."""


def behaviour(code: bytes, prepare: str = "", **values: Any) -> tuple[list[Any], list[int], str]:
    """The sessions that ``StepAudioTokenizer(…)`` builds, the threads of the speech tokenizer's, and the exception."""
    built, threads = [], []

    def session(path: str, sess_options: Any = None, providers: Any = None, **more: Any) -> Any:
        given = None if providers is None else [p if isinstance(p, str) else tuple(p) for p in providers]
        options = {**vars(sess_options)} if sess_options is not None else {}
        intra = options.pop("intra_op_num_threads", 0)
        is_mine = "speech_tokenizer" in str(path) or path == "models"
        built.append((path, given, options, is_mine or intra))
        if is_mine:
            threads.append(intra)
        return SimpleNamespace(path=path, run=lambda *args: None, close=lambda: None, options=sess_options)

    onnxruntime: Any = ModuleType("onnxruntime")
    onnxruntime.InferenceSession, onnxruntime.SessionOptions = session, Options
    onnxruntime.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    kept = {name: sys.modules.get(name) for name in ("onnxruntime", "whisper")}
    sys.modules.update(onnxruntime=onnxruntime, whisper=ModuleType("whisper"))
    error = ""
    try:
        namespace: dict[str, Any] = {"__name__": "tokenizer"}
        exec(compile(code, "tokenizer.py", "exec"), namespace)
        try:
            tokenizer = namespace["StepAudioTokenizer"]("models", None, **values)
            for name in ("later", "again"):
                if hasattr(tokenizer, name):
                    getattr(tokenizer, name)()
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
    finally:
        for name, old in kept.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old
    return built, threads, error


def check(text: str, expected: str | None, **values: Any) -> None:
    """``text`` behaves as before with the optimization; ``expected`` is what our function is given, ``None`` for a refusal."""
    outcome = plan(NAME, text)
    before = behaviour(text.encode(), **values)
    if outcome.kind == PLANNED:
        after = behaviour(outcome.after, **values)
        assert (after[0], after[2]) == (before[0], before[2]), outcome.after.decode()
    calls = [
        ast.unparse(n.args[0])
        for n in ast.walk(ast.parse(outcome.after or b""))
        if isinstance(n, ast.Call) and ast.unparse(n.func) == CALL
    ]
    assert calls == ([] if expected is None else [expected]), (outcome.message, outcome.after.decode())
    assert outcome.kind == (REFUSED if expected is None else PLANNED), outcome.message


OPTIONS = "so = onnxruntime.SessionOptions()\nso.intra_op_num_threads = 1\n"
BUILD = f"self.ort_session = onnxruntime.InferenceSession({MINE}, so, providers)"

PROVIDERS = {
    "in a comprehension": (
        OPTIONS + f"self.s = [onnxruntime.InferenceSession({MINE}, so, p) for p in ({CPU}, None)]\nself.ort_session = self.s[0]",
        "None",
    ),
    "in a lambda, its own parameter": (
        f"{OPTIONS}load = lambda providers: onnxruntime.InferenceSession({MINE}, so, providers)\nself.ort_session = load({CPU})",
        "None",
    ),
    "in a lambda, bound before it is called": (
        f"{OPTIONS}load = lambda: onnxruntime.InferenceSession({MINE}, so, providers)\n"
        f"providers = {CPU}\nself.ort_session = load()",
        "None",
    ),
    "in a lambda, an attribute bound before it is called": (
        f"{OPTIONS}self.ort_session = (lambda: onnxruntime.InferenceSession({MINE}, so, self.wanted))",
        "None",
    ),
    "a walrus in the call": (
        f"{OPTIONS}self.ort_session = onnxruntime.InferenceSession({MINE}, so, (p := {CPU}))",
        "None",
    ),
    "a walrus earlier in the statement": (
        f"{OPTIONS}self.ort_session = onnxruntime.InferenceSession(str((p := {CPU}) and {MINE}), so, p)",
        "None",
    ),
    "a walrus in the condition": (
        f"{OPTIONS}self.ort_session = onnxruntime.InferenceSession({MINE}, so, p) if (p := {CPU}) else None",
        "None",
    ),
    "only where there is something": (
        f"{OPTIONS}self.config = None\n"
        f"self.ort_session = onnxruntime.InferenceSession({MINE}, so, self.config.p) if self.config else None",
        "None",
    ),
    "only where there is nothing else": (
        f"{OPTIONS}self.config = None\nself.ort_session = path or onnxruntime.InferenceSession({MINE}, so, self.config.p)",
        "None",
    ),
    "only after all": (
        f"{OPTIONS}self.config = None\n"
        f"self.ort_session = self.config and onnxruntime.InferenceSession({MINE}, so, self.config.p)",
        "None",
    ),
    "an attribute of what may be nothing, guarded": (
        f"{OPTIONS}self.config = None\n"
        f"if self.config is None:\n    self.config = os\n    self.config.p = {CPU}\n"
        f"self.ort_session = onnxruntime.InferenceSession({MINE}, so, self.config.p)",
        "None",
    ),
    "an item of what may be nothing, guarded": (
        f"{OPTIONS}config = None\nif config is None:\n    config = {{'p': {CPU}}}\n"
        f"self.ort_session = onnxruntime.InferenceSession({MINE}, so, config['p'])",
        "None",
    ),
    "in a with's header": (
        f"{OPTIONS}import contextlib\nwith contextlib.nullcontext({CPU}) as p, "
        f"contextlib.nullcontext(onnxruntime.InferenceSession({MINE}, so, p)) as s:\n    self.ort_session = s",
        "None",
    ),
    "a with's variable": (
        f"{OPTIONS}import contextlib\nwith contextlib.nullcontext({CPU}) as p:\n"
        f"    self.ort_session = onnxruntime.InferenceSession({MINE}, so, p)",
        "None",
    ),
    "a match's name": (
        f"{OPTIONS}match {CPU}:\n    case p:\n        self.ort_session = onnxruntime.InferenceSession({MINE}, so, p)",
        "None",
    ),
    "a match's subject": (
        f"{OPTIONS}providers = {CPU}\nmatch onnxruntime.InferenceSession({MINE}, so, providers):\n"
        "    case s:\n        self.ort_session = s",
        "None",
    ),
    "an exception's variable": (
        f"{OPTIONS}try:\n    raise ValueError('CPUExecutionProvider')\nexcept ValueError as p:\n"
        f"    self.ort_session = onnxruntime.InferenceSession({MINE}, so, p.args)",
        "None",
    ),
    "an exception's variable that hides it": (
        f"providers = {CPU}\ntry:\n    raise ValueError\nexcept ValueError as providers:\n    pass\n{OPTIONS}{BUILD}",
        "None",
    ),
    "imported later": (
        f"{OPTIONS}log = 1\nfrom string import printable as providers\n{BUILD}",
        "None",
    ),
    "a class later": (
        f"{OPTIONS}log = 1\nclass providers:\n    p = {CPU}\n"
        f"self.ort_session = onnxruntime.InferenceSession({MINE}, so, providers.p)",
        "None",
    ),
    "a global that is set on the way": (
        f"{OPTIONS}global providers\nproviders = {CPU}\n{BUILD}",
        "None",
    ),
    "a global that a call sets": (
        f"{OPTIONS}self.ort_session = onnxruntime.InferenceSession(self.prepare(path), so, WANTED)",
        "None",
    ),
    "an attribute that a call sets": (
        f"{OPTIONS}self.ort_session = onnxruntime.InferenceSession(self.prepare(path), so, self.wanted)",
        "None",
    ),
    "set by its name": (
        f"{OPTIONS}setattr(self, 'wanted', {CPU})\n"
        f"self.ort_session = onnxruntime.InferenceSession({MINE}, so, self.wanted)",
        "None",
    ),
    "a generator": (f"providers = (p for p in {CPU})\n{OPTIONS}{BUILD}", "None"),
    "a generator by another name": (f"p = (p for p in {CPU})\nproviders = p\n{OPTIONS}{BUILD}", "None"),
    "an attribute that is a generator": (
        f"self.p = (p for p in {CPU})\n{OPTIONS}self.ort_session = onnxruntime.InferenceSession({MINE}, so, self.p)",
        "None",
    ),
    "an iterator": (f"providers = iter({CPU})\n{OPTIONS}{BUILD}", "None"),
    "a map": (f"providers = map(str, {CPU})\n{OPTIONS}{BUILD}", "None"),
    "a file's lines": (f"providers = open(os.devnull)\n{OPTIONS}{BUILD}", "None"),
    "an item": (f"config = {{'p': {CPU}}}\nproviders = config['p']\n{OPTIONS}{BUILD}", "providers"),
    "a sum": (f"providers = {CPU} + {CPU}\n{OPTIONS}{BUILD}", "providers"),
    "a parameter": (f"{OPTIONS}def load(providers):\n    return onnxruntime.InferenceSession({MINE}, so, providers)\n"
        f"self.ort_session = load({CPU})", "None"),
    "a parameter that is an iterator": (
        f"def load(so, providers: 'Iterator[str]'):\n    so.intra_op_num_threads = 1\n"
        f"    return onnxruntime.InferenceSession({MINE}, so, providers)\n"
        f"so = onnxruntime.SessionOptions()\nself.ort_session = load(so, iter({CPU}))",
        "None",
    ),
    "a parameter that is given an iterator": (
        f"def load(providers):\n    {OPTIONS[:-1].replace(chr(10), chr(10) + '    ')}\n"
        f"    return onnxruntime.InferenceSession({MINE}, so, providers)\nself.ort_session = load(iter({CPU}))",
        "None",
    ),
    "a parameter that is given a list": (
        f"def load(providers):\n    {OPTIONS[:-1].replace(chr(10), chr(10) + '    ')}\n"
        f"    return onnxruntime.InferenceSession({MINE}, so, providers)\nself.ort_session = load({CPU})",
        "providers",
    ),
    "a parameter handed on and on": (
        f"def load(providers, n=1):\n    if n: return load(providers, n - 1)\n"
        f"    {OPTIONS[:-1].replace(chr(10), chr(10) + '    ')}\n"
        f"    return onnxruntime.InferenceSession({MINE}, so, providers)\nself.ort_session = load({CPU})",
        "None",
    ),
    "several, in an argument list": (
        f"def load(*providers):\n    {OPTIONS[:-1].replace(chr(10), chr(10) + '    ')}\n"
        f"    return onnxruntime.InferenceSession({MINE}, so, providers)\nself.ort_session = load(*{CPU})",
        "providers",
    ),
    "an exception that names another type": (
        f"{OPTIONS}try:\n    {BUILD}\nexcept NameError:\n    self.ort_session = onnxruntime.InferenceSession({MINE}, so, {CPU})",
        "None",
    ),
    "a generator function": (f"providers = self.each()\n{OPTIONS}{BUILD}", "None"),
    "a generator or a list": (f"providers = {CPU} if not path else filter(None, {CPU})\n{OPTIONS}{BUILD}", "None"),
    "a loop's iterator": (
        f"{OPTIONS}for p in (iter({CPU}), {CPU}):\n    self.ort_session = onnxruntime.InferenceSession({MINE}, so, p)",
        "None",
    ),
    "an iterator among several": (
        f"p = iter({CPU})\n{OPTIONS}self.ort_session = onnxruntime.InferenceSession({MINE}, so, [*p])",
        "None",
    ),
    "taken from a stack": (
        f"p = [{CPU}]\n{OPTIONS}self.ort_session = onnxruntime.InferenceSession({MINE}, so, p.pop())",
        "None",
    ),
    "bound in one branch only": (
        f"if path:\n    providers = {CPU}\n{OPTIONS}if path:\n    {BUILD}",
        "None",
    ),
    "bound in a loop": (f"for _ in path:\n    providers = {CPU}\n{OPTIONS}{BUILD}", "providers"),
    "bound in a loop that may not run": (
        f"for _ in ():\n    providers = {CPU}\n{OPTIONS}log = 1\n"
        f"try:\n    {BUILD}\nexcept NameError:\n    self.ort_session = onnxruntime.InferenceSession({MINE}, so)",
        "None",
    ),
    "bound in a try": (
        f"try:\n    raise OSError\n    providers = {CPU}\nexcept OSError:\n    pass\n{OPTIONS}log = 1\n"
        f"try:\n    {BUILD}\nexcept NameError:\n    self.ort_session = onnxruntime.InferenceSession({MINE}, so)",
        "None",
    ),
    "bound in a with that swallows": (
        f"import contextlib\nwith contextlib.suppress(OSError):\n    raise OSError\n    providers = {CPU}\n{OPTIONS}log = 1\n"
        f"try:\n    {BUILD}\nexcept NameError:\n    self.ort_session = onnxruntime.InferenceSession({MINE}, so)",
        "None",
    ),
    "deleted": (f"providers = {CPU}\ndel providers\nproviders = None\n{OPTIONS}{BUILD}", "None"),
    "unpacked": (f"providers, _ = {CPU}, 1\n{OPTIONS}log = 1\n{BUILD}", "None"),
    "unpacked, right in front": (f"providers, _ = {CPU}, 1\n{OPTIONS}{BUILD}", "None"),
    "mutated between": (f"providers = {CPU}\n{OPTIONS}providers.insert(0, 'CUDAExecutionProvider')\n{BUILD}", "None"),
    "mutated between by another name": (
        f"providers = {CPU}\nother = providers\n{OPTIONS}other.insert(0, 'CUDAExecutionProvider')\n{BUILD}",
        "None",
    ),
    "mutated between by a function": (
        f"providers = {CPU}\n{OPTIONS}self.fill(providers)\n{BUILD}",
        "None",
    ),
    "rebound by a nested function": (
        f"providers = None\ndef pick():\n    nonlocal providers\n    providers = {CPU}\n{OPTIONS}pick()\n{BUILD}",
        "None",
    ),
    "one or the other": (
        f"if path:\n    providers = {CPU}\nelse:\n    providers = ['CUDAExecutionProvider']\n{OPTIONS}{BUILD}",
        "providers",
    ),
    "another where CUDA is there": (
        f"providers = {CPU}\nif path:\n    providers = ['CUDAExecutionProvider', 'CPUExecutionProvider']\n{OPTIONS}{BUILD}",
        "providers",
    ),
    "a list that grows": (
        "providers = []\nif path:\n    providers.append('CUDAExecutionProvider')\nproviders += ['CPUExecutionProvider']\n"
        f"{OPTIONS}{BUILD}",
        "providers",
    ),
    "all that there are": (f"providers = onnxruntime.get_available_providers()\n{OPTIONS}{BUILD}", "providers"),
    "an attribute": (
        f"self.p = {CPU}\n{OPTIONS}self.ort_session = onnxruntime.InferenceSession({MINE}, so, self.p)",
        "self.p",
    ),
    "an attribute in a list": (
        "self.p = 'CPUExecutionProvider'\n"
        f"{OPTIONS}self.ort_session = onnxruntime.InferenceSession({MINE}, so, [self.p])",
        "[self.p]",
    ),
    "none": (f"providers = None\n{OPTIONS}{BUILD}", "providers"),
    "a property that gives an iterator": (
        f"{OPTIONS}self.ort_session = onnxruntime.InferenceSession({MINE}, so, self.each_once)",
        "None",
    ),
    "a subscript of a queue": (
        f"class Queue:\n    def __getitem__(self, key):\n        return iter({CPU})\nqueue = Queue()\n"
        f"{OPTIONS}self.ort_session = onnxruntime.InferenceSession({MINE}, so, queue[0])",
        "None",
    ),
    "in an assertion": (
        f"self.config = None\n{OPTIONS}assert path, onnxruntime.InferenceSession({MINE}, so, self.config.p)",
        "None",
    ),
    "in a condition": (
        f"self.config = None\n{OPTIONS}if self.config and onnxruntime.InferenceSession({MINE}, so, self.config.p):\n"
        "    self.ort_session = None",
        "None",
    ),
}  # fmt: skip

METHODS = f"""
def prepare(self, path):
    global WANTED
    self.wanted = WANTED = {CPU}
    return {MINE}

def fill(self, providers):
    providers.insert(0, "CUDAExecutionProvider")

def each(self):
    yield "CPUExecutionProvider"

@property
def each_once(self):
    self.count = getattr(self, "count", 0) + 1
    return iter({CPU}) if self.count == 1 else 1 / 0
"""


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("case", PROVIDERS)
def test_providers(case: str) -> None:
    init, expected = PROVIDERS[case]
    check(module(init, methods=METHODS), expected)


SESSION = f"self.ort_session = onnxruntime.InferenceSession({MINE}, so)\n"
KEPT = (
    "self.so = onnxruntime.SessionOptions()\nself.so.intra_op_num_threads = 1\n"
    f"self.ort_session = onnxruntime.InferenceSession({MINE}, self.so)\n"
)
OTHER = "onnxruntime.InferenceSession('campplus.onnx', {})"

SPEAKER = (
    "def build(path):\n    so = onnxruntime.SessionOptions()\n    so.intra_op_num_threads = 1\n"
    "    return onnxruntime.InferenceSession(path, so)\n\ndef speaker():\n    return build('campplus' + '.bin')"
)

# __init__, other methods, what follows the class.
SHARED = {
    "if else": (OPTIONS + SESSION + f"self.o = {OTHER.format('so if path else None')}", "", ""),
    "if else, before": (OPTIONS + f"self.o = {OTHER.format('so if path else None')}\n" + SESSION, "", ""),
    "or": (OPTIONS + SESSION + f"self.o = {OTHER.format('None or so')}", "", ""),
    "an alias by if else": (OPTIONS + SESSION + f"vo = so if path else None\nself.o = {OTHER.format('vo')}", "", ""),
    "an alias by or": (OPTIONS + SESSION + f"vo = None or so\nself.o = {OTHER.format('vo')}", "", ""),
    "an alias by a walrus": (OPTIONS + SESSION + f"(vo := so)\nself.o = {OTHER.format('vo')}", "", ""),
    "a plain alias, late": (OPTIONS + SESSION + f"vo = so\nself.o = {OTHER.format('vo')}", "", ""),
    "an attribute, late": (OPTIONS + SESSION + "self.kept = so", f"def later(self):\n    self.o = {OTHER.format('self.kept')}", ""),
    "an attribute, used by another class": (
        KEPT + "self.o = Speaker(self)", "",
        f"class Speaker:\n    def __init__(self, tok):\n        self.s = {OTHER.format('tok.so')}\n        self.s.run(None)",
    ),
    "an attribute, used by a function": (KEPT + "speaker(self)", "", f"def speaker(tok):\n    return {OTHER.format('tok.so')}"),
    "an attribute, set by a function": (KEPT + "tuned(self)", "", "def tuned(tok):\n    tok.so.intra_op_num_threads = 3"),
    "a lambda's default": (OPTIONS + f"load = lambda o=so: {OTHER.format('o')}\n" + SESSION + "self.o = load()", "", ""),
    "a lambda's default that hides another": (
        OPTIONS + f"o = onnxruntime.SessionOptions()\nload = lambda o=so: {OTHER.format('o')}\n" + SESSION + "self.o = load()", "", "",
    ),
    "a lambda's default, late": (OPTIONS + SESSION + f"load = lambda o=so: {OTHER.format('o')}\nself.o = load()", "", ""),
    "a function's default": (
        OPTIONS + SESSION + f"def load(o=so):\n    return {OTHER.format('o')}\nself.o = load()", "", "",
    ),
    "a closure": (OPTIONS + SESSION + f"def load():\n    return {OTHER.format('so')}\nself.o = load()", "", ""),
    "getattr": (KEPT + f"""self.o = {OTHER.format('getattr(self, "so")')}""", "", ""),
    "vars": (KEPT + f"""self.o = {OTHER.format('vars(self)["so"]')}""", "", ""),
    "locals": (OPTIONS + SESSION + f"""self.o = {OTHER.format('locals()["so"]')}""", "", ""),
    "attrgetter": (KEPT + f"import operator\nself.o = {OTHER.format('operator.attrgetter(chr(115) + chr(111))(self)')}", "", ""),
    "set through getattr": (KEPT + "", "def later(self):\n    getattr(self, 'so').intra_op_num_threads = 3\n", ""),
    "a dictionary": (OPTIONS + "options = {0: so}\n" + SESSION + f"self.o = {OTHER.format('options[0]')}", "", ""),
    "an item": (OPTIONS + "options = {}\noptions[0] = so\n" + SESSION + f"self.o = {OTHER.format('options[0]')}", "", ""),
    "an item, late": (OPTIONS + SESSION + f"options = {{}}\noptions[0] = so\nself.o = {OTHER.format('options[0]')}", "", ""),
    "a list": (OPTIONS + SESSION + f"for o in [so]:\n    self.o = {OTHER.format('o')}", "", ""),
    "keywords": (OPTIONS + SESSION + "more = dict(sess_options=so)\n"
        "self.o = onnxruntime.InferenceSession('campplus.onnx', **more)", "", ""),
    "arguments in a list": (OPTIONS + SESSION + "self.o = onnxruntime.InferenceSession(*['campplus.onnx', so])", "", ""),
    "the class by another name": (OPTIONS + SESSION + "Session = onnxruntime.InferenceSession\n"
        "self.o = Session('campplus.onnx', so)", "", ""),
    "partial": (
        OPTIONS + SESSION + "import functools\nload = functools.partial(onnxruntime.InferenceSession, sess_options=so)\n"
        "self.o = load('campplus.onnx')", "", "",
    ),
    "handed to a class, late": (
        OPTIONS + SESSION + "self.o = Speaker(so)", "",
        f"class Speaker:\n    def __init__(self, o):\n        self.s = {OTHER.format('o')}\n        self.s.run(None)",
    ),
    "a loop over models": (
        OPTIONS + "self.models = {}\nfor model in ('speech_tokenizer_v1.onnx', 'campplus.onnx'):\n"
        "    self.models[model] = onnxruntime.InferenceSession(path + '/' + model, so)", "", "",
    ),
    "a loop over a dictionary of models": (
        OPTIONS + "self.models = {}\nfor key, model in {'a': 'speech_tokenizer_v1.onnx', 'b': 'campplus.onnx'}.items():\n"
        "    self.models[key] = onnxruntime.InferenceSession(os.path.join(path, model), so)", "", "",
    ),
    "a comprehension over models": (
        OPTIONS + "self.models = {m: onnxruntime.InferenceSession(m, so) for m in ['speech_tokenizer_v1.onnx', 'campplus.onnx']}", "", "",
    ),
    "a builder in a loop over models": (
        "for model in ('speech_tokenizer_v1.onnx', 'campplus.onnx'):\n    setattr(self, model[:4], self._build(model))",
        "def _build(self, model):\n    so = onnxruntime.SessionOptions()\n    so.intra_op_num_threads = 1\n"
        "    return onnxruntime.InferenceSession(model, so)", "",
    ),
    "a builder mapped over other models": (
        "self.ort_session = self._build('speech_tokenizer_v1.onnx')\nself.o = list(map(self._build, ['campplus.onnx']))",
        "def _build(self, model):\n    so = onnxruntime.SessionOptions()\n    so.intra_op_num_threads = 1\n"
        "    return onnxruntime.InferenceSession(model, so)", "",
    ),
    "a builder that another class calls": (
        "self.ort_session = self._build('speech_tokenizer_v1.onnx')\nspeaker(self)",
        "def _build(self, model):\n    so = onnxruntime.SessionOptions()\n    so.intra_op_num_threads = 1\n"
        "    return onnxruntime.InferenceSession(model, so)", "def speaker(tok):\n    return tok._build('campplus.onnx')",
    ),
    "a loop that makes them anew": (
        OPTIONS + f"for i in range(2):\n    {SESSION}    so = onnxruntime.SessionOptions()\n    so.intra_op_num_threads = 3", "", "",
    ),
    "a comprehension over options": (
        OPTIONS + "o = onnxruntime.SessionOptions()\n"
        f"self.models = [onnxruntime.InferenceSession(m, o) for m, o in [({MINE}, so), ('campplus.onnx', so)]]", "", "",
    ),
    "a property that makes them": (
        f"self.ort_session = onnxruntime.InferenceSession({MINE}, self.fresh)\nself.o = Speaker(self.fresh)",
        "@property\ndef fresh(self):\n    so = onnxruntime.SessionOptions()\n    so.intra_op_num_threads = 1\n    return so",
        f"class Speaker:\n    def __init__(self, o):\n        self.s = {OTHER.format('o')}\n        self.s.run(None)",
    ),
    "a property that makes them, through another name": (
        f"self.ort_session = onnxruntime.InferenceSession({MINE}, self.fresh)\nspeaker(self)",
        "@property\ndef fresh(self):\n    so = onnxruntime.SessionOptions()\n    so.intra_op_num_threads = 1\n    return so",
        f"def speaker(tok):\n    return {OTHER.format('tok.fresh')}",
    ),
    "a builder by its name": (
        "self.ort_session = self._build('speech_tokenizer_v1.onnx')\nself.o = getattr(self, '_build')('campplus.onnx')",
        "def _build(self, model):\n    so = onnxruntime.SessionOptions()\n    so.intra_op_num_threads = 1\n"
        "    return onnxruntime.InferenceSession(model, so)", "",
    ),
    "a builder with the module's options, handed on": (
        "self.ort_session = self._build('speech_tokenizer_v1.onnx')\nself.o = [f('campplus.onnx') for f in [self._build]]",
        "SO = onnxruntime.SessionOptions()\ndef _build(self, model):\n    return onnxruntime.InferenceSession(model, self.SO)", "",
    ),
    "a builder whose decorator runs it again": (
        "self.ort_session = build(path + '/speech_tokenizer_v1.onnx')", "",
        "def twice(f):\n    return lambda p: (f('campplus.onnx'), f(p))[1]\n\n@twice\ndef build(path):\n"
        "    so = onnxruntime.SessionOptions()\n    so.intra_op_num_threads = 1\n"
        "    return onnxruntime.InferenceSession(path, so)",
    ),
    "a builder that is another's, by a variable of that name": (
        "build = lambda path: None\nself.ort_session = build(path)\nspeaker()", "", SPEAKER,
    ),
    "a builder that is another's, by an import": (
        "from os.path import join as build\nself.ort_session = build(path)\nspeaker()", "", SPEAKER,
    ),
    "returned to who knows whom": (
        "so = self.build(path)\nself.o = Speaker(so)",
        "def build(self, path):\n    so = onnxruntime.SessionOptions()\n    so.intra_op_num_threads = 1\n    "
        + SESSION + "    return so",
        f"class Speaker:\n    def __init__(self, o):\n        self.s = {OTHER.format('o')}\n        self.s.run(None)",
    ),
    "a global": (
        "global so\n" + OPTIONS + SESSION + "speaker()", "", f"def speaker():\n    return {OTHER.format('so')}",
    ),
    "a global by name": (
        "global so\n" + OPTIONS + SESSION + "speaker()", "",
        "def speaker():\n    return onnxruntime.InferenceSession('campplus.onnx', globals()['so'])",
    ),
    "the class's own, through a subclass": (
        "self.ort_session = onnxruntime.InferenceSession(" + MINE + ", self.SO)",
        "SO = onnxruntime.SessionOptions()\nSO.intra_op_num_threads = 1\n"
        f"def later(self):\n    for cls in type(self).__mro__[:1]:\n        self.o = {OTHER.format('cls.SO')}", "",
    ),
    "kept by its name": (OPTIONS + SESSION + f"setattr(self, 'x', so)\nself.o = {OTHER.format('self.x')}", "", ""),
    "a default": (OPTIONS + SESSION + f"vo = getattr(self, 'x', so)\nself.o = {OTHER.format('vo')}", "", ""),
    "a logger of its own": (
        OPTIONS + SESSION + "info(so)", "", f"def info(options):\n    return {OTHER.format('options')}",
    ),
    "got back from the session": (OPTIONS + SESSION + f"self.o = {OTHER.format('self.ort_session.get_session_options()')}", "", ""),
    "a number for another's": (
        OPTIONS + SESSION + "vo = onnxruntime.SessionOptions()\nvo.intra_op_num_threads = so.intra_op_num_threads\n"
        f"self.o = {OTHER.format('vo')}", "", "",
    ),
    "a number asked for": (OPTIONS + SESSION + f"if so.intra_op_num_threads == 1:\n    self.o = {OTHER.format('None')}", "", ""),
    "a walrus that sets it": (OPTIONS.replace("so.intra", "log = 1\nso.intra") + "(vo := so).intra_op_num_threads = 7\n" + SESSION, "", ""),
    "an alias by if else that sets it": (OPTIONS + "vo = so if path else so\nvo.intra_op_num_threads = 7\n" + SESSION, "", ""),
    "an alias in a tuple that sets it": (OPTIONS + "vo, _ = so, 1\nvo.intra_op_num_threads = 7\n" + SESSION, "", ""),
    "an alias in a nested tuple that sets it": (OPTIONS + "(vo, _), _ = (so, 1), 1\nvo.intra_op_num_threads = 7\n" + SESSION, "", ""),
    "a plain alias that sets it": (OPTIONS + "vo = so\nvo.intra_op_num_threads = 7\n" + SESSION, "", ""),
    "a match that sets it": (OPTIONS + "match so:\n    case vo:\n        vo.intra_op_num_threads = 7\n" + SESSION, "", ""),
    "a with that sets it": (OPTIONS + "import contextlib\n"
        "with contextlib.nullcontext(so) as vo:\n    vo.intra_op_num_threads = 7\n" + SESSION, "", ""),
    "a loop that sets it": (OPTIONS + "for vo in (so,):\n    vo.intra_op_num_threads = 7\n" + SESSION, "", ""),
    "its own method that sets it": (OPTIONS + "so.__setattr__('intra_op_num_threads', 7)\n" + SESSION, "", ""),
    "its dictionary": (OPTIONS + "so.__dict__['intra_op_num_threads'] = 7\n" + SESSION, "", ""),
    "vars of it": (OPTIONS + "vars(so)['intra_op_num_threads'] = 7\n" + SESSION, "", ""),
    "the object's method": (OPTIONS + "object.__setattr__(so, 'intra_op_num_threads', 7)\n" + SESSION, "", ""),
    "a class that keeps it": (OPTIONS + "class Kept:\n    vo = so\nKept.vo.intra_op_num_threads = 7\n" + SESSION, "", ""),
    "a nested function that gives it": (OPTIONS + "def give():\n    return so\ngive().intra_op_num_threads = 7\n" + SESSION, "", ""),
    "a lambda that gives it": (OPTIONS + "give = lambda: so\ngive().intra_op_num_threads = 7\n" + SESSION, "", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARED)
def test_shared_options(case: str) -> None:
    init, methods, tail = SHARED[case]
    text = module(init, methods=methods, tail=tail)
    behaviour(text.encode())
    check(text, None)


OWN = {
    "another class's parameter": (
        OPTIONS + SESSION, "class Vad:\n    def __init__(self, path, options=None):\n"
        "        self.s = onnxruntime.InferenceSession(path, options)\n        self.s.run(None)",
    ),
    "another class's keywords": (
        OPTIONS + SESSION, "class Vad:\n    def __init__(self, path, **more):\n"
        "        self.s = onnxruntime.InferenceSession(path, **more)\n        self.s.run(None)",
    ),
    "a number for a look": (
        OPTIONS + SESSION + "print(so.intra_op_num_threads, hasattr(so, 'x'), getattr(so, 'x', 0))\nstr(f'{so.intra_op_num_threads}')", "",
    ),
    "none": (OPTIONS + SESSION + "self.o = onnxruntime.InferenceSession('campplus.onnx')", ""),
    "None": (OPTIONS + SESSION + "self.o = onnxruntime.InferenceSession('campplus.onnx', None)", ""),
    "made in the call": (OPTIONS + SESSION + f"self.o = {OTHER.format('onnxruntime.SessionOptions()')}", ""),
    "made beside": (OPTIONS + "vo = onnxruntime.SessionOptions()\n"
        f"vo.intra_op_num_threads = 3\nself.o = {OTHER.format('vo')}\n" + SESSION, ""),
    "made anew by the same name": (OPTIONS + SESSION + "so = onnxruntime.SessionOptions()\n"
        f"so.intra_op_num_threads = 3\nself.o = {OTHER.format('so')}", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", OWN)
def test_options_of_another_session_s_own(case: str) -> None:
    init, tail = OWN[case]
    check(module(init, tail=tail), "None")
