"""`vlarl report DIR`: writes summary.json and report.html from what the run folder holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from vlarl.cli.options import parse, print_json
from vlarl.reporting.report import write_report
from vlarl.training.run_folder import RunFolder, read_json


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Writes report.html of a run folder, from its files alone."""

    folder: tyro.conf.Positional[Path]
    """Run folder."""
    json: bool = False
    """Print the run's summary as JSON."""


def main(command: str, argv: Sequence[str]) -> int:
    """Writes and prints the path."""
    options = parse(ReportOptions, argv, command)
    path = write_report(options.folder)
    if options.json:
        print_json(read_json(RunFolder(options.folder).summary) | {"report": str(path)})
    else:
        print(path)
    return 0
