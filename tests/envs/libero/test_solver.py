"""The constraint solver: by hand, and against MuJoCo's own on scenes of every kind of row."""

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlarl.envs.libero.constraints import MAX_ROWS, make_constraints, solve_constraints
from vlarl.envs.libero.island import FRICTION, LIMIT, make_island
from vlarl.envs.libero.solver import minimise

# An arm of two joints with dry friction and limits; balls and boxes with 3, 4, 6 and 1 rows per contact.
SCENE = """
<mujoco>
  <option timestep="0.002" cone="elliptic" impratio="20" jacobian="sparse"/>
  <worldbody>
    <geom type="plane" size="3 3 0.1" friction="0.8 0.02 0.001"/>
    <body name="arm" pos="0 0 0.3">
      <joint name="lift" type="slide" axis="0 0 1" frictionloss="0.5" damping="1" limited="true" range="-0.27 0.2"/>
      <geom type="box" size="0.1 0.1 0.02" mass="1"/>
      <body pos="0.15 0 0"><joint name="swing" axis="0 1 0" frictionloss="0.1" limited="true" range="-0.5 0.5"/>
        <geom type="capsule" fromto="0 0 0 0.2 0 0" size="0.03" mass="0.5"/></body>
    </body>
    <body name="drawer" pos="0 2 0.5"><joint type="slide" axis="1 0 0" frictionloss="0.3"/>
      <geom type="box" size="0.1 0.1 0.1" mass="0.4"/></body>
    <body pos="0.05 0 0.05"><freejoint/><geom type="box" size="0.06 0.05 0.05" mass="0.3" condim="4"/></body>
    <body pos="0.3 0.1 0.04"><freejoint/><geom type="sphere" size="0.04" mass="0.1" condim="6"/></body>
    <body pos="-0.3 0.1 0.04"><freejoint/><geom type="box" size="0.04 0.04 0.04" mass="0.2" condim="3"/></body>
    <body pos="-1 0 0.04"><freejoint/><geom type="sphere" size="0.04" mass="0.2" condim="1" priority="1"/></body>
  </worldbody>
</mujoco>
"""


def solve(**rows: object) -> tuple[float, np.ndarray]:
    """One degree of freedom of 2 kg under the rows given: acceleration and forces."""
    smooth, kinds = rows.pop("smooth"), np.atleast_1d(rows["kind"])
    island = make_island(1, len(kinds))
    for name, values in rows.items():
        getattr(island, name)[:] = values
    island.mass[0, 0], island.smooth[0], island.smooth_force[0] = 2.0, smooth, 2.0 * smooth
    island.jac[0] = 1.0
    steps = minimise(island, 1, len(kinds), 1.0, 1e-14)
    assert 0 <= steps < 20
    return float(island.solution[0]), island.force.copy()


def test_dry_friction_takes_its_bound_from_what_slides():
    acceleration, force = solve(smooth=5.0, kind=FRICTION, stiffness=100.0, scale=1.0)
    # 2 a = 10 - 1.
    assert acceleration == pytest.approx(4.5)
    assert force == pytest.approx([-1.0])
    assert solve(smooth=-5.0, kind=FRICTION, stiffness=100.0, scale=1.0)[0] == pytest.approx(-4.5)


def test_dry_friction_holds_what_is_pushed_less():
    acceleration, force = solve(smooth=0.1, kind=FRICTION, stiffness=100.0, scale=1.0)
    # 2 (a - 0.1) + 100 a = 0.
    assert acceleration == pytest.approx(0.2 / 102)
    assert force == pytest.approx([-100 * 0.2 / 102])


def test_a_guess_within_the_tolerance_is_improved():
    # A door that comes to rest at its stop would drift through it by what is left.
    assert solve(smooth=1e-15, kind=FRICTION, stiffness=100.0, scale=1.0)[0] == pytest.approx(
        2e-15 / 102, rel=1e-9, abs=0.0
    )


def test_a_limit_pushes_in_one_direction_only():
    # 2 (a - 1) + 8 (a - 3) = 0.
    acceleration, force = solve(smooth=1.0, kind=LIMIT, stiffness=8.0, target=3.0)
    assert acceleration == pytest.approx(2.6)
    assert force == pytest.approx([3.2])
    assert solve(smooth=4.0, kind=LIMIT, stiffness=8.0, target=3.0) == (pytest.approx(4.0), [0.0])


@pytest.mark.parametrize(("push", "force"), [(1.0, "inside"), (20.0, "on the cone")])
def test_a_contact_sticks_or_slides(push: float, force: str):
    # A mass of 1 kg on a floor: row 0 up, row 1 along; mu 1, friction 0.5. In all of MuJoCo's contacts the stiffness
    # along is that upwards times (friction / mu)^2.
    island = make_island(2, 3)
    island.kind[:] = [3, 0, 0]
    island.jac[:2, :2] = np.eye(2)
    island.mass[:2, :2], island.stiffness[:], island.scale[:] = np.eye(2), [1e6, 2.5e5, 2.5e5], [1.0, 0.5, 0.5]
    island.smooth[:2] = island.smooth_force[:2] = [-10.0, push]
    minimise(island, 2, 3, 1.0, 1e-16)
    up, along = island.force[0], -island.force[1]
    if force == "inside":
        assert (up, along) == (pytest.approx(10.0, rel=1e-4), pytest.approx(push, rel=1e-4))
    else:
        # The force lies on the friction cone, the acceleration on its dual: -10 + up = (20 - along) / 2.
        assert (up, along) == (pytest.approx(16.0, rel=1e-4), pytest.approx(8.0, rel=1e-4))
        assert island.solution[:2] == pytest.approx([6.0, 12.0], rel=1e-4)


def make_scene(seed: int, energy: float) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """A random state, up to the constraints."""
    model = mujoco.MjModel.from_xml_string(SCENE)
    # MuJoCo's own solver is to go as far as it can.
    model.opt.tolerance = 1e-20
    data, rng = mujoco.MjData(model), np.random.default_rng(seed)
    data.qpos[0] = rng.uniform(-0.28, 0.2)
    data.qpos[1] = rng.uniform(-0.55, 0.55)
    data.qpos[3:] += rng.normal(scale=0.01, size=model.nq - 3)
    data.qvel[:] = rng.normal(scale=energy, size=model.nv)
    data.qacc_warmstart[:] = rng.normal(scale=10 * energy, size=model.nv)
    mujoco.mj_step1(model, data)
    mujoco.mj_fwdActuation(model, data)
    mujoco.mj_fwdAcceleration(model, data)
    return model, data


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), energy=st.sampled_from([0.0, 0.01, 1.0]))
def test_equals_mujocos_solver(seed: int, energy: float):
    model, data = make_scene(seed, energy)
    assert data.nefc
    guess = data.qacc_warmstart.copy()
    mujoco.mj_fwdConstraint(model, data)
    expected = data.qacc.copy(), data.qfrc_constraint.copy(), data.efc_force.copy()
    data.qacc_warmstart[:], data.qacc[:], data.qfrc_constraint[:] = guess, 0.0, 0.0
    model.opt.tolerance = 1e-14
    solve_constraints(model._address, data._address, make_constraints(model, data))
    for ours, theirs in zip((data.qacc, data.qfrc_constraint, data.efc_force), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6 * (1.0 + np.abs(theirs).max()))
    np.testing.assert_array_equal(data.qacc_warmstart, data.qacc)


def test_what_nothing_acts_on_is_an_island_of_nobody():
    model, data = make_scene(0, 0.01)
    for body in range(3, model.nbody):
        address = model.jnt_qposadr[model.body_jntadr[body]]
        if model.jnt_type[model.body_jntadr[body]] == mujoco.mjtJoint.mjJNT_FREE:
            data.qpos[address + 2] = 1.0 + body
    mujoco.mj_forward(model, data)
    constraints = make_constraints(model, data)
    solve_constraints(model._address, data._address, constraints)
    # The arm and the drawer have dry friction; four objects are in the air.
    assert list(constraints.label) == [0, 1, -1, -1, -1, -1]
    np.testing.assert_array_equal(data.qacc[3:], data.qacc_smooth[3:])


def test_more_rows_than_there_is_room_for():
    model, data = make_scene(1, 0.01)
    mujoco.mj_fwdConstraint(model, data)
    expected = data.qacc.copy()
    constraints = make_constraints(model, data)._replace(num_rows=np.array([MAX_ROWS + 1], dtype=np.int32))
    data.qacc[:] = 0.0
    solve_constraints(model._address, data._address, constraints)
    np.testing.assert_allclose(data.qacc, expected, atol=1e-6)


def test_other_constraints_are_refused():
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"
    )
    with pytest.raises(ValueError, match="elliptic"):
        make_constraints(model, mujoco.MjData(model))


def test_islands_that_a_late_row_joins_become_one():
    # In a line lie a, d, c, b and apart from them e. Contacts come as a-d, b-c, c-d: the last joins two islands.
    places = {"a": 0.0, "b": 0.297, "c": 0.198, "d": 0.099, "e": 1.0}
    bodies = "".join(
        f'<body pos="{x} 0 0"><freejoint/><geom type="box" size="0.05 0.05 0.05" mass="0.1"/></body>'
        for x in places.values()
    )
    xml = f'<mujoco><option cone="elliptic" jacobian="sparse"/><worldbody>{bodies}</worldbody></mujoco>'
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    data.qvel[:] = np.random.default_rng(0).normal(scale=0.1, size=model.nv)
    mujoco.mj_forward(model, data)
    expected = data.qacc.copy()
    constraints = make_constraints(model, data)
    solve_constraints(model._address, data._address, constraints)
    assert list(constraints.label) == [0, 0, 0, 0, -1]
    np.testing.assert_allclose(data.qacc, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
