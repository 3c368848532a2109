"""The sparse reward: 1 in the turn that reaches the goal."""

from collections.abc import Sequence

import numpy as np

from vlarl.configs.training import TrainConfig
from vlarl.envs.base import EnvSpec
from vlarl.types import Observation, Rollout, WorkItem


class SuccessReward:
    """The environment's own reward, summed over the executed steps of a turn."""

    def submit(self, items: Sequence[WorkItem], observations: Observation) -> None:
        """Needs no frames."""

    def score(self, rollout: Rollout) -> np.ndarray:
        """[N] float32."""
        return rollout.env_rewards


def check_reward(config: TrainConfig, spec: EnvSpec) -> None:
    """Fits everything."""


def make_reward(config: TrainConfig, spec: EnvSpec) -> SuccessReward:
    """Returns the reward; nothing of the configuration changes it."""
    return SuccessReward()
