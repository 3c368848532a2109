import pytest
import torch

from vlarl.algorithms.ppo import Scores, compute_token_mask, prepare


def test_token_mask_covers_the_executed_actions():
    mask = compute_token_mask(torch.tensor([1, 2, 3]), action_dim=2, num_tokens=6)
    assert mask.int().tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]


def test_limit_without_bootstrapping_is_a_failure():
    scores = Scores(
        values=torch.tensor([0.25, 0.5]),
        final_values=torch.tensor([8.0]),
        old_logprobs=torch.zeros(2, 2),
        ref_logprobs=None,
    )
    targets = prepare(
        rewards=torch.zeros(2),
        scores=scores,
        trajectory_offsets=torch.tensor([0, 2]),
        terminated=torch.tensor([False]),
        bootstrap_truncated=False,
        token_mask=torch.ones(2, 2, dtype=torch.bool),
        gamma=0.5,
        gae_lambda=1.0,
    )
    assert targets.returns.tolist() == [0.0, 0.0]


def test_prepare_weighs_advantages_by_executed_tokens():
    scores = Scores(
        values=torch.tensor([0.0, 1.0, 0.0]),
        final_values=torch.tensor([9.0, 2.0]),
        old_logprobs=torch.zeros(3, 4),
        ref_logprobs=None,
    )
    mask = compute_token_mask(torch.tensor([2, 1, 1]), action_dim=2, num_tokens=4)
    targets = prepare(
        rewards=torch.tensor([0.0, 1.0, 0.0]),
        scores=scores,
        trajectory_offsets=torch.tensor([0, 2, 3]),
        terminated=torch.tensor([True, False]),
        bootstrap_truncated=True,
        token_mask=mask,
        gamma=0.5,
        gae_lambda=1.0,
    )
    # Terminated: A_1 = 1 - 1 = 0, A_0 = 0.5 * 1 - 0 = 0.5; truncated: A = 0.5 * 2 - 0 = 1.
    assert targets.returns.tolist() == [0.5, 1.0, 1.0]
    # Weights 4, 2, 2: mean 0.5, variance 0.5 * 0 + 0.25 * 0.25 + 0.25 * 0.25 = 0.125.
    assert targets.advantages.tolist() == pytest.approx([0.0, -0.5 / 0.125**0.5, 0.5 / 0.125**0.5], abs=1e-6)
    assert torch.equal(targets.token_mask, mask)
