"""Algorithms by name: how rewards become what the clipped objective fits."""

from collections.abc import Callable
from functools import partial

from vlarl.algorithms.groups import prepare_groups
from vlarl.algorithms.ppo import Targets, prepare
from vlarl.algorithms.rejection import prepare_successes
from vlarl.configs.training import TrainConfig

PrepareFn = Callable[..., Targets]
"""Takes rewards, scores, trajectory_offsets, terminated, token_mask and importance_weights, by name."""


def make_prepare(config: TrainConfig) -> PrepareFn:
    """Returns the configured algorithm with its settings."""
    if config.algorithm == "ppo":
        ppo = config.ppo
        return partial(prepare, bootstrap_truncated=ppo.bootstrap_truncated, gamma=ppo.gamma, gae_lambda=ppo.gae_lambda)
    if config.algorithm == "rejection":
        return prepare_successes
    return partial(prepare_groups, group_size=config.group_size, leave_one_out=config.algorithm == "rloo")
