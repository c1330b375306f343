"""Times of stages of the work, by a manifest alone: in which function, which statements, which names.

An optimization that says ``codemod = "timing"`` has no codemod of its own: this one reads the table ``[timing]`` of its manifest.

``function`` (a name) and ``holding`` (expressions, one of which it holds) say in which function the stages are.
``clock`` is what the file has from the module with the clock, such as a function; without it the clock is written here.
``laps`` is a stage: the loop around that over its data, or around that of its steps, is the one over epochs. Of a loop of steps alone,
``steps`` are taken together.

Each ``[[timing.stages]]`` has a ``name``, the expressions that it ``holds`` (``_`` stands for any expression, ``...`` for any
arguments), and a ``span``:

=============  ===================================================================================
``statement``  (usual) the statement with the expression; of several, the choice that has all
``loop``       the loop that gives what the expression works on
``arrival``    the wait for what the expression works on: out of that loop, or by ``next()``
``block``      the ``with`` that it is ``under``
``opening``    a ``with``, to its first statement
``rest``       from the first such statement to the end of its block
``function``   the whole function
=============  ===================================================================================

``under`` and ``outside``: only in a ``with`` of one of these, in none of those. ``anywhere``: in whatever
function, and of its expressions the first that is there.
``optional``: need not be there. ``together``: several places are one, in whatever is around all of them.
``phase``: of which phase of an epoch it is. ``launches``: gives a GPU its work.

``[[timing.bottlenecks]]`` and ``[timing.waiting]`` are for ``apply-opt timing show``: stages that may hold the program up, and what
to do then; the stage in which data is waited for.
"""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source, bodies, first_line, last_line

from ._expression_patterns import Patterns, patterns, written
from ._helpers import refuse_taken, reindent
from ._lines import above, below, block_of, text_of
from ._scopes import FUNCTIONS
from ._stage_calls import VARIABLE, is_hook
from ._timing_stages import Rule, Stage, find_stage, function_with, parse_rule

CLOCK, STAGES = "clock", "stages"
HERE, THERE = "_timing", "_clock"
"""What the clock is called in its own file, and in another one."""
MOST = 24
"""Stages of a manifest: the clock has room for 32, of all files."""
SIMPLE = (ast.Name, ast.Constant, ast.Attribute, ast.Tuple, ast.expr_context)
KEYS = {"function", "holding", "clock", "laps", "steps", "stages", "bottlenecks", "waiting"}
ELSEWHERE = """class _NotTimed:
    \"\"\"In the place of a clock, where there is none any more: nothing is timed.\"\"\"

    def stage(self, name, **others):
        return self

    def start(self):
        pass

    def stop(self, value=None):
        return value

    def over(self, items, steps=1):
        return items

    laps = over


def _found_clock(near):
    \"\"\"The clock of the module that `near` is of, or else of another one that is imported above.\"\"\"
    import sys

    for module in [sys.modules.get(getattr(near, "__module__", None)), *list(sys.modules.values())]:
        clock = getattr(module, "__dict__", {}).get("_timing")
        if type(clock).__name__ == "_Timing":
            return clock
    return _NotTimed()


_clock = _found_clock(NEAR)
"""
"""What the clock is in a file that gets it from another one."""
BY_HAND = "take what is there out by hand (git diff, git checkout), then apply again"


class Hook(NamedTuple):
    """A call of ours: a line ``above`` or ``below`` a statement or as the ``first`` in it, or ``around`` an expression."""

    place: str
    node: ast.AST
    call: str
    size: int
    rest: str = ""

    @property
    def is_end(self) -> bool:
        """Whether something ends with it: it stands ahead of what begins at the same place."""
        return self.call.endswith(".stop")


def from_manifest(table: Mapping[str, Any]) -> StageTiming:
    """The codemod that a manifest's ``[timing]`` stands for. Raises :class:`ValueError` where that is not complete."""
    rules = [parse_rule(stage) for stage in table.get("stages", ())]
    names, variables = {rule.name for rule in rules}, {rule.variable for rule in rules}
    clock, laps, steps = (table.get(key, usual) for key, usual in (("clock", ""), ("laps", ""), ("steps", 500)))
    is_known = not set(table) - KEYS and {"function", "holding"} & set(table) and laps in ("", *names)
    if not is_known or not 0 < len(rules) <= MOST or len(variables) < len(rules) or int(steps) < 1:
        raise ValueError(
            f"timing has {', '.join(sorted(KEYS))}; function or holding; stages with names of their own, {MOST} at most; "
            "laps is one of them"
        )
    holding = patterns(table.get("holding", ()))
    return StageTiming(rules, table.get("function", ""), holding, clock, laps, steps)


class StageTiming(NamedTuple):
    """The codemod."""

    rules: Sequence[Rule]
    function: str
    holding: Patterns
    clock: str
    laps: str
    steps: int

    def find(self, source: Source, parameters: Mapping[str, Value]) -> list[Site]:
        """The sites ``clock`` and ``stages``: what they are called with, and the calls."""
        stages = self._stages(source)
        hooks, line = self._hooks(source, stages), stages[0].function.lineno
        missing = [hook for hook in hooks if not _is_there(source, hook)]
        if missing and not self.clock:
            _check_encoding(source)
        if 0 < len(missing) < len(hooks):
            where = getattr(missing[0].node, "lineno", line)
            raise PartlyApplied(f"{source.name}:{where} is partly applied: no {missing[0].call} is there", BY_HAND)
        has_clock = _is_defined(source, self._text(source, stages))
        return [Site(CLOCK, line, OURS if has_clock else TODO), Site(STAGES, line, TODO if missing else OURS)]

    def edit(self, source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
        """The calls, and at the end of the file what they call."""
        stages = self._stages(source)
        hooks = sorted(self._hooks(source, stages), key=lambda h: (not h.is_end, h.size if h.is_end else -h.size))
        return [*(_edit(source, hook) for hook in hooks), _at_the_end(source, stages, self._text(source, stages))]

    def _stages(self, source: Source) -> list[Stage]:
        """The stages that are there. Raises where one that has to be is not."""
        function = function_with(source, self.function, self.holding)
        others = [n for n in ast.walk(source.tree) if isinstance(n, FUNCTIONS) and n is not function]
        stages = []
        for rule in self.rules:
            found = _found(source, rule, [function, *others] if rule.anywhere else [function])
            if not found and not rule.optional:
                raise NoSite(f"{source.name}: {function.name} has no place for {rule.name}: {written(rule.holds)}")
            if len(found) > 1:
                raise Ambiguous(
                    f"{source.name}: {rule.name} is in several functions: {[s.function.name for s in found]}"
                )
            stages += found
        _check_together(source, stages)
        return stages

    def _hooks(self, source: Source, stages: Sequence[Stage]) -> list[Hook]:
        """The calls; of a stage that another one has as its only statement, outside of that."""
        found = [hook for stage in stages for hook in _hooks(source, stage)]
        return [*found, self._laps(source, stages)] if self.laps else found

    def _laps(self, source: Source, stages: Sequence[Stage]) -> Hook:
        """What is around the items of the loop over epochs."""
        stage = next(s for s in stages if s.rule.name == self.laps)
        loops = [
            n for n in source.ancestors(stage.first) if isinstance(n, ast.For) and stage.function in source.ancestors(n)
        ]
        feeding = [loops.index(s.first) for s in stages if s.items is not None and s.first in loops]
        outer = loops[feeding[0] + 1 :] if feeding else loops[1:] or loops
        if not outer:
            raise NoSite(
                f"{source.name}:{first_line(stage.first)}: {self.laps} is in no loop but that over its data: what is an epoch?"
            )
        rest = "" if feeding or len(loops) > 1 else f", steps={self.steps}"
        return Hook("around", outer[0].iter, f"{self._name}.laps", last_line(outer[0]) - first_line(outer[0]), rest)

    @property
    def _name(self) -> str:
        return THERE if self.clock else HERE

    def _text(self, source: Source, stages: Sequence[Stage]) -> str:
        """The clock, or where it is; and the stages."""
        text = clock_text() + "\n"
        if self.clock:
            if self.clock not in _top_level_names(source):
                raise NoSite(f"{source.name}: {self.clock} is not imported for the whole file, so where is the clock?")
            text = ELSEWHERE.replace("NEAR", self.clock).rstrip("\n")
        return "\n".join([text, *(self._definition(stage, stages) for stage in stages)])

    def _definition(self, stage: Stage, stages: Sequence[Stage]) -> str:
        around = sorted((s for s in stages if stage.is_within(s)), key=lambda s: s.size)
        is_of_phase = stage.rule.phase and stage.rule.phase not in (s.rule.phase for s in around)
        words = [f'"{stage.rule.name}"', *(f'within="{s.rule.name}"' for s in around[:1])]
        words += [f'phase="{stage.rule.phase}"'] * bool(is_of_phase) + ["launches=True"] * stage.rule.launches
        return f"{stage.rule.variable} = {self._name}.stage({', '.join(words)})"


@functools.cache
def clock_text() -> str:
    """The clock as it is written: its file without what that says of itself."""
    with open(os.path.join(os.path.dirname(__file__), "_timing_clock.py"), encoding="utf-8") as file:
        return file.read().split('"""\n', 1)[1].strip("\n")


def _check_together(source: Source, stages: Sequence[Stage]) -> None:
    """Raise where two stages are one, or one ends where its function does."""
    spans = [(s.function, *s.lines, s.items is None) for s in stages]
    timed = [s.function for s in stages if s.rule.span == "function"]
    for stage, span in zip(stages, spans):
        where = f"{source.name}:{span[1]}: {stage.rule.name}"
        if spans.count(span) > 1:
            raise Ambiguous(f"{where} is in one statement with another stage")
        if isinstance(stage.last, ast.Return) and stage.rule.span != "function" and stage.function in timed:
            raise Ambiguous(f"{where} is in what is returned")


def _check_encoding(source: Source) -> None:
    """Raise where the clock, which has Chinese in it, cannot be written in the file's encoding."""
    try:
        clock_text().encode(source.encoding)
    except UnicodeError as error:
        message = f"{source.name} is in {source.encoding}, which has no Chinese, and the clock has"
        raise Conflict(message, "save the file as UTF-8") from error


def _hooks(source: Source, stage: Stage) -> list[Hook]:
    """The calls of one stage."""
    name, size = stage.rule.variable, stage.size
    if stage.items is not None:
        return [Hook("around", stage.items, f"{name}.over", size)]
    hooks = [Hook("above", stage.first, f"{name}.start", size)]
    ends: list[ast.stmt] = [stage.last]
    if stage.rule.span == "opening":
        return [*hooks, Hook("first", stage.first, f"{name}.stop", size)]
    if stage.rule.span == "function":
        inner = [
            n for n in ast.walk(stage.function) if isinstance(n, ast.Return) and source.function(n) is stage.function
        ]
        ends = [*inner, *(ends if not isinstance(stage.last, (ast.Return, ast.Raise)) else ())]
    for end in ends:
        value = end.value if isinstance(end, ast.Return) else None
        if value is not None and not all(isinstance(n, SIMPLE) for n in ast.walk(value)):
            hooks.append(Hook("around", value, f"{name}.stop", size))
        else:
            hooks.append(Hook("above" if isinstance(end, ast.Return) else "below", end, f"{name}.stop", size))
    return hooks


def _is_there(source: Source, hook: Hook) -> bool:
    """Whether the call is where it has to be, with no other statements than calls like it in between."""
    if hook.place == "around":
        return isinstance(hook.node, ast.Call) and ast.unparse(hook.node.func) == hook.call
    assert isinstance(hook.node, ast.stmt)
    if hook.place == "first":
        near = next(bodies(hook.node))
    else:
        block = block_of(source, hook.node)
        index = block.index(hook.node)
        near = block[index + 1 :] if hook.place == "below" else block[:index][::-1]
    calls = []
    for statement in near:
        if not is_hook(statement):
            break
        calls.append(ast.unparse(statement))
    return f"{hook.call}()" in calls


def _edit(source: Source, hook: Hook) -> Edit:
    if isinstance(hook.node, ast.stmt):
        if hook.place == "first":
            return above(source, next(bodies(hook.node))[0], f"{hook.call}()")
        return (above if hook.place == "above" else below)(source, hook.node, f"{hook.call}()")
    node = hook.node
    assert isinstance(node, ast.expr)
    first, last = node.lineno, node.end_lineno or node.lineno
    text = text_of(source, node)
    alone = ast.parse(f"f({text})", mode="eval").body
    inner = text if isinstance(alone, ast.Call) and len(alone.args) == 1 else f"({text})"
    head = source.lines[first - 1].encode()[: node.col_offset].decode()
    tail = source.lines[last - 1].encode()[node.end_col_offset or 0 :].decode()
    space = " " if head.endswith(("return", "in")) else ""
    return Edit(first, last, f"{head}{space}{hook.call}({inner}{hook.rest}){tail}")


def _top_level_names(source: Source) -> set[str]:
    """What the top-level statements import or define."""
    return {name for statement in source.tree.body for name in _names(statement)}


def _names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    name = getattr(statement, "name", None)
    return [name] if name else []


def _found(source: Source, rule: Rule, functions: Sequence[Function]) -> list[Stage]:
    """A rule's stages. Anywhere, those of its first expression that is there: what decodes may itself call another decoder."""
    for one in [rule._replace(holds=(pattern,)) for pattern in rule.holds] if rule.anywhere else [rule]:
        found = [stage for stage in (find_stage(source, one, function) for function in functions) if stage is not None]
        if found:
            return found
    return []


def _is_defined(source: Source, text: str) -> bool:
    """Whether all that ``text`` defines is there as it does. Raises where some of it is, or something else has a name of it."""
    every = ast.parse(text).body
    wanted = [s for s in every if not isinstance(s, (ast.Import, ast.ImportFrom))]
    names = {name for statement in wanted for name in _names(statement)}
    ours = {_said(s) for s in source.tree.body if names & set(_names(s))}
    there = [s for s in wanted if _said(s) in ours]
    if not there:
        refuse_taken(source, *sorted(name for statement in every for name in _names(statement)))
    if 0 < len(there) < len(wanted) or len(ours) > len(there):
        missing = next((_names(s)[0] for s in wanted if s not in there), "one of its names")
        raise PartlyApplied(f"{source.name} is partly applied: {missing} is not there, or is another", BY_HAND)
    return bool(there)


def _said(statement: ast.stmt) -> str:
    """What a statement says, however the lines of its docstrings are indented."""
    return " ".join(ast.unparse(statement).split())


def _at_the_end(source: Source, stages: Sequence[Stage], text: str) -> Edit:
    """``text`` at the end of the file, ahead of what runs when it is imported."""
    last = min(last_line(source.top_level(stage.function)) for stage in stages)
    running = next((s for s in source.tree.body if first_line(s) > last and _runs(s)), None)
    newline = source.newline(1)
    text = reindent(text, source.indent_unit()).replace("\n", newline)
    if running is None:
        end, final = len(source.lines), source.lines[-1]
        if not final.endswith(("\n", "\r")):
            return Edit(end, end, f"{final}{newline * 3}{text}")
        return Edit(end + 1, end, f"{newline * 2}{text}{newline}")
    line = first_line(running)
    while source.lines[line - 2].startswith("#"):
        line -= 1
    return Edit(line, line - 1, f"{text}{newline * 3}")


def _runs(statement: ast.stmt) -> bool:
    """Whether it may call something of the file's when that is imported. Our own lines do not."""
    if isinstance(statement, ast.ClassDef):
        return any(map(_runs, statement.body))
    names = _names(statement)
    if isinstance(statement, (*FUNCTIONS, ast.Import, ast.ImportFrom)) or set(names) & {HERE, THERE}:
        return False
    if any(map(VARIABLE.fullmatch, names)):
        return False
    return any(isinstance(node, (ast.Call, ast.If)) for node in ast.walk(statement))
