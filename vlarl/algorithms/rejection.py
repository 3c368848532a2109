"""Rejection-sampling fine-tuning: the policy imitates its own successes, and failures teach nothing.

The simplest way to learn from the same rollouts, against which reinforcement learning has to prove itself (RFT: Yuan et
al., arXiv 2308.01825; as iterations of sampling and imitation, ReST-EM: Singh et al., arXiv 2312.06585).
"""

from torch import Tensor

from vlarl.algorithms.ppo import Scores, Targets, sum_by_trajectory


def prepare_successes(
    *,
    rewards: Tensor,
    scores: Scores,
    trajectory_offsets: Tensor,
    terminated: Tensor,
    token_mask: Tensor,
    importance_weights: Tensor | None = None,
) -> Targets:
    """Leaves out the tokens of failures; those of successes all have advantage 1.

    With equal advantages the clipped objective's gradient is that of the likelihood (weighted by the ratio), until a
    token has become `clip_ratio_high` more likely than it was when it was sampled; `target_kl` ends an update as it
    does PPO's.

    Args:
        rewards: [N] float32 of the success reward: positive once, where an episode succeeds.
        scores: not read but for the dtype of values [N]: there is no critic.
        trajectory_offsets: [M + 1] int64.
        terminated: not read: an episode may also end by a failure.
        token_mask: [N, K] bool.
        importance_weights: [N, K] float32, of tokens that older weights sampled.
    """
    del terminated
    returns, trajectory = sum_by_trajectory(rewards, trajectory_offsets)
    is_success = returns[trajectory] > 0
    return Targets(
        advantages=is_success.to(scores.values.dtype),
        returns=returns[trajectory],
        token_mask=token_mask & is_success.unsqueeze(-1),
        importance_weights=importance_weights,
    )
