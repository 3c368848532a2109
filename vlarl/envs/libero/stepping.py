"""The robot of the fast stepping, and what its model needs."""

from dataclasses import dataclass

import mujoco
import numpy as np

from vlarl.envs.libero.compiled import ARM_DOF, run_env_step
from vlarl.envs.libero.constraints import make_constraints
from vlarl.envs.libero.island import Island
from vlarl.envs.libero.resting import make_objects

GRIP_SITE = "gripper0_grip_site"


@dataclass
class StaleState:
    """What upstream's controller still sees in an episode's first substep: the robot's default pose.

    After a reset upstream sets the initial state without updating the controller. Part of LIBERO as it is.
    """

    position: np.ndarray
    """[3] grip site."""
    rotation: np.ndarray
    """[3, 3] grip site."""
    jacobian: np.ndarray
    """[6, 7]."""
    mass: np.ndarray
    """[7, 7]."""
    joints: np.ndarray
    """[7] default arm joints, also the null space's target."""


class Robot:
    """Steps one MjData of one MjModel with the Panda arm; several robots may share a model."""

    def __init__(
        self, model: mujoco.MjModel, data: mujoco.MjData, stale: StaleState, island: Island | None = None
    ) -> None:
        """`island` is room for the solver, shared by the robots of a model."""
        self.model, self.data, self._stale = model, data, stale
        self.goal_ori = stale.rotation.copy()
        """[3, 3] orientation the hand keeps until an action turns it."""
        self.gripper = np.zeros(1)
        """[1] gripper command, from -1 (open) to 1 (closed)."""
        self.site = model.site(GRIP_SITE).id
        self.qpos_index, self.dof_index, self.finger_index = joint_indices(model)
        self.objects = make_objects(model, data)
        self.resting = self.objects.resting
        """[nbody] for how many substeps each object has been at rest."""
        self.constraints = make_constraints(model, data, island)
        self._mass_index = mass_index(model, self.dof_index)
        self._jac_pos, self._jac_rot = np.zeros((3, model.nv)), np.zeros((3, model.nv))

    def step(self, action: np.ndarray, *, is_stale: bool = False) -> None:
        """Executes one action [7] float64; `is_stale` is for the very first step after an initial state."""
        data, stale = self.data, self._stale
        run_env_step(
            self.model._address, data._address, data.qM, self.site,
            data.qpos, data.qvel, data.ctrl, data.qfrc_bias, data.site_xpos, data.site_xmat,
            self.qpos_index, self.dof_index, self._mass_index, self.model.actuator_ctrlrange, action,
            self.goal_ori, self.gripper, self._jac_pos, self._jac_rot,
            stale.position, stale.rotation, stale.jacobian, stale.mass, stale.joints,
            self.objects, self.constraints, is_stale,
        )  # fmt: skip


def joint_indices(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Addresses of the arm's 7 joints in qpos and in qvel, and of the 2 finger joints in qpos, int64."""
    arm = [model.joint(f"robot0_joint{i + 1}") for i in range(ARM_DOF)]
    fingers = [model.joint(f"gripper0_finger_joint{i + 1}") for i in range(2)]
    return (
        np.array([j.qposadr[0] for j in arm]),
        np.array([j.dofadr[0] for j in arm]),
        np.array([j.qposadr[0] for j in fingers]),
    )


def mass_index(model: mujoco.MjModel, dofs: np.ndarray) -> np.ndarray:
    """Where the joint-space inertia between each two of `dofs` [n], links of one chain, stands in qM: [n, n] int64.

    A row of qM begins with the degree of freedom itself and goes on with its ancestors.
    """
    index = np.zeros((len(dofs), len(dofs)), dtype=np.int64)
    for row, dof in enumerate(dofs):
        address, ancestor = model.dof_Madr[dof], dof
        while ancestor >= 0:
            for column in np.flatnonzero(dofs == ancestor):
                index[row, column] = index[column, row] = address
            address, ancestor = address + 1, model.dof_parentid[ancestor]
    return index


def leave_out_impossible_contacts(model: mujoco.MjModel) -> None:
    """Spares the search for contacts between the robot's base and its first link: nearly a tenth of the physics.

    Their meshes come no closer than 0.99 mm to each other at any angle of the joint between them, and MuJoCo leaves
    out neighbours only where the parent moves. Everybody else meets both as before.
    """
    base, link = (model.body(f"robot0_link{number}").id for number in (0, 1))
    kinds, partners = model.geom_contype, model.geom_conaffinity
    if not np.isin([kinds, partners], [0, 1]).all():
        raise ValueError("the model's geoms use collision masks other than 0 and 1")
    partners[(partners == 1) & (model.geom_bodyid != base)] = 3
    of_link = model.geom_bodyid == link
    kinds[of_link & (kinds == 1)] = 2
    partners[of_link & (partners == 3)] = 2
    for body in range(model.nbody):
        geoms = slice(model.body_geomadr[body], model.body_geomadr[body] + model.body_geomnum[body])
        if model.body_geomnum[body]:
            model.body_contype[body] = np.bitwise_or.reduce(kinds[geoms])
            model.body_conaffinity[body] = np.bitwise_or.reduce(partners[geoms])


def make_stale_state(model: mujoco.MjModel, joints: np.ndarray) -> StaleState:
    """Computes the controller's view of the default pose: arm joints [7], fingers where the model has them."""
    data = mujoco.MjData(model)
    qpos_index, dof_index, _ = joint_indices(model)
    data.qpos[qpos_index] = joints
    mujoco.mj_forward(model, data)
    mass, jac_pos, jac_rot = np.zeros((model.nv, model.nv)), np.zeros((3, model.nv)), np.zeros((3, model.nv))
    mujoco.mj_fullM(model, mass, data.qM)
    site = model.site(GRIP_SITE).id
    mujoco.mj_jacSite(model, data, jac_pos, jac_rot, site)
    return StaleState(
        position=data.site_xpos[site].copy(),
        rotation=data.site_xmat[site].reshape(3, 3).copy(),
        jacobian=np.concatenate([jac_pos, jac_rot])[:, dof_index].copy(),
        mass=mass[np.ix_(dof_index, dof_index)].copy(),
        joints=np.array(joints, dtype=float),
    )
