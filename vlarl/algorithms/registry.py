"""Algorithms by name: how rewards become what the clipped objective fits."""

from collections.abc import Callable
from functools import partial

from vlarl.algorithms.critic_free import prepare_without_critic
from vlarl.algorithms.groups import compute_group_advantages
from vlarl.algorithms.ppo import Targets, prepare
from vlarl.algorithms.rejection import compute_success_advantages
from vlarl.configs.training import TrainConfig

PrepareFn = Callable[..., Targets]
"""Takes rewards, scores, trajectory_offsets, terminated, token_mask and importance_weights, by name."""


def make_prepare(config: TrainConfig) -> PrepareFn:
    """Returns the configured algorithm with its settings."""
    if config.algorithm == "ppo":
        ppo = config.ppo
        return partial(prepare, bootstrap_truncated=ppo.bootstrap_truncated, gamma=ppo.gamma, gae_lambda=ppo.gae_lambda)
    compute_advantages = compute_success_advantages
    if config.algorithm != "rejection":
        compute_advantages = partial(
            compute_group_advantages, group_size=config.group_size, leave_one_out=config.algorithm == "rloo"
        )
    return partial(
        prepare_without_critic, compute_advantages=compute_advantages, group_size=config.trajectories_per_start
    )
