"""kill -9 and Ctrl-C at any moment, then the same command: the same metrics as without it, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Half the toy recipe: enough iterations to be killed between and within them.
COMMAND = [
    *(sys.executable, "-m", "vlarl", "train", "--recipe", "toy", "--seed", "3", "--ppo.num-iterations", "4"),
    *("--ppo.rollout-batch-size", "32", "--ppo.minibatch-size", "32", "--ppo.microbatch-size", "32"),
    *("--evaluation.validation-interval", "2", "--evaluation.validation-episodes-per-task", "4"),
]


def start(output: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def rows(output: Path) -> list[dict]:
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(("time/", "system/"))} for line in lines]


def wait_for_rows(output: Path, count: int, process: subprocess.Popen) -> None:
    path = output / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    output = tmp_path_factory.mktemp("resume") / "run"
    finish(start(output))
    return output


def assert_same_result(output: Path, uninterrupted: Path) -> None:
    assert rows(output) == rows(uninterrupted)
    name = Path("rl/policy/model.safetensors")
    assert (output / name).read_bytes() == (uninterrupted / name).read_bytes()


@pytest.mark.parametrize(("finished_rows", "delay"), [(1, 0.0), (2, 0.3)])
def test_kill_9_then_the_same_command(tmp_path, uninterrupted, finished_rows, delay):
    process = start(tmp_path / "run")
    wait_for_rows(tmp_path / "run", finished_rows, process)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(rows(tmp_path / "run")) < len(rows(uninterrupted))
    output = finish(start(tmp_path / "run"))
    # A kill between a row and its checkpoint costs that iteration.
    assert finished_rows == 1 or "going on after iteration" in output
    assert_same_result(tmp_path / "run", uninterrupted)


def test_ctrl_c_says_how_to_go_on(tmp_path, uninterrupted):
    process = start(tmp_path / "run")
    wait_for_rows(tmp_path / "run", 1, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert "the same command goes on where it stopped:\n  vlarl train --recipe toy --seed 3 " in output
    assert "Traceback" not in output
    finish(start(tmp_path / "run"))
    assert_same_result(tmp_path / "run", uninterrupted)


def test_a_finished_run_does_nothing_twice(uninterrupted):
    before = (uninterrupted / "metrics.jsonl").stat().st_mtime_ns
    finish(start(uninterrupted))
    assert (uninterrupted / "metrics.jsonl").stat().st_mtime_ns == before


def test_another_seed_is_another_run(uninterrupted):
    done = subprocess.run(
        [*COMMAND, "--seed", "4", "--output", str(uninterrupted)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "seed (3 -> 4)" in done.stderr
