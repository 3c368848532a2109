"""What is drawn, and what a user reads where nothing can be drawn."""

import os
import subprocess
import sys

import numpy as np
import pytest

# Before anything that loads mujoco: it chooses the GL library.
from vlarl.envs.libero.rendering import Renderer  # isort: skip

import mujoco

from vlarl.configs.env import EnvConfig
from vlarl.envs.libero.cache import TaskFiles
from vlarl.envs.libero.env import prepare
from vlarl.envs.libero.simulation import Scene
from vlarl.errors import EXIT_MISSING_SYSTEM_LIBRARY, UserError
from vlarl.types import Start

STOVE_CONFIG = EnvConfig(task_suite="libero_goal", task_ids=(7,))
PROFILES = ("fast", "reference")


@pytest.mark.libero
def test_the_burner_glows_while_the_stove_is_on(stove_slot):
    stove_slot.reset(Start(task_id=7, split="train", index=0))
    simulation = stove_slot._simulation
    address = simulation.model.joint("flat_stove_1_button").qposadr[0]
    frames = []
    for position in (0.0, 0.6, 0.0):
        simulation.data.qpos[address] = position
        frames.append(stove_slot.render(128).astype(int))
    # The kinematics are not updated: the burner is all that can differ.
    changed = np.abs(frames[1] - frames[0]).sum(axis=-1) > 30
    assert 20 < changed.sum() < 2000
    red, green, blue = frames[1][changed].mean(axis=0)
    assert red > 1.5 * max(green, blue)
    assert np.array_equal(frames[0], frames[2])


@pytest.mark.parametrize("module", ["mujoco.egl", "mujoco.osmesa"])
def test_a_missing_library_is_named_with_the_install_line(module):
    # A finder that fails the binding's import, as it does on a machine without the library.
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")
sys.meta_path.insert(0, Missing())
from vlarl.errors import UserError
try:
    import vlarl.envs.libero.env
except UserError as error:
    print(error)
    sys.exit(error.exit_code)
"""
    environment = os.environ | {"MUJOCO_GL": module.rpartition(".")[2]}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_MISSING_SYSTEM_LIBRARY, done.stderr
    assert "apt-get install" in done.stdout


@pytest.fixture(scope="module")
def scene_and_data():
    prepare(STOVE_CONFIG, print)
    scene = Scene(TaskFiles.of("libero_goal", 7))
    data = mujoco.MjData(scene.model)
    mujoco.mj_forward(scene.model, data)
    return scene, data


@pytest.mark.libero
def test_every_camera_and_any_size(scene_and_data):
    scene, data = scene_and_data
    renderer = Renderer(scene.model, scene.lamps)
    agent = renderer.render(data, 64)
    assert np.array_equal(agent, renderer.render(data, 64, "agentview"))
    assert np.abs(agent.astype(int) - renderer.render(data, 64, "robot0_eye_in_hand")).mean() > 5
    # Larger than the model's buffer; a downscaled large image is the small one, roughly.
    large = renderer.render(data, 512)
    assert large.shape == (512, 512, 3)
    small = large.reshape(64, 8, 64, 8, 3).mean(axis=(1, 3))
    assert np.abs(small - agent).mean() < 6
    assert np.array_equal(renderer.render(data, 64), agent)


@pytest.mark.libero
def test_the_reference_profile_has_shadows(scene_and_data):
    scene, data = scene_and_data
    fast, reference = (Renderer(scene.model, scene.lamps, profile).render(data, 128) for profile in PROFILES)
    assert np.abs(fast.astype(int) - reference).mean() > 1


def test_profiles_and_steppings_are_checked():
    with pytest.raises(UserError, match="unknown env.stepping 'exat'. Did you mean 'exact'"):
        EnvConfig(stepping="exat")
    with pytest.raises(UserError, match="unknown env.render_profile 'upstream'.*fast, reference"):
        EnvConfig(render_profile="upstream")
