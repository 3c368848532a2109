"""What is drawn, and what a user reads where nothing can be drawn."""

import os
import subprocess
import sys

import numpy as np
import pytest

# Before anything that loads mujoco: it chooses the GL library.
from vlarl.envs.libero.rendering import Renderer, find_in_view  # isort: skip

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


def test_a_sphere_is_in_view_until_it_is_wholly_beyond_a_side():
    # 90 degrees: the sides of the view are x = -z and so on; a sphere beyond one by sqrt(2) / 2 metres touches it.
    spheres = {
        "ahead": ((0, 0, -5), 0.1),
        "behind": ((0, 0, 1), 0.9),
        "around the camera": ((0, 0, 1), 1.1),
        "touches the right side": ((3, 0, -2), 0.708),
        "beyond the right side": ((3, 0, -2), 0.706),
        "touches the lower side": ((0, -3, -2), 0.708),
        "beyond the lower side": ((0, -3, -2), 0.706),
    }
    geoms = "".join(f'<geom pos="{x} {y} {z}" size="{r}"/>' for (x, y, z), r in spheres.values())
    # The camera looks along the world's x axis: its own x, y and z axes are the world's -y, z and -x.
    body = f'<body euler="0 0 -90"><body euler="90 0 0">{geoms}<camera fovy="90"/></body></body>'
    plane = '<geom type="plane" size="1 1 1" pos="-9 0 0"/>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{plane}{body}</worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_camlight(model, data)
    expected = [True, *(name != "behind" and "beyond" not in name for name in spheres)]
    assert find_in_view(model, data, 0).tolist() == expected


@pytest.mark.libero
def test_what_is_left_out_of_the_fast_frames_changes_no_pixel(stove_slot, monkeypatch):
    renderer = stove_slot._current.renderer
    rng, frames = np.random.default_rng(0), {"seen": [], "everything": []}

    def gather_everything(data):
        sizes["seen"].append(renderer._scene.ngeom)
        renderer._gather(data, mujoco.mjtCatBit.mjCAT_ALL)
        sizes["everything"].append(renderer._scene.ngeom)

    sizes = {"seen": [], "everything": []}
    for index in range(3):
        stove_slot.reset(Start(task_id=7, split="train", index=index))
        for _ in range(10):
            stove_slot.step_once(rng.uniform(-1, 1, 7))
        if index == 2:
            # With the burner alight.
            stove_slot.simulation.data.qpos[renderer._model.joint("flat_stove_1_button").qposadr[0]] = 0.6
        for camera in ("agentview", "robot0_eye_in_hand"):
            frames["seen"].append(stove_slot.render(256, camera))
            with monkeypatch.context() as patch:
                patch.setattr(renderer, "_gather_seen", gather_everything)
                frames["everything"].append(stove_slot.render(256, camera))
    assert np.array_equal(frames["seen"], frames["everything"])
    # Something was left out, and the model is as it was.
    assert max(sizes["seen"]) < min(sizes["everything"])
    assert np.array_equal(renderer._model.geom_group, renderer._geom_groups)


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
