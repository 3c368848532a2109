"""The throughput planner against hand arithmetic."""

from dataclasses import replace

import pytest

from vlarl.errors import UserError
from vlarl.training.pipeline import Layout, Pieces, best_layout, predict, simulate_rollout

PIECES = Pieces(env_turn=2.0, decode=1.0, decode_observation=0.5, learn_turn=0.25, publish=3.0)


def test_one_environment_alternates():
    """A turn is decoded in 1.5 s and simulated in 2 s, five times."""
    seconds, decoding, simulating = simulate_rollout(PIECES, Layout(env_workers=1, num_envs=1), 1, 5)
    assert (seconds, decoding, simulating) == (5 * 3.5, 5 * 1.5, 5 * 2.0)


def test_two_groups_overlap():
    """Two environments with a worker each: while one simulates the other is decoded for, 3.5 s for a turn of both."""
    layout = Layout(env_workers=1, num_envs=2)
    seconds, decoding, _ = simulate_rollout(PIECES, layout, 2, 4)
    # One worker simulates both: after the first decoding it is busy for 2 x 4 turns of 2 s.
    assert seconds == 1.5 + 8 * 2.0
    assert decoding == 8 * 1.5


def test_an_environment_takes_the_next_trajectory():
    layout = Layout(env_workers=1, num_envs=1)
    assert simulate_rollout(PIECES, layout, 3, 2)[0] == 3 * 2 * 3.5


def test_synchronous_adds_and_asynchronous_overlaps():
    layout = Layout(env_workers=1, num_envs=1)
    plan = predict(PIECES, layout, trajectories=1, turns=40)
    assert (plan.rollout, plan.learn) == (140.0, 13.0)
    assert plan.seconds == pytest.approx(153.0)
    ahead = predict(PIECES, replace(layout, max_staleness=1), trajectories=1, turns=40)
    assert ahead.seconds == pytest.approx(140.0)
    slow = replace(PIECES, learn_turn=5.0)
    assert predict(slow, replace(layout, max_staleness=1), trajectories=1, turns=40).seconds == pytest.approx(203.0)


def test_more_of_the_bottleneck_helps():
    sizes = {"trajectories": 64, "turns": 50}
    layout = Layout(env_workers=4, num_envs=8)
    simulating = replace(PIECES, env_turn=20.0)
    few = predict(simulating, layout, **sizes)
    assert few.bottleneck == "environment workers"
    assert predict(simulating, replace(layout, env_workers=8), **sizes).seconds < few.seconds
    slow = replace(PIECES, decode=30.0)
    assert predict(slow, layout, **sizes).bottleneck == "generators"
    learning = replace(PIECES, learn_turn=60.0)
    assert predict(learning, layout, **sizes).bottleneck == "trainers"
    split, _ = best_layout(learning, gpus=8, env_workers=4, num_envs=8, max_staleness=0, trajectories=64, turns=50)
    assert (split.num_generators, split.num_trainers) == (1, 7)


def test_one_gpu_does_both_in_turn():
    split, plan = best_layout(PIECES, gpus=1, env_workers=1, num_envs=1, max_staleness=1, trajectories=1, turns=40)
    assert (split.num_generators, split.num_trainers, split.max_staleness) == (1, 1, 0)
    assert plan.seconds == pytest.approx(153.0)


def test_impossible_pieces_are_named():
    with pytest.raises(UserError, match="pieces.env_turn must be positive"):
        replace(PIECES, env_turn=0.0)
    with pytest.raises(UserError, match="layout.env_workers 3 is larger than layout.num_envs 2"):
        Layout(env_workers=3, num_envs=2)
