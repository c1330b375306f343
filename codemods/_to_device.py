"""``.cuda()`` of tensors and modules, and what it is to be where there may be no CUDA: ``.to(_device())``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Optional

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.source import Edit, Source, callee

from ._helpers import are_used, check_imported, insert_above, is_rebound, meant, refuse_compiled, refuse_other_imports
from ._lines import all_respelled, text_of
from ._scopes import FUNCTIONS, PARAMETER, argument, bindings, calls, has_star, named, position, scope_of

SITE, HELPER, LOADED = "device", "_device", "_where_to_load"
HELPER_TEXT = '''
import functools
import warnings


@functools.lru_cache(maxsize=None)
def _device():
    """Where to compute: CUDA's current device, as `.cuda()` has it; without CUDA Apple's GPU, else the CPU. Asked when first needed."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    mps = getattr(torch.backends, "mps", None)  # since PyTorch 1.12
    device = torch.device("mps" if mps is not None and mps.is_available() else "cpu")
    warnings.warn(f"there is no CUDA device: {device} computes")
    return device
'''
LOADED_TEXT = '''

def _where_to_load():
    """Where `torch.load` puts tensors: where they were saved from, as ever; without CUDA, on the device that there is."""
    return None if _device().type == "cuda" else _device()
'''
CUDA = re.compile(r"(?s)(.*)\.\s*cuda\s*\(\s*(non_blocking\s*=\s*\w+)?\s*,?\s*\)")
NO_TENSORS = (
    "torch.load",
    "torch.cuda.",
    "torch.jit.",
    "torch.hub.",
    "torch.Generator",
    "torch.device",
    "torch.utils.",
)
OF_MODULES = {"eval", "train", "parameters", "named_parameters", "state_dict", "load_state_dict", "zero_grad"}
OF_MODULES |= {"children", "modules", "serialize", "deserialize"}
"""Methods that tell a module; the last two are act-plus-plus's own."""
PARTS = ("Assign", "For", "comprehension")
"""How a variable gets a part of something: a tuple that is taken apart, a loop."""


def find_sites(source: Source) -> list[Site]:
    """The site ``device``: the first ``.cuda()``."""
    found, uses = cuda_calls(source), calls(source, HELPER)
    own = [c for c in uses if (f := source.function(c)) is None or f.name != LOADED]
    guarded = [call for call in found if _is_guarded(source, call)]
    others = (LOADED,) if _loads(source) or calls(source, LOADED) else ()
    if are_used(source, HELPER, others, own):
        if len(found) > len(guarded):
            raise PartlyApplied(
                f"{source.name}:{found[0].lineno} is partly applied: .cuda() beside {HELPER}()",
                "take the part that is there out by hand, then apply again",
            )
        return [Site(SITE, own[0].lineno, OURS)]
    refuse_other_imports(source, HELPER_TEXT)
    if not found:
        raise NoSite(f"{source.name}: nothing is brought to the GPU with .cuda()")
    if len(found) == len(guarded):
        return [Site(SITE, found[0].lineno, THEIRS, "only where torch.cuda.is_available()")]
    if guarded:
        line = guarded[0].lineno
        raise Ambiguous(f"{source.name}:{line}: some .cuda() are for machines with CUDA only, others are not")
    _check(source, found)
    return [Site(SITE, found[0].lineno, TODO)]


def edits(source: Source) -> list[Edit]:
    """The helpers above the first use, and each ``.cuda()`` and ``torch.load`` in other words."""
    loads = _loads(source)
    changes: dict[ast.expr, str] = {call: _moved(source, call) for call in cuda_calls(source)}
    changes |= {call: _loaded(source, call) for call in loads}
    text = HELPER_TEXT + (LOADED_TEXT if loads else "")
    return [insert_above(source, min(changes, key=position), text), *all_respelled(source, changes)]


def cuda_calls(source: Source) -> list[ast.Call]:
    """``THING.cuda(…)``, in order."""
    return [call for call in calls(source, "cuda") if isinstance(call.func, ast.Attribute)]


def _moved(source: Source, call: ast.Call) -> str:
    found = CUDA.fullmatch(text_of(source, call))
    if found is None:
        raise Ambiguous(f"{source.name}:{call.lineno}: a certain device is asked for: {ast.unparse(call)[-60:]}")
    return f"{found[1]}.to({HELPER}(){', ' + found[2] if found[2] else ''})"


def _loads(source: Source) -> list[ast.Call]:
    """``torch.load(PATH)`` that says nothing of a device."""
    every = [call for call in calls(source, "load") if meant(source, call.func) == "torch.load"]
    return [call for call in every if argument(call, "map_location", 1) is None and not has_star(call)]


def _loaded(source: Source, call: ast.Call) -> str:
    whole = text_of(source, call)
    if "#" in whole or not (call.args or call.keywords):
        raise Ambiguous(f"{source.name}:{call.lineno}: torch.load is written in a way that is not known")
    return f"{whole[:-1].rstrip().removesuffix(',')}, map_location={LOADED}())"


def _is_guarded(source: Source, call: ast.Call) -> bool:
    """Whether a condition around ``call`` has to do with CUDA."""
    around: list[ast.AST] = [call, *source.ancestors(call)]
    tests = [(n.test, n) for n in around if isinstance(n, (ast.If, ast.IfExp))]
    return any(_asks(source, test) for test, n in tests if n.test not in around)


def _asks(source: Source, test: ast.expr) -> bool:
    """Whether a condition, or what a name in it stands for, mentions CUDA."""
    names = [n for n in ast.walk(test) if isinstance(n, (ast.Name, ast.Attribute))]
    values = [b.value for n in names for b in bindings(source, n, n) if b.value is not None]
    return any("cuda" in ast.unparse(value).lower() for value in (test, *values))


def _check(source: Source, found: list[ast.Call]) -> None:
    """Raise where what is moved may be neither tensor nor module, or is moved in a way that cannot be written otherwise."""
    check_imported(source, "torch")
    refuse_compiled(source)
    if is_rebound(source, "torch"):
        raise Ambiguous(f"{source.name}: torch means something else in some place")
    for node in (*named(source, "cuda"), *named(source, "to")):
        if isinstance(node, FUNCTIONS):
            raise Conflict(f"{source.name}:{node.lineno}: there is a {node.name} of the file's own")
    _check_called(source, found)
    changed = {*found, *_loads(source)}
    for call in (*found, *_loads(source)):
        if changed.intersection(source.ancestors(call)):
            raise Ambiguous(f"{source.name}:{call.lineno}: one move is within another")
    for call in _loads(source):
        _loaded(source, call)
    for call in found:
        _moved(source, call)
        assert isinstance(call.func, ast.Attribute)
        thing = call.func.value
        if not (_is_torch(source, thing) or _is_module(source, call) or _is_of_batch(source, thing)):
            what = ast.unparse(thing)[:60]
            raise Ambiguous(f"{source.name}:{call.lineno}: whether {what} is a tensor or a module cannot be told")


def _check_called(source: Source, found: list[ast.Call]) -> None:
    """Raise where ``.cuda`` is not called at once, or where what it raises without CUDA is waited for."""
    called = {call.func for call in found}
    for node in named(source, "cuda"):
        if isinstance(node, ast.Attribute) and node not in called and ast.unparse(node) != "torch.cuda":
            raise Ambiguous(f"{source.name}:{node.lineno}: {ast.unparse(node)} is not called there")
    for call in found:
        around = [call, *source.ancestors(call)]
        if any(isinstance(n, ast.Try) and n.handlers and set(around).intersection(n.body) for n in around):
            raise Ambiguous(f"{source.name}:{call.lineno}: what is done without CUDA is decided there, by an exception")


def _root(node: ast.expr) -> ast.expr:
    """``x`` of ``x.float()[0].unsqueeze(1)``; the call of a module's function, of ``torch.zeros(3).float()``."""
    while True:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _begins(node.func.value):
            node = node.func.value
        elif isinstance(node, ast.Subscript):
            node = node.value
        else:
            return node


def _begins(node: ast.expr) -> bool:
    """Whether ``node`` is more than a module's dotted name."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return not isinstance(node, ast.Name) or node.id not in ("torch", "nn", "F")


def _is_torch(source: Source, thing: ast.expr) -> bool:
    """Whether a function or class of torch's made it."""
    root = _root(thing)
    if isinstance(root, ast.BinOp):
        return _is_torch(source, root.left) or _is_torch(source, root.right)
    name = meant(source, root.func) if isinstance(root, ast.Call) else ""
    return name.startswith("torch.") and not name.startswith(NO_TENSORS)


def _is_module(source: Source, call: ast.Call) -> bool:
    """Whether the variable that is moved, or that gets what is moved, is used like a module in its function."""
    assert isinstance(call.func, ast.Attribute)
    scope = scope_of(source, call)
    thing = call.func.value if isinstance(call.func.value, (ast.Name, ast.Attribute)) else _given_to(source, call)
    if thing is None or isinstance(scope, ast.ClassDef):
        return False
    return any(ast.unparse(n.value) == ast.unparse(thing) for n in _uses_of_modules(scope))


def _uses_of_modules(scope: ast.AST) -> Iterator[ast.Attribute]:
    """``model.eval`` and the like."""
    return (n for n in ast.walk(scope) if isinstance(n, ast.Attribute) and n.attr in OF_MODULES)


def _given_to(source: Source, call: ast.Call) -> Optional[ast.expr]:
    """The variable that gets what ``call`` gives."""
    statement = source.ancestors(call)[0]
    is_plain = isinstance(statement, ast.Assign) and len(statement.targets) == 1
    return statement.targets[0] if is_plain else None  # type: ignore[attr-defined]


def _is_of_batch(source: Source, thing: ast.expr) -> bool:
    """Whether it is a part of a batch: what a tuple is taken apart into, what a loop gives, or an item of a parameter."""
    root = _root(thing)
    found = bindings(source, root, root) if isinstance(root, ast.Name) else []
    others = [b for b in found if not (isinstance(b.value, ast.Call) and _keeps(b.value, ast.unparse(root)))]
    is_item = any(isinstance(n, ast.Subscript) for n in ast.walk(thing))
    return bool(others) and all(b.kind in PARTS or (is_item and b.kind == PARAMETER) for b in others)


def _keeps(call: ast.Call, name: str) -> bool:
    """Whether what the variable ``name`` gets is made of itself: ``x.cuda()``, ``scaled(x)``."""
    return callee(call) == "cuda" or any(isinstance(a, ast.Name) and a.id == name for a in call.args)
