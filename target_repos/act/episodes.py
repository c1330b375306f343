"""Makes episodes up: moving gratings before each camera, joints that swing."""

import argparse
import os

import h5py
import numpy as np


def make_episodes(
    folder, count=5, steps=20, cameras=("top", "left"), height=48, width=64, joints=4, compress=False, seed=0
):
    """``count`` files, each with ``steps`` moments; images raw, or as JPEG where that is asked for."""
    random = np.random.default_rng(seed)
    os.makedirs(folder, exist_ok=True)
    for number in range(count):
        swing = np.sin(np.linspace(0, 6, steps)[:, None] + random.uniform(0, 6, joints)).astype(np.float32)
        with h5py.File(os.path.join(folder, f"episode_{number}.hdf5"), "w") as root:
            root.attrs["sim"], root.attrs["compress"] = True, compress
            root["/action"], root["/observations/qpos"] = (
                swing,
                swing + random.normal(0, 0.01, swing.shape).astype(np.float32),
            )
            root["/observations/qvel"] = np.gradient(swing, axis=0)
            for camera in cameras:
                images = _images(random, steps, height, width)
                root[f"/observations/images/{camera}"] = _encoded(images) if compress else images


def _images(random, steps, height, width):
    """(T, H, W, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    phase = np.arange(steps)[:, None, None, None] * 0.3 + random.uniform(0, 6, 3)
    grating = np.sin((x * random.uniform(0.05, 0.3) + y * random.uniform(0.05, 0.3))[None, :, :, None] + phase)
    return (127 + 120 * grating + random.integers(0, 8, grating.shape)).astype(np.uint8)


def _encoded(images):
    """(T, bytes) uint8: JPEG files, filled up with zeros to the length of the longest."""
    import cv2

    files = [cv2.imencode(".jpg", image)[1] for image in images]
    return np.stack([np.pad(file.ravel(), (0, max(map(len, files)) - len(file))) for file in files])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--compress", action="store_true", help="images as JPEG")
    arguments = parser.parse_args()
    make_episodes(arguments.folder, compress=arguments.compress)
