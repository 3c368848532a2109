"""Evaluation of a finished run's policies in another environment than they were trained in."""

import time

from vlarl.policies.checkpoint import load_policy
from vlarl.reporting.progress import Console
from vlarl.studies.base import Job
from vlarl.studies.records import evaluation_file
from vlarl.training.policy_evaluation import evaluate_policy
from vlarl.training.run_folder import RunFolder


def evaluate_elsewhere(job: Job, folder: RunFolder, console: Console) -> float:
    """Evaluates SFT and RL, greedily, on the evaluation starts; returns the seconds it took. What is there stays.

    Raises:
        MissingSystemLibraryError: the environment renders, and rendering does not work.
        UserError: the policies cannot read the environment's instructions.
    """
    started = time.monotonic()
    for stage, policy in (("sft", folder.sft_policy), ("rl", folder.rl_policy)):
        path = evaluation_file(job, folder, stage)
        if not path.is_file():
            result, _ = evaluate_policy(
                load_policy(policy),
                job.env,
                console,
                label=f"evaluation elsewhere, {stage}",
                episodes_per_task=job.config.evaluation.episodes_per_task,
            )
            result.save(path)
    return time.monotonic() - started
