"""A slot without a simulator: the hand is a point, a closed hand at the rim holds the bowl, an open one drops it."""

from dataclasses import dataclass

import numpy as np
import pytest

from vlarl.envs.base import EnvObservation

STEP = 0.015
GRASP_POINT = np.array([0.0, 0.046, 0.015])
PLATE = np.array([0.06, -0.01, 0.902])


@dataclass(frozen=True)
class PlateTask:
    name: str = "put_the_bowl_on_the_plate"
    goal: tuple = (("on", "akita_black_bowl_1", "plate_1"),)


class PointSlot:
    task = PlateTask()
    ee_rotation = np.diag([1.0, -1.0, -1.0])

    def __init__(self):
        self.resets = []

    def reset(self, start):
        self.resets.append(start)
        self.ee_position = np.array([-0.2, 0.0, 1.17])
        self._bowl = np.array([-0.09, 0.0, 0.898])
        self._width, self._held, self._steps = 1.0, False, 0
        return self.observe()

    def observe(self):
        image = np.full((8, 8, 3), self._steps, dtype=np.uint8)
        return EnvObservation(image=image, proprio=self.ee_position.astype(np.float32), instruction="on the plate")

    def state(self):
        return np.array([self._steps, *np.zeros(9), *self._bowl])

    def object_position(self, name):
        return {"akita_black_bowl_1": self._bowl, "plate_1": PLATE}[name].copy()

    def site_position(self, name):
        raise AssertionError("the plate is an object, not a site")

    def step_once(self, action):
        move = STEP * action[:3].astype(np.float64)
        self.ee_position = self.ee_position + move
        self._width = float(np.clip(self._width - 0.125 * action[6], 0.0, 1.0))
        self._steps += 1
        if self._held:
            self._bowl = self._bowl + move
        near = np.linalg.norm(self.ee_position - self._bowl - GRASP_POINT) < 0.014
        if self._held and self._width > 0.5:
            self._bowl[2] = PLATE[2] + 0.01
        self._held = self._width < 0.2 and (self._held or near)
        return not self._held and np.linalg.norm(self._bowl[:2] - PLATE[:2]) < 0.03


@pytest.fixture
def point_slot():
    return PointSlot()
