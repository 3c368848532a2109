"""The contract of a reward function and the registered ones."""

from importlib import import_module
from typing import Protocol

import numpy as np

from vlarl.errors import unknown_name
from vlarl.types import Rollout

REWARDS: dict[str, str] = {
    "success": "vlarl.rewards.success:SuccessReward",
}


class RewardFn(Protocol):
    """Gives every turn of a rollout its reward."""

    def score(self, rollout: Rollout) -> np.ndarray:
        """Returns the reward of each turn, [N] float32."""
        ...


def make_reward_fn(name: str) -> RewardFn:
    """Builds the registered reward function.

    Raises:
        UserError: unknown name, with the nearest.
    """
    if name not in REWARDS:
        raise unknown_name("reward", name, REWARDS)
    module, _, attribute = REWARDS[name].partition(":")
    return getattr(import_module(module), attribute)()
