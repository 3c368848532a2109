"""A run: the phases from demonstrations to evaluated policy. Each phase does what is missing and nothing twice."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from vlarl.configs.training import TrainConfig
from vlarl.data.libero_hdf5 import read_demonstrations
from vlarl.envs.base import environment_module
from vlarl.envs.vector import VectorEnv
from vlarl.errors import UserError
from vlarl.evaluation.protocol import Evaluation, blank_images, evaluate, swap_instructions
from vlarl.policies.checkpoint import load_policy, save_policy
from vlarl.reporting.progress import Console, ConsoleTrainingProgress
from vlarl.reporting.sinks import JsonlSink, make_sinks
from vlarl.rollout.collector import Collector, ObservationTransform
from vlarl.system import PeakMemory, check_disk, require_rendering
from vlarl.training.build import (
    LocalRoles,
    estimate_disk_bytes,
    make_checked_spec,
    make_generator,
    make_policy,
    make_trainer,
    train_to_the_end,
)
from vlarl.training.checkpoint import CheckpointStore
from vlarl.training.learner_files import POLICY
from vlarl.training.roles import Roles
from vlarl.training.run_folder import RunFolder, read_json, write_json
from vlarl.training.supervised import train_sft
from vlarl.training.trainer import Trainer, TrainState
from vlarl.training.videos import write_comparisons

Stage = Literal["sft", "rl"]
MODES = ("greedy", "sampled")
OpenRoles = Callable[["Run"], AbstractContextManager[Roles]]


class Run:
    """One output folder with its configuration; use it as a context manager.

    Raises:
        UserError: the folder holds another run, or the configuration does not fit the environment.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: TrainConfig,
        console: Console,
        minutes: float | None = None,
        open_roles: OpenRoles | None = None,
    ) -> None:
        """`open_roles` opens a cluster that trains; None trains in this process."""
        self.folder, self.config, self.console = folder, config, console
        self._open_roles = open_roles
        if minutes is not None and not minutes > 0:
            raise UserError(f"--minutes must be positive, got {minutes}")
        self.spec = make_checked_spec(config)
        check_disk(folder.root, estimate_disk_bytes(config))
        folder.claim(config)
        self._ledger = read_json(folder.phases) if folder.phases.is_file() else {"seconds": {}, "peak_rss_bytes": 0}
        self._minutes = minutes
        self._stack = ExitStack()
        self._opened = time.monotonic()
        self._spent_before = sum(self._ledger["seconds"].values())

    def __enter__(self) -> "Run":
        self._set_threads(learning=False)
        if self.config.exact:
            torch.use_deterministic_algorithms(True)
        self._memory = self._stack.enter_context(PeakMemory())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def envs(self) -> VectorEnv:
        """The environments, started when first needed and used by every phase."""
        self.prepare()
        return self._stack.enter_context(VectorEnv(self.config.env))

    @cached_property
    def collector(self) -> Collector:
        """Collects on `envs`."""
        return Collector(self.envs, self.config.env.replan_steps)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time and the memory of the block to the run's ledger, whatever ends it."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = self._ledger["seconds"]
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started
            self._ledger["peak_rss_bytes"] = max(self._ledger["peak_rss_bytes"], self._memory.peak_bytes)
            write_json(self.folder.phases, self._ledger)

    def prepare(self) -> None:
        """Builds what the environments cache (models, start states)."""
        with self.phase("environments"):
            if self.spec.needs_rendering:
                require_rendering()
            environment_module(self.config.env.name).prepare(self.config.env, self.console.line)

    def collect_demonstrations(self) -> None:
        """Collects the demonstrations of the tasks that have none in the folder."""
        config = self.config.demonstrations
        if not config.episodes_per_task:
            return
        known = self._demonstration_rates()
        missing = [t for t in self.config.env.task_ids if not self._has_demonstrations(t, known)]
        if not missing:
            return
        # Needs the simulator, which machines that only train do not have.
        from vlarl.experts.demonstrations import collect_demonstrations

        self.prepare()
        with self.phase("demonstrations"):
            self.console.line(f"demonstrations: {config.episodes_per_task} for each of tasks {missing}")
            rates = collect_demonstrations(
                replace(self.config.env, task_ids=tuple(missing)),
                config,
                self.folder.demonstrations,
                self.console.line,
            )
            write_json(self.folder.demonstration_rates, known | rates)
        for rate in rates.values():
            self.console.line(f"expert: {rate['successes']} of {rate['attempts']} attempts, {rate['task']}")

    def train_sft(self) -> None:
        """Makes the policy that RL starts from: by SFT, or as it is where there are no demonstrations."""
        if self.folder.sft_policy.is_dir():
            return
        self.collect_demonstrations()
        policy = make_policy(self.config)
        if not self.config.demonstrations.episodes_per_task:
            save_policy(policy, self.folder.sft_policy)
            return
        with self.phase("sft"):
            rates = self._demonstration_rates()
            files = [self.folder.demonstrations / rates[str(t)]["file"] for t in self.config.env.task_ids]
            episodes = [episode for file in files for episode in read_demonstrations(file)]
            self.folder.sft_metrics.unlink(missing_ok=True)
            sink = JsonlSink(self.folder.sft_metrics, step_key="step")
            total = self.config.sft.num_steps
            self._set_threads(learning=True)
            with self.console.bar(f"SFT on {len(episodes)} demonstrations", total, "step") as update:

                def log(row: dict[str, float]) -> None:
                    sink.log(row, int(row["step"]))
                    figures = {k.removeprefix("losses/"): f"{v:.3f}" for k, v in row.items() if k != "step"}
                    update(int(row["step"]), **figures)

                policy = train_sft(policy, episodes, self.config.sft, self.config.seed, log)
            self._set_threads(learning=False)
            save_policy(policy, self.folder.sft_policy)

    def train(self) -> None:
        """PPO from the SFT policy, from wherever the newest checkpoint is."""
        if self.folder.train_summary.is_file():
            done = read_json(self.folder.train_summary)
            if not done["truncated_by_time"] or self._is_out_of_time():
                return
        self.train_sft()
        if not self.config.ppo.total_iterations:
            self._leave_as_sft_left_it()
            return
        checkpoints = CheckpointStore(self.folder.checkpoints, self.config.keep_last)
        sinks = make_sinks(self.config.sinks, self.folder.root)
        progress = ConsoleTrainingProgress(self.console)
        with self.phase("train_start"):
            roles = self._stack.enter_context(self._open_roles(self)) if self._open_roles else LocalRoles(self.envs)

        def make() -> Trainer:
            trainer = make_trainer(
                self.config,
                spec=self.spec,
                roles=roles,
                policy_folder=self.folder.sft_policy,
                checkpoints=checkpoints,
                sinks=sinks,
                read_history=self.folder.history,
                progress=progress,
                deadline=self._deadline(),
                suspicious_videos=self.folder.suspicious_videos,
            )
            if trainer.state.iteration:
                self.console.line(f"going on after iteration {trainer.state.iteration}")
            return trainer

        self._forget_results("rl")
        with self.phase("train"):
            state, losses = train_to_the_end(make, roles.max_restarts, self.console.line)
            for sink in sinks:
                sink.close()
        chosen = state.best["iteration"] if state.best["success_rate"] >= 0 else state.iteration
        source = checkpoints.path(chosen) / POLICY if state.iteration else self.folder.sft_policy
        save_policy(load_policy(source), self.folder.rl_policy)
        write_json(self.folder.train_summary, vars(state) | {"chosen_iteration": chosen, "lost_roles": losses})

    def _leave_as_sft_left_it(self) -> None:
        """A training of no iterations: nothing has to be started for it."""
        self._forget_results("rl")
        with self.phase("train"):
            save_policy(load_policy(self.folder.sft_policy), self.folder.rl_policy)
            write_json(self.folder.train_summary, vars(TrainState()) | {"chosen_iteration": 0, "lost_roles": 0})

    def evaluate(self, stage: Stage, modes: Sequence[str] = MODES) -> dict[str, Evaluation]:
        """Evaluates a stage's policy on the evaluation starts, greedy and sampled; returns the evaluations by mode."""
        results = {}
        for mode in modes:
            temperature = 0.0 if mode == "greedy" else self.config.ppo.temperature
            results[mode] = self._evaluation(f"{stage}_{mode}", stage, temperature, None)
        return results

    def probe(self) -> dict[str, Evaluation]:
        """Does the RL policy listen and look? Greedy, with swapped instructions and with blank images."""
        if len(self.config.env.task_ids) > 1:
            swap = swap_instructions({t: self.spec.instructions[t] for t in self.config.env.task_ids})
            result = {"swapped_instruction": self._evaluation("rl_swapped_instruction", "rl", 0.0, swap)}
        else:
            result = {}
        return result | {"blank_images": self._evaluation("rl_blank_images", "rl", 0.0, blank_images)}

    def make_videos(self) -> None:
        """Writes videos of the same start before and after; first those that RL turned from failure to success."""
        index_path = self.folder.videos / "index.json"
        if index_path.is_file() or not self.config.evaluation.video_starts_per_task:
            return
        before, after = self.evaluate("sft")["greedy"], self.evaluate("rl")["greedy"]
        with self.phase("videos"):
            write_json(index_path, write_comparisons(self.folder, self.config, self.spec.instructions, before, after))

    def _demonstration_rates(self) -> dict[str, Any]:
        path = self.folder.demonstration_rates
        return read_json(path) if path.is_file() else {}

    def _has_demonstrations(self, task_id: int, rates: dict[str, Any]) -> bool:
        rate = rates.get(str(task_id))
        return rate is not None and (self.folder.demonstrations / rate["file"]).is_file()

    def _evaluation(
        self, name: str, stage: Stage, temperature: float, transform: ObservationTransform | None
    ) -> Evaluation:
        path = self.folder.evaluation(name)
        if path.is_file():
            return Evaluation.load(path)
        if stage == "rl" and transform is None and not self.config.ppo.total_iterations:
            return self._evaluation_of_sft(name, temperature)
        policy = load_policy(self.folder.sft_policy if stage == "sft" else self.folder.rl_policy)
        collector = self.collector
        probe = transform is not None
        count = self.config.evaluation.probe_episodes_per_task if probe else self.config.evaluation.episodes_per_task
        label = name.replace("_", " ")
        with self.phase("probes" if probe else f"evaluate_{stage}"):
            total = count * len(self.config.env.task_ids)
            with self.console.episodes(f"evaluation, {label}", total) as progress:
                result, actions = evaluate(
                    collector,
                    make_generator(self.config, policy),
                    self.spec,
                    task_ids=self.config.env.task_ids,
                    split="evaluation",
                    episodes_per_task=count,
                    temperature=temperature,
                    transform=transform,
                    progress=progress,
                )
            self.folder.evaluations.mkdir(parents=True, exist_ok=True)
            if temperature == 0 and not probe:
                arrays = {f"{start.task_id}_{start.index}": value for start, value in actions.items()}
                np.savez_compressed(self.folder.actions(name), **arrays)
            # The outcome goes last: a phase is done when its JSON exists.
            result.save(path)
        summary = result.summary()
        low, high = summary["ci95"]
        self.console.line(
            f"{label}: {summary['successes']}/{summary['episodes']} = {summary['success_rate']:.1%}"
            f" (95 % interval {low:.1%} to {high:.1%})"
        )
        return result

    def _evaluation_of_sft(self, name: str, temperature: float) -> Evaluation:
        """The evaluation `name` of a policy that RL left as it was."""
        before = f"sft{name.removeprefix('rl')}"
        result = self._evaluation(before, "sft", temperature, None)
        if self.folder.actions(before).is_file():
            shutil.copyfile(self.folder.actions(before), self.folder.actions(name))
        result.save(self.folder.evaluation(name))
        return result

    def _forget_results(self, stage: Stage) -> None:
        """Removes what was measured on an earlier policy of this stage."""
        for path in self.folder.evaluations.glob(f"{stage}_*"):
            path.unlink()
        shutil.rmtree(self.folder.videos, ignore_errors=True)
        self.folder.failures.unlink(missing_ok=True)

    def _set_threads(self, *, learning: bool) -> None:
        torch.set_num_threads(self.config.learner_threads if learning and not self.config.exact else 1)

    def _deadline(self) -> float | None:
        """When training has to stop so that evaluation and report fit into the cap."""
        if self._minutes is None:
            return None
        # The RL evaluation takes as long as the SFT one, the probes up to as long again, videos and start-up the rest.
        reserve = 2.2 * self._ledger["seconds"].get("evaluate_sft", 0.0) + 15.0
        return self._opened - self._spent_before + 60.0 * self._minutes - reserve

    def _is_out_of_time(self) -> bool:
        deadline = self._deadline()
        return deadline is not None and time.monotonic() > deadline
