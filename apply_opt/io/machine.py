"""What this machine offers. Every look is guarded: a broken library is an answer, not an error."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Optional

from apply_opt.errors import ApplyOptError
from apply_opt.io import files

_CPU_QUOTA = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
_MEMORY_LIMIT = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def cores() -> dict[str, Any]:
    """Cores of the machine, of this process's affinity mask and of its container's quota, and the number that counts."""
    present = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else present
    quota = _quota()
    usable = min(affinity, max(1, int(quota))) if quota else affinity
    return {"present": present, "affinity": affinity, "quota": quota, "usable": usable}


def _quota() -> Optional[float]:
    """The CPU time per wall time that the container may use (cgroup v2, then v1); ``None`` where it is not limited."""
    for names in _CPU_QUOTA:
        try:
            quota, period = (int(word) for name in names for word in (files.read(name) or b"").split())
        except (ApplyOptError, ValueError):  # not there, or "max"
            continue
        if quota > 0:
            return quota / period
    return None


def torch() -> dict[str, Any]:
    """Version, CUDA and its cards, and the TF32 settings as they are after import."""
    import torch as module

    cards = (
        [module.cuda.get_device_name(i) for i in range(module.cuda.device_count())]
        if module.cuda.is_available()
        else []
    )
    return {
        "version": module.__version__,
        "cuda": module.version.cuda,
        "cards": cards,
        "threads": module.get_num_threads(),
        "tf32": {
            "matmul": _probe(lambda: module.backends.cuda.matmul.allow_tf32),
            "cudnn": _probe(lambda: module.backends.cudnn.allow_tf32),
            "float32_matmul_precision": _probe(module.get_float32_matmul_precision),
        },
    }


def onnxruntime() -> dict[str, Any]:
    """Version and the execution providers that this build has (a provider can still fail to load)."""
    import onnxruntime as module

    return {"version": module.__version__, "providers": module.get_available_providers()}


def libraries() -> dict[str, Any]:
    """The heavy libraries, as they answer when they are imported; ``None`` for one that is not installed."""
    return {"torch": _library(torch), "onnxruntime": _library(onnxruntime)}


def programs() -> dict[str, Optional[str]]:
    """The versions of the programs that people apply patches with."""
    return {name: _version(name) for name in ("git", "patch")}


def compiler_name() -> str:
    """The C++ compiler that torch.compile's inductor looks for: see ``torch._inductor.config.cpp.cxx``."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return os.environ.get("CXX", usual)


def compiler() -> Optional[str]:
    """Where that is; ``None`` where it is not."""
    return shutil.which(compiler_name())


def python() -> dict[str, str]:
    """The interpreter and the system."""
    return {"version": platform.python_version(), "executable": sys.executable, "system": platform.platform()}


def _library(look: Callable[[], dict[str, Any]]) -> Optional[dict[str, Any]]:
    try:
        return look()
    except ModuleNotFoundError as error:
        return None if error.name == look.__name__ else {"error": str(error)}
    except Exception as error:  # a library that breaks on import is what this command is there to show
        return {"error": f"{type(error).__name__}: {error}"}


def _probe(get: Callable[[], Any]) -> Any:
    """A setting; torch raises on reading an old-style one after a new-style one was written."""
    try:
        return get()
    except RuntimeError:
        return "mixed: set through the newer fp32_precision"


def _version(program: str) -> Optional[str]:
    if shutil.which(program) is None:
        return None
    try:
        result = subprocess.run([program, "--version"], capture_output=True, check=False, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(result.stdout.decode("utf-8", "replace").splitlines()), None)


def free_memory() -> int:
    """Bytes that could be had now without swapping, and without more than the container may have."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for names in _MEMORY_LIMIT:
        try:
            limit, used = (int(files.read(name) or b"") for name in names)
        except (ApplyOptError, ValueError):  # not there, or "max"
            continue
        free = min(free, max(limit - used, 0))
    return free


def cpus() -> list[int]:
    """The cores that this process may run on, by number; empty where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def summary() -> dict[str, Any]:
    """What a measurement has to say of the machine: nothing that names it or whose it is."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    system = f"{platform.system()} {platform.machine()}"
    return {"python": platform.python_version(), "system": system, "cpu": _cpu(), "cores": cores(), "load": load}


_STEERING = re.compile(
    r"(MALLOC|GLIBC|MKL|DNNL|ONEDNN|OMP|KMP|GOMP|ATEN|TORCH|PYTORCH|CUBLAS|CUDNN|NVIDIA_TF32)_(?!NUM_THREADS$)\w+|LD_PRELOAD"
)


def environment() -> dict[str, str]:
    """The environment variables that tell memory allocators and libraries of kernels what to do.

    Paths are left out; of the libraries that are loaded first, the names stay. How many threads there are is set for each run.
    """
    found = {name: value for name, value in os.environ.items() if _STEERING.fullmatch(name)}
    if "LD_PRELOAD" in found:
        found["LD_PRELOAD"] = " ".join(os.path.basename(path) for path in re.split("[ :]+", found["LD_PRELOAD"]))
    return {name: value for name, value in sorted(found.items()) if os.sep not in value}


def _cpu() -> str:
    """The processor's name, where the system says it."""
    text = (files.read("/proc/cpuinfo", pipe=True) or b"").decode("utf-8", "replace")
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
