"""Which GPU draws the frames of which worker: EGL counts devices in its own order, CUDA in another."""

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from vlarl.errors import UserError

_MAX_DEVICES = 64
_EGL_CUDA_DEVICE = 0x323A
"""EGL_CUDA_DEVICE_NV of the extension EGL_NV_device_cuda."""


@dataclass(frozen=True, kw_only=True)
class RenderDevice:
    """A GPU that EGL can draw on."""

    egl: int
    """EGL's number of it, what MUJOCO_EGL_DEVICE_ID takes."""
    cuda: int
    """CUDA's number of it."""


@cache
def find_gpus() -> tuple[RenderDevice, ...]:
    """Returns the GPUs that EGL and CUDA both know, in CUDA's order; none where EGL draws in software or is missing."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return ()
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    query_devices = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    query_attribute = egl.eglGetProcAddress(b"eglQueryDeviceAttribEXT")
    if not query_devices or not query_attribute:
        return ()
    devices, count = (ctypes.c_void_p * _MAX_DEVICES)(), ctypes.c_int(0)
    kind = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    if not kind(query_devices)(_MAX_DEVICES, devices, ctypes.byref(count)):
        return ()
    kind = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    found = []
    for number in range(count.value):
        cuda = ctypes.c_ssize_t(-1)
        # Devices without CUDA, for example Mesa's software renderer, answer with an error.
        if kind(query_attribute)(devices[number], _EGL_CUDA_DEVICE, ctypes.byref(cuda)):
            found.append(RenderDevice(egl=number, cuda=cuda.value))
    return tuple(sorted(found, key=lambda device: device.cuda))


def check_gpus(wanted: Sequence[int] | None) -> None:
    """Checks that the GPUs exist on this machine.

    Raises:
        UserError: one does not.
    """
    if wanted is not None:
        choose_device(0, wanted, find_gpus(), os.environ)


def choose_device(
    worker: int, wanted: Sequence[int] | None, gpus: Sequence[RenderDevice], environment: Mapping[str, str]
) -> dict[str, str]:
    """Returns the environment variables that make a worker draw on its GPU, round-robin; none without GPUs.

    Args:
        worker: its number, from 0.
        wanted: GPUs to draw on, as this process's CUDA counts them; None takes all that are visible.
        gpus: those of the machine, see `find_gpus`.
        environment: of this process. MUJOCO_EGL_DEVICE_ID in it is the user's own choice and stays;
            CUDA_VISIBLE_DEVICES restricts and renumbers, EGL does not know it.

    Raises:
        UserError: a wanted GPU does not exist.
    """
    by_cuda = {device.cuda: device for device in gpus}
    visible = [number for number in _visible(environment, by_cuda) if number in by_cuda]
    for index in wanted or ():
        if not 0 <= index < len(visible):
            known = f"0 to {len(visible) - 1}" if visible else "none, frames are drawn by the CPU"
            raise UserError(f"env.render_gpus names GPU {index}; GPUs that can draw: {known}")
    chosen = visible if wanted is None else [visible[index] for index in wanted]
    if not chosen or environment.get("MUJOCO_GL") == "osmesa" or environment.get("MUJOCO_EGL_DEVICE_ID"):
        return {}
    return {"MUJOCO_EGL_DEVICE_ID": str(by_cuda[chosen[worker % len(chosen)]].egl)}


def _visible(environment: Mapping[str, str], by_cuda: Mapping[int, RenderDevice]) -> list[int]:
    """CUDA's own numbers of the visible GPUs, in the order in which this process's CUDA counts them."""
    text = environment.get("CUDA_VISIBLE_DEVICES")
    if text is None or "GPU-" in text or "MIG-" in text:
        return sorted(by_cuda)
    return [int(part) for part in text.split(",") if part.strip().isdigit()]


def describe_devices(gpus: Sequence[RenderDevice], environment: Mapping[str, str], cores: int) -> str:
    """One line for people: over what the workers' rendering is spread."""
    by_cuda = {device.cuda: device for device in gpus}
    visible = [by_cuda[number] for number in _visible(environment, by_cuda) if number in by_cuda]
    if not visible or environment.get("MUJOCO_GL") == "osmesa":
        return f"no GPU draws: workers are spread over {cores} CPU cores"
    names = ", ".join(f"{index} (EGL {device.egl})" for index, device in enumerate(visible))
    return f"workers take turns over GPUs {names}; --env.render-gpus names others, for example to spare the policy's"
