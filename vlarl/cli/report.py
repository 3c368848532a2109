"""`vlarl report DIR`: writes summary.json and report.html from what the run folder holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from vlarl.cli.options import parse, print_json
from vlarl.errors import UserError
from vlarl.reporting.progress import Console
from vlarl.reporting.report import write_report
from vlarl.training.run_folder import RunFolder, load_env_config, read_json


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Writes report.html of a run folder, from its files alone."""

    folder: tyro.conf.Positional[Path]
    """Run folder."""
    failures: bool = False
    """Replay the failed episodes first: the report counts them by segment of the task, before and after RL, with a
    video of each kind."""
    json: bool = False
    """Print the run's summary as JSON."""


def main(command: str, argv: Sequence[str]) -> int:
    """Writes and prints the path."""
    options = parse(ReportOptions, argv, command)
    if options.failures:
        _find_failures(RunFolder(options.folder))
    path = write_report(options.folder)
    if options.json:
        print_json(read_json(RunFolder(options.folder).summary) | {"report": str(path)})
    else:
        print(path)
    return 0


def _find_failures(folder: RunFolder) -> None:
    config = load_env_config(folder.rl_policy)
    if config is None:
        raise UserError(f"{folder.root} holds no run: make one with `vlarl quickstart --output {folder.root}`")
    # Needs the simulator; a report alone does not.
    from vlarl.envs.base import environment_module
    from vlarl.training.failures import write_failures

    console = Console()
    environment_module(config.name).prepare(config, console.line)
    write_failures(folder, config, console)
