"""The controller's torques against its definition in matrix form."""

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vlarl.envs.libero.compiled import KD, KP, NULLSPACE_KD, NULLSPACE_KP, orientation_error, write_torques
from vlarl.envs.libero.stepping import mass_index


def draw(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(7, 7))
    turns = Rotation.random(2, random_state=seed).as_matrix()
    vectors = {name: rng.normal(size=7) for name in ("joints", "velocities", "default_joints", "bias")}
    return {
        "goal_pos": rng.normal(size=3),
        "goal_ori": turns[0].copy(),
        "pos": rng.normal(size=3),
        "rot": turns[1].copy(),
        "jac": rng.normal(size=(6, 7)),
        "mass": root @ root.T + np.eye(7),
        **vectors,
    }


def torques_by_definition(a: dict[str, np.ndarray]) -> np.ndarray:
    """Robosuite's formulas with explicit inverses."""
    inverse = np.linalg.inv(a["mass"])
    jac_pos, jac_rot = a["jac"][:3], a["jac"][3:]
    lambdas = [np.linalg.inv(j @ inverse @ j.T) for j in (a["jac"], jac_pos, jac_rot)]
    turn = 0.5 * sum(np.cross(a["rot"][:, c], a["goal_ori"][:, c]) for c in range(3))
    force = KP * (a["goal_pos"] - a["pos"]) - KD * jac_pos @ a["velocities"]
    torque = KP * turn - KD * jac_rot @ a["velocities"]
    nullspace = np.eye(7) - inverse @ a["jac"].T @ lambdas[0] @ a["jac"]
    posture = a["mass"] @ (NULLSPACE_KP * (a["default_joints"] - a["joints"]) - NULLSPACE_KD * a["velocities"])
    wrench = np.concatenate([lambdas[1] @ force, lambdas[2] @ torque])
    return a["jac"].T @ wrench + a["bias"] + nullspace.T @ posture


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 10_000))
def test_torques_follow_the_definition(seed):
    arguments = draw(seed)
    torques = np.empty(7)
    before = {name: value.copy() for name, value in arguments.items()}
    write_torques(*arguments.values(), torques)
    assert all(np.array_equal(value, before[name]) for name, value in arguments.items())
    expected = torques_by_definition(arguments)
    condition = np.linalg.cond(arguments["jac"]) ** 2 * np.linalg.cond(arguments["mass"])
    assert np.abs(torques - expected).max() <= 1e-13 * max(100.0, condition) * np.abs(expected).max()


@pytest.mark.parametrize("axis", range(3))
def test_a_small_turn_is_its_own_error(axis):
    vector = np.zeros(3)
    vector[axis] = 1e-4
    error = np.ones(3)
    orientation_error(Rotation.from_rotvec(vector).as_matrix(), np.eye(3), error)
    assert np.allclose(error, vector, rtol=0, atol=1e-11)


def test_the_arms_inertia_is_read_from_the_sparse_matrix():
    chain = ""
    for number in range(4, 0, -1):
        side = '<body><joint axis="1 0 0"/><geom size=".02"/></body>' if number == 2 else ""
        chain = f'<body pos="0 .1 .2"><joint axis="{number % 2} 1 0"/><geom size=".05"/>{side}{chain}</body>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{chain}</worldbody></mujoco>")
    data = mujoco.MjData(model)
    data.qpos[:] = np.linspace(0.1, 0.9, model.nq)
    mujoco.mj_forward(model, data)
    full = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, full, data.qM)
    # The side branch is joint 2.
    dofs = np.array([0, 1, 3, 4])
    assert np.array_equal(data.qM[mass_index(model, dofs)], full[np.ix_(dofs, dofs)])
    assert len(np.unique(mass_index(model, dofs))) == 10
