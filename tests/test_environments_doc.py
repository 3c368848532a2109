"""The examples of docs/environments.md run as they are."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
TEXT = (REPOSITORY / "docs" / "environments.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.S)
SHELL = re.findall(r"```bash\n(.*?)```", TEXT, re.S)


def run(command: list[str], folder: Path) -> str:
    paths = os.pathsep.join([str(folder), str(REPOSITORY)])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_shell(block: str, folder: Path) -> str:
    command = block.replace("\\\n", " ").split()
    assert command[0] == "vlarl"
    return run([sys.executable, "-m", *command, "--learner-threads", "1"], folder)


def read_rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_there_is_an_example_per_section():
    assert (len(PYTHON), len(SHELL)) == (3, 2)


@pytest.mark.libero
def test_libero_example(tmp_path):
    assert "turn on the stove (64, 64, 3) (12,)\nFalse 0" in run([sys.executable, "-c", PYTHON[0]], tmp_path)


@pytest.mark.libero
def test_example_of_many_libero_environments(tmp_path):
    said = run([sys.executable, "-c", PYTHON[1]], tmp_path)
    assert "(4, 64, 64, 3) (4,) [8 8 8 8]\nturn on the stove 3" in said


def test_example_of_an_own_environment_trains(tmp_path):
    (tmp_path / "slider.py").write_text(PYTHON[2])
    run_shell(SHELL[0], tmp_path)
    rows = read_rows(tmp_path / "runs/slider")
    assert sum(not row["critic_warmup"] for row in rows) == 2
    # A random policy pushes the bar to its end now and then.
    assert rows[-1]["env_steps"] > 500 and 0 < rows[-1]["charts/success_rate"] < 1


@pytest.mark.libero
@pytest.mark.skipif(find_spec("metaworld") is None, reason="the extra metaworld is not installed")
def test_metaworld_trains_for_an_iteration(tmp_path):
    run_shell(SHELL[1], tmp_path)
    rows = read_rows(tmp_path / "runs/reach")
    assert sum(not row["critic_warmup"] for row in rows) == 1
    assert rows[-1]["env_steps"] > 64 and rows[-1]["losses/policy_loss"] is not None
