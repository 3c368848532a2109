"""LIBERO's published demonstrations, made into episodes as ours.

The files have the layout of `libero_hdf5` without what is the project's own: no proprioception, no mask, no start.
Their observation of row t was taken after action t, so the first action, before which nothing was seen, is left out.
"""

from pathlib import Path

import h5py
import numpy as np
from scipy.spatial.transform import Rotation

from vlarl.data.episodes import Episode, shrink
from vlarl.data.libero_hdf5 import HAND_IN_GRIP_SITE, Demonstration
from vlarl.errors import UserError
from vlarl.types import Start

GRIPPER_STEP = 0.25
"""Change of the gripper's command per env step, of a range from -1 to 1."""


def read_published(
    path: Path, task_id: int, instruction: str, episodes: int | None, image_size: int | None
) -> list[Demonstration]:
    """Reads the first demonstrations of a file, or all, with images made smaller to [image_size, image_size] if given.

    Proprioception is put together from the recorded hand and fingers as `vlarl.envs.libero.env` has it. An episode's
    start names no start of ours: its index is the demonstration's number.

    Raises:
        UserError: the file is missing, damaged, of another layout, or has too few demonstrations or too small images.
    """
    if not path.is_file():
        raise UserError(f"there is no {path}: demonstrations.source names the folder with LIBERO's *_demo.hdf5 files")
    try:
        with h5py.File(path, "r") as file:
            data = file["data"]
            names = sorted((name for name in data if name.startswith("demo_")), key=lambda name: int(name[5:]))
            if episodes is not None and len(names) < episodes:
                raise UserError(f"{path} holds {len(names)} demonstrations, {episodes} are wanted: lower --episodes")
            return [
                _read(data[name], Start(task_id=task_id, split="train", index=number), instruction, image_size)
                for number, name in enumerate(names[:episodes])
            ]
    except KeyError as error:
        raise UserError(f"{path} is not in LIBERO's layout: it lacks a part ({error.args[0]})") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is damaged ({error}): download it again") from error


def _read(group: h5py.Group, start: Start, instruction: str, image_size: int | None) -> Demonstration:
    observed, actions = group["obs"], group["actions"][:].astype(np.float32)
    positions = observed["ee_pos"][:-1]
    size = image_size or observed["agentview_rgb"].shape[1]
    rotations = Rotation.from_rotvec(observed["ee_ori"][:-1]).as_matrix() @ HAND_IN_GRIP_SITE.T
    commands = gripper_commands(actions[:, 6])
    proprio = np.hstack(
        [positions, rotations[:, :, 0], rotations[:, :, 1], observed["gripper_states"][:-1], commands[:-1, None]]
    )
    episode = Episode(
        images=np.stack([shrink(image[::-1], size) for image in observed["agentview_rgb"][:-1]]),
        proprio=proprio.astype(np.float32),
        actions=actions[1:],
        target_mask=np.ones(len(actions) - 1, dtype=bool),
        states=group["states"][1:],
        instruction=instruction,
        start=start,
        success=bool(group["dones"][-1]),
    )
    return Demonstration(episode=episode, ee_positions=positions, ee_rotations=rotations)


def gripper_commands(signs: np.ndarray) -> np.ndarray:
    """[T] command after each action; it is 0 before the first."""
    commands, command = np.zeros(len(signs)), 0.0
    for step, sign in enumerate(np.sign(signs)):
        command = commands[step] = np.clip(command + GRIPPER_STEP * sign, -1.0, 1.0)
    return commands
