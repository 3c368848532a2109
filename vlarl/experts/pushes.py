"""Random pushes during a demonstration."""

import numpy as np

from vlarl.experts.skills import ExpertStep

PUSH_PROBABILITY = 0.04
"""Chance that a push begins in an env step, where demonstrations have noise."""
PUSH_STEPS = (3, 9)
"""Shortest push, and one more than the longest, env steps."""


class Pushes:
    """Moves the hand off its way now and then, so that a demonstration shows the way back."""

    def __init__(self, rng: np.random.Generator, strength: float) -> None:
        self._rng, self._strength = rng, strength
        self._steps_left = 0
        self._push = np.zeros(3)

    def apply(self, step: ExpertStep) -> ExpertStep:
        """Returns the step as it is executed; a pushed one counts as forced. The gripper does what the expert says."""
        if not self._strength:
            return step
        if not self._steps_left and self._rng.random() < PUSH_PROBABILITY:
            self._steps_left = int(self._rng.integers(*PUSH_STEPS))
            self._push = self._rng.normal(0.0, self._strength, size=3)
        if not self._steps_left:
            return step
        self._steps_left -= 1
        action = step.action.copy()
        action[:3] = np.clip(action[:3] + self._push, -1.0, 1.0)
        return ExpertStep(action=action, forced=True)
