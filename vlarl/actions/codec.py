"""Between a turn's action tokens and the environment's actions."""

from dataclasses import dataclass

import numpy as np

from vlarl.actions.normalization import ActionStatistics, invert_gripper, normalize_gripper
from vlarl.actions.tokenizer import ActionTokenizer


@dataclass(frozen=True)
class ActionCodec:
    """Tokens of a turn are its actions one after the other, each dimension one token."""

    tokenizer: ActionTokenizer
    action_horizon: int
    """Actions per turn."""
    action_dim: int
    """Entries of one action."""
    statistics: ActionStatistics | None = None
    """Of the data that the policy was trained on; None: the environment's actions are in [-1, 1] already."""
    openvla_gripper: bool = False
    """The policy says 1 for open and 0 for closed, the environment hears -1 and 1 (OpenVLA on LIBERO)."""

    def decode(self, action_tokens: np.ndarray) -> np.ndarray:
        """[B, K] ids -> actions [B, action_horizon, action_dim] float32 in the environment's units."""
        actions = self.tokenizer.decode(action_tokens).reshape(-1, self.action_horizon, self.action_dim)
        if self.statistics is not None:
            actions = self.statistics.unnormalize(actions)
        if self.openvla_gripper:
            actions = invert_gripper(normalize_gripper(actions))
        return actions.astype(np.float32)

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Actions [B, action_horizon, action_dim] in the environment's units -> ids [B, K]."""
        if self.openvla_gripper:
            actions = np.concatenate([actions[..., :-1], (1.0 - actions[..., -1:]) / 2.0], axis=-1)
        if self.statistics is not None:
            actions = self.statistics.normalize(actions)
        return self.tokenizer.encode(actions.reshape(len(actions), -1))
