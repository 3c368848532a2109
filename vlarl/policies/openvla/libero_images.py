"""What OpenVLA does to a LIBERO frame before its processor, without TensorFlow.

Reference: openvla's experiments/robot/libero/libero_utils.py and openvla_utils.py: rotate by 180 degrees, JPEG and back
(the training data were JPEG), lanczos3 to 224, centre crop of 0.9 of the area (training used random crops of it).
Each step repeats TensorFlow's arithmetic on a whole batch.
"""

import io
from functools import cache
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

JPEG_QUALITY = 95
"""tf.image.encode_jpeg's default; 4:2:0 chroma subsampling as there."""
CROP_SCALE = 0.9
"""Share of the area that the centre crop keeps."""
LANCZOS_RADIUS = 3.0


def preprocess_frames(frames: np.ndarray, size: int = 224, *, center_crop: bool = True) -> np.ndarray:
    """LIBERO frames [B, H, H, 3] uint8 as the simulator gives them -> [B, size, size, 3] uint8 for the processor."""
    rotated = np.ascontiguousarray(frames[:, ::-1, ::-1])
    decoded = np.stack([jpeg_round_trip(frame) for frame in rotated])
    resized = to_uint8(resize_lanczos3(decoded, size))
    return crop_center(resized) if center_crop else resized


def jpeg_round_trip(frame: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 through JPEG."""
    # TensorFlow decodes with libjpeg's fast inverse transform, which at this quality is off by up to 14 grey levels.
    return simplejpeg.decode_jpeg(encode_jpeg(frame), fastdct=True)


def encode_jpeg(frame: np.ndarray, **header: Any) -> bytes:  # noqa: ANN401
    """[H, W, 3] uint8 -> JPEG file; `header` goes to Pillow's encoder."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling="4:2:0", **header)
    return buffer.getvalue()


def resize_lanczos3(images: np.ndarray, size: int) -> np.ndarray:
    """[B, H, H, 3] -> [B, size, size, 3] float32 in 0..255, antialiased; may overshoot the range."""
    rows, columns = _lanczos_weights(images.shape[1], size), _lanczos_weights(images.shape[2], size)
    wide = np.einsum("xw,bhwc->bhxc", columns, images.astype(np.float32), optimize=True)
    return np.einsum("yh,bhxc->byxc", rows, wide, optimize=True)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Rounds half to even and clips to uint8."""
    return np.clip(np.round(images), 0, 255).astype(np.uint8)


def crop_center(images: np.ndarray) -> np.ndarray:
    """Keeps the middle CROP_SCALE of the area of [B, H, H, 3] uint8 and resizes it back, bilinear."""
    return np.clip(crop_center_float(images) * np.float32(255.5), 0, 255).astype(np.uint8)


def crop_center_float(images: np.ndarray) -> np.ndarray:
    """As crop_center, float32 in 0..1 before rounding (tf.image.crop_and_resize: corners are sampled exactly)."""
    size = images.shape[1]
    weights = _crop_weights(size)
    scaled = images.astype(np.float32) / np.float32(255)
    return np.clip(np.einsum("yh,bhwc,xw->byxc", weights, scaled, weights, optimize=True), 0, 1)


@cache
def _lanczos_weights(length: int, size: int) -> np.ndarray:
    """[size, length] float32; the kernel is stretched by the reduction and cut at the border."""
    # In single precision and this order, as TensorFlow computes it: double precision rounds other pixels up.
    step = np.float32(1) / (np.float32(size) / np.float32(length))
    stretch = max(step, np.float32(1))
    centers = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * step
    offset = np.arange(length, dtype=np.float32) + np.float32(0.5) - centers[:, None]
    distance = np.abs(offset * (np.float32(1) / stretch)).astype(np.float64)
    kernel = np.where(distance <= LANCZOS_RADIUS, np.sinc(distance) * np.sinc(distance / LANCZOS_RADIUS), 0.0)
    kernel = kernel.astype(np.float32)
    return kernel * (np.float32(1) / kernel.sum(1, keepdims=True))


@cache
def _crop_weights(size: int) -> np.ndarray:
    """[size, size] float32, linear interpolation between the two nearest rows."""
    side = np.clip(np.sqrt(CROP_SCALE), 0, 1)
    start = (1 - side) / 2
    position = start * (size - 1) + np.arange(size) * side
    low = np.floor(position).astype(int)
    share = (position - low).astype(np.float32)
    weights = np.zeros((size, size), dtype=np.float32)
    rows = np.arange(size)
    weights[rows, low] += 1 - share
    weights[rows, np.minimum(low + 1, size - 1)] += share
    return weights
