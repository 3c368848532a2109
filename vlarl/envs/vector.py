"""Environment slots spread over worker processes, asynchronous, with restart of workers that die or hang."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from vlarl.configs.env import EnvConfig
from vlarl.envs.base import EnvObservation, Transition, make_spec
from vlarl.envs.processes import Processes, Worker, Workers
from vlarl.envs.render_devices import check_gpus, find_gpus
from vlarl.envs.worker import Failure, Reply, Request
from vlarl.errors import UserError
from vlarl.types import Start

START_TIMEOUT_SECONDS = 600.0
"""A worker that has not made its environments after this long is taken for hung."""
REPLY_TIMEOUT_SECONDS = 120.0
"""A worker that owes a reply and sends nothing for this long is taken for hung."""
MAX_FAILURES = 3
"""Deaths of a worker in a row, without a result in between, after which it is given up."""
_POLL_SECONDS = 1.0

_log = logging.getLogger(__name__)


class WorkerError(RuntimeError):
    """A worker raised an exception that is no UserError, or could not be kept alive."""


@dataclass
class _Episode:
    """What it takes to bring a slot back to where it is: the start and every action sent."""

    start: Start
    actions: list[np.ndarray] = field(default_factory=list)


@dataclass
class _Health:
    """What is known of a worker."""

    is_ready: bool = False
    idle_seconds: float = 0.0
    failures: int = 0
    executed_steps: int = 0
    """Since the last take_rates, as `busy_seconds`."""
    busy_seconds: float = 0.0


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

    def __init__(self, config: EnvConfig, workers: Workers | None = None) -> None:
        """`workers` are processes of this machine unless given."""
        # Bad names fail here, in the driver, not in the forkserver's preload.
        spec = make_spec(config)
        if workers is None:
            check_gpus(config.render_gpus)
            workers = Processes(config, find_gpus() if spec.needs_rendering else ())
        self._kind = workers
        self.num_envs = config.num_envs
        self.num_workers = config.num_workers
        self.restarted_episodes = 0
        self._episodes: dict[int, _Episode] = {}
        self._pending: set[int] = set()
        self._replies: dict[int, EnvObservation | Transition | Failure] = {}
        self._workers: list[Worker] = []
        self._health = [_Health() for _ in range(self.num_workers)]
        try:
            for index in range(self.num_workers):
                self._workers.append(workers.start(index))
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
        # All of them first, then they end together.
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            worker.end()
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
        for health in self._health:
            # Time in which nobody listened does not count against a worker.
            health.idle_seconds = 0.0
        while missing := [slot for slot in slots if slot not in self._replies]:
            self._wait({slot % self.num_workers for slot in missing})
        for slot in slots:
            if isinstance(self._replies[slot], Failure):
                self._episodes.pop(slot, None)
                raise _error(self._replies.pop(slot))
        return [self._replies.pop(slot) for slot in slots]

    def take_rates(self) -> dict[str, float]:
        """Env steps per second that each worker made while it was busy, since the last call; idle ones are left out."""
        rates = {}
        for index, health in enumerate(self._health):
            if health.busy_seconds:
                rates[f"worker_{index}"] = health.executed_steps / health.busy_seconds
            health.executed_steps, health.busy_seconds = 0, 0.0
        return rates

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
            self._workers[index].send(message)

    def _wait(self, indices: set[int]) -> None:
        """Takes what the given workers have sent; restarts those that died or stayed silent for too long."""
        by_worker = {id(self._workers[index]): index for index in indices}
        heard = self._kind.wait([self._workers[index] for index in sorted(indices)], _POLL_SECONDS)
        for worker in heard:
            index = by_worker[id(worker)]
            try:
                replies = worker.receive()
            except EOFError:
                self._restart(index, "died")
                continue
            for reply in replies:
                self._take(index, reply)
        if heard:
            return
        for index in indices:
            health = self._health[index]
            # Counted in polls, not by the clock: a job that was stopped and continued (Ctrl-Z) has not hung.
            health.idle_seconds += _POLL_SECONDS
            if health.idle_seconds >= (REPLY_TIMEOUT_SECONDS if health.is_ready else START_TIMEOUT_SECONDS):
                self._restart(index, f"sent nothing for {health.idle_seconds:.0f} s")

    def _take(self, index: int, reply: Reply) -> None:
        health = self._health[index]
        health.idle_seconds = 0.0
        local, result = reply
        if local is None:
            if result is not None:
                raise _error(result)
            health.is_ready = True
        elif result is not None:
            slot = local * self.num_workers + index
            health.failures = 0
            self._pending.discard(slot)
            self._replies[slot] = result
            if isinstance(result, Transition):
                health.executed_steps += result.executed_steps
                health.busy_seconds += result.seconds
                if result.terminated or result.truncated:
                    del self._episodes[slot]

    def _restart(self, index: int, reason: str) -> None:
        """Replaces a worker and replays the episodes that ran in it."""
        worker = self._workers[index]
        worker.hang_up()
        ended = worker.end(kill=reason != "died")
        failures = self._health[index].failures + 1
        description = f"environment worker {index} ({worker.name}) {reason}{ended}"
        if failures >= MAX_FAILURES:
            raise WorkerError(f"{description}; {failures} times in a row without a result")
        replays = {slot: e for slot, e in self._episodes.items() if slot % self.num_workers == index}
        _log.warning("%s; starting it again with %d episodes", description, len(replays))
        self._workers[index] = self._kind.start(index)
        self._health[index] = _Health(failures=failures)
        self.restarted_episodes += len(replays)
        self._workers[index].send([request for slot, e in replays.items() for request in self._replay(slot, e)])

    def _replay(self, slot: int, episode: _Episode) -> Iterator[Request]:
        payloads = [episode.start, *episode.actions]
        for position, payload in enumerate(payloads):
            is_open = slot in self._pending and position == len(payloads) - 1
            yield Request(slot // self.num_workers, payload, not is_open)


def _error(failure: Failure) -> Exception:
    if isinstance(failure.error, UserError):
        return failure.error
    return WorkerError(f"an environment worker failed:\n{failure.error}")
