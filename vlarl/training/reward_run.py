"""A reward model's folder: data to labels to a trained, measured model. What is finished is not done again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlarl.configs.reward import LabelConfig, RewardModelConfig, RewardTrainingConfig
from vlarl.data.sources import load_episodes
from vlarl.errors import UserError
from vlarl.reporting.sinks import JsonlSink
from vlarl.rewards.process.dataset import EpisodeSplit, split_by_episode
from vlarl.rewards.process.folder import (
    RewardModelCard,
    label_config_from_json,
    load_reward_model,
    model_config_from_json,
    save_reward_model,
)
from vlarl.rewards.process.labels import LabelledEpisode, label_episode
from vlarl.rewards.process.metrics import compute_other_task_drop, evaluate_scores
from vlarl.rewards.process.model import ProcessRewardModel, make_reward_model
from vlarl.training.reward_model import LogFn, train_reward_model
from vlarl.training.run_folder import claim_folder, read_json, write_json

HELD_OUT_EPISODES, HELD_OUT_TASKS = "held-out episodes", "held-out tasks"


@dataclass(frozen=True, kw_only=True)
class RewardRunConfig:
    """Everything that decides a reward model."""

    data: tuple[str, ...]
    """Sources of episodes (`vlarl.data.sources`); their tasks are trained, some of their episodes held out."""
    held_out_data: tuple[str, ...] = ()
    """Sources whose tasks are for the figures only."""
    model: RewardModelConfig
    labels: LabelConfig
    training: RewardTrainingConfig


@dataclass(frozen=True)
class RewardFolder:
    """Paths of a reward model's folder."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.json"

    @property
    def model(self) -> Path:
        """The trained model, which `process_reward.model` names."""
        return self.root / "model"

    @property
    def checkpoint(self) -> Path:
        """State of the training."""
        return self.root / "checkpoint"

    @property
    def metrics(self) -> Path:
        """A row per validation."""
        return self.root / "metrics.jsonl"

    @property
    def figures(self) -> Path:
        """Figures of the trained model."""
        return self.root / "figures.json"

    @property
    def page(self) -> Path:
        """The same with pictures."""
        return self.root / "reward.html"

    def claim(self, config: RewardRunConfig) -> None:
        """Makes the folder this configuration's; see `claim_folder`."""
        claim_folder(self.config, asdict(config), "reward model")

    def load_config(self) -> RewardRunConfig:
        """Reads the configuration.

        Raises:
            UserError: no reward model's folder, or one of another version.
        """
        if not self.config.is_file():
            raise UserError(f"{self.root} holds no reward model: `vlarl reward train --output {self.root}` makes one")
        raw = read_json(self.config)
        try:
            return RewardRunConfig(
                data=tuple(raw["data"]),
                held_out_data=tuple(raw["held_out_data"]),
                model=model_config_from_json(raw["model"]),
                labels=label_config_from_json(raw["labels"]),
                training=RewardTrainingConfig(**raw["training"]),
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.config} is of another version ({error})") from error


def load_labelled(sources: Sequence[str], image_size: int, labels: LabelConfig) -> list[LabelledEpisode]:
    """Reads and labels the episodes of all sources.

    Raises:
        UserError: bad data, or no success among them.
    """
    episodes = load_episodes([Path(source) for source in sources], image_size)
    if not any(episode.success for episode in episodes):
        raise UserError(f"none of the {len(episodes)} episodes of {', '.join(sources)} is a success: labels need some")
    return [label_episode(episode, labels) for episode in episodes]


def load_split(config: RewardRunConfig) -> tuple[EpisodeSplit, list[LabelledEpisode]]:
    """Returns the split of the trained tasks' episodes, and the held-out tasks' episodes.

    Raises:
        UserError: bad data, or a held-out task that is trained too.
    """
    episodes = load_labelled(config.data, config.model.image_size, config.labels)
    split = split_by_episode(episodes, config.training.validation_fraction, config.training.test_fraction)
    if not config.held_out_data:
        return split, []
    others = load_labelled(config.held_out_data, config.model.image_size, config.labels)
    both = {e.episode.instruction for e in others} & {e.episode.instruction for e in episodes}
    if both:
        raise UserError(f"held-out tasks are trained too: {', '.join(sorted(both))}; leave them out of one of both")
    return split, others


def train_and_save(folder: RewardFolder, config: RewardRunConfig, log: LogFn) -> ProcessRewardModel:
    """Trains from wherever the checkpoint is, and writes the model without figures; a trained one is read."""
    folder.claim(config)
    if folder.model.is_dir():
        return load_reward_model(folder.model)[0]
    split, _ = load_split(config)
    torch.set_num_threads(1)
    model = make_reward_model(config.model, config.training.seed)
    sink = JsonlSink(folder.metrics, step_key="step")
    if folder.checkpoint.is_dir():
        sink.truncate_after(int(read_json(folder.checkpoint / "state.json")["step"]))

    def log_row(row: dict[str, float]) -> None:
        sink.log(row, int(row["step"]))
        log(row)

    train_reward_model(model, split.training, split.validation, config.training, folder.checkpoint, log_row)
    instructions = tuple(sorted({e.episode.instruction for e in split.training}))
    card = RewardModelCard(model=config.model, labels=config.labels, instructions=instructions, figures={})
    save_reward_model(model, card, folder.model)
    return model


def evaluate_reward_model(
    folder: RewardFolder, turn_steps: int, data: Sequence[str] = ()
) -> tuple[dict[str, Any], list[LabelledEpisode], list[np.ndarray]]:
    """Measures a trained model; its card gets the figures on held-out episodes.

    Args:
        folder: of `train_and_save`.
        turn_steps: env steps per turn in RL.
        data: sources to measure on; none: what training held out.

    Returns:
        figures by set, the episodes of all sets, and their probabilities [T] each.
    """
    config = folder.load_config()
    model, card = load_reward_model(folder.model)
    torch.set_num_threads(1)
    if data:
        sets = {"given data": load_labelled(data, config.model.image_size, config.labels)}
    else:
        split, others = load_split(config)
        sets = {HELD_OUT_EPISODES: list(split.test)} | ({HELD_OUT_TASKS: others} if others else {})
    episodes, scores, figures = [], [], {}
    for name, chosen in sets.items():
        found = [score_episode(model, e) for e in chosen]
        figures[name] = evaluate_scores(chosen, found, config.labels.tolerance_steps, turn_steps)
        figures[name] |= _measure_reading(model, chosen, found, card.instructions)
        episodes += chosen
        scores += found
    if not data:
        write_json(folder.figures, figures)
        save_reward_model(model, replace(card, figures=figures[HELD_OUT_EPISODES]), folder.model)
    return figures, episodes, scores


def score_episode(model: ProcessRewardModel, labelled: LabelledEpisode, instruction: str | None = None) -> np.ndarray:
    """Probability of progress of each frame, [T] float32, under the episode's instruction or another."""
    images = labelled.episode.images
    return model.score(images, [instruction or labelled.episode.instruction] * len(images))


def _measure_reading(
    model: ProcessRewardModel,
    episodes: Sequence[LabelledEpisode],
    scores: Sequence[np.ndarray],
    instructions: Sequence[str],
) -> Mapping[str, float | None]:
    """How much another task's prompt lowers the probability of positive frames, over one other task each."""
    pairs = []
    for labelled, own in zip(episodes, scores, strict=True):
        others = [text for text in instructions if text != labelled.episode.instruction]
        if others and labelled.episode.success:
            other = others[labelled.episode.start.index % len(others)]
            pairs.append((labelled.labels, own, score_episode(model, labelled, other)))
    return compute_other_task_drop(pairs)
