"""Two epochs of the checkout's own training script, with its own policy, from scratch: what it prints of losses, and what weights it saves.

What has nothing to do with training and is not installed is stood in for: plots, logs, simulators, other policies' libraries. ``.cuda()``
leaves things where they are if there is no CUDA, and no weights are downloaded. ACT's policy needs torchvision.
"""

import argparse
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import re
import sys
import tempfile
import types
from unittest import mock

SCRIPT, TASK, JOINTS = "imitate_episodes.py", "sim_made_up", 14
"""ACT's policy takes 14 joints, of two arms."""
SIDE = {
    "IPython",
    "matplotlib",
    "wandb",
    "robomimic",
    "diffusers",
    "cv2",
    "dm_control",
    "aloha_scripts",
    "tqdm",
    "einops",
    "PIL",
}
GIVEN = {"num_epochs": 2, "num_steps": 3, "chunk_size": 10, "hidden_dim": 32, "dim_feedforward": 48, "kl_weight": 10}
RARELY = dict.fromkeys(("validate_every", "eval_every", "save_every"), 10**6)
FLAGS = ("--no_encoder",)
"""act-plus-plus at 26bab07 calls its encoder with an argument that this does not have."""
LOSS = re.compile(r"(?i)\b([\w ]*loss|l1|kl|mse)\b\W*([-\d.]+(?:e[-+]?\d+)?)")
NO_TORCHVISION = """policy.py needs torchvision, of the release that goes with torch {torch}:
pip install --no-deps torchvision pillow; or --option part=item,batch"""


def check(folder):
    """Raise :class:`ValueError` where the policy in the checkout ``folder`` needs torchvision, and that is not installed."""
    path = os.path.join(folder, "policy.py")
    if os.path.isfile(path) and _is_missing("torchvision"):
        with open(path, encoding="utf-8") as file:
            if "torchvision" in file.read():
                import torch

                raise ValueError(NO_TORCHVISION.format(torch=torch.__version__.partition("+")[0]))


def _is_missing(name):
    return name not in sys.modules and importlib.util.find_spec(name) is None


def load(options):
    """The script, and how it is run: ``learning_rate``."""
    folder = os.path.dirname(options["file"])
    path = os.path.join(sys.path[0], options.get("parts", {}).get("training") or os.path.join(folder, SCRIPT))
    _put_in(os.path.dirname(path))
    return types.SimpleNamespace(path=path, learning_rate=1e-3)


def _put_in(folder):
    """Stand-ins for what is not installed, or would want more than there is."""
    missing = set(filter(_is_missing, SIDE))
    sys.meta_path.append(_StandIns(missing))
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.modules["sim_env"] = types.SimpleNamespace(BOX_POSE=[None])
    os.getlogin = lambda: "user"  # without a terminal nobody is
    _without_cuda()
    _torchvision()
    detr = os.path.join(folder, "detr")
    if os.path.isfile(os.path.join(detr, "util", "misc.py")):
        sys.path.append(detr)  # it imports its own modules from there
        importlib.import_module("util.misc").is_main_process = lambda: False  # that one downloads weights


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules that have everything, and do nothing."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Anything(spec.name)

    def exec_module(self, module):
        pass


class _Anything(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return (lambda items, *values, **others: items) if name == "tqdm" else mock.MagicMock()


def _without_cuda():
    """``.cuda()`` where there is no CUDA: things stay where they are."""
    import torch

    if not torch.cuda.is_available():
        torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *values, **others: self


def _torchvision():
    """Import it; where its compiled part is another torch's, with a declaration of what it registers and nobody here calls."""
    import torch

    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _torchvision.library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            _torchvision.library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


def run(script, folder, count, cameras, steps, batch, seed):
    """The losses as they are printed, and the weights in each file that is written: ``{file: {name: tensor}}``."""
    import torch

    task = {
        "dataset_dir": folder,
        "num_episodes": count,
        "episode_len": steps,
        "camera_names": cameras,
        "train_ratio": 0.8,
    }
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        given = {**GIVEN, **RARELY, **task, "ckpt_dir": place, "policy_class": "ACT", "task_name": TASK}
        given |= {"batch_size": batch, "seed": seed, "lr": script.learning_rate}
        given["chunk_size"] = min(given["chunk_size"], steps)
        stack.enter_context(mock.patch.object(argparse.ArgumentParser, "parse_args", _parser(given)))
        stack.enter_context(_task(task))
        said = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        _execute(script.path)
        files = sorted(name for name in os.listdir(place) if name.endswith(".ckpt"))
        weights = {name: torch.load(os.path.join(place, name), weights_only=True) for name in files}
    losses = [[name.strip(), float(number)] for name, number in LOSS.findall(said.getvalue())]
    if not losses or not weights:
        raise RuntimeError(f"the script printed no losses or saved no weights:\n{said.getvalue()[-2000:]}")
    return {"losses": losses, "weights": weights}


def _execute(path):
    """The script as if it was called: a module, so that it can be told which file ran, whose name is ``__main__``."""
    module = types.ModuleType("__main__")
    module.__file__ = path
    sys.modules[os.path.basename(path).removesuffix(".py")] = module
    with open(path, "rb") as file:
        exec(compile(file.read(), path, "exec"), vars(module))


def _task(task):
    """The task among those of the checkout's own ``constants``, where it has such."""
    try:
        tasks = importlib.import_module("constants").SIM_TASK_CONFIGS
    except (ImportError, AttributeError):
        return contextlib.nullcontext()
    return mock.patch.dict(tasks, {TASK: task})


def _parser(given):
    """A method that parses, not the process's own command line, but those of ``given`` that the parser knows."""
    parse = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        known = [name for name in given if f"--{name}" in self._option_string_actions]
        words = [word for name in known for word in (f"--{name}", str(given[name]))]
        return parse(self, words + [flag for flag in FLAGS if flag in self._option_string_actions], namespace)

    return parse_args
