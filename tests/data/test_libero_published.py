"""LIBERO's published demonstrations: rows are shifted against ours, and parts of ours are missing."""

import h5py
import numpy as np
import pytest

from tests.published_libero import HAND_ROTATIONS, write_published
from vlarl.data.libero_published import read_published
from vlarl.errors import UserError

TASK = (3, "do it")


def test_frames_come_before_their_actions(tmp_path):
    path = tmp_path / "a_demo.hdf5"
    write_published(path, episodes=2, steps=6)
    demonstrations = read_published(path, *TASK, episodes=2, image_size=8)
    assert len(demonstrations) == 2
    demonstration = demonstrations[1]
    episode = demonstration.episode
    assert (episode.start.task_id, episode.start.index, episode.instruction) == (3, 1, "do it")
    assert episode.success and episode.target_mask.all() and len(episode.images) == len(episode.actions) == 5
    # Row t of the file was seen after action t.
    np.testing.assert_allclose(episode.actions[:, 0], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)
    assert episode.states[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert episode.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    # Upright and half the size: the file's last row, which is bright, is the top.
    assert episode.images.shape == (5, 8, 8, 3)
    assert (episode.images[:, 0, :, 1] == 200).all() and not episode.images[:, -1, :, 1].any()


def test_proprioception_is_that_of_the_environment(tmp_path):
    path = tmp_path / "a_demo.hdf5"
    write_published(path, episodes=1, steps=6)
    proprio = read_published(path, *TASK, episodes=1, image_size=8)[0].episode.proprio
    assert proprio.shape == (5, 12) and proprio.dtype == np.float32
    np.testing.assert_allclose(proprio[:, 0], [0, 1, 2, 3, 4])
    # The grip site is turned by -90 degrees against the hand about its own z: its x axis is the hand's -y axis.
    np.testing.assert_allclose(proprio[:, 3:6], -HAND_ROTATIONS[:5, :, 1], atol=1e-6)
    np.testing.assert_allclose(proprio[:, 6:9], HAND_ROTATIONS[:5, :, 0], atol=1e-6)
    np.testing.assert_allclose(proprio[:, 9:11], [[0.02, -0.02]] * 5)
    # Opening for three steps, then closing: a quarter of the range per step.
    np.testing.assert_allclose(proprio[:, 11], [-0.25, -0.5, -0.75, -0.5, -0.25])


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "a_demo.hdf5"
    with pytest.raises(UserError, match=r"demonstrations.source names the folder"):
        read_published(path, *TASK, episodes=1, image_size=8)
    write_published(path, episodes=1)
    with pytest.raises(UserError, match="holds 1 demonstrations, 2 are wanted"):
        read_published(path, *TASK, episodes=2, image_size=8)
    with pytest.raises(UserError, match=r"16 x 16 pixels, 32 a side are wanted"):
        read_published(path, *TASK, episodes=1, image_size=32)
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs/ee_pos"]
    with pytest.raises(UserError, match="not in LIBERO's layout"):
        read_published(path, *TASK, episodes=1, image_size=8)
    path.write_bytes(b"\x89HDF\r\n")
    with pytest.raises(UserError, match="is damaged"):
        read_published(path, *TASK, episodes=1, image_size=8)
