"""What ``verify``, ``bench`` and ``compile-check`` share: the arms, the workload, and that each arm ran its own code."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import difflib
import json
import os
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from apply_opt import __version__
from apply_opt.commands import Result
from apply_opt.commands.outcomes import outcome_lines
from apply_opt.commands.planning import (
    Plan,
    Texts,
    locate,
    parse_pairs,
    plan_for,
    refuse_unless_landed,
    steps_out,
    taken_out,
)
from apply_opt.errors import ApplyOptError, Refused, UsageError
from apply_opt.io import arms, catalog, checkout, extras, files, git, installed, interrupt, machine, prepared, records
from apply_opt.io.checkout import MAX_SOURCE, SKIPPED, Checkout
from apply_opt.io.parts import Parts
from apply_opt.io.workers import Arm, Limits, Setting, WorkerFailed
from apply_opt.model import changed, patch
from apply_opt.model.changed import Share, Statement
from apply_opt.model.digest import sha256
from apply_opt.model.plan import ALREADY, LEFT_OUT, PLANNED, REFUSED
from apply_opt.model.target import MAIN
from apply_opt.model.unit import Optimization

Steps = Sequence[tuple[str, str, Texts]]
"""Of each optimization its name, a file that it changes, and what it makes of what there."""
SIDES = ("before", "after")
TOLD = ("file", "here", "parts")
"""The options that every workload is told."""


class Void(ApplyOptError):
    """An arm did not run the code that it should have: whatever it gave says nothing."""

    exit_code = 4
    kind = "void"


class Body(NamedTuple):
    """The statements of a function that has to run, and the optimization that says so."""

    optimization: str
    function: str
    statements: Sequence[Statement]


class Subject(NamedTuple):
    """What is compared: the plan, the optimizations that differ, the arms, the files' contents in each, the workload.

    ``shares`` are the statements of each optimization, of which some have to run; ``bodies`` those of the functions that an
    optimization names, each of which has to run. Both are by file.
    """

    plan: Plan
    names: Sequence[str]
    before: Arm
    after: Arm
    texts: Mapping[str, tuple[bytes, bytes]]
    setting: Setting
    workload: Workload
    shares: Mapping[str, Sequence[Share]]
    bodies: Mapping[str, Sequence[Body]]


class Workload(NamedTuple):
    """What a target's workload says of itself; see :mod:`apply_opt.worker.jobs`. Of ``compared``, ``cases`` are also timed."""

    cases: Sequence[str]
    compared: Sequence[str]
    wrong: Sequence[str]
    amounts: Mapping[str, tuple[float, str]]
    requests: Mapping[str, int]
    has_referee: bool


class Ready(NamedTuple):
    """A program with nothing changed, its workload, which is prepared, and how it is run."""

    arm: Arm
    setting: Setting
    workload: Workload


@contextlib.contextmanager
def subject(arguments: argparse.Namespace) -> Iterator[Subject]:
    """The two arms of what the arguments name: planned and not yet applied, or applied and to be held against what was."""
    plan = plan_for(arguments, *locate(arguments), as_it_is=True)
    refuse_unless_landed(plan, arguments.names)
    with subject_of(plan, arguments) as found:
        yield found


@contextlib.contextmanager
def subject_of(plan: Plan, arguments: argparse.Namespace, ready: Ready | None = None) -> Iterator[Subject]:
    """The two arms of a plan. Raises :class:`Refused` where they are the same. ``ready`` is :func:`subject_between`'s."""
    texts, steps = sides(plan)
    if not texts:
        reasons = "; ".join(f"{o.name}: {o.message}" for o in plan.outcomes)
        raise Refused(f"there is nothing to compare: {reasons}", "apply-opt status")
    names = list(dict.fromkeys(name for name, _, _ in steps))
    with subject_between(plan, names, texts, arguments, steps, ready) as found:
        yield found


@contextlib.contextmanager
def subject_between(
    plan: Plan,
    names: Sequence[str],
    texts: Mapping[str, Texts],
    arguments: argparse.Namespace,
    steps: Steps | None = None,
    ready: Ready | None = None,
) -> Iterator[Subject]:
    """Two arms in which these files of the plan differ; without ``steps``, each is all of one optimization's doing.

    Where the program as it is, is ``ready``, it is the one side, and its workload is run with its options alone.
    """
    extras.need("platformdirs", "psutil", "rich", "scipy")
    before, after = ({path: pair[side] for path, pair in texts.items()} for side in (0, 1))
    usual = {key: value for outcome in plan.outcomes for key, value in outcome.optimization.workload.items()}
    parts = {outcome.optimization.part: outcome.file for outcome in plan.outcomes if outcome.file in texts}
    setting = ready.setting if ready else _setting(arguments, plan.checkout, before, usual, parts)
    shares = _shares(texts, steps or [(" and ".join(names), *item) for item in texts.items()])
    _check_telling(shares)
    records.ready(plan.checkout.root)
    changed = (after,) if ready else (before, after)
    with interrupt.stoppable(), arms.copies(plan.checkout.root, *changed) as copies:
        one = ready.arm._replace(files=sorted(before)) if ready else copies[0]
        workload = ready.workload if ready else _workload(setting, one)
        yield Subject(plan, names, one, copies[-1], texts, setting, workload, shares, _bodies(plan, names, texts))


def named_checkout(arguments: argparse.Namespace) -> Checkout:
    """The checkout, of the target that is named, or of any."""
    targets = catalog.load().targets
    name = arguments.target
    if name is not None and name not in targets:
        close = difflib.get_close_matches(name, targets, 1)
        step = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(targets))}"
        raise UsageError(f"there is no target called {name}", step)
    wanted = [name] if name else sorted(targets)
    return checkout.find(arguments.repo, [targets[each] for each in wanted], arguments.file)


@contextlib.contextmanager
def alone(place: Checkout, arguments: argparse.Namespace) -> Iterator[Ready]:
    """One arm of a checkout, with nothing changed, and its workload."""
    extras.need("platformdirs", "psutil", "rich", "scipy")
    parts = Parts(place)
    own = {place.file: files.read(place.path()) or b""}
    for name in place.target.parts:
        with contextlib.suppress(Refused):  # not every checkout has it
            path = parts.file(name)
            own[path] = files.read(checkout.inside(place.root, path)) or b""
    setting = _setting(arguments, place, own, {}, {MAIN: place.file})
    with interrupt.stoppable(), arms.copies(place.root, own) as (arm,):
        yield Ready(arm, setting, _workload(setting, arm))


def _workload(setting: Setting, arm: Arm) -> Workload:
    said = prepared.prepare(setting, arm)
    amounts = {case: (float(number), str(unit)) for case, (number, unit) in said["amounts"].items()}
    return Workload(said["cases"], said["compared"], said["wrong"], amounts, said["requests"], said["has_referee"])


def _shares(texts: Mapping[str, Texts], steps: Steps) -> dict[str, list[Share]]:
    """What each optimization changes in each file, as it stands in the arms."""
    shares: dict[str, list[Share]] = {path: [] for path in texts}
    for name, path, pair in steps:
        shares[path].append(changed.share(name, *pair, *texts[path]))
    return shares


def _bodies(plan: Plan, names: Sequence[str], texts: Mapping[str, Texts]) -> dict[str, list[Body]]:
    """The functions that have to run, in the files with the optimizations."""
    bodies: dict[str, list[Body]] = {path: [] for path in texts}
    for outcome in plan.outcomes:
        if outcome.name in names and outcome.file in texts:
            found = changed.bodies(texts[outcome.file][1], outcome.optimization.runs)
            bodies[outcome.file] += [Body(outcome.name, name, statements) for name, statements in found.items()]
    return bodies


def _check_telling(shares: Mapping[str, Sequence[Share]]) -> None:
    for share in (share for found in shares.values() for share in found):
        if not share.telling()[1]:
            message = f"{share.name} changes no line that can run (comments, blank lines, declarations)"
            raise Void(f"{message}: whether it was exercised cannot be told", f"apply-opt diff {share.name}")


def header(found: Subject, kind: str) -> dict[str, Any]:
    """What every record begins with: what was run, and on what."""
    return {
        "format": records.FORMAT,
        "kind": kind,
        **conditions(found.plan.checkout, found.setting),
        "optimizations": {o.name: dict(o.parameters) for o in found.plan.outcomes if o.name in found.names},
        "sha256": {path: [sha256(text) for text in texts] for path, texts in found.texts.items()},
        "patch": "".join(_patch(path, *texts) for path, texts in found.texts.items()),
        "cases": list(found.workload.compared if kind == "verify" else found.workload.cases),
    }


def conditions(place: Checkout, setting: Setting) -> dict[str, Any]:
    """By what, when, on what and how something was run."""
    return {
        "apply_opt": __version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "target": place.target.name,
        "head": git.head(place.root),
        "options": own_options(setting),
        "threads": setting.threads,
        "cpus": len(setting.cpus),
        "machine": machine.summary(),
        "environment": machine.environment(),
    }


def own_options(setting: Setting) -> dict[str, str]:
    """The workload's options, without those that every workload is told."""
    return {key: value for key, value in setting.options.items() if key not in TOLD}


def _patch(path: str, before: bytes, after: bytes) -> str:
    return patch.make(before, after, path).decode("utf-8", "replace")


def sides(plan: Plan) -> tuple[Mapping[str, Texts], Steps]:
    """The files that differ, without and with what is planned, or else with what is applied; and what each step makes."""
    planned = [(o.name, o.file, (o.before, o.after)) for o in plan.of_kind(PLANNED)]
    if planned:
        return plan.changed(), planned
    applied = [o.name for o in plan.of_kind(ALREADY) if plan.ledger.entry(o.name)]
    return taken_out(plan, applied), steps_out(plan, applied)


def _setting(
    arguments: argparse.Namespace,
    place: Checkout,
    before: Mapping[str, bytes],
    usual: Mapping[str, str],
    parts: Mapping[str, str],
) -> Setting:
    """How the workload is run; ``usual`` are options that hold where none of them is given, ``parts`` the files that differ."""
    given = parse_pairs(arguments.option, "--option", "size=small")
    given = {**given, **unless_given(usual, given)}
    own = {"file": place.file, "here": os.getcwd(), "parts": dict(sorted(parts.items()))}
    if set(own) & set(given):
        raise UsageError(f"--option: {', '.join(TOLD)} are what every workload is told", "name the file: --file PATH")
    options = {**given, **own}
    target = place.target
    workload = os.path.join(target.folder, "workload.py")
    if not os.path.isfile(workload):
        raise ApplyOptError(
            f"the target {target.name} has no workload, so that nothing can be run", f"write {workload}"
        )
    # where it was typed matters to relative paths only
    meant = options if given else {key: value for key, value in own.items() if key != "here"}
    unchanged = {path: sha256(data) for path, data in before.items()}
    rests_on = [
        meant,
        _stamps(given),
        unchanged,
        sources(target.folder),
        _own_sources(place.root, before),
        _installed(),
    ]
    folder = prepared.folder(target.name, sha256(json.dumps(rests_on, sort_keys=True).encode()))
    memory = int(arguments.memory * 2**30) if arguments.memory else machine.free_memory() * 4 // 5
    usable = machine.cores()["usable"]
    threads, cpus = arguments.threads or usable, machine.cpus()[: min(arguments.cores or usable, usable)]
    return Setting(workload, folder, options, threads, cpus, Limits(arguments.timeout, memory))


def unless_given(usual: Mapping[str, str], given: Mapping[str, object]) -> Mapping[str, str]:
    """The options that an optimization's proof takes where none of them is given."""
    return {} if given.keys() & usual.keys() else usual


def _installed() -> list[str]:
    """The versions of what models are built and stored with."""
    from importlib.metadata import PackageNotFoundError, version

    found = [platform.python_version()]
    for name in extras.BENCH:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def _stamps(options: Mapping[str, str]) -> list[list[int]]:
    """What tells whether the files that options name are still the same."""
    found = [os.stat(value) for value in options.values() if os.path.isfile(value)]
    return [[status.st_size, status.st_mtime_ns] for status in found]


def _own_sources(root: str, changed: Collection[str]) -> list[str]:
    """The hashes of the checkout's sources; of installed packages only those that are changed."""
    names = installed.packages(changed) if installed.is_installed(root) else [""]
    return [digest for name in names for digest in sources(os.path.join(root, name))]


def sources(folder: str) -> list[str]:
    """The hashes of the Python files in a folder: what a workload builds depends on them."""
    entries = [entry for entry in files.walk(folder, SKIPPED) if entry.name.endswith(".py")]
    entries = [entry for entry in entries if entry.stat(follow_symlinks=False).st_size <= MAX_SOURCE]
    return sorted(sha256(files.read(entry.path) or b"") for entry in entries)


def check_identity(result: Mapping[str, Any], subject: Subject, side: int, as_it_is: bool = True) -> int:
    """How often changed statements ran in the arm ``side`` (0 before, 1 after). Raises :class:`Void` for the wrong code.

    Of each optimization, one of the statements has to run that tell (:meth:`Share.telling`); not so where the arm was made
    wrong on purpose (``as_it_is`` is false).
    """
    ran = 0
    for path, texts in subject.texts.items():
        found = result["identity"][path]
        if not found["modules"]:
            raise never_imported([path], [o.optimization for o in subject.plan.outcomes if o.file == path])
        if found["sha256"] != sha256(texts[side]):
            raise Void(f"the arm {SIDES[side]} ran another version of {path}", "run it again")
        lines = {int(line): count for line, count in found["lines"].items()}
        for share in subject.shares[path]:
            ran += sum(statement.count(lines) for statement in (share.before, share.after)[side])
            where, telling = share.telling()
            if as_it_is and where == side and not any(statement.count(lines) for statement in telling):
                shown = ", ".join(str(statement.lines[0]) for statement in telling[:10])
                message = f"none of the lines that {share.name} changes ran ({path}, {SIDES[side]}: {shown})"
                given = " ".join(f"--option {key}={value}" for key, value in own_options(subject.setting).items())
                step = f"apply-opt diff {share.name}" + (
                    f"; or without {given}, which chooses what is run" if given else ""
                )
                raise Void(f"{message}: the workload does not exercise it", step)
        if as_it_is and side:
            _check_runs(path, subject.bodies[path], lines)
    return ran


def never_imported(paths: Sequence[str], optimizations: Sequence[Optimization] = ()) -> Void:
    """What is raised where the workload has not run these files at all, which these optimizations change."""
    message = f"{' and '.join(paths)} was never imported: the workload does not run it with these options"
    usual = {o.name: " ".join(f"--option {key}={value}" for key, value in o.workload.items()) for o in optimizations}
    runs = "".join(f"{name} is run by {options}; " for name, options in usual.items() if options)
    return Void(message, f"{runs or 'other options: --option KEY=VALUE; '}or name the file: --file PATH")


def _check_runs(path: str, bodies: Sequence[Body], lines: Mapping[int, int]) -> None:
    """Raise where one of the functions has not run: then all went the original's way."""
    for name, function, statements in bodies:
        if not any(statement.count(lines) for statement in statements):
            message = f"{function} of {name} did not run ({path}): the program went another way"
            raise Void(message, f"apply-opt show {name} (when it does nothing); --option KEY=VALUE")


def beside(found: Subject) -> list[tuple[str, str]]:
    """What was asked for and not run, with what to do; and what is to be known of what was."""
    others = [o for o in found.plan.outcomes if o.name not in found.names and o.kind in (LEFT_OUT, REFUSED)]
    warnings = [
        ("yellow", f"{o.name}  warning: {w}") for o in found.plan.outcomes if o.name in found.names for w in o.warnings
    ]
    return [*(outcome_lines(others) if others else ()), *warnings]


def failure(error: WorkerFailed | Void, code: int) -> Result:
    """What is said of a run that gave nothing."""
    reason, output = (error.reason, error.output) if isinstance(error, WorkerFailed) else ("void", [])
    verdict = "void" if reason == "void" else "failed to run"
    lines = [("red", f"{verdict}: {error.message}" if reason == "void" else f"{verdict}: {reason}: {error.message}")]
    lines += [("dim", f"  {line}") for line in error.next_step.splitlines()]
    document = {"verdict": verdict, "reason": reason, "message": error.message, "next_step": error.next_step}
    return Result(lines, {**document, "output": output, "exit_code": code}, code=code)
