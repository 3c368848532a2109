"""Demonstrations as HDF5 files in LIBERO's layout: one file per task, read by LIBERO's and robomimic's own tools.

Layout (https://github.com/Lifelong-Robot-Learning/LIBERO, scripts/create_dataset.py), T env steps per demonstration:

    data                    attributes: problem_info and env_args (JSON), bddl_file_name, num_demos, total, ...
      demo_0                attributes: num_samples, init_state; ours: task_id, split, start_index
        actions [T, 7], rewards [T], dones [T], states [T, S], robot_states [T, 9]
        proprio [T, P], action_mask [T]    ours: what the policy sees, and which actions are targets
        obs/                agentview_rgb [T, H, H, 3] (bottom row first), joint_states [T, 7], gripper_states [T, 2],
                            ee_states [T, 6] = ee_pos and ee_ori (axis-angle)

Row t of `obs` is what was seen before action t. (LIBERO's own files hold what was seen after it.)
There is no wrist camera: name `agentview_rgb` alone as the image modality when reading with LIBERO's loaders.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from scipy.spatial.transform import Rotation

from vlarl.data.episodes import Episode
from vlarl.errors import UserError
from vlarl.types import Start

CONTROL_FREQUENCY = 20
"""Env steps per second."""
_ARM_JOINTS, _FINGER_JOINTS = 7, 2
HAND_IN_GRIP_SITE = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
"""The hand body, whose orientation LIBERO records, is turned by 90 degrees against the grip site."""
_ROBOSUITE_ENV_TYPE = 1
"""robomimic's number for robosuite environments."""


@dataclass(frozen=True, kw_only=True)
class DemonstrationTask:
    """What a file says about its task."""

    name: str
    """LIBERO's task name, for example put_the_bowl_on_the_plate."""
    instruction: str
    problem_name: str
    """LIBERO's problem class, for example libero_tabletop_manipulation."""
    bddl_file: str
    """Task definition, relative to LIBERO's bddl_files folder."""
    bddl_content: str
    """Text of the task definition."""


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """An episode, and where the hand was."""

    episode: Episode
    ee_positions: np.ndarray
    """[T, 3] float64, metres, of the grip site."""
    ee_rotations: np.ndarray
    """[T, 3, 3] float64, rotation matrices of the grip site."""


def demonstration_path(folder: Path, task_name: str) -> Path:
    """Returns where the demonstrations of a task lie, by LIBERO's naming."""
    return folder / f"{task_name}_demo.hdf5"


def write_demonstrations(path: Path, demonstrations: Sequence[Demonstration], task: DemonstrationTask) -> None:
    """Writes the file of one task, atomically.

    Args:
        path: see `demonstration_path`.
        demonstrations: at least one, all of the same task.
        task: the task.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same name each time: what a killed process left behind is written over.
    scratch = path.with_suffix(".tmp")
    try:
        with h5py.File(scratch, "w") as file:
            data = file.create_group("data")
            _write_task(data, demonstrations, task)
            for index, demonstration in enumerate(demonstrations):
                _write_demonstration(data.create_group(f"demo_{index}"), demonstration)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def read_demonstrations(path: Path) -> list[Episode]:
    """Reads the episodes of one file, in the order in which they were written.

    Raises:
        UserError: the file is missing or damaged, or lacks a dataset.
    """
    if not path.is_file():
        raise UserError(f"there are no demonstrations in {path}: collect them with `vlarl demos`")
    try:
        with h5py.File(path, "r") as file:
            data = file["data"]
            instruction = json.loads(data.attrs["problem_info"])["language_instruction"]
            names = [f"demo_{index}" for index in range(int(data.attrs["num_demos"]))]
            return [_read_episode(data[name], instruction) for name in names]
    except KeyError as error:
        raise UserError(
            f"{path} lacks a part that vlarl needs ({error.args[0]}): collect the demonstrations again with"
            " `vlarl demos`. (LIBERO's published files have no `proprio`: name their folder in demonstrations.source.)"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and collect again with `vlarl demos`") from error


def _write_task(data: h5py.Group, demonstrations: Sequence[Demonstration], task: DemonstrationTask) -> None:
    side = demonstrations[0].episode.images.shape[1]
    environment_arguments = {
        "robots": ["Panda"],
        "bddl_file_name": task.bddl_file,
        "camera_names": ["agentview"],
        "camera_heights": side,
        "camera_widths": side,
        "control_freq": CONTROL_FREQUENCY,
        "use_camera_obs": True,
        "has_renderer": False,
        "has_offscreen_renderer": True,
        "ignore_done": True,
    }
    problem = {
        "problem_name": task.problem_name,
        "domain_name": "robosuite",
        "language_instruction": task.instruction,
    }
    environment = {
        "type": _ROBOSUITE_ENV_TYPE,
        "env_name": task.problem_name,
        "problem_name": task.problem_name,
        "bddl_file": task.bddl_file,
        "env_kwargs": environment_arguments,
    }
    data.attrs["problem_info"] = json.dumps(problem)
    data.attrs["env_name"] = task.problem_name
    data.attrs["env_args"] = json.dumps(environment)
    data.attrs["bddl_file_name"] = task.bddl_file
    data.attrs["bddl_file_content"] = task.bddl_content
    data.attrs["macros_image_convention"] = "opengl"
    data.attrs["num_demos"] = len(demonstrations)
    data.attrs["total"] = sum(len(d.episode.actions) for d in demonstrations)


def _write_demonstration(group: h5py.Group, demonstration: Demonstration) -> None:
    episode = demonstration.episode
    steps = len(episode.actions)
    joints = episode.states[:, 1 : 1 + _ARM_JOINTS]
    fingers = episode.states[:, 1 + _ARM_JOINTS : 1 + _ARM_JOINTS + _FINGER_JOINTS]
    position, quaternion = demonstration.ee_positions, hand_quaternions(demonstration.ee_rotations)
    orientation = axis_angle(quaternion)
    ending = np.zeros(steps, dtype=np.uint8)
    ending[-1] = episode.success
    datasets = {
        "actions": episode.actions.astype(np.float64),
        "states": episode.states,
        "rewards": ending,
        "dones": ending,
        "robot_states": np.hstack([fingers, position, quaternion]),
        "proprio": episode.proprio,
        "action_mask": episode.target_mask.astype(np.uint8),
        "obs/agentview_rgb": episode.images[:, ::-1],
        "obs/ee_pos": position,
        "obs/ee_ori": orientation,
        "obs/ee_states": np.hstack([position, orientation]),
        "obs/gripper_states": fingers,
        "obs/joint_states": joints,
    }
    for name, values in datasets.items():
        # Loaders fetch single images. Checksums: damage inside a file of the right length is found when it is read.
        chunks = (1, *values.shape[1:]) if name.endswith("rgb") else values.shape
        group.create_dataset(name, data=values, chunks=chunks, fletcher32=True)
    group.attrs["num_samples"] = steps
    group.attrs["init_state"] = episode.states[0]
    group.attrs["task_id"] = episode.start.task_id
    group.attrs["split"] = episode.start.split
    group.attrs["start_index"] = episode.start.index


def _read_episode(group: h5py.Group, instruction: str) -> Episode:
    attributes = group.attrs
    episode = Episode(
        images=np.ascontiguousarray(group["obs/agentview_rgb"][:][:, ::-1]),
        proprio=group["proprio"][:],
        actions=group["actions"][:].astype(np.float32),
        target_mask=group["action_mask"][:].astype(bool),
        states=group["states"][:],
        instruction=instruction,
        start=Start(
            task_id=int(attributes["task_id"]), split=attributes["split"], index=int(attributes["start_index"])
        ),
        success=bool(group["dones"][-1]),
    )
    arrays = (episode.images, episode.proprio, episode.actions, episode.target_mask, episode.states)
    lengths = {len(array) for array in arrays} | {int(attributes["num_samples"])}
    if len(lengths) != 1:
        raise ValueError(f"{group.name} has datasets of different lengths {sorted(lengths)}")
    return episode


def hand_quaternions(grip_site_rotations: np.ndarray) -> np.ndarray:
    """Orientations [T, 4] (x, y, z, w) of the hand body, x >= 0: continuous as long as the hand points down."""
    quaternions = Rotation.from_matrix(grip_site_rotations @ HAND_IN_GRIP_SITE).as_quat()
    return np.where(quaternions[:, :1] < 0, -quaternions, quaternions)


def axis_angle(quaternions: np.ndarray) -> np.ndarray:
    """Rotation vectors [T, 3] of quaternions [T, 4] (x, y, z, w); the angle runs to 2 pi, as robosuite's does."""
    sine = np.linalg.norm(quaternions[:, :3], axis=1, keepdims=True)
    angle = 2 * np.arctan2(sine, quaternions[:, 3:])
    return quaternions[:, :3] * angle / np.maximum(sine, 1e-12)
