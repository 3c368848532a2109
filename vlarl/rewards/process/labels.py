"""From a trajectory to labels: which frames show progress. Pure; one entry of LABELLERS per rule.

gripper: VLA-RL's pseudo-labels (arXiv 2505.18719): segments at changes of the gripper's opening, and in each the
moments at which the hand stands almost still. object_motion, for pushing, sliding, turning, closing:
milestones at shares of the way of whatever moved.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module

import numpy as np

from vlarl.configs.reward import LabelConfig
from vlarl.data.episodes import EE_POSITION, FINGERS, PROPRIO_DIM, Episode
from vlarl.errors import UserError, unknown_name
from vlarl.rewards.process.signals import (
    compute_object_progress,
    compute_speed,
    find_opening_changes,
    find_still_moments,
)

POSITIVE = 1
NEGATIVE = 0
IGNORED = -1
MIN_STEPS = 4
"""Shorter episodes have no speed to speak of."""

LABELLERS: dict[str, str] = {
    "gripper": "vlarl.rewards.process.labels:label_by_gripper",
    "object_motion": "vlarl.rewards.process.labels:label_by_object_motion",
}


@dataclass(frozen=True, kw_only=True)
class Milestones:
    """What a labeller finds in a success."""

    segments: tuple[tuple[int, int], ...]
    """(first step, step after the last) of each, covering the trajectory."""
    keyframes: tuple[int, ...]
    """Steps at which progress shows, ascending; the last step, at which the task is solved, is one."""
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    """What the rule looked at, by name and unit: [T] each."""
    warning: str = ""
    """What makes this trajectory a poor teacher; empty if nothing does."""


@dataclass(frozen=True, kw_only=True)
class LabelledEpisode:
    """An episode of T steps with a label for each frame."""

    episode: Episode
    labels: np.ndarray
    """[T] int8: POSITIVE, NEGATIVE, or IGNORED in the band around a keyframe's window."""
    milestones: Milestones
    """Of a failure: one segment and no keyframes."""


def label_by_gripper(episode: Episode, config: LabelConfig) -> Milestones:
    """VLA-RL's rule.

    A change of the opening is a segment (grasp, release), and so is what lies between two (approach, transport); what
    follows the last change belongs to it if it is short.
    """
    speed = compute_speed(episode.proprio[:, EE_POSITION].astype(np.float64))
    fingers = episode.proprio[:, FINGERS].astype(np.float64)
    opening = fingers[:, 0] - fingers[:, 1]
    found = find_opening_changes(
        opening, config.min_opening_change, config.still_opening_rate, config.min_segment_steps
    )
    changes, steps = found.kept, len(speed)
    borders = sorted({0, steps, *(c.start for c in changes), *(c.stop for c in changes)})
    if changes and 0 < steps - changes[-1].stop < config.min_segment_steps:
        borders.remove(changes[-1].stop)
    segments = tuple(zip(borders[:-1], borders[1:], strict=True))
    threshold = config.speed_fraction * float(np.median(speed))
    # At the start the hand has not moved yet: standing still there is no progress.
    moving = np.flatnonzero(speed >= threshold)
    first = int(moving[0]) if len(moving) else steps
    still = {m for a, b in segments for m in find_still_moments(speed, threshold, max(a, first), b)}
    # A hand that stands still to close on nothing has not come further.
    keyframes = {m for m in still if not any(a <= m < b for a, b in found.undone)}
    return Milestones(
        segments=segments,
        keyframes=tuple(sorted(keyframes | {steps - 1})),
        curves={"hand speed, m/s": speed, "gripper opening, m": opening},
        warning="" if changes else "the gripper never changes: the labeller object_motion suits such a task",
    )


def label_by_object_motion(episode: Episode, config: LabelConfig) -> Milestones:
    """Milestones where what moves has come `progress_fractions` of its way; segments lie between them.

    Unlike the hand's speed this needs no stops, which a push or a turn does not have, and unlike the gripper it tells a
    drawer that slides from a hand that slips off.

    Raises:
        UserError: the episode has no states of the simulator.
    """
    if episode.states.shape[1] == 0:
        raise UserError("the labeller object_motion needs the simulator's states, and the data has none: use gripper")
    progress = compute_object_progress(episode.states, config.min_displacement)
    steps = len(episode.states)
    last = steps - 1
    if progress is None:
        warning = "nothing but the robot moved: only the end is a keyframe"
        return Milestones(segments=((0, steps),), keyframes=(last,), warning=warning)
    reached = {int(np.argmax(progress >= fraction)) for fraction in config.progress_fractions}
    keyframes = tuple(sorted(reached | {last}))
    borders = [0, *(k for k in keyframes if 0 < k < last), steps]
    return Milestones(
        segments=tuple(zip(borders[:-1], borders[1:], strict=True)),
        keyframes=keyframes,
        curves={
            "way of what moved, share": progress,
            "hand speed, m/s": compute_speed(episode.proprio[:, EE_POSITION].astype(np.float64)),
        },
    )


def find_labeller(name: str) -> Callable[[Episode, LabelConfig], Milestones]:
    """Returns the registered labeller.

    Raises:
        UserError: unknown name, with the nearest.
    """
    if name not in LABELLERS:
        raise unknown_name("labeller", name, LABELLERS)
    module, _, attribute = LABELLERS[name].partition(":")
    return getattr(import_module(module), attribute)


def label_episode(episode: Episode, config: LabelConfig) -> LabelledEpisode:
    """Labels every frame; the frames of a failure are negative.

    Raises:
        UserError: an episode that is too short, holds numbers that are not finite, or is of another robot.
    """
    _check(episode)
    steps = len(episode.actions)
    if episode.success:
        milestones = find_labeller(config.labeller)(episode, config)
    else:
        milestones = Milestones(segments=((0, steps),), keyframes=())
    labels = label_frames(steps, milestones.keyframes, config.tolerance_steps, config.ignore_steps)
    return LabelledEpisode(episode=episode, labels=labels, milestones=milestones)


def label_frames(steps: int, keyframes: Sequence[int], tolerance: int, ignored: int) -> np.ndarray:
    """Labels [steps] int8 from keyframes: positive within `tolerance` steps, ignored within `ignored` further ones."""
    if not len(keyframes):
        return np.full(steps, NEGATIVE, dtype=np.int8)
    distance = np.abs(np.arange(steps)[:, None] - np.asarray(keyframes)[None, :]).min(axis=1)
    labels = np.where(distance <= tolerance + ignored, IGNORED, NEGATIVE)
    return np.where(distance <= tolerance, POSITIVE, labels).astype(np.int8)


def _check(episode: Episode) -> None:
    where = f"episode {episode.start.index} of {episode.instruction!r}"
    if len(episode.actions) < MIN_STEPS:
        raise UserError(f"{where} has {len(episode.actions)} steps, labels need {MIN_STEPS}: leave it out")
    if episode.proprio.shape[1] != PROPRIO_DIM:
        raise UserError(
            f"{where} has {episode.proprio.shape[1]} proprioception entries, labels read the hand and the fingers from"
            f" LIBERO's {PROPRIO_DIM}"
        )
    for name in ("proprio", "states"):
        finite = np.isfinite(getattr(episode, name)).all(axis=1)
        if not finite.all():
            raise UserError(f"{where}: {name} is not finite at step {int(np.argmin(finite))}: leave it out")
