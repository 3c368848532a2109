"""The process reward in RL: shaping by hand arithmetic, and frames handed over during the rollout."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl.configs.reward import ProcessRewardConfig
from vlarl.envs.base import make_spec
from vlarl.envs.vector import VectorEnv
from vlarl.errors import UserError
from vlarl.inference.local import LocalGenerator
from vlarl.policies.tiny import make_policy
from vlarl.recipes import toy
from vlarl.rewards.base import submit_rollout
from vlarl.rewards.process.reward import ProcessReward, compute_added_reward, compute_potential_reward
from vlarl.rollout.collector import Collector
from vlarl.types import Start, WorkItem

TOY = toy()


def test_added_reward_by_hand():
    rewards = compute_added_reward(np.array([0.9, 0.5, 1.0]), weight=0.3, max_turns=10)
    assert rewards == pytest.approx([0.015, 0.03])


def test_potential_reward_by_hand():
    rewards = compute_potential_reward(np.array([0.2, 0.5, 1.0]), weight=0.4, gamma=0.9, ends=False)
    assert rewards == pytest.approx([0.9 * 0.2 - 0.08, 0.9 * 0.4 - 0.2])
    assert compute_potential_reward(np.array([0.2, 0.5, 1.0]), 0.4, 0.9, ends=True)[-1] == pytest.approx(-0.2)


probabilities = st.lists(st.floats(0, 1), min_size=2, max_size=40).map(np.array)


@given(probabilities, st.floats(0.01, 0.99), st.floats(0.5, 1.0))
def test_an_episode_never_earns_more_than_the_weight(p, weight, gamma):
    assert compute_added_reward(p, weight, len(p) - 1).sum() <= weight + 1e-6
    for ends in (True, False):
        assert compute_potential_reward(p, weight, gamma, ends=ends).sum() <= weight + 1e-6


@given(probabilities, st.floats(0.5, 1.0))
def test_potential_changes_every_return_alike(p, gamma):
    # The discounted sum of what is added depends on the first frame alone once the episode ends.
    added = compute_potential_reward(p, 0.3, gamma, ends=True)
    discounted = float(np.sum(added * gamma ** np.arange(len(added))))
    assert discounted == pytest.approx(-0.3 * p[0], abs=1e-5)


class BrightnessModel:
    """Scores a frame by its mean brightness, and remembers the sizes of its batches."""

    def __init__(self):
        self.batches = []

    def score(self, images, instructions, batch_size=64):
        assert len(images) == len(instructions)
        self.batches.append(len(images))
        return images.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32) / 255


def make_reward(model, **changes) -> ProcessReward:
    config = ProcessRewardConfig(model="somewhere", **changes)
    return ProcessReward(model, config, max_turns=20, gamma=0.99, bootstrap_truncated=True)


@pytest.mark.parametrize("mode", ["added", "potential"])
def test_frames_are_scored_during_the_rollout(mode):
    model = BrightnessModel()
    reward = make_reward(model, mode=mode, batch_size=8)
    items = [WorkItem(trajectory_index=i, start=Start(task_id=i % 2, split="train", index=i), seed=5) for i in range(6)]
    generator = LocalGenerator(make_policy(TOY.policy).eval(), 1.0)
    with VectorEnv(replace(TOY.env, num_envs=3, num_workers=1)) as envs:
        rollout = Collector(envs, TOY.env.replan_steps).collect(generator, items, reward_fn=reward)
    assert set(model.batches) == {8}
    rewards = reward.score(rollout)
    # All frames once: those before each turn and the final ones.
    assert sum(model.batches) == rollout.num_turns + rollout.num_trajectories
    for m in range(rollout.num_trajectories):
        turns = slice(*rollout.trajectory_offsets[m : m + 2])
        frames = np.concatenate([rollout.observations.images[turns], rollout.final_observations.images[m : m + 1]])
        p = BrightnessModel().score(frames, [""] * len(frames))
        if mode == "added":
            expected = compute_added_reward(p, 0.3, 20)
        else:
            expected = compute_potential_reward(p, 0.3, 0.99, ends=bool(rollout.terminated[m]))
        np.testing.assert_allclose(rewards[turns], rollout.env_rewards[turns] + expected, atol=1e-6)
    elsewhere = make_reward(BrightnessModel(), mode=mode, batch_size=8)
    submit_rollout(elsewhere, rollout)
    np.testing.assert_array_equal(elsewhere.score(rollout), rewards)


def test_a_second_rollout_starts_anew():
    reward = make_reward(BrightnessModel(), batch_size=2)
    item = WorkItem(trajectory_index=0, start=Start(task_id=0, split="train", index=0), seed=1)
    seen = SimpleNamespace(images=np.full((1, 4, 4, 3), 255, dtype=np.uint8), instructions=("do it",))
    rollout = SimpleNamespace(
        env_rewards=np.zeros(1), trajectory_offsets=np.array([0, 1]), items=(item,), terminated=np.array([False])
    )
    for _ in range(2):
        reward.submit([item], seen)
        reward.submit([item], seen)
        assert reward.score(rollout) == pytest.approx([0.3 / 20])
    reward.submit([item], seen)
    with pytest.raises(RuntimeError, match="1 turns and 1 scored frames"):
        reward.score(rollout)


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"weight": 1.0}, "worth more"), ({"weight": 0.0}, "weight"), ({"mode": "aded"}, "Did you mean 'added'")],
)
def test_impossible_settings(bad, message):
    with pytest.raises(UserError, match=message):
        ProcessRewardConfig(**bad)


def test_reward_and_model_go_together():
    for change in ({"reward": "process"}, {"process_reward": ProcessRewardConfig(model="somewhere")}):
        with pytest.raises(UserError, match="needs the folder of a model"):
            replace(TOY, **change)


def test_a_missing_model_is_found_before_anything_is_built(tmp_path):
    from vlarl.rewards.base import check_reward

    config = replace(TOY, reward="process", process_reward=ProcessRewardConfig(model=str(tmp_path / "nothing")))
    with pytest.raises(UserError, match="no reward model at .*nothing"):
        check_reward(config, make_spec(TOY.env))
