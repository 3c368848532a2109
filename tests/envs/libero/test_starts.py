"""Start states: where they come from, and that no split shares one."""

from types import SimpleNamespace

import mujoco
import numpy as np
import pytest

from vlarl.envs.libero.build import fixture_bodies, make_upstream
from vlarl.envs.libero.starts import NUM_STARTS, _draw, _poses_of_the_files
from vlarl.envs.libero.tasks import load_task

BOWL = "akita_black_bowl_1_main"


@pytest.mark.libero
def test_evaluation_starts_have_the_poses_of_upstreams_first_reset(stove_slot, upstream):
    positions = stove_slot._shared[7].starts["evaluation/fixture_pos"]
    assert np.array_equal(positions, np.broadcast_to(upstream[1], positions.shape))


@pytest.mark.libero
def test_training_starts_draw_their_own_poses(stove_slot):
    positions = stove_slot._shared[7].starts["train/fixture_pos"]
    assert len(np.unique(positions.reshape(len(positions), -1), axis=0)) == NUM_STARTS["train"]


@pytest.mark.libero
def test_no_two_starts_are_the_same(stove_slot):
    starts = stove_slot._shared[7].starts
    states = np.concatenate([starts[f"{split}/qpos"] for split in NUM_STARTS])
    assert len(states) == sum(NUM_STARTS.values()) == 300
    distances = np.abs(states[:, None] - states[None]).max(axis=-1)
    assert distances[~np.eye(len(states), dtype=bool)].min() > 1e-4


@pytest.mark.libero
def test_objects_on_fixtures_are_drawn_onto_them():
    environment = make_upstream(load_task("libero_spatial", 7), seed=0)
    model = environment.sim.model._model
    # What drawing reads of a simulation, without building the task.
    simulation = SimpleNamespace(
        model=model,
        fixture_bodies=np.array(fixture_bodies(environment.env)),
        robot=SimpleNamespace(qpos_index=np.arange(7)),
    )
    poses = _poses_of_the_files(environment, simulation)
    np.random.seed(0)
    for _ in range(3):
        _draw(environment, simulation, poses, np.random.default_rng(0))
        mujoco.mj_forward(model, environment.sim.data._data)
        stove, bowl = environment.sim.data._data.site("flat_stove_1_cook_region"), environment.sim.data._data.body(BOWL)
        # Over the stove, less than a hand's breadth above it.
        assert np.abs(bowl.xpos - stove.xpos)[:2].max() < 0.05 and 0 < bowl.xpos[2] - stove.xpos[2] < 0.12
