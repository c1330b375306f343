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
from apply_opt.commands import Result
from apply_opt.commands.planning import Plan, Texts, locate, plan_for, refuse_unless_landed, taken_out
from apply_opt.errors import ApplyOptError, Refused
from apply_opt.io import arms, files, git, machine, records, workers
from apply_opt.io.checkout import SKIPPED
from apply_opt.io.workers import Arm, Limits, Setting, WorkerFailed
from apply_opt.model import patch
from apply_opt.model.digest import sha256
from apply_opt.model.merge import opcodes, split
from apply_opt.model.plan import ALREADY, PLANNED


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
    texts, names = _sides(plan)
    if not texts:
        reasons = "; ".join(f"{o.name}: {o.message}" for o in plan.outcomes)
        raise Refused(f"there is nothing to compare: {reasons}", "apply-opt status")
    with subject_between(plan, names, texts, arguments) as found:
        yield found


@contextlib.contextmanager
def subject_between(
    plan: Plan, names: Sequence[str], texts: Mapping[str, Texts], arguments: argparse.Namespace
) -> Iterator[Subject]:
    """Two arms in which these files of the plan differ."""
    before, after = ({path: pair[side] for path, pair in texts.items()} for side in (0, 1))
    setting = _setting(arguments, plan, before)
    with arms.copies(plan.checkout.root, before, after) as (one, other):
        workload = _prepared(setting, one)
        yield Subject(plan, names, one, other, texts, setting, workload)


def header(found: Subject, kind: str) -> dict[str, Any]:
    """What every record begins with: what was run, and on what."""
    return {
        "format": records.FORMAT,
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


def _sides(plan: Plan) -> tuple[dict[str, Texts], list[str]]:
    """The files that differ, without and with what is planned, or else with what is applied; and the names of that."""
    planned = [outcome.name for outcome in plan.of_kind(PLANNED)]
    if planned:
        return plan.changed(), planned
    applied = [o.name for o in plan.of_kind(ALREADY) if plan.ledger.entry(o.name)]
    return taken_out(plan, applied), applied


def _setting(arguments: argparse.Namespace, plan: Plan, before: Mapping[str, bytes]) -> Setting:
    main = plan.checkout.file
    options = {"file": main, **dict(text.partition("=")[::2] for text in arguments.option)}
    target = plan.checkout.target
    workload = os.path.join(target.folder, "workload.py")
    if not os.path.isfile(workload):
        raise ApplyOptError(
            f"the target {target.name} has no workload, so that nothing can be run", f"write {workload}"
        )
    unchanged = sha256(before.get(main, plan.files[main][0]))
    key = sha256(json.dumps([options, unchanged, _sources(target.folder)], sort_keys=True).encode())
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
    total = 0
    for path, texts in subject.texts.items():
        found = result["identity"][path]
        if not found["modules"]:
            raise Void(f"{path} was never imported: the workload does not run it", "name the file: --file PATH")
        if found["sha256"] != sha256(texts[side]):
            raise Void(f"the arm {('before', 'after')[side]} ran another version of {path}", "run it again")
        ran = sum(found["lines"].get(str(line), 0) for line in _changed(texts, side))
        if not ran and side == _changed_side(texts):
            why = f"none of the changed lines of {path} ran: the workload does not exercise the change"
            raise Void(why, "apply-opt diff NAME")
        total += ran
    return total


def _changed_side(texts: tuple[bytes, bytes]) -> int:
    """The arm in which the changed lines are to be seen running: before, where the change only takes lines out."""
    return 1 if _changed(texts, 1) else 0


def _changed(texts: tuple[bytes, bytes], side: int) -> list[int]:
    """The lines of code (from 1) of one side that the other does not have: no empty ones, and no comments."""
    lines = [split(text) for text in texts]
    spans = [(code[1:3], code[3:5])[side] for code in opcodes(*lines) if code[0] != "equal"]
    found = [index for start, end in spans for index in range(start, end)]
    return [index + 1 for index in found if lines[side][index].partition(b"#")[0].strip()]


def failure(error: WorkerFailed, code: int) -> Result:
    """What is said of a run that gave nothing."""
    lines = [("red", f"failed to run: {error.reason}: {error.message}")]
    lines += [("dim", f"  {line}") for line in error.next_step.splitlines()]
    document = {"verdict": "failed to run", "reason": error.reason, "message": error.message, "output": error.output}
    return Result(lines, document, code=code)
