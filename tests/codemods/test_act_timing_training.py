"""``act_timing_training``: stages of epochs and steps, with the clock that the data set's module has."""

from __future__ import annotations

import sys

import pytest
from cases import block, codemod, lands, plan, refuses, replaced, skips, with_tabs
from support import ROOT

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, PLANNED

NAME = "act_timing_training"


def constant_of_timing(name: str) -> str:
    """A text of the shared codemod."""
    return str(getattr(sys.modules[type(codemod(NAME)).__module__], name))


REFERENCE = (ROOT / "target_repos/act/reference/imitate_episodes.py").read_text(encoding="utf-8")
TOP = """
import torch
from tqdm import tqdm
from utils import load_data


def forward_pass(data, policy):
    return policy(*data)


def train_bc(train_dataloader, val_dataloader, config):
    policy, optimizer = made(config)
"""
END = """


if __name__ == "__main__":
    train_bc(*load_data(), {})
"""
EPOCHS = """
for epoch in tqdm(range(config["num_epochs"])):
    with torch.inference_mode():
        policy.eval()
        for data in val_dataloader:
            losses = forward_pass(data, policy)
    policy.train()
    for batch_idx, data in enumerate(train_dataloader):
        forward_dict = forward_pass(data, policy)
        loss = forward_dict["loss"]
        # backward
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(epoch)
return policy
"""
TIMED = """
for epoch in _clock.laps(tqdm(range(config["num_epochs"]))):
    _t10_TOTAL_validation.start()
    with torch.inference_mode():
        policy.eval()
        for data in val_dataloader:
            _t10.start()
            losses = forward_pass(data, policy)
            _t10.stop()
    _t10_TOTAL_validation.stop()
    policy.train()
    _t20_TOTAL_training.start()
    for batch_idx, data in enumerate(_t15.over(train_dataloader)):
        _t20.start()
        forward_dict = forward_pass(data, policy)
        _t20.stop()
        loss = forward_dict["loss"]
        # backward
        _t21.start()
        loss.backward()
        _t21.stop()
        _t22.start()
        optimizer.step()
        _t22.stop()
        optimizer.zero_grad()
    _t20_TOTAL_training.stop()
    print(epoch)
return policy
"""
ELSEWHERE = constant_of_timing("ELSEWHERE").replace("NEAR", "load_data")
CLOCK = f"""


{ELSEWHERE}_t10_TOTAL_validation = _clock.stage("10_TOTAL_validation", phase="validation")
_t10 = _clock.stage("10_val_forward_pass", within="10_TOTAL_validation", launches=True)
_t20_TOTAL_training = _clock.stage("20_TOTAL_training", phase="training")
_t15 = _clock.stage("15_data_wait", within="20_TOTAL_training")
_t20 = _clock.stage("20_train_forward_pass", within="20_TOTAL_training", launches=True)
_t21 = _clock.stage("21_backward", within="20_TOTAL_training", launches=True)
_t22 = _clock.stage("22_optimizer_step", within="20_TOTAL_training", launches=True)
"""
STEPS = """
train_dataloader = repeater(train_dataloader)
for step in tqdm(range(config["num_steps"] + 1)):
    if step % 50 == 0:
        with torch.no_grad():
            for data in val_dataloader:
                losses = forward_pass(data, policy)
                if done(losses):
                    break
    data = next(train_dataloader)
    forward_dict = forward_pass(data, policy)
    forward_dict["loss"].backward()
    optimizer.step()
"""
TIMED_STEPS = """
train_dataloader = repeater(train_dataloader)
for step in _clock.laps(tqdm(range(config["num_steps"] + 1)), steps=500):
    if step % 50 == 0:
        _t10_TOTAL_validation.start()
        with torch.no_grad():
            for data in val_dataloader:
                _t10.start()
                losses = forward_pass(data, policy)
                _t10.stop()
                if done(losses):
                    break
        _t10_TOTAL_validation.stop()
    _t15.start()
    data = next(train_dataloader)
    _t15.stop()
    _t20.start()
    forward_dict = forward_pass(data, policy)
    _t20.stop()
    _t21.start()
    forward_dict["loss"].backward()
    _t21.stop()
    _t22.start()
    optimizer.step()
    _t22.stop()
"""
STEPS_CLOCK = replaced(
    CLOCK.replace(', within="20_TOTAL_training"', ', phase="training"'),
    ('_t20_TOTAL_training = _clock.stage("20_TOTAL_training", phase="training")\n', ""),
)


def module(body: str, clock: str = "", end: str = END) -> str:
    return TOP.lstrip("\n") + block(body, 4) + "\n" + clock.rstrip("\n") + end


def test_lands() -> None:
    before, after = module(EPOCHS), module(TIMED, CLOCK)
    lands(NAME, before, after)
    lands(NAME, with_tabs(before), with_tabs(after))


def test_steps() -> None:
    """Where an epoch is not to be seen."""
    lands(NAME, module(STEPS), module(TIMED_STEPS, STEPS_CLOCK))


def test_lands_on_the_reference() -> None:
    outcome = plan(NAME, REFERENCE)
    assert outcome.kind == PLANNED, outcome.message
    skips(NAME, outcome.after.decode(), ALREADY)


LOOP, TIMED_LOOP = (
    "for batch_idx, data in enumerate(train_dataloader)",
    "for batch_idx, data in enumerate(_t15.over(train_dataloader))",
)
EPOCH = 'tqdm(range(config["num_epochs"]))'


@pytest.mark.parametrize(
    ("old", "new", "timed_old", "timed_new"),
    [
        (
            "enumerate(train_dataloader)",
            "tqdm(enumerate(train))",
            TIMED_LOOP.partition(" in ")[2],
            "_t15.over(tqdm(enumerate(train)))",
        ),
        (LOOP, "for data in train_dataloader", TIMED_LOOP, "for data in _t15.over(train_dataloader)"),
        ("optimizer.step()", "scaler.step(optimizer)", None, None),
        ("loss.backward()", "accelerator.backward(loss)", None, None),
        ("torch.inference_mode()", "torch.no_grad()", None, None),
        (EPOCH, "range(\n    7)", f"_clock.laps({EPOCH})", "_clock.laps(range(\n    7))"),
    ],
)
def test_other_forms(old: str, new: str, timed_old: str | None, timed_new: str | None) -> None:
    before, after = replaced(EPOCHS, (old, new)), replaced(TIMED, (timed_old or old, timed_new or new))
    lands(NAME, module(before), module(after, CLOCK))


def test_without_a_validation() -> None:
    start, end = EPOCHS.index("    with"), EPOCHS.index("    policy.train")
    outcome = plan(NAME, module(EPOCHS[:start] + EPOCHS[end:]))
    assert outcome.kind == PLANNED
    assert b"_t10" not in outcome.after


ITEMS = """

class Items:
    def __getitem__(self, index):
        with h5py.File('a') as root:
            qpos = root['/observations/qpos'][0]
        return qpos


def load_data():
    return ()
"""


@pytest.mark.parametrize("names", [("act_timing_items", NAME), (NAME, "act_timing_items")])
def test_the_data_set_in_the_same_file(names: tuple[str, str]) -> None:
    """The script finds the clock, in whatever order they were put in, or does without."""
    text = replaced(
        module(EPOCHS), ("from utils import load_data\n", ITEMS), ("import torch\n", "import h5py, torch\n")
    )
    text = (
        text.replace("from tqdm import tqdm\n", "")
        .replace("import h5py, torch\n", "")
        .replace("if __name__", "if 0 and __name__")
    )
    for name in names:
        outcome = plan(name, text)
        assert outcome.kind == PLANNED, outcome.message
        text = outcome.after.decode()
    module_of_it: dict[str, object] = {"__name__": "one_file"}
    exec(compile(text, "one_file.py", "exec"), module_of_it)
    assert type(module_of_it["_t21"]).__name__ in ("_Stage", "_NotTimed")


FEEDS = [
    ("step in range(9):\n    data = next(batches)", "forward_pass(data, policy, step)", ["data = next(batches)"]),
    ("data in train:\n    for k in range(2):\n        pass", "forward_pass(data, policy, 3)", ["in _t15.over(train)"]),
]


@pytest.mark.parametrize(("loop", "call", "wait"), FEEDS)
def test_what_is_waited_for(loop: str, call: str, wait: list[str]) -> None:
    """The batch, which comes first among the arguments; not what counts steps."""
    step = f"    losses = {call}\n    losses['loss'].backward(retain_graph=True)\n    optimizer.step()\n"
    body = block(f"for {loop}\n{step}", 4)
    text = plan(NAME, module(f"for epoch in range(3):\n{body}\n")).after.decode()
    assert "for epoch in _clock.laps(range(3)):" in text
    assert wait[0] in text
    assert "_t15.over(range" not in text


def test_the_epochs_of_folds() -> None:
    """The loop next to that of the batches."""
    folds = "for fold in range(5):\n" + block(EPOCHS.replace("return policy\n", ""), 4) + "\n"
    text = plan(NAME, module(folds)).after.decode()
    assert "for fold in range(5):" in text
    assert "for epoch in _clock.laps(" in text


def test_a_batch_loop_that_is_left_in_its_else() -> None:
    text = replaced(EPOCHS, ("    print(epoch)\n", "    else:\n        continue\n    print(epoch)\n"))
    refuses(NAME, module(text), Ambiguous, "may be left")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (("loss.backward()", "step(loss)"), NoSite, "no function with"),
        (("optimizer.step()", "update()"), NoSite, "22_optimizer_step"),
        (("forward_dict = forward_pass(data, policy)", "forward_dict = policy(*data)"), NoSite, "no place for"),
        (("loss.backward()", "loss.backward()\n        forward_dict['l1'].backward()"), Ambiguous, "several places"),
        (("for batch_idx, data in enumerate(train_dataloader):", "while more():"), NoSite, "15_data_wait"),
        (('for epoch in tqdm(range(config["num_epochs"])):', "while more():"), NoSite, "what is an epoch"),
        (("        optimizer.zero_grad()\n", "        optimizer.zero_grad()\n        return policy\n"), Ambiguous, "may be left"),
        (("        optimizer.step()", "        if loss: optimizer.step()"), Ambiguous, "shares"),
        (("        loss.b", "        more(policy).backward(retain_graph=True)\n        loss.b"), Ambiguous, "several places"),
    ],
)  # fmt: skip
def test_what_is_not_there_or_cannot_be_told(
    change: tuple[str, str], error: type[Ambiguous] | type[NoSite], words: str
) -> None:
    refuses(NAME, module(replaced(EPOCHS, change)), error, words)


def test_where_is_the_clock() -> None:
    text = replaced(
        module(EPOCHS), ("from utils import load_data\n", "import utils\n"), ("(*load_data()", "(*utils.load_data()")
    )
    refuses(NAME, text, NoSite, "load_data is not imported")


def test_two_trainings() -> None:
    more = module(EPOCHS).partition("def train_bc")[2].partition("\n\n\nif")[0]
    text = replaced(module(EPOCHS), ("\n\n\nif __name__", f"\n\n\ndef train_more{more}\n\n\nif __name__"))
    refuses(NAME, text, Ambiguous, "several functions")


@pytest.mark.parametrize("name", ["_clock", "_found_clock", "_NotTimed", "_t15"])
def test_names_that_are_taken(name: str) -> None:
    refuses(NAME, module(EPOCHS, end=f"\n\n{name} = 1\n"), Conflict, name)


@pytest.mark.parametrize("line", ["    _t21.stop()", "_t22 = ", "_clock = "])
def test_half_of_it(line: str) -> None:
    text = module(TIMED, CLOCK)
    (whole,) = [each for each in text.splitlines(keepends=True) if each.strip().startswith(line.strip())]
    refuses(NAME, text.replace(whole, ""), PartlyApplied)
    refuses(NAME, replaced(text, ("_clock.laps(", "list(")), PartlyApplied, "_clock.laps")
