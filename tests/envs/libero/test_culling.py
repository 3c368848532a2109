"""What the search for contacts is spared: nothing that touches, and most of what does not."""

import mujoco
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vlarl.envs.libero.contacts import find_near_contacts, place_bodies
from vlarl.envs.libero.culling import GAP, NUM_BITS, mark_near, support
from vlarl.envs.libero.near import Near, make_near
from vlarl.envs.libero.resting import make_objects

# A wedge and a lens, whose boxes are much larger than they are.
ASSETS = """
<asset>
  <mesh name="wedge" vertex="0 0 0  .2 0 0  0 .2 0  0 0 .2  .02 .02 .02"/>
  <mesh name="lens" vertex="-.1 0 0  .1 0 0  0 -.1 0  0 .1 0  0 0 -.02  0 0 .02"/>
</asset>
"""
GEOMS = (
    '<geom type="sphere" size=".05"/>',
    '<geom type="capsule" size=".03 .06"/>',
    '<geom type="cylinder" size=".05 .04"/>',
    '<geom type="ellipsoid" size=".03 .05 .07"/>',
    '<geom type="box" size=".05 .04 .03"/>',
    '<geom type="mesh" mesh="wedge"/>',
    '<geom type="mesh" mesh="lens"/>',
    '<geom type="box" size=".05 .04 .03" margin=".02"/>',
    '<geom type="box" size=".06 .02 .02" pos=".03 0 .05"/><geom type="mesh" mesh="wedge" pos="0 .05 0"/>',
)


class Scene:
    def __init__(self, geoms: tuple[str, ...], floor: bool = True) -> None:
        bodies = "".join(f'<body pos="{i} 0 .3"><freejoint/>{geom}</body>' for i, geom in enumerate(geoms))
        plane = '<geom type="plane" size="2 2 .1"/>' if floor else ""
        # Two bodies of an arm: neighbours, and hinged to the world.
        arm = """<body pos="0 0 .1"><joint axis="0 0 1"/><geom type="box" size=".1 .02 .02"/>
            <body pos=".2 0 0"><joint axis="0 1 0"/><geom type="mesh" mesh="lens"/></body></body>"""
        xml = f"<mujoco>{ASSETS}<worldbody>{plane}{arm}{bodies}</worldbody></mujoco>"
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        self.objects = make_objects(self.model, self.data)
        self.reference = mujoco.MjData(self.model)

    @property
    def near(self) -> Near:
        return self.objects.near

    def find(self) -> list[tuple[float, ...]]:
        """Contacts of the present qpos, found among what may touch."""
        place_bodies(self.model._address, self.data._address, self.near, False)
        mujoco.mj_comPos(self.model, self.data)
        find_near_contacts(self.model._address, self.data._address, self.objects, True)
        return contacts(self.data)

    def find_all(self) -> list[tuple[float, ...]]:
        self.reference.qpos[:] = self.data.qpos
        mujoco.mj_kinematics(self.model, self.reference)
        mujoco.mj_comPos(self.model, self.reference)
        mujoco.mj_collision(self.model, self.reference)
        return contacts(self.reference)

    def may_meet(self) -> np.ndarray:
        """Pairs of geoms that MuJoCo is asked about, [ngeom, ngeom] bool, by the masks of geoms and of bodies."""
        _, (kinds, partners, body_kinds, body_partners) = mark(self.model, self.data, self.near)
        by_geom = kinds[:, None] & partners != 0
        body = self.model.geom_bodyid
        by_body = (body_kinds[:, None] & body_partners != 0)[np.ix_(body, body)]
        return (by_geom | by_geom.T) & (by_body | by_body.T) & (body[:, None] != body)

    @property
    def num_near(self) -> int:
        """Geoms that MuJoCo was asked about."""
        return int(self.may_meet().any(axis=0).sum())


def mark(model: mujoco.MjModel, data: mujoco.MjData, near: Near) -> tuple[int, list[np.ndarray]]:
    """How many bits the masks of what is near take, and the masks; the scene's own are put back."""
    near.is_still[:] = False
    num_bits = mark_near(model._address, data._address, near)
    masks = [mask.copy() for mask in near.masks]
    for mask, own in zip(near.masks, near.own_masks, strict=True):
        mask[:] = own
    return num_bits, masks


def contacts(data: mujoco.MjData) -> list[tuple[float, ...]]:
    contact = data.contact
    return [(*contact.geom[i], contact.dist[i], *contact.pos[i], *contact.frame[i]) for i in range(data.ncon)]


@settings(max_examples=40, deadline=None)
@given(
    chosen=st.lists(st.sampled_from(GEOMS), min_size=2, max_size=5),
    seed=st.integers(0, 2**16),
    step=st.sampled_from([1e-4, 2e-3, 0.03]),
)
@example(chosen=[GEOMS[8], GEOMS[0]], seed=1, step=1e-4)
def test_the_contacts_are_mujocos_own(chosen, seed, step):
    scene, rng = Scene(tuple(chosen)), np.random.default_rng(seed)
    num_arm = 2
    positions = scene.data.qpos[num_arm:].reshape(-1, 7)
    positions[:, :3] = rng.uniform([-0.2, -0.2, 0.0], [0.2, 0.2, 0.25], (len(positions), 3))
    positions[:, 3:] = rng.normal(size=(len(positions), 4))
    velocity = rng.normal(size=positions.shape) * step
    for turn in range(40):
        assert scene.find() == scene.find_all(), turn
        # Some stand still for a while, one jumps.
        moves = rng.random(len(positions)) < 0.7
        positions[moves] += velocity[moves]
        positions[:, 3:] /= np.linalg.norm(positions[:, 3:], axis=1, keepdims=True)
        scene.data.qpos[:num_arm] += step
        if turn == 20:
            positions[0, :3] = positions[1, :3]


@settings(max_examples=40, deadline=None)
@given(chosen=st.lists(st.sampled_from(GEOMS), min_size=2, max_size=6), seed=st.integers(0, 2**16))
def test_only_what_is_near_may_meet(chosen, seed):
    scene, rng = Scene(tuple(chosen)), np.random.default_rng(seed)
    positions = scene.data.qpos[2:].reshape(-1, 7)
    positions[:, :3] = rng.uniform([-0.2, -0.2, 0.0], [0.2, 0.2, 0.25], (len(positions), 3))
    scene.find()
    bodies, geom_limits = scene.near.bodies, scene.near.limits[1]
    expected = np.zeros((scene.model.ngeom,) * 2, dtype=bool)
    for (a, b), first in zip(bodies.pairs, bodies.first_index, strict=True):
        members = [bodies.geoms[bodies.ends[body] : bodies.ends[body + 1]] for body in (a, b)]
        near = np.isneginf(geom_limits[first:][: len(members[0]) * len(members[1])])
        expected[np.ix_(*members)] = near.reshape(len(members[0]), -1)
    assert np.array_equal(scene.may_meet(), expected | expected.T)


def test_more_near_geoms_than_a_mask_has_bits():
    # Heaps of three, of which the first one touches both others, far from each other.
    heaps = NUM_BITS + 3
    scene = Scene((GEOMS[0],) * (3 * heaps), floor=False)
    positions = scene.data.qpos[2:].reshape(-1, 7)
    positions[:, :3] = [(5 + heap, y, 5) for heap in range(heaps) for y in (0, 0.08, -0.08)]
    assert scene.find() == scene.find_all() and scene.data.ncon == 2 * heaps
    # As many heaps as fit are found by their bits.
    positions[3 * (NUM_BITS - 1) :, 2] += np.arange(3 * 4)
    assert scene.find() == scene.find_all() and scene.data.ncon == 2 * (NUM_BITS - 1)
    assert scene.num_near == 3 * (NUM_BITS - 1) and scene.model.opt.disableflags == 0


def test_nothing_near_is_nothing_searched():
    scene = Scene(GEOMS[4:6])
    assert scene.find() == [] and scene.num_near == 0
    # Contacts are not left switched off, and the masks are back.
    scene.data.qpos[2 + 2] = 0.02
    assert len(scene.find()) == len(scene.find_all()) == 4 and scene.num_near == 2
    assert scene.model.opt.disableflags == 0


def test_contacts_within_a_margin_are_found():
    scene = Scene((GEOMS[7], GEOMS[4]), floor=False)
    one, other = scene.data.qpos[2:5], scene.data.qpos[9:12]
    one[:], other[:] = (5, 0, 5), (5.115, 0, 5)
    # 1.5 cm apart, the margin is 2 cm.
    assert len(scene.find()) == len(scene.find_all()) == 4
    other[0] += 0.3
    assert scene.find() == scene.find_all() == [] and scene.num_near == 0


def test_boxes_overlap_but_a_plane_is_found_between_the_meshes():
    scene = Scene((GEOMS[6], GEOMS[6]), floor=False)
    one, other = scene.data.qpos[2:5], scene.data.qpos[9:12]
    # Two diamonds, edge to edge: between x + y = 0.1 and x + y = 0.14.
    one[:], other[:] = (5, 0, 5), (5.12, 0.12, 5)
    assert scene.find() == scene.find_all() == [] and scene.num_near == 0
    first, second = (scene.model.body(number).geomadr[0] for number in (3, 4))
    distance = mujoco.mj_geomDistance(scene.model, scene.data, first, second, 1.0, None)
    assert np.isclose(distance, 0.04 / np.sqrt(2), atol=1e-6)
    planes = scene.near.planes
    assert np.isclose(np.linalg.norm(planes[:, :3], axis=1), 1.0).sum() == 1
    # They move and turn together: the plane stays. Then one comes closer until they touch.
    found = planes.copy()
    for _ in range(50):
        for lens in (one, other):
            lens[0] += 0.02
        assert scene.find() == []
    assert np.array_equal(planes[:, :8], found[:, :8])
    other[0] -= 0.05
    assert scene.find() == scene.find_all() != []


def test_a_pair_is_looked_at_again_when_it_has_moved_as_far_as_it_was_apart():
    scene = Scene((GEOMS[0], GEOMS[0]), floor=False)
    one, other = scene.data.qpos[2:5], scene.data.qpos[9:12]
    one[:], other[:] = (5, 0, 5), (5.2, 0, 5)
    assert scene.find() == []
    moved, body_limits = scene.near.motion[-1], scene.near.limits[0]
    last = np.flatnonzero((scene.near.bodies.pairs == (2, 3)).all(axis=1))[0]
    # Spheres of 5 cm, 20 cm from each other: 10 cm lie between them.
    assert np.isclose(body_limits[last] - moved[2] - moved[3], 0.1 - GAP, atol=1e-9)
    limit = body_limits[last]
    other[0] -= 0.06
    assert scene.find() == [] and body_limits[last] == limit
    one[0] -= 0.05
    assert scene.find() == []
    # Moved by 11 cm in all, and 9 cm apart: looked at again.
    assert np.isclose(body_limits[last] - limit, 0.11 + 0.09 - 0.1, atol=1e-9)
    other[0] -= 0.1
    assert len(scene.find()) == 1 == len(scene.find_all())
    assert np.isneginf(body_limits[last])


def test_the_search_recovers_from_numbers_that_are_none():
    scene = Scene((GEOMS[4], GEOMS[4]))
    scene.data.qpos[2] = np.nan
    scene.find()
    scene.data.qpos[2:5] = scene.data.qpos[9:12] + [0.01, 0, 0]
    assert scene.find() == scene.find_all() != []


def test_support_by_hand():
    scene = Scene((GEOMS[4], GEOMS[6]))
    shapes, meshes = scene.near.shapes, scene.near.meshes
    box, lens = (scene.model.body(number).geomadr[0] for number in (3, 4))
    assert np.isclose(support(box, (1.0, 0.0, 0.0), shapes, meshes), 0.05)
    assert np.isclose(support(box, (0.6, 0.0, -0.8), shapes, meshes), 0.6 * 0.05 + 0.8 * 0.03)
    # The lens is thin along one axis only, and a mesh's support is that of its corners, not of its box.
    supports = sorted(support(lens, tuple(axis), shapes, meshes) for axis in np.eye(3))
    assert np.allclose(supports, [0.02, 0.1, 0.1])
    vertices = scene.model.mesh_vert[scene.model.mesh("lens").vertadr[0] :][:6].astype(float)
    slanted = np.array([0.8, 0.6, 0.0])
    assert np.isclose(support(lens, tuple(slanted), shapes, meshes), (vertices @ slanted).max())


@pytest.mark.parametrize(
    ("geom", "rest", "message"),
    [
        ('<geom name="a" size=".1"/>', '<contact><pair geom1="a" geom2="b"/></contact>', "contact pairs"),
        (
            '<geom type="hfield" hfield="h"/>',
            '<asset><hfield name="h" nrow="2" ncol="2" size="1 1 1 1"/></asset>',
            "height fields",
        ),
    ],
)
def test_contacts_that_are_not_known_are_refused(geom, rest, message):
    xml = f'<mujoco>{rest}<worldbody>{geom}<body><freejoint/><geom name="b" size=".1"/></body></worldbody></mujoco>'
    model = mujoco.MjModel.from_xml_string(xml)
    with pytest.raises(ValueError, match=message):
        make_near(model, mujoco.MjData(model))


@pytest.mark.libero
def test_liberos_contacts_are_mujocos_own(stove_slot):
    from vlarl.types import Start

    stove_slot.reset(Start(task_id=7, split="train", index=0))
    simulation, rng = stove_slot.simulation, np.random.default_rng(0)
    model, data, objects = simulation.model, simulation.data, simulation.robot.objects
    reference, near, bits, touched = mujoco.MjData(model), [], [], 0
    for turn in range(80):
        # Down, with closing fingers, among the objects.
        action = np.append(rng.uniform(-1, 1, 6), 1.0)
        action[2] = -0.5 if turn < 40 else action[2]
        simulation.step(action)
        place_bodies(model._address, data._address, objects.near, False)
        find_near_contacts(model._address, data._address, objects, True)
        reference.qpos[:] = data.qpos
        mujoco.mj_kinematics(model, reference)
        mujoco.mj_collision(model, reference)
        assert contacts(data) == contacts(reference), turn
        touched = max(touched, data.ncon)
        num_bits, (kinds, partners, _, _) = mark(model, data, objects.near)
        bits.append(num_bits)
        near.append(int(((kinds | partners)[objects.near.bodies.geoms] != 0).sum()))
    solid = ((model.geom_contype | model.geom_conaffinity) > 0).sum()
    assert touched > 10 and np.mean(near) < solid / 3
    assert max(bits) < NUM_BITS and np.mean(bits) < NUM_BITS / 2
