from functools import partial

import pytest
import torch

from vlarl.algorithms.critic_free import prepare_without_critic
from vlarl.algorithms.groups import compute_group_advantages
from vlarl.algorithms.ppo import Scores


def test_grpo_by_hand():
    advantages, varies = compute_group_advantages(
        torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]), 4, leave_one_out=False, eps=0.0
    )
    # Group 1: mean 1/4, standard deviation sqrt(3)/4; group 2: mean and deviation 1/2.
    assert advantages.tolist() == pytest.approx([3**0.5, *[-(3**-0.5)] * 3, 1, 1, -1, -1])
    assert varies.all()


def test_rloo_by_hand():
    advantages, _ = compute_group_advantages(torch.tensor([1.0, 0.0, 0.5, 3.0, 1.0, 2.0]), 3, leave_one_out=True)
    # Each minus the mean of the other two.
    assert advantages.tolist() == pytest.approx([0.75, -0.75, 0.0, 1.5, -1.5, 0.0])


@pytest.mark.parametrize("leave_one_out", [True, False])
def test_groups_without_variance_teach_nothing(leave_one_out):
    # 0.1 three times: its mean is not exactly 0.1 in float32.
    returns = torch.tensor([0.1, 0.1, 0.1, 0.0, 1.0, 0.0])
    advantages, varies = compute_group_advantages(returns, 3, leave_one_out=leave_one_out)
    assert advantages[:3].tolist() == [0.0, 0.0, 0.0]
    assert varies.tolist() == [False] * 3 + [True] * 3


def test_advantages_are_shared_by_the_turns_and_skipped_groups_masked():
    # Trajectories of 2, 1, 1 and 2 turns; the first two are a group with success, the last two without.
    mask = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 0], [1, 1], [1, 1]], dtype=torch.bool)
    targets = prepare_without_critic(
        rewards=torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 0.0]),
        scores=Scores(
            values=torch.zeros(6), final_values=torch.zeros(4), old_logprobs=torch.zeros(6, 2), ref_logprobs=None
        ),
        trajectory_offsets=torch.tensor([0, 2, 3, 4, 6]),
        terminated=torch.tensor([True, False, False, False]),
        token_mask=mask,
        compute_advantages=partial(compute_group_advantages, group_size=2, leave_one_out=True),
        group_size=2,
    )
    assert targets.advantages.tolist() == [1.0, 1.0, -1.0, 0.0, 0.0, 0.0]
    assert targets.returns.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert targets.token_mask.int().tolist() == [[1, 1], [1, 0], [1, 1], [0, 0], [0, 0], [0, 0]]
    assert targets.metrics == {"rollout/skipped_groups": 1}
