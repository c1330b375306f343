"""``act_device_training``: ``.cuda()`` of tensors and modules of a training script, and where ``torch.load`` puts tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from act import TRAINING, module_of
from cases import above, constant, lands, plan, refuses, replaced, skips, with_tabs

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import NOT_NEEDED, PLANNED

NAME = "act_device_training"
LOSSES = """import os
import torch


def losses(data, policy):
    image, qpos = data
    image, qpos = image.cuda(), qpos.cuda()
    return policy(qpos, image)


def trained(make_policy, path):
    policy = make_policy()
    policy.cuda()
    policy.train()
    return policy
"""
MOVED = ((".cuda(), qpos.cuda()", ".to(_device()), qpos.to(_device())"), ("policy.cuda()", "policy.to(_device())"))


def after(text: str, anchor: str = "def losses") -> str:
    texts = constant(NAME, "edits").__globals__
    helpers = texts["HELPER_TEXT"] + (texts["LOADED_TEXT"] if "_where_to_load()" in text else "")
    return above(text, anchor, str(helpers))


def test_lands() -> None:
    lands(NAME, LOSSES, after(replaced(LOSSES, *MOVED)))
    lands(NAME, with_tabs(LOSSES), with_tabs(after(replaced(LOSSES, *MOVED))))


def test_lands_on_the_reference() -> None:
    lands(NAME, TRAINING, after(TRAINING.replace(".cuda()", ".to(_device())"), "def forward_pass"))


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("x = torch.zeros(3).cuda()", "x = torch.zeros(3).to(_device())"),
        (
            "x = torch.from_numpy(a / 255.0).float().cuda()[None]",
            "x = torch.from_numpy(a / 255.0).float().to(_device())[None]",
        ),
        ("x = (torch.ones(3) * 2).cuda()", "x = (torch.ones(3) * 2).to(_device())"),
        ("x = torch.zeros(\n        3,\n    ).cuda()", "x = torch.zeros(\n        3,\n    ).to(_device())"),
        ("policy = make_policy().cuda()", "policy = make_policy().to(_device())"),
        ("model = torch.nn.Linear(3, 4).cuda()", "model = torch.nn.Linear(3, 4).to(_device())"),
        (
            "policy.load_state_dict(torch.load(path))",
            "policy.load_state_dict(torch.load(path, map_location=_where_to_load()))",
        ),
        ("torch.load(path, weights_only=True)", "torch.load(path, weights_only=True, map_location=_where_to_load())"),
        ("torch.load(os.path.join(path, 'x'),)", "torch.load(os.path.join(path, 'x'), map_location=_where_to_load())"),
        ("torch.load(path, map_location='cpu')", "torch.load(path, map_location='cpu')"),
        ("torch.load(path, 'cpu')", "torch.load(path, 'cpu')"),
        ("pickle.load(path)", "pickle.load(path)"),
        ("torch.cuda.empty_cache()", "torch.cuda.empty_cache()"),
    ],
)
def test_what_else_is_moved(line: str, becomes: str) -> None:
    before = replaced(LOSSES, ("policy.train()", f"policy.train()\n    {line}"))
    lands(NAME, before, after(replaced(before, *MOVED, *([(line, becomes)] if line != becomes else []))))


@pytest.mark.parametrize(
    "body",
    [
        "image, qpos = [part.cuda() for part in data]",
        "image, qpos = (part.cuda(non_blocking=True) for part in data)",
        "image, qpos = data[0].cuda(), data['qpos'].cuda()",
        "for part in data:\n        part.cuda()",
        "for name, part in data:\n        part.float().cuda(non_blocking = True,)",
    ],
)
def test_batches(body: str) -> None:
    before = replaced(LOSSES, ("image, qpos = data\n    image, qpos = image.cuda(), qpos.cuda()", body))
    made = plan(NAME, before)
    assert made.kind == PLANNED, made.message
    written = made.after.decode().split("def losses")[1]
    assert ".cuda(" not in written
    assert written.count("(_device(), non_blocking") == before.count("non_blocking")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("policy.cuda(0)", "a certain device"),
        ("policy.cuda(device=rank)", "a certain device"),
        ("policy.cuda(*devices)", "a certain device"),
        ("torch.zeros(3).cuda(None)", "a certain device"),
        ("torch.zeros(3)  .  cuda(  # first\n    )", "a certain device"),
        ("timer.cuda()", "cannot be told"),
        ("path.cuda()", "cannot be told"),
        ("torch.load(path, map_location='cpu').cuda()", "cannot be told"),
        ("torch.cat([torch.ones(3).cuda()]).cuda()", "within another"),
        ("if torch.cuda.is_available():\n        policy.cuda()", "CUDA only"),
        ("if path == 'cuda':\n        policy.cuda()", "CUDA only"),
        ("use = torch.cuda.is_available()\n    policy = policy.cuda() if use else policy", "CUDA only"),
        ("torch = path", "something else"),
        ("move = policy.cuda", "is not called there"),
        ("try:\n        policy.cuda()\n    except Exception:\n        path = 'cpu'", "by an exception"),
    ],
)
def test_what_cannot_be_told(line: str, words: str) -> None:
    refuses(NAME, replaced(LOSSES, ("policy.train()", f"policy.train()\n    {line}")), Ambiguous, words)


@pytest.mark.parametrize("name", ["cuda", "to"])
def test_an_own_method(name: str) -> None:
    more = f"\n\nclass Batch:\n    def {name}(self, device=None):\n        return self\n"
    refuses(NAME, LOSSES + more, Conflict, "of the file's own")


def test_nothing_is_moved() -> None:
    refuses(NAME, LOSSES.replace(".cuda()", ".cpu()"), NoSite, "nothing is brought to the GPU")
    refuses(NAME, 'import torch\ntext = "policy.cuda()"  # policy.cuda()\n', NoSite, "nothing is brought to the GPU")
    refuses(NAME, LOSSES.replace(".cuda()", ".to(device)"), NoSite, "nothing is brought to the GPU")


def test_without_torch() -> None:
    refuses(NAME, replaced(LOSSES, ("import torch", "import torch as t")), Ambiguous, "torch is not imported")


def test_the_author_asks_for_cuda() -> None:
    asked = "if torch.cuda.is_available():\n        policy.cuda()"
    text = replaced(LOSSES, ("policy.cuda()", asked), ("    image, qpos = image.cuda(), qpos.cuda()\n", ""))
    skips(NAME, text, NOT_NEEDED, "torch.cuda.is_available()")


def test_half_done() -> None:
    done = after(replaced(LOSSES, *MOVED))
    refuses(NAME, replaced(done, ("policy.to(_device())", "policy.cuda()")), PartlyApplied, ".cuda() beside")
    loads = replaced(LOSSES, ("policy.train()", "policy.train()\n    policy.load_state_dict(torch.load(path))"))
    loaded = plan(NAME, loads).after.decode()
    refuses(NAME, replaced(loaded, ("def _where_to_load", "def _where")), PartlyApplied, "_where_to_load")
    refuses(NAME, replaced(LOSSES, *MOVED), PartlyApplied, "defined 0 times")


def test_names_that_are_taken() -> None:
    loads = replaced(LOSSES, ("policy.train()", "policy.load_state_dict(torch.load(path))"))
    for line in (
        "_device = 3",
        "def _where_to_load(): pass",
        "functools = None",
        "from warnings import warn as warnings",
    ):
        refuses(NAME, replaced(loads, ("import os", line)), Conflict, "already uses the name")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script of the test, with the optimization, on a machine without any GPU."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    loads = replaced(
        LOSSES, ("policy.train()", "policy.train()\n    path and policy.load_state_dict(torch.load(path))")
    )
    return module_of(plan(NAME, loads).after.decode(), tmp_path, "act_training_anywhere")


def test_on_the_cpu(written: Any) -> None:
    import torch

    with pytest.warns(UserWarning, match="there is no CUDA device: cpu computes"):
        policy = written.trained(lambda: torch.nn.Bilinear(3, 3, 1), "")
    made = written.losses((torch.ones(2, 3), torch.ones(2, 3)), policy)
    assert made.device.type == written._where_to_load().type == "cpu"
    with pytest.raises(AttributeError, match="no attribute 'to'"):
        written.losses(([1.0], [2.0]), policy)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_where_there_is_a_gpu(written: Any, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    import torch

    monkeypatch.setattr(torch.cuda if kind == "cuda" else torch.backends.mps, "is_available", lambda: True)
    if kind == "cuda":
        assert written._device() == torch.device("cuda")  # without a number: the current one
        assert written._where_to_load() is None
    else:
        with pytest.warns(UserWarning, match="mps computes"):
            assert written._where_to_load() == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("asked again"))
    assert written._device().type == kind


def test_with_cuda(tmp_path: Path) -> None:
    """The same device and bits as with ``.cuda()``."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")

    plain = module_of(LOSSES, tmp_path, "act_training_plain")
    moved = module_of(plan(NAME, LOSSES).after.decode(), tmp_path, "act_training_moved")
    made = []
    for module in (plain, moved):
        torch.manual_seed(0)
        policy = module.trained(lambda: torch.nn.Bilinear(3, 3, 1), "")
        made.append(module.losses((torch.randn(2, 3), torch.randn(2, 3)), policy))
    assert made[0].device == made[1].device == torch.device("cuda", torch.cuda.current_device())
    assert torch.equal(*made)
