"""Data for the reward model: a policy's episodes with a frame of every env step, and recorded ones drawn anew."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vlarl.configs.env import EnvConfig
from vlarl.data.episodes import Episode
from vlarl.data.libero_hdf5 import Demonstration, demonstration_path, write_demonstrations
from vlarl.envs.base import Progress, environment_module, make_spec
from vlarl.envs.libero.tasks import load_task, num_tasks
from vlarl.envs.vector import VectorEnv
from vlarl.errors import UserError, check_names
from vlarl.experts.recording import describe_task, replay
from vlarl.inference.base import ActionGenerator
from vlarl.rollout.collector import Collector
from vlarl.types import Start, WorkItem


def record_rollouts(
    config: EnvConfig, generator: ActionGenerator, episodes_per_task: int, seed: int, folder: Path, progress: Progress
) -> dict[str, dict[str, int]]:
    """Lets a policy act from training starts and writes `<task name>_demo.hdf5` for each task, failures too.

    An episode is a function of its start and its actions: it is collected as in RL, then repeated with a frame of every
    env step. Evaluation starts stay unseen.

    Args:
        config: of the environments; `task_ids` are recorded.
        generator: samples the actions.
        episodes_per_task: at most as many as there are training starts.
        seed: of the starts and of sampling.
        folder: where the files go.
        progress: called with a line per task.

    Returns:
        task id as text -> episodes and successes.

    Raises:
        UserError: another environment than LIBERO, or more episodes than starts.
    """
    if config.name != "libero":
        raise UserError(f"rollouts are recorded in LIBERO's layout, env.name is {config.name!r}")
    count = make_spec(config).num_starts["train"]
    if not 1 <= episodes_per_task <= count:
        raise UserError(f"--episodes must be 1 to {count}, the training starts of a task, got {episodes_per_task}")
    environment_module(config.name).prepare(config, progress)
    starts = {t: np.random.default_rng([seed, t]).permutation(count)[:episodes_per_task] for t in config.task_ids}
    items = [
        WorkItem(trajectory_index=number, start=Start(task_id=t, split="train", index=int(index)), seed=seed)
        for number, (t, index) in enumerate((t, index) for t, indices in starts.items() for index in indices)
    ]
    with VectorEnv(config) as envs:
        rollout = Collector(envs, config.replan_steps).collect(generator, items)
    (slot,) = environment_module(config.name).make_environments(config, 1)
    result = {}
    for task_id in config.task_ids:
        chosen = [m for m, item in enumerate(rollout.items) if item.start.task_id == task_id]
        repeated = [replay(slot, rollout.items[m].start, rollout.actions_of(m)) for m in chosen]
        task = load_task(config.task_suite, task_id)
        write_demonstrations(demonstration_path(folder, task.name), repeated, describe_task(task))
        result[str(task_id)] = {"episodes": len(repeated), "successes": _count_successes(repeated)}
        progress(f"{task.name}: {len(repeated)} episodes, {_count_successes(repeated)} successes")
    return result


def render_again(config: EnvConfig, episodes: Sequence[Episode], folder: Path, progress: Progress) -> dict[str, int]:
    """Draws the frames of recorded episodes anew from their states, in the profile and size of `config`.

    Fixtures stand where the episode's start has them; those of foreign episodes, whose start is not ours, where the
    first evaluation start has them.

    Args:
        config: of the environments; `task_suite` is the episodes'.
        episodes: with the simulator's states.
        folder: where `<task name>_demo.hdf5` goes for each task.
        progress: called with a line per task.

    Returns:
        task name -> episodes.

    Raises:
        UserError: episodes without states, or of a task that the suite does not have.
    """
    tasks = {load_task(config.task_suite, t).instruction: t for t in range(num_tasks(config.task_suite))}
    check_names(f"instruction of {config.task_suite}", [e.instruction for e in episodes], tasks)
    config = replace(config, task_ids=tuple(sorted({tasks[e.instruction] for e in episodes})))
    environment_module(config.name).prepare(config, progress)
    (slot,) = environment_module(config.name).make_environments(config, 1)
    written = {}
    for task_id in config.task_ids:
        task = load_task(config.task_suite, task_id)
        drawn = [_draw(slot, task_id, e) for e in episodes if tasks[e.instruction] == task_id]
        write_demonstrations(demonstration_path(folder, task.name), drawn, describe_task(task))
        written[task.name] = len(drawn)
        progress(f"{task.name}: {len(drawn)} episodes")
    return written


def _draw(slot: Any, task_id: int, episode: Episode) -> Demonstration:  # noqa: ANN401 - LiberoEnvironment
    if episode.states.shape[1] == 0:
        raise UserError(f"episodes of {episode.instruction!r} have no states of the simulator: nothing can be drawn")
    # A start of ours names the task by its number in the suite, a foreign one by another.
    own = episode.start.task_id == task_id
    slot.begin(episode.start if own else Start(task_id=task_id, split="evaluation", index=0))
    images, positions, rotations = [], [], []
    for state in episode.states:
        slot.set_state(state)
        images.append(slot.observe().image)
        positions.append(slot.ee_position)
        rotations.append(slot.ee_rotation)
    return Demonstration(
        episode=replace(episode, images=np.stack(images), start=replace(episode.start, task_id=task_id)),
        ee_positions=np.stack(positions),
        ee_rotations=np.stack(rotations),
    )


def _count_successes(recorded: list[Demonstration]) -> int:
    return sum(d.episode.success for d in recorded)
