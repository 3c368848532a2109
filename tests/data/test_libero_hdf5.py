"""Demonstrations on disk: what is read is what was written, and LIBERO's own tools can read it too."""

import dataclasses

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vlarl.data.episodes import Episode
from vlarl.data.libero_hdf5 import (
    Demonstration,
    DemonstrationTask,
    axis_angle,
    demonstration_path,
    read_demonstrations,
    write_demonstrations,
)
from vlarl.errors import UserError
from vlarl.types import Start

TASK = DemonstrationTask(
    name="put_the_bowl_on_the_plate",
    instruction="Put the bowl on the plate",
    problem_name="libero_tabletop_manipulation",
    bddl_file="libero_goal/put_the_bowl_on_the_plate.bddl",
    bddl_content="(define (problem LIBERO_Tabletop_Manipulation))",
)
# The hand's pose at a reset, as robosuite reports it beside the grip site's rotation matrix.
GRIP_SITE_ROTATION = np.array([[0.0, 0.99843, -0.05599], [1.0, 0.0, 0.0], [0.0, -0.05599, -0.99843]])
HAND_QUATERNION = np.array([0.99961, 0.0, -0.02801, 0.0])


def make_demonstration(steps: int, index: int) -> Demonstration:
    rng = np.random.default_rng(index)
    mask = np.ones(steps, dtype=bool)
    mask[2:4] = False
    episode = Episode(
        images=rng.integers(0, 256, (steps, 16, 16, 3), dtype=np.uint8),
        proprio=rng.normal(size=(steps, 5)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        target_mask=mask,
        states=rng.normal(size=(steps, 30)),
        instruction=TASK.instruction,
        start=Start(task_id=8, split="train", index=100 + index),
        success=True,
    )
    return Demonstration(
        episode=episode,
        ee_positions=rng.normal(size=(steps, 3)),
        ee_rotations=np.repeat(GRIP_SITE_ROTATION[None], steps, axis=0),
    )


@pytest.fixture
def demonstrations():
    # More than ten: demo_10 must not be read between demo_1 and demo_2.
    return [make_demonstration(steps=5 + index, index=index) for index in range(12)]


@pytest.fixture
def path(tmp_path, demonstrations):
    path = demonstration_path(tmp_path / "demos", TASK.name)
    write_demonstrations(path, demonstrations, TASK)
    return path


def test_what_is_read_is_what_was_written(path, demonstrations):
    episodes = read_demonstrations(path)

    assert path.name == "put_the_bowl_on_the_plate_demo.hdf5"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert len(episodes) == len(demonstrations)
    for got, demonstration in zip(episodes, demonstrations, strict=True):
        expected = demonstration.episode
        for field in dataclasses.fields(Episode):
            left, right = getattr(got, field.name), getattr(expected, field.name)
            if isinstance(right, np.ndarray):
                assert left.dtype == right.dtype, field.name
                np.testing.assert_array_equal(left, right, err_msg=field.name)
            else:
                assert left == right, field.name


def test_layout_follows_libero(path, demonstrations):
    demonstration = demonstrations[3]
    states = demonstration.episode.states
    with h5py.File(path) as file:
        data, demo = file["data"], file["data/demo_3"]
        assert data.attrs["num_demos"] == 12
        assert data.attrs["total"] == sum(range(5, 17))
        assert data.attrs["bddl_file_name"] == TASK.bddl_file
        assert demo.attrs["num_samples"] == 8
        np.testing.assert_array_equal(demo.attrs["init_state"], states[0])
        assert demo["rewards"][:].tolist() == demo["dones"][:].tolist() == [0] * 7 + [1]
        # Upside down on disk, as LIBERO's renderer leaves them.
        np.testing.assert_array_equal(demo["obs/agentview_rgb"][2][::-1], demonstration.episode.images[2])
        np.testing.assert_array_equal(demo["obs/joint_states"][:], states[:, 1:8])
        np.testing.assert_array_equal(demo["obs/gripper_states"][:], states[:, 8:10])
        np.testing.assert_array_equal(demo["obs/ee_states"][:, :3], demonstration.ee_positions)
        np.testing.assert_array_equal(demo["obs/ee_states"][:, 3:], demo["obs/ee_ori"][:])
        robot_states = demo["robot_states"][0]
        np.testing.assert_array_equal(robot_states[:5], [*states[0, 8:10], *demonstration.ee_positions[0]])
        np.testing.assert_allclose(robot_states[5:], HAND_QUATERNION, atol=1e-4)
        # Half a turn about (almost) x: the angle is pi, the axis the quaternion's vector part.
        np.testing.assert_allclose(demo["obs/ee_ori"][0], np.pi * HAND_QUATERNION[:3], atol=1e-4)


def test_hand_orientation_is_continuous_while_the_hand_points_down(tmp_path):
    yaw = np.linspace(-2.5, 2.5, 51)
    demonstration = make_demonstration(steps=51, index=0)
    turned = Rotation.from_rotvec(np.outer(yaw, [0, 0, 1])).as_matrix() @ GRIP_SITE_ROTATION
    path = tmp_path / "turned_demo.hdf5"
    write_demonstrations(path, [dataclasses.replace(demonstration, ee_rotations=turned)], TASK)
    with h5py.File(path) as file:
        orientation = file["data/demo_0/obs/ee_ori"][:]
    assert np.abs(np.diff(orientation, axis=0)).max() < 0.2
    hand = Rotation.from_matrix(turned @ Rotation.from_rotvec([0, 0, np.pi / 2]).as_matrix())
    np.testing.assert_allclose(Rotation.from_rotvec(orientation).as_matrix(), hand.as_matrix(), atol=1e-4)


def test_liberos_own_tool_reads_the_file(path, capsys):
    dataset_utils = pytest.importorskip("libero.libero.utils.dataset_utils")

    dataset_utils.get_dataset_info(str(path))

    text = capsys.readouterr().out
    assert "total trajectories: 12" in text
    assert "language instruction: Put the bowl on the plate" in text
    assert "observation key agentview_rgb with shape (5, 16, 16, 3)" in text


def test_missing_file_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"nothing_demo\.hdf5: collect them with `vlarl demos`"):
        read_demonstrations(demonstration_path(tmp_path, "nothing"))


def test_truncated_file_is_one_clear_error(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"plate_demo\.hdf5 is damaged .* collect again with `vlarl demos`"):
        read_demonstrations(path)


def test_no_hdf5_at_all_is_one_clear_error(path):
    path.write_text("a web page instead of a file")
    with pytest.raises(UserError, match="is damaged"):
        read_demonstrations(path)


def test_flipped_byte_in_the_images_is_found(path, demonstrations):
    content = bytearray(path.read_bytes())
    position = content.find(demonstrations[4].episode.images[1, ::-1].tobytes()[:64])
    assert position > 0
    content[position + 10] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="is damaged"):
        read_demonstrations(path)


@pytest.mark.parametrize("name", ["proprio", "actions", "obs/agentview_rgb"])
def test_missing_dataset_is_named(path, name):
    with h5py.File(path, "a") as file:
        del file[f"data/demo_1/{name}"]
    with pytest.raises(UserError, match=name.rsplit("/", maxsplit=1)[-1]):
        read_demonstrations(path)


def test_datasets_of_different_lengths_are_refused(path):
    with h5py.File(path, "a") as file:
        group = file["data/demo_1"]
        shorter = group["proprio"][:-1]
        del group["proprio"]
        group["proprio"] = shorter
    with pytest.raises(UserError, match=r"different lengths \[5, 6\]"):
        read_demonstrations(path)


def test_failed_write_leaves_the_old_file(path, demonstrations):
    before = path.read_bytes()
    broken = dataclasses.replace(demonstrations[0], ee_positions=np.zeros((1, 3)))
    with pytest.raises(ValueError):
        write_demonstrations(path, [broken], TASK)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_axis_angles_are_openvlas(published):
    raw = published.arrays("libero_preproc.npz")
    published.within("axis angle (rad)", axis_angle(raw["quat_xyzw"]), raw["axis_angle"], 1e-6)
