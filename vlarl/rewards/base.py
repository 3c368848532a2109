"""The contract of a reward function and the registered ones."""

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

import numpy as np

from vlarl.configs.training import TrainConfig
from vlarl.envs.base import EnvSpec
from vlarl.errors import unknown_name
from vlarl.types import Observation, Rollout, WorkItem

REWARDS: dict[str, str] = {
    "success": "vlarl.rewards.success:make_success_reward",
    "process": "vlarl.rewards.process.reward:make_process_reward",
}
"""Name -> a function of (TrainConfig, EnvSpec) that makes the reward."""


class RewardFn(Protocol):
    """Gives every turn of a rollout its reward."""

    def submit(self, items: Sequence[WorkItem], observations: Observation) -> None:
        """Takes the next observation of each item's trajectory, while the environments work.

        Each observation of a rollout comes once and in the trajectory's order, the final one included.
        """
        ...

    def score(self, rollout: Rollout) -> np.ndarray:
        """Returns the reward of each turn, [N] float32."""
        ...


def make_reward_fn(config: TrainConfig, spec: EnvSpec) -> RewardFn:
    """Builds the registered reward function that the configuration names.

    Raises:
        UserError: unknown name, with the nearest; or the reward does not fit the rest.
    """
    if config.reward not in REWARDS:
        raise unknown_name("reward", config.reward, REWARDS)
    module, _, attribute = REWARDS[config.reward].partition(":")
    return getattr(import_module(module), attribute)(config, spec)
