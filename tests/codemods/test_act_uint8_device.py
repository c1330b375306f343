"""``act_uint8_device``: only where every batch of the loaders goes through one function, which may move images and nothing else before."""

from __future__ import annotations

import types
from typing import Any

import pytest
from cases import constant, lands, plan, refuses, replaced, skips, with_tabs
from support import ROOT

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied, Refused
from apply_opt.model.plan import ALREADY, PLANNED

NAME = "act_uint8_device"
HELPER = constant(NAME, "HELPER_TEXT").strip("\n")
REFERENCE = (ROOT / "target_repos/act/reference/imitate_episodes.py").read_text(encoding="utf-8")
FLAG = "train.images_as_uint8 = val.images_as_uint8 = True  # _scaled_if_uint8 makes floats of them"
CALL = "train, val, stats, _ = load_data(args.dir)"
UNPACK = "images, qpos, actions = data"
MOVE = "images, qpos, actions = images.cuda(), qpos.cuda(), actions.cuda()"
USE = "return policy(qpos, images, actions)"
VALIDATE, TRAIN = "for data in val:", "for number, data in enumerate(train):"
FIT = "fit(train, val, args)  # all"
MODULE = f"""import numpy as np
import torch
from loading import load_data


def main(args):
    {CALL}
    keep(stats)
    {FIT}


# one batch
def forward_pass(data, policy):
    {UNPACK}
    {MOVE}
    {USE}


def fit(train, val, args):
    policy = make(args)
    {VALIDATE}
        print(forward_pass(data, policy))
    {TRAIN}
        forward_pass(data, policy).backward()
"""


def changed(text: str, call: str = CALL, use: str = USE, flag: str = FLAG, name: str = "images") -> str:
    """The module with the flags, the helper, and its call."""
    return replaced(
        text,
        (call, f"{call}\n    {flag}"),
        (use, f"{name} = _scaled_if_uint8({name})\n    {use}"),
        ("# one batch\n", f"{HELPER}\n\n\n# one batch\n"),
    )


def test_lands() -> None:
    lands(NAME, MODULE, changed(MODULE))
    lands(NAME, with_tabs(MODULE), with_tabs(changed(MODULE)))


def test_lands_on_the_reference() -> None:
    after = plan(NAME, REFERENCE).after.decode()
    assert "    image_data = _scaled_if_uint8(image_data)\n    return policy(" in after
    assert "train_dataloader.images_as_uint8 = val_dataloader.images_as_uint8 = True" in after


@pytest.mark.parametrize(
    "move",
    [
        "images = images.to(device)\n    qpos, actions = qpos.cuda(), actions.cuda()",
        "images = images.cuda(non_blocking=True)",
        "images, qpos, actions = (images.to('cuda'), qpos.to('cuda'), actions.to('cuda'))",
        "if torch.cuda.is_available():\n        images = images.cuda()\n        qpos = qpos.cuda()",
        "_t_02.start()\n    images = images.to(args.device)\n    _t_02.stop()",
        "qpos = qpos / 2",
    ],
)
def test_moves(move: str) -> None:
    text = replaced(MODULE, (MOVE, move))
    lands(NAME, text, changed(text))


@pytest.mark.parametrize(
    "statement",
    [
        "images = images.to(torch.float32)",
        "images = images.to(device_dtype)",
        "images = images.to(device, dtype=kind)",
        "images = images.half()",
        "images = images.cuda().float()",
        "images, shape = images.cuda(), images.shape",
        "with autocast():\n        images = images.cuda()",
        "if images.dim() == 5:\n        images = images.cuda()",
    ],
)
def test_what_may_change_numbers(statement: str) -> None:
    """Floats are made before it."""
    text = replaced(MODULE, (MOVE, statement))
    lands(NAME, text, changed(text, use=statement))


@pytest.mark.parametrize(
    "loop",
    [
        "for data in tqdm(train):",
        "for number, data in enumerate(tqdm(train)):",
        "for _ in range(3):\n      data = next(iter(train))\n      if True:",
        "loader = endless(train)\n    for _ in range(3):\n        data = next(loader)",
        "print(len(train), train.batch_size)\n    for data in train:",
    ],
)
def test_ways_to_iterate(loop: str) -> None:
    more = (
        "\n\ndef endless(loader):\n    for each in repeat(loader):\n        for data in each:\n            yield data\n"
    )
    text = replaced(MODULE, (TRAIN, loop)) + more
    outcome = plan(NAME, text)
    assert outcome.kind == PLANNED, outcome.message
    assert FLAG in outcome.after.decode()


def test_batches_that_are_taken_apart_in_the_loop() -> None:
    loop = f"{TRAIN}\n        {UNPACK}\n        loss = policy(images)\n        print(loss)"
    text = MODULE.partition("    " + VALIDATE)[0] + "    " + loop + "\n"
    after = plan(NAME, text).after.decode()
    assert "        images = _scaled_if_uint8(images)\n        loss = policy(images)\n" in after
    assert "    train.images_as_uint8 = True  #" in after


def test_a_loader_whose_batches_stay_as_they_are() -> None:
    text = replaced(MODULE, (VALIDATE, "for data in prepared(val):"))
    lands(NAME, text, changed(text, flag=FLAG.replace("val.images_as_uint8 = ", "")))


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        (CALL, "train = val = other(args)", NoSite, "no call of load_data"),
        (CALL, f"{CALL}\n    {CALL}", Ambiguous, "in 2 places"),
        (CALL, "loaders = load_data(args.dir)", Ambiguous, "does not go to variables"),
        (CALL, "train, *more = load_data(args.dir)", Ambiguous, "more than variables"),
        (CALL, "self.train, val = load_data(args.dir)", Ambiguous, "more than variables"),
        (CALL, f"{CALL}; print(1)", Ambiguous, "more than variables"),
        (FIT, "fit(prepare(train), val, args)", Ambiguous, "prepare"),
        (FIT, "fit(loaders=train)", Ambiguous, "train"),
        (FIT, "trainer.fit(train, val)", Ambiguous, "trainer.fit"),
        (FIT, "print(stats)", NoSite, "no batch of train"),
        (FIT, f"{FIT}\n    def step():\n        return next(iter(train))", Ambiguous, "another function"),
        (FIT, f"{FIT}\n    step(lambda: train)", Ambiguous, "train"),
        (TRAIN, f"{TRAIN}\n        show(data[0])", Ambiguous, "data"),
        (TRAIN, f"{TRAIN}\n        data = [part.cuda() for part in data]", Ambiguous, "data"),
        (TRAIN, f"{TRAIN}\n        log(data)", Ambiguous, "log"),
        (TRAIN, f"{TRAIN}\n        images, *rest = data", Ambiguous, "in 2 places"),
        (UNPACK, "frames, qpos, actions = data", Ambiguous, "cannot be told"),
        (UNPACK, "images, qpos, actions_of_images = data", Ambiguous, "cannot be told"),
        (USE, "return policy(qpos)", Ambiguous, "is used, behind that"),
        ("def forward_pass", "@torch.compile\ndef forward_pass", Conflict, "compiled"),
        ("import numpy as np\n", "", Ambiguous, "np"),
    ],
)
def test_what_is_refused(old: str, new: str, error: type[Refused], words: str) -> None:
    refuses(NAME, replaced(MODULE, (old, new)), error, words)


def test_it_is_there_already() -> None:
    skips(NAME, changed(MODULE), ALREADY)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"    {FLAG}\n", ""),
        ("    images = _scaled_if_uint8(images)\n", ""),
        (HELPER, ""),
        (HELPER, f"{HELPER}\n\n\n{HELPER}"),
    ],
)
def test_half_of_it(old: str, new: str) -> None:
    refuses(NAME, replaced(changed(MODULE), (old, new)), PartlyApplied, "partly applied")


# What is written


@pytest.fixture
def scaled() -> Any:
    """The function that is written."""
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    module = types.ModuleType("_act_uint8_device")
    vars(module).update(np=numpy, torch=torch)
    exec(HELPER, vars(module))
    return vars(module)["_scaled_if_uint8"]


@pytest.mark.parametrize("shape", [(1, 1, 16, 16, 1), (2, 3, 5, 7, 3), (3, 1, 1, 1, 3)])
def test_the_same_floats(scaled: Any, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    images = (torch.arange(torch.Size(shape).numel()) % 256).to(torch.uint8).reshape(shape)
    right = torch.stack([image.movedim(-1, -3) / 255.0 for image in images]).contiguous()
    found = scaled(images)
    assert torch.equal(found, right) and found.is_contiguous()
    assert (found.dtype, found.stride()) == (torch.float32, torch.empty(found.shape).stride())


def test_others_are_left_alone(scaled: Any) -> None:
    torch = pytest.importorskip("torch")
    for images in (torch.rand(1, 2, 3, 4, 5), torch.rand(2, 3).double(), torch.ones(2, 2, dtype=torch.bool)):
        assert scaled(images) is images


def test_on_another_device(scaled: Any) -> None:
    """A division of tensors, which has the same last bits everywhere; here without a device."""
    torch = pytest.importorskip("torch")
    images = torch.empty(2, 3, 5, 7, 3, dtype=torch.uint8, device="meta")
    found = scaled(images)
    assert (found.shape, found.dtype, found.is_contiguous()) == ((2, 3, 3, 5, 7), torch.float32, True)
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(values / torch.full((), 255.0), values / 255.0)
