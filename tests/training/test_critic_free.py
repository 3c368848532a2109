"""GRPO, RLOO and rejection sampling through the whole loop, on the toy environment."""

from dataclasses import replace
from io import StringIO

import pytest

from vlarl.configs.training import TrainConfig
from vlarl.errors import UserError
from vlarl.recipes import toy
from vlarl.reporting.progress import Console
from vlarl.training.run import Run
from vlarl.training.run_folder import RunFolder


def critic_free(**changes) -> TrainConfig:
    config = toy()
    ppo = replace(
        config.ppo,
        num_iterations=4,
        critic_warmup_iterations=0,
        rollout_batch_size=32,
        minibatch_size=32,
        microbatch_size=32,
    )
    return replace(config, **{"algorithm": "grpo", "group_size": 8, "ppo": ppo} | changes)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_trains_without_a_critic(tmp_path, algorithm):
    with Run(RunFolder(tmp_path), critic_free(algorithm=algorithm), Console(quiet=True)) as run:
        run.train()
        rows = run.folder.history()
    assert len(rows) == 4
    assert all(0 <= row["rollout/skipped_groups"] <= 4 for row in rows)
    assert any(row["losses/policy_updates"] > 0 and row["losses/approx_kl"] > 0 for row in rows)
    assert not any(row["critic_warmup"] for row in rows)


def test_imitates_its_own_successes(tmp_path):
    config = critic_free(algorithm="rejection")
    assert config.trajectories_per_start == 1
    with Run(RunFolder(tmp_path), config, Console(quiet=True)) as run:
        run.train()
        rows = run.folder.history()
    learned = [row for row in rows if row["losses/policy_updates"] > 0]
    assert learned and all(row["losses/approx_kl"] > 0 for row in learned)
    # What succeeded becomes more likely: the surrogate of a positive advantage is -ratio, and ratios rise above 1.
    assert all(row["losses/policy_loss"] < -1 for row in learned)
    assert all((row["losses/policy_updates"] > 0) == (row["charts/success_rate"] > 0) for row in rows)


def test_a_rollout_without_a_success_teaches_nothing_and_says_so(tmp_path, monkeypatch):
    config = critic_free(algorithm="rejection")
    config, stream = replace(config, ppo=replace(config.ppo, num_iterations=1)), StringIO()
    monkeypatch.setattr("vlarl.rewards.success.SuccessReward.score", lambda _, rollout: 0 * rollout.env_rewards)
    with Run(RunFolder(tmp_path), config, Console(stream)) as run:
        run.train()
        (row,) = run.folder.history()
    assert row["losses/policy_updates"] == 0
    assert ", nothing to learn from" in stream.getvalue()


def test_settings_that_do_not_fit():
    config = critic_free()
    with pytest.raises(UserError, match=r"rollout_batch_size 32 is not a multiple of group_size 5"):
        replace(config, group_size=5)
    with pytest.raises(UserError, match=r"grpo has no critic to warm up: add --ppo.critic-warmup-iterations 0"):
        replace(config, ppo=replace(config.ppo, critic_warmup_iterations=1))
    with pytest.raises(UserError, match="group_size must be at least 2"):
        replace(config, group_size=1)
    process = replace(config.process_reward, model="model")
    with pytest.raises(UserError, match="rejection keeps the trajectories that succeed and reads no reward 'process'"):
        replace(config, algorithm="rejection", reward="process", process_reward=process)
