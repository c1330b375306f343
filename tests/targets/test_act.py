"""ACT: what is a checkout of it, and what its workload makes of episodes that are made up."""

from __future__ import annotations

import json
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import call

from apply_opt.errors import NotRecognised
from apply_opt.io import catalog, checkout
from apply_opt.worker.__main__ import load_file

TARGET = catalog.load(packs=False).targets["act"]
REFERENCE = Path(TARGET.folder) / "reference"
workload: Any = load_file(str(Path(TARGET.folder) / "workload.py"), "_act_under_test")
SMALL = {"part": "item", "cameras": "2", "size": "16x24", "steps": "6", "batch": "3"}
OF_CHECKOUTS = (
    "utils",
    "policy",
    "detr",
    "detr.main",
    "sim_env",
    "imitate_episodes",
    "IPython",
    "torchvision",
    "torchvision.transforms",
)
EVERY = {**SMALL, "part": "item,batch,loader"}


def test_recognised_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(REFERENCE / "utils.py", tmp_path / "data" / "episodes.py")
    assert checkout.find(str(tmp_path), [TARGET]).file == "data/episodes.py"


@pytest.mark.parametrize("missing", ["h5py", "def load_data(", "/observations/qpos", "def __getitem__"])
def test_what_is_not_a_checkout(tmp_path: Path, missing: str) -> None:
    """Scripts that record or show episodes read the same files."""
    (tmp_path / "utils.py").write_text((REFERENCE / "utils.py").read_text().replace(missing, "other"))
    with pytest.raises(NotRecognised):
        checkout.find(str(tmp_path), [TARGET])


def test_cases() -> None:
    assert workload.cases({}) == [
        f"{part}, raw, 2 cameras of 48x64, 7 episodes of 20 steps, 4" for part in ("item", "batch")
    ]
    assert len(workload.cases({"part": "item,batch,loader", "images": "raw,jpeg", "batch": "1,8"})) == 12
    for options, said in (
        ({"part": "epoch"}, "part is one of"),
        ({"cameras": "0"}, "numbers from 1 on"),
        ({"part": "item,training,epochs"}, "training or epochs, not both"),
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
    for name in ("torchvision", "torchvision.transforms"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    workload.prepare(str(tmp_path), EVERY)
    before = set(sys.modules)
    try:
        yield workload.load(str(tmp_path), {**EVERY, "file": "utils.py"})
    finally:
        _forget(set(sys.modules) - before)


def _forget(modules: set[str]) -> None:
    """What a workload imported from a checkout, and what stands in for modules that are not installed."""
    for name in modules:
        if name in (
            "utils",
            "policy",
            "sim_env",
            "imitate_episodes",
            "IPython",
            "torchvision",
            "torchvision.transforms",
        ):
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


def test_bad_episodes(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is an error of its own, and they are whole again afterwards."""
    said = {}
    for name, inputs in workload.bad_inputs().items():
        with pytest.raises((OSError, KeyError, IndexError, TypeError, ImportError)) as caught:
            workload.run(subject, inputs)
        said[name] = str(caught.value)
    assert len(set(said.values())) == len(said) == 5 + workload._has_opencv()
    monkeypatch.setattr(workload, "_has_opencv", lambda: False)
    assert len(workload.bad_inputs()) == 5
    assert "truncated" in said["episodes that are truncated"]
    inputs = {**workload.bad_inputs()["no such item"], "items": [0]}
    assert len(workload.run(subject, inputs)["items"]) == 1


def test_an_epoch_of_batches(subject: Any) -> None:
    """Every item of the epoch once, by worker processes, the same ones for the same seed."""
    import torch

    (case,) = workload.cases({**SMALL, "part": "loader"})
    first, again, other = (workload.run(subject, workload.inputs(case, seed))["batches"] for seed in (1, 1, 2))
    assert [[tuple(part.shape) for part in batch] for batch in first] == [
        [(count, 2, 3, 16, 24), (count, 4), (count, 6, 4), (count, 6)] for count in (3, 2)
    ]
    assert workload.inputs(case, 1)["batches"] == [3, 2]
    assert workload.amount(case) == (5.0, "moments")
    assert all(type(batch) is list for batch in first)

    def same(one: Any, other: Any) -> bool:
        return all(torch.equal(a, b) for x, y in zip(one, other) for a, b in zip(x, y))

    assert same(first, again) and not same(first, other)


def test_of_large_batches_a_part_is_kept() -> None:
    """As tensors of their own: the others' memory is not held. Small ones are compared whole."""
    import torch

    others = torch.zeros(2**21), torch.zeros(9, 2**14, 14), torch.zeros(2, 2, 512, 512, 3)
    assert all(workload.kept(part) is part for part in ("a name", *others))
    large, small = torch.arange(2.0**21).reshape(2, 1, 1024, 1024), torch.arange(70.0).reshape(2, 5, 7)
    found = workload.kept(large)
    assert torch.equal(found, large[..., ::5, ::7]) and found.untyped_storage().nbytes() < large.nbytes / 30
    assert workload.kept(small) is small


def test_batches_as_workers_hand_them_over(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that can leave images as uint8 is told to, for this part alone; what is compared is the rest of each batch."""
    import torch

    loader, asked = next(iter(subject.loaders.values())), []

    class Uint8(type(loader)):  # type: ignore[misc]
        images_as_uint8 = False

        def __iter__(self) -> Any:
            asked.append(self.images_as_uint8)
            return super().__iter__()

    (case,), (usual,) = (workload.cases({**SMALL, "part": part}) for part in ("handover", "loader"))
    inputs = workload.inputs(case, 1)
    (found,), (whole,) = (workload.run(subject, workload.inputs(name, 1)).values() for name in (case, usual))
    assert [[tuple(part.shape) for part in batch] for batch in found] == [
        [(count, 4), (count, 6, 4), (count, 6)] for count in (3, 2)
    ]
    assert workload.amount(case) == workload.amount(usual)
    key = inputs["episodes"], inputs["batch"]
    monkeypatch.setitem(subject.loaders, key, Uint8(loader.dataset, batch_size=3, shuffle=True, num_workers=1))
    workload.run(subject, inputs)
    workload.run(subject, workload.inputs(usual, 1))
    assert asked == [True, False]
    assert all(torch.equal(a, b) for one, other in zip(found, whole) for a, b in zip(one, other[1:]))


def test_a_loader_without_end(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives as many batches as an epoch of others has."""
    (case,) = workload.cases({**SMALL, "part": "loader"})
    loader = next(iter(subject.loaders.values()))
    endless = type(loader)(loader.dataset, batch_sampler=([0, 1] for _ in iter(int, 1)), num_workers=1)
    inputs = workload.inputs(case, 1)
    monkeypatch.setitem(subject.loaders, (inputs["episodes"], inputs["batch"]), endless)
    assert [len(images) for images, *_ in workload.run(subject, inputs)["batches"]] == [2, 2]


def test_loaders_are_always_compared() -> None:
    """Items only where they are asked for."""
    parts = {
        asked: [case.partition(",")[0] for case in workload.more_cases({"part": asked} if asked else {})]
        for asked in ("", "item", "loader", "training", "item,loader")
    }
    assert parts == {
        "": ["item", "item", "batch", "loader", "loader"],
        "item": ["item", "item", "loader", "loader"],
        "loader": ["loader", "loader"],
        "training": ["training", "training", "loader", "loader"],
        "item,loader": ["item", "item", "loader", "loader"],
    }


@pytest.mark.parametrize("part", ["item", "batch", "loader"])
def test_wrong_variants(subject: Any, part: str) -> None:
    """Each changes what comes out, and of no type what it is."""
    import numpy
    import torch

    inputs = workload.inputs(workload.cases({**SMALL, "part": part})[0], 2)

    def made() -> list[Any]:
        numpy.random.seed(0)
        (found,) = workload.run(subject, inputs).values()
        return [found] if part == "batch" else list(found)

    right = made()
    for name, wrong in workload.WRONG.items():
        if wrong(subject) is False:
            assert name.startswith("a learning rate")
            continue
        found = made()
        assert [type(one) for one in found] == [type(one) for one in right]
        same = [torch.equal(a, b) for one, other in zip(right, found) for a, b in zip(one, other)]
        assert not all(same), name


def test_a_load_data_that_wants_more(tmp_path: Path) -> None:
    def load_data(dataset_dir: str, robot: str) -> None: ...

    with pytest.raises(ValueError, match="load_data wants robot"):
        workload._loader(load_data, workload._known(str(tmp_path), 1, 5, 2, None))


def test_images_as_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subject: Any) -> None:
    pytest.importorskip("cv2")
    options = {**SMALL, "images": "jpeg", "file": "utils.py"}
    workload.prepare(str(tmp_path / "jpeg"), options)
    made = workload.load(str(tmp_path / "jpeg"), options)
    (images, *_), *_ = workload.run(made, workload.inputs(workload.cases(options)[0], 1))["items"]
    assert images.shape == (2, 3, 16, 24)


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or cannot be imported: torchvision for another torch."""
    torch = pytest.importorskip("torch")

    def broken(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    def nobody() -> str:
        raise OSError("no terminal")

    monkeypatch.setattr(workload.stand_ins.importlib, "import_module", broken)
    monkeypatch.setattr(workload.stand_ins.os, "getlogin", nobody)
    for name in ("IPython", "torchvision", "torchvision.transforms"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    workload.stand_ins.put_in()
    assert sys.modules["IPython"].embed is None
    assert workload.stand_ins.os.getlogin() == "user"
    crop = sys.modules["torchvision"].transforms.RandomCrop(size=[3, 4])
    images = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)
    torch.manual_seed(0)
    assert crop(images).dtype == torch.uint8 and any(not torch.equal(crop(images), images) for _ in range(9))


def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script's own loops give a policy the batches of two epochs, those for validation first; the same for the same seed."""
    pytest.importorskip("h5py")
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(REFERENCE))
    for name in ("policy", "utils", "imitate_episodes", "IPython", "torchvision", *workload.training.STOOD_IN):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        if name in ("utils", "imitate_episodes"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(torch.Tensor, "cuda", torch.Tensor.cuda)
    monkeypatch.setattr(torch.nn.Module, "cuda", torch.nn.Module.cuda)
    options = {**SMALL, "part": "training", "file": "utils.py"}
    workload.prepare(str(tmp_path), options)
    subject = workload.load(str(tmp_path), options)
    (case,) = workload.cases(options)
    workload.stand_ins.seed_all(0)
    first = workload.run(subject, workload.inputs(case, 0))
    assert [tuple(batch[0].shape) for batch in first["seen"]] == [(count, 2, 3, 16, 24) for count in (2, 3, 2)] * 2
    assert workload.amount(case) == (10.0, "moments")
    again = workload.run(subject, workload.inputs(case, 1))
    assert all(torch.equal(a, b) for one, other in zip(first["seen"], again["seen"]) for a, b in zip(one, other))
    assert all(map(torch.equal, first["weights"], again["weights"])) and float(first["weights"][0][0]) != 0.5
    assert workload.WRONG["images a shade darker"](subject)
    darker = workload.run(subject, workload.inputs(case, 0))
    assert not torch.equal(first["seen"][0][0], darker["seen"][0][0])


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
    before = set(sys.modules)
    workload.prepare(str(tmp_path), options)
    subject = workload.load(str(tmp_path), options)
    yield subject, lambda seed: workload.run(subject, workload.inputs(workload.cases(options)[0], seed))
    _forget(set(sys.modules) - before)


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
    assert not torch.equal(weights["model.head.weight"], other["weights"]["policy_last.ckpt"]["model.head.weight"])


def test_a_wrong_learning_rate(trained: Any) -> None:
    import torch

    subject, run = trained
    right = run(1)["weights"]["policy_last.ckpt"]
    assert workload.WRONG["a learning rate that is a hundredth more"](subject)
    wrong = run(1)["weights"]["policy_last.ckpt"]
    assert not torch.equal(right["model.head.weight"], wrong["model.head.weight"])
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


def test_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user runs it, with all bad inputs; twice, since a workload may not leave its episodes otherwise than it found them."""
    pytest.importorskip("h5py")
    pytest.importorskip("torch")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tree = shutil.copytree(REFERENCE, tmp_path / "tree")
    small = [word for name, value in SMALL.items() for word in ("--option", f"{name}={value}")]
    ran = call("verify", "act_skip_qvel", *small, "--json", cwd=tree)
    assert ran.code == 0, ran.out + ran.err
    found = json.loads(ran.out)
    assert found["verdict"] == "parity"
