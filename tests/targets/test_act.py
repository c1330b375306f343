"""ACT: what is a checkout of it, and what its workload makes of episodes that are made up."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apply_opt.errors import NotRecognised
from apply_opt.io import catalog, checkout
from apply_opt.worker.__main__ import load_file

TARGET = catalog.load(packs=False).targets["act"]
REFERENCE = Path(TARGET.folder) / "reference"
workload: Any = load_file(str(Path(TARGET.folder) / "workload.py"), "_act_under_test")
SMALL = {"part": "item", "cameras": "2", "size": "16x24", "steps": "6", "batch": "3"}


def test_recognised_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(REFERENCE / "utils.py", tmp_path / "data" / "episodes.py")
    assert checkout.find(str(tmp_path), [TARGET]).file == "data/episodes.py"


@pytest.mark.parametrize("missing", ["h5py.File(", "def load_data(", "/observations/qpos", "def __getitem__"])
def test_what_is_not_a_checkout(tmp_path: Path, missing: str) -> None:
    """Scripts that record or show episodes read the same files."""
    (tmp_path / "utils.py").write_text((REFERENCE / "utils.py").read_text().replace(missing, "other"))
    with pytest.raises(NotRecognised):
        checkout.find(str(tmp_path), [TARGET])


def test_cases() -> None:
    assert workload.cases({}) == [f"{part}, raw, 2 cameras of 48x64, 20 steps, 4" for part in ("item", "batch")]
    assert len(workload.cases({"images": "raw,jpeg", "batch": "1,8"})) == 8
    for options, said in (
        ({"part": "epochs,all"}, "part is one of"),
        ({"images": "png"}, "images is one of"),
        ({"size": "48"}, "48x64"),
    ):
        with pytest.raises(ValueError, match=said):
            workload.cases(options)


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The reference tree's data sets."""
    pytest.importorskip("h5py")
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(REFERENCE))
    workload.prepare(str(tmp_path), SMALL)
    before = set(sys.modules)
    try:
        yield workload.load(str(tmp_path), {**SMALL, "file": "utils.py"})
    finally:
        for name in set(sys.modules) - before:
            if name in ("utils", "IPython"):
                del sys.modules[name]


def test_items_and_batches(subject: Any) -> None:
    """Of the same moments, where they are drawn with the same seed."""
    import numpy
    import torch

    made = []
    for part in ("item", "batch"):
        case = workload.cases({**SMALL, "part": part})[0]
        numpy.random.seed(3)
        made.append(workload.run(subject, workload.inputs(case, 1))["items"])
    items, batch = made
    assert [tuple(part.shape) for part in items[0]] == [(2, 3, 16, 24), (4,), (6, 4), (6,)]
    assert all(torch.equal(torch.stack(parts), whole) for parts, whole in zip(zip(*items), batch))
    images = items[0][0]
    assert images.dtype == torch.float32 and images.min() >= 0 and 0.5 < images.max() <= 1
    assert not torch.equal(images[0], images[1])


def test_wrong_variants(subject: Any) -> None:
    """Each changes what comes out."""
    import numpy
    import torch

    inputs = workload.inputs(workload.cases(SMALL)[0], 2)
    numpy.random.seed(0)
    right = workload.run(subject, inputs)["items"]
    for name, wrong in workload.WRONG.items():
        if wrong(subject) is False:
            assert name.startswith("a learning rate")
            continue
        numpy.random.seed(0)
        found = workload.run(subject, inputs)["items"]
        same = [torch.equal(a, b) for one, other in zip(right, found) for a, b in zip(one, other)]
        assert not all(same), name


def test_a_load_data_that_wants_more(tmp_path: Path) -> None:
    def load_data(dataset_dir: str, robot: str) -> None: ...

    with pytest.raises(ValueError, match="load_data wants robot"):
        workload._loader(load_data, str(tmp_path), 1)


def test_images_as_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subject: Any) -> None:
    pytest.importorskip("cv2")
    options = {**SMALL, "images": "jpeg", "file": "utils.py"}
    workload.prepare(str(tmp_path / "jpeg"), options)
    made = workload.load(str(tmp_path / "jpeg"), options)
    (images, *_), *_ = workload.run(made, workload.inputs(workload.cases(options)[0], 1))["items"]
    assert images.shape == (2, 3, 16, 24)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``trained(seed)``: what two epochs of the reference tree's script make."""
    pytest.importorskip("h5py")
    torch = pytest.importorskip("torch")
    options = {"part": "epochs", "cameras": "1", "size": "24x24", "steps": "8", "batch": "2", "file": "utils.py"}
    for thing in (torch.Tensor, torch.nn.Module):
        monkeypatch.setattr(thing, "cuda", thing.cuda)  # the workload has its own
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.syspath_prepend(str(REFERENCE))
    before = dict(sys.modules)
    workload.prepare(str(tmp_path), options)
    subject = workload.load(str(tmp_path), options)
    yield subject, lambda seed: workload.run(subject, workload.inputs(workload.cases(options)[0], seed))
    for name in set(sys.modules) - set(before):
        if name in ("utils", "policy", "IPython", "sim_env", "imitate_episodes"):
            del sys.modules[name]


def test_two_epochs(trained: Any) -> None:
    """The same for the same seed, and not for another one."""
    import torch

    _, run = trained
    one, again, other = run(1), run(1), run(2)
    assert [name for name, _ in one["losses"]] == ["Val loss", "Train loss"] * 2 + ["validation loss"]
    assert sorted(one["weights"]) == ["policy_best.ckpt", "policy_last.ckpt"]
    assert one["losses"] == again["losses"] != other["losses"]
    for name, weights in one["weights"].items():
        assert all(torch.equal(value, again["weights"][name][key]) for key, value in weights.items())
    weights = one["weights"]["policy_last.ckpt"]
    assert not torch.equal(weights["head.weight"], other["weights"]["policy_last.ckpt"]["head.weight"])


def test_a_wrong_learning_rate(trained: Any) -> None:
    import torch

    subject, run = trained
    right = run(1)["weights"]["policy_last.ckpt"]
    assert workload.WRONG["a learning rate that is a hundredth more"](subject)
    wrong = run(1)["weights"]["policy_last.ckpt"]
    assert not torch.equal(right["head.weight"], wrong["head.weight"])
    subject.script = None
    assert workload.WRONG["a learning rate that is a hundredth more"](subject) is False


def test_a_script_that_trains_nothing(trained: Any, tmp_path: Path) -> None:
    subject, run = trained
    subject.script.path = str(tmp_path / "imitate_episodes.py")
    Path(subject.script.path).write_text("print('Val loss: 3')")
    with pytest.raises(RuntimeError, match="printed no losses or saved no weights"):
        run(1)


def test_torchvision_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    (tmp_path / "policy.py").write_text("import torchvision")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps torchvision"):
        workload.epochs.check(str(tmp_path))
    workload.epochs.check(str(REFERENCE))
