"""Episodes from every source as one type."""

import json

import h5py
import pytest

from tests.data.test_lerobot_v3 import EPISODES
from tests.data.test_libero_hdf5 import TASK, make_demonstration
from tests.published_libero import write_published
from vlarl.data.lerobot_v3_writer import write_lerobot
from vlarl.data.libero_hdf5 import demonstration_path, write_demonstrations
from vlarl.data.sources import load_episodes
from vlarl.errors import UserError


@pytest.fixture
def ours(tmp_path):
    path = demonstration_path(tmp_path / "demos", TASK.name)
    write_demonstrations(path, [make_demonstration(5, 0), make_demonstration(6, 1)], TASK)
    return path


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "published" / "a_demo.hdf5"
    write_published(path, episodes=2)
    with h5py.File(path, "a") as file:
        file["data"].attrs["problem_info"] = json.dumps({"language_instruction": "do it"})
    return path


def test_all_sources_give_one_type(tmp_path, ours, published):
    write_lerobot(tmp_path / "set", EPISODES)
    episodes = load_episodes([ours.parent, published, tmp_path / "set"], 16)
    assert [len(e.actions) for e in episodes] == [5, 6, 5, 5, 7, 12, 5]
    assert {e.images.shape[1:] for e in episodes} == {(16, 16, 3)}
    assert [e.instruction for e in episodes][1:4] == [TASK.instruction, "do it", "do it"]


def test_missing_sources_and_sizes_are_named(tmp_path, ours):
    with pytest.raises(UserError, match="no episodes at .*nothing"):
        load_episodes([tmp_path / "nothing"], 16)
    with pytest.raises(UserError, match="frames of 16 pixels, 32 are wanted"):
        load_episodes([ours], 32)


@pytest.mark.parametrize("key", ["obs/agentview_rgb", "states", "actions"])
def test_a_missing_key_is_named_with_those_that_exist(ours, published, key):
    for path in (ours, published):
        with h5py.File(path, "a") as file:
            del file[f"data/demo_0/{key}"]
        with pytest.raises(UserError, match=rf"lacks {key}: each demonstration has .*dones"):
            load_episodes([path], 16)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_named(ours, share):
    content = ours.read_bytes()
    ours.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="is damaged"):
        load_episodes([ours], 16)
