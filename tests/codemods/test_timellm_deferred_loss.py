"""``timellm_deferred_loss``: a list of the losses that are trained with, of which only a mean is taken after the loop."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from cases import constant, lands, plan, refuses, replaced
from support import ROOT

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED, REFUSED

NAME = "timellm_deferred_loss"
HELPER = constant(NAME, "HELPER_TEXT")
REFERENCE = (ROOT / "target_repos" / "time_llm" / "reference" / "run_main.py").read_text(encoding="utf-8")
TOP = "import numpy as np\nimport torch\n\n\n"
MEAN = "    train_loss = np.average(train_loss)\n"
APPEND = "train_loss.append(loss.item())"
BACKWARD = "        loss.backward()\n"
EPOCHS = f"""for epoch in range(epochs):
    train_loss = []
    for i, batch in enumerate(loader):
        loss = criterion(model(batch), 1)
        {APPEND}
        if i % 100 == 99:
            print(i, loss.item())
{BACKWARD}        optimizer.step()
{MEAN}    print(epoch, train_loss)
"""
MODULE = TOP + EPOCHS


def changed(text: str, old: str = EPOCHS) -> str:
    """The module with the helper above these lines, and both uses of the list changed."""
    after = text.replace("loss.item())\n        if", "loss.detach().clone())\n        if")
    after = after.replace("np.average(train_loss)", "np.average(_numbers_of(train_loss))")
    return after.replace("for epoch", HELPER.strip("\n") + "\n\n\nfor epoch")


def test_lands() -> None:
    lands(NAME, MODULE, changed(MODULE))


def test_the_reference() -> None:
    after = plan(NAME, REFERENCE).after.decode()
    assert after.count("train_loss.append(loss.detach().clone())") == 2
    assert after.count("loss.item()") == 2, "that which is printed, and that in the helper"
    assert "train_loss = np.average(_numbers_of(train_loss))\n" in after


def wrapped(text: str, *headers: str) -> str:
    """``text`` inside of functions or classes."""
    for header in reversed(headers):
        text = f"{header}\n" + "".join("    " + line for line in text.splitlines(keepends=True))
    return text


FORKS = {
    "other names": [("train_loss", "losses"), ("loss ", "value "), ("loss.", "value."), ("epoch", "e")],
    "another mean": [("np.average(train_loss)", "np.mean(train_loss, dtype=float)")],
    "numpy": [("import numpy as np", "import numpy"), ("np.average", "numpy.average")],
    "a function of numpy's": [("import numpy as np", "from numpy import average as mean"), ("np.average(", "mean(")],
    "another name for the mean": [(MEAN, "    mean = np.average(train_loss)\n"), ("print(epoch, train_loss)", "print(mean)")],
    "Python's own": [("np.average(train_loss)", "sum(train_loss) / len(train_loss)")],
    "the largest": [("np.average(train_loss)", "max(train_loss)")],
    "two figures": [(MEAN, "    mean, most = np.mean(train_loss), np.max(train_loss)\n"), ("print(epoch, train_loss)", "print(mean)")],
    "its length": [("        if i %", "        if len(train_loss) > 9 and i %"), (MEAN, f"    print(len(train_loss))\n{MEAN}")],
    "a while loop": [("for i, batch in enumerate(loader):", "i = 0\n    while (batch := take()) is not None:")],
    "annotated": [("train_loss = []", "train_loss: list = list()")],
    "an accelerator": [("loss.backward()", "accelerator.backward(loss)")],
    "a scaler": [("loss.backward()", "scaler.scale(loss).backward()")],
    "trained first": [(f"        {APPEND}\n", ""), ("        optimizer.step()\n", f"        optimizer.step()\n        {APPEND}\n")],
    "tabs": [("    ", "\t")],
    "other line endings": [("\n", "\r\n")],
    "with a comment": [(APPEND, APPEND + "  # for the mean")],
    "autocast": [(f"        loss = criterion(model(batch), 1)\n        {APPEND}\n",
                  f"        with cast():\n            loss = criterion(model(batch), 1)\n            {APPEND}\n")],
    "on some iterations": [(f"        {APPEND}\n", f"        if batch:\n            {APPEND}\n")],
    "on one line": [(f"        {APPEND}\n", f"        n = 1; {APPEND}; m = 2\n")],
}  # fmt: skip


LAYOUT = ("    ", "\n")


@pytest.mark.parametrize("how", FORKS)
@pytest.mark.parametrize("around", [(), ("def train():",), ("class Trainer:", "def fit(self, loader):")])
def test_forks(how: str, around: tuple[str, ...]) -> None:
    body, changes = EPOCHS, FORKS[how]
    for old, new in (change for change in changes if change[0] not in LAYOUT):
        assert old in TOP + body, old
        body = body.replace(old, new)
    text = replaced(TOP, *(change for change in changes if change[0] in TOP and change[0] not in LAYOUT))
    text += wrapped(body, *around)
    for old, new in (change for change in changes if change[0] in LAYOUT):
        text = text.replace(old, new)
    outcome = plan(NAME, text)
    assert outcome.kind == PLANNED, outcome.message
    after = outcome.after.decode()
    compile(after, NAME, "exec")
    assert "_numbers_of(" in after and ".detach().clone())" in after
    assert after.count(".item()") == text.count(".item()"), "one less in the loop, one in the helper"
    assert plan(NAME, after).kind == ALREADY


def test_two_branches_and_two_lists() -> None:
    body = """
def train(model, loader, amp):
    train_loss, n = [], 0
    losses = []
    kept = []
    for batch in loader:
        if amp:
            with autocast():
                loss = model(batch)
                losses.append(loss.item())
            scaler.scale(loss).backward()
        else:
            loss = model(batch)
            losses.append(loss.item())
            loss.backward()
        kept.append(loss.item())
    return np.mean(losses), np.std(kept)
"""
    after = plan(NAME, TOP + body.replace("train_loss, n = [], 0", "n = 0")).after.decode()
    assert after.count("losses.append(loss.detach().clone())") == 2 and "kept.append(loss.detach().clone())" in after
    assert "return np.mean(_numbers_of(losses)), np.std(_numbers_of(kept))" in after


def test_what_is_not_trained_with_stays() -> None:
    other = "def vali(loader):\n    total_loss = []\n    for x in loader:\n        loss = model(x)\n"
    other += "        total_loss.append(loss.item())\n    return np.average(total_loss)\n\n\n"
    after = plan(NAME, TOP + other + EPOCHS).after.decode()
    assert other in after and after.count("_numbers_of(") == 2
    refuses(NAME, TOP + other, NoSite, "no list is filled with losses as numbers")


AMBIGUOUS = {
    "a weight": ((APPEND, "train_loss.append(loss.item() * len(batch))"), "more than the number of a loss"),
    "a pair": ((APPEND, "train_loss.append((i, loss.item()))"), "more than the number of a loss"),
    "rounded": ((APPEND, "train_loss.append(round(loss.item(), 3))"), "more than the number of a loss"),
    "printed after": ((MEAN, f"    print(train_loss)\n{MEAN}"), "for something else than a mean"),
    "passed on": ((MEAN, f"    plot(train_loss)\n{MEAN}"), "for something else than a mean"),
    "another name": ((MEAN, f"    history = train_loss\n{MEAN}"), "for something else than a mean"),
    "an item of it": ((MEAN, f"    last = train_loss[-1]\n{MEAN}"), "for something else than a mean"),
    "in a text": ((MEAN, f"    print(f'{{np.mean(train_loss)}}')\n{MEAN}"), "within a text"),
    "another mean": (("np.average(train_loss)", "statistics.mean(train_loss)"), "for something else than a mean"),
    "weights": ((MEAN, "    train_loss = np.average([1], weights=train_loss)\n"), "for something else than a mean"),
    "weights by position": (
        (MEAN, "    train_loss = np.average([1], None, train_loss)\n"),
        "for something else than a mean",
    ),
    "a sum of its own": (
        (MEAN, "    sum = total\n    train_loss = sum(train_loss)\n"),
        "for something else than a mean",
    ),
    "a function of its own": (
        (TOP + "for", f"{TOP}def max(x):\n    return x.pop()\n\n\nfor"),
        "for something else than a mean",
    ),
    "two lists": (("np.average(train_loss)", "max(train_loss, other)"), "for something else than a mean"),
    "with a second name": (("train_loss = []", "train_loss = every = []"), "what train_loss is there cannot be told"),
    "known elsewhere": (("train_loss = []", "history.append(train_loss := [])"), "cannot be told"),
    "emptied": ((BACKWARD, f"{BACKWARD}        train_loss.clear()\n"), ""),
    "begun with a number": (("train_loss = []", "train_loss = [0.0]"), "what train_loss is there cannot be told"),
    "begun elsewhere": (("    train_loss = []\n", "    if epoch:\n        train_loss = []\n"), ""),
    "begun in two ways": (
        ("    train_loss = []\n", "    train_loss = []\n    if old:\n        train_loss = old\n"),
        "may be",
    ),
    "given": (("    train_loss = []\n", "    train_loss = start()\n"), "cannot be told"),
    "extended": ((MEAN, f"    train_loss += [1.0]\n{MEAN}"), "changed there in another way"),
    "deleted": (("    print(epoch, train_loss)\n", "    del train_loss\n"), "changed there in another way"),
    "read in a function": (
        ("for epoch", "def report():\n    return train_loss\n\n\nfor epoch"),
        "is read in a function",
    ),
    "read in a lambda": ((MEAN, f"    late = lambda: train_loss\n{MEAN}"), "is read in a function"),
    "no tensor": (
        (f"        {APPEND}", f"        loss.backward()\n        loss = numpy_of(loss)\n        {APPEND}"),
        "trained with",
    ),
    "scaled between": ((BACKWARD, f"        loss = loss / 4\n{BACKWARD}"), "cannot be told"),
    "torch is something else": ((TOP, TOP + "torch = None\n"), "torch"),
    "no torch": (("import torch\n", ""), "torch is not imported"),
}


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_what_cannot_be_told(what: str) -> None:
    change, words = AMBIGUOUS[what]
    module = MODULE.replace(BACKWARD, "") if what == "no tensor" else MODULE
    text = replaced(module, change)
    text = text.replace("np.average(", "max(") if what == "a function of its own" else text
    outcome = plan(NAME, text)
    assert outcome.kind == REFUSED, outcome.after.decode()
    assert isinstance(outcome.error, (Ambiguous, Conflict, NoSite)) and words in outcome.message


IN_THE_LOOP = [
    "print(np.mean(train_loss))",
    "mean = np.mean(train_loss[-10:])",
    "bar.set_postfix(loss=np.mean(train_loss))",
    "report(train_loss)",
    "stop = sum(train_loss) > 3",
    "total = np.average(train_loss)",
]


@pytest.mark.parametrize("line", IN_THE_LOOP)
def test_read_in_the_loop(line: str) -> None:
    text = replaced(MODULE, (BACKWARD, f"{BACKWARD}        {line}\n"))
    outcome = plan(NAME, text)
    assert outcome.kind == REFUSED and isinstance(outcome.error, Conflict)
    assert "is read in the loop that fills it" in outcome.message


NO_SITE = {
    "nothing is trained": (BACKWARD, ""),
    "no list": (f"        {APPEND}\n", "        total = total + loss.item()\n"),
    "no number": (APPEND, "train_loss.append(loss)"),
    "no mean": (MEAN, ""),
    "not in a loop": (EPOCHS, f"train_loss = []\nloss = model(1)\n{APPEND}\nloss.backward()\n{MEAN.strip()}\n"),
    "a text": (EPOCHS, f'EXAMPLE = """\n{EPOCHS}"""\n'),
}


@pytest.mark.parametrize("what", NO_SITE)
def test_no_site(what: str) -> None:
    text = replaced(MODULE, NO_SITE[what])
    text = text.replace("print(epoch, train_loss)", "print(epoch)") if what == "no mean" else text
    refuses(NAME, text, NoSite)


def test_another_function_s_list_of_that_name() -> None:
    other = "def other(train_loss):\n    return train_loss\n\n\n"
    lands(NAME, TOP + other + EPOCHS, changed(TOP + other + EPOCHS))


def test_variables_that_anybody_reads() -> None:
    for line in ("locals()", "exec('1')", "vars()"):
        refuses(NAME, replaced(MODULE, (MEAN, f"    {line}\n{MEAN}")), Conflict, "may read any variable")
    text = TOP + wrapped(EPOCHS, "@torch.compile\ndef train():")
    refuses(NAME, text, Conflict, "is decorated")
    assert plan(NAME, replaced(MODULE, (MEAN, f"    print(vars(args))\n{MEAN}"))).kind == PLANNED


def test_done_by_the_author() -> None:
    kept = replaced(MODULE, ("loss.item())\n        if", "loss.detach())\n        if"), ("np.average(", "mean_of("))
    assert plan(NAME, kept).kind == NOT_NEEDED
    assert plan(NAME, kept.replace("loss.detach())", "loss.detach().cpu())")).kind == NOT_NEEDED


def test_half_of_it() -> None:
    done = changed(MODULE)
    refuses(NAME, done.replace("np.average(_numbers_of(train_loss))", "np.average(train_loss)"), PartlyApplied)
    refuses(NAME, done.replace(HELPER.strip("\n"), ""), PartlyApplied)
    refuses(NAME, MODULE + "\n_numbers_of = 3\n", Conflict, "already uses the name")


# What it does


def run(text: str, losses: list[Any]) -> Any:
    """What the loop makes of these losses: means and warnings, or the exception."""

    class Loss(torch.Tensor):
        def backward(self) -> None:  # type: ignore[override]
            with torch.no_grad():
                self.as_subclass(torch.Tensor).mul_(3)  # type: ignore[arg-type]

    shown: list[object] = []
    space: dict[str, Any] = {"epochs": 2, "loader": losses, "criterion": lambda x, y: x.clone().as_subclass(Loss)}
    space |= {
        "model": lambda x: x,
        "optimizer": type("O", (), {"step": lambda self: None})(),
        "print": lambda *v: shown.append(v),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            exec(compile(text, NAME, "exec"), space)
        except Exception as error:
            shown.append(f"{type(error)}: {error}")
    return [*map(repr, shown), *sorted({str(w.message) for w in caught})], type(space["train_loss"])


torch = pytest.importorskip("torch")
KINDS = ["float32", "bfloat16", "float16", "float64"]
VALUES = [1 / 3, 1e-7, 65000.0, 0.1, -0.0, 2.5]


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), ["float32", "bfloat16"], KINDS])
@pytest.mark.parametrize("count", [0, 1, 2, 6, 120])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_the_same_means(kinds: list[str], count: int, shape: tuple[int, ...]) -> None:
    losses = [
        torch.tensor(VALUES[i % 6] * (1 + i // 6), dtype=getattr(torch, kinds[i % len(kinds)])).reshape(shape)
        for i in range(count)
    ]
    assert run(changed(MODULE), losses) == run(MODULE, losses)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number(value: float) -> None:
    losses = [torch.tensor(0.5), torch.tensor(value), torch.tensor(0.25)]
    assert run(changed(MODULE), losses) == run(MODULE, losses)


def test_a_mixture_of_shapes() -> None:
    losses = [torch.tensor(0.5), torch.tensor([0.1]), torch.tensor([[0.25]])]
    assert run(changed(MODULE), losses) == run(MODULE, losses)


def test_a_copy_is_kept() -> None:
    """Each loss is tripled in place once it is trained with."""
    losses = [torch.tensor(0.5), torch.tensor(1.5)]
    assert run(MODULE, losses)[0][0] == repr((0, torch.tensor(1.0).double().numpy()[()]))
    broken = changed(MODULE).replace(".detach().clone()", ".detach()")
    assert run(broken, losses) != run(MODULE, losses) == run(changed(MODULE), losses)


def test_one_wait_for_all() -> None:
    asked: list[str] = []

    class Number(torch.Tensor):
        def item(self) -> Any:
            asked.append("item")
            return super().item()

        def tolist(self) -> Any:
            asked.append("tolist")
            return self.as_subclass(torch.Tensor).tolist()

    space: dict[str, Any] = {"torch": torch}
    exec(HELPER, space)
    losses = [torch.tensor(float(i)).as_subclass(Number) for i in range(30)]
    assert space["_numbers_of"](losses) == [float(i) for i in range(30)]
    assert asked == ["tolist"]
    assert space["_numbers_of"]([]) == []


def test_numbers_of_other_kinds() -> None:
    space: dict[str, Any] = {"torch": torch}
    exec(HELPER, space)
    for numbers in ([torch.tensor(2**40 + 1), torch.tensor(0.1)], [torch.tensor([0.1]), torch.tensor([0.2])]):
        assert space["_numbers_of"](numbers) == [number.item() for number in numbers]
