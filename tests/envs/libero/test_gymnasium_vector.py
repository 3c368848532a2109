"""Many LIBERO environments as a user of Gymnasium's vector interface sees them."""

import os
import signal
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from vlarl.envs.libero import LiberoVectorEnv
from vlarl.errors import UserError

FAST = {"profile": "fast", "stepping": "fast", "image_size": 32}
SUITE = "vlarl/LiberoGoal-v0"
NUM_ENVS = 3


def random_actions(turn: int) -> np.ndarray:
    return np.random.default_rng(turn).uniform(-1.2, 1.2, (NUM_ENVS, 8, 7)).astype(np.float32)


@pytest.fixture(scope="module")
def envs():
    with warnings.catch_warnings():
        # Gymnasium warns of a missing or wrong declaration of the autoreset.
        warnings.simplefilter("error")
        made = gymnasium.make_vec(SUITE, NUM_ENVS, task_id=(7, 8), replan_steps=8, num_workers=2, **FAST)
    yield made
    made.close()


def mask_of(*slots: int) -> np.ndarray:
    return np.isin(np.arange(NUM_ENVS), slots)


def assert_same(left, right) -> None:
    """Nested results of two vector environments, bit for bit, with the same types."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype and np.array_equal(left, right)
    else:
        assert left == right


@pytest.mark.libero
def test_the_same_bits_as_gymnasiums_own_vector_environment():
    arguments = {"task_id": 7, "replan_steps": 8, "render_mode": "rgb_array", **FAST}
    played = []
    for mode in ("sync", None):
        vector_kwargs = {"autoreset_mode": AutoresetMode.DISABLED} if mode else {}
        made = gymnasium.make_vec(SUITE, NUM_ENVS, mode, vector_kwargs, **arguments)
        assert made.metadata["autoreset_mode"] is AutoresetMode.DISABLED
        results = [made.reset(seed=5), *(made.step(random_actions(turn)) for turn in range(2)), made.render()]
        results.append(made.reset(options={"reset_mask": mask_of(0, 2)}))
        results.append(made.reset(options={"reset_mask": mask_of(1), "init_state_id": 3}))
        results.append(made.reset(seed=[5, None, 9]))
        assert made.observation_space.contains(results[0][0])
        played.append((tuple(results), made.observation_space, made.action_space))
        made.close()
    assert_same(played[0][0], played[1][0])
    assert played[0][1:] == played[1][1:]
    draws = [infos["start_index"] for _, infos in (played[1][0][i] for i in (0, 6))]
    assert draws[0][0] == draws[1][0] and draws[0][2] != draws[1][2]


@pytest.mark.libero
def test_a_mask_resets_some_slots_to_tasks_and_starts_and_leaves_the_others(envs):
    options = {"task_id": np.array([7, 8, 8]), "init_state_id": 4}
    first, infos = envs.reset(options=options)
    assert infos["start_index"].tolist() == [4] * NUM_ENVS
    assert first["instruction"] == ("turn on the stove", *["put the bowl on the plate"] * 2)
    # Slot 0 plays on undisturbed; slot 2 is called back in between, to the other task.
    envs.step(random_actions(0))
    second, infos = envs.reset(
        options={"reset_mask": mask_of(2), "task_id": np.array([99, 99, 7]), "init_state_id": np.array([99, 99, 4])}
    )
    assert infos["_start_index"].tolist() == [False, False, True]
    assert second["instruction"] == ("turn on the stove", "put the bowl on the plate", "turn on the stove")
    assert np.array_equal(second["agentview"][2], first["agentview"][0])
    assert not np.array_equal(second["agentview"][0], first["agentview"][0])
    disturbed = envs.step(random_actions(1))[0]
    envs.reset(options=options)
    undisturbed = [envs.step(random_actions(turn))[0] for turn in range(2)][1]
    for key in ("agentview", "proprio"):
        assert np.array_equal(disturbed[key][:2], undisturbed[key][:2])
        assert not np.array_equal(disturbed[key][2], undisturbed[key][2])
    # The task that a slot was given stays its task.
    assert envs.reset()[0]["instruction"] == first["instruction"]


@pytest.mark.libero
def test_an_episode_that_ended_waits_for_its_reset():
    rest = np.tile(np.array([0, 0, 0, 0, 0, 0, -1], np.float32), (2, 150, 1))
    envs = LiberoVectorEnv("libero_goal", 2, 7, replan_steps=150, **FAST)
    with pytest.raises(UserError, match=r"slots \[0, 1\] have no running episode"):
        envs.step(rest)
    with pytest.raises(UserError, match=r"leaves out slots \[1\]"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.reset(seed=0)
    envs.step(rest)
    # Slot 1 begins anew half way through slot 0's episode.
    envs.reset(options={"reset_mask": np.array([False, True])})
    _, rewards, terminations, truncations, infos = envs.step(rest)
    assert (terminations.tolist(), truncations.tolist()) == ([False, False], [True, False])
    assert rewards.tolist() == [0.0, 0.0] and infos["success"].tolist() == [False, False]
    assert infos["executed_steps"].tolist() == [150, 150]
    with pytest.raises(UserError, match=r"slots \[0\] have no running episode.*reset_mask"):
        envs.step(rest)
    envs.reset(options={"reset_mask": terminations | truncations})
    assert envs.step(rest)[3].tolist() == [False, True]
    envs.close()
    envs.close()


@pytest.mark.libero
def test_clipped_actions_are_counted_per_slot(envs):
    envs.reset()
    actions = np.zeros((NUM_ENVS, 8, 7), np.float32)
    actions[1, 0, 3], actions[2, :, 0] = 1.5, -3.0
    assert envs.step(actions)[4]["clipped_actions"].tolist() == [0, 1, 8]
    assert envs.step(actions)[4]["clipped_actions"].tolist() == [0, 2, 16]
    assert envs.reset()[1]["clipped_actions"].tolist() == [0, 0, 0]


@pytest.mark.libero
def test_a_dead_worker_is_not_noticed(envs):
    options = {"init_state_id": 0}
    envs.reset(options=options)
    expected = [envs.step(random_actions(turn)) for turn in range(2)][1]
    envs.reset(options=options)
    envs.step(random_actions(0))
    before = envs.restarted_episodes
    os.kill(envs._slots._workers[0].process.pid, signal.SIGKILL)
    assert_same(envs.step(random_actions(1)), expected)
    assert envs.restarted_episodes == before + 2


@pytest.mark.libero
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": 1}, "reset_mask"),
        ({"reset_mask": [True] * NUM_ENVS}, r"bool array \[3\]"),
        ({"reset_mask": np.ones(NUM_ENVS)}, r"bool array \[3\]"),
        ({"reset_mask": mask_of()}, "at least one slot"),
        ({"reset_mask": np.ones(2, bool)}, r"bool array \[3\]"),
        ({"task_id": 3}, r"task_id .*3.* \[7, 8\]"),
        ({"task_id": 7.5}, "task_id"),
        ({"task_id": [7, 8]}, r"one number, or \[3\]"),
        ({"init_state_id": [0, 0, 50]}, "init_state_id .*50.* from 0 to 49"),
    ],
)
def test_options_that_do_not_fit_are_errors_and_change_nothing(envs, options, message):
    before = envs.reset()[0]
    with pytest.raises(UserError, match=message):
        envs.reset(options=options)
    assert_same(envs._observations(), before)
    envs.step(np.zeros((NUM_ENVS, 8, 7), np.float32))


@pytest.mark.libero
def test_other_bad_input_is_an_error(envs):
    envs.reset()
    with pytest.raises(UserError, match=r"shape \(3, 7\).*\(3, 8, 7\)"):
        envs.step(np.zeros((NUM_ENVS, 7)))
    with pytest.raises(UserError, match="not finite"):
        envs.step(np.full((NUM_ENVS, 8, 7), np.nan))
    with pytest.raises(UserError, match="2 seeds for 3 slots"):
        envs.reset(seed=[1, 2])
    with pytest.raises(UserError, match="no task 10"):
        LiberoVectorEnv("libero_goal", 2, (7, 10))
    with pytest.raises(UserError, match="mean 'fast'"):
        LiberoVectorEnv("libero_goal", profile="fats")
    with pytest.raises(UserError, match="rgb_array"):
        LiberoVectorEnv("libero_goal", render_mode="human")
