"""Collects demonstrations with the scripted experts: in parallel over tasks, successes only, one HDF5 file per task."""

import os
import signal
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from vlarl.configs.env import EnvConfig
from vlarl.configs.training import DemonstrationConfig
from vlarl.data.libero_hdf5 import demonstration_path, write_demonstrations
from vlarl.data.libero_published import read_published
from vlarl.envs.base import Progress, environment_module, make_spec
from vlarl.envs.libero.tasks import STANDARD_LIMITS, load_task, num_tasks
from vlarl.envs.processes import without_main
from vlarl.envs.vector import MAX_FAILURES
from vlarl.errors import UserError
from vlarl.experts.recording import CollectionJob, TaskSummary, collect_task, describe_task
from vlarl.experts.tasks import EXPERTS


def collect_demonstrations(
    config: EnvConfig, demonstrations: DemonstrationConfig, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Collects successful demonstrations from training starts and writes `<task name>_demo.hdf5` for each task.

    What is written depends on the configurations alone, not on `config.num_workers`.

    Args:
        config: tasks, image size, and how many processes to use at most.
        demonstrations: how many, and how many of them with a recovery; or where to take published ones from.
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
        seed=demonstrations.seed,
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
        write_demonstrations(path, found, describe_task(task))
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
