"""An encoder folder for the reference tokenizer, built once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import REFERENCE


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make_model.py`` builds: random weights, codebooks that fit them. Not to be written to."""
    pytest.importorskip("onnx")
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("encoder")
    subprocess.run([sys.executable, REFERENCE / "make_model.py", folder], check=True)
    return folder
