"""Memory for frames that two processes share."""

from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from vlarl.envs.processes import without_main
from vlarl.envs.shared_frames import SharedFrames


def fill(frames: SharedFrames) -> None:
    frames.write(1, np.full(frames.images.shape[1:], 7, dtype=np.uint8))


def test_another_process_writes_what_this_one_reads():
    names = set(Path("/dev/shm").iterdir())
    frames = SharedFrames(2, 16)
    process = get_context("spawn").Process(target=fill, args=(frames,))
    with without_main():
        process.start()
    frames.close()
    process.join()
    assert process.exitcode == 0
    assert (frames.read(1) == 7).all() and not frames.read(0).any()
    # Without a name there is nothing that a killed run could leave behind.
    assert set(Path("/dev/shm").iterdir()) <= names


def test_what_is_read_is_a_copy():
    frames = SharedFrames(1, 4)
    before = frames.read(0)
    frames.write(0, np.ones((4, 4, 3), dtype=np.uint8))
    assert not before.any() and frames.read(0).all()


@pytest.mark.parametrize("image", [np.zeros((4, 4, 4), np.uint8), np.zeros((1, 4, 3), np.uint8), np.zeros((4, 4, 3))])
def test_other_shapes_and_types_are_refused(image):
    with pytest.raises(ValueError, match=r"it must be \(4, 4, 3\) uint8"):
        SharedFrames(1, 4).write(0, image)
