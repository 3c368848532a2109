"""Trainer ranks as Ray actors, and the learner that the driver sees in their place."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.placement_group import PlacementGroup

from vlarl import __version__
from vlarl.algorithms.ppo import Scores, Targets
from vlarl.cluster.bundles import in_bundle
from vlarl.cluster.calls import accept_read_only_arrays, check_version, fetch_all
from vlarl.cluster.placement import Placement
from vlarl.configs.roles import RolesConfig
from vlarl.configs.training import TrainConfig
from vlarl.distributed.ranks import join_ranks
from vlarl.distributed.weight_sync import WeightPublisher, WeightUpdate
from vlarl.policies.checkpoint import load_policy
from vlarl.reporting.timeline import Recorder, Span
from vlarl.training.build import make_learner
from vlarl.types import Rollout

START_SECONDS = 900.0
"""Longest start of a role: a large checkpoint is read."""


@ray.remote(max_restarts=0)
class TrainerActor:
    """One rank of the learner."""

    def __init__(self, config: TrainConfig, rank: int, roles: RolesConfig) -> None:
        self._config = config
        self._rank = rank
        self._roles = roles
        self._recorder = Recorder(f"trainer {rank}")
        torch.set_num_threads(1 if config.exact else config.learner_threads)
        torch.use_deterministic_algorithms(config.exact)
        accept_read_only_arrays()

    def free_address(self) -> str:
        """host:port of this machine at which the ranks can meet."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return f"{host}:{probe.getsockname()[1]}"

    def open(self, version: str, address: str, policy_folder: Path, checkpoint: Path | None) -> None:
        """Meets the other ranks and builds the learner, where the checkpoint left it."""
        check_version(version)
        roles = self._roles
        ranks = join_ranks(self._rank, roles.num_trainers, address, roles.deadline_seconds)
        policy = load_policy(policy_folder)
        self._learner = make_learner(self._config, policy, checkpoint, ranks=ranks, bfloat16=roles.bfloat16)
        self._publisher = WeightPublisher(policy, ranks)

    def score(self, rollout: Rollout) -> Scores:
        """See Learner.score."""
        with self._recorder.span("score"):
            return self._learner.score(rollout)

    def learn(
        self, rollout: Rollout, scores: Scores, targets: Targets, iteration: int, critic_only: bool
    ) -> dict[str, float]:
        """See Learner.learn."""
        with self._recorder.span("learn"):
            return self._learner.learn(rollout, scores, targets, iteration, critic_only=critic_only)

    def publish(self, version: int, complete: bool) -> tuple[WeightUpdate | None, dict[str, float] | None]:
        """See WeightPublisher.publish; with the figures that the driver logs."""
        with self._recorder.span("publish"):
            update = self._publisher.publish(version, complete=complete)
        if update is None:
            return None, None
        return update, {"time/publish": update.seconds, "system/sync_bytes": float(update.num_bytes)}

    def save(self, folder: Path) -> None:
        """See Learner.save."""
        with self._recorder.span("save"):
            self._learner.save(folder)

    def take_spans(self) -> list[Span]:
        """What it worked on since the last call."""
        return self._recorder.take()


@dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """A handle on weights in the object store: the driver passes it on and never has the weights."""

    version: int
    update: ray.ObjectRef
    metrics: Mapping[str, float] = field(default_factory=dict)


class RayLearner:
    """All trainer ranks as one learner.

    Raises:
        RoleLostError: a rank died or is silent; the others cannot go on without it, so all are to be started again.
    """

    def __init__(self, config: TrainConfig, roles: RolesConfig, group: PlacementGroup, placement: Placement) -> None:
        self._seconds = roles.deadline_seconds
        self._actors = []
        for rank in range(roles.num_trainers):
            options = in_bundle(group, placement.trainer(rank))
            self._actors.append(TrainerActor.options(**options).remote(config, rank, roles))
        self._scored: Rollout | None = None
        self._stored: ray.ObjectRef | None = None

    def open(self, policy_folder: Path, checkpoint: Path | None) -> None:
        """Builds the learner on all ranks."""
        address = fetch_all([self._actors[0].free_address.remote()], START_SECONDS, "trainer 0")[0]
        paths = policy_folder.resolve(), None if checkpoint is None else checkpoint.resolve()
        self._call("open", __version__, address, *paths)

    def request_spans(self) -> list[ray.ObjectRef]:
        """Asks the ranks what they worked on."""
        return [actor.take_spans.remote() for actor in self._actors]

    def close(self) -> None:
        """Ends the ranks."""
        for actor in self._actors:
            ray.kill(actor)

    def score(self, rollout: Rollout) -> Scores:
        """See TrainingLearner."""
        # Once into the store for all ranks, for scoring and learning.
        self._scored, self._stored = rollout, ray.put(rollout)
        return self._call("score", self._stored)

    def learn(
        self, rollout: Rollout, scores: Scores, targets: Targets, iteration: int, *, critic_only: bool
    ) -> dict[str, float]:
        """See TrainingLearner."""
        assert rollout is self._scored, "a rollout is scored before it is learned from"
        return self._call("learn", self._stored, scores, targets, iteration, critic_only)

    def publish(self, version: int, *, complete: bool = False) -> StoredWeights:
        """See TrainingLearner; `complete` is for generators that have nothing yet."""
        refs = [actor.publish.options(num_returns=2).remote(version, complete) for actor in self._actors]
        metrics = fetch_all([info for _, info in refs], self._seconds, "the publication of weights")[0]
        return StoredWeights(version=version, update=refs[0][0], metrics=metrics)

    def save(self, folder: Path) -> None:
        """See TrainingLearner."""
        self._call("save", folder.resolve())

    def _call(self, method: str, *arguments: Any) -> Any:  # noqa: ANN401 - whatever the method returns
        refs = [getattr(actor, method).remote(*arguments) for actor in self._actors]
        return fetch_all(refs, self._seconds, f"a trainer, asked to {method},")[0]
