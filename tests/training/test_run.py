"""The whole quickstart on real LIBERO with the smallest budgets: every phase's files, and nothing done twice."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vlarl.cli.quickstart import headline, run_quickstart
from vlarl.configs.training import TrainConfig
from vlarl.data.libero_hdf5 import read_demonstrations
from vlarl.errors import UserError
from vlarl.evaluation.protocol import Evaluation
from vlarl.recipes import quickstart, toy
from vlarl.reporting.progress import Console
from vlarl.training.run import Run
from vlarl.training.run_folder import RunFolder, differing_keys


def tiny() -> TrainConfig:
    config = quickstart()
    return replace(
        config,
        learner_threads=1,
        env=replace(config.env, num_envs=4, max_episode_steps=160),
        demonstrations=replace(config.demonstrations, episodes_per_task=2),
        sft=replace(config.sft, num_steps=12, warmup_steps=2, log_interval=6),
        ppo=replace(
            config.ppo,
            num_iterations=1,
            rollout_batch_size=4,
            minibatch_size=16,
            microbatch_size=16,
            update_epochs=1,
            critic_warmup_epochs=1,
        ),
        evaluation=replace(
            config.evaluation,
            episodes_per_task=2,
            validation_interval=1,
            validation_episodes_per_task=1,
            probe_episodes_per_task=1,
            video_starts_per_task=1,
        ),
    )


@pytest.mark.libero
def test_quickstart_end_to_end(tmp_path):
    folder, config = RunFolder(tmp_path / "run"), tiny()
    summary, report = run_quickstart(folder, config, Console(quiet=True), minutes=None)
    for stage in ("sft", "rl"):
        assert summary[stage]["episodes"] == summary[stage]["sampled"]["episodes"] == 4
        low, high = summary[stage]["ci95"]
        assert 0 <= low <= summary[stage]["success_rate"] <= high <= 1
    assert set(summary["p_value"]) == {"greedy", "sampled"}
    assert set(summary["probes"]["greedy"]) == {"normal", "swapped_instruction", "blank_images"}
    assert summary["env_steps"] > 0 and summary["env_steps_per_second"] > 0
    assert summary["peak_rss_bytes"] > 2**28
    phases = summary["wall_seconds"]
    assert {"environments", "demonstrations", "sft", "evaluate_sft", "train", "evaluate_rl", "videos"} <= set(phases)
    assert phases["total"] == pytest.approx(sum(v for k, v in phases.items() if k != "total"))
    assert sum(summary["time_split"].values()) == pytest.approx(1.0)
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [row["critic_warmup"] for row in rows] == [1, 0]
    assert rows[-1]["env_steps"] == summary["env_steps"]
    assert len(list(folder.videos.glob("*.mp4"))) == 2
    assert list((folder.root / "tensorboard").glob("events*"))
    page = report.read_text()
    assert page.count("data:video/mp4;base64,") == 2
    assert len(headline(summary)) == 3
    demonstrations = [read_demonstrations(path) for path in folder.demonstrations.glob("*.hdf5")]
    assert [len(d) for d in demonstrations] == [2, 2]

    # The same command again: nothing is trained or evaluated twice.
    before = {p: p.stat().st_mtime_ns for p in (folder.sft_metrics, folder.metrics, *folder.evaluations.iterdir())}
    again, _ = run_quickstart(folder, config, Console(quiet=True), minutes=None)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert again["rl"] == summary["rl"]

    # Other settings are another run.
    with pytest.raises(UserError, match=r"sft.num_steps \(12 -> 13\)"):
        run_quickstart(folder, replace(config, sft=replace(config.sft, num_steps=13)), Console(quiet=True), None)


@pytest.mark.libero
def test_minutes_cap_ends_training_early_and_says_so(tmp_path):
    config = tiny()
    summary, _ = run_quickstart(RunFolder(tmp_path / "run"), config, Console(quiet=True), minutes=0.001)
    assert summary["truncated_by_time"] is True
    assert summary["iterations"] == 0
    assert summary["rl"]["episodes"] == 4


class EndsAfter:
    """A deadline that has passed when it is asked for the n-th time."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __lt__(self, now: float) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_run_that_time_ends_between_two_validations_keeps_what_it_learned(tmp_path, monkeypatch):
    config = toy()
    ppo = replace(config.ppo, num_iterations=4, rollout_batch_size=4, minibatch_size=8, microbatch_size=8)
    evaluation = replace(config.evaluation, validation_interval=4, validation_episodes_per_task=1)
    config = replace(config, env=replace(config.env, num_envs=4, num_workers=1), ppo=ppo, evaluation=evaluation)
    # Its checkpoint was not due either.
    config = replace(config, checkpoint_interval=2)
    monkeypatch.setattr(Run, "_deadline", lambda _: EndsAfter(3))
    # Every validation ties, and then the newer checkpoint is taken.
    solved = SimpleNamespace(successes=np.ones(2, dtype=bool), episodes=(None, None))
    monkeypatch.setattr("vlarl.training.trainer.evaluate", lambda *_, **__: (solved, {}))
    with Run(RunFolder(tmp_path / "run"), config, Console(quiet=True)) as run:
        run.train()
        summary = json.loads(run.folder.train_summary.read_text())
    assert summary["truncated_by_time"] is True
    assert summary["iteration"] == summary["chosen_iteration"] == 3


@pytest.mark.parametrize(("successes", "chosen"), [((30, 45, 43), 5), ((30, 45, 42), 3)])
def test_the_newest_checkpoint_is_taken_unless_validation_can_tell(tmp_path, monkeypatch, successes, chosen):
    config = toy()
    ppo = replace(config.ppo, num_iterations=4, rollout_batch_size=4, minibatch_size=8, microbatch_size=8)
    evaluation = replace(config.evaluation, validation_interval=2, validation_episodes_per_task=25)
    config = replace(config, env=replace(config.env, num_envs=4, num_workers=1), ppo=ppo, evaluation=evaluation)
    left = iter(successes)
    # The standard error of 45 of 50 is 4.7 points.
    outcome = lambda: SimpleNamespace(successes=np.arange(50) < next(left), episodes=(None,) * 50)  # noqa: E731
    monkeypatch.setattr("vlarl.training.trainer.evaluate", lambda *_, **__: (outcome(), {}))
    with Run(RunFolder(tmp_path / "run"), config, Console(quiet=True)) as run:
        run.train()
        summary = json.loads(run.folder.train_summary.read_text())
    assert summary["chosen_iteration"] == chosen
    assert (tmp_path / "run" / "checkpoints" / f"iteration_{chosen:06d}").is_dir()


def test_differing_keys_names_settings():
    old = {"a": 1, "b": {"c": 2, "d": 3}}
    assert differing_keys(old, {"a": 1, "b": {"c": 5, "d": 3}}) == ["b.c (2 -> 5)"]
    assert differing_keys(old, old) == []


def test_evaluations_survive_the_disk(tmp_path):
    raw = {
        "temperature": 0.0,
        "env_steps": 7,
        "simulator": {"mujoco": "3.3.2"},
        "episodes": [[1, "evaluation", 0, True, 3], [1, "evaluation", 1, False, 4]],
    }
    path = tmp_path / "e.json"
    path.write_text(json.dumps(raw))
    loaded = Evaluation.load(path)
    loaded.save(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == raw
    assert loaded.summary()["successes"] == 1


def test_training_forgets_what_was_measured_on_an_earlier_policy(tmp_path):
    config, folder = toy(), RunFolder(tmp_path / "run")
    ppo = replace(config.ppo, num_iterations=1, rollout_batch_size=4, minibatch_size=8, microbatch_size=8)
    env = replace(config.env, num_envs=4, num_workers=1)
    with Run(folder, replace(config, ppo=ppo, env=env), Console(quiet=True)) as run:
        folder.evaluations.mkdir()
        for path in (folder.failures, folder.evaluation("rl_greedy"), folder.evaluation("sft_greedy")):
            path.write_text("{}")
        run.train()
    assert not folder.failures.exists() and not folder.evaluation("rl_greedy").exists()
    assert folder.evaluation("sft_greedy").exists()


def test_too_little_disk_is_found_before_anything_is_written(tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("vlarl.system.shutil.disk_usage", lambda path: usage(2**40, 2**40, 2**20))
    with pytest.raises(UserError, match="0.0 GiB free"):
        Run(RunFolder(tmp_path / "run"), toy(), Console(quiet=True))
    assert not (tmp_path / "run").exists()
