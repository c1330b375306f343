"""``act_skip_qvel``: only a read of velocities, of which nobody uses what comes out."""

from __future__ import annotations

import pytest
from cases import lands, plan, refuses, replaced, skips, with_class, with_tabs
from support import ROOT

from apply_opt.errors import Ambiguous, Conflict, NoSite
from apply_opt.model.plan import ALREADY, PLANNED

NAME = "act_skip_qvel"
REFERENCE = (ROOT / "target_repos/act/reference/utils.py").read_text(encoding="utf-8")
CLASS, HEADER = "class Episodes(torch.utils.data.Dataset):\n", "def __getitem__(self, index):"
READ = "qvel = root['/observations/qvel'][start_ts]"
BODY = f"""
with h5py.File(self.path(index), 'r') as root:
    start_ts = np.random.choice(len(root['/action']))
    qpos = root['/observations/qpos'][start_ts]
    {READ}
return qpos
"""


def module(body: str = BODY, header: str = HEADER) -> str:
    """A data set with this item."""
    return with_class("import h5py\nimport numpy as np\nimport torch", CLASS, {header: body})


@pytest.mark.parametrize(
    ("read", "after"),
    [
        (READ, "qvel = root['/observations/qvel']"),
        ('qvel = root["observations/qvel"][start_ts]', 'qvel = root["observations/qvel"]'),
        ("velocity = root['/observations/qvel'][start_ts]", "velocity = root['/observations/qvel']"),
        ("qvel = root['/observations/qvel'][()]", "qvel = root['/observations/qvel']"),
        ("qvel = root['/observations/qvel'][start_ts:start_ts + 1]", "qvel = root['/observations/qvel']"),
        ("qvel = root['/observations/qvel'][start_ts]  # not used", "qvel = root['/observations/qvel']  # not used"),
        ("qvel = root['/observations/qvel'][\n        start_ts\n    ]", "qvel = root['/observations/qvel']"),
    ],
)
def test_lands(read: str, after: str) -> None:
    before = module(replaced(BODY, (READ, read)))
    lands(NAME, before, module(replaced(BODY, (READ, after))))
    lands(NAME, with_tabs(before), with_tabs(module(replaced(BODY, (READ, after)))))


def test_lands_on_the_reference() -> None:
    read = 'qvel = root["/observations/qvel"]'
    lands(
        NAME, REFERENCE, replaced(REFERENCE, (f"{read}[start_ts]\n            images", f"{read}\n            images"))
    )


def test_in_a_condition_and_a_try() -> None:
    body = f"try:\n    with open_(index) as root:\n        if self.all:\n            {READ}\nexcept OSError:\n    raise"
    outcome = plan(NAME, module(body))
    assert outcome.kind == PLANNED, outcome.message


@pytest.mark.parametrize(
    "more",
    ["print(qvel)", "state = [qpos, qvel]", "qvel += 1", "del qvel", "later = lambda: qvel"],
)
def test_velocities_that_are_used(more: str) -> None:
    refuses(NAME, module(replaced(BODY, ("return", f"{more}\nreturn"))), NoSite, "qvel is used")


@pytest.mark.parametrize(
    "body",
    [
        replaced(BODY, (READ, "pass")),
        replaced(BODY, (READ, "qvel = root['/observations/effort'][start_ts]")),
        replaced(BODY, (READ, "qvel = self.read('/observations/qvel')[start_ts]")),
        "return \"qvel = root['/observations/qvel'][0]\"",
    ],
)
def test_nothing_is_read(body: str) -> None:
    refuses(NAME, module(body), NoSite, "no item of a data set reads")


def test_elsewhere() -> None:
    """For the statistics of a data set, and in what makes no items."""
    refuses(NAME, module(header="def statistics(self, index):"), NoSite, "no item of a data set reads")


@pytest.mark.parametrize(
    ("read", "error", "words"),
    [
        (f"{READ}\n    {READ}", Ambiguous, "in 2 places"),
        ("first = qvel = root['/observations/qvel'][start_ts]", Ambiguous, "more than a variable"),
        ("self.qvel = root['/observations/qvel'][start_ts]", Ambiguous, "more than a variable"),
        ("qvel, other = root['/observations/qvel'][start_ts]", Ambiguous, "more than a variable"),
        ("qvel = root['/observations/qvel'][draw()]", Ambiguous, "worked out there"),
        ("qvel = root['/observations/qvel'][(n := 3)]", Ambiguous, "worked out there"),
        (f"{READ}; print(1)", Ambiguous, "shares its line"),
        (f"try:\n        {READ}\n    except IndexError:\n        start_ts = 0", Ambiguous, "is handled there"),
        (f"{READ}\n    self.keep(locals())", Conflict, "may read any variable"),
    ],
)
def test_what_cannot_be_told(read: str, error: type[Ambiguous] | type[Conflict], words: str) -> None:
    refuses(NAME, module(replaced(BODY, (READ, read))), error, words)


def test_in_a_try_that_ends_the_program() -> None:
    """As act-plus-plus has it around all of an item."""
    read = f"try:\n        {READ}\n    except:\n        print('broken')\n        quit()"
    assert plan(NAME, module(replaced(BODY, (READ, read)))).kind == PLANNED


def test_it_is_there_already() -> None:
    skips(NAME, module(replaced(BODY, (READ, "qvel = root['/observations/qvel']"))), ALREADY)
