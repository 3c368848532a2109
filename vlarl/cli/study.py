"""`vlarl study NAME`: runs a declared grid of runs and judges the claims; `vlarl study --publish` writes the docs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from vlarl.cli.options import parse, print_json
from vlarl.errors import UserError
from vlarl.files import write_text
from vlarl.recipes import make_recipe
from vlarl.reporting.progress import Console
from vlarl.reporting.study_page import claims_markdown, render_study, study_markdown
from vlarl.studies.analysis import analyse
from vlarl.studies.registry import STUDIES, find_study
from vlarl.studies.runner import find_records, run_study, study_jobs

BEGIN, END = "<!-- vlarl study --publish: begin -->", "<!-- vlarl study --publish: end -->"


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Runs a study, each run once: finished ones are found by their configuration, an interrupted one goes on.

    Without a NAME, lists the studies.
    """

    name: tyro.conf.Positional[str | None] = None
    """Study."""
    recipe: str = "quickstart"
    """Recipe that the variants change."""
    seeds: int = 3
    """Seeds 0 to SEEDS - 1 of every variant."""
    iterations: int | None = None
    """PPO iterations of every run; None: the recipe's."""
    output: Path = Path("runs/studies")
    """Folder of the run folders and of the study's page."""
    results: Path = Path("docs/results/runs")
    """Folder of the records, one small JSON file per finished run."""
    table: bool = False
    """Run nothing: only show what the present records say."""
    publish: bool = False
    """Write the tables of all studies, from the records, into --document."""
    document: Path = Path("docs/results.md")
    """Markdown file with the markers between which --publish writes."""
    json: bool = False
    """Print the analysis as JSON."""


def main(command: str, argv: Sequence[str]) -> int:
    """Runs, prints, publishes."""
    options = parse(StudyOptions, argv, command)
    if options.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {options.seeds}")
    if options.iterations is not None and options.iterations < 1:
        raise UserError(f"--iterations must be at least 1, got {options.iterations}")
    if options.publish:
        _publish(options)
        return 0
    if options.name is None:
        print("\n".join(f"{study.name:<14}{study.question}" for study in STUDIES.values()))
        return 0
    study, seeds = find_study(options.name), range(options.seeds)
    jobs = study_jobs(study, options.recipe, seeds, options.iterations)
    if options.table:
        records = find_records(jobs, options.results)
    else:
        records = run_study(jobs, options.output, options.results, Console())
    analysis = analyse(study, seeds, records)
    page = options.output / f"{study.name}.html"
    write_text(page, render_study(analysis, _command(options, study.name)))
    if options.json:
        print_json(analysis)
    else:
        print(study_markdown(analysis, _command(options, study.name)))
        print(f"\n{claims_markdown([analysis])}\n\n{page}")
    return 0


def _command(options: StudyOptions, name: str) -> str:
    default = StudyOptions()
    words = ["vlarl", "study", name]
    for flag in ("recipe", "seeds", "iterations"):
        if getattr(options, flag) != getattr(default, flag):
            words += [f"--{flag}", str(getattr(options, flag))]
    return " ".join(words)


def _publish(options: StudyOptions) -> None:
    """Writes every study that has records of more than one variant between the markers of the document.

    Raises:
        UserError: the document is missing or lacks the markers.
    """
    text = options.document.read_text() if options.document.is_file() else ""
    if BEGIN not in text or END not in text:
        raise UserError(f"{options.document} lacks the lines `{BEGIN}` and `{END}`, between which the tables go")
    analyses: list[tuple[dict[str, Any], str]] = []
    environment = make_recipe(options.recipe).env.name
    for study in STUDIES.values():
        if study.environment not in (None, environment):
            continue
        jobs = study_jobs(study, options.recipe, range(options.seeds), options.iterations)
        records = find_records(jobs, options.results)
        # One variant alone is another study's run.
        if len({variant for variant, _ in records}) > 1:
            seeds = range(1 + max(seed for _, seed in records))
            command = _command(replace(options, seeds=len(seeds)), study.name)
            analyses.append((analyse(study, seeds, records), command))
    sections = [claims_markdown([analysis for analysis, _ in analyses])]
    sections += [study_markdown(analysis, command) for analysis, command in analyses]
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    write_text(options.document, f"{head}{BEGIN}\n" + "\n\n".join(sections) + f"\n{END}{tail}")
    print(options.document)
