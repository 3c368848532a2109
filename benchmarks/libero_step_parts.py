"""Where the time of an env step with two "fast" frames of 256 pixels goes, and that drawing less changes no pixel.

    python benchmarks/libero_step_parts.py [--tasks libero_goal:8 ...] [--steps 20]

Processor time of this process, which other work on the machine changes less than the clock; medians over the steps.
Every frame is drawn three times: from all geoms in the model's order, from those that the renderer gathers, and as a
worker draws it, over the camera's kept background. They must be equal. "vertices" is what the GL library does while it
is given the geoms, "pixels" what is left until it has finished.
"""

import argparse
import time
from collections import defaultdict

import numpy as np

# Before anything that loads mujoco: it chooses the GL library.
from vlarl.envs.libero import LiberoEnv  # isort: skip

import mujoco
from libero_contestants import CAMERAS, random_actions
from OpenGL import GL

SIZE = 256


class Parts:
    """Seconds of processor time by part."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    def begin(self) -> None:
        """Of a first part."""
        self._started = time.process_time()

    def end(self, name: str) -> None:
        """Of a part, and beginning of the next."""
        self._seconds[name].append(time.process_time() - self._started)
        self.begin()

    def medians(self) -> dict[str, float]:
        """Milliseconds by part."""
        return {name: 1e3 * float(np.median(values)) for name, values in self._seconds.items()}


def draw(env: LiberoEnv, camera: str, gathers_all: bool, parts: Parts) -> np.ndarray:
    """What Renderer.render does, part by part."""
    simulation, renderer = env._slot.simulation, env._slot._current.renderer
    data, name = simulation.data, f"{camera}, {'all geoms' if gathers_all else 'as rendered'}: "
    renderer._camera.fixedcamid = simulation.model.camera(camera).id
    parts.begin()
    if gathers_all:
        renderer._gather(data, mujoco.mjtCatBit.mjCAT_ALL)
    else:
        renderer._gather_seen(data)
    parts.end(name + "gathering")
    viewport, frame = mujoco.MjrRect(0, 0, SIZE, SIZE), np.empty((SIZE, SIZE, 3), np.uint8)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, renderer._context)
    mujoco.mjr_render(viewport, renderer._scene, renderer._context)
    parts.end(name + "vertices")
    GL.glFinish()
    parts.end(name + "pixels")
    mujoco.mjr_readPixels(frame, None, viewport, renderer._context)
    frame = frame[::-1].copy()
    parts.end(name + "reading back")
    return frame


def measure(suite: str, task_id: int, steps: int) -> dict[str, float]:
    """Milliseconds by part."""
    env = LiberoEnv(suite, task_id, profile="fast", stepping="fast", cameras=CAMERAS, image_size=SIZE)
    env.reset(options={"init_state_id": 0})
    parts = Parts()
    for action in random_actions(steps):
        parts.begin()
        env._slot.step_once(action)
        parts.end("physics")
        for camera in CAMERAS:
            everything, seen = (draw(env, camera, gathers_all, parts) for gathers_all in (True, False))
            if not np.array_equal(everything, seen):
                raise SystemExit(f"{suite}:{task_id} {camera}: what the renderer leaves out changes the picture")
            parts.begin()
            composed = env._slot.render(SIZE, camera)
            parts.end(f"{camera}, over its background: everything")
            if not np.array_equal(everything, composed):
                raise SystemExit(f"{suite}:{task_id} {camera}: the kept background changes the picture")
    return parts.medians()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["libero_object:0", "libero_goal:8"], help="SUITE:TASK_ID")
    parser.add_argument("--steps", type=int, default=20, help="env steps")
    options = parser.parse_args()
    for task in options.tasks:
        suite, _, number = task.partition(":")
        parts = measure(suite, int(number), options.steps)
        print(f"\n{task}, {2 * options.steps} frames drawn in three ways, all equal; ms of processor time")
        for name, value in parts.items():
            print(f"  {name:<50}{value:8.2f}")
        for way in ("all geoms", "as rendered", "over its background"):
            total = parts["physics"] + sum(value for name, value in parts.items() if way in name)
            print(f"  {f'whole step, {way}':<50}{total:8.2f}")


if __name__ == "__main__":
    main()
