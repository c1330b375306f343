"""ACT's workload: recorded episodes in, the items and batches that the checkout makes of them out.

Runs the checkout's own data set, made by its ``load_data``: the reference tree, ACT, act-plus-plus, a fork of them. The episodes are
made up, and written when the workload is prepared. IPython and torchvision, which upstream imports beside, need not be there.

Options are described in ``OPTIONS``.
"""

import contextlib
import importlib
import importlib.util
import inspect
import itertools
import os
import re
import shutil
import sys
import tempfile
import types
from unittest import mock

from . import episodes, epochs, stand_ins, training
from .kept import kept

LIBRARIES = ("torch", "numpy", "h5py")
OPTIONS = {
    "part": "what is run, with commas between: item (one moment after the other), batch (several at a time, put together), "
    "loader (an epoch of batches, from its worker processes), handover (the same, images as the workers send them: floats, or uint8 "
    "for a GPU to scale; only what else is in a batch is compared), training (the script, with a policy that keeps what it is given), "
    "epochs (two of the script, with its own policy: losses and weights; not beside training)",
    "images": "how they are stored, with commas between: raw (the default), jpeg (needs OpenCV)",
    "cameras": "of an episode (2)",
    "size": "of an image, height x width (48x64)",
    "episodes": "how many there are, of which four fifths are for training (7)",
    "steps": "of an episode (20)",
    "batch": "moments in a batch (4)",
    "policy": "that load_data is told, where it asks for one: ACT (the default), Diffusion (act-plus-plus changes its images at random)",
}
GRID = {
    "part": "item,batch",
    "images": "raw",
    "cameras": "2",
    "size": "48x64",
    "episodes": "7",
    "steps": "20",
    "batch": "4",
}
PARTS, IMAGES = ("item", "batch", "loader", "handover", "training", "epochs"), ("raw", "jpeg")
CASE = re.compile(
    r"(item|batch|loader|handover|training|epochs), (raw|jpeg), ([1-9]\d*) cameras of ([1-9]\d*)x([1-9]\d*), "
    r"([1-9]\d*) episodes of ([1-9]\d*) steps, ([1-9]\d*)"
)
COMPARED = (
    "item, raw, 1 cameras of 31x47, 5 episodes of 7 steps, 1",
    "item, raw, 3 cameras of 24x32, 5 episodes of 11 steps, 3",
    "batch, raw, 2 cameras of 24x33, 5 episodes of 9 steps, 5",
    "training, raw, 1 cameras of 31x47, 5 episodes of 7 steps, 1",
    "training, raw, 3 cameras of 24x32, 7 episodes of 11 steps, 2",
    "loader, raw, 1 cameras of 31x47, 5 episodes of 7 steps, 1",
    "loader, raw, 3 cameras of 24x32, 7 episodes of 11 steps, 2",
)


def cases(options):
    """Every combination of what the options name."""
    lists = {name: options.get(name, usual).split(",") for name, usual in GRID.items()}
    for name, known in (("part", PARTS), ("images", IMAGES)):
        wrong = [word for word in lists[name] if word not in known]
        if wrong:
            raise ValueError(f"{name} is one of {', '.join(known)}, not {wrong[0]}")
    if {"training", "epochs"} <= set(lists["part"]):
        raise ValueError("part is training or epochs, not both: each has a policy of its own")
    found = [
        f"{part}, {images}, {cameras} cameras of {size}, {episodes} episodes of {steps} steps, {batch}"
        for part, images, cameras, size, episodes, steps, batch in itertools.product(*lists.values())
    ]
    wrong = [case for case in found if not CASE.fullmatch(case)]
    if wrong:
        raise ValueError(f"cameras, episodes, steps and batch are numbers from 1 on, size is two (48x64): {wrong[0]}")
    return found


def more_cases(options):
    """What is compared besides, and not timed: always what comes out of a loader, and items where those are asked for."""
    parts = {"loader", *options.get("part", GRID["part"]).split(",")}
    return [case for case in COMPARED if CASE.fullmatch(case)[1] in parts]


def prepare(folder, options):
    """The episodes of each case, as HDF5 files."""
    if any(case.startswith("epochs") for case in cases(options)):
        epochs.check(sys.path[0])
    for case in [*cases(options), *more_cases(options)]:
        part, images, cameras, height, width, count, steps, _ = CASE.fullmatch(case).groups()
        place = os.path.join(folder, _name(case))
        if not os.path.isdir(place):
            names = _cameras(cameras)
            sizes = {"height": int(height), "width": int(width), "steps": int(steps)}
            sizes |= {"joints": epochs.JOINTS} if part == "epochs" else {}
            episodes.make_episodes(place, int(count), cameras=names, compress=images == "jpeg", **sizes)


def _name(case):
    """The folder of a case's episodes."""
    name = re.sub(r"\W+", "_", case.partition(", ")[2].rpartition(", ")[0])
    return f"epochs_{name}" if case.startswith("epochs") else name


def _cameras(count):
    """Their names."""
    return [f"camera_{number}" for number in range(int(count))]


def load(folder, options):
    """The loader of each case, to train with."""
    import numpy

    parts = {case.partition(",")[0] for case in [*cases(options), *more_cases(options)]}
    script = epochs.load(options) if "epochs" in parts else None
    module = _import(options["file"])

    def opened(place, cameras, count, batch):
        numpy.random.seed(0)
        return _loader(module.load_data, _known(place, cameras, count, batch, options.get("policy")))

    made = {}
    for case in [*cases(options), *more_cases(options)]:
        _, _, cameras, _, _, count, _, batch = CASE.fullmatch(case).groups()
        if (_name(case), int(batch)) not in made:
            place = os.path.join(folder, _name(case))
            made[_name(case), int(batch)] = opened(place, int(cameras), int(count), int(batch))
    if "training" in parts:
        script = training.load(options)
    return types.SimpleNamespace(loaders=made, opened=opened, change=lambda item: item, script=script, folder=folder)


def _known(folder, cameras, count, batch, policy):
    """What a ``load_data`` may ask for, by the names that its arguments have in ACT, act-plus-plus and their forks."""
    sizes = {"num_episodes": count, "train_ratio": 0.8, "chunk_size": 10**6}
    batches = dict.fromkeys(("batch_size_train", "batch_size_val", "batch_size"), batch)
    names = {"camera_names": _cameras(cameras), "name_filter": lambda name: True}
    places = {"dataset_dir": folder, "dataset_dir_l": [folder]}
    return {**sizes, **batches, **names, **places, "policy_class": policy or "ACT"}


def _loader(load_data, known):
    """The loader to train with, of a ``load_data`` that has its arguments in any order, and maybe more of them."""
    wanted = inspect.signature(load_data).parameters.values()
    given = {p.name: known[p.name] for p in wanted if p.name in known}
    missing = [p.name for p in wanted if p.name not in known and p.default is p.empty]
    if missing:
        raise ValueError(f"load_data wants {', '.join(missing)}, of which the workload knows nothing")
    with contextlib.redirect_stdout(None):
        return load_data(**given)[0]


def amount(case):
    """Moments."""
    times = {"loader": 1, "handover": 1, "training": training.EPOCHS, "epochs": epochs.GIVEN["num_epochs"]}.get(
        case.partition(",")[0]
    )
    return float(times * sum(_of_epoch(case)) if times else CASE.fullmatch(case)[8]), "moments"


def _of_epoch(case):
    """How many moments are in each batch of an epoch, that takes one of each episode to train with."""
    count, batch = int(int(CASE.fullmatch(case)[6]) * 0.8), int(CASE.fullmatch(case)[8])
    return [min(batch, count - start) for start in range(0, count, batch)]


def inputs(case, seed):
    """Which moments: numbers of items, drawn with the seed. For a loader, which draws them itself, how many in each batch."""
    import numpy

    part, *_, batch = CASE.fullmatch(case).groups()
    drawn = numpy.random.default_rng(seed).integers(0, 4, int(batch)).tolist()
    asked = {"items": drawn} if part in ("item", "batch") else {"batches": _of_epoch(case), "seed": seed % 2**32}
    if part == "epochs":
        asked = {"script": _script(case, seed)}
    return {"part": part, "episodes": _name(case), "batch": int(batch), **asked}


def _script(case, seed):
    """What the training script is told."""
    _, _, cameras, _, _, count, steps, batch = CASE.fullmatch(case).groups()
    return {
        "count": int(count),
        "cameras": _cameras(cameras),
        "steps": int(steps),
        "batch": int(batch),
        "seed": seed,
    }


def run(subject, inputs):
    """The items, each a tuple of tensors; or the batch that is made of them; or all batches of an epoch."""
    if inputs["part"] == "training":
        return _trained(subject, inputs)
    if inputs["part"] == "epochs":
        return epochs.run(subject.script, os.path.join(subject.folder, inputs["episodes"]), **inputs["script"])
    if "broken" in inputs:
        return _broken(subject, inputs)
    loader = subject.loaders[inputs["episodes"], inputs["batch"]]
    if inputs["part"] == "loader":
        return {
            "batches": [_changed(batch, lambda b: map(kept, subject.change(b))) for batch in _epoch(loader, inputs)]
        }
    if inputs["part"] == "handover":
        with _as_sent(loader):
            return {"others": [_changed(batch, subject.change)[1:] for batch in _epoch(loader, inputs)]}
    items = [_changed(loader.dataset[number], subject.change) for number in inputs["items"]]
    return {"items": items if inputs["part"] == "item" else loader.collate_fn(items)}


def _trained(subject, inputs):
    """What the policy was given in training, and what became of its weights."""
    cameras, _, _, count, steps = map(int, re.findall(r"\d+", inputs["episodes"]))
    folder = os.path.join(subject.folder, inputs["episodes"])
    found = training.run(subject.script, folder, _cameras(cameras), count, steps, inputs["batch"])
    return {**found, "seen": [_changed(batch, subject.change) for batch in found["seen"]]}


def _epoch(loader, inputs):
    """The batches of an epoch, the workers' moments drawn with the seed; of a loader without end, as many as others have."""
    stand_ins.seed_all(inputs["seed"])
    try:
        len(loader)
    except TypeError:
        return itertools.islice(loader, len(inputs["batches"]))
    return loader


def _as_sent(loader):
    """A loader that has `images_as_uint8` (see act_uint8_transfer) is told so, as act_uint8_device tells those of the script."""
    if hasattr(loader, "images_as_uint8"):
        return mock.patch.object(loader, "images_as_uint8", True)
    return contextlib.nullcontext()


def _changed(item, change):
    """An item or batch as ``change`` makes it, of the same type."""
    return type(item)(change(item))


def _import(file):
    """The module; what has nothing to do with the data that is read may be missing."""
    stand_ins.put_in()
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
    return images, qpos, actions.roll(1, dims=-2), *others


def _one_camera(item):
    """The first camera's image for all."""
    images, *others = item
    return images[..., :1, :, :, :].expand_as(images).roll(1, dims=-1), *others


def _faster(subject):
    """The script with a learning rate that is a hundredth more."""
    if not hasattr(subject.script, "learning_rate"):
        return False
    subject.script.learning_rate *= 1.01
    return True


WRONG = {
    "a learning rate that is a hundredth more": _faster,
    "images a shade darker": _wrong(_darker),
    "actions a step late": _wrong(_late),
    "one camera's images for all": _wrong(_one_camera),
}


def _changed_copy(path, change):
    """The episode as ``change`` leaves it, as a file of its own."""
    import h5py

    shutil.copy(path, path + ".part")
    with h5py.File(path + ".part", "r+") as root:
        change(root)
    os.replace(path + ".part", path)


def _without_camera(root):
    del root["/observations/images/camera_0"]


def _with_broken_images(root):
    """As if they were compressed, what is no JPEG."""
    import numpy

    root.attrs["compress"] = True
    images = root["/observations/images"]
    for camera, steps in [(name, len(images[name])) for name in images]:
        del images[camera]
        images[camera] = numpy.zeros((steps, 100), numpy.uint8)


def _open_for_writing(path):
    """The lock that HDF5 has on a file that another process writes to; held until the returned file is closed."""
    import fcntl

    file = os.fdopen(os.open(path, os.O_RDWR), "rb")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


BROKEN = {
    "missing": os.remove,
    "truncated": lambda path: os.truncate(path, os.path.getsize(path) // 2),
    "without a camera": lambda path: _changed_copy(path, _without_camera),
    "without a JPEG that can be decoded": lambda path: _changed_copy(path, _with_broken_images),
    "open for writing": _open_for_writing,
}
"""What is done to an episode's file; what that returns, if anything, is closed in the end."""


def _broken(subject, inputs):
    """An item of a data set whose episodes, a copy of those that the workload has, are broken once it is made."""
    cameras, _, _, count, _ = map(int, re.findall(r"\d+", inputs["episodes"]))
    kept, was_in = os.path.abspath(os.path.join(subject.folder, inputs["episodes"])), os.getcwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)  # exceptions name the files: by names that do not change from run to run
        try:
            copy = shutil.copytree(kept, "episodes")
            data = subject.opened(copy, cameras, count, inputs["batch"]).dataset
            held = [BROKEN[inputs["broken"]](os.path.join(copy, name)) for name in sorted(os.listdir(copy))]
            try:
                return {"items": [data[number] for number in inputs["items"]]}
            finally:
                for file in filter(None, held):
                    file.close()
        finally:
            os.chdir(was_in)


def bad_inputs():
    """Items that are not there, of what is compared in any case; episodes that are broken once the data set is made."""
    case = COMPARED[-1]
    asked = {"part": "item", "episodes": _name(case), "batch": int(CASE.fullmatch(case)[8]), "items": [0]}
    known = [how for how in BROKEN if "JPEG" not in how or _has_opencv()]
    broken = {f"episodes that are {how}": {**asked, "broken": how} for how in known}
    return {"no such item": {**asked, "items": [99]}, **broken}


def _has_opencv():
    """Whether images can be decoded: the reference tree and act-plus-plus want it for that."""
    return "cv2" in sys.modules or importlib.util.find_spec("cv2") is not None
