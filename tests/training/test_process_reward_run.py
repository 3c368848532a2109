"""The toy recipe with a process reward: it is earned, logged and resumed, and what is suspicious is saved."""

import json
import subprocess
import sys

import pytest

from vlarl.configs.reward import LabelConfig, RewardModelConfig
from vlarl.rewards.process.folder import RewardModelCard, save_reward_model
from vlarl.rewards.process.model import make_reward_model

MODEL = RewardModelConfig(
    image_size=16, patch_size=8, vision_width=32, hidden_size=32, num_layers=1, vision_layers=1, num_heads=4
)
COMMAND = [
    *(sys.executable, "-m", "vlarl", "train", "--recipe", "toy", "--ppo.num-iterations", "2"),
    *("--ppo.rollout-batch-size", "16", "--ppo.minibatch-size", "16", "--ppo.microbatch-size", "16"),
    *("--evaluation.validation-interval", "0", "--monitor.window", "1", "--monitor.flat-iterations", "2"),
    # Any change is a rise, and no success is enough.
    *("--monitor.process-reward-rise", "1e-9", "--monitor.flat-change", "1.0", "--reward", "process"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("process")
    card = RewardModelCard(model=MODEL, labels=LabelConfig(), instructions=(), figures={})
    save_reward_model(make_reward_model(MODEL), card, folder / "model")
    command = [*COMMAND, "--process-reward.model", str(folder / "model"), "--output", str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stderr


def test_each_iteration_earns_process_reward(run):
    folder, _ = run
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    for row in rows:
        # A fresh model says about one half to every frame, and an episode has at most its limit of turns.
        assert 0 < row["charts/process_reward"] <= 0.3
        assert row["charts/reward"] == pytest.approx(
            row["charts/success_rate"] + row["charts/process_reward"], abs=1e-5
        )


def test_other_tasks_are_a_warning(run):
    assert "was not trained on" in run[1]


def test_what_is_suspicious_is_saved(run):
    folder, _ = run
    state = json.loads((folder / "rl" / "train.json").read_text())
    warned = [w["iteration"] for w in state["warnings"] if w["code"] == "reward_hacking"]
    videos = sorted(path.name for path in (folder / "suspicious_videos").glob("*.mp4")) if warned else []
    assert videos == [f"iteration_{iteration:06d}.mp4" for iteration in warned]
