"""What takes the place of IPython and torchvision where they are not installed, and of a login name where there is no terminal."""

import importlib
import os
import random
import sys
import types


def seed_all(seed):
    """Python's generator, NumPy's and torch's."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def put_in():
    """As modules, where a program would find none of its own that can be imported."""
    _put("IPython", embed=None)
    transforms = dict.fromkeys(("RandomCrop", "Resize", "RandomRotation", "ColorJitter"), _Shift)
    _put("torchvision.transforms", **transforms)
    _put("torchvision", transforms=sys.modules["torchvision.transforms"])
    try:
        os.getlogin()
    except OSError:
        os.getlogin = lambda: "user"


def _put(name, **contents):
    """A module with these contents, in the place of one that cannot be imported: torchvision for another torch, too."""
    if name not in sys.modules:
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError):
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update(contents)


class _Shift:
    """A transform: the images (…, H, W) a few pixels aside, how many is drawn at random."""

    def __init__(self, *values, **others):
        pass

    def __call__(self, images):
        import torch

        return images.roll(int(torch.randint(4, ())), dims=-1)
