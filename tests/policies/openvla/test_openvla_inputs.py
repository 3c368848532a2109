"""Processor and LIBERO's frames."""

import io

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from tests.openvla_fixture import FOLDER, arrays, distance, needs_fixture
from vlarl.errors import UserError
from vlarl.policies.openvla import libero_images
from vlarl.policies.openvla.processor import EMPTY_ID, PAD_ID, OpenVLAProcessor


@needs_fixture
@pytest.mark.parametrize("index", [0, 1])
def test_libero_frames_are_tensorflows(index):
    raw = arrays("libero_preproc.npz")
    decoded = simplejpeg.decode_jpeg(raw[f"jpeg_bytes_{index}"].tobytes(), fastdct=True)
    assert np.array_equal(decoded, raw[f"jpeg_decoded_{index}"])
    rotated = np.ascontiguousarray(raw[f"raw_{index}"][::-1, ::-1])
    assert np.array_equal(libero_images.jpeg_round_trip(rotated), raw[f"jpeg_decoded_{index}"])
    resized = libero_images.resize_lanczos3(raw[f"jpeg_decoded_{index}"][None], 224)
    assert distance(resized[0, ::8, ::8], raw[f"resized_float_sub_{index}"]) <= 2e-4
    cropped = libero_images.crop_center_float(raw[f"resized_{index}"][None])
    assert distance(cropped[0, ::8, ::8], raw[f"center_cropped_float_sub_{index}"]) <= 1e-5


@needs_fixture
@pytest.mark.parametrize("index", [0, 1])
def test_the_whole_chain_differs_by_roundings_only(index):
    raw = arrays("libero_preproc.npz")
    ours = libero_images.preprocess_frames(raw[f"raw_{index}"][None])[0].astype(int)
    difference = np.abs(ours - raw[f"center_cropped_{index}"])
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


def test_frames_of_a_batch_are_independent():
    frames = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)
    together = libero_images.preprocess_frames(frames)
    alone = np.concatenate([libero_images.preprocess_frames(frame[None]) for frame in frames])
    assert together.shape == (3, 224, 224, 3)
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_a_uniform_frame_stays_uniform():
    frame = np.full((1, 256, 256, 3), 77, dtype=np.uint8)
    assert np.unique(libero_images.preprocess_frames(frame)).tolist() == [77]


def test_the_crop_keeps_the_middle():
    """By hand: the corner of the crop lies (1 - sqrt(0.9)) / 2 of the way from the image's corner."""
    ramp = np.broadcast_to(np.arange(101, dtype=np.uint8)[:, None, None], (101, 101, 3))[None]
    cropped = libero_images.crop_center_float(ramp)[0, :, 0, 0] * 255
    start = (1 - np.sqrt(0.9)) / 2 * 100
    assert cropped[[0, 50, 100]] == pytest.approx([start, 50, 100 - start], abs=1e-3)


@needs_fixture
def test_prompts_of_different_length_are_right_padded():
    processor = OpenVLAProcessor.from_folder(FOLDER / "checkpoint")
    ids, mask = processor.encode_instructions(["open it", "put the bowl on the plate"])
    assert mask[1].all()
    length = int(mask[0].sum())
    assert ids[0, length - 1] == EMPTY_ID
    assert (ids[0, length:] == PAD_ID).all()
    assert not mask[0, length:].any()


@needs_fixture
def test_bad_inputs_are_named():
    processor = OpenVLAProcessor.from_folder(FOLDER / "checkpoint")
    with pytest.raises(UserError, match="the instruction is empty"):
        processor.prompt_ids("  ")
    with pytest.raises(UserError, match="at most 2048 fit"):
        processor.prompt_ids("bowl " * 3000)
    with pytest.raises(UserError, match="uint8"):
        processor.resize([np.zeros((8, 8, 3), dtype=np.float32)])
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        OpenVLAProcessor.from_folder(FOLDER)


@needs_fixture
def test_normalisation_by_hand():
    processor = OpenVLAProcessor.from_folder(FOLDER / "checkpoint")
    pixels = processor.normalize(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8))
    expected = (1 - processor.mean.flatten()) / processor.std.flatten()
    assert torch.allclose(pixels[0, :, 1, 1], expected)


def test_the_encoder_is_libjpegs_default():
    """Pillow's file at this quality has the standard tables halved as often as TensorFlow's."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(buffer, format="JPEG", quality=libero_images.JPEG_QUALITY)
    assert Image.open(buffer).quantization[0][0] == 2
