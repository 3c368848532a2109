"""Waiting for actors: every wait has a deadline, and what went wrong there is raised here as it was."""

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from vlarl import __version__
from vlarl.errors import UserError
from vlarl.training.roles import RoleLostError


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
    ray.wait(list(refs), num_returns=len(refs), timeout=seconds)
    answers, errors = [], []
    for ref in refs:
        try:
            answers.append(ray.get(ref, timeout=0.1))
        except GetTimeoutError:
            errors.append(RoleLostError(f"{what} has not answered for {seconds:.0f} s"))
        except RayActorError as error:
            errors.append(RoleLostError(f"{what} died ({str(error).splitlines()[0]})"))
        except RayTaskError as error:
            errors.append(error)
    if not errors:
        return answers
    lost = [error for error in errors if isinstance(error, RoleLostError)]
    first = lost[0] if lost else errors[0]
    cause = getattr(first, "cause", None)
    if isinstance(cause, UserError):
        raise cause
    raise first


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
