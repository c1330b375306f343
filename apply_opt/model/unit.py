"""What the engine knows of optimizations and bundles. All of it comes from data files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

from apply_opt.model.parameters import Parameter, Value, parse_parameter, spelled, texts
from apply_opt.model.target import MAIN

SAFETY = ("instrument", "exact", "tolerance", "inference_only", "lossy")


class Optimization(NamedTuple):
    """One named, reversible change. ``sites`` are the places that its codemod must find, each exactly once, in the file
    that is the target's ``part``.

    ``safety_with`` is the class with certain values of parameters (``name=value``), where that is another one.
    ``preflight`` is the options that say what to look at before it is applied, for one that needs something outside the
    checkout; ``preflight_help`` says what the words in them stand for.
    ``runs`` are functions of the result (``Class.method``) that a run has to come to, to say anything of it, and
    ``workload`` is options of the target's workload with which it does, where the user gives no other.
    ``rules`` is what a codemod that several optimizations share is made from: the manifest's table of its name.
    """

    name: str
    title: str
    title_zh: str
    target: str
    safety: str
    sites: Sequence[str]
    parameters: Sequence[Parameter]
    manual: str
    warnings: Mapping[str, str]
    requires: Sequence[str]
    conflicts: Sequence[str]
    preflight: str
    preflight_help: str
    folder: str
    codemod: str
    part: str = MAIN
    safety_with: Mapping[str, str] = {}
    runs: Sequence[str] = ()
    workload: Mapping[str, str] = {}
    rules: Optional[Mapping[str, Any]] = None

    def safety_for(self, parameters: Mapping[str, Value]) -> str:
        """The class that is promised with these values."""
        return self.safety_with.get(self.special_value(parameters), self.safety)

    def special_value(self, parameters: Mapping[str, Value]) -> str:
        """``name=value``, where that makes another class of it; else nothing."""
        said = [f"{name}={spelled(value)}" for name, value in parameters.items()]
        return next((key for key in said if key in self.safety_with), "")


class Bundle(NamedTuple):
    """Optimizations that are applied together, in this order."""

    name: str
    title: str
    title_zh: str
    target: str
    optimizations: Sequence[str]
    folder: str


def parse_optimization(name: str, folder: str, codemod: str, table: Mapping[str, Any]) -> Optimization:
    """An :class:`Optimization` from its ``optimization.toml``. Raises where it lacks something, or holds something else."""
    safety_with = dict(table.get("safety_with", {}))
    if not {table["safety"], *safety_with.values()} <= set(SAFETY) or not table["sites"]:
        raise ValueError(f"safety (one of {', '.join(SAFETY)}) or sites (at least one)")
    return Optimization(
        name=name,
        title=table["title"],
        title_zh=table.get("title_zh", table["title"]),
        target=table["target"],
        safety=table["safety"],
        sites=texts(table, "sites"),
        parameters=tuple(parse_parameter(key, value) for key, value in table.get("parameters", {}).items()),
        manual=table["manual"],
        warnings=dict(table.get("warnings", {})),
        requires=texts(table, "requires", ()),
        conflicts=texts(table, "conflicts", ()),
        preflight=table.get("preflight", ""),
        preflight_help=table.get("preflight_help", ""),
        folder=folder,
        codemod=codemod,
        part=table.get("part", MAIN),
        safety_with=safety_with,
        runs=texts(table, "runs", ()),
        workload=dict(table.get("workload", {})),
        rules=table[table["codemod"]] if "codemod" in table else None,
    )


def parse_bundle(name: str, folder: str, table: Mapping[str, Any]) -> Bundle:
    """A :class:`Bundle` from its ``bundle.toml``."""
    if not table["optimizations"]:
        raise ValueError("optimizations (at least one)")
    return Bundle(
        name,
        table["title"],
        table.get("title_zh", table["title"]),
        table["target"],
        texts(table, "optimizations"),
        folder,
    )
