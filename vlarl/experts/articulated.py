"""Skills that move along waypoints: pulling and pushing drawers, turning a knob, pushing a plate, closing a door."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from vlarl.experts.skills import CLOSE, HAND_DOWN, OPEN, EarlyClose, ExpertStep, PrivilegedState, move, rotation_error

_JITTER = 0.002
"""Standard deviation of an episode's shift of all waypoints, metres."""
_TURNED = 0.15
"""Angle to the wanted orientation below which a waypoint counts as reached, radians."""
_SLANT = 1.0
"""Angle of a hand that reaches forward, from pointing down, radians: its wrist stays above what stands behind it."""

Vector = tuple[float, float, float]
_UNTURNED: Vector = (0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class JointBound:
    """A waypoint's other aim: the position of a joint of the model beyond a bound."""

    joint: str
    bound: float
    is_lower: bool
    """True if the joint has to be above the bound, False if below."""

    def holds(self, state: PrivilegedState) -> bool:
        """True once the joint is beyond the bound."""
        position = state.joint_position(self.joint)
        return position > self.bound if self.is_lower else position < self.bound


@dataclass(frozen=True, kw_only=True)
class Waypoint:
    """Where the grip point goes next."""

    offset: Vector
    """From the anchor as it is now: an anchor that moves along is followed. Metres, world frame."""
    gripper: float = CLOSE
    tolerance: float = 0.012
    """Metres."""
    max_steps: int = 40
    """Env steps after which the next waypoint follows in any case."""
    until: JointBound | None = None
    """Ends the waypoint instead of the distance."""
    rotation: Vector | None = None
    """Turn of the hand against a start, a rotation vector in the world frame, radians; None keeps the orientation."""


@dataclass(frozen=True, kw_only=True)
class Guide:
    """Leads the hand along waypoints around a part of the scene."""

    anchor: str
    """A body of the model."""
    waypoints: tuple[Waypoint, ...]
    aim: JointBound | None = None
    """Where the waypoints should bring a joint; if they did not, they are gone through again."""
    attempts: int = 3
    can_close_early: bool = False

    def begin(self, rng: np.random.Generator, mistake: EarlyClose | None) -> "GuideSkill":
        """Makes the skill of one episode with jitter from `rng`; there is nothing to grasp too early."""
        del mistake
        return GuideSkill(self, rng)


class GuideSkill:
    """Goes from waypoint to waypoint. One object serves one episode."""

    def __init__(self, spec: Guide, rng: np.random.Generator) -> None:
        self._spec = spec
        self._jitter = rng.normal(0.0, _JITTER, size=3)
        self._index = 0
        self._steps = 0
        self._attempt = 1

    def act(self, state: PrivilegedState) -> ExpertStep:
        """Returns the action for the current state; to be called once per env step."""
        while not self.done and self._is_over(state):
            self._index += 1
            self._steps = 0
            if self.done and self._attempt < self._spec.attempts and not self._has_succeeded(state):
                self._attempt += 1
                self._index = 0
        waypoint = self._spec.waypoints[min(self._index, len(self._spec.waypoints) - 1)]
        self._steps += 1
        return ExpertStep(action=move(state, self._target(state, waypoint), waypoint.gripper, _orientation(waypoint)))

    @property
    def done(self) -> bool:
        """All waypoints are behind the hand."""
        return self._index == len(self._spec.waypoints)

    def _has_succeeded(self, state: PrivilegedState) -> bool:
        return self._spec.aim is None or self._spec.aim.holds(state)

    def _target(self, state: PrivilegedState, waypoint: Waypoint) -> np.ndarray:
        return state.body_position(self._spec.anchor) + np.asarray(waypoint.offset) + self._jitter

    def _is_over(self, state: PrivilegedState) -> bool:
        waypoint = self._spec.waypoints[self._index]
        if self._steps >= waypoint.max_steps:
            return True
        if waypoint.until is not None:
            return waypoint.until.holds(state)
        rotation = _orientation(waypoint)
        turned = rotation is None or np.linalg.norm(rotation_error(state, rotation)) < _TURNED
        distance = np.linalg.norm(self._target(state, waypoint) - state.ee_position)
        return bool(self._steps > 0 and turned and distance < waypoint.tolerance)


def _orientation(waypoint: Waypoint) -> np.ndarray | None:
    """Wanted rotation matrix of the grip point; None keeps it."""
    if waypoint.rotation is None:
        return None
    return Rotation.from_rotvec(waypoint.rotation).as_matrix() @ HAND_DOWN


def _level(towards: float) -> Vector:
    """Turn of a hand that points along world y and down, `towards` 1.0 or -1.0, with fingers that open along x."""
    turn = Rotation.from_rotvec([towards * _SLANT, 0.0, 0.0]) * Rotation.from_rotvec([0.0, 0.0, -np.pi / 2])
    return tuple(turn.as_rotvec())


def turn_on(stove: str) -> Guide:
    """Pushes a stove's knob with closed fingers; a hand that points straight down would not reach it."""
    knob = f"{stove}_button"
    on = JointBound(joint=knob, bound=0.55, is_lower=True)
    back = (0.0, 0.6, 0.0)
    return Guide(
        anchor=knob,
        aim=on,
        waypoints=(
            Waypoint(offset=(0.074, -0.05, 0.12), tolerance=0.02, max_steps=60, rotation=back),
            Waypoint(offset=(0.034, -0.05, 0.036), max_steps=30, rotation=back),
            # Far beyond the knob, for force.
            Waypoint(offset=(0.024, 0.12, 0.036), until=on, max_steps=60, rotation=back),
            Waypoint(offset=(0.074, -0.05, 0.12), tolerance=0.03, max_steps=30, rotation=back),
            Waypoint(offset=(0.12, 0.0, 0.20), tolerance=0.03, max_steps=40, rotation=_UNTURNED),
        ),
    )


def open_drawer(cabinet: str, level: str, handle_height: float, front: float) -> Guide:
    """Takes a drawer's handle with a horizontal hand and pulls.

    Args:
        cabinet: name of the fixture, as in the task's BDDL file.
        level: top, middle or bottom.
        handle_height: of the handle above the drawer's origin, metres.
        front: 1.0 if the drawer opens towards world +y, -1.0 towards -y.
    """
    opened = JointBound(joint=f"{cabinet}_{level}_level", bound=-0.152, is_lower=False)
    tilt = 1.45
    level_hand = (-front * tilt, 0.0, 0.0)
    x, y, z = 0.002, 0.092 * front, handle_height
    away = 0.10 * np.array([0.0, front * np.sin(tilt), np.cos(tilt)])
    before = (x, y + away[1], z + away[2])
    above = (x, y + 0.12 * front, z + 0.20)
    return Guide(
        anchor=f"{cabinet}_cabinet_{level}",
        aim=opened,
        waypoints=(
            Waypoint(offset=before, gripper=OPEN, rotation=level_hand, tolerance=0.02, max_steps=80),
            Waypoint(offset=(x, y, z), gripper=OPEN, rotation=level_hand, tolerance=0.008, max_steps=25),
            Waypoint(offset=(x, y - 0.02 * front, z), rotation=level_hand, tolerance=0.0, max_steps=12),
            Waypoint(offset=(x, y + 0.05 * front, z), rotation=level_hand, until=opened, max_steps=70),
            Waypoint(offset=(x, y, z), gripper=OPEN, rotation=level_hand, tolerance=0.0, max_steps=8),
            Waypoint(offset=before, gripper=OPEN, rotation=level_hand, tolerance=0.02, max_steps=30),
            Waypoint(offset=above, gripper=OPEN, rotation=_UNTURNED, tolerance=0.03, max_steps=50),
        ),
    )


def close_drawer(cabinet: str, level: str, handle_height: float, front: float) -> Guide:
    """Pushes a drawer's handle with closed fingers; arguments as of `open_drawer`."""
    closed = JointBound(joint=f"{cabinet}_{level}_level", bound=0.002, is_lower=True)
    x, y, z = 0.002, 0.102 * front, handle_height
    return Guide(
        anchor=f"{cabinet}_cabinet_{level}",
        aim=closed,
        waypoints=(
            # Level, the hand stays away from the handles above.
            Waypoint(offset=(x, y + 0.09 * front, z + 0.15), tolerance=0.03, max_steps=80, rotation=_level(-front)),
            Waypoint(offset=(x, y + 0.05 * front, z), tolerance=0.02, max_steps=50, rotation=_level(-front)),
            # Far behind the front, for force.
            Waypoint(offset=(x, y - 0.10 * front, z), until=closed, max_steps=80, rotation=_level(-front)),
            Waypoint(offset=(x, y + 0.09 * front, z + 0.15), tolerance=0.03, max_steps=40, rotation=_level(-front)),
        ),
    )


def drag_dish(dish: str, table: str, path: tuple[Vector, ...]) -> tuple[Guide, Guide]:
    """Puts closed fingers into a plate or bowl and drags it along positions [m] relative to a table's body."""
    return (
        Guide(
            anchor=f"{dish}_main",
            waypoints=(
                Waypoint(offset=(0.0, 0.0, 0.10), tolerance=0.02, max_steps=60),
                Waypoint(offset=(0.0, 0.0, 0.018), tolerance=0.006, max_steps=30),
            ),
        ),
        Guide(anchor=table, waypoints=tuple(Waypoint(offset=offset, max_steps=60) for offset in path)),
    )


def put_mug_in_microwave(mug: str, microwave: str) -> tuple[Guide, Guide]:
    """Takes a mug at its handle with a horizontal hand and puts it through the open door."""
    forward = _level(1.0)
    handle = (0.0, -0.062, 0.056)
    take = Guide(
        anchor=f"{mug}_main",
        waypoints=(
            Waypoint(offset=(0.0, -0.13, 0.15), gripper=OPEN, tolerance=0.03, max_steps=60, rotation=forward),
            Waypoint(offset=(0.0, -0.12, 0.066), gripper=OPEN, tolerance=0.015, max_steps=50, rotation=forward),
            Waypoint(offset=handle, gripper=OPEN, tolerance=0.01, max_steps=40, rotation=forward),
            Waypoint(offset=handle, tolerance=0.0, max_steps=10, rotation=forward),
            Waypoint(offset=(0.0, -0.062, 0.20), tolerance=0.0, max_steps=12, rotation=forward),
        ),
    )
    # From the microwave's origin to the grip point of a mug that stands inside.
    x, z = -0.008, 0.086
    put = Guide(
        anchor=f"{microwave}_main",
        waypoints=(
            Waypoint(offset=(x, -0.22, z + 0.015), tolerance=0.015, max_steps=60, rotation=forward),
            Waypoint(offset=(x, -0.06, z + 0.015), tolerance=0.012, max_steps=60, rotation=forward),
            Waypoint(offset=(x, -0.06, z + 0.015), gripper=OPEN, tolerance=0.0, max_steps=8, rotation=forward),
            Waypoint(offset=(x, -0.25, z + 0.05), gripper=OPEN, tolerance=0.02, max_steps=60, rotation=forward),
            Waypoint(offset=(x - 0.1, -0.25, z + 0.25), tolerance=0.03, max_steps=60, rotation=_UNTURNED),
        ),
    )
    return take, put


def close_microwave(microwave: str) -> Guide:
    """Pushes the open door with closed fingers along its arc, from outside."""
    closed = JointBound(joint=f"{microwave}_microjoint", bound=-0.003, is_lower=True)
    radius, height = 0.19, 0.04

    def on_door(angle: float, outside: float) -> Vector:
        x = radius * np.cos(angle) + outside * np.sin(angle)
        y = radius * np.sin(angle) - outside * np.cos(angle)
        return (float(x), float(y), height)

    x, y, _ = on_door(-2.05, 0.09)
    return Guide(
        anchor=f"{microwave}_microdoorroot",
        aim=closed,
        waypoints=(
            Waypoint(offset=(x, y, 0.20), tolerance=0.03, max_steps=80),
            Waypoint(offset=(x, y, height), tolerance=0.02, max_steps=40),
            *(
                Waypoint(offset=on_door(angle, 0.0), tolerance=0.04, max_steps=25)
                for angle in (-1.8, -1.5, -1.2, -0.9, -0.6, -0.3, 0.0)
            ),
            Waypoint(offset=on_door(0.0, -0.10), until=closed, max_steps=40),
        ),
    )
