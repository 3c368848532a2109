"""What a trajectory's numbers say: speed of the hand, changes of the gripper's opening, motion of the scene. Pure."""

from dataclasses import dataclass

import numpy as np

from vlarl.errors import UserError

STEPS_PER_SECOND = 20
"""LIBERO's control rate."""
_ARM_JOINTS, _ROBOT_JOINTS = 7, 9
_GAP_STEPS = 2
"""Fingers that rest for so few steps are still in the same change."""


@dataclass(frozen=True)
class OpeningChange:
    """Fingers that close or open: from the first step in motion to the one after the last."""

    start: int
    stop: int
    change: float
    """Metres, negative when they close."""


def compute_speed(positions: np.ndarray) -> np.ndarray:
    """Speed of the hand, [T] metres per second: central differences, mean of three.

    Args:
        positions: [T, 3] metres.
    """
    if len(positions) < 2:
        return np.zeros(len(positions))
    velocity = np.gradient(positions, axis=0) * STEPS_PER_SECOND
    speed = np.linalg.norm(velocity, axis=1)
    padded = np.pad(speed, 1, mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


@dataclass(frozen=True)
class OpeningChanges:
    """What the fingers did."""

    kept: tuple[OpeningChange, ...]
    """Changes that last, alternately closing and opening."""
    undone: tuple[tuple[int, int], ...]
    """(first step, step after the last) of changes that were soon taken back: chatter, a grasp that missed."""


def find_opening_changes(
    opening: np.ndarray, min_change: float, still_rate: float, min_segment_steps: int
) -> OpeningChanges:
    """Changes of the gripper's opening, those that last apart from chatter.

    Args:
        opening: [T] distance between the fingers, metres.
        min_change: smaller changes do not count, metres.
        still_rate: slower fingers stand still, metres per second.
        min_segment_steps: a change that the next one undoes within fewer steps does not last, nor does that one.
    """
    rate = np.diff(opening) * STEPS_PER_SECOND
    direction = np.where(np.abs(rate) > still_rate, np.sign(rate), 0).astype(int)
    changes: list[OpeningChange] = []
    for step in np.flatnonzero(direction):
        last = changes[-1] if changes else None
        if last and np.sign(last.change) == direction[step] and step - last.stop <= _GAP_STEPS:
            changes[-1] = OpeningChange(last.start, int(step) + 1, float(opening[step + 1] - opening[last.start]))
        else:
            changes.append(OpeningChange(int(step), int(step) + 1, float(opening[step + 1] - opening[step])))
    return _without_chatter([c for c in changes if abs(c.change) >= min_change], min_segment_steps)


def _without_chatter(changes: list[OpeningChange], min_segment_steps: int) -> OpeningChanges:
    kept: list[OpeningChange] = []
    undone: list[tuple[int, int]] = []
    for change in changes:
        if kept and np.sign(kept[-1].change) == np.sign(change.change):
            # Twice the same way, as fingers that yield or stop in between: one change.
            kept[-1] = OpeningChange(kept[-1].start, change.stop, kept[-1].change + change.change)
        elif kept and change.start - kept[-1].stop < min_segment_steps:
            undone.append((kept.pop().start, change.stop))
        else:
            kept.append(change)
    return OpeningChanges(tuple(kept), tuple(undone))


def find_still_moments(speed: np.ndarray, threshold: float, start: int, stop: int) -> list[int]:
    """Local minima of `speed` below `threshold` in steps start:stop; of a plateau below it, the slowest step.

    Args:
        speed: [T] metres per second.
        threshold: metres per second.
        start: first step.
        stop: step after the last.
    """
    moments: list[int] = []
    run: list[int] = []
    for step in range(start, stop + 1):
        if step < stop and speed[step] < threshold:
            run.append(step)
        elif run:
            moments.append(run[int(np.argmin(speed[run]))])
            run = []
    return moments


def count_positions(states: np.ndarray) -> int:
    """Number of positions (nq) in flattened states [T, 1 + nq + nv]: where the arm's velocities begin.

    The velocities are found where they match the change of the arm's joints, so no model of the scene is needed.

    Raises:
        UserError: states in which the arm does not move, or of another layout.
    """
    steps, width = states.shape
    if steps >= 4 and width > 2 * (1 + _ROBOT_JOINTS):
        joints = states[:, 1 : 1 + _ARM_JOINTS]
        measured = (joints[2:] - joints[:-2]) / np.maximum(states[2:, :1] - states[:-2, :1], 1e-9)
        # A free joint has one position more than velocities: nq is at least half of what is left.
        candidates = range((width - 1) // 2, width - 1 - _ROBOT_JOINTS + 1)
        errors = {
            nq: float(np.square(states[1:-1, 1 + nq : 1 + nq + _ARM_JOINTS] - measured).mean()) for nq in candidates
        }
        best = min(errors, key=lambda nq: errors[nq])
        if errors[best] < 0.25 * np.square(measured).mean():
            return best
    raise UserError(
        f"the states [{steps}, {width}] do not read as LIBERO's (time, positions, velocities of a moving arm):"
        " use the labeller gripper"
    )


def compute_object_progress(states: np.ndarray, min_displacement: float) -> np.ndarray | None:
    """How far the scene has come on its way from the first to the last state, [T]: 0 at the start, 1 at the end.

    The positions that changed (objects, drawers, knobs; not the robot's) are projected on the line from start to end.

    Args:
        states: [T, 1 + nq + nv] float64, LIBERO's.
        min_displacement: positions that changed less in all do not count, metres or radians.

    Returns:
        None if nothing but the robot moved.
    """
    positions = states[:, 1 + _ROBOT_JOINTS : 1 + count_positions(states)]
    way = positions[-1] - positions[0]
    way = np.where(np.abs(way) >= min_displacement, way, 0.0)
    length = float(way @ way)
    return None if length == 0 else (positions - positions[0]) @ way / length
