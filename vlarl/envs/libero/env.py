"""LIBERO as an environment: tasks of one suite, slots that share models, episodes that repeat bit for bit."""

import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

# Before anything that loads mujoco: it chooses the GL library.
from vlarl.envs.libero.rendering import CAMERA, Renderer  # isort: skip

from vlarl.configs.env import EnvConfig
from vlarl.configs.shift import Shift
from vlarl.data.episodes import PROPRIO_DIM
from vlarl.envs.base import EnvObservation, EnvSpec, Progress, Transition
from vlarl.envs.libero.cache import TASK_BYTES, TaskFiles, require_room
from vlarl.envs.libero.goals import goal_reached
from vlarl.envs.libero.simulation import NO_MOTION, Scene, Simulation
from vlarl.envs.libero.starts import NUM_STARTS
from vlarl.envs.libero.tasks import SETTLE_STEPS, STEP_LIMITS, LiberoTask, load_task
from vlarl.envs.libero.tracing import trace
from vlarl.envs.render_devices import check_gpus
from vlarl.errors import MissingSystemLibraryError, UserError
from vlarl.types import EpisodeTrace, Start

ACTION_DIM = 7


def make_spec(config: EnvConfig) -> EnvSpec:
    """Reads the tasks; builds nothing.

    Raises:
        UserError: unknown suite or task, or a GPU to draw on that does not exist.
    """
    check_gpus(config.render_gpus)
    tasks = {task_id: load_task(config.task_suite, task_id) for task_id in config.task_ids}
    return EnvSpec(
        action_dim=ACTION_DIM,
        proprio_dim=PROPRIO_DIM,
        instructions={task_id: task.instruction for task_id, task in tasks.items()},
        max_episode_steps=dict.fromkeys(tasks, STEP_LIMITS[config.task_suite]),
        num_starts=NUM_STARTS,
        needs_rendering=True,
    )


def prepare(config: EnvConfig, progress: Progress) -> None:
    """Builds the tasks that the cache lacks, `num_workers` at a time (about 20 s each, once).

    Raises:
        UserError: the cache cannot take a task, or one cannot be built; then the message is the builder's.
    """
    make_spec(config)
    waiting = [
        task_id
        for task_id in config.task_ids
        if not TaskFiles.of(config.task_suite, task_id).are_complete(config.seed, config.render_profile)
    ]
    if waiting:
        require_room(len(waiting) * TASK_BYTES[config.render_profile])
    running: dict[int, tuple[subprocess.Popen[str], IO[str]]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < config.num_workers:
                task_id = waiting.pop(0)
                progress(f"building {config.task_suite} task {task_id} (once, about 20 s)")
                running[task_id] = _start_build(config, task_id)
            time.sleep(0.1)
            for task_id, (process, log) in list(running.items()):
                if process.poll() is not None:
                    del running[task_id]
                    with log:
                        _check_build(config, task_id, process.returncode, log)
    finally:
        for process, log in running.values():
            process.kill()
            process.wait()
            log.close()


def _start_build(config: EnvConfig, task_id: int) -> tuple[subprocess.Popen[str], IO[str]]:
    """Starts a builder and returns it with the file that takes its messages: a pipe nobody reads could fill up."""
    arguments = [sys.executable, "-m", "vlarl.envs.libero.build", config.task_suite, str(task_id), str(config.seed)]
    arguments.append(config.render_profile)
    log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - as long as the process
    # Without input: nothing that a builder imports can stop and ask.
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, text=True)
    return process, log


def _check_build(config: EnvConfig, task_id: int, returncode: int, log: IO[str]) -> None:
    if returncode:
        log.seek(0)
        lines = log.read().strip().splitlines()
        reason = lines[-1] if lines else f"exit code {returncode}"
        kind = MissingSystemLibraryError if "MissingSystemLibraryError" in reason else UserError
        raise kind(f"{config.task_suite} task {task_id} could not be built: {reason}")


@dataclass(frozen=True)
class _Shared:
    """What the slots of a worker have in common for one task."""

    task: LiberoTask
    files: TaskFiles
    scene: Scene
    renderer: Renderer
    starts: dict[str, np.ndarray]


def _load_shared(config: EnvConfig, task_id: int) -> _Shared:
    task = load_task(config.task_suite, task_id)
    files = TaskFiles.of(config.task_suite, task_id)
    if not files.are_complete(config.seed, config.render_profile):
        raise UserError(f"{config.task_suite} task {task_id} is not built: call prepare first")
    try:
        scene = Scene(files, config.render_profile, Shift.parse(config.shift) if config.shift else None)
        with np.load(files.starts(config.seed), allow_pickle=False) as raw:
            starts = {name: raw[name] for name in raw.files}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"the built files of {config.task_suite} task {task_id} are damaged ({error}): delete the folder"
            f" {files.folder} and run the same command again"
        ) from error
    return _Shared(task, files, scene, Renderer(scene.model, scene.lamps, config.render_profile), starts)


class LiberoEnvironment:
    """One slot. Also offers experts the true state of the scene."""

    def __init__(self, config: EnvConfig, shared: dict[int, _Shared]) -> None:
        self._config = config
        self._shared = shared
        self._simulations: dict[int, Simulation] = {}
        self._limit = 0
        self._steps = 0

    def reset(self, start: Start) -> EnvObservation:
        """Puts the slot into a start state; the objects are settled."""
        self.begin(start)
        return self.observe()

    def begin(self, start: Start) -> None:
        """As reset, without rendering."""
        self._current = self._shared[start.task_id]
        if start.task_id not in self._simulations:
            self._simulations[start.task_id] = Simulation(
                self._current.files, self._current.scene, self._config.stepping
            )
        self._simulation = self._simulations[start.task_id]
        prefix = f"{start.split}/"
        fields = {
            k.removeprefix(prefix): v[start.index] for k, v in self._current.starts.items() if k.startswith(prefix)
        }
        self._simulation.restore(fields)
        if self._config.stepping == "exact" and start.split == "evaluation":
            # The snapshot was settled with fast stepping.
            self._settle_exactly(start.index)
        protocol = STEP_LIMITS[self._config.task_suite]
        training = self._config.max_episode_steps if start.split == "train" else None
        self._limit = training or protocol
        self._steps = 0

    def _settle_exactly(self, init_state_id: int) -> None:
        """Rests from a fixed initial state, with the snapshot's fixture poses."""
        states = np.load(self._current.task.init_states_file, allow_pickle=False)["states"]
        self._simulation.set_state(states[init_state_id])
        for _ in range(SETTLE_STEPS):
            self._simulation.step(NO_MOTION)

    def step(self, actions: np.ndarray) -> Transition:
        """Executes actions [n, 7] until n are done, the goal is reached or the limit is."""
        success, truncated, executed = self.execute(actions)
        return Transition(
            observation=self.observe(),
            reward=float(success),
            terminated=success,
            truncated=truncated,
            success=success,
            executed_steps=executed,
        )

    def execute(self, actions: np.ndarray) -> tuple[bool, bool, int]:
        """As step, without rendering; returns success, whether the limit ended the episode, and the executed steps."""
        self._simulation.activate()
        success, executed = False, 0
        for action in actions[: self._limit - self._steps]:
            success = self._simulation.step(action)
            executed += 1
            if success:
                break
        self._steps += executed
        return success, not success and self._steps >= self._limit, executed

    def observe(self) -> EnvObservation:
        """Renders what a policy would see now."""
        return EnvObservation(
            image=self.render(self._config.image_size),
            proprio=self.proprio(),
            instruction=self._current.task.instruction,
        )

    def proprio(self) -> np.ndarray:
        """[PROPRIO_DIM] float32, see there."""
        robot, observed = self._simulation.robot, self._simulation.observed
        rotation = observed.site_xmat[robot.site].reshape(3, 3)
        fingers = observed.qpos[robot.finger_index]
        parts = [observed.site_xpos[robot.site], rotation[:, 0], rotation[:, 1], fingers, robot.gripper]
        return np.concatenate(parts).astype(np.float32)

    def step_once(self, action: np.ndarray) -> bool:
        """Executes one action [7] without rendering and without a limit; True once the goal is reached."""
        self._simulation.activate()
        return self._simulation.step(action)

    def render(self, size: int, camera: str = CAMERA) -> np.ndarray:
        """What a camera sees, by default the agent's, [size, size, 3] uint8 RGB, upright."""
        self._simulation.activate()
        simulation = self._simulation
        return self._current.renderer.render(simulation.observed, size, camera, simulation.lamp_qpos)

    def success(self) -> bool:
        """Whether the goal holds in the last computed kinematics and contacts."""
        return goal_reached(self._current.scene.goal, self._simulation.model, self._simulation.data)

    @property
    def task(self) -> LiberoTask:
        """Task of the current episode."""
        return self._current.task

    @property
    def ee_position(self) -> np.ndarray:
        """[3] float64, grip site, metres."""
        return self._simulation.data.site_xpos[self._simulation.robot.site].copy()

    @property
    def ee_rotation(self) -> np.ndarray:
        """[3, 3] float64, rotation matrix of the grip site."""
        return self._simulation.data.site_xmat[self._simulation.robot.site].reshape(3, 3).copy()

    def object_position(self, name: str) -> np.ndarray:
        """[3] float64, root body of an object named as in the task's BDDL file, metres."""
        return self._simulation.data.xpos[self._current.scene.object_bodies[name]].copy()

    def object_rotation(self, name: str) -> np.ndarray:
        """[3, 3] float64, rotation matrix of an object."""
        return self._simulation.data.xmat[self._current.scene.object_bodies[name]].reshape(3, 3).copy()

    def body_position(self, name: str) -> np.ndarray:
        """[3] float64, any body of the model by its name in the model, metres."""
        return self._simulation.data.body(name).xpos.copy()

    def joint_position(self, name: str) -> float:
        """A hinge or slide joint of the model by its name in the model, radians or metres."""
        return float(self._simulation.data.joint(name).qpos[0])

    def site_position(self, name: str) -> np.ndarray:
        """[3] float64, a region of the scene, for example basket_1_contain_region, metres."""
        return self._simulation.data.site(name).xpos.copy()

    @property
    def simulation(self) -> Simulation:
        """Of the current episode."""
        return self._simulation

    def state(self) -> np.ndarray:
        """[S] float64, time, qpos and qvel as LIBERO's files hold them."""
        return self._simulation.get_state()

    def set_state(self, state: np.ndarray, fixture_poses: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        """Begins an episode of the current task in a state [S] as LIBERO's files hold it, unsettled."""
        self._simulation.set_state(state, fixture_poses)
        self._steps = 0


def make_environments(config: EnvConfig, num_slots: int) -> list[LiberoEnvironment]:
    """Makes slots that share one model and one renderer per task; they must be used one after the other."""
    shared = {task_id: _load_shared(config, task_id) for task_id in config.task_ids}
    return [LiberoEnvironment(config, shared) for _ in range(num_slots)]


def replay_frames(
    config: EnvConfig, start: Start, actions: Sequence[np.ndarray] | np.ndarray, size: int = 256, every: int = 1
) -> np.ndarray:
    """Repeats an episode from its actions [T, 7] and returns frames [F, size, size, 3] uint8.

    The first frame is the start, then one after every `every` steps, and the last step's.
    """
    environment = LiberoEnvironment(config, {start.task_id: _load_shared(config, start.task_id)})
    environment.reset(start)
    frames = [environment.render(size)]
    for step, action in enumerate(actions, start=1):
        environment.step_once(action)
        if step % every == 0 or step == len(actions):
            frames.append(environment.render(size))
    return np.stack(frames)


def trace_episodes(config: EnvConfig, episodes: Iterable[tuple[Start, np.ndarray]]) -> Iterator[EpisodeTrace]:
    """Repeats failed episodes, each from its start and its actions [T, 7], and yields how they went."""
    (environment,) = make_environments(config, 1)
    for start, actions in episodes:
        environment.begin(start)
        environment.simulation.activate()
        yield trace(environment.simulation, actions)
