"""Evaluation of a policy in an environment of its own, outside of a run."""

import numpy as np

from vlarl.configs.env import EnvConfig
from vlarl.envs.base import environment_module, make_spec
from vlarl.envs.vector import VectorEnv
from vlarl.evaluation.protocol import Evaluation, evaluate
from vlarl.inference.local import LocalGenerator
from vlarl.policies.vla import VLAPolicy
from vlarl.reporting.progress import Console
from vlarl.rollout.collector import Collector
from vlarl.system import require_rendering
from vlarl.types import Split, Start


def evaluate_policy(
    policy: VLAPolicy,
    env: EnvConfig,
    console: Console,
    *,
    label: str,
    episodes_per_task: int,
    split: Split = "evaluation",
    temperature: float = 0.0,
) -> tuple[Evaluation, dict[Start, np.ndarray]]:
    """Builds what the environment lacks, opens it and evaluates; returns what `evaluate` does.

    Args:
        policy: as it is.
        env: its tasks are evaluated.
        console: shows a progress bar.
        label: of the bar.
        episodes_per_task: starts.
        split: which starts.
        temperature: of sampling; 0 decodes greedily.

    Raises:
        MissingSystemLibraryError: the environment renders, and rendering does not work.
        UserError: an environment that cannot be built, or that the policy cannot read.
    """
    spec = make_spec(env)
    if spec.needs_rendering:
        require_rendering()
    environment_module(env.name).prepare(env, console.line)
    total = episodes_per_task * len(env.task_ids)
    with VectorEnv(env) as envs, console.episodes(label, total) as progress:
        return evaluate(
            Collector(envs, env.replan_steps),
            LocalGenerator(policy, temperature or 1.0),
            spec,
            task_ids=env.task_ids,
            split=split,
            episodes_per_task=episodes_per_task,
            temperature=temperature,
            progress=progress,
        )
