"""Goal predicates against upstream's own evaluation, in random configurations of one scene."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from vlarl.envs.libero.goals import _find_bound, goal_reached, number_sites, resolve_goal
from vlarl.envs.libero.tasks import load_task
from vlarl.errors import UserError
from vlarl.types import Start

TASK = load_task("libero_goal", 7)


def drawer(rng):
    return "wooden_cabinet_1_middle_level", rng.choice([0.0, -0.1399, -0.1401, -0.05, 0.004])


def knob(rng):
    return "flat_stove_1_button", rng.choice([-0.004, 0.0, 0.1, 0.4999, 0.5, 1.5])


JOINT_GOALS = {
    ("open", "wooden_cabinet_1_middle_region"): drawer,
    ("turnon", "flat_stove_1"): knob,
    ("turnoff", "flat_stove_1"): knob,
}
PLACEMENTS = {
    ("on", "akita_black_bowl_1", "plate_1"): 0.03,
    ("on", "akita_black_bowl_1", "flat_stove_1_cook_region"): 0.05,
    ("on", "wine_bottle_1", "wooden_cabinet_1_top_side"): 0.1,
    ("on", "plate_1", "main_table_stove_front_region"): 0.05,
    ("in", "akita_black_bowl_1", "wooden_cabinet_1_top_region"): 0.1,
}
"""Goal -> spread of the horizontal offsets that are tried, metres."""


@pytest.fixture(scope="module")
def scene(stove_slot, upstream):
    """Upstream's environment and our simulation of it, with the same fixture poses."""
    stove_slot.reset(Start(task_id=7, split="evaluation", index=0))
    return upstream[0], stove_slot._simulation


def compare(scene, goal, qpos) -> bool:
    """Asserts that both agree in this configuration; returns whether the goal is reached."""
    upstream, simulation = scene
    theirs = upstream.sim.data._data
    for model, data in ((upstream.sim.model._model, theirs), (simulation.model, simulation.data)):
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
    resolved = resolve_goal(replace(TASK, goal=(goal,)), upstream.env)
    expected = bool(upstream.env._eval_predicate(list(goal)))
    assert goal_reached(number_sites(resolved, simulation.model), simulation.model, simulation.data) == expected, goal
    return expected


@pytest.mark.libero
@pytest.mark.parametrize("goal", JOINT_GOALS)
def test_joint_predicates_equal_upstreams(scene, goal):
    model, qpos = scene[1].model, scene[1].data.qpos.copy()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(40):
        joint, position = JOINT_GOALS[goal](rng)
        qpos[model.joint(joint).qposadr[0]] = position
        outcomes.add(compare(scene, goal, qpos))
    assert outcomes == {False, True}


@pytest.mark.libero
@pytest.mark.parametrize("goal", PLACEMENTS)
def test_placement_predicates_equal_upstreams(scene, goal):
    upstream, simulation = scene
    model, start = simulation.model, simulation.data.qpos.copy()
    state = upstream.env.object_states_dict[goal[2]]
    target = np.array(state.get_geom_state()["pos"])
    address = model.joint(f"{goal[1]}_joint0").qposadr[0]
    rng = np.random.default_rng(1)
    outcomes = []
    for _ in range(200):
        qpos = start.copy()
        offset = np.append(
            rng.uniform(-1, 1, 2) * PLACEMENTS[goal], rng.uniform(-0.1 if goal[0] == "in" else -0.02, 0.1)
        )
        qpos[address : address + 3] = target + offset
        outcomes.append(compare(scene, goal, qpos))
    assert 3 < sum(outcomes) < 197


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (lambda q: q >= 0.5, (0.5, True)),
        (lambda q: q > 0.5, (float(np.nextafter(0.5, 1)), True)),
        (lambda q: q < -0.14, (float(np.nextafter(-0.14, -1)), False)),
        (lambda q: q <= -0.14, (-0.14, False)),
    ],
)
def test_bounds_are_found_exactly(test, expected):
    assert _find_bound(test, [2.1, 0.5, -0.16, -0.14]) == expected


def test_an_unknown_comparison_is_named():
    with pytest.raises(UserError, match="compares a joint in an unknown way"):
        _find_bound(lambda q: q > 7.0, [0.5, 2.1])
