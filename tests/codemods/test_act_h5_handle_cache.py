"""``act_h5_handle_cache``: files opened for an item in a ``with``, of which nothing is used behind it."""

from __future__ import annotations

import pytest
from act import REFERENCE
from cases import above, constant, lands, plan, refuses, replaced, skips, with_class, with_tabs

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import NOT_NEEDED, PLANNED

NAME = "act_h5_handle_cache"
CLASS, HEADER = "class Episodes(torch.utils.data.Dataset):\n", "def __getitem__(self, index):"
OPEN, KEPT = "with h5py.File(self.path(index), 'r') as root:", "with _kept_open(self.path(index)) as root:"
READ = "qpos = root['/observations/qpos'][start_ts]"
BODY = f"""
{OPEN}
    start_ts = np.random.choice(len(root['/action']))
    {READ}
    images = dict()
    for camera in self.cameras:
        images[camera] = root[f'/observations/images/{{camera}}'][start_ts]
return qpos, images
"""


def module(body: str = BODY, header: str = HEADER, top: str = "import h5py\nimport numpy as np\nimport torch") -> str:
    """A data set with this item."""
    return with_class(top, CLASS, {header: body})


def helper(function: str = "h5py.File", most: int = 64) -> str:
    """What is written above the class."""
    text = str(constant(NAME, "HELPER_TEXT"))
    return text.replace("MOST", str(most), 1).replace("H5FILE", function)


def after(text: str, function: str = "h5py.File", most: int = 64) -> str:
    return above(text, "class ", helper(function, most))


@pytest.mark.parametrize(
    "opens",
    [
        OPEN,
        'with h5py.File(self.path(index), mode="r") as root:',
        "with h5py.File(name=self.path(index), mode='r') as root:",
        "with h5py.File(\n        self.path(index),\n        'r',\n    ) as root:",
    ],
)
def test_lands(opens: str) -> None:
    before = module(replaced(BODY, (OPEN, opens)))
    lands(NAME, before, after(module(replaced(BODY, (OPEN, KEPT)))))
    with_files = after(module(replaced(BODY, (OPEN, KEPT))), most=7)
    lands(NAME, with_tabs(before), with_tabs(with_files), files=7)


def test_lands_on_the_reference() -> None:
    made = plan(NAME, REFERENCE).after.decode()
    opens = 'with h5py.File(path, "r") as root:\n            is_sim'
    assert made == after(replaced(REFERENCE, (opens, "with _kept_open(path) as root:\n            is_sim")))
    assert made.count("h5py.File(") == REFERENCE.count(
        "h5py.File("
    )  # get_norm_stats has its own; one is in the helper's words


def test_under_another_name() -> None:
    top = "from h5py import File\nimport numpy as np\nimport torch"
    before = module(replaced(BODY, ("h5py.File", "File")), top=top)
    lands(NAME, before, after(module(replaced(BODY, (OPEN, KEPT)), top=top), "File"))


def test_where_an_item_is_made_in_another_method() -> None:
    methods = {HEADER: "return self.read(index)", "def read(self, index):": BODY, "def other(self, index):": BODY}
    before = with_class("import h5py\nimport torch", CLASS, methods)
    made = plan(NAME, before)
    assert made.kind == PLANNED, made.message
    assert made.after.decode() == after(before.replace(OPEN, KEPT, 1))


def test_all_places_of_all_data_sets() -> None:
    before = module(BODY.replace("return", f"{OPEN}\n    print(len(root['/action']))\nreturn"))
    before += before[before.index("class") :].replace("Episodes", "Others")
    made = plan(NAME, before)
    assert made.kind == PLANNED, made.message
    assert made.after.decode().count(KEPT) == 4


@pytest.mark.parametrize(
    "more",
    [
        "qvel = root['/observations/qvel']",
        "steps = root['/action'].shape[0]",
        "is_sim = root.attrs['sim'] if 'sim' in root.attrs else root.attrs.get('other', False)",
        "group = root['observations']\n    qvel = group['qvel'][()]",
        "every = np.array(root['/action'])",
        "names = list(root['/observations/images'].keys())",
        "every = [root['/observations/images'][camera][0] for camera in root['/observations/images']]",
        "same = [root['observations']['images'][camera][()] for camera in self.cameras]",
        "return root['/action'][()]",
        "base = root['/base_action'][()] if '/base_action' in root else None",
        "_timer.start()",
    ],
)
def test_what_is_read_at_once(more: str) -> None:
    outcome = plan(NAME, module(replaced(BODY, (READ, f"{READ}\n    {more}"))))
    assert outcome.kind == PLANNED, outcome.message


@pytest.mark.parametrize(
    "more",
    [
        "self.root = root",
        "return root",
        "return root['/action']",
        "self.qvel = root['/observations/qvel']",
        "images['all'] = root['/observations/images']",
        "self.qvel = root['observations']['qvel']",
        "read(root)",
        "self.keep.append(root['/action'])",
        "attributes = root.attrs",
        "every = root['/observations/images'].items()",
        "later = lambda: root['/action'][0]",
        "rows = (root['/action'][i] for i in range(3))",
        "actions = root['/action']\nprint(actions[0])",
        "actions = other = root['/action']",
        "root.close()",
    ],
)
def test_what_may_be_kept(more: str) -> None:
    body = replaced(BODY, ("return qpos", f"{OPEN.replace('index', '0')}\n    {more}\nreturn qpos"))
    refuses(NAME, module(body), Ambiguous, "may be kept")


@pytest.mark.parametrize(
    ("opens", "words"),
    [
        ("with h5py.File(self.path(index)) as root:", "more than reading"),
        ("with h5py.File(self.path(index), 'r+') as root:", "more than reading"),
        ("with h5py.File(self.path(index), self.mode) as root:", "more than reading"),
        ("with h5py.File(self.path(index), 'r', swmr=True) as root:", "with settings"),
        ("with h5py.File(self.path(index), 'r', rdcc_nbytes=2**20) as root:", "with settings"),
        ("with h5py.File(self.path(index), 'r', driver='core') as root:", "with settings"),
        ("with h5py.File(*self.opened(index)) as root:", "with settings"),
        ("with h5py.File(self.path(index), 'r') as self.root:", "no name"),
        ("with contextlib.closing(h5py.File(self.path(index), 'r')) as root:", "without a with"),
        ("root = h5py.File(self.path(index), 'r')\nif True:", "without a with"),
    ],
)
def test_files_that_are_opened_otherwise(opens: str, words: str) -> None:
    refuses(NAME, module(replaced(BODY, (OPEN, opens))), Ambiguous, words)


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ("root = self.other", Ambiguous, "another file"),
        ("yield 1", Ambiguous, "another file"),
        ("print(locals())", Conflict, "may read any variable"),
    ],
)
def test_what_cannot_be_told(more: str, error: type[Ambiguous] | type[Conflict], words: str) -> None:
    refuses(NAME, module(replaced(BODY, (READ, f"{READ}\n    {more}"))), error, words)


def test_used_behind_the_with() -> None:
    refuses(NAME, module(replaced(BODY, ("return qpos", "print(root)\nreturn qpos"))), Ambiguous, "may be kept")


@pytest.mark.parametrize(
    "text",
    [
        module(header="def statistics(self, index):"),
        module(replaced(BODY, ("h5py.File", "open"))),
        module(replaced(BODY, ("h5py.File", "zarr.File"))),
        module(f'return "{OPEN}"'),
        module(top="import numpy as np\nimport torch\nfrom files import h5py"),
    ],
)
def test_no_item_opens_a_file(text: str) -> None:
    refuses(NAME, text, NoSite, "no item of a data set opens")


@pytest.mark.parametrize("target", ["self.root", "self.roots[index]", "root = self.root"])
def test_the_author_keeps_the_file(target: str) -> None:
    body = f"{target} = h5py.File(self.path(index), 'r')\nreturn self.read(index)"
    skips(NAME, module(body), NOT_NEEDED)


def test_half_done() -> None:
    done = after(module(replaced(BODY, (OPEN, KEPT))))
    refuses(NAME, replaced(done, (KEPT, OPEN)), PartlyApplied)
    more = done + f"        {OPEN}\n            print(root['/action'][0])\n"
    refuses(NAME, more, PartlyApplied, "without _kept_open")
    refuses(NAME, replaced(done, ("def _state_on_disk", "def _state")), PartlyApplied, "_state_on_disk")
    refuses(NAME, module(replaced(BODY, (OPEN, KEPT))), PartlyApplied, "defined 0 times")


@pytest.mark.parametrize("settings", ["'r+'", "'a'", "mode='a'", "'r', swmr=True", "'r', locking=False"])
def test_files_that_could_not_be_opened_elsewhere(settings: str) -> None:
    """HDF5 refuses it while they are kept open."""
    more = f"\n\ndef other(path):\n    return h5py.File(path, {settings})\n"
    refuses(NAME, module() + more, Ambiguous, "could not be opened there")


@pytest.mark.parametrize("settings", ["'r'", "'w'", "mode='w'", "path, 'r', rdcc_nbytes=3"])
def test_files_that_are_opened_elsewhere(settings: str) -> None:
    more = f"\n\ndef other(path):\n    return h5py.File(path, {settings})\n"
    assert plan(NAME, module() + more).kind == PLANNED


@pytest.mark.parametrize(
    "line", ["_KEPT_FILES = 3", "def _close_kept_files(): pass", "os = None", "from x import path as os"]
)
def test_names_that_are_taken(line: str) -> None:
    refuses(NAME, module(top=f"import h5py\nimport torch\n{line}"), Conflict, "already uses the name")
