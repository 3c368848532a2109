"""Figures of reward models by hand arithmetic."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.rewards.process.trajectories import make_episode
from vlarl.configs.reward import LabelConfig
from vlarl.rewards.process.labels import label_episode
from vlarl.rewards.process.metrics import (
    compute_average_precision,
    compute_calibration_error,
    compute_keyframe_recall,
    compute_other_task_drop,
    compute_reliability,
    compute_roc_auc,
    compute_separation,
    evaluate_scores,
)


def array(*values):
    return np.array(values)


def test_roc_auc_counts_pairs():
    # Pairs (positive, negative): 0.9 beats both, 0.4 beats 0.1 and ties with 0.4: 3.5 of 4.
    scores, targets = array(0.9, 0.4, 0.4, 0.1), array(True, True, False, False)
    assert compute_roc_auc(scores, targets) == pytest.approx(3.5 / 4)
    assert compute_roc_auc(-scores, targets) == pytest.approx(0.5 / 4)
    assert np.isnan(compute_roc_auc(scores, np.ones(4, dtype=bool)))


def test_average_precision_by_hand():
    # From the top: hit (1/1), miss, hit (2/3), miss: mean over two positives.
    scores, targets = array(0.9, 0.8, 0.7, 0.1), array(True, False, True, False)
    assert compute_average_precision(scores, targets) == pytest.approx((1 + 2 / 3) / 2)
    # All equal: the share of positives.
    assert compute_average_precision(np.ones(4), targets) == pytest.approx(0.5)


def test_calibration_by_hand():
    scores, targets = array(0.12, 0.18, 0.92, 1.0), array(False, True, True, True)
    rows = compute_reliability(scores, targets)
    assert [(r["frames"], r["share_positive"]) for r in rows] == [(2, 0.5), (2, 1.0)]
    # |0.15 - 0.5| and |0.96 - 1|, half the frames each.
    assert compute_calibration_error(scores, targets) == pytest.approx((0.35 + 0.04) / 2)


def test_keyframes_are_found_within_the_distance():
    scores = np.zeros(20)
    scores[[5, 12]] = 0.9
    assert compute_keyframe_recall(scores, [3, 9, 19], distance=2) == (1, 3)
    assert compute_keyframe_recall(scores, [3, 9, 19], distance=3) == (2, 3)


def test_separation_is_at_equal_length():
    # The failure collects more in all, but less in the success's two turns.
    assert compute_separation([array(0.5, 0.5)], [array(0.2, 0.2, 0.9, 0.9)]) == 1.0
    assert compute_separation([array(0.5, 0.5)], [array(0.2, 0.8, 0.9), array(0.9, 0.9)]) == pytest.approx(0.25)
    assert np.isnan(compute_separation([array(1.0)], []))


def test_other_task_drop_is_over_positive_frames():
    labels = array(1, 1, 0, -1)
    drop = compute_other_task_drop([(labels, array(0.8, 0.6, 0.0, 0.0), array(0.2, 0.7, 1.0, 1.0))])
    assert drop == pytest.approx(
        {"own_prompt_probability": 0.7, "other_prompt_probability": 0.45, "other_prompt_lower": 0.5}
    )
    assert set(compute_other_task_drop([]).values()) == {None}


def test_a_perfect_model_has_perfect_figures():
    labelled = [label_episode(make_episode(index=i), LabelConfig()) for i in range(2)]
    failure = label_episode(replace(make_episode(index=2), success=False), LabelConfig())
    episodes = [*labelled, failure]
    scores = [(e.labels == 1).astype(float) for e in episodes]
    figures = evaluate_scores(episodes, scores, tolerance_steps=4, turn_steps=8)
    perfect = ("roc_auc", "average_precision", "keyframe_recall", "separation")
    assert all(figures[name] == 1.0 for name in perfect)
    assert figures["calibration_error"] == 0.0
    assert figures["progress_correlation"] > 0.9
    assert (figures["episodes"], figures["successes"], figures["frames"]) == (3, 2, 270)
    json.dumps(figures)


def test_figures_that_cannot_be_given_are_none():
    figures = evaluate_scores([label_episode(make_episode(), LabelConfig())], [np.zeros(90)], 4, 8)
    assert figures["separation"] is None
    assert figures["roc_auc"] == 0.5
