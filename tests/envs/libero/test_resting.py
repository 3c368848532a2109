"""Objects at rest: who rests, who is woken, and that the motion is MuJoCo's own."""

import mujoco
import numpy as np
import pytest

from vlarl.envs.libero.compiled import run_first_half
from vlarl.envs.libero.contacts import FIXED, FREE, OTHER, PART, REST_SUBSTEPS, find_velocities, leave_out_resting
from vlarl.envs.libero.resting import make_objects

# Two stacked boxes and a ball on the floor; a slider that can push the lower box.
SCENE = """
<mujoco>
  <option timestep="0.002" cone="elliptic"/>
  <worldbody>
    <geom type="plane" size="2 2 0.1"/>
    <body name="low" pos="0 0 0.05"><freejoint/><geom type="box" size="0.05 0.05 0.05" mass="0.3"/></body>
    <body name="high" pos="0 0 0.14"><freejoint/><geom type="box" size="0.04 0.04 0.04" mass="0.2"/></body>
    <body name="ball" pos="1 0 0.05"><freejoint/><geom type="box" size="0.05 0.05 0.05" mass="0.1"/>
      <body name="hat" pos="0 0 0.06"><geom type="box" size="0.02 0.02 0.01" mass="0.01"/></body></body>
    <body name="pusher" pos="-0.3 0 0.05"><joint type="slide" axis="1 0 0" damping="5"/>
      <geom type="box" size="0.02 0.02 0.02" mass="1"/></body>
  </worldbody>
  <actuator><motor joint="" gear="1"/></actuator>
</mujoco>
""".replace('joint=""', 'joint="push"').replace('type="slide"', 'name="push" type="slide"')
BODIES = ("low", "high", "ball")


class Stepper:
    def __init__(self, can_rest: bool = True) -> None:
        self.model = mujoco.MjModel.from_xml_string(SCENE)
        self.data = mujoco.MjData(self.model)
        self.objects = make_objects(self.model, self.data)
        if not can_rest:
            self.objects = self.objects._replace(sleepers=self.objects.sleepers[:0])

    def run(self, substeps: int, force: float = 0.0, finds_all: bool | None = None) -> None:
        """`finds_all` None: contacts are complete in the last substep."""
        for substep in range(substeps):
            data = self.data
            finds = substep == substeps - 1 if finds_all is None else finds_all
            run_first_half(self.model._address, data._address, data.qvel, data.qfrc_bias, self.objects, finds)
            data.ctrl[0] = force
            mujoco.mj_step2(self.model, data)

    def resting(self) -> list[str]:
        return [name for name in BODIES if self.objects.resting[self.model.body(name).id] == REST_SUBSTEPS]

    def x(self, name: str) -> float:
        return self.data.body(name).xpos[0]


def test_kinds_of_bodies():
    stepper = Stepper()
    kinds = {stepper.model.body(i).name: int(k) for i, k in enumerate(stepper.objects.kind)}
    assert kinds == {"world": FIXED, "low": FREE, "high": FREE, "ball": FREE, "hat": OTHER, "pusher": PART}
    # A geom of a part that is welded to an object counts as the object's.
    hat = stepper.model.body("hat").geomadr[0]
    assert stepper.objects.welds[stepper.objects.near.geom_body[hat]] == stepper.model.body("ball").id


def test_without_resting_every_bit_is_mj_steps():
    stepper, plain = Stepper(can_rest=False), mujoco.MjData(Stepper().model)
    for step in range(400):
        force = 4.0 if step > 100 else 0.0
        stepper.run(1, force)
        mujoco.mj_step1(stepper.model, plain)
        plain.ctrl[0] = force
        mujoco.mj_step2(stepper.model, plain)
        assert np.array_equal(stepper.data.qpos, plain.qpos) and np.array_equal(stepper.data.qvel, plain.qvel), step


def test_objects_that_stand_still_leave_the_solver_but_keep_their_contacts():
    stepper = Stepper()
    stepper.run(60)
    contacts = stepper.data.ncon
    assert not stepper.resting() and contacts == 12 and stepper.data.nefc == 36
    stepper.run(541)
    assert stepper.resting() == list(BODIES)
    assert stepper.data.nefc == 0 and stepper.data.ncon == contacts
    before = stepper.data.qpos.copy()
    stepper.run(500)
    assert np.array_equal(stepper.data.qpos, before)
    awake = Stepper(can_rest=False)
    awake.run(1101)
    assert np.abs(awake.data.qpos - stepper.data.qpos).max() < 1e-7


def test_a_push_wakes_the_object_and_what_stands_on_it():
    stepper, awake = Stepper(), Stepper(can_rest=False)
    for one in (stepper, awake):
        one.run(1000)
    assert stepper.resting() == list(BODIES)
    was_woken = False
    for _ in range(400):
        for one in (stepper, awake):
            one.run(1, force=8.0)
        was_woken |= stepper.resting() == ["ball"]
    assert was_woken and stepper.x("low") > 0.02 and stepper.x("high") > 0.01
    assert np.abs(awake.data.qpos - stepper.data.qpos).max() < 1e-6
    # Nothing pushes any more, but the upper box creeps on, a micrometre per second: it does not rest.
    for one in (stepper, awake):
        one.run(500, force=-4.0)
    before = stepper.x("high")
    for one in (stepper, awake):
        one.run(1000, force=-4.0)
    assert stepper.resting() == ["ball"] and 1e-7 < abs(stepper.x("high") - before) < 1e-5
    assert np.abs(awake.data.qpos - stepper.data.qpos).max() < 1e-6


def test_finding_fewer_contacts_changes_no_bit():
    finding, sparing = Stepper(), Stepper()
    fewest = 12
    for force in [0.0] * 700 + [8.0] * 400 + [-4.0] * 500:
        finding.run(1, force, finds_all=True)
        sparing.run(1, force, finds_all=False)
        assert np.array_equal(finding.data.qpos, sparing.data.qpos)
        assert np.array_equal(finding.data.qvel, sparing.data.qvel)
        assert np.array_equal(finding.objects.resting, sparing.objects.resting)
        fewest = min(fewest, sparing.data.ncon)
    assert fewest == 0 and finding.x("low") > 0.02
    # Whoever looks next finds all contacts again: the masks are back.
    mujoco.mj_collision(sparing.model, sparing.data)
    mujoco.mj_collision(finding.model, finding.data)
    assert sparing.data.ncon == finding.data.ncon > 4


def test_what_falls_on_a_part_that_stands_still_meets_it():
    finding, sparing = Stepper(), Stepper()
    for one in (finding, sparing):
        one.run(100)
        ball, pusher = one.model.body("ball"), one.model.body("pusher").id
        assert one.objects.resting[pusher] == REST_SUBSTEPS
        address = one.model.joint(ball.jntadr[0]).qposadr[0]
        one.data.qpos[address : address + 3] = [-0.3, 0.0, 0.3]
    woken = False
    for _ in range(300):
        finding.run(1, finds_all=True)
        sparing.run(1, finds_all=False)
        assert np.array_equal(finding.data.qpos, sparing.data.qpos)
        woken |= sparing.objects.resting[pusher] == 0
    # On the pusher, which is 7 cm high, and not through it.
    assert woken and sparing.data.body("ball").xpos[2] > 0.06


def test_an_object_in_the_air_never_rests():
    stepper = Stepper()
    address = stepper.model.joint(stepper.model.body("ball").jntadr[0]).qposadr[0]
    stepper.data.qpos[address + 2] = 1.0
    stepper.data.qvel[stepper.model.body("ball").dofadr[0] + 2] = 0.5
    for _ in range(180):
        stepper.run(1)
        assert "ball" not in stepper.resting() and stepper.data.body("ball").xpos[2] > 0.1


def test_not_a_number_does_not_rest():
    stepper = Stepper()
    stepper.run(700)
    stepper.data.qvel[stepper.model.body("ball").dofadr[0]] = np.nan
    leave_out_resting(stepper.objects, stepper.data.qvel)
    assert stepper.objects.resting[stepper.model.body("ball").id] == 0


def test_drag_is_left_out_only_where_it_is_zero():
    sparing = Stepper()
    sparing.model.opt.density, sparing.model.opt.viscosity = 1.2, 2e-5
    masses = sparing.model.body_mass.copy()
    whole = mujoco.MjData(sparing.model)
    for force in [0.0] * 700 + [8.0] * 300:
        sparing.run(1, force)
        for field in ("qpos", "qvel"):
            getattr(whole, field)[:] = getattr(sparing.data, field)
        mujoco.mj_fwdPosition(sparing.model, whole)
        mujoco.mj_fwdPosition(sparing.model, sparing.data)
        mujoco.mj_fwdVelocity(sparing.model, whole)
        find_velocities(sparing.model._address, sparing.data._address, sparing.objects)
        assert np.array_equal(whole.qfrc_passive, sparing.data.qfrc_passive)
        if sparing.data.time < 1.45:
            continue
        # The pusher is on its way, and drags the air.
        assert whole.qfrc_fluid[sparing.model.joint("push").dofadr[0]] < 0
    assert np.array_equal(sparing.model.body_mass, masses)


def test_a_model_without_gravity_for_some_is_refused():
    model = mujoco.MjModel.from_xml_string(SCENE.replace('name="low"', 'name="low" gravcomp="1"'))
    with pytest.raises(ValueError, match="compensates gravity"):
        make_objects(model, mujoco.MjData(model))


@pytest.mark.libero
def test_libero_moves_alike_with_and_without_resting(stove_slot):
    from vlarl.types import Start

    trajectories, resting = [], 0
    for can_rest in (True, False):
        stove_slot.reset(Start(task_id=7, split="train", index=0))
        simulation = stove_slot.simulation
        objects = simulation.robot.objects
        if not can_rest:
            objects.resting[:] = 0
            simulation.robot.objects = objects._replace(sleepers=objects.sleepers[:0])
        rows = []
        for action in np.random.default_rng(0).uniform(-1, 1, (60, 7)):
            simulation.step(action)
            rows.append(simulation.data.qpos.copy())
        resting += int((objects.resting == REST_SUBSTEPS).sum())
        simulation.robot.objects = objects
        trajectories.append(np.array(rows))
    assert resting >= 3
    assert np.abs(trajectories[0] - trajectories[1]).max() < 1e-6


@pytest.mark.libero
def test_a_snapshot_remembers_who_rests(stove_slot):
    from vlarl.types import Start

    stove_slot.reset(Start(task_id=7, split="train", index=1))
    simulation = stove_slot.simulation
    actions = np.random.default_rng(1).uniform(-1, 1, (30, 7))
    for action in actions[:20]:
        simulation.step(action)
    snapshot = simulation.snapshot()
    assert (snapshot["resting"] == REST_SUBSTEPS).any()
    ends = []
    for _ in range(2):
        simulation.restore(snapshot)
        for action in actions[20:]:
            simulation.step(action)
        ends.append(simulation.data.qpos.copy())
    assert np.array_equal(*ends)


@pytest.mark.libero
def test_base_and_first_link_never_touch_and_all_others_meet_as_before(stove_slot):
    from vlarl.envs.libero.stepping import leave_out_impossible_contacts
    from vlarl.types import Start

    stove_slot.reset(Start(task_id=7, split="train", index=0))
    model = mujoco.MjModel.from_binary_path(str(stove_slot._current.files.model))
    data = mujoco.MjData(model)
    base, link = model.body("robot0_link0").id, model.body("robot0_link1").id
    solid = [g for g in range(model.ngeom) if model.geom_contype[g] or model.geom_conaffinity[g]]
    pairs = [(a, b) for a in solid for b in solid if model.geom_bodyid[a] == base and model.geom_bodyid[b] == link]
    joint = model.joint("robot0_joint1")
    angles, spacing = np.linspace(joint.range[0] - 0.2, joint.range[1] + 0.2, 1200, retstep=True)
    nearest = 1.0
    for angle in angles:
        data.qpos[joint.qposadr[0]] = angle
        mujoco.mj_kinematics(model, data)
        nearest = min(nearest, *(mujoco.mj_geomDistance(model, data, a, b, 0.05, None) for a, b in pairs))
    # Between two angles no point of the link moves farther than this.
    reach = max(model.geom_rbound[b] for _, b in pairs)
    assert pairs and nearest > reach * spacing / 2

    def meets() -> np.ndarray:
        kinds, partners = model.geom_contype[solid], model.geom_conaffinity[solid]
        return ((kinds[:, None] & partners) | (kinds & partners[:, None])) > 0

    before = meets()
    leave_out_impossible_contacts(model)
    changed = {frozenset(model.geom_bodyid[[solid[i], solid[j]]]) for i, j in np.argwhere(before != meets())}
    assert changed <= {frozenset((base, link)), frozenset((base,)), frozenset((link,))}
    assert frozenset((base, link)) in changed
