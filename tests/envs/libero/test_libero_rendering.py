"""What is drawn, and what a user reads where nothing can be drawn."""

import os
import subprocess
import sys

import numpy as np
import pytest

from vlarl.errors import EXIT_MISSING_SYSTEM_LIBRARY
from vlarl.types import Start


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
