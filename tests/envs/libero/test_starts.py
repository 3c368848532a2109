"""Start states: where they come from, and that no split shares one."""

import numpy as np
import pytest

from vlarl.envs.libero.starts import NUM_STARTS


@pytest.mark.libero
def test_evaluation_starts_have_the_poses_of_upstreams_first_reset(stove_slot, upstream):
    positions = stove_slot._shared[7].starts["evaluation/fixture_pos"]
    assert np.array_equal(positions, np.broadcast_to(upstream[1], positions.shape))


@pytest.mark.libero
def test_training_starts_draw_their_own_poses(stove_slot):
    positions = stove_slot._shared[7].starts["train/fixture_pos"]
    assert len(np.unique(positions.reshape(len(positions), -1), axis=0)) == NUM_STARTS["train"]


@pytest.mark.libero
def test_no_two_starts_are_the_same(stove_slot):
    starts = stove_slot._shared[7].starts
    states = np.concatenate([starts[f"{split}/qpos"] for split in NUM_STARTS])
    assert len(states) == sum(NUM_STARTS.values()) == 300
    distances = np.abs(states[:, None] - states[None]).max(axis=-1)
    assert distances[~np.eye(len(states), dtype=bool)].min() > 1e-4
