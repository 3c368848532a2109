"""Pick-and-place with privileged state: it reads object poses that no policy sees."""

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from vlarl.experts.grasps import GraspSpec
from vlarl.experts.skills import CLOSE, OPEN, EarlyClose, ExpertStep, PrivilegedState, hand_down, move, rotation_error

_OPENING_STEPS = 6
"""Env steps that the fingers need to open wide enough to pass the object."""
_CLOSING_STEPS = 9
_DESCENT_STEPS = 25
"""Env steps after which the fingers close where they are: they rest on a neighbouring object."""
_RELEASE_STEPS = 12
"""Env steps after opening before the hand rises."""
_RETREAT_STEPS = 10
"""Env steps of rising; after them the object must have come to rest at its goal."""
_RETREAT_HEIGHT = 0.10
_TURNED = 0.1
"""Angle to the wanted orientation at which the hand goes on, radians."""
_APPROACH_SLOPE = 0.6
"""Extra height per horizontal metre that is left on the way to the grasp."""
_NEAR = 0.05
"""Horizontal distance without extra height, metres."""
_LOST_DISTANCE = 0.04
"""An object this much farther from where it was held fell out of the hand, metres."""
_RECOVERY_CLEARANCE = 0.035
"""Height over the grasp to which the hand returns after a failed grasp, metres."""


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
    RETREAT = auto()


@dataclass(frozen=True, kw_only=True)
class PickPlace:
    """Takes an object, and lets it go over a target."""

    object_name: str
    """As in the task's BDDL file."""
    target_name: str
    """An object, or a region if `grasp.target_is_site`."""
    grasp: GraspSpec
    can_close_early: bool = True

    def begin(self, rng: np.random.Generator, mistake: EarlyClose | None) -> "PickPlaceSkill":
        """Makes the skill of one episode with jitter from `rng`."""
        return PickPlaceSkill(self, rng, mistake)


class PickPlaceSkill:
    """Goes above the object, descends, closes, lifts, carries, lowers, opens, rises. One object serves one episode."""

    def __init__(self, spec: PickPlace, rng: np.random.Generator, mistake: EarlyClose | None) -> None:
        self._grasp = spec.grasp
        self._object_name = spec.object_name
        self._target_name = spec.target_name
        self._mistake = mistake
        self._phase = _Phase.APPROACH
        self._steps_in_phase = 0
        self._clearance = 0.09 + rng.normal(0.0, 0.004)
        self._jitter = rng.normal(0.0, 0.002, size=2)
        self._opening_steps = 0
        self._hold = np.zeros(3)
        self._carry_height = 0.0
        self._held_distance = 0.0
        self._yaw = spec.grasp.yaw

    def act(self, state: PrivilegedState) -> ExpertStep:
        """Returns the action for the current state; to be called once per env step."""
        self._advance(state)
        self._steps_in_phase += 1
        return ExpertStep(
            action=move(state, self._target(state), self._gripper, self._rotation),
            forced=self._phase in (_Phase.FORCED_CLOSE, _Phase.FORCED_LIFT),
        )

    @property
    def done(self) -> bool:
        """The object was let go and the hand has risen."""
        return self._phase is _Phase.RETREAT and self._steps_in_phase >= _RETREAT_STEPS

    @property
    def _rotation(self) -> np.ndarray | None:
        """Wanted orientation. Without a turn none is commanded: exact zeros are what a policy learns fastest."""
        return hand_down(self._yaw) if self._yaw else None

    @property
    def _gripper(self) -> float:
        is_open = self._phase in (_Phase.APPROACH, _Phase.DESCEND, _Phase.RELEASE, _Phase.RETREAT)
        return OPEN if is_open else CLOSE

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

    def _is_turned(self, state: PrivilegedState) -> bool:
        return self._rotation is None or bool(np.linalg.norm(rotation_error(state, self._rotation)) < _TURNED)

    def _target(self, state: PrivilegedState) -> np.ndarray:
        """Where the grip point should go now, [3]."""
        hand = state.ee_position
        if self._phase is _Phase.APPROACH:
            point = self._grasp_point(state)
            # High over what stands on the way, a basket that something was just put into.
            detour = _APPROACH_SLOPE * max(np.linalg.norm(point[:2] - hand[:2]) - _NEAR, 0.0)
            return point + (0.0, 0.0, self._clearance + detour)
        if self._phase is _Phase.DESCEND:
            return self._grasp_point(state)
        if self._phase is _Phase.FORCED_LIFT:
            return self._hold + (0.0, 0.0, self._grasp.lift_height)
        if self._phase in (_Phase.CLOSE, _Phase.FORCED_CLOSE, _Phase.RELEASE):
            return self._hold
        if self._phase is _Phase.RETREAT:
            return self._hold + (0.0, 0.0, _RETREAT_HEIGHT)
        if self._phase is _Phase.LIFT:
            return np.append(self._hold[:2], self._carry_height)
        # Measured anew in each step: an object that is turned moves about the hand.
        carried = hand[:2] - state.object_position(self._object_name)[:2]
        above_target = self._place_point(state)[:2] + self._grasp.release_offset + carried
        if self._phase is _Phase.CARRY:
            return np.append(above_target, self._carry_height)
        drop = self._place_point(state)[2] + self._grasp.release_height - state.object_position(self._object_name)[2]
        return np.append(above_target, state.ee_position[2] + drop)

    def _is_lost(self, state: PrivilegedState) -> bool:
        """True when the object should be in the hand and is not."""
        if self._phase not in (_Phase.CARRY, _Phase.LOWER):
            return False
        distance = np.linalg.norm(state.ee_position - self._grasp_point(state))
        return bool(distance > self._held_distance + _LOST_DISTANCE)

    def _advance(self, state: PrivilegedState) -> None:
        """Goes to the next phase once the current one has reached its waypoint."""
        hand = state.ee_position
        if self._is_lost(state):
            self._opening_steps, self._yaw = _OPENING_STEPS, self._grasp.yaw
            self._enter(_Phase.APPROACH, state)
        if self._phase is _Phase.APPROACH:
            error = self._target(state) - hand
            opened = self._steps_in_phase >= self._opening_steps
            if opened and self._is_turned(state) and np.linalg.norm(error[:2]) < 0.012 and abs(error[2]) < 0.03:
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
                self._held_distance = 0.0
                if self._grasp.release_yaw is not None:
                    self._yaw = self._grasp.release_yaw
                self._enter(_Phase.CARRY, state)
        elif self._phase is _Phase.CARRY:
            distance = np.linalg.norm(self._target(state)[:2] - hand[:2])
            if self._is_turned(state) and distance < self._grasp.carry_tolerance:
                self._enter(_Phase.LOWER, state)
        elif self._phase is _Phase.LOWER:
            if self._target(state)[2] - hand[2] > -0.008:
                self._enter(_Phase.RELEASE, state)
        elif self._phase is _Phase.RELEASE and self._steps_in_phase >= _RELEASE_STEPS:
            self._enter(_Phase.RETREAT, state)
