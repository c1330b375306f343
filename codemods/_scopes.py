"""Where names get their values, and which statement certainly runs before which. Built on :mod:`ast`; nothing is run.

Python's scoping rules: https://docs.python.org/3/reference/executionmodel.html#naming-and-binding. Where these functions
cannot tell, they say so (a binding without a value, ``False`` from :func:`certain`), and who asked refuses.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from typing import NamedTuple, Optional, Union

from apply_opt.errors import Ambiguous
from apply_opt.model.source import Function, Source, callee, first_line, last_line, own_nodes, same

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOPS = (ast.For, ast.AsyncFor, ast.While)
BLOCKS = (ast.stmt, ast.ExceptHandler, ast.match_case)
PARAMETER = "parameter"
REPLACES = ("setattr", "delattr", "object", "patch")
"""Functions that give an object another attribute, or take one away: ``patch.object(…)``, too."""
WORD = re.compile(r"\w+")
Scope = Union[ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef]


class Binding(NamedTuple):
    """One place where a name gets a value; ``value`` is ``None`` where that is not simply an expression (a loop, an import).

    ``among`` is what a loop takes the value from, one after the other.
    """

    statement: ast.stmt
    value: Optional[ast.expr]
    kind: str = ""
    among: Optional[ast.expr] = None

    def is_empty(self) -> bool:
        """Whether it only says that there is no value yet (``x = None``, ``x: Type``)."""
        declared = isinstance(self.statement, ast.AnnAssign) and self.statement.value is None
        return declared or (isinstance(self.value, ast.Constant) and self.value.value is None)


def named(source: Source, name: str, within: Optional[ast.stmt] = None) -> list[ast.AST]:
    """The nodes that have to do with ``name``: names, attributes, parameters, definitions, imports and calls, in order.

    ``within`` is a top-level statement to look in; without it, all are searched that have the word.
    """
    statements = [within] if within else [s for s, words in _words(source) if name in words]
    return [node for statement in statements for node in _index(statement).get(name, ())]


@functools.lru_cache(maxsize=8)
def _words(source: Source) -> list[tuple[ast.stmt, frozenset[str]]]:
    """The words in the text of each top-level statement: a quick way to leave most of a long file alone."""
    spans = [(s, source.lines[first_line(s) - 1 : last_line(s)]) for s in source.tree.body]
    return [(statement, frozenset(WORD.findall("".join(lines)))) for statement, lines in spans]


@functools.lru_cache(maxsize=4096)
def _index(statement: ast.stmt) -> dict[str, list[ast.AST]]:
    """The nodes in a top-level statement that have, store, define, import or call a name, by that name, in order."""
    found: dict[str, list[ast.AST]] = {}
    for node in ast.walk(statement):
        names: list[object] = [getattr(node, field, None) for field in ("id", "attr", "name", "asname", "arg")]
        if isinstance(node, ast.Call):
            names = [callee(node)]
        elif isinstance(node, ast.alias):
            names.append(node.name.partition(".")[0])
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            names = list(node.names)
        for name in {name for name in names if isinstance(name, str)}:
            found.setdefault(name, []).append(node)
    return {name: sorted(nodes, key=position) for name, nodes in found.items()}


def position(node: ast.AST) -> tuple[int, int]:
    """Where ``node`` starts, to be compared."""
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


def scope_of(source: Source, node: ast.AST) -> Scope:
    """The function, class body or module whose names ``node`` sees. Decorators and defaults belong to the scope outside."""
    child = node
    for parent in source.ancestors(node):
        if isinstance(parent, (*FUNCTIONS, ast.ClassDef)) and position(child) >= position(parent.body[0]):
            return parent
        child = parent
    return source.tree


def function_of(source: Source, node: ast.AST) -> Optional[Function]:
    """The function in whose own body ``node`` is."""
    scope = scope_of(source, node)
    return scope if isinstance(scope, FUNCTIONS) else None


def class_of(source: Source, node: ast.AST) -> Optional[ast.ClassDef]:
    """The innermost class in whose body ``node`` is, at any depth."""
    return next((n for n in source.ancestors(node) if isinstance(n, ast.ClassDef)), None)


@functools.lru_cache(maxsize=256)
def class_named(source: Source, name: str) -> Optional[ast.ClassDef]:
    """The class called ``name``, the last one where there are several."""
    found = [n for n in named(source, name) if isinstance(n, ast.ClassDef) and n.name == name]
    return found[-1] if found else None


def methods(cls: ast.ClassDef) -> list[Function]:
    """The functions of ``cls`` itself, also where they stand in an ``if``; not those inside its functions and classes."""
    return [node for node in own_nodes(cls) if isinstance(node, FUNCTIONS)]


def family(source: Source, cls: ast.ClassDef) -> list[ast.ClassDef]:
    """``cls`` and its bases, as far as they are in this file."""
    found = [cls]
    for member in found:
        bases = (class_named(source, base.id) for base in member.bases if isinstance(base, ast.Name))
        found += [base for base in bases if base is not None and base not in found]
    return found


def owners(source: Source, attribute: ast.Attribute) -> list[ast.ClassDef]:
    """The class of the object before the dot, and its bases; none where the object is not ``self`` or a class of this file."""
    base: ast.expr = attribute.value
    if isinstance(base, ast.Call) and callee(base) == "type" and len(base.args) == 1:
        base = base.args[0]
    elif isinstance(base, ast.Attribute) and base.attr == "__class__":
        base = base.value
    if not isinstance(base, ast.Name):
        return []
    cls = class_of(source, attribute) if base.id in _selves(source, attribute) else class_named(source, base.id)
    return family(source, cls) if cls else []


def _selves(source: Source, node: ast.AST) -> set[str]:
    """What the methods around ``node`` call their object."""
    around = [n for n in source.ancestors(node) if isinstance(n, FUNCTIONS)]
    own = [f for f in around if isinstance(scope_of(source, f), ast.ClassDef)]
    return {a.arg for f in own for a in [*f.args.posonlyargs, *f.args.args][:1]}


# Calls


def imported_as(source: Source, name: str) -> list[str]:
    """``name`` and what the file's ``from … import name as …`` and ``… = module.name`` call it."""
    aliases = [n for n in named(source, name) if isinstance(n, ast.alias) and n.name == name and n.asname]
    return [name, *sorted({n.asname for n in aliases if n.asname} | _assigned_from(source, name) - {name})]


def _assigned_from(source: Source, name: str) -> set[str]:
    """The variables that an assignment of ``name``, or of a module's attribute of that name, gives their only value."""
    found = set()
    for node in named(source, name):
        statement = source.statement(node) if isinstance(node, (ast.Name, ast.Attribute)) else None
        if isinstance(statement, ast.Assign) and statement.value is node and len(statement.targets) == 1:
            is_plain = isinstance(node, ast.Name) or isinstance(getattr(node, "value", None), ast.Name)
            found |= {t.id for t in statement.targets if isinstance(t, ast.Name) and is_plain}
    return {word for word in found if len(_stores(source, word)) == 1}


def calls(source: Source, name: str, within: Optional[ast.AST] = None) -> list[ast.Call]:
    """The calls of something that is called ``name`` here."""
    found = [node for node in named(source, name) if isinstance(node, ast.Call) and callee(node) == name]
    return [call for call in found if within is None or within in source.ancestors(call)]


def calls_of(source: Source, name: str, within: Optional[ast.AST] = None) -> list[ast.Call]:
    """The calls of ``name``, also under the names that it is imported as."""
    return [call for alias in imported_as(source, name) for call in calls(source, alias, within)]


def argument(call: ast.Call, name: str, index: int) -> Optional[ast.expr]:
    """What ``call`` passes for the parameter ``name``, the ``index``-th; ``None`` where it does not (or by a star)."""
    named = [keyword.value for keyword in call.keywords if keyword.arg == name]
    before = call.args[: index + 1]
    if named or len(before) <= index or any(isinstance(a, ast.Starred) for a in before):
        return named[0] if named else None
    return before[index]


def has_star(call: ast.Call) -> bool:
    """Whether some arguments are handed over in a container (``*`` or ``**``)."""
    return any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords)


def called(source: Source, call: ast.Call) -> Optional[Function]:
    """The function in this file that ``call`` runs, where it can be told: ``f(…)``, ``self.f(…)``, ``Class.f(…)``, ``Class(…)``."""
    found: list[Function] = []
    defined = (*FUNCTIONS, ast.ClassDef)
    if any(b.kind == PARAMETER or not isinstance(b.statement, defined) for b in bindings(source, call.func, call)):
        return None  # something else has the name too
    if isinstance(call.func, ast.Attribute):
        for cls in owners(source, call.func):
            found = found or [m for m in methods(cls) if m.name == call.func.attr]
    elif isinstance(call.func, ast.Name):
        name, cls_called = call.func.id, class_named(source, call.func.id)
        functions = [n for n in named(source, name) if isinstance(n, FUNCTIONS) and n.name == name]
        found = [f for f in functions if not isinstance(scope_of(source, f), ast.ClassDef)]
        found += [m for m in methods(cls_called) if m.name == "__init__"] if cls_called else []
    return found[0] if len(found) == 1 else None


def callers(source: Source, function: Function) -> list[ast.Call]:
    """The calls in this file that run ``function``."""
    scope, name = scope_of(source, function), function.name
    names = [name, scope.name] if name == "__init__" and isinstance(scope, ast.ClassDef) else [name]
    return [call for n in names for call in calls(source, n) if called(source, call) is function]


def check_defined_once(source: Source, function: Function) -> None:
    """Raise where ``function`` is defined again beside itself: one of them is dead code."""
    scope = scope_of(source, function)
    same_name = [n for n in named(source, function.name) if isinstance(n, FUNCTIONS) and n.name == function.name]
    rivals = [n for n in same_name if scope_of(source, n) is scope and not _is_stub(source, n)]
    if len(rivals) > 1:
        lines = ", ".join(str(n.lineno) for n in rivals)
        raise Ambiguous(f"{source.name}: {function.name} is defined {len(rivals)} times: lines {lines}")


def _is_stub(source: Source, function: Function) -> bool:
    """Whether it is a signature for type checkers only, or the other half of a property."""
    conditions = [ast.unparse(n.test) for n in source.ancestors(function) if isinstance(n, ast.If)]
    if any(text.endswith("TYPE_CHECKING") for text in conditions) and ast.unparse(function.body[-1]) in ("...", "pass"):
        return True
    return any(ast.unparse(d).endswith(("overload", ".setter", ".deleter")) for d in function.decorator_list)


def passed(source: Source, function: Function, name: str, call: ast.Call) -> Optional[ast.expr]:
    """What a ``call`` of ``function`` passes for its parameter ``name``; else the default."""
    positional = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    index = positional.index(name) - _is_bound(source, function, call) if name in positional else len(call.args)
    found = argument(call, name, index) if index >= 0 else None
    return default_of(function, name) if found is None else found


def parameters_of(function: Function) -> list[ast.arg]:
    """The parameters of ``function``, without ``*args`` and ``**kwargs``."""
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def default_of(function: Function, name: str) -> Optional[ast.expr]:
    """The default of a parameter."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(reversed(positional), reversed(arguments.defaults)),
        *zip(arguments.kwonlyargs, arguments.kw_defaults),
    ]
    return next((value for parameter, value in pairs if parameter.arg == name), None)


def _is_bound(source: Source, function: Function, call: ast.Call) -> bool:
    """Whether the first parameter of ``function`` is the object or class that ``call`` does not pass itself."""
    if not isinstance(scope_of(source, function), ast.ClassDef):
        return False
    decorators = {d.id for d in function.decorator_list if isinstance(d, ast.Name)}
    base = call.func.value if isinstance(call.func, ast.Attribute) else None
    through_class = isinstance(base, ast.Name) and class_named(source, base.id) is not None
    return "staticmethod" not in decorators and ("classmethod" in decorators or not through_class)


# Values


def bindings(source: Source, expression: ast.expr, at: ast.AST) -> list[Binding]:
    """Every place that gives a value to ``expression`` (a name, or an attribute of ``self``) as it is seen at ``at``."""
    if isinstance(expression, ast.Name):
        return _inside(source, expression.id, at) or _of_name(source, expression.id, scope_of(source, at))
    return _of_attribute(source, expression) if isinstance(expression, ast.Attribute) else []


def reaching(source: Source, expression: ast.expr, at: ast.AST) -> list[Binding]:
    """Those of the :func:`bindings` whose value ``expression`` may have at ``at``: the last certain one, and later ones."""
    found = bindings(source, expression, at)
    scope, inner = scope_of(source, at), source.statement(at)
    if any(
        isinstance(n, (ast.Lambda, ast.GeneratorExp)) and inner in source.ancestors(n) for n in source.ancestors(at)
    ):
        return found  # it may run at another time
    here = [b for b in found if b.kind != PARAMETER and scope_of(source, b.statement) is scope]
    before = [b for b in here if position(b.statement) < position(inner)]
    sure = [b.statement for b in before if certain(source, b.statement, at)]
    if not sure:
        return [b for b in found if b in before or b not in here] or found
    last = max(sure, key=position)
    again = [b for b in here if b not in before and loops_with(source, b.statement, at, last)]
    return [b for b in before if position(b.statement) >= position(last)] + again


def loops_with(source: Source, node: ast.AST, other: ast.AST, start: Optional[ast.stmt]) -> bool:
    """Whether a loop that begins after ``start`` is around both nodes, so that each comes before the other."""
    within = set(source.ancestors(start)) if start is not None else set()
    shared = set(source.ancestors(node)) & set(source.ancestors(other)) - within
    return any(isinstance(n, LOOPS) for n in shared)


def _inside(source: Source, name: str, at: ast.AST) -> list[Binding]:
    """The binding of ``name`` by a ``lambda`` or a comprehension around ``at``."""
    child = at
    for node in source.ancestors(at):
        if isinstance(node, ast.stmt):
            break
        if isinstance(node, ast.Lambda) and child is node.body and name in _arguments(node.args):
            return [Binding(source.statement(at), None, "Lambda")]
        for loop in getattr(node, "generators", ()):
            if any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(loop.target)):
                return [Binding(source.statement(at), None, "comprehension", loop.iter)]
        child = node
    return []


def _arguments(arguments: ast.arguments) -> set[str]:
    return {n.arg for n in ast.walk(arguments) if isinstance(n, ast.arg)}


def _of_name(source: Source, name: str, scope: Scope) -> list[Binding]:
    start = scope
    while not isinstance(scope, ast.Module):
        if scope is start or not isinstance(scope, ast.ClassDef):
            stores = _stores(source, name, source.top_level(scope))
            found = [b for b in stores if scope_of(source, b.statement) is scope]
            if isinstance(scope, FUNCTIONS) and name in _arguments(scope.args):
                return [Binding(scope, None, PARAMETER), *found]
            if found and not _is_outer(source, scope, name):
                return found
        scope = scope_of(source, scope)
    everywhere = _stores(source, name)
    return [b for b in everywhere if (s := scope_of(source, b.statement)) is scope or _is_outer(source, s, name)]


def _stores(source: Source, name: str, within: Optional[ast.stmt] = None) -> list[Binding]:
    return [b for b in (_store(source, node, name) for node in named(source, name, within)) if b is not None]


def _is_outer(source: Source, scope: Scope, name: str) -> bool:
    """Whether ``scope`` declares ``name`` to be one of a scope outside."""
    found = [n for n in named(source, name) if isinstance(n, (ast.Global, ast.Nonlocal))]
    return any(scope_of(source, n) is scope for n in found)


def _store(source: Source, node: ast.AST, name: str) -> Optional[Binding]:
    """The binding of ``name`` that ``node`` is, if it is one."""
    if isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load):
        return _binding(source, node)
    imported = isinstance(node, ast.alias) and (node.asname or node.name.partition(".")[0]) == name
    if imported or (isinstance(node, (*FUNCTIONS, ast.ClassDef)) and node.name == name):
        return Binding(source.statement(node), None, type(node).__name__)
    if isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name == name:
        return Binding(source.statement(node), None, type(node).__name__)
    return None


def _of_attribute(source: Source, attribute: ast.Attribute) -> list[Binding]:
    name, nodes = attribute.attr, named(source, attribute.attr)
    for cls in owners(source, attribute):
        found = [b for b in (_store(source, n, name) for n in nodes) if b and scope_of(source, b.statement) is cls]
        for node in nodes:
            stored = isinstance(node, ast.Attribute) and node.attr == name and not isinstance(node.ctx, ast.Load)
            if stored and isinstance(node, ast.Attribute) and owners(source, node)[:1] == [cls]:
                found.append(_binding(source, node))
        if found:
            return found
    return []


def _binding(source: Source, target: ast.AST) -> Binding:
    """The binding that stores to ``target``."""
    statement, parent = source.statement(target), source.ancestors(target)[0]
    if isinstance(parent, ast.NamedExpr):
        return Binding(statement, parent.value)
    if (isinstance(statement, ast.Assign) and target in statement.targets) or (
        isinstance(statement, ast.AnnAssign) and target is statement.target
    ):
        return Binding(statement, statement.value)
    among = statement.iter if isinstance(statement, (ast.For, ast.AsyncFor)) else None
    return Binding(statement, None, type(statement).__name__, among)


def paired(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """What gets what: ``a`` gets ``x`` in ``a, b = x, y``."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return list(zip(target.elts, value.elts))
    return [(target, value)]


def is_asked(source: Source, node: ast.AST) -> bool:
    """Whether only the truth of ``node`` matters."""
    parent = source.ancestors(node)[0]
    if isinstance(parent, ast.BoolOp):
        return is_asked(source, parent)
    is_not = isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.Not)
    return is_not or (isinstance(parent, (ast.If, ast.IfExp, ast.While, ast.Assert)) and parent.test is node)


def is_number(source: Source, value: ast.expr) -> bool:
    """Whether ``value`` is a plain number, written out or by the name of a constant: one that gets its value in one place."""
    if isinstance(value, ast.Constant):
        return True
    if isinstance(value, ast.UnaryOp):
        return is_number(source, value.operand)
    if isinstance(value, ast.BinOp):
        return is_number(source, value.left) and is_number(source, value.right)
    found = bindings(source, value, value)
    if len(found) != 1 or found[0].kind == PARAMETER or found[0].value is None or value in ast.walk(found[0].value):
        return False
    statement, cls = found[0].statement, scope_of(source, found[0].statement)
    if isinstance(value, ast.Attribute):
        stored = [n for n in named(source, value.attr) if isinstance(getattr(n, "ctx", None), ast.Store)]
        is_field = isinstance(cls, ast.ClassDef) and isinstance(statement, ast.AnnAssign)
        if len(stored) != 1 or (is_field and isinstance(cls, ast.ClassDef) and (cls.decorator_list or cls.bases)):
            return False  # a parameter of the class
    return is_number(source, found[0].value)


# Order


def certain(source: Source, statement: ast.stmt, at: ast.AST) -> bool:
    """Whether ``statement``, above ``at`` in the same scope, has run whenever ``at`` runs (exceptions left aside)."""
    same_scope = scope_of(source, statement) is scope_of(source, at)
    return same_scope and position(statement) < position(source.statement(at)) and together(source, statement, at)


def together(source: Source, statement: ast.stmt, other: ast.AST) -> bool:
    """Whether ``statement`` is under no condition that ``other``, in the same scope, is not under too."""
    around = list(_arms(source, other))
    for block, part in _arms(source, statement):
        always = isinstance(block, (ast.With, ast.AsyncWith)) or part == "finalbody"
        tried = part == "body" and hasattr(block, "handlers") and any(b is block for b, _ in around)
        if not (always or tried or (block, part) in around):
            return False
    return True


def unconditional(source: Source, statement: ast.stmt) -> bool:
    """Whether ``statement`` runs whenever the scope that it is in does."""
    return together(source, statement, scope_of(source, statement).body[0])


def _arms(source: Source, node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """The blocks around ``node`` in its own scope, each with the part that it is in (``body``, ``orelse``, …)."""
    scope, child = scope_of(source, node), node
    for parent in source.ancestors(node):
        if parent is scope:
            return
        if isinstance(child, BLOCKS):
            yield parent, next(part for part, block in parts(parent) if _spans(block, child))
        child = parent


def parts(node: ast.AST) -> Iterator[tuple[str, list[ast.AST]]]:
    """The blocks that a compound statement has, by name."""
    for name, value in ast.iter_fields(node):
        if isinstance(value, list) and value and isinstance(value[0], BLOCKS):
            yield name, value


def _spans(block: list[ast.AST], node: ast.AST) -> bool:
    if isinstance(node, ast.match_case):
        return node in block
    return position(block[0]) <= position(node) <= position(block[-1])


def mentions(source: Source, expression: ast.expr) -> list[ast.expr]:
    """The places that read like ``expression`` (a name or an attribute), whatever is done with it there.

    An attribute of ``self`` is the same under any name that the object, or its class, has there.
    """
    if isinstance(expression, ast.Attribute):
        found = [n for n in named(source, expression.attr) if isinstance(n, ast.Attribute)]
        own = set(owners(source, expression))
        return [n for n in found if (own & set(owners(source, n)) if own else same(n, expression))]
    word = getattr(expression, "id", "")
    return [n for n in named(source, word) if isinstance(n, ast.Name)]


def targets_of(statement: ast.stmt) -> list[ast.expr]:
    """What an assignment assigns to; nothing, for other statements."""
    if isinstance(statement, ast.Assign):
        return statement.targets
    return [statement.target] if isinstance(statement, ast.AnnAssign) else []
