"""From a configuration to the objects that train it."""

import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from torch.distributed.fsdp import register_fsdp_forward_method

from vlarl.algorithms.registry import make_prepare
from vlarl.configs.training import TrainConfig
from vlarl.distributed.fsdp import shard
from vlarl.distributed.ranks import ALONE, Ranks
from vlarl.envs.base import EnvSpec, compute_max_turns, make_spec
from vlarl.envs.vector import VectorEnv
from vlarl.errors import UserError
from vlarl.evaluation.protocol import check_num_starts
from vlarl.inference.local import LocalGenerator
from vlarl.policies.checkpoint import load_policy
from vlarl.policies.registry import policy_module
from vlarl.policies.value import ConstantValue, make_value_network
from vlarl.policies.vla import VLAPolicy, copy_trained
from vlarl.reporting.sinks import MetricsSink, check_sinks
from vlarl.rewards.base import check_reward, make_reward_fn
from vlarl.rollout.collector import Collector
from vlarl.rollout.task_sampler import TaskSampler
from vlarl.training.checkpoint import CheckpointStore
from vlarl.training.learner import ActorCritic, Learner
from vlarl.training.learner_files import load_model
from vlarl.training.monitor import Monitor
from vlarl.training.roles import Parts, RoleLostError, Roles
from vlarl.training.trainer import Trainer, TrainingProgress, TrainState


def make_checked_spec(config: TrainConfig) -> EnvSpec:
    """Returns the environment's spec after checking that policy and environment fit.

    Raises:
        UserError: an unknown suite, task, reward or sink, a sink whose package is missing, an instruction that is too
            long, a task without an expert, or impossible sizes.
    """
    spec = make_spec(config.env)
    check_reward(config, spec)
    check_sinks(config.sinks)
    instructions = {t: spec.instructions[t] for t in config.env.task_ids}
    policy_module(config.policy).check_policy(config.policy, instructions, spec.action_dim, spec.proprio_dim)
    most = compute_max_turns(config.env, spec)
    turns = most * config.ppo.rollout_batch_size
    if config.ppo.minibatch_size > turns:
        raise UserError(
            f"ppo.minibatch_size {config.ppo.minibatch_size} is larger than the rollout can be:"
            f" {config.ppo.rollout_batch_size} trajectories of at most {most} turns are {turns}"
        )
    evaluation = config.evaluation
    check_num_starts(spec, "evaluation", "evaluation.episodes_per_task", evaluation.episodes_per_task)
    if evaluation.validation_interval:
        count = evaluation.validation_episodes_per_task
        check_num_starts(spec, "validation", "evaluation.validation_episodes_per_task", count)
    if config.demonstrations.episodes_per_task:
        # Only here: a run without demonstrations needs no HDF5.
        from vlarl.experts.demonstrations import check_demonstrations

        check_demonstrations(config.env, config.demonstrations)
    return spec


def estimate_disk_bytes(config: TrainConfig) -> int:
    """Returns roughly what the run folder and the simulator's cache will take, bytes."""
    parameters = policy_module(config.policy).count_trained_parameters(config.policy)
    # Policy and value network in float32 with two Adam moments each; one checkpoint more while the next is written.
    checkpoint = (1 + config.has_critic) * parameters * 4 * 3
    checkpoints = (config.keep_last + 2) * checkpoint if config.ppo.num_iterations else 0
    episodes = config.demonstrations.episodes_per_task * len(config.env.task_ids)
    frames = episodes * 200 * config.env.image_size**2 * 3
    models = 40 * 2**20 * len(config.env.task_ids) if config.env.name == "libero" else 0
    return checkpoints + 2 * frames + models + 50 * 2**20


def make_policy(config: TrainConfig) -> VLAPolicy:
    """Returns the policy that a run starts from; random weights follow from the seed."""
    return policy_module(config.policy).make_policy(config.policy, config.seed)


def make_generator(config: TrainConfig, policy: VLAPolicy) -> LocalGenerator:
    """Returns the generator that samples at the recipe's temperature."""
    return LocalGenerator(policy, config.ppo.temperature)


def make_learner(
    config: TrainConfig,
    policy: VLAPolicy,
    checkpoint: Path | None = None,
    *,
    ranks: Ranks = ALONE,
    bfloat16: bool = False,
) -> Learner:
    """Returns a learner that trains `policy` in place.

    Args:
        config: of the run.
        policy: which training starts from, or started from.
        checkpoint: folder of the checkpoint to go on from.
        ranks: several of them share the model, and each calls this with the same policy.
        bfloat16: several ranks compute in bfloat16.

    Raises:
        UserError: a file of the checkpoint is missing or damaged.
    """
    reference = copy_trained(policy).eval() if config.ppo.kl_coef > 0 else None
    value = make_value_network(policy, config.value) if config.has_critic else ConstantValue().to(policy.device)
    model = ActorCritic(policy, value)
    if checkpoint is not None:
        load_model(model, checkpoint)
    if ranks.size > 1:
        shard_learner(model, reference, ranks, bfloat16=bfloat16)
    learner = Learner(model, reference, config.ppo, config.seed, ranks)
    if checkpoint is not None:
        learner.load_optimizers(checkpoint)
    return learner


def shard_learner(model: ActorCritic, reference: VLAPolicy | None, ranks: Ranks, *, bfloat16: bool = False) -> None:
    """Shards policy and value network, and the policy that training started from, layer by layer."""
    layers = [*model.value.layers, *model.policy.trunk.decoder.layers]
    shard(model, layers, ranks, bfloat16=bfloat16)
    if reference is not None:
        shard(reference, reference.trunk.decoder.layers, ranks, bfloat16=bfloat16)
        register_fsdp_forward_method(reference, "token_logprobs")


class LocalRoles:
    """All parts in this process; the generator decodes with the learner's own module."""

    max_restarts = 0

    def __init__(self, envs: VectorEnv) -> None:
        self._envs = envs

    def start(self, config: TrainConfig, policy_folder: Path, checkpoint: Path | None) -> Parts:
        """See Roles.

        Raises:
            UserError: asynchronous training, which needs a generator with weights of its own.
        """
        if config.ppo.max_staleness:
            raise UserError(
                f"ppo.max_staleness is {config.ppo.max_staleness}: in one process the rollout cannot overlap with the"
                " update. Set it to 0, or add --cluster auto"
            )
        policy = load_policy(policy_folder)
        return Parts(
            learner=make_learner(config, policy, checkpoint),
            collector=Collector(self._envs, config.env.replan_steps),
            generator=make_generator(config, policy),
            restarted_episodes=lambda: self._envs.restarted_episodes,
            take_rates=self._envs.take_rates,
        )


def make_trainer(
    config: TrainConfig,
    *,
    spec: EnvSpec,
    roles: Roles,
    policy_folder: Path,
    checkpoints: CheckpointStore,
    sinks: Sequence[MetricsSink],
    read_history: Callable[[], list[dict[str, Any]]],
    progress: TrainingProgress,
    deadline: float | None,
    suspicious_videos: Path,
) -> Trainer:
    """Builds the trainer and puts it where the newest checkpoint is.

    Args:
        config: of the run.
        spec: of the environments.
        roles: make the learner, the generator and the collector.
        policy_folder: the policy that training starts from.
        checkpoints: of this run; empty for a new one.
        sinks: receive the rows; they are cut back to the newest checkpoint.
        read_history: returns the rows that are left after that.
        progress: told of everything.
        deadline: time.monotonic() after which no iteration starts.
        suspicious_videos: folder for episodes that the monitor wants to be looked at.
    """
    saved = checkpoints.iterations()
    parts = roles.start(config, policy_folder, checkpoints.path(saved[-1]) if saved else None)
    sampler = TaskSampler(config.curriculum, config.env.task_ids, spec.num_starts["train"], config.seed)
    state = TrainState()
    if saved:
        raw = checkpoints.state(saved[-1])
        sampler.load_state_dict(raw.pop("curriculum"))
        state = TrainState(**raw)
    state.truncated_by_time = False
    for sink in sinks:
        sink.truncate_after(state.iteration - 1)
    return Trainer(
        config=config,
        spec=spec,
        collector=parts.collector,
        generator=parts.generator,
        learner=parts.learner,
        task_sampler=sampler,
        reward_fn=make_reward_fn(config, spec),
        prepare=make_prepare(config),
        monitor=Monitor(config.monitor),
        checkpoints=checkpoints,
        sinks=sinks,
        history=read_history(),
        progress=progress,
        restarted_episodes=parts.restarted_episodes,
        take_rates=parts.take_rates,
        deadline=deadline,
        suspicious_videos=suspicious_videos,
        state=state,
    )


def train_to_the_end(
    make: Callable[[], Trainer], max_restarts: int, report: Callable[[str], None]
) -> tuple[TrainState, int]:
    """Trains; whenever a role is lost, all are made again and go on from the newest checkpoint.

    Args:
        make: makes the trainer where the newest checkpoint is.
        max_restarts: losses after which the training ends with the error.
        report: told of each loss.

    Returns:
        The final state, and the number of losses.
    """
    for losses in count():
        try:
            trainer = make()
            return trainer.run(), losses
        except RoleLostError as error:
            if losses == max_restarts:
                raise UserError(f"{error}; given up after {losses} restarts: the same command goes on") from error
            report(f"{error}; going on from the newest checkpoint")
            # What killed it may need a while to go.
            time.sleep(min(30.0, 0.5 * 2**losses))
    raise AssertionError
