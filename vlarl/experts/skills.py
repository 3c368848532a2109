"""What a scripted expert is made of: skills that run one after the other, each with the scene's true state."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.spatial.transform import Rotation

OPEN = -1.0
CLOSE = 1.0
"""Commands of the gripper: `OPEN` and `CLOSE`."""
_GAIN = 12.0
"""Action per metre of distance; a full action moves the hand about 1.5 cm in one env step."""
_ROTATION_GAIN = 2.0
"""Action per radian; a full action moves the orientation's goal by 0.5 rad, about 0.1 rad in one env step."""
_ROTATION_DEADBAND = 0.03
"""Radians. Any turning command makes the controller take the present orientation as its goal, exact zeros keep it."""
HAND_DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""Rotation matrix of the grip site at a start: pointing down, fingers opening along world y."""


class PrivilegedState(Protocol):
    """What an expert reads of an environment slot. Positions are [3] float64, metres, world frame."""

    @property
    def ee_position(self) -> np.ndarray:
        """Grip point between the fingertips."""
        ...

    @property
    def ee_rotation(self) -> np.ndarray:
        """[3, 3] float64, rotation matrix of the grip point."""
        ...

    def object_position(self, name: str) -> np.ndarray:
        """Origin of the root body of an object or fixture, named as in the task's BDDL file."""
        ...

    def object_rotation(self, name: str) -> np.ndarray:
        """[3, 3] float64, rotation matrix of an object or fixture."""
        ...

    def body_position(self, name: str) -> np.ndarray:
        """Origin of any body of the model, for example a drawer, by its name in the model."""
        ...

    def site_position(self, name: str) -> np.ndarray:
        """Centre of a named region."""
        ...

    def joint_position(self, name: str) -> float:
        """Position of a hinge or slide joint of the model, radians or metres."""
        ...


@dataclass(frozen=True, kw_only=True)
class EarlyClose:
    """A mistake that is forced on the expert once, so that a demonstration shows how to recover from it."""

    height: float
    """Grip point above the right grasp when the fingers close, metres."""
    closed_steps: int
    """Env steps with closing fingers."""
    lifted_steps: int
    """Env steps of lifting nothing after that."""

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "EarlyClose":
        """Draws 1.5 to 5.5 cm too high, 4 to 10 steps closed, 0 to 12 steps lifted."""
        return cls(
            height=float(rng.uniform(0.015, 0.055)),
            closed_steps=int(rng.integers(4, 11)),
            lifted_steps=int(rng.integers(0, 13)),
        )


@dataclass(frozen=True, kw_only=True)
class ExpertStep:
    """One decision: action [7] float32 in [-1, 1]; forced is True while a mistake is being made."""

    action: np.ndarray
    forced: bool = False


class Skill(Protocol):
    """A skill in one episode: it has a phase, waypoints and its own jitter."""

    def act(self, state: PrivilegedState) -> ExpertStep:
        """Returns the action for the current state; to be called once per env step."""
        ...

    @property
    def done(self) -> bool:
        """True when the next skill takes over, whether or not this one reached its aim."""
        ...


class SkillSpec(Protocol):
    """A line of the table of tasks: frozen numbers and names; each episode begins a `Skill` of its own."""

    def begin(self, rng: np.random.Generator, mistake: EarlyClose | None) -> Skill:
        """Makes the skill of one episode.

        Args:
            rng: source of the episode's jitter.
            mistake: forced on the skill if it grasps with the fingers; skills that do not are given None.
        """
        ...

    @property
    def can_close_early(self) -> bool:
        """True for skills that take a mistake."""
        ...


class SequenceExpert:
    """Runs skills one after the other. One object serves one episode."""

    def __init__(self, skills: Sequence[Skill]) -> None:
        self._skills = list(skills)
        self._index = 0

    def act(self, state: PrivilegedState) -> ExpertStep:
        """Returns the action for the current state; to be called once per env step."""
        if self._index + 1 < len(self._skills) and self._skills[self._index].done:
            self._index += 1
        return self._skills[self._index].act(state)

    @property
    def finished(self) -> bool:
        """The last skill ended: without success by now, the attempt has failed."""
        return self._index + 1 == len(self._skills) and self._skills[-1].done


def move(
    state: PrivilegedState, target: np.ndarray, gripper: float, rotation: np.ndarray | None = None, gain: float = _GAIN
) -> np.ndarray:
    """Returns the action [7] float32 that brings the grip point nearer to a pose.

    Args:
        state: the scene.
        target: [3], metres, world frame.
        gripper: `OPEN` or `CLOSE`.
        rotation: wanted rotation matrix [3, 3] of the grip point; None keeps the orientation.
        gain: action per metre of distance.
    """
    action = np.zeros(7, dtype=np.float32)
    action[:3] = np.clip(gain * (target - state.ee_position), -1.0, 1.0)
    if rotation is not None:
        error = rotation_error(state, rotation)
        if np.linalg.norm(error) > _ROTATION_DEADBAND:
            action[3:6] = np.clip(_ROTATION_GAIN * error, -1.0, 1.0)
    action[6] = gripper
    return action


def rotation_error(state: PrivilegedState, rotation: np.ndarray) -> np.ndarray:
    """Rotation vector [3] (radians, world frame) from the hand's orientation to the wanted matrix [3, 3]."""
    return Rotation.from_matrix(rotation @ state.ee_rotation.T).as_rotvec()


def hand_down(yaw: float) -> np.ndarray:
    """Rotation matrix [3, 3] of a hand that points down, turned by `yaw` (radians) about world z from `HAND_DOWN`."""
    return Rotation.from_rotvec([0.0, 0.0, yaw]).as_matrix() @ HAND_DOWN
