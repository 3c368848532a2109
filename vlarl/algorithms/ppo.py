"""PPO over packed trajectories of turns: from rollout, rewards and scores to what the learner minimises."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlarl.algorithms.advantages import compute_gae, normalize_advantages


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The learner's own numbers for a rollout."""

    values: Tensor
    """[N] float32, V of each turn's observation."""
    final_values: Tensor
    """[M] float32, V of each trajectory's final observation."""
    old_logprobs: Tensor
    """[N, K] float32, of the sampled tokens at the sampling temperature, before any update."""
    ref_logprobs: Tensor | None
    """[N, K] float32, of the policy that training started from; None unless the KL term needs it."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What PPO fits, one row per turn."""

    advantages: Tensor
    """[N] float32; PPO's are normalised to mean 0 and standard deviation 1."""
    returns: Tensor
    """[N] float32, what the value network fits: GAE advantage plus old value, not normalised."""
    token_mask: Tensor
    """[N, K] bool, True for the tokens of executed actions that are learned from."""
    importance_weights: Tensor | None = None
    """[N, K] float32, of tokens that older weights sampled; None: the scored weights did."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What to log of the preparation."""


def compute_token_mask(executed_steps: Tensor, action_dim: int, num_tokens: int) -> Tensor:
    """[N] executed env steps -> [N, K] bool: the tokens whose actions reached the environment."""
    action_index = torch.arange(num_tokens) // action_dim
    return action_index[None, :] < executed_steps[:, None]


def prepare(
    *,
    rewards: Tensor,
    scores: Scores,
    trajectory_offsets: Tensor,
    terminated: Tensor,
    bootstrap_truncated: bool,
    token_mask: Tensor,
    importance_weights: Tensor | None = None,
    gamma: float,
    gae_lambda: float,
) -> Targets:
    """Computes advantages and returns per turn (GAE, bootstrapped through truncation at most).

    Args:
        rewards: [N] float32.
        scores: the learner's values and log-probabilities.
        trajectory_offsets: [M + 1] int64.
        terminated: [M] bool; a trajectory that is not terminated was truncated.
        bootstrap_truncated: whether the final observation's value continues a truncated trajectory; else nothing does.
        token_mask: [N, K] bool.
        importance_weights: [N, K] float32, of tokens that older weights sampled.
        gamma: discount per turn.
        gae_lambda: GAE's lambda per turn.
    """
    ended = terminated if bootstrap_truncated else torch.ones_like(terminated)
    advantages, returns = compute_gae(
        rewards, scores.values, scores.final_values, trajectory_offsets, ended, gamma, gae_lambda
    )
    return Targets(
        advantages=normalize_advantages(advantages, token_mask.sum(-1).to(advantages.dtype)),
        returns=returns,
        token_mask=token_mask,
        importance_weights=importance_weights,
    )
