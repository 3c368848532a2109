"""Worker processes of this machine for `VectorEnv`, and what any other kind of worker has to offer."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from types import ModuleType
from typing import Protocol

from vlarl.configs.env import EnvConfig
from vlarl.envs.base import ENVIRONMENTS
from vlarl.envs.render_devices import RenderDevice, choose_device
from vlarl.envs.shared_frames import SharedFrames
from vlarl.envs.worker import Failure, Reply, Request, Result, run_worker, with_image

JOIN_SECONDS = 5.0


class Worker(Protocol):
    """Simulates some slots, in the order in which requests arrive."""

    @property
    def name(self) -> str:
        """For messages, for example "process 4711"."""
        ...

    def send(self, requests: list[Request]) -> None:
        """Sends requests and returns at once; a dead worker is noticed by `receive`."""
        ...

    def receive(self) -> list[Reply]:
        """Returns the next replies of a worker that `Workers.wait` named; images are whole.

        Raises:
            EOFError: the worker is dead.
        """
        ...

    def hang_up(self) -> None:
        """Lets the worker end."""
        ...

    def end(self, *, kill: bool = False) -> str:
        """Waits for its end; returns how it ended, for messages."""
        ...


class Workers(Protocol):
    """Starts workers and listens to them."""

    def start(self, index: int) -> Worker:
        """Starts a worker for the slots `index`, `index` + num_workers, ...; its first reply is (None, None)."""
        ...

    def wait(self, workers: Sequence[Worker], seconds: float) -> list[Worker]:
        """Returns those that have a reply or are dead, after `seconds` none."""
        ...


class ProcessWorker:
    """A process; images come through shared memory."""

    def __init__(self, process: ForkServerProcess, connection: Connection, frames: SharedFrames) -> None:
        self.process = process
        self.connection = connection
        self._frames = frames

    @property
    def name(self) -> str:
        """See Worker."""
        return f"process {self.process.pid}"

    def send(self, requests: list[Request]) -> None:
        """See Worker."""
        try:
            self.connection.send(requests)
        except OSError:
            # The worker is dead: the next receive finds the end of the connection and replays this request too.
            return

    def receive(self) -> list[Reply]:
        """See Worker."""
        try:
            replies = self.connection.recv()
        except OSError as error:
            raise EOFError from error
        return [(slot, self._with_image(slot, result)) for slot, result in replies]

    def _with_image(self, slot: int | None, result: Result) -> Result:
        if slot is None or result is None or isinstance(result, Failure):
            return result
        return with_image(result, self._frames, slot)

    def hang_up(self) -> None:
        """See Worker."""
        self.connection.close()

    def end(self, *, kill: bool = False) -> str:
        """See Worker."""
        if kill:
            self.process.kill()
        self.process.join(JOIN_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return _explain(self.process.exitcode)


class Processes:
    """Worker processes by a forkserver, which never import the caller's `__main__`."""

    def __init__(self, config: EnvConfig, gpus: Sequence[RenderDevice]) -> None:
        self._config = config
        self._gpus = gpus
        self._module_name = ENVIRONMENTS[config.name]
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["numpy", "vlarl.envs.worker", self._module_name])

    def start(self, index: int) -> ProcessWorker:
        """See Workers."""
        config = self._config
        ours, theirs = self._context.Pipe()
        frames = SharedFrames(len(range(index, config.num_envs, config.num_workers)), config.image_size)
        environment = os.environ | choose_device(index, config.render_gpus, self._gpus, os.environ)
        process = self._context.Process(
            target=run_worker,
            args=(theirs, frames, config, self._module_name, environment),
            name=f"vlarl-env-{index}",
            daemon=True,
        )
        with without_main():
            process.start()
        theirs.close()
        frames.close()
        return ProcessWorker(process, ours, frames)

    def wait(self, workers: Sequence[ProcessWorker], seconds: float) -> list[ProcessWorker]:
        """See Workers."""
        by_connection = {worker.connection: worker for worker in workers}
        return [by_connection[ready] for ready in wait(list(by_connection), timeout=seconds)]


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
