"""Our stepping against upstream's, and the environment's contract, on the real simulator."""

import os
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from vlarl.configs.env import EnvConfig
from vlarl.envs.libero.env import make_environments, make_spec, prepare, replay_frames, trace_episodes
from vlarl.envs.libero.goals import goal_reached
from vlarl.envs.libero.tasks import load_task, parse_goal
from vlarl.errors import UserError
from vlarl.types import Start

CONFIG = EnvConfig(name="libero", task_suite="libero_goal", task_ids=(8,), max_episode_steps=24)
TRAIN = Start(task_id=8, split="train", index=3)


@pytest.fixture(scope="module")
def slots():
    prepare(CONFIG, print)
    return make_environments(CONFIG, 3)


def random_actions(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 7)).astype(np.float32)


@pytest.mark.libero
def test_motion_equals_upstreams(slots):
    from vlarl.envs.libero.build import make_upstream
    from vlarl.envs.libero.simulation import NO_MOTION
    from vlarl.envs.libero.starts import _fixture_poses, _settle

    task = load_task("libero_goal", 8)
    upstream = make_upstream(task, seed=0)
    slots[0].reset(TRAIN)
    simulation = slots[0]._simulation
    state = np.load(task.init_states_file, allow_pickle=False)["states"][7]
    upstream.reset()
    upstream.set_init_state(state)
    for _ in range(10):
        upstream.step(NO_MOTION)
    simulation.restore(_settle(simulation, state, _fixture_poses(upstream, simulation)))
    worst = np.abs(simulation.data.qpos - upstream.sim.data.qpos).max()
    for action in random_actions(40).astype(np.float64):
        _, _, done, _ = upstream.step(action)
        assert simulation.step(action) == done
        worst = max(worst, np.abs(simulation.data.qpos - upstream.sim.data.qpos).max())
    # Upstream solves the contacts three times per substep, we once: the solver's warm start differs.
    assert worst < 1e-5, worst


@pytest.mark.libero
def test_an_episode_is_a_function_of_start_and_actions(slots):
    results = []
    for slot in (slots[0], slots[2]):
        slot.reset(Start(task_id=8, split="evaluation", index=0))
        slot.step(random_actions(5, seed=9))
        slot.reset(TRAIN)
        for seed in range(2):
            transition = slot.step(random_actions(8, seed))
            # Another slot of the same model in between, with other fixture poses.
            slots[1].reset(Start(task_id=8, split="train", index=50 + seed))
            slots[1].step(random_actions(3, seed))
        results.append((slot.state(), transition.observation.image, transition.observation.proprio))
    for one, two in zip(*results, strict=True):
        assert np.array_equal(one, two)


@pytest.mark.libero
def test_frames_of_a_task_do_not_depend_on_other_tasks_in_the_process():
    both = EnvConfig(name="libero", task_suite="libero_goal", task_ids=(7, 8))
    prepare(both, print)

    def frames(task_ids: tuple[int, ...]) -> dict[int, list[np.ndarray]]:
        slots = dict(zip(task_ids, make_environments(both, len(task_ids)), strict=True))
        seen = {t: [slot.reset(Start(task_id=t, split="train", index=3)).image] for t, slot in slots.items()}
        for seed in range(3):
            for t, slot in slots.items():
                seen[t].append(slot.step(random_actions(8, seed)).observation.image)
        return seen

    together = frames((7, 8))
    for task_id in (7, 8):
        alone = replace(both, task_ids=(task_id,))
        slot = make_environments(alone, 1)[0]
        assert np.array_equal(slot.reset(Start(task_id=task_id, split="train", index=3)).image, together[task_id][0])
        for seed in range(3):
            image = slot.step(random_actions(8, seed)).observation.image
            assert np.array_equal(image, together[task_id][1 + seed])


@pytest.mark.libero
def test_goal_is_reached_when_the_bowl_rests_on_the_plate(slots):
    slot = slots[0]
    slot.reset(TRAIN)
    simulation = slot._simulation
    model, data = simulation.model, simulation.data
    assert not goal_reached(simulation.scene.goal, model, data)
    address = model.body("akita_black_bowl_1_main").jntadr[0]
    place = slot.object_position("plate_1") + [0.0, 0.0, 0.03]
    data.qpos[model.jnt_qposadr[address] : model.jnt_qposadr[address] + 3] = place
    rest = np.array([0, 0, 0, 0, 0, 0, -1.0])
    outcomes = [simulation.step(rest) for _ in range(20)]
    assert outcomes[-1]
    data.qpos[model.jnt_qposadr[address]] += 0.1
    assert not simulation.step(rest)


@pytest.mark.libero
def test_limits_truncate_and_protocol_limit_holds_outside_training(slots):
    slot = slots[0]
    slot.reset(TRAIN)
    still = np.zeros((16, 7), dtype=np.float32)
    first, second = slot.step(still), slot.step(still)
    assert (first.executed_steps, first.truncated) == (16, False)
    assert (second.executed_steps, second.truncated, second.terminated) == (8, True, False)
    slot.reset(Start(task_id=8, split="evaluation", index=0))
    assert not any(slot.step(still).truncated for _ in range(3))


@pytest.mark.libero
def test_observation(slots):
    observation = slots[0].reset(TRAIN)
    assert observation.image.shape == (64, 64, 3) and observation.image.std() > 20
    # Upright: the dark robot base is in the upper half, the plain table below.
    assert observation.image[:20].std() > 1.5 * observation.image[-10:].std()
    assert observation.proprio.shape == (12,) and observation.proprio.dtype == np.float32
    np.testing.assert_allclose(observation.proprio[:3], slots[0].ee_position, atol=1e-6)
    assert observation.instruction == "put the bowl on the plate"


@pytest.mark.libero
def test_replay_shows_the_same_end(slots):
    actions = random_actions(9)
    frames = replay_frames(CONFIG, TRAIN, actions, size=64, every=4)
    assert frames.shape == (4, 64, 64, 3)
    slots[0].reset(TRAIN)
    last = slots[0].step(actions).observation.image
    assert np.array_equal(frames[-1], last)


@pytest.mark.libero
def test_a_trace_measures_the_hand_from_the_bowl():
    actions = np.zeros((20, 7), np.float32)
    # Down, with the gripper closing from the eleventh step on.
    actions[:, 2], actions[10:, 6] = -0.5, 1.0
    # The second is like the first: one slot plays both.
    first, trace = trace_episodes(CONFIG, [(TRAIN, actions)] * 2)
    assert np.array_equal(first.distance, trace.distance)
    assert trace.is_carried and trace.closing.tolist() == [False] * 10 + [True] * 10
    slot = make_environments(CONFIG, 1)[0]
    slot.begin(TRAIN)
    for distance, height, action in zip(trace.distance, trace.height, actions, strict=True):
        slot.step_once(action)
        to_root = np.linalg.norm(slot.object_position("akita_black_bowl_1") - slot.ee_position)
        # The bowl's walls are up to 7 cm from its root, and never farther from the hand than that.
        assert to_root - 0.08 < distance < to_root + 0.08 and abs(height) < 1e-3
    assert trace.distance[-1] < trace.distance[0] - 0.05


@pytest.mark.libero
def test_starts_differ_between_splits_and_indices(slots):
    images = []
    for split in ("train", "validation", "evaluation"):
        for index in (0, 1):
            slots[0].reset(Start(task_id=8, split=split, index=index))
            images.append(slots[0].state())
    assert all(not np.array_equal(a, b) for i, a in enumerate(images) for b in images[:i])


def test_spec_needs_no_model():
    spec = make_spec(EnvConfig(name="libero", task_suite="libero_object", task_ids=(0, 8)))
    assert spec.instructions[0] == "pick up the alphabet soup and place it in the basket"
    assert spec.max_episode_steps == {0: 280, 8: 280}


def test_goals_are_read_from_bddl():
    assert parse_goal("(:goal\n (And (On a_1 b_1) (In c_1 d_region)))") == (
        ("on", "a_1", "b_1"),
        ("in", "c_1", "d_region"),
    )
    assert load_task("libero_goal", 1).goal == (("on", "akita_black_bowl_1", "flat_stove_1_cook_region"),)


@pytest.mark.parametrize(
    ("suite", "task_id", "message"),
    [("libero_gaol", 0, "Did you mean 'libero_goal'"), ("libero_goal", 10, "it has 0 to 9")],
)
def test_unknown_names(suite, task_id, message):
    with pytest.raises(UserError, match=message):
        load_task(suite, task_id)


def test_frames_do_not_depend_on_another_librarys_gl_context(slots):
    slots[0].reset(TRAIN)
    before = slots[0].render(64)
    other = import_module(f"mujoco.{os.environ['MUJOCO_GL']}").GLContext(64, 64)
    other.make_current()
    other.free()
    assert np.array_equal(slots[0].render(64), before)
