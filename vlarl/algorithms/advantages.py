"""Generalised advantage estimation over packed trajectories (Schulman et al., arXiv 1506.02438)."""

import torch
from torch import Tensor


def compute_gae(
    rewards: Tensor,
    values: Tensor,
    final_values: Tensor,
    trajectory_offsets: Tensor,
    terminated: Tensor,
    gamma: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor]:
    """Computes advantages and returns, turn by turn backwards in every trajectory.

    Args:
        rewards: [N] float, reward of each turn.
        values: [N] float, value of each turn's observation.
        final_values: [M] float, value of each trajectory's final observation; used where it was truncated.
        trajectory_offsets: [M + 1] int64, turns of trajectory m are offsets[m]:offsets[m + 1].
        terminated: [M] bool; the value after a terminated trajectory is zero.
        gamma: discount per turn.
        gae_lambda: lambda per turn.

    Returns:
        Advantages [N] and returns [N] (advantage plus value).
    """
    advantages = torch.zeros_like(values)
    starts, ends = trajectory_offsets[:-1], trajectory_offsets[1:]
    next_values = torch.where(terminated, torch.zeros_like(final_values), final_values)
    running = torch.zeros_like(final_values)
    # Step back from all ends at once; trajectories shorter than the longest drop out.
    for back in range(1, int((ends - starts).max()) + 1):
        turns = ends - back
        active = turns >= starts
        turns = turns[active]
        delta = rewards[turns] + gamma * next_values[active] - values[turns]
        running[active] = delta + gamma * gae_lambda * running[active]
        next_values[active] = values[turns]
        advantages[turns] = running[active]
    return advantages, advantages + values


def normalize_advantages(advantages: Tensor, weights: Tensor, eps: float = 1e-8) -> Tensor:
    """Returns advantages [N] with weighted mean 0 and weighted standard deviation 1; weights [N], not negative."""
    share = weights / weights.sum()
    centred = advantages - (share * advantages).sum()
    return centred / ((share * centred.square()).sum().sqrt() + eps)
