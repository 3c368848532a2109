"""The scripted expert on a slot without physics."""

from dataclasses import replace

import numpy as np
import pytest

from vlarl.errors import UserError
from vlarl.experts.skills import EarlyClose, SequenceExpert
from vlarl.experts.tasks import EXPERTS, make_expert
from vlarl.types import Start

START = Start(task_id=8, split="train", index=0)


def run(slot, expert, limit=200):
    slot.reset(START)
    steps, heights, success = [], [], False
    while not success and not expert.finished and len(steps) < limit:
        heights.append(slot.ee_position[2] - slot.object_position("akita_black_bowl_1")[2] - 0.015)
        steps.append(expert.act(slot))
        success = slot.step_once(steps[-1].action)
    return steps, np.array(heights), success


def make_plate_expert(mistake, seed=0):
    (spec,) = EXPERTS["put_the_bowl_on_the_plate"]
    return SequenceExpert([spec.begin(np.random.default_rng(seed), mistake)])


def test_expert_places_the_bowl(point_slot):
    steps, _, success = run(point_slot, make_plate_expert(None))

    assert success
    actions = np.stack([s.action for s in steps])
    assert actions.dtype == np.float32 and actions.shape[1] == 7
    assert np.abs(actions).max() <= 1
    assert not actions[:, 3:6].any()
    assert not any(s.forced for s in steps)
    # Opens, closes, opens: two changes of the gripper's command.
    assert np.count_nonzero(np.diff(actions[:, 6])) == 2


@pytest.mark.parametrize("lifted_steps", [0, 7])
def test_forced_mistake_is_marked_and_corrected(point_slot, lifted_steps):
    mistake = EarlyClose(height=0.04, closed_steps=6, lifted_steps=lifted_steps)
    steps, heights, success = run(point_slot, make_plate_expert(mistake))

    assert success
    forced = np.flatnonzero([s.forced for s in steps])
    assert forced.tolist() == list(range(forced[0], forced[0] + 6 + lifted_steps))
    assert 0.02 < heights[forced[0]] < 0.04
    commands = np.array([s.action[6] for s in steps])
    assert (commands[forced] == 1).all()
    assert commands[forced[0] - 1] == -1
    # The correction, which is to be imitated: open at once, and close again only at the right height.
    after = forced[-1] + 1
    assert commands[after] == -1
    closing = after + np.flatnonzero(commands[after:] == 1)[0]
    assert abs(heights[closing]) < 0.01
    # The fingers need six steps to open: until then the hand stays above the object.
    assert heights[after : after + 7].min() > 0.025


def test_descent_that_is_blocked_ends_in_a_grasp(point_slot):
    expert = make_plate_expert(None)
    point_slot.reset(START)
    commands = []
    for _ in range(60):
        action = expert.act(point_slot).action
        commands.append(action[6])
        point_slot.step_once(action)
        # Something in the way, 2 cm over the grasp.
        floor = point_slot.object_position("akita_black_bowl_1")[2] + 0.035
        point_slot.ee_position[2] = max(point_slot.ee_position[2], floor)
    assert 1.0 in commands


def test_expert_gives_up_after_a_failed_release(point_slot):
    point_slot.step_once, advance = lambda action: advance(action) and False, point_slot.step_once
    steps, _, success = run(point_slot, make_plate_expert(None))
    assert not success
    assert len(steps) < 150


def test_sampled_mistakes_stay_in_range():
    rng = np.random.default_rng(0)
    mistakes = [EarlyClose.sample(rng) for _ in range(500)]
    assert 0.015 <= min(m.height for m in mistakes) < 0.017 and 0.053 < max(m.height for m in mistakes) <= 0.055
    assert {m.closed_steps for m in mistakes} == set(range(4, 11))
    assert {m.lifted_steps for m in mistakes} == set(range(13))


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (1.0, 20)])
def test_recovery_probability(point_slot, probability, expected):
    experts = [make_expert(point_slot.task, np.random.default_rng(seed), probability) for seed in range(20)]
    forced = [any(s.forced for s in run(point_slot, expert)[0]) for expert in experts]
    assert sum(forced) == expected


def test_task_without_expert_is_named_with_the_known_ones(point_slot):
    task = replace(point_slot.task, name="put_the_bowl_on_the_plat")
    with pytest.raises(UserError, match=r"'put_the_bowl_on_the_plat'\. Did you mean 'put_the_bowl_on_the_plate'"):
        make_expert(task, np.random.default_rng(0))
