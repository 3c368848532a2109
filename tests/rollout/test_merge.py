"""Parts of a work list, collected apart and joined, are the whole."""

from dataclasses import fields, replace

import numpy as np

from tests.rollout.test_collector import CONFIG
from vlarl.envs.vector import VectorEnv
from vlarl.inference.local import LocalGenerator
from vlarl.policies import tiny
from vlarl.rollout.collector import Collector
from vlarl.rollout.merge import merge_rollouts
from vlarl.types import Observation, Start, WorkItem


def test_two_halves_are_the_whole():
    generator = LocalGenerator(tiny.make_policy(CONFIG.policy), 1.0)
    items = [WorkItem(trajectory_index=i, start=Start(task_id=i % 2, split="train", index=i), seed=0) for i in range(7)]
    with VectorEnv(replace(CONFIG.env, num_envs=1, num_workers=1)) as envs:
        # One slot decodes one observation at a time: batching moves no bits.
        collector = Collector(envs, CONFIG.env.replan_steps)
        whole, even, odd = (collector.collect(generator, part) for part in (items, items[::2], items[1::2]))
    merged = merge_rollouts([odd, even])
    assert merged.items == whole.items
    for field in fields(whole):
        ours, theirs = getattr(merged, field.name), getattr(whole, field.name)
        if isinstance(theirs, Observation):
            assert ours.instructions == theirs.instructions
            np.testing.assert_array_equal(ours.images, theirs.images)
            np.testing.assert_array_equal(ours.proprio, theirs.proprio)
        elif isinstance(theirs, np.ndarray):
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
            assert ours.dtype == theirs.dtype, field.name
    assert merge_rollouts([whole]) is whole
    # The learner corrects for the oldest weights.
    assert merge_rollouts([replace(odd, policy_version=4), replace(even, policy_version=3)]).policy_version == 3
