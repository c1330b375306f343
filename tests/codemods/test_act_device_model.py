"""``act_device_model``: ``.cuda()`` where the model is built."""

from __future__ import annotations

import pytest
from act import TARGET
from cases import above, constant, lands, refuses, replaced, skips, with_tabs

from apply_opt.errors import Ambiguous, NoSite, PartlyApplied
from apply_opt.model.plan import NOT_NEEDED

NAME = "act_device_model"
REFERENCE = (TARGET / "reference/detr/main.py").read_text(encoding="utf-8")
TWO = (
    REFERENCE
    + """

def build_CNNMLP_model_and_optimizer(config):
    model = Model(config)
    model.cuda()
    return model, torch.optim.AdamW(model.parameters(), lr=config["lr"])
"""
)


def after(text: str) -> str:
    helper = constant(NAME, "edits").__globals__["HELPER_TEXT"]
    return above(text.replace("model.cuda()", "model.to(_device())"), "def build_ACT", str(helper))


def test_lands() -> None:
    lands(NAME, REFERENCE, after(REFERENCE))
    lands(NAME, TWO, after(TWO))
    lands(NAME, with_tabs(TWO), with_tabs(after(TWO)))
    chained = REFERENCE.replace("Model(config)\n    model.cuda()", "Model(config).cuda()")
    lands(NAME, chained, after(chained).replace("Model(config).cuda()", "Model(config).to(_device())"))


def test_other_places() -> None:
    refuses(NAME, REFERENCE.replace(".cuda()", ".to(device)"), NoSite, "nothing is brought to the GPU")
    refuses(NAME, REFERENCE.replace("model.cuda()", "model.cuda(config['gpu'])"), Ambiguous, "a certain device")
    refuses(NAME, REFERENCE.replace("import torch\n", ""), Ambiguous, "torch is not imported")
    unknown = replaced(REFERENCE, ("model, torch.optim.AdamW(model.parameters(),", "model, made(model,"))
    refuses(NAME, unknown, Ambiguous, "cannot be told")
    guarded = replaced(REFERENCE, ("    model.cuda()", "    if torch.cuda.is_available():\n        model.cuda()"))
    skips(NAME, guarded, NOT_NEEDED, "torch.cuda.is_available()")


def test_half_done() -> None:
    done = after(TWO)
    half = done.replace("model.to(_device())", "model.cuda()", 1)
    refuses(NAME, half, PartlyApplied, ".cuda() beside _device")
    refuses(NAME, TWO.replace("model.cuda()", "model.to(_device())"), PartlyApplied, "defined 0 times")


def test_built_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference tree's policy: with ``.cuda()`` it raises, with the optimization it is on the CPU, its optimizer's weights too."""
    torch = pytest.importorskip("torch")

    def raises(*values: object) -> None:
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch.nn.Module, "cuda", raises)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    config = {"num_queries": 3, "hidden_dim": 8, "state_dim": 4, "action_dim": 4, "camera_names": ["top"], "lr": 1e-3}
    plain, moved = ({}, {})  # type: ignore[var-annotated]
    exec(compile(REFERENCE, "plain", "exec"), plain)
    exec(compile(after(REFERENCE), "moved", "exec"), moved)
    with pytest.raises(AssertionError, match="not compiled with CUDA"):
        plain["build_ACT_model_and_optimizer"](config)
    with pytest.warns(UserWarning, match="cpu computes"):
        model, optimizer = moved["build_ACT_model_and_optimizer"](config)
    held = {id(part) for group in optimizer.param_groups for part in group["params"]}
    assert held == {id(part) for part in model.parameters()}
    assert model(torch.zeros(2, 4), torch.zeros(2, 1, 3, 32, 32)).shape == (2, 3, 4)
