"""`vlarl quickstart`: the main job, end to end."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlarl.cli.options import parse, print_json
from vlarl.configs.training import TrainConfig
from vlarl.doctor import run_checks
from vlarl.recipes import quickstart
from vlarl.reporting.progress import Console
from vlarl.reporting.report import write_report
from vlarl.training.run import Run
from vlarl.training.run_folder import RunFolder
from vlarl.training.summary import write_summary


@dataclass(frozen=True, kw_only=True)
class QuickstartOptions:
    """Teaches a small VLA policy LIBERO tasks by demonstrations, improves it by PPO, and reports before and after.

    The same command after an interruption goes on where it stopped.
    """

    output: Path = Path("runs/quickstart")
    """Run folder."""
    seed: int = 0
    """Seed of everything random."""
    task_suite: str | None = None
    """LIBERO suite, for example libero_object; default: the recipe's."""
    task_ids: tuple[int, ...] | None = None
    """Tasks of the suite, for example 0 8; default: the suite's quickstart tasks."""
    minutes: float | None = None
    """Cap on the run's wall time, minutes: PPO ends early, or does not begin, so that evaluation and report fit;
    demonstrations and SFT are not cut short."""
    json: bool = False
    """Print summary.json on standard output."""


def main(command: str, argv: Sequence[str]) -> int:
    """Runs the job and prints where the report is."""
    options = parse(QuickstartOptions, argv, command)
    config = quickstart(seed=options.seed, task_suite=options.task_suite, task_ids=options.task_ids)
    console = Console()
    summary, report = run_quickstart(RunFolder(options.output), config, console, options.minutes)
    if options.json:
        print_json(summary)
    else:
        for line in headline(summary):
            console.line(line)
        print(f"report: {report}")
    return 0


def run_quickstart(
    folder: RunFolder, config: TrainConfig, console: Console, minutes: float | None
) -> tuple[dict[str, Any], Path]:
    """Doctor, demonstrations, SFT, evaluation, PPO, evaluation, report; returns the summary and the report's path."""
    # Bad input ends here, before the doctor's seconds.
    prepared = Run(folder, config, console, minutes)
    for check in run_checks():
        if not check.ok:
            console.line(f"doctor: {check.name}: {check.detail}. {check.fix}")
    with prepared as run:
        run.collect_demonstrations()
        run.train_sft()
        run.evaluate("sft")
        run.train()
        run.evaluate("rl")
        run.probe()
        run.make_videos()
        with run.phase("report"):
            write_summary(folder, config, run.spec)
            report = write_report(folder.root)
        summary = write_summary(folder, config, run.spec)
    return summary, report


def headline(summary: dict[str, Any]) -> list[str]:
    """The result in three lines."""
    lines = []
    for mode in ("greedy", "sampled"):
        before, after = (summary[s] if mode == "greedy" else summary[s]["sampled"] for s in ("sft", "rl"))
        lift = summary["lift"][mode]
        lines.append(
            f"{mode}: {before['success_rate']:.0%} -> {after['success_rate']:.0%} of {after['episodes']} starts,"
            f" {lift['points']:+.0f} points (95 % interval {lift['ci95'][0]:+.0f} to {lift['ci95'][1]:+.0f},"
            f" p = {lift['p_value']:.2g})"
        )
    wall = summary["wall_seconds"]["total"] / 60
    lines.append(
        f"{summary['env_steps']} env steps, {wall:.1f} minutes, {summary['peak_rss_bytes'] / 2**30:.1f} GiB"
        + (", truncated by --minutes" if summary["truncated_by_time"] else "")
    )
    return lines
