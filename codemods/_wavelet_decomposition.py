"""Where a wavelet prompt generator decomposes its series, and what our units make of that call."""

from __future__ import annotations

import ast
import copy
from typing import NamedTuple

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.source import Function, Source

from ._helpers import helpers, meant, with_usual_names
from ._sample_loop import WRITER
from ._scopes import bindings, methods, scope_of

KEPT, WRAPPER = "_wavedec", "_in_half"
"""Our functions: one in the place of ``ptwt.wavedec``, one that is given either of them."""
KEPT_TEXT = '''
_KEPT_FILTERS = {}


def _wavedec(data, wavelet, *more, **options):
    """`ptwt.wavedec`, for which the filters of a wavelet that is given by its name are not made anew in each call."""
    if type(wavelet) is str and torch.is_tensor(data):
        wavelet = _filters(wavelet, data.dtype, data.device)
    return WAVEDEC(data, wavelet, *more, **options)


def _filters(name, dtype, device):
    """The filters of a wavelet, which `ptwt.wavedec` takes in the place of its name; the name, where it does not.

    That is seen from a first, short decomposition. Nothing is kept of a wrong name: `ptwt.wavedec` says what is wrong.
    """
    key = name, dtype, device
    if key not in _KEPT_FILTERS:
        try:
            import pywt

            with torch.inference_mode(False):  # what is made in inference mode is of no use to autograd
                bank = pywt.Wavelet(name).filter_bank
                made = tuple(torch.as_tensor(taps, dtype=dtype, device=device) for taps in bank)
                if type(made[0]) is not torch.Tensor:  # not a real one: somebody looks at shapes only
                    return name
                steps = torch.linspace(-1, 1, 4 * len(made[0]), dtype=dtype, device=device)[None]
        except Exception:
            return name
        try:
            bands = WAVEDEC(steps, made, level=1), WAVEDEC(steps, name, level=1)
            is_same = len(bands[0]) == len(bands[1]) and all(map(torch.equal, *bands))
        except Exception:
            is_same = False
        _KEPT_FILTERS[key] = made if is_same else name
    return _KEPT_FILTERS[key]


_filters._dynamo_marked_constant = True  # for torch.compile: what it gives is a constant
'''


class Decomposition(NamedTuple):
    """The call in a generator's method, what it calls, and the function behind that: ``ptwt.wavedec``, or ours for it."""

    call: ast.Call
    function: ast.expr
    is_kept: bool


def decomposition(source: Source) -> Decomposition:
    """The one place where a class that writes prompts decomposes series."""
    classes = [s for s in source.tree.body if isinstance(s, ast.ClassDef)]
    found = [
        one
        for cls in classes
        if WRITER in (m.name for m in methods(cls))
        for node in ast.walk(cls)
        if isinstance(node, ast.Call) and (one := _decomposed(source, node))
    ]
    if not found:
        raise NoSite(f"{source.name}: no class that writes prompts ({WRITER}) calls ptwt.wavedec")
    if len(found) > 1:
        lines = ", ".join(str(one.call.lineno) for one in found)
        raise Ambiguous(f"{source.name}: ptwt.wavedec is called in {len(found)} places: lines {lines}")
    return found[0]


def _decomposed(source: Source, call: ast.Call) -> Decomposition | None:
    """``ptwt.wavedec(…)``, under whatever name; ``_wavedec(…)``; either of them as the first argument of ``_in_half(…)``."""
    is_wrapped = ast.unparse(call.func) == WRAPPER and bool(call.args) and bool(helpers(source, WRAPPER))
    function = call.args[0] if is_wrapped else call.func
    if isinstance(function, ast.Name) and function.id == KEPT and helpers(source, KEPT):
        return Decomposition(call, function, True)
    if not isinstance(function, (ast.Name, ast.Attribute)) or meant(source, function) != "ptwt.wavedec":
        return None
    return Decomposition(call, function, False)


def check_global(source: Source, function: ast.expr) -> None:
    """Raise where the name that is called is not the module's, so that our function beside the class may not have it."""
    name = function.value if isinstance(function, ast.Attribute) else function
    found = bindings(source, name, function)
    is_imported = any(isinstance(b.statement, (ast.Import, ast.ImportFrom)) for b in found)
    if not is_imported or any(scope_of(source, b.statement) is not source.tree for b in found):
        raise Ambiguous(f"{source.name}:{function.lineno}: {ast.unparse(name)} is not imported for the whole file")


def as_it_was(source: Source, function: Function) -> Function:
    """``function`` with ``ptwt.wavedec`` in the place of our function for it, where that is as we write it."""
    ours = "\n\n\n".join(
        ast.unparse(with_usual_names(source, f)) for name in (KEPT, "_filters") for f in helpers(source, name)
    )
    written = [
        s for s in ast.parse(KEPT_TEXT.replace("WAVEDEC", "ptwt.wavedec")).body if isinstance(s, ast.FunctionDef)
    ]
    if ours != "\n\n\n".join(map(ast.unparse, written)):
        return function
    return _Plain().visit(copy.deepcopy(function))  # type: ignore[no-any-return]


class _Plain(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        plain = ast.Attribute(ast.Name("ptwt", ast.Load()), "wavedec", ast.Load())
        return ast.copy_location(plain, node) if node.id == KEPT else node
