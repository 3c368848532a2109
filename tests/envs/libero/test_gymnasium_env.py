"""LiberoEnv as a Gymnasium user sees it."""

import json
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vlarl.envs.libero import LiberoEnv, gymnasium_id
from vlarl.envs.libero.tasks import STEP_LIMITS
from vlarl.errors import UserError

TASK = {"task_suite": "libero_goal", "task_id": 7}
FAST = {**TASK, "profile": "fast", "stepping": "fast", "image_size": 32}
REST = np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32)


@pytest.fixture(scope="module")
def env():
    return LiberoEnv(**FAST, cameras=("agentview", "robot0_eye_in_hand"), render_mode="rgb_array")


def test_every_suite_is_registered():
    assert gymnasium_id("libero_spatial") == "vlarl/LiberoSpatial-v0"
    assert all(gymnasium_id(suite) in gymnasium.registry for suite in STEP_LIMITS)
    assert gymnasium_id("libero_10") == "vlarl/Libero10-v0"


@pytest.mark.libero
def test_passes_gymnasiums_checker():
    made = gymnasium.make("vlarl/LiberoGoal-v0", **{k: v for k, v in FAST.items() if k != "task_suite"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Proprioception has no bounds: the checker only wonders.
        warnings.filterwarnings("ignore", message=".*(minimum|maximum) value is -?infinity.*")
        check_env(made.unwrapped)
    made.close()


@pytest.mark.libero
def test_needs_no_torch():
    code = (
        "import gymnasium, json, sys\n"
        "env = gymnasium.make('vlarl.envs.libero:vlarl/LiberoGoal-v0', task_id=7, profile='fast', stepping='fast')\n"
        "observation, info = env.reset(options={'init_state_id': 3})\n"
        "print(json.dumps([list(observation['agentview'].shape), info['start_index'], 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[256, 256, 3], 3, False]


@pytest.mark.libero
def test_observation_has_every_camera_and_the_instruction(env):
    observation, _ = env.reset(options={"init_state_id": 0})
    assert env.observation_space.contains(observation)
    assert observation["instruction"] == env.instruction == "turn on the stove"
    agent, wrist = observation["agentview"], observation["robot0_eye_in_hand"]
    assert agent.std() > 10 and wrist.std() > 10
    assert np.abs(agent.astype(int) - wrist).mean() > 10
    assert np.array_equal(env.render(), agent)


@pytest.mark.libero
def test_starts_are_chosen_by_option_or_drawn_by_seed(env):
    states = {}
    for i in (0, 1):
        env.reset(options={"init_state_id": i})
        states[i] = env.get_state()
    assert not np.array_equal(states[0], states[1])
    env.reset(seed=5, options={"init_state_id": 1})
    assert np.array_equal(env.get_state(), states[1])
    drawn = [env.reset(seed=seed)[1]["start_index"] for seed in (5, 5, 6, 7)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1
    assert [env.reset()[1]["start_index"] for _ in range(3)] != [drawn[0]] * 3


@pytest.mark.libero
def test_a_chunk_equals_its_actions_one_by_one(env):
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 7)).astype(np.float32)
    env.reset(options={"init_state_id": 4})
    for action in actions:
        single = env.step(action)
    chunked = LiberoEnv(**FAST, replan_steps=8)
    assert chunked.action_space.shape == (8, 7)
    chunked.reset(options={"init_state_id": 4})
    observation, reward, terminated, truncated, info = chunked.step(actions)
    assert info["executed_steps"] == 8 and (reward, terminated, truncated) == single[1:4]
    assert np.array_equal(chunked.get_state(), env.get_state())
    assert np.array_equal(observation["agentview"], single[0]["agentview"])


@pytest.mark.libero
def test_set_state_restores_positions_and_starts_an_episode(env):
    env.reset(options={"init_state_id": 2})
    state = env.get_state()
    for _ in range(5):
        env.step(np.full(7, 0.5))
    moved = env.get_state()
    assert np.abs(moved - state).max() > 1e-3
    env.set_state(state)
    assert np.array_equal(env.get_state(), state)
    first = [env.step(REST)[0]["proprio"] for _ in range(2)]
    env.set_state(state)
    assert np.array_equal(first, [env.step(REST)[0]["proprio"] for _ in range(2)])
    assert env.data.time > state[0] and env.model.nq + env.model.nv + 1 == len(state)


@pytest.mark.libero
def test_success_ends_the_episode_and_the_limit_truncates_it():
    env = LiberoEnv(**FAST, replan_steps=100)
    env.reset(options={"init_state_id": 0})
    ends = [env.step(np.tile(REST, (100, 1)))[2:] for _ in range(3)]
    assert [end[:2] for end in ends] == [(False, False), (False, False), (False, True)]
    env.reset(options={"init_state_id": 0})
    # The stove's knob, as the goal reads it, turned on by hand.
    knob = env.model.joint("flat_stove_1_button").qposadr[0]
    state = env.get_state()
    state[1 + knob] = env.model.joint("flat_stove_1_button").range[1]
    assert not env.success()
    env.set_state(state)
    _, reward, terminated, truncated, info = env.step(np.tile(REST, (100, 1)))
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert info["executed_steps"] < 100 and env.success()
    with pytest.raises(UserError, match="call reset"):
        env.step(np.tile(REST, (100, 1)))


@pytest.mark.libero
def test_actions_out_of_bounds_are_clipped_and_counted(env):
    env.reset(options={"init_state_id": 0})
    assert env.step(np.full(7, 1.0))[4]["clipped_actions"] == 0
    assert env.step(np.full(7, 1.0))[4]["clipped_actions"] == 0
    inside = env.get_state()
    env.reset(options={"init_state_id": 0})
    counts = [env.step(action)[4]["clipped_actions"] for action in (np.full(7, 3.0), np.full(7, 1.5))]
    assert counts == [1, 2]
    assert np.array_equal(env.get_state(), inside)
    assert env.reset()[1]["clipped_actions"] == 0


@pytest.mark.libero
@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(6), r"shape \(6,\).*\(7,\)"),
        (np.zeros((1, 7)), r"shape \(1, 7\)"),
        (np.array([0, 0, np.nan, 0, 0, 0, 0]), "not finite.*nan"),
        (np.array([0, 0, np.inf, 0, 0, 0, 0]), "not finite.*inf"),
    ],
)
def test_bad_actions_are_errors_and_change_nothing(env, action, message):
    env.reset(options={"init_state_id": 0})
    state = env.get_state()
    with pytest.raises(UserError, match=message):
        env.step(action)
    assert np.array_equal(env.get_state(), state)


@pytest.mark.libero
@pytest.mark.parametrize("value", [-1, 50, 1.5, "3", None])
def test_an_unknown_init_state_is_an_error(env, value):
    with pytest.raises(UserError, match=r"init_state_id .* from 0 to 49"):
        env.reset(options={"init_state_id": value})


@pytest.mark.libero
def test_other_bad_input_is_an_error(env):
    with pytest.raises(UserError, match="init_state_id'"):
        env.reset(options={"init_state": 1})
    with pytest.raises(UserError, match="all finite"):
        env.set_state(env.get_state()[:-1])
    with pytest.raises(UserError, match="all finite"):
        env.set_state(env.get_state() * np.nan)
    with pytest.raises(UserError, match="robot0_eye_in_hand"):
        LiberoEnv(**FAST, cameras=("robot0_eye",))
    with pytest.raises(UserError, match="at least one"):
        LiberoEnv(**FAST, cameras=())
    with pytest.raises(UserError, match="call reset first"):
        LiberoEnv(**FAST).step(REST)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task_suite": "libero_gaol"}, "mean 'libero_goal'"),
        ({"task_id": 10}, "no task 10"),
        ({"task_id": -1}, "no task -1"),
        ({"profile": "fats"}, "mean 'fast'"),
        ({"stepping": "exakt"}, "mean 'exact'"),
        ({"render_mode": "human"}, "rgb_array"),
        ({"image_size": 0}, "image_size"),
        ({"replan_steps": 0}, "replan_steps"),
    ],
)
def test_unknown_names_are_errors_with_the_nearest(changed, message):
    with pytest.raises(UserError, match=message):
        LiberoEnv(**{**FAST, **changed})
