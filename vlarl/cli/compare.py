"""`vlarl compare RUN RUN ...`: what runs differ in, and their success on the same starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from vlarl.cli.options import parse, print_json
from vlarl.files import write_text
from vlarl.reporting.comparison import STAGES, render_comparison
from vlarl.training.comparison import compare_runs
from vlarl.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Compares runs with the first of them on the same starts, with 95 % intervals and McNemar's test."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, at least two."""
    output: Path | None = None
    """File for a self-contained page with the table and the learning curves, HTML."""
    json: bool = False
    """Print the comparison as JSON."""


def main(command: str, argv: Sequence[str]) -> int:
    """Compares and prints."""
    options = parse(CompareOptions, argv, command)
    folders = [RunFolder(folder) for folder in options.folders]
    comparison = compare_runs(folders)
    if options.output:
        write_text(options.output, render_comparison(comparison, [folder.history() for folder in folders]))
    if options.json:
        print_json(comparison)
    else:
        print("\n".join(_table(comparison)))
        if options.output:
            print(options.output)
    return 0


def _table(comparison: Mapping[str, Any]) -> list[str]:
    runs = comparison["runs"]
    width = max(len(run["folder"]) for run in runs)
    lines = [f"{'run':<{width}}  {'policy':<14} {'success':>8} {'rate':>6}   {'95 % interval':<16} minus the first run"]
    for name, label in STAGES:
        lines += [_row(run, name, label, width) for run in runs if name in run["evaluations"]]
    for run in runs[1:]:
        lines.append(f"{run['folder']} differs in {', '.join(run['differs']) or 'nothing'}")
    versions = [run["folder"] for run in runs if not _is_same_simulator(run)]
    if versions:
        lines.append(f"warning: simulated by other versions than {runs[0]['folder']}: {', '.join(versions)}")
    return lines


def _row(run: Mapping[str, Any], name: str, label: str, width: int) -> str:
    value = run["evaluations"][name]
    low, high = value["ci95"]
    counts, interval = f"{value['successes']}/{value['episodes']}", f"{low:.1%} to {high:.1%}"
    line = f"{run['folder']:<{width}}  {label:<14} {counts:>8} {value['success_rate']:6.1%}   {interval:<16}"
    if "difference" in value:
        difference = value["difference"]
        low, high = difference["ci95"]
        line += f" {difference['points']:+.1f} points ({low:+.1f} to {high:+.1f}), p = {difference['p_value']:.2g}"
    return line.rstrip()


def _is_same_simulator(run: Mapping[str, Any]) -> bool:
    return all(v["difference"]["same_simulator"] for v in run["evaluations"].values() if "difference" in v)
