"""PPO's losses as sums, so that micro-batches add up to exactly the minibatch's loss."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class PolicyLoss:
    """Sums over a (micro-)batch; each is a scalar tensor."""

    loss_sum: Tensor
    """Clipped objective with its sign turned, over tokens or turns."""
    approx_kl_sum: Tensor
    """KL(old || new) over tokens, estimator r - 1 - log r; no gradient."""
    clip_fraction_sum: Tensor
    """Ratios outside the clip range, over tokens or turns; no gradient."""


def compute_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    token_mask: Tensor,
    clip_ratio_low: float,
    clip_ratio_high: float,
    ratio_level: Literal["token", "turn"],
    importance_weights: Tensor | None = None,
) -> PolicyLoss:
    """PPO's clipped objective (arXiv 1707.06347, eq. 7) with one ratio per token or one per turn.

    Args:
        logprobs: [B, K], with gradient.
        old_logprobs: [B, K], before the first update.
        advantages: [B], shared by the tokens of a turn.
        token_mask: [B, K] bool, tokens of executed actions.
        clip_ratio_low: the ratio is clipped below 1 - this.
        clip_ratio_high: the ratio is clipped above 1 + this.
        ratio_level: "token" (VLA-RL's text) or "turn" (VLA-RL's code: the sum over the turn's tokens).
        importance_weights: [B, K], of tokens that older weights sampled; None where the old log-probs are theirs.
    """
    log_ratios = torch.where(token_mask, logprobs - old_logprobs, torch.zeros_like(logprobs))
    with torch.no_grad():
        approx_kl_sum = (torch.expm1(log_ratios) - log_ratios).sum()
    if ratio_level == "token":
        ratios, advantages, counted = log_ratios.exp(), advantages.unsqueeze(-1), token_mask
    else:
        ratios, counted = log_ratios.sum(-1).exp(), torch.ones_like(advantages, dtype=torch.bool)
    clipped = ratios.clamp(1 - clip_ratio_low, 1 + clip_ratio_high)
    losses = -torch.minimum(ratios * advantages, clipped * advantages)
    if importance_weights is not None:
        # A turn has one ratio: its tokens' mean weight.
        losses = losses * (
            importance_weights if ratio_level == "token" else _masked_mean(importance_weights, token_mask)
        )
    with torch.no_grad():
        outside = (ratios < 1 - clip_ratio_low) | (ratios > 1 + clip_ratio_high)
    return PolicyLoss((losses * counted).sum(), approx_kl_sum, (outside & counted).sum())


def compute_importance_weights(old_logprobs: Tensor, generator_logprobs: Tensor, cap: float) -> Tensor:
    """Truncated importance weights [B, K]: min(old probability / probability under the weights that sampled, `cap`).

    For rollouts that are some versions old; truncation bounds the variance (IMPALA's rho-bar, arXiv 1802.01561).
    """
    return (old_logprobs - generator_logprobs).exp().clamp(max=cap)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """[B, K] -> [B]."""
    return (values * mask).sum(-1) / mask.sum(-1)


def compute_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float | None) -> Tensor:
    """Half the squared error, summed over [B]; with a clip range the larger of it and the clipped value's."""
    errors = (values - returns).square()
    if clip_range is not None:
        clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
        errors = torch.maximum(errors, (clipped - returns).square())
    return 0.5 * errors.sum()


def compute_entropy(entropies: Tensor, token_mask: Tensor) -> Tensor:
    """Entropies [B, K] in nats, summed over executed tokens."""
    return (entropies * token_mask).sum()


def compute_kl(logprobs: Tensor, ref_logprobs: Tensor, token_mask: Tensor) -> Tensor:
    """KL(policy || reference) summed over executed tokens: e^d - 1 - d with d = ref - log-prob; with gradient."""
    difference = torch.where(token_mask, ref_logprobs - logprobs, torch.zeros_like(logprobs))
    return (torch.expm1(difference) - difference).sum()


def explained_variance(predictions: Tensor, targets: Tensor) -> float:
    """1 - Var(targets - predictions) / Var(targets); 0 where the targets do not vary."""
    variance = targets.var(correction=0)
    if variance == 0:
        return 0.0
    return float(1 - (targets - predictions).var(correction=0) / variance)
