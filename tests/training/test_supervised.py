from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny import TINY, make_observation, make_policy
from vlarl.configs.training import SFTConfig
from vlarl.data.episodes import Episode
from vlarl.data.sft import SFTDataset, shift_images, split_episodes
from vlarl.errors import NonFiniteError, UserError
from vlarl.inference.local import LocalGenerator
from vlarl.training.supervised import learning_rate, train_sft
from vlarl.types import Start

CONFIG = SFTConfig(num_steps=150, minibatch_size=16, learning_rate=5e-3, warmup_steps=5, crop_pixels=1, log_interval=50)


def make_episode(task_id: int, index: int, steps: int = 10) -> Episode:
    """Proprioception entry 0 tells the action: a policy that reads it can repeat the demonstration."""
    observation = make_observation(steps, seed=index)
    actions = np.stack([np.sign(observation.proprio[:, 0]), np.full(steps, 0.5)], axis=1).astype(np.float32)
    return Episode(
        images=observation.images,
        proprio=observation.proprio,
        actions=actions,
        target_mask=np.ones(steps, dtype=bool),
        states=np.zeros((steps, 1)),
        instruction=f"task {task_id}",
        start=Start(task_id=task_id, split="train", index=index),
        success=True,
    )


def test_windows_pad_with_rest_and_the_last_gripper_command():
    episode = make_episode(0, 0, steps=3)
    data = SFTDataset.from_episodes([episode], action_horizon=3)
    assert len(data) == 3
    np.testing.assert_array_equal(data.actions[0], episode.actions)
    np.testing.assert_array_equal(data.actions[2], [episode.actions[2], [0, 0.5], [0, 0.5]])


def test_forced_actions_are_never_a_target():
    mask = np.ones(10, dtype=bool)
    mask[5] = False
    data = SFTDataset.from_episodes([replace(make_episode(0, 0), target_mask=mask)], action_horizon=3)
    # Frames 3, 4, 5 have action 5 among their next three.
    np.testing.assert_array_equal(data.observations.proprio, make_episode(0, 0).proprio[[0, 1, 2, 6, 7, 8, 9]])


def test_split_is_by_episode_and_task():
    episodes = [make_episode(t, i) for t in (0, 1) for i in range(10)]
    training, validation = split_episodes(episodes, 0.1)
    assert [(e.start.task_id, e.start.index) for e in validation] == [(0, 9), (1, 9)]
    assert len(training) == 18
    assert split_episodes(episodes, 0.0)[1] == []


def test_shift_moves_pixels_and_repeats_edges():
    image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1).repeat(3, axis=3)
    moved = shift_images(image, np.array([[1, 0]]))[0, :, :, 0]
    np.testing.assert_array_equal(moved, [[3, 4, 5], [6, 7, 8], [6, 7, 8]])


def test_schedule_at_known_steps():
    config = SFTConfig(num_steps=110, warmup_steps=10, learning_rate=1.0)
    assert learning_rate(0, config) == pytest.approx(0.1)
    assert learning_rate(10, config) == pytest.approx(1.0)
    assert learning_rate(60, config) == pytest.approx(1 - 0.95 / 2)
    assert learning_rate(110, config) == pytest.approx(0.05)


def test_sft_learns_to_repeat_the_demonstrations_and_is_deterministic():
    episodes = [make_episode(t, i) for t in (0, 1) for i in range(6)]
    rows: list[dict] = []
    policies = [train_sft(make_policy(), episodes, CONFIG, 7, rows.append) for _ in range(2)]
    assert rows[-1]["losses/train_loss"] < 0.6 * rows[0]["losses/train_loss"]
    assert np.isfinite(rows[-1]["losses/validation_loss"])
    for a, b in zip(policies[0].parameters(), policies[1].parameters(), strict=True):
        assert torch.equal(a, b)
    data = SFTDataset.from_episodes(episodes[:5], TINY.action_horizon)
    actions = LocalGenerator(policies[0], 1.0).generate(data.observations, None).actions
    assert (np.sign(actions[:, 0, 0]) == data.actions[:, 0, 0]).mean() > 0.9
    np.testing.assert_allclose(
        policies[0].trunk.proprio_mean.numpy(),
        np.mean(np.concatenate([e.proprio for e in split_episodes(episodes, 0.1)[0]]), axis=0),
        atol=1e-5,
    )


def test_no_demonstration_is_an_error():
    with pytest.raises(UserError, match="no demonstration"):
        train_sft(make_policy(), [], CONFIG, 0, lambda row: None)


def test_a_non_finite_loss_stops():
    policy = make_policy()
    with torch.no_grad():
        policy.trunk.head.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"sft\.learning_rate"):
        train_sft(policy, [make_episode(0, i) for i in range(3)], CONFIG, 0, lambda row: None)
