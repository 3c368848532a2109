"""Prints the Markdown tables of docs/results.md from run folders: python scripts/results_table.py RUN [RUN ...]."""

import json
import sys
from pathlib import Path
from typing import Any


def rate(value: dict[str, Any]) -> str:
    """Counts, rate and interval."""
    low, high = value["ci95"]
    return f"{value['successes']}/{value['episodes']} = {value['success_rate']:.0%} ({low:.0%} to {high:.0%})"


def lift(value: dict[str, Any]) -> str:
    """Points, interval and p."""
    low, high = value["ci95"]
    return f"{value['points']:+.0f} ({low:+.0f} to {high:+.0f}), p = {value['p_value']:.1g}"


def main(folders: list[str]) -> None:
    """Prints success, then probes, then cost."""
    summaries = [json.loads((Path(folder) / "summary.json").read_text()) for folder in folders]
    print("| seed | decoding | SFT | RL | lift, points |\n|---|---|---|---|---|")
    for s in summaries:
        print(f"| {s['seed']} | greedy | {rate(s['sft'])} | {rate(s['rl'])} | {lift(s['lift']['greedy'])} |")
        sampled = s["sft"]["sampled"], s["rl"]["sampled"]
        print(f"| {s['seed']} | sampled | {rate(sampled[0])} | {rate(sampled[1])} | {lift(s['lift']['sampled'])} |")
    print("\n| seed | probe (greedy, RL) | success |\n|---|---|---|")
    for s in summaries:
        for name, value in s["probes"]["greedy"].items():
            print(f"| {s['seed']} | {name.replace('_', ' ')} | {rate(value)} |")
    print("\n| seed | wall time | env steps | env steps/s | rollout / learning / rest | memory |")
    print("|---|---|---|---|---|---|")
    for s in summaries:
        split = " / ".join(f"{s['time_split'][k]:.0%}" for k in ("rollout", "learning", "rest"))
        print(
            f"| {s['seed']} | {s['wall_seconds']['total'] / 60:.1f} min | {s['env_steps']} |"
            f" {s['env_steps_per_second']:.0f} | {split} | {s['peak_rss_bytes'] / 2**30:.1f} GiB |"
        )
    print("\n| phase | " + " | ".join(f"seed {s['seed']}, s" for s in summaries) + " |")
    print("|---|" + "---|" * len(summaries))
    for phase in summaries[0]["wall_seconds"]:
        cells = [f"{s['wall_seconds'].get(phase, 0.0):.0f}" for s in summaries]
        print(f"| {phase.replace('_', ' ')} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
