"""A scripted pick-and-place expert with privileged state: it reads object poses that no policy sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

import numpy as np

from vlarl.errors import unknown_name
from vlarl.experts.grasps import GRASPS, GraspSpec

_GAIN = 12.0
"""Action per metre of distance; a full action moves the hand about 1.5 cm in one env step."""
_OPEN, _CLOSE = -1.0, 1.0
_OPENING_STEPS = 6
"""Env steps that the fingers need to open wide enough to pass the object."""
_CLOSING_STEPS = 9
_DESCENT_STEPS = 25
"""Env steps after which the fingers close where they are: they rest on a neighbouring object."""
_RELEASE_STEPS = 20
"""Env steps after opening in which the object must have come to rest at its goal."""
_RECOVERY_CLEARANCE = 0.035
"""Height over the grasp to which the hand returns after a failed grasp, metres."""


class PrivilegedState(Protocol):
    """What the expert reads of an environment slot. Positions are [3] float64, metres, world frame."""

    @property
    def ee_position(self) -> np.ndarray:
        """Grip point between the fingertips."""
        ...

    def object_position(self, name: str) -> np.ndarray:
        """Origin of an object's body."""
        ...

    def site_position(self, name: str) -> np.ndarray:
        """Centre of a named region."""
        ...


class ManipulationTask(Protocol):
    """What the expert must know of a task."""

    @property
    def name(self) -> str:
        """LIBERO's task name, for example put_the_bowl_on_the_plate."""
        ...

    @property
    def goal(self) -> Sequence[tuple[str, ...]]:
        """Predicates such as ("on", "akita_black_bowl_1", "plate_1")."""
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
    """One decision: action [7] float32 in [-1, 1]; forced is True while the mistake is being made."""

    action: np.ndarray
    forced: bool


class _Phase(Enum):
    APPROACH = auto()
    DESCEND = auto()
    FORCED_CLOSE = auto()
    FORCED_LIFT = auto()
    CLOSE = auto()
    LIFT = auto()
    CARRY = auto()
    LOWER = auto()
    RELEASE = auto()


class PickPlaceExpert:
    """Goes above the object, descends, closes, lifts, carries, lowers, opens. One object serves one episode."""

    def __init__(
        self, grasp: GraspSpec, object_name: str, target_name: str, rng: np.random.Generator, mistake: EarlyClose | None
    ) -> None:
        self._grasp = grasp
        self._object_name = object_name
        self._target_name = target_name
        self._mistake = mistake
        self._phase = _Phase.APPROACH
        self._steps_in_phase = 0
        self._clearance = 0.09 + rng.normal(0.0, 0.004)
        self._jitter = rng.normal(0.0, 0.002, size=2)
        self._opening_steps = 0
        self._hold = np.zeros(3)
        self._carry_offset = np.zeros(2)
        self._carry_height = 0.0

    def act(self, state: PrivilegedState) -> ExpertStep:
        """Returns the action for the current state; to be called once per env step."""
        self._advance(state)
        self._steps_in_phase += 1
        target, gripper = self._target(state), self._gripper
        action = np.zeros(7, dtype=np.float32)
        action[:3] = np.clip(_GAIN * (target - state.ee_position), -1.0, 1.0)
        action[6] = gripper
        forced = self._phase in (_Phase.FORCED_CLOSE, _Phase.FORCED_LIFT)
        return ExpertStep(action=action, forced=forced)

    @property
    def finished(self) -> bool:
        """The object was let go some time ago: without success by now, the attempt has failed."""
        return self._phase is _Phase.RELEASE and self._steps_in_phase >= _RELEASE_STEPS

    @property
    def _gripper(self) -> float:
        return _OPEN if self._phase in (_Phase.APPROACH, _Phase.DESCEND, _Phase.RELEASE) else _CLOSE

    def _enter(self, phase: _Phase, state: PrivilegedState) -> None:
        self._phase = phase
        self._steps_in_phase = 0
        self._hold = state.ee_position.copy()

    def _grasp_point(self, state: PrivilegedState) -> np.ndarray:
        point = state.object_position(self._object_name).copy()
        point[:2] += np.asarray(self._grasp.offset) + self._jitter
        point[2] += self._grasp.grasp_height
        return point

    def _place_point(self, state: PrivilegedState) -> np.ndarray:
        if self._grasp.target_is_site:
            return state.site_position(self._target_name)
        return state.object_position(self._target_name)

    def _target(self, state: PrivilegedState) -> np.ndarray:
        """Where the grip point should go now, [3]."""
        if self._phase is _Phase.APPROACH:
            return self._grasp_point(state) + (0.0, 0.0, self._clearance)
        if self._phase is _Phase.DESCEND:
            return self._grasp_point(state)
        if self._phase is _Phase.FORCED_LIFT:
            return self._hold + (0.0, 0.0, self._grasp.lift_height)
        if self._phase in (_Phase.CLOSE, _Phase.FORCED_CLOSE, _Phase.RELEASE):
            return self._hold
        if self._phase is _Phase.LIFT:
            return np.append(self._hold[:2], self._carry_height)
        above_target = self._place_point(state)[:2] + self._carry_offset
        if self._phase is _Phase.CARRY:
            return np.append(above_target, self._carry_height)
        drop = self._place_point(state)[2] + self._grasp.release_height - state.object_position(self._object_name)[2]
        return np.append(above_target, state.ee_position[2] + drop)

    def _advance(self, state: PrivilegedState) -> None:
        """Goes to the next phase once the current one has reached its waypoint."""
        hand = state.ee_position
        if self._phase is _Phase.APPROACH:
            error = self._target(state) - hand
            opened = self._steps_in_phase >= self._opening_steps
            if opened and np.linalg.norm(error[:2]) < 0.012 and abs(error[2]) < 0.03:
                self._enter(_Phase.DESCEND, state)
        elif self._phase is _Phase.DESCEND:
            height = hand[2] - self._grasp_point(state)[2]
            if self._mistake is not None and height < self._mistake.height:
                self._enter(_Phase.FORCED_CLOSE, state)
            elif abs(height) < 0.008 or self._steps_in_phase >= _DESCENT_STEPS:
                self._enter(_Phase.CLOSE, state)
        elif self._phase is _Phase.FORCED_CLOSE:
            if self._steps_in_phase >= self._mistake.closed_steps:
                self._enter(_Phase.FORCED_LIFT, state)
                self._advance(state)
        elif self._phase is _Phase.FORCED_LIFT:
            if self._steps_in_phase >= self._mistake.lifted_steps:
                self._mistake = None
                self._clearance, self._opening_steps = _RECOVERY_CLEARANCE, _OPENING_STEPS
                self._enter(_Phase.APPROACH, state)
        elif self._phase is _Phase.CLOSE:
            if self._steps_in_phase >= _CLOSING_STEPS:
                self._carry_height = hand[2] + self._grasp.lift_height
                self._enter(_Phase.LIFT, state)
        elif self._phase is _Phase.LIFT:
            if self._carry_height - hand[2] < 0.03:
                self._carry_offset = hand[:2] - state.object_position(self._object_name)[:2]
                self._enter(_Phase.CARRY, state)
        elif self._phase is _Phase.CARRY:
            if np.linalg.norm(self._target(state)[:2] - hand[:2]) < 0.012:
                self._enter(_Phase.LOWER, state)
        elif self._phase is _Phase.LOWER and self._target(state)[2] - hand[2] > -0.008:
            self._enter(_Phase.RELEASE, state)


def require_expert(task: ManipulationTask) -> None:
    """Checks that a task has an expert.

    Raises:
        UserError: it has none; the message lists the tasks that have one.
    """
    if task.name not in GRASPS:
        raise unknown_name("task of a scripted expert", task.name, GRASPS)


def make_expert(task: ManipulationTask, rng: np.random.Generator, recovery_probability: float = 0.0) -> PickPlaceExpert:
    """Makes the expert of one episode.

    Args:
        task: the slot's task.
        rng: source of the episode's jitter and mistake.
        recovery_probability: chance that the fingers are forced to close too early once.

    Raises:
        UserError: no expert for this task.
    """
    require_expert(task)
    _, object_name, target_name = task.goal[0]
    mistake = EarlyClose.sample(rng) if rng.random() < recovery_probability else None
    return PickPlaceExpert(GRASPS[task.name], object_name, target_name, rng, mistake)
