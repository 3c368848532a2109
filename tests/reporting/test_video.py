"""Videos: a browser's format, small, both episodes and their outcomes in the picture."""

import imageio_ffmpeg
import numpy as np
import pytest

from vlarl.errors import UserError
from vlarl.reporting.video import CAPTION_HEIGHT, FAILURE, GAP, SUCCESS, side_by_side, write_mp4

SIZE = 64


def episode(length: int, value: int) -> np.ndarray:
    frames = np.full((length, 32, 32, 3), value, dtype=np.uint8)
    frames[:, :, :, 2] = np.arange(length)[:, None, None]
    return frames


def combined(**options) -> np.ndarray:
    return side_by_side(
        episode(9, 200), episode(4, 50), before_success=False, after_success=True, **{"size": SIZE, "hold": 3} | options
    )


def contains(bar: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((np.abs(bar.astype(int) - color).max(-1) <= 3).any())


def test_side_by_side_shows_both_and_rests_on_the_last_frame():
    frames = combined()
    assert frames.shape == (12, SIZE + CAPTION_HEIGHT, 2 * SIZE + GAP, 3)
    assert frames.dtype == np.uint8
    left, right = frames[:, CAPTION_HEIGHT:, :SIZE], frames[:, CAPTION_HEIGHT:, SIZE + GAP :]
    assert (left[..., 0] == 200).all()
    assert (right[..., 0] == 50).all()
    assert left[:, 0, 0, 2].tolist() == [*range(9), 8, 8, 8]
    assert right[:, 0, 0, 2].tolist() == [0, 1, 2, 3] + [3] * 8


def test_outcome_appears_when_the_episode_ends():
    bars = combined()[:, :CAPTION_HEIGHT]
    left, right = bars[:, :, :SIZE], bars[:, :, SIZE + GAP :]
    assert [contains(bar, SUCCESS) for bar in right] == [False] * 4 + [True] * 8
    assert [contains(bar, FAILURE) for bar in left] == [False] * 9 + [True] * 3
    assert not contains(left[-1], SUCCESS)


def test_start_index_is_drawn():
    one, two, none = (combined(start_index=index, size=128)[0] for index in (3, 4, None))
    assert (one != two).any()
    assert (one != none).any()


def test_mp4_is_h264_yuv420p_of_the_right_length(tmp_path):
    frames = combined()[:, :-1, :-1]
    path = write_mp4(tmp_path / "new/video.mp4", frames, fps=10)
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    decoded = [np.frombuffer(frame, np.uint8) for frame in reader]
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")
    assert meta["fps"] == 10
    # Odd sides get one more row or column.
    assert meta["size"] == (2 * SIZE + GAP, SIZE + CAPTION_HEIGHT)
    assert len(decoded) == 12
    assert [p.name for p in path.parent.iterdir()] == ["video.mp4"]


def test_a_noisy_episode_of_common_size_is_small(tmp_path):
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(60, 190, (32, 32, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    frames = np.repeat(scene[None], 68, axis=0)
    for i in range(68):
        frames[i, 100:150, 2 * i : 2 * i + 50] = 30
    both = side_by_side(frames, frames[:40], before_success=False, after_success=True)
    assert write_mp4(tmp_path / "video.mp4", both, fps=13.3).stat().st_size < 200_000


@pytest.mark.parametrize(
    "frames", [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8)]
)
def test_bad_frames(tmp_path, frames):
    with pytest.raises(UserError, match="uint8 frames"):
        write_mp4(tmp_path / "video.mp4", frames, fps=10)
    assert list(tmp_path.iterdir()) == []
