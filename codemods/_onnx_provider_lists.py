"""Which execution providers the speech tokenizer's session is given, and where the file names them.

The providers are followed from the call that builds the session back to the lists that they are written in, through
variables, attributes, conditions and parameters. What else uses those lists is looked at too: a change of them must reach
this session and nothing else. The forms of a provider: https://onnxruntime.ai/docs/api/python/api_summary.html#inferencesession
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple, Optional, Union

from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.source import Source, callee

from ._onnx_files import DEPTH
from ._onnx_session import Creation, sessions, those_of_the_tokenizer
from ._onnx_uses import HARMLESS
from ._scopes import (
    FUNCTIONS,
    PARAMETER,
    argument,
    bindings,
    called,
    callers,
    default_of,
    function_of,
    has_star,
    mentions,
    owners,
    passed,
    reaching,
)

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
OUR_HELPERS = {"_ort_intra_op_threads", "_warn_without_cuda"}
LISTS = (ast.List, ast.Tuple)
ASKS = (ast.If, ast.While, ast.UnaryOp, ast.FormattedValue, ast.Assert)
Place = Union[ast.Name, ast.Attribute]


class Named(NamedTuple):
    """A provider as it is written: its name (``""`` where that is not a plain string), the element, the list around it.

    The list is ``None`` where the element is put into one by a call (``providers.append(…)``).
    """

    name: str
    element: ast.expr
    within: Optional[ast.expr]


class Providers(NamedTuple):
    """What the session may be given: providers by name, and the variables that they go through."""

    creation: Creation
    expression: ast.expr
    named: list[Named]
    places: list[Place]

    def of(self, name: str) -> list[Named]:
        """Where the provider called ``name`` is named."""
        return [one for one in self.named if one.name == name]


def speech_tokenizer_providers(source: Source) -> list[Providers]:
    """The providers of each of the calls that build the speech tokenizer's session. Raises where they are out of sight."""
    ours = those_of_the_tokenizer(source, list(sessions(source)))
    found = []
    for creation in ours:
        expression = argument(creation.call, "providers", 2)
        if expression is None:
            what = "handed over in a container (* or **)" if has_star(creation.call) else "not given any providers"
            raise NoSite(f"{creation.where(source)}: the speech tokenizer's session is {what}")
        places: list[Place] = []
        named = list(dict.fromkeys(_elements(source, expression, creation.via, places, DEPTH)))
        found.append(Providers(creation, expression, named, list(dict.fromkeys(places))))
    return found


def _elements(
    source: Source, node: ast.expr, via: Optional[ast.Call], places: list[Place], depth: int
) -> Iterator[Named]:
    """The providers in the list that ``node`` is; ``places`` gets the variables on the way."""
    if isinstance(node, LISTS):
        yield from (Named(_name(element), element, node) for element in node.elts)
    elif isinstance(node, ast.IfExp):
        yield from _all(source, [node.body, node.orelse], via, places, depth)
    elif isinstance(node, ast.BoolOp):
        yield from _all(source, node.values, via, places, depth)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _all(source, [node.left, node.right], via, places, depth)
    elif isinstance(node, ast.Call) and callee(node) in ("list", "tuple") and len(node.args) == 1:
        yield from _elements(source, node.args[0], via, places, depth)
    elif isinstance(node, (ast.Name, ast.Attribute)) and depth:
        places.append(node)
        yield from _all(source, _values(source, node, via), via, places, depth - 1)
        yield from _added(source, node, via, places, depth)


def _all(
    source: Source, nodes: list[ast.expr], via: Optional[ast.Call], places: list[Place], depth: int
) -> Iterator[Named]:
    for node in nodes:
        yield from _elements(source, node, via, places, depth)


def _name(element: ast.expr) -> str:
    """The provider's name: the element itself, or the first half of a pair with options."""
    first = element.elts[0] if isinstance(element, ast.Tuple) and len(element.elts) == 2 else element
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def _values(source: Source, node: Place, via: Optional[ast.Call]) -> list[ast.expr]:
    """What a variable may be given."""
    found: list[Optional[ast.expr]] = []
    for binding in reaching(source, node, node):
        function = binding.statement
        if binding.kind == PARAMETER and isinstance(node, ast.Name) and isinstance(function, FUNCTIONS):
            outer = [via] if via and called(source, via) is function else callers(source, function)
            given = [passed(source, function, node.id, call) for call in outer]
            found += given or [default_of(function, node.id)]
        else:
            found.append(binding.value)
    return [value for value in found if value is not None]


def _added(source: Source, node: Place, via: Optional[ast.Call], places: list[Place], depth: int) -> Iterator[Named]:
    """What is put into the list later, by ``append``, ``insert``, ``extend`` or ``+=``."""
    for use in _uses_of(source, node):
        parent, *rest = source.ancestors(use)
        if isinstance(parent, ast.AugAssign) and parent.target is use:
            yield from _elements(source, parent.value, via, places, depth - 1)
        elif isinstance(parent, ast.Attribute) and rest and isinstance(rest[0], ast.Call) and rest[0].func is parent:
            if parent.attr in ("append", "insert") and rest[0].args:
                yield Named(_name(rest[0].args[-1]), rest[0].args[-1], None)
            elif parent.attr == "extend" and rest[0].args:
                yield from _elements(source, rest[0].args[0], via, places, depth - 1)


def _uses_of(source: Source, place: Place) -> list[ast.expr]:
    """Where the code mentions the variable; not where another scope has one of that name."""
    if isinstance(place, ast.Attribute):
        return mentions(source, place)
    own = {b.statement for b in bindings(source, place, place)}
    return [n for n in mentions(source, place) if own & {b.statement for b in bindings(source, n, n)}]


# Who else has the lists


def check_own(source: Source, found: list[Providers]) -> None:
    """Raise where what the session is given is used for something else too, or by its names."""
    for creation in (providers.creation for providers in found):
        function = function_of(source, creation.call)
        if creation.via is not None and function is not None and len(callers(source, function)) > 1:
            raise Ambiguous(f"{creation.where(source)}: {function.name}() builds other sessions too")
    known = {call for providers in found for call in (providers.creation.call, providers.creation.via) if call}
    places = {place for providers in found for place in providers.places}
    for place in sorted(places, key=lambda node: node.lineno):
        for use in _uses_of(source, place):
            if not _is_usual(source, use, known, places):
                text = ast.unparse(source.statement(use)).splitlines()[0]
                raise Ambiguous(f"{source.name}:{use.lineno}: the session's providers are used here too: {text}")


def _is_usual(source: Source, use: ast.expr, known: set[ast.Call], places: set[Place]) -> bool:
    """Whether ``use`` only gives the list, or a longer one, to the session, or looks at it as a whole."""
    if use in places or not isinstance(getattr(use, "ctx", None), ast.Load):
        return True
    parent, *rest = source.ancestors(use)
    call = rest[0] if isinstance(parent, ast.keyword) else parent
    if isinstance(call, ast.Call) and call.func is not use:
        return call in known or callee(call) in HARMLESS | OUR_HELPERS | {"len"}
    if isinstance(parent, ast.Attribute):
        return parent.attr in ("append", "insert", "extend") or not owners(source, parent)
    if isinstance(parent, ast.Compare):
        return all(isinstance(op, (ast.Is, ast.IsNot)) for op in parent.ops)
    asked = isinstance(parent, ASKS) or (isinstance(parent, ast.IfExp) and parent.test is use)
    return asked or (isinstance(parent, ast.BoolOp) and not isinstance(source.statement(use), ast.Assign))
