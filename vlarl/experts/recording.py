"""One task's demonstrations: the scripted expert drives a slot, successes are kept and written."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from vlarl.configs.env import EnvConfig
from vlarl.configs.training import DemonstrationConfig
from vlarl.data.episodes import Episode
from vlarl.data.libero_hdf5 import Demonstration, DemonstrationTask, demonstration_path, write_demonstrations
from vlarl.envs.base import EnvObservation, Progress
from vlarl.envs.libero.tasks import LiberoTask, load_task
from vlarl.errors import UserError
from vlarl.experts.pushes import Pushes
from vlarl.experts.skills import ExpertStep, PrivilegedState
from vlarl.experts.tasks import ManipulationTask, make_expert
from vlarl.types import Start

MAX_ATTEMPTS_PER_DEMONSTRATION = 4
"""A task is given up after this many attempts per wanted demonstration."""


class DemonstrationSlot(PrivilegedState, Protocol):
    """An environment slot that an expert can drive: single env steps, privileged state."""

    @property
    def task(self) -> ManipulationTask:
        """Task of the current episode."""
        ...

    def reset(self, start: Start) -> EnvObservation:
        """Puts the slot into `start`."""
        ...

    def observe(self) -> EnvObservation:
        """Renders what a policy would see now."""
        ...

    def state(self) -> np.ndarray:
        """[S] float64, flattened simulator state."""
        ...

    def step_once(self, action: np.ndarray) -> bool:
        """Executes one action [7] without rendering; True once the task is solved."""
        ...


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """How the expert of one task did."""

    task: str
    attempts: int
    successes: int
    success_rate: float
    mean_steps: float
    """Env steps per kept demonstration."""
    file: str
    """File name in the demonstrations' folder."""


@dataclass(frozen=True, kw_only=True)
class CollectionJob:
    """What one worker process collects."""

    config: EnvConfig
    """`task_ids` are this worker's tasks."""
    demonstrations: DemonstrationConfig
    seed: int
    folder: Path
    max_steps: Mapping[int, int]
    num_starts: int


def collect_task(slot: DemonstrationSlot, task_id: int, job: CollectionJob, progress: Progress) -> TaskSummary:
    """Collects and writes the demonstrations of one task.

    Args:
        slot: any slot of the job's environment.
        task_id: one of the job's tasks.
        job: what to collect.
        progress: called with a line per demonstration.

    Raises:
        UserError: too few of the attempts succeed.
    """
    task = load_task(job.config.task_suite, task_id)
    wanted = job.demonstrations.episodes_per_task
    limit = min(MAX_ATTEMPTS_PER_DEMONSTRATION * wanted, job.num_starts)
    # A start is used once. SeedSequence ignores trailing zeros: the attempts count from 1.
    order = np.random.default_rng([job.seed, task_id]).permutation(job.num_starts)[:limit]
    kept: list[Demonstration] = []
    for attempt, index in enumerate(order, start=1):
        rng = np.random.default_rng([job.seed, task_id, attempt])
        start = Start(task_id=task_id, split="train", index=int(index))
        demonstration = record(slot, start, rng, job.demonstrations, job.max_steps[task_id])
        if demonstration.episode.success:
            kept.append(demonstration)
            progress(f"{task.name}: {len(kept)} of {wanted} demonstrations ({attempt} attempts)")
        if len(kept) == wanted:
            break
    else:
        raise UserError(
            f"the expert of {task.name} solved only {len(kept)} of {limit} training starts, {wanted} are wanted:"
            " lower demonstrations.episodes_per_task, raise env.max_episode_steps or choose another task"
        )
    path = demonstration_path(job.folder, task.name)
    write_demonstrations(path, kept, describe_task(task))
    return TaskSummary(
        task=task.name,
        attempts=attempt,
        successes=len(kept),
        success_rate=len(kept) / attempt,
        mean_steps=float(np.mean([len(d.episode.actions) for d in kept])),
        file=path.name,
    )


def record(
    slot: DemonstrationSlot, start: Start, rng: np.random.Generator, config: DemonstrationConfig, max_steps: int
) -> Demonstration:
    """Runs the expert from `start` until success, failure or `max_steps`, with an image of every env step."""
    seen = slot.reset(start)
    expert = make_expert(slot.task, rng, config.recovery_probability)
    pushes = Pushes(rng, config.action_noise)
    steps = (pushes.apply(expert.act(slot)) for _ in range(max_steps) if not expert.finished)
    return _record_steps(slot, start, seen, steps)


def replay(slot: DemonstrationSlot, start: Start, actions: np.ndarray) -> Demonstration:
    """Repeats an episode from its start and its executed actions [T, 7], with an image of every env step."""
    return _record_steps(slot, start, slot.reset(start), (ExpertStep(action=action) for action in actions))


def _record_steps(
    slot: DemonstrationSlot, start: Start, seen: EnvObservation, planned: Iterator[ExpertStep]
) -> Demonstration:
    """Executes steps, each planned in the state that it is executed in, until success or their end."""
    images, proprio, states, positions, rotations, steps = [], [], [], [], [], []
    success = False
    for step in planned:
        if steps:
            seen = slot.observe()
        images.append(seen.image)
        proprio.append(seen.proprio)
        states.append(slot.state())
        positions.append(slot.ee_position.copy())
        rotations.append(slot.ee_rotation.copy())
        steps.append(step)
        success = slot.step_once(step.action)
        if success:
            break
    episode = Episode(
        images=np.stack(images),
        proprio=np.stack(proprio),
        actions=np.stack([step.action for step in steps]),
        target_mask=np.array([not step.forced for step in steps]),
        states=np.stack(states),
        instruction=seen.instruction,
        start=start,
        success=success,
    )
    return Demonstration(episode=episode, ee_positions=np.stack(positions), ee_rotations=np.stack(rotations))


def describe_task(task: LiberoTask) -> DemonstrationTask:
    """Returns what LIBERO's files say of a task."""
    definition = task.bddl_file.read_text()
    return DemonstrationTask(
        name=task.name,
        instruction=task.instruction,
        problem_name=re.search(r"\(problem\s+(\w+)\)", definition)[1].lower(),
        bddl_file=f"{task.suite}/{task.bddl_file.name}",
        bddl_content=definition,
    )
