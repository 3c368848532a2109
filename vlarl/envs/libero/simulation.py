"""One simulated scene: model, data, robot, goal; saved and restored exactly."""

import json
from collections import deque

import mujoco
import numpy as np

from vlarl.configs.env import RenderProfile, Stepping
from vlarl.configs.shift import Shift
from vlarl.envs.libero.cache import TaskFiles
from vlarl.envs.libero.constraints import MAX_ROWS
from vlarl.envs.libero.exact import ExactRobot
from vlarl.envs.libero.goals import goal_reached, number_sites
from vlarl.envs.libero.island import make_island
from vlarl.envs.libero.shifts import apply_shift
from vlarl.envs.libero.stepping import Robot, StaleState, leave_out_impossible_contacts, make_stale_state
from vlarl.envs.libero.tasks import SETTLE_STEPS

FAST_TOLERANCE = 1e-12
"""Of the constraint solver with fast stepping. Upstream's 1e-8 is enough for three solves per substep, but with one it
can stop early at an impact, and qpos is off by a millimetre."""

NO_MOTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])


class Scene:
    """What the slots of one task share: the model and its numbers. Slots take turns, so they can share the model.

    The profile "fast" loads the light model, "reference" upstream's own; bodies, joints and sites have the same
    numbers in both, and the same physics.
    """

    def __init__(self, files: TaskFiles, profile: RenderProfile = "fast", shift: Shift | None = None) -> None:
        self.profile: RenderProfile = profile
        self.model = mujoco.MjModel.from_binary_path(str(files.model if profile == "fast" else files.reference))
        if shift is not None:
            apply_shift(self.model, shift)
        leave_out_impossible_contacts(self.model)
        self.delay = int(shift.strength) if shift is not None and shift.kind == "delay" else 0
        """Env steps between an action and its execution."""
        description = json.loads(files.description.read_text())
        self.tolerance = float(self.model.opt.tolerance)
        self.goal = number_sites(description["goal"], self.model)
        self.lamps = description["lamps"]
        self.object_bodies: dict[str, int] = description["object_bodies"]
        self.fixture_bodies = np.array(description["fixture_bodies"], dtype=np.int64)
        # 0.4 MB: too much for every slot of every task.
        self.island = make_island(self.model.nv, MAX_ROWS)
        self.stale: StaleState = make_stale_state(self.model, np.array(description["default_joints"]))


class Simulation:
    """The state of one slot in a scene."""

    def __init__(self, files: TaskFiles, scene: Scene | None = None, stepping: Stepping = "fast") -> None:
        self.scene = scene or Scene(files)
        self.model = self.scene.model
        self.data = mujoco.MjData(self.model)
        if stepping == "exact":
            self.robot = ExactRobot(self.model, self.data, self.scene.stale)
        else:
            self.robot = Robot(self.model, self.data, self.scene.stale, self.scene.island)
        self._tolerance = self.scene.tolerance if stepping == "exact" else FAST_TOLERANCE
        self.fixture_bodies = self.scene.fixture_bodies
        # Sparse: the same solver in other loops, and objects that do not touch leave most of the Jacobian empty.
        kinds = {"exact": mujoco.mjtJacobian.mjJAC_AUTO, "fast": mujoco.mjtJacobian.mjJAC_SPARSE}
        self._jacobian = kinds[stepping]
        self._is_stale = False
        self._forget_pending()
        self._fixture_poses = (
            self.model.body_pos[self.fixture_bodies].copy(),
            self.model.body_quat[self.fixture_bodies].copy(),
        )
        self.activate()

    def set_fixture_poses(self, positions: np.ndarray, quaternions: np.ndarray) -> None:
        """Takes fixture poses, [F, 3] and [F, 4], for this slot and puts them into the model."""
        self._fixture_poses = (positions, quaternions)
        self.activate()

    def activate(self) -> None:
        """Puts what is this slot's own into the shared model; call it before using the slot after another one."""
        self.model.opt.tolerance = self._tolerance
        self.model.opt.jacobian = self._jacobian
        self.model.body_pos[self.fixture_bodies], self.model.body_quat[self.fixture_bodies] = self._fixture_poses

    @property
    def observed(self) -> mujoco.MjData:
        """What frames and proprioception show: the present, with exact stepping the moment that upstream observes."""
        return self.robot.view if isinstance(self.robot, ExactRobot) else self.data

    @property
    def lamp_qpos(self) -> np.ndarray:
        """[nq] positions that decide which lamps `observed` shows lit."""
        return self.robot.lamp_qpos if isinstance(self.robot, ExactRobot) else self.data.qpos

    def snapshot(self) -> dict[str, np.ndarray]:
        """Everything that the future depends on, but for actions that a shift delays: a start has none."""
        data = self.data
        return {
            "time": np.array(data.time),
            "qpos": data.qpos.copy(),
            "qvel": data.qvel.copy(),
            "ctrl": data.ctrl.copy(),
            "qacc_warmstart": data.qacc_warmstart.copy(),
            "goal_ori": self.robot.goal_ori.copy(),
            "gripper": self.robot.gripper.copy(),
            "resting": self.robot.resting.copy(),
            "fixture_pos": self._fixture_poses[0],
            "fixture_quat": self._fixture_poses[1],
        }

    def restore(self, snapshot: dict[str, np.ndarray]) -> None:
        """Inverse of snapshot; positions of everything are up to date afterwards."""
        data = self.data
        mujoco.mj_resetData(self.model, data)
        self.set_fixture_poses(snapshot["fixture_pos"], snapshot["fixture_quat"])
        data.time = float(snapshot["time"])
        for field in ("qpos", "qvel", "ctrl", "qacc_warmstart"):
            getattr(data, field)[:] = snapshot[field]
        self.robot.goal_ori[:] = snapshot["goal_ori"]
        self.robot.gripper[:] = snapshot["gripper"]
        # Starts that were saved before objects could rest have none.
        self.robot.resting[:] = snapshot.get("resting", 0)
        self._forget_pending()
        self._is_stale = False
        # Position and velocity stage only: a full forward pass would change the solver's warm start.
        mujoco.mj_step1(self.model, data)
        if isinstance(self.robot, ExactRobot):
            self.robot.begin_observing(SETTLE_STEPS)

    def _forget_pending(self) -> None:
        """As if nothing had been done before an episode."""
        self._pending = deque([NO_MOTION] * self.scene.delay)

    def get_state(self) -> np.ndarray:
        """[1 + nq + nv] float64: time, qpos and qvel, as LIBERO's files hold them."""
        return np.concatenate([[self.data.time], self.data.qpos, self.data.qvel])

    def set_state(
        self,
        state: np.ndarray,
        fixture_poses: tuple[np.ndarray, np.ndarray] | None = None,
        warm_start: np.ndarray | None = None,
    ) -> None:
        """Takes a state of LIBERO's files as upstream's reset followed by set_init_state does.

        Args:
            state: [1 + nq + nv] time, qpos and qvel. Controller and gripper become those after a reset.
            fixture_poses: positions [F, 3] and quaternions [F, 4] of the fixtures; None keeps the current ones.
            warm_start: [nv] accelerations that the solver starts from; None is zero. Upstream's reset leaves those of
                the objects' poses that it drew.
        """
        model, data = self.model, self.data
        mujoco.mj_resetData(model, data)
        self.set_fixture_poses(*(fixture_poses or self._fixture_poses))
        data.time, data.qpos[:], data.qvel[:] = state[0], state[1 : 1 + model.nq], state[1 + model.nq :]
        if warm_start is not None:
            data.qacc_warmstart[:] = warm_start
        self.robot.goal_ori[:] = self.scene.stale.rotation
        self.robot.gripper[:] = 0.0
        self.robot.resting[:] = 0
        self._forget_pending()
        mujoco.mj_forward(model, data)
        self._is_stale = True
        if isinstance(self.robot, ExactRobot):
            self.robot.begin_observing()

    def step(self, action: np.ndarray) -> bool:
        """Takes one action [7] in [-1, 1] and executes it, or a delayed one; returns whether the goal is reached."""
        self._pending.append(np.asarray(action, dtype=np.float64))
        self.robot.step(self._pending.popleft(), is_stale=self._is_stale)
        self._is_stale = False
        return goal_reached(self.scene.goal, self.model, self.data)
