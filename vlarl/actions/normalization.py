"""Between the environment's action units and the policy's [-1, 1]; LIBERO's gripper conventions."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vlarl.errors import UserError, unknown_name


@dataclass(frozen=True, kw_only=True)
class ActionStatistics:
    """Quantiles of a data set's actions (OpenVLA's BOUNDS_Q99 normalisation)."""

    q01: np.ndarray
    """[A] float64, 1 % quantile, environment units."""
    q99: np.ndarray
    """[A] float64, 99 % quantile."""
    mask: np.ndarray
    """[A] bool, False: the entry is not normalised (the gripper)."""

    @classmethod
    def from_norm_stats(cls, norm_stats: dict[str, Any], unnorm_key: str) -> "ActionStatistics":
        """Reads one data set of a checkpoint's statistics.

        Raises:
            UserError: unknown key (the known ones are listed), lengths that differ, or an empty range.
        """
        if unnorm_key not in norm_stats:
            raise unknown_name("unnorm_key", unnorm_key, norm_stats)
        raw = norm_stats[unnorm_key]["action"]
        low, high = (np.asarray(raw[name], dtype=np.float64) for name in ("q01", "q99"))
        mask = np.asarray(raw.get("mask", np.ones(len(low), dtype=bool)), dtype=bool)
        if not low.shape == high.shape == mask.shape:
            raise UserError(
                f"the statistics of {unnorm_key!r} have {low.size} q01, {high.size} q99 and {mask.size} mask entries:"
                " they must be as many as the action has"
            )
        empty = np.flatnonzero(mask & ~(high > low))
        if empty.size:
            raise UserError(
                f"the statistics of {unnorm_key!r} have q01 = {low[empty[0]]} and q99 = {high[empty[0]]} for action"
                f" entry {empty[0]}: nothing can be normalised by an empty range; mask the entry or correct them"
            )
        return cls(q01=low, q99=high, mask=mask)

    def unnormalize(self, normalized: np.ndarray) -> np.ndarray:
        """[..., A] in [-1, 1] -> environment units, float64."""
        scaled = 0.5 * (normalized + 1.0) * (self.q99 - self.q01) + self.q01
        return np.where(self.mask, scaled, normalized)

    def normalize(self, actions: np.ndarray) -> np.ndarray:
        """Inverse of unnormalize, clipped to [-1, 1] where the mask is set."""
        span = np.where(self.mask, self.q99 - self.q01, 1.0)
        return np.where(self.mask, np.clip(2.0 * (actions - self.q01) / span - 1.0, -1.0, 1.0), actions)


def normalize_gripper(actions: np.ndarray, *, binarize: bool = True) -> np.ndarray:
    """Maps the last entry from [0, 1] to [-1, 1]; binarised it is the sign, 0 for exactly one half."""
    result = np.array(actions, dtype=np.float64)
    result[..., -1] = 2.0 * result[..., -1] - 1.0
    if binarize:
        result[..., -1] = np.sign(result[..., -1])
    return result


def invert_gripper(actions: np.ndarray) -> np.ndarray:
    """Flips the last entry: OpenVLA's data say 1 for open, LIBERO says -1."""
    result = np.array(actions, dtype=np.float64)
    result[..., -1] *= -1.0
    return result
