"""Rejection-sampling fine-tuning: the policy imitates its own successes, and failures teach nothing.

The simplest way to learn from the same rollouts, against which reinforcement learning has to prove itself (RFT: Yuan et
al., arXiv 2308.01825; as iterations of sampling and imitation, ReST-EM: Singh et al., arXiv 2312.06585).
"""

from torch import Tensor


def compute_success_advantages(returns: Tensor) -> tuple[Tensor, Tensor]:
    """Gives every success the same advantage.

    With equal advantages the clipped objective's gradient is that of the likelihood (weighted by the ratio), until a
    token has become `clip_ratio_high` more likely than it was when it was sampled; `target_kl` ends an update as it
    does PPO's.

    Args:
        returns: [M] float, of the success reward: positive where an episode succeeded.

    Returns:
        Advantages [M], 1 for successes and 0 for failures, and [M] bool: whether the trajectory is a success.
    """
    is_success = returns > 0
    return is_success.to(returns.dtype), is_success
