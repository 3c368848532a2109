"""One demonstration or recorded rollout, independent of how it is stored."""

from dataclasses import dataclass

import numpy as np

from vlarl.types import Start


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
    """[T, S] float64, the simulator's flattened state (LIBERO: time, qpos, qvel)."""
    instruction: str
    start: Start
    success: bool
