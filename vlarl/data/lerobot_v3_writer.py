"""Writes episodes as a data set in LeRobot's v3 layout, which `lerobot_v3` describes and reads."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlarl.data.episodes import EE_POSITION, FINGERS, Episode
from vlarl.data.lerobot_v3 import (
    ACTION_KEY,
    CAMERA_KEY,
    DATA_PATH,
    EPISODES_PATH,
    INFO,
    STATE_KEY,
    STATE_NAMES,
    STATS,
    SUCCESS_KEY,
    TASKS,
    VERSION,
    VIDEO_PATH,
    require_packages,
)
from vlarl.data.libero_hdf5 import CONTROL_FREQUENCY, axis_angle, hand_quaternions
from vlarl.errors import UserError
from vlarl.files import atomic_folder

_FIRST = {"chunk_index": 0, "file_index": 0}


def write_lerobot(folder: Path, episodes: Sequence[Episode]) -> None:
    """Writes a data set, atomically; frames are compressed (h264), the simulator's states are left out.

    Raises:
        UserError: no episodes, or a package is missing.
    """
    require_packages()
    if not episodes:
        raise UserError(f"there are no episodes to write to {folder}")
    names = sorted({e.instruction for e in episodes})
    lengths = np.array([len(e.actions) for e in episodes])
    columns = _columns(episodes, names, lengths)
    with atomic_folder(folder) as scratch:
        video = scratch / VIDEO_PATH.format(video_key=CAMERA_KEY, **_FIRST)
        _encode(video, np.concatenate([e.images for e in episodes]))
        _write_table(scratch / DATA_PATH.format(**_FIRST), columns)
        _write_table(scratch / EPISODES_PATH.format(**_FIRST), _episode_columns(episodes, lengths))
        _write_table(scratch / TASKS, {"task_index": list(range(len(names))), "__index_level_0__": names}, index=True)
        stats = {
            key: _statistics(np.array(columns[key], dtype=np.float64).reshape(sum(lengths), -1)) for key in columns
        }
        pixels = np.concatenate([e.images[::10] for e in episodes]).astype(np.float64) / 255
        stats[CAMERA_KEY] = {
            name: [[[v]] for v in values] if name != "count" else values
            for name, values in _statistics(pixels.reshape(-1, 3)).items()
        }
        (scratch / STATS).write_text(json.dumps(stats))
        (scratch / INFO).write_text(json.dumps(_info(episodes, names, columns), indent=2))


def _columns(episodes: Sequence[Episode], names: list[str], lengths: np.ndarray) -> dict[str, list]:
    frames = np.concatenate([np.arange(n) for n in lengths])
    return {
        STATE_KEY: np.concatenate([_state(e) for e in episodes]).astype(np.float32).tolist(),
        ACTION_KEY: np.concatenate([e.actions for e in episodes]).tolist(),
        SUCCESS_KEY: [e.success and t == len(e.actions) - 1 for e in episodes for t in range(len(e.actions))],
        "timestamp": (frames / CONTROL_FREQUENCY).tolist(),
        "frame_index": frames.tolist(),
        "episode_index": np.repeat(np.arange(len(episodes)), lengths).tolist(),
        "index": list(range(int(lengths.sum()))),
        "task_index": [names.index(e.instruction) for e in episodes for _ in range(len(e.actions))],
    }


def _state(episode: Episode) -> np.ndarray:
    proprio = episode.proprio.astype(np.float64)
    first, second = proprio[:, 3:6], proprio[:, 6:9]
    rotations = np.stack([first, second, np.cross(first, second)], axis=2)
    return np.hstack([proprio[:, EE_POSITION], axis_angle(hand_quaternions(rotations)), proprio[:, FINGERS]])


def _episode_columns(episodes: Sequence[Episode], lengths: np.ndarray) -> dict[str, list]:
    stops = np.cumsum(lengths)
    starts = stops - lengths
    zeros = [0] * len(episodes)
    return {
        "episode_index": list(range(len(episodes))),
        "tasks": [[e.instruction] for e in episodes],
        "length": lengths.tolist(),
        "data/chunk_index": zeros,
        "data/file_index": zeros,
        "dataset_from_index": starts.tolist(),
        "dataset_to_index": stops.tolist(),
        f"videos/{CAMERA_KEY}/chunk_index": zeros,
        f"videos/{CAMERA_KEY}/file_index": zeros,
        f"videos/{CAMERA_KEY}/from_timestamp": (starts / CONTROL_FREQUENCY).tolist(),
        f"videos/{CAMERA_KEY}/to_timestamp": (stops / CONTROL_FREQUENCY).tolist(),
        "meta/episodes/chunk_index": zeros,
        "meta/episodes/file_index": zeros,
    }


def _info(episodes: Sequence[Episode], names: list[str], columns: dict[str, list]) -> dict[str, Any]:
    side = episodes[0].images.shape[1]
    features = {
        key: {"dtype": dtype, "shape": [len(labels) if labels else 1], "names": labels}
        for key, dtype, labels in (
            (STATE_KEY, "float32", list(STATE_NAMES)),
            (ACTION_KEY, "float32", [f"action_{i}" for i in range(episodes[0].actions.shape[1])]),
            (SUCCESS_KEY, "bool", None),
            ("timestamp", "float32", None),
            *((name, "int64", None) for name in ("frame_index", "episode_index", "index", "task_index")),
        )
    }
    features[CAMERA_KEY] = {
        "dtype": "video",
        "shape": [side, side, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": side,
            "video.width": side,
            "video.channels": 3,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.fps": CONTROL_FREQUENCY,
            "video.is_depth_map": False,
            "has_audio": False,
        },
    }
    return {
        "codebase_version": VERSION,
        "robot_type": "panda",
        "total_episodes": len(episodes),
        "total_frames": len(columns["index"]),
        "total_tasks": len(names),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": CONTROL_FREQUENCY,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": features,
    }


def _statistics(values: np.ndarray) -> dict[str, list]:
    """Of values [n, k], per entry."""
    figures = {name: getattr(values, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
    return figures | {"count": [len(values)]}


def _write_table(path: Path, columns: dict[str, list], *, index: bool = False) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({name: _column(name, values) for name, values in columns.items()})
    if index:
        # pandas takes the column as the index, which is where lerobot looks for the instruction.
        kinds = {"task_index": "int64", "__index_level_0__": "unicode"}
        fields = [
            {"name": None if name.startswith("__") else name, "field_name": name, "pandas_type": kind, "metadata": None}
            | {"numpy_type": kind if kind == "int64" else "object"}
            for name, kind in kinds.items()
        ]
        note = {"index_columns": ["__index_level_0__"], "columns": fields, "column_indexes": []}
        table = table.replace_schema_metadata({"pandas": json.dumps(note)})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)


def _column(name: str, values: list) -> Any:  # noqa: ANN401 - pyarrow.Array
    import pyarrow as pa

    if name in (STATE_KEY, ACTION_KEY):
        return pa.array(values, pa.list_(pa.float32(), len(values[0])))
    return pa.array(values, pa.float32()) if name == "timestamp" else pa.array(values)


def _encode(path: Path, frames: np.ndarray) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        # Key frames every second frame, as lerobot: loaders fetch single frames.
        stream = container.add_stream("libx264", rate=CONTROL_FREQUENCY, options={"crf": "18", "g": "2"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())
