"""`vlarl tasks` and `vlarl cache`."""

import json

import numpy as np
import pytest

from vlarl.cli import cache, tasks
from vlarl.envs.libero.cache import TaskFiles, current_recipe
from vlarl.errors import UserError
from vlarl.reporting.contact_sheet import CAPTION, MARGIN, THUMBNAIL, draw_sheet


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VLARL_CACHE", str(tmp_path))
    new = TaskFiles.of("libero_goal", 8)
    old = tmp_path / "libero-1-mujoco-3.0.0" / "libero_goal_8"
    for path in (new.folder, old):
        path.mkdir(parents=True)
        (path / "task.json").write_bytes(b"x" * 2**20)
    return tmp_path


def test_cache_is_shown(folder, capsys):
    assert cache.main("cache", []) == 0
    shown = capsys.readouterr().out
    assert f"2 folders, 2.0 MiB, in {folder}; 1 of other versions" in shown


def test_old_entries_are_cleared_alone(folder, capsys):
    cache.main("cache", ["--clear", "old", "--json"])
    deleted = json.loads(capsys.readouterr().out)["entries"]
    assert [entry["recipe"] for entry in deleted] == ["libero-1-mujoco-3.0.0"]
    assert (folder / current_recipe() / "libero_goal_8").is_dir()
    cache.main("cache", ["--clear", "all"])
    assert not list(folder.glob("*/*"))


def test_suites_are_listed(capsys):
    tasks.main("tasks", ["--json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["suite"] == "libero_spatial" and rows[0]["max_episode_steps"] == 220
    assert {row["suite"]: row["meaning"] for row in rows}["libero_10_swap"].endswith("objects in exchanged places")


def test_tasks_are_listed_with_what_is_there(folder, capsys):
    tasks.main("tasks", ["libero_goal"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[8] == "  8  put the bowl on the plate  [expert, built]"
    assert lines[1].endswith("[expert]")
    tasks.main("tasks", ["libero_goal_task", "--json"])
    assert not any(row["has_expert"] for row in json.loads(capsys.readouterr().out))


def test_bad_names(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'libero_goal'"):
        tasks.main("tasks", ["libero_gaol"])
    with pytest.raises(UserError, match="name it"):
        tasks.main("tasks", ["--sheet", str(tmp_path / "a.png")])


def test_sheet_places_images_in_rows_of_five():
    images = [np.full((THUMBNAIL, THUMBNAIL, 3), 10 * i, np.uint8) for i in range(7)]
    sheet = np.asarray(draw_sheet(images, [str(i) for i in range(7)]))
    assert sheet.shape == (2 * (THUMBNAIL + CAPTION + MARGIN) + MARGIN, 5 * (THUMBNAIL + MARGIN) + MARGIN, 3)
    # Image 6 is the second of the second row.
    top, left = MARGIN + THUMBNAIL + CAPTION + MARGIN, MARGIN + THUMBNAIL + MARGIN
    assert (sheet[top : top + THUMBNAIL, left : left + THUMBNAIL] == 60).all()
