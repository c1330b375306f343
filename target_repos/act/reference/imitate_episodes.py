"""Trains a policy to imitate episodes. The options have the names that they have in ACT."""

import argparse
import os
from copy import deepcopy

import h5py
import numpy as np
import torch
from policy import ACTPolicy
from tqdm import tqdm

from utils import compute_dict_mean, detach_dict, load_data, set_seed


def main(args):
    """Train, and keep the best weights."""
    set_seed(args["seed"])
    with h5py.File(os.path.join(args["dataset_dir"], "episode_0.hdf5"), "r") as root:
        camera_names, sizes = (
            sorted(root["/observations/images"]),
            (root["/observations/qpos"].shape, root["/action"].shape),
        )
    numbers = {"state_dim": sizes[0][1], "action_dim": sizes[1][1], "camera_names": camera_names}
    policy_config = {**numbers, "num_queries": args["chunk_size"], "hidden_dim": args["hidden_dim"], "lr": args["lr"]}
    config = {**{name: args[name] for name in ("num_epochs", "ckpt_dir", "seed")}, "policy_config": policy_config}
    os.makedirs(args["ckpt_dir"], exist_ok=True)
    batch = args["batch_size"]
    train_dataloader, val_dataloader, _, _ = load_data(
        args["dataset_dir"], args["num_episodes"], camera_names, batch, batch
    )
    epoch, loss, weights = train_bc(train_dataloader, val_dataloader, config)
    torch.save(weights, os.path.join(args["ckpt_dir"], "policy_best.ckpt"))
    print(f"best: validation loss {loss:.6f} in epoch {epoch}")


def make_policy(policy_config):
    """A new one."""
    return ACTPolicy(policy_config)


def make_optimizer(policy):
    """Its optimizer."""
    return policy.configure_optimizers()


def forward_pass(data, policy):
    """The losses of a batch."""
    image_data, qpos_data, action_data, is_pad = data
    image_data, qpos_data, action_data, is_pad = (
        image_data.cuda(),
        qpos_data.cuda(),
        action_data.cuda(),
        is_pad.cuda(),
    )
    return policy(qpos_data, image_data, action_data, is_pad)


def train_bc(train_dataloader, val_dataloader, config):
    """The best epoch, its validation loss, and the weights then."""
    set_seed(config["seed"])
    policy = make_policy(config["policy_config"])
    policy.cuda()
    optimizer = make_optimizer(policy)
    train_history, min_val_loss, best = [], np.inf, None
    for epoch in tqdm(range(config["num_epochs"])):
        print(f"\nEpoch {epoch}")
        with torch.inference_mode():
            policy.eval()
            epoch_dicts = []
            for data in val_dataloader:
                forward_dict = forward_pass(data, policy)
                epoch_dicts.append(forward_dict)
            val_loss = compute_dict_mean(epoch_dicts)["loss"]
            if val_loss < min_val_loss:
                min_val_loss, best = val_loss, (epoch, val_loss, deepcopy(policy.state_dict()))
        print(f"Val loss:   {val_loss:.5f}")

        policy.train()
        optimizer.zero_grad()
        first = len(train_history)
        for data in train_dataloader:
            forward_dict = forward_pass(data, policy)
            loss = forward_dict["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            train_history.append(detach_dict(forward_dict))
        print(f"Train loss: {compute_dict_mean(train_history[first:])['loss']:.5f}")
    torch.save(policy.state_dict(), os.path.join(config["ckpt_dir"], "policy_last.ckpt"))
    return best


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="imitation learning")
    for name in ("dataset_dir", "ckpt_dir"):
        parser.add_argument(f"--{name}", required=True)
    for name, usual in {
        "num_episodes": 5,
        "batch_size": 2,
        "num_epochs": 2,
        "seed": 0,
        "chunk_size": 10,
        "hidden_dim": 32,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--lr", type=float, default=1e-4)
    main(vars(parser.parse_args()))
