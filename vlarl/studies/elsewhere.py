"""Evaluation of a finished run's policies in another environment than they were trained in."""

import time

from vlarl.envs.base import environment_module, make_spec
from vlarl.envs.vector import VectorEnv
from vlarl.evaluation.protocol import evaluate
from vlarl.policies.checkpoint import load_policy
from vlarl.reporting.progress import Console
from vlarl.rollout.collector import Collector
from vlarl.studies.base import Job
from vlarl.studies.records import evaluation_file
from vlarl.system import require_rendering
from vlarl.training.build import make_generator
from vlarl.training.run_folder import RunFolder


def evaluate_elsewhere(job: Job, folder: RunFolder, console: Console) -> float:
    """Evaluates SFT and RL, greedily, on the evaluation starts; returns the seconds it took. What is there stays.

    Raises:
        MissingSystemLibraryError: the environment renders, and rendering does not work.
        UserError: the policies cannot read the environment's instructions.
    """
    spec, started = make_spec(job.env), time.monotonic()
    if spec.needs_rendering:
        require_rendering()
    environment_module(job.env.name).prepare(job.env, console.line)
    count = job.config.evaluation.episodes_per_task
    with VectorEnv(job.env) as envs:
        for stage, policy in (("sft", folder.sft_policy), ("rl", folder.rl_policy)):
            path = evaluation_file(job, folder, stage)
            if path.is_file():
                continue
            with console.episodes(f"evaluation elsewhere, {stage}", count * len(job.env.task_ids)) as progress:
                result, _ = evaluate(
                    Collector(envs, job.env.replan_steps),
                    make_generator(job.config, load_policy(policy)),
                    spec,
                    task_ids=job.env.task_ids,
                    split="evaluation",
                    episodes_per_task=count,
                    temperature=0.0,
                    progress=progress,
                )
            result.save(path)
    return time.monotonic() - started
