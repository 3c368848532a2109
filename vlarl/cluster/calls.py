"""Waiting for actors: every wait has a deadline, and what went wrong there is raised here as it was."""

import time
import warnings
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from vlarl import __version__
from vlarl.errors import UserError
from vlarl.training.roles import RoleLostError

GRACE_SECONDS = 15.0
"""Wait for the other actors after one of them failed."""


def fetch(ref: ray.ObjectRef, seconds: float, what: str) -> Any:  # noqa: ANN401 - whatever the actor returns
    """Waits for one answer; see `fetch_all`."""
    return fetch_all([ref], seconds, what)[0]


def fetch_all(refs: Sequence[ray.ObjectRef], seconds: float, what: str) -> list[Any]:
    """Waits for the answers of actors that work together.

    Raises:
        RoleLostError: one died or has not answered for `seconds`; a death counts before the errors it caused in others.
        UserError: raised by an actor.
        RayTaskError: any other exception of an actor, with its traceback.
    """
    deadline = time.monotonic() + seconds
    answers, pending, failure = {}, list(refs), None
    while pending:
        ready, pending = ray.wait(pending, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        try:
            answers[ready[0]] = ray.get(ready[0])
        except RayActorError as error:
            raise RoleLostError(f"{what} died ({str(error).strip().splitlines()[0]})") from error
        except RayTaskError as error:
            failure = failure or error
            # Another one's death may have caused it, and shows within seconds.
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    if failure is not None:
        cause = getattr(failure, "cause", None)
        raise cause if isinstance(cause, UserError) else failure
    if pending:
        raise RoleLostError(f"{what} has not answered for {seconds:.0f} s")
    return [answers[ref] for ref in refs]


def accept_read_only_arrays() -> None:
    """Silences torch's warning about arrays of the object store: they are read-only, and nothing writes to them."""
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def check_version(driver: str) -> None:
    """In an actor: its machine has the driver's vlarl.

    Raises:
        UserError: another version.
    """
    if driver != __version__:
        node = ray.util.get_node_ip_address()
        raise UserError(
            f"vlarl is {driver} here and {__version__} on node {node}: install the same version on all nodes"
        )
