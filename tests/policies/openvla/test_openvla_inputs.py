"""Processor and LIBERO's frames."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from vlarl.errors import UserError
from vlarl.policies.openvla import libero_images
from vlarl.policies.openvla.processor import PREPROCESSOR_NAME, TOKENIZER_NAME, OpenVLAProcessor
from vlarl.policies.text import load_tokenizer


def frames(published) -> list[str]:
    """Indices of the frames in libero_preproc.npz."""
    return [name.removeprefix("raw_") for name in published.arrays("libero_preproc.npz") if name.startswith("raw_")]


def test_libero_frames_are_tensorflows(published):
    """Each step alone, from what the reference had before it."""
    raw = published.arrays("libero_preproc.npz")
    for index in frames(published):
        decoded = simplejpeg.decode_jpeg(raw[f"jpeg_bytes_{index}"].tobytes(), fastdct=True)
        published.within("LIBERO frames, JPEG decoded (grey levels)", decoded, raw[f"jpeg_decoded_{index}"], 0)
        rotated = np.ascontiguousarray(raw[f"raw_{index}"][::-1, ::-1])
        coded = libero_images.jpeg_round_trip(rotated)
        published.within(
            "LIBERO frames, rotated and through JPEG (grey levels)", coded, raw[f"jpeg_decoded_{index}"], 0
        )
        resized = libero_images.resize_lanczos3(raw[f"jpeg_decoded_{index}"][None], 224)
        published.within(
            "LIBERO frames, lanczos3 before rounding (0 to 255)",
            resized[0, ::8, ::8],
            raw[f"resized_float_sub_{index}"],
            2e-4,
        )
        cropped = libero_images.crop_center_float(raw[f"resized_{index}"][None])
        published.within(
            "LIBERO frames, centre crop before rounding (0 to 1)",
            cropped[0, ::8, ::8],
            raw[f"center_cropped_float_sub_{index}"],
            1e-5,
        )
        rounded = libero_images.crop_center(raw[f"resized_{index}"][None])[0].astype(int)
        published.within("LIBERO frames, centre crop (grey levels)", rounded, raw[f"center_cropped_{index}"], 1)
        assert (rounded != raw[f"center_cropped_{index}"]).mean() <= 1e-3


@pytest.mark.parametrize("center_crop", [False, True])
def test_the_whole_chain_differs_by_roundings_only(published, center_crop):
    raw = published.arrays("libero_preproc.npz")
    batch = np.stack([raw[f"raw_{index}"] for index in frames(published)])
    ours = libero_images.preprocess_frames(batch, center_crop=center_crop)
    name = "center_cropped" if center_crop else "resized"
    for row, index in enumerate(frames(published)):
        group = f"LIBERO frames, from the simulator's picture to {name} (grey levels)"
        published.within(group, ours[row], raw[f"{name}_{index}"], 1)
        assert (ours[row] != raw[f"{name}_{index}"]).mean() <= 1e-3


def test_the_jpeg_file_is_tensorflows(published):
    """Byte for byte, with TensorFlow's resolution in the header."""
    raw = published.arrays("libero_preproc.npz")
    for index in frames(published):
        rotated = np.ascontiguousarray(raw[f"raw_{index}"][::-1, ::-1])
        assert libero_images.encode_jpeg(rotated, dpi=(300, 300)) == raw[f"jpeg_bytes_{index}"].tobytes()


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


def test_prompts_of_different_length_are_right_padded(some_reference):
    processor = OpenVLAProcessor.from_folder(some_reference.checkpoint)
    ids, mask = processor.encode_instructions(["open it", "put the bowl on the plate"])
    assert mask[1].all()
    length = int(mask[0].sum())
    assert ids[0, length - 1] == processor.empty_id
    assert (ids[0, length:] == processor.pad_id).all()
    assert not mask[0, length:].any()


def test_bad_inputs_are_named(some_reference):
    processor = OpenVLAProcessor.from_folder(some_reference.checkpoint)
    with pytest.raises(UserError, match="the instruction is empty"):
        processor.prompt_ids("  ")
    with pytest.raises(UserError, match=r"'bowl bowl.*at most 2048 fit into the context"):
        processor.prompt_ids("bowl " * 3000)
    with pytest.raises(UserError, match=r"must be uint8 \[H, W, 3\], got float32 \[8, 8, 3\]$"):
        processor.resize([np.zeros((8, 8, 3), dtype=np.float32)])
    with pytest.raises(UserError, match="with NaN in it"):
        processor.resize([np.full((8, 8, 3), np.nan, dtype=np.float32)])
    with pytest.raises(UserError, match=r"got uint8 \[8, 8\]"):
        processor.resize([np.zeros((8, 8), dtype=np.uint8)])
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        OpenVLAProcessor.from_folder(some_reference.folder)


def test_a_prompt_must_leave_room_for_nothing_more_than_it_may(some_reference):
    """The limit counts the empty token."""
    processor = OpenVLAProcessor.from_folder(some_reference.checkpoint)
    length = len(processor.prompt_ids("turn on the stove"))
    replace(processor, max_tokens=length + 1).prompt_ids("turn on the stove")
    with pytest.raises(UserError, match=f"a prompt of {length + 1} tokens, at most {length} fit"):
        replace(processor, max_tokens=length).prompt_ids("turn on the stove")


@pytest.mark.parametrize(("name", "value"), [("std", 0.0), ("mean", float("nan"))])
def test_pixel_statistics_that_make_nan_are_refused(some_reference, tmp_path, name, value):
    shutil.copyfile(some_reference.checkpoint / TOKENIZER_NAME, tmp_path / TOKENIZER_NAME)
    raw = json.loads((some_reference.checkpoint / PREPROCESSOR_NAME).read_text())
    raw["tvf_normalize_params"][1][name][2] = value
    (tmp_path / PREPROCESSOR_NAME).write_text(json.dumps(raw))
    with pytest.raises(UserError, match="would make NaN pixels"):
        OpenVLAProcessor.from_folder(tmp_path)


def test_another_tokenizer_is_refused(some_reference, tmp_path):
    shutil.copyfile(some_reference.checkpoint / PREPROCESSOR_NAME, tmp_path / PREPROCESSOR_NAME)
    load_tokenizer().save(str(tmp_path / TOKENIZER_NAME))
    with pytest.raises(UserError, match=r"no tokenizer of OpenVLA: it lacks <s>, </s>, <PAD>"):
        OpenVLAProcessor.from_folder(tmp_path)


def test_normalisation_by_hand(some_reference):
    processor = OpenVLAProcessor.from_folder(some_reference.checkpoint)
    pixels = processor.normalize(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8))
    expected = (1 - processor.mean.flatten()) / processor.std.flatten()
    assert torch.allclose(pixels[0, :, 1, 1], expected)


def test_the_encoder_is_libjpegs_default():
    """Pillow's file at this quality has the standard tables halved as often as TensorFlow's."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(buffer, format="JPEG", quality=libero_images.JPEG_QUALITY)
    assert Image.open(buffer).quantization[0][0] == 2
