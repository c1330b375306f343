"""Runs the checkout's training script, from its ``main``, with a policy that keeps what it is given.

ACT's own policy wants torchvision, weights from the network and a GPU; the images that reach it, and their order, are what data
loading is for. Simulators, plots and logs are stood in for as well, ``.cuda()`` is the identity where there is no GPU.
"""

import contextlib
import importlib
import io
import os
import sys
import tempfile
import types
from unittest import mock

from .kept import kept

FILE, EPOCHS, TASK = "imitate_episodes.py", 2, "sim_made_up"
STOOD_IN = (
    "visualize_episodes",
    "sim_env",
    "wandb",
    "einops",
    "matplotlib",
    "matplotlib.pyplot",
    "detr",
    "detr.models",
    "detr.models.latent_model",
)
POLICIES = ("ACTPolicy", "CNNMLPPolicy", "DiffusionPolicy")


def load(options):
    """The script's module, and the policies that it makes."""
    import torch

    made = []
    sys.modules["policy"] = types.SimpleNamespace(**dict.fromkeys(POLICIES, _policy(made)))
    for name in STOOD_IN:
        sys.modules[name] = mock.MagicMock()
    if not torch.cuda.is_available():
        torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *values, **others: self
    file = options.get("parts", {}).get("training", FILE)
    return types.SimpleNamespace(script=importlib.import_module(file.removesuffix(".py").replace("/", ".")), made=made)


def _policy(made):
    """A class of policies of few weights, each of which is put into ``made``."""
    import torch

    class Policy(torch.nn.Module):
        def __init__(self, config):
            super().__init__()
            self.seen, self.gain = [], torch.nn.Parameter(torch.tensor([0.5, 0.25]))
            self.optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            made.append(self)

        def forward(self, qpos, image, actions=None, is_pad=None):
            self.seen.append([kept(part).clone() for part in (image, qpos, actions, is_pad)])
            guess = self.gain[0] * image.mean() + self.gain[1] * qpos.mean()
            loss = ((actions - guess) ** 2 * ~is_pad[..., None]).mean()
            return {"l1": loss, "loss": loss}

        def configure_optimizers(self):
            return self.optimizer

        def serialize(self):
            return self.state_dict()

    return Policy


def run(loaded, folder, cameras, count, steps, batch):
    """What the policy was given, in order, and its weights in the end."""
    loaded.made.clear()
    task = {
        "dataset_dir": folder,
        "num_episodes": count,
        "episode_len": steps,
        "train_ratio": 0.8,
        "camera_names": cameras,
    }
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        with contextlib.suppress(ImportError):  # ACT's tasks are in a file beside the script
            stack.enter_context(mock.patch.dict(importlib.import_module("constants").SIM_TASK_CONFIGS, {TASK: task}))
        loaded.script.main(_arguments(task, os.path.join(place, "made"), batch))
    (policy,) = loaded.made
    return {"seen": policy.seen, "weights": [part.detach() for part in policy.parameters()]}


class _Arguments(dict):
    """The command line's; what nobody gave is None."""

    def __missing__(self, name):
        return None


def _arguments(task, place, batch):
    often = {"num_epochs": EPOCHS, "num_steps": 3, "validate_every": 10**6, "eval_every": 10**6, "save_every": 10**6}
    names = {"policy_class": "ACT", "task_name": TASK, "ckpt_dir": place, "eval": False, "temporal_agg": False}
    numbers = {"batch_size": batch, "seed": 0, "lr": 1e-3, "kl_weight": 1, "chunk_size": 5, "hidden_dim": 8}
    return _Arguments({**task, **often, **names, **numbers, "dim_feedforward": 8})
