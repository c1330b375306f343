"""Packages that not every command needs, and which extra of apply-opt brings them."""

from __future__ import annotations

from importlib.util import find_spec

from apply_opt.errors import ApplyOptError

BENCH = ("h5py", "numpy", "onnx", "onnxruntime", "ptwt", "tokenizers", "torch", "transformers")
TARGETS = ("funasr", "librosa", "torchaudio", "whisper")
PACKAGES = {"cv2": "opencv-python-headless", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Names by which modules of checkouts are installed, where these differ."""


class Missing(ApplyOptError):
    """A package that is needed is not installed."""

    kind = "missing"


def need(*names: str) -> None:
    """Raise :class:`Missing` where one of these, which run what verifies and measures, is not installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise Missing(f"this needs {' and '.join(missing)}, not installed here", how_to_get("proof"))


def extra_of(module: str) -> str:
    """The extra that brings a module which a workload or its target imports; empty for one that none brings."""
    top = module.partition(".")[0]
    return "bench" if top in BENCH else "targets" if top in TARGETS else ""


def package_of(module: str) -> str:
    """By which name a module is installed, where it is known to be another than its own."""
    return PACKAGES.get(module.partition(".")[0], "")


def how_to_get(extra: str) -> str:
    """What to type."""
    return f"pip install 'apply-opt[{extra}]' (in a clone: pip install '.[{extra}]')"
