"""``tokenizer_light_model``'s look at the folder with the models: it has to be one that the tokenizer can load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cases import UNITS, UPSTREAM_MODEL, codemod, constant

from apply_opt.errors import Refused
from apply_opt.model.parameters import resolve

NAME = "tokenizer_light_model"
MODEL = str(UNITS.optimizations[NAME].parameters[0].default)
CODEBOOK = constant(NAME, "CODEBOOK")
CONFIG = {"model": "ParaformerStreaming", "encoder": "SANMEncoderChunkOpt", "encoder_conf": {"output_size": 64}}


def preflight(folder: Path, **given: str) -> list[str]:
    values = resolve(UNITS.optimizations[NAME].parameters, given, NAME)
    return codemod(NAME).preflight(str(folder), values)  # type: ignore[attr-defined,no-any-return]


def header(shape: str) -> bytes:
    """The start of an .npy file of the format's version 1.0."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that passes, as far as the preflight looks."""
    (tmp_path / MODEL).mkdir(parents=True)
    (tmp_path / MODEL / "config.yaml").write_text(json.dumps(CONFIG))
    (tmp_path / MODEL / "model.pt").write_bytes(b"weights")
    (tmp_path / CODEBOOK).write_bytes(header("(1024, 64)"))
    (tmp_path / "speech_tokenizer_v1.onnx").write_bytes(b"graph")
    return tmp_path


def test_a_folder_as_it_has_to_be(folder: Path) -> None:
    found = preflight(folder)
    assert found[0] == "ParaformerStreaming with SANMEncoderChunkOpt, 64 wide; codebook 1024 x 64"
    assert "not checked" in found[1]


def test_a_folder_with_real_models(encoder_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(encoder_folder, tmp_path / "encoder")
    shutil.rmtree(tmp_path / "encoder" / MODEL)
    with pytest.raises(Refused, match="the model's folder is missing"):
        preflight(tmp_path / "encoder")
    shutil.copytree(encoder_folder / UPSTREAM_MODEL, tmp_path / "encoder" / MODEL)
    assert "64 wide; codebook 1024 x 64" in preflight(tmp_path / "encoder")[0]
    assert "64 wide; codebook 1024 x 64" in preflight(encoder_folder, model_id=UPSTREAM_MODEL)[0]


@pytest.mark.parametrize(
    ("path", "what"),
    [
        (MODEL, "the model's folder"),
        (f"{MODEL}/config.yaml", "the model's configuration"),
        (f"{MODEL}/model.pt", "the model's weights"),
        (CODEBOOK, "the k-means codebook"),
        ("speech_tokenizer_v1.onnx", "the ONNX speech tokenizer"),
    ],
)
def test_something_is_missing(folder: Path, path: str, what: str) -> None:
    place = folder / path
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    with pytest.raises(Refused) as caught:
        preflight(folder)
    assert caught.value.message == f"{what} is missing: {place}"
    assert "download it" in caught.value.next_step


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "Paraformer", "encoder": "SANMEncoder"}, "is not a streaming model (Paraformer with SANMEncoder)"),
        ({"model": "Paraformer"}, "is not a streaming model (Paraformer with SANMEncoderChunkOpt)"),
        ({"encoder": "SANMEncoder"}, "is not a streaming model (ParaformerStreaming with SANMEncoder)"),
        ({"encoder_conf": {"output_size": 320}}, "features are 320 wide and the codebook's are 64"),
    ],
)
def test_another_kind_of_model(folder: Path, changes: dict[str, object], why: str) -> None:
    (folder / MODEL / "config.yaml").write_text(json.dumps({**CONFIG, **changes}))
    with pytest.raises(Refused) as caught:
        preflight(folder)
    assert why in caught.value.message
    assert "--set model_id=" in caught.value.next_step


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"- a\n- list\n",
        b"just text",
        b"encoder: [",
        b"\x00\x01\x02",
        b"\xff\xfe broken",
        b"encoder: SANMEncoderChunkOpt\n",
        b"model: M\nencoder: E\nencoder_conf: 3\n",
        b"model: M\nencoder: E\nencoder_conf: {}\n",
        b"model: M\nencoder: E\nencoder_conf: {output_size: wide}\n",
        b"model: M\nencoder: E\nencoder_conf: {output_size: .inf}\n",
        b"model: M\nencoder: E\nencoder_conf: {output_size: true}\n",
        b"model: [M]\nencoder: E\nencoder_conf: {output_size: 64}\n",
        b"!!python/object/apply:os.system ['touch preflight_ran_this']\n",
        b"model: !!python/name:os.system\nencoder: E\nencoder_conf: {output_size: 64}\n",
        LAUGHS.encode() + b"model: *i\nencoder: *i\nencoder_conf: {output_size: 64}\n",
        b"[" * 100_000,
    ],
)
def test_a_configuration_that_is_none(
    folder: Path, text: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / MODEL / "config.yaml").write_bytes(text)
    with pytest.raises(Refused) as caught:
        preflight(folder)
    assert "config.yaml is not a FunASR configuration: " in caught.value.message
    assert len(caught.value.message) < 2000
    assert not (tmp_path / "preflight_ran_this").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 a zip file",
        b"\x93NUMPY",
        b"\x93NUMPY" + bytes(100),
        header("(1024,)"),
        header("(1024, 64, 2)"),
        header("()"),
        b"no array: 'shape': (1024, 64)",
    ],
)
def test_a_codebook_that_is_none(folder: Path, data: bytes) -> None:
    (folder / CODEBOOK).write_bytes(data)
    with pytest.raises(Refused, match=r"linguistic_tokenizer\.npy is not a two-dimensional \.npy array"):
        preflight(folder)


@pytest.mark.parametrize("name", [CODEBOOK, f"{MODEL}/config.yaml"])
def test_a_folder_where_a_file_has_to_be(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(Refused, match="directory"):
        preflight(folder)


def test_through_the_command_line(run: Callable[..., object], folder: Path, checkout: Path) -> None:
    before = (checkout / "tokenizer.py").read_bytes()
    words = (NAME, "--allow", "lossy", "--preflight", folder)
    (folder / CODEBOOK).write_bytes(header("(1024, 512)"))
    ran = run(*words, cwd=checkout)
    assert "the model's features are 64 wide and the codebook's are 512" in ran.out + ran.err  # type: ignore[attr-defined]
    assert (checkout / "tokenizer.py").read_bytes() == before
    (folder / CODEBOOK).write_bytes(header("(1024, 64)"))
    assert run(*words, cwd=checkout).code == 0  # type: ignore[attr-defined]
    assert (checkout / "tokenizer.py").read_bytes() == before.replace(UPSTREAM_MODEL.encode(), MODEL.encode())
