"""Environment workers as Ray actors. Imports no torch: an environment's process stays small."""

import os
from collections import deque
from collections.abc import Sequence

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup

from vlarl.cluster.bundles import in_bundle
from vlarl.configs.env import EnvConfig
from vlarl.envs.base import environment_module, make_spec
from vlarl.envs.render_devices import choose_device, find_gpus
from vlarl.envs.worker import Failure, Reply, Request, describe, simulate


@ray.remote(max_restarts=0)
class EnvironmentActor:
    """Simulates the slots of one worker."""

    def open(self, config: EnvConfig, index: int) -> list[Reply]:
        """Makes the environments of worker `index`, and what they cache where this machine has it not yet."""
        try:
            gpus = find_gpus() if make_spec(config).needs_rendering else ()
            os.environ.update(choose_device(index, config.render_gpus, gpus, os.environ))
            module = environment_module(config.name)
            module.prepare(config, print)
            self._slots = module.make_environments(config, len(range(index, config.num_envs, config.num_workers)))
        except Exception as error:
            return [(None, describe(error))]
        return [(None, None)]

    def run(self, requests: list[Request]) -> list[Reply]:
        """Simulates the requests one after the other."""
        return [(request.slot, self._run(request)) for request in requests]

    def _run(self, request: Request) -> object:
        try:
            result = simulate(self._slots[request.slot], request.payload)
        except Exception as error:
            return describe(error)
        return None if request.is_replay and not isinstance(result, Failure) else result


class ActorWorker:
    """One actor; it answers a list of requests at once."""

    def __init__(self, actor: ray.actor.ActorHandle, opened: ray.ObjectRef) -> None:
        self._actor = actor
        self.calls = deque([opened])

    @property
    def name(self) -> str:
        """See envs.processes.Worker."""
        return f"actor {self._actor._actor_id.hex()[:8]}"

    def send(self, requests: list[Request]) -> None:
        """See envs.processes.Worker."""
        self.calls.append(self._actor.run.remote(requests))

    def receive(self) -> list[Reply]:
        """See envs.processes.Worker."""
        try:
            replies = ray.get(self.calls[0])
        except RayActorError as error:
            raise EOFError from error
        self.calls.popleft()
        return replies

    def hang_up(self) -> None:
        """See envs.processes.Worker."""
        ray.kill(self._actor)

    def end(self, *, kill: bool = False) -> str:
        """See envs.processes.Worker."""
        del kill
        return ""


class ActorWorkers:
    """Starts environment workers in the bundles of a placement group."""

    def __init__(self, config: EnvConfig, group: PlacementGroup, bundles: Sequence[int]) -> None:
        self._config = config
        self._group = group
        self._bundles = bundles

    def start(self, index: int) -> ActorWorker:
        """See envs.processes.Workers."""
        actor = EnvironmentActor.options(**in_bundle(self._group, self._bundles[index])).remote()
        return ActorWorker(actor, actor.open.remote(self._config, index))

    def wait(self, workers: Sequence[ActorWorker], seconds: float) -> list[ActorWorker]:
        """See envs.processes.Workers."""
        by_ref = {worker.calls[0]: worker for worker in workers if worker.calls}
        if not by_ref:
            return []
        ready, _ = ray.wait(list(by_ref), num_returns=1, timeout=seconds)
        return [by_ref[ref] for ref in ready]
