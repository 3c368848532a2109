"""Labels of hand-made trajectories."""

from dataclasses import replace

import numpy as np
import pytest

from tests.rewards.process.trajectories import make_episode
from vlarl.configs.reward import LabelConfig
from vlarl.errors import UserError
from vlarl.rewards.process.labels import IGNORED, NEGATIVE, POSITIVE, label_episode, label_frames

CONFIG = LabelConfig()


def test_windows_by_hand():
    labels = label_frames(12, [5], tolerance=1, ignored=2)
    assert labels.tolist() == [0, 0, -1, -1, 1, 1, 1, -1, -1, 0, 0, 0]
    assert label_frames(4, [], 1, 2).tolist() == [0, 0, 0, 0]
    # The window of one keyframe takes precedence over the band of another.
    assert label_frames(6, [0, 3], 1, 2).tolist() == [1, 1, 1, 1, 1, -1]


def test_pick_and_place_has_approach_grasp_transport_release():
    labelled = label_episode(make_episode(), CONFIG)
    approach, grasp, transport, release = labelled.milestones.segments
    assert (approach[0], release[1]) == (0, len(labelled.labels))
    assert grasp == (29, 33)
    assert transport == (33, 72)
    # The hand rests while the fingers move, and at the end.
    for keyframe, (start, stop) in zip(labelled.milestones.keyframes, (grasp, release), strict=False):
        assert start - 1 <= keyframe <= stop
    assert labelled.milestones.keyframes[-1] == len(labelled.labels) - 1
    assert labelled.labels[-1] == POSITIVE
    assert labelled.labels[15] == labelled.labels[55] == NEGATIVE
    assert IGNORED in labelled.labels


def test_failures_are_negative():
    labelled = label_episode(replace(make_episode(), success=False), CONFIG)
    assert not labelled.labels.any()
    assert labelled.milestones.keyframes == ()


def test_the_start_at_rest_is_no_progress():
    labelled = label_episode(make_episode(), CONFIG)
    assert labelled.labels[0] == NEGATIVE


def test_a_missed_grasp_is_no_progress():
    # The fingers close on nothing at step 10 and open again.
    labelled = label_episode(make_episode(missed_grasp=True), CONFIG)
    assert not (labelled.labels[8:18] == POSITIVE).any()
    assert len(labelled.milestones.segments) == 4


def test_no_gripper_change_is_a_warning():
    labelled = label_episode(make_episode(gripper=False), CONFIG)
    assert "object_motion" in labelled.milestones.warning
    assert len(labelled.milestones.segments) == 1
    assert labelled.labels[-1] == POSITIVE


def test_object_motion_needs_no_gripper():
    labelled = label_episode(make_episode(gripper=False, slide=0.2), replace(CONFIG, labeller="object_motion"))
    # What slides starts at step 40 and arrives at step 80: a tenth of the way at 44, half at 60.
    assert labelled.milestones.keyframes == (44, 60, 89)
    assert labelled.milestones.segments == ((0, 44), (44, 60), (60, 90))
    assert labelled.labels[[20, 44, 60]].tolist() == [NEGATIVE, POSITIVE, POSITIVE]


def test_object_motion_without_motion():
    labelled = label_episode(make_episode(), replace(CONFIG, labeller="object_motion"))
    assert labelled.milestones.keyframes == (89,)
    assert "nothing but the robot moved" in labelled.milestones.warning


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: replace(e, actions=e.actions[:1], proprio=e.proprio[:1], states=e.states[:1]), "has 1 steps"),
        (lambda e: replace(e, states=np.where(np.arange(90)[:, None] == 7, np.nan, e.states)), "states .* step 7"),
        (lambda e: replace(e, proprio=np.where(np.arange(90)[:, None] == 3, np.inf, e.proprio)), "proprio .* step 3"),
        (lambda e: replace(e, proprio=e.proprio[:, :2]), "2 proprioception entries"),
    ],
)
def test_bad_episodes_are_named(change, message):
    with pytest.raises(UserError, match=message):
        label_episode(change(make_episode()), CONFIG)


def test_object_motion_without_states():
    episode = replace(make_episode(), states=np.zeros((90, 0)))
    with pytest.raises(UserError, match="needs the simulator's states"):
        label_episode(episode, replace(CONFIG, labeller="object_motion"))


def test_unknown_labeller_is_named():
    with pytest.raises(UserError, match=r"unknown labeller 'griper'\. Did you mean 'gripper'"):
        label_episode(make_episode(), LabelConfig(labeller="griper"))


@pytest.mark.parametrize(
    "bad",
    [{"speed_fraction": 0.0}, {"tolerance_steps": -1}, {"progress_fractions": (1.5,)}, {"min_displacement": -1.0}],
)
def test_impossible_settings(bad):
    with pytest.raises(UserError, match=f"labels.{next(iter(bad))}"):
        LabelConfig(**bad)
