"""``act_uint8_transfer``: only images that nobody looks at between their division and the loader. What runs is in the file beside."""

from __future__ import annotations

import pytest
from cases import block, constant, lands, plan, refuses, replaced, skips, with_class, with_tabs
from support import ROOT

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied, Refused
from apply_opt.model.plan import ALREADY, PLANNED

NAME = "act_uint8_transfer"
REFERENCE = (ROOT / "target_repos/act/reference/utils.py").read_text(encoding="utf-8")
TOP = "import h5py\nimport numpy as np\nimport torch\nfrom torch.utils.data import DataLoader"
HEADERS = ("def __init__(self, paths):", "def __getitem__(self, index):")
INIT = "self.paths = paths\nself.__getitem__(0)"
DIVISION = "images = images / 255.0"
STACK = "np.stack([root[name][0] for name in self.names])"
BODY = f"""
with h5py.File(self.paths[index], 'r') as root:
    stacked = {STACK}
images = torch.from_numpy(stacked)
qpos = torch.zeros(3).float()
images = torch.einsum('k h w c -> k c h w', images)

# scale
{DIVISION}
qpos = qpos / 2
return qpos, images, index
"""
FIRST = "train = DataLoader(first, batch_size=size, shuffle=True, num_workers=2)"
LOADERS = f"""
def load_data(paths, size):
    first = Episodes(paths[1:])
    second = Episodes(paths[:1])
    {FIRST}
    val = DataLoader(second, batch_size=size, num_workers=1)
    return train, val, first.is_sim, len(second)
"""


def module(body: str = BODY, loaders: str = LOADERS, top: str = TOP, more: str = "") -> str:
    """A data set and what makes loaders of it."""
    cls = with_class(top, "class Episodes(torch.utils.data.Dataset):\n", dict(zip(HEADERS, (INIT, body))), more)
    return f"{cls}\n\n{block(loaders)}\n"


MODULE = module()


def changed(text: str, base: str = "DataLoader", place: int = 1, old: str = DIVISION, operand: str = "images") -> str:
    """The module with the helpers above load_data, and what uses them."""
    is_float = ".float()" in old
    helper = constant(NAME, "TEXT").strip("\n").replace("BASE", base).replace("PLACE", str(place))
    helper = helper.replace("DIVISION", "images.float() / 255.0" if is_float else "images / 255.0")
    new = old.partition(" = ")[0] + f" = _images_as_stored({operand})"
    text = replaced(text, (old, new)).replace(f"= {base}(", "= _Uint8ImageLoader(")
    return replaced(text, ("\n\ndef load_data", "\n\n" + helper + "\n\n\ndef load_data"))


def test_lands() -> None:
    lands(NAME, MODULE, changed(MODULE))
    lands(NAME, with_tabs(MODULE), with_tabs(changed(MODULE)))


def test_lands_on_the_reference() -> None:
    after = plan(NAME, REFERENCE).after.decode()
    assert "        image_data = _images_as_stored(image_data)\n" in after
    assert after.count("_Uint8ImageLoader(") == 3 and after.count("/ 255.0") == 2


def test_beside_another_optimization() -> None:
    one, other = (plan(name, REFERENCE).after.decode() for name in (NAME, "act_skip_qvel"))
    assert plan("act_skip_qvel", one).after == plan(NAME, other).after


@pytest.mark.parametrize(
    ("division", "operand"),
    [
        ("images = images / 255", "images"),
        ("images = images.div(255.0)", "images"),
        ("images = torch.div(images, 255.0)", "images"),
        ("images = torch.true_divide(images, 255)", "images"),
        ("images = images.float() / 255.0", "images"),
        ("images = images.float().div(255)", "images"),
        ("images = images.movedim(-1, -3) / 255.0", "images.movedim(-1, -3)"),
        ("images = torch.stack(list(images)).float() / 255", "torch.stack(list(images))"),
        ("images = images / 255.0  # to [0, 1]", "images"),
        ("pictures = images / 255.0", "images"),
    ],
)
def test_divisions(division: str, operand: str) -> None:
    text = module(replaced(BODY, (DIVISION, division)))
    if division.startswith("pictures"):
        text = replaced(text, ("return qpos, images", "return qpos, pictures"))
    old = division.partition("  #")[0]
    lands(NAME, text, changed(text, old=old, operand=operand))


def test_divided_in_what_is_returned() -> None:
    body = replaced(BODY, (DIVISION + "\n", ""), ("return qpos, images", "return qpos, images / 255.0"))
    text = module(body)
    after = plan(NAME, text).after.decode()
    assert "return qpos, _images_as_stored(images), index" in after and "batch[1].dtype" in after


@pytest.mark.parametrize(
    "old_new",
    [
        ("# scale", "if self.transforms:\n    for transform in self.transforms:\n        images = transform(images)"),
        ("qpos = qpos / 2", "_t_02.start()\nqpos = qpos / 2\n_t_02.stop()"),
        ("images = torch.einsum('k h w c -> k c h w', images)", "images = images.permute(0, 3, 1, 2)"),
        ("images = torch.einsum('k h w c -> k c h w', images)", "images = rearrange(images, 'k h w c -> k c h w')"),
        ("images = torch.from_numpy(stacked)", "images = torch.as_tensor(stacked.transpose(0, 3, 1, 2))"),
    ],
)
def test_items_of_forks(old_new: tuple[str, str]) -> None:
    text = module(replaced(BODY, old_new))
    lands(NAME, text, changed(text))


def test_in_a_try_that_ends_the_program() -> None:
    lines, returned = BODY.strip().split("\nreturn")
    body = f"try:\n{block(lines, 4)}\nexcept:\n    print(index)\n    quit()\nreturn{returned}"
    text = module(body)
    lands(NAME, text, changed(text))
    refuses(NAME, module(replaced(body, ("quit()", "pass"))), Ambiguous, "may not be divided there")


LOADER_FORMS = [
    (FIRST, "train = DataLoader(dataset=first, batch_size=size, num_workers=size)"),
    (FIRST, "train = DataLoader(first, size, True, None, None, 4)"),
    (FIRST, "train = DataLoader(first, batch_sampler=pairs(size), num_workers=2, collate_fn=None)"),
    (FIRST, "train = DataLoader(Episodes(paths), batch_size=size, num_workers=2)"),
    (FIRST, "options = {'num_workers': 2, 'pin_memory': True}\n    train = DataLoader(first, batch_size=8, **options)"),
    (FIRST, "options = dict(num_workers=2)\n    train = DataLoader(first, batch_size=8, **options)"),
    (FIRST, f"{FIRST}\n    print(len(train))\n    for batch in train:\n        print(batch)"),
    (FIRST, f"{FIRST}\n    batch = next(iter(train))"),
    (FIRST, f"other = DataLoader(Sounds(paths), collate_fn=pad)\n    {FIRST}"),
]


@pytest.mark.parametrize(("old", "new"), LOADER_FORMS)
def test_loaders(old: str, new: str) -> None:
    outcome = plan(NAME, module(loaders=replaced(LOADERS, (old, new))))
    assert outcome.kind == PLANNED, outcome.message
    after = outcome.after.decode()
    assert after.count("= _Uint8ImageLoader(") == 2 and ("Sounds" not in new or "= DataLoader(Sounds" in after)


@pytest.mark.parametrize(
    ("line", "base"),
    [
        ("from torch.utils import data", "data.DataLoader"),
        ("", "torch.utils.data.DataLoader"),
        ("from torch.utils.data import DataLoader as Loader", "Loader"),
    ],
)
def test_other_imports(line: str, base: str) -> None:
    text = MODULE.replace("DataLoader(", f"{base}(").replace(TOP, TOP.rpartition("\n")[0] + "\n" + line)
    lands(NAME, text, changed(text, base))


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        (DIVISION, "", NoSite, "divided by 255"),
        (DIVISION, "images = images / 256.0", NoSite, "divided by 255"),
        (DIVISION, "images = images * 255.0", NoSite, "divided by 255"),
        (DIVISION, "print('images = images / 255.0')", NoSite, "divided by 255"),
        (DIVISION, f"{DIVISION}\n{DIVISION}", Ambiguous, "in 2 places"),
        (DIVISION, "images /= 255.0", Ambiguous, "in place"),
        (DIVISION, "images = images.div_(255.0)", Ambiguous, "cannot be told"),
        (DIVISION, "images = images.div(255.0, rounding_mode='floor')", Ambiguous, "cannot be told"),
        (DIVISION, "images = (images / 255.0 - mean) / std", Ambiguous, "more than a variable"),
        (DIVISION, "images = torch.clip(images / 255.0, 0, 1)", Ambiguous, "more than a variable"),
        (DIVISION, "self.images = images / 255.0", Ambiguous, "more than a variable"),
        (DIVISION, "other = images = images / 255.0", Ambiguous, "more than a variable"),
        (DIVISION, f"if self.scale:\n    {DIVISION}", Ambiguous, "may not be divided"),
        (DIVISION, f"for _ in self.times:\n    {DIVISION}", Ambiguous, "may not be divided"),
        (DIVISION, f"{DIVISION}\nimages = self.transform(images)", Ambiguous, "not only an element"),
        (DIVISION, f"{DIVISION}\nprint(images.mean())", Ambiguous, "not only an element"),
        (DIVISION, f"{DIVISION}\nimages[0] = 0", Ambiguous, "not only an element"),
        ("qpos, images, index", "qpos, images, images", Ambiguous, "not only an element"),
        ("return qpos, images, index", "return {'images': images}", Ambiguous, "as a tuple"),
        ("return qpos, images, index", "return qpos, *rest, images", Ambiguous, "as a tuple"),
        ("return qpos", "if index > 3:\n    return None\nreturn qpos", Ambiguous, "as a tuple"),
        ("# scale", "images = images.float()", Ambiguous, "after float"),
        ("# scale", "images = images.to(torch.float32)", Ambiguous, "after to"),
        ("from_numpy(stacked)", "from_numpy(stacked.astype(np.float32))", Ambiguous, "after astype"),
        ("images = torch.einsum('k h w c -> k c h w', images)", "", Ambiguous, "channels first"),
        ("images = torch.from_numpy(stacked)", "images = load(stacked)", Ambiguous, "whether tensors"),
        (DIVISION, f"{DIVISION}\nself.keep(locals())", Conflict, "may read any variable"),
    ],
)  # fmt: skip
def test_items_that_are_refused(old: str, new: str, error: type[Refused], words: str) -> None:
    body = replaced(BODY, (old, new))
    if "einsum" in old or "load(" in new:
        body = body.replace("torch.einsum('k h w c -> k c h w', images)", "einsum('k h w c -> k c h w', images)")
    refuses(NAME, module(body), error, words)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (STACK, f"{STACK[:-1]}, out=self.buffer)"),
        (STACK, "self.buffer"),
        (STACK, "self.buffer[index]"),
        (STACK, "read(index)"),
        (DIVISION, f"raw = images\n{DIVISION}\nraw.zero_()"),
        (DIVISION, f"{DIVISION}\nstacked[:] = 0"),
        (DIVISION, f"self.frames = images\n{DIVISION}"),
        (STACK, f"{STACK[:-1]}, 0, self.buffer)"),
        (STACK, f"{STACK} if index else self.buffer"),
        (STACK, "np.array(self.buffer, copy=None)"),
        (STACK, "np.array(self.buffer, **self.how)"),
        (STACK, f"self.fill({STACK})"),
        (DIVISION, f"self.fill(images)\n{DIVISION}"),
        (DIVISION, f"for images in self.made(images):\n    pass\n{DIVISION}"),
        (
            f"    stacked = {STACK}",
            f"    if index:\n        stacked = self.buffer\n    else:\n        stacked = {STACK}",
        ),
        (
            f"    stacked = {STACK}",
            f"    if index:\n        stacked = {STACK}\n    else:\n        stacked = self.buffer",
        ),
    ],
)
def test_memory_that_may_be_used_again(old: str, new: str) -> None:
    """The division made new memory: without it, what is written later would be in the item."""
    text = module(replaced(BODY, (old, new)))
    fill = "    def fill(self, images):\n        self.buffer[:] = images\n        return self.buffer\n\n"
    refuses(NAME, text.replace("    def __getitem__", f"{fill}    def __getitem__", 1), Ambiguous, "memory")


@pytest.mark.parametrize(
    "new",
    [
        "if index:\n    images = images * 0.9",
        "images = images * 0.9 if index else images",
        "for _ in range(index):\n    images = torch.clamp(images + 0.5, 0, 255)",
        "try:\n    images = images - 1.0\nexcept ValueError:\n    pass",
    ],
)
def test_items_of_which_some_may_be_floats(new: str) -> None:
    """The division made all of one type; a batch cannot be put together of two."""
    refuses(NAME, module(replaced(BODY, (DIVISION, f"{new}\n{DIVISION}"))), Ambiguous, "of one type")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (DIVISION, f"images = images * 0.9\n{DIVISION}"),
        (STACK, f"{STACK}[:, ::index + 1]"),
        (STACK, f"np.ascontiguousarray({STACK})"),
        ("torch.from_numpy(stacked)", "torch.from_numpy(stacked.copy())"),
        (DIVISION, f"if index:\n    images = images[..., : index // 2]\n{DIVISION}"),
        (DIVISION, f"for turn in self.turns:\n    images = turn(images)\n{DIVISION}"),
    ],
)
def test_memory_that_is_new(old: str, new: str) -> None:
    found = plan(NAME, module(replaced(BODY, (old, new))))
    assert found.kind == PLANNED, found.message


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        (FIRST, FIRST.replace("DataLoader", "Loader"), Ambiguous, "goes to more than a DataLoader"),
        (FIRST, FIRST.replace("num", "collate_fn=pad, num"), Conflict, "collate_fn"),
        (FIRST, FIRST.replace("num", "**more, num"), Ambiguous, "not to be seen"),
        (FIRST, "more = {}\n    more['collate_fn'] = pad\n    train = DataLoader(first, **more)", Ambiguous, "not to be seen"),
        (FIRST, FIRST.replace("batch_size=size", "batch_size=None"), Ambiguous, "batch size"),
        (FIRST, "both = torch.utils.data.ConcatDataset([first, second])", Ambiguous, "goes to more than a DataLoader"),
        (FIRST, f"{FIRST}\n    print(first[0])", Ambiguous, "goes to more than a DataLoader"),
        (FIRST, f"{FIRST}\n    for item in first:\n        print(item)", Ambiguous, "goes to more than a DataLoader"),
        (FIRST, f"{FIRST}\n    item = first.__getitem__(3)", Conflict, "read by __getitem__"),
        (FIRST, f"{FIRST}\n    train = accelerator.prepare(train)", Ambiguous, "who called"),
        (FIRST, f"{FIRST}\n    train.collate_fn = pad", Ambiguous, "who called"),
        (FIRST, FIRST.replace("train =", "self.train ="), Ambiguous, "more than a variable"),
        (FIRST, FIRST.replace("DataLoader(", "prepare(DataLoader(") + ")", Ambiguous, "more than a variable"),
        ("second = Episodes(paths[:1])", "second = make(Episodes, paths)", Ambiguous, "not to make a data set"),
        ("second = Episodes(paths[:1])", "second = Subset(Episodes(paths), [1])", Ambiguous, "more than a variable"),
        (FIRST, f"if size:\n        first = Sounds()\n    {FIRST}", Ambiguous, "another data set"),
        (FIRST, f"torch.set_default_dtype(torch.float64)\n    {FIRST}", Conflict, "which floats"),
    ],
)  # fmt: skip
def test_loaders_that_are_refused(old: str, new: str, error: type[Refused], words: str) -> None:
    refuses(NAME, module(loaders=replaced(LOADERS, (old, new))), error, words)


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ("def first(self):\n    return self[0]", Conflict, "self[0]"),
        ("def first(self):\n    return self.__getitem__(0)", Conflict, "__getitem__"),
        ("def __getitems__(self, numbers):\n    return [make(n) for n in numbers]", Conflict, "several at a time"),
    ],
)
def test_items_that_are_read(more: str, error: type[Refused], words: str) -> None:
    refuses(NAME, module(more=more), error, words)


def test_a_class_that_it_is_made_of() -> None:
    base = "class Base(torch.utils.data.Dataset):\n    def first(self):\n        return self[0]\n\n\n"
    text = replaced(MODULE, ("class Episodes(torch.utils.data.Dataset)", base + "class Episodes(Base)"))
    refuses(NAME, text, Conflict, "self[0]")


def test_a_class_that_is_made_of_it() -> None:
    refuses(NAME, MODULE + "\n\nclass Other(Episodes):\n    pass\n", Conflict, "is made of Episodes")


def test_without_workers() -> None:
    text = MODULE.replace("num_workers=2", "num_workers=0").replace(", num_workers=1", "")
    refuses(NAME, text, NoSite, "has no workers")


def test_without_loaders() -> None:
    refuses(NAME, module(loaders="def load_data():\n    return None"), NoSite, "no DataLoader")


@pytest.mark.parametrize(
    ("top", "words"),
    [
        (TOP.replace("import numpy as np\n", ""), "np"),
        (TOP.rpartition("\n")[0] + "\nfrom loading import DataLoader", "goes to more than a DataLoader"),
    ],
)
def test_imports_that_are_missing(top: str, words: str) -> None:
    refuses(NAME, module(top=top), Ambiguous, words)


def test_a_name_that_is_taken() -> None:
    refuses(NAME, MODULE + "\n_scaled_images = 3\n", Conflict, "_scaled_images")


def test_it_is_there_already() -> None:
    skips(NAME, changed(MODULE), ALREADY)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("_images_as_stored(images)\n", "images / 255.0\n"),
        ("= _Uint8ImageLoader(", "= DataLoader("),
        ("class _ScaledBatches", "class _Others"),
        ("def load_data", "def _scaled_images(images):\n    return images\n\n\ndef load_data"),
    ],
)
def test_half_of_it(old: str, new: str) -> None:
    text = changed(MODULE)
    assert old in text
    refuses(NAME, text.replace(old, new), PartlyApplied, "partly applied")
