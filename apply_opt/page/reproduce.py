"""The commands that give such records again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from apply_opt.model.effort import DEFAULT, QUICK, RIGOROUS, Effort
from apply_opt.model.parameters import spelled
from apply_opt.model.unit import Optimization
from apply_opt.page import record
from apply_opt.page.record import Bench, Header, Verify

PRESETS = {"--quick": QUICK, "": DEFAULT, "--rigorous": RIGOROUS}


def commands(headers: Sequence[Header], known: Mapping[str, Optimization], home: str) -> list[str]:
    """One for each record, the comparison first."""
    kinds = {Verify: "verify", Bench: "bench"}
    return [command(kinds[type(header)], header, known, home) for header in headers]


def command(kind: str, header: Header, known: Mapping[str, Optimization], home: str) -> str:
    """``apply-opt KIND`` for what ``header`` is a record of."""
    variables = [shlex.quote(f"{name}={value}") for name, value in header.environment.items()]
    words = ["env", *variables] if variables else []
    words += ["apply-opt", kind, *(shlex.quote(name) for name in header.optimizations)]
    words += _of_the_plan(header, known)
    words += [f"--option {_option(key, value, home)}" for key, value in header.options.items()]
    words += [f"--threads {header.threads}"] if header.threads != 1 else []
    words += [f"--cores {header.cpus}"] if header.cpus not in (0, header.machine.cores.usable) else []
    words += _of_the_effort(header.effort) if kind == "bench" and isinstance(header, Bench) else []
    return " ".join(words)


def _of_the_plan(header: Header, known: Mapping[str, Optimization]) -> Iterator[str]:
    """Parameters that are not at their defaults, and what has to be allowed or looked at."""
    for name, settings in header.optimizations.items():
        defaults = {p.name: p.default for p in known[name].parameters} if name in known else {}
        for key, value in settings.items():
            if defaults.get(key) != value:
                yield f"--set {shlex.quote(f'{name}.{key}={spelled(value)}')}"
    units = [known[name] for name in header.optimizations if name in known]
    if (
        "lossy" in [unit.safety_for(header.optimizations[unit.name]) for unit in units]
        or getattr(header, "safety", "") == "lossy"
    ):
        yield "--allow lossy"
    if any(u.preflight and header.optimizations[u.name].get("unchecked") is not True for u in units):
        yield "--preflight DIR"


def _option(key: str, value: str, home: str) -> str:
    """A path below the user's folder does not tell its name."""
    if home and value.startswith(home + "/"):
        return f'{shlex.quote(key)}="$HOME"{shlex.quote(value[len(home) :])}'
    return shlex.quote(f"{key}={value}")


def _of_the_effort(effort: record.Effort) -> list[str]:
    """The preset that it is, apart from the number of blocks."""
    found = Effort(effort.blocks, effort.same, effort.iterations, effort.seconds, effort.limit)
    for option, preset in PRESETS.items():
        if preset._replace(blocks=found.blocks) == found:
            blocks = [f"--blocks {found.blocks}"] if preset != found else []
            return [*filter(None, [option]), *blocks]
    return []
