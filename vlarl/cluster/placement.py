"""Which role gets which resources: pure arithmetic, without Ray."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vlarl.configs.env import EnvConfig
from vlarl.configs.roles import RolesConfig
from vlarl.configs.training import TrainConfig
from vlarl.errors import UserError
from vlarl.types import WorkItem

Bundle = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Resources of every role, as the bundles of one placement group: generators, trainers, environment workers."""

    bundles: tuple[Bundle, ...]
    num_generators: int
    num_trainers: int
    generator_envs: tuple[EnvConfig, ...]
    """Each generator's share of the environments."""

    def generator(self, index: int) -> int:
        """Bundle of a generator."""
        return index

    def trainer(self, rank: int) -> int:
        """Bundle of a trainer."""
        return self.num_generators + rank

    def env_worker(self, generator: int, index: int) -> int:
        """Bundle of a generator's environment worker."""
        before = sum(env.num_workers for env in self.generator_envs[:generator])
        return self.num_generators + self.num_trainers + before + index


def make_placement(roles: RolesConfig, env: EnvConfig, gpus: float) -> Placement:
    """Plans the roles on `gpus` GPUs; with none, all of them run on CPUs.

    Of G GPUs generators take one each and trainers one each; a single GPU is halved between one of both.

    Raises:
        UserError: more GPUs are needed than there are, or more generators than environments.
    """
    share = _gpu_share(roles, gpus)
    envs = _split_envs(roles, env)
    workers = sum(part.num_workers for part in envs)
    bundles = [_bundle(roles.generator_cpus, share)] * roles.num_generators
    bundles += [_bundle(roles.trainer_cpus, share)] * roles.num_trainers
    bundles += [_bundle(roles.env_worker_cpus, 0.0)] * workers
    return Placement(
        bundles=tuple(bundles),
        num_generators=roles.num_generators,
        num_trainers=roles.num_trainers,
        generator_envs=envs,
    )


def check_store(config: TrainConfig, max_turns: int, store_bytes: float) -> None:
    """Checks that the rollouts on their way fit into the cluster's object store.

    Args:
        config: of the run.
        max_turns: turns of a trajectory at most.
        store_bytes: of the whole cluster.

    Raises:
        UserError: they may not.
    """
    turns = max_turns * config.ppo.rollout_batch_size
    # As a generator returns it and as the trainers read it, and those that are collected ahead.
    needed = (2 + config.ppo.max_staleness) * turns * 3 * config.env.image_size**2
    if needed > store_bytes:
        raise UserError(
            f"rollouts of {turns} turns may take {needed / 1e9:.1f} GB, the cluster's object store has"
            f" {store_bytes / 1e9:.1f} GB: start Ray with --object-store-memory {needed}, or lower"
            f" ppo.rollout_batch_size {config.ppo.rollout_batch_size}"
        )


def deal(items: Sequence[WorkItem], rates: Sequence[float | None]) -> list[list[WorkItem]]:
    """Deals a work list to generators so that all would end at about the same time.

    Args:
        items: trajectories, taken to be of one length.
        rates: of each generator, in any unit; an unknown one is taken to be the mean of the known.
    """
    known = [rate for rate in rates if rate]
    mean = sum(known) / len(known) if known else 1.0
    speeds = [rate or mean for rate in rates]
    parts: list[list[WorkItem]] = [[] for _ in rates]
    for item in items:
        # To whom it would be done with first; of equals to the first, so equal rates take turns.
        first = min(range(len(parts)), key=lambda index: ((len(parts[index]) + 1) / speeds[index], index))
        parts[first].append(item)
    return parts


def _gpu_share(roles: RolesConfig, gpus: float) -> float:
    needed = roles.num_generators + roles.num_trainers
    if gpus == 0:
        return 0.0
    if gpus >= needed:
        return 1.0
    if gpus == 1 and needed == 2:
        return 0.5
    fix = (
        "a single GPU takes one of each"
        if gpus == 1
        else f"{gpus:.0f} GPUs take --roles.num-generators 1 --roles.num-trainers {gpus - 1:.0f}"
    )
    raise UserError(
        f"roles.num_generators {roles.num_generators} and roles.num_trainers {roles.num_trainers} need {needed} GPUs,"
        f" the cluster has {gpus:.0f}: {fix}"
    )


def _split_envs(roles: RolesConfig, env: EnvConfig) -> tuple[EnvConfig, ...]:
    if roles.num_generators > env.num_envs:
        raise UserError(
            f"roles.num_generators {roles.num_generators} is larger than env.num_envs {env.num_envs}: a generator"
            " without an environment would wait"
        )
    parts = []
    for index in range(roles.num_generators):
        slots = len(range(index, env.num_envs, roles.num_generators))
        if roles.envs_per_worker is None:
            workers = max(1, len(range(index, env.num_workers, roles.num_generators)))
        else:
            workers = -(-slots // roles.envs_per_worker)
        parts.append(replace(env, num_envs=slots, num_workers=min(workers, slots)))
    return tuple(parts)


def _bundle(cpus: float, gpus: float) -> Bundle:
    return {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
