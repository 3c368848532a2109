"""Hand-made manipulation episodes."""

import numpy as np

from vlarl.data.episodes import EE_POSITION, FINGERS, PROPRIO_DIM, Episode
from vlarl.types import Start

OPEN, CLOSED = 0.08, 0.02
STEPS = 90


def make_episode(
    *, gripper: bool = True, missed_grasp: bool = False, slide: float = 0.0, index: int = 0, task_id: int = 0
) -> Episode:
    """90 steps: move, close at 29 to 33 at rest, move, open at 72 to 76 at rest, move, rest.

    Args:
        gripper: the fingers move at all.
        missed_grasp: close on nothing at rest at steps 8 to 18 before.
        slide: metres by which an object slides from step 40 to 80.
        index: of the start.
        task_id: of the start.
    """
    rests = [(29, 34), (72, 77), (86, 90)] + ([(8, 18)] if missed_grasp else [])
    step_length = np.array([0.0 if any(a <= t < b for a, b in rests) else 0.01 for t in range(STEPS)])
    # It accelerates: the hand is at rest at the start.
    step_length[:3] = (0.0, 0.002, 0.005)
    opening = np.full(STEPS, OPEN)
    if gripper:
        opening[33:72] = CLOSED
        opening[29:34] = np.linspace(OPEN, CLOSED, 5)
        opening[72:77] = np.linspace(CLOSED, OPEN, 5)
    if missed_grasp:
        opening[8:13] = np.linspace(OPEN, 0, 5)
        opening[13:18] = np.linspace(0, OPEN, 5)
    proprio = np.zeros((STEPS, PROPRIO_DIM), dtype=np.float32)
    proprio[:, EE_POSITION.start] = np.cumsum(step_length)
    proprio[:, FINGERS.start], proprio[:, FINGERS.start + 1] = opening / 2, -opening / 2
    rng = np.random.default_rng([index, task_id])
    return Episode(
        images=rng.integers(0, 256, (STEPS, 16, 16, 3), dtype=np.uint8),
        proprio=proprio,
        actions=np.zeros((STEPS, 7), dtype=np.float32),
        target_mask=np.ones(STEPS, dtype=bool),
        states=_states(slide),
        instruction=("put the bowl on the plate", "turn on the stove")[task_id],
        start=Start(task_id=task_id, split="train", index=index),
        success=True,
    )


def _states(slide: float) -> np.ndarray:
    time = np.arange(STEPS) * 0.05
    rates = np.arange(1, 10)
    thing = np.tile([0.3, 0.1, 0.9, 1, 0, 0, 0], (STEPS, 1))
    thing[:, 0] += slide * np.clip((np.arange(STEPS) - 40) / 40, 0, 1)
    arm, velocity = np.sin(time[:, None] * rates), rates * np.cos(time[:, None] * rates)
    return np.hstack([time[:, None], arm, thing, velocity, np.zeros((STEPS, 6))])
