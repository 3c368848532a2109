"""GPUs that draw: CUDA's numbers against EGL's, and which worker gets which."""

from dataclasses import replace

import pytest

from vlarl.configs.env import EnvConfig
from vlarl.envs import render_devices
from vlarl.envs.base import make_spec
from vlarl.envs.render_devices import RenderDevice, choose_device, describe_devices, find_gpus
from vlarl.envs.vector import VectorEnv
from vlarl.errors import UserError

# As seen on multi-GPU machines: EGL counts backwards, and has a software device in between.
GPUS = (RenderDevice(egl=3, cuda=0), RenderDevice(egl=1, cuda=1), RenderDevice(egl=0, cuda=2))


def devices(wanted=None, environment=None, gpus=GPUS, workers=4) -> list[str | None]:
    chosen = [choose_device(worker, wanted, gpus, environment or {}) for worker in range(workers)]
    return [variables.get("MUJOCO_EGL_DEVICE_ID") for variables in chosen]


def test_workers_take_turns_over_the_gpus():
    assert devices() == ["3", "1", "0", "3"]
    # The policy's GPU, here 0, is spared.
    assert devices(wanted=(1, 2)) == ["1", "0", "1", "0"]


def test_visible_devices_restrict_and_renumber():
    assert devices(environment={"CUDA_VISIBLE_DEVICES": "2,0"}) == ["0", "3", "0", "3"]
    assert devices(wanted=(1,), environment={"CUDA_VISIBLE_DEVICES": "2,0"}, workers=1) == ["3"]
    assert devices(environment={"CUDA_VISIBLE_DEVICES": ""}, workers=1) == [None]
    assert devices(environment={"CUDA_VISIBLE_DEVICES": "GPU-4c0ffee"}, workers=2) == ["3", "1"]


def test_the_users_own_choice_and_software_rendering_stay():
    assert devices(environment={"MUJOCO_EGL_DEVICE_ID": "2"}, workers=1) == [None]
    assert devices(environment={"MUJOCO_GL": "osmesa"}, workers=1) == [None]
    assert devices(gpus=(), workers=1) == [None]


@pytest.mark.parametrize(
    ("wanted", "gpus", "message"),
    [
        ((0, 3), GPUS, r"names GPU 3; GPUs that can draw: 0 to 2"),
        ((-1,), GPUS, r"names GPU -1"),
        ((0,), (), r"GPUs that can draw: none, frames are drawn by the CPU"),
    ],
)
def test_a_gpu_that_does_not_exist_is_named(wanted, gpus, message):
    with pytest.raises(UserError, match=message):
        devices(wanted=wanted, gpus=gpus)


def test_it_is_refused_before_a_worker_starts(monkeypatch):
    monkeypatch.setattr(render_devices, "find_gpus", lambda: GPUS)
    config = EnvConfig(task_suite="libero_goal", task_ids=(8,), render_gpus=(7,))
    for use in (make_spec, VectorEnv):
        with pytest.raises(UserError, match="names GPU 7"):
            use(config)
    make_spec(replace(config, render_gpus=(2,)))
    with pytest.raises(UserError, match="render_gpus is empty"):
        EnvConfig(render_gpus=())


def test_doctors_line():
    assert describe_devices((), {}, cores=2) == "no GPU draws: workers are spread over 2 CPU cores"
    assert "GPUs 0 (EGL 3), 1 (EGL 1), 2 (EGL 0)" in describe_devices(GPUS, {}, cores=2)
    assert "GPUs 0 (EGL 0)" in describe_devices(GPUS, {"CUDA_VISIBLE_DEVICES": "2"}, cores=2)


def test_this_machines_gpus_are_numbered_once():
    found = find_gpus()
    assert len({device.cuda for device in found}) == len({device.egl for device in found}) == len(found)
