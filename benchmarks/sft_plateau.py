"""Is the quickstart's SFT starved? Trains with the recipe's steps and with twice as many, and evaluates both.

    python benchmarks/sft_plateau.py [--seed 0] [--steps 700 1000 1400 2000] [--output runs/sft_plateau] [--json]

Success on the validation starts (50 per task), greedy and sampled. RL must not shine because SFT was cut short:
doubling the steps should gain less than 5 points. Everything is kept in the output folder and nothing is done twice.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from vlarl.configs.training import TrainConfig
from vlarl.evaluation.protocol import compare, evaluate
from vlarl.policies.checkpoint import load_policy
from vlarl.recipes import quickstart
from vlarl.reporting.progress import Console
from vlarl.training.build import make_generator
from vlarl.training.run import Run
from vlarl.training.run_folder import RunFolder

MODES = ("greedy", "sampled")


def measure(config: TrainConfig, output: Path, console: Console) -> dict:
    """Trains (if needed) and evaluates on validation starts; returns mode -> Evaluation."""
    with Run(RunFolder(output), config, console) as run:
        run.train_sft()
        policy = load_policy(run.folder.sft_policy)
        results = {}
        for mode in MODES:
            total = run.spec.num_starts["validation"] * len(config.env.task_ids)
            with console.episodes(f"{config.sft.num_steps} steps, {mode}", total) as progress:
                results[mode], _ = evaluate(
                    run.collector,
                    make_generator(config, policy),
                    run.spec,
                    task_ids=config.env.task_ids,
                    split="validation",
                    episodes_per_task=run.spec.num_starts["validation"],
                    temperature=0.0 if mode == "greedy" else config.ppo.temperature,
                    progress=progress,
                )
        return results


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    parser.add_argument("--steps", type=int, nargs="+", help="SFT steps; default: the recipe's and twice as many")
    parser.add_argument("--output", type=Path, default=Path("runs/sft_plateau"), help="folder of the runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = quickstart(seed=options.seed)
    counts = options.steps or [config.sft.num_steps, 2 * config.sft.num_steps]
    measured = {}
    for count in counts:
        changed = replace(config, sft=replace(config.sft, num_steps=count))
        measured[count] = measure(changed, options.output / f"seed_{options.seed}_{count}", Console())
    success = {mode: {count: measured[count][mode].summary() for count in counts} for mode in MODES}
    gains = {
        mode: {
            count: compare(measured[count][mode], measured[2 * count][mode]) for count in counts if 2 * count in counts
        }
        for mode in MODES
    }
    if options.json:
        print(json.dumps({"success": success, "gain of doubling": gains}, indent=2))
        return
    for mode in MODES:
        for count, row in success[mode].items():
            low, high = row["ci95"]
            print(f"{mode:<8} {count} steps: {row['successes']}/{row['episodes']}, 95 % {low:.0%} to {high:.0%}")
        for count, gain in gains[mode].items():
            low, high = gain["ci95"]
            print(f"{mode:<8} doubling {count} steps: {gain['points']:+.0f} points, 95 % {low:+.0f} to {high:+.0f}")


if __name__ == "__main__":
    main()
