"""OpenVLA's action tokenizer: each dimension of an action is one token (arXiv 2406.09246, section 3.2)."""

import numpy as np


class ActionTokenizer:
    """Uniform bins over [-1, 1] as the last ids of the vocabulary.

    As in the reference there are `num_bins` edges and thus `num_bins - 1` bin centres; the lowest id decodes to the
    last centre. With an even number of edges the middle centre is exactly 0, so "do not move" has a token.
    """

    def __init__(self, vocab_size: int, num_bins: int = 256) -> None:
        self._vocab_size = vocab_size
        self._edges = np.linspace(-1.0, 1.0, num_bins)
        self._centers = (self._edges[:-1] + self._edges[1:]) / 2.0
        if num_bins % 2 == 0:
            # Rounding leaves 1e-17 here; an exact zero keeps controllers from seeing a motion.
            self._centers[num_bins // 2 - 1] = 0.0

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Actions of any shape in [-1, 1] (others are clipped) -> token ids of the same shape, int64."""
        return self._vocab_size - np.digitize(np.clip(actions, -1.0, 1.0), self._edges)

    def decode(self, action_tokens: np.ndarray) -> np.ndarray:
        """Token ids -> bin centres of the same shape, float64; ids outside the range decode to the nearest bin."""
        index = np.clip(self._vocab_size - action_tokens - 1, 0, len(self._centers) - 1)
        return self._centers[index]
