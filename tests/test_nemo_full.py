"""NeMo as its users have it, with all that it needs: only where it is installed (``pip install 'nemo_toolkit[asr]'``, 2 GB).

Nothing is stood in for here. The encoder of the installed package and that of a changed copy run in processes of their own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Ran

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("nemo", "torch", "lightning")),
    reason="nemo_toolkit[asr] is not installed",
)
RUN = """
import sys, torch
from nemo.collections.asr.modules import ConformerEncoder

torch.manual_seed(0)
torch.set_num_threads(1)
encoder = ConformerEncoder(feat_in=80, n_layers=2, d_model=64, subsampling="dw_striding", subsampling_factor=8, n_heads=4)
signal, length = torch.randn(3, 80, 203), torch.tensor([203, 40, 1])
encoded, lengths = encoder(audio_signal=signal, length=length)
(encoded * torch.sin(torch.arange(encoded.numel())).view(encoded.shape)).sum().backward()
encoder.eval()
with torch.no_grad():
    inference, _ = encoder(audio_signal=signal, length=length)
found = {"encoded": encoded.detach(), "lengths": lengths, "inference": inference}
found |= {name: parameter.grad for name, parameter in encoder.named_parameters()}
plain = {name: value if value is None else value.detach().clone() for name, value in found.items()}  # without NeMo's types
torch.save({"file": sys.modules[type(encoder).__module__].__file__, "found": plain}, sys.argv[1])
"""


def encoded(folder: Path, path: str) -> Any:
    """What the encoder gives, of the package that comes first on ``path``."""
    import torch

    result = folder / f"{len(list(folder.iterdir()))}.pt"
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", RUN, str(result)], env=environment, cwd=folder, check=True)
    return torch.load(result)


def test_same_bits(run: Callable[..., Ran], tmp_path: Path) -> None:
    import torch

    installed = sysconfig.get_paths()["purelib"]
    ran = run("conformer_fast", "--repo", installed, cwd=tmp_path)
    assert ran.code == 0, ran.err
    (copy,) = [folder for folder in tmp_path.iterdir() if folder.name.endswith("-apply-opt")]
    results = tmp_path / "results"
    results.mkdir()
    before, after = encoded(results, ""), encoded(results, str(copy))
    assert before["file"].startswith(installed)
    assert after["file"].startswith(str(copy))
    assert before["found"].keys() == after["found"].keys()
    for name, value in before["found"].items():
        assert (value is None) == (after["found"][name] is None)
        assert value is None or torch.equal(value, after["found"][name]), name
