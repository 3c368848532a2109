"""One demonstration or recorded rollout, independent of how it is stored."""

from dataclasses import dataclass

import numpy as np

from vlarl.types import Start

EE_POSITION = slice(0, 3)
"""Entries of a manipulation episode's proprioception with the grip site, metres."""
FINGERS = slice(9, 11)
"""Entries with the finger joints, metres: 0.04 and -0.04 are open."""
PROPRIO_DIM = 12
"""Grip site position 3 (metres), first two columns of its rotation 6, finger joints 2 (metres), gripper command 1."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """T env steps of one task. Frame t is what was seen before action t."""

    images: np.ndarray
    """[T, H, H, 3] uint8, RGB, upright."""
    proprio: np.ndarray
    """[T, P] float32, as EnvObservation.proprio."""
    actions: np.ndarray
    """[T, A] float32, in the environment's units ([-1, 1])."""
    target_mask: np.ndarray
    """[T] bool, False where the action was forced on the expert and must never be imitated."""
    states: np.ndarray
    """[T, S] float64, the simulator's flattened state (LIBERO: time, qpos, qvel); S is 0 where none was recorded."""
    instruction: str
    start: Start
    success: bool


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """Averages a frame [H, W, 3] uint8 down to [size, size, 3].

    Raises:
        ValueError: it is smaller.
    """
    if min(image.shape[:2]) < size:
        raise ValueError(f"its images have {image.shape[0]} x {image.shape[1]} pixels, {size} a side are wanted")
    if image.shape[:2] == (size, size):
        return image
    # Only here: environment workers need no pictures from files.
    from PIL import Image

    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((size, size), Image.Resampling.BOX))
