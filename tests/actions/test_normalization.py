import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.openvla_fixture import arrays, distance, needs_fixture
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


@needs_fixture
def test_gripper_is_the_references():
    raw = arrays("libero_preproc.npz")
    actions = raw["gripper_in"]
    assert distance(normalize_gripper(actions), raw["gripper_norm_binarize"]) == 0
    assert distance(normalize_gripper(actions, binarize=False), raw["gripper_norm_nobinarize"]) == 0
    assert distance(invert_gripper(normalize_gripper(actions)), raw["gripper_norm_binarize_inverted"]) == 0
    assert distance(invert_gripper(actions), raw["gripper_inverted"]) == 0
