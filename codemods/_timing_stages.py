"""Where the stages are that a manifest declares (:mod:`_timing` says how)."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

from apply_opt.errors import Ambiguous, Conflict, NoSite
from apply_opt.model.parameters import texts
from apply_opt.model.source import Function, Source, callee, first_line, last_line, own_nodes

from ._expression_patterns import Patterns, found, is_like, patterns, written
from ._lines import block_of, ends_line, is_alone, starts_line
from ._scopes import FUNCTIONS, LOOPS
from ._stage_calls import is_hook

SPANS = ("statement", "loop", "block", "opening", "rest", "arrival", "function")
WITHS = (ast.With, ast.AsyncWith)
NAME = re.compile(r"[0-9A-Za-z_]{1,60}")
PHASES = ("", "validation", "training")
JUMPS = (ast.Return, ast.Break, ast.Continue, ast.Yield, ast.YieldFrom, ast.Await)


class Rule(NamedTuple):
    """One stage as a manifest declares it."""

    name: str
    holds: Patterns = ()
    span: str = SPANS[0]
    under: Patterns = ()
    outside: Patterns = ()
    anywhere: bool = False
    optional: bool = False
    together: bool = False
    phase: str = ""
    launches: bool = False

    @property
    def variable(self) -> str:
        """What the stage is called in the code: ``_t03a`` for ``03a_read_one_camera``."""
        word = self.name if "TOTAL" in self.name else self.name.partition("_")[0]
        return "_t" + re.sub(r"\W", "_", word if word[:1].isdigit() else f"_{self.name}")


class Stage(NamedTuple):
    """A stage as found: statements of one block, from ``first`` to ``last``; for an ``arrival``, maybe what a loop is over."""

    rule: Rule
    function: Function
    first: ast.stmt
    last: ast.stmt
    items: Optional[ast.expr] = None

    @property
    def lines(self) -> tuple[int, int]:
        """The first and the last line."""
        if self.rule.span == "function":
            return self.function.lineno, last_line(self.function)
        is_head = self.rule.span == "opening" or self.items is not None
        return first_line(self.first), first_line(self.first) if is_head else last_line(self.last)

    @property
    def size(self) -> int:
        """How many lines it has, less one."""
        return self.lines[1] - self.lines[0]

    def is_within(self, other: Stage) -> bool:
        """Whether it is a part of ``other``."""
        is_around = other.lines[0] <= self.lines[0] and self.lines[1] <= other.lines[1]
        return self.function is other.function and is_around and self.size < other.size


def parse_rule(table: Mapping[str, Any]) -> Rule:
    """A :class:`Rule` from a table of a manifest. Raises :class:`ValueError` where it lacks something, or has what there is not."""
    name = str(table.get("name", ""))
    if set(table) - set(Rule._fields) or not NAME.fullmatch(name):
        raise ValueError(
            f"a stage has a name of letters, digits and _, and of {', '.join(Rule._fields[1:])}: {dict(table)}"
        )
    try:
        found = {key: patterns(texts(table, key, ())) for key in ("holds", "under", "outside")}
    except SyntaxError as error:
        raise ValueError(f"{name}: {error.text!r} is no expression") from error
    rule = Rule(**{**table, **found})
    is_complete = (rule.holds or rule.span == "function") and (rule.under or rule.span != "block")
    if rule.span not in SPANS or rule.phase not in PHASES or not is_complete:
        raise ValueError(
            f"{name}: a span ({', '.join(SPANS)}), what it holds, for a block what it is under, and a phase{PHASES}"
        )
    return rule


def function_with(source: Source, name: str, holding: Patterns) -> Function:
    """The only function that is called ``name``, where that is given, and holds one of the expressions, where any are."""
    every = [n for n in ast.walk(source.tree) if isinstance(n, FUNCTIONS) and name in ("", n.name)]
    some = [f for f in every if not holding or found(own_nodes(f), holding)]
    what = f"called {name} " * bool(name) + f"with {written(holding)}" * bool(holding)
    if not some:
        raise NoSite(f"{source.name}: there is no function {what}")
    if len(some) > 1:
        lines = ", ".join(f"{f.name} (line {f.lineno})" for f in some)
        raise Ambiguous(f"{source.name}: several functions are {what}: {lines}")
    for decorator in map(ast.unparse, some[0].decorator_list):
        if re.search(r"compile|jit|cache|contextmanager", decorator):
            raise Conflict(f"{source.name}:{some[0].lineno}: {some[0].name} is not run as it is written: @{decorator}")
    return some[0]


def find_stage(source: Source, rule: Rule, function: Function) -> Optional[Stage]:
    """Where a stage is in ``function``; ``None`` where it is not there. Raises :class:`Ambiguous` for what cannot be timed."""
    if rule.span == "function":
        body = [s for s in function.body if not is_hook(s) and not _is_docstring(s)]
        _check_function(source, rule, function, body)
        return Stage(rule, function, body[0], body[-1])
    places = [node for node in found(own_nodes(function), rule.holds) if _is_meant(source, rule, node)]
    places = [node for node in places if rule.together or not _is_repeated(source, node)]
    if not places:
        return None
    stage = FINDERS[rule.span](source, rule, function, sorted(places, key=lambda n: (n.lineno, n.col_offset)))
    if stage is not None:
        _check(source, stage)
    return stage


def _is_repeated(source: Source, node: ast.expr) -> bool:
    """Whether it is evaluated any number of times, or later, in one statement: in a comprehension."""
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    around = source.ancestors(node)
    return any(isinstance(n, kinds) for n in around[: around.index(source.statement(node))])


def _check_function(source: Source, rule: Rule, function: Function, body: Sequence[ast.stmt]) -> None:
    """Raise where its start or one of its ends shares a line, or it is left and entered again."""
    inner = list(own_nodes(function))
    if isinstance(function, ast.AsyncFunctionDef) or any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in inner):
        raise Ambiguous(f"{source.name}:{function.lineno}: {function.name} is left and entered again while it runs")
    ends = [n for n in inner if isinstance(n, ast.Return)]
    for statement in (*body[:1], *body[-1:], *ends):
        if not starts_line(source, statement) or not ends_line(source, statement):
            raise Ambiguous(f"{source.name}:{statement.lineno}: {rule.name} begins or ends beside something else")
    finals = [n for n in inner if isinstance(n, ast.Try) for s in n.finalbody for n in ast.walk(s)]
    if not body or any(isinstance(n, ast.Return) for n in finals):
        raise Ambiguous(f"{source.name}:{function.lineno}: where {function.name} ends cannot be told")


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_meant(source: Source, rule: Rule, node: ast.expr) -> bool:
    """Whether it is in a ``with`` that it has to be in, and in none that it must not be in."""
    items = [item.context_expr for n in source.ancestors(node) if isinstance(n, WITHS) for item in n.items]
    is_under = not rule.under or any(is_like(item, rule.under) for item in items)
    return is_under and not any(is_like(item, rule.outside) for item in items)


def _around(source: Source, function: Function, node: ast.AST) -> list[ast.AST]:
    """What is around ``node`` in ``function``, from within."""
    every = source.ancestors(node)
    return every[: every.index(function)]


def _common(source: Source, rule: Rule, function: Function, places: Sequence[ast.expr]) -> ast.stmt:
    """The statement with the expression; of several, the innermost choice that has them all, or whatever does if ``together``."""
    chains = [[n, *_around(source, function, n)] for n in (source.statement(place) for place in places)]
    shared = [n for n in chains[0] if isinstance(n, ast.stmt) and all(n in chain for chain in chains)]
    is_one = shared and (shared[0] is chains[0][0] or isinstance(shared[0], ast.If) or rule.together)
    if not is_one:
        lines = ", ".join(str(place.lineno) for place in places)
        raise Ambiguous(f"{source.name}: {rule.name} has several places: lines {lines}")
    return shared[0]


def _statement(source: Source, rule: Rule, function: Function, places: Sequence[ast.expr]) -> Stage:
    statement = _common(source, rule, function, places)
    return Stage(rule, function, statement, statement)


def _loop(source: Source, rule: Rule, function: Function, places: Sequence[ast.expr]) -> Optional[Stage]:
    """The loop that gives what the expression works on."""
    arrival = _arrival(source, rule, function, places)
    return arrival._replace(items=None) if arrival is not None and arrival.items is not None else None


def _block(source: Source, rule: Rule, function: Function, places: Sequence[ast.expr]) -> Optional[Stage]:
    around = _around(source, function, _common(source, rule, function, places))
    block = next(
        n for n in around if isinstance(n, WITHS) and any(is_like(i.context_expr, rule.under) for i in n.items)
    )
    return Stage(rule, function, block, block)


def _opening(source: Source, rule: Rule, function: Function, places: Sequence[ast.expr]) -> Optional[Stage]:
    statement = _common(source, rule, function, places)
    if isinstance(statement, ast.With) and any(i.context_expr in places for i in statement.items):
        return Stage(rule, function, statement, statement)
    return None


def _rest(source: Source, rule: Rule, function: Function, places: Sequence[ast.expr]) -> Stage:
    first = source.statement(places[0])
    block = [s for s in block_of(source, first) if not is_hook(s) and not isinstance(s, ast.Return)]
    if first not in block:
        raise Ambiguous(f"{source.name}:{first.lineno}: {rule.name} is in what is returned")
    others = [place for place in places if last_line(source.statement(place)) > _end(source, block[-1])]
    if others:
        raise Ambiguous(f"{source.name}:{others[0].lineno}: {rule.name} goes on behind the end of its block")
    return Stage(rule, function, first, block[-1])


def _end(source: Source, last: ast.stmt) -> int:
    """The last line of a block that ends with ``last``, and with what is returned behind it."""
    block = block_of(source, last)
    return max(last_line(s) for s in (last, *block) if s is last or isinstance(s, ast.Return))


def _arrival(source: Source, rule: Rule, function: Function, places: Sequence[ast.expr]) -> Optional[Stage]:
    """The ``next()`` that gives what the expression works on, first of all its first argument; or the loop that does."""
    statement = _common(source, rule, function, places)
    worked_on = [p.args[0] if isinstance(p, ast.Call) and p.args else p for p in places]
    names = {n.id for thing in worked_on for n in ast.walk(thing) if isinstance(n, ast.Name)}
    drawn = [s for s in block_of(source, statement) if isinstance(s, ast.Assign) and isinstance(s.value, ast.Call)]
    for other in (s for s in drawn if callee(s.value) == "next"):  # type: ignore[arg-type]
        if names & {n.id for t in other.targets for n in ast.walk(t) if isinstance(n, ast.Name)}:
            return Stage(rule, function, other, other)
    for loop in (n for n in (statement, *_around(source, function, statement)) if isinstance(n, ast.For)):
        is_counted = any(isinstance(n, ast.Call) and callee(n) == "range" for n in ast.walk(loop.iter))
        if not is_counted and names & {n.id for n in ast.walk(loop.target) if isinstance(n, ast.Name)}:
            return Stage(rule, function, loop, loop, _unnumbered(loop.iter))
    return None


def _unnumbered(items: ast.expr) -> ast.expr:
    """``batches`` of ``enumerate(batches)``."""
    is_numbered = isinstance(items, ast.Call) and isinstance(items.func, ast.Name) and items.func.id == "enumerate"
    return items.args[0] if is_numbered and items.args else items  # type: ignore[attr-defined]


FINDERS = {
    "statement": _statement,
    "loop": _loop,
    "block": _block,
    "opening": _opening,
    "rest": _rest,
    "arrival": _arrival,
}


def _check(source: Source, stage: Stage) -> None:
    """Raise where a stage shares its lines, or may be left other than by its end."""
    name, where = stage.rule.name, f"{source.name}:{first_line(stage.first)}"
    if not is_alone(source, stage.first) or not is_alone(source, stage.last):
        raise Ambiguous(f"{where}: {name} shares its line with something else")
    if stage.rule.span == "opening" or stage.items is not None:
        return
    block = block_of(source, stage.first)
    span = block[block.index(stage.first) : block.index(stage.last) + 1]
    for statement in span:
        for node in [] if isinstance(statement, ast.Return) else ast.walk(statement):
            if isinstance(node, JUMPS) and not _stays(source, node, statement):
                raise Ambiguous(f"{source.name}:{getattr(node, 'lineno', 0)}: {name} may be left here, before its end")


def _stays(source: Source, jump: ast.AST, statement: ast.stmt) -> bool:
    """Whether a jump ends within ``statement``: at a loop, or in a function of its own."""
    around = source.ancestors(jump)
    inside = [*around[: around.index(statement)], statement] if statement in around else []
    if not isinstance(jump, (ast.Break, ast.Continue)):
        return any(isinstance(n, (*FUNCTIONS, ast.Lambda)) for n in inside)
    return any(isinstance(n, LOOPS) and below not in n.orelse for below, n in zip([jump, *inside], inside))
