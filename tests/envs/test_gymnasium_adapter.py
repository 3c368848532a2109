"""A Gymnasium environment through the adapter: starts, actions, images, ends, bad descriptions."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from vlarl.configs.env import EnvConfig
from vlarl.envs import gymnasium_adapter
from vlarl.envs.base import make_spec
from vlarl.envs.gymnasium_adapter import GymnasiumEnvironment, GymnasiumTask, load_tasks, start_seed
from vlarl.errors import UserError
from vlarl.types import Start

TRAIN = Start(task_id=0, split="train", index=3)


class Line(gymnasium.Env):
    """A position on a line, shown as grey levels: the left third of the frame is black, the right third white."""

    def __init__(self, end: str = "success") -> None:
        self.action_space = spaces.Box(np.array([0.0, -2.0]), np.array([4.0, 2.0]), dtype=np.float64)
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self._end = end

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(0, 1)
        self.taken = []
        return np.array([self.position, 7.0, 8.0]), {}

    def step(self, action):
        self.taken.append(action)
        self.position += action[0]
        done = self.position > 10
        info = {"success": done and self._end == "success"}
        ended = (done and self._end == "terminated", done and self._end == "truncated")
        return np.array([self.position, 7.0, 8.0]), -5.0, *ended, info

    def render(self):
        frame = np.full((20, 60, 3), 100, np.uint8)
        frame[:, :20], frame[:, 40:] = 0, 255
        frame[:10, 20:40] = 200
        return frame


TASK = GymnasiumTask(make=Line, instruction="go right", max_episode_steps=30, action_dim=2, proprio_entries=(2, 0))
CONFIG = EnvConfig(name="gymnasium", task_suite="unused:TASKS", image_size=10)


def make(task: GymnasiumTask = TASK, config: EnvConfig = CONFIG) -> GymnasiumEnvironment:
    return GymnasiumEnvironment(config, [task])


def test_observation_is_the_middle_square_and_the_named_entries():
    observation = make().reset(TRAIN)
    assert observation.image.shape == (10, 10, 3) and observation.image.dtype == np.uint8
    assert (observation.image[:5] == 200).all() and (observation.image[5:] == 100).all()
    assert observation.proprio.dtype == np.float32
    assert observation.proprio[0] == 8 and 0 <= observation.proprio[1] <= 1
    assert observation.instruction == "go right"


def test_actions_are_mapped_to_the_bounds():
    slot = make()
    slot.reset(TRAIN)
    slot.step(np.array([[-1, -1], [1, 1], [0, 0.5], [3, -3]], dtype=np.float32))
    assert np.allclose(slot._env.taken, [[0, -2], [4, 2], [2, 1], [4, -2]])


@pytest.mark.parametrize(
    ("end", "expected"),
    [("success", (True, False, True)), ("terminated", (True, False, False)), ("truncated", (False, True, False))],
)
def test_the_episode_ends_where_the_environment_says(end, expected):
    slot = make(replace(TASK, make=lambda: Line(end)))
    slot.reset(TRAIN)
    result = slot.step(np.ones((8, 2), dtype=np.float32))
    assert (result.terminated, result.truncated, result.success) == expected
    # 4 per step: beyond 10 after 3.
    assert result.executed_steps == 3 and result.reward == float(end == "success")


@pytest.mark.parametrize(("split", "limit"), [("train", 6), ("evaluation", 30)])
def test_the_limit_truncates(split, limit):
    slot = make(config=replace(CONFIG, max_episode_steps=6, replan_steps=2))
    slot.reset(Start(task_id=0, split=split, index=0))
    still = np.tile(np.array([-1, 0], dtype=np.float32), (4, 1))
    executed, result = 0, None
    while result is None or not result.truncated:
        result = slot.step(still)
        executed += result.executed_steps
    assert executed == limit and not result.terminated


def test_an_episode_is_a_function_of_its_start():
    one, other = make(), make()
    first = one.reset(TRAIN).proprio
    one.step(np.ones((2, 2), dtype=np.float32))
    assert np.array_equal(one.reset(TRAIN).proprio, first) and np.array_equal(other.reset(TRAIN).proprio, first)
    assert not np.array_equal(one.reset(replace(TRAIN, index=4)).proprio, first)


@given(
    st.sampled_from(["train", "validation", "evaluation"]),
    st.integers(0, 49),
    st.integers(0, 9),
    st.integers(0, 2**32 - 2),
)
def test_seeds_of_starts_differ_between_splits_and_follow_the_config(split, index, task, seed):
    config, start = replace(CONFIG, seed=seed), Start(task_id=task, split=split, index=index)
    assert start_seed(config, start) == start_seed(config, start)
    others = [replace(start, split=s) for s in ("train", "validation", "evaluation") if s != split]
    assert start_seed(config, start) not in [start_seed(config, other) for other in others]
    changed = start_seed(replace(config, seed=seed + 1), start)
    assert (changed == start_seed(config, start)) == (split == "evaluation")


def test_replay_shows_the_start_and_the_end(monkeypatch):
    monkeypatch.setattr(gymnasium_adapter, "load_tasks", lambda name: [TASK])
    frames = gymnasium_adapter.replay_frames(CONFIG, TRAIN, np.zeros((5, 2), np.float32), size=8, every=2)
    assert frames.shape == (4, 8, 8, 3)


def test_spec_reads_the_suite(monkeypatch):
    monkeypatch.setattr(gymnasium_adapter, "load_tasks", lambda name: [TASK, replace(TASK, instruction="stay")])
    spec = make_spec(replace(CONFIG, task_ids=(1,)))
    assert (spec.action_dim, spec.proprio_dim, spec.needs_rendering) == (2, 2, True)
    assert spec.instructions == {1: "stay"} and spec.max_episode_steps == {1: 30}
    with pytest.raises(UserError, match="no task 2; it has 0 to 1"):
        make_spec(replace(CONFIG, task_ids=(2,)))
    monkeypatch.setattr(gymnasium_adapter, "load_tasks", lambda name: [TASK, replace(TASK, action_dim=3)])
    with pytest.raises(UserError, match="differ"):
        make_spec(replace(CONFIG, task_ids=(0, 1)))


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ("TASKS", "module:NAME"),
        ("no_such_module:TASKS", "no_such_module"),
        ("vlarl.envs.metaworld:TASK", "mean 'TASKS'"),
    ],
)
def test_unknown_suites_are_errors(suite, message):
    with pytest.raises(UserError, match=message):
        load_tasks(suite)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action_dim": 3}, "a bounded Box of 3 entries"),
        ({"proprio_entries": (3,)}, r"proprio_entries \(3,\)"),
        ({"image_key": "camera"}, "'camera'"),
        ({"proprio_key": "state"}, "'state'"),
    ],
)
def test_a_description_that_does_not_fit_is_an_error(change, message):
    with pytest.raises(UserError, match=message):
        make(replace(TASK, **change)).reset(TRAIN)


def test_a_missing_success_flag_is_an_error_with_the_nearest():
    slot = make(replace(TASK, success_key="sucess"))
    slot.reset(TRAIN)
    with pytest.raises(UserError, match="mean 'success'"):
        slot.step(np.zeros((1, 2)))


def test_without_frames_is_an_error():
    class Blind(Line):
        def render(self):
            return None

    with pytest.raises(UserError, match="render_mode"):
        make(replace(TASK, make=Blind)).reset(TRAIN)


@pytest.mark.libero
def test_metaworld_starts_follow_the_seed_and_success_comes_from_info():
    pytest.importorskip("metaworld")
    from metaworld.policies import SawyerReachV3Policy

    config = EnvConfig(name="gymnasium", task_suite="vlarl.envs.metaworld:TASKS", image_size=32)
    slot = gymnasium_adapter.make_environments(config, 1)[0]
    goals = []
    for index in (0, 1, 0):
        observation = slot.reset(Start(task_id=0, split="evaluation", index=index))
        goals.append(slot._env.unwrapped._target_pos.copy())
    assert np.array_equal(goals[0], goals[2]) and not np.array_equal(goals[0], goals[1])
    assert observation.image.std() > 20 and observation.instruction == "reach the red ball"
    policy, result = SawyerReachV3Policy(), None
    for _ in range(20):
        actions = np.array([policy.get_action(slot._raw)], dtype=np.float32)
        result = slot.step(np.repeat(actions, 5, axis=0))
        if result.terminated:
            break
    assert result.success and result.reward == 1.0
