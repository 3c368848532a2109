"""Critic-free relatives of PPO: an episode is as good as it is better than others from the same start.

GRPO: Shao et al., arXiv 2402.03300. RLOO: Ahmadian et al., arXiv 2402.14740. Both share PPO's clipped objective; the
success of a group of trajectories from one start stands in for the value network.
"""

import torch
from torch import Tensor


def compute_group_advantages(
    returns: Tensor, group_size: int, *, leave_one_out: bool, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Compares each trajectory with its group.

    Args:
        returns: [M] float, undiscounted; each `group_size` in a row are a group.
        group_size: trajectories per group, at least 2.
        leave_one_out: RLOO, return minus the mean of the others; else GRPO, return minus the group's mean, in units of
            its standard deviation.
        eps: added to the standard deviation.

    Returns:
        Advantages [M], and [M] bool: whether the trajectory's group has any variance. Without it nothing can be
        learned, and all advantages are 0.
    """
    grouped = returns.view(-1, group_size)
    centred = grouped - grouped.mean(1, keepdim=True)
    varies = (grouped != grouped[:, :1]).any(1, keepdim=True)
    if leave_one_out:
        advantages = centred * (group_size / (group_size - 1))
    else:
        advantages = centred / (grouped.std(1, correction=0, keepdim=True) + eps)
    advantages = torch.where(varies, advantages, torch.zeros_like(advantages))
    return advantages.flatten(), varies.expand_as(grouped).flatten()
