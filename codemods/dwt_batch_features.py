"""Give the wavelet prompt generator a method that looks at all samples of a batch together.

Its ``forward`` decomposes a sample, takes numbers from the bands, each of them brought to the host on its own, and puts them into
words. To call it with a whole batch is no way out: it averages over all that it gets. The new method computes the same numbers with
the batch as one more dimension, and asks the generator's own methods for the words.

What ``forward`` computes is written down once more for that. So this is for generators only whose methods have a form that is known
(:mod:`_canonical`), whatever their variables and messages are called.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, callee

from ._canonical import CHANGING, form
from ._dwt_batch_text import HELPER, METHOD, ROWS, classes, method
from ._helpers import MODULES, check_free, imports, insert_above, meant, refuse_taken, reindent, with_usual_names
from ._lines import below, is_alone
from ._sample_loop import WRITER
from ._scopes import REPLACES, calls, methods, paired, targets_of
from ._spellings import WITHOUT_GRADIENTS
from ._wavelet_decomposition import as_it_was

SITE = "generator"
FORMS = {
    "forward": ("365a42efb657aed6", "e8a24e3e88e79d60"),
    "_extract_frequency_features": ("f5c7c682ba69d4c8", "2e19310cd077e4b6"),
    "_extract_trend_features": ("7fb64ceb4d04b964", "8188d9359ad6683a"),
    "_extract_quality_features": ("d74b087460c21d7f", "ddad2462d9350f8e"),
}
"""The forms of the methods that are written down once more, one for each way in which generators are known to say it."""
WORDS = (
    "_calculate_difficulty",
    "_map_frequency_pattern",
    "_map_trend_pattern",
    "_analyze_volatility_pattern",
    "_map_quality_pattern",
)
"""The methods that are called, whatever they do."""
NUMBERS = (
    "energy_ratio",
    "energy_entropy",
    "dominant_energy",
    "trends",
    "frequency_stds",
    "signal_std",
    "noise_std",
    "snr_db",
    "volatility_ratio",
)
"""The features that are no whole numbers."""
MODES = ("reflect", "zero", "constant", "periodic", "symmetric")
"""How the ends of a series may be treated; the first is what ``ptwt`` does where nothing is said."""
BUILTINS = ("sum", "len", "max", "min", "int", "float", "isinstance", "RuntimeError")
SETTING = re.compile(r"self\.\w+ == '\w+'")
PURE = [
    "abs",
    "all",
    "any",
    "bool",
    "enumerate",
    "float",
    "int",
    "isinstance",
    "len",
    "list",
    "max",
    "min",
    "range",
    "round",
    "set",
    "sorted",
    "str",
    "sum",
    "tuple",
    "zip",
    "dict",
    "divmod",
    "pow",
    "reversed",
    "ValueError",
    "TypeError",
]
ASKING = (
    "get",
    "join",
    "format",
    "index",
    "count",
    "item",
    "tolist",
    "copy",
    "lower",
    "upper",
    "title",
    "strip",
    "append",
    "extend",
    "insert",
    "update",
    "items",
    "keys",
    "values",
    "replace",
    "split",
    "startswith",
    "endswith",
    "capitalize",
)
"""Methods of texts, lists and dictionaries."""
ANY = 99
"""More digits than any number has."""


class Generator(NamedTuple):
    """A class that takes features from a wavelet decomposition, its ``forward``, and how that treats the ends of a series."""

    cls: ast.ClassDef
    forward: Function
    mode: str


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``generator``: its class, or the method that it was given."""
    cls = _class(source)
    ours = [m for m in methods(cls) if m.name == METHOD]
    if _is_there(source, ours):
        return [Site(SITE, ours[0].lineno, OURS)]
    _check(source, _generator(source, cls))
    return [Site(SITE, cls.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The two classes above the generator's, and the method below ``forward``."""
    found = _generator(source, _class(source))
    text = classes(found.cls.name, found.mode, *_digits(source, found.cls))
    return [
        insert_above(source, found.cls, imports(source, *MODULES) + text),
        below(source, found.forward, "\n" + reindent(method(), source.indent_unit())),
    ]


def _class(source: Source) -> ast.ClassDef:
    """The class with the methods of a generator."""
    classes = [s for s in source.tree.body if isinstance(s, ast.ClassDef)]
    found = [cls for cls in classes if {*FORMS, *WORDS} <= {m.name for m in methods(cls)}]
    if not found:
        raise NoSite(f"{source.name}: no class puts a wavelet decomposition into words ({', '.join(WORDS)})")
    if len(found) > 1:
        raise Ambiguous(f"{source.name}: several classes do: {', '.join(f'{c.name} (line {c.lineno})' for c in found)}")
    return found[0]


def _is_there(source: Source, ours: Sequence[Function]) -> bool:
    """Whether both classes and the method are there; raises where only some are, or the names mean something else."""
    parts = [s for s in source.tree.body if isinstance(s, ast.ClassDef) and s.name in (ROWS, HELPER)]
    if len(parts) == 2 and len(ours) == 1:
        return True
    if parts or ours:
        raise PartlyApplied(
            f"{source.name}:{[*parts, *ours][0].lineno} is partly applied: {ROWS}, {HELPER} or {METHOD} is missing",
            "take the part that is there out by hand, then apply again",
        )
    refuse_taken(source, ROWS, HELPER, METHOD)
    return False


def _generator(source: Source, cls: ast.ClassDef) -> Generator:
    own = [m.name for m in methods(cls)]
    for name in {name for name in (*FORMS, *WORDS) if own.count(name) > 1}:
        raise Ambiguous(f"{source.name}: {cls.name}.{name} is defined more than once")
    (forward,) = [m for m in methods(cls) if m.name == "forward"]
    plain = with_usual_names(source, as_it_was(source, forward))
    found = [c for c in ast.walk(plain) if isinstance(c, ast.Call) and ast.unparse(c.func) == "ptwt.wavedec"]
    modes = [next((k.value for k in c.keywords if k.arg == "mode"), ast.Constant(MODES[0])) for c in found]
    mode = _mode(modes[0]) if len(modes) == 1 else ""
    if not mode:
        raise Ambiguous(
            f"{source.name}:{forward.lineno}: {cls.name}.forward does not decompose in one call of ptwt.wavedec"
        )
    return Generator(cls, forward, mode)


def _mode(value: ast.expr) -> str:
    """How our class says what is said of a series' ends: a text, or an attribute of the generator; nothing for others."""
    if isinstance(value, ast.Constant) and value.value in MODES:
        return f'"{value.value}"'
    text = ast.unparse(value)
    return text.replace("self.", "generator.", 1) if re.fullmatch(r"self\.\w+", text) else ""


def _check(source: Source, found: Generator) -> None:
    """Raise where the method would not give what ``forward`` does."""
    own = [m for m in methods(found.cls) if m.name in (*FORMS, *WORDS)]
    for function in own:
        if any(ast.unparse(d) not in WITHOUT_GRADIENTS for d in function.decorator_list):
            raise Conflict(
                f"{source.name}:{function.lineno}: {function.name} is decorated: what it gives cannot be told"
            )
        if function.name in FORMS and _form(source, function) not in FORMS[function.name]:
            raise Ambiguous(
                f"{source.name}:{function.lineno}: what {found.cls.name}.{function.name} computes is not known: "
                "that the same is computed for a whole batch cannot be promised"
            )
    words = _called(found.cls, WORDS)
    for function in [*words, *_called(found.cls, (WRITER,))]:
        kept = _kept(function, function in words)
        if kept:
            raise Conflict(
                f"{source.name}:{kept.lineno}: {function.name} does more than to return something: samples' order may count"
            )
    _check_words(source, found.cls)
    _check_settings(source, found.cls)
    _check_class(source, found)
    check_free(source, *MODULES, *BUILTINS)
    if not is_alone(source, found.forward):
        raise Ambiguous(f"{source.name}:{found.forward.lineno}: forward shares its lines with something else")


def _called(cls: ast.ClassDef, names: Sequence[str]) -> list[Function]:
    """The methods of these names, and those that they call."""
    own = {m.name: m for m in methods(cls)}
    asked = [name for name in names if name in own]
    for name in asked:
        called = {ast.unparse(n.func) for n in ast.walk(own[name]) if isinstance(n, ast.Call)}
        asked += [m for m in own if m not in asked and f"self.{m}" in called]
    return [own[name] for name in asked if name not in FORMS]


def _kept(function: Function, is_word: bool) -> Optional[ast.stmt]:
    """A statement of ``function`` that changes an object which outlives it, or may do so.

    What writes a prompt is called in its turn, also afterwards: there it is the generator's own that matters.
    """
    own = _own_lists(function)
    given = {n.arg for n in ast.walk(function.args) if isinstance(n, ast.arg)}

    def is_outside(value: ast.expr) -> bool:
        return ast.unparse(value) not in own if is_word else ast.unparse(value).startswith("self")

    for node in ast.walk(function):
        is_store = isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load)
        is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING
        is_lost = (
            is_word and isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not _is_on(node.value, own)
        )
        is_added = is_word and isinstance(node, ast.AugAssign) and ast.unparse(node.target) in given
        is_outer = isinstance(node, (ast.Global, ast.Nonlocal, ast.Yield, ast.YieldFrom, ast.Await))
        is_changed = (is_store and is_outside(node.value)) or (is_method and is_outside(node.func.value))  # type: ignore[attr-defined]
        if is_changed or is_lost or is_added or is_outer:
            return node  # type: ignore[return-value]
    return None


def _own_lists(function: Function) -> set[str]:
    """The variables of ``function`` that are lists or dictionaries which it makes itself."""
    given = [n for n in ast.walk(function) if isinstance(n, (ast.Assign, ast.AnnAssign)) and n.value]
    names = {ast.unparse(target) for n in given for target in targets_of(n)}
    made = (ast.List, ast.Dict, ast.ListComp, ast.DictComp)
    values = {name: [n.value for n in given if name in map(ast.unparse, targets_of(n))] for name in names}
    stored = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)]
    return {
        name
        for name, own in values.items()
        if stored.count(name) == len(own) and all(isinstance(v, made) or _is_copy(v) for v in own)
    }


def _is_copy(value: ast.AST | None) -> bool:
    """``list(x)`` or ``x.copy()``."""
    return isinstance(value, ast.Call) and callee(value) in ("list", "dict", "sorted", "copy", "split")


def _is_on(call: ast.Call, names: set[str]) -> bool:
    """Whether that is a method of one of these variables: ``parts.append(…)``."""
    return isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in names


def _check_words(source: Source, cls: ast.ClassDef) -> None:
    """Raise where a method that is called for words, or one that it calls, may depend on more than its arguments and settings."""
    own = {m.name for m in methods(cls)}
    for function in _called(cls, WORDS):
        for call in (n for n in ast.walk(function) if isinstance(n, ast.Call)):
            text = meant(source, call.func)
            is_own = text.startswith("self.") and text.removeprefix("self.") in own
            is_known = text in PURE or text.startswith(("numpy.", "math.")) or callee(call) in ASKING
            if not is_own and not is_known:
                raise Ambiguous(f"{source.name}:{call.lineno}: what {text} does cannot be told")
            if ".random" in text:
                raise Ambiguous(f"{source.name}:{call.lineno}: {text} gives something else each time")


def _check_settings(source: Source, cls: ast.ClassDef) -> None:
    """Raise where words may depend on something that changes while prompts are written: the samples' order would count."""
    words = _called(cls, WORDS)
    read = {
        n.attr for f in words for n in ast.walk(f) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "self"
    }
    holders = set()
    for statement in (n for n in ast.walk(cls) if isinstance(n, (ast.Assign, ast.AnnAssign)) and n.value):
        for name, value in _settings(statement):
            called = [
                n for n in ast.walk(value) if isinstance(n, ast.Call) and ast.unparse(n.func) not in (*PURE, "getattr")
            ]
            if name in read and called:
                what = ast.unparse(called[0].func)
                raise Ambiguous(
                    f"{source.name}:{value.lineno}: words depend on what {what} gives: whether that changes cannot be told"
                )
            holders |= {f"self.{name}"} if name in read and not isinstance(value, ast.Constant) else set()
    for function in (function for function in _called(cls, (WRITER,)) if function not in words):
        for node in (n for n in ast.walk(function) if isinstance(n, (ast.Attribute, ast.Name))):
            text, parent = ast.unparse(node), source.ancestors(node)[0]
            is_bare = (
                bool(holders)
                and text == "self"
                and not isinstance(parent, ast.Attribute)
                and not _asks(parent, holders)
            )
            if is_bare or (text in holders and not _is_read(source, node)):
                raise Conflict(
                    f"{source.name}:{node.lineno}: {function.name} does more than to read {text}, on which words depend: "
                    "samples' order may count"
                )


def _asks(node: ast.AST, holders: set[str]) -> bool:
    """Whether that is ``getattr(self, "name")`` for something that is in none of ``holders``."""
    is_call = isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr") and len(node.args) > 1
    name = node.args[1] if is_call else None  # type: ignore[attr-defined]
    return isinstance(name, ast.Constant) and f"self.{name.value!s}" not in holders


def _settings(statement: ast.Assign | ast.AnnAssign) -> list[tuple[str, ast.expr]]:
    """The attributes of ``self`` that get a value there, and which; each of ``self.a, self.b = a, b`` its own.

    Where which is which cannot be told (``self.a, self.b = both()``), each gets all of it.
    """
    if statement.value is None:
        return []
    pairs = [pair for target in targets_of(statement) for pair in paired(target, statement.value)]
    own = [(part, value) for whole, value in pairs for part in getattr(whole, "elts", [whole])]
    return [(p.attr, value) for p, value in own if isinstance(p, ast.Attribute) and ast.unparse(p.value) == "self"]


def _is_read(source: Source, node: ast.AST) -> bool:
    """Whether an attribute is only read there, so that nothing else can have the object: an entry of it, compared, printed."""
    parent, around, *_ = source.ancestors(node)
    if isinstance(parent, ast.Subscript):
        return parent.value is node and isinstance(parent.ctx, ast.Load)
    if isinstance(parent, ast.Attribute):
        return (
            parent.attr in ("get", "items", "keys", "values") and isinstance(around, ast.Call) and around.func is parent
        )
    if isinstance(parent, ast.Call):
        return parent.func is not node and ast.unparse(parent.func) in PURE
    return isinstance(parent, (ast.FormattedValue, ast.Compare, ast.BinOp, ast.UnaryOp, ast.If))


def _check_class(source: Source, found: Generator) -> None:
    """Raise where the methods that are seen may not be those that run."""
    cls = found.cls
    line = f"{source.name}:{cls.lineno}"
    if cls.decorator_list or [meant(source, base) for base in cls.bases] != ["torch.nn.Module"]:
        raise Ambiguous(f"{line}: {cls.name} is decorated, or no plain torch.nn.Module")
    own = [m.name for m in methods(cls)]
    if {"__call__", "__getattr__", "__getattribute__", "level", "wavelet", found.mode.rpartition(".")[2]} & set(own):
        raise Ambiguous(f"{line}: how {cls.name} is called, or what its settings are, is its own matter")
    seen = {*FORMS, *WORDS}
    for node in ast.walk(source.tree):
        stored = isinstance(node, (ast.Attribute, ast.Name)) and not isinstance(node.ctx, ast.Load)
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        is_patched = isinstance(node, ast.Call) and callee(node) in (*REPLACES, "compile")
        is_patched = is_patched and ast.unparse(node.func) != "re.compile"  # type: ignore[attr-defined]
        if (stored and name in seen) or is_patched:
            raise Ambiguous(f"{source.name}:{getattr(node, 'lineno', 0)}: a method of {cls.name} may be another one")
    if [s.name for s in source.tree.body if isinstance(s, ast.ClassDef)].count(cls.name) > 1:
        raise Ambiguous(f"{line}: {cls.name} is defined more than once")


def _form(source: Source, function: Function) -> str:
    """Its form, for a decomposition of any of the ``MODES``."""
    made = with_usual_names(source, as_it_was(source, function))
    for call in (n for n in ast.walk(made) if isinstance(n, ast.Call) and callee(n) == "wavedec"):
        call.keywords = [keyword for keyword in call.keywords if keyword.arg != "mode"]
        call.keywords.append(ast.keyword("mode", ast.Constant(MODES[0])))
    return form(made)


def _digits(source: Source, cls: ast.ClassDef) -> tuple[dict[str, int], str]:
    """How many digits after the point are printed of those numbers that other methods read; and when that happens."""
    digits: dict[str, int] = {}
    readers = set()
    for node in ast.walk(source.tree):
        name = node.value if isinstance(node, ast.Constant) and node.value in NUMBERS else None
        function = source.function(node) if name else None
        if name and (function is None or function.name not in (*FORMS, *WORDS)):
            digits[str(name)] = max(digits.get(str(name), 0), _printed(source, node))
            readers.add(function)
        if _shows_all(source, node):
            digits["snr_db"] = ANY
    return digits, _condition(source, cls, readers.pop()) if len(readers) == 1 and ANY not in digits.values() else ""


def _shows_all(source: Source, node: ast.AST) -> bool:
    """Whether any number may be printed there, whatever its name: ``x.items()``, ``f"{x}"``, ``x[name]``."""
    function = source.function(node)
    if function is None or function.name in (*FORMS, *WORDS):
        return False
    given = {n.arg for n in ast.walk(function.args) if isinstance(n, ast.arg)} - {"self"}
    if isinstance(node, ast.Subscript):
        return ast.unparse(node.value) in given and not isinstance(node.slice, ast.Constant)
    is_all = isinstance(node, ast.Call) and callee(node) in ("items", "values", "str", "repr", "format")
    return is_all or (isinstance(node, ast.FormattedValue) and ast.unparse(node.value) in given)


def _condition(source: Source, cls: ast.ClassDef, function: Optional[Function]) -> str:
    """When ``function`` is called, where that is in one place and a matter of the generator's settings."""
    uses = calls(source, function.name, cls) if function else []
    tests = []
    node: ast.AST = uses[0] if len(uses) == 1 else cls
    for parent in source.ancestors(node):
        if isinstance(parent, ast.If):
            is_setting = SETTING.fullmatch(ast.unparse(parent.test))
            if not is_setting or not isinstance(node, ast.stmt):
                return ""
            tests.append(
                ast.unparse(parent.test) if node in parent.body else ast.unparse(parent.test).replace("==", "!=")
            )
        node = parent
    return " and ".join(test.replace("self.", "generator.") for test in reversed(tests)).replace("'", '"')


def _printed(source: Source, name: ast.AST) -> int:
    """With how many digits a number of that name is printed: ``2`` in ``{x["name"]:.2f}``."""
    number, shown = (*source.ancestors(name), None, None)[:2]
    if not isinstance(number, ast.Subscript) or number.slice is not name or not isinstance(shown, ast.FormattedValue):
        return ANY
    spec = ast.unparse(shown.format_spec) if shown.format_spec else ""
    found = re.fullmatch(r"f['\"]\.(\d)f['\"]", spec)
    return int(found[1]) if found else ANY
