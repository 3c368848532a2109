"""The contract of a reward function and the registered ones."""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Protocol

import numpy as np

from vlarl.configs.training import TrainConfig
from vlarl.envs.base import EnvSpec
from vlarl.errors import unknown_name
from vlarl.types import Observation, Rollout, WorkItem

REWARDS: dict[str, str] = {
    "success": "vlarl.rewards.success",
    "process": "vlarl.rewards.process.reward",
}
"""Name -> module with check_reward and make_reward, both of (TrainConfig, EnvSpec)."""


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


def submit_rollout(reward_fn: RewardFn, rollout: Rollout) -> None:
    """Hands over the observations of a rollout that was collected elsewhere."""
    per_turn = np.repeat(np.arange(rollout.num_trajectories), np.diff(rollout.trajectory_offsets))
    reward_fn.submit([rollout.items[m] for m in per_turn], rollout.observations)
    reward_fn.submit(rollout.items, rollout.final_observations)


def check_reward(config: TrainConfig, spec: EnvSpec) -> None:
    """Checks the reward that the configuration names before anything is built.

    Raises:
        UserError: unknown name, with the nearest; or the reward does not fit the rest.
    """
    _module(config).check_reward(config, spec)


def make_reward_fn(config: TrainConfig, spec: EnvSpec) -> RewardFn:
    """Builds the reward function that the configuration names.

    Raises:
        UserError: see `check_reward`.
    """
    return _module(config).make_reward(config, spec)


def _module(config: TrainConfig) -> ModuleType:
    if config.reward not in REWARDS:
        raise unknown_name("reward", config.reward, REWARDS)
    return import_module(REWARDS[config.reward])
