"""The jobs of a worker: ``prepare``, ``observe``, ``time``, ``profile`` and ``compile``. Each gives a result that JSON can hold.

A workload is a Python file of the target's (``target_repos/TARGET/workload.py``) with these functions. The checkout is
first on ``sys.path``; ``options`` is what the user gave, and ``file``, the path of the target's main file in the checkout,
``here``, the folder that the user's relative paths start from, and ``parts``, the files that differ: ``{part: path}``, the main
file's part has an empty name.

``prepare(folder, options)``     build what a run needs (models, data) in ``folder``, once; it is moved afterwards. Raises
                                 :class:`ValueError` for an option's value that is none
``cases(options)``               the names of the inputs to try, for example ``["3 s", "1.03706 s"]``: two shapes, one odd.
                                 Raises :class:`ValueError` like ``prepare``
``load(folder, options)``        import the checkout's entry point and give the subject, ready to run
``inputs(case, seed)``           fresh inputs of a case; of the same shape for every seed
``run(subject, inputs)``         the outputs, ``{name: tensor, number, string, or lists and dictionaries of these}``
``bad_inputs()``                 ``{name: inputs}`` that the subject is to refuse; the exceptions are compared
``WRONG``                        ``{name: function(subject)}``: makes the subject wrong, for ``verify`` to find. Gives ``False``
                                 where this checkout has nothing of the kind

and, where there is something for them to say:

``OPTIONS``                      ``{name: what it is for}``; any other option is refused
``LIBRARIES``                    what it needs installed, for example ``("torch", "numpy")``; imported before the checkout's
                                 own modules. The random generators of numpy and torch count if these are named here
``stages(subject)``              ``{name: (owner, attribute)}``: functions whose share of the time is told, and which can be compiled
``entry(subject)``               ``(owner, attribute)``: the function of the checkout's that a user would compile as a whole; without
                                 it ``run``
``amount(case)``                 ``(number, unit)``: how much a case is, for example ``(10.0, "s of audio")``
``more_cases(options)``          cases to compare besides those that are timed: other shapes, where options name one
``requests(case)``               how many requests a run answers; without it one
``on_device(inputs)``            what of the inputs is on a GPU where there is one; without it all. What waits for such
                                 values, or for what is computed from them or a model's parameters, is counted
``double(subject)``              makes the subject compute in float64, as a referee where rounding differs
``module(subject)``              the :class:`torch.nn.Module` whose buffers, gradients and parameters are compared; None for none
``loss(outputs)``                a scalar to differentiate; without it nothing is trained, nor in a case in which it has no
                                 gradient

It writes to no file of the checkout and to nothing in ``folder`` but in ``prepare``: every run has to find the same.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import platform
import random
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Optional

from _apply_opt_canary import Canary  # type: ignore[import-not-found]
from _apply_opt_compiling import compile_function  # type: ignore[import-not-found]
from _apply_opt_counters import profile  # type: ignore[import-not-found]
from _apply_opt_observing import observe  # type: ignore[import-not-found]
from _apply_opt_timing import time_cases  # type: ignore[import-not-found]

Specification = Mapping[str, Any]
JOBS = {"observe": observe, "time": time_cases, "profile": profile, "compile": compile_function}


def run(specification: Specification, workload: ModuleType) -> dict[str, Any]:
    """Do the job that ``specification`` names."""
    if specification["job"] == "prepare":
        return _prepare(workload, specification)
    arm = Arm(workload, specification)
    result = JOBS[specification["job"]](arm)
    return {**result, "identity": _identity(specification, arm.canary), "versions": _versions()}


def _prepare(workload: ModuleType, specification: Specification) -> dict[str, Any]:
    options = specification["options"]
    _check_options(workload, options)
    cases = [str(case) for case in workload.cases(options)]
    if not cases or len(set(cases)) < len(cases):
        raise ValueError(f"the cases have to differ, and there has to be one: {', '.join(cases) or 'there is none'}")
    more = [str(case) for case in workload.more_cases(options)] if hasattr(workload, "more_cases") else []
    workload.prepare(specification["folder"], options)
    amount, requests = (getattr(workload, name, None) for name in ("amount", "requests"))
    return {
        "cases": cases,
        "compared": list(dict.fromkeys([*cases, *more])),
        "wrong": sorted(workload.WRONG),
        "amounts": {case: list(amount(case)) for case in cases} if amount else {},
        "requests": {case: int(requests(case)) for case in cases} if requests else {},
        "has_referee": hasattr(workload, "double"),
    }


def _check_options(workload: ModuleType, options: Mapping[str, str]) -> None:
    told = {"file": "", "here": "", "parts": ""}
    known = {**told, **getattr(workload, "OPTIONS", dict.fromkeys(options, ""))}
    for name in options:
        if name not in known:
            names = [key for key in known if key not in told]
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(f"there is no option called {name}; {hint}there are: {', '.join(names) or 'none'}")


class Arm:
    """The subject of one arm. What runs ``with arm.canary`` (loading does) is counted line by line."""

    def __init__(self, workload: ModuleType, specification: Specification) -> None:
        self.workload = workload
        self.specification = specification
        self.canary = Canary(specification["files"])
        self.subject: Any = None
        self.module: Any = None
        self.is_wrong = bool(specification["wrong"])

    def load(self) -> None:
        """Import and build, and make wrong what is to be wrong."""
        if self.has("torch"):
            import torch

            torch.set_num_threads(self.specification["threads"])
        self.seed_everything(0)
        self.subject = self.workload.load(self.specification["folder"], self.specification["options"])
        if self.specification["double"]:
            self.workload.double(self.subject)
        if self.specification["wrong"]:
            self.is_wrong = self.workload.WRONG[self.specification["wrong"]](self.subject) is not False
        if hasattr(self.workload, "module"):
            self.module = self.workload.module(self.subject)

    @property
    def trains(self) -> bool:
        """Whether there is something to differentiate."""
        return self.module is not None and hasattr(self.workload, "loss")

    def run(self, inputs: Any) -> Any:
        """The outputs."""
        return self.workload.run(self.subject, inputs)

    def has(self, library: str) -> bool:
        """Whether the workload says that it needs ``library``."""
        return library in getattr(self.workload, "LIBRARIES", ())

    def seed_everything(self, seed: int) -> None:
        """Python's, NumPy's and torch's generators, on every device."""
        random.seed(seed)
        if self.has("numpy"):
            import numpy

            numpy.random.seed(seed)
        if self.has("torch"):
            import torch

            torch.manual_seed(seed)


def _identity(specification: Specification, canary: Any) -> dict[str, Any]:
    """For each changed file: the module that it was loaded as, its hash, and how often its lines ran."""
    lines = canary.lines()
    found = {}
    for path in specification["files"]:
        real = os.path.realpath(path)
        modules = [m for m in list(sys.modules.values()) if _file_of(m) == real]
        with open(real, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        ran = {str(line): count for line, count in lines.get(real, {}).items()}
        name = os.path.relpath(real, os.path.realpath(specification["checkout"])).replace(os.sep, "/")
        found[name] = {"modules": sorted({m.__name__ for m in modules}), "sha256": digest, "lines": ran}
    return found


def _file_of(module: Any) -> Optional[str]:
    path = getattr(module, "__file__", None)
    return os.path.realpath(path) if isinstance(path, str) else None


def _versions() -> dict[str, str]:
    names = ("torch", "numpy", "onnxruntime")
    found = {name: str(getattr(sys.modules.get(name), "__version__", "")) for name in names}
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        found |= {"cuda": str(torch.version.cuda), "gpu": torch.cuda.get_device_name()}
    return {"python": platform.python_version(), **{k: v for k, v in found.items() if v}}
