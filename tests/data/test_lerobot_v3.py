"""LeRobot's v3 layout: what is read is what was written, and foreign or damaged data is named."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pyarrow import parquet
from scipy.spatial.transform import Rotation

from vlarl.data.episodes import Episode
from vlarl.data.lerobot_v3 import ACTION_KEY, CAMERA_KEY, STATE_KEY, read_lerobot
from vlarl.data.lerobot_v3_writer import write_lerobot
from vlarl.data.libero_published import gripper_commands
from vlarl.errors import UserError
from vlarl.types import Start

VIDEO = f"videos/{CAMERA_KEY}/chunk-000/file-000.mp4"


def make_episode(index: int, steps: int, success: bool = True) -> Episode:
    rng = np.random.default_rng(index)
    rotations = Rotation.from_rotvec(rng.normal(scale=0.2, size=(steps, 3)) + [np.pi, 0, 0]).as_matrix()
    fingers = rng.uniform(0, 0.04, size=(steps, 1))
    actions = rng.uniform(-1, 1, size=(steps, 7)).astype(np.float32)
    commands = np.concatenate([[0], gripper_commands(actions[:-1, 6])])[:, None]
    position = rng.normal(size=(steps, 3))
    columns = [position, rotations[:, :, 0], rotations[:, :, 1], fingers, -fingers, commands]
    # A smooth picture whose brightness tells the step: compression changes noise.
    images = np.full((steps, 32, 32, 3), 40, dtype=np.uint8) + np.arange(steps, dtype=np.uint8)[:, None, None, None] * 8
    images[:, :16] += np.uint8(index * 10)
    return Episode(
        images=images,
        proprio=np.hstack(columns).astype(np.float32),
        actions=actions,
        target_mask=np.ones(steps, dtype=bool),
        states=rng.normal(size=(steps, 30)),
        instruction=("turn on the stove", "put the bowl on the plate")[index % 2],
        start=Start(task_id=0, split="train", index=index),
        success=success,
    )


EPISODES = [make_episode(0, 7), make_episode(1, 12), make_episode(2, 5, success=False)]


@pytest.fixture
def folder(tmp_path):
    write_lerobot(tmp_path / "set", EPISODES)
    return tmp_path / "set"


def test_what_is_read_is_what_was_written(folder):
    found = read_lerobot(folder, 32)
    assert len(found) == 3
    for index, (mine, theirs) in enumerate(zip(EPISODES, found, strict=True)):
        assert (theirs.instruction, theirs.success, theirs.start.index) == (mine.instruction, mine.success, index)
        np.testing.assert_array_equal(theirs.actions, mine.actions)
        np.testing.assert_allclose(theirs.proprio, mine.proprio, atol=1e-5)
        assert theirs.images.shape == mine.images.shape
        # Lossy, but each frame is nearest to itself: no episode is shifted.
        assert np.abs(theirs.images.astype(int) - mine.images).mean() < 3
        assert theirs.states.shape == (len(mine.actions), 0)


def test_frames_are_averaged_down(folder):
    assert read_lerobot(folder, 16)[0].images.shape == (7, 16, 16, 3)
    with pytest.raises(UserError, match="32 x 32 pixels, 64 a side are wanted"):
        read_lerobot(folder, 64)


def test_layout_is_version_3(folder):
    info = json.loads((folder / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"]) == ("v3.0", 3, 24)
    data = parquet.read_table(folder / "data/chunk-000/file-000.parquet").to_pydict()
    assert data["index"] == list(range(24))
    assert data["frame_index"][7:10] == [0, 1, 2] and data["episode_index"][7] == 1
    assert np.array(data[STATE_KEY]).shape == (24, 8) and np.array(data[ACTION_KEY]).shape == (24, 7)
    rows = parquet.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pydict()
    assert rows["dataset_from_index"] == [0, 7, 19] and rows["dataset_to_index"] == [7, 19, 24]
    assert rows[f"videos/{CAMERA_KEY}/from_timestamp"] == pytest.approx([0, 7 / 20, 19 / 20])
    stats = json.loads((folder / "meta/stats.json").read_text())
    assert len(stats[ACTION_KEY]["mean"]) == 7 and np.array(stats[CAMERA_KEY]["mean"]).shape == (3, 1, 1)


def test_missing_keys_are_named_with_those_that_exist(folder):
    with pytest.raises(UserError, match=f"no camera key 'observation.images.front': it has action, .*{CAMERA_KEY}"):
        read_lerobot(folder, 32, camera_key="observation.images.front")
    with pytest.raises(UserError, match="no state key 'state'"):
        read_lerobot(folder, 32, state_key="state")
    with pytest.raises(UserError, match=r"action has shape \[7\], LIBERO's has 8 entries: x, y, z"):
        read_lerobot(folder, 32, state_key=ACTION_KEY)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_truncated_video_is_named(folder, share):
    path = folder / VIDEO
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="set is damaged or truncated"):
        read_lerobot(folder, 32)


def test_a_video_with_too_few_frames_is_named(folder):
    write_lerobot(folder.parent / "short", [replace(e, images=e.images) for e in EPISODES[:2]])
    (folder / VIDEO).write_bytes((folder.parent / "short" / VIDEO).read_bytes())
    with pytest.raises(UserError, match="ends after 19 frames, episode 2 needs 19 to 24"):
        read_lerobot(folder, 32)


def test_damaged_tables_and_other_versions_are_named(folder):
    table = folder / "data/chunk-000/file-000.parquet"
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged or truncated"):
        read_lerobot(folder, 32)
    info = folder / "meta/info.json"
    info.write_text(info.read_text().replace("v3.0", "v2.1"))
    with pytest.raises(UserError, match="layout v2.1, v3.0 is read"):
        read_lerobot(folder, 32)
    info.unlink()
    with pytest.raises(UserError, match="no LeRobot data set"):
        read_lerobot(folder, 32)


def test_nothing_to_write(tmp_path):
    with pytest.raises(UserError, match="no episodes to write"):
        write_lerobot(tmp_path / "set", [])


def test_instructions_are_the_index_that_pandas_sees(folder):
    # Where lerobot looks for them. pandas reads the note in the schema; without the fields it names it fails.
    note = parquet.read_schema(folder / "meta/tasks.parquet").pandas_metadata
    assert note["index_columns"] == ["__index_level_0__"]
    assert [field["field_name"] for field in note["columns"]] == ["task_index", "__index_level_0__"]
