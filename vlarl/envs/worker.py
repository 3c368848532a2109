"""A worker process: simulates its slots' requests in the order in which they arrive. Imports no torch."""

import os
import signal
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread

import numpy as np

from vlarl.configs.env import EnvConfig
from vlarl.envs.base import Environment, EnvObservation, Transition
from vlarl.envs.shared_frames import SharedFrames
from vlarl.errors import UserError
from vlarl.types import Start

SEND_SECONDS = 1.0
"""Longest time for which a reply waits for the others of its message."""
_EMPTY = np.empty(0, dtype=np.uint8)


@dataclass(frozen=True)
class Request:
    """One reset (payload is a Start) or turn (payload is actions [n, A] float32) of one slot."""

    slot: int
    """Index within the worker."""
    payload: Start | np.ndarray
    is_replay: bool
    """Replayed after a restart: the caller has the result already, so the reply is empty."""


@dataclass(frozen=True)
class Failure:
    """An exception in the worker: the UserError itself, or the text of the traceback of anything else."""

    error: UserError | str


Result = EnvObservation | Transition | Failure | None
Reply = tuple[int | None, Result]
"""(slot, result). Slot None: the environments were made, or why not. Result None: of a replayed request. An
observation's image is in the shared frames and empty here: `without_image` and `with_image`."""


def run_worker(
    connection: Connection, frames: SharedFrames, config: EnvConfig, module_name: str, environment: Mapping[str, str]
) -> None:
    """Serves requests (lists of Request) until the other end of `connection` is closed, then ends the process.

    Args:
        connection: to the driver; sends lists of Reply: one per message, more if its requests take long. A message per
            reply cost the driver as much time as a tenth of the simulation.
        frames: one image per environment to make, for the driver.
        config: of the environments.
        module_name: module of the environment.
        environment: the driver's environment variables; the forkserver's may be older.
    """
    # The driver handles Ctrl-C: it saves first and then closes the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    # The workers fill the cores: software rendering must not add threads of its own.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    messages: SimpleQueue[list[Request]] = SimpleQueue()
    # A thread that always reads: the driver's sends never block on a busy worker, and its death is noticed at once.
    Thread(target=_read_requests, args=(connection, messages), name="requests", daemon=True).start()
    try:
        slots = import_module(module_name).make_environments(config, len(frames.images))
    except Exception as error:
        _send(connection, [(None, describe(error))])
        return
    _send(connection, [(None, None)])
    while True:
        replies: list[Reply] = []
        sent = time.monotonic()
        for request in messages.get():
            replies.append((request.slot, _answer(slots[request.slot], request, frames)))
            if time.monotonic() - sent > SEND_SECONDS:
                _send(connection, replies)
                replies, sent = [], time.monotonic()
        if replies:
            _send(connection, replies)


def _answer(environment: Environment, request: Request, frames: SharedFrames) -> Result:
    try:
        result = without_image(simulate(environment, request.payload), frames, request.slot)
    except Exception as error:
        return describe(error)
    return None if request.is_replay else result


def simulate(environment: Environment, payload: Start | np.ndarray) -> EnvObservation | Transition:
    """Resets the environment into a start, or executes actions."""
    if isinstance(payload, Start):
        return environment.reset(payload)
    started = time.perf_counter()
    transition = environment.step(payload)
    return replace(transition, seconds=time.perf_counter() - started)


def without_image(result: EnvObservation | Transition, frames: SharedFrames, slot: int) -> EnvObservation | Transition:
    """Moves the image into the slot's shared frame."""
    if isinstance(result, Transition):
        return replace(result, observation=without_image(result.observation, frames, slot))
    frames.write(slot, result.image)
    return replace(result, image=_EMPTY)


def with_image(result: EnvObservation | Transition, frames: SharedFrames, slot: int) -> EnvObservation | Transition:
    """Inverse of `without_image`; the image is a copy."""
    if isinstance(result, Transition):
        return replace(result, observation=with_image(result.observation, frames, slot))
    return replace(result, image=frames.read(slot))


def _read_requests(connection: Connection, messages: SimpleQueue[list[Request]]) -> None:
    while True:
        try:
            messages.put(connection.recv())
        except (EOFError, OSError):
            # Closed by the driver, or the driver is dead. Leave whatever the main thread does.
            os._exit(0)


def _send(connection: Connection, replies: list[Reply]) -> None:
    try:
        connection.send(replies)
    except OSError:
        os._exit(0)


def describe(error: Exception) -> Failure:
    """What the driver is told of an exception."""
    return Failure(error if isinstance(error, UserError) else "".join(traceback.format_exception(error)))
