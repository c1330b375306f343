"""Give the wavelet prompt generator a method that looks at all samples of a batch together.

Its ``forward`` decomposes a sample, takes numbers from the bands, each of them brought to the host on its own, and puts them into
words. To call it with a whole batch is no way out: it averages over all that it gets. The new method computes the same numbers with
the batch as one more dimension, and asks the generator's own methods for the words.

What ``forward`` computes is written down once more for that. So this is for generators only whose methods have a form that is known
(:mod:`_canonical`), whatever their variables and messages are called.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, callee

from ._canonical import form
from ._dwt_batch_text import HELPER, METHOD, ROWS, classes, method
from ._helpers import check_imported, helpers, insert_above, is_rebound, refuse_taken, reindent
from ._lines import below, is_alone
from ._scopes import calls, methods
from ._spellings import WITHOUT_GRADIENTS
from ._wavelet_decomposition import as_it_was

SITE = "generator"
FORMS = {
    "forward": ("365a42efb657aed6", "e8a24e3e88e79d60"),
    "_extract_frequency_features": ("f5c7c682ba69d4c8", "3145493352bc4de5"),
    "_extract_trend_features": ("7fb64ceb4d04b964", "8188d9359ad6683a"),
    "_extract_quality_features": ("d74b087460c21d7f", "79626ab8aba9b62a"),
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
MODULES = ("torch", "nn", "np", "ptwt")
BUILTINS = ("sum", "len", "max", "min", "int", "float", "isinstance", "RuntimeError")
SETTING = re.compile(r"self\.\w+ == '\w+'")
CHANGING = ("append", "extend", "insert", "update", "add", "pop", "popitem", "setdefault", "clear", "remove", "discard")
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
)
"""Methods of texts, lists and dictionaries."""
ANY = 99
"""More digits than any number has."""


class Generator(NamedTuple):
    """A class that takes features from a wavelet decomposition, its ``forward``, and how that treats the ends of a series."""

    cls: ast.ClassDef
    forward: Function
    mode: ast.Constant


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
    text = classes(found.cls.name, str(found.mode.value), *_digits(source, found.cls))
    return [
        insert_above(source, found.cls, text),
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
    plain = as_it_was(source, forward)
    found = [c for c in ast.walk(plain) if isinstance(c, ast.Call) and ast.unparse(c.func) == "ptwt.wavedec"]
    modes = [k.value for c in found for k in c.keywords if k.arg == "mode"]
    if len(modes) != 1 or not isinstance(modes[0], ast.Constant) or modes[0].value not in MODES:
        raise Ambiguous(
            f"{source.name}:{forward.lineno}: {cls.name}.forward does not decompose in one call of ptwt.wavedec"
        )
    return Generator(cls, forward, modes[0])


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
    for function in methods(found.cls):
        kept = _kept(function) if function.name not in (*FORMS, "__init__") else None
        if kept:
            raise Conflict(
                f"{source.name}:{kept.lineno}: {function.name} does more than to return something: samples' order may count"
            )
    _check_words(source, found.cls)
    _check_class(source, found.cls)
    check_imported(source, *MODULES)
    for name in (*MODULES, *BUILTINS):
        if is_rebound(source, name) or helpers(source, name):
            raise Ambiguous(f"{source.name}: {name} means something else in some place")
    if not is_alone(source, found.forward):
        raise Ambiguous(f"{source.name}:{found.forward.lineno}: forward shares its lines with something else")


def _kept(function: Function) -> Optional[ast.stmt]:
    """A statement of ``function`` that changes an object which outlives it, or may do so."""
    is_word = function.name in WORDS
    for node in ast.walk(function):
        is_store = isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load)
        is_changed = is_store and (is_word or ast.unparse(node).startswith("self."))
        is_called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and is_word
        is_outer = isinstance(node, (ast.Global, ast.Nonlocal, ast.Yield, ast.YieldFrom, ast.Await))
        if is_changed or is_called or is_outer or _changes_setting(node):
            return node  # type: ignore[return-value]
    return None


def _changes_setting(node: ast.AST) -> bool:
    """Whether a list or dictionary of the generator's is changed there: ``self.thresholds.update(…)``."""
    is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING
    return is_method and ast.unparse(node).startswith("self.")


def _check_words(source: Source, cls: ast.ClassDef) -> None:
    """Raise where a method that is called for words, or one that it calls, may depend on more than its arguments and settings."""
    own = {m.name: m for m in methods(cls)}
    asked = list(WORDS)
    for name in asked:
        for call in (n for n in ast.walk(own[name]) if isinstance(n, ast.Call)):
            text = ast.unparse(call.func)
            method = text.removeprefix("self.")
            if method in own and text != method:
                if _kept(own[method]):
                    raise Conflict(f"{source.name}:{call.lineno}: {text} does more than to return something")
                asked += [method] if method not in asked else []
            elif not (text in PURE or text.startswith(("np.", "math.")) or callee(call) in ASKING):
                raise Ambiguous(f"{source.name}:{call.lineno}: what {text} does cannot be told")
            elif ".random" in text:
                raise Ambiguous(f"{source.name}:{call.lineno}: {text} gives something else each time")


def _check_class(source: Source, cls: ast.ClassDef) -> None:
    """Raise where the methods that are seen may not be those that run."""
    line = f"{source.name}:{cls.lineno}"
    if cls.decorator_list or [ast.unparse(base) for base in cls.bases] not in (["nn.Module"], ["torch.nn.Module"]):
        raise Ambiguous(f"{line}: {cls.name} is decorated, or no plain torch.nn.Module")
    own = [m.name for m in methods(cls)]
    if {"__call__", "__getattr__", "__getattribute__", "level", "wavelet"} & set(own):
        raise Ambiguous(f"{line}: how {cls.name} is called, or what its settings are, is its own matter")
    seen = {*FORMS, *WORDS}
    for node in ast.walk(source.tree):
        stored = isinstance(node, (ast.Attribute, ast.Name)) and not isinstance(node.ctx, ast.Load)
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        is_patched = isinstance(node, ast.Call) and callee(node) in ("setattr", "compile", "delattr")
        is_patched = is_patched and ast.unparse(node.func) != "re.compile"  # type: ignore[attr-defined]
        if (stored and name in seen) or is_patched:
            raise Ambiguous(f"{source.name}:{getattr(node, 'lineno', 0)}: a method of {cls.name} may be another one")
    if [s.name for s in source.tree.body if isinstance(s, ast.ClassDef)].count(cls.name) > 1:
        raise Ambiguous(f"{line}: {cls.name} is defined more than once")


def _form(source: Source, function: Function) -> str:
    """Its form, for a decomposition of any of the ``MODES``."""
    made = copy.deepcopy(as_it_was(source, function))
    for call in (n for n in ast.walk(made) if isinstance(n, ast.Call) and callee(n) == "wavedec"):
        for keyword in (k for k in call.keywords if k.arg == "mode"):
            keyword.value = ast.Constant(MODES[0])
    return form(made)


def _digits(source: Source, cls: ast.ClassDef) -> tuple[dict[str, int], str]:
    """How many digits after the point are printed of those numbers that other methods read; and when that happens."""
    digits: dict[str, int] = {}
    readers = set()
    for node in ast.walk(source.tree):
        name = node.value if isinstance(node, ast.Constant) and node.value in NUMBERS else None
        function = source.function(node) if name else None
        if name and (function is None or function.name not in (*FORMS, *WORDS, "__init__")):
            digits[str(name)] = max(digits.get(str(name), 0), _printed(source, node))
            readers.add(function)
        if isinstance(node, ast.Call) and callee(node) in ("items", "values"):
            digits["snr_db"] = ANY
    return digits, _condition(source, cls, readers.pop()) if len(readers) == 1 and ANY not in digits.values() else ""


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
