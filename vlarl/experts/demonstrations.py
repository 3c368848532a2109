"""Collects demonstrations with the scripted experts: in parallel over tasks, successes only, one HDF5 file per task."""

import os
import re
import signal
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vlarl.configs.env import EnvConfig
from vlarl.configs.training import DemonstrationConfig
from vlarl.data.episodes import Episode
from vlarl.data.libero_hdf5 import Demonstration, DemonstrationTask, demonstration_path, write_demonstrations
from vlarl.data.libero_published import read_published
from vlarl.envs.base import EnvObservation, Progress, environment_module, make_spec
from vlarl.envs.libero.tasks import STANDARD_LIMITS, LiberoTask, load_task, num_tasks
from vlarl.envs.vector import MAX_FAILURES, without_main
from vlarl.errors import UserError
from vlarl.experts.pushes import Pushes
from vlarl.experts.skills import PrivilegedState
from vlarl.experts.tasks import EXPERTS, ManipulationTask, make_expert
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


def collect_demonstrations(
    config: EnvConfig, demonstrations: DemonstrationConfig, seed: int, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Collects successful demonstrations from training starts and writes `<task name>_demo.hdf5` for each task.

    What is written depends on the configurations and the seed alone, not on `config.num_workers`.

    Args:
        config: tasks, image size, and how many processes to use at most.
        demonstrations: how many, and how many of them with a recovery; or where to take published ones from.
        seed: of the starts' order and the experts' jitter.
        folder: where the files go; existing files of these tasks are replaced.
        progress: called with a line per demonstration.

    Returns:
        task id as text -> `TaskSummary` as a dict, JSON-able.

    Raises:
        UserError: see `check_demonstrations`; or an expert that fails too often, or a worker that keeps dying.
    """
    check_demonstrations(config, demonstrations)
    if demonstrations.source is not None:
        return _take_published(config, demonstrations, folder, progress)
    spec = make_spec(config)
    environment_module(config.name).prepare(config, progress)
    job = CollectionJob(
        config=config,
        demonstrations=demonstrations,
        seed=seed,
        folder=folder,
        max_steps={task_id: config.max_episode_steps or spec.max_episode_steps[task_id] for task_id in config.task_ids},
        num_starts=spec.num_starts["train"],
    )
    count = min(config.num_workers, len(config.task_ids))
    jobs = [replace(job, config=replace(config, task_ids=config.task_ids[rank::count])) for rank in range(count)]
    summaries = _run(jobs, progress)
    return {str(task_id): asdict(summaries[task_id]) for task_id in config.task_ids}


def check_demonstrations(config: EnvConfig, demonstrations: DemonstrationConfig) -> None:
    """Checks what can be known before anything is built.

    Raises:
        UserError: an environment, suite or task without experts, or more demonstrations than training starts.
    """
    if config.name != "libero":
        raise UserError(
            f"scripted experts exist for the environment 'libero' only, not for {config.name!r}: set"
            " demonstrations.episodes_per_task to 0"
        )
    if config.task_suite not in STANDARD_LIMITS:
        raise UserError(
            f"scripted experts exist for LIBERO's own suites ({', '.join(STANDARD_LIMITS)}), not for"
            f" {config.task_suite!r}: its tasks have other goals or places under the same names"
        )
    if demonstrations.source is not None:
        return
    names = [load_task(config.task_suite, task_id).name for task_id in range(num_tasks(config.task_suite))]
    for task_id in config.task_ids:
        if names[task_id] not in EXPERTS:
            known = ", ".join(str(index) for index, name in enumerate(names) if name in EXPERTS)
            advice = f"choose among {known}" if known else "choose another suite"
            raise UserError(
                f"task {task_id} of {config.task_suite} ({names[task_id]}) has no scripted expert, so there are no"
                f" demonstrations of it: {advice}"
            )
    num_starts, wanted = make_spec(config).num_starts["train"], demonstrations.episodes_per_task
    if wanted > num_starts:
        raise UserError(
            f"demonstrations.episodes_per_task {wanted} is more than the {num_starts} training starts of a task:"
            " each start serves one demonstration"
        )


def _take_published(
    config: EnvConfig, demonstrations: DemonstrationConfig, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Converts the first demonstrations of published files; see `collect_demonstrations`."""
    summaries = {}
    for task_id in config.task_ids:
        task = load_task(config.task_suite, task_id)
        source = demonstration_path(Path(demonstrations.source), task.name)
        found = read_published(source, task_id, task.instruction, demonstrations.episodes_per_task, config.image_size)
        path = demonstration_path(folder, task.name)
        write_demonstrations(path, found, _describe(task))
        progress(f"{task.name}: {len(found)} demonstrations of {source}")
        summary = TaskSummary(
            task=task.name,
            attempts=len(found),
            successes=len(found),
            success_rate=1.0,
            mean_steps=float(np.mean([len(d.episode.actions) for d in found])),
            file=path.name,
        )
        summaries[str(task_id)] = asdict(summary)
    return summaries


def _run(jobs: list[CollectionJob], progress: Progress) -> dict[int, TaskSummary]:
    """Runs one process per job; one that is killed starts again. All are ended when one fails or on Ctrl-C."""
    summaries: dict[int, TaskSummary] = {}
    deaths = 0
    with ExitStack() as stack:
        running = dict(_start(job, stack) for job in jobs)
        while running:
            for connection in wait(list(running)):
                try:
                    message = connection.recv()
                except EOFError as error:
                    job, process = running.pop(connection)
                    process.join()
                    deaths += 1
                    reason = f"a process that collects demonstrations ended with code {process.exitcode}"
                    if deaths == MAX_FAILURES:
                        raise UserError(
                            f"{reason} (killed, or out of memory), {deaths} times in all: free memory or lower"
                            " env.num_workers"
                        ) from error
                    # What a task's demonstrations are follows from the job alone: only time is lost.
                    progress(f"{reason}: its unfinished tasks are collected again")
                    left = tuple(task_id for task_id in job.config.task_ids if task_id not in summaries)
                    if left:
                        running |= [_start(replace(job, config=replace(job.config, task_ids=left)), stack)]
                    continue
                if isinstance(message, str):
                    progress(message)
                elif isinstance(message, Exception):
                    raise message
                elif message is None:
                    del running[connection]
                else:
                    summaries.update(message)
    return summaries


def _start(job: CollectionJob, stack: ExitStack) -> tuple[Connection, tuple[CollectionJob, BaseProcess]]:
    """Starts the job's process, which `stack` ends."""
    context = get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, job, dict(os.environ)), daemon=True)
    with without_main():
        process.start()
    theirs.close()
    stack.callback(process.join)
    stack.callback(process.terminate)
    return ours, (job, process)


def _work(connection: Connection, job: CollectionJob, environment: Mapping[str, str]) -> None:
    """Body of a worker process: sends progress lines, {task_id: TaskSummary}, an exception, and None at the end."""
    # The driver handles Ctrl-C and then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    try:
        slot = environment_module(job.config.name).make_environments(job.config, 1)[0]
        for task_id in job.config.task_ids:
            connection.send({task_id: collect_task(slot, task_id, job, connection.send)})
        connection.send(None)
    except UserError as error:
        connection.send(error)
    except Exception:
        connection.send(RuntimeError(f"collecting demonstrations failed:\n{traceback.format_exc()}"))


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
    write_demonstrations(path, kept, _describe(task))
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
    images, proprio, states, positions, rotations, steps = [], [], [], [], [], []
    success = False
    while not success and not expert.finished and len(steps) < max_steps:
        if steps:
            seen = slot.observe()
        images.append(seen.image)
        proprio.append(seen.proprio)
        states.append(slot.state())
        positions.append(slot.ee_position.copy())
        rotations.append(slot.ee_rotation.copy())
        steps.append(pushes.apply(expert.act(slot)))
        success = slot.step_once(steps[-1].action)
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


def _describe(task: LiberoTask) -> DemonstrationTask:
    definition = task.bddl_file.read_text()
    return DemonstrationTask(
        name=task.name,
        instruction=task.instruction,
        problem_name=re.search(r"\(problem\s+(\w+)\)", definition)[1].lower(),
        bddl_file=f"{task.suite}/{task.bddl_file.name}",
        bddl_content=definition,
    )
