"""Labelled frames for the reward model, and their split by episode."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlarl.errors import UserError
from vlarl.rewards.process.labels import IGNORED, NEGATIVE, POSITIVE, LabelledEpisode


@dataclass(frozen=True, kw_only=True)
class RewardFrames:
    """n frames with their labels, episode after episode."""

    images: np.ndarray
    """[n, H, H, 3] uint8, RGB."""
    instructions: tuple[str, ...]
    """n instructions, as in the episodes."""
    labels: np.ndarray
    """[n] int8: POSITIVE, NEGATIVE or IGNORED."""

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def from_episodes(cls, episodes: Sequence[LabelledEpisode], what: str) -> "RewardFrames":
        """Puts the frames of `episodes` together.

        Raises:
            UserError: without frames of both labels nothing can be learned or measured; `what` names the use.
        """
        labels = np.concatenate([e.labels for e in episodes]) if episodes else np.zeros(0, dtype=np.int8)
        counts = [int(np.sum(labels == label)) for label in (POSITIVE, NEGATIVE)]
        if min(counts) == 0:
            raise UserError(
                f"{what} has {counts[0]} positive and {counts[1]} negative frames in {len(episodes)} episodes, both are"
                " needed: give it successes, and look at their labels with `vlarl reward label`"
            )
        return cls(
            images=np.concatenate([e.episode.images for e in episodes]),
            instructions=tuple(e.episode.instruction for e in episodes for _ in e.labels),
            labels=labels,
        )

    def with_other_prompts(self) -> "RewardFrames":
        """Without ignored frames, and with each positive frame once more, as a negative of another task's prompt."""
        known = sorted(set(self.instructions))
        kept = np.flatnonzero(self.labels != IGNORED)
        again = np.flatnonzero(self.labels == POSITIVE) if len(known) > 1 else kept[:0]
        following = dict(zip(known, known[1:] + known[:1], strict=True))
        rows = np.concatenate([kept, again])
        return RewardFrames(
            images=self.images[rows],
            instructions=(
                *(self.instructions[row] for row in kept),
                *(following[self.instructions[row]] for row in again),
            ),
            labels=np.concatenate([self.labels[kept], np.full(len(again), NEGATIVE, dtype=np.int8)]),
        )


@dataclass(frozen=True, kw_only=True)
class EpisodeSplit:
    """Episodes for training, early stopping, and the figures."""

    training: tuple[LabelledEpisode, ...]
    validation: tuple[LabelledEpisode, ...]
    test: tuple[LabelledEpisode, ...]


def split_by_episode(
    episodes: Sequence[LabelledEpisode], validation_fraction: float, test_fraction: float
) -> EpisodeSplit:
    """Splits the episodes of each task, successes and failures each: the last ones are for the test.

    Raises:
        UserError: a task with too few successes for three parts.
    """
    parts: tuple[list[LabelledEpisode], ...] = ([], [], [])
    for instruction in sorted({e.episode.instruction for e in episodes}):
        for success in (True, False):
            group = [e for e in episodes if e.episode.instruction == instruction and e.episode.success == success]
            if success and len(group) < 3:
                raise UserError(
                    f"{instruction!r} has {len(group)} successful episodes; training, validation and test need one each"
                )
            if not group:
                continue
            minimum = int(success)
            held = [max(minimum, round(len(group) * f)) for f in (validation_fraction, test_fraction)]
            first = len(group) - sum(held)
            for part, (a, b) in zip(
                parts, ((0, first), (first, first + held[0]), (first + held[0], len(group))), strict=True
            ):
                part += group[a:b]
    return EpisodeSplit(training=tuple(parts[0]), validation=tuple(parts[1]), test=tuple(parts[2]))


@dataclass(frozen=True, kw_only=True)
class MinibatchRows:
    """What one gradient step sees of `RewardFrames`."""

    rows: np.ndarray
    """[B] int64."""
    instructions: tuple[str, ...]
    """B instructions, some of other tasks."""
    targets: np.ndarray
    """[B] bool."""


def draw_minibatch(frames: RewardFrames, size: int, other_task_share: float, rng: np.random.Generator) -> MinibatchRows:
    """Draws half positive frames; of the others, some are positive frames under another task's instruction.

    A model that does not read would call those progress: they teach it to.
    """
    positive, negative = (np.flatnonzero(frames.labels == label) for label in (POSITIVE, NEGATIVE))
    known = sorted(set(frames.instructions))
    others = round(size * other_task_share) if len(known) > 1 else 0
    counts = (size // 2, others, size - size // 2 - others)
    rows = np.concatenate(
        [rng.choice(pool, count) for pool, count in zip((positive, positive, negative), counts, strict=True)]
    )
    instructions = [frames.instructions[row] for row in rows]
    for place in range(counts[0], counts[0] + others):
        wrong = [text for text in known if text != instructions[place]]
        instructions[place] = wrong[int(rng.integers(len(wrong)))]
    return MinibatchRows(rows=rows, instructions=tuple(instructions), targets=np.arange(size) < counts[0])
