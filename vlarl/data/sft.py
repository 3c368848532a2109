"""Demonstrations as supervised examples: a frame and the next `action_horizon` actions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlarl.data.episodes import Episode
from vlarl.errors import UserError
from vlarl.types import Observation


@dataclass(frozen=True, kw_only=True)
class SFTDataset:
    """n frames with their target chunks."""

    observations: Observation
    """n frames."""
    actions: np.ndarray
    """[n, action_horizon, A] float32 targets; past the end: no motion, the last gripper command."""

    def __len__(self) -> int:
        return len(self.actions)

    @classmethod
    def from_episodes(cls, episodes: Sequence[Episode], action_horizon: int) -> "SFTDataset":
        """Cuts episodes into examples; a chunk that overlaps a forced action is left out.

        Raises:
            UserError: no episode is left to learn from.
        """
        if not episodes:
            raise UserError("there is no demonstration to learn from: raise demonstrations.episodes_per_task")
        images, proprio, instructions, actions = [], [], [], []
        for episode in episodes:
            padding = np.zeros((action_horizon - 1, episode.actions.shape[1]), dtype=np.float32)
            padding[:, -1] = episode.actions[-1, -1]
            padded = np.concatenate([episode.actions, padding])
            allowed = np.concatenate([episode.target_mask, np.ones(action_horizon - 1, dtype=bool)])
            windows = np.arange(len(episode.actions))[:, None] + np.arange(action_horizon)
            keep = allowed[windows].all(axis=1)
            images.append(episode.images[keep])
            proprio.append(episode.proprio[keep])
            actions.append(padded[windows[keep]])
            instructions += [episode.instruction] * int(keep.sum())
        return cls(
            observations=Observation(
                images=np.concatenate(images),
                proprio=np.concatenate(proprio).astype(np.float32, copy=False),
                instructions=tuple(instructions),
            ),
            actions=np.concatenate(actions).astype(np.float32, copy=False),
        )


def split_episodes(episodes: Sequence[Episode], validation_fraction: float) -> tuple[list[Episode], list[Episode]]:
    """Splits by episode: the last `validation_fraction` of each task, at least one if the fraction is not 0."""
    training, validation = [], []
    for task_id in sorted({e.start.task_id for e in episodes}):
        group = [e for e in episodes if e.start.task_id == task_id]
        count = 0 if validation_fraction == 0 or len(group) < 2 else max(1, round(len(group) * validation_fraction))
        training += group[: len(group) - count]
        validation += group[len(group) - count :]
    return training, validation


def shift_images(images: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Random-crop augmentation: moves image b by offsets[b] (rows, columns) pixels, edges repeated.

    Args:
        images: [B, H, W, 3] uint8.
        offsets: [B, 2] int.
    """
    _, height, width, _ = images.shape
    rows = np.clip(np.arange(height)[None, :] + offsets[:, :1], 0, height - 1)
    columns = np.clip(np.arange(width)[None, :] + offsets[:, 1:], 0, width - 1)
    batch = np.arange(len(images))[:, None, None]
    return images[batch, rows[:, :, None], columns[:, None, :]]
