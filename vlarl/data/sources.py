"""Episodes from wherever they lie: our demonstrations and rollouts, LIBERO's published files, LeRobot data sets."""

import json
from collections.abc import Sequence
from pathlib import Path

import h5py

from vlarl.data.episodes import Episode
from vlarl.data.lerobot_v3 import CAMERA_KEY, INFO, STATE_KEY, read_lerobot
from vlarl.data.libero_hdf5 import read_demonstrations
from vlarl.data.libero_published import read_published
from vlarl.errors import UserError

OURS = ("proprio", "action_mask", "actions", "states", "dones", "obs/agentview_rgb")
PUBLISHED = ("actions", "states", "dones", "obs/agentview_rgb", "obs/ee_pos", "obs/ee_ori", "obs/gripper_states")


def load_episodes(
    sources: Sequence[Path], image_size: int | None, *, camera_key: str = CAMERA_KEY, state_key: str = STATE_KEY
) -> list[Episode]:
    """Reads all episodes of all sources, in their order.

    Args:
        sources: each an HDF5 file in LIBERO's layout, a folder of such, or a LeRobot data set.
        image_size: side of the frames, pixels; larger ones of foreign data are averaged down. None takes any.
        camera_key: of LeRobot data sets.
        state_key: of LeRobot data sets.

    Raises:
        UserError: a source that is missing, damaged, without a key (those that exist are named), or with frames of
            another size.
    """
    episodes: list[Episode] = []
    for source in sources:
        if (source / INFO).is_file():
            episodes += read_lerobot(source, image_size, camera_key=camera_key, state_key=state_key)
            continue
        files = sorted(source.glob("*.hdf5")) if source.is_dir() else [source]
        if not files or not files[0].is_file():
            raise UserError(f"no episodes at {source}: name an HDF5 file, a folder of such, or a LeRobot data set")
        for file in files:
            episodes += _read_hdf5(file, image_size)
    return episodes


def _read_hdf5(path: Path, image_size: int | None) -> list[Episode]:
    try:
        with h5py.File(path, "r") as file:
            instruction = json.loads(file["data"].attrs["problem_info"])["language_instruction"]
            first = file["data/demo_0"]
            existing = {f"obs/{name}" for name in first.get("obs", ())} | set(first)
            ours = "proprio" in first
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is damaged, truncated, or not in LIBERO's layout ({error}): get it again") from error
    missing = [name for name in (OURS if ours else PUBLISHED) if name not in existing]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}: each demonstration has {', '.join(sorted(existing - {'obs'}))}"
        )
    if not ours:
        return [d.episode for d in read_published(path, 0, instruction, None, image_size)]
    episodes = read_demonstrations(path)
    size = episodes[0].images.shape[1]
    if image_size is not None and size != image_size:
        raise UserError(
            f"{path} has frames of {size} pixels, {image_size} are wanted: draw them again with `vlarl reward render"
            f" {path}`, or train a model with --model.image-size {size}"
        )
    return episodes
