"""What PPO's clipped objective fits where there is no critic: one advantage for all turns of a trajectory."""

from collections.abc import Callable

import torch
from torch import Tensor

from vlarl.algorithms.ppo import Scores, Targets

TrajectoryAdvantages = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Undiscounted returns [M] float -> advantages [M], and [M] bool: whether the trajectory teaches anything."""


def prepare_without_critic(
    *,
    rewards: Tensor,
    scores: Scores,
    trajectory_offsets: Tensor,
    terminated: Tensor,
    token_mask: Tensor,
    importance_weights: Tensor | None = None,
    compute_advantages: TrajectoryAdvantages,
    group_size: int,
) -> Targets:
    """Computes advantages per turn; the tokens of trajectories that teach nothing are left out, and groups counted.

    Args:
        rewards: [N] float32.
        scores: not read but for the dtype of values [N].
        trajectory_offsets: [M + 1] int64; each `group_size` trajectories in a row have the same start.
        terminated: not read: an episode counts by its rewards, however it ended.
        token_mask: [N, K] bool.
        importance_weights: [N, K] float32, of tokens that older weights sampled.
        compute_advantages: the algorithm.
        group_size: trajectories per start.
    """
    del terminated
    lengths = trajectory_offsets.diff()
    trajectory = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    returns = torch.zeros(len(lengths), dtype=rewards.dtype).index_add(0, trajectory, rewards)
    advantages, teaches = compute_advantages(returns)
    return Targets(
        advantages=advantages[trajectory].to(scores.values.dtype),
        returns=returns[trajectory],
        token_mask=token_mask & teaches[trajectory].unsqueeze(-1),
        importance_weights=importance_weights,
        metrics={"rollout/skipped_groups": int((~teaches).sum()) // group_size},
    )
