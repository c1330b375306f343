"""What the user may say to Time-LLM's workload, and what it says of what cannot be meant."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from apply_opt.io import catalog

FOLDER = Path(catalog.load(packs=False).targets["time_llm"].folder)
SPECIFICATION = importlib.util.spec_from_file_location("_time_llm_under_test", FOLDER / "workload.py")
assert SPECIFICATION is not None and SPECIFICATION.loader is not None
workload: Any = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(workload)


def test_the_usual_cases() -> None:
    assert workload.cases({}) == ["prompts, inference, 4 x 3 x 96", "forecast, inference, 4 x 3 x 96"]
    assert len(workload.more_cases({})) == len(set(workload.COMPARED)) > 3


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
    with pytest.raises(ValueError, match="mode=training is of part=forecast"):
        workload.cases({"mode": "training", "part": "prompts"})


WRONG = [
    ({"part": "words"}, "part is one of prompts, tokens, forecast, not words"),
    ({"part": "prompts,"}, "part is one of prompts, tokens, forecast, not "),
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
