"""Environment slots spread over worker processes, asynchronous, with restart of workers that die or hang."""

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from types import ModuleType, TracebackType

import numpy as np

from vlarl.configs.env import EnvConfig
from vlarl.envs.base import ENVIRONMENTS, EnvObservation, Transition, make_spec
from vlarl.envs.render_devices import check_gpus, choose_device, find_gpus
from vlarl.envs.shared_frames import SharedFrames
from vlarl.envs.worker import Failure, Reply, Request, run_worker, with_image
from vlarl.errors import UserError
from vlarl.types import Start

START_TIMEOUT_SECONDS = 600.0
"""A worker that has not made its environments after this long is taken for hung."""
REPLY_TIMEOUT_SECONDS = 120.0
"""A worker that owes a reply and sends nothing for this long is taken for hung."""
MAX_FAILURES = 3
"""Deaths of a worker in a row, without a result in between, after which it is given up."""
_POLL_SECONDS = 1.0
_JOIN_SECONDS = 5.0

_log = logging.getLogger(__name__)


class WorkerError(RuntimeError):
    """A worker raised an exception that is no UserError, or could not be kept alive."""


@dataclass
class _Episode:
    """What it takes to bring a slot back to where it is: the start and every action sent."""

    start: Start
    actions: list[np.ndarray] = field(default_factory=list)


@dataclass
class _Worker:
    process: ForkServerProcess
    connection: Connection
    frames: SharedFrames
    is_ready: bool = False
    idle_seconds: float = 0.0
    failures: int = 0


class VectorEnv:
    """`num_envs` slots in `num_workers` processes; slot s lives in worker s % num_workers.

    `reset` and `step` return at once, `receive` waits. A slot has at most one request open. A worker that dies or
    hangs is started again and its running episodes are replayed from their starts with the recorded actions; since an
    episode is a function of these alone, the caller sees no difference but `restarted_episodes`.

    Workers never import the caller's `__main__` (so no torch, and scripts need no main guard), ignore Ctrl-C, and end
    when this process ends, whichever way.

    Attributes:
        num_envs: slots.
        num_workers: processes.
        restarted_episodes: episodes replayed so far.

    Raises:
        UserError: an unknown environment, suite or task.
    """

    def __init__(self, config: EnvConfig) -> None:
        # Bad names fail here, in the driver, not in the forkserver's preload.
        spec = make_spec(config)
        check_gpus(config.render_gpus)
        self._gpus = find_gpus() if spec.needs_rendering else ()
        self.num_envs = config.num_envs
        self.num_workers = config.num_workers
        self.restarted_episodes = 0
        self._config = config
        self._module_name = ENVIRONMENTS[config.name]
        self._episodes: dict[int, _Episode] = {}
        self._pending: set[int] = set()
        self._replies: dict[int, EnvObservation | Transition | Failure] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["numpy", "vlarl.envs.worker", self._module_name])
        self._workers: list[_Worker] = []
        try:
            for index in range(self.num_workers):
                self._workers.append(self._start(index))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "VectorEnv":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers; safe to call again."""
        # All connections first: every worker ends when it sees the end of its own.
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            _end(worker.process)
        self._workers = []

    def reset(self, starts: Mapping[int, Start]) -> None:
        """Begins an episode in each slot of `starts`; whatever ran there is dropped.

        Raises:
            ValueError: a slot that does not exist or whose last reply was not received.
        """
        self._check_free(starts)
        for slot, start in starts.items():
            self._episodes[slot] = _Episode(start)
        self._request(starts)

    def step(self, actions: Mapping[int, np.ndarray]) -> None:
        """Executes actions [n, action_dim] float32 in each slot.

        Raises:
            ValueError: a slot that does not exist, whose last reply was not received, or that has no running episode.
        """
        self._check_free(actions)
        for slot in actions:
            if slot not in self._episodes:
                raise ValueError(f"slot {slot} has no running episode: reset it before a step")
        # Copies: the caller may reuse its buffers, a replay needs what was sent.
        copies = {slot: np.array(rows, dtype=np.float32) for slot, rows in actions.items()}
        for slot, rows in copies.items():
            self._episodes[slot].actions.append(rows)
        self._request(copies)

    def receive(self, slots: Sequence[int]) -> list[EnvObservation | Transition]:
        """Waits for the open request of each slot.

        Returns:
            In the order of `slots`: an EnvObservation after a reset, a Transition after a step.

        Raises:
            ValueError: a slot without an open request.
            UserError: raised by the environment in a worker, with its class and message.
            WorkerError: any other exception in a worker, with its traceback; or a worker that keeps dying.
        """
        for slot in slots:
            if slot not in self._pending and slot not in self._replies:
                raise ValueError(f"slot {slot} has no open request to receive")
        for worker in self._workers:
            # Time in which nobody listened does not count against a worker.
            worker.idle_seconds = 0.0
        while missing := [slot for slot in slots if slot not in self._replies]:
            self._wait({slot % self.num_workers for slot in missing})
        for slot in slots:
            if isinstance(self._replies[slot], Failure):
                self._episodes.pop(slot, None)
                raise _error(self._replies.pop(slot))
        return [self._replies.pop(slot) for slot in slots]

    def _check_free(self, slots: Mapping[int, object]) -> None:
        for slot in slots:
            if not 0 <= slot < self.num_envs:
                raise ValueError(f"slot {slot} does not exist: there are {self.num_envs}")
            if slot in self._pending or slot in self._replies:
                raise ValueError(f"slot {slot} has an open request: receive its reply first")

    def _request(self, payloads: Mapping[int, Start | np.ndarray]) -> None:
        messages: dict[int, list[Request]] = {}
        for slot, payload in payloads.items():
            self._pending.add(slot)
            worker, local = slot % self.num_workers, slot // self.num_workers
            messages.setdefault(worker, []).append(Request(local, payload, False))
        for index, message in messages.items():
            _send(self._workers[index], message)

    def _wait(self, indices: set[int]) -> None:
        """Takes what the given workers have sent; restarts those that died or stayed silent for too long."""
        connections = {self._workers[index].connection: index for index in indices}
        heard = {connections[ready] for ready in wait(list(connections), timeout=_POLL_SECONDS)}
        for index in heard:
            try:
                reply = self._workers[index].connection.recv()
            except (EOFError, OSError):
                self._restart(index, "died")
                continue
            self._take(index, reply)
        if heard:
            return
        for index in indices:
            worker = self._workers[index]
            # Counted in polls, not by the clock: a job that was stopped and continued (Ctrl-Z) has not hung.
            worker.idle_seconds += _POLL_SECONDS
            if worker.idle_seconds >= (REPLY_TIMEOUT_SECONDS if worker.is_ready else START_TIMEOUT_SECONDS):
                self._restart(index, f"sent nothing for {worker.idle_seconds:.0f} s")

    def _take(self, index: int, reply: Reply) -> None:
        worker = self._workers[index]
        worker.idle_seconds = 0.0
        local, result = reply
        if local is None:
            if result is not None:
                raise _error(result)
            worker.is_ready = True
        elif result is not None:
            slot = local * self.num_workers + index
            worker.failures = 0
            self._pending.discard(slot)
            self._replies[slot] = result if isinstance(result, Failure) else with_image(result, worker.frames, local)
            if isinstance(result, Transition) and (result.terminated or result.truncated):
                del self._episodes[slot]

    def _start(self, index: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        frames = SharedFrames(len(range(index, self.num_envs, self.num_workers)), self._config.image_size)
        environment = os.environ | choose_device(index, self._config.render_gpus, self._gpus, os.environ)
        process = self._context.Process(
            target=run_worker,
            args=(theirs, frames, self._config, self._module_name, environment),
            name=f"vlarl-env-{index}",
            daemon=True,
        )
        with without_main():
            process.start()
        theirs.close()
        frames.close()
        return _Worker(process, ours, frames)

    def _restart(self, index: int, reason: str) -> None:
        """Replaces a worker and replays the episodes that ran in it."""
        worker = self._workers[index]
        worker.connection.close()
        if reason != "died":
            worker.process.kill()
        exit_code = _end(worker.process)
        failures = worker.failures + 1
        description = f"environment worker {index} (process {worker.process.pid}) {reason}{_explain(exit_code)}"
        if failures >= MAX_FAILURES:
            raise WorkerError(f"{description}; {failures} times in a row without a result")
        replays = {slot: e for slot, e in self._episodes.items() if slot % self.num_workers == index}
        _log.warning("%s; starting it again with %d episodes", description, len(replays))
        self._workers[index] = self._start(index)
        self._workers[index].failures = failures
        self.restarted_episodes += len(replays)
        _send(self._workers[index], [request for slot, e in replays.items() for request in self._replay(slot, e)])

    def _replay(self, slot: int, episode: _Episode) -> Iterator[Request]:
        payloads = [episode.start, *episode.actions]
        for position, payload in enumerate(payloads):
            is_open = slot in self._pending and position == len(payloads) - 1
            yield Request(slot // self.num_workers, payload, not is_open)


def _send(worker: _Worker, message: list[Request]) -> None:
    try:
        worker.connection.send(message)
    except OSError:
        # The worker is dead: the next receive finds the end of the connection and replays this request too.
        return


def _end(process: ForkServerProcess) -> int | None:
    process.join(_JOIN_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def _error(failure: Failure) -> Exception:
    if isinstance(failure.error, UserError):
        return failure.error
    return WorkerError(f"an environment worker failed:\n{failure.error}")


def _explain(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f" (exit code {exit_code})"
    hint = ", perhaps out of memory" if exit_code == -signal.SIGKILL else ""
    return f" (signal {signal.Signals(-exit_code).name}{hint})"


@contextmanager
def without_main() -> Iterator[None]:
    """Hides the caller's `__main__`, which multiprocessing would import again in the worker, and with it torch."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
