"""`make bench-gpu` at tiny size on the CPU, without anything that a bare GPU machine lacks."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
ABSENT = (
    "mujoco",
    "h5py",
    "gymnasium",
    "robosuite",
    "libero",
    "PIL",
    "simplejpeg",
    "scipy",
    "numba",
    "tyro",
    "tensorboard",
)
RUN = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))  # None: there is no such module
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""


def test_it_runs_without_a_simulator_a_network_or_a_tokenizer(tmp_path):
    arguments = ["--size", "tiny", "--device", "cpu", "--batch-sizes", "1", "3", "--warmups", "0", "--repeats", "1"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments, "--output", str(tmp_path)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["batch_size"] for row in result["decoding"]["batches"]] == [1, 3]
    assert result["decoding"]["same_greedy_tokens"] == 1.0, "in float32 the tokens are those of generate"
    assert result["update"]["tokens_per_second"] > 0
    assert result["update"]["planned_bytes"] > 0
    assert result["update"]["peak_bytes"] is None
    assert result["streaming"]["gb_per_second"] > 0
    table = (tmp_path / "gpu.md").read_text()
    assert "PPO update, MFU" in table and "| 3 |" in table
    assert {path.name for path in tmp_path.iterdir()} == {"gpu.json", "gpu.md"}, "the checkpoint is removed"
