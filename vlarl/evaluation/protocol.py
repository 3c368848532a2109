"""Evaluation on fixed starts under the suite's protocol limit, greedy or sampled."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlarl.envs.base import SIMULATOR_PACKAGES, EnvSpec
from vlarl.errors import UserError
from vlarl.evaluation.statistics import mcnemar_p_value, paired_difference_interval, wilson_interval
from vlarl.files import write_text
from vlarl.inference.base import ActionGenerator
from vlarl.rollout.collector import Collector, ObservationTransform, ProgressFn
from vlarl.system import package_version
from vlarl.types import EpisodeResult, Observation, Split, Start, WorkItem

EVALUATION_SEED = 20_250_518
"""Seed of sampled evaluations: the same noise for every policy that is compared."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Outcomes of one policy on one set of starts, sorted by (task_id, start index)."""

    temperature: float
    """0 is greedy."""
    episodes: tuple[EpisodeResult, ...]
    env_steps: int
    simulator: Mapping[str, str | None] = field(default_factory=dict)
    """Versions of the packages that decide what is simulated; MuJoCo's alone moves published averages by points."""

    @property
    def successes(self) -> np.ndarray:
        """[episodes] bool."""
        return np.array([e.success for e in self.episodes], dtype=bool)

    def summary(self) -> dict[str, Any]:
        """JSON-able counts with Wilson 95 % intervals, pooled and per task."""
        tasks = sorted({e.start.task_id for e in self.episodes})
        per_task = {str(t): rate([e.success for e in self.episodes if e.start.task_id == t]) for t in tasks}
        mean_steps = float(np.mean([e.steps for e in self.episodes]))
        return {
            **rate(self.successes),
            "temperature": self.temperature,
            "mean_episode_steps": mean_steps,
            "per_task": per_task,
            "simulator": dict(self.simulator),
        }

    def save(self, path: Path) -> None:
        """Writes every episode's outcome as JSON, atomically."""
        rows = [[e.start.task_id, e.start.split, e.start.index, bool(e.success), int(e.steps)] for e in self.episodes]
        fields = {"temperature": self.temperature, "env_steps": self.env_steps, "simulator": dict(self.simulator)}
        write_text(path, json.dumps(fields | {"episodes": rows}))

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """Inverse of save.

        Raises:
            UserError: the file is missing, or is no evaluation.
        """
        if not path.is_file():
            raise UserError(f"{path} does not exist: `vlarl evaluate --output {path}` writes one")
        try:
            raw = json.loads(path.read_text())
            return cls(
                temperature=raw["temperature"],
                episodes=tuple(
                    EpisodeResult(start=Start(task_id=t, split=split, index=i), success=success, steps=steps)
                    for t, split, i, success, steps in raw["episodes"]
                ),
                env_steps=raw["env_steps"],
                simulator=raw["simulator"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is damaged or no evaluation ({error}): delete it, the same command writes it again"
            ) from error


def rate(successes: Sequence[bool] | np.ndarray) -> dict[str, Any]:
    """Counts, rate and Wilson 95 % interval."""
    count, episodes = int(np.sum(successes)), len(successes)
    low, high = wilson_interval(count, episodes)
    return {"successes": count, "episodes": episodes, "success_rate": count / episodes, "ci95": [low, high]}


def compare(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """Paired comparison on the same starts: lift in points with a 95 % interval, and McNemar's p.

    `differing_episodes` counts the starts whose outcome is not the same: 0 for one policy on other slots and workers.
    `same_simulator` is False where packages of other versions simulated the two, and figures may differ for that alone.

    Raises:
        UserError: the two were evaluated on different starts.
    """
    if [e.start for e in before.episodes] != [e.start for e in after.episodes]:
        raise UserError("the two evaluations have different starts: evaluate both on the same task_ids and episodes")
    low, high = paired_difference_interval(before.successes, after.successes)
    return {
        "points": 100 * float(after.successes.mean() - before.successes.mean()),
        "ci95": [100 * low, 100 * high],
        "p_value": mcnemar_p_value(before.successes, after.successes),
        "differing_episodes": int(np.sum(before.successes != after.successes)),
        "same_simulator": dict(before.simulator) == dict(after.simulator),
    }


def evaluation_items(task_ids: Sequence[int], split: Split, episodes_per_task: int) -> tuple[WorkItem, ...]:
    """The fixed work list: the first `episodes_per_task` starts of the split, task by task."""
    starts = [Start(task_id=t, split=split, index=i) for t in sorted(task_ids) for i in range(episodes_per_task)]
    return tuple(
        WorkItem(trajectory_index=index, start=start, seed=EVALUATION_SEED) for index, start in enumerate(starts)
    )


def evaluate(
    collector: Collector,
    generator: ActionGenerator,
    spec: EnvSpec,
    *,
    task_ids: Sequence[int],
    split: Split,
    episodes_per_task: int,
    temperature: float,
    transform: ObservationTransform | None = None,
    progress: ProgressFn | None = None,
) -> tuple[Evaluation, dict[Start, np.ndarray]]:
    """Evaluates a policy.

    Args:
        collector: owns the environments.
        generator: samples at `temperature` when that is not 0.
        spec: of the environments.
        task_ids: tasks to evaluate.
        split: "evaluation" for figures, "validation" for choices.
        episodes_per_task: starts per task.
        temperature: 0 for greedy decoding, else the generator's temperature.
        transform: changes the observations (probes).
        progress: called as episodes end.

    Returns:
        The outcomes, and the executed actions [steps, action_dim] of every episode.

    Raises:
        UserError: more episodes than the split has starts.
    """
    check_num_starts(spec, split, "episodes per task", episodes_per_task)
    items = evaluation_items(task_ids, split, episodes_per_task)
    rollout = collector.collect(generator, items, greedy=temperature == 0, transform=transform, progress=progress)
    steps = rollout.episode_steps
    episodes = tuple(
        EpisodeResult(start=item.start, success=bool(success), steps=int(count))
        for item, success, count in zip(rollout.items, rollout.success, steps, strict=True)
    )
    actions = {episode.start: rollout.actions_of(m) for m, episode in enumerate(episodes)}
    result = Evaluation(
        temperature=temperature,
        episodes=episodes,
        env_steps=int(steps.sum()),
        simulator={name: package_version(name) for name in SIMULATOR_PACKAGES},
    )
    return result, actions


def check_num_starts(spec: EnvSpec, split: Split, name: str, episodes_per_task: int) -> None:
    """Checks that a split has as many starts as the setting `name` asks for.

    Raises:
        UserError: it has fewer.
    """
    if episodes_per_task > spec.num_starts[split]:
        raise UserError(
            f"{name} {episodes_per_task} is more than the {spec.num_starts[split]} {split} starts of a task"
        )


def swap_instructions(instructions: Mapping[int, str]) -> ObservationTransform:
    """Probe: every task's instruction is replaced by the next task's."""
    names = [instructions[t] for t in sorted(instructions)]
    other = dict(zip(names, names[1:] + names[:1], strict=True))

    def transform(observations: Observation) -> Observation:
        return Observation(
            images=observations.images,
            proprio=observations.proprio,
            instructions=tuple(other[i] for i in observations.instructions),
        )

    return transform


def blank_images(observations: Observation) -> Observation:
    """Probe: the camera shows uniform grey."""
    return Observation(
        images=np.full_like(observations.images, 127),
        proprio=observations.proprio,
        instructions=observations.instructions,
    )
