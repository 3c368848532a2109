"""Building into the cache: what a user reads when it fails, and that what is built is not built again."""

import os
import shutil

import mujoco
import numpy as np
import pytest

from vlarl.configs.env import EnvConfig
from vlarl.envs.libero import env
from vlarl.envs.libero.cache import TaskFiles, save_model
from vlarl.errors import MissingSystemLibraryError, UserError
from vlarl.files import write_atomically

CONFIG = EnvConfig(name="libero", task_suite="libero_goal", task_ids=(7,))


def fake_builder(monkeypatch, code: str) -> None:
    """Runs `code` in the place of the builder."""
    original = env.subprocess.Popen
    monkeypatch.setattr(
        env.subprocess, "Popen", lambda arguments, **kwargs: original([arguments[0], "-c", code], **kwargs)
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLARL_CACHE", str(tmp_path))
    return TaskFiles.of("libero_goal", 7)


def test_a_failing_builder_is_reported_by_its_last_line(cache, monkeypatch):
    fake_builder(monkeypatch, "import sys; sys.exit('x' * 200_000 + '\\nValueError: no such asset')")
    with pytest.raises(UserError, match="libero_goal task 7 could not be built: ValueError: no such asset"):
        env.prepare(CONFIG, print)


def test_missing_rendering_keeps_its_kind(cache, monkeypatch):
    fake_builder(monkeypatch, "import sys; sys.exit('vlarl.errors.MissingSystemLibraryError: sudo apt-get install x')")
    with pytest.raises(MissingSystemLibraryError, match="apt-get install"):
        env.prepare(CONFIG, print)


@pytest.fixture
def typed_answer():
    """Standard input with a line in it, as at a terminal."""
    saved, (reading, writing) = os.dup(0), os.pipe()
    os.write(writing, b"yes\n")
    os.dup2(reading, 0)
    yield
    os.dup2(saved, 0)
    for descriptor in (saved, reading, writing):
        os.close(descriptor)


def test_a_builder_that_asks_gets_no_answer(cache, monkeypatch, typed_answer):
    fake_builder(monkeypatch, "input('where do you want your data? ')")
    with pytest.raises(UserError, match="EOFError"):
        env.prepare(CONFIG, print)


def test_a_task_is_complete_only_with_all_its_files(cache):
    assert not cache.are_complete(0)
    for path in (cache.starts(0), cache.description, cache.model):
        assert not cache.are_complete(0)
        write_atomically(path, lambda scratch: scratch.write_text(""))
    assert cache.are_complete(0) and not cache.are_complete(1)


def test_environments_of_an_unbuilt_task_are_refused(cache):
    with pytest.raises(UserError, match="call prepare first"):
        env.make_environments(CONFIG, 1)


@pytest.mark.parametrize("damaged", ["model", "description", "starts"])
def test_damaged_files_are_named_with_the_fix(cache, damaged, monkeypatch):
    write_atomically(cache.model, lambda path: path.write_bytes(b"" if damaged == "model" else b"model"))
    write_atomically(cache.description, lambda path: path.write_text("" if damaged == "description" else "{}"))
    write_atomically(cache.starts(0), lambda path: np.savez(path, a=np.zeros(1)))
    if damaged == "starts":
        cache.starts(0).write_bytes(b"PK")
        monkeypatch.setattr(env, "Scene", lambda *_: None)
    with pytest.raises(UserError, match="are damaged.*delete the folder"):
        env.make_environments(CONFIG, 1)


def test_a_failed_write_leaves_nothing(tmp_path):
    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "model.mjb", fail)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_takes_nothing_is_one_clear_error(cache, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    # Nobody, not even root, can make a folder in either.
    for root in ("/proc/vlarl", str(tmp_path / "file" / "cache")):
        monkeypatch.setenv("VLARL_CACHE", root)
        with pytest.raises(UserError, match=f"the cache {root} cannot take built tasks .*set VLARL_CACHE"):
            env.prepare(CONFIG, print)


def test_a_full_disk_is_noticed_before_building(cache, monkeypatch):
    usage = shutil.disk_usage(cache.folder.parent.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5 * 2**20))
    with pytest.raises(UserError, match=r"5 MiB are free, 20 are needed: set VLARL_CACHE"):
        env.prepare(CONFIG, print)


def test_a_complete_cache_may_be_read_only(cache, monkeypatch):
    for path in (cache.starts(0), cache.description, cache.model):
        write_atomically(path, lambda scratch: scratch.write_text(""))
    monkeypatch.setattr(env, "require_room", lambda _: pytest.fail("it was asked to write"))
    env.prepare(CONFIG, print)


def test_a_model_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path):
    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
    save_model(model, tmp_path / "a.mjb")
    assert mujoco.MjModel.from_binary_path(str(tmp_path / "a.mjb")).ngeom == 1
    # The device that is always full.
    (tmp_path / f".{os.getpid()}.b.mjb").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        save_model(model, tmp_path / "b.mjb")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mjb"]
