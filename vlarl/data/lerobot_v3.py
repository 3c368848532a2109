"""Data sets in LeRobot's v3 layout, read without the lerobot package, whose pins clash with ours.

Layout (https://github.com/huggingface/lerobot, codebase_version v3.0), all episodes of a data set in few files:

    meta/info.json                                  features, frame rate, path patterns
    meta/stats.json, meta/tasks.parquet             statistics; task_index by instruction
    meta/episodes/chunk-000/file-000.parquet        where each episode lies
    data/chunk-000/file-000.parquet                 a row per frame
    videos/KEY/chunk-000/file-000.mp4               frames of a camera, episode after episode

States are LIBERO's, as its conversions have them: hand position 3, axis-angle 3, fingers 2. The simulator's states are
no part of the layout. `lerobot_v3_writer` writes it. Needs pyarrow and PyAV: the extra lerobot.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from vlarl.data.episodes import Episode, shrink
from vlarl.data.libero_hdf5 import HAND_IN_GRIP_SITE
from vlarl.data.libero_published import gripper_commands
from vlarl.errors import UserError
from vlarl.types import Start

VERSION = "v3.0"
CAMERA_KEY = "observation.images.image"
STATE_KEY = "observation.state"
ACTION_KEY = "action"
SUCCESS_KEY = "next.success"
STATE_NAMES = ("x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "finger1", "finger2")
INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{_FILE}.parquet"
EPISODES_PATH = f"meta/episodes/{_FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{_FILE}.mp4"


def read_lerobot(
    folder: Path, image_size: int | None, *, camera_key: str = CAMERA_KEY, state_key: str = STATE_KEY
) -> list[Episode]:
    """Reads all episodes, with frames made smaller to [image_size, image_size] if that is given.

    An episode's start names no start of ours: its index is the episode's number. Without next.success all succeed.

    Raises:
        UserError: another version, a key that is missing (those that exist are named), or a damaged or truncated file.
    """
    require_packages()
    import av.error
    import pyarrow as pa

    info = _read_info(folder)
    features = info["features"]
    for what, key in (("camera", camera_key), ("state", state_key), ("action", ACTION_KEY)):
        if key not in features:
            raise UserError(f"{folder} has no {what} key {key!r}: it has {', '.join(sorted(features))}")
    if features[state_key]["shape"] != [len(STATE_NAMES)]:
        raise UserError(
            f"{folder}: {state_key} has shape {features[state_key]['shape']}, LIBERO's has {len(STATE_NAMES)} entries:"
            f" {', '.join(STATE_NAMES)}"
        )
    try:
        tables = {name: _read_tables(folder / name) for name in ("meta/episodes", "data")}
        tasks = _read_table(folder / TASKS)
        names = dict(zip(tasks["task_index"], tasks.get("__index_level_0__", tasks.get("task")), strict=True))
        videos = _Videos(folder, info, camera_key, image_size)
        return [_make_episode(row, tables["data"], names, videos, state_key) for row in _rows(tables["meta/episodes"])]
    except (OSError, ValueError, KeyError, pa.ArrowException, av.error.FFmpegError) as error:
        raise UserError(f"{folder} is damaged or truncated ({error}): get it again") from error


class _Videos:
    """Frames of a camera; each file is decoded once."""

    def __init__(self, folder: Path, info: dict[str, Any], key: str, image_size: int | None) -> None:
        self._folder, self._info, self._key, self._image_size = folder, info, key, image_size
        self._decoded: dict[Path, np.ndarray] = {}

    def frames(self, row: dict[str, Any]) -> np.ndarray:
        prefix = f"videos/{self._key}"
        place = {name: row[f"{prefix}/{name}"] for name in ("chunk_index", "file_index")}
        path = self._folder / self._info["video_path"].format(video_key=self._key, **place)
        if path not in self._decoded:
            self._decoded = {path: _decode(path, self._image_size)}
        first = round(row[f"{prefix}/from_timestamp"] * self._info["fps"])
        frames = self._decoded[path][first : first + row["length"]]
        if len(frames) < row["length"]:
            raise ValueError(
                f"{path.name} ends after {len(self._decoded[path])} frames, episode {row['episode_index']} needs"
                f" {first} to {first + row['length']}"
            )
        return frames


def _make_episode(
    row: dict[str, Any], data: dict[str, list], names: dict[int, str], videos: _Videos, state_key: str
) -> Episode:
    rows = slice(row["dataset_from_index"], row["dataset_to_index"])
    actions = np.array(data[ACTION_KEY][rows], dtype=np.float32)
    state = np.array(data[state_key][rows], dtype=np.float64)
    rotations = Rotation.from_rotvec(state[:, 3:6]).as_matrix() @ HAND_IN_GRIP_SITE.T
    commands = np.concatenate([[0.0], gripper_commands(actions[:-1, 6])])
    proprio = np.hstack([state[:, :3], rotations[:, :, 0], rotations[:, :, 1], state[:, 6:8], commands[:, None]])
    task_index = int(data["task_index"][rows][0])
    return Episode(
        images=videos.frames(row),
        proprio=proprio.astype(np.float32),
        actions=actions,
        target_mask=np.ones(len(actions), dtype=bool),
        states=np.zeros((len(actions), 0)),
        instruction=names[task_index],
        start=Start(task_id=task_index, split="train", index=int(row["episode_index"])),
        success=bool(data[SUCCESS_KEY][rows][-1]) if SUCCESS_KEY in data else True,
    )


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / INFO
    try:
        info = json.loads(path.read_text())
        version = info["codebase_version"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is missing or damaged ({error}): {folder} is no LeRobot data set") from error
    if not version.startswith("v3"):
        raise UserError(
            f"{folder} has LeRobot's layout {version}, {VERSION} is read: convert it with lerobot's"
            " convert_dataset_v21_to_v30"
        )
    return info


def _rows(columns: dict[str, list]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _read_tables(folder: Path) -> dict[str, list]:
    paths = sorted(folder.glob("*/*.parquet"))
    if not paths:
        raise ValueError(f"no parquet files in {folder}")
    parts = [_read_table(path) for path in paths]
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def _read_table(path: Path) -> dict[str, list]:
    from pyarrow import parquet

    table = parquet.read_table(path)
    return {name: table[name].to_pylist() for name in table.column_names if not name.startswith("stats/")}


def _decode(path: Path, image_size: int | None) -> np.ndarray:
    """Frames [F, image_size, image_size, 3] uint8."""
    import av

    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            picture = frame.to_ndarray(format="rgb24")
            frames.append(shrink(picture, image_size or min(picture.shape[:2])))
    return np.stack(frames)


def require_packages() -> None:
    """Raises a UserError with the install line where pyarrow or PyAV is missing."""
    try:
        import av  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError(f"LeRobot data sets need {error.name}: pip install 'vlarl[lerobot]'") from error
