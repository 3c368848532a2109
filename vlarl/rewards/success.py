"""The sparse reward: 1 in the turn that reaches the goal."""

import numpy as np

from vlarl.types import Rollout


class SuccessReward:
    """The environment's own reward, summed over the executed steps of a turn."""

    def score(self, rollout: Rollout) -> np.ndarray:
        """[N] float32."""
        return rollout.env_rewards
