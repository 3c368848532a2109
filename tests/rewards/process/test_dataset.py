"""Frames, their split by episode, and balanced minibatches."""

from dataclasses import replace

import numpy as np
import pytest

from tests.rewards.process.trajectories import make_episode
from vlarl.configs.reward import LabelConfig
from vlarl.errors import UserError
from vlarl.rewards.process.dataset import RewardFrames, draw_minibatch, split_by_episode
from vlarl.rewards.process.labels import NEGATIVE, POSITIVE, label_episode


def labelled(count: int, task_id: int = 0, success: bool = True):
    episodes = [replace(make_episode(index=i, task_id=task_id), success=success) for i in range(count)]
    return [label_episode(episode, LabelConfig()) for episode in episodes]


def keys(episodes):
    return [(e.episode.start.task_id, e.episode.start.index, e.episode.success) for e in episodes]


def test_split_keeps_episodes_whole_and_tasks_in_each_part():
    episodes = labelled(10) + labelled(5, task_id=1) + labelled(10, success=False)
    split = split_by_episode(episodes, 0.1, 0.2)
    assert keys(split.test) == [(0, 8, True), (0, 9, True), (0, 8, False), (0, 9, False), (1, 4, True)]
    assert keys(split.validation) == [(0, 7, True), (0, 7, False), (1, 3, True)]
    parts = [*split.training, *split.validation, *split.test]
    assert sorted(keys(parts)) == sorted(keys(episodes))


def test_too_few_successes_for_three_parts():
    with pytest.raises(UserError, match="'put the bowl on the plate' has 2 successful episodes"):
        split_by_episode(labelled(2), 0.1, 0.2)


def test_minibatches_are_balanced_and_read_the_prompt():
    frames = RewardFrames.from_episodes(labelled(2) + labelled(2, task_id=1), "the training set")
    batch = draw_minibatch(frames, 40, 0.2, np.random.default_rng(0))
    assert batch.targets.sum() == 20
    own = np.array([frames.instructions[row] == text for row, text in zip(batch.rows, batch.instructions, strict=True)])
    assert np.flatnonzero(~own).tolist() == list(range(20, 28))
    labels = frames.labels[batch.rows]
    assert (labels[:28] == POSITIVE).all() and (labels[28:] == NEGATIVE).all()


def test_a_single_task_has_no_other_prompt():
    frames = RewardFrames.from_episodes(labelled(2), "the training set")
    batch = draw_minibatch(frames, 10, 0.2, np.random.default_rng(0))
    assert set(batch.instructions) == {"put the bowl on the plate"}
    assert batch.targets.sum() == 5


def test_other_prompts_make_positive_frames_negative():
    frames = RewardFrames.from_episodes(labelled(1) + labelled(1, task_id=1), "the training set")
    counts = [int((frames.labels == label).sum()) for label in (POSITIVE, NEGATIVE)]
    more = frames.with_other_prompts()
    assert (more.labels == POSITIVE).sum() == counts[0] and (more.labels == NEGATIVE).sum() == sum(counts)
    positive = np.flatnonzero(frames.labels == POSITIVE)
    np.testing.assert_array_equal(more.images[-counts[0] :], frames.images[positive])
    for row, text in zip(positive, more.instructions[-counts[0] :], strict=True):
        assert text != frames.instructions[row]
    alone = RewardFrames.from_episodes(labelled(1), "the training set").with_other_prompts()
    assert len(alone) == sum(counts) / 2


@pytest.mark.parametrize("episodes", [[], labelled(2, success=False)])
def test_without_positive_frames_there_is_nothing_to_learn(episodes):
    with pytest.raises(UserError, match="the training set has 0 positive"):
        RewardFrames.from_episodes(episodes, "the training set")
