"""Machine facts and checks: what `vlarl doctor` says on machines that this one is not."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from vlarl import doctor, system
from vlarl.errors import MissingSystemLibraryError, UserError

MIB = 2**20


@pytest.fixture(autouse=True)
def fresh_rendering(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    system.find_rendering.cache_clear()
    yield
    system.find_rendering.cache_clear()


def fake_backends(monkeypatch, **reasons):
    """Replaces the probe: a back end works unless `reasons` holds why not."""
    tried = []

    def run_python(code, environment):
        tried.append(environment["MUJOCO_GL"])
        return "fake renderer", reasons.get(tried[-1])

    monkeypatch.setattr(system, "run_python", run_python)
    return tried


def test_egl_is_preferred_and_chosen_for_workers(monkeypatch):
    tried = fake_backends(monkeypatch)
    monkeypatch.setenv("MUJOCO_GL", "")
    assert system.require_rendering() == system.Rendering(backend="egl", renderer="fake renderer")
    assert system.os.environ["MUJOCO_GL"] == "egl"
    assert tried == ["egl"]


def test_osmesa_is_taken_when_egl_fails(monkeypatch):
    tried = fake_backends(monkeypatch, egl="no libEGL")
    assert system.find_rendering().backend == "osmesa"
    assert tried == ["egl", "osmesa"]


def test_no_rendering_names_the_install_line_and_exit_code(monkeypatch):
    fake_backends(monkeypatch, egl="no libEGL", osmesa="no libOSMesa")
    with pytest.raises(MissingSystemLibraryError) as caught:
        system.require_rendering()
    assert "sudo apt-get install -y libegl1" in str(caught.value)
    assert "egl: no libEGL; osmesa: no libOSMesa" in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_chosen_backend_is_the_only_one_tried(monkeypatch):
    tried = fake_backends(monkeypatch, osmesa="no libOSMesa")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(MissingSystemLibraryError, match="MUJOCO_GL=osmesa is set: unset it"):
        system.find_rendering()
    assert tried == ["osmesa"]


@pytest.mark.libero
def test_a_frame_is_drawn():
    assert system.find_rendering().renderer


def test_run_python_returns_output_or_reason():
    assert system.run_python("print(6 * 7)") == ("42", None)
    assert system.run_python("import os; print(os.environ['A'])", {"A": "b"}) == ("b", None)
    assert system.run_python("raise SystemExit('dark')") == ("", "dark")
    assert system.run_python("raise SystemExit(5)") == ("", "exit status 5")


def test_disk_is_checked_before_the_folder_exists(tmp_path):
    folder = tmp_path / "not" / "yet"
    free = system.check_disk(folder, 1)
    assert abs(free - psutil.disk_usage(str(tmp_path)).free) < 2**30
    assert not folder.exists()
    with pytest.raises(UserError, match=r"not/yet is on a disk with .* GiB free, 1048576.0 GiB are needed"):
        system.check_disk(folder, 2**50)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 4),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 4),
        (None, 4),
    ],
)
def test_cores_respect_a_container(monkeypatch, tmp_path, quota, cores):
    monkeypatch.setattr(system, "CGROUP", tmp_path)
    monkeypatch.setattr(system.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert system.cpu_cores() == cores


def test_memory_respects_a_container(monkeypatch, tmp_path):
    monkeypatch.setattr(system, "CGROUP", tmp_path)
    total = psutil.virtual_memory().total
    assert system.memory_bytes() == total
    (tmp_path / "memory.max").write_text("max\n")
    assert system.memory_bytes() == total
    (tmp_path / "memory.max").write_text(f"{64 * MIB}\n")
    assert system.memory_bytes() == 64 * MIB


# In a process of its own: children that other tests left behind may end meanwhile and hide the block.
FREED_BLOCK = f"""
import time
import numpy as np
from vlarl.system import PeakMemory
with PeakMemory(interval_seconds=0.02) as memory:
    time.sleep(0.1)
    before = memory.peak_bytes
    block = np.ones({80 * MIB // 8})
    time.sleep(0.3)
    del block
    time.sleep(0.1)
    print(memory.peak_bytes - before)
"""


def test_peak_memory_remembers_what_was_freed():
    done = subprocess.run([sys.executable, "-c", FREED_BLOCK], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 70 * MIB


def test_peak_memory_holds_children():
    # In a process of its own: what this one shares with neighbouring test workers comes and goes with them.
    code = (
        "import subprocess, sys, time, vlarl.system as s\n"
        f"block = \"block = bytearray(b'x') * {80 * MIB}; print('ready', flush=True); input()\"\n"
        "with s.PeakMemory(interval_seconds=0.02) as memory:\n"
        "    before = memory.peak_bytes\n"
        "    child = subprocess.Popen([sys.executable, '-c', block], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "    child.stdout.readline()\n"
        "    time.sleep(0.2)\n"
        "    child.communicate(b'\\n')\n"
        "print(before, memory.peak_bytes, s.tree_memory())"
    )
    printed, reason = system.run_python(code)
    assert reason is None
    before, peak, after = map(int, printed.split())
    assert peak - before > 75 * MIB
    assert after < peak - 70 * MIB


def test_shared_pages_count_once():
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("this kernel has no smaps_rollup")
    code = (
        "import os, psutil, vlarl.system as s\n"
        f"block = bytearray(b'x') * {100 * MIB}\n"
        "read, write = os.pipe()\n"
        "if os.fork() == 0:\n    os.close(write); os.read(read, 1); os._exit(0)\n"
        "print(s.tree_memory()); os.close(write); os.wait()"
    )
    printed, reason = system.run_python(code)
    assert reason is None
    assert 100 * MIB < int(printed) < 180 * MIB


def test_machine_card_is_complete():
    card = system.machine_card()
    assert set(card) == {"cpu", "cpu_cores", "memory_bytes", "os", "python", "packages"}
    assert set(card["packages"]) == set(system.CARD_PACKAGES)
    assert card["packages"]["numpy"] == np.__version__


def test_git_revision_is_the_checkout_s_commit():
    root = Path(system.__file__).parents[1]
    head = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode != 0 or not (root / ".git").exists():
        assert system.git_revision() is None
    else:
        assert system.git_revision().removesuffix("-dirty") == head.stdout.strip()


def checks_by_name():
    return {check.name: check for check in doctor.run_checks()}


def test_all_checks_pass_on_a_fit_machine(monkeypatch):
    fake_backends(monkeypatch)
    monkeypatch.setattr(doctor, "memory_bytes", lambda: 8 * 2**30)
    checks = checks_by_name()
    assert set(checks) == {"python", "packages", "mujoco", "rendering", "cores", "memory", "disk"}
    assert all(check.ok and check.exit_code == 0 and not check.fix for check in checks.values())


@pytest.mark.parametrize("version", ["3.3.3", "3.17.0", None])
def test_another_mujoco_is_reported_with_the_reason(monkeypatch, version):
    fake_backends(monkeypatch)
    monkeypatch.setattr(doctor, "package_version", lambda name: version)
    check = checks_by_name()["mujoco"]
    assert (check.ok, check.exit_code) == (False, 2)
    assert str(version) in check.detail
    assert "darker floors" in check.detail
    assert check.fix == "pip install mujoco==3.3.2"


def test_unfit_machines_are_told_what_to_do(monkeypatch):
    fake_backends(monkeypatch, egl="no libEGL", osmesa="no libOSMesa")
    monkeypatch.setattr(doctor, "memory_bytes", lambda: 4 * 2**30)
    monkeypatch.setattr(doctor, "package_version", lambda name: None if name == "torch" else "3.3.2")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: doctor.shutil._ntuple_diskusage(1, 1, MIB))
    monkeypatch.setattr(doctor.sys, "version_info", (3, 14, 0))
    checks = checks_by_name()
    assert checks["rendering"].exit_code == 3
    assert checks["rendering"].fix == system.APT_INSTALL_LINE
    assert checks["packages"].detail == "not installed: torch"
    assert checks["python"].fix == "use Python 3.11 to 3.13"
    failed = {name for name, check in checks.items() if not check.ok}
    assert failed == {"python", "packages", "rendering", "memory", "disk"}
    assert all(checks[name].fix for name in failed)
    assert max(check.exit_code for check in checks.values()) == 3
