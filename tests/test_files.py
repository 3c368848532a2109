"""Files appear whole or not at all, and their content is on the disk before their name."""

import os

import pytest

from vlarl.files import atomic_folder, write_text


@pytest.fixture
def events(monkeypatch) -> list[str]:
    """Records what is flushed and renamed, in order."""
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        seen.append(f"flush {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        fsync(descriptor)

    def record_replace(source, target):
        seen.append(f"rename to {os.path.basename(target)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    return seen


def test_text_is_on_the_disk_before_its_name(tmp_path, events):
    path = tmp_path / "run" / "a.json"
    write_text(path, "1")
    write_text(path, "2")
    assert path.read_text() == "2"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
    assert events[:3] == [f"flush .{os.getpid()}.a.json", "rename to a.json", "flush run"]


def test_folder_is_on_the_disk_before_its_name(tmp_path, events):
    path = tmp_path / "checkpoint"
    with atomic_folder(path) as scratch:
        (scratch / "policy").mkdir()
        (scratch / "policy" / "weights").write_text("1")
        assert not path.exists()
    assert (path / "policy" / "weights").read_text() == "1"
    renamed = events.index("rename to checkpoint")
    assert {"flush weights", "flush policy"} <= set(events[:renamed])


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    path = tmp_path / "checkpoint"
    with atomic_folder(path) as scratch:
        (scratch / "weights").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as scratch:
        (scratch / "weights").write_text("new")
        raise ZeroDivisionError
    assert (path / "weights").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
