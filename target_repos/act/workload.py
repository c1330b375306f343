"""ACT's workload: recorded episodes in, the items and batches that the checkout makes of them out.

Runs the checkout's own data set, made by its ``load_data``: the reference tree, ACT, act-plus-plus, a fork of them. The episodes are
made up, and written when the workload is prepared. IPython, which upstream imports beside, need not be there.

Options are described in ``OPTIONS``.
"""

import contextlib
import importlib
import inspect
import itertools
import os
import re
import sys
import types

from . import episodes, epochs

LIBRARIES = ("torch", "numpy", "h5py")
OPTIONS = {
    "part": "what is run, with commas between: item (one moment after the other), batch (several at a time, put together), "
    "epochs (two of the training script, with its own policy: losses and weights)",
    "images": "how they are stored, with commas between: raw (the default), jpeg (needs OpenCV)",
    "cameras": "of an episode (2)",
    "size": "of an image, height x width (48x64)",
    "steps": "of an episode (20)",
    "batch": "moments in a batch (4)",
}
GRID = {"part": "item,batch", "images": "raw", "cameras": "2", "size": "48x64", "steps": "20", "batch": "4"}
PARTS, IMAGES = ("item", "batch", "epochs"), ("raw", "jpeg")
CASE = re.compile(r"(item|batch|epochs), (raw|jpeg), (\d+) cameras of (\d+)x(\d+), (\d+) steps, (\d+)")
COUNT = 5
"""Episodes, of which four fifths are for training."""
COMPARED = (
    "item, raw, 1 cameras of 31x47, 7 steps, 1",
    "item, raw, 3 cameras of 24x32, 11 steps, 3",
    "batch, raw, 2 cameras of 24x33, 9 steps, 5",
)


def cases(options):
    """Every combination of what the options name."""
    lists = {name: options.get(name, usual).split(",") for name, usual in GRID.items()}
    for name, known in (("part", PARTS), ("images", IMAGES)):
        wrong = [word for word in lists[name] if word not in known]
        if wrong:
            raise ValueError(f"{name} is one of {', '.join(known)}, not {wrong[0]}")
    found = [
        f"{part}, {images}, {cameras} cameras of {size}, {steps} steps, {batch}"
        for part, images, cameras, size, steps, batch in itertools.product(*lists.values())
    ]
    wrong = [case for case in found if not CASE.fullmatch(case)]
    if wrong:
        raise ValueError(f"cameras, steps and batch are numbers, size is two (48x64): {wrong[0]}")
    return found


def more_cases(options):
    """What is compared besides, and not timed."""
    return list(COMPARED)


def prepare(folder, options):
    """The episodes of each case, as HDF5 files."""
    if any(case.startswith("epochs") for case in cases(options)):
        epochs.check(sys.path[0])
    for case in [*cases(options), *more_cases(options)]:
        part, images, cameras, height, width, steps, _ = CASE.fullmatch(case).groups()
        place = os.path.join(folder, _name(case))
        if not os.path.isdir(place):
            names = _cameras(cameras)
            sizes = {"height": int(height), "width": int(width), "steps": int(steps)}
            sizes |= {"joints": epochs.JOINTS} if part == "epochs" else {}
            episodes.make_episodes(place, COUNT, cameras=names, compress=images == "jpeg", **sizes)


def _name(case):
    """The folder of a case's episodes."""
    name = re.sub(r"\W+", "_", case.partition(", ")[2].rpartition(", ")[0])
    return f"epochs_{name}" if case.startswith("epochs") else name


def _cameras(count):
    """Their names."""
    return [f"camera_{number}" for number in range(int(count))]


def load(folder, options):
    """The data set of each case, to train with."""
    import numpy

    script = epochs.load(options) if any(case.startswith("epochs") for case in cases(options)) else None
    module = _import(options["file"])
    made = {}
    for case in [*cases(options), *more_cases(options)]:
        name = _name(case)
        if name not in made:
            numpy.random.seed(0)
            made[name] = _loader(module.load_data, os.path.join(folder, name), int(CASE.fullmatch(case)[3]))
    return types.SimpleNamespace(loaders=made, change=lambda item: item, script=script, folder=folder)


def _loader(load_data, folder, cameras):
    """The loader to train with, of a ``load_data`` that has its arguments in any order, and maybe more of them."""
    known = {
        "num_episodes": COUNT,
        "camera_names": _cameras(cameras),
        "policy_class": "ACT",
    }
    known |= {"dataset_dir": folder, "dataset_dir_l": [folder], "name_filter": lambda name: True, "chunk_size": 10**6}
    known |= {"batch_size_train": 2, "batch_size_val": 2, "batch_size": 2, "train_ratio": 0.8}
    wanted = inspect.signature(load_data).parameters.values()
    given = {p.name: known[p.name] for p in wanted if p.name in known}
    missing = [p.name for p in wanted if p.name not in known and p.default is p.empty]
    if missing:
        raise ValueError(f"load_data wants {', '.join(missing)}, of which the workload knows nothing")
    with contextlib.redirect_stdout(None):
        return load_data(**given)[0]


def amount(case):
    """Moments; of two epochs, those that are trained with."""
    return float(CASE.fullmatch(case)[7]) if not case.startswith("epochs") else 2.0 * int(COUNT * 0.8), "moments"


def inputs(case, seed):
    """Which moments: numbers of items, drawn with the seed."""
    import numpy

    part, _, cameras, _, _, steps, batch = CASE.fullmatch(case).groups()
    return {
        "part": part,
        "episodes": _name(case),
        "script": {"cameras": _cameras(cameras), "steps": int(steps), "batch": int(batch), "seed": seed},
        "items": numpy.random.default_rng(seed).integers(0, 4, int(batch)).tolist(),
    }


def run(subject, inputs):
    """The items, each a tuple of tensors; or the batch that is made of them; or what the training script makes of all."""
    if inputs["part"] == "epochs":
        return epochs.run(subject.script, os.path.join(subject.folder, inputs["episodes"]), COUNT, **inputs["script"])
    loader = subject.loaders[inputs["episodes"]]
    items = [subject.change(loader.dataset[number]) for number in inputs["items"]]
    return {"items": items if inputs["part"] == "item" else loader.collate_fn(items)}


def _import(file):
    """The module; IPython, which has nothing to do with data, may be missing."""
    sys.modules.setdefault("IPython", types.ModuleType("IPython")).embed = None
    return importlib.import_module(file.removesuffix(".py").replace("/", "."))


def _wrong(change):
    """Every item as ``change`` makes it."""

    def wrong(subject):
        subject.change = change
        return True

    return wrong


def _darker(item):
    """The first camera's image a shade darker: what a division by 256 would give."""
    images, *others = item
    return images * (255 / 256), *others


def _late(item):
    """The actions a step late."""
    images, qpos, actions, *others = item
    return images, qpos, actions.roll(1, dims=0), *others


def _one_camera(item):
    """The first camera's image for all."""
    images, *others = item
    return images[:1].expand_as(images).roll(1, dims=-1), *others


def _faster(subject):
    """The script with a learning rate that is a hundredth more."""
    if subject.script is None:
        return False
    subject.script.learning_rate *= 1.01
    return True


WRONG = {
    "a learning rate that is a hundredth more": _faster,
    "images a shade darker": _wrong(_darker),
    "actions a step late": _wrong(_late),
    "one camera's images for all": _wrong(_one_camera),
}


def bad_inputs():
    """An item that is not there."""
    return {"no such item": {"part": "item", "episodes": _name(COMPARED[0]), "items": [99]}}
