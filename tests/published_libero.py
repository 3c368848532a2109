"""A small file in the layout of LIBERO's published demonstrations."""

from pathlib import Path

import h5py
import numpy as np
from scipy.spatial.transform import Rotation

SIDE = 16
HAND_ROTATIONS = Rotation.from_rotvec([[np.pi - 0.02 * t, 0.05 * t, 0.1] for t in range(6)]).as_matrix()


def write_published(path: Path, episodes: int, steps: int = 6) -> None:
    """Row t is recognisable by t: action 0.1 t, state t before it, image and hand position t after it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.arange(steps)
    actions = np.zeros((steps, 7))
    actions[:, 0], actions[:, 6] = rows / 10, np.where(rows < 3, -1.0, 1.0)
    images = np.zeros((steps, SIDE, SIDE, 3), dtype=np.uint8)
    images[..., 0] = rows[:, None, None]
    images[:, -2:, :, 1] = 200
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for number in range(episodes):
            group = data.create_group(f"demo_{number}")
            group["actions"], group["states"] = actions, np.repeat(rows[:, None], 20, axis=1).astype(float)
            group["dones"] = group["rewards"] = (rows == steps - 1).astype(np.uint8)
            group["obs/agentview_rgb"] = images
            group["obs/ee_pos"] = np.repeat(rows[:, None], 3, axis=1).astype(float)
            group["obs/ee_ori"] = Rotation.from_matrix(HAND_ROTATIONS[:steps]).as_rotvec()
            group["obs/gripper_states"] = np.tile([0.02, -0.02], (steps, 1))
