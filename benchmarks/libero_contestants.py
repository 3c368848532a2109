"""The contestants of libero_speed.py beside the project: upstream's environment, and bare loops of MuJoCo calls."""

import contextlib
import io
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

TURN = 8
"""Env steps per frame in training."""
UPSTREAM_STEPS = 6
"""Env steps per repeat where a step renders two reference frames."""
BARE_STEPS = 40
"""Env steps of the episode that a bare loop in a process of its own repeats."""
CAMERAS = ("agentview", "robot0_eye_in_hand")


def timed(function: Callable[[], object]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def random_actions(count: int) -> np.ndarray:
    """[count, 7], the same in every repeat and for everybody."""
    return np.random.default_rng(0).uniform(-1.0, 1.0, (count, 7))


# ---- processes


def serve(connection: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Answers requests (name, argument) with what that method of the contestant returns."""
    contestant = make(*arguments)
    while True:
        try:
            name, argument = connection.recv()
        except EOFError:
            return
        connection.send(getattr(contestant, name)(argument))


class Remote:
    """A contestant in a process of its own."""

    def __init__(self, make: Callable[..., Any], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, name: str, argument: object = None) -> None:
        """Begins to call a method."""
        self._connection.send((name, argument))

    def receive(self) -> Any:  # noqa: ANN401
        """Waits for what the method returns."""
        return self._connection.recv()

    def ask(self, name: str, argument: object = None) -> Any:  # noqa: ANN401
        """Calls a method."""
        self.send(name, argument)
        return self.receive()

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join()


# ---- upstream


class Upstream:
    """Upstream's usual environment: agentview and wrist camera at 256 pixels in every observation."""

    def __init__(self, suite: str, task_id: int) -> None:
        # Set by the project for its own small frames; upstream has the driver's default.
        os.environ.pop("LP_NUM_THREADS", None)
        from vlarl.envs.libero.tasks import load_task

        with contextlib.redirect_stdout(io.StringIO()):
            from libero.libero.envs.env_wrapper import OffScreenRenderEnv
        self._make = lambda: OffScreenRenderEnv(
            bddl_file_name=str(load_task(suite, task_id).bddl_file), camera_heights=256, camera_widths=256
        )
        self._env: Any = None

    def ready(self, _: object) -> float:
        """From nothing to the first observation."""
        if self._env is not None:
            self._env.close()

        def make() -> None:
            self._env = self._make()
            self._env.reset()

        return timed(make)

    def reset(self, state: np.ndarray) -> float:
        """A reset to an initial state, without settling."""

        def reset() -> None:
            self._env.reset()
            self._env.set_init_state(state)

        return timed(reset)

    def as_shipped(self, state: np.ndarray) -> float:
        """Seconds per env step."""
        self._begin(state)
        actions = random_actions(UPSTREAM_STEPS)
        return timed(lambda: [self._env.step(action) for action in actions]) / len(actions)

    def same_cadence(self, state: np.ndarray) -> float:
        """Seconds per env step with one 64-pixel frame per turn."""
        self._begin(state)
        env = self._env.env
        cameras = [name for name in env.observation_names if name.endswith("_image")]
        for name in cameras:
            env.modify_observable(name, "enabled", False)

        def play() -> None:
            for turn in range(2):
                for action in random_actions(2 * TURN)[turn * TURN :][:TURN]:
                    self._env.step(action)
                env.sim.render(width=64, height=64, camera_name=CAMERAS[0])

        seconds = timed(play) / (2 * TURN)
        for name in cameras:
            env.modify_observable(name, "enabled", True)
        return seconds

    def _begin(self, state: np.ndarray) -> None:
        self._env.set_init_state(state)
        self._env.env.timestep, self._env.env.done = 0, False


# ---- bare loops


def compile_bare_steps() -> tuple[Callable[..., None], Callable[..., None]]:
    """Loops over the substeps of the fast stepping and over the MuJoCo calls of the exact stepping, controls given."""
    import numba
    from numba import types

    # Its import makes the library's functions known by name.
    from vlarl.envs.libero.compiled import run_first_half, run_second_half

    pointer = types.uintp
    forward, step = (types.ExternalFunction(f"mj_{name}", types.void(pointer, pointer)) for name in ("forward", "step"))
    full_m = types.ExternalFunction("mj_fullM", types.void(pointer, pointer, pointer))
    jac_site = types.ExternalFunction("mj_jacSite", types.void(pointer, pointer, pointer, pointer, types.int32))

    @numba.njit
    def fast(model, data, _, site, ctrl, controls, __, jac, qvel, bias, objects, constraints) -> None:  # noqa: ANN001
        for index, control in enumerate(controls):
            run_first_half(model, data, qvel, bias, objects, index == len(controls) - 1)
            jac_site(model, data, jac.ctypes.data, jac[3:].ctypes.data, site)
            ctrl[:] = control
            run_second_half(model, data, constraints)

    @numba.njit
    def exact(model, data, qm, site, ctrl, controls, mass, jac, *_) -> None:  # noqa: ANN001, ANN002
        for control in controls:
            forward(model, data)
            full_m(model, mass.ctypes.data, qm)
            jac_site(model, data, jac.ctypes.data, jac[3:].ctypes.data, site)
            forward(model, data)
            ctrl[:] = control
            step(model, data)

    return fast, exact


class BareLoop:
    """The MuJoCo calls that an environment needs, with controls recorded from it."""

    def __init__(self, env: Any, steps: Callable[..., None], actions: np.ndarray) -> None:  # noqa: ANN401 - LiberoEnv
        import mujoco

        self._mujoco = mujoco
        self._simulation = env.unwrapped._slot.simulation
        self._renderer = env.unwrapped._slot._current.renderer
        self._steps = steps
        self._state = self._simulation.snapshot()
        self._controls = self._record(actions)
        self._end = self._simulation.data.qpos.copy()
        model = self._simulation.model
        self._scratch = (np.zeros((model.nv, model.nv)), np.zeros((6, model.nv)))
        robot = self._simulation.robot
        self._objects = (robot.objects, robot.constraints) if hasattr(robot, "objects") else ()
        self._play(self._controls[:1])
        self.begin()

    def _record(self, actions: np.ndarray) -> np.ndarray:
        """Controls [steps, substeps, nu]: what each substep's first callback sees is the control of the one before."""
        seen: dict[float, np.ndarray] = {}
        self._mujoco.set_mjcb_passive(lambda model, data: seen.setdefault(data.time, data.ctrl.copy()))
        try:
            for action in actions:
                self._simulation.step(action)
        finally:
            self._mujoco.set_mjcb_passive(None)
        controls = [*list(seen.values())[1:], self._simulation.data.ctrl.copy()]
        return np.reshape(controls, (len(actions), -1, self._simulation.model.nu))

    def begin(self) -> None:
        """Back to the state before the actions."""
        self._simulation.restore(self._state)

    def run(self, frames_every: int, size: int, cameras: tuple[str, ...]) -> None:
        """Repeats the episode with frames."""
        for first in range(0, len(self._controls), frames_every):
            self._play(self._controls[first : first + frames_every].reshape(-1, self._controls.shape[2]))
            for camera in cameras:
                self._render(size, camera)

    def check(self) -> None:
        """Fails unless the last run ended where the environment did, in the same bits."""
        if not np.array_equal(self._simulation.data.qpos, self._end):
            raise SystemExit("the bare loop did not repeat the environment's physics: the comparison would be unfair")

    def _play(self, controls: np.ndarray) -> None:
        model, data = self._simulation.model, self._simulation.data
        self._steps(
            model._address, data._address, data.qM.ctypes.data, self._simulation.robot.site, data.ctrl,
            np.ascontiguousarray(controls.reshape(-1, model.nu)), *self._scratch, data.qvel, data.qfrc_bias,
            *self._objects,
        )  # fmt: skip

    def _render(self, size: int, camera: str) -> None:
        mujoco, renderer = self._mujoco, self._renderer
        model, data = self._simulation.model, self._simulation.data
        renderer._camera.fixedcamid = model.camera(camera).id
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(model, data, renderer._option, None, renderer._camera, everything, renderer._scene)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, renderer._context)
        viewport = mujoco.MjrRect(0, 0, size, size)
        frame = np.empty((size, size, 3), dtype=np.uint8)
        mujoco.mjr_render(viewport, renderer._scene, renderer._context)
        mujoco.mjr_readPixels(frame, None, viewport, renderer._context)


class LikeForLike:
    """Exact stepping and reference frames of both cameras in every step, and the bare loop of the same calls.

    In a process of its own, because the first frames of a process decide on how many cores it draws.
    """

    def __init__(self, suite: str, task_id: int) -> None:
        # As for upstream, the driver's default.
        os.environ.pop("LP_NUM_THREADS", None)
        from vlarl.envs.libero import LiberoEnv

        self._env = LiberoEnv(
            suite, task_id, profile="reference", stepping="exact", cameras=CAMERAS, image_size=256, replan_steps=1
        )
        self._actions = random_actions(UPSTREAM_STEPS)
        self._env.reset(options={"init_state_id": 0})
        self._bare = BareLoop(self._env, compile_bare_steps()[1], self._actions)

    def rate(self, _: object) -> float:
        """Env steps per second of the environment."""
        self._env.reset(options={"init_state_id": 0})
        return UPSTREAM_STEPS / timed(lambda: [self._env.step(action) for action in self._actions])

    def bare_rate(self, _: object) -> float:
        """Env steps per second of the bare loop."""
        self._bare.begin()
        seconds = timed(lambda: self._bare.run(1, 256, CAMERAS))
        self._bare.check()
        return UPSTREAM_STEPS / seconds


class BareTraining:
    """The bare loop of the training setting, to run in several processes at once: what the machine can do at best."""

    def __init__(self, suite: str, task_id: int) -> None:
        from vlarl.envs.libero import LiberoEnv

        env = LiberoEnv(
            suite, task_id, profile="fast", stepping="fast", cameras=CAMERAS[:1], image_size=64, replan_steps=TURN
        )
        env.reset(options={"init_state_id": 0})
        self._loop = BareLoop(env, compile_bare_steps()[0], random_actions(BARE_STEPS))

    def run(self, rounds: int) -> int:
        """Repeats the episode; returns the env steps made."""
        for _ in range(rounds):
            self._loop.begin()
            self._loop.run(TURN, 64, CAMERAS[:1])
            self._loop.check()
        return rounds * BARE_STEPS
