"""Physical shifts: what changes in the scene, and that nothing else does."""

from pathlib import Path

import numpy as np
import pytest

from vlarl.cli.evaluate import EvaluateOptions, _env_config
from vlarl.configs.env import EnvConfig
from vlarl.configs.policy import PolicyConfig
from vlarl.configs.shift import Shift
from vlarl.envs.libero.env import make_environments, trace_episodes
from vlarl.errors import UserError
from vlarl.types import Start

START = Start(task_id=8, split="evaluation", index=3)


def make(shift: str | None = None):
    (environment,) = make_environments(EnvConfig(task_suite="libero_goal", task_ids=(8,), shift=shift), 1)
    return environment


def motion(steps: int) -> np.ndarray:
    """Actions that move the arm a little in every direction."""
    return np.random.default_rng(0).uniform(-0.5, 0.5, (steps, 7))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lihgt=0.5", "unknown shift 'lihgt'.*light"),
        ("light", "'light' needs a number from 0.01 to 100: factor on all lights"),
        ("mass=0", "needs a number from 0.01 to 100"),
        ("friction=nan", "needs a number from 0.01 to 100"),
        ("delay=1.5", "needs a whole number from 1 to 100"),
        ("delay=1e9", "needs a whole number from 1 to 100"),
        ("camera=left", "'camera=left' needs a number from -1 to 1: metres"),
    ],
)
def test_impossible_shifts_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        EnvConfig(shift=text)


def test_only_libero_can_be_shifted():
    assert Shift.parse("camera=-0.05") == Shift(kind="camera", strength=-0.05)
    with pytest.raises(UserError, match="env.shift is for libero, the environment is toy"):
        EnvConfig(name="toy", task_suite="toy", shift="mass=2")


@pytest.mark.libero
@pytest.mark.parametrize("kind", ["camera", "light", "friction", "mass"])
def test_a_shift_changes_its_part_of_the_model_alone(kind):
    plain, shifted = (make(s) for s in (None, f"{kind}=0.5"))
    for environment in (plain, shifted):
        environment.begin(START)
    before, after = plain.simulation.model, shifted.simulation.model
    fields = {
        "camera": {"cam_pos"},
        # Ambient light is the headlight's.
        "light": {"light_diffuse", "light_specular"},
        "friction": {"geom_friction"},
        "mass": {"body_mass", "body_inertia"},
    }
    parts = ("cam_", "light_", "geom_friction", "body_mass", "body_inertia", "dof_damping", "actuator_gainprm")
    arrays = [name for name in dir(before) if isinstance(getattr(before, name), np.ndarray)]
    # Relative to the centre of mass: only for cameras that follow a body.
    names = [name for name in arrays if name.startswith(parts) and not name.endswith("poscom0")]
    differing = {name for name in names if not np.array_equal(getattr(before, name), getattr(after, name))}
    assert differing == fields[kind]


@pytest.mark.libero
def test_the_camera_moves_to_its_right():
    plain, moved = make(), make("camera=0.1")
    frames = [environment.reset(START).image.astype(float) for environment in (plain, moved)]
    model, data = plain.simulation.model, plain.simulation.data
    axis = data.cam_xmat[model.camera("agentview").id].reshape(3, 3)[:, 0]
    step = moved.simulation.data.cam_xpos - data.cam_xpos
    assert np.allclose(step[model.camera("agentview").id], 0.1 * axis, atol=1e-9)
    # What is seen moves to the left: of all sideways shifts that one matches best.
    errors = {
        pixels: np.abs(np.roll(frames[0], -pixels, axis=1) - frames[1])[:, 8:-8].mean() for pixels in range(-4, 5)
    }
    assert min(errors, key=errors.get) > 0


@pytest.mark.libero
def test_less_light_darkens_the_frame():
    bright, dark = (make(shift).reset(START).image.mean() for shift in (None, "light=0.5"))
    assert 0.3 * bright < dark < 0.8 * bright


@pytest.mark.libero
def test_heavier_objects_weigh_more_and_stay_where_they_are():
    plain, heavy = make(), make("mass=4")
    for environment in (plain, heavy):
        environment.reset(START)
    before, after = plain.simulation.model, heavy.simulation.model
    bowl, hand = (before.body(name).id for name in ("akita_black_bowl_1_main", "robot0_right_hand"))
    assert after.body_mass[bowl] == 4 * before.body_mass[bowl] and after.body_subtreemass[bowl] > 0
    assert after.body_mass[hand] == before.body_mass[hand]
    # Four times as heavy, it presses deeper into a soft contact, by less than a millimetre.
    height = heavy.object_position("akita_black_bowl_1")[2]
    for _ in range(20):
        heavy.step_once(np.array([0.0, 0, 0, 0, 0, 0, -1]))
    assert abs(heavy.object_position("akita_black_bowl_1")[2] - height) < 1e-3


@pytest.mark.libero
def test_delayed_actions_are_those_of_two_steps_ago():
    """Also where the episode is repeated from its actions, step by step; and a new episode begins without any."""
    plain, delayed = make(), make("delay=2")
    actions = motion(12)
    for _ in range(2):
        plain.reset(START)
        plain.execute(np.concatenate([np.tile([0.0, 0, 0, 0, 0, 0, -1], (2, 1)), actions[:-2]]))
        delayed.reset(START)
        delayed.execute(actions)
        assert np.array_equal(delayed.state(), plain.state())
    delayed.reset(START)
    for action in actions:
        delayed.step_once(action)
    assert np.array_equal(delayed.state(), plain.state())


@pytest.mark.libero
def test_a_failure_is_told_from_what_the_gripper_did_not_from_what_it_was_told():
    actions = np.zeros((8, 7))
    actions[:, 6] = [-1, -1, -1, 1, 1, -1, -1, -1]
    config = EnvConfig(task_suite="libero_goal", task_ids=(8,), shift="delay=2")
    (found,) = trace_episodes(config, [(START, actions)])
    assert found.closing.tolist() == [False] * 5 + [True, True, False]


def test_evaluate_takes_a_shift():
    options = EvaluateOptions(policy=Path("nowhere/rl/policy"), shift="mass=2")
    assert _env_config(options, PolicyConfig()).shift == "mass=2"
