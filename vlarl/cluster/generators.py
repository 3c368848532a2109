"""Generators as Ray actors: each decodes for its share of the environments, and collects whole trajectories."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import ray
import torch
from ray.util.placement_group import PlacementGroup

from vlarl import __version__
from vlarl.cluster.bundles import in_bundle
from vlarl.cluster.calls import check_version, fetch
from vlarl.cluster.env_workers import ActorWorkers
from vlarl.cluster.placement import Placement, deal
from vlarl.cluster.trainers import StoredWeights
from vlarl.configs.env import EnvConfig
from vlarl.configs.roles import RolesConfig
from vlarl.configs.training import TrainConfig
from vlarl.distributed.weight_sync import WeightReceiver, WeightSyncError, WeightUpdate
from vlarl.envs.vector import VectorEnv
from vlarl.inference.base import ActionGenerator, PublishedWeights
from vlarl.policies.registry import policy_module
from vlarl.policies.served import served_config
from vlarl.policies.vla import VLAPolicy
from vlarl.reporting.timeline import Recorder, Span
from vlarl.rewards.base import RewardFn, submit_rollout
from vlarl.rollout.collector import Collector, ObservationTransform, ProgressFn
from vlarl.rollout.merge import merge_rollouts
from vlarl.training.build import make_generator
from vlarl.training.roles import RoleLostError
from vlarl.types import Rollout, WorkItem

Start = Callable[[], tuple[ray.actor.ActorHandle, ray.ObjectRef]]
"""Starts a generator; returns it and the reference to the end of its start."""


@ray.remote(max_restarts=0)
class GeneratorActor:
    """A policy without adapters, and the environments that it acts in."""

    def open(
        self,
        version: str,
        config: TrainConfig,
        kind: str,
        name: str,
        env: EnvConfig,
        group: PlacementGroup,
        bundles: Sequence[int],
    ) -> None:
        """Makes the policy, with any weights until the first publication, and starts the environments."""
        check_version(version)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(config.exact)
        policy = policy_module(config.policy).make_policy(served_config(config.policy), config.seed).eval()
        self._policy = policy
        self._recorder = Recorder(name)
        self._receiver = WeightReceiver(policy)
        self._generator = make_generator(config, policy) if kind == "local" else make_vllm(config, policy)
        self._envs = VectorEnv(env, ActorWorkers(env, group, bundles))
        self._collector = Collector(self._envs, env.replan_steps)

    def load(self, update: WeightUpdate) -> float:
        """Takes weights and proves that they are the learner's; returns the seconds."""
        started = time.perf_counter()
        with self._recorder.span("load"):
            self._receiver.take(update)
            self._generator.load(PublishedWeights(version=update.version, policy=self._policy))
        return time.perf_counter() - started

    def collect(self, items: Sequence[WorkItem], greedy: bool) -> tuple[Rollout, int, dict[str, float], float]:
        """Collects; returns trajectories, the episodes restarted so far, the workers' rates, and the seconds.

        Raises:
            WeightSyncError: the last weights did not arrive whole.
        """
        if self._receiver.version is None:
            raise WeightSyncError("this generator has no weights that are the learner's")
        started = time.perf_counter()
        with self._recorder.span("collect"):
            rollout = self._collector.collect(self._generator, items, greedy=greedy)
        return rollout, self._envs.restarted_episodes, self._envs.take_rates(), time.perf_counter() - started

    def take_spans(self) -> list[Span]:
        """What it worked on since the last call."""
        return self._recorder.take()


def make_vllm(config: TrainConfig, policy: VLAPolicy) -> ActionGenerator:
    """Returns vLLM's generator at the recipe's temperature."""
    # Only here: vllm is an extra.
    from vlarl.inference.vllm import VllmGenerator

    return VllmGenerator(policy, config.ppo.temperature)


class RemoteGenerator:
    """One generator, started again when it is lost."""

    def __init__(self, start: Start, roles: RolesConfig, name: str) -> None:
        self._start = start
        self._roles = roles
        self._name = name
        self._restarted_episodes = self._restarted_before = 0
        self.rate: float | None = None
        """Env steps per second of its last rollout."""
        self.worker_rates: dict[str, float] = {}
        self.actor, self._opened = start()
        self._loading = self._opened

    @property
    def restarted_episodes(self) -> int:
        """Episodes that were begun again because it or one of its environment workers died."""
        return self._restarted_before + self._restarted_episodes

    def load(self, weights: StoredWeights) -> None:
        """Hands weights over, and does not wait: whatever it is asked next comes after them."""
        self._loading = self.actor.load.remote(weights.update)

    def send(self, items: Sequence[WorkItem], greedy: bool) -> "Share":
        """Asks for trajectories."""
        collecting = self.actor.collect.remote(items, greedy)
        return Share(self, items, greedy, [self._opened, self._loading, collecting])

    def fetch(self, share: "Share") -> Rollout:
        """Waits for what was asked for.

        Raises:
            RoleLostError: it died or is silent.
            WeightSyncError: it does not hold the learner's weights.
        """
        for ref in share.refs:
            answer = fetch(ref, self._roles.deadline_seconds, self._name)
        rollout, self._restarted_episodes, self.worker_rates, seconds = answer
        self.rate = int(rollout.executed_steps.sum()) / seconds
        return rollout

    def restart(self, weights: StoredWeights, episodes: int) -> None:
        """Starts it again with complete weights, to collect `episodes` again."""
        ray.kill(self.actor)
        self._restarted_before += self._restarted_episodes + episodes
        self._restarted_episodes = 0
        # It may come up on another node.
        self.rate = None
        self.actor, self._opened = self._start()
        self.load(weights)


@dataclass
class Share:
    """What one generator was asked to collect."""

    generator: RemoteGenerator
    items: Sequence[WorkItem]
    greedy: bool
    refs: list[ray.ObjectRef]
    """Of its start, its last load and the rollout: what failed first is raised first."""


class RayGenerators:
    """All generators, as the trainer's generator and as its collector.

    A generator that is lost is started again, and its trajectories are collected again from their own seeds. Work is
    dealt by the rates of the last rollout, so that slow nodes hold nobody up; in an exact run, evenly.
    """

    def __init__(
        self,
        config: TrainConfig,
        roles: RolesConfig,
        group: PlacementGroup,
        placement: Placement,
        publish_all: Callable[[int], StoredWeights],
        report: Callable[[str], None],
    ) -> None:
        self.policy_version = 0
        self.num_action_tokens = config.policy.num_action_tokens
        self.lost = 0
        self._roles = roles
        self._is_exact = config.exact
        self._publish_all = publish_all
        self._report = report
        self._submitted: deque[list[Share]] = deque()

        def starter(index: int) -> Start:
            env = placement.generator_envs[index]
            workers = [placement.env_worker(index, worker) for worker in range(env.num_workers)]
            options = in_bundle(group, placement.generator(index))

            def start() -> tuple[ray.actor.ActorHandle, ray.ObjectRef]:
                actor = GeneratorActor.options(**options).remote()
                name = f"generator {index}"
                return actor, actor.open.remote(__version__, config, roles.generator, name, env, group, workers)

            return start

        self.generators = [
            RemoteGenerator(starter(index), roles, f"generator {index}") for index in range(roles.num_generators)
        ]

    @property
    def restarted_episodes(self) -> int:
        """Episodes that were begun again, whoever died."""
        return sum(generator.restarted_episodes for generator in self.generators)

    def take_rates(self) -> dict[str, float]:
        """Env steps per second of each environment worker in its generator's last rollout."""
        return {
            f"generator_{index}_{name}": rate
            for index, generator in enumerate(self.generators)
            for name, rate in generator.worker_rates.items()
        }

    def request_spans(self) -> list[ray.ObjectRef]:
        """Asks the generators what they worked on."""
        return [generator.actor.take_spans.remote() for generator in self.generators]

    def close(self) -> None:
        """Ends the generators, and with them their environment workers."""
        for generator in self.generators:
            ray.kill(generator.actor)

    def load(self, published: StoredWeights) -> None:
        """See ActionGenerator; errors come with the next result."""
        for generator in self.generators:
            generator.load(published)
        self.policy_version = published.version

    def submit(self, generator: ActionGenerator, items: Sequence[WorkItem]) -> None:
        """See RolloutCollector; the generators begin at once."""
        assert generator is self, "generators act in their own environments"
        self._submitted.append(self._send(items, greedy=False))

    def result(self, reward_fn: RewardFn, progress: ProgressFn | None = None) -> Rollout:
        """See RolloutCollector."""
        rollout = self._finish(self._submitted.popleft(), progress)
        submit_rollout(reward_fn, rollout)
        return rollout

    def collect(
        self,
        generator: ActionGenerator,
        items: Sequence[WorkItem],
        *,
        greedy: bool = False,
        transform: ObservationTransform | None = None,
        progress: ProgressFn | None = None,
    ) -> Rollout:
        """See Collector.collect; what was submitted before is collected before."""
        assert generator is self and transform is None, "generators act in their own environments"
        return self._finish(self._send(items, greedy=greedy), progress)

    def _send(self, items: Sequence[WorkItem], *, greedy: bool) -> list[Share]:
        rates = [None if self._is_exact else generator.rate for generator in self.generators]
        parts = zip(self.generators, deal(items, rates), strict=True)
        return [generator.send(part, greedy) for generator, part in parts if part]

    def _finish(self, shares: list[Share], progress: ProgressFn | None) -> Rollout:
        rollout = merge_rollouts([self._fetch(share) for share in shares])
        if progress:
            progress(rollout.num_trajectories, int(np.sum(rollout.success)), int(rollout.executed_steps.sum()))
        return rollout

    def _fetch(self, share: Share) -> Rollout:
        while True:
            try:
                return share.generator.fetch(share)
            except RoleLostError as error:
                self.lost += 1
                if self.lost > self._roles.max_restarts:
                    raise
                self._report(f"{error}; starting it again, {len(share.items)} trajectories are collected again")
                # Longer from time to time: what killed it may need a while to go.
                time.sleep(min(30.0, 0.5 * 2**self.lost))
                share.generator.restart(self._publish_all(self.policy_version), len(share.items))
                self._resend(share)

    def _resend(self, lost: Share) -> None:
        """Asks the restarted generator again for everything that the dead one owed."""
        for share in [lost, *(s for shares in self._submitted for s in shares if s.generator is lost.generator)]:
            share.refs = lost.generator.send(share.items, share.greedy).refs
