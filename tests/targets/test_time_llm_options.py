"""What the user may say to Time-LLM's workload, and what it says of what cannot be meant."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apply_opt.cli import main
from apply_opt.io import catalog
from apply_opt.io.workers import Arm, Setting, WorkerFailed
from apply_opt.worker.__main__ import load_file

FOLDER = Path(catalog.load(packs=False).targets["time_llm"].folder)
workload: Any = load_file(str(FOLDER / "workload.py"), "_time_llm_under_test")


def test_the_usual_cases() -> None:
    assert workload.cases({}) == ["prompts, inference, 4 x 3 x 96", "forecast, inference, 4 x 3 x 96"]
    own = [case for case in workload.COMPARED if not case.startswith(("loader", "epoch"))]
    assert workload.more_cases({}) == own and len(set(own)) > 3


PARTS = [
    ({"": "models/TimeLLM.py"}, ["prompts", "forecast"]),
    ({"generator": "layers/DWTPromptGenerator.py"}, ["prompts", "forecast"]),
    ({"loader": "data.py"}, ["loader", "loader"]),
    ({"training": "train.py"}, ["epoch"]),
    ({"": "models/TimeLLM.py", "loader": "data.py"}, ["prompts", "forecast", "loader", "loader"]),
    ({"": "m.py", "generator": "g.py", "training": "t.py"}, ["prompts", "forecast", "epoch"]),
]


@pytest.mark.parametrize(("changed", "parts"), PARTS)
def test_what_the_changed_files_are_for(changed: dict[str, str], parts: list[str]) -> None:
    """So much is run, and no more is compared."""
    cases = workload.cases({"parts": changed})
    assert [case.partition(",")[0] for case in cases] == parts
    groups = {part if part in ("loader", "epoch") else "model" for part in parts}
    for case in workload.COMPARED:
        part = case.partition(",")[0]
        is_of = (part if part in ("loader", "epoch") else "model") in groups
        assert (case in workload.more_cases({"parts": changed})) == is_of
    named = [case.partition(",")[0] for case in workload.cases({"parts": changed, "part": "tokens,epoch"})]
    assert named == ["tokens", "epoch", *(part for part in parts if part == "loader")], (
        "and what would not run otherwise"
    )


def test_loaders_shuffle_in_training_and_the_script_trains() -> None:
    assert workload.cases({"part": "loader"}) == ["loader, inference, 4 x 3 x 96", "loader, training, 4 x 3 x 96"]
    assert workload.cases({"part": "loader,epoch", "mode": "training"}) == [
        "loader, training, 4 x 3 x 96",
        "epoch, training, 4 x 1 x 48",
    ]
    with pytest.raises(ValueError, match="mode=inference of all but epoch"):
        workload.cases({"part": "epoch", "mode": "inference"})


@pytest.mark.parametrize(
    ("batch", "variables", "steps"), [(1, 1, 33), (3, 1, 41), (4, 3, 96), (24, 7, 512), (2, 321, 48)]
)
def test_series_are_long_enough(batch: int, variables: int, steps: int) -> None:
    """For as many batches as are asked for, and at least one from every other part of the data."""
    for part, least in (("loader", {"train": 16, "test": 16}), ("epoch", {"train": 6, "val": 1, "test": 1})):
        rows, ahead = workload._rows(part, batch, variables, steps), workload.AHEAD[part]
        train, test = int(rows * 0.7), int(rows * 0.2)
        windows = {"train": train - steps - ahead + 1, "test": test - ahead + 1, "val": rows - train - test - ahead + 1}
        for flag, batches in least.items():
            assert windows[flag] * variables // batch >= batches, (part, flag)


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> Iterator[Any]:
    """The reference tree, loaded for this part."""
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FOLDER / "reference"))
    options = {"file": "models/TimeLLM.py", "here": "", "part": part}
    workload.prepare(str(tmp_path), options)
    torch = pytest.importorskip("torch")
    before, threads = set(sys.modules), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield workload.load(str(tmp_path), options)
    finally:
        torch.set_num_threads(threads)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("data_provider", "models", "layers", "utils", "the training script"):
                del sys.modules[name]


def test_batches_of_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    for subject in run(tmp_path, monkeypatch, "loader"):
        inputs = workload.inputs("loader, inference, 3 x 2 x 33", 1)
        batches = workload.run(subject, inputs)["batches"]
        assert len(batches) == 16 and [tuple(field.shape) for field in batches[0]] == [
            (3, 33, 1),
            (3, 40, 1),
            (3, 33, 3),
            (3, 40, 3),
        ]
        assert torch.equal(batches[2][0][1, :, 0], inputs["series"].double()[7:40, 0])
        shuffled = workload.run(subject, workload.inputs("loader, training, 3 x 2 x 33", 1))["batches"]
        assert not torch.equal(shuffled[2][0], batches[2][0])
        assert workload.module(subject) is None and workload.stages(subject) == {}
        assert [name for name, wrong in workload.WRONG.items() if wrong(subject) is not False] == [
            "windows a step late",
            "windows of a batch in another order",
        ]
    assert "pandas" not in sys.modules or hasattr(sys.modules["pandas"], "__version__")


def test_wavelets_of_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features and prompts of each window alone, and of all at once where the checkout has that."""
    pytest.importorskip("ptwt")
    for subject in run(tmp_path, monkeypatch, "wavelets"):
        inputs = workload.inputs("wavelets, inference, 5 x 7 x 96", 1)
        model = subject["7 x 96"]
        found = workload.run(subject, inputs)
        assert len(found["features"]) == len(found["prompts"]) == 5 == len(set(found["prompts"]))
        assert found["features"][0]["energy_ratio"]["numbers"] == "float32" and json.dumps(found)
        alone = workload.run(subject, {**inputs, "x_enc": inputs["x_enc"][2:3]})
        assert alone["features"] == found["features"][2:3]
        generator = workload._generator(model)
        monkeypatch.setattr(
            type(generator), "features_of_each", lambda self, x, first=found["features"][0]: {3: first}, raising=False
        )
        batched = workload.run(subject, inputs)["prompts"]
        assert batched == [*found["prompts"][:3], found["prompts"][0], found["prompts"][4]]
        stages = workload.stages(subject)
        assert {"wavelets", "wavelets of a batch", "decomposition", "difficulty", "trend features"} <= set(stages)
        assert all(callable(getattr(owner, name)) for owner, name in stages.values())
        monkeypatch.setattr(workload, "_generator", lambda model: None)
        assert workload.run(subject, inputs), "a run without outputs says nothing to verify"
        with pytest.raises(ValueError, match="part=wavelets is of models that write prompts from wavelets"):
            workload.load(str(tmp_path), {"file": "models/TimeLLM.py", "here": "", "part": "wavelets"})


def test_the_script_of_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    for subject in run(tmp_path, monkeypatch, "epoch"):
        inputs = workload.inputs("epoch, training, 2 x 1 x 33", 1)
        found, again = workload.run(subject, inputs), workload.run(subject, inputs)
        assert found["printed"] == again["printed"] and found["means"] == again["means"]
        assert len([line for line in found["printed"] if "trained" in line]) == workload.EPOCHS
        assert not any("time" in line for line in found["printed"])
        assert {"train_loss", "vali_loss", "test_loss"} <= set(found["means"]) and len(found["trained"]) > 5
        subject.script.may_round = True
        rounded = workload.run(subject, inputs)
        subject.script.may_round = False
        figures = [float(number) for line in found["printed"] for number in re.findall(r"\d+\.\d+", line)]
        assert rounded["figures"].tolist() == pytest.approx([*figures, *found["means"].values()], rel=1e-6)
        assert len(figures) >= 3 * workload.EPOCHS and not re.search(r"\d\.\d", "".join(rounded["printed"]))
        assert [re.sub(r"\d+\.\d+", "", line) for line in found["printed"]] == [
            re.sub(r"#\.#+", "", line) for line in rounded["printed"]
        ]
        assert [name for name, wrong in workload.WRONG.items() if wrong(subject) is not False] == [
            "the last loss for all"
        ]
        wrong = workload.run(subject, inputs)
        assert wrong["means"]["train_loss"] != found["means"]["train_loss"]


def test_combined() -> None:
    options = {
        "part": "tokens,forecast",
        "mode": "inference,training",
        "batch": "2,24",
        "variables": "1",
        "steps": "100",
    }
    assert workload.cases(options) == [
        *(f"tokens, inference, {batch} x 1 x 100" for batch in (2, 24)),
        *(f"forecast, {mode}, {batch} x 1 x 100" for mode in ("inference", "training") for batch in (2, 24)),
    ]


def test_training_is_of_the_forecast() -> None:
    assert workload.cases({"mode": "training"}) == ["forecast, training, 4 x 3 x 96"]
    with pytest.raises(ValueError, match="mode=training is of part=forecast, loader and epoch"):
        workload.cases({"mode": "training", "part": "prompts"})


WRONG = [
    ({"part": "words"}, "part is one of prompts, tokens, forecast, wavelets, loader, epoch, not words"),
    ({"part": "prompts,"}, "part is one of prompts, tokens, forecast, wavelets, loader, epoch, not "),
    ({"mode": "slow"}, "mode is one of inference, training, not slow"),
    ({"batch": "0"}, "batch is a number from 1 (or several, with commas between), not 0"),
    ({"batch": "4,x"}, "batch is a number from 1 (or several, with commas between), not 4,x"),
    ({"variables": "-1"}, "variables is a number from 1 (or several, with commas between), not -1"),
    ({"steps": ""}, "steps is a number from 1 (or several, with commas between), not "),
    ({"steps": "9²"}, "steps is a number from 1 (or several, with commas between), not 9²"),
    ({"layers": "0"}, "layers is a number from 1, not 0"),
    ({"layers": "two"}, "layers is a number from 1, not two"),
    ({"size": "huge"}, "size is one of tiny, small, not huge"),
    ({"prompt": "none"}, "prompt is one of auto, plain, dwt, not none"),
    ({"precision": "float16"}, "precision is one of auto, bfloat16, float32, not float16"),
]


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_what_cannot_be_run(options: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said) + "$"):
        workload.cases(options)


@pytest.mark.parametrize(("options", "said"), [case for case in WRONG if set(case[0]) & {"size", "prompt", "layers"}])
def test_what_cannot_be_prepared(options: dict[str, str], said: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=re.escape(said) + "$"):
        workload.prepare(str(tmp_path), {"file": "models/TimeLLM.py", "here": "", **options})
    assert list(tmp_path.iterdir()) == []


def test_a_case_says_what_is_in_it() -> None:
    torch = pytest.importorskip("torch")
    case = "tokens, inference, 5 x 2 x 40"
    assert workload.amount(case) == (5.0, "windows")
    found, again, other = workload.inputs(case, 3), workload.inputs(case, 3), workload.inputs(case, 4)
    assert found["x_enc"].shape == (5, 40, 2) and found["shape"] == "2 x 40"
    assert (found["part"], found["mode"]) == ("tokens", "inference")
    assert torch.equal(found["x_enc"], again["x_enc"]) and not torch.equal(found["x_enc"], other["x_enc"])
    assert workload.on_device(found) is found["x_enc"]
    assert all(len(set(bad)) >= 3 for bad in workload.bad_inputs().values())


def test_patches_in_the_precision_of_the_parameters() -> None:
    """They are rounded to 16 bits on the way, which parameters of other types could not read."""
    torch = pytest.importorskip("torch")
    model, patches = torch.nn.Module(), torch.ones(2, 3, dtype=torch.bfloat16)
    model.patch_embedding = torch.nn.Linear(3, 4)
    with pytest.raises(RuntimeError):
        model.patch_embedding(patches)
    workload._rounds_no_further(model)
    workload._rounds_no_further(torch.nn.Module())  # which has none
    assert model.patch_embedding(patches).dtype == torch.float32
    workload.double(torch.nn.ModuleDict({"3 x 96": model}))
    assert model.patch_embedding(patches).dtype == torch.float64


def test_what_runs_no_model_has_none_to_compile() -> None:
    with pytest.raises(ValueError, match="run no model of their own"):
        workload.entry({})


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("timellm_single_rfft", {"": "models/TimeLLM.py"}),
        ("timellm_loader", {"loader": "data/factory.py"}),
        ("timellm_fast", {"": "models/TimeLLM.py", "loader": "data/factory.py", "training": "run_main.py"}),
    ],
)
def test_it_is_told_which_files_differ(
    name: str, parts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a fork has them in other places; and no user says so in its place."""
    shutil.copytree(FOLDER / "reference", tmp_path / "tree")
    (tmp_path / "tree" / "data_provider").rename(tmp_path / "tree" / "data")
    (tmp_path / "tree" / "data" / "data_factory.py").rename(tmp_path / "tree" / "data" / "factory.py")
    told: list[dict[str, Any]] = []

    def prepare(setting: Setting, arm: Arm) -> None:
        told.append(dict(setting.options))
        raise WorkerFailed("crashed", "that was all")

    monkeypatch.setattr("apply_opt.io.prepared.prepare", prepare)
    assert main(["verify", name, "--repo", str(tmp_path / "tree")]) == 4
    assert told[0]["parts"] == parts and told[0]["file"] == "models/TimeLLM.py"
    assert main(["verify", name, "--repo", str(tmp_path / "tree"), "--option", "parts=loader"]) == 2
    assert len(told) == 1
