"""Makes the runs of a study that have no record yet; SFT is shared by all that start from the same."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vlarl.configs.training import TrainConfig
from vlarl.errors import NonFiniteError
from vlarl.files import atomic_folder
from vlarl.recipes import make_recipe
from vlarl.reporting.progress import Console
from vlarl.studies.base import Job, Study
from vlarl.studies.elsewhere import evaluate_elsewhere
from vlarl.studies.process_reward import with_reward_model
from vlarl.studies.records import Record, check_comparable, fingerprint, load_record, make_record, save_record
from vlarl.training.run import Run
from vlarl.training.run_folder import RunFolder

Jobs = Mapping[tuple[str, int], Job]
"""(variant, seed) -> run."""


def study_jobs(study: Study, recipe: str, seeds: Sequence[int], iterations: int | None = None) -> Jobs:
    """All runs of a study; `iterations` replaces the recipe's number of PPO iterations."""
    jobs = {}
    # Seed by seed: what is there first compares all variants.
    for seed in seeds:
        base = replace(make_recipe(recipe), seed=seed)
        if iterations is not None:
            base = replace(base, ppo=replace(base.ppo, num_iterations=iterations))
        for variant in study.variants:
            jobs[variant.name, seed] = study.job(base, variant)
    return jobs


def find_records(jobs: Jobs, results: Path) -> dict[tuple[str, int], Record]:
    """The records that exist.

    Raises:
        UserError: runs that cannot be compared.
    """
    found = {key: load_record(results, fingerprint(job.config, job.env)) for key, job in jobs.items()}
    records = {key: record for key, record in found.items() if record is not None}
    check_comparable(records.values())
    return records


def run_study(jobs: Jobs, output: Path, results: Path, console: Console) -> dict[tuple[str, int], Record]:
    """Makes every missing run, each resumable, and returns all records. A crashed run is recorded as such."""
    records = find_records(jobs, results)
    for number, ((variant, seed), job) in enumerate(jobs.items(), 1):
        name = fingerprint(job.config, job.env)
        # Variants may come to the same configuration, and studies share runs.
        known = records.get((variant, seed)) or load_record(results, name)
        training = load_record(results, fingerprint(job.config)) if known is None else None
        if training is not None and training.error is not None:
            # It would crash again, for every environment it is to be evaluated in.
            known = replace(training, fingerprint=name)
            save_record(known, results)
        if known is None:
            console.line(f"run {number} of {len(jobs)}: {variant}, seed {seed} ({name})")
            known = run_one(job, output, console)
            save_record(known, results)
        records[variant, seed] = known
    check_comparable(records.values())
    return records


def run_one(job: Job, output: Path, console: Console) -> Record:
    """One run from SFT to its evaluation; an interrupted one goes on."""
    config = job.config
    folder, resolved = RunFolder(output / "runs" / fingerprint(config)), with_reward_model(config, output, console)
    if not folder.sft_policy.is_dir():
        _copy_sft(_shared_sft(config, output, console), folder, resolved)
    error, seconds = None, None
    with Run(folder, resolved, console) as run:
        try:
            run.train()
            run.evaluate("rl", modes=("greedy",))
        except NonFiniteError as failure:
            console.line(f"crashed: {failure}")
            error = str(failure)
    if job.is_elsewhere and error is None:
        seconds = evaluate_elsewhere(job, folder, console)
    return make_record(job, folder, error, seconds)


def _shared_sft(config: TrainConfig, output: Path, console: Console) -> RunFolder:
    """The run folder of the SFT that this configuration starts from, trained and evaluated once."""
    start = replace(
        make_recipe(config.recipe),
        **{name: getattr(config, name) for name in ("seed", "exact", "env", "policy", "demonstrations", "sft")},
        evaluation=config.evaluation,
    )
    folder = RunFolder(output / "sft" / fingerprint(start))
    with Run(folder, start, console) as run:
        run.train_sft()
        run.evaluate("sft", modes=("greedy",))
    return folder


def _copy_sft(source: RunFolder, folder: RunFolder, config: TrainConfig) -> None:
    folder.claim(config)
    shutil.copytree(source.evaluations, folder.evaluations, dirs_exist_ok=True)
    # Last and complete: the policy is what a resumed run looks for.
    with atomic_folder(folder.sft_policy) as part:
        shutil.copytree(source.sft_policy, part, dirs_exist_ok=True)
