"""Videos small enough to embed: h264 files, and two episodes of the same start side by side."""

import os
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlarl.errors import UserError

CAPTION_HEIGHT = 34
GAP = 6
BACKGROUND = (22, 26, 31)
TEXT = (226, 230, 234)
SUCCESS = (52, 184, 140)
FAILURE = (226, 109, 92)


def write_mp4(path: Path, frames: np.ndarray, fps: float) -> Path:
    """Writes an h264 file (yuv420p, playable in every browser) with the ffmpeg of imageio-ffmpeg. Atomic.

    Args:
        path: target, ending in .mp4.
        frames: [F, H, W, 3] uint8, RGB. An odd height or width gets one more row or column (the codec wants even).
        fps: frames per second.

    Raises:
        UserError: no frames, or frames of another shape or dtype.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise UserError(f"a video needs uint8 frames [F, H, W, 3], got {frames.dtype} {list(frames.shape)} for {path}")
    _, height, width, _ = frames.shape
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.mp4")
    writer = imageio_ffmpeg.write_frames(
        str(temporary),
        (frames.shape[2], frames.shape[1]),
        fps=fps,
        codec="libx264",
        macro_block_size=1,
        quality=None,
        output_params=["-crf", "26", "-preset", "slow", "-movflags", "+faststart", "-threads", "1"],
        ffmpeg_log_level="error",
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    os.replace(temporary, path)
    return path


def side_by_side(
    before: np.ndarray,
    after: np.ndarray,
    *,
    before_success: bool,
    after_success: bool,
    start_index: int | None = None,
    before_label: str = "SFT",
    after_label: str = "SFT + RL",
    size: int = 256,
    hold: int = 20,
) -> np.ndarray:
    """Puts two episodes next to each other under a caption bar.

    The shorter one rests on its last frame. The outcome (a word and a mark) appears when an episode ends; both stay
    for the last `hold` frames.

    Args:
        before: [F, H, W, 3] uint8, RGB.
        after: [G, H, W, 3] uint8, RGB.
        before_success: outcome of `before`.
        after_success: outcome of `after`.
        start_index: index of the start state, written behind both labels.
        before_label: caption of `before`.
        after_label: caption of `after`.
        size: side in pixels of each square picture.
        hold: frames added after the longer episode.

    Returns:
        [max(F, G) + hold, size + CAPTION_HEIGHT, 2 * size + GAP, 3] uint8.
    """
    length = max(len(before), len(after)) + hold
    canvas = np.empty((length, size + CAPTION_HEIGHT, 2 * size + GAP, 3), dtype=np.uint8)
    canvas[:] = BACKGROUND
    panels = ((before, before_label, before_success, 0), (after, after_label, after_success, size + GAP))
    for frames, label, success, left in panels:
        resized = np.stack([_resize(frame, size) for frame in frames])
        if start_index is not None:
            label = f"{label}   start {start_index}"
        running, ended = _caption(label, None, size), _caption(label, success, size)
        columns = slice(left, left + size)
        canvas[: len(frames), CAPTION_HEIGHT:, columns] = resized
        canvas[len(frames) :, CAPTION_HEIGHT:, columns] = resized[-1]
        canvas[: len(frames), :CAPTION_HEIGHT, columns] = running
        canvas[len(frames) :, :CAPTION_HEIGHT, columns] = ended
    return canvas


def _resize(frame: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC))


def _caption(label: str, success: bool | None, width: int) -> np.ndarray:
    # Drawn at twice the size and shrunk: Pillow does not smooth the edges of lines and discs.
    bar = Image.new("RGB", (2 * width, 2 * CAPTION_HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(bar)
    draw.text((20, CAPTION_HEIGHT), label, fill=TEXT, font=ImageFont.load_default(30), anchor="lm")
    if success is not None:
        x, y = 2 * width - 36, CAPTION_HEIGHT
        color = SUCCESS if success else FAILURE
        word = "success" if success else "failure"
        draw.text((x - 36, y), word, fill=color, font=ImageFont.load_default(28), anchor="rm")
        draw.ellipse((x - 22, y - 22, x + 22, y + 22), fill=color)
        strokes = [[(-10, 1), (-3, 8), (10, -8)]] if success else [[(-8, -8), (8, 8)], [(-8, 8), (8, -8)]]
        for stroke in strokes:
            draw.line([(x + dx, y + dy) for dx, dy in stroke], fill=BACKGROUND, width=6, joint="curve")
    return np.asarray(bar.resize((width, CAPTION_HEIGHT), Image.Resampling.LANCZOS))
