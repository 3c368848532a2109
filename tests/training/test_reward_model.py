"""Training of the reward model: it learns, it reads the prompt, it stops early, it resumes; the whole command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.rewards.process.trajectories import make_episode
from vlarl.cli.main import main
from vlarl.configs.reward import LabelConfig, RewardModelConfig, RewardTrainingConfig
from vlarl.data.libero_hdf5 import Demonstration, DemonstrationTask, demonstration_path, write_demonstrations
from vlarl.errors import UserError
from vlarl.rewards.process.dataset import RewardFrames
from vlarl.rewards.process.labels import POSITIVE, label_episode
from vlarl.rewards.process.model import make_reward_model
from vlarl.training.reward_model import compute_validation_auc, train_reward_model
from vlarl.training.reward_run import RewardFolder, evaluate_reward_model, score_episode

MODEL = RewardModelConfig(
    image_size=16, patch_size=8, vision_width=32, hidden_size=32, num_layers=1, vision_layers=1, num_heads=4
)
TRAINING = RewardTrainingConfig(
    num_steps=60,
    minibatch_size=32,
    learning_rate=2e-3,
    warmup_steps=5,
    crop_pixels=1,
    evaluation_interval=20,
    patience=2,
)


def visible_episode(index: int, task_id: int = 0):
    """An episode whose positive frames are bright, at the top for one task and at the bottom for the other."""
    labelled = label_episode(make_episode(index=index, task_id=task_id), LabelConfig())
    images = labelled.episode.images // 4
    half = slice(0, 8) if task_id == 0 else slice(8, 16)
    images[:, half][labelled.labels == POSITIVE] += 180
    return replace(labelled, episode=replace(labelled.episode, images=images))


EPISODES = [visible_episode(index, task_id) for task_id in (0, 1) for index in range(4)]


def train(tmp_path, config=TRAINING):
    torch.set_num_threads(1)
    rows: list[dict] = []
    model = make_reward_model(MODEL, seed=0)
    state = train_reward_model(model, EPISODES[1::2], EPISODES[::2], config, tmp_path / "checkpoint", rows.append)
    return model, state, rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("reward"))


def test_it_learns_to_see_progress(trained):
    model, state, rows = trained
    assert state["best_auc"] > 0.95
    assert rows[-1]["losses/train_loss"] < 0.5 * rows[0]["losses/train_loss"]
    # What is left in the model are the best weights.
    frames = RewardFrames.from_episodes(EPISODES[::2], "the test").with_other_prompts()
    assert compute_validation_auc(model, frames) == state["best_auc"]


def test_a_prompt_that_names_another_task_lowers_the_reward(trained):
    model, _, _ = trained
    for labelled, other in ((EPISODES[0], EPISODES[4]), (EPISODES[4], EPISODES[0])):
        positive = labelled.labels == POSITIVE
        own = score_episode(model, labelled)[positive].mean()
        wrong = score_episode(model, labelled, other.episode.instruction)[positive].mean()
        assert own > wrong + 0.3


def test_resumed_training_is_the_uninterrupted_one(tmp_path, trained):
    _, state, rows = trained
    # The learning rate falls towards num_steps, so the first part is cut off rather than shortened.
    seen: list[dict] = []

    def stop(row):
        seen.append(row)
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_reward_model(
            make_reward_model(MODEL, seed=0), EPISODES[1::2], EPISODES[::2], TRAINING, tmp_path / "checkpoint", stop
        )
    model, resumed, later = train(tmp_path)
    assert resumed == state
    assert seen + later == rows
    frames = EPISODES[0].episode.images[:8]
    texts = [EPISODES[0].episode.instruction] * 8
    np.testing.assert_array_equal(model.score(frames, texts), trained[0].score(frames, texts))


def test_training_stops_when_it_gets_no_better(tmp_path):
    config = replace(TRAINING, num_steps=400, evaluation_interval=2, patience=1, learning_rate=1e-9)
    _, state, rows = train(tmp_path, config)
    assert state["step"] < 20
    assert len(rows) == state["step"] // 2


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(tmp_path, replace(TRAINING, num_steps=2, evaluation_interval=2, warmup_steps=0))
    (tmp_path / "checkpoint" / "optimizer.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged: delete it"):
        train(tmp_path)


@pytest.fixture
def data(tmp_path):
    for task_id in (0, 1):
        episodes = [visible_episode(index, task_id).episode for index in range(4)]
        name = episodes[0].instruction.replace(" ", "_")
        task = DemonstrationTask(
            name=name,
            instruction=episodes[0].instruction,
            problem_name="libero_tabletop_manipulation",
            bddl_file=f"libero_goal/{name}.bddl",
            bddl_content="",
        )
        upright = np.tile(np.eye(3), (len(episodes[0].actions), 1, 1))
        demonstrations = [
            Demonstration(episode=e, ee_positions=e.proprio[:, :3].astype(float), ee_rotations=upright)
            for e in episodes
        ]
        write_demonstrations(demonstration_path(tmp_path / f"task_{task_id}", name), demonstrations, task)
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["reward", *arguments])
    return stopped.value.code or 0


def test_label_train_evaluate(data, capsys):
    sizes = [
        f"--model.{name.replace('_', '-')}={getattr(MODEL, name)}" for name in vars(MODEL) if name.endswith("size")
    ]
    sizes += ["--model.vision-width=32", "--model.num-layers=1", "--model.vision-layers=1"]
    page = data / "labels.html"
    assert run("label", str(data / "task_0"), "--image-size", "16", "--plot", str(page), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert [len(e["segments"]) for e in printed["episodes"]] == [4] * 4
    assert page.read_text().count("<article") == 4
    output = data / "model"
    arguments = [
        "train",
        str(data / "task_0"),
        "--held-out-data",
        str(data / "task_1"),
        "--output",
        str(output),
        *sizes,
    ]
    arguments += ["--training.num-steps=20", "--training.evaluation-interval=10", "--training.warmup-steps=2", "--json"]
    assert run(*arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {"held-out episodes", "held-out tasks"}
    assert figures["held-out episodes"]["episodes"] == 1 and figures["held-out tasks"]["episodes"] == 4
    assert "Reliability" in (output / "reward.html").read_text()
    # The same command again trains nothing, and evaluate measures the same.
    trained_at = (output / "metrics.jsonl").stat().st_mtime_ns
    assert run(*arguments) == 0
    assert json.loads(capsys.readouterr().out) == figures
    assert (output / "metrics.jsonl").stat().st_mtime_ns == trained_at
    assert evaluate_reward_model(RewardFolder(output), 8)[0] == figures
    assert run("train", str(data / "task_1"), "--output", str(output), *sizes) == 2
    assert "holds another reward model; its settings differ in data" in capsys.readouterr().err
    assert run("evaluate", str(output), "--data", str(data / "task_1"), "--json") == 0
    assert set(json.loads(capsys.readouterr().out)) == {"given data"}


def test_bad_commands_are_named(data, capsys):
    for arguments, message in (
        (["trian"], "Did you mean 'train'"),
        (["label", str(data / "nothing"), "--image-size", "16"], "no episodes at"),
        (
            ["label", str(data / "task_0"), "--image-size", "16", "--labels.labeller", "griper"],
            "Did you mean 'gripper'",
        ),
        (["evaluate", str(data / "nothing")], "holds no reward model"),
    ):
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err
