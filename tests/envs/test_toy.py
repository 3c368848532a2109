"""The toy environment by hand."""

from dataclasses import replace

import numpy as np
import pytest

from vlarl.configs.env import EnvConfig
from vlarl.envs import toy
from vlarl.envs.base import compute_max_turns, make_spec
from vlarl.errors import UserError
from vlarl.policies.text import encode_instructions
from vlarl.types import Start


def make_config(**changes) -> EnvConfig:
    return EnvConfig(**({"name": "toy", "task_suite": "toy", "task_ids": (0, 1), "image_size": 16} | changes))


def make_environment(**changes) -> toy.ToyEnvironment:
    return toy.make_environments(make_config(**changes), 1)[0]


def toward(config: EnvConfig, start: Start, colour: int) -> np.ndarray:
    """Full-speed actions [20, 2] from the start to a goal (0 red, 1 blue)."""
    dot, goals = toy.start_positions(config, start)
    direction = goals[colour] - dot
    return np.tile(direction / np.abs(direction).max(), (20, 1)).astype(np.float32)


@pytest.mark.parametrize("task_id", [0, 1])
@pytest.mark.parametrize("index", range(5))
def test_the_named_goal_is_a_success_and_the_other_is_not(task_id, index):
    config, environment = make_config(), make_environment()
    start = Start(task_id=task_id, split="evaluation", index=index)
    for colour in (0, 1):
        environment.reset(start)
        result = environment.step(toward(config, start, colour))
        assert result.terminated and not result.truncated
        assert (result.success, result.reward) == ((True, 1.0) if colour == task_id else (False, 0.0))
        dot, goals = toy.start_positions(config, start)
        step = toy.STEP_LENGTH * toward(config, start, colour)[0].astype(np.float64)
        distances = [np.linalg.norm(dot + n * step - goals[colour]) for n in range(21)]
        # The first step that ends within the radius.
        assert result.executed_steps == next(n for n in range(1, 21) if distances[n] <= toy.GOAL_RADIUS)


def test_standing_still_is_truncated_after_the_limit():
    environment = make_environment()
    environment.reset(Start(task_id=0, split="evaluation", index=0))
    for _ in range(6):
        result = environment.step(np.zeros((3, 2), np.float32))
        assert (result.terminated, result.truncated, result.executed_steps, result.reward) == (False, False, 3, 0.0)
    result = environment.step(np.zeros((3, 2), np.float32))
    assert (result.terminated, result.truncated, result.success, result.executed_steps) == (False, True, False, 2)


@pytest.mark.parametrize(("split", "limit"), [("train", 5), ("validation", 20), ("evaluation", 20)])
def test_the_configured_limit_holds_in_training_only(split, limit):
    environment = make_environment(max_episode_steps=5, replan_steps=2)
    environment.reset(Start(task_id=0, split=split, index=3))
    result = environment.step(np.zeros((30, 2), np.float32))
    assert (result.executed_steps, result.truncated) == (limit, True)


def test_starts_are_functions_of_their_fields():
    def draw(seed: int, start: Start) -> bytes:
        return b"".join(part.tobytes() for part in toy.start_positions(make_config(seed=seed), start))

    starts = [Start(task_id=t, split=s, index=i) for t in (0, 1) for s in toy.NUM_STARTS for i in range(20)]
    drawn = [draw(0, start) for start in starts]
    assert drawn == [draw(0, start) for start in starts]
    assert len(set(drawn)) == len(starts)
    for start, first in zip(starts, drawn, strict=True):
        # The evaluation starts are fixed for all seeds.
        assert (draw(1, start) == first) == (start.split == "evaluation")


def test_the_image_shows_dot_and_goals_where_they_are():
    config, environment = make_config(image_size=64), make_environment(image_size=64)
    for index in range(20):
        start = Start(task_id=1, split="train", index=index)
        seen = environment.reset(start)
        assert seen.image.shape == (64, 64, 3) and seen.image.dtype == np.uint8
        assert seen.instruction == "put it on the blue plate"
        dot, goals = toy.start_positions(config, start)
        assert seen.proprio.dtype == np.float32 and np.array_equal(seen.proprio, dot.astype(np.float32))
        for channel, position in zip((0, 2, 1), (*goals, dot), strict=True):
            rows, columns = np.nonzero(seen.image[:, :, channel] > 100)
            middle = (np.array([columns.mean(), rows.mean()]) + 0.5) / 32 - 1
            assert np.abs(middle - position).max() < 0.05


def test_actions_beyond_one_are_clipped():
    start = Start(task_id=0, split="train", index=0)
    seen = []
    for size in (1.0, 50.0):
        environment = make_environment()
        environment.reset(start)
        seen.append(environment.step(np.full((2, 2), size, np.float32)).observation.proprio)
    assert np.array_equal(*seen)


def test_spec():
    spec = make_spec(make_config(task_ids=(1,)))
    assert (spec.action_dim, spec.proprio_dim) == (2, 2)
    assert (spec.instructions, spec.max_episode_steps) == ({1: "put it on the blue plate"}, {1: 20})
    assert spec.num_starts == {"train": 1000, "validation": 100, "evaluation": 100}
    encode_instructions(list(toy.INSTRUCTIONS.values()), 7)


@pytest.mark.parametrize(
    ("changes", "message"), [({"task_suite": "toi"}, "Did you mean 'toy'"), ({"task_ids": (0, 2)}, "'2'.*Known: 0, 1")]
)
def test_unknown_names(changes, message):
    with pytest.raises(UserError, match=message):
        make_spec(make_config(**changes))


@pytest.mark.parametrize(
    "start",
    [
        Start(task_id=5, split="train", index=0),
        Start(task_id=0, split="test", index=0),
        Start(task_id=0, split="evaluation", index=100),
        Start(task_id=0, split="evaluation", index=-1),
    ],
)
def test_unknown_starts(start):
    with pytest.raises(UserError):
        make_environment().reset(start)


def test_a_replay_draws_the_first_and_last_state():
    config = make_config()
    start = Start(task_id=0, split="evaluation", index=0)
    environment = make_environment()
    environment.reset(start)
    actions = toward(config, start, 0)[: environment.step(toward(config, start, 0)).executed_steps]
    frames = toy.replay_frames(config, start, actions, size=64, every=2)
    assert frames.shape == (1 + -(-len(actions) // 2), 64, 64, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames[-1], environment.draw(64))
    environment.reset(start)
    assert np.array_equal(frames[0], environment.draw(64))


def test_a_random_policy_succeeds_sometimes():
    rng = np.random.default_rng(0)
    environment, outcomes = make_environment(), []
    for index in range(300):
        environment.reset(Start(task_id=index % 2, split="train", index=index))
        outcomes.append(environment.step(rng.uniform(-1, 1, (20, 2)).astype(np.float32)).success)
    assert 0.08 < np.mean(outcomes) < 0.3


def test_turns_of_the_longest_episode():
    config = make_config(replan_steps=2)
    spec = replace(make_spec(config), max_episode_steps={0: 7, 1: 20})
    assert compute_max_turns(config, spec) == 10
    # A last, shorter turn is a turn.
    assert compute_max_turns(replace(config, max_episode_steps=5), spec) == 3
