"""On the real simulator: episodes repeated and drawn anew are those that were recorded; their labels make sense."""

from dataclasses import replace

import numpy as np
import pytest

from vlarl.configs.env import EnvConfig
from vlarl.configs.reward import LabelConfig
from vlarl.configs.training import DemonstrationConfig
from vlarl.data.libero_hdf5 import read_demonstrations
from vlarl.envs.base import environment_module
from vlarl.errors import UserError
from vlarl.evaluation.recorded_rollouts import render_again
from vlarl.experts.recording import record, replay
from vlarl.rewards.process.labels import label_episode
from vlarl.types import Start

pytestmark = pytest.mark.libero

CONFIG = EnvConfig(task_suite="libero_goal", task_ids=(8,), num_envs=1, num_workers=1)
NO_MISTAKES = DemonstrationConfig(episodes_per_task=1, recovery_probability=0.0)


@pytest.fixture(scope="module")
def slot():
    module = environment_module("libero")
    module.prepare(CONFIG, print)
    return module.make_environments(CONFIG, 1)[0]


@pytest.fixture(scope="module")
def recorded(slot):
    start = Start(task_id=8, split="train", index=3)
    return record(slot, start, np.random.default_rng(0), NO_MISTAKES, 200)


def test_an_expert_of_pick_and_place_has_its_milestones(recorded):
    labelled = label_episode(recorded.episode, LabelConfig())
    # Approach, grasp and transport; the bowl counts as on the plate once it touches it, held or released.
    assert len(labelled.milestones.segments) in (3, 4)
    (grasp_start, grasp_stop), last = labelled.milestones.segments[1], len(labelled.labels) - 1
    assert any(grasp_start - 4 <= k <= grasp_stop for k in labelled.milestones.keyframes)
    assert labelled.milestones.keyframes[-1] == last
    assert 0.1 < np.mean(labelled.labels == 1) < 0.4
    moved = label_episode(recorded.episode, LabelConfig(labeller="object_motion")).milestones
    # The bowl leaves its place after the grasp began and arrives at the end.
    assert grasp_start < moved.keyframes[0] < moved.keyframes[1] < moved.keyframes[2] == last


def test_repeating_actions_repeats_the_episode(slot, recorded):
    again = replay(slot, recorded.episode.start, recorded.episode.actions).episode
    assert again.success == recorded.episode.success
    np.testing.assert_array_equal(again.states, recorded.episode.states)
    np.testing.assert_array_equal(again.images, recorded.episode.images)


def test_frames_drawn_from_states_are_those_that_were_seen(tmp_path, recorded):
    counts = render_again(CONFIG, [recorded.episode], tmp_path, lambda line: None)
    (drawn,) = read_demonstrations(tmp_path / f"{next(iter(counts))}_demo.hdf5")
    assert drawn.start == recorded.episode.start
    difference = np.abs(drawn.images.astype(int) - recorded.episode.images)
    # Seen are the kinematics of the last substep, drawn those of the state after it: 2 ms apart.
    assert difference.mean() < 0.5
    larger = replace(CONFIG, image_size=32)
    render_again(larger, [recorded.episode], tmp_path, lambda line: None)
    (small,) = read_demonstrations(tmp_path / f"{next(iter(counts))}_demo.hdf5")
    assert small.images.shape == (len(recorded.episode.actions), 32, 32, 3)
    without = replace(recorded.episode, states=np.zeros((len(recorded.episode.actions), 0)))
    with pytest.raises(UserError, match="have no states"):
        render_again(CONFIG, [without], tmp_path, lambda line: None)
    with pytest.raises(UserError, match="unknown instruction of libero_goal 'fly'"):
        render_again(CONFIG, [replace(recorded.episode, instruction="fly")], tmp_path, lambda line: None)
