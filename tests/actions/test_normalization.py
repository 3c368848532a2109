import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl.actions.normalization import ActionStatistics, invert_gripper, normalize_gripper
from vlarl.errors import UserError

STATISTICS = {"data": {"action": {"q01": [-1.0, 2.0, 0.0], "q99": [3.0, 4.0, 0.0], "mask": [True, True, False]}}}


def test_by_hand():
    statistics = ActionStatistics.from_norm_stats(STATISTICS, "data")
    assert statistics.unnormalize(np.array([[-1.0, 0.0, 0.7], [1.0, 0.5, -2.0]])).tolist() == [
        [-1.0, 3.0, 0.7],
        [3.0, 3.5, -2.0],
    ]
    assert statistics.normalize(np.array([9.0, 2.0, 0.7])).tolist() == [1.0, -1.0, 0.7]


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_round_trip(normalized):
    statistics = ActionStatistics.from_norm_stats(STATISTICS, "data")
    assert statistics.normalize(statistics.unnormalize(np.array(normalized))) == pytest.approx(normalized, abs=1e-12)


@pytest.mark.parametrize(
    ("action", "key", "message"),
    [
        ({}, "dat", r"unknown unnorm_key 'dat'\. Did you mean 'data'\? Known: data"),
        ({"q99": [-1.0, 4.0, 0.0]}, "data", "q01 = -1.0 and q99 = -1.0 for action entry 0"),
        ({"q01": [0.0]}, "data", "1 q01, 3 q99 and 3 mask"),
    ],
)
def test_bad_statistics_are_named(action, key, message):
    with pytest.raises(UserError, match=message):
        ActionStatistics.from_norm_stats({"data": {"action": STATISTICS["data"]["action"] | action}}, key)


def test_gripper_is_the_references(published):
    raw = published.arrays("libero_preproc.npz")
    actions = raw["gripper_in"]
    ours = {
        "gripper_norm_binarize": normalize_gripper(actions),
        "gripper_norm_nobinarize": normalize_gripper(actions, binarize=False),
        "gripper_norm_binarize_inverted": invert_gripper(normalize_gripper(actions)),
        "gripper_inverted": invert_gripper(actions),
    }
    for name, value in ours.items():
        published.within("gripper", value, raw[name], 0)


def test_the_motionless_action_is_the_references(published):
    from vlarl.envs.libero.simulation import NO_MOTION

    published.within("motionless action", NO_MOTION, published.arrays("libero_preproc.npz")["libero_dummy_action"], 0)
