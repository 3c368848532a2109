"""The contract of a reward function and the registered ones."""

from typing import Protocol

import numpy as np

from vlarl.types import Rollout


class RewardFn(Protocol):
    """Gives every turn of a rollout its reward."""

    def score(self, rollout: Rollout) -> np.ndarray:
        """Returns the reward of each turn, [N] float32."""
        ...
