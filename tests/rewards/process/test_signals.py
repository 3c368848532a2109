"""Signals of hand-made trajectories, by hand arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl.errors import UserError
from vlarl.rewards.process.signals import (
    compute_object_progress,
    compute_speed,
    count_positions,
    find_opening_changes,
    find_still_moments,
)

OPEN, CLOSED = 0.08, 0.02


def opening(*parts: tuple[float, int]) -> np.ndarray:
    """Holds each value for so many steps; the fingers take 4 steps from one to the next."""
    values: list[float] = []
    for value, steps in parts:
        if values:
            values += list(np.linspace(values[-1], value, 5)[1:-1])
        values += [value] * steps
    return np.array(values)


def changes(signal: np.ndarray, min_segment_steps: int = 20):
    return find_opening_changes(signal, 0.005, 0.008, min_segment_steps)


def test_speed_of_a_steady_hand():
    # 1 cm per step at 20 Hz is 0.2 m/s.
    positions = np.zeros((10, 3))
    positions[:, 0] = 0.01 * np.arange(10)
    assert compute_speed(positions) == pytest.approx(np.full(10, 0.2))
    assert compute_speed(positions[:1]).tolist() == [0.0]


def test_grasp_and_release_are_two_changes():
    found = changes(opening((OPEN, 30), (CLOSED, 40), (OPEN, 10)))
    # 30 steps open: the last of them, step 29, is the first with moving fingers, and 4 steps later they are closed.
    assert [(c.start, c.stop) for c in found.kept] == [(29, 33), (72, 76)]
    assert [c.change for c in found.kept] == pytest.approx([-0.06, 0.06])
    assert found.undone == ()


def test_chatter_is_undone():
    found = changes(opening((OPEN, 30), (CLOSED, 3), (OPEN, 3), (CLOSED, 40), (OPEN, 10)))
    assert [np.sign(c.change) for c in found.kept] == [-1, 1]
    # The first closing, from step 29, was taken back by step 40: 30 open + 3 + 3 closed + 4 opening.
    assert found.undone == ((29, 39),)


def test_a_gripper_that_only_chatters_never_changes():
    assert changes(opening(*[(OPEN, 5), (CLOSED, 5)] * 6, (OPEN, 5))).kept == ()


def test_small_and_slow_changes_do_not_count():
    assert changes(opening((OPEN, 20), (OPEN - 0.004, 40))).kept == ()
    assert changes(np.linspace(OPEN, CLOSED, 400)).kept == ()


def test_a_wide_object_still_counts():
    # A can of 66 mm leaves the fingers 14 mm to close.
    assert len(changes(opening((OPEN, 30), (0.066, 40), (OPEN, 10))).kept) == 2


@given(st.lists(st.sampled_from([0.0, 0.02, 0.04, 0.06, 0.08]), min_size=2, max_size=80))
def test_changes_alternate_and_lie_apart(values):
    found = changes(np.repeat(values, 2), 6).kept
    assert all(np.sign(a.change) != np.sign(b.change) for a, b in zip(found, found[1:], strict=False))
    assert all(b.start - a.stop >= 6 for a, b in zip(found, found[1:], strict=False))


def test_still_moments_are_the_slowest_of_each_pause():
    speed = np.array([9, 1, 0.5, 2, 9, 9, 3, 0.2, 9, 1.0])
    assert find_still_moments(speed, 4.0, 0, 10) == [2, 7, 9]
    assert find_still_moments(speed, 4.0, 3, 8) == [3, 7]
    assert find_still_moments(speed, 0.1, 0, 10) == []


def simulator_states(steps: int, num_objects: int, hinge: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """States with 9 robot joints that swing, objects that stay or slide along x, and one hinge."""
    time = np.arange(steps) * 0.05
    arm = np.sin(time[:, None] * np.arange(1, 10))
    arm_velocity = np.arange(1, 10) * np.cos(time[:, None] * np.arange(1, 10))
    objects = np.tile([0.3, 0.1, 0.9, 1, 0, 0, 0], (steps, num_objects))
    objects[:, 0] += np.linspace(0, shift, steps)
    velocities = np.zeros((steps, 6 * num_objects + 1))
    return np.hstack([time[:, None], arm, objects, hinge[:, None], arm_velocity, velocities])


@pytest.mark.parametrize("num_objects", [1, 2, 5])
def test_positions_are_found_without_a_model(num_objects):
    states = simulator_states(60, num_objects, np.zeros(60))
    assert count_positions(states) == 9 + 7 * num_objects + 1


def test_states_of_an_arm_at_rest_are_refused():
    with pytest.raises(UserError, match="moving arm"):
        count_positions(np.zeros((50, 40)))


def test_progress_of_a_drawer():
    # The drawer rests, opens by 10 cm over 20 steps, and rests.
    hinge = np.concatenate([np.zeros(20), np.linspace(0, 0.1, 20), np.full(20, 0.1)])
    progress = compute_object_progress(simulator_states(60, 3, hinge), 0.01)
    assert progress[:20] == pytest.approx(0)
    assert progress[29] == pytest.approx(9 / 19)
    assert progress[40:] == pytest.approx(1)


def test_progress_counts_the_way_back():
    hinge = np.concatenate([np.linspace(0, 0.2, 20), np.linspace(0.2, 0.1, 20)])
    progress = compute_object_progress(simulator_states(40, 1, hinge), 0.01)
    assert progress[19] == pytest.approx(2.0)
    assert progress[-1] == pytest.approx(1.0)


def test_nothing_moved():
    states = simulator_states(40, 2, np.linspace(0, 0.009, 40))
    assert compute_object_progress(states, 0.01) is None
