"""Recorded episodes as a data set, and what training on them needs besides.

An episode is an HDF5 file: ``/action`` (T, A), ``/observations/qpos`` and ``qvel`` (T, Q), ``/observations/images/CAMERA``
(T, H, W, 3) uint8, or (T, bytes) JPEG where the attribute ``compress`` is set.
"""

import os

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader

IMAGES = "/observations/images"


class EpisodicDataset(torch.utils.data.Dataset):
    """Each item is one moment of an episode, drawn at random, and the actions from there on.

    Images (K, 3, H, W) from 0 to 1, positions (Q,), actions (T, A), and which of these are padding (T,).
    """

    def __init__(self, episode_ids, dataset_dir, camera_names, norm_stats):
        super().__init__()
        self.episode_ids, self.dataset_dir = episode_ids, dataset_dir
        self.camera_names = camera_names
        self.norm_stats = {name: torch.from_numpy(numbers) for name, numbers in norm_stats.items()}
        self.is_sim = None
        self.__getitem__(0)  # says whether the episodes are simulated

    def __len__(self):
        return len(self.episode_ids)

    def __getitem__(self, index):
        path = os.path.join(self.dataset_dir, f"episode_{self.episode_ids[index]}.hdf5")
        with h5py.File(path, "r") as root:
            is_sim = root.attrs["sim"]
            is_compressed = root.attrs.get("compress", False)
            steps, width = root["/action"].shape
            start_ts = np.random.choice(steps)
            qpos = root["/observations/qpos"][start_ts]
            qvel = root["/observations/qvel"][start_ts]
            images = {}
            for camera in self.camera_names:
                images[camera] = root[f"{IMAGES}/{camera}"][start_ts]
            first = start_ts if is_sim else max(0, start_ts - 1)  # a real robot acts on what it saw a step ago
            action = root["/action"][first:]
        if is_compressed:
            for camera in images:
                images[camera] = decoded(images[camera])

        self.is_sim = is_sim
        padded = np.zeros((steps, width), dtype=np.float32)
        padded[: len(action)] = action
        is_pad = np.zeros(steps)
        is_pad[len(action) :] = 1

        image_data = torch.from_numpy(np.stack([images[camera] for camera in self.camera_names]))
        qpos_data, action_data = torch.from_numpy(qpos).float(), torch.from_numpy(padded)
        image_data = torch.einsum("k h w c -> k c h w", image_data)
        image_data = image_data / 255.0
        stats = self.norm_stats
        action_data = (action_data - stats["action_mean"]) / stats["action_std"]
        qpos_data = (qpos_data - stats["qpos_mean"]) / stats["qpos_std"]
        return image_data, qpos_data, action_data, torch.from_numpy(is_pad).bool()


def decoded(data):
    """The pixels (H, W, 3) of a JPEG (bytes,)."""
    import cv2

    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def get_norm_stats(dataset_dir, num_episodes):
    """Means and deviations of positions and actions over all episodes."""
    every = {"qpos": [], "action": []}
    for number in range(num_episodes):
        with h5py.File(os.path.join(dataset_dir, f"episode_{number}.hdf5"), "r") as root:
            every["qpos"].append(root["/observations/qpos"][()])
            every["action"].append(root["/action"][()])
    stats = {"example_qpos": every["qpos"][-1]}
    for name, parts in every.items():
        together = np.concatenate(parts).astype(np.float32)
        stats[f"{name}_mean"] = together.mean(axis=0)
        stats[f"{name}_std"] = together.std(axis=0, ddof=1).clip(1e-2)
    return stats


def load_data(dataset_dir, num_episodes, camera_names, batch_size_train, batch_size_val):
    """Loaders of four fifths of the episodes, to train with, and of the others; the statistics; whether they are simulated."""
    order = np.random.permutation(num_episodes)
    count = int(0.8 * num_episodes)
    norm_stats = get_norm_stats(dataset_dir, num_episodes)
    train_dataset = EpisodicDataset(order[:count], dataset_dir, camera_names, norm_stats)
    val_dataset = EpisodicDataset(order[count:], dataset_dir, camera_names, norm_stats)
    options = {"shuffle": True, "pin_memory": torch.cuda.is_available(), "num_workers": 1, "prefetch_factor": 1}
    train_dataloader = DataLoader(train_dataset, batch_size=batch_size_train, **options)
    val_dataloader = DataLoader(val_dataset, batch_size=batch_size_val, **options)
    return train_dataloader, val_dataloader, norm_stats, train_dataset.is_sim


def compute_dict_mean(epoch_dicts):
    """The mean of each entry of dictionaries with the same keys."""
    return {name: sum(each[name] for each in epoch_dicts) / len(epoch_dicts) for name in epoch_dicts[0]}


def detach_dict(values):
    """The same without their history."""
    return {name: value.detach() for name, value in values.items()}


def set_seed(seed):
    """Of torch and NumPy."""
    torch.manual_seed(seed)
    np.random.seed(seed)
