"""Runs that break: weights that are no numbers, and checkpoints that were damaged on the disk."""

import json
from dataclasses import replace

import pytest
import torch

from vlarl.configs.training import TrainConfig
from vlarl.errors import NonFiniteError, UserError
from vlarl.evaluation.protocol import Evaluation
from vlarl.recipes import toy
from vlarl.reporting.progress import Console
from vlarl.training.checkpoint import CheckpointStore
from vlarl.training.learner import Learner
from vlarl.training.run import Run
from vlarl.training.run_folder import RunFolder
from vlarl.types import EpisodeResult, Start


def small_toy() -> TrainConfig:
    config = toy()
    sizes = {"rollout_batch_size": 8, "minibatch_size": 8, "microbatch_size": 8, "num_iterations": 2}
    return replace(
        config,
        env=replace(config.env, num_envs=4, num_workers=1),
        ppo=replace(config.ppo, **sizes),
        evaluation=replace(config.evaluation, validation_interval=0),
        sinks=("jsonl",),
    )


def train(folder: RunFolder) -> list[dict]:
    """Trains to the end; returns the deterministic part of the rows."""
    with Run(folder, small_toy(), Console(quiet=True)) as run:
        run.train()
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in folder.history()]


def test_weights_that_broke_in_the_last_step_are_never_saved(tmp_path, monkeypatch):
    update = Learner.update

    def break_weights(learner, batch, iteration, **keywords):
        metrics = update(learner, batch, iteration, **keywords)
        if iteration == 1:
            with torch.no_grad():
                next(learner.model.policy.parameters()).view(-1)[0] = float("nan")
        return metrics

    monkeypatch.setattr(Learner, "update", break_weights)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(NonFiniteError, match="weights became non-finite in iteration 1.*another --output"):
        train(folder)
    assert CheckpointStore(folder.checkpoints, 2).iterations() == [1]
    assert [row["iteration"] for row in folder.history()] == [0]


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK no archive either"])
def test_recorded_actions_that_are_missing_or_damaged(tmp_path, content):
    folder = RunFolder(tmp_path / "run")
    episode = EpisodeResult(start=Start(task_id=0, split="evaluation", index=0), success=False, steps=3)
    with Run(folder, small_toy(), Console(quiet=True)) as run:
        for name in ("sft_greedy", "sft_sampled", "rl_greedy", "rl_sampled"):
            Evaluation(temperature=0.0, episodes=(episode,), env_steps=3).save(folder.evaluation(name))
        if content is not None:
            folder.actions("sft_greedy").write_bytes(content)
        with pytest.raises(UserError, match=r"sft_greedy_actions.npz is missing or damaged .*sft_greedy.json"):
            run.make_videos()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("broken") / "run")
    return folder, train(folder)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("optimizers/shard-00001-model-00001-of-00001.safetensors", lambda content: b"no archive"),
        ("optimizers/shard-00001-model-00001-of-00001.safetensors", lambda content: b""),
        ("optimizers/shard-00001-model-00001-of-00001.safetensors", lambda content: content[: len(content) // 2]),
        ("state.json", lambda content: content[:20]),
        ("value.safetensors", lambda content: content[:100]),
        ("policy/model.safetensors", lambda content: content[:-5]),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(finished, name, damage):
    folder, rows = finished
    newest = CheckpointStore(folder.checkpoints, 2).path(3)
    path = newest / name
    path.write_bytes(damage(path.read_bytes()))
    folder.train_summary.unlink()
    with pytest.raises(UserError, match="is damaged") as raised:
        train(folder)
    assert str(newest) in str(raised.value) and "delete" in str(raised.value)
    for file in sorted(newest.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    newest.rmdir()
    assert train(folder) == rows
    assert json.loads((newest / "state.json").read_text())["iteration"] == 3
