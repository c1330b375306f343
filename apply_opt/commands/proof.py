"""What ``verify`` and ``bench`` share: the two arms, the workload, and that each arm ran its own code."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import filelock
import platformdirs

from apply_opt import __version__
from apply_opt.commands import Result, state
from apply_opt.commands.planning import Plan, locate, plan_for, refuse_unless_landed
from apply_opt.errors import ApplyOptError, Refused
from apply_opt.io import arms, files, git, machine, workers
from apply_opt.io.checkout import SKIPPED
from apply_opt.io.workers import Arm, Limits, Setting, WorkerFailed
from apply_opt.model import patch
from apply_opt.model.digest import sha256
from apply_opt.model.merge import opcodes, split
from apply_opt.model.plan import ALREADY, PLANNED

FORMAT = 1
"""Of the records; goes up when a reader of the old ones would misread the new ones."""


class Void(ApplyOptError):
    """An arm did not run the code that it should have: whatever it gave says nothing."""

    exit_code = 4
    kind = "void"


class Subject(NamedTuple):
    """What is compared: the plan, the optimizations that differ, the arms, the files' contents in each, the workload."""

    plan: Plan
    names: Sequence[str]
    before: Arm
    after: Arm
    texts: Mapping[str, tuple[bytes, bytes]]
    setting: Setting
    workload: Workload


class Workload(NamedTuple):
    """What a target's workload says of itself; see :mod:`apply_opt.worker.jobs`."""

    cases: Sequence[str]
    wrong: Sequence[str]
    amounts: Mapping[str, tuple[float, str]]
    has_referee: bool


@contextlib.contextmanager
def subject(arguments: argparse.Namespace) -> Iterator[Subject]:
    """The two arms of what the arguments name: planned and not yet applied, or applied and to be held against what was."""
    plan = plan_for(arguments, *locate(arguments), as_it_is=True)
    refuse_unless_landed(plan, arguments.names)
    with subject_of(plan, arguments) as found:
        yield found


@contextlib.contextmanager
def subject_of(plan: Plan, arguments: argparse.Namespace) -> Iterator[Subject]:
    """The two arms of a plan. Raises :class:`Refused` where they are the same."""
    before, after, names = _sides(plan)
    if before == after:
        reasons = "; ".join(f"{o.name}: {o.message}" for o in plan.outcomes)
        raise Refused(f"there is nothing to compare: {reasons}", "apply-opt status")
    with subject_between(plan, names, before, after, arguments) as found:
        yield found


@contextlib.contextmanager
def subject_between(
    plan: Plan, names: Sequence[str], before: bytes, after: bytes, arguments: argparse.Namespace
) -> Iterator[Subject]:
    """Two arms with these contents of the plan's file."""
    setting = _setting(arguments, plan, before)
    path = plan.checkout.file
    with arms.copies(plan.checkout.root, {path: before}, {path: after}) as (one, other):
        workload = _prepared(setting, one)
        yield Subject(plan, names, one, other, {path: (before, after)}, setting, workload)


def header(found: Subject, kind: str) -> dict[str, Any]:
    """What every record begins with: what was run, and on what."""
    return {
        "format": FORMAT,
        "kind": kind,
        "apply_opt": __version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "optimizations": {o.name: dict(o.parameters) for o in found.plan.outcomes if o.name in found.names},
        "target": found.plan.checkout.target.name,
        "head": git.head(found.plan.checkout.root),
        "sha256": {path: [sha256(text) for text in texts] for path, texts in found.texts.items()},
        "patch": "".join(_patch(path, *texts) for path, texts in found.texts.items()),
        "options": {key: value for key, value in found.setting.options.items() if key != "file"},
        "threads": found.setting.threads,
        "cpus": len(found.setting.cpus),
        "machine": machine.summary(),
        "cases": list(found.workload.cases),
    }


def _patch(path: str, before: bytes, after: bytes) -> str:
    return patch.make(before, after, path).decode("utf-8", "replace")


def _sides(plan: Plan) -> tuple[bytes, bytes, list[str]]:
    planned = [outcome.name for outcome in plan.of_kind(PLANNED)]
    if planned:
        return plan.before, plan.after, planned
    applied = [o.name for o in plan.of_kind(ALREADY) if plan.ledger.entry(o.name)]
    rest = state.without(plan.ledger, applied, state.contents(plan.ledger))
    return rest.files.get(plan.checkout.file, plan.before), plan.before, applied


def _setting(arguments: argparse.Namespace, plan: Plan, before: bytes) -> Setting:
    options = {"file": plan.checkout.file, **dict(text.partition("=")[::2] for text in arguments.option)}
    target = plan.checkout.target
    workload = os.path.join(target.folder, "workload.py")
    if not os.path.isfile(workload):
        raise ApplyOptError(
            f"the target {target.name} has no workload, so that nothing can be run", f"write {workload}"
        )
    key = sha256(json.dumps([options, sha256(before), _sources(target.folder)], sort_keys=True).encode())
    folder = os.path.join(platformdirs.user_cache_dir("apply-opt", appauthor=False), target.name, key[:16])
    memory = int(arguments.memory * 2**30) if arguments.memory else machine.free_memory() * 4 // 5
    threads = arguments.threads or machine.cores()["usable"]
    cpus = machine.cpus()[: min(threads, machine.cores()["usable"])]
    return Setting(workload, folder, options, threads, cpus, Limits(arguments.timeout, memory))


def _sources(folder: str) -> list[str]:
    """The hashes of a target's own Python files: what a workload builds depends on them."""
    entries = [entry for entry in files.walk(folder, SKIPPED) if entry.name.endswith(".py")]
    return sorted(sha256(files.read(entry.path) or b"") for entry in entries)


def _prepared(setting: Setting, arm: Arm) -> Workload:
    """Have the workload build what it needs, once for the same checkout, workload and options."""
    done = os.path.join(setting.folder, "prepared.json")
    files.make_folder(setting.folder)
    with filelock.FileLock(os.path.join(setting.folder, "lock")):
        data = files.read(done)
        if data is None:
            data = json.dumps(workers.run(arm, setting, "prepare")).encode()
            files.replace(done, data, done + files.SCRATCH)
    said = json.loads(data)
    amounts = {case: (float(number), str(unit)) for case, (number, unit) in said["amounts"].items()}
    return Workload(said["cases"], said["wrong"], amounts, said["has_referee"])


def check_identity(result: Mapping[str, Any], subject: Subject, side: int) -> int:
    """How often the changed lines ran in the arm ``side`` (0 before, 1 after). Raises :class:`Void` for the wrong code."""
    ran = 0
    for path, texts in subject.texts.items():
        found = result["identity"][path]
        if not found["modules"]:
            raise Void(f"{path} was never imported: the workload does not run it", "name the file: --file PATH")
        if found["sha256"] != sha256(texts[side]):
            raise Void(f"the arm {('before', 'after')[side]} ran another version of {path}", "run it again")
        ran += sum(found["lines"].get(str(line), 0) for line in _changed(texts, side))
    if side == 1 and not ran and _changed(next(iter(subject.texts.values())), 1):
        raise Void("none of the changed lines ran: the workload does not exercise the change", "apply-opt diff NAME")
    return ran


def _changed(texts: tuple[bytes, bytes], side: int) -> list[int]:
    """The lines (from 1) of one side that the other does not have."""
    codes = opcodes(split(texts[0]), split(texts[1]))
    spans = [(a0, a1) if side == 0 else (b0, b1) for tag, a0, a1, b0, b1 in codes if tag != "equal"]
    return [line + 1 for start, end in spans for line in range(start, end)]


def failure(error: WorkerFailed, code: int) -> Result:
    """What is said of a run that gave nothing."""
    lines = [("red", f"failed to run: {error.reason}: {error.message}")]
    lines += [("dim", f"  {line}") for line in error.next_step.splitlines()]
    document = {"verdict": "failed to run", "reason": error.reason, "message": error.message, "output": error.output}
    return Result(lines, document, code=code)
