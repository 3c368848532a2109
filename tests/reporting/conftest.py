"""A run folder as the quickstart leaves it, without running anything."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from vlarl.evaluation.protocol import rate
from vlarl.reporting.sinks import JsonlSink
from vlarl.reporting.video import side_by_side, write_mp4

INSTRUCTIONS = {"1": "put the bowl on the stove", "8": "put the bowl on the plate"}


def counted(successes: int, episodes: int = 50) -> dict:
    return rate(np.arange(episodes) < successes)


def stage(greedy: tuple[int, int], sampled: tuple[int, int], steps: float) -> dict:
    def mode(counts: tuple[int, int], temperature: float) -> dict:
        per_task = dict(zip(INSTRUCTIONS, map(counted, counts), strict=True))
        pooled = counted(sum(counts), 50 * len(counts))
        return pooled | {"temperature": temperature, "mean_episode_steps": steps, "per_task": per_task}

    return mode(greedy, 0.0) | {"sampled": mode(sampled, 0.6)}


def summary() -> dict:
    return {
        "recipe": "quickstart",
        "task_suite": "libero_goal",
        "task_ids": [1, 8],
        "instructions": INSTRUCTIONS,
        "seed": 0,
        "demonstrations": {
            "1": {
                "attempts": 11,
                "successes": 10,
                "success_rate": 10 / 11,
                "task": INSTRUCTIONS["1"],
                "file": "a.hdf5",
            },
            "8": {"attempts": 10, "successes": 10, "success_rate": 1.0, "task": INSTRUCTIONS["8"], "file": "b.hdf5"},
        },
        "sft": stage((24, 29), (25, 31), 141.2),
        "rl": stage((45, 48), (43, 48), 98.7),
        "lift": {
            "greedy": {"points": 40.0, "ci95": [29.4, 49.5], "p_value": 3.1e-9},
            "sampled": {"points": 35.0, "ci95": [24.1, 45.0], "p_value": 0.0004},
        },
        "p_value": {"greedy": 3.1e-9, "sampled": 0.0004},
        "probes": {
            "greedy": {
                "normal": counted(93, 100),
                "swapped_instruction": counted(4, 100),
                "blank_images": counted(0, 100),
            }
        },
        "env_steps": 171_204,
        "env_steps_per_second": 812.4,
        "iterations": 25,
        "chosen_iteration": 22,
        "time_split": {"rollout": 0.55, "learning": 0.44, "rest": 0.01},
        "truncated_by_time": False,
        "restarted_episodes": 0,
        "warnings": [
            {
                "code": "entropy_collapsing",
                "iteration": 20,
                "message": "Entropy per token fell from 1.912 to 0.604 nats.",
                "advice": "Exploration is ending: raise ppo.entropy_coef or ppo.temperature.",
            }
        ],
        "wall_seconds": {
            "environments": 31.0,
            "demonstrations": 15.0,
            "sft": 74.0,
            "evaluate_sft": 32.0,
            "train_start": 1.0,
            "train": 380.0,
            "evaluate_rl": 24.0,
            "probes": 20.0,
            "videos": 9.0,
            "total": 586.0,
        },
        "core_hours": 0.326,
        "peak_rss_bytes": 3 * 2**30,
        "version": "0.1.0",
        "git_revision": "0123456789abcdef0123456789abcdef01234567",
        "machine": {"cpu": "A CPU", "cpu_cores": 2, "memory_bytes": 8 * 2**30, "os": "Linux", "python": "3.11.9"},
        "versions": {"torch": "2.13.0", "transformers": "5.19.0", "mujoco": "3.3.2", "numpy": "2.3.5"},
        "command": "vlarl quickstart --seed 0",
    }


def metric_rows(iterations: int = 25) -> list[dict]:
    rng = np.random.default_rng(0)
    rows, env_steps = [], 0
    for i in range(iterations):
        progress = 1 - math.exp(-i / 9)
        success = float(np.clip(0.54 + 0.42 * progress + rng.normal(0, 0.04), 0, 1))
        episode_steps = 141 - 45 * progress + rng.normal(0, 3)
        env_steps += int(64 * episode_steps)
        share = float(0.6 - 0.2 * progress + rng.normal(0, 0.02))
        row = {
            "iteration": i,
            "env_steps": env_steps,
            "critic_warmup": int(i == 0),
            "charts/success_rate": success,
            "charts/episode_steps": float(episode_steps),
            "charts/reward": success,
            "rollout/entropy": 1.9 - 1.2 * progress,
            "losses/value_loss": 0.1,
            "losses/explained_variance": 0.75 * progress + rng.normal(0, 0.03),
            "time/rollout": 8.4,
            "time/learn": 6.5,
            "time/validation": 0.0,
            "time/rest": 0.1,
            "time/total": 15.0,
            "time/env_steps_per_second": 800.0,
        }
        for task, value in (("1", share), ("8", 1 - share)):
            row[f"curriculum/probability/{task}"] = value
            row[f"curriculum/success/{task}"] = min(1.0, success + (0.05 if task == "8" else -0.05))
        if i:
            row |= {
                "losses/approx_kl": float(0.012 + rng.normal(0, 0.002)),
                "losses/clipfrac": float(0.11 + rng.normal(0, 0.01)),
                "losses/grad_norm": float(1.4 + rng.normal(0, 0.2)),
            }
        if i % 4 == 0:
            validated = round(40 * min(1.0, success))
            row |= {
                "evaluation/validation_success": validated / 40,
                "evaluation/validation_successes": validated,
                "evaluation/validation_episodes": 40,
            }
        rows.append(row)
    return rows


def write_run_folder(folder: Path) -> Path:
    (folder / "videos").mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary()))
    config = {"recipe": "quickstart", "seed": 0, "env": {"task_suite": "libero_goal", "task_ids": [1, 8]}}
    (folder / "config.json").write_text(json.dumps(config))
    metrics, sft = JsonlSink(folder / "metrics.jsonl"), JsonlSink(folder / "sft_metrics.jsonl", step_key="step")
    for row in metric_rows():
        metrics.log(row, row["iteration"])
    for step in range(50, 1501, 50):
        loss = 1.2 + 3 * math.exp(-step / 300)
        sft.log({"step": step, "losses/train_loss": loss, "losses/validation_loss": loss + 0.1}, step)
    entries = []
    for task, instruction in INSTRUCTIONS.items():
        name = f"task_{task}_start_03.mp4"
        frames = [moving_square(count) for count in (30, 20)]
        both = side_by_side(*frames, before_success=False, after_success=True, start_index=3, size=96, hold=5)
        write_mp4(folder / "videos" / name, both, fps=13.3)
        entries.append(
            {
                "file": name,
                "task_id": int(task),
                "instruction": instruction,
                "start_index": 3,
                "before_success": False,
                "after_success": True,
            }
        )
    (folder / "videos/index.json").write_text(json.dumps(entries))
    return folder


def moving_square(num_frames: int, size: int = 64) -> np.ndarray:
    """[num_frames, size, size, 3] uint8: a bright square that moves to the right over grey."""
    frames = np.full((num_frames, size, size, 3), 90, dtype=np.uint8)
    for i in range(num_frames):
        frames[i, 20:30, i : i + 10] = (240, 200, 40)
    return frames


@pytest.fixture
def run_folder(tmp_path):
    return write_run_folder(tmp_path / "run")
