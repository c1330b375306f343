"""``act_persistent_workers``: only loaders that certainly have workers, and epochs that end. And what becomes of what is drawn."""

from __future__ import annotations

from typing import Any

import pytest
from cases import lands, plan, refuses, replaced, skips, with_tabs
from support import ROOT

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied, Refused
from apply_opt.model.plan import ALREADY

NAME = "act_persistent_workers"
REFERENCE = (ROOT / "target_repos/act/reference/utils.py").read_text(encoding="utf-8")
FIRST = "train = DataLoader(Episodes(), batch_size=8, num_workers=2)"
SECOND = "val = DataLoader(\n        Episodes(),\n        num_workers=1,\n    )"
MODULE = f"""import torch
from torch.utils.data import DataLoader


def load_data(count):
    {FIRST}
    {SECOND}
    return train, val
"""
CHANGED = replaced(
    MODULE,
    ("num_workers=2)", "num_workers=2, persistent_workers=True)"),
    ("num_workers=1,\n", "num_workers=1,\n        persistent_workers=True,\n"),
)


def test_lands() -> None:
    lands(NAME, MODULE, CHANGED)
    lands(NAME, with_tabs(MODULE), with_tabs(CHANGED))


def test_lands_on_the_reference() -> None:
    after = plan(NAME, REFERENCE).after.decode()
    assert after.count("**options, persistent_workers=True)") == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (FIRST, "train = torch.utils.data.DataLoader(Episodes(), 8, num_workers=2)"),
        (FIRST, "train = DataLoader(Episodes(), 8, True, None, None, 2)"),
        (FIRST, "number = 4\n    train = DataLoader(Episodes(), num_workers=number)"),
        (FIRST, "options = {'num_workers': 3}\n    train = DataLoader(Episodes(), **options)"),
        (FIRST, "train = DataLoader(Episodes(), batch_sampler=None, num_workers=2)"),
        ("def load_data", "class Own(DataLoader):\n    pass\n\n\ndef load_data"),
    ],
)
def test_other_forms(old: str, new: str) -> None:
    before = replaced(MODULE, (old, new))
    if "class Own" in new:
        before = replaced(before, ("train = DataLoader", "train = Own"))
    assert plan(NAME, before).after.decode().count("persistent_workers=True") == 2


def test_beside_the_loaders_of_another_optimization() -> None:
    once = plan("act_uint8_transfer", REFERENCE).after.decode()
    other = plan(NAME, REFERENCE).after.decode()
    assert plan(NAME, once).after == plan("act_uint8_transfer", other).after


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        (FIRST, "train = DataLoader(Episodes(), num_workers=count)", Ambiguous, "may be 0"),
        (FIRST, "train = DataLoader(Episodes(), num_workers=8 if count else 0)", Ambiguous, "may be 0"),
        (FIRST, "train = DataLoader(Episodes(), num_workers=0)", NoSite, "has no workers"),
        (FIRST, "train = DataLoader(Episodes(), batch_size=8)", NoSite, "has no workers"),
        (FIRST, "train = DataLoader(Episodes(), batch_sampler=endless(), num_workers=2)", NoSite, "may have no end"),
        (FIRST, "train = DataLoader(Episodes(), **given)", Ambiguous, "not to be seen"),
        ("num_workers=2", "num_workers=2, persistent_workers=False", Conflict, "on purpose"),
        ("num_workers=2", "num_workers=2, persistent_workers=count > 1", Conflict, "on purpose"),
        ("num_workers=2", "num_workers=2, persistent_workers=True", PartlyApplied, "some of the loaders"),
        ("from torch.utils.data import DataLoader", "from loading import DataLoader", NoSite, "there is no"),
    ],
)
def test_what_is_refused(old: str, new: str, error: type[Refused], words: str) -> None:
    refuses(NAME, replaced(MODULE, (old, new)), error, words)


def test_it_is_there_already() -> None:
    skips(NAME, CHANGED, ALREADY)


def test_what_is_drawn() -> None:
    """The first epoch is the same; from the second on, moments, their order and the training's own numbers are others."""
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    from torch.utils.data import DataLoader, Dataset

    class Moments(Dataset[Any]):
        def __len__(self) -> int:
            return 9

        def __getitem__(self, index: int) -> Any:
            return index, numpy.random.randint(10**6)

    def epochs(**options: Any) -> list[Any]:
        torch.manual_seed(3)
        loader = DataLoader(Moments(), shuffle=True, batch_size=3, num_workers=1, **options)
        return [
            ([[part.tolist() for part in batch] for batch in loader], torch.get_rng_state().tolist()) for _ in range(2)
        ]

    (first, *later), (same, *others) = epochs(), epochs(persistent_workers=True)
    assert first == same
    assert [part != other for one, two in zip(later, others) for part, other in zip(one, two)] == [True, True]
