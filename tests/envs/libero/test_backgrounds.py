"""A frame over a kept background is the frame."""

import numpy as np
import pytest

# Before anything that loads mujoco: it chooses the GL library.
from vlarl.envs.libero import rendering  # isort: skip

import mujoco

from vlarl.envs.libero.backgrounds import CAPACITY_BYTES, Background, Backgrounds, are_transparent
from vlarl.types import Start

FAR, MIDDLE, NEAR = 0.1, 0.5, 0.9


def background(image: list[int], depth: list[float], veil: list[float]) -> Background:
    colours = np.repeat(np.array(image, dtype=np.uint8)[None, :, None], 3, axis=2)
    veiled = np.flatnonzero(veil).astype(np.int32)
    return Background(colours, np.array([depth], dtype=np.float32), veiled, np.array(veil, dtype=np.float32)[veiled])


def test_the_nearer_pixel_is_seen():
    still = background([1, 2, 3], [FAR, MIDDLE, MIDDLE], [0, 0, 0])
    moving = background([7, 8, 9], [MIDDLE, FAR, MIDDLE], [0, 0, 0])
    covered = still.cover(moving.image, moving.depth)
    # At equal depth it is what stands still, which is drawn last.
    assert covered is not None and covered[0, :, 0].tolist() == [7, 2, 3]


@pytest.mark.parametrize(
    ("depth", "is_composed"),
    # Before the glass, behind it, behind both.
    [(NEAR, True), (MIDDLE, False), (0.05, True)],
)
def test_what_is_seen_through_something_is_not_composed(depth, is_composed):
    still = background([1], [FAR], [0.7])
    moving = background([7], [depth], [0])
    assert (still.cover(moving.image, moving.depth) is not None) == is_composed


def test_those_used_last_are_kept():
    kept = Backgrounds()
    large = np.zeros((CAPACITY_BYTES // 4,), dtype=np.uint8)
    nothing = np.zeros(0, dtype=np.int32)
    for key in range(4):
        kept.add((key,), Background(large, nothing, nothing, nothing))
    assert kept.get((0,)) is not None
    kept.add((4,), Background(large, nothing, nothing, nothing))
    assert [key for key in range(5) if kept.get((key,)) is not None] == [0, 2, 3, 4]


def test_a_geom_without_a_colour_takes_its_materials():
    geoms = ("", 'rgba="1 0 0 .3"', 'material="glass"', 'material="glass" rgba="1 0 0 1"', 'rgba="1 0 0 0"')
    xml = "".join(f'<geom size=".1" {attributes}/>' for attributes in geoms)
    asset = '<asset><material name="glass" rgba="1 1 1 .2"/></asset>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco>{asset}<worldbody>{xml}</worldbody></mujoco>")
    assert are_transparent(model).tolist() == [False, True, True, False, False]


@pytest.mark.libero
@pytest.mark.parametrize("size", [64, 200])
def test_composed_frames_are_the_whole_ones(stove_slot, size, monkeypatch):
    """The scene has a drawer, a burner that lights up, and a rack that can be seen through."""
    renderer, rng, num_composed = stove_slot._shared[7].renderer, np.random.default_rng(0), 0
    draw_background = rendering.Renderer._draw_background
    drawn = []
    monkeypatch.setattr(rendering.Renderer, "_draw_background", lambda *args: drawn.append(1) or draw_background(*args))
    assert renderer._transparent.any() and renderer._can_compose
    for index in (0, 1):
        stove_slot.reset(Start(task_id=7, split="train", index=index))
        data = stove_slot.simulation.data
        joints = [
            stove_slot.simulation.model.joint(name) for name in ("flat_stove_1_button", "wooden_cabinet_1_top_level")
        ]
        for turn in range(20):
            data.qpos[joints[0].qposadr[0]] = 0.6 if turn > 12 else 0.0
            data.qpos[joints[1].qposadr[0]] = -0.004 * turn
            for action in rng.uniform(-1, 1, (2, 7)):
                stove_slot.step_once(action)
            composed = stove_slot.render(size)
            num_composed += renderer._compose(data, size) is not None
            renderer._can_compose = False
            whole = stove_slot.render(size)
            renderer._can_compose = True
            assert np.array_equal(composed, whole), (index, turn)
    # One background per start and state of the burner.
    assert num_composed > 30 and len(drawn) <= 4


@pytest.mark.libero
def test_a_moving_camera_has_no_background(stove_slot):
    stove_slot.reset(Start(task_id=7, split="train", index=0))
    before = len(rendering._backgrounds._kept)
    frames = []
    for _ in range(2):
        stove_slot.step_once(np.array([0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0]))
        frames.append(stove_slot.render(96, "robot0_eye_in_hand"))
        # The camera is where the hand is: it was placed in the env step's last substep.
        model, data = stove_slot.simulation.model, stove_slot.simulation.data
        placed = data.cam_xpos.copy()
        mujoco.mj_camlight(model, data)
        assert np.array_equal(data.cam_xpos, placed)
    assert len(rendering._backgrounds._kept) == before
    assert not np.array_equal(*frames)
