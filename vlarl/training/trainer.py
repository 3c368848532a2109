"""The loop: collect, score, update, publish; then log, validate, save."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from vlarl.algorithms.losses import compute_importance_weights
from vlarl.algorithms.ppo import Scores, Targets, compute_token_mask
from vlarl.algorithms.registry import PrepareFn
from vlarl.configs.training import TrainConfig
from vlarl.envs.base import EnvSpec
from vlarl.evaluation.protocol import evaluate
from vlarl.evaluation.statistics import is_within_standard_error
from vlarl.inference.base import ActionGenerator
from vlarl.reporting.sinks import MetricsSink
from vlarl.reporting.video import write_mp4
from vlarl.rewards.base import RewardFn
from vlarl.rollout.collector import ProgressFn
from vlarl.rollout.task_sampler import TaskSampler
from vlarl.training.checkpoint import CheckpointStore
from vlarl.training.monitor import REWARD_HACKING, Monitor
from vlarl.training.roles import RolloutCollector, TrainingLearner
from vlarl.types import Rollout

VALIDATION_SUCCESS = "evaluation/validation_success"
"""Name in the log rows."""
SUSPICIOUS_FPS = 5.0
"""Turns per second of a saved trajectory."""


class TrainingProgress(Protocol):
    """What the trainer tells whoever watches."""

    def iteration(self, index: int, total: int, num_trajectories: int) -> ProgressFn:
        """A new rollout begins; returns the callback for its finished trajectories."""
        ...

    def row(self, row: dict[str, Any]) -> None:
        """An iteration ended."""
        ...

    def warning(self, warning: Any) -> None:  # noqa: ANN401 - monitor.MonitorWarning
        """The monitor raised a warning."""
        ...


@dataclass(kw_only=True)
class TrainState:
    """Counters of a run: what a checkpoint holds beside weights, optimizers and the curriculum."""

    iteration: int = 0
    """Finished iterations, critic warm-up included."""
    env_steps: int = 0
    rollout_seconds: float = 0.0
    learn_seconds: float = 0.0
    rest_seconds: float = 0.0
    restarted_episodes: int = 0
    best: dict[str, Any] = field(default_factory=lambda: {"iteration": 0, "success_rate": -1.0})
    """The checkpoint that validation chooses, and its success there."""
    warnings: list[dict[str, Any]] = field(default_factory=list)
    truncated_by_time: bool = False


@dataclass(kw_only=True)
class Trainer:
    """Runs PPO to the end of the configuration, from wherever the last checkpoint is."""

    config: TrainConfig
    spec: EnvSpec
    collector: RolloutCollector
    generator: ActionGenerator
    learner: TrainingLearner
    task_sampler: TaskSampler
    reward_fn: RewardFn
    prepare: PrepareFn
    monitor: Monitor
    checkpoints: CheckpointStore
    sinks: Sequence[MetricsSink]
    history: list[dict[str, Any]]
    """Rows of the finished iterations (metrics.jsonl); extended in place."""
    progress: TrainingProgress
    restarted_episodes: Callable[[], int]
    take_rates: Callable[[], dict[str, float]]
    suspicious_videos: Path
    """Folder for episodes that the monitor wants to be looked at."""
    deadline: float | None = None
    """time.monotonic() after which no new iteration starts."""
    state: TrainState = field(default_factory=TrainState)
    _iteration_ended: float = 0.0
    _restarted_before: int = 0
    _updating: bool = False

    def run(self) -> TrainState:
        """Trains; returns the final state. An interruption loses what no checkpoint holds.

        Raises:
            NonFiniteError: a loss became NaN or infinite; the last good checkpoint is kept.
        """
        self._restarted_before = self.state.restarted_episodes
        # What is there now lives until the end; looking through it for garbage took 4 % of the driver's time.
        gc.freeze()
        try:
            self._loop()
        except KeyboardInterrupt:
            # Weights are those of the last finished iteration until an update starts.
            if not self._updating and self.state.iteration not in self.checkpoints.iterations() and self.history:
                self.checkpoints.save(self.learner, self.snapshot())
            raise
        finally:
            gc.unfreeze()
        return self.state

    def _loop(self) -> None:
        total = self.config.ppo.total_iterations
        self.generator.load(self.learner.publish(version=self.state.iteration))
        self._iteration_ended = time.perf_counter()
        waiting = range(self.state.iteration, total)
        for iteration in range(self.state.iteration, total):
            if self.deadline is not None and time.monotonic() > self.deadline:
                self.state.truncated_by_time = True
                self._finish_where_time_ended()
                break
            started = time.perf_counter()
            waiting = self._submit(waiting, iteration)
            size = self.config.ppo.rollout_batch_size
            rollout = self.collector.result(self.reward_fn, self.progress.iteration(iteration, total, size))
            collected = time.perf_counter()
            torch.set_num_threads(1 if self.config.exact else self.config.learner_threads)
            rewards = self.reward_fn.score(rollout)
            scores = self.learner.score(rollout)
            targets = self._targets(rollout, rewards, scores, version=iteration)
            critic_only = iteration < self.config.ppo.critic_warmup_iterations
            self._updating = True
            metrics = self.learner.learn(rollout, scores, targets, iteration, critic_only=critic_only)
            torch.set_num_threads(1)
            published = self.learner.publish(version=iteration + 1)
            self.generator.load(published)
            learned = time.perf_counter()
            row = (
                self._row(iteration, rollout, rewards, scores, metrics)
                | dict(targets.metrics)
                | dict(published.metrics)
            )
            self._log_validate_save(row, rollout, rewards, started, collected, learned)
            self._updating = False

    def _submit(self, waiting: range, iteration: int) -> range:
        """Asks for the rollouts up to `ppo.max_staleness` iterations ahead; returns those still to ask for."""
        ahead = min(waiting.stop, iteration + 1 + self.config.ppo.max_staleness)
        for index in range(waiting.start, ahead):
            items = self.task_sampler.work_list(
                index, self.config.ppo.rollout_batch_size, self.config.trajectories_per_start
            )
            self.collector.submit(self.generator, items)
        return range(ahead, waiting.stop)

    def _targets(self, rollout: Rollout, rewards: np.ndarray, scores: Scores, version: int) -> Targets:
        """What PPO fits; a rollout of older weights than the learner's is corrected for them."""
        weights = None
        if rollout.policy_version != version:
            weights = compute_importance_weights(
                scores.old_logprobs, torch.from_numpy(rollout.generator_logprobs), self.config.ppo.importance_weight_cap
            )
        executed, num_tokens = torch.from_numpy(rollout.executed_steps), rollout.action_tokens.shape[1]
        return self.prepare(
            rewards=torch.from_numpy(rewards),
            scores=scores,
            trajectory_offsets=torch.from_numpy(rollout.trajectory_offsets),
            terminated=torch.from_numpy(rollout.terminated),
            token_mask=compute_token_mask(executed, self.config.policy.action_dim, num_tokens),
            importance_weights=weights,
        )

    def _row(
        self, iteration: int, rollout: Rollout, rewards: np.ndarray, scores: Scores, metrics: dict[str, float]
    ) -> dict[str, Any]:
        """The deterministic part of the iteration's log row."""
        task_ids = np.array([item.start.task_id for item in rollout.items])
        probabilities = self.task_sampler.probabilities()
        estimates = self.task_sampler.success_estimates()
        drift = np.abs(scores.old_logprobs.numpy() - rollout.generator_logprobs)
        row: dict[str, Any] = {
            "iteration": iteration,
            "env_steps": self.state.env_steps + int(rollout.executed_steps.sum()),
            "critic_warmup": int(iteration < self.config.ppo.critic_warmup_iterations),
            "charts/success_rate": float(rollout.success.mean()),
            "charts/episode_steps": float(rollout.episode_steps.mean()),
            "charts/reward": float(np.add.reduceat(rewards, rollout.trajectory_offsets[:-1]).mean()),
            "charts/process_reward": float(
                np.add.reduceat(rewards - rollout.env_rewards, rollout.trajectory_offsets[:-1]).mean()
            ),
            "rollout/trajectories": rollout.num_trajectories,
            "rollout/turns": rollout.num_turns,
            "rollout/truncated": float(rollout.truncated.mean()),
            "rollout/entropy": float(rollout.generator_entropy.mean()),
            "rollout/logprob_drift": float(drift.max()),
            "rollout/value_mean": float(scores.values.mean()),
            "rollout/staleness": iteration - rollout.policy_version,
        }
        for position, task_id in enumerate(self.task_sampler.task_ids):
            chosen = task_ids == task_id
            if chosen.any():
                row[f"charts/success_rate/{task_id}"] = float(rollout.success[chosen].mean())
            row[f"rollout/trajectories/{task_id}"] = int(chosen.sum())
            row[f"curriculum/probability/{task_id}"] = float(probabilities[position])
            row[f"curriculum/success/{task_id}"] = float(estimates[position])
        return row | metrics

    def _log_validate_save(
        self,
        row: dict[str, Any],
        rollout: Rollout,
        rewards: np.ndarray,
        started: float,
        collected: float,
        learned: float,
    ) -> None:
        state, config = self.state, self.config
        self.task_sampler.update([item.start.task_id for item in rollout.items], rollout.success)
        state.iteration = row["iteration"] + 1
        state.env_steps = row["env_steps"]
        state.restarted_episodes = self._restarted_before + self.restarted_episodes()
        last = state.iteration == config.ppo.total_iterations
        bookkeeping = time.perf_counter()
        if self._is_validation_due(last):
            row |= self._validate()
        validated = time.perf_counter()
        for warning in self.monitor.check([*self.history, row]):
            state.warnings.append(asdict(warning))
            self.progress.warning(warning)
            if warning.code == REWARD_HACKING:
                self._save_suspicious_video(row["iteration"], rollout, rewards)
        rollout_seconds, learn_seconds = collected - started, learned - collected
        rest_seconds = (bookkeeping - learned) + (started - self._iteration_ended) + (time.perf_counter() - validated)
        state.rollout_seconds += rollout_seconds
        state.learn_seconds += learn_seconds
        state.rest_seconds += rest_seconds
        row |= {
            "time/rollout": rollout_seconds,
            "time/learn": learn_seconds,
            "time/validation": validated - bookkeeping,
            "time/rest": rest_seconds,
            "time/total": time.perf_counter() - self._iteration_ended,
            "time/env_steps_per_second": int(rollout.executed_steps.sum()) / rollout_seconds,
        }
        row |= {f"time/env_steps_per_second/{name}": rate for name, rate in self.take_rates().items()}
        self._iteration_ended = time.perf_counter()
        # The row goes first: after a kill between the two, resuming drops rows without a checkpoint, never the reverse.
        self.history.append(row)
        for sink in self.sinks:
            sink.log(row, row["iteration"])
        self.progress.row(row)
        if state.iteration % config.checkpoint_interval == 0 or last or VALIDATION_SUCCESS in row:
            self.checkpoints.save(self.learner, self.snapshot())

    def _save_suspicious_video(self, iteration: int, rollout: Rollout, rewards: np.ndarray) -> None:
        """Saves the trajectory that earned most beside success, of the failures if there are any: a frame per turn."""
        earned = np.add.reduceat(rewards - rollout.env_rewards, rollout.trajectory_offsets[:-1])
        chosen = int(np.argmax(np.where(rollout.success & ~rollout.success.all(), -np.inf, earned)))
        turns = slice(*rollout.trajectory_offsets[chosen : chosen + 2])
        frames = [*rollout.observations.images[turns], rollout.final_observations.images[chosen]]
        write_mp4(self.suspicious_videos / f"iteration_{iteration:06d}.mp4", np.stack(frames), fps=SUSPICIOUS_FPS)

    def _is_validation_due(self, last: bool) -> bool:
        interval = self.config.evaluation.validation_interval
        done = self.state.iteration - self.config.ppo.critic_warmup_iterations
        return interval > 0 and done >= 0 and (done % interval == 0 or last)

    def _finish_where_time_ended(self) -> None:
        """Without it, a run that ends early could be left with a checkpoint from before it learned anything."""
        has_learned = self.state.iteration > self.config.ppo.critic_warmup_iterations
        is_known = bool(self.history) and VALIDATION_SUCCESS in self.history[-1]
        if has_learned and self.config.evaluation.validation_interval > 0 and not is_known:
            self._validate()
        if self.state.iteration and self.state.iteration not in self.checkpoints.iterations():
            self.checkpoints.save(self.learner, self.snapshot())

    def _validate(self) -> dict[str, float]:
        """Greedy success on validation starts; the checkpoint to choose so far is remembered."""
        result, _ = evaluate(
            self.collector,
            self.generator,
            self.spec,
            task_ids=self.config.env.task_ids,
            split="validation",
            episodes_per_task=self.config.evaluation.validation_episodes_per_task,
            temperature=0.0,
        )
        successes, episodes = int(result.successes.sum()), len(result.episodes)
        rate = successes / episodes
        highest = max([rate, *(row[VALIDATION_SUCCESS] for row in self.history if VALIDATION_SUCCESS in row)])
        # A newer one has seen more: it stays behind only where the validation can tell.
        if is_within_standard_error(rate, highest, episodes):
            self.state.best = {"iteration": self.state.iteration, "success_rate": rate}
        return {
            VALIDATION_SUCCESS: rate,
            "evaluation/validation_successes": successes,
            "evaluation/validation_episodes": episodes,
        }

    def snapshot(self) -> dict[str, Any]:
        """The JSON-able state of a checkpoint."""
        return vars(self.state) | {"curriculum": self.task_sampler.state_dict()}
