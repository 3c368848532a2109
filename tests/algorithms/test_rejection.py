import torch

from vlarl.algorithms.critic_free import prepare_without_critic
from vlarl.algorithms.losses import compute_policy_loss
from vlarl.algorithms.ppo import Scores
from vlarl.algorithms.rejection import compute_success_advantages

SCORES = Scores(values=torch.zeros(4), final_values=torch.zeros(3), old_logprobs=torch.zeros(4, 2), ref_logprobs=None)
MASK = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1]], dtype=torch.bool)


def test_only_the_tokens_of_successes_are_learned_from():
    # Trajectories of 2, 1 and 1 turns; the first succeeds, the second ends by a failure, the third runs out of time.
    targets = prepare_without_critic(
        rewards=torch.tensor([0.0, 1.0, 0.0, 0.0]),
        scores=SCORES,
        trajectory_offsets=torch.tensor([0, 2, 3, 4]),
        terminated=torch.tensor([True, True, False]),
        token_mask=MASK,
        compute_advantages=compute_success_advantages,
        group_size=1,
    )
    assert targets.advantages.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert targets.token_mask.int().tolist() == [[1, 1], [1, 0], [0, 0], [0, 0]]
    assert targets.metrics == {"rollout/skipped_groups": 2}


def test_the_gradient_is_that_of_the_likelihood():
    """Before the first step all ratios are 1, and d(-ratio)/d(logprob) = -1 for every token that counts."""
    logprobs = torch.full((4, 2), -0.5, requires_grad=True)
    success = torch.tensor([1.0, 1.0, 0.0, 0.0])
    mask = MASK & success.bool().unsqueeze(-1)
    loss = compute_policy_loss(logprobs, torch.full((4, 2), -0.5), success, mask, 0.2, 0.28, "token", None).loss_sum
    loss.backward()
    assert logprobs.grad.tolist() == [[-1, -1], [-1, 0], [0, 0], [0, 0]]
