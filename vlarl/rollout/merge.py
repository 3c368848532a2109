"""Rollouts of several generators as one."""

from collections.abc import Sequence

import numpy as np

from vlarl.types import Observation, Rollout


def merge_rollouts(parts: Sequence[Rollout]) -> Rollout:
    """Joins rollouts, sorted by trajectory_index; the policy version is the oldest of theirs."""
    if len(parts) == 1:
        return parts[0]
    items = [item for part in parts for item in part.items]
    order = sorted(range(len(items)), key=lambda row: items[row].trajectory_index)
    lengths = np.concatenate([np.diff(part.trajectory_offsets) for part in parts])
    starts = np.cumsum(lengths) - lengths
    turns = np.concatenate([np.arange(starts[m], starts[m] + lengths[m]) for m in order])

    def of_turns(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])[turns]

    def of_trajectories(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])[order]

    return Rollout(
        observations=_join([part.observations for part in parts]).select(turns),
        final_observations=_join([part.final_observations for part in parts]).select(np.array(order)),
        action_tokens=of_turns("action_tokens"),
        generator_logprobs=of_turns("generator_logprobs"),
        generator_entropy=of_turns("generator_entropy"),
        executed_actions=of_turns("executed_actions"),
        executed_steps=of_turns("executed_steps"),
        env_rewards=of_turns("env_rewards"),
        trajectory_offsets=np.concatenate([[0], np.cumsum(lengths[order])]).astype(np.int64),
        terminated=of_trajectories("terminated"),
        truncated=of_trajectories("truncated"),
        success=of_trajectories("success"),
        items=tuple(items[row] for row in order),
        policy_version=min(part.policy_version for part in parts),
    )


def _join(parts: Sequence[Observation]) -> Observation:
    return Observation(
        images=np.concatenate([part.images for part in parts]),
        proprio=np.concatenate([part.proprio for part in parts]),
        instructions=tuple(text for part in parts for text in part.instructions),
    )
