from dataclasses import replace

import numpy as np
import pytest
import torch

from vlarl.envs.base import make_spec
from vlarl.envs.vector import VectorEnv
from vlarl.evaluation.protocol import evaluate
from vlarl.inference.local import LocalGenerator
from vlarl.policies.tiny import make_policy
from vlarl.recipes import toy
from vlarl.rewards.success import SuccessReward
from vlarl.rollout.collector import Collector
from vlarl.types import Rollout, Start, WorkItem

CONFIG = toy()


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return LocalGenerator(make_policy(CONFIG.policy).eval(), 1.0)


def collect(generator: LocalGenerator, num_envs: int, num_workers: int, count: int = 12) -> Rollout:
    items = [
        WorkItem(trajectory_index=i, start=Start(task_id=i % 2, split="train", index=i), seed=5) for i in range(count)
    ]
    with VectorEnv(replace(CONFIG.env, num_envs=num_envs, num_workers=num_workers)) as envs:
        return Collector(envs, CONFIG.env.replan_steps).collect(generator, items)


def test_rollout_is_packed_sorted_and_consistent(generator):
    rollout = collect(generator, 5, 2)
    offsets = rollout.trajectory_offsets
    assert [item.trajectory_index for item in rollout.items] == list(range(12))
    assert offsets[0] == 0 and offsets[-1] == rollout.num_turns and (np.diff(offsets) > 0).all()
    assert (rollout.terminated ^ rollout.truncated).all()
    assert (rollout.terminated | ~rollout.success).all()
    assert rollout.executed_steps.min() >= 1 and rollout.executed_steps.max() <= CONFIG.env.replan_steps
    # Only the last turn of a trajectory may be cut short.
    inner = np.ones(rollout.num_turns, dtype=bool)
    inner[offsets[1:] - 1] = False
    assert (rollout.executed_steps[inner] == CONFIG.env.replan_steps).all()
    np.testing.assert_array_equal(np.add.reduceat(rollout.env_rewards, offsets[:-1]), rollout.success)
    turn = np.arange(rollout.num_turns) - np.repeat(offsets[:-1], np.diff(offsets))
    np.testing.assert_array_equal(rollout.elapsed_steps, turn * CONFIG.env.replan_steps)
    first = rollout.observations.instructions[offsets[0]], rollout.observations.instructions[offsets[1]]
    assert first[0] != first[1]


@pytest.mark.parametrize(("num_envs", "num_workers"), [(1, 1), (3, 1), (8, 2), (16, 2)])
def test_outcomes_do_not_depend_on_slots_or_workers(generator, num_envs, num_workers):
    reference, other = collect(generator, 5, 2), collect(generator, num_envs, num_workers)
    assert np.array_equal(reference.action_tokens, other.action_tokens)
    differing = int((reference.success != other.success).sum())
    print(f"{differing} of {len(reference.success)} episodes differ with {num_envs} slots in {num_workers} workers")
    assert differing == 0
    assert np.array_equal(reference.observations.images, other.observations.images)


def test_same_slots_repeat_bit_for_bit(generator):
    one, two = collect(generator, 6, 2), collect(generator, 6, 2)
    assert np.array_equal(one.generator_logprobs, two.generator_logprobs)
    assert np.array_equal(one.executed_actions, two.executed_actions)


def test_evaluation_counts_episodes_and_returns_the_executed_actions(generator):
    spec = make_spec(CONFIG.env)
    with VectorEnv(CONFIG.env) as envs:
        result, actions = evaluate(
            Collector(envs, CONFIG.env.replan_steps),
            generator,
            spec,
            task_ids=CONFIG.env.task_ids,
            split="evaluation",
            episodes_per_task=3,
            temperature=1.0,
        )
    assert [(e.start.task_id, e.start.index) for e in result.episodes] == [(t, i) for t in (0, 1) for i in range(3)]
    assert result.env_steps == sum(len(a) for a in actions.values())
    assert all(len(actions[e.start]) == e.steps for e in result.episodes)


def test_submitted_work_comes_back_in_order_as_collected(generator):
    lists = [
        [WorkItem(trajectory_index=i, start=Start(task_id=0, split="train", index=i), seed=5) for i in part]
        for part in (range(2), range(2, 5))
    ]
    with VectorEnv(replace(CONFIG.env, num_envs=2, num_workers=1)) as envs:
        collector = Collector(envs, CONFIG.env.replan_steps)
        direct = [collector.collect(generator, items) for items in lists]
        for items in lists:
            collector.submit(generator, items)
        for expected in direct:
            result = collector.result(SuccessReward())
            assert result.items == expected.items
            np.testing.assert_array_equal(result.generator_logprobs, expected.generator_logprobs)
